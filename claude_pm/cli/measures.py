"""What ``claude-pm bench`` measures: the figures of the performance guide, each with its bound."""

from __future__ import annotations

import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from claude_pm.agents import BUILTIN_FOLDER, Agent
from claude_pm.orchestration import Orchestrator, batch_orchestrate
from claude_pm.services.agent_registry import AgentRegistry
from claude_pm.services.context_manager import ContextManager
from claude_pm.services.shared_prompt_cache import SharedPromptCache
from claude_pm.settings import Settings
from claude_pm.testing import FakeModel

AGENT = "documentation"
REQUEST = "Generate quick summary"
MAX_TOKENS = 16
"""Output limit of the live requests; the time of a request grows with it."""

_LIVE_REQUESTS = 10
_LIVE_BATCH = 8
_WORKER_REQUESTS = 3
_FAKE_REQUESTS = 500
_FAKE_BATCH = 1000
_BATCHES = 5
_AGENTS = 200
_COLD = 20
_WARM = 2000
_MIB = 1024 * 1024
_FILES = 64


@dataclass(frozen=True, slots=True)
class Measure:
    """One figure. ``bound`` is the largest (``%``: the smallest) value that is wanted, or None."""

    what: str
    unit: Literal["ms", "%"]
    n: int
    median: float
    p95: float | None
    bound: float | None
    model: Literal["live", "not called"]

    @property
    def reached(self) -> bool | None:
        """Whether the bound is kept; None where there is none."""
        if self.bound is None:
            return None
        return self.median >= self.bound if self.unit == "%" else self.median <= self.bound


async def measure(settings: Settings) -> AsyncIterator[Measure]:
    """Yield the figures, those without a model first. Files are made in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="claude-pm-bench-") as folder:
        project = Path(folder)
        for figure in _registry(project):
            yield figure
        async for figure in _context(project):
            yield figure
    async for figure in _road(settings):
        yield figure
    async for figure in _live(settings):
        yield figure


def _registry(project: Path) -> Iterable[Measure]:
    agents = project / ".claude-pm" / "agents"
    agents.mkdir(parents=True)
    prompt = (BUILTIN_FOLDER / f"{AGENT}.md").read_text(encoding="utf-8").partition("\n---\n")[2]
    for number in range(_AGENTS):
        name = f"agent_{number}"
        front = f"---\nname: {name}\ndescription: Ask {name}.\n---\n"
        (agents / f"{name}.md").write_text(front + prompt, encoding="utf-8")
    os.utime(agents, (0, 0))  # or it counts as just being changed, and is read every time
    name = f"agent_{_AGENTS // 2}"
    AgentRegistry(project=project).load(name)  # imports what reads the files
    cold = [_seconds(lambda: AgentRegistry(project=project).load(name)) for _ in range(_COLD)]
    cache = SharedPromptCache()
    registry = AgentRegistry(project=project, prompt_cache=cache)
    registry.load(name)
    warm = [_seconds(lambda: registry.load(name)) for _ in range(_WARM)]
    hits = [_seconds(lambda: cache.get(name)) for _ in range(_WARM)]
    yield _times(f"registry lookup among {_AGENTS} agents, cold", cold, 10.0)
    yield _times("registry lookup, warm", warm, 0.02)
    for what, times, bound in (
        ("prompt cache hit, less time than a cold load", hits, 99.7),
        ("registry lookup (looks whether the file has changed), less time", warm, None),
    ):
        share = 100 * (1 - statistics.median(times) / statistics.median(cold))
        yield Measure(what, "%", len(times), share, None, bound, "not called")


async def _context(project: Path) -> AsyncIterator[Measure]:
    size = 0
    paragraph = "The queue is drained before the worker stops; see the table for its limits.\n"
    for number in range(_FILES):
        sections = [
            f"## Section {number}.{part}\n\n{paragraph * 12}Number {number * part}.\n\n"
            for part in range(17)
        ]
        text = "".join(sections)
        size += len(text)
        (project / f"notes_{number}.md").write_text(text, encoding="utf-8")
    agent = Agent(
        "reader",
        "Reads.",
        "Read.",
        1,
        None,
        "none",
        project,
        context_patterns=("notes_*.md",),
        # In the last file only: all have to be looked through.
        context_keywords=(f"{_FILES - 1}.16",),
    )
    mebibytes = size / _MIB

    async def build(context: ContextManager) -> float:
        return await _async_seconds(lambda: context.build(agent))

    cold = [await build(ContextManager(project, home=project)) / mebibytes for _ in range(_COLD)]
    context = ContextManager(project, home=project)
    await build(context)
    cached = [await build(context) for _ in range(_COLD * 5)]
    yield _times("context filtering, per MiB", cold, 100.0)
    yield _times(f"context filtering, {mebibytes:.1f} MiB that did not change", cached, 1.0)


async def _road(settings: Settings) -> AsyncIterator[Measure]:
    queries = [{"agent": AGENT, "request": REQUEST}] * _FAKE_BATCH
    async with Orchestrator(settings, model=FakeModel()) as orchestrator:

        def ask() -> Awaitable[object]:
            return orchestrator.orchestrate_agent(AGENT, REQUEST, mode="local")

        await ask()
        single = [await _async_seconds(ask) for _ in range(_FAKE_REQUESTS)]
        batches = [
            await _async_seconds(lambda: batch_orchestrate(queries, orchestrator=orchestrator))
            / _FAKE_BATCH
            for _ in range(_BATCHES)
        ]
    yield _times("our own part of a LOCAL request", single, 0.1)
    yield _times(f"our own part of a request in a batch of {_FAKE_BATCH:,}", batches, 0.1)


async def _live(settings: Settings) -> AsyncIterator[Measure]:
    async with Orchestrator(settings) as orchestrator:

        def ask(mode: str) -> Awaitable[object]:
            return orchestrator.orchestrate_agent(AGENT, REQUEST, mode=mode, max_tokens=MAX_TOKENS)

        for mode in ("local", "subprocess"):
            await ask(mode)  # what is done once, and the prompt's first prefill
        local = [await _async_seconds(lambda: ask("local")) for _ in range(_LIVE_REQUESTS)]
        yield _times(f"LOCAL request of {MAX_TOKENS} tokens", local, 500.0, "live")
        queries = [
            {"agent": AGENT, "request": REQUEST, "mode": "local", "max_tokens": MAX_TOKENS}
        ] * _LIVE_BATCH

        async def batch() -> None:
            for outcome in await batch_orchestrate(queries, orchestrator=orchestrator):
                if isinstance(outcome, Exception):
                    raise outcome

        batches = [await _async_seconds(batch) / _LIVE_BATCH for _ in range(2)]
        what = f"LOCAL request in a batch of {_LIVE_BATCH}, its share of the time"
        yield _times(what, batches, 500.0, "live")
        worker = [await _async_seconds(lambda: ask("subprocess")) for _ in range(_WORKER_REQUESTS)]
        yield _times(f"SUBPROCESS request of {MAX_TOKENS} tokens", worker, None, "live")


def _times(
    what: str,
    times_s: list[float],
    bound_ms: float | None,
    model: Literal["live", "not called"] = "not called",
) -> Measure:
    ordered = sorted(times_s)
    # The nearest-rank percentile: of few values it is the largest, never one between two.
    p95_s = ordered[-(-95 * len(ordered) // 100) - 1]
    return Measure(
        what, "ms", len(ordered), 1e3 * statistics.median(ordered), 1e3 * p95_s, bound_ms, model
    )


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


async def _async_seconds(call: Callable[[], Awaitable[object]]) -> float:
    start = time.perf_counter()
    await call()
    return time.perf_counter() - start


def measure_all(settings: Settings, shown: Callable[[Measure], None]) -> list[Measure]:
    """Measure everything, and hand each figure to ``shown`` as soon as it is there."""

    async def run() -> list[Measure]:
        figures = []
        async for figure in measure(settings):
            shown(figure)
            figures.append(figure)
        return figures

    return asyncio.run(run())
