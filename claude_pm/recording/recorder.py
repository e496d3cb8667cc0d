"""The recorder: finished spans in columns of plain arrays, until somebody asks for a table.

A finished span costs some appends to typed arrays; strings are interned to small integers.
DataFrames are made by :meth:`Recorder.spans_frame`, after the recorded code has ended.
"""

from __future__ import annotations

import json
import math
import operator
import os
import threading
import time
from array import array
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from claude_pm.profiles import schema

if TYPE_CHECKING:
    import pandas as pd

    from claude_pm.recording.span import Span

_NULL = -1
_TEXTS = (
    "span_id", "parent_id", "trace_id", "name", "agent", "mode", "model", "status", "error",
    "cache", "thread", "task",
)  # fmt: skip
_WHOLES = (
    "start_ns", "end_ns", "input_tokens", "cache_read_tokens", "cache_write_tokens",
    "output_tokens", "pid",
)  # fmt: skip
_REALS = ("ttft_s", "cost_usd")
# The rank of an answer to "was a model called?": a mixture is as good as its best part.
_MODEL_USES = ("not called", "replayed", "live")


class Recorder:
    """Collects the spans of one profile, from any thread or task, and rows from workers.

    ``cpu`` and ``memory`` say what else the profile records, so that a worker process can record
    the same. All times are of ``time.perf_counter_ns``, whose zero is one for all processes of a
    machine (CPython documents it as system-wide), so a worker's spans need no shift.
    """

    def __init__(
        self, *, cpu: str | None = None, memory: str | None = None, traceparent: str | None = None
    ) -> None:
        self.cpu = cpu
        self.memory = memory
        self.origin_ns = time.perf_counter_ns()
        self.end_ns: int | None = None
        self.thread_id = threading.get_ident()
        self.remote_parent = _parse_traceparent(traceparent)
        self.model_use = "not called"
        self.worker_tables: dict[str, list[Mapping[str, Any]]] = {}
        self._lock = threading.Lock()
        self._open: dict[str, Span] = {}
        self._codes: dict[str, int] = {}
        self._strings: list[str] = []
        self._columns: dict[str, array[Any]] = {
            **{name: array("i") for name in _TEXTS},
            **{name: array("q") for name in _WHOLES},
            **{name: array("d") for name in _REALS},
        }
        self._attributes: dict[int, str] = {}

    @property
    def finished(self) -> bool:
        """Whether recording has ended; spans that close later are not recorded."""
        return self.end_ns is not None

    def note_model_use(self, use: str) -> None:
        """Remember that a model was used: ``not called``, ``replayed`` or ``live``."""
        self.model_use = max(self.model_use, use, key=_MODEL_USES.index)

    def opened(self, span: Span) -> None:
        """Remember a span that has begun, so that it shows even if it never ends."""
        with self._lock:
            self._open[span.span_id] = span

    def closed(self, span: Span) -> None:
        """Record a span that has ended."""
        with self._lock:
            if self._open.pop(span.span_id, None) is not None and not self.finished:
                self._append(_row_of(span))

    def finish(self) -> None:
        """End the recording. Spans still open are kept, without a status and marked unfinished."""
        with self._lock:
            if self.finished:
                return
            self.end_ns = time.perf_counter_ns()
            for span in self._open.values():
                row = _row_of(span)
                row["end_ns"] = self.end_ns
                row["attributes"] = {**span.attributes, "unfinished": True}
                self._append(row)
            self._open.clear()

    def merge(self, recorded: Mapping[str, Any]) -> None:
        """Take over what another process, or an inner profile, has recorded (:meth:`dump`)."""
        with self._lock:
            for row in recorded["spans"]:
                self._append(row)
            for name, rows in recorded["tables"].items():
                self.worker_tables.setdefault(name, []).extend(rows)
            self.note_model_use(recorded["model_use"])

    def dump(self, tables: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
        """Return all that was recorded as JSON values, for :meth:`merge` elsewhere.

        ``tables`` are rows of the other tables recorded beside; a ``t_ns`` in them is a reading
        of the same clock as the spans'.
        """
        return {"spans": self.rows(), "tables": dict(tables), "model_use": self.model_use}

    def rows(self) -> list[dict[str, Any]]:
        """Return the recorded spans, one dict each, times as ``start_ns`` and ``end_ns``."""
        with self._lock:
            columns = self._read_columns()
            return [
                {name: column[i] for name, column in columns.items()}
                | {"attributes": json.loads(self._attributes.get(i, "{}"))}
                for i in range(len(columns["start_ns"]))
            ]

    def spans_frame(self) -> pd.DataFrame:
        """Return the ``spans`` table, ordered by start."""
        with self._lock:
            columns = self._read_columns()
            starts, ends = columns["start_ns"], columns["end_ns"]
            columns["attributes"] = [self._attributes.get(i, "{}") for i in range(len(starts))]
        columns["start_s"] = [(start - self.origin_ns) / 1e9 for start in starts]
        columns["duration_s"] = [
            (end - start) / 1e9 for start, end in zip(starts, ends, strict=True)
        ]
        columns["self_s"] = _self_seconds(columns["span_id"], columns["parent_id"], starts, ends)
        order = sorted(range(len(starts)), key=starts.__getitem__)
        ordered = {name: [column[i] for i in order] for name, column in columns.items()}
        return schema.frame(schema.SPANS, ordered)

    def _append(self, row: Mapping[str, Any]) -> None:
        # What is wrong with a row shows before the first append: columns stay equally long.
        values: dict[str, float] = {name: self._code(row[name]) for name in _TEXTS}
        for name in _WHOLES:
            value = row[name]
            values[name] = _NULL if value is None else operator.index(value)
        for name in _REALS:
            value = row[name]
            values[name] = math.nan if value is None else float(value)
        if row["attributes"]:
            self._attributes[len(self._columns["start_ns"])] = _attributes_json(row["attributes"])
        for name, value in values.items():
            self._columns[name].append(value)

    def _code(self, text: str | None) -> int:
        if text is None:
            return _NULL
        code = self._codes.get(text)
        if code is None:
            self._strings.append(encodable(text))
            code = self._codes[text] = len(self._strings) - 1
        return code

    def _read_columns(self) -> dict[str, Sequence[Any]]:
        columns: dict[str, Sequence[Any]] = {name: self._texts(name) for name in _TEXTS}
        columns |= {name: _wholes(self._columns[name]) for name in _WHOLES}
        columns |= {name: _reals(self._columns[name]) for name in _REALS}
        return columns

    def _texts(self, name: str) -> list[str | None]:
        strings = self._strings
        return [None if code == _NULL else strings[code] for code in self._columns[name]]


def encodable(text: str) -> str:
    """Return the text with ``?`` for lone surrogates, which neither Parquet nor a screen takes."""
    return str(text).encode("utf-8", "replace").decode()


def _row_of(span: Span) -> dict[str, Any]:
    row: dict[str, Any] = {column: getattr(span, column) for column in span.COLUMNS}
    row |= {
        "span_id": span.span_id, "parent_id": span.parent_id, "trace_id": span.trace_id,
        "name": span.name, "start_ns": span.start_ns, "end_ns": span.end_ns,
        "thread": span.thread, "task": span.task, "pid": os.getpid(),
        "attributes": span.attributes,
    }  # fmt: skip
    return row


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


def _wholes(column: Iterable[int]) -> list[int | None]:
    return [None if value == _NULL else value for value in column]


def _reals(column: Iterable[float]) -> list[float | None]:
    return [None if math.isnan(value) else value for value in column]


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


def _parse_traceparent(traceparent: str | None) -> tuple[str | None, str | None]:
    """Return (parent's span id, trace id) of a W3C ``traceparent``, or two Nones."""
    if traceparent is None:
        return None, None
    _version, trace_id, span_id, _flags = traceparent.split("-")
    return span_id, trace_id
