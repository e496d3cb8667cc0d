"""Where a request's time went: every instant of it belongs to exactly one phase."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from claude_pm.analysis.requests import REQUEST, Request, find_requests
from claude_pm.analysis.rows import Row, rows
from claude_pm.profiles import schema

if TYPE_CHECKING:
    import pandas as pd

    from claude_pm.profiles import Profile

OTHER = "other"
NO_TEXT = "no_text"
"""Attempts that gave no text, and the waits after them: nobody knows how far their prefill got."""
SAVED_PREFIX = "saved_prefix"
"""Restoring an agent's prompt into the model before a request, and saving it after one."""

PHASES = (
    "queue", "start_worker", "start_model", "build_context", SAVED_PREFIX, "prefill", "decode",
    NO_TEXT, OTHER,
)  # fmt: skip
"""In the order of the road."""

_SPAN_PHASES = {
    "queue": "queue",
    "start_worker": "start_worker",
    "start_model": "start_model",
    "find_model": "start_model",
    "build_context": "build_context",
    "restore_prefix": SAVED_PREFIX,
    "save_prefix": SAVED_PREFIX,
    "wait_to_retry": NO_TEXT,
}

ROAD = frozenset(_SPAN_PHASES) | {REQUEST, "choose_mode", "load_agent", "chat"}
"""The names of the spans on the road; all others are of the user's making."""

_SEGMENTS = schema.Table(
    "segments",
    "one stretch of a request in one phase",
    (
        schema.Column("span_id", "string", "of the request"),
        schema.Column("phase", "string", f"one of {', '.join(PHASES)}"),
        schema.Column("start_s", "Float64", "seconds since the profile began"),
        schema.Column("end_s", "Float64", "seconds since the profile began"),
    ),
)

_PHASE_TABLE = schema.Table(
    "phases",
    "one phase of all requests together",
    (
        schema.Column("phase", "string", f"one of {', '.join(PHASES)}"),
        schema.Column("n", "Int64", "requests that had it"),
        schema.Column("total_s", "Float64", "seconds in all requests"),
        schema.Column("share", "Float64", "part of the summed time of all requests, 0 to 1"),
        schema.Column("median_s", "Float64", "of the requests that had it"),
        schema.Column("max_s", "Float64", "of the requests that had it"),
    ),
)


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of time in one phase."""

    phase: str
    start_s: float
    end_s: float


def request_segments(profile: Profile) -> pd.DataFrame:
    """Return one row a stretch: ``span_id`` (of the request), ``phase``, ``start_s``, ``end_s``.

    A request's stretches follow each other without gap or overlap and add up to its duration.
    Where spans nest or overlap, the innermost phase counts, and of those the one begun last.
    """
    return _segments_frame(find_requests(rows(profile.spans)))


def phase_table(profile: Profile) -> pd.DataFrame:
    """Return one row a phase, longest first, ``other`` last.

    Columns are ``phase, n, total_s, share, median_s, max_s``. The shares add up to 1: time is
    counted once, unlike in ``Profile.summary()``, where a span's time holds that of spans within
    it.
    """
    return phases_of(find_requests(rows(profile.spans)))


def phases_of(requests: Iterable[Request]) -> pd.DataFrame:
    """Return the phase table of these requests."""
    segments = _segments_frame(requests)
    segments["seconds"] = segments["end_s"] - segments["start_s"]
    seconds = segments.groupby(["phase", "span_id"], sort=False)["seconds"].sum()
    table = seconds.groupby("phase").agg(["size", "sum", "median", "max"]).reset_index()
    table.columns = ["phase", "n", "total_s", "median_s", "max_s"]
    whole = table["total_s"].sum()
    table["share"] = table["total_s"] / whole if whole else None
    table["last"] = table["phase"] == OTHER
    table = table.sort_values(["last", "total_s"], ascending=[True, False])
    return schema.frame(
        _PHASE_TABLE, {name: table[name].tolist() for name in _PHASE_TABLE.column_names}
    )


def split_request(request: Request) -> list[Segment]:
    """Return the request's stretches, in order."""
    by_id = {part["span_id"]: part for part in request.parts}
    layers = [
        (_depth(part, by_id), segment) for part in request.parts for segment in split_span(part)
    ]
    start = request.span["start_s"]
    return _painted(start, start + request.span["duration_s"], layers)


def split_span(span: Row) -> list[Segment]:
    """Return the phases of one span by itself: two for a chat, none for a span of the user's."""
    start, end = span["start_s"], span["start_s"] + span["duration_s"]
    if span["name"] in _SPAN_PHASES:
        return [Segment(_SPAN_PHASES[span["name"]], start, end)]
    if span["name"] != "chat":
        return []
    if span["ttft_s"] is None:
        return [Segment(NO_TEXT, start, end)]
    first_text = min(start + span["ttft_s"], end)
    return [Segment("prefill", start, first_text), Segment("decode", first_text, end)]


def _segments_frame(requests: Iterable[Request]) -> pd.DataFrame:
    segments = [
        {
            "span_id": request.span["span_id"],
            "phase": segment.phase,
            "start_s": segment.start_s,
            "end_s": segment.end_s,
        }
        for request in requests
        for segment in split_request(request)
    ]
    return schema.frame_from_rows(_SEGMENTS, segments)


def _depth(span: Row, by_id: dict[str, Row]) -> int:
    depth = 0
    parent = by_id.get(span["parent_id"])
    while parent is not None:
        depth += 1
        parent = by_id.get(parent["parent_id"])
    return depth


def _painted(start: float, end: float, layers: Sequence[tuple[int, Segment]]) -> list[Segment]:
    """Cut the interval where a phase begins or ends, and give each piece its innermost phase."""
    edges = {start, end}
    for _, segment in layers:
        edges |= {edge for edge in (segment.start_s, segment.end_s) if start < edge < end}
    coming = sorted(layers, key=lambda layer: layer[1].start_s, reverse=True)
    open_layers: list[tuple[int, float, float, str]] = []
    pieces = []
    for left, right in pairwise(sorted(edges)):
        while coming and coming[-1][1].start_s <= left:
            depth, segment = coming.pop()
            entry = (-depth, -segment.start_s, segment.end_s, segment.phase)
            heapq.heappush(open_layers, entry)
        while open_layers and open_layers[0][2] <= left:
            heapq.heappop(open_layers)
        pieces.append(Segment(open_layers[0][3] if open_layers else OTHER, left, right))
    return _joined(pieces)


def _joined(pieces: Iterable[Segment]) -> list[Segment]:
    joined: list[Segment] = []
    for piece in pieces:
        if joined and joined[-1].phase == piece.phase:
            joined[-1] = Segment(piece.phase, joined[-1].start_s, piece.end_s)
        else:
            joined.append(piece)
    return joined
