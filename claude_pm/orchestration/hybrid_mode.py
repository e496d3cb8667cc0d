"""HYBRID: where a request is served when nobody asked for isolation."""

from __future__ import annotations

import threading
from collections import deque

from claude_pm.orchestration.modes import ModeChoice, OrchestrationMode

KEPT_TIMES = 20
"""Times that are remembered, of each kind; what is older says little about now."""

ENOUGH_TIMES = 3
"""LOCAL times without which nothing is expected."""

MARGIN = 0.8
"""A worker has to promise an answer in less than this share of the LOCAL time."""

TRIAL_ROUNDS = 2
"""A queue this long (in rounds of the model) makes a first worker worth a trial."""


class HybridPolicy:
    """Chooses LOCAL or a worker for one request, from what has been measured so far.

    While fewer than ``capacity`` LOCAL requests are on their way (as many as the model in this
    process answers at once), the model is free and LOCAL is chosen: nothing starts sooner. Else
    the choice is by the last measured times, of which the medians count:

    - LOCAL is expected to take ``step * (on their way + 1)``. A step is the time from one LOCAL
      answer to the next while somebody was served; with one at a time that is the service time.
    - A worker is expected to take ``its service + its start``, without the start if one is idle.

    A worker is chosen where it is expected to take less than 0.8 of the LOCAL time. Three LOCAL
    answers are needed before anything but LOCAL is chosen. As long as no worker has been
    measured, one at a time is tried when the queue is two rounds long: that costs little there,
    and is the only way to get to know it. On few cores workers and the model in this process slow
    each other down; that shows in the times, and so in the choice.

    Safe from threads. Times are readings of ``time.perf_counter_ns``.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = max(capacity, 1)
        self._lock = threading.Lock()
        self._steps_s: deque[float] = deque(maxlen=KEPT_TIMES)
        self._worker_s: deque[float] = deque(maxlen=KEPT_TIMES)
        self._start_s: deque[float] = deque(maxlen=KEPT_TIMES)
        self._last_end_ns = 0
        self._locals = 0
        self._workers = 0

    def choose(self, *, idle_workers: int) -> ModeChoice:
        """Return where to serve a request that comes now, and why, with the figures."""
        from statistics import median

        with self._lock:
            if self._locals < self._capacity:
                return _local("the model is free")
            if len(self._steps_s) < ENOUGH_TIMES:
                return _local("too few answers measured")
            local_s = median(self._steps_s) * (self._locals + 1)
            if not self._worker_s:
                queue_is_long = self._locals >= TRIAL_ROUNDS * self._capacity
                if queue_is_long and not self._workers:
                    return _worker(f"no worker measured yet; LOCAL is expected in {local_s:.2f} s")
                return _local("no worker measured yet")
            worker_s = median(self._worker_s)
            if not idle_workers and self._start_s:
                worker_s += median(self._start_s)
        expected = f"LOCAL is expected in {local_s:.2f} s, a worker in {worker_s:.2f} s"
        return _worker(expected) if worker_s < MARGIN * local_s else _local(expected)

    def begun(self, mode: OrchestrationMode) -> None:
        """Count a request that is on its way in that mode, waiting included."""
        with self._lock:
            if mode is OrchestrationMode.LOCAL:
                self._locals += 1
            else:
                self._workers += 1

    def ended(self, mode: OrchestrationMode) -> None:
        """Count it no more: it was answered, or failed."""
        with self._lock:
            if mode is OrchestrationMode.LOCAL:
                self._locals -= 1
            else:
                self._workers -= 1

    def note_local(self, start_ns: int, end_ns: int) -> None:
        """Remember a LOCAL answer: when its handler began, and when the answer was there."""
        with self._lock:
            self._steps_s.append((end_ns - max(start_ns, self._last_end_ns)) / 1e9)
            self._last_end_ns = end_ns

    def note_worker(self, service_s: float, start_s: float | None) -> None:
        """Remember how long a worker took to answer, and to start if it had to."""
        with self._lock:
            self._worker_s.append(service_s)
            if start_s is not None:
                self._start_s.append(start_s)


def _local(why: str) -> ModeChoice:
    return ModeChoice(OrchestrationMode.LOCAL, f"hybrid: {why}")


def _worker(why: str) -> ModeChoice:
    return ModeChoice(OrchestrationMode.SUBPROCESS, f"hybrid: {why}", fresh=False)
