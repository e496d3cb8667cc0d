"""What the road itself costs a request, with a model that answers at once and recording on.

The cases are those of the peers' benchmarks: one request after the other, 1,000 in a batch, and up
to 3,000 in flight together. The model alone takes turns with them as the baseline.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import statistics
import time
import tracemalloc
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import psutil

import claude_pm
from claude_pm.orchestration import Orchestrator, batch_orchestrate
from claude_pm.settings import read_settings
from claude_pm.testing import FakeModel

AGENT = "documentation"
REQUEST = "Generate quick summary"
ROUNDS = 7
SINGLE = 500
BATCH = 1000
IN_FLIGHT = (1, 10, 100, 1000, 3000)
KEPT = 100_000
MIB = 1024 * 1024


def run() -> Iterator[dict[str, Any]]:
    """Yield the figures."""
    if Path("/proc/self/clear_refs").exists():
        # First of all: what other cases have freed would be used again.
        yield asyncio.run(_peak_in_flight())
    yield from asyncio.run(_costs())
    yield from asyncio.run(_in_flight())
    yield asyncio.run(_bytes_in_flight())
    yield asyncio.run(_kept())


async def _costs() -> list[dict[str, Any]]:
    async with Orchestrator(read_settings(), model=FakeModel()) as orchestrator:
        queries = [{"agent": AGENT, "request": REQUEST}] * BATCH

        async def single() -> list[float]:
            return [await _us(lambda: _ask(orchestrator)) for _ in range(SINGLE)]

        async def batch() -> list[float]:
            call = _us(lambda: batch_orchestrate(queries, orchestrator=orchestrator))
            return [await call / BATCH]

        async def bare() -> list[float]:
            model = FakeModel()
            return [await _us(lambda: _answer_of(model)) for _ in range(SINGLE)]

        cases = {"one at a time": single, f"batch of {BATCH}": batch, "the model alone": bare}
        times: dict[str, list[float]] = {name: [] for name in cases}
        for turn in range(ROUNDS + 1):
            for name, case in cases.items() if turn % 2 else reversed(cases.items()):
                gc.collect()
                async with claude_pm.profile("costs", cpu=None, memory=None):
                    measured = await case()
                if turn > 0:
                    times[name] += measured
    return [{"what": name, "unit": "us", **_summary(taken)} for name, taken in times.items()]


async def _in_flight() -> list[dict[str, Any]]:
    """Microseconds a request, of so many that are in flight together."""
    figures = []
    async with Orchestrator(read_settings(max_workers=max(IN_FLIGHT)), model=FakeModel()) as made:
        await _ask(made)
        times: dict[int, list[float]] = {count: [] for count in IN_FLIGHT}
        for _ in range(ROUNDS):
            for count in IN_FLIGHT:
                repeats = max(1, 1000 // count)
                gc.collect()
                async with claude_pm.profile("flight", cpu=None, memory=None):
                    taken = [
                        await _us(functools.partial(_gather, made, count)) / count
                        for _ in range(repeats)
                    ]
                times[count].append(statistics.median(taken))
    for count, taken in times.items():
        figures.append({"what": f"{count} in flight", "unit": "us", **_summary(taken)})
    return figures


async def _peak_in_flight() -> dict[str, Any]:
    """KiB of resident memory that a gather of many adds at its peak, as the peers are measured."""
    count = 1000
    async with Orchestrator(read_settings(), model=FakeModel()) as orchestrator:
        for _ in range(300):
            await _ask(orchestrator)
        async with claude_pm.profile("peak", cpu=None, memory=None):
            gc.collect()
            before = _status_bytes("VmRSS")
            Path("/proc/self/clear_refs").write_text("5")  # noqa: ASYNC240
            await _gather(orchestrator, count)
            peak = _status_bytes("VmHWM")
    each = (peak - before) / count
    return {
        "what": f"peak resident memory of each of {count} gathered",
        "kib": round(each / 1024, 2),
    }


def _status_bytes(field: str) -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.partition(f"{field}:")[2].split()[0]) * 1024


async def _bytes_in_flight() -> dict[str, Any]:
    """KiB that each of many requests holds while the model thinks; its task and all it records."""
    count = IN_FLIGHT[-1]
    answered = asyncio.Event()

    class Waiting(FakeModel):
        async def _wait(self, seconds: float) -> None:  # noqa: ARG002
            await answered.wait()

    model = Waiting()
    async with (
        Orchestrator(read_settings(max_workers=count), model=model) as orchestrator,
        claude_pm.profile("bytes", cpu=None, memory=None),
    ):
        gc.collect()
        tracemalloc.start()
        before, _ = tracemalloc.get_traced_memory()
        tasks = [asyncio.create_task(_ask(orchestrator)) for _ in range(count)]
        while len(model.requests) < count:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        after, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        answered.set()
        await asyncio.gather(*tasks)
    each = (after - before) / count
    return {"what": f"memory of each of {count} in flight", "kib": round(each / 1024, 2)}


async def _kept() -> dict[str, Any]:
    """MiB of resident memory that stay after many requests when no profile is kept."""
    process = psutil.Process()

    class Forgetful(FakeModel):
        async def stream(self, request: Any) -> Any:
            self.requests.clear()
            async with aclosing(super().stream(request)) as events:
                async for event in events:
                    yield event

    async with Orchestrator(read_settings(), model=Forgetful()) as orchestrator:
        for _ in range(KEPT // 10):
            await _ask(orchestrator)
        gc.collect()
        before = process.memory_info().rss
        for _ in range(KEPT):
            await _ask(orchestrator)
        gc.collect()
        after = process.memory_info().rss
    grown = round((after - before) / MIB, 2)
    return {"what": f"resident memory that {KEPT} requests leave", "mib": grown}


async def _ask(orchestrator: Orchestrator) -> object:
    return await orchestrator.orchestrate_agent(AGENT, REQUEST)


async def _gather(orchestrator: Orchestrator, count: int) -> object:
    return await asyncio.gather(*(_ask(orchestrator) for _ in range(count)))


async def _answer_of(model: FakeModel) -> None:
    from claude_pm.models import ChatRequest

    async for _ in model.stream(ChatRequest(("Be brief.",), REQUEST, 1)):
        pass


async def _us(call: Callable[[], Awaitable[object]]) -> float:
    start = time.perf_counter_ns()
    await call()
    return (time.perf_counter_ns() - start) / 1e3


def _summary(taken: list[float]) -> dict[str, Any]:
    ordered = sorted(taken)
    return {
        "n": len(ordered),
        "median": round(statistics.median(ordered), 1),
        "p95": round(ordered[-(-95 * len(ordered) // 100) - 1], 1),
    }
