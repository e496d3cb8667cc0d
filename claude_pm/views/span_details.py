"""All that is known of one span: times, tokens, texts, what was within it, and where it ran."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from claude_pm.analysis.compare_modes import FAILURES
from claude_pm.analysis.requests import attributes
from claude_pm.analysis.rows import Row
from claude_pm.profiles import Profile
from claude_pm.views import fragments, words
from claude_pm.views.fragments import Column, Table, cells, number, numbers
from claude_pm.views.reading import Reading

if TYPE_CHECKING:
    import pandas as pd

    from claude_pm.views.span_index import SpanIndex

MAX_CHILDREN = 30
MAX_TEXT = 20_000
"""Characters of a request or an answer that are shown; JupyterLab keeps every one of them twice."""

_MAX_PLACES = 12
_MAX_FUNCTIONS = 12
_MAX_ATTRIBUTES = 40
_VALUE_LIMIT = 500
_TEXTS = ("request", "response")
_TOKENS = {
    "input_tokens": "input tokens",
    "cache_read_tokens": "from the cache",
    "cache_write_tokens": "written to the cache",
    "output_tokens": "output tokens",
}


@dataclass(frozen=True, slots=True)
class _Text:
    """A request or an answer."""

    heading: str
    text: str
    left_out: str


@dataclass(frozen=True, slots=True)
class _Part:
    """A table with what is to be known of it."""

    note: str
    table: Table | None = None


def details_html(index: SpanIndex, place: int) -> str:
    """Return the details of a span as HTML, without a style of its own."""
    from claude_pm.views.html import render

    span = index.span(place)
    within = index.within(place)
    return render(
        "span_details.html.j2",
        name=words.one_line(span["name"] or "", 200),
        headline=_headline(span),
        is_failed=span["status"] in FAILURES,
        error=span["error"],
        facts=_facts(index, span, place),
        texts=list(_texts(index, span, place)),
        attributes=_attributes(span),
        children=_children(index, place),
        samples=_samples(index, within),
        functions=_functions(index, span, within),
    )


def _headline(span: Row) -> str:
    who = [words.one_line(span["agent"], 60)] if span["agent"] is not None else []
    if span["mode"] is not None:
        who.append(words.one_line(words.mode_label(span["mode"]), 60))
    who.append(words.one_line(span["status"] or "unfinished", 60))
    return f"{', '.join(who)}, {words.duration(span['duration_s'])}"


def _facts(index: SpanIndex, span: Row, place: int) -> list[tuple[str, str]]:
    """Return what is known, by its name."""
    known: list[tuple[str, str | None]] = [
        ("start", words.duration(span["start_s"])),
        ("duration", words.duration(span["duration_s"])),
        ("own time", _if(words.duration, span["self_s"])),
        ("first text", _if(words.duration, span["ttft_s"])),
        *_tokens(index, place),
        ("cache", span["cache"]),
        ("model", span["model"]),
        ("process", _if(str, span["pid"])),
        ("thread", span["thread"]),
        ("task", span["task"]),
        ("span id", span["span_id"]),
    ]
    return [(name, words.one_line(text, 120)) for name, text in known if text is not None]


def _if(written: Any, value: Any) -> str | None:
    return None if value is None else str(written(value))


def _tokens(index: SpanIndex, place: int) -> list[tuple[str, str | None]]:
    calls = [index.span(call) for call in _calls(index, place)]
    sums = {name: _sum(call[name] for call in calls) for name in (*_TOKENS, "cost_usd")}
    own = index.span(place)
    is_own = len(calls) == 1 and calls[0] is own
    found: list[tuple[str, str | None]] = []
    if calls and not is_own:
        found.append(("calls of a model", words.whole(len(calls))))
    found += [(text, _if(words.whole, sums[name])) for name, text in _TOKENS.items()]
    return [*found, ("cost", _if(words.usd, sums["cost_usd"]))]


def _calls(index: SpanIndex, place: int) -> list[int]:
    """Return the spans that used tokens: this one, or else the nearest of those below it."""
    found, seen, coming = [], {place}, [place]
    while coming:
        current = coming.pop()
        span = index.span(current)
        if any(span[name] is not None for name in (*_TOKENS, "cost_usd")):
            # What lies below has the same tokens again.
            found.append(current)
            continue
        below = [child for child in index.children(current) if child not in seen]
        seen |= set(below)
        coming += below
    return found


def _sum(values: Iterable[Any]) -> Any:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _texts(index: SpanIndex, span: Row, place: int) -> Iterable[_Text]:
    """Yield what was asked and answered: of the span, or of the request that it was done for."""
    own = attributes(span)
    if any(name in own for name in _TEXTS):
        found, of_whom = own, ""
    else:
        request = index.request(place)
        found = {} if request is None else attributes(request.span)
        of_whom = " that the span was done for" if "request" in found else ""
    for name in _TEXTS:
        value = found.get(name)
        # What another span was answered is no part of this one.
        if value is None or (of_whom and name != "request"):
            continue
        text = value if isinstance(value, str) else _json(value)
        rest = len(text) - MAX_TEXT
        left_out = "" if rest <= 0 else f"{words.counted(rest, 'more character')} not shown here."
        yield _Text(f"{name.capitalize()}{of_whom}", text[:MAX_TEXT], left_out)


def _attributes(span: Row) -> Table:
    found = [(key, value) for key, value in attributes(span).items() if key not in _TEXTS]
    rest = len(found) - _MAX_ATTRIBUTES
    return Table(
        [Column("attribute"), Column("value")],
        [
            cells(words.one_line(str(key), 120), words.one_line(_plain(value), _VALUE_LIMIT))
            for key, value in found[:_MAX_ATTRIBUTES]
        ],
        "" if rest <= 0 else f"{words.counted(rest, 'more attribute')} not shown here.",
    )


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else _json(value)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=1, default=str)


def _children(index: SpanIndex, place: int) -> Table:
    found = [index.span(child) for child in index.children(place)]
    rest = len(found) - MAX_CHILDREN
    columns = [
        *numbers("start"), Column("span"), Column("agent"), Column("status"), *numbers("duration"),
    ]  # fmt: skip
    return Table(
        columns,
        [
            cells(
                number(words.duration, child["start_s"]),
                words.one_line(child["name"] or "", 200),
                words.UNKNOWN if child["agent"] is None else words.one_line(child["agent"], 60),
                words.one_line(child["status"] or "unfinished", 60),
                number(words.duration, child["duration_s"]),
            )
            for child in found[:MAX_CHILDREN]
        ],
        ""
        if rest <= 0
        else f"{words.counted(rest, 'more child', 'more children')} not shown here.",
    )


def _samples(index: SpanIndex, within: Sequence[int]) -> _Part:
    """Return where the span and those below it ran and waited."""
    samples = index.profile.samples
    if not len(samples):
        return _Part('Nothing was sampled: recorded with cpu="sample", it is seen where it ran.')
    own = samples[samples["span_id"].isin([index.span(place)["span_id"] for place in within])]
    if not len(own):
        return _Part("No sample fell into this span.")
    running = own["state"] == "running"
    ran_s, waited_s = (float(own["weight_s"][of].sum()) for of in (running, ~running))
    note = (
        f"Sampled in it and in the spans within it: {words.duration(ran_s)} running and "
        f"{words.duration(waited_s)} waiting (wall time; each thread and each task counts)."
    )
    return _Part(note, fragments.places(_reading("samples", own), _MAX_PLACES))


def _functions(index: SpanIndex, span: Row, within: Sequence[int]) -> _Part:
    """Return the functions of its processes, or else of its agent: of the whole profile."""
    profile = index.profile
    table = profile.functions
    pids = sorted({pid for place in within if (pid := index.span(place)["pid"]) is not None})
    where = f"process {pids[0]}" if len(pids) == 1 else f"its {len(pids):,} processes"
    if len(table):
        own = table[table["pid"].isin(pids)]
        if not len(own):
            return _Part(f"No function of {where} was recorded.")
        note = (
            f"Of {where} in the whole profile, not of this span alone: cProfile does not know "
            f"spans. {words.AWAITED_SENTENCE}"
        )
        return _Part(note, fragments.functions(_reading("functions", own), _MAX_FUNCTIONS))
    samples, agent = profile.samples, span["agent"]
    if agent is not None and len(samples):
        own = samples[(samples["agent"] == agent).fillna(False)]
        if len(own):
            note = f"Of all that {words.one_line(agent, 60)} did in the whole profile, as sampled."
            return _Part(note, fragments.places(_reading("samples", own), _MAX_PLACES))
    return _Part('No functions were recorded: cpu="cprofile" counts their calls.')


def _reading(table: str, part: pd.DataFrame) -> Reading:
    return Reading(Profile({}, {table: part}))
