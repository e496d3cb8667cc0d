"""What each asyncio task waits for, as seen from outside it: its await chain and its context.

A task that waits has no frames on any thread; its coroutine leads to the coroutine that it awaits,
and so on to the future at the end. Where the interpreter has no attribute for a step (an async
generator's ``__anext__``, a coroutine's ``__await__``), the garbage collector's view of the object
has it. Everything here only reads, takes no lock, and may run in a signal handler.
"""

from __future__ import annotations

import asyncio
import gc
from asyncio import AbstractEventLoop, Task
from collections.abc import Awaitable, Callable, Iterator
from contextvars import Context
from types import AsyncGeneratorType, CodeType, CoroutineType, FrameType, GeneratorType
from typing import Any
from weakref import ReferenceType, ref

_Step = Callable[[Any], tuple[CodeType | None, Any]]


def live_tasks(loops: set[AbstractEventLoop]) -> list[ReferenceType[Task[Any]]]:
    """Return references to the tasks of this process; the same one for a task each time.

    Where asyncio has no list of all tasks, those of the ``loops`` are returned.
    """
    for name in ("_all_tasks", "_scheduled_tasks"):  # Python 3.11; 3.12 and 3.13
        registry = getattr(asyncio.tasks, name, None)
        if registry is not None:
            # Copied at once: another thread may add to it.
            return list(registry.data.copy())
    return [ref(task) for loop in loops for task in asyncio.all_tasks(loop)]


def await_chain(awaited: Any) -> list[CodeType]:
    """Return the code of a suspended coroutine and of all that it awaits, outermost first."""
    codes: list[CodeType] = []
    while True:
        step = _STEPS.get(type(awaited))
        if step is None:
            return codes
        code, awaited = step(awaited)
        if code is not None:
            codes.append(code)


def outermost_frame(task: Task[Any]) -> FrameType | None:
    """Return the frame of a task's own coroutine, the root of its stack while it runs."""
    coroutine: Any = task.get_coro()
    if type(coroutine) is CoroutineType:
        return coroutine.cr_frame
    return getattr(coroutine, "gi_frame", None)


def context_of(task: Task[Any]) -> Context | None:
    """Return the context that a task's steps run in."""
    get_context = getattr(task, "get_context", None)  # from Python 3.12 on
    if get_context is not None:
        found: Context = get_context()
        return found
    for referent in gc.get_referents(task):
        if type(referent) is Context:
            return referent
    own: Context | None = getattr(task, "_context", None)
    return own


# The code, and not the frame: the interpreter makes a frame's object only when it is asked for.
def _coroutine(awaited: Any) -> tuple[CodeType | None, Any]:
    return awaited.cr_code, awaited.cr_await


def _generator(awaited: Any) -> tuple[CodeType | None, Any]:
    return awaited.gi_code, awaited.gi_yieldfrom


def _async_generator(awaited: Any) -> tuple[CodeType | None, Any]:
    return awaited.ag_code, awaited.ag_await


def _wrapper(awaited: Any) -> tuple[CodeType | None, Any]:
    for referent in gc.get_referents(awaited):
        if type(referent) in _STEPS:
            return None, referent
    return None, None


async def _nothing() -> None: ...


async def _no_items() -> Any:
    return
    yield


def _wrapper_types() -> Iterator[type]:
    """The types that stand between a coroutine and the one that it awaits."""
    items = _no_items()
    wrappers: list[Any] = [
        items.__anext__(),
        items.athrow(GeneratorExit),
        anext(items, None),
    ]
    coroutine: Awaitable[None] = _nothing()
    wrappers.append(coroutine.__await__())
    for wrapper in wrappers:
        yield type(wrapper)
        close = getattr(wrapper, "close", None)
        if close is not None:
            close()


_STEPS: dict[type, _Step] = {
    CoroutineType: _coroutine,
    GeneratorType: _generator,
    AsyncGeneratorType: _async_generator,
}
_STEPS.update(dict.fromkeys(_wrapper_types(), _wrapper))
