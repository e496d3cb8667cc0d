"""``memory="trace"``: which lines hold memory, by ``tracemalloc``.

It makes code that allocates much several times slower, so it is a pass of its own: CPU times are
not recorded beside it, and the durations of such a profile are not those of the code.
"""

from __future__ import annotations

import gc
import logging
import os
import tracemalloc
from typing import Any

from claude_pm.recording.instrument import RenameFile, Rows
from claude_pm.recording.machinery import machinery_folders
from claude_pm.recording.memory import RssSampler
from claude_pm.recording.recorder import Recorder

logger = logging.getLogger("claude_pm.recording")

MAX_LINES = 1000
"""Lines that are kept, those that hold most."""

_CLEARED = "what is held: the recorded code itself ended or cleared tracemalloc's tracing."
_INTERRUPTED = "what is held: the look at it was interrupted."

_Held = dict[tuple[str, int], tuple[int, int]]
"""Bytes and blocks held, by file and line."""


class AllocationTracer:
    """Traces from start to stop what is allocated, and reads memory meanwhile."""

    def __init__(self, recorder: Recorder, role: str, *, internals: bool = False) -> None:
        self._internals = internals
        self._sampler = RssSampler(recorder, role, traced=True)
        self._was_tracing = False
        self._running = False
        self._lost: str | None = None
        # Allocated when the tracing began: while that goes on, it is known where.
        self._witness: object = None
        self._before: _Held = {}
        self._after: _Held = {}
        self._after_repeats: list[_Held] = []

    def start(self) -> None:
        """Begin to trace; where the user traces already, go on from there."""
        # First: what it needs is not the user's.
        self._sampler.start()
        self._was_tracing = tracemalloc.is_tracing()
        self._running = True
        if not self._was_tracing:
            tracemalloc.start(1)
        self._witness = object()
        if self._was_tracing:
            self._before = self._held()

    def stop(self) -> None:
        """Look what is held, and end the tracing unless it is the user's; safe to call twice."""
        try:
            self._sampler.stop()
        finally:
            if self._running:
                self._end_tracing()

    def end_repeat(self) -> None:
        """Look what is held at the end of one of several repeats."""
        self._after_repeats.append(self._held())

    def tables(self, rename_file: RenameFile) -> dict[str, Rows]:
        """Return the rows of ``memory``, and of ``allocations``: what the block holds at its end.

        Of a block of repeats: what they keep, which is the growth since the first one ended, of the
        lines that grew in most of them.
        """
        found = self._growth() if self._after_repeats else _less(self._after, self._before)
        largest = sorted(found.items(), key=lambda line: line[1], reverse=True)[:MAX_LINES]
        pid = os.getpid()
        rows: Rows = [
            {
                "file": rename_file(file),
                "line": line,
                "size_bytes": size,
                "count": count,
                "pid": pid,
            }
            for (file, line), (size, count) in largest
        ]
        return {**self._sampler.tables(rename_file), "allocations": rows}

    def overhead(self) -> dict[str, Any]:
        """Return the cost of the readings, and whether the lines were lost, in words.

        What tracing costs depends on the code, and is not measured.
        """
        lost = {} if self._lost is None else {"allocations": {"lost": self._lost}}
        return self._sampler.overhead() | lost

    def _end_tracing(self) -> None:
        try:
            if not self._after_repeats:
                self._after = self._held()
        except KeyboardInterrupt:
            self._lose(_INTERRUPTED)
            raise
        finally:
            self._running = False
            if not self._was_tracing:
                tracemalloc.stop()

    def _lose(self, lost: str) -> None:
        if self._lost is None:
            self._lost = lost
            logger.warning("tracemalloc lost %s", lost)

    def _held(self) -> _Held:
        if tracemalloc.get_object_traceback(self._witness) is None:
            self._lose(_CLEARED)
            return {}
        # Garbage is not held.
        gc.collect()
        lines = tracemalloc.take_snapshot().statistics("lineno")
        hidden = (tracemalloc.__file__, *(() if self._internals else machinery_folders()))
        return {
            (line.traceback[0].filename, line.traceback[0].lineno): (line.size, line.count)
            for line in lines
            if not line.traceback[0].filename.startswith(hidden)
        }

    def _growth(self) -> _Held:
        first, *others = self._after_repeats
        if not others:
            return {}
        grown = _less(others[-1], first)
        steps = list(zip(self._after_repeats, others, strict=False))
        return {
            line: growth
            for line, growth in grown.items()
            if sum(_size(after, line) > _size(before, line) for before, after in steps)
            > len(steps) / 2
        }


def _size(held: _Held, line: tuple[str, int]) -> int:
    return held.get(line, (0, 0))[0]


def _less(after: _Held, before: _Held) -> _Held:
    """Return by how much each line holds more than before; only those that do."""
    found: _Held = {}
    for line, (size, count) in after.items():
        size_before, count_before = before.get(line, (0, 0))
        if size > size_before:
            found[line] = size - size_before, max(0, count - count_before)
    return found
