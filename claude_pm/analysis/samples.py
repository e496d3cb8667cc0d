"""What is compared: one row a sample, with everything that was measured of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from claude_pm.analysis.memory_by_span import memory_by_span
from claude_pm.analysis.requests import attributes, find_requests, requests_frame
from claude_pm.analysis.rows import Row, rows
from claude_pm.profiles import schema
from claude_pm.profiles.experiment import SAMPLE

if TYPE_CHECKING:
    import pandas as pd

    from claude_pm.profiles import Profile


@dataclass(frozen=True, slots=True)
class Metric:
    """Something that is measured of each sample."""

    name: str
    words: str
    better: Literal["lower", "higher"]
    is_speed: bool
    """Whether a better one is called faster, and not just less or more."""


METRICS = (
    Metric("duration_s", "duration", "lower", is_speed=True),
    Metric("ttft_s", "time to first text", "lower", is_speed=True),
    Metric("tpot_s", "time per output token", "lower", is_speed=True),
    Metric("tokens_per_s", "tokens per second", "higher", is_speed=True),
    Metric("cpu_s", "CPU time", "lower", is_speed=False),
    Metric("peak_rss_bytes", "peak memory", "lower", is_speed=False),
    Metric("input_tokens", "input tokens", "lower", is_speed=False),
    Metric("output_tokens", "output tokens", "lower", is_speed=False),
    Metric("cache_read_tokens", "tokens read from the cache", "higher", is_speed=False),
    Metric("cache_write_tokens", "tokens written to the cache", "lower", is_speed=False),
    Metric("cost_usd", "cost", "lower", is_speed=False),
)
"""In the order in which people read them."""

_TEXT, _WHOLE, _REAL = "string", "Int64", "Float64"

SAMPLES = schema.Table(
    "experiment_samples",
    "one sample of an experiment",
    (
        schema.Column("condition", _TEXT, "what was tried"),
        schema.Column("block", _WHOLE, "round in which every condition had its turn; from 0"),
        schema.Column("order", _WHOLE, "place in the order in which all samples were taken"),
        schema.Column("warmup", "boolean", "recorded, but not compared"),
        schema.Column("status", _TEXT, "ok, error, timeout or cancelled"),
        schema.Column("error", _TEXT, "type and message of the error"),
        schema.Column("start_s", _REAL, "seconds since the experiment began"),
        schema.Column("duration_s", _REAL, "seconds from call to result"),
        schema.Column("ttft_s", _REAL, "median time to first text of its requests"),
        schema.Column("tpot_s", _REAL, "median of (duration - TTFT) / (output tokens - 1)"),
        schema.Column("tokens_per_s", _REAL, "output tokens over the sample's duration"),
        schema.Column("cpu_s", _REAL, "CPU seconds of the process and of children that ended"),
        schema.Column(
            "peak_rss_bytes",
            _WHOLE,
            "peak memory of the process plus those of its workers",
        ),
        schema.Column("input_tokens", _WHOLE, "of all its requests"),
        schema.Column("cache_read_tokens", _WHOLE, "of all its requests"),
        schema.Column("cache_write_tokens", _WHOLE, "of all its requests"),
        schema.Column("output_tokens", _WHOLE, "of all its requests"),
        schema.Column("cost_usd", _REAL, "list price of all its requests"),
        schema.Column("span_id", _TEXT, "of the sample's span: everything in it lies below"),
    ),
)

_TOKENS = (
    "input_tokens", "cache_read_tokens", "cache_write_tokens", "output_tokens", "cost_usd",
)  # fmt: skip


def experiment_samples(profile: Profile) -> pd.DataFrame:
    """Return one row a sample of an experiment, in the order taken; ``SAMPLES`` declares them.

    Empty where the profile is of no experiment.
    """
    spans = rows(profile.spans)
    found = [span for span in spans if span["name"] == SAMPLE and _is_sample(span)]
    if not found:
        return schema.frame(SAMPLES)
    below = _below([sample["span_id"] for sample in found], spans)
    table = [
        _summarised(sample, below[sample["span_id"]], peak)
        for sample, peak in zip(found, _peaks(profile, found), strict=True)
    ]
    return schema.frame_from_rows(SAMPLES, sorted(table, key=lambda row: row["order"]))


def request_samples(profile: Profile) -> pd.DataFrame:
    """Return one row an answered request, warm-ups left out, with the metrics of a sample."""
    requests = requests_frame(find_requests(rows(profile.spans)))
    answered = requests[(requests["status"] == "ok") & ~requests["warmup"]]
    table = [
        {name: request.get(name) for name in SAMPLES.column_names}
        | {"tpot_s": _tpot_s(request), "tokens_per_s": _tokens_per_s(request), "condition": None}
        for request in rows(answered)
    ]
    return schema.frame_from_rows(SAMPLES, table)


def profile_sample(profile: Profile) -> Row:
    """Return the metrics of a whole profile as one sample: medians of its requests, if any."""
    requests = request_samples(profile)
    row: Row = {}
    for metric in METRICS:
        known = requests[metric.name].dropna()
        row[metric.name] = float(known.median()) if len(known) else None
    if not len(requests):
        row["duration_s"] = profile.meta["duration_s"]
    memory = profile.memory.dropna(subset=["rss_bytes"])
    if len(memory):
        row["peak_rss_bytes"] = float(memory.groupby("pid")["rss_bytes"].max().sum())
    return row


def _is_sample(span: Row) -> bool:
    return {"condition", "block", "order"} <= attributes(span).keys()


def _below(samples: list[str], spans: list[Row]) -> dict[str, list[Row]]:
    """Return the spans below each sample, at any depth."""
    parents = {span["span_id"]: span["parent_id"] for span in spans}
    owners: dict[str | None, str | None] = {None: None} | {name: name for name in samples}
    below: dict[str, list[Row]] = {name: [] for name in samples}
    for span in spans:
        path: list[str] = []
        current: str | None = span["span_id"]
        while current not in owners:
            path.append(str(current))
            owners[current] = None  # ends the walk on a circle, which a damaged table may have
            current = parents.get(str(current))
        owner = owners[current]
        owners |= dict.fromkeys(path, owner)
        if owner is not None and owner != span["span_id"]:
            below[owner].append(span)
    return below


def _summarised(span: Row, parts: list[Row], peak_rss_bytes: int | None) -> Row:
    said = attributes(span)
    row: Row = {name: span[name] for name in ("status", "error", "start_s", "duration_s")}
    row |= {name: said.get(name) for name in ("condition", "block", "order", "cpu_s")}
    row |= {name: _total(parts, name) for name in _TOKENS}
    requests = rows(requests_frame(find_requests(parts))) or [
        part for part in parts if part["name"] == "chat"
    ]
    row["warmup"] = said.get("warmup") is True
    row["span_id"] = span["span_id"]
    row["peak_rss_bytes"] = peak_rss_bytes
    row["ttft_s"] = _median([request["ttft_s"] for request in requests])
    row["tpot_s"] = _median([_tpot_s(request) for request in requests])
    row["tokens_per_s"] = _tokens_per_s(row)
    return row


def _total(parts: list[Row], name: str) -> Any:
    known = [part[name] for part in parts if part[name] is not None]
    return sum(known) if known else None


def _median(values: list[float | None]) -> float | None:
    import numpy as np

    known = [value for value in values if value is not None]
    return float(np.median(known)) if known else None


def _tpot_s(request: Row) -> float | None:
    """Return the time per output token after the first, as the page of metrics defines it."""
    ttft_s, tokens = request["ttft_s"], request["output_tokens"]
    if ttft_s is None or tokens is None or tokens <= 1:
        return None
    return float((request["duration_s"] - ttft_s) / (tokens - 1))


def _tokens_per_s(row: Row) -> float | None:
    if row["output_tokens"] is None or not row["duration_s"]:
        return None
    return float(row["output_tokens"] / row["duration_s"])


def _peaks(profile: Profile, spans: list[Row]) -> list[int | None]:
    """Return for each span its process's peak, plus that of each other process that ran in it."""
    by_span = memory_by_span(profile)
    own = dict(zip(by_span["span_id"], rows(by_span, ["pid", "rss_peak_bytes"]), strict=True))
    memory = profile.memory.dropna(subset=["rss_bytes", "t_s", "pid"])
    series = {
        pid: (readings["t_s"].to_numpy(dtype=float), readings["rss_bytes"].to_numpy(dtype=float))
        for pid, readings in memory.sort_values("t_s", kind="stable").groupby("pid")
    }
    peaks: list[int | None] = []
    for span in spans:
        found = own[span["span_id"]]
        total = found["rss_peak_bytes"]
        for pid, (times, sizes) in series.items():
            ends = (span["start_s"], span["start_s"] + span["duration_s"])
            first, last = times.searchsorted(ends)
            if pid != found["pid"] and first < last:
                total = (total or 0) + int(sizes[first:last].max())
        peaks.append(total)
    return peaks
