"""What a hot prompt is worth: agents that take turns, and processes that start from a saved state.

``cold`` has the caches off, so the same prompt is prefilled every time. The cases take turns.
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
from collections.abc import Iterator
from typing import Any

from claude_pm.orchestration import Orchestrator, Response
from claude_pm.settings import read_settings

AGENTS = ("documentation", "qa", "engineer")
REQUEST = "In two sentences: what should I look at first in this project?"
MAX_TOKENS = 64
ROUNDS = 7


def run() -> Iterator[dict[str, Any]]:
    """Yield the figures."""
    answers = asyncio.run(_measure())
    medians = {}
    for case, responses in answers.items():
        ttft_s = [response.ttft_s for response in responses if response.ttft_s is not None]
        duration_s = [response.duration_s for response in responses]
        medians[case] = (statistics.median(ttft_s), statistics.median(duration_s))
        yield {
            "what": case,
            "n": len(responses),
            "ttft_s_median": round(medians[case][0], 4),
            "duration_s_median": round(medians[case][1], 4),
            "cache_read_tokens_median": statistics.median(
                response.usage.cache_read_tokens or 0 for response in responses
            ),
        }
    cold, hot, fresh = medians["cold"], medians["hot, in turns"], medians["fresh worker"]
    yield {"what": "cold / hot among three agents, TTFT", "ratio": round(cold[0] / hot[0], 1)}
    yield {
        "what": "SUBPROCESS from a saved prompt / LOCAL warm, whole request",
        "ratio": round(fresh[1] / hot[1], 2),
    }


async def _measure() -> dict[str, list[Response]]:
    answers: dict[str, list[Response]] = {"hot, in turns": [], "cold": [], "fresh worker": []}
    async with (
        Orchestrator(read_settings()) as warm,
        Orchestrator(read_settings(cache_enabled=False)) as cold,
    ):
        numbers = itertools.count(1)

        async def ask(orchestrator: Orchestrator, agent: str, mode: str) -> Response:
            # A new question each time: the prompt is hot, not the request.
            return await orchestrator.orchestrate_agent(
                agent, f"{next(numbers)}. {REQUEST}", mode=mode, max_tokens=MAX_TOKENS
            )

        for turn in range(ROUNDS + 1):
            hot = [await ask(warm, agent, "local") for agent in AGENTS]
            agent = AGENTS[turn % len(AGENTS)]
            worker = await ask(warm, agent, "subprocess")
            again = await ask(cold, agent, "local")
            if turn > 0:  # the first one starts models, and saves the prompts
                answers["hot, in turns"] += hot
                answers["fresh worker"].append(worker)
                answers["cold"].append(again)
    return answers
