"""The timeline: who did what when, a lane an agent and process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from claude_pm.analysis.phases import PHASES
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
from claude_pm.views.lanes import OWN, Bar, Lane, place, seen
from claude_pm.views.mark_labels import Mark, labels_with_room

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from claude_pm.views.reading import Reading

MAX_BARS = 2000
"""Of more bars than these, the failures and the longest are drawn."""

_LANE_LIMIT = 48
_CHARACTERS = 110
"""About so many characters of the bars' texts fit the width of the chart."""
_MAX_HEIGHT_IN = 14.0
_BAR_HALF_HEIGHT = 0.36
_HATCH = "////"


def draw_timeline(reading: Reading, ax: Axes) -> float | None:
    """Draw what :func:`claude_pm.views.charts.plot_timeline` shows."""
    bars = reading.bars
    if not bars:
        say(ax, "No timeline to show: no spans were recorded.")
        return None
    shown = sorted(bars, key=lambda bar: (not bar.failed, bar.start_s - bar.end_s))[:MAX_BARS]
    placed, lanes = place(shown)
    _draw_bars(ax, placed)
    longest = max(reading.meta.get("duration_s") or 0.0, *(bar.end_s for bar in shown))
    ax.set_xlim(0, longest * 1.01 or 1.0)
    dress(ax)
    time_axis(ax, longest, "time since the profile began")
    depth = _draw_lanes(ax, lanes)
    _mark_failures(ax, placed)
    _name_own_spans(ax, placed, longest)
    title(ax, seen(reading.meta, bars), _note(reading.meta, len(bars)))
    legend(ax, _keys(shown))
    fitting = FRAME_IN + 2 * LEGEND_IN + max(0.27 * depth, 0.36 * len(lanes))
    return min(_MAX_HEIGHT_IN, fitting)


def _draw_bars(ax: Axes, placed: Sequence[tuple[Bar, int]]) -> None:
    from matplotlib.collections import PolyCollection

    boxes: dict[str, list[Any]] = {}
    for bar, row in placed:
        for segment in bar.segments:
            boxes.setdefault(segment.phase, []).append(_box(segment.start_s, segment.end_s, row))
    for phase, of_phase in boxes.items():
        colour = palette.PHASES.get(phase, palette.OWN_SPAN)
        edge = palette.DARK_GREY if phase == OWN else colour
        # The thin edge keeps visible what is shorter than a pixel.
        ax.add_collection(
            PolyCollection(of_phase, facecolors=colour, edgecolors=edge, linewidths=0.4)
        )


def _box(start_s: float, end_s: float, row: int) -> list[tuple[float, float]]:
    low, high = row - _BAR_HALF_HEIGHT, row + _BAR_HALF_HEIGHT
    return [(start_s, low), (end_s, low), (end_s, high), (start_s, high)]


def _draw_lanes(ax: Axes, lanes: Sequence[Lane]) -> int:
    """Label the lanes and rule lines between them; return the number of rows."""
    for lane in lanes[1:]:
        ax.axhline(lane.top - 0.5, color=palette.LIGHT_GREY, linewidth=0.6, zorder=0)
    ax.set_yticks(
        [lane.top + (lane.height - 1) / 2 for lane in lanes],
        [label(lane.text, _LANE_LIMIT) for lane in lanes],
    )
    depth = lanes[-1].top + lanes[-1].height
    ax.set_ylim(depth - 0.4, -0.6)
    return depth


def _mark_failures(ax: Axes, placed: Sequence[tuple[Bar, int]]) -> None:
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
    whole_s = ax.get_xlim()[1]
    marks = [
        Mark(row, bar.start_s, bar.end_s, (len(str(bar.status)) + 2) * whole_s / _CHARACTERS)
        for bar, row in failed
    ]
    for number, is_before in labels_with_room(marks, whole_s):
        bar, row = failed[number]
        ax.annotate(
            str(bar.status),
            (bar.start_s if is_before else bar.end_s, row),
            (-4 if is_before else 4, 0), textcoords="offset points",
            ha="right" if is_before else "left", va="center", fontsize=8, fontweight="bold",
            color=palette.ERROR, zorder=6,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.8},
        )  # fmt: skip


def _name_own_spans(ax: Axes, placed: Sequence[tuple[Bar, int]], longest_s: float) -> None:
    """Write a span's name on its bar where it fits."""
    for bar, row in placed:
        name = label(bar.text)
        room = (bar.end_s - bar.start_s) * _CHARACTERS
        if not bar.is_request and room > longest_s * (len(name) + 2):
            ax.annotate(
                name, (bar.start_s, row), (3, 0), textcoords="offset points", va="center_baseline",
                fontsize=8, color="black", zorder=5, clip_on=True,
            )  # fmt: skip


def _note(meta: Mapping[str, Any], recorded: int) -> str:
    note = "A lane is an agent in a process; a request's bar is split by phase"
    if recorded > MAX_BARS:
        note = f"{MAX_BARS:,} of {recorded:,} bars: failures and the longest. {note}"
    return note + model_note(meta)


def _keys(bars: Sequence[Bar]) -> list[Any]:
    seen = {segment.phase for bar in bars for segment in bar.segments}
    keys = [
        box_key(words.PHASES[phase], palette.PHASES[phase]) for phase in PHASES if phase in seen
    ]
    if OWN in seen:
        keys.append(box_key("own spans", palette.OWN_SPAN))
    if any(bar.failed for bar in bars):
        keys.append(box_key("failed", palette.ERROR, _HATCH))
    return keys
