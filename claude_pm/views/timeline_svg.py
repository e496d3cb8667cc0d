"""The timeline as a drawing in a page: light enough for fifty thousand spans."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from typing import TYPE_CHECKING, Any

from claude_pm.analysis.critical_path import critical_stretches
from claude_pm.analysis.phases import PHASES
from claude_pm.analysis.replay import SpanTree
from claude_pm.errors import ProfileError
from claude_pm.views import palette, svg, words
from claude_pm.views.lanes import OWN, WAITING, Bar, Lane, place, seen
from claude_pm.views.mark_labels import Mark, labels_with_room

if TYPE_CHECKING:
    from markupsafe import Markup

    from claude_pm.views.reading import Reading

MAX_PATH_SPANS = 60_000
"""Of more spans than these, the critical path is not marked: to find it takes too long."""

_MAX_CELLS = 700
"""Of more bars than these, neighbours that are too narrow to see are drawn as one."""
_HOP_UNITS = 16.0
"""Of changes from row to row that are nearer to each other, no lines between the rows are drawn."""
_MAX_HEIGHT = 420.0
_ROW_HEIGHT = 15.0
_LEAST_ROW_HEIGHT = 3.0
_LANE_GAP = 6.0
_LABEL_HEIGHT = 12.0
_LABEL_CHARACTERS = 22
_LEAST_WIDTH = 0.9
_SHORTEST_PIECE = 0.25
_LEAST_HEIGHT = 0.8
_MAX_STRETCHES = 400
_NOMINAL_PLOT_PX = 520.0


@dataclass(frozen=True, slots=True)
class _Cell:
    """What is drawn as one: a bar, or several of a row that are too narrow to be told apart."""

    bars: list[Bar]
    start_s: float
    end_s: float
    row: int


class _Scale:
    """Where times and rows are drawn."""

    def __init__(self, duration_s: float, lanes: Sequence[Lane], start_s: float) -> None:
        self.start_s = start_s
        self.units_per_s = svg.UNITS / duration_s
        rows = sum(lane.height for lane in lanes)
        self.row_height = min(_ROW_HEIGHT, max(_LEAST_ROW_HEIGHT, _MAX_HEIGHT / rows))
        self.bar_height = self.row_height * 0.84
        self._most_rows = max(1, int(_MAX_HEIGHT / self.row_height / len(lanes)))
        self._tops: list[float] = []
        self.lane_tops: list[float] = []
        top = _LANE_GAP / 2
        for lane in lanes:
            self.lane_tops.append(top)
            # Rows of which there is no more place lie on the last one.
            deepest = min(lane.height, self._most_rows) if rows > self._fitting else lane.height
            self._tops += [
                top + min(row, deepest - 1) * self.row_height for row in range(lane.height)
            ]
            top += max(deepest * self.row_height, _LABEL_HEIGHT) + _LANE_GAP
        self.height = top - _LANE_GAP / 2

    @property
    def _fitting(self) -> float:
        return _MAX_HEIGHT / self.row_height

    def x(self, seconds: float) -> float:
        return seconds * self.units_per_s

    def y(self, row: int) -> float:
        return self._tops[row]


def timeline_svg(reading: Reading, *, start_s: float = 0.0) -> Markup | None:
    """Return the timeline as SVG: a lane an agent and process; None where there are no spans.

    ``start_s`` is what the reading's times count from, where it is a part of a profile.

    A request is a bar split by phase. In stripes is what was waited for, hatched and outlined what
    failed, and the line under the bars is the critical path. Neighbours too narrow to be seen are
    drawn as one bar, which says how many they are and shows the shares of their phases.
    """
    bars = [bar for bar in reading.bars if bar.end_s >= bar.start_s]
    if not bars:
        return None
    duration_s = svg.whole_s(reading)
    placed, lanes = place(bars)
    scale = _Scale(duration_s, lanes, start_s)
    cells = _cells(placed, scale)
    ids = {
        name: svg.unique_id(reading.meta, f"timeline-{name}") for name in (*sorted(WAITING), "fail")
    }
    path = _critical_path(reading, placed, scale)
    plot = svg.plot(
        scale.height,
        svg.element(
            "defs",
            *(svg.stripes(ids[phase], palette.PHASES[phase]) for phase in sorted(WAITING)),
            svg.hatch(ids["fail"], svg.ALARM),
        ),
        *(_drawn(cell, scale, ids) for cell in cells),
        *([path] if path is not None else []),
    )
    keys, keys_height = svg.key(
        _key(bars, cells, ids, has_path=path is not None), scale.height + svg.AXIS_HEIGHT
    )
    return svg.drawing(
        "claude-pm-timeline",
        f"Timeline: {seen(reading.meta, bars)}.",
        scale.height + svg.AXIS_HEIGHT + keys_height,
        *_lane_labels(lanes, scale),
        plot,
        svg.time_ticks(duration_s, scale.height, *_words(cells, scale), start_s=start_s),
        keys,
        duration_s=duration_s,
    )


def _cells(placed: Sequence[tuple[Bar, int]], scale: _Scale) -> list[_Cell]:
    """Put together what is too narrow to be seen, more of it where there is very much."""
    by_row: dict[float, list[tuple[Bar, int]]] = defaultdict(list)
    for bar, row in placed:
        by_row[scale.y(row)].append((bar, row))
    grain = 1.0
    while True:
        grain_s = grain / scale.units_per_s
        every = (cell for members in by_row.values() for cell in _of_row(members, grain_s))
        # One more than there may be shows that it will not do.
        cells = list(islice(every, _MAX_CELLS + 1))
        if len(cells) <= _MAX_CELLS or grain > svg.UNITS:
            return cells
        grain *= 1.6


def _of_row(members: Sequence[tuple[Bar, int]], grain_s: float) -> Iterator[_Cell]:
    together: list[Bar] = []
    first_s = last_s = 0.0
    row = members[0][1]
    for bar, _ in members:
        is_narrow = bar.end_s - bar.start_s < grain_s
        if together and not (
            is_narrow and last_s - first_s < grain_s and bar.start_s - last_s < grain_s
        ):
            yield _Cell(together, first_s, last_s, row)
            together = []
        if not together:
            first_s, last_s = bar.start_s, bar.end_s
        together.append(bar)
        last_s = max(last_s, bar.end_s)
    yield _Cell(together, first_s, last_s, row)


def _drawn(cell: _Cell, scale: _Scale, ids: Mapping[str, str]) -> Markup:
    y, height = scale.y(cell.row), scale.bar_height
    if len(cell.bars) == 1:
        boxes = list(_phases_across(cell.bars[0], scale, y, ids))
    else:
        boxes = list(_phases_stacked(cell, scale, y, ids))
    failures = sum(bar.failed for bar in cell.bars)
    if failures:
        left, width = _across(cell.start_s, cell.end_s, scale)
        failed_height = max(min(height, 3.0), height * failures / len(cell.bars))
        boxes.append(
            svg.element(
                "rect", x=left, y=y, width=width, height=failed_height, fill=f"url(#{ids['fail']})",
                stroke=svg.ALARM, stroke_width=1.2, vector_effect="non-scaling-stroke",
            )
        )  # fmt: skip
    return svg.element("g", svg.element("title", _title(cell, scale.start_s)), *boxes)


def _phases_across(bar: Bar, scale: _Scale, y: float, ids: Mapping[str, str]) -> Iterator[Markup]:
    """Draw a bar's phases in turn; what is too short for the eye goes to the one before."""
    pieces: list[tuple[str, float, float]] = []
    for segment in bar.segments:
        is_short = scale.x(segment.end_s - segment.start_s) < _SHORTEST_PIECE
        if pieces and is_short:
            pieces[-1] = (pieces[-1][0], pieces[-1][1], segment.end_s)
        else:
            pieces.append((segment.phase, segment.start_s, segment.end_s))
    for phase, start_s, end_s in pieces:
        left, width = _across(start_s, end_s, scale)
        yield svg.element(
            "rect", x=left, y=y, width=width, height=scale.bar_height, **_fill(phase, ids)
        )


def _phases_stacked(
    cell: _Cell, scale: _Scale, y: float, ids: Mapping[str, str]
) -> Iterator[Markup]:
    """Draw the shares of the phases of several bars, one upon the other."""
    seconds = _seconds(cell.bars)
    whole = sum(seconds.values())
    left, width = _across(cell.start_s, cell.end_s, scale)
    for phase, spent in seconds.items():
        height = scale.bar_height * (spent / whole if whole else 1 / len(seconds))
        if height >= _LEAST_HEIGHT:
            # Their outlines, side by side, would be one black bar.
            fill = {"fill_opacity": 0.3} if phase == OWN else _fill(phase, ids)
            yield svg.element("rect", x=left, y=y, width=width, height=height, **fill)
        y += height


def _across(start_s: float, end_s: float, scale: _Scale) -> tuple[float, float]:
    return scale.x(start_s), max(_LEAST_WIDTH, scale.x(end_s - start_s))


def _fill(phase: str, ids: Mapping[str, str]) -> dict[str, Any]:
    if phase == OWN:
        return {
            "fill_opacity": 0.13, "stroke": "currentColor", "stroke_opacity": 0.55,
            "vector_effect": "non-scaling-stroke",
        }  # fmt: skip
    return {"fill": f"url(#{ids[phase]})" if phase in WAITING else palette.PHASES[phase]}


def _seconds(bars: Sequence[Bar]) -> dict[str, float]:
    """Return the seconds of each phase of these bars, in the order of the road."""
    seconds: dict[str, float] = defaultdict(float)
    for bar in bars:
        for segment in bar.segments:
            seconds[segment.phase] += segment.end_s - segment.start_s
    return {phase: seconds[phase] for phase in (*PHASES, OWN) if phase in seconds}


def _title(cell: _Cell, zero_s: float) -> str:
    phases = [
        f"{words.PHASES[phase]} {words.duration(spent)}"
        for phase, spent in _seconds(cell.bars).items()
        if phase != OWN
    ]
    bar = cell.bars[0]
    agent = "" if bar.agent is None else f"{words.one_line(bar.agent, 60)}: "
    if len(cell.bars) == 1:
        name = "request" if bar.is_request else words.one_line(bar.text, 60)
        spent = words.duration(bar.end_s - bar.start_s)
        said = f"{agent}{name}, {spent}, {words.one_line(bar.status or 'unfinished')}"
        return "\n".join([f"{said}, from {words.duration(zero_s + bar.start_s)} on", *phases])
    statuses = Counter(bar.status or "unfinished" for bar in cell.bars)
    requests = sum(bar.is_request for bar in cell.bars)
    noun = "request" if requests == len(cell.bars) else "bar"
    counts = ", ".join(f"{count:,} {words.one_line(name)}" for name, count in statuses.items())
    between = f"{words.duration(zero_s + cell.start_s)} to {words.duration(zero_s + cell.end_s)}"
    said = f"{agent}{words.counted(len(cell.bars), noun)}, {counts}, from {between}"
    return "\n".join([said, *phases])


def _critical_path(
    reading: Reading, placed: Sequence[tuple[Bar, int]], scale: _Scale
) -> Markup | None:
    """Return the line under the bars that the end waited for."""
    if len(reading.spans) > MAX_PATH_SPANS:
        return None
    stretches = list(_on_path(reading, placed))
    if len(stretches) > _MAX_STRETCHES:
        stretches = list(_longest_of_each_column(stretches, scale))
    along, between, hops = [], [], []
    reached: tuple[float, float] | None = None
    for row, start_s, end_s in stretches:
        left, right = scale.x(start_s), scale.x(end_s)
        y = scale.y(row) + scale.bar_height + 0.7
        along.append(f"M{svg.number(left)} {svg.number(y)}H{svg.number(right)}")
        if reached is not None and reached[1] != y and left - reached[0] < _LEAST_WIDTH:
            between.append(f"M{svg.number(left)} {svg.number(reached[1])}V{svg.number(y)}")
            hops.append(left)
        reached = right, y
    if not along:
        return None
    lines = [_line(along, 2.0)]
    if between and hops[-1] - hops[0] >= _HOP_UNITS * (len(hops) - 1):
        lines.append(_line(between, 1.0))
    return svg.element("g", *lines, class_="claude-pm-critical", pointer_events="none")


def _line(steps: Sequence[str], width: float) -> Markup:
    return svg.element(
        "path", d="".join(steps), fill="none", stroke="currentColor", stroke_width=width,
        vector_effect="non-scaling-stroke",
    )  # fmt: skip


def _on_path(
    reading: Reading, placed: Sequence[tuple[Bar, int]]
) -> Iterator[tuple[int, float, float]]:
    """Yield row, start and end of the stretches that the end waited for, in order."""
    owners = {
        span["span_id"]: owner for span, owner in zip(reading.spans, reading.owners, strict=True)
    }
    row_of = {bar.span_id: row for bar, row in placed}
    try:
        tree = SpanTree(reading.profile)
    except ProfileError:  # no span has ended
        return
    found = []
    for stretch in critical_stretches(tree):
        span_id = stretch.node.span_id
        row = row_of.get(span_id or "", row_of.get(owners.get(span_id or "") or ""))
        if row is not None:
            found.append((row, stretch.start_s, stretch.end_s))
    for row, together in groupby(found, key=lambda stretch: stretch[0]):
        parts = list(together)
        yield row, parts[0][1], parts[-1][2]


def _longest_of_each_column(
    stretches: Sequence[tuple[int, float, float]], scale: _Scale
) -> Iterator[tuple[int, float, float]]:
    """Yield for each stretch of time the row that most of it was waited for."""
    column_s = svg.UNITS / _MAX_STRETCHES / scale.units_per_s
    waited: dict[int, dict[int, float]] = defaultdict(lambda: defaultdict(float))
    for row, start_s, end_s in stretches:
        for column in range(int(start_s / column_s), int(end_s / column_s) + 1):
            inside = min(end_s, (column + 1) * column_s) - max(start_s, column * column_s)
            waited[column][row] += max(0.0, inside)
    by_column = (
        (column, max(waited[column], key=waited[column].__getitem__)) for column in sorted(waited)
    )
    for row, together in groupby(by_column, key=lambda found: found[1]):
        columns = [column for column, _ in together]
        yield row, columns[0] * column_s, (columns[-1] + 1) * column_s


def _lane_labels(lanes: Sequence[Lane], scale: _Scale) -> Iterator[Markup]:
    for lane, top in zip(lanes, scale.lane_tops, strict=True):
        if top > _LANE_GAP:
            y = top - _LANE_GAP / 2
            yield svg.element("line", x2="100%", y1=y, y2=y, stroke="currentColor",
                              stroke_opacity=0.18)  # fmt: skip
        yield svg.row_label(lane.short_text(_LABEL_CHARACTERS), top + 10, lane.text)


def _words(cells: Sequence[_Cell], scale: _Scale) -> Iterator[Markup]:
    """Yield what became of failures, and the names of spans where they fit their bars."""
    if scale.row_height < svg.FONT_SIZE:
        return
    failed = [cell for cell in cells if any(bar.failed for bar in cell.bars)]
    said = [
        words.one_line(next(bar.status for bar in cell.bars if bar.failed) or "", 20)
        for cell in failed
    ]
    units_per_px = svg.UNITS / _NOMINAL_PLOT_PX
    marks = [
        Mark(
            scale.y(cell.row), scale.x(cell.start_s), scale.x(cell.end_s),
            svg.text_px(text) * units_per_px,
        )
        for cell, text in zip(failed, said, strict=True)
    ]  # fmt: skip
    for number, is_before in labels_with_room(marks, svg.UNITS):
        mark = marks[number]
        yield svg.element(
            "text", said[number],
            x=svg.percent_of_plot((mark.start if is_before else mark.end) / svg.UNITS),
            dx=-4 if is_before else 4, text_anchor="end" if is_before else "start",
            y=scale.y(failed[number].row) + 10, fill=svg.ALARM, font_weight="bold",
        )  # fmt: skip
    for cell in cells:
        bar = cell.bars[0]
        if len(cell.bars) > 1 or bar.is_request or bar.failed or bar.segments[0].phase != OWN:
            continue
        share = (bar.end_s - bar.start_s) * scale.units_per_s / svg.UNITS
        name = svg.fitted(bar.text, share * _NOMINAL_PLOT_PX)
        if name:
            yield svg.element(
                "text", name, x=svg.percent_of_plot(scale.x(bar.start_s) / svg.UNITS), dx=4,
                y=scale.y(cell.row) + 10,
            )  # fmt: skip


def _key(
    bars: Sequence[Bar], cells: Sequence[_Cell], ids: Mapping[str, str], *, has_path: bool
) -> list[tuple[str, Markup]]:
    shown = {segment.phase for bar in bars for segment in bar.segments}
    entries = [
        (words.PHASES[phase], svg.box(**_fill(phase, ids))) for phase in PHASES if phase in shown
    ]
    if OWN in shown:
        entries.append(("own spans", svg.box(**_fill(OWN, ids))))
    if any(bar.failed for bar in bars):
        entries.append(("failed", svg.box(fill=f"url(#{ids['fail']})", stroke=svg.ALARM)))
    if has_path:
        entries.append(("critical path: what the end waited for", svg.line()))
    if len(cells) < len(bars):
        several = f"{len(bars):,} drawn as {len(cells):,}: shares of phases one upon the other"
        entries.append((several, svg.box(fill="none", stroke="currentColor", stroke_opacity=0.5)))
    return entries
