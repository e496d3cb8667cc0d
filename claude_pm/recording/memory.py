"""Resident memory of this process, read at a steady pace by a thread of its own.

From Python 3.12 on cProfile sees the calls of every thread and takes those of two threads for each
other's callers, which spoils all that it says of the profiled code. So the thread makes one call,
into a chain of iterators that are written in C, and never runs a line of Python: there is nothing
of it to see. (Without ``/proc`` this cannot be had: there, psutil reads.)
"""

from __future__ import annotations

import _thread
import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

INTERVAL_S = 0.02
"""Seconds between readings. A peak shorter than this can be missed."""

_STATM = "/proc/self/statm"
_ENDING_S = 5.0


class RssSampler:
    """Reads the resident set size from start to stop; the first and last reading always exist."""

    def __init__(self, interval_s: float = INTERVAL_S) -> None:
        self._interval_s = interval_s
        # (whether it was told to stop, what was read, when in ns)
        self._readings: list[tuple[bool, Any, int]] = []
        self._statm: int | None = None
        self._read: Callable[[], Any] | None = None
        # Held while it runs, and let go of to stop; held by the thread until it has ended.
        self._running, self._thread = threading.Lock(), threading.Lock()

    def start(self) -> None:
        """Take the first reading and go on in the background."""
        try:
            self._statm = os.open(_STATM, os.O_RDONLY)
        except OSError:
            import psutil

            self._read = psutil.Process().memory_info
        else:
            self._read = partial(os.pread, self._statm, 100, 0)
        self._readings.append((False, self._read(), time.perf_counter_ns()))
        self._running.acquire()
        self._thread.acquire()
        # iter(function, value) calls the function until it returns the value.
        told_to_stop = iter(partial(self._running.acquire, timeout=self._interval_s), True)
        readings = zip(
            told_to_stop, iter(self._read, None), iter(time.perf_counter_ns, None), strict=False
        )
        ending: Iterator[Any] = iter(self._thread.release, None)
        _thread.start_new_thread(self._readings.extend, (itertools.chain(readings, ending),))

    def stop(self) -> None:
        """End the thread and take the last reading; safe to call twice."""
        if self._read is None:
            return
        self._running.release()
        self._thread.acquire(timeout=_ENDING_S)
        self._readings.append((True, self._read(), time.perf_counter_ns()))
        self._read = None
        if self._statm is not None:
            os.close(self._statm)

    def rows(self, role: str) -> list[dict[str, Any]]:
        """Return rows of the ``memory`` table, times as ``t_ns``; ``role`` is kernel or worker."""
        pid = os.getpid()
        return [
            {"t_ns": t_ns, "pid": pid, "role": role, "rss_bytes": _resident_bytes(reading)}
            for _, reading, t_ns in list(self._readings)
        ]


def _resident_bytes(reading: Any) -> int:
    if isinstance(reading, bytes):
        return int(reading.split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return int(reading.rss)
