"""Waiting for what has to happen, in another thread, process or task."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

WAIT_S = 20.0
"""Longest wait for something that has to happen; no test asserts on it."""


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for something that has to happen."""
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, "It did not happen."
        time.sleep(0.005)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that has to happen in this event loop."""
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, "It did not happen."
        await asyncio.sleep(0.005)
