"""The memory of each process, over the time axis of the timeline."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from claude_pm.analysis.rows import rows
from claude_pm.views import palette, sentences, svg, words

if TYPE_CHECKING:
    from markupsafe import Markup

    from claude_pm.views.reading import Reading

_HEIGHT = 76.0
_HEADROOM = 1.1
_MAX_COLUMNS = 300
"""Of more readings than two in each of these, the least and the most are drawn."""
_DASHES = (None, "7 3", "2 2", "9 3 2 3", "4 4", "12 4")
"""So that curves are told apart without their colours."""

_Point = tuple[float, float]


def memory_svg(reading: Reading) -> Markup | None:
    """Return the resident memory over time as SVG, in MB (a million bytes).

    Each process is a curve, the largest first in the key; None where nothing was recorded.
    """
    curves = _curves(reading)
    if not curves:
        return None
    duration_s = svg.whole_s(reading)
    peaks = {name: max(size for _, size in points) for name, points in curves.items()}
    named = sorted(curves, key=lambda name: peaks[name], reverse=True)
    top = peaks[named[0]] * _HEADROOM or 1.0
    drawn, entries = [], []
    for number, name in enumerate(named):
        is_named = number < len(_DASHES)
        looks = {
            "stroke": palette.LINES[number] if is_named else palette.LIGHT_GREY,
            "stroke_width": 2 if is_named else 1,
            "stroke_dasharray": _DASHES[number] if is_named else None,
        }
        said = f"{name}: at most {words.megabytes(peaks[name])}"
        path = svg.element(
            "path", svg.element("title", said), d=_path(curves[name], duration_s, top), fill="none",
            vector_effect="non-scaling-stroke", **looks,
        )  # fmt: skip
        drawn.append(path)
        if is_named:
            entries.append((said, svg.line(**looks)))
    if len(named) > len(_DASHES):
        smaller = words.counted(len(named) - len(_DASHES), "smaller one", "smaller ones")
        entries.append((smaller, svg.line(stroke=palette.LIGHT_GREY, stroke_width=1)))
    keys, keys_height = svg.key(entries, _HEIGHT + svg.AXIS_HEIGHT)
    return svg.drawing(
        "claude-pm-memory",
        f"Resident memory over time. {sentences.peak_memory(reading)}",
        _HEIGHT + svg.AXIS_HEIGHT + keys_height,
        *_size_axis(peaks[named[0]], top),
        # The largest lies on top.
        svg.plot(_HEIGHT, *reversed(drawn)),
        svg.time_ticks(duration_s, _HEIGHT),
        keys,
        duration_s=duration_s,
    )


def _curves(reading: Reading) -> dict[str, list[_Point]]:
    memory = reading.profile.memory
    curves: dict[str, list[_Point]] = {}
    for sample in rows(memory[memory["rss_bytes"].notna() & memory["t_s"].notna()]):
        role = words.one_line(str(sample["role"] or "process"), 28)
        name = role if sample["pid"] is None else f"{role} {sample['pid']}"
        curves.setdefault(name, []).append((sample["t_s"], sample["rss_bytes"]))
    return {name: sorted(points) for name, points in curves.items()}


def _path(points: Sequence[_Point], duration_s: float, top: float) -> str:
    at = [
        f"{svg.number(svg.UNITS * time_s / duration_s)} {svg.number(_HEIGHT * (1 - size / top))}"
        for time_s, size in _thinned(points, duration_s)
    ]
    # A single reading would have no length, and not be seen.
    return f"M{'L'.join(at)}" if len(at) > 1 else f"M{at[0]}h4"


def _thinned(points: Sequence[_Point], duration_s: float) -> Iterator[_Point]:
    """Yield the least and the most of each column, in order of time: no peak is lost."""
    if len(points) <= 2 * _MAX_COLUMNS:
        yield from points
        return
    columns: dict[int, list[_Point]] = {}
    for point in points:
        columns.setdefault(int(point[0] / duration_s * _MAX_COLUMNS), []).append(point)
    for column in columns.values():
        ends = {
            min(column, key=lambda point: point[1]),
            max(column, key=lambda point: point[1]),
        }
        yield from sorted(ends)


def _size_axis(peak: float, top: float) -> Iterator[Markup]:
    yield svg.row_label("resident memory", 10)
    for size, text in ((0.0, "0"), (peak, words.megabytes(peak))):
        y = _HEIGHT * (1 - size / top)
        yield svg.element(
            "line", x1=svg.percent_of_plot(0), x2=svg.percent_of_plot(1), y1=y, y2=y,
            stroke="currentColor", stroke_opacity=0.18,
        )  # fmt: skip
        yield svg.element(
            "text", text, x=svg.percent_of_plot(0), dx=-6, y=max(y + 4, 22.0), text_anchor="end",
            fill_opacity=0.75,
        )  # fmt: skip
