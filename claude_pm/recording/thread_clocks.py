"""The CPU time of other threads of this process."""

from __future__ import annotations

import sys
import time

# The kernel's number for "the CPU clock of the thread with this id", as Linux makes it (three low
# bits: 4 for a thread, 2 for the scheduler's own count). pthread_getcpuclockid gives the same, but
# may crash for a thread that has ended; the kernel refuses the number then.
_THREAD_CLOCK = 6
_SHIFT = 3


def cpu_ns(native_id: int | None) -> int | None:
    """Return the CPU time of a thread of this process since it began, in nanoseconds.

    None where it cannot be known: the thread has ended, or the system has no such clock.
    """
    if native_id is None or sys.platform != "linux":
        return None
    try:
        return time.clock_gettime_ns((~native_id << _SHIFT) | _THREAD_CLOCK)
    except OSError:
        return None
