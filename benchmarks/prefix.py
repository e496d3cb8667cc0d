"""What a hot prompt is worth: agents that take turns, and processes that start from a saved state.

Every request is a new question, so what is hot is the agent's prompt. ``cold`` is a fresh process
with the caches off, in which the same prompt is prefilled; TTFT is that of the model alone, from
the ``chat`` span. The cases take turns.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from typing import Any

import claude_pm
from claude_pm.orchestration import Orchestrator
from claude_pm.settings import read_settings

AGENTS = ("documentation", "qa", "engineer")
MAX_TOKENS = 64
ROUNDS = 7


def run() -> Iterator[dict[str, Any]]:
    """Yield the figures."""
    spans = asyncio.run(_measure()).spans
    requests = spans[spans["name"] == "orchestrate"].set_index("trace_id")
    case = requests["attributes"].str.extract(r'"case": "([\w ]+)"')[0]
    chats = spans[spans["name"] == "chat"].set_index("trace_id")
    chats = chats.assign(case=case, request_s=requests["duration_s"]).dropna(subset=["case"])
    medians = chats.groupby("case")[["ttft_s", "request_s", "cache_read_tokens"]].median()
    for name, row in medians.iterrows():
        yield {
            "what": name,
            "n": int((chats["case"] == name).sum()),
            "model_ttft_s_median": round(float(row["ttft_s"]), 4),
            "request_s_median": round(float(row["request_s"]), 4),
            "cache_read_tokens_median": float(row["cache_read_tokens"]),
        }
    yield {
        "what": "cold / hot among three agents, TTFT",
        "ratio": round(float(medians["ttft_s"]["cold"] / medians["ttft_s"]["hot"]), 1),
    }
    yield {
        "what": "SUBPROCESS from a saved prompt / LOCAL hot, whole request",
        "ratio": round(float(medians["request_s"]["saved"] / medians["request_s"]["hot"]), 2),
    }


async def _measure() -> claude_pm.Profile:
    async with (
        Orchestrator(read_settings()) as warm,
        Orchestrator(read_settings(cache_enabled=False)) as cold,
        claude_pm.profile("prefix", cpu=None, memory=None) as profile,
    ):
        numbers = itertools.count(1)

        async def ask(orchestrator: Orchestrator, agent: str, mode: str, case: str) -> None:
            await orchestrator.orchestrate_agent(
                agent,
                f"Hi {next(numbers)}",
                mode=mode,
                max_tokens=MAX_TOKENS,
                # The first round starts the model and saves the prompts.
                attributes={"case": case} if turn > 0 else None,
            )

        for turn in range(ROUNDS + 1):
            for agent in AGENTS:
                await ask(warm, agent, "local", "hot")
            agent = AGENTS[turn % len(AGENTS)]
            await ask(warm, agent, "subprocess", "saved")
            await ask(cold, agent, "subprocess", "cold")
    return profile
