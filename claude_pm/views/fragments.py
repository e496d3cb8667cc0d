"""The pieces that summaries and the report are made of: sentences, bars and tables of text.

Everything here is text for people, not yet escaped for HTML; :mod:`claude_pm.views.html` escapes
and cleans whatever it prints.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from claude_pm.analysis.compare_modes import BASELINE, FAILURES, compare_modes
from claude_pm.analysis.phases import OTHER, PHASES, ROAD, phase_table
from claude_pm.analysis.requests import REQUEST, attributes, owner_ids, requests_table
from claude_pm.analysis.rows import Row, rows
from claude_pm.profiles import Profile
from claude_pm.views import palette, words


MAX_ROWS = 500
"""Rows of the long tables of a report."""

_TEXT_LIMIT = 300
_MAX_ERRORS = 5
_SAME_FROM, _SAME_TO = 0.95, 1.05


@dataclass(frozen=True, slots=True)
class Column:
    """A column's heading, and whether it holds numbers, which align on the right."""

    heading: str
    is_number: bool = False


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell's text, and how deep it is indented."""

    text: str
    depth: int = 0


@dataclass(frozen=True, slots=True)
class Table:
    """A table of text; ``left_out`` says what rows are not shown."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    left_out: str = ""


@dataclass(frozen=True, slots=True)
class BarPart:
    """One phase of the phase bar: its share in percent (exact, and as printed) and colour."""

    text: str
    percent: float
    printed: int
    duration: str
    colour: str


def headline(profile: Profile) -> str:
    """Say in a sentence what was answered, in what time, and where the time went."""
    requests = rows(requests_table(profile))
    return _requests_headline(profile, requests) if requests else _code_headline(profile)


def notes(profile: Profile) -> list[str]:
    """Return the sentences that belong under the headline."""
    found = []
    spans = profile.spans
    models = spans.loc[spans["name"] == "chat", "model"].dropna().unique()
    if any(str(model).startswith(words.SMALL_MODEL) for model in models):
        found.append(words.SMALL_MODEL_SENTENCE)
    roads = rows(spans[spans["name"] == REQUEST], ["attributes"])
    fallbacks = sum(bool(attributes(span).get("fallback")) for span in roads)
    if fallbacks:
        verb = "was" if fallbacks == 1 else "were"
        found.append(
            f"{words.counted(fallbacks, 'request')} {verb} served in another mode than asked "
            "(fallback)."
        )
    return found


def phase_bar(profile: Profile) -> list[BarPart]:
    """Return the phases of all requests together, in the order of the road; none without any."""
    phases = [phase for phase in rows(phase_table(profile)) if phase["share"]]
    phases.sort(key=lambda phase: PHASES.index(phase["phase"]))
    printed = words.percents([phase["share"] for phase in phases])
    return [
        BarPart(
            words.PHASES[phase["phase"]],
            100 * phase["share"],
            percent,
            words.duration(phase["total_s"]),
            palette.PHASES[phase["phase"]],
        )
        for phase, percent in zip(phases, printed, strict=True)
    ]


def phases(profile: Profile) -> Table:
    """Return the phases of the requests; empty without requests."""
    found = rows(phase_table(profile))
    printed = words.percents([phase["share"] or 0.0 for phase in found])
    columns = [Column("phase"), *_numbers("requests", "total", "share", "median", "longest")]
    return Table(
        columns,
        [
            _cells(
                words.PHASES[phase["phase"]],
                words.whole(phase["n"]),
                words.duration(phase["total_s"]),
                words.UNKNOWN if phase["share"] is None else f"{percent} %",
                words.duration(phase["median_s"]),
                words.duration(phase["max_s"]),
            )
            for phase, percent in zip(found, printed, strict=True)
        ],
    )


def other_spans(profile: Profile) -> Table:
    """Return the spans that are no part of a request's phases, by name: mostly the user's own."""
    spans = rows(profile.spans, ("span_id", "parent_id", "name"))
    is_other = [
        owner is None or span["name"] not in ROAD
        for span, owner in zip(spans, owner_ids(spans), strict=True)
    ]
    others = Profile(profile.meta, {"spans": profile.spans[is_other]})
    columns = [Column("span"), *_numbers("n", "total", "median", "p95", "longest")]
    return Table(
        columns,
        [
            _cells(
                _plain(span["phase"]),
                words.whole(span["n"]),
                *_durations(span, "total_s", "median_s", "p95_s", "max_s"),
            )
            for span in rows(others.summary())
        ],
    )


def modes(profile: Profile) -> Table:
    """Return the comparison of modes."""
    columns = [
        Column("mode"),
        *_numbers(
            "requests", "failed", "median", "p95", "first text", "input tokens", "from cache",
            "output tokens", "ratio",
        ),
    ]  # fmt: skip
    return Table(
        columns,
        [
            _cells(
                words.mode_label(mode["mode"]),
                *_wholes(mode, "n", "failures"),
                *_durations(mode, "median_s", "p95_s", "ttft_median_s"),
                *_wholes(mode, "input_tokens", "cache_read_tokens", "output_tokens"),
                words.times(mode["ratio"]),
            )
            for mode in rows(compare_modes(profile))
        ],
    )


def mode_sentences(profile: Profile) -> list[str]:
    """Say each mode's ratio to LOCAL in words."""
    found = rows(compare_modes(profile))
    local = next((mode for mode in found if mode["mode"] == BASELINE), None)
    return [
        _ratio_in_words(mode, local)
        for mode in found
        if local is not None and mode is not local and mode["ratio"] is not None
    ]


def functions(profile: Profile, limit: int) -> Table:
    """Return the functions with most time of their own."""
    table = profile.functions
    found = rows(table.sort_values("total_s", ascending=False).head(limit))
    columns = [Column("function"), Column("where"), *_numbers("calls", "own time", "with callees")]
    several = table["pid"].nunique() > 1
    return Table(
        [*columns, *_numbers("pid")] if several else columns,
        [
            _cells(
                _plain(function["function"]),
                _where(function),
                words.whole(function["calls"]),
                *_durations(function, "total_s", "cumulative_s"),
                *([_plain(function["pid"])] if several else []),
            )
            for function in found
        ],
        _left_out(len(table), limit, "function", "functions"),
    )


def requests(profile: Profile) -> Table:
    """Return the requests, one row each; columns of which nothing is known are left out."""
    found = rows(requests_table(profile))
    columns = [
        *_numbers("start"), Column("agent"), Column("mode"), Column("status"),
        *_numbers("duration", "first text", "prefill", "queue", "input", "from cache", "output",
                  "cost", "attempts"),
        Column("cache"), Column("error"), Column("model"),
    ]  # fmt: skip
    cells = [
        _cells(
            words.duration(request["start_s"]),
            _plain(request["agent"]),
            words.mode_label(request["mode"]),
            _status(request) + (", warm-up" if request["warmup"] else ""),
            *_durations(request, "duration_s", "ttft_s", "prefill_s", "queue_s"),
            *_wholes(request, "input_tokens", "cache_read_tokens", "output_tokens"),
            words.usd(request["cost_usd"]),
            words.whole(request["attempts"]),
            _plain(request["cache_state"]),
            _plain(request["error"]),
            _plain(request["model"]),
        )
        for request in found[:MAX_ROWS]
    ]
    left_out = _left_out(len(found), MAX_ROWS, "request", "requests")
    return _without_unknown(Table(columns, cells, left_out))


def spans(profile: Profile) -> Table:
    """Return the spans, one row each, indented below their parents."""
    found = rows(profile.spans)
    columns = [
        *_numbers("start"), Column("span"), Column("agent"), Column("mode"), Column("status"),
        *_numbers("duration", "own time", "first text", "input", "from cache", "output", "pid"),
        Column("more"),
    ]  # fmt: skip
    depths = _depths(found)
    cells = [
        [
            Cell(words.duration(span["start_s"])),
            Cell(_plain(span["name"]), depths[span["span_id"]]),
            *_cells(
                _plain(span["agent"]),
                words.mode_label(span["mode"]),
                _status(span),
                *_durations(span, "duration_s", "self_s", "ttft_s"),
                *_wholes(span, "input_tokens", "cache_read_tokens", "output_tokens"),
                _plain(span["pid"]),
                _more(span),
            ),
        ]
        for span in found[:MAX_ROWS]
    ]
    left_out = _left_out(len(found), MAX_ROWS, "span", "spans")
    return _without_unknown(Table(columns, cells, left_out))


def errors(profile: Profile) -> list[str]:
    """Return the failures, a line each: of requests, and of other spans where they began.

    Not named are spans that only passed on a failure from within, parts of a request that failed,
    and attempts after which the request was answered all the same.
    """
    found = rows(profile.spans)
    owners = dict(zip((span["span_id"] for span in found), owner_ids(found), strict=True))
    failed = {span["span_id"]: span for span in found if span["status"] in FAILURES}
    passed_on = {span["parent_id"] for span in failed.values()}
    named = [
        span
        for span_id, span in failed.items()
        if span["name"] == REQUEST
        or (
            span_id not in passed_on
            and owners[span_id] not in failed
            and not (owners[span_id] and span["name"] == "chat")
        )
    ]
    lines = [_error_line(span) for span in named[:_MAX_ERRORS]]
    if len(named) > _MAX_ERRORS:
        lines.append(
            f"and {words.counted(len(named) - _MAX_ERRORS, 'more failure', 'more failures')}"
        )
    return lines


def peak_memory(profile: Profile) -> str:
    """Say the largest resident memory of this process and of its workers, if recorded."""
    memory = profile.memory
    peaks = memory.dropna(subset=["rss_bytes"]).groupby("role")["rss_bytes"].max()
    if peaks.empty:
        return ""
    said = ", ".join(
        f"{words.megabytes(int(size))} ({words.one_line(str(role))})"
        for role, size in peaks.items()
    )
    return f"Peak resident memory: {said}."


def _requests_headline(profile: Profile, requests: Sequence[Row]) -> str:
    statuses = Counter(request["status"] for request in requests)
    answered = statuses.pop("ok", 0)
    text = "Answered "
    text += f"{answered:,} of " if answered < len(requests) else ""
    text += words.counted(len(requests), "request")
    besides = [_outcome_count(*outcome) for outcome in statuses.items()]
    warmups = sum(request["warmup"] for request in requests)
    if warmups:
        besides.insert(0, words.counted(warmups, "warm-up"))
    text += f" ({', '.join(besides)})" if besides else ""
    if profile.meta.get("duration_s") is not None:
        text += f" in {words.duration(profile.meta['duration_s'])}"
    shares = _shares_in_words(profile)
    said = [f"{text}: {shares}" if shares else text]
    cached = [request for request in requests if request["cache_state"] is not None]
    if cached:
        warm = sum(request["cache_state"] == "warm" for request in cached)
        said.append(f"cache warm {warm:,} of {len(cached):,}")
    if profile.meta.get("model_use"):
        said.append(f"model {words.one_line(str(profile.meta['model_use']))}")
    return f"{'; '.join(said)}."


def _outcome_count(status: str | None, number: int) -> str:
    if status is None:
        return f"{number:,} unfinished"
    return f"{number:,} cancelled" if status == "cancelled" else words.counted(number, status)


def _shares_in_words(profile: Profile) -> str:
    """Say the shares of a percent and more; what is smaller goes with 'other'."""
    shares = {phase["phase"]: phase["share"] for phase in rows(phase_table(profile))}
    if None in shares.values():
        return ""
    shown = {phase: share for phase, share in shares.items() if share >= 0.01 and phase != OTHER}
    shown[OTHER] = max(0.0, 1.0 - sum(shown.values()))
    percents = words.percents(list(shown.values()))
    return ", ".join(
        f"{percent} % {words.PHASES[phase]}"
        for phase, percent in zip(shown, percents, strict=True)
        if percent
    )


def _code_headline(profile: Profile) -> str:
    spans, functions = profile.spans, profile.functions
    said = []
    if len(spans):
        said.append(words.counted(len(spans), "span"))
    if len(functions):
        top = functions.sort_values("total_s", ascending=False).iloc[0]
        name = words.one_line(str(top["function"]), 80)
        said.append(f"top function {name} {words.duration(float(top['total_s']))} of own time")
    spent = profile.meta.get("duration_s")
    recorded = "; ".join(said) or "no spans and no functions recorded"
    return f"{recorded}." if spent is None else f"{words.duration(spent)}: {recorded}."


def _ratio_in_words(mode: Mapping[str, Any], local: Mapping[str, Any]) -> str:
    name, ratio = words.mode_label(mode["mode"]), mode["ratio"]
    medians = (
        f"median {words.duration(mode['median_s'])} against {words.duration(local['median_s'])}"
    )
    if _SAME_FROM <= ratio <= _SAME_TO:
        return f"{name} took about as long as LOCAL ({medians})."
    if ratio > 1:
        return f"{name} took {words.times(ratio)[:-1]} times as long as LOCAL ({medians})."
    return f"{name} was {words.times(1 / ratio)[:-1]} times as fast as LOCAL ({medians})."


def _error_line(span: Row) -> str:
    who = span["agent"] if span["name"] == REQUEST else span["name"]
    mode = f" ({words.mode_label(span['mode'])})" if span["mode"] else ""
    said = f": {span['error']}" if span["error"] else ""
    return words.one_line(f"{who or 'request'}{mode}, {span['status']}{said}", _TEXT_LIMIT)


def _status(span: Row) -> str:
    return _plain(span["status"] or "unfinished")


def _more(span: Row) -> str:
    found = [span["error"], *(f"{k}={v}" for k, v in attributes(span).items())]
    return words.one_line(", ".join(text for text in found if text), _TEXT_LIMIT)


def _where(function: Row) -> str:
    file, line = function["file"], function["line"]
    if file == "~":
        return "built-in"
    return _plain(file if file is None or line is None else f"{file}:{line}")


def _depths(spans: Sequence[Row]) -> dict[str, int]:
    """Return how many ancestors each span has among these."""
    depths: dict[str, int] = {}
    # Ordered by start, parents come before their children.
    for span in spans:
        depths[span["span_id"]] = depths.get(span["parent_id"], -1) + 1
    return depths


def _without_unknown(table: Table) -> Table:
    """Leave out the columns of which no row knows anything."""
    kept = [
        i
        for i in range(len(table.columns))
        if any(row[i].text not in ("", words.UNKNOWN) for row in table.rows)
    ]
    return Table(
        [table.columns[i] for i in kept],
        [[row[i] for i in kept] for row in table.rows],
        table.left_out,
    )


def _left_out(found: int, limit: int, noun: str, plural: str) -> str:
    if found <= limit:
        return ""
    rest = words.counted(found - limit, f"more {noun}", f"more {plural}")
    return f"{rest} not shown here: the saved profile has them all."


def _plain(value: Any) -> str:
    return words.UNKNOWN if value is None else words.one_line(str(value), _TEXT_LIMIT)


def _durations(row: Row, *names: str) -> list[str]:
    return [words.duration(row[name]) for name in names]


def _wholes(row: Row, *names: str) -> list[str]:
    return [words.whole(row[name]) for name in names]


def _numbers(*headings: str) -> list[Column]:
    return [Column(heading, is_number=True) for heading in headings]


def _cells(*texts: str) -> list[Cell]:
    return [Cell(text) for text in texts]
