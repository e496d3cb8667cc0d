"""cProfile over a block of code, read out as rows of the ``functions`` and ``callers`` tables.

What cProfile cannot see is not in the tables: time spent awaiting is not counted in
``cumulative_s``, and every resumption of a coroutine counts as a call. Nor is what other threads
do than the one that began.
"""

from __future__ import annotations

import cProfile
import os
import sys
import threading
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from types import CodeType
from typing import Any

from claude_pm.errors import RecordingError
from claude_pm.recording.instrument import RenameFile, Rows
from claude_pm.recording.machinery import library_folders, machinery_folders

_BUILTIN_FILE = "~"
_Label = tuple[str, str, int]


@dataclass(slots=True)
class _Tally:
    calls: int = 0
    primitive_calls: int = 0
    total_s: float = 0.0
    cumulative_s: float = 0.0

    def add(self, other: _Tally, sign: int = 1) -> None:
        self.calls += sign * other.calls
        self.primitive_calls += sign * other.primitive_calls
        self.total_s += sign * other.total_s
        self.cumulative_s += sign * other.cumulative_s


@dataclass(slots=True)
class _Entry:
    own: _Tally = field(default_factory=_Tally)
    callers: dict[_Label, _Tally] = field(default_factory=lambda: defaultdict(_Tally))


class CpuProfiler:
    """cProfile of the current thread, started and stopped once."""

    def __init__(self, *, internals: bool = False) -> None:
        self._internals = internals
        self._profile = cProfile.Profile()
        self._enabled = False

    def start(self) -> None:
        """Begin to count calls.

        Raises:
            RecordingError: another profiler is active, here or in the user's own code.
        """
        active = sys.getprofile()
        if active is not None:
            raise RecordingError(_already_active(type(active).__name__))
        try:
            self._profile.enable()
        except ValueError as error:
            raise RecordingError(_already_active("cProfile or another tool")) from error
        self._enabled = True
        if sys.version_info >= (3, 12):
            _only_this_thread()

    def stop(self) -> None:
        """Stop counting; safe to call twice."""
        if self._enabled:
            self._profile.disable()
            self._enabled = False

    def overhead(self) -> dict[str, Any]:
        """Return nothing: how much cProfile slows down depends on the code, and is not measured."""
        return {}

    def tables(self, rename_file: RenameFile) -> dict[str, Rows]:
        """Return the rows of ``functions`` and of ``callers``, notebook machinery left out."""
        entries = _entries(self._profile)
        if not self._internals:
            entries = _visible(entries)
        pid = os.getpid()
        functions: Rows = []
        callers: Rows = []
        for (function, file, line), entry in entries.items():
            shown = rename_file(file)
            functions.append(
                {
                    "function": function,
                    "file": shown,
                    "line": line,
                    "calls": entry.own.calls,
                    "primitive_calls": entry.own.primitive_calls,
                    "total_s": entry.own.total_s,
                    "cumulative_s": entry.own.cumulative_s,
                    "pid": pid,
                }
            )
            for (caller, caller_file, caller_line), tally in entry.callers.items():
                callers.append(
                    {
                        "caller_function": caller,
                        "caller_file": rename_file(caller_file),
                        "caller_line": caller_line,
                        "callee_function": function,
                        "callee_file": shown,
                        "callee_line": line,
                        "calls": tally.calls,
                        "total_s": tally.total_s,
                        "cumulative_s": tally.cumulative_s,
                        "pid": pid,
                    }
                )
        functions.sort(key=lambda row: row["total_s"], reverse=True)
        return {"functions": functions, "callers": callers}


if sys.version_info >= (3, 12):
    _EVENTS = (
        "PY_START", "PY_RESUME", "PY_THROW", "PY_RETURN", "PY_YIELD", "PY_UNWIND", "CALL",
        "C_RETURN", "C_RAISE",
    )  # fmt: skip

    def _only_this_thread() -> None:
        """Let the active cProfile see the calls of the current thread alone.

        Since Python 3.12 it sees those of every thread, and takes what two threads do at once for
        calls of one another: counts, callers and times are all wrong then. A kernel has threads
        of its own, and so has the reading of memory.
        """
        monitoring, tool = sys.monitoring, sys.monitoring.PROFILER_ID
        events = monitoring.get_events(tool)
        monitoring.set_events(tool, monitoring.events.NO_EVENTS)
        for name in _EVENTS:
            event = getattr(monitoring.events, name)
            callback = monitoring.register_callback(tool, event, None)
            if callback is not None:
                monitoring.register_callback(tool, event, _in_this_thread(callback))
        monitoring.set_events(tool, events)

    def _in_this_thread(callback: Callable[..., Any]) -> Callable[..., None]:
        ident, here = threading.get_ident, threading.get_ident()

        def called(*event: Any) -> None:
            if ident() == here:
                callback(*event)

        return called


def _already_active(what: str) -> str:
    return (
        f"Another profiler is already active in this process ({what}), and Python allows one: "
        "stop it first, or record without CPU times (cpu=None, or --cpu none)."
    )


def _entries(profile: cProfile.Profile) -> dict[_Label, _Entry]:
    """Read the raw statistics; code objects of one label (lambdas of a line) are added up."""
    entries: dict[_Label, _Entry] = defaultdict(_Entry)
    for raw in profile.getstats():
        label = _label(raw.code)
        entries[label].own.add(_tally(raw))
        for call in raw.calls or ():
            entries[_label(call.code)].callers[label].add(_tally(call))
    return dict(entries)


def _tally(raw: Any) -> _Tally:
    return _Tally(raw.callcount, raw.callcount - raw.reccallcount, raw.inlinetime, raw.totaltime)


def _label(code: CodeType | str) -> _Label:
    if isinstance(code, str):
        return code.strip("<>"), _BUILTIN_FILE, 0
    return code.co_qualname, code.co_filename, code.co_firstlineno


def _visible(entries: dict[_Label, _Entry]) -> dict[_Label, _Entry]:
    """Leave out the notebook's machinery, and what only it called in the standard library."""
    folders, library = machinery_folders(), library_folders()
    hidden = {label for label in entries if label[1].startswith(folders)}
    grew = bool(hidden)
    while grew:
        grew = False
        for label, entry in entries.items():
            is_library = label[1] == _BUILTIN_FILE or label[1].startswith(library)
            if label in hidden or not is_library:
                continue
            callers = set(entry.callers) - {label}
            if callers and callers <= hidden:
                hidden.add(label)
                grew = True
    visible = {}
    for label, entry in entries.items():
        if label in hidden:
            continue
        for caller in hidden & set(entry.callers):
            tally = entry.callers.pop(caller)
            if label[1] == _BUILTIN_FILE or label[1].startswith(library):
                entry.own.add(tally, sign=-1)
        visible[label] = entry
    return visible
