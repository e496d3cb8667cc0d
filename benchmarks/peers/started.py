"""Every profiler around a block, as its documentation says, without its report."""

from __future__ import annotations

import contextlib
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType
from typing import Any

Around = contextlib.AbstractContextManager[Any]


def started(case: str, figures: dict[str, Any]) -> Around:
    """Return what runs the case's profiler around a block; it may add figures of its own."""
    return CASES[case](figures)


@contextlib.contextmanager
def _between(start: Callable[[], object], stop: Callable[[], object]) -> Iterator[None]:
    start()
    try:
        yield
    finally:
        stop()


def _claude_pm(cpu: Any, memory: Any) -> Callable[[dict[str, Any]], Around]:
    @contextlib.contextmanager
    def around(figures: dict[str, Any]) -> Iterator[None]:
        import claude_pm

        with claude_pm.profile("cost", cpu=cpu, memory=memory) as profile:
            yield
        figures.update(profile.meta["overhead"].get("sampler", {}))

    return around


def _cprofile(_figures: dict[str, Any]) -> Around:
    import cProfile

    return cProfile.Profile()


def _pyinstrument(interval_s: float) -> Callable[[dict[str, Any]], Around]:
    def around(_figures: dict[str, Any]) -> Around:
        import pyinstrument

        profiler = pyinstrument.Profiler(interval=interval_s, async_mode="enabled")
        return _between(profiler.start, profiler.stop)

    return around


@contextlib.contextmanager
def _viztracer(_figures: dict[str, Any]) -> Iterator[None]:
    import viztracer

    tracer = viztracer.VizTracer(verbose=0)
    with _between(tracer.start, tracer.stop):
        yield


def _yappi(clock: str) -> Callable[[dict[str, Any]], Around]:
    def around(_figures: dict[str, Any]) -> Around:
        import yappi

        yappi.set_clock_type(clock)
        return _between(yappi.start, yappi.stop)

    return around


@contextlib.contextmanager
def _memray(_figures: dict[str, Any]) -> Iterator[None]:
    import memray

    with (
        tempfile.TemporaryDirectory() as folder,
        memray.Tracker(Path(folder) / "memray.bin"),
    ):
        yield


def _tracemalloc(_figures: dict[str, Any]) -> Around:
    import tracemalloc

    return _between(tracemalloc.start, tracemalloc.stop)


@contextlib.contextmanager
def _stack_thread(figures: dict[str, Any]) -> Iterator[None]:
    """The plainest sampler there is: a thread that keeps the stack of the main thread."""
    stop = threading.Event()
    main = threading.get_ident()
    seen: list[list[tuple[CodeType, int]]] = []

    def look() -> None:
        while not stop.wait(0.001):
            frame = sys._current_frames().get(main)  # noqa: SLF001 - there is no other way
            stack = []
            while frame is not None:
                stack.append((frame.f_code, frame.f_lineno))
                frame = frame.f_back
            seen.append(stack)

    thread = threading.Thread(target=look, daemon=True)
    with _between(thread.start, stop.set):
        yield
    thread.join()
    figures["ticks"] = len(seen)


CASES: dict[str, Callable[[dict[str, Any]], Around]] = {
    "claude_pm spans": _claude_pm(None, None),
    "claude_pm sampler": _claude_pm("sample", None),
    "claude_pm sampler beside RSS": _claude_pm("sample", "rss"),
    "claude_pm RSS": _claude_pm(None, "rss"),
    "claude_pm cProfile": _claude_pm("cprofile", None),
    "cProfile": _cprofile,
    "pyinstrument 1 ms": _pyinstrument(0.001),
    "pyinstrument 10 ms": _pyinstrument(0.01),
    "viztracer": _viztracer,
    "yappi wall": _yappi("wall"),
    "yappi cpu": _yappi("cpu"),
    "memray": _memray,
    "tracemalloc": _tracemalloc,
    "stack thread 1 ms": _stack_thread,
}
