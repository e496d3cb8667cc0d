"""What a thread uses of the processor, and how often it has to wait."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass

if sys.platform == "linux":
    import resource


@dataclass(slots=True)
class ThreadUse:
    """What the pieces of work of one profile used: CPU seconds, and how often they had to wait."""

    cpu_s: float = 0.0
    waits: int = 0
    known: bool = True

    def begin(self) -> None:
        """Count from here; called by the thread."""
        self.cpu_s -= time.thread_time()
        self.waits -= waits_of_this_thread()
        self.known = False

    def end(self) -> None:
        """Count no more."""
        self.cpu_s += time.thread_time()
        self.waits += waits_of_this_thread()
        self.known = True


def waits_of_this_thread() -> int:
    """Return how often this thread gave its core back, to wait; 0 where the system does not say."""
    if sys.platform != "linux":
        return 0
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
