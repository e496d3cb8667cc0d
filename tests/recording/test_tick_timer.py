"""The timers that say when the sampler looks."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from claude_pm.recording.tick_timer import _free_signal, make_timer


def work() -> None:
    """Use the processor for a moment."""
    sum(range(10_000))


def work_until(limit: float) -> None:
    """Use the processor until then."""
    while time.monotonic() < limit:
        work()


def wait() -> None:
    """Use it not."""
    time.sleep(0.001)


@pytest.mark.parametrize("runs_on", [False, True, None])
@pytest.mark.parametrize("does", [work, wait])
@pytest.mark.parametrize("is_pace_new", [False, True])
def test_goes_on(runs_on: bool | None, does: Callable[[], None], is_pace_new: bool) -> None:
    """It looks again and again, whether code runs or waits, and whatever it was told of either.

    It may be told another thing each time (None).
    """
    looks = []

    def tick(interrupted: FrameType | None, now_ns: int) -> bool:
        looks.append((interrupted, now_ns))
        if runs_on is None:
            timer.runs_on = len(looks) % 4 > 1
        return is_pace_new or runs_on is None

    timer = make_timer(tick, 5_000_000)
    timer.runs_on = bool(runs_on)
    timer.start()
    try:
        limit = time.monotonic() + 10
        while len(looks) < 10:
            does()
            assert time.monotonic() < limit, f"It has looked {len(looks)} times in 10 s."
    finally:
        timer.stop()
    times = [now_ns for _, now_ns in looks]
    assert times == sorted(times)
    if sys.platform == "linux":
        assert timer.kind == "signal"
        # The thread that watches comes in where the machine stood still.
        assert sum(interrupted is not None for interrupted, _ in looks) > len(looks) / 2


@pytest.mark.skipif(sys.platform != "linux", reason="only there signals interrupt to look")
def test_goes_on_after_an_interrupt() -> None:
    """A look that is interrupted from the keyboard is not the last one."""
    looks = []

    def tick(interrupted: FrameType | None, _now_ns: int) -> bool:
        looks.append(interrupted)
        if len(looks) == 3:
            raise KeyboardInterrupt
        return True

    timer = make_timer(tick, 5_000_000)
    timer.start()
    limit = time.monotonic() + 10
    try:
        with pytest.raises(KeyboardInterrupt):
            work_until(limit)
        while len(looks) < 10 and time.monotonic() < limit:
            work()
    finally:
        timer.stop()
    assert sum(interrupted is not None for interrupted in looks) > 5


@pytest.mark.skipif(sys.platform != "linux", reason="only there signals interrupt to look")
def test_goes_on_if_it_is_set_twice_at_once() -> None:
    """Another signal's handler may set it while it is being set: it is not left half set."""
    looks = []

    def tick(interrupted: FrameType | None, _now_ns: int) -> bool:
        looks.append(interrupted)
        return False

    timer: Any = make_timer(tick, 5_000_000)
    timer.runs_on = True
    set_one = timer._settime

    def set_amid(*what: Any) -> None:
        timer._settime = set_one
        timer.runs_on = True
        timer._arm()
        set_one(*what)

    timer.start()
    limit = time.monotonic() + 10
    try:
        timer._settime, timer.runs_on = set_amid, False
        timer._arm()
        looks.clear()
        while len(looks) < 10 and time.monotonic() < limit:
            work()
    finally:
        timer.stop()
    assert sum(interrupted is not None for interrupted in looks) > 5


def test_looks_while_a_lock_is_waited_for() -> None:
    """It looks while the main thread waits for another one, which no signal ends."""
    looks = []

    def tick(interrupted: FrameType | None, _now_ns: int) -> bool:
        looks.append(interrupted)
        return True

    over = threading.Lock()
    over.acquire()

    def works() -> None:
        limit = time.monotonic() + 10
        while len(looks) < 20 and time.monotonic() < limit:
            time.sleep(0.001)
        over.release()

    timer = make_timer(tick, 2_000_000)
    timer.start()
    try:
        threading.Thread(target=works).start()
        over.acquire()
        assert len(looks) >= 20
    finally:
        timer.stop()


def test_a_loop_that_listens_to_signals() -> None:
    """However often it looks while the loop is busy, what the loop listens to is not lost."""
    looks = []

    def tick(interrupted: FrameType | None, _now_ns: int) -> bool:
        looks.append(interrupted)
        return True

    async def listens() -> None:
        told = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, told.set)
        limit = time.monotonic() + 20
        while len(looks) < 1500 and time.monotonic() < limit:
            work()
        os.kill(os.getpid(), signal.SIGUSR1)
        await asyncio.wait_for(told.wait(), 10)
        asyncio.get_running_loop().remove_signal_handler(signal.SIGUSR1)

    timer = make_timer(tick, 200_000)
    timer.start()
    try:
        asyncio.run(listens())
    finally:
        timer.stop()


@pytest.mark.skipif(sys.platform != "linux", reason="only there signals interrupt to look")
def test_ended_by_another_thread() -> None:
    """The signal is free again, though only the main thread can give it back."""
    before = _free_signal()
    timer = make_timer(lambda _frame, _now_ns: True, 2_000_000)
    timer.start()
    assert _free_signal() != before
    thread = threading.Thread(target=timer.stop)
    thread.start()
    thread.join()
    work_until(time.monotonic() + 0.01)
    assert _free_signal() == before
