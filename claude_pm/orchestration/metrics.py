"""Running totals of an orchestrator, and their snapshot."""

from __future__ import annotations

import threading
from collections import Counter, deque
from dataclasses import dataclass
from typing import Any

KEPT_TIMES = 10_000
"""Percentiles are of this many last answers; counts and the average are of all."""


@dataclass(slots=True)
class Served:
    """One request that was answered, or failed."""

    agent: str
    mode: str
    duration_s: float
    status: str
    agent_cache_hit: bool | None = None
    input_tokens: int | None = None
    cache_read_tokens: int | None = None
    output_tokens: int | None = None


class OrchestrationMetrics:
    """Counts what was served; safe from threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._by_mode: Counter[str] = Counter()
        self._by_agent: Counter[str] = Counter()
        self._answered_s = 0.0
        self._times_s: deque[float] = deque(maxlen=KEPT_TIMES)

    def add(self, served: Served) -> None:
        """Count one request."""
        counts = self._counts
        with self._lock:
            counts["total"] += 1
            counts[served.status] += 1
            self._by_mode[served.mode] += 1
            self._by_agent[served.agent] += 1
            if served.status == "ok":
                self._answered_s += served.duration_s
                self._times_s.append(served.duration_s)
            if served.agent_cache_hit is not None:
                counts["loads"] += 1
                counts["hits"] += served.agent_cache_hit
            counts["input_tokens"] += served.input_tokens or 0
            counts["cache_read_tokens"] += served.cache_read_tokens or 0
            counts["output_tokens"] += served.output_tokens or 0

    def add_fallback(self) -> None:
        """Count a request that is served in another mode than was chosen for it."""
        with self._lock:
            self._counts["fallback"] += 1

    def snapshot(self) -> dict[str, Any]:
        """Return the metrics as they are now; times are those of answered requests, in ms.

        ``cache_hit_rate`` is the percentage of agent loads that needed no file to be read. Times
        and rates of which there is no datum yet are 0.0.
        """
        with self._lock:
            counts = self._counts
            times_s = sorted(self._times_s)
            answered = counts["ok"]
            return {
                "total_orchestrations": counts["total"],
                "average_response_time_ms": 1e3 * self._answered_s / answered if answered else 0.0,
                "p50_response_time_ms": 1e3 * _percentile(times_s, 0.50),
                "p95_response_time_ms": 1e3 * _percentile(times_s, 0.95),
                "cache_hit_rate": 100.0 * counts["hits"] / counts["loads"]
                if counts["loads"]
                else 0.0,
                "failures": counts["error"],
                "timeouts": counts["timeout"],
                "cancelled": counts["cancelled"],
                "fallbacks": counts["fallback"],
                "by_mode": dict(self._by_mode),
                "by_agent": dict(self._by_agent),
                "tokens": {
                    name: counts[name]
                    for name in ("input_tokens", "cache_read_tokens", "output_tokens")
                },
            }


def _percentile(ordered: list[float], share: float) -> float:
    """The percentile by linear interpolation, as ``numpy.percentile`` does by default."""
    if not ordered:
        return 0.0
    position = share * (len(ordered) - 1)
    below = int(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (position - below) * (ordered[above] - ordered[below])
