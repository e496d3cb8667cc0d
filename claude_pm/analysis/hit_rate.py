"""How often the model's prompt cache had the prompt, over time: as it fills, and as it evicts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from claude_pm.analysis.requests import requests_table
from claude_pm.errors import ProfileError
from claude_pm.profiles import schema
from claude_pm.profiles.experiment import Experiment

if TYPE_CHECKING:
    import pandas as pd

    from claude_pm.profiles import Profile

RECENT = 10
"""Requests that the rate of the last ones is of, unless another number is asked for."""

HIT_RATE = schema.Table(
    "hit_rate",
    "one answered request",
    (
        schema.Column("span_id", "string", "of its orchestrate span"),
        schema.Column("start_s", "Float64", "seconds since the profile began"),
        schema.Column("agent", "string", "the agent that was asked"),
        schema.Column("mode", "string", "local or subprocess"),
        schema.Column("cache_state", "string", "cold or warm"),
        schema.Column("hit", "boolean", "whether it was warm"),
        schema.Column("read_share", "Float64", "share of its input that came from the cache"),
        schema.Column("hit_rate", "Float64", "share of hits among all requests up to this one"),
        schema.Column("recent_hit_rate", "Float64", "share of hits among the last few, or fewer"),
    ),
)


def hit_rate(profile: Profile | Experiment, *, recent: int = RECENT) -> pd.DataFrame:
    """Return one row an answered request, in the order they began; ``HIT_RATE`` declares them.

    All agents' requests count together, for they share the cache; warm-ups too. Left out are
    failures, answers of which nobody knows what came from the cache, and those without a cache.

    Args:
        profile: what was recorded.
        recent: how many requests ``recent_hit_rate`` looks back on, this one included. The first
            rows have fewer before them.

    Raises:
        ProfileError: ``recent`` is below 1.
    """
    if recent < 1:
        raise ProfileError(f"recent is {recent}; it may be a whole number from 1.")
    requests = requests_table(profile.profile if isinstance(profile, Experiment) else profile)
    asked = requests[(requests["status"] == "ok") & requests["cache_state"].isin(["cold", "warm"])]
    hits = asked["cache_state"] == "warm"
    as_numbers = hits.astype(float)
    table = asked.assign(
        hit=hits,
        read_share=asked["cache_read_tokens"] / asked["input_tokens"],
        hit_rate=as_numbers.expanding().mean(),
        recent_hit_rate=as_numbers.rolling(recent, min_periods=1).mean(),
    )
    return schema.frame(HIT_RATE, {name: table[name].tolist() for name in HIT_RATE.column_names})
