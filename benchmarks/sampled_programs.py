"""What the sampler costs programs of other kinds than :mod:`benchmarks.cost`'s.

Each program is run with and without it, in an order drawn anew for each round. A ratio is the
median over the rounds, beside the bounds of the middle half of them. Starting and ending the
recording is not in the figures.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import claude_pm

ROUNDS = 24


def run() -> Iterator[dict[str, Any]]:
    """Yield a figure for each program."""
    for name, program in PROGRAMS.items():
        program()
        ratios = [_ratio(program) for _ in range(ROUNDS)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        yield {
            "what": name,
            "n": ROUNDS,
            "wall_ratio": round(middle, 3),
            "wall_ratio_low": round(low, 3),
            "wall_ratio_high": round(high, 3),
        }


def _ratio(program: Callable[[], None]) -> float:
    seconds = {}
    for samples in random.sample((True, False), 2):
        with claude_pm.profile("program", cpu="sample" if samples else None, memory=None):
            begun = time.perf_counter()
            program()
            seconds[samples] = time.perf_counter() - begun
    return seconds[True] / seconds[False]


def _work(number: int) -> None:
    sum(value * value for value in range(number))


def _tasks(*kinds: tuple[int, float, int]) -> None:
    """Run a task each: how much it works, how long it waits before that, and how often."""

    async def task(number: int, wait_s: float, times: int) -> None:
        for _ in range(times):
            await asyncio.sleep(wait_s)
            _work(number)

    async def main() -> None:
        await asyncio.gather(*(task(*kind) for kind in kinds))

    asyncio.run(main())


def _threads() -> None:
    """Wait for two threads that compete, again and again."""

    def job() -> None:
        _work(120_000)
        time.sleep(0.002)

    with ThreadPoolExecutor(2) as pool:
        for _ in range(25):
            jobs = [pool.submit(job) for _ in range(2)]
            for each in jobs:
                each.result()


PROGRAMS: dict[str, Callable[[], None]] = {
    "two tasks, long work": lambda: _tasks((200_000, 0.1, 5), (600_000, 0.05, 3)),
    "two tasks, short work": lambda: _tasks((20_000, 0.01, 50), (50_000, 0.005, 40)),
    "main thread waits for two": _threads,
}
