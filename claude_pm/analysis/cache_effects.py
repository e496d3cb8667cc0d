"""What the model's prompt cache is worth: cold answers against warm ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from claude_pm.analysis.requests import requests_table
from claude_pm.profiles import schema

if TYPE_CHECKING:
    import pandas as pd

    from claude_pm.profiles import Profile

CACHE_EFFECTS = schema.Table(
    "cache_effects",
    "one agent in one mode with a cold or a warm cache",
    (
        schema.Column("agent", "string", "the agent that was asked"),
        schema.Column("mode", "string", "local or subprocess"),
        schema.Column("cache_state", "string", "cold or warm"),
        schema.Column("n", "Int64", "answered requests"),
        schema.Column("ttft_median_s", "Float64", "median seconds from request to first text"),
        schema.Column("prefill_median_s", "Float64", "median seconds of prefill"),
        schema.Column("duration_median_s", "Float64", "median request duration"),
        schema.Column("input_tokens", "Float64", "median per request"),
        schema.Column("cache_read_tokens", "Float64", "median per request"),
    ),
)


def cache_effects(profile: Profile) -> pd.DataFrame:
    """Return one row per agent, mode and cache state; ``CACHE_EFFECTS`` declares the columns.

    Warm-ups count here, unlike in a comparison of modes: a cold first request is the very datum.
    Left out are failures, and answers of which nobody knows whether the cache was cold or warm.
    Agents and modes are in order of appearance, cold before warm.
    """
    requests = requests_table(profile)
    known = requests[(requests["status"] == "ok") & requests["cache_state"].notna()]
    table = []
    for (agent, mode), group in known.groupby(["agent", "mode"], sort=False, dropna=False):
        for state, answered in group.groupby("cache_state"):
            table.append(
                {
                    "agent": agent,
                    "mode": mode,
                    "cache_state": state,
                    "n": len(answered),
                    "ttft_median_s": answered["ttft_s"].median(),
                    "prefill_median_s": answered["prefill_s"].median(),
                    "duration_median_s": answered["duration_s"].median(),
                    "input_tokens": answered["input_tokens"].median(),
                    "cache_read_tokens": answered["cache_read_tokens"].median(),
                }
            )
    return schema.frame_from_rows(CACHE_EFFECTS, table)
