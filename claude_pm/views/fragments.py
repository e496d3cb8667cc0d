"""The pieces that the summary and the report are made of: the phase bar, and tables of text.

The text is for people, not yet escaped for HTML; :mod:`claude_pm.views.html` escapes and cleans
whatever it prints.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from claude_pm.analysis.phases import PHASES, ROAD
from claude_pm.analysis.requests import attributes
from claude_pm.analysis.rows import Row, rows
from claude_pm.profiles import Profile
from claude_pm.profiles.experiment import SAMPLE
from claude_pm.views import palette, words

if TYPE_CHECKING:
    from claude_pm.views.reading import Reading

MAX_ROWS = 500
"""Rows of the long tables of a report."""

_TEXT_LIMIT = 300
_LIBRARY_FOLDER = re.compile(r"\(.*[/\\](?:lib[/\\]python[\d.]+|site-packages)[/\\]")
_MORE_LIMIT = 120


@dataclass(frozen=True, slots=True)
class Column:
    """A column's heading, and whether it holds numbers, which align on the right."""

    heading: str
    is_number: bool = False


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell's text, how deep it is indented, and the number that it is sorted by, if it is one."""

    text: str
    depth: int = 0
    value: float | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """A table of text; ``left_out`` says what rows are not shown."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    left_out: str = ""


@dataclass(frozen=True, slots=True)
class BarPart:
    """One phase of the phase bar: its width in percent, its share as text, and its colour."""

    text: str
    percent: float
    share: str
    duration: str
    colour: str


def phase_bar(reading: Reading) -> list[BarPart]:
    """Return the phases of all requests together, in the order of the road; none without any."""
    phases = [phase for phase in reading.phases if phase["share"]]
    phases.sort(key=lambda phase: PHASES.index(phase["phase"]))
    shares = words.shares([phase["share"] for phase in phases])
    return [
        BarPart(
            words.PHASES[phase["phase"]],
            100 * phase["share"],
            share,
            words.duration(phase["total_s"]),
            palette.PHASES[phase["phase"]],
        )
        for phase, share in zip(phases, shares, strict=True)
    ]


def phases(reading: Reading) -> Table:
    """Return the phases of the requests; empty without requests."""
    shares = words.shares([phase["share"] for phase in reading.phases])
    columns = [Column("phase"), *numbers("requests", "total", "share", "median", "longest")]
    return Table(
        columns,
        [
            cells(
                words.PHASES[phase["phase"]],
                *_wholes(phase, "n"),
                *_durations(phase, "total_s"),
                Cell(share, value=phase["share"]),
                *_durations(phase, "median_s", "max_s"),
            )
            for phase, share in zip(reading.phases, shares, strict=True)
        ],
    )


def other_spans(reading: Reading) -> Table:
    """Return the spans that are no part of a request's phases, by name: mostly the user's own."""
    import pandas as pd

    is_other = [
        (owner is None or span["name"] not in ROAD)
        # The samples of an experiment have a table of their own.
        and not (reading.experiment is not None and span["name"] == SAMPLE)
        for span, owner in zip(reading.spans, reading.owners, strict=True)
    ]
    others = reading.profile.spans[pd.array(is_other, dtype="boolean")]
    columns = [Column("span"), *numbers("n", "total", "median", "p95", "longest")]
    return Table(
        columns,
        [
            cells(
                _plain(span["phase"]),
                *_wholes(span, "n"),
                *_durations(span, "total_s", "median_s", "p95_s", "max_s"),
            )
            for span in rows(Profile(reading.meta, {"spans": others}).summary())
        ],
    )


def modes(reading: Reading) -> Table:
    """Return the comparison of modes."""
    columns = [
        Column("mode"),
        *numbers(
            "requests", "failed", "median", "p95", "first text", "input tokens", "from cache",
            "output tokens", "ratio",
        ),
    ]  # fmt: skip
    return Table(
        columns,
        [
            cells(
                words.mode_label(mode["mode"]),
                *_wholes(mode, "n", "failures"),
                *_durations(mode, "median_s", "p95_s", "ttft_median_s"),
                *_wholes(mode, "input_tokens", "cache_read_tokens", "output_tokens"),
                number(words.times, mode["ratio"]),
            )
            for mode in reading.modes
        ],
    )


def functions(reading: Reading, limit: int) -> Table:
    """Return the functions with most time of their own."""
    table = reading.profile.functions
    found = rows(table.sort_values("total_s", ascending=False).head(limit))
    columns = [Column("function"), Column("where"), *numbers("calls", "own time", "with callees")]
    several = len(set(table["pid"].dropna())) > 1
    return Table(
        [*columns, *numbers("pid")] if several else columns,
        [
            cells(
                _plain(function["function"]),
                _where(function),
                *_wholes(function, "calls"),
                *_durations(function, "total_s", "cumulative_s"),
                *([_pid(function)] if several else []),
            )
            for function in found
        ],
        _left_out(len(table), limit, "function", "functions"),
    )


def places(reading: Reading, limit: int) -> Table:
    """Return the places where sampled time went; empty where nothing was sampled."""
    columns = [Column("agent"), Column("function"), *numbers("running", "waiting", "CPU")]
    several = any(place["agent"] is not None for place in reading.places)
    return Table(
        columns if several else columns[1:],
        [
            cells(
                *([_plain(place["agent"])] if several else []),
                words.one_line(_LIBRARY_FOLDER.sub("(", place["place"]), _TEXT_LIMIT),
                *_durations(place, "running_s", "waiting_s", "cpu_s"),
            )
            for place in reading.places[:limit]
        ],
        _left_out(len(reading.places), limit, "place", "places"),
    )


def allocations(reading: Reading, limit: int) -> Table:
    """Return the lines that hold memory, or keep more of it with each repeat."""
    table = reading.profile.allocations
    found = rows(table.sort_values("size_bytes", ascending=False).head(limit))
    return Table(
        [Column("line"), *numbers("size", "blocks")],
        [
            cells(_where(line), number(words.size, line["size_bytes"]), *_wholes(line, "count"))
            for line in found
        ],
        _left_out(len(table), limit, "line", "lines"),
    )


def lines(reading: Reading, limit: int) -> Table:
    """Return the lines with most of the time, as scalene saw them."""
    share = ["cpu_python_percent", "cpu_native_percent", "system_percent"]
    table = reading.profile.lines
    order = table[share].fillna(0).sum(axis=1).sort_values(ascending=False, kind="stable").index
    found = rows(table.loc[order].head(limit))
    return Table(
        [Column("line"), Column("source"), *numbers("Python", "native", "system", "peak memory")],
        [
            cells(
                _where(line),
                words.one_line(line["source"] or "", _MORE_LIMIT),
                *(number(words.percent, line[name]) for name in share),
                number(words.size, line["memory_peak_bytes"]),
            )
            for line in found
        ],
        _left_out(len(table), limit, "line", "lines"),
    )


def requests(reading: Reading) -> Table:
    """Return the requests, one row each; columns of which nothing is known are left out."""
    found = reading.requests
    columns = [
        *numbers("start"), Column("agent"), Column("mode"), Column("status"),
        *numbers("duration", "first text", "prefill", "queue", "input", "from cache", "output",
                  "cost", "attempts"),
        Column("cache"), Column("error"), Column("model"),
    ]  # fmt: skip
    table = [
        cells(
            *_durations(request, "start_s"),
            _plain(request["agent"]),
            words.mode_label(request["mode"]),
            _status(request) + (", warm-up" if request["warmup"] else ""),
            *_durations(request, "duration_s", "ttft_s", "prefill_s", "queue_s"),
            *_wholes(request, "input_tokens", "cache_read_tokens", "output_tokens"),
            number(words.usd, request["cost_usd"]),
            *_wholes(request, "attempts"),
            _plain(request["cache_state"]),
            _plain(request["error"]),
            _plain(request["model"]),
        )
        for request in found[:MAX_ROWS]
    ]
    left_out = _left_out(len(found), MAX_ROWS, "request", "requests")
    return _without_unknown(Table(columns, table, left_out))


def spans(reading: Reading) -> Table:
    """Return the spans, one row each, indented below their parents."""
    found = reading.spans
    columns = [
        *numbers("start"), Column("span"), Column("agent"), Column("mode"), Column("status"),
        *numbers("duration", "own time", "first text", "input", "from cache", "output", "pid"),
        Column("more"),
    ]  # fmt: skip
    depths = _depths(found)
    table = [
        [
            *_durations(span, "start_s"),
            Cell(_plain(span["name"]), depths[span["span_id"]]),
            *cells(
                _plain(span["agent"]),
                words.mode_label(span["mode"]),
                _status(span),
                *_durations(span, "duration_s", "self_s", "ttft_s"),
                *_wholes(span, "input_tokens", "cache_read_tokens", "output_tokens"),
                _pid(span),
                _more(span),
            ),
        ]
        for span in found[:MAX_ROWS]
    ]
    left_out = _left_out(len(found), MAX_ROWS, "span", "spans")
    return _without_unknown(Table(columns, table, left_out))


def _status(span: Row) -> str:
    return _plain(span["status"] or "unfinished")


def _more(span: Row) -> str:
    found = [span["error"], *(f"{k}={v}" for k, v in attributes(span).items())]
    return words.one_line(", ".join(text for text in found if text), _MORE_LIMIT)


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
    return f"{rest} not shown here: the profile's tables have them all."


def _plain(value: Any) -> str:
    return words.UNKNOWN if value is None else words.one_line(str(value), _TEXT_LIMIT)


def _pid(row: Row) -> Cell:
    return Cell(_plain(row["pid"]), value=row["pid"])


def _durations(row: Row, *names: str) -> list[Cell]:
    return [number(words.duration, row[name]) for name in names]


def _wholes(row: Row, *names: str) -> list[Cell]:
    return [number(words.whole, row[name]) for name in names]


def numbers(*headings: str) -> list[Column]:
    """Return columns of numbers with these headings."""
    return [Column(heading, is_number=True) for heading in headings]


def number(written: Callable[[float | None], str], value: float | None) -> Cell:
    """Return a cell with a number as ``written`` writes it, which is sorted by the number."""
    return Cell(written(value), value=value)


def cells(*texts: str | Cell) -> list[Cell]:
    """Return a row of these texts, and of cells as they are."""
    return [Cell(text) if isinstance(text, str) else text for text in texts]
