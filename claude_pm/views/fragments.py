"""The pieces that summaries and the report are made of: sentences, bars and tables of text.

Everything here is text for people, not yet escaped for HTML; :mod:`claude_pm.views.html` escapes
and cleans whatever it prints.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from claude_pm.analysis.compare_modes import BASELINE, FAILURES, compare_modes
from claude_pm.analysis.phases import OTHER, PHASES, phase_table
from claude_pm.analysis.requests import REQUEST, attributes, owner_ids, requests_table
from claude_pm.analysis.rows import Row, rows
from claude_pm.views import palette, words

if TYPE_CHECKING:
    from claude_pm.profiles import Profile

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


def own_spans(profile: Profile) -> Table:
    """Return the spans that are not on the road, by name: those that users opened."""
    road = {*PHASES, "chat", "choose_mode", "load_agent"}
    found = [span for span in rows(profile.summary()) if span["phase"] not in road]
    columns = [Column("span"), *_numbers("n", "total", "median", "p95", "longest")]
    return Table(
        columns,
        [
            _cells(
                words.one_line(str(span["phase"]), _TEXT_LIMIT),
                words.whole(span["n"]),
                *(words.duration(span[name]) for name in ("total_s", "median_s", "p95_s", "max_s")),
            )
            for span in found
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
                words.whole(mode["n"]),
                words.whole(mode["failures"]),
                words.duration(mode["median_s"]),
                words.duration(mode["p95_s"]),
                words.duration(mode["ttft_median_s"]),
                words.whole(mode["input_tokens"]),
                words.whole(mode["cache_read_tokens"]),
                words.whole(mode["output_tokens"]),
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
                words.one_line(function["function"] or words.UNKNOWN, _TEXT_LIMIT),
                _where(function),
                words.whole(function["calls"]),
                words.duration(function["total_s"]),
                words.duration(function["cumulative_s"]),
                *([_plain(function["pid"])] if several else []),
            )
            for function in found
        ],
        _left_out(len(table), limit, "function", "functions"),
    )


def requests(profile: Profile) -> Table:
    """Return the requests, one row each."""
    found = rows(requests_table(profile))
    columns = [
        *_numbers("start"), Column("agent"), Column("mode"), Column("model"),
        *_numbers("duration", "first text", "prefill", "queue", "input", "from cache", "output",
                  "cost", "attempts"),
        Column("cache"), Column("status"),
    ]  # fmt: skip
    return Table(
        columns,
        [
            _cells(
                words.duration(request["start_s"]),
                _plain(request["agent"]),
                words.mode_label(request["mode"]),
                _plain(request["model"]),
                *(
                    words.duration(request[name])
                    for name in ("duration_s", "ttft_s", "prefill_s", "queue_s")
                ),
                *(
                    words.whole(request[name])
                    for name in ("input_tokens", "cache_read_tokens", "output_tokens")
                ),
                words.usd(request["cost_usd"]),
                words.whole(request["attempts"]),
                _plain(request["cache_state"]),
                _outcome(request),
            )
            for request in found[:MAX_ROWS]
        ],
        _left_out(len(found), MAX_ROWS, "request", "requests"),
    )


def spans(profile: Profile) -> Table:
    """Return the spans, one row each, indented below their parents."""
    found = rows(profile.spans)
    columns = [
        *_numbers("start"), Column("span"), Column("agent"), Column("mode"),
        *_numbers("duration", "own time", "first text", "input", "from cache", "output", "pid"),
        Column("status"), Column("more"),
    ]  # fmt: skip
    depths = _depths(found)
    return Table(
        columns,
        [
            [
                Cell(words.duration(span["start_s"])),
                Cell(words.one_line(span["name"] or words.UNKNOWN, _TEXT_LIMIT), depth),
                *_cells(
                    _plain(span["agent"]),
                    words.mode_label(span["mode"]),
                    *(words.duration(span[name]) for name in ("duration_s", "self_s", "ttft_s")),
                    *(
                        words.whole(span[name])
                        for name in ("input_tokens", "cache_read_tokens", "output_tokens")
                    ),
                    _plain(span["pid"]),
                    _plain(span["status"] or "unfinished"),
                    _more(span),
                ),
            ]
            for span, depth in zip(found[:MAX_ROWS], depths, strict=False)
        ],
        _left_out(len(found), MAX_ROWS, "span", "spans"),
    )


def errors(profile: Profile) -> list[str]:
    """Return the failures, a line each: of requests, and of spans outside them.

    A span that only passed a failure on, up from a span within it, is not named again.
    """
    found = rows(profile.spans)
    failed = [span for span in found if span["status"] in FAILURES]
    passed_on = {span["parent_id"] for span in failed}
    owners = {
        span["span_id"]: owner for span, owner in zip(found, owner_ids(found), strict=True)
    }
    named = [
        span
        for span in failed
        if span["name"] == REQUEST
        or (owners[span["span_id"]] is None and span["span_id"] not in passed_on)
    ]
    lines = [_error_line(span) for span in named[:_MAX_ERRORS]]
    if len(named) > _MAX_ERRORS:
        lines.append(f"and {words.counted(len(named) - _MAX_ERRORS, 'more failure')}")
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


def _outcome(request: Row) -> str:
    warmup = ", warm-up" if request["warmup"] else ""
    error = f": {request['error']}" if request["error"] else ""
    return words.one_line(f"{request['status'] or 'unfinished'}{warmup}{error}", _TEXT_LIMIT)


def _more(span: Row) -> str:
    found = [span["error"], *(f"{k}={v}" for k, v in attributes(span).items())]
    return words.one_line(", ".join(text for text in found if text), _TEXT_LIMIT)


def _where(function: Row) -> str:
    file, line = function["file"], function["line"]
    if file is None or file == "~":
        return "built-in"
    return words.one_line(f"{file}:{line}" if line is not None else file, _TEXT_LIMIT)


def _depths(spans: Sequence[Row]) -> list[int]:
    """Return how many ancestors each span has here."""
    depths: dict[str, int] = {}
    for span in spans:
        # Ordered by start, parents come before their children.
        depths[span["span_id"]] = depths.get(span["parent_id"], -1) + 1
    return list(depths.values())


def _left_out(found: int, limit: int, noun: str, plural: str) -> str:
    if found <= limit:
        return ""
    rest = words.counted(found - limit, f"more {noun}", f"more {plural}")
    return f"{rest} not shown here: the saved profile has them all."


def _plain(value: Any) -> str:
    return words.UNKNOWN if value is None else words.one_line(str(value), _TEXT_LIMIT)


def _numbers(*headings: str) -> list[Column]:
    return [Column(heading, is_number=True) for heading in headings]


def _cells(*texts: str) -> list[Cell]:
    return [Cell(text) for text in texts]
