"""Spans: named intervals that know their parent, across tasks, threads and processes.

``claude_pm.span("name")`` costs next to nothing where no profile is being recorded.
"""

# ruff: noqa: SLF001 - span() itself fills the spans: a call of __init__ for each costs too much

from __future__ import annotations

import asyncio
import functools
import inspect
import os
import threading
import time
from asyncio import _get_running_loop, current_task
from collections.abc import Callable, Mapping
from contextvars import Context, ContextVar, Token
from itertools import pairwise
from types import TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, Self, TypeVar, overload

from claude_pm.recording.ids import new_trace_id as new_trace_id  # noqa: PLC0414 - for others
from claude_pm.recording.span_columns import COLUMNS, KINDS, column_value
from claude_pm.recording.span_rows import Facts, attributes_json

if TYPE_CHECKING:
    from claude_pm.recording.recorder import Recorder

_P = ParamSpec("_P")
_R = TypeVar("_R")

# The span that is open here, or the recorder where none is.
_position: ContextVar[Span | Recorder | None] = ContextVar("claude_pm_position", default=None)


Opened = tuple["Span", int]
"""A span and its number, which tells one use of it from the next."""


class _Column:
    """A column of a span, read and set as an attribute of it."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, span: Span, owner: type[Span]) -> Any:
        return span.column(self._name)

    def __set__(self, span: Span, value: Any) -> None:
        span.set(**{self._name: value})


class Span:
    """One interval. Used as a context manager; made by :func:`span`.

    Attributes that are columns of the ``spans`` table are set by :meth:`set`; everything else
    given there goes into the ``attributes`` column.
    """

    COLUMNS = COLUMNS
    # Few slots, and set by span() itself: a span is made for every step of a request.
    __slots__ = (
        "_agent", "_attributes", "_columns", "_mode", "_recorder", "_token", "end_ns", "name",
        "number", "outcome", "parent_number", "shared_facts", "start_ns", "task", "thread",
        "trace_number",
    )  # fmt: skip

    agent = _Column("agent")
    mode = _Column("mode")
    model = _Column("model")
    status = _Column("status")
    error = _Column("error")
    input_tokens = _Column("input_tokens")
    cache_read_tokens = _Column("cache_read_tokens")
    cache_write_tokens = _Column("cache_write_tokens")
    output_tokens = _Column("output_tokens")
    ttft_s = _Column("ttft_s")
    cost_usd = _Column("cost_usd")
    cache = _Column("cache")

    name: str
    number: int
    """Counts the spans of a recorder, from 1; 0 where nothing is recorded."""
    parent_number: int
    """The number of the span it is part of; 0 for a root."""
    trace_number: int
    """Stands for the trace: the number of its root, or a number of the recorder's."""
    thread: str | None
    task: str | None
    start_ns: int
    end_ns: int
    outcome: tuple[str | None, str | None] | None
    """What the end said: status and error; None is an end without an error."""
    shared_facts: Facts | None
    """What the span says of itself, shared with others that say the same; None once it was
    changed: then it is held in two dicts of its own."""
    _recorder: Recorder | None
    _agent: str | None
    _mode: str | None
    _columns: dict[str, Any] | None
    _attributes: dict[str, Any] | None
    _token: Token[Span | Recorder | None]

    @property
    def span_id(self) -> str:
        """Return 16 hex digits; empty where nothing is recorded."""
        return self.id_with(self.number)

    def id_with(self, number: int) -> str:
        """Return the span id that goes with a number; a span that is used again gets another."""
        return f"{self._recorder.rows.id_of(number):016x}" if self._recorder is not None else ""

    @property
    def trace_id(self) -> str | None:
        """Return 32 hex digits; None where nothing is recorded."""
        recorder = self._recorder
        return recorder.rows.trace_of(self.trace_number) if recorder is not None else None

    @property
    def attributes(self) -> dict[str, Any]:
        """Return what goes into the ``attributes`` column."""
        return self._own()[1]

    @property
    def recording(self) -> bool:
        """Whether a profile will show this span."""
        return self._recorder is not None

    @property
    def traceparent(self) -> str | None:
        """The W3C ``traceparent`` that makes another process's spans children of this one."""
        return f"00-{self.trace_id}-{self.span_id}-01" if self._recorder is not None else None

    def column(self, name: str) -> Any:
        """Return the value of a column; None where it has none."""
        found = (
            self.shared_facts.columns if self.shared_facts is not None else self._own()[0]
        ).get(name)
        if found is None and name in {"status", "error"} and self.end_ns:
            return (self.outcome or _OK)[name == "error"]
        return found

    def set(self, /, **values: Any) -> None:
        """Set columns and attributes; attribute values have to be JSON values.

        Raises:
            TypeError: a column cannot hold the value.
        """
        columns, attributes = self._own()
        for key, value in values.items():
            if key in KINDS:
                columns[key] = column_value(key, value)
            else:
                attributes[key] = value
        self._agent = columns["agent"]
        self._mode = columns["mode"]

    def facts(self, more: Mapping[str, Any] | None = None) -> Facts:
        """Return what the span says of itself, shared with others that say the same.

        ``more`` are attributes beside its own.
        """
        facts = self.shared_facts
        if facts is not None and more is None:
            return facts
        columns, attributes = self._copied() if facts is not None else self._own()
        attributes = attributes if more is None else {**attributes, **more}
        if self._recorder is not None:
            try:
                return self._recorder.rows.shared_facts(
                    self.name, None, None, **columns, **attributes
                )
            except TypeError:  # a value can change, or a key is no name
                pass
        return Facts(self.name, columns, {}, attributes_json(attributes))

    def _own(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the span's own columns and attributes; from now on it shares them with nobody."""
        if self._columns is None or self._attributes is None:
            self._columns, self._attributes = self._copied()
            self.shared_facts = None
        return self._columns, self._attributes

    def _copied(self) -> tuple[dict[str, Any], dict[str, Any]]:
        facts = self.shared_facts
        if facts is None:
            return {"agent": self._agent, "mode": self._mode}, {}
        return dict(facts.columns), dict(facts.attributes)

    def __enter__(self) -> Self:
        recorder = self._recorder
        if recorder is not None:
            if self.end_ns:
                self._begin_again(recorder)
            try:
                self.thread = _here.thread._name
            except AttributeError:
                _here.thread = _current_thread()
                self.thread = _here.thread._name
            loop = _get_running_loop()
            task = None
            if loop is not None:
                current = current_task(loop)
                if current is not None:
                    task = current.get_name()
            self.task = task
            at_boundary = recorder.at_boundary
            if at_boundary is not None:
                at_boundary()
            self.start_ns = _clock_ns()
            # Now that it has begun: the recording may be ended by another thread at any time.
            recorder.open_spans[self.number] = self
            # Last: if a Ctrl-C kept it from beginning, later spans would have a parent in no row.
            self._token = _set_position(self)
            thread_spans = recorder.thread_spans
            if thread_spans is not None and task is None:
                thread_spans[_get_ident()] = self
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        recorder = self._recorder
        if recorder is None:
            return
        # First: were the rest interrupted, all later spans would be within this one.
        # Closed out of turn, a span leaves the position to whoever has it now: another span, or
        # another profile.
        if _get_position() is self:
            try:
                _reset_position(self._token)
            except ValueError:
                # A span may be closed in another context than it was opened in, as an async
                # generator does: that context keeps its own position.
                pass
            else:
                thread_spans = recorder.thread_spans
                if thread_spans is not None and self.task is None:
                    thread_spans[_get_ident()] = _span_at(_get_position())
        at_boundary = recorder.at_boundary
        if at_boundary is not None:
            at_boundary()
        self.end_ns = end_ns = _clock_ns()
        outcome = None
        if error_type is not None:
            self.outcome = outcome = (
                _status_of(error_type),
                None if error is None else _words_of(error),
            )
        facts = self.shared_facts or self.facts()
        if recorder.end_ns is None:
            recorder.add_span(self, facts, outcome, end_ns)
            # After its row: the end of the recording writes those of spans that are open.
            recorder.open_spans.pop(self.number, None)
        elif self.start_ns > recorder.end_ns:
            recorder.open_spans.pop(self.number, None)

    def _begin_again(self, recorder: Recorder) -> None:
        """Become another span of the same parent: the context manager is used once more."""
        number = recorder.next_number()
        if self.trace_number == self.number:
            self.trace_number = number
        self.number = number
        self.end_ns = 0
        self.outcome = None


_OK = ("ok", None)
_new = object.__new__
_clock_ns = time.perf_counter_ns
_current_thread = threading.current_thread
_get_ident = threading.get_ident
_get_position = _position.get
_set_position = _position.set
_reset_position = _position.reset
_here = threading.local()
"""Holds each thread's Thread object: to look it up for every span costs twice as much."""


def span(name: str, /, **attributes: Any) -> Span:
    """Return a context manager that records an interval under the span it is opened in.

    Follows asyncio tasks and ``asyncio.to_thread``; in a plain thread it hangs under the root of
    the profile that is being recorded. Without a profile it records nothing.

    Example:
        >>> import claude_pm
        >>> with claude_pm.span("load documents", folder="docs") as current:
        ...     current.set(documents=3)
    """
    made = _new(Span)
    made.name = name
    made.end_ns = 0
    made.outcome = made._columns = made._attributes = None
    position = _get_position()
    parent: Span | None = None
    if isinstance(position, Span):
        parent, recorder = position, position._recorder
    else:
        recorder = position
    if recorder is None or recorder.end_ns is not None:
        parent, recorder = None, _recorder_of_thread()
        if recorder is None:
            return _unrecorded(made, attributes)
    made._recorder = recorder
    made.number = recorder.next_number()
    if parent is None:
        made.parent_number = recorder.root_parent
        made.trace_number = recorder.root_trace or made.number
        agent = mode = None
    else:
        made.parent_number = parent.number
        made.trace_number = parent.trace_number
        # Agent and mode of a request hold for everything done for it.
        agent = parent._agent
        mode = parent._mode
    if recorder.theirs is not None:
        theirs = recorder.theirs(parent)
        if theirs is not None:
            made.parent_number, made.trace_number, theirs_agent = theirs
            agent = theirs_agent or agent
    try:
        made.shared_facts = facts = recorder.shared_facts(name, agent, mode, **attributes)
    except TypeError:  # a value can change, or its column cannot hold it
        made._agent = agent
        made._mode = mode
        made.shared_facts = None
        made.set(**attributes)
    else:
        made._agent = facts.agent
        made._mode = facts.mode
    return made


def _unrecorded(made: Span, values: dict[str, Any]) -> Span:
    made._recorder = made._agent = made._mode = None
    made.shared_facts = made.thread = made.task = None
    made.number = made.parent_number = made.trace_number = made.start_ns = 0
    if values:
        columns, attributes = made._own()
        for key, value in values.items():
            if key not in KINDS:
                attributes[key] = value
            elif type(value) is str is KINDS[key]:
                columns[key] = value
            else:
                columns[key] = column_value(key, value)
    return made


def current_span() -> Span | None:
    """Return the span that is open here, if a profile is being recorded."""
    return _span_at(_get_position())


def opened_here() -> Opened | None:
    """Return the span that is open here, in one call; takes no lock."""
    position = _get_position()
    if not isinstance(position, Span):
        return None
    recorder = position._recorder
    return None if recorder is None or recorder.end_ns is not None else (position, position.number)


def opened_in(context: Context | None) -> Opened | None:
    """Return the span that is open in another task's or thread's context; takes no lock."""
    return None if context is None else opened(_span_at(context.get(_position)))


def opened(span: Span | None) -> Opened | None:
    """Return what a span is now."""
    return None if span is None else (span, span.number)


def current_recorder() -> Recorder | None:
    """Return the recorder that spans opened here go to."""
    recorder = _recorder_at(_get_position())
    if recorder is not None and not recorder.finished:
        return recorder
    return _recorder_of_thread()


def _span_at(position: Span | Recorder | None) -> Span | None:
    if not isinstance(position, Span) or position._recorder is None:
        return None
    return None if position._recorder.finished else position


def _recorder_at(position: Span | Recorder | None) -> Recorder | None:
    return position._recorder if isinstance(position, Span) else position


@overload
def traced(function: Callable[_P, _R], /) -> Callable[_P, _R]: ...


@overload
def traced(
    name: str | None = None, **attributes: Any
) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]: ...


def traced(function: Any = None, /, **attributes: Any) -> Any:
    """Record every call of a function, or of a coroutine function, as a span.

    Use it bare (``@traced``: the span has the function's qualified name) or with a name and
    attributes (``@traced("name", key=value)``).

    Raises:
        TypeError: on a generator function, whose interval would be the consumer's, not its own.
    """
    if function is None:
        function = attributes.pop("name", None)
    if function is None or isinstance(function, str):
        return functools.partial(_traced, name=function, attributes=attributes)
    return _traced(function, name=None, attributes={})


def _traced(function: Any, *, name: str | None, attributes: dict[str, Any]) -> Any:
    label = name or _name_of(function)
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError(
            f"{label} is a generator: open a claude_pm.span(...) inside it instead of @traced."
        )
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def traced_coroutine(*args: Any, **kwargs: Any) -> Any:
            with span(label, **attributes):
                return await function(*args, **kwargs)

        return traced_coroutine

    @functools.wraps(function)
    def traced_function(*args: Any, **kwargs: Any) -> Any:
        with span(label, **attributes):
            return function(*args, **kwargs)

    return traced_function


def _name_of(function: Any) -> str:
    if isinstance(function, functools.partial):
        return _name_of(function.func)
    name: str | None = getattr(function, "__qualname__", None)
    return type(function).__qualname__ if name is None else name


_active: list[Recorder] = []


def activate(recorder: Recorder) -> Span | Recorder | None:
    """Send spans opened from here on to ``recorder``; return the position before, to restore."""
    before = _get_position()
    recorder.outer = _recorder_at(before)
    _set_position(recorder)
    _active.append(recorder)
    return before


def record_here(recorder: Recorder) -> None:
    """Send spans opened in this context to ``recorder``: a notebook runs each cell in its own."""
    _set_position(recorder)


def deactivate(recorder: Recorder, before: Span | Recorder | None) -> None:
    """Undo :func:`activate`, in whatever context: a notebook ends a cell in another one."""
    if recorder in _active:
        _active.remove(recorder)
    if _recorder_at(_get_position()) is recorder:
        _set_position(before)


def _recorder_of_thread() -> Recorder | None:
    # A thread that was not started with a copy of its maker's context has no position of its
    # own. While exactly one profile is being recorded, by another thread, it belongs to that; of
    # profiles within one another, to the innermost, which hands it on.
    active = [recorder for recorder in list(_active) if recorder.end_ns is None]
    if not active or active[-1].thread_id == _get_ident():
        return None
    is_nested = all(inner.outer is outer for outer, inner in pairwise(active))
    return active[-1] if is_nested else None


def _end_in_child() -> None:
    """Record nothing more in a forked child: what is being recorded is its parent."""
    for recorder in _active:
        recorder.end_in_child()
    _active.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_end_in_child)


def _status_of(error_type: type[BaseException]) -> str:
    if issubclass(error_type, TimeoutError):
        return "timeout"
    # GeneratorExit: whoever consumed a generator has had enough of it.
    if issubclass(error_type, (asyncio.CancelledError, KeyboardInterrupt, GeneratorExit)):
        return "cancelled"
    return "error"


def _words_of(error: BaseException) -> str:
    kind = type(error).__name__
    try:
        return f"{kind}: {error}"
    except Exception:  # noqa: BLE001 - the error's own code; it would be raised in its place
        return kind
