"""The timeline of some of a profile's spans, or of a stretch of its time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from claude_pm.analysis.requests import REQUEST, Request
from claude_pm.analysis.rows import Row
from claude_pm.views import svg
from claude_pm.views.reading import Reading
from claude_pm.views.span_index import reading_until
from claude_pm.views.timeline_svg import timeline_svg

if TYPE_CHECKING:
    import numpy as np
    from markupsafe import Markup

    from claude_pm.views.span_index import SpanIndex, Window

_MARK_HEIGHT = 15.0
_LEAST_MARK = 3.0


def part_timeline(index: SpanIndex, places: np.ndarray, window: Window | None) -> Markup | None:
    """Return the timeline of the spans at these places, the window as wide as the drawing.

    Of some spans only it has no critical path: what the end waited for is known of all of them.
    """
    if window is None and len(places) == len(index):
        return timeline_svg(index.reading)
    return timeline_svg(_part(index, places, window), start_s=window[0] if window else 0.0)


def _part(index: SpanIndex, places: np.ndarray, window: Window | None) -> Reading:
    """Read some spans, with times counted from the window's begin and cut at its ends."""
    whole = index.reading
    first_s, last_s = window or (0.0, index.whole_s)
    meta = whole.meta if window is None else whole.meta | {"duration_s": last_s - first_s}
    part = reading_until(last_s - first_s, meta, None)
    chosen = [(whole.spans[place], whole.owners[place]) for place in places.tolist()]
    requests = [index.requests[span["span_id"]] for span, _ in chosen if span["name"] == REQUEST]
    ids = {request.span["span_id"] for request in requests}
    part.spans = [_within(span, window) for span, _ in chosen]
    # A part of a request that is not shown stands for itself.
    part.owners = [owner if owner in ids else None for _, owner in chosen]
    part.found_requests = [
        Request(
            _within(request.span, window),
            [_within(part, window) for part in request.parts if _meets(part, window)],
            request.warmup,
        )
        for request in requests
    ]
    return part


def mark(span: Row, window: Window) -> Markup:
    """Return a strip of the same width as the timeline's, which shows where a span is in it."""
    first_s, last_s = window
    units_per_s = svg.UNITS / (last_s - first_s)
    start_s, end_s = span["start_s"] or 0.0, (span["start_s"] or 0.0) + (span["duration_s"] or 0.0)
    left = (max(start_s, first_s) - first_s) * units_per_s
    width = (min(end_s, last_s) - max(start_s, first_s)) * units_per_s
    shown = [] if width < 0 else [
        svg.element(
            "rect", x=min(left, svg.UNITS - _LEAST_MARK), y=3, width=max(width, _LEAST_MARK),
            height=_MARK_HEIGHT - 6, fill="currentColor", fill_opacity=0.8,
        )
    ]  # fmt: skip
    return svg.drawing(
        "claude-pm-chosen",
        "Where the chosen span is in the timeline below.",
        _MARK_HEIGHT,
        svg.row_label("chosen span", 11),
        svg.plot(_MARK_HEIGHT, *shown),
    )


def _meets(span: Row, window: Window | None) -> bool:
    if window is None:
        return True
    start_s, end_s = span["start_s"], span["start_s"] + span["duration_s"]
    return bool(start_s <= window[1] and end_s >= window[0])


def _within(span: Row, window: Window | None) -> Row:
    if window is None:
        return span
    first_s, last_s = window
    start_s = max(span["start_s"], first_s)
    end_s = min(span["start_s"] + span["duration_s"], last_s)
    changed = {"start_s": start_s - first_s, "duration_s": max(end_s - start_s, 0.0)}
    if span["ttft_s"] is not None:
        text_s = min(span["start_s"] + span["ttft_s"], last_s)
        changed["ttft_s"] = max(text_s - start_s, 0.0)
    return span | changed
