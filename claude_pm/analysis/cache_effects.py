"""What the model's prompt cache is worth: cold answers against warm ones, and against none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from claude_pm.analysis.break_even import break_even_requests
from claude_pm.analysis.compare_samples import MARGIN, Verdict, compare_samples
from claude_pm.analysis.requests import attributes, requests_table
from claude_pm.analysis.rows import Row, rows
from claude_pm.profiles import schema
from claude_pm.profiles.experiment import SAMPLE, Experiment

if TYPE_CHECKING:
    import pandas as pd

    from claude_pm.profiles import Profile

STATES = ("cold", "warm", "off")
"""In the order of the tables."""

CACHE_EFFECTS = schema.Table(
    "cache_effects",
    "one agent in one mode with a cold or a warm cache, or with none",
    (
        schema.Column("agent", "string", "the agent that was asked"),
        schema.Column("mode", "string", "local or subprocess"),
        schema.Column("cache_state", "string", "cold, warm or off"),
        schema.Column("n", "Int64", "answered requests"),
        schema.Column("ttft_median_s", "Float64", "median seconds from request to first text"),
        schema.Column("prefill_median_s", "Float64", "median seconds of prefill"),
        schema.Column("duration_median_s", "Float64", "median request duration"),
        schema.Column("input_tokens", "Float64", "median per request"),
        schema.Column("cache_read_tokens", "Float64", "median per request"),
        schema.Column("cache_write_tokens", "Float64", "median per request"),
        schema.Column("cost_usd", "Float64", "median list price per request"),
    ),
)

CACHE_SAVINGS = schema.Table(
    "cache_savings",
    "what a warm cache saved one agent in one mode, compared with a cold one or with none",
    (
        schema.Column("agent", "string", "the agent that was asked"),
        schema.Column("mode", "string", "local or subprocess"),
        schema.Column("model", "string", "the model that answered warm"),
        schema.Column("compared_with", "string", "cold or off: what warm is compared with"),
        schema.Column("n", "Int64", "answered requests of that state"),
        schema.Column("n_warm", "Int64", "answered warm requests"),
        schema.Column("saved_ttft_s", "Float64", "median time to first text less that of warm"),
        schema.Column("saved_s", "Float64", "median duration less that of warm"),
        schema.Column("saved_usd", "Float64", "median list price of a request less that of warm"),
        schema.Column("ttft_ratio", "Float64", "median time to first text over that of warm"),
        schema.Column("ci_low", "Float64", "lower end of the ratio's 95 % interval"),
        schema.Column("ci_high", "Float64", "upper end of it"),
        schema.Column("verdict", "string", "warm is: faster, slower, same, unclear"),
        schema.Column("break_even_requests", "Int64", "from so many on, writing pays; list prices"),
    ),
)


def cache_effects(profile: Profile | Experiment) -> pd.DataFrame:
    """Return one row per agent, mode and cache state; ``CACHE_EFFECTS`` declares the columns.

    Warm-ups count here, unlike in a comparison of modes: a cold first request is the very datum.
    Left out are failures, and answers of which nobody knows whether the cache was cold or warm.
    Agents and modes are in order of appearance, cold before warm before off.
    """
    table = []
    for (agent, mode), states in _by_agent(profile):
        for state, answered in states.items():
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
                    "cache_write_tokens": answered["cache_write_tokens"].median(),
                    "cost_usd": answered["cost_usd"].median(),
                }
            )
    return schema.frame_from_rows(CACHE_EFFECTS, table)


def cache_savings(profile: Profile | Experiment, *, margin: float = MARGIN) -> pd.DataFrame:
    """Return what warm saved, a row per agent, mode and state that it is compared with.

    ``CACHE_SAVINGS`` declares the columns. ``saved_s`` and the other differences are of medians
    for one request: positive where warm was less. The verdict is that of ``compare_samples`` on the
    times to first text, block by block where an experiment took both states in each of its rounds;
    the ratio is turned round, so that 40 reads "forty times as long as warm". The same requests are
    counted as in :func:`cache_effects`. An agent that was never warm, or only warm, has no row.

    ``saved_usd`` is null where the model has no list price, and so is ``break_even_requests``,
    which is worked out from those prices alone (``break_even_requests()``), and counts the write.

    Raises:
        ComparisonError: the margin is not above 0 and below 1.
    """
    table: list[Row] = []
    for (agent, mode), states in _by_agent(profile):
        warm = states.pop("warm", None)
        if warm is None:
            continue
        models = warm["model"].dropna()
        model = str(models.iloc[-1]) if len(models) else None
        for state, answered in states.items():
            verdict = _judged(answered, warm, margin)
            table.append(
                {
                    "agent": agent,
                    "mode": mode,
                    "model": model,
                    "compared_with": state,
                    "n": len(answered),
                    "n_warm": len(warm),
                    "saved_ttft_s": answered["ttft_s"].median() - warm["ttft_s"].median(),
                    "saved_s": answered["duration_s"].median() - warm["duration_s"].median(),
                    "saved_usd": answered["cost_usd"].median() - warm["cost_usd"].median(),
                    "ttft_ratio": _inverse(verdict.ratio),
                    "ci_low": _inverse(verdict.ci_high),
                    "ci_high": _inverse(verdict.ci_low),
                    "verdict": verdict.verdict,
                    "break_even_requests": None if model is None else break_even_requests(model),
                }
            )
    return schema.frame_from_rows(CACHE_SAVINGS, table)


_ByState = dict[str, "pd.DataFrame"]


def _by_agent(profile: Profile | Experiment) -> list[tuple[tuple[object, object], _ByState]]:
    """Return the answered requests of each agent and mode, by cache state."""
    recorded = profile.profile if isinstance(profile, Experiment) else profile
    requests = requests_table(recorded)
    blocks = _blocks(rows(recorded.spans))
    requests["block"] = [blocks.get(span_id) for span_id in requests["span_id"]]
    known = requests[(requests["status"] == "ok") & requests["cache_state"].notna()]
    found: list[tuple[tuple[object, object], _ByState]] = []
    for (agent, mode), group in known.groupby(["agent", "mode"], sort=False, dropna=False):
        of_state = {state: group[group["cache_state"] == state] for state in STATES}
        states = {state: answered for state, answered in of_state.items() if len(answered)}
        found.append(((agent, mode), states))
    return found


def _blocks(spans: list[Row]) -> dict[str, int]:
    """Return the block of each span that lies in a sample of an experiment, warm-ups left out."""
    by_id = {span["span_id"]: span for span in spans}
    blocks: dict[str, int] = {}
    for span in spans:
        seen: set[str] = set()  # a damaged table may have a circle of parents
        current: Row | None = span
        while current is not None and current["name"] != SAMPLE and current["span_id"] not in seen:
            seen.add(current["span_id"])
            current = by_id.get(current["parent_id"])
        if current is None or current["name"] != SAMPLE:
            continue
        said = attributes(current)
        block = said.get("block")
        if isinstance(block, int) and said.get("warmup") is not True:
            blocks[span["span_id"]] = block
    return blocks


def _judged(answered: pd.DataFrame, warm: pd.DataFrame, margin: float) -> Verdict:
    sides = answered.dropna(subset=["ttft_s"]), warm.dropna(subset=["ttft_s"])
    of_a, of_b = (side["ttft_s"].tolist() for side in sides)
    in_a, in_b = (side["block"].tolist() for side in sides)
    paired = bool(in_a) and set(in_a) == set(in_b) and not sides[0]["block"].isna().any()
    return compare_samples(of_a, of_b, blocks=(in_a, in_b) if paired else None, margin=margin)


def _inverse(ratio: float | None) -> float | None:
    return 1 / ratio if ratio else None
