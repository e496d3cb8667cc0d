"""Spans: named intervals that know their parent, across tasks, threads and processes.

``claude_pm.span("name")`` costs next to nothing where no profile is being recorded.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import operator
import random
import threading
import time
from asyncio import current_task
from collections.abc import Callable
from contextvars import ContextVar, Token
from types import TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, Self, TypeVar, overload

if TYPE_CHECKING:
    from claude_pm.recording.recorder import Recorder

_P = ParamSpec("_P")
_R = TypeVar("_R")

# Ids need no secrecy; a generator of our own leaves the user's seeds alone.
_random = random.Random()  # noqa: S311

_position: ContextVar[tuple[Recorder, Span | None] | None] = ContextVar(
    "claude_pm_position", default=None
)


def new_trace_id() -> str:
    """Return 32 hex digits, not all zero, as W3C trace context asks."""
    return f"{_random.getrandbits(128) or 1:032x}"


def new_span_id() -> int:
    """Return a span id; written with 16 hex digits, not all zero, as W3C trace context asks.

    Its first bit is 0: so it fits into a column of signed whole numbers.
    """
    return _random.getrandbits(63) or 1


class Span:
    """One interval. Used as a context manager; made by :func:`span`.

    Attributes that are columns of the ``spans`` table are set by :meth:`set`; everything else
    given there goes into the ``attributes`` column.
    """

    COLUMNS = (
        "agent", "mode", "model", "status", "error", "input_tokens", "cache_read_tokens",
        "cache_write_tokens", "output_tokens", "ttft_s", "cost_usd", "cache",
    )  # fmt: skip
    __slots__ = (
        *COLUMNS, "_attributes", "_recorder", "_token", "end_ns", "id_number", "name",
        "parent_number", "start_ns", "task", "thread", "trace_id",
    )  # fmt: skip

    agent: str | None
    mode: str | None
    model: str | None
    status: str | None
    error: str | None
    input_tokens: int | None
    cache_read_tokens: int | None
    cache_write_tokens: int | None
    output_tokens: int | None
    ttft_s: float | None
    cost_usd: float | None
    cache: str | None

    def __init__(self, recorder: Recorder | None, name: str, parent: Span | None) -> None:
        self._recorder = recorder
        self._token: Token[Any] | None = None
        self._attributes: dict[str, Any] | None = None
        self.name = name
        self.thread: str | None = None
        self.task: str | None = None
        self.trace_id: str | None = None
        self.start_ns = self.end_ns = self.id_number = self.parent_number = 0
        # One by one, not in a loop over COLUMNS: a span is made for every step of a request.
        self.agent = self.mode = self.model = self.status = self.error = self.cache = None
        self.input_tokens = self.cache_read_tokens = self.cache_write_tokens = None
        self.output_tokens = self.ttft_s = self.cost_usd = None
        if recorder is None:
            return
        self.id_number = new_span_id()
        if parent is None:
            self.parent_number, trace_id = recorder.remote_parent
            self.trace_id = trace_id or new_trace_id()
        else:
            self.parent_number = parent.id_number
            self.trace_id = parent.trace_id
            # Agent and mode of a request hold for everything done for it.
            self.agent = parent.agent
            self.mode = parent.mode

    @property
    def span_id(self) -> str:
        """Return 16 hex digits; empty where nothing is recorded."""
        return f"{self.id_number:016x}" if self._recorder is not None else ""

    @property
    def attributes(self) -> dict[str, Any]:
        """Return what goes into the ``attributes`` column."""
        if self._attributes is None:
            self._attributes = {}
        return self._attributes

    @property
    def recorded_attributes(self) -> dict[str, Any] | None:
        """Return the attributes, or None where there are none: most spans have none."""
        return self._attributes

    @property
    def recording(self) -> bool:
        """Whether a profile will show this span."""
        return self._recorder is not None

    @property
    def traceparent(self) -> str | None:
        """The W3C ``traceparent`` that makes another process's spans children of this one."""
        return f"00-{self.trace_id}-{self.span_id}-01" if self._recorder is not None else None

    def set(self, **values: Any) -> None:
        """Set columns and attributes; attribute values have to be JSON values.

        Raises:
            TypeError: a column cannot hold the value.
        """
        for key, value in values.items():
            if key not in _KINDS:
                self.attributes[key] = value
            elif value is None or type(value) is str is _KINDS[key]:
                setattr(self, key, value)
            else:
                setattr(self, key, _column_value(key, value))

    def __enter__(self) -> Self:
        recorder = self._recorder
        if recorder is not None:
            self.thread = threading.current_thread().name
            try:
                task = current_task()
                self.task = None if task is None else task.get_name()
            except RuntimeError:  # no loop runs here
                self.task = None
            self._token = _position.set((recorder, self))
            recorder.open_spans[self.id_number] = self
            if recorder.thread_spans is not None and self.task is None:
                recorder.thread_spans[threading.get_ident()] = self
            self.start_ns = time.perf_counter_ns()
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
        self.end_ns = time.perf_counter_ns()
        if self.status is None:
            self.status = "ok" if error_type is None else _status_of(error_type)
        if error is not None and self.error is None:
            self.error = f"{type(error).__name__}: {error}"
        position = _position.get()
        # Closed out of turn, a span leaves the position to whoever has it now: another span, or
        # another profile.
        if self._token is not None and position is not None and position[1] is self:
            try:
                _position.reset(self._token)
            except ValueError:
                # A span may be closed in another context than it was opened in, as an async
                # generator does: that context keeps its own position.
                pass
            else:
                if recorder.thread_spans is not None and self.task is None:
                    position = _position.get()
                    recorder.thread_spans[threading.get_ident()] = position and position[1]
        recorder.closed(self)


_KINDS: dict[str, type] = dict.fromkeys(Span.COLUMNS, str)
_KINDS |= {"ttft_s": float, "cost_usd": float}
_KINDS |= {name: int for name in Span.COLUMNS if name.endswith("_tokens")}


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("it is text")
    return value


def _column_value(column: str, value: Any) -> Any:
    """Return the value as its column holds it; a wrong one would spoil the table in the end."""
    kind = _KINDS[column]
    try:
        if kind is str:
            return _text(value)
        return operator.index(value) if kind is int else kind(value)
    except (TypeError, ValueError) as error:
        raise TypeError(f"The span column {column!r} cannot hold {value!r}: {error}.") from None


def span(name: str, **attributes: Any) -> Span:
    """Return a context manager that records an interval under the span it is opened in.

    Follows asyncio tasks and ``asyncio.to_thread``; in a plain thread it hangs under the root of
    the profile that is being recorded. Without a profile it records nothing.

    Example:
        >>> import claude_pm
        >>> with claude_pm.span("load documents", folder="docs") as current:
        ...     current.set(documents=3)
    """
    position = _position.get()
    if position is None or position[0].end_ns is not None:
        recorder, parent = _recorder_of_thread(), None
    else:
        recorder, parent = position
    made = Span(recorder, name, parent)
    if attributes:
        made.set(**attributes)
    return made


def current_span() -> Span | None:
    """Return the span that is open here, if a profile is being recorded."""
    position = _position.get()
    return position[1] if position is not None and not position[0].finished else None


def current_recorder() -> Recorder | None:
    """Return the recorder that spans opened here go to."""
    position = _position.get()
    if position is not None and not position[0].finished:
        return position[0]
    return _recorder_of_thread()


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
    label = name or function.__qualname__
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


_active: list[Recorder] = []


def activate(recorder: Recorder) -> tuple[Recorder, Span | None] | None:
    """Send spans opened from here on to ``recorder``; return the position before, to restore."""
    before = _position.get()
    _position.set((recorder, None))
    _active.append(recorder)
    return before


def deactivate(recorder: Recorder, before: tuple[Recorder, Span | None] | None) -> None:
    """Undo :func:`activate`, in whatever context: a notebook ends a cell in another one."""
    if recorder in _active:
        _active.remove(recorder)
    position = _position.get()
    if position is not None and position[0] is recorder:
        _position.set(before)


def _recorder_of_thread() -> Recorder | None:
    # A thread that was not started with a copy of its maker's context has no position of its
    # own. While exactly one profile is being recorded, by another thread, it belongs to that.
    if len(_active) == 1 and _active[0].thread_id != threading.get_ident():
        return _active[0]
    return None


def _status_of(error_type: type[BaseException]) -> str:
    if issubclass(error_type, TimeoutError):
        return "timeout"
    # GeneratorExit: whoever consumed a generator has had enough of it.
    if issubclass(error_type, (asyncio.CancelledError, KeyboardInterrupt, GeneratorExit)):
        return "cancelled"
    return "error"
