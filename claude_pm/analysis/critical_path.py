"""What was really waited for: the chain of spans that decided when the whole ended."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from claude_pm.analysis.phases import PHASES
from claude_pm.analysis.replay import BUS, MODEL, OWN, Graph, Node, SpanTree, slotted_requests
from claude_pm.profiles import schema

if TYPE_CHECKING:
    import pandas as pd

    from claude_pm.profiles import Profile

KINDS = (*PHASES, OWN)
"""The phases of requests, and the time outside them: in spans of the user's, or in none."""

_EPSILON_S = 1e-9
_SPAN = "span "

CRITICAL_PATH = schema.Table(
    "critical path",
    "one stretch of time that the end waited for",
    (
        schema.Column("span_id", "string", "of the span at work; null between the roots"),
        schema.Column("name", "string", "of that span"),
        schema.Column("agent", "string", "the agent at work; null outside requests"),
        schema.Column("kind", "string", f"one of {', '.join(KINDS)}"),
        schema.Column("start_s", "Float64", "seconds since the profile began"),
        schema.Column("duration_s", "Float64", "seconds to the next stretch"),
    ),
)

_SHARE = schema.Column("share", "Float64", "part of the whole, 0 to 1")
_SECONDS = schema.Column("seconds", "Float64", "seconds on the path")

BY_KIND = schema.Table(
    "critical path by kind",
    "one kind of time on the path",
    (schema.Column("kind", "string", f"one of {', '.join(KINDS)}"), _SECONDS, _SHARE),
)

BY_AGENT = schema.Table(
    "critical path by agent",
    "one agent on the path; null is the time of no agent",
    (schema.Column("agent", "string", "the agent at work"), _SECONDS, _SHARE),
)

BY_SPAN = schema.Table(
    "critical path by span",
    "spans of one name on the path; null is the time outside all spans",
    (schema.Column("name", "string", "the name of the spans"), _SECONDS, _SHARE),
)

WITHOUT = schema.Table(
    "without",
    "one kind of time, one agent, or one name of the user's own spans, as if it took none",
    (
        schema.Column("what", "string", "a kind, or 'agent' or 'span' and its name"),
        schema.Column("wall_s", "Float64", "seconds that the whole would take, by replay"),
        schema.Column("saved_s", "Float64", "seconds less than a replay with nothing changed"),
        schema.Column("saved_share", "Float64", "part of that replay, 0 to 1"),
    ),
)


@dataclass(frozen=True, slots=True, eq=False)
class CriticalPath:
    """The stretches of time that the end of a profile waited for, one after the other.

    ``wall_s`` is the time from the first root span's start to the last one's end, ``replayed_s``
    what a replay of the dependencies with nothing changed gives: the nearer, the better they are
    known. The stretches of ``table`` (:data:`CRITICAL_PATH` declares its columns) follow each
    other and add up to ``wall_s``; ``by_kind``, ``by_agent`` and ``by_span`` are its sums.
    ``without`` (:data:`WITHOUT`) says what would be gained at most by each kind, agent or span of
    the user's: not its time on the path, since another path may be nearly as long.
    """

    wall_s: float
    replayed_s: float
    table: pd.DataFrame = field(repr=False)
    by_kind: pd.DataFrame = field(repr=False)
    by_agent: pd.DataFrame = field(repr=False)
    by_span: pd.DataFrame = field(repr=False)
    without: pd.DataFrame = field(repr=False)

    @property
    def headline(self) -> str:
        """What most of the time was waited for, in a sentence."""
        from claude_pm.views.critical_path import headline

        return headline(self)

    def __repr__(self) -> str:
        from claude_pm.views.critical_path import critical_path_text

        return critical_path_text(self)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        """Show the sentence and the tables (IPython's display protocol)."""
        del include, exclude
        from claude_pm.views.critical_path import critical_path_html

        return {"text/plain": repr(self), "text/html": critical_path_html(self)}


@dataclass(frozen=True, slots=True)
class Stretch:
    """A stretch of time in which one span was waited for; seconds since the profile began."""

    node: Node
    kind: str
    """What it did meanwhile: a phase of a request, or ``own_python``."""
    start_s: float
    end_s: float


def critical_path(profile: Profile) -> CriticalPath:
    """Return the chain of spans that decided when the last of the profile's root spans ended.

    It is walked backwards: at each instant to the span that ended last before it, and down into
    that span; time that no such span covers is the surrounding span's own. (Critical paths by
    backward replay: D. Böhme et al., "Scalable critical-path based performance analysis", IPDPS
    2012; on trees of spans: Z. Zhang et al., "CRISP: critical path analysis of large-scale
    microservice architectures", USENIX ATC 2022.) A workflow's step waited for the steps that it
    needs, whatever else ended before it.

    Waiting in a queue counts as ``queue``: that is what the user waited for. That it was waiting
    for another request's place is known to ``without``, which replays the recording: without
    ``prefill``, say, requests wait less in the queue too.

    Raises:
        ProfileError: the profile has no span that ended.
    """
    import pandas as pd

    tree = SpanTree(profile)
    wall_s = tree.root.end_s - tree.root.start_s
    stretches = list(critical_stretches(tree))
    table = schema.frame_from_rows(CRITICAL_PATH, [_row(stretch) for stretch in stretches])
    by_kind, by_agent, by_span = (
        table.groupby(key, dropna=False)["duration_s"].sum().sort_values(ascending=False)
        for key in ("kind", "agent", "name")
    )

    def shares(declared: schema.Table, key: str, sums: pd.Series[float]) -> pd.DataFrame:
        seconds = [float(value) for value in sums]
        return schema.frame(
            declared,
            {
                key: [None if pd.isna(name) else name for name in sums.index],
                "seconds": seconds,
                "share": [value / wall_s if wall_s else None for value in seconds],
            },
        )

    graph = Graph(tree, slotted_requests(profile, tree))
    replayed_s = graph.replay()
    return CriticalPath(
        wall_s=wall_s,
        replayed_s=replayed_s,
        table=table,
        by_kind=shares(BY_KIND, "kind", by_kind),
        by_agent=shares(BY_AGENT, "agent", by_agent),
        by_span=shares(BY_SPAN, "name", by_span),
        without=_without(graph, replayed_s),
    )


def critical_stretches(tree: SpanTree) -> Iterator[Stretch]:
    """Yield the stretches of time that the end waited for, in order, each of one span and kind."""
    return _joined(_walk(tree))


def _walk(tree: SpanTree) -> Iterator[Stretch]:
    """Yield the stretches in order of time."""
    found: list[Stretch] = []
    # Spans to walk, and stretches of their own time; the last one first.
    waiting: list[tuple[Node, float, float, bool]] = [
        (tree.root, tree.root.start_s, tree.root.end_s, False)
    ]
    while waiting:
        node, start_s, end_s, is_own = waiting.pop()
        if is_own:
            found += [
                Stretch(node, piece.phase, piece.start_s, piece.end_s)
                for piece in reversed(tree.pieces(node, start_s, end_s))
            ]
        else:
            waiting += reversed(list(_backwards(node, start_s, end_s)))
    return reversed(found)


def _backwards(
    node: Node, start_s: float, end_s: float
) -> Iterator[tuple[Node, float, float, bool]]:
    """Yield what the span waited for, the last first: spans below it, and its own time between."""
    reached = end_s
    needed: set[str] | None = None
    for child in sorted(node.children, key=lambda child: (-child.end_s, -child.start_s)):
        if child.end_s > reached + _EPSILON_S or child.start_s >= reached:
            # It was still at work: what came next did not wait for it.
            continue
        if needed is not None and child.span_id not in needed:
            continue
        yield node, min(child.end_s, reached), reached, True
        yield child, child.start_s, min(child.end_s, reached), False
        reached = child.start_s
        needed = child.needed()
    yield node, start_s, reached, True


def _joined(stretches: Iterator[Stretch]) -> Iterator[Stretch]:
    last: Stretch | None = None
    for stretch in stretches:
        if last is not None and (last.node, last.kind) == (stretch.node, stretch.kind):
            last = Stretch(last.node, last.kind, last.start_s, stretch.end_s)
            continue
        if last is not None:
            yield last
        last = stretch
    if last is not None:
        yield last


def _row(stretch: Stretch) -> Mapping[str, Any]:
    return {
        "span_id": stretch.node.span_id,
        "name": stretch.node.name,
        "agent": stretch.node.agent,
        "kind": stretch.kind,
        "start_s": stretch.start_s,
        "duration_s": stretch.end_s - stretch.start_s,
    }


def _without(graph: Graph, replayed_s: float) -> pd.DataFrame:
    kinds = {activity.kind for activity in graph.activities if activity.seconds > 0}
    if any(activity.acquire in (BUS, MODEL) for activity in graph.activities):
        kinds.add("queue")
    agents = sorted({activity.agent for activity in graph.activities if activity.agent is not None})
    found: list[tuple[str, float]] = []
    for kind in KINDS:
        if kind not in kinds:
            continue
        if kind == "queue":
            # Nobody has to wait for a place; a batch's own limit is not the queue.
            places = {
                place: free for place, free in graph.capacities.items() if place not in (BUS, MODEL)
            }
            found.append((kind, graph.replay(capacities=places)))
            continue
        found.append((kind, _replayed(graph, [a.kind != kind for a in graph.activities])))
    for agent in agents:
        left = [activity.agent != agent for activity in graph.activities]
        found.append((f"agent {agent}", _replayed(graph, left)))
    for name in sorted({activity.span for activity in graph.activities if activity.span}):
        left = [activity.span != name for activity in graph.activities]
        found.append((f"{_SPAN}{name}", _replayed(graph, left)))
    found.sort(key=lambda one: one[1])
    return schema.frame_from_rows(
        WITHOUT,
        [
            {
                "what": what,
                "wall_s": wall_s,
                "saved_s": replayed_s - wall_s,
                "saved_share": (replayed_s - wall_s) / replayed_s if replayed_s else None,
            }
            for what, wall_s in found
        ],
    )


def _replayed(graph: Graph, left: list[bool]) -> float:
    return graph.replay(graph.seconds * left)
