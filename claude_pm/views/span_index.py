"""The spans of a profile, laid out once so that filtering fifty thousand takes no time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from claude_pm.analysis.compare_modes import FAILURES
from claude_pm.analysis.requests import REQUEST, Request
from claude_pm.analysis.rows import Row
from claude_pm.profiles import Profile, schema
from claude_pm.views import words
from claude_pm.views.reading import Reading

if TYPE_CHECKING:
    import pandas as pd

FILTERS: Mapping[str, str] = {
    "agent": "no agent",
    "mode": "no mode",
    "status": "unfinished",
}
"""The columns that spans are filtered by, and what a span without a value is called."""

ALL = "all"
"""What a filter that lets everything through is called."""

LONGEST, IN_TIME = "longest first", "in order of time"
ORDERS = (LONGEST, IN_TIME)

_TEXT_LIMIT = 100

Texts = tuple[str | None, ...]
Window = tuple[float, float]
"""From when to when, in seconds since the profile began."""


@dataclass(frozen=True, slots=True)
class Likeness:
    """By what a span is found again, also in a new recording of the same: small plain values."""

    span_id: str
    like: Texts
    """Its name, agent and mode, cut."""
    number: int
    """How many like it came before it."""


class SpanIndex:
    """The spans of one profile; each is known by its place in the table.

    ``side`` keeps drawings of the same profile on one page apart. The time axes of its drawings
    are as long as the recording, or ``axis_s`` long where that is more.
    """

    def __init__(self, profile: Profile, side: int = 0, *, axis_s: float = 0.0) -> None:
        import pandas as pd

        table = profile.spans
        self.profile = profile
        self.whole_s = max(length_s(profile), axis_s)
        meta = profile.meta | {"id": f"{profile.meta.get('id')} explorer {side}"}
        self.reading = reading_until(self.whole_s, meta, table)
        self._columns = {name: pd.factorize(table[name]) for name in (*FILTERS, "name")}
        self._starts = _seconds(table["start_s"])
        self._durations = _seconds(table["duration_s"])
        self._ends = self._starts + self._durations

    def __len__(self) -> int:
        """Return how many spans there are."""
        return len(self._starts)

    def span(self, place: int) -> Row:
        """Return a span's row."""
        return self.reading.spans[place]

    def values(self, column: str) -> list[str | None]:
        """Return the values that occur in a column to filter by; None where one is not known."""
        codes, texts = self._columns[column]
        return [*map(str, texts), *([None] if (codes < 0).any() else [])]

    def fitting(self, chosen: Mapping[str, str | None], window: Window | None) -> np.ndarray:
        """Return the places of the spans with these values which were going on in the window."""
        fits = np.ones(len(self), dtype=bool)
        for column, value in chosen.items():
            fits &= self._with_value(column, value)
        if window is not None:
            fits &= (self._starts <= window[1]) & (self._ends >= window[0])
        return np.flatnonzero(fits)

    def first(self, places: np.ndarray, order: str, limit: int) -> list[int]:
        """Return the first of these spans in one of :data:`ORDERS`, ``limit`` at most."""
        by = -self._durations[places] if order == LONGEST else self._starts[places]
        found: list[int] = places[np.argsort(by, kind="stable")[:limit]].tolist()
        return found

    def likeness(self, place: int) -> Likeness:
        """Return by what the span is found again."""
        like = self._like(place)
        return Likeness(
            words.one_line(str(self.span(place)["span_id"]), _TEXT_LIMIT),
            like,
            int(np.count_nonzero(self._alike(like)[:place])),
        )

    def find(self, likeness: Likeness) -> int | None:
        """Return the place of that span, or of the one like it in another recording."""
        same = self._place_of.get(likeness.span_id)
        if same is not None and self._like(same) == likeness.like:
            return same
        alike = np.flatnonzero(self._alike(likeness.like))
        return int(alike[likeness.number]) if likeness.number < len(alike) else None

    def parent(self, place: int) -> int | None:
        """Return the place of the span around it, if that was recorded."""
        return self._place_of.get(self.span(place)["parent_id"] or "")

    def children(self, place: int) -> list[int]:
        """Return the places of the spans right within it, in order of time."""
        return self._children.get(place, [])

    def within(self, place: int) -> list[int]:
        """Return the places of the span and of all spans below it."""
        found, coming = {place: None}, [place]  # a damaged table may have a circle of parents
        while coming:
            below = [child for child in self.children(coming.pop()) if child not in found]
            found |= dict.fromkeys(below)
            coming += below
        return list(found)

    def request(self, place: int) -> Request | None:
        """Return the request that the span is, or was done for."""
        return self.requests.get(self.reading.owners[place] or "")

    @cached_property
    def requests(self) -> dict[str, Request]:
        """The requests by their spans' ids."""
        return {found.span["span_id"]: found for found in self.reading.found_requests}

    @property
    def failed(self) -> int:
        """How many requests (or, without any, spans) failed."""
        failed = np.logical_or.reduce([self._with_value("status", word) for word in FAILURES])
        is_request = self._with_value("name", REQUEST)
        return int(np.count_nonzero(failed & (is_request if is_request.any() else True)))

    def _with_value(self, column: str, value: str | None) -> np.ndarray:
        codes, texts = self._columns[column]
        code = -1 if value is None else next((n for n, t in enumerate(texts) if t == value), None)
        found: np.ndarray = codes == code if code is not None else np.zeros(len(self), dtype=bool)
        return found

    def _like(self, place: int) -> Texts:
        span = self.span(place)
        return tuple(_cut(span[column]) for column in ("name", "agent", "mode"))

    def _alike(self, like: Texts) -> np.ndarray:
        found = np.ones(len(self), dtype=bool)
        for column, text in zip(("name", "agent", "mode"), like, strict=True):
            codes, texts = self._columns[column]
            same = [n for n, known in enumerate(texts) if text is not None and _cut(known) == text]
            found &= np.isin(codes, same if text is not None else [-1])
        return found

    @cached_property
    def _place_of(self) -> dict[str, int]:
        return {span["span_id"]: place for place, span in enumerate(self.reading.spans)}

    @cached_property
    def _children(self) -> dict[int, list[int]]:
        found: dict[int, list[int]] = defaultdict(list)
        for place in np.argsort(self._starts, kind="stable").tolist():
            parent = self.parent(place)
            if parent is not None and parent != place:
                found[parent].append(place)
        return dict(found)


def length_s(profile: Profile) -> float:
    """Return the seconds that its time axes are long by themselves; never 0."""
    spans = profile.spans
    ends = _seconds(spans["start_s"]) + _seconds(spans["duration_s"])
    looks = _seconds(profile.memory["t_s"])
    last = (float(times.max()) for times in (ends, looks) if len(times))
    return max(float(profile.meta.get("duration_s") or 0.0), *last, 0.0) or 1.0


def reading_until(axis_s: float, meta: dict[str, Any], spans: pd.DataFrame | None) -> Reading:
    """Return a reading of these spans whose drawings' time axis is that long, or longer."""
    # A look at the memory makes an axis longer, and does not say that the recording was.
    look = schema.frame_from_rows(schema.MEMORY, [{"t_s": axis_s}])
    tables = {"memory": look} if spans is None else {"memory": look, "spans": spans}
    return Reading(Profile(meta, tables))


def labelled(values: Iterable[str | None], unknown: str, *, capital: bool) -> dict[str, str | None]:
    """Return the values by what they are called in a list: each has a name of its own."""
    found: dict[str, str | None] = {}
    for value in sorted(set(values), key=lambda value: (value is None, value or "")):
        name = unknown if value is None else words.one_line(value, 60) or '""'
        name = name.upper() if capital and value is not None else name
        count = 2
        unique = name
        while unique in found or unique == ALL:
            unique, count = f"{name} ({count})", count + 1
        found[unique] = value
    return found


def listed(span: Row) -> str:
    """Return a span as a line of a list: how long, what, who, where, how it ended, and when."""
    parts = [words.duration(span["duration_s"]), words.one_line(span["name"] or "", 60)]
    if span["agent"] is not None:
        parts.append(words.one_line(span["agent"], 40))
    if span["mode"] is not None:
        parts.append(words.one_line(words.mode_label(span["mode"]), 40))
    if span["status"] != "ok":
        parts.append(words.one_line(span["status"] or "unfinished", 20))
    return " · ".join([*parts, f"at {words.duration(span['start_s'])}"])


def _cut(text: str | None) -> str | None:
    return None if text is None else words.one_line(text, _TEXT_LIMIT)


def _seconds(column: pd.Series[float]) -> np.ndarray:
    return column.to_numpy(dtype="float64", na_value=0.0)
