"""The timeline in a terminal: a line a lane, a character a stretch of time."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from claude_pm.views import svg, words
from claude_pm.views.lanes import OWN, WAITING, Bar, place

if TYPE_CHECKING:
    from claude_pm.views.reading import Reading

_COLUMNS = 60
_MAX_LANES = 12
_LABEL_LIMIT = 28
_WORTH_SHOWING = 0.05
_FAILED = "failed"
_SIGNS = {"working": "█", "waiting": "░", OWN: "▒", _FAILED: "x"}

_Cell = defaultdict[str, float]


def timeline_text(reading: Reading) -> str:
    """Return the timeline as text, at most twelve lanes; empty where there are no spans.

    A character says what took most of its time in that lane, or that some of it failed.
    """
    bars = reading.bars
    if not bars:
        return ""
    placed, lanes = place(bars)
    lane_of_row = [number for number, lane in enumerate(lanes) for _ in range(lane.height)]
    whole_s = svg.whole_s(reading)
    column_s = whole_s / _COLUMNS
    cells: list[list[_Cell]] = [[defaultdict(float) for _ in range(_COLUMNS)] for _ in lanes]
    for bar, row in placed:
        _add(cells[lane_of_row[row]], bar, column_s)
    labels = [words.one_line(lane.text, _LABEL_LIMIT) for lane in lanes[:_MAX_LANES]]
    width = max(map(len, labels))
    lines = [
        f"{label:{width}}  {''.join(map(_sign, cells[number]))}".rstrip()
        for number, label in enumerate(labels)
    ]
    if len(lanes) > _MAX_LANES:
        lines.append(f"and {words.counted(len(lanes) - _MAX_LANES, 'more lane', 'more lanes')}")
    used = {sign for line in lines for sign in line}
    key = "  ".join(f"{sign} {kind}" for kind, sign in _SIGNS.items() if sign in used)
    scale = f"{'':{width}}  0{words.duration(whole_s):>{_COLUMNS - 1}}"
    return "\n".join([*lines, scale, key])


def _add(cells: list[_Cell], bar: Bar, column_s: float) -> None:
    for segment in bar.segments:
        kind = _FAILED if bar.failed else _kind(segment.phase)
        first = min(_COLUMNS - 1, max(0, int(segment.start_s / column_s)))
        last = min(_COLUMNS - 1, max(first, int(segment.end_s / column_s)))
        for column in range(first, last + 1):
            inside = min(segment.end_s, (column + 1) * column_s)
            inside -= max(segment.start_s, column * column_s)
            if inside > 0 or first == last:
                # However short, what there was is not nothing.
                cells[column][kind] += max(inside, 0.0)


def _kind(phase: str) -> str:
    if phase == OWN:
        return OWN
    return "waiting" if phase in WAITING else "working"


def _sign(cell: _Cell) -> str:
    if not cell:
        return " "
    if cell.get(_FAILED, 0.0) > _WORTH_SHOWING * sum(cell.values()):
        return _SIGNS[_FAILED]
    return _SIGNS[max(cell, key=cell.__getitem__)]
