"""Ids of spans and traces, as W3C trace context asks: 16 and 32 hex digits, never all zero."""

from __future__ import annotations

import os
import random

# Ids need no secrecy; a generator of our own leaves the user's seeds alone.
_random = random.Random()  # noqa: S311


def new_trace_id() -> str:
    """Return 32 hex digits, not all zero."""
    return f"{_random.getrandbits(128) or 1:032x}"


def new_trace_half() -> str:
    """Return 16 hex digits, not all zero: what the traces of one recorder begin with."""
    return f"{_random.getrandbits(64) or 1:016x}"


def new_span_id() -> int:
    """Return a span id, not zero.

    It has 62 bits: so it fits into a column of signed whole numbers, with all that are counted on
    from it.
    """
    return _random.getrandbits(62) or 1


if hasattr(os, "register_at_fork"):
    # Else two children forked in turn would give their spans the same ids.
    os.register_at_fork(after_in_child=_random.seed)
