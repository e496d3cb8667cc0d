"""The recorder: finished spans in rows of plain arrays, until somebody asks for a table.

A finished span is a row in an array; its texts are interned to small integers.
DataFrames are made by :meth:`Recorder.spans_frame`, after the recorded code has ended.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from claude_pm.recording.span_rows import FOREIGN, UNFINISHED, SpanRows, encodable

__all__ = ["Recorder", "encodable"]

if TYPE_CHECKING:
    import pandas as pd

    from claude_pm.recording.span import Span

Theirs = tuple[int, int, str | None]
"""A span made elsewhere that ours are opened in: the numbers of it and its trace, its agent."""

# The rank of an answer to "was a model called?": a mixture is as good as its best part.
_MODEL_USES = ("not called", "replayed", "live")


class AtBoundary(Protocol):
    """Reads the memory, if the last time was some while ago, or ``always``."""

    def __call__(self, *, always: bool = False) -> None: ...


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
        self.model_use = "not called"
        self.worker_tables: dict[str, list[Mapping[str, Any]]] = {}
        self.worker_overheads: list[dict[str, Any]] = []
        self.at_boundary: AtBoundary | None = None
        """Called before a span begins or ends."""
        self.thread_spans: dict[int, Span | None] | None = None
        """The open span of each thread that runs no task, by the thread's ident; None where
        nobody asks for it."""
        self.theirs: Callable[[Span | None], Theirs | None] | None = None
        """Returns the span of somebody else that is open here, if it is nearer than ours; None
        where nobody else makes spans."""
        self.outer: Recorder | None = None
        """That of the profile within which this one was begun."""
        self.open_spans: dict[int, Span] = {}
        """Spans that have begun, by number, so that they show even if they never end."""
        remote_span, remote_trace = _parse_traceparent(traceparent)
        self.rows = SpanRows(remote_trace)
        self.root_parent = self.rows.number_of(remote_span)
        """The number of the span whose children the roots are; 0 for none."""
        self.root_trace = FOREIGN if remote_trace is not None else 0
        """The number of the roots' trace; 0 where each has its own."""
        self.next_number = self.rows.next_number
        self.shared_facts = self.rows.shared_facts
        self.add_span = self.rows.add_span
        self.lock = self.rows.lock

    @property
    def finished(self) -> bool:
        """Whether recording has ended; spans that close later are not recorded."""
        return self.end_ns is not None

    def begin(self) -> None:
        """Let the recording's time begin now, and not when the recorder was made."""
        self.origin_ns = time.perf_counter_ns()

    def note_model_use(self, use: str) -> None:
        """Remember that a model was used: ``not called``, ``replayed`` or ``live``."""
        self.model_use = max(self.model_use, use, key=_MODEL_USES.index)

    def finish(self) -> None:
        """End the recording. Spans still open are kept, without a status and marked unfinished.

        Safe to call twice, if a KeyboardInterrupt came meanwhile too.
        """
        with self.lock:
            if self.end_ns is None:
                self.end_ns = time.perf_counter_ns()
            end_ns = self.end_ns
        # Other threads go on: they open spans that begin after the end, and one that is just being
        # closed may get its row there or here; then that from there stays.
        for span in list(self.open_spans.values()):
            if span.start_ns <= end_ns and not self.rows.has_row(span.number):
                self.add_span(span, span.facts({"unfinished": True}), UNFINISHED, end_ns)
        self.open_spans.clear()

    def end_in_child(self) -> None:
        """End the recording in a forked child, whatever context its spans are opened in."""
        # A thread that the child does not have may have held the old one.
        self.lock = self.rows.lock = threading.RLock()
        if self.end_ns is None:
            self.end_ns = time.perf_counter_ns()
        self.at_boundary = None

    def merge(self, recorded: Mapping[str, Any]) -> None:
        """Take over what another process, or an inner profile, has recorded (:meth:`dump`)."""
        with self.lock:
            for row in recorded["spans"]:
                self.rows.add_row(row)
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
            "spans": self.span_rows(),
            "tables": dict(tables),
            "model_use": self.model_use,
            "overhead": None if overhead is None else {"pid": self.rows.pid, **overhead},
        }

    def span_rows(self) -> list[dict[str, Any]]:
        """Return the recorded spans, one dict each, times as ``start_ns`` and ``end_ns``."""
        return list(self.rows.read())

    def spans_frame(self) -> pd.DataFrame:
        """Return the ``spans`` table, ordered by start."""
        from claude_pm.recording.span_table import spans_frame

        return spans_frame(self.rows, self.origin_ns, final=self.finished)


def _parse_traceparent(traceparent: str | None) -> tuple[int, str | None]:
    """Return (parent's span id as a number, trace id) of a W3C ``traceparent``, or (0, None)."""
    if traceparent is None:
        return 0, None
    _version, trace_id, span_id, _flags = traceparent.split("-")
    return int(span_id, 16), trace_id
