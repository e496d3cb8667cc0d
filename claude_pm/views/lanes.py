"""Who did what when, in lanes: what every timeline shows, whatever draws it."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from claude_pm.analysis.compare_modes import FAILURES
from claude_pm.analysis.phases import ROAD, Segment, split_request, split_span
from claude_pm.analysis.requests import Request
from claude_pm.views import words

if TYPE_CHECKING:
    from claude_pm.views.reading import Reading

OWN = "own span"
"""The phase of a span that is no part of the road."""

WAITING = frozenset({"queue", "start_worker", "start_model", "prefill", "no_text"})
"""Phases in which whoever asked waits, and no text comes yet."""

_MAX_LANES = 30
_NAME_LIMIT = 28


@dataclass(frozen=True, slots=True)
class Bar:
    """A request, or a span that is no part of the road."""

    span_id: str
    text: str
    agent: str | None
    pid: int | None
    is_request: bool
    start_s: float
    end_s: float
    status: str | None
    segments: Sequence[Segment]

    @property
    def failed(self) -> bool:
        """Whether it ended in an error or a time-out."""
        return self.status in FAILURES


@dataclass(frozen=True, slots=True)
class Lane:
    """An agent in a process (or, of many, an agent): its rows are ``top`` and those below."""

    who: str
    where: str | None
    """Its process, where there are several."""
    top: int
    height: int

    @property
    def text(self) -> str:
        """The whole label."""
        return self.who if self.where is None else f"{self.who} · {self.where}"

    def short_text(self, limit: int) -> str:
        """Return a label of at most so many characters, in which no process id is cut."""
        if self.where is None or len(self.text) <= limit:
            return words.one_line(self.text, limit)
        where = f" · {self.where.removeprefix('pid ')}"
        return f"{words.one_line(self.who, max(2, limit - len(where)))}{where}"


def find_bars(reading: Reading) -> list[Bar]:
    """Return a bar for every request, and for every span that no request's bar shows."""
    bars = [_request_bar(request) for request in reading.found_requests]
    for span, owner in zip(reading.spans, reading.owners, strict=True):
        if owner is not None and span["name"] in ROAD:
            continue
        start, end = span["start_s"], span["start_s"] + span["duration_s"]
        segments = split_span(span) or [Segment(OWN, start, end)]
        bars.append(
            Bar(
                span["span_id"],
                span["name"],
                span["agent"],
                span["pid"],
                False,
                start,
                end,
                span["status"],
                segments,
            )
        )
    return bars


def _request_bar(request: Request) -> Bar:
    span = request.span
    # A request belongs to the process that worked for it: the worker, where there was one.
    workers = [part["pid"] for part in request.parts if part["pid"] not in (None, span["pid"])]
    return Bar(
        span["span_id"],
        span["name"],
        span["agent"],
        workers[-1] if workers else span["pid"],
        True,
        span["start_s"],
        span["start_s"] + span["duration_s"],
        span["status"],
        split_request(request),
    )


def place(bars: Sequence[Bar]) -> tuple[list[tuple[Bar, int]], list[Lane]]:
    """Give every bar its row: one lane below the other, and in a lane what overlaps stacked."""
    # Starts before ends, so that a span comes above the spans within it.
    ordered = sorted(bars, key=lambda bar: (bar.start_s, -bar.end_s))
    key_of = _lane_key(ordered)
    grouped: dict[Hashable, list[Bar]] = {}
    for bar in ordered:
        grouped.setdefault(key_of(bar), []).append(bar)
    # The lanes of an agent one below the other, agents in the order of their first bars.
    agents = {agent: n for n, agent in enumerate(dict.fromkeys(bar.agent for bar in ordered))}
    has_workers = len({bar.pid for bar in ordered}) > 1
    placed: list[tuple[Bar, int]] = []
    lanes: list[Lane] = []
    top = 0
    for members in sorted(grouped.values(), key=lambda members: agents[members[0].agent]):
        rows = _rows(members)
        placed += [(bar, top + row) for bar, row in zip(members, rows, strict=True)]
        height = max(rows) + 1
        lanes.append(Lane(_who(members), _where(members) if has_workers else None, top, height))
        top += height
    return placed, lanes


def _rows(bars: Sequence[Bar]) -> list[int]:
    """Return for each bar, in order of their starts, the first row that is free by then."""
    rows: list[int] = []
    taken: list[tuple[float, int]] = []
    free: list[int] = []
    depth = 0
    for bar in bars:
        while taken and taken[0][0] <= bar.start_s:
            heapq.heappush(free, heapq.heappop(taken)[1])
        if free:
            row = heapq.heappop(free)
        else:
            row = depth
            depth += 1
        heapq.heappush(taken, (bar.end_s, row))
        rows.append(row)
    return rows


def _lane_key(bars: Sequence[Bar]) -> Callable[[Bar], Hashable]:
    """Return what tells lanes apart: agent and process, or less where they are too many."""
    if len({(bar.agent, bar.pid) for bar in bars}) <= _MAX_LANES:
        return lambda bar: (bar.agent, bar.pid)
    agents = Counter(bar.agent for bar in bars)
    if len(agents) <= _MAX_LANES:
        return lambda bar: bar.agent
    busiest = {agent for agent, _ in agents.most_common(_MAX_LANES - 1)}
    return lambda bar: (bar.agent,) if bar.agent in busiest else ()


def _who(bars: Sequence[Bar]) -> str:
    agents = {bar.agent for bar in bars}
    if len(agents) > 1:
        return words.counted(len(agents), "more agent", "more agents")
    agent = bars[0].agent
    return "no agent" if agent is None else words.one_line(agent, _NAME_LIMIT)


def _where(bars: Sequence[Bar]) -> str | None:
    pids = list(dict.fromkeys(bar.pid for bar in bars if bar.pid is not None))
    if not pids:
        return None
    return f"pid {pids[0]}" if len(pids) == 1 else words.counted(len(pids), "process", "processes")


def seen(meta: Mapping[str, Any], bars: Sequence[Bar]) -> str:
    """Say how many requests (or spans) there were, how many at once, and how many failed."""
    requests = [bar for bar in bars if bar.is_request]
    spent = words.duration(meta.get("duration_s"))
    if not requests:
        return f"{words.counted(len(bars), 'span')} in {spent}"
    at_once = _most_at_once(requests)
    together = f", up to {at_once} at the same time" if at_once > 1 else ""
    failures = sum(bar.failed for bar in requests)
    failed = f", {failures} failed" if failures else ""
    return f"{words.counted(len(requests), 'request')} in {spent}{together}{failed}"


def _most_at_once(bars: Sequence[Bar]) -> int:
    changes = sorted([(bar.start_s, 1) for bar in bars] + [(bar.end_s, -1) for bar in bars])
    most = now = 0
    for _, change in changes:
        now += change
        most = max(most, now)
    return most
