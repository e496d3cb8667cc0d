"""The timeline: who did what when, a lane an agent and process."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from claude_pm.analysis.compare_modes import FAILURES
from claude_pm.analysis.phases import PHASES, ROAD, Segment, split_request, split_span
from claude_pm.analysis.requests import Request
from claude_pm.views import palette, words
from claude_pm.views.axes import (
    FRAME_IN,
    LEGEND_IN,
    box_key,
    dress,
    label,
    legend,
    model_note,
    say,
    time_axis,
    title,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from claude_pm.views.reading import Reading

MAX_BARS = 2000
"""Of more bars than these, the failures and the longest are drawn."""

_MAX_LANES = 30
_MAX_FAILURE_LABELS = 25
_MAX_HEIGHT_IN = 14.0
_BAR_HALF_HEIGHT = 0.36
_HATCH = "////"
_OWN = "own span"


@dataclass(frozen=True, slots=True)
class _Bar:
    """A request, or a span that is no part of the road."""

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
        return self.status in FAILURES


@dataclass(frozen=True, slots=True)
class _Lane:
    text: str
    top: int
    height: int


def draw_timeline(reading: Reading, ax: Axes) -> float | None:
    """Draw what :func:`claude_pm.views.charts.plot_timeline` shows."""
    bars = _bars(reading)
    if not bars:
        say(ax, "No timeline to show: no spans were recorded.")
        return None
    shown = sorted(bars, key=lambda bar: (not bar.failed, bar.start_s - bar.end_s))[:MAX_BARS]
    placed, lanes = _place(shown)
    _draw_bars(ax, placed)
    longest = max(reading.meta.get("duration_s") or 0.0, *(bar.end_s for bar in shown))
    ax.set_xlim(0, longest * 1.01 or 1.0)
    dress(ax)
    time_axis(ax, longest, "time since the profile began")
    depth = _draw_lanes(ax, lanes)
    _mark_failures(ax, placed)
    _name_own_spans(ax, placed, longest)
    title(ax, _seen(reading.meta, bars), _note(reading.meta, len(bars)))
    legend(ax, _keys(shown))
    fitting = FRAME_IN + 2 * LEGEND_IN + max(0.27 * depth, 0.36 * len(lanes))
    return min(_MAX_HEIGHT_IN, fitting)


def _bars(reading: Reading) -> list[_Bar]:
    """Return a bar for every request, and for every span that no request's bar shows."""
    bars = [_request_bar(request) for request in reading.found_requests]
    for span, owner in zip(reading.spans, reading.owners, strict=True):
        if owner is not None and span["name"] in ROAD:
            continue
        start, end = span["start_s"], span["start_s"] + span["duration_s"]
        segments = split_span(span) or [Segment(_OWN, start, end)]
        bars.append(
            _Bar(
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


def _request_bar(request: Request) -> _Bar:
    span = request.span
    # A request belongs to the process that worked for it: the worker, where there was one.
    workers = [part["pid"] for part in request.parts if part["pid"] not in (None, span["pid"])]
    return _Bar(
        span["name"],
        span["agent"],
        workers[-1] if workers else span["pid"],
        True,
        span["start_s"],
        span["start_s"] + span["duration_s"],
        span["status"],
        split_request(request),
    )


def _place(bars: Sequence[_Bar]) -> tuple[list[tuple[_Bar, int]], list[_Lane]]:
    """Give every bar its row: one lane below the other, and in a lane what overlaps stacked."""
    # Starts before ends, so that a span comes above the spans within it.
    ordered = sorted(bars, key=lambda bar: (bar.start_s, -bar.end_s))
    key_of = _lane_key(ordered)
    grouped: dict[Hashable, list[_Bar]] = {}
    for bar in ordered:
        grouped.setdefault(key_of(bar), []).append(bar)
    placed: list[tuple[_Bar, int]] = []
    lanes: list[_Lane] = []
    top = 0
    for members in grouped.values():
        ends: list[float] = []
        for bar in members:
            row = next((i for i, end in enumerate(ends) if end <= bar.start_s), len(ends))
            ends[row : row + 1] = [bar.end_s]
            placed.append((bar, top + row))
        lanes.append(_Lane(_lane_text(members), top, len(ends)))
        top += len(ends)
    return placed, lanes


def _lane_key(bars: Sequence[_Bar]) -> Callable[[_Bar], Hashable]:
    """Return what tells lanes apart: agent and process, or the agent alone where they are many."""
    if len({(bar.agent, bar.pid) for bar in bars}) <= _MAX_LANES:
        return lambda bar: (bar.agent, bar.pid)
    return lambda bar: bar.agent


def _lane_text(bars: Sequence[_Bar]) -> str:
    agent = bars[0].agent
    pids = list(dict.fromkeys(bar.pid for bar in bars if bar.pid is not None))
    who = "no agent" if agent is None else label(agent)
    if not pids:
        return who
    where = f"pid {pids[0]}" if len(pids) == 1 else words.counted(len(pids), "process", "processes")
    return f"{who} · {where}"


def _draw_bars(ax: Axes, placed: Sequence[tuple[_Bar, int]]) -> None:
    from matplotlib.collections import PolyCollection

    boxes: dict[str, list[Any]] = {}
    for bar, row in placed:
        for segment in bar.segments:
            boxes.setdefault(segment.phase, []).append(_box(segment.start_s, segment.end_s, row))
    for phase, of_phase in boxes.items():
        colour = palette.PHASES.get(phase, palette.OWN_SPAN)
        edge = palette.DARK_GREY if phase == _OWN else colour
        # The thin edge keeps visible what is shorter than a pixel.
        ax.add_collection(
            PolyCollection(of_phase, facecolors=colour, edgecolors=edge, linewidths=0.4)
        )


def _box(start_s: float, end_s: float, row: int) -> list[tuple[float, float]]:
    low, high = row - _BAR_HALF_HEIGHT, row + _BAR_HALF_HEIGHT
    return [(start_s, low), (end_s, low), (end_s, high), (start_s, high)]


def _draw_lanes(ax: Axes, lanes: Sequence[_Lane]) -> int:
    """Label the lanes and rule lines between them; return the number of rows."""
    for lane in lanes[1:]:
        ax.axhline(lane.top - 0.5, color=palette.LIGHT_GREY, linewidth=0.6, zorder=0)
    ax.set_yticks(
        [lane.top + (lane.height - 1) / 2 for lane in lanes], [lane.text for lane in lanes]
    )
    depth = lanes[-1].top + lanes[-1].height
    ax.set_ylim(depth - 0.4, -0.6)
    return depth


def _mark_failures(ax: Axes, placed: Sequence[tuple[_Bar, int]]) -> None:
    from matplotlib.collections import PolyCollection

    failed = [(bar, row) for bar, row in placed if bar.failed]
    if not failed:
        return
    ax.add_collection(
        PolyCollection(
            [_box(bar.start_s, bar.end_s, row) for bar, row in failed],
            facecolors="none", edgecolors=palette.ERROR, hatch=_HATCH, linewidths=1.2, zorder=4,
        )
    )  # fmt: skip
    for bar, row in failed[:_MAX_FAILURE_LABELS]:
        near_end = bar.end_s > 0.85 * ax.get_xlim()[1]
        ax.annotate(
            str(bar.status),
            (bar.start_s if near_end else bar.end_s, row),
            (-4 if near_end else 4, 0), textcoords="offset points",
            ha="right" if near_end else "left", va="center", fontsize=8, fontweight="bold",
            color=palette.ERROR, zorder=6,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.8},
        )  # fmt: skip


def _name_own_spans(ax: Axes, placed: Sequence[tuple[_Bar, int]], longest_s: float) -> None:
    """Write a span's name on its bar where it fits."""
    for bar, row in placed:
        name = label(bar.text)
        # About 110 characters of this size fit the width of the chart.
        if not bar.is_request and (bar.end_s - bar.start_s) * 110 > longest_s * (len(name) + 2):
            ax.annotate(
                name, (bar.start_s, row), (3, 0), textcoords="offset points", va="center_baseline",
                fontsize=8, color="black", zorder=5, clip_on=True,
            )  # fmt: skip


def _seen(meta: Mapping[str, Any], bars: Sequence[_Bar]) -> str:
    requests = [bar for bar in bars if bar.is_request]
    spent = words.duration(meta.get("duration_s"))
    if not requests:
        return f"{words.counted(len(bars), 'span')} in {spent}"
    at_once = _most_at_once(requests)
    together = f", up to {at_once} at the same time" if at_once > 1 else ""
    failures = sum(bar.failed for bar in requests)
    failed = f", {failures} failed" if failures else ""
    return f"{words.counted(len(requests), 'request')} in {spent}{together}{failed}"


def _most_at_once(bars: Sequence[_Bar]) -> int:
    changes = sorted([(bar.start_s, 1) for bar in bars] + [(bar.end_s, -1) for bar in bars])
    most = now = 0
    for _, change in changes:
        now += change
        most = max(most, now)
    return most


def _note(meta: Mapping[str, Any], recorded: int) -> str:
    note = "A lane is an agent in a process; a request's bar is split by phase"
    if recorded > MAX_BARS:
        note = f"{MAX_BARS:,} of {recorded:,} bars: failures and the longest. {note}"
    return note + model_note(meta)


def _keys(bars: Sequence[_Bar]) -> list[Any]:
    seen = {segment.phase for bar in bars for segment in bar.segments}
    keys = [
        box_key(words.PHASES[phase], palette.PHASES[phase]) for phase in PHASES if phase in seen
    ]
    if _OWN in seen:
        keys.append(box_key("own spans", palette.OWN_SPAN))
    if any(bar.failed for bar in bars):
        keys.append(box_key("failed", palette.ERROR, _HATCH))
    return keys
