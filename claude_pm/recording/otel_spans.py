"""Spans that others make with OpenTelemetry during a profile, as rows of ``spans``.

A span processor in the program's own TracerProvider sees them begin and end
(:mod:`claude_pm.recording.otel_provider`), and does nothing while no profile is recorded.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from claude_pm.profiles.otel import (
    AGENT,
    ERROR_TYPE,
    MODEL_OPERATIONS,
    OPERATION,
    RESPONSE_ID,
    USAGE_NAMES,
    from_genai,
    price_usd,
    status_of,
)  # fmt: skip
from claude_pm.recording import otel_provider
from claude_pm.recording.span import Span, current_recorder, current_span
from claude_pm.recording.span_columns import COLUMNS

if TYPE_CHECKING:
    from claude_pm.recording.instrument import RenameFile, Rows
    from claude_pm.recording.recorder import Recorder, Theirs

logger = logging.getLogger("claude_pm.recording")

TEXT_LIMIT = 4096
"""Longer texts among the attributes (whole conversations stand there) are cut, and say so."""
SCOPE = "otel.scope.name"
"""The library that made a span."""
# A start or end that was given by hand, and not read when the processor was called.
_GIVEN_NS = 1_000_000
# Two clocks are read at once if nothing was let in between, which more than so long tells.
_AT_ONCE_NS, _READINGS = 50_000, 10

_Key = tuple[int, int]


class _Seen:
    """A span of theirs: from its start to the end of the profile, for what is within it."""

    __slots__ = (
        "agent", "attributes", "begun_in", "end_ns", "error", "id", "name", "open", "outer",
        "parent", "parent_id", "start_ns", "status", "task", "thread", "trace_id",
    )  # fmt: skip

    def __init__(self, span: Any, parent: _Seen | None, outer: Span | None, now_ns: int) -> None:
        context = span.get_span_context()
        self.id = f"{context.span_id:016x}"
        self.trace_id = f"{context.trace_id:032x}"
        self.parent_id: str | None = None
        self.name: str = span.name
        self.open = span
        """OpenTelemetry's span while it is open, then None."""
        self.parent = parent
        self.outer = outer
        """Our span that it was opened in."""
        self.agent: str | None = None
        self.attributes: dict[str, Any] = {}
        self.status: str | None = None
        self.error: str | None = None
        self.start_ns = self.end_ns = _clock_ns(span.start_time, now_ns)
        self.begun_in = sys.exc_info()[1]
        """The exception that was being handled then: not the one that ends the span."""
        self.thread = threading.current_thread().name
        self.task = _task_name()


class OtelSpans:
    """Records the OpenTelemetry spans of one profile; an instrument."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._seen: dict[_Key, _Seen] = {}
        self._ended: list[_Seen] = []
        self._handed_over = 0
        self._stopped = False
        if "opentelemetry.trace" in sys.modules:
            # Now, before the recording's time begins: it may import the SDK, and set a provider.
            otel_provider.listen(_new_processor)

    def start(self) -> None:
        """Begin to listen, now or when the program first imports OpenTelemetry."""
        _listening[self._recorder] = self
        otel_provider.listen(_new_processor)

    def stop(self) -> None:
        """Listen no more; spans that are still open are kept, marked unfinished."""
        _listening.pop(self._recorder, None)
        if not _listening:
            otel_provider.stop_waiting()
        self._stopped = True
        now_ns = time.perf_counter_ns()
        for seen in list(self._seen.values()):
            if seen.open is not None:
                _finish(seen, seen.open, now_ns)
                seen.status = seen.error = None
                seen.attributes["unfinished"] = True
                self._ended.append(seen)

    def tables(self, rename_file: RenameFile) -> dict[str, Rows]:
        """Add the rows to the recorder's spans: no table of its own.

        Not when each ends: what it takes, the prices' tables too, would be the program's time.
        """
        del rename_file
        answers = _by_answer(self._ended)
        # From where an interrupt has cut it short.
        for seen in self._ended[self._handed_over :]:
            called = seen.attributes.get(OPERATION) in MODEL_OPERATIONS
            use = "live" if called else "not called"
            try:
                self._recorder.merge(
                    {"spans": [_row(seen, answers)], "tables": {}, "model_use": use}
                )
            except TypeError:  # a time of another age, which no column holds
                logger.debug("The OpenTelemetry span %r was not recorded.", seen.name)
            self._handed_over += 1
        self._ended, self._handed_over = [], 0
        self._seen.clear()
        return {}

    def overhead(self) -> dict[str, Any]:
        """Return nothing: what it costs, some 30 us a span, is not measured."""
        return {}

    def find(self, key: _Key) -> _Seen | None:
        """Return what is known of a span of this profile."""
        return self._seen.get(key)

    def around(self, ours: Span | None) -> Theirs | None:
        """Return the span of theirs that a span is opened in, if it is nearer than ours."""
        from opentelemetry.trace import get_current_span

        try:
            seen = self._seen.get(_key(get_current_span().get_span_context()))
        except Exception:  # noqa: BLE001 - not in the program's own code
            return None
        # Of two that are open here the one that began later is the nearer.
        if seen is None or (ours is not None and ours.start_ns > seen.start_ns):
            return None
        rows = self._recorder.rows
        with self._recorder.lock:
            number, trace = rows.number_of(int(seen.id, 16)), rows.trace_number_of(seen.trace_id)
        return number, trace, _agent(seen)

    def began(self, span: Any, parent: _Seen | None) -> None:
        """Note a span's start."""
        now_ns = time.perf_counter_ns()
        outer = current_span() if current_recorder() is self._recorder else None
        if parent is not None and outer is not None and outer.start_ns > parent.start_ns:
            parent = None
        seen = _Seen(span, parent, outer, now_ns)
        self._recorder.theirs = self.around
        rows = self._recorder.rows
        if parent is not None:
            seen.parent_id, seen.trace_id = parent.id, parent.trace_id
            seen.outer = parent.outer if outer is None else outer
        elif outer is not None:
            seen.parent_id, seen.trace_id = outer.span_id, outer.trace_id or seen.trace_id
        elif self._recorder.root_parent:
            seen.parent_id = f"{rows.id_of(self._recorder.root_parent):016x}"
            seen.trace_id = rows.trace_of(self._recorder.root_trace) or seen.trace_id
        self._seen[_key(span.get_span_context())] = seen

    def ended(self, span: Any) -> None:
        """Note a span's end."""
        seen = self._seen.get(_key(span.get_span_context()))
        if seen is None or seen.open is None or self._stopped:
            return
        _finish(seen, span, time.perf_counter_ns())
        self._ended.append(seen)


_listening: dict[Recorder, OtelSpans] = {}


def _key(context: Any) -> _Key:
    return context.trace_id, context.span_id


def _on_start(span: Any) -> None:
    parent_context = span.parent
    parent = owner = None
    recorder = current_recorder()
    if recorder is not None:
        owner = _listening.get(recorder)
    if parent_context is not None:
        key = _key(parent_context)
        # A task that was made before the profile has no recorder of its own.
        for each in [owner] if owner is not None else list(_listening.values()):
            parent = each.find(key)
            if parent is not None:
                owner = each
                break
        else:
            # A profile within the one that has the parent: that one will take the rows over.
            parent = next(
                (found for each in list(_listening.values()) if (found := each.find(key))), None
            )
    if owner is not None:
        owner.began(span, parent)


def _on_end(span: Any) -> None:
    for each in list(_listening.values()):
        each.ended(span)


def _new_processor() -> Any:
    from opentelemetry.sdk.trace import SpanProcessor

    class Forwarder(SpanProcessor):
        """Tells the profiles that are recorded; never fails in the program's own code."""

        def on_start(self, span: Any, parent_context: Any = None) -> None:
            del parent_context
            if _listening:
                _quietly(_on_start, span)

        def on_end(self, span: Any) -> None:
            if _listening:
                _quietly(_on_end, span)

    return Forwarder()


def _quietly(call: Callable[[Any], None], span: Any) -> None:
    try:
        call(span)
    except Exception:
        logger.debug("An OpenTelemetry span was not recorded.", exc_info=True)


def _finish(seen: _Seen, span: Any, now_ns: int) -> None:
    """Keep what a span says at its end."""
    seen.open = None
    seen.name = span.name
    # Cut now: what is kept to the end shall not hold whole conversations.
    seen.attributes = {key: _json_value(value) for key, value in (span.attributes or {}).items()}
    seen.agent = _text(seen.attributes.get(AGENT))
    end_ns = now_ns if span.end_time is None else _clock_ns(span.end_time, now_ns)
    seen.end_ns = max(end_ns, seen.start_ns)
    seen.status, seen.error = _outcome(span, seen.attributes, seen.begun_in)
    seen.begun_in = None
    scope = getattr(span, "instrumentation_scope", None)
    if scope is not None:
        seen.attributes.setdefault(SCOPE, scope.name)


def _outcome(
    span: Any, attributes: Mapping[str, Any], begun_in: BaseException | None
) -> tuple[str, str | None]:
    if span.status.status_code.name != "ERROR":
        ending = sys.exc_info()[1]
        if ending is None or ending is begun_in or isinstance(ending, Exception):
            return "ok", None
        # The SDK tells of no others: a cancelled task, an interrupt, a generator that is closed.
        kind = type(ending).__name__
        return status_of(kind), _cut(f"{kind}: {ending}")
    error_type = _text(attributes.get(ERROR_TYPE))
    message = span.status.description
    for event in reversed(span.events):
        if event.name == "exception":
            error_type = _text(event.attributes.get("exception.type")) or error_type
            said = _text(event.attributes.get("exception.message")) or ""
            short = (error_type or "Exception").rpartition(".")[2]
            message = f"{short}: {said}"
            break
    return status_of(error_type), _cut(message or error_type or "error")


def _row(seen: _Seen, answers: Mapping[str, Sequence[_Seen]]) -> dict[str, Any]:
    """Return the row of ``spans``."""
    around = _chat_around(seen) or _same_chat(seen, answers)
    counts = around is None or not any(name in around for name in USAGE_NAMES.values())
    name, columns, rest = from_genai(
        seen.name, seen.attributes, inner=around is not None, counts=counts
    )
    if counts and columns.get("cost_usd") is None:
        columns["cost_usd"] = price_usd(columns, rest)
    outer = seen.outer
    row: dict[str, Any] = dict.fromkeys(COLUMNS) | {
        "mode": None if outer is None else outer.mode,
        "pid": os.getpid(),
        "thread": seen.thread,
        "task": seen.task,
    }
    row |= columns
    return row | {
        "span_id": seen.id,
        "parent_id": seen.parent_id,
        "trace_id": seen.trace_id,
        "name": name,
        "agent": _agent(seen),
        "status": seen.status,
        "error": seen.error,
        "start_ns": seen.start_ns,
        "end_ns": seen.end_ns,
        "attributes": rest,
    }


def _chat_around(seen: _Seen) -> Mapping[str, Any] | None:
    """Return what the outermost call of a model around this one says; None where there is none.

    A framework and the client that it calls may both be instrumented: it is one call.
    """
    found = None
    if seen.attributes.get(OPERATION) in MODEL_OPERATIONS:
        at = seen.parent
        while at is not None:
            if at.attributes.get(OPERATION) in MODEL_OPERATIONS:
                found = at.attributes
            at = at.parent
    return found


def _by_answer(ended: Sequence[_Seen]) -> dict[str, list[_Seen]]:
    """Return the calls of a model by the id of the answer that they report."""
    found: dict[str, list[_Seen]] = {}
    for seen in ended:
        answer = _text(seen.attributes.get(RESPONSE_ID))
        if answer and seen.attributes.get(OPERATION) in MODEL_OPERATIONS:
            found.setdefault(answer, []).append(seen)
    return found


def _same_chat(seen: _Seen, answers: Mapping[str, Sequence[_Seen]]) -> Mapping[str, Any] | None:
    """Return what another library says of the same answer, if its span has this one's time in it.

    LangChain's spans are not open for what it calls: the client's span is no child of its own.
    """
    for other in answers.get(_text(seen.attributes.get(RESPONSE_ID)) or "", ()):
        if (
            other.trace_id == seen.trace_id
            and other.start_ns <= seen.start_ns
            and other.end_ns >= seen.end_ns
            and other.attributes.get(SCOPE) != seen.attributes.get(SCOPE)
        ):
            return other.attributes
    return None


def _agent(seen: _Seen) -> str | None:
    """Return the agent of the nearest span that names one."""
    at: _Seen | None = seen
    while at is not None:
        if at.open is not None:
            at.agent = _text((at.open.attributes or {}).get(AGENT))
        if at.agent is not None:
            return at.agent
        at = at.parent
    return None if seen.outer is None else seen.outer.agent


def _clock_ns(time_ns: int | None, now_ns: int) -> int:
    """Return a wall-clock time on the clock of our spans; one of just now is the reading's."""
    if time_ns is None:
        return now_ns
    wall_ns, clock_ns = _both_clocks()
    since_ns = wall_ns - time_ns - (clock_ns - now_ns)
    return now_ns - since_ns if abs(since_ns) > _GIVEN_NS else now_ns


def _both_clocks() -> tuple[int, int]:
    """Return what the wall clock and the clock of our spans say at the same time."""
    wall_ns = clock_ns = 0
    for _ in range(_READINGS):
        clock_ns, wall_ns = time.perf_counter_ns(), time.time_ns()
        if time.perf_counter_ns() - clock_ns < _AT_ONCE_NS:
            break
    return wall_ns, clock_ns


def _task_name() -> str | None:
    try:
        task = asyncio.current_task()
    except RuntimeError:
        return None
    return None if task is None else task.get_name()


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _cut(text: str) -> str:
    if len(text) <= TEXT_LIMIT:
        return text
    return f"{text[:TEXT_LIMIT]} ... ({len(text) - TEXT_LIMIT} more characters were cut)"


def _json_value(value: Any) -> Any:
    if isinstance(value, str):
        return _cut(value)
    if isinstance(value, bytes):
        return _cut(value.decode("utf-8", "replace"))
    if isinstance(value, Mapping):
        return {str(key): _json_value(each) for key, each in value.items()}
    if isinstance(value, Sequence):
        return [_json_value(each) for each in value]
    return value
