"""The asyncio workload that profilers are measured on: ``profiled_workload.py [case]``.

200 tasks of 10 steps each: about a millisecond of JSON work with small Python calls, a list that is
kept, and a wait of 2 ms. It prints its own wall seconds as one JSON line: what a profiler does
before it and after it, its report above all, is not in them. It imports nothing heavy, and no
profiler but the case's own.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import Callable
from typing import Any

TASKS = 200
STEPS = 10
REPEATS = 10
"""Times that a step goes over its document: about a millisecond in all."""
WAIT_S = 0.002
KEPT = 500
BARE = "bare"

ORDERS = json.dumps(
    [
        {"id": number, "name": f"item {number}", "price": 0.5 + number, "tags": ["new", "blue"],
         "note": "to be sent soon " * 3}
        for number in range(30)
    ]
)  # fmt: skip

AroundStep = Callable[[], contextlib.AbstractContextManager[Any]]


def priced(order: dict[str, Any]) -> float:
    """Return the price of one order: a small call, as real code is full of."""
    return float(order["price"]) * len(order["tags"])


def total(text: str) -> float:
    """Read the orders, add them up and write them again, some times over."""
    found = 0.0
    for _ in range(REPEATS):
        orders = json.loads(text)
        found += sum(priced(order) for order in orders)
        json.dumps(orders)
    return found


async def task(around_step: AroundStep) -> int:
    """Do the steps, one after the other, and return how many lists they left."""
    kept: list[list[int]] = []
    for _ in range(STEPS):
        with around_step():
            await step(kept)
    return len(kept)


async def step(kept: list[list[int]]) -> None:
    """Do the work of one step, keep a list, and wait."""
    total(ORDERS)
    kept.append(list(range(KEPT)))
    await asyncio.sleep(WAIT_S)


async def workload(around_step: AroundStep) -> None:
    """Run all tasks at the same time."""
    await asyncio.gather(*(task(around_step) for _ in range(TASKS)))


def main() -> None:
    """Run it once under the case's profiler, and print what it took."""
    case = sys.argv[1] if len(sys.argv) > 1 else BARE
    around_step: AroundStep = contextlib.nullcontext
    figures: dict[str, Any] = {}
    profiler: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()
    if case != BARE:
        from benchmarks.peers.started import started

        profiler = started(case, figures)
    if case == "claude_pm spans":
        import claude_pm

        def around_step() -> contextlib.AbstractContextManager[Any]:
            return claude_pm.span("step")

    with profiler:
        begun = time.perf_counter()
        asyncio.run(workload(around_step))
        wall_s = time.perf_counter() - begun
    print(json.dumps({"wall_s": wall_s, **figures}), flush=True)


if __name__ == "__main__":
    main()
