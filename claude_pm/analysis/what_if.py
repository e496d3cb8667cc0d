"""What a recording would have taken with other workers, caches or modes: an estimate by replay."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from claude_pm.analysis.phases import SAVED_PREFIX
from claude_pm.analysis.replay import BUS, Graph, SpanTree, slotted_requests
from claude_pm.analysis.requests import requests_frame
from claude_pm.analysis.rows import Row, rows
from claude_pm.errors import ProfileError

if TYPE_CHECKING:
    from claude_pm.profiles import Profile

CONFIDENCE = 0.95
REPLAYS = 400

_STATES = {"hot": "warm", "cold": "cold"}
_MODES = ("local", "subprocess")


@dataclass(frozen=True, slots=True)
class WhatIf:
    """An estimate, in seconds of wall time from the first root span's start to the last one's end.

    ``wall_s`` is the median of the replays, ``low_s`` and ``high_s`` hold 95 % of them: where a
    real run is to be expected. ``recorded_s`` is what was recorded; ``replayed_s`` is a replay with
    nothing changed: the nearer to it, the more is known of what waited for what. ``what`` says in
    words what was changed, ``n`` is the number of requests.
    """

    what: str
    wall_s: float
    low_s: float
    high_s: float
    recorded_s: float
    replayed_s: float
    n: int

    def __repr__(self) -> str:
        change = self.wall_s / self.recorded_s - 1 if self.recorded_s else 0.0
        requests = "1 request" if self.n == 1 else f"{self.n} requests"
        return (
            f"With {self.what}: an estimate of {self.wall_s:.3g} s (95 % of replays within "
            f"{self.low_s:.3g} to {self.high_s:.3g} s), {change:+.0%} against the "
            f"{self.recorded_s:.3g} s recorded; {requests}, replayed unchanged "
            f"{self.replayed_s:.3g} s."
        )


def what_if(
    profile: Profile,
    *,
    max_workers: int | None = None,
    cache: Literal["hot", "cold"] | None = None,
    mode: Literal["local", "subprocess"] | None = None,
    seed: int = 0,
) -> WhatIf:
    """Estimate how long the recorded requests would have taken, had something been different.

    The recording is replayed: requests come as they came (those of a batch as its places become
    free, a workflow's steps when what they need is answered, others after the same time of thought
    following what they followed), wait for a place, and are served for as long as one drawn from
    the recorded requests of the same agent and mode. 400 such replays give the estimate.

    Service times are taken as independent of the load. That holds for a remote model with room to
    spare; not where the requests share what is used to the full. The embedded model answers one
    request at a time in LOCAL mode, and that is replayed so; embedded models in several worker
    processes share the CPUs, and an estimate for more of them is too low.

    Args:
        profile: a recording with requests.
        max_workers: requests served at the same time, on the bus and in batches. (A batch that
            asked for more than the bus served keeps its own limit.)
        cache: "hot" gives requests that were cold prefills as hot ones had them, "cold" the other
            way round; of the same agent where there are any, else of others, by input token.
        mode: requests of the other mode take as long as one recorded in this mode.
        seed: of the draws; the same seed gives the same estimate.

    Raises:
        ProfileError: nothing is to be different, or the recording does not hold what the estimate
            would come from.
    """
    _check(max_workers, cache, mode)
    tree = SpanTree(profile)
    requests = rows(requests_frame(tree.requests))
    if not requests:
        raise ProfileError(
            f"The profile {profile.name!r} holds no request: there is nothing to replay."
        )
    recorded = Graph(tree, slotted_requests(profile, tree))
    graph = Graph(tree, slotted_requests(profile, tree, mode)) if mode else recorded
    capacities = dict(graph.capacities)
    if max_workers is not None:
        capacities = _with_workers(graph, max_workers)
    draws = _Draws(profile, graph, requests, cache, mode, np.random.default_rng(seed))
    walls = [graph.replay(draws.seconds(), capacities) for _ in range(REPLAYS)]
    outside = (1 - CONFIDENCE) / 2
    low, middle, high = np.quantile(walls, [outside, 0.5, 1 - outside])
    return WhatIf(
        what=_words(recorded.capacities, max_workers, cache, mode),
        wall_s=float(middle),
        low_s=float(low),
        high_s=float(high),
        recorded_s=tree.root.end_s - tree.root.start_s,
        replayed_s=recorded.replay(),
        n=len(requests),
    )


class _Draws:
    """Durations of all activities, drawn anew for each replay."""

    def __init__(
        self, profile: Profile, graph: Graph, requests: list[Row], cache: str | None,
        mode: str | None, rng: np.random.Generator,
    ) -> None:  # fmt: skip
        self._rng = rng
        self._seconds = graph.seconds
        self._requests = requests
        self._service, self._rest = _service(graph, requests)
        position = {request["span_id"]: i for i, request in enumerate(requests)}
        # Activities of no request keep their time: the factor after the last request's is 1.
        self._owner = np.array(
            [position.get(a.request or "", len(requests)) for a in graph.activities]
        )
        self._places: defaultdict[tuple[int, str], list[int]] = defaultdict(list)
        for place, (owner, activity) in enumerate(zip(self._owner, graph.activities, strict=True)):
            self._places[int(owner), activity.kind].append(place)
        self._donors = _alike(requests)
        if mode is not None:
            self._take_mode(profile, mode)
        self._prefills: dict[int, tuple[np.ndarray, float]] = {}
        """For requests that change: prefills to draw from, and by how many tokens to take them."""
        if cache is not None:
            self._take_cache(profile, cache)
        self._takers: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
        for i, donors in enumerate(self._donors):
            self._takers[donors].append(i)

    def seconds(self) -> np.ndarray:
        """Return how long each activity takes this time."""
        factors = np.ones(len(self._requests) + 1)
        for donors, takers in self._takers.items():
            drawn = self._drawn(np.array(donors), len(takers))
            for i, donor in zip(takers, drawn, strict=True):
                # A prefill that is taken from elsewhere has no part in it.
                times = self._rest if i in self._prefills else self._service
                if times[i] > 0:
                    factors[i] = times[donor] / times[i]
        seconds = self._seconds * factors[self._owner]
        for i, (prefills, tokens) in self._prefills.items():
            prefill = self._places[i, "prefill"]
            total = seconds[prefill].sum()
            if total > 0:
                seconds[prefill] *= self._drawn(prefills, 1)[0] * tokens / total
            seconds[self._places[i, SAVED_PREFIX]] = 0.0
        return np.asarray(seconds)

    def _drawn(self, values: np.ndarray, count: int) -> np.ndarray:
        """Draw from what other requests might have been recorded, which are drawn themselves.

        Both vary: what was recorded, and what a further run would take.
        """
        pool = self._rng.choice(values, len(values))
        return np.asarray(self._rng.choice(pool, count))

    def _take_mode(self, profile: Profile, mode: str) -> None:
        in_mode = [i for i, one in enumerate(self._requests) if _counts(one, mode=mode)]
        others = [i for i, one in enumerate(self._requests) if one["mode"] != mode]
        if others and not in_mode:
            raise ProfileError(
                f"The profile {profile.name!r} holds no answered request in {mode.upper()} mode to "
                "estimate from: record one beside these."
            )
        for i in others:
            agent = self._requests[i]["agent"]
            same = [donor for donor in in_mode if self._requests[donor]["agent"] == agent]
            self._donors[i] = tuple(same or in_mode)

    def _take_cache(self, profile: Profile, cache: str) -> None:
        wanted = _STATES[cache]
        found = [
            i for i, one in enumerate(self._requests)
            if _counts(one, state=wanted) and one["prefill_s"] is not None
        ]  # fmt: skip
        changed = [
            i for i, one in enumerate(self._requests)
            if one["cache_state"] not in (wanted, None) and one["prefill_s"] is not None
        ]  # fmt: skip
        is_so_already = not changed and self._has_states()
        if not found and not is_so_already:
            raise ProfileError(
                f"The profile {profile.name!r} holds no answered request with a {cache} cache to "
                "estimate from: record one beside these."
            )
        per_token = np.array(
            [
                self._requests[i]["prefill_s"] / self._requests[i]["input_tokens"]
                for i in found
                if self._requests[i]["input_tokens"]
            ]
        )
        for i in changed:
            one = self._requests[i]
            same = [
                self._requests[donor]["prefill_s"]
                for donor in found
                if self._requests[donor]["agent"] == one["agent"]
            ]
            if same:
                self._prefills[i] = np.array(same), 1.0
            else:
                self._prefills[i] = per_token, float(one["input_tokens"])

    def _has_states(self) -> bool:
        return any(one["cache_state"] is not None for one in self._requests)


def _service(graph: Graph, requests: list[Row]) -> tuple[np.ndarray, np.ndarray]:
    """Return each request's seconds of service, and those without prefill and saved prompts."""
    whole: defaultdict[str | None, float] = defaultdict(float)
    rest: defaultdict[str | None, float] = defaultdict(float)
    for activity in graph.activities:
        whole[activity.request] += activity.seconds
        if activity.kind not in ("prefill", SAVED_PREFIX):
            rest[activity.request] += activity.seconds
    ids = [request["span_id"] for request in requests]
    return np.array([whole[one] for one in ids]), np.array([rest[one] for one in ids])


def _alike(requests: list[Row]) -> list[tuple[int, ...]]:
    """Return for each request those that it draws from: those of its kind, itself among them."""
    keys = ("agent", "mode", "cache_state", "warmup", "status")
    kinds: defaultdict[tuple[Any, ...], list[int]] = defaultdict(list)
    for i, request in enumerate(requests):
        kinds[tuple(request[key] for key in keys)].append(i)
    donors = {kind: tuple(found) for kind, found in kinds.items()}
    return [donors[tuple(request[key] for key in keys)] for request in requests]


def _counts(request: Row, *, mode: str | None = None, state: str | None = None) -> bool:
    """Say whether a request may stand for others: answered, and of that mode and state."""
    return (
        request["status"] == "ok"
        and mode in (None, request["mode"])
        and state in (None, request["cache_state"])
    )


def _with_workers(graph: Graph, max_workers: int) -> dict[str, float]:
    bus = graph.capacities[BUS]
    capacities = {
        # The bus held a larger batch back: its own limit was chosen by itself.
        place: max_workers if place.startswith("batch ") and free <= bus else free
        for place, free in graph.capacities.items()
    }
    return capacities | {BUS: max_workers}


def _words(
    capacities: dict[str, float], max_workers: int | None, cache: str | None, mode: str | None
) -> str:
    said = []
    if max_workers is not None:
        workers = "1 worker" if max_workers == 1 else f"{max_workers} workers"
        limits = [free for place, free in capacities.items() if place.startswith("batch ")]
        before = min([capacities[BUS], *limits])
        said.append(workers if before == float("inf") else f"{workers} in place of {before:g}")
    if cache is not None:
        said.append(f"a {cache} cache")
    if mode is not None:
        said.append(f"{mode.upper()} mode")
    return ", ".join(said[:-1]) + (" and " if len(said) > 1 else "") + said[-1]


def _check(max_workers: int | None, cache: str | None, mode: str | None) -> None:
    if max_workers is None and cache is None and mode is None:
        raise ProfileError("Say what should be different: max_workers, cache or mode.")
    if max_workers is not None and max_workers < 1:
        raise ProfileError(f"max_workers is {max_workers!r}; it has to be a whole number from 1.")
    if cache is not None and cache not in _STATES:
        raise ProfileError(f"cache is {cache!r}; it has to be 'hot' or 'cold'.")
    if mode is not None and mode not in _MODES:
        raise ProfileError(f"mode is {mode!r}; it has to be 'local' or 'subprocess'.")
