"""The recorder: finished spans in columns of plain arrays, until somebody asks for a table.

A finished span costs some appends to typed arrays; strings are interned to small integers.
DataFrames are made by :meth:`Recorder.spans_frame`, after the recorded code has ended.
"""

from __future__ import annotations

import json
import math
import os
import struct
import threading
import time
from array import array
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from claude_pm.profiles import schema

if TYPE_CHECKING:
    import pandas as pd

    from claude_pm.recording.span import Span

_NULL = -1
# A span is one row of fixed size: ids, codes of texts, whole numbers, reals.
_IDS = ("span_id", "parent_id")
_TEXTS = (
    "trace_id", "name", "agent", "mode", "model", "status", "error", "cache", "thread", "task",
)  # fmt: skip
_COUNTS = (
    "start_ns", "end_ns", "input_tokens", "cache_read_tokens", "cache_write_tokens",
    "output_tokens", "pid",
)  # fmt: skip
_REALS = ("ttft_s", "cost_usd")
_COLUMNS = (*_IDS, *_TEXTS, "attributes", *_COUNTS, *_REALS)
_ROW = struct.Struct(f"=2Q{len(_TEXTS) + 1}I{len(_COUNTS)}q{len(_REALS)}d")
_NAN = math.nan
# Values that nobody can change after they were recorded: their JSON can wait.
_IMMUTABLE = frozenset({str, int, float, bool, type(None)})
# Attributes that are looked for again; those of later spans are held one by one.
_SHARED = 1000
# The rank of an answer to "was a model called?": a mixture is as good as its best part.
_MODEL_USES = ("not called", "replayed", "live")


class Recorder:
    """Collects the spans of one profile, from any thread or task, and rows from workers.

    ``cpu``, ``memory`` and ``internals`` say what else the profile records, so that a worker
    process can record the same. All times are of ``time.perf_counter_ns``, whose zero is one for
    all processes of a machine (CPython documents it as system-wide), so a worker's spans need no
    shift.
    """

    def __init__(
        self,
        *,
        cpu: str | None = None,
        memory: str | None = None,
        internals: bool = False,
        traceparent: str | None = None,
    ) -> None:
        self.cpu = cpu
        self.memory = memory
        self.internals = internals
        self.origin_ns = time.perf_counter_ns()
        self.end_ns: int | None = None
        self.thread_id = threading.get_ident()
        self.remote_parent = _parse_traceparent(traceparent)
        self.model_use = "not called"
        self.worker_tables: dict[str, list[Mapping[str, Any]]] = {}
        self.worker_overheads: list[dict[str, Any]] = []
        self.thread_spans: dict[int, Span | None] | None = None
        """The open span of each thread that runs no task, by the thread's ident; None where
        nobody asks for it."""
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self.open_spans: dict[int, Span] = {}
        """Spans that have begun, so that they show even if they never end."""
        self._codes = _Codes()
        # An array grows by eighths; most other buffers double.
        self._rows = array("I")
        self._attributes = _Attributes()

    @property
    def finished(self) -> bool:
        """Whether recording has ended; spans that close later are not recorded."""
        return self.end_ns is not None

    def note_model_use(self, use: str) -> None:
        """Remember that a model was used: ``not called``, ``replayed`` or ``live``."""
        self.model_use = max(self.model_use, use, key=_MODEL_USES.index)

    def closed(self, span: Span) -> None:
        """Record a span that has ended."""
        with self._lock:
            if self.open_spans.pop(span.id_number, None) is not None and self.end_ns is None:
                self._append_span(span)

    def finish(self) -> None:
        """End the recording. Spans still open are kept, without a status and marked unfinished."""
        with self._lock:
            if self.finished:
                return
            self.end_ns = time.perf_counter_ns()
            while self.open_spans:
                _, span = self.open_spans.popitem()
                attributes = {**span.attributes, "unfinished": True}
                self._append_span(span, end_ns=self.end_ns, attributes=attributes)

    def merge(self, recorded: Mapping[str, Any]) -> None:
        """Take over what another process, or an inner profile, has recorded (:meth:`dump`)."""
        with self._lock:
            for row in recorded["spans"]:
                self._append_row(row)
            for name, rows in recorded["tables"].items():
                self.worker_tables.setdefault(name, []).extend(rows)
            self.note_model_use(recorded["model_use"])
            overhead = recorded.get("overhead")
            if overhead is not None:
                self.worker_overheads.append(overhead)

    def dump(
        self,
        tables: Mapping[str, Sequence[Mapping[str, Any]]],
        overhead: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Return all that was recorded as JSON values, for :meth:`merge` elsewhere.

        ``tables`` are rows of the other tables recorded beside; a ``t_ns`` in them is a reading
        of the same clock as the spans'. ``overhead`` is what recording cost a worker.
        """
        return {
            "spans": self.rows(),
            "tables": dict(tables),
            "model_use": self.model_use,
            "overhead": None if overhead is None else {"pid": self._pid, **overhead},
        }

    def rows(self) -> list[dict[str, Any]]:
        """Return the recorded spans, one dict each, times as ``start_ns`` and ``end_ns``."""
        with self._lock:
            columns = self._read_columns()
        return [
            {name: column[i] for name, column in columns.items()}
            | {"attributes": json.loads(columns["attributes"][i])}
            for i in range(len(columns["start_ns"]))
        ]

    def spans_frame(self) -> pd.DataFrame:
        """Return the ``spans`` table, ordered by start."""
        with self._lock:
            columns = self._read_columns()
        starts, ends = columns["start_ns"], columns["end_ns"]
        columns["start_s"] = [(start - self.origin_ns) / 1e9 for start in starts]
        columns["duration_s"] = [
            (end - start) / 1e9 for start, end in zip(starts, ends, strict=True)
        ]
        columns["self_s"] = _self_seconds(columns["span_id"], columns["parent_id"], starts, ends)
        order = sorted(range(len(starts)), key=starts.__getitem__)
        ordered = {name: [column[i] for i in order] for name, column in columns.items()}
        return schema.frame(schema.SPANS, ordered)

    def _append_span(
        self,
        span: Span,
        *,
        end_ns: int | None = None,
        attributes: Mapping[str, Any] | None = None,
    ) -> None:
        codes = self._codes
        if attributes is None:
            attributes = span.recorded_attributes
        self._rows.frombytes(
            _ROW.pack(
                span.id_number,
                span.parent_number,
                codes[span.trace_id],
                codes[span.name],
                codes[span.agent],
                codes[span.mode],
                codes[span.model],
                codes[span.status],
                codes[span.error],
                codes[span.cache],
                codes[span.thread],
                codes[span.task],
                self._attributes.code(attributes) if attributes else 0,
                span.start_ns,
                span.end_ns if end_ns is None else end_ns,
                _NULL if span.input_tokens is None else span.input_tokens,
                _NULL if span.cache_read_tokens is None else span.cache_read_tokens,
                _NULL if span.cache_write_tokens is None else span.cache_write_tokens,
                _NULL if span.output_tokens is None else span.output_tokens,
                self._pid,
                _NAN if span.ttft_s is None else span.ttft_s,
                _NAN if span.cost_usd is None else span.cost_usd,
            )
        )

    def _append_row(self, row: Mapping[str, Any]) -> None:
        """Append a row of :meth:`rows`."""
        try:
            packed = _ROW.pack(
                *(0 if row[name] is None else int(row[name], 16) for name in _IDS),
                *(self._codes[row[name]] for name in _TEXTS),
                self._attributes.code(row["attributes"]),
                *(_NULL if row[name] is None else row[name] for name in _COUNTS),
                *(_NAN if row[name] is None else row[name] for name in _REALS),
            )
        except struct.error as error:
            raise TypeError(f"A span has a value that its column cannot hold: {error}.") from None
        self._rows.frombytes(packed)

    def _read_columns(self) -> dict[str, Sequence[Any]]:
        rows = list(zip(*_ROW.iter_unpack(self._rows), strict=True)) or [()] * len(_COLUMNS)
        read = dict(zip(_COLUMNS, rows, strict=True))
        texts, attributes = self._codes.texts(), self._attributes.texts()
        columns: dict[str, Sequence[Any]] = {
            name: [f"{number:016x}" if number else None for number in read[name]] for name in _IDS
        }
        columns |= {name: [texts[code] for code in read[name]] for name in _TEXTS}
        columns["attributes"] = [attributes[code] for code in read["attributes"]]
        columns |= {
            name: [None if number == _NULL else number for number in read[name]] for name in _COUNTS
        }
        columns |= {
            name: [None if math.isnan(value) else value for value in read[name]] for name in _REALS
        }
        return columns


class _Codes(dict[str | None, int]):
    """Texts as small whole numbers; a new text gets the next."""

    def __init__(self) -> None:
        super().__init__({None: 0})

    def __missing__(self, text: str | None) -> int:
        code = self[text] = len(self)
        return code

    def texts(self) -> list[str | None]:
        """Return the texts, each at its number."""
        return [None if text is None else encodable(text) for text in self]


class _Attributes:
    """Spans' attributes by small whole numbers; 0 stands for none."""

    def __init__(self) -> None:
        self._held: list[Mapping[str, Any] | str] = ["{}"]
        self._shared: dict[tuple[Any, ...], int] = {}

    def code(self, attributes: Mapping[str, Any]) -> int:
        """Return the number of these attributes; most spans of a name have the same."""
        values = attributes.values()
        types = tuple(map(type, values))
        if not _IMMUTABLE.issuperset(types):
            return self._hold(_attributes_json(attributes))
        # With the types: 1, 1.0 and True are equal, but not the same JSON.
        key = (*attributes, *types, *values)
        code = self._shared.get(key)
        if code is None:
            code = self._hold(attributes)
            if code < _SHARED:
                self._shared[key] = code
        return code

    def texts(self) -> list[str]:
        """Return the attributes as JSON objects, each at its number."""
        return [held if isinstance(held, str) else _attributes_json(held) for held in self._held]

    def _hold(self, attributes: Mapping[str, Any] | str) -> int:
        self._held.append(attributes)
        return len(self._held) - 1


def encodable(text: str) -> str:
    """Return the text with ``?`` for lone surrogates, which neither Parquet nor a screen takes."""
    return str(text).encode("utf-8", "replace").decode()


def _attributes_json(attributes: Mapping[str, Any]) -> str:
    """Return a JSON object; a value that JSON cannot hold stands in it as text."""
    try:
        return _json(attributes)
    except (TypeError, ValueError):
        return _json({key: _json_value(value) for key, value in attributes.items()})


def _json(value: Any) -> str:
    # Escaped to ASCII, a lone surrogate would come back with whoever reads the JSON.
    return encodable(json.dumps(value, default=str, allow_nan=False, ensure_ascii=False))


def _json_value(value: Any) -> Any:
    try:
        _json(value)
    except (TypeError, ValueError):
        return str(value)
    return value


def _self_seconds(
    span_ids: Sequence[str | None],
    parent_ids: Sequence[str | None],
    starts: Sequence[int],
    ends: Sequence[int],
) -> list[float]:
    """Each span's duration less the union of its children's intervals, cut to its own."""
    children: dict[str, list[tuple[int, int]]] = {}
    for parent, start, end in zip(parent_ids, starts, ends, strict=True):
        if parent is not None:
            children.setdefault(parent, []).append((start, end))
    own = []
    for span_id, start, end in zip(span_ids, starts, ends, strict=True):
        covered, reached = 0, start
        for child_start, child_end in sorted(children.get(span_id or "", ())):
            begin, finish = max(child_start, reached), min(child_end, end)
            if finish > begin:
                covered += finish - begin
                reached = finish
        own.append((end - start - covered) / 1e9)
    return own


def _parse_traceparent(traceparent: str | None) -> tuple[int, str | None]:
    """Return (parent's span id as a number, trace id) of a W3C ``traceparent``, or (0, None)."""
    if traceparent is None:
        return 0, None
    _version, trace_id, span_id, _flags = traceparent.split("-")
    return int(span_id, 16), trace_id
