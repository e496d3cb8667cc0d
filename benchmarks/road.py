"""LOCAL against SUBPROCESS, a hot prefix against a cold one, and what the road itself costs.

One agent, one request, at most 32 output tokens; the cases take turns, in an order that turns
around each time. ``cold`` is LOCAL with the caches off: the same prompt, prefilled every time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import claude_pm
from claude_pm.analysis import requests_table
from claude_pm.orchestration import Orchestrator
from claude_pm.settings import read_settings
from claude_pm.testing import FakeModel

if TYPE_CHECKING:
    import pandas as pd

AGENT = "documentation"
REQUEST = "Generate quick summary"
MAX_TOKENS = 32
REPEATS = 10
FAKE_REQUESTS = 500


def run() -> Iterator[dict[str, Any]]:
    """Yield the figures."""
    profile = asyncio.run(_measure())
    requests = requests_table(profile)
    requests = requests[~requests["warmup"]].merge(
        profile.spans[["span_id", "attributes"]], on="span_id"
    )
    requests["case"] = requests["attributes"].str.extract(r'"case": "(\w+)"')[0]
    medians = {
        case: group[["duration_s", "ttft_s", "prefill_s", "cache_read_tokens"]].median()
        for case, group in requests.groupby("case")
    }
    for case, median in medians.items():
        yield {
            "what": case,
            "n": int((requests["case"] == case).sum()),
            **{f"{name}_median": round(float(value), 4) for name, value in median.items()},
        }
    hot, cold, worker = medians["hot"], medians["cold"], medians["subprocess"]
    for what, above, below, metric in (
        ("SUBPROCESS / LOCAL warm, whole request", worker, hot, "duration_s"),
        ("SUBPROCESS / LOCAL warm, TTFT", worker, hot, "ttft_s"),
        ("cold / hot prefix, TTFT", cold, hot, "ttft_s"),
        ("cold / hot prefix, whole request", cold, hot, "duration_s"),
    ):
        yield {"what": what, "ratio": round(float(above[metric] / below[metric]), 2)}
    hot_requests = requests.loc[requests["case"] == "hot", "span_id"]
    yield {
        "what": "the road's own cost of a LOCAL request, embedded model",
        **_own_cost(profile.spans, hot_requests),
    }
    fake = asyncio.run(_measure_fake())
    yield {
        "what": "the road's own cost of a LOCAL request, FakeModel",
        **_own_cost(fake.spans, requests_table(fake)["span_id"].iloc[1:]),
    }


async def _measure() -> claude_pm.Profile:
    cases = {
        "hot": (Orchestrator(read_settings()), "local"),
        "cold": (Orchestrator(read_settings(cache_enabled=False)), "local"),
        "subprocess": (Orchestrator(read_settings()), "subprocess"),
    }
    async with claude_pm.profile("road", cpu=None, memory=None) as profile:
        for turn in range(REPEATS + 1):
            order = list(cases.items())
            for case, (orchestrator, mode) in order if turn % 2 else reversed(order):
                await orchestrator.orchestrate_agent(
                    AGENT,
                    REQUEST,
                    mode=mode,
                    max_tokens=MAX_TOKENS,
                    attributes={"case": case, "warmup": turn == 0},
                )
    return profile


async def _measure_fake() -> claude_pm.Profile:
    orchestrator = Orchestrator(read_settings(), model=FakeModel())
    async with claude_pm.profile("fake", cpu=None, memory=None) as profile:
        for _ in range(FAKE_REQUESTS + 1):
            await orchestrator.orchestrate_agent(AGENT, REQUEST)
    return profile


def _own_cost(spans: pd.DataFrame, requests: pd.Series) -> dict[str, float]:
    """Milliseconds of each request outside its chat span: median and p95."""
    chat_s = spans[spans["name"] == "chat"].groupby("parent_id")["duration_s"].sum()
    duration_s = spans.set_index("span_id").loc[requests, "duration_s"]
    own_ms = (duration_s - chat_s.reindex(requests)) * 1e3
    return {
        "n": len(own_ms),
        "median_ms": round(float(own_ms.median()), 3),
        "p95_ms": round(float(own_ms.quantile(0.95)), 3),
    }
