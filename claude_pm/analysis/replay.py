"""The recorded spans as a graph of what waited for what, and its replay with other durations.

Every span is cut into activities: its phases where nothing lies below it, and the gaps between the
spans below it. An activity begins when all those that it needs have ended, and, where it waits in a
queue, when a place is free. What needs what is read from the recording:

- a workflow's step needs the steps that it names;
- the requests of a batch need one of its places each, in order;
- any other span needs what ended before it began below the same parent. Where that is known to be
  of another asyncio task or thread, it needs only what its own did before.

A place on the message bus is held until the request ends; the embedded model's one slot as long as
it answers.
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from claude_pm.analysis.phases import OTHER, Segment, split_request, split_span
from claude_pm.analysis.requests import REQUEST, Request, attributes, find_requests, owner_ids
from claude_pm.analysis.rows import Row, rows
from claude_pm.errors import ProfileError

if TYPE_CHECKING:
    from claude_pm.profiles import Profile

OWN = "own_python"
"""The kind of time outside requests: in spans of the user's, or in none."""

BUS = "bus"
"""The places on the message bus: requests that are served at the same time."""
MODEL = "model"
"""The embedded model's slot."""

_EPSILON_S = 1e-9
_WAITED_S = 1e-3
_TURN = ("restore_prefix", "chat", "save_prefix")


@dataclass(slots=True, eq=False)
class Node:
    """A span, cut to what its request lasted, with those below it in order of their start."""

    span_id: str | None
    name: str | None
    agent: str | None
    start_s: float
    end_s: float
    parent: Node | None = field(default=None, repr=False)
    children: list[Node] = field(default_factory=list, repr=False)
    request: Request | None = field(default=None, repr=False)
    """The request that it was done for."""
    own_phases: list[Segment] = field(default_factory=list, repr=False)
    """The phases of the nearest span at or above it that has any of its own."""
    details: dict[str, Any] = field(default_factory=dict, repr=False)
    """The span's attributes."""
    flow: tuple[Any, ...] | None = None
    """Process, thread and asyncio task that it began in."""

    @property
    def is_request(self) -> bool:
        """Whether it is a request's own span."""
        return self.name == REQUEST

    @property
    def waits_on_bus(self) -> bool:
        """Whether it is the wait for a place on the bus."""
        return self._waits_in_request and "waits_for" not in self.details

    @property
    def waits_for_model(self) -> bool:
        """Whether it is the wait for the embedded model's slot."""
        return self._waits_in_request and "waits_for" in self.details

    @property
    def _waits_in_request(self) -> bool:
        return self.name == "queue" and self.parent is not None and self.parent.is_request

    def needed(self) -> set[str] | None:
        """Return the ids of the workflow steps that it needs; None where it names none."""
        if self.parent is None or self.parent.name != "workflow" or "step" not in self.details:
            return None
        needs = self.details.get("needs") or []
        return {
            str(other.span_id) for other in self.parent.children
            if other.details.get("step") in needs and other is not self
        }  # fmt: skip


class SpanTree:
    """A profile's ended spans below one root, which lasts from the first's start to the last's end.

    Raises:
        ProfileError: the profile has no span that ended.
    """

    def __init__(self, profile: Profile) -> None:
        spans = rows(profile.spans)
        requests = {request.span["span_id"]: request for request in find_requests(spans)}
        owners = dict(zip((span["span_id"] for span in spans), owner_ids(spans), strict=True))
        self.requests = [request for request in requests.values() if _has_ended(request.span)]
        self.by_id = {
            span["span_id"]: _node(span, requests.get(owners[span["span_id"]] or ""))
            for span in spans
            if _has_ended(span)
        }
        if not self.by_id:
            raise ProfileError(
                f"The profile {profile.name!r} has no span that ended: there was nothing to wait "
                "for."
            )
        start = min(node.start_s for node in self.by_id.values())
        end = max(node.end_s for node in self.by_id.values())
        self.root = Node(None, None, None, start, end)
        parents = {span["span_id"]: span["parent_id"] for span in spans}
        for span_id, node in self.by_id.items():
            node.parent = self._ended_above(parents, span_id) or self.root
            node.parent.children.append(node)
        self.nodes = list(self._from_the_root())
        # What only a circle of parents leads to is not below the root.
        self.root.end_s = max((node.end_s for node in self.root.children), default=start)
        self.root.start_s = min((node.start_s for node in self.root.children), default=start)
        self._painted: dict[str, list[Segment]] = {}

    def pieces(self, node: Node, start_s: float, end_s: float) -> list[Segment]:
        """Cut a stretch of the span's own time into kinds; see :mod:`claude_pm.analysis.phases`."""
        if end_s <= start_s:
            return []
        if node.request is None:
            return _cut(node.own_phases, start_s, end_s, OWN)
        span_id = node.request.span["span_id"]
        if span_id not in self._painted:
            self._painted[span_id] = split_request(node.request)
        return _cut(self._painted[span_id], start_s, end_s, OTHER)

    def _ended_above(self, parents: Mapping[str, str | None], span_id: str) -> Node | None:
        seen = {span_id}
        above = parents[span_id]
        while above is not None and above not in seen:
            if above in self.by_id:
                return self.by_id[above]
            seen.add(above)
            above = parents.get(above)
        return None

    def _from_the_root(self) -> Iterator[Node]:
        """Yield all nodes, parents first, and pass on what holds for those below."""
        waiting = [self.root]
        while waiting:
            node = waiting.pop()
            yield node
            for child in node.children:
                child.agent = child.agent if child.agent is not None else node.agent
                child.own_phases = child.own_phases or node.own_phases
                if node is not self.root:
                    child.start_s = max(child.start_s, node.start_s)
                    if node.request is not None:
                        # A worker's span may outlive its request, which did not wait for it.
                        child.end_s = min(child.end_s, node.end_s)
                    child.end_s = max(child.end_s, child.start_s)
            # Of those begun at once, the order of the table is that of their arrival.
            node.children.sort(key=lambda child: child.start_s)
            waiting += reversed(node.children)


@dataclass(slots=True)
class Activity:
    """A stretch of work or waiting.

    ``span`` is the name of the user's own span that it is in, outside requests. ``acquire`` is the
    place that it has to get before it begins, ``release`` what it gives back when it has ended.
    ``sent_s`` is when it was recorded to ask for the place.
    """

    seconds: float
    kind: str
    agent: str | None
    span: str | None
    request: str | None
    needs: list[int]
    acquire: str | None = None
    sent_s: float = 0.0
    release: tuple[str, ...] = ()


class Graph:
    """The activities of a recording, in an order in which none needs a later one.

    Args:
        tree: the recorded spans.
        has_slot: says of a request whether it has to wait for the embedded model's slot.
    """

    def __init__(self, tree: SpanTree, slotted: Iterable[str] = ()) -> None:
        self.activities: list[Activity] = []
        self.capacities: dict[str, float] = {BUS: bus_capacity(tree), MODEL: 1}
        self._tree = tree
        self._slotted = set(slotted)
        self._starts: dict[int, int] = {}
        self._ends: dict[int, int] = {}
        for node in tree.nodes:
            self._starts[id(node)] = self.add([], OWN, node)
            self._ends[id(node)] = self.add([], OWN, node)
        for node in tree.nodes:
            self._connect(node)
        self._plan = _Plan(self.activities, self.end_of(tree.root))

    @property
    def seconds(self) -> np.ndarray:
        """How long each activity took."""
        return np.array([activity.seconds for activity in self.activities])

    def replay(
        self, seconds: np.ndarray | None = None, capacities: Mapping[str, float] | None = None
    ) -> float:
        """Return the seconds from the first start to the last end, with these durations."""
        return self._plan.run(
            self.seconds if seconds is None else seconds,
            self.capacities if capacities is None else capacities,
        )

    def start_of(self, node: Node) -> int:
        """Return the activity of no duration with which a span begins."""
        return self._starts[id(node)]

    def end_of(self, node: Node) -> int:
        """Return the activity of no duration with which a span ends."""
        return self._ends[id(node)]

    def add(
        self, needs: list[int], kind: str, node: Node, seconds: float = 0.0,
        acquire: str | None = None,
    ) -> int:  # fmt: skip
        """Add an activity of a span; return its number."""
        request = None if node.request is None else node.request.span["span_id"]
        own = node.name if kind == OWN and node.request is None else None
        self.activities.append(
            Activity(seconds, kind, node.agent, own, request, needs, acquire, node.start_s)
        )
        return len(self.activities) - 1

    def _chain(self, last: int, node: Node, start_s: float, end_s: float) -> int:
        """Add the span's own time between two instants; return the last activity of it."""
        for piece in self._tree.pieces(node, start_s, end_s):
            last = self.add([last], piece.phase, node, piece.end_s - piece.start_s)
        return last

    def _need(self, activity: int, needs: Iterable[int]) -> None:
        self.activities[activity].needs += needs

    def release(self, node: Node, place: str) -> None:
        """Have a place given back when a span ends."""
        self.activities[self.end_of(node)].release += (place,)

    def _connect(self, node: Node) -> None:
        start, end = self.start_of(node), self.end_of(node)
        if node.waits_on_bus or node.waits_for_model:
            # How long it takes is what the replay finds.
            is_slotted = node.request is not None and node.request.span["span_id"] in self._slotted
            place = BUS if node.waits_on_bus else MODEL if is_slotted else None
            self._need(end, [self.add([start], "queue", node, acquire=place)])
        elif not node.children:
            self._need(end, [self._leaf(node, start)])
        elif node.name == "batch" and isinstance(node.details.get("concurrency"), int):
            self._connect_batch(node)
        else:
            self._connect_children(node)
        if node.is_request:
            if not any(child.waits_on_bus for child in node.children):
                self.activities[start].acquire = BUS
            self.release(node, BUS)

    def _leaf(self, node: Node, last: int) -> int:
        if not node.own_phases:
            return self._chain(last, node, node.start_s, node.end_s)
        # By its own phases: another span at the same time does not make it shorter.
        for piece in _cut(node.own_phases, node.start_s, node.end_s, OTHER):
            last = self.add([last], piece.phase, node, piece.end_s - piece.start_s)
        return last

    def _connect_batch(self, node: Node) -> None:
        place = f"batch {node.span_id}"
        self.capacities[place] = node.details["concurrency"]
        start, end = self.start_of(node), self.end_of(node)
        ended = node.start_s
        freed = _freed(node)
        for child, begun in zip(node.children, freed, strict=True):
            waited = self.add([start], "queue", node, acquire=place)
            self.activities[waited].sent_s = child.start_s
            last = self._chain(waited, node, begun, child.start_s)
            self._need(self.start_of(child), [last])
            self.release(child, place)
            ended = max(ended, child.end_s)
        joined = self.add([self.end_of(child) for child in node.children], OWN, node)
        self._need(end, [self._chain(joined, node, ended, node.end_s)])

    def _connect_children(self, node: Node) -> None:
        joins = _Joins(self, node, self.start_of(node))
        turn = _Turn(self, node) if node.is_request and node.span_id in self._slotted else None
        begun_in: dict[tuple[Any, ...] | None, Node] = {}
        latest_start, has_place = -math.inf, False
        is_ended = False
        for child in node.children:
            if child.start_s > node.end_s and not is_ended:
                # What was begun by a task that it left behind is nothing that it waited for.
                self._end(node, joins)
                is_ended = True
            before = begun_in.get(child.flow)
            needed = child.needed()
            if needed is not None:
                gate, since = joins.on_steps(needed)
            elif before is not None and _goes_on(node, child, before, latest_start):
                gate, since = self.end_of(before), before.end_s
            else:
                gate, since = joins.on_all_ended(child.start_s)
            last = self._chain(gate, node, since, child.start_s)
            if child.waits_on_bus:
                if has_place:
                    # Where its worker failed, a request queues up again.
                    last = self.add([last], OTHER, node)
                    self.activities[last].release = (BUS,)
                has_place = True
            if turn is not None:
                last = turn.before(child, last)
            self._need(self.start_of(child), [last])
            joins.begun(child)
            begun_in[child.flow] = child
            latest_start = child.start_s
        if turn is not None and turn.has_it:
            self.release(node, MODEL)
        if not is_ended:
            self._end(node, joins)

    def _end(self, node: Node, joins: _Joins) -> None:
        gate, since = joins.on_all_ended(node.end_s)
        self._need(self.end_of(node), [self._chain(gate, node, since, node.end_s)])


class _Joins:
    """What has ended below a span, while one goes through its children by their start."""

    def __init__(self, graph: Graph, node: Node, start: int) -> None:
        self._graph = graph
        self._node = node
        self._running: list[tuple[float, int, Node]] = []
        self._gate, self._since = start, node.start_s
        self._begin = start, node.start_s

    def begun(self, child: Node) -> None:
        heapq.heappush(self._running, (child.end_s, self._graph.start_of(child), child))

    def on_all_ended(self, at_s: float) -> tuple[int, float]:
        """Return the activity that waits for all that ended until then, and when it did."""
        needs = [self._gate]
        while self._running and self._running[0][0] <= at_s + _EPSILON_S:
            ended = heapq.heappop(self._running)[2]
            needs.append(self._graph.end_of(ended))
            self._since = max(self._since, ended.end_s)
        if len(needs) > 1:
            self._gate = self._graph.add(needs, OWN, self._node)
        return self._gate, self._since

    def on_steps(self, span_ids: set[str]) -> tuple[int, float]:
        start, since = self._begin
        steps = [child for child in self._node.children if child.span_id in span_ids]
        if not steps:
            return start, since
        ends = [self._graph.end_of(step) for step in steps]
        return self._graph.add(ends, OWN, self._node), max(step.end_s for step in steps)


class _Turn:
    """When a request holds the embedded model's slot."""

    def __init__(self, graph: Graph, node: Node) -> None:
        self._graph = graph
        self._node = node
        self.has_it = False
        self._parts = [child for child in node.children if child.name in _TURN]

    def before(self, child: Node, last: int) -> int:
        if child.waits_for_model:
            self.has_it = True
        elif child.name in _TURN:
            if not self.has_it:
                last = self._graph.add([last], "queue", self._node, acquire=MODEL)
                self._graph.activities[last].sent_s = child.start_s
                self.has_it = True
            if self._is_last(child):
                self._graph.release(child, MODEL)
                self.has_it = False
        return last

    def _is_last(self, child: Node) -> bool:
        position = self._parts.index(child)
        following = self._parts[position + 1].name if position + 1 < len(self._parts) else None
        return following is None or (child.name, following) not in {
            ("restore_prefix", "chat"), ("chat", "save_prefix"),
        }  # fmt: skip


class _Plan:
    """Activities with chains drawn together, ready to be run many times."""

    def __init__(self, activities: Sequence[Activity], last: int) -> None:
        followers: list[list[int]] = [[] for _ in activities]
        for position, activity in enumerate(activities):
            for need in activity.needs:
                followers[need].append(position)
        self._group = _chains(activities, followers)
        self._last = self._group[last]
        count = max(self._group) + 1
        self._acquire: list[str | None] = [None] * count
        self._sent_s = [0.0] * count
        self._release: list[tuple[str, ...]] = [()] * count
        self._followers: list[list[int]] = [[] for _ in range(count)]
        self._needs = [0] * count
        for position, activity in enumerate(activities):
            group = self._group[position]
            if activity.acquire is not None:
                self._acquire[group], self._sent_s[group] = activity.acquire, activity.sent_s
            self._release[group] += activity.release
            for need in activity.needs:
                if self._group[need] != group:
                    self._followers[self._group[need]].append(group)
                    self._needs[group] += 1

    def run(self, seconds: np.ndarray, capacities: Mapping[str, float]) -> float:
        """Return when the activity ends that is the last of the whole."""
        durations = np.bincount(self._group, weights=seconds, minlength=len(self._needs)).tolist()
        run = _Run(
            durations,
            self._acquire,
            self._sent_s,
            self._release,
            self._followers,
            list(self._needs),
            capacities,
        )
        return run.end_s(self._last)


class _Run:
    """One replay: a simulation of events in order of time.

    Of those that wait for a place the one gets it that asked first in the recording: requests sent
    at once keep their order, though a replay may shift them by microseconds.
    """

    def __init__(
        self, durations: list[float], acquire: list[str | None], sent_s: list[float],
        release: list[tuple[str, ...]],
        followers: list[list[int]], needs: list[int], capacities: Mapping[str, float],
    ) -> None:  # fmt: skip
        self._durations, self._acquire, self._release = durations, acquire, release
        self._followers, self._needs, self._sent_s = followers, needs, sent_s
        self._free: defaultdict[str, float] = defaultdict(lambda: math.inf, capacities)
        self._waiting: defaultdict[str, list[tuple[float, int]]] = defaultdict(list)
        self._held: Counter[str] = Counter()
        # Time, whether it begins (what ends at the same time gives its place to it), activity.
        self._events: list[tuple[float, bool, int]] = []
        self._now_s = 0.0
        self._ended_s: list[float | None] = [None] * len(durations)

    def end_s(self, last: int) -> float:
        for activity, count in enumerate(self._needs):
            if count == 0:
                self._ready(activity, 0.0)
        while self._ended_s[last] is None and (self._events or self._unblock()):
            now_s, begins, activity = heapq.heappop(self._events)
            if not begins:
                for place in self._release[activity]:
                    self._give_back(place, now_s)
                self._ended(activity, now_s)
                continue
            place = str(self._acquire[activity])
            if self._free[place] >= 1:
                self._take(place, activity, now_s)
            else:
                heapq.heappush(self._waiting[place], (self._sent_s[activity], activity))
        return self._ended_s[last] or 0.0

    def _ready(self, activity: int, now_s: float) -> None:
        if self._acquire[activity] is not None:
            heapq.heappush(self._events, (now_s, True, activity))
        else:
            self._begun(activity, now_s)

    def _begun(self, activity: int, now_s: float) -> None:
        heapq.heappush(self._events, (now_s + self._durations[activity], False, activity))

    def _ended(self, activity: int, now_s: float) -> None:
        self._now_s = now_s
        self._ended_s[activity] = now_s
        for follower in self._followers[activity]:
            self._needs[follower] -= 1
            if self._needs[follower] == 0:
                self._ready(follower, now_s)

    def _take(self, place: str, activity: int, now_s: float) -> None:
        self._free[place] -= 1
        self._held[place] += 1
        self._begun(activity, now_s)

    def _give_back(self, place: str, now_s: float) -> None:
        if self._held[place] == 0:
            return
        self._held[place] -= 1
        self._free[place] += 1
        if self._waiting[place] and self._free[place] >= 1:
            _, activity = heapq.heappop(self._waiting[place])
            self._take(place, activity, now_s)

    def _unblock(self) -> bool:
        """Let one in without a place, where requests within requests wait for each other."""
        for place, waiting in self._waiting.items():
            if waiting:
                self._take(place, heapq.heappop(waiting)[1], self._now_s)
                return True
        return False


def bus_capacity(tree: SpanTree) -> float:
    """Return how many requests could be served at the same time; infinite where none had to wait.

    While one waits all places are taken: it is the number in service for most of that time.
    """
    changes: list[tuple[float, int, int]] = []
    for node in tree.nodes:
        if not node.waits_on_bus or node.parent is None:
            continue
        if node.end_s - node.start_s > _WAITED_S:
            changes += [(node.start_s, 0, 1), (node.end_s, 0, -1)]
        changes += [(node.end_s, 1, 0), (node.parent.end_s, -1, 0)]
    held_s: defaultdict[int, float] = defaultdict(float)
    serving = waiting = 0
    last_s = 0.0
    for at_s, served, waits in sorted(changes):
        if waiting and serving:
            held_s[serving] += at_s - last_s
        serving, waiting, last_s = serving + served, waiting + waits, at_s
    return max(held_s, key=lambda count: held_s[count]) if held_s else math.inf


def slotted_requests(profile: Profile, tree: SpanTree, mode: str | None = None) -> set[str]:
    """Return the ids of the requests that share the embedded model's one slot.

    Those are the LOCAL ones, where the recording shows that the model was the embedded one: it was
    started, or waited for, or named by the settings while never two answers came at a time (an
    orchestrator may have a model of its own, whatever the settings are).
    ``mode`` is what they would be served in, None as recorded.
    """
    shows = any(node.waits_for_model or node.name == "start_model" for node in tree.nodes)
    if not shows and not (_names_embedded(profile) and _one_at_a_time(tree)):
        return set()
    return {
        request.span["span_id"]
        for request in tree.requests
        if (mode or request.span["mode"]) == "local"
    }


def _names_embedded(profile: Profile) -> bool:
    settings = profile.meta.get("settings") or {}
    name = str(settings.get("model") or "")
    return name == "embedded" or name.endswith(".gguf")


def _one_at_a_time(tree: SpanTree) -> bool:
    chats = sorted(
        (node.start_s, node.end_s)
        for node in tree.nodes
        if node.name == "chat" and node.request is not None
        and node.request.span["mode"] == "local"
    )  # fmt: skip
    return all(end <= start + _WAITED_S for (_, end), (start, _) in pairwise(chats))


def _node(span: Row, request: Request | None) -> Node:
    start = float(span["start_s"])
    return Node(
        span["span_id"], span["name"], span["agent"], start, start + float(span["duration_s"]),
        request=request, own_phases=split_span(span), details=attributes(span),
        flow=(span["pid"], span["thread"], span["task"]),
    )  # fmt: skip


def _has_ended(span: Row) -> bool:
    return span["start_s"] is not None and span["duration_s"] is not None


def _cut(segments: Sequence[Segment], start_s: float, end_s: float, rest: str) -> list[Segment]:
    """Cut a stretch along segments, one after the other; what they leave out is ``rest``."""
    pieces: list[Segment] = []
    reached = start_s
    first = bisect_right(segments, start_s, key=lambda segment: segment.end_s)
    for place in range(first, len(segments)):
        segment = segments[place]
        if segment.start_s >= end_s:
            break
        left, right = max(segment.start_s, reached), min(segment.end_s, end_s)
        if right <= left:
            continue
        if left > reached:
            pieces.append(Segment(rest, reached, left))
        pieces.append(Segment(segment.phase, left, right))
        reached = right
    if reached < end_s:
        pieces.append(Segment(rest, reached, end_s))
    return pieces


def _freed(batch: Node) -> list[float]:
    """Return for each of a batch's requests when the place was free that it took."""
    if len({child.flow for child in batch.children}) > 1:
        # Each place is an asyncio task.
        last: dict[tuple[Any, ...] | None, float] = {}
        freed = []
        for child in batch.children:
            freed.append(min(last.get(child.flow, batch.start_s), child.start_s))
            last[child.flow] = child.end_s
        return freed
    ends = sorted(child.end_s for child in batch.children)
    before = (bisect_right(ends, child.start_s + _EPSILON_S) for child in batch.children)
    return [
        min(ends[n - 1], batch.children[i].start_s) if n else batch.start_s
        for i, n in enumerate(before)
    ]


def _goes_on(parent: Node, child: Node, before: Node, latest_start: float) -> bool:
    """Say whether a span follows one of its own task, and waited for no other task.

    It may have waited for what its task began in between. What its parent's own task began earlier,
    it may have waited for too.
    """
    if parent.request is not None or child.flow == parent.flow:
        return False
    return before.end_s <= child.start_s + _EPSILON_S and latest_start <= before.end_s


def _chains(activities: Sequence[Activity], followers: Sequence[Sequence[int]]) -> list[int]:
    """Number the activities, those with one number that simply follow each other."""
    joined_to: dict[int, int] = {}
    for position, activity in enumerate(activities):
        if len(activity.needs) != 1 or activity.acquire is not None:
            continue
        need = activity.needs[0]
        if len(followers[need]) == 1 and not activities[need].release:
            joined_to[position] = need
    numbers: dict[int, int] = {}
    count = 0
    for position in range(len(activities)):
        path = [position]
        while path[-1] in joined_to and path[-1] not in numbers:
            path.append(joined_to[path[-1]])
        if path[-1] not in numbers:
            numbers[path[-1]] = count
            count += 1
        numbers |= dict.fromkeys(path, numbers[path[-1]])
    return [numbers[position] for position in range(len(activities))]
