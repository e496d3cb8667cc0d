"""The flame graph: where sampled time went, by agent, running apart from waiting."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from claude_pm.analysis.phases import split_span
from claude_pm.analysis.rows import Row, rows
from claude_pm.views import palette, svg, words
from claude_pm.views.lanes import WAITING
from claude_pm.views.own_code import is_own

if TYPE_CHECKING:
    from markupsafe import Markup

    from claude_pm.views.reading import Reading

MIN_SHARE = 0.001
"""Frames of less than this share of the whole are put together, as '(n more)'."""

_MAX_FRAMES = 900
_MAX_DEPTH = 48
_ROW_HEIGHT = 17.0
_NOMINAL_PX = 760.0
_NAME_LIMIT = 160

_TOP, _SPANS, _OWN, _LIBRARIES = "agents", "spans", "your code", "libraries"
_COLOURS = {
    _TOP: palette.SKY,
    _SPANS: palette.ORANGE,
    _OWN: palette.ORANGE,
    _LIBRARIES: palette.LIGHT_GREY,
}
_INK = "#1a1a1a"
"""On the frames' own colours, whatever the page's."""


@dataclass(slots=True)
class _Node:
    """A frame: the seconds of the stacks that go through it."""

    kind: str
    is_waiting: bool = False
    seconds: float = 0.0
    children: dict[str, _Node] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Frame:
    """Where a node is drawn: ``x`` and ``width`` are shares of the whole."""

    name: str
    node: _Node
    x: float
    width: float
    depth: int


def flame_svg(reading: Reading) -> Markup | None:
    """Return the flame graph as SVG, the root on top; None where there is nothing to show.

    A frame is as wide as its wall time. The first level is the agent, the second whether it ran or
    waited, then comes the stack. Without samples it is made of the spans and their own time.
    """
    root, about = _of_samples(reading), "sampled wall time"
    if not root.seconds:
        root, about = _of_spans(reading), "time in spans"
    if not root.seconds:
        return None
    frames = _frames(root)
    kinds = [kind for kind in _COLOURS if any(frame.node.kind == kind for frame in frames)]
    ids = {kind: svg.unique_id(reading.meta, f"flame-{n}") for n, kind in enumerate(kinds)}
    height = (max(frame.depth for frame in frames) + 1) * _ROW_HEIGHT
    keys, keys_height = svg.key(_key(frames, kinds, ids), height + 4)
    return svg.drawing(
        "claude-pm-flame",
        f"Flame graph of {words.duration(root.seconds)} of {about}, by agent.",
        height + 4 + keys_height,
        svg.element(
            "defs",
            *(
                svg.hatch(ids[kind], "currentColor", opacity=0.22, ground=_COLOURS[kind])
                for kind in kinds
            ),
        ),
        *(_drawn(frame, ids) for frame in frames),
        keys,
    )


def _of_samples(reading: Reading) -> _Node:
    root = _Node(_TOP)
    columns = ["agent", "state", "stack", "weight_s"]
    for sample in rows(reading.profile.samples, columns):
        top = [(sample["agent"] or "no agent", _TOP), (sample["state"] or "running", _TOP)]
        stack = [(frame, _kind(frame)) for frame in (sample["stack"] or "").split(";") if frame]
        _add(root, [*top, *stack], sample["weight_s"] or 0.0, waits_from=_waits_from(sample))
    return root


def _kind(frame: str) -> str:
    return _OWN if is_own(frame) else _LIBRARIES


def _waits_from(sample: Row) -> int | None:
    return 1 if sample["state"] == "waiting" else None


def _of_spans(reading: Reading) -> _Node:
    root = _Node(_TOP)
    if len(reading.spans) == 1:
        return root  # the timeline has said it all
    by_id = {span["span_id"]: span for span in reading.spans}
    for span in reading.spans:
        path = _ancestry(span, by_id)
        agent = next((above["agent"] for above in reversed(path) if above["agent"]), "no agent")
        names = [(agent, _TOP), *((above["name"], _SPANS) for above in path)]
        for phase, seconds in _own_time(span):
            named = [*names, (words.PHASES[phase], _SPANS)] if span["name"] == "chat" else names
            waits_from = len(named) - 1 if phase in WAITING else None
            _add(root, named, seconds, waits_from=waits_from)
    return root


def _ancestry(span: Row, by_id: Mapping[str, Row]) -> list[Row]:
    """Return the spans from the root down to this one; a damaged table may have a circle."""
    path: list[Row] = []
    above: Row | None = span
    while above is not None and len(path) < _MAX_DEPTH:
        path.append(above)
        above = by_id.get(above["parent_id"] or "")
    return path[::-1]


def _own_time(span: Row) -> list[tuple[str, float]]:
    """Return a span's own seconds by phase, in the proportion in which it had them."""
    own = span["self_s"] or 0.0
    segments = split_span(span) if span["duration_s"] else []
    whole = sum(segment.end_s - segment.start_s for segment in segments)
    if not whole:
        return [("", own)]
    return [(part.phase, own * (part.end_s - part.start_s) / whole) for part in segments]


def _add(
    root: _Node, stack: Sequence[tuple[str, str]], seconds: float, *, waits_from: int | None
) -> None:
    if seconds <= 0:
        return
    root.seconds += seconds
    node = root
    for depth, (name, kind) in enumerate(stack[:_MAX_DEPTH]):
        is_waiting = waits_from is not None and depth >= waits_from
        node = node.children.setdefault(name, _Node(kind, is_waiting))
        node.seconds += seconds


def _frames(root: _Node) -> list[_Frame]:
    """Return what is drawn; where there is very much of it, more is put together."""
    least = MIN_SHARE
    while True:
        frames = list(_laid_out(root, 0.0, 0, root.seconds, least))
        if len(frames) <= _MAX_FRAMES:
            return frames
        least *= 2


def _laid_out(node: _Node, x: float, depth: int, whole_s: float, least: float) -> Iterator[_Frame]:
    by_time = sorted(node.children.items(), key=lambda child: child[1].seconds, reverse=True)
    small: list[_Node] = []
    for name, child in by_time:
        width = child.seconds / whole_s
        if width < least:
            small.append(child)
            continue
        yield _Frame(name, child, x, width, depth)
        yield from _laid_out(child, x, depth + 1, whole_s, least)
        x += width
    if small:
        rest = _Node(small[0].kind, all(child.is_waiting for child in small))
        rest.seconds = sum(child.seconds for child in small)
        if rest.seconds / whole_s >= least:
            yield _Frame(f"({len(small):,} more)", rest, x, rest.seconds / whole_s, depth)


def _drawn(frame: _Frame, ids: Mapping[str, str]) -> Markup:
    name = words.one_line(frame.name, _NAME_LIMIT)
    state = ", waiting" if frame.node.is_waiting else ""
    spent = f"{words.duration(frame.node.seconds)}, {100 * frame.width:.1f} %{state}"
    x, y = f"{svg.number(100 * frame.x)}%", frame.depth * _ROW_HEIGHT
    fill, ink = _looks(frame.node, ids)
    # The place, in brackets, is in the title: the name is what the width is for.
    short = svg.fitted(name.split(" (")[0] or name, frame.width * _NOMINAL_PX)
    return svg.element(
        "g",
        svg.element("title", f"{name}\n{spent}"),
        svg.element(
            "rect", x=x, y=y, width=f"{svg.number(100 * frame.width)}%", height=_ROW_HEIGHT - 1,
            fill=fill, stroke="currentColor", stroke_opacity=0.45, stroke_width=0.6,
        ),
        svg.element("text", short, x=x, dx=3, y=y + 12, fill=ink, pointer_events="none"),
        class_="claude-pm-frame", data_x=f"{frame.x:.6g}", data_width=f"{frame.width:.6g}",
        data_depth=frame.depth,
    )  # fmt: skip


def _looks(node: _Node, ids: Mapping[str, str]) -> tuple[str, str | None]:
    """Return what fills a frame, and the colour of its text: None is that of the page."""
    if node.is_waiting:
        return f"url(#{ids[node.kind]})", None
    return _COLOURS[node.kind], _INK


def _key(
    frames: Iterable[_Frame], kinds: Iterable[str], ids: Mapping[str, str]
) -> list[tuple[str, Markup]]:
    entries = [(kind, svg.box(fill=_COLOURS[kind])) for kind in kinds]
    waiting = [frame.node.kind for frame in frames if frame.node.is_waiting]
    if waiting:
        entries.append(("waiting", svg.box(fill=f"url(#{ids[waiting[-1]]})")))
    return entries
