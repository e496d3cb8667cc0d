"""What our own recording costs, told from the machine's noise: pairs within one process.

``profilers`` starts a process for each figure, so that others can take part; what differs between
two processes of one program is then more than what our recording costs. Here a slice of the same
workload runs bare and recorded in turns, in one process, the second of a pair first in the next
one. A ratio is the median of the pairs' ratios, beside the bounds that hold the true median 95
times in 100. ``wall`` is time passed; ``cpu`` is the time of all threads of the process, what looks
on in the background included. Starting and ending a recording is in neither.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import statistics
import time
from collections.abc import Iterator
from typing import Any

import claude_pm
from benchmarks import profiled_workload
from benchmarks.peers.started import CASES

PAIRS = 40
TASKS = 20
"""A tenth of the workload's: a slice is short, so that the machine is the same for both."""
OURS = ("claude_pm spans", "claude_pm sampler", "claude_pm RSS")


def run() -> Iterator[dict[str, Any]]:
    """Yield the figures, one a case."""
    ratios: dict[str, list[tuple[float, float]]] = {case: [] for case in OURS}
    for pair in range(PAIRS + 1):
        for case in OURS:
            order = [case, profiled_workload.BARE]
            taken = {each: _slice(each) for each in (order if pair % 2 else reversed(order))}
            bare_wall_s, bare_cpu_s = taken[profiled_workload.BARE]
            wall_s, cpu_s = taken[case]
            if pair > 0:
                ratios[case].append((wall_s / bare_wall_s, cpu_s / bare_cpu_s))
    for case, pairs in ratios.items():
        figures: dict[str, Any] = {"what": case, "n": len(pairs)}
        for name, values in zip(("wall", "cpu"), zip(*pairs, strict=True), strict=True):
            low, high = _bounds(values)
            figures |= {
                f"{name}_ratio": round(statistics.median(values), 4),
                f"{name}_ratio_low": round(low, 4),
                f"{name}_ratio_high": round(high, 4),
            }
        yield figures


def _slice(case: str) -> tuple[float, float]:
    """Run a slice of the workload and return its wall and processor seconds."""

    def around_step() -> contextlib.AbstractContextManager[Any]:
        return claude_pm.span("step") if case == OURS[0] else contextlib.nullcontext()

    async def work() -> None:
        await asyncio.gather(*(profiled_workload.task(around_step) for _ in range(TASKS)))

    recording = contextlib.nullcontext() if case == profiled_workload.BARE else CASES[case]({})
    with recording:
        wall_s, cpu_s = time.perf_counter(), time.process_time()
        asyncio.run(work())
        return time.perf_counter() - wall_s, time.process_time() - cpu_s


def _bounds(values: tuple[float, ...]) -> tuple[float, float]:
    """Return the order statistics that hold the median at 95 % (normal form of the binomial)."""
    ordered = sorted(values)
    rank = max(0, math.floor(len(values) / 2 - 1.96 * math.sqrt(len(values)) / 2))
    return ordered[rank], ordered[-1 - rank]
