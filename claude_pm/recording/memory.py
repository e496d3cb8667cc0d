"""The memory of this process, read at a steady pace by a thread of its own, and around spans.

On Linux no peak is missed: each reading has the exact peak since the one before. Its time is only
known to lie between the two, so where it exceeds both it stands in a row of its own in the middle.
"""

from __future__ import annotations

import os
import statistics
import threading
import time
import tracemalloc
from array import array
from itertools import pairwise
from typing import Any

from claude_pm.recording.instrument import RenameFile, Rows
from claude_pm.recording.recorder import Recorder
from claude_pm.recording.resident import ResidentMemory, resident_memory

INTERVAL_S = 0.02
"""Seconds between readings."""

BOUNDARY_S = 0.005
"""A span begins or ends with a reading, unless there was one so shortly before, and a glance tells
that nothing has moved since."""

GLANCE_S = 0.0005
"""It begins or ends with a glance, unless there was one, or a reading, so shortly before: no more
than a megabyte or two can be written meanwhile."""

_MOVED_BYTES = 512 * 1024

# Less than this above the readings beside it is no peak: the kernel counts in batches.
_LEAST_PEAK_BYTES = 256 * 1024


class RssSampler:
    """Reads the resident set size from start to stop; the first and last reading always exist.

    With ``traced`` it reads too what ``tracemalloc`` knows of, which has to be on meanwhile.
    """

    def __init__(
        self,
        recorder: Recorder,
        role: str,
        *,
        traced: bool = False,
        interval_s: float = INTERVAL_S,
    ) -> None:
        self._recorder = recorder
        self._role = role
        self._pid = os.getpid()
        self._traced = traced
        self._interval_s = interval_s
        self._memory: ResidentMemory | None = None
        self._has_exact_peaks = False
        # A reading each: time, resident bytes now and at most, traced bytes now and at most.
        self._readings = array("q")
        self._last_ns = self._looked_ns = self._own_ns = 0
        # The last glance since the last reading: time, resident and traced bytes.
        self._glance: tuple[int, int, int] | None = None
        self._reading = threading.RLock()
        # Held until the end: not an Event, which a KeyboardInterrupt in its set() locks for good.
        self._goes_on = threading.Lock()
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="claude_pm-rss", daemon=True)

    def start(self) -> None:
        """Take the first reading and go on in the background."""
        self._memory = resident_memory()
        self._has_exact_peaks = self._memory.has_exact_peaks
        with self._reading:
            self._read()
        # Not what was before.
        self._readings[2] = self._readings[1]
        self._readings[4] = self._readings[3]
        self._recorder.at_boundary = self._at_boundary
        self._goes_on.acquire()
        self._thread.start()

    def stop(self) -> None:
        """End the thread and take the last reading; safe to call twice."""
        # A forked child has neither the memory nor the thread.
        if self._memory is None or os.getpid() != self._pid:
            return
        self._ended = True
        if self._goes_on.locked():
            self._goes_on.release()
        self._recorder.at_boundary = None
        if self._thread.is_alive():
            self._thread.join()
        with self._reading:
            self._read()
        memory, self._memory = self._memory, None
        memory.close()

    def tables(self, rename_file: RenameFile) -> dict[str, Rows]:
        """Return the rows of ``memory``."""
        del rename_file
        common = {"pid": self._pid, "role": self._role}
        rows: Rows = []
        before: tuple[int, ...] | None = None
        for reading in self._each():
            t_ns, rss, rss_peak, traced, traced_peak = reading
            if before is not None:
                peaks = {
                    name: peak
                    for name, peak, now, then in (
                        ("rss_bytes", rss_peak, rss, before[1]),
                        ("traced_bytes", traced_peak, traced, before[3]),
                    )
                    if peak > max(now, then) + _LEAST_PEAK_BYTES
                }
                if peaks:
                    rows.append({"t_ns": (before[0] + t_ns) // 2, **common, **peaks})
            row = {"t_ns": t_ns, **common, "rss_bytes": rss}
            rows.append(row | {"traced_bytes": traced} if self._traced else row)
            before = reading
        return {"memory": rows}

    def overhead(self) -> dict[str, Any]:
        """Return the number of readings, their pace, the CPU time they took, and what peaks are."""
        times = [reading[0] for reading in self._each()]
        gaps = [after - before for before, after in pairwise(times)]
        return {
            "memory": {
                "readings": len(times),
                "interval_s": statistics.median(gaps) / 1e9 if gaps else None,
                "own_cpu_s": self._own_ns / 1e9,
                "exact_peaks": self._has_exact_peaks,
            }
        }

    def _each(self) -> list[tuple[int, ...]]:
        return list(zip(*[iter(self._readings)] * 5, strict=True))

    def _run(self) -> None:
        while not self._goes_on.acquire(timeout=self._interval_s):
            with self._reading:
                self._read()

    def _at_boundary(self, *, always: bool = False) -> None:
        """Read before a span begins or ends: what comes later is not the earlier one's."""
        now_ns = time.perf_counter_ns()
        if not always and now_ns - self._looked_ns < GLANCE_S * 1e9:
            return
        # This thread may be reading, if the garbage collector runs code with spans.
        if self._reading._is_owned():  # type: ignore[attr-defined] # noqa: SLF001
            return
        # Not by acquire(): a KeyboardInterrupt right after it would leave the lock taken, and the
        # thread that reads would never end.
        with self._reading:
            is_due = always or now_ns - self._last_ns >= BOUNDARY_S * 1e9
            if not self._ended and (is_due or self._has_moved()):
                self._read()

    def _has_moved(self) -> bool:
        """Whether the memory is, or was meanwhile, another than at the last reading."""
        begun_ns = time.thread_time_ns()
        seen = None if self._memory is None else self._memory.glance()
        self._own_ns += time.thread_time_ns() - begun_ns
        if seen is None:
            return False
        traced = tracemalloc.get_traced_memory() if self._traced else (0, 0)
        _, rss, _, traced_before, _ = self._readings[-5:]
        if _differs(rss, *seen) or _differs(traced_before, *traced):
            return True
        self._looked_ns = time.perf_counter_ns()
        self._glance = self._looked_ns, seen[0], traced[0]
        return False

    def _read(self) -> None:
        if self._memory is None:
            return
        # Not wall time: a thread that waits for the interpreter's lock holds nobody up.
        begun_ns = time.thread_time_ns()
        rss, peak = self._memory.read()
        traced = traced_peak = 0
        if self._traced:
            traced, traced_peak = tracemalloc.get_traced_memory()
            tracemalloc.reset_peak()
        if self._glance is not None:
            seen_ns, seen, seen_traced = self._glance
            self._glance = None
            if _differs(seen, rss, peak) or _differs(seen_traced, traced, traced_peak):
                # It was only after the glance that it moved.
                self._readings.extend((seen_ns, seen, seen, seen_traced, seen_traced))
        self._last_ns = self._looked_ns = time.perf_counter_ns()
        self._readings.extend((self._last_ns, rss, peak, traced, traced_peak))
        self._own_ns += time.thread_time_ns() - begun_ns


def _differs(before: int, now: int, peak: int) -> bool:
    return abs(now - before) > _MOVED_BYTES or peak - max(now, before) > _MOVED_BYTES
