"""The modes side by side: medians of what each request took."""

from __future__ import annotations

from typing import TYPE_CHECKING

from claude_pm.analysis.requests import requests_table
from claude_pm.profiles import schema

if TYPE_CHECKING:
    import pandas as pd

    from claude_pm.profiles import Profile

BASELINE = "local"
FAILURES = ("error", "timeout", "cancelled")

MODES = schema.Table(
    "modes",
    "one mode",
    (
        schema.Column("mode", "string", "local or subprocess"),
        schema.Column("n", "Int64", "answered requests, without warm-ups"),
        schema.Column("failures", "Int64", "failed requests, without warm-ups"),
        schema.Column("median_s", "Float64", "median request duration"),
        schema.Column("p95_s", "Float64", "95th percentile of it, by linear interpolation"),
        schema.Column("ttft_median_s", "Float64", "median seconds from request to first text"),
        schema.Column("input_tokens", "Float64", "median per request"),
        schema.Column("cache_read_tokens", "Float64", "median per request"),
        schema.Column("output_tokens", "Float64", "median per request"),
        schema.Column("ratio", "Float64", "median_s over that of local; null without local"),
    ),
)


def compare_modes(profile: Profile) -> pd.DataFrame:
    """Return one row a mode, in order of appearance; ``MODES`` declares the columns.

    Warm-ups are left out altogether. Failures (error, timeout, cancelled) are counted, but left
    out of the medians. A request that never finished is neither; one that failed before it had a
    mode is in no row.
    """
    return compare_requests(requests_table(profile))


def compare_requests(requests: pd.DataFrame) -> pd.DataFrame:
    """Compare the modes of a ``requests_table``."""
    table = []
    for mode in requests["mode"].dropna().unique():
        compared = requests[(requests["mode"] == mode) & ~requests["warmup"]]
        answered = compared[compared["status"] == "ok"]
        table.append(
            {
                "mode": mode,
                "n": len(answered),
                "failures": int(compared["status"].isin(FAILURES).sum()),
                "median_s": answered["duration_s"].median(),
                "p95_s": answered["duration_s"].quantile(0.95),
                "ttft_median_s": answered["ttft_s"].median(),
                "input_tokens": answered["input_tokens"].median(),
                "cache_read_tokens": answered["cache_read_tokens"].median(),
                "output_tokens": answered["output_tokens"].median(),
            }
        )
    modes = schema.frame_from_rows(MODES, table)
    baseline = modes.loc[modes["mode"] == BASELINE, "median_s"]
    if len(baseline):
        modes["ratio"] = modes["median_s"] / baseline.iloc[0]
    return modes
