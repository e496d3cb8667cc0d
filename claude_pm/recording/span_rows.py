"""Where spans lie while they are recorded: rows of fixed size in plain arrays.

A span is 44 bytes: what many spans share (texts, numbers, attributes) is held once, and a row
names it by a small whole number. A million spans take some 48 MB.

To add a row takes no lock, but where room has to be made: it would cost a tenth of a span, and a
signal's handler or a finalizer that opens spans could meet it held. Each step that two threads may
take at once is one call into C, which the interpreter's own lock makes whole: take the next number,
write a row to the place that this number has, set a default.
"""

from __future__ import annotations

import functools
import itertools
import json
import marshal
import math
import os
import struct
import threading
from array import array
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from claude_pm.recording import ids
from claude_pm.recording.span_columns import COLUMNS, KINDS, column_value

if TYPE_CHECKING:
    from claude_pm.recording.span import Span

NULL = -(2**63)
"""Stands for null in a column of whole numbers."""
NAN = math.nan
FOREIGN = 2**31
"""Span numbers and traces from here on stand for ids made elsewhere, in the order they came."""

Outcome = tuple[str | None, str | None]
"""What the end of a span said: its status and its error."""
OK: Outcome = ("ok", None)
UNFINISHED: Outcome = (None, None)

TEXTS = ("name", "agent", "mode", "model", "status", "error", "cache")
COUNTS = ("input_tokens", "cache_read_tokens", "cache_write_tokens", "output_tokens")
REALS = ("ttft_s", "cost_usd")
_COLUMN_TEXTS = TEXTS[1:]
_NUMBERS = (*((name, NULL) for name in COUNTS), *((name, NAN) for name in REALS))
FACT_COLUMNS = (*TEXTS, "attributes", *COUNTS, *REALS)
FACT_ROW = struct.Struct(f"={len(TEXTS) + 1}I{len(COUNTS)}q{len(REALS)}d")
SPAN_COLUMNS = ("number", "parent", "trace", "fact", "place", "task", "outcome", "start", "end")
SPAN_ROW = struct.Struct("=7I2q")
_pack_span_into = SPAN_ROW.pack_into
_SPAN_BYTES = SPAN_ROW.size

_K = TypeVar("_K")

# Values that nobody can change after they were recorded: their JSON can wait.
_IMMUTABLE = frozenset({str, int, float, bool, type(None)})
# Things that are looked for again; further ones are held one by one.
_SHARED = 8192
_MORE_SPANS = 512
_MORE_FACTS = 64
"""Rows that room is made for at a time."""


class Facts:
    """What a span says of itself beside its ids and times; spans that say the same share it."""

    __slots__ = ("agent", "attributes", "code", "columns", "json", "mode", "name")

    def __init__(
        self,
        name: str,
        columns: Mapping[str, Any],
        attributes: Mapping[str, Any],
        json: str | None = None,
    ) -> None:
        self.name = name
        self.columns = columns
        self.attributes = attributes
        self.json = json
        """The attributes as a JSON object, where that had to be made at once."""
        self.agent = columns["agent"]
        self.mode = columns["mode"]
        self.code = 0
        """Its row's number, from 1; 0 while no span with it was recorded."""


class SpanRows:
    """The rows of one recorder. Any thread may add to them at any time."""

    def __init__(self, remote_trace: str | None) -> None:
        self.first_id = ids.new_span_id()
        """The id of the recorder's first span; its later ones count on from there."""
        self.trace_start = ids.new_trace_half()
        """The first half of own trace ids; the second is the root's id."""
        self.foreign_ids: _Foreign[int] = _Foreign()
        self.foreign_traces: _Foreign[str | None] = _Foreign(remote_trace)
        self.pid = os.getpid()
        self.lock = threading.RLock()
        """Whoever looks into the rows where they lie holds it: they do not grow meanwhile."""
        self.next_number = itertools.count(1).__next__
        """Returns the number of a new span, and of its row."""
        self._next_fact = itertools.count(1).__next__
        # Arrays grow by sixteenths; most other buffers double. Row 0 is nobody's.
        self.spans = array("B", bytes(SPAN_ROW.size))
        self.facts = array("B", bytes(FACT_ROW.size))
        self.texts: Codes[str | None] = Codes(None)
        self.attributes = _Attributes()
        self.tasks: Codes[str | None] = Codes(None)
        self.places: Codes[tuple[int | None, str | None]] = Codes()
        self.own_places = _OwnPlaces(self.pid, self.places)
        self.outcomes = Codes(OK, UNFINISHED)
        self.shared_facts = functools.lru_cache(maxsize=_SHARED, typed=True)(_make_facts)
        """``(name, inherited agent, inherited mode, **values)``: the facts, found again if they
        were asked for before. A TypeError says that they cannot be shared, or are wrong."""

    def add_span(
        self,
        span: Span,
        facts: Facts,
        outcome: Outcome | None,
        end_ns: int,
        *,
        has_room: bool = False,
    ) -> None:
        """Write a span's row, anew if there is one; the outcome None stands for ``OK``."""
        number = span.number
        fact = facts.code or self.facts_code(facts)
        try:
            _pack_span_into(
                self.spans,
                number * _SPAN_BYTES,
                number,
                span.parent_number,
                span.trace_number,
                fact,
                self.own_places[span.thread],
                self.tasks[span.task],
                0 if outcome is None else self.outcomes[outcome],
                span.start_ns,
                end_ns,
            )
        except struct.error:
            # Not whether there is room now: another thread may have made it meanwhile.
            if has_room:
                raise
            self._make_room(self.spans, number, SPAN_ROW.size, _MORE_SPANS)
            self.add_span(span, facts, outcome, end_ns, has_room=True)

    def has_row(self, number: int) -> bool:
        """Whether a span's row was written."""
        begin = number * _SPAN_BYTES
        return any(self.spans[begin : begin + _SPAN_BYTES])

    def _make_room(self, rows: array[int], number: int, row_bytes: int, more: int) -> None:
        if len(rows) < (number + 1) * row_bytes:
            with self.lock:
                while len(rows) < (number + 1) * row_bytes:
                    rows.frombytes(bytes(more * row_bytes))

    def add_row(self, row: Mapping[str, Any]) -> None:
        """Append a row of :meth:`read`, of these rows or others.

        Raises:
            TypeError: a column cannot hold its value; nothing was appended.
        """
        columns = {name: column_value(name, row[name]) for name in COLUMNS}
        facts = Facts(row["name"], columns, row["attributes"])
        try:
            packed = SPAN_ROW.pack(
                *(
                    0 if row[name] is None else self.number_of(int(row[name], 16))
                    for name in ("span_id", "parent_id")
                ),
                self.trace_number_of(row["trace_id"]),
                self.facts_code(facts),
                self.places[row["pid"], row["thread"]],
                self.tasks[row["task"]],
                self.outcomes[UNFINISHED],
                row["start_ns"],
                row["end_ns"],
            )
        except (struct.error, OverflowError, ValueError) as error:
            raise TypeError(f"A span has a value that its column cannot hold: {error}.") from None
        number = self.next_number()
        self._make_room(self.spans, number, SPAN_ROW.size, _MORE_SPANS)
        begin = number * SPAN_ROW.size
        self.spans[begin : begin + SPAN_ROW.size] = array("B", packed)

    def read(self) -> Iterator[dict[str, Any]]:
        """Yield the spans, one dict of JSON values each, times as ``start_ns`` and ``end_ns``."""
        # Copied: what is looked into cannot grow. And the rows first, for what they name was there
        # before them.
        spans, facts = bytes(self.spans), list(FACT_ROW.iter_unpack(bytes(self.facts)))
        texts, tasks = encoded_texts(self.texts), encoded_texts(self.tasks)
        places, outcomes = self.places.listed(), self.outcomes.listed()
        attributes = self.attributes.texts()
        for number, parent, trace, fact, place, task, outcome, start, end in SPAN_ROW.iter_unpack(
            spans
        ):
            if fact == 0:
                continue
            values = facts[fact]
            said = dict(zip(TEXTS, (texts[code] for code in values), strict=False))
            counted = dict(zip((*COUNTS, *REALS), values[len(TEXTS) + 1 :], strict=True))
            status, error = outcomes[outcome]
            pid, thread = places[place]
            yield {
                "span_id": f"{self.id_of(number):016x}" if number else None,
                "parent_id": f"{self.id_of(parent):016x}" if parent else None,
                "trace_id": self.trace_of(trace),
                **said,
                **{
                    name: None if value == NULL or value != value else value  # noqa: PLR0124
                    for name, value in counted.items()
                },
                "status": status if said["status"] is None else said["status"],
                "error": encoded(error) if said["error"] is None else said["error"],
                "pid": pid,
                "thread": encoded(thread),
                "task": tasks[task],
                "attributes": json.loads(attributes[values[len(TEXTS)]]),
                "start_ns": start,
                "end_ns": end,
            }

    def facts_code(self, facts: Facts) -> int:
        """Return the number of these facts' row, which is made when first asked for."""
        if facts.code == 0:
            code = self._next_fact()
            self._make_room(self.facts, code, FACT_ROW.size, _MORE_FACTS)
            get = facts.columns.get
            FACT_ROW.pack_into(
                self.facts,
                code * FACT_ROW.size,
                self.texts[facts.name],
                *map(self.texts.__getitem__, map(get, _COLUMN_TEXTS)),
                self.attributes.code(facts.json or facts.attributes),
                *[null if (value := get(name)) is None else value for name, null in _NUMBERS],
            )
            # Last: from now on others name the row.
            facts.code = code
        return facts.code

    def number_of(self, span_id: int) -> int:
        """Return the number that stands for a span's id; 0 for 0, which is none."""
        if span_id == 0:
            return 0
        number = span_id - self.first_id + 1
        if 0 < number < FOREIGN:
            return number
        return FOREIGN + self.foreign_ids[span_id]

    def id_of(self, number: int) -> int:
        """Return the id that a span's number stands for."""
        if number >= FOREIGN:
            return self.foreign_ids.key_of(number - FOREIGN)
        return self.first_id + number - 1 if number else 0

    def trace_number_of(self, trace_id: str | None) -> int:
        """Return the number that stands for a trace's id."""
        return FOREIGN + self.foreign_traces[trace_id]

    def trace_of(self, number: int) -> str | None:
        """Return the trace id that a number stands for: a root's own, or one from elsewhere."""
        if number >= FOREIGN:
            return self.foreign_traces.key_of(number - FOREIGN)
        return f"{self.trace_start}{self.first_id + number - 1:016x}"


class Codes(dict[_K, int], Generic[_K]):
    """Things as small whole numbers, their codes; a new one gets the next."""

    def __init__(self, *first: _K) -> None:
        super().__init__(zip(first, itertools.count(), strict=False))
        self._next = itertools.count(len(first)).__next__

    def __missing__(self, key: _K) -> int:
        # Two threads that ask for it at once take two codes, of which one is never used.
        return self.setdefault(key, self._next())

    def listed(self) -> list[_K]:
        """Return the things, each at its code; at a code that is not used stands any of them."""
        keys = list(self)
        codes = [self[key] for key in keys]
        listed = keys[:1] * (max(codes, default=-1) + 1)
        for key, code in zip(keys, codes, strict=True):
            listed[code] = key
        return listed


class _Foreign(Codes[_K]):
    """Codes of things that are few enough to be found by their codes too, at any time."""

    def __init__(self, *first: _K) -> None:
        super().__init__(*first)
        self._keys = {code: key for key, code in self.items()}

    def __missing__(self, key: _K) -> int:
        code = self._next()
        # First: from the next step on others have the code.
        self._keys[code] = key
        return self.setdefault(key, code)

    def key_of(self, code: int) -> _K:
        """Return the thing that has this code."""
        return self._keys[code]


class _OwnPlaces(dict[str | None, int]):
    """Codes of this process's threads, by name."""

    def __init__(self, pid: int, places: Codes[tuple[int | None, str | None]]) -> None:
        super().__init__()
        self._pid = pid
        self._places = places

    def __missing__(self, thread: str | None) -> int:
        code = self[thread] = self._places[self._pid, thread]
        return code


class _Attributes:
    """Spans' attributes by small whole numbers; 0 stands for none."""

    def __init__(self) -> None:
        self._held: list[bytes | str | None] = []
        self._shared: dict[bytes | str, int] = {}
        self._next = itertools.count(1).__next__

    def code(self, attributes: Mapping[str, Any] | str) -> int:
        """Return the number of these attributes; most spans of a name have the same."""
        if not attributes:
            return 0
        held: bytes | str
        if isinstance(attributes, str):
            held = attributes
        elif _IMMUTABLE.issuperset(map(type, attributes.values())):
            # A quarter of the time and memory that JSON or a dict take; version 2 is the last one
            # that writes equal values equally.
            held = marshal.dumps(dict(attributes), 2)
        else:
            held = attributes_json(attributes)
        code = self._shared.get(held)
        if code is None:
            code = self._next()
            while code >= len(self._held):
                self._held.extend([None] * _MORE_FACTS)
            self._held[code] = held
            if code < _SHARED:
                self._shared[held] = code
        return code

    def texts(self) -> list[str]:
        """Return the attributes as JSON objects, each at its number."""
        return [
            "{}" if held is None
            else held if isinstance(held, str)
            else attributes_json(marshal.loads(held))  # noqa: S302
            for held in self._held or [None]
        ]  # fmt: skip


def _make_facts(name: str, agent: str | None, mode: str | None, /, **values: Any) -> Facts:
    columns: dict[str, Any] = {"agent": agent, "mode": mode}
    attributes = {}
    for key, value in values.items():
        if key in KINDS:
            is_text = type(value) is str is KINDS[key]
            columns[key] = value if is_text else column_value(key, value)
        elif type(value) in _IMMUTABLE:
            attributes[key] = value
        else:
            raise TypeError(f"{key} can change")
    return Facts(name, columns, attributes)


def encoded_texts(codes: Codes[str | None]) -> list[str | None]:
    """Return the texts, each at its code."""
    return [encoded(text) for text in codes.listed()]


def encoded(text: str | None) -> str | None:
    """Return :func:`encodable` text; None for None."""
    return None if text is None else encodable(text)


def encodable(text: object) -> str:
    """Return the text with ``?`` for lone surrogates, which neither Parquet nor a screen takes."""
    # Of a text that is a member of an Enum, str() would be the member's name.
    characters = text if isinstance(text, str) else str(text)
    return str.encode(characters, "utf-8", "replace").decode()


def attributes_json(attributes: Mapping[str, Any]) -> str:
    """Return a JSON object; a value that JSON cannot hold stands in it as text."""
    try:
        return _json(attributes)
    except Exception:  # noqa: BLE001 - the values' own code
        return _json({key: _json_value(value) for key, value in attributes.items()})


def _json(value: Any) -> str:
    # Escaped to ASCII, a lone surrogate would come back with whoever reads the JSON.
    return encodable(_to_json(value))


def _json_value(value: Any) -> Any:
    try:
        _json(value)
    except Exception:  # noqa: BLE001 - the value's own code
        return _text_of(value)
    return value


def _text_of(value: object) -> str:
    try:
        return str(value)
    except Exception:  # noqa: BLE001 - it would be raised in the code that the span is of
        return type(value).__name__


_to_json = json.JSONEncoder(default=_text_of, allow_nan=False, ensure_ascii=False).encode
