"""Whether ``what_if`` is right: what it says of more and fewer workers, against real runs.

A batch of 50 requests is recorded with 4 workers, from a server (a process of its own) that takes
20 to 120 ms for each answer, drawn anew every time. From that recording ``what_if`` says what 8
and 2 workers would take; then both are run. The three take turns, each with its connections open:
what is done once does not grow with the requests.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import subprocess
import sys
from collections.abc import Iterator
from typing import IO, Any, cast

import claude_pm
from benchmarks.http import MODEL, _Connection
from claude_pm.analysis.what_if import WhatIf, what_if
from claude_pm.orchestration import Orchestrator, batch_orchestrate
from claude_pm.settings import read_settings

REQUESTS = 50
RECORDED_WORKERS = 4
OTHER_WORKERS = (8, 2)
ROUNDS = 7
SHORTEST_S = 0.02
LONGEST_S = 0.12
AGENT = "documentation"
_SEED = 20_260_131


def run() -> Iterator[dict[str, Any]]:
    """Yield the figures."""
    process = subprocess.Popen([sys.executable, "-m", __name__], stdout=subprocess.PIPE, text=True)
    try:
        url = cast("IO[str]", process.stdout).readline().strip()
        predicted: dict[int, list[WhatIf]] = {workers: [] for workers in OTHER_WORKERS}
        measured: dict[int, list[float]] = {workers: [] for workers in OTHER_WORKERS}
        for turn in range(ROUNDS + 1):
            recorded = asyncio.run(_batch(url, RECORDED_WORKERS))
            for workers in OTHER_WORKERS:
                wall_s = _wall_s(asyncio.run(_batch(url, workers)))
                if turn > 0:  # the first one imports
                    predicted[workers].append(what_if(recorded, max_workers=workers))
                    measured[workers].append(wall_s)
    finally:
        process.terminate()
        process.wait()
    for workers in OTHER_WORKERS:
        yield _figures(workers, predicted[workers], measured[workers])


def _figures(workers: int, predicted: list[WhatIf], measured: list[float]) -> dict[str, Any]:
    pairs = list(zip(predicted, measured, strict=True))
    ratios = [estimate.wall_s / wall_s for estimate, wall_s in pairs]
    farthest = max(ratios, key=lambda ratio: max(ratio, 1 / ratio))
    return {
        "what": f"{workers} workers, estimated from {RECORDED_WORKERS}",
        "n": len(pairs),
        "estimated_s_median": round(statistics.median(one.wall_s for one in predicted), 4),
        "measured_s_median": round(statistics.median(measured), 4),
        "estimated / measured, median": round(statistics.median(ratios), 3),
        "estimated / measured, farthest": round(farthest, 3),
        "measured within the interval": sum(one.low_s <= s <= one.high_s for one, s in pairs),
        "replayed / recorded, median": round(
            statistics.median(one.replayed_s / one.recorded_s for one in predicted), 4
        ),
    }


async def _batch(url: str, workers: int) -> claude_pm.Profile:
    settings = read_settings(base_url=url, model=MODEL, max_workers=workers)
    queries = [{"agent": AGENT, "request": f"Question {i}"} for i in range(REQUESTS)]
    async with Orchestrator(settings) as orchestrator:
        # What is done once, such as loading an agent, is not what a request takes.
        await batch_orchestrate(queries[:workers], orchestrator=orchestrator)
        profiling = claude_pm.profile("batch", cpu=None, memory=None)
        async with profiling as profile:
            outcomes = await batch_orchestrate(queries, orchestrator=orchestrator)
    for outcome in outcomes:
        if isinstance(outcome, Exception):
            raise outcome
    return profile


def _wall_s(profile: claude_pm.Profile) -> float:
    spans = profile.spans
    return float(spans.loc[spans["name"] == "batch", "duration_s"].iloc[0])


class _SlowConnection(_Connection):
    """Answers after a time that is drawn for each request."""

    _random = random.Random(_SEED)  # noqa: S311

    def data_received(self, data: bytes) -> None:
        """Answer a request that is complete."""
        self._read += data
        head, end, body = self._read.partition(b"\r\n\r\n")
        length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
        if not end or len(body) < int(length or 0):
            return
        self._read = b""
        wait_s = self._random.uniform(SHORTEST_S, LONGEST_S)
        asyncio.get_running_loop().call_later(wait_s, self._transport.write, self.answers[True])


async def _serve() -> None:
    server = await asyncio.get_running_loop().create_server(_SlowConnection, "127.0.0.1", 0)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve())
