"""What cProfile's profiles of several threads say, added up and read out as rows.

Taken out are the time in which a thread waited for the interpreter's lock, and in which an event
loop had nothing to do; left out is the machinery that runs a notebook's code.
"""

from __future__ import annotations

import os
import re
import sys
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from types import CodeType
from typing import Any

from claude_pm.recording.instrument import RenameFile, Rows
from claude_pm.recording.machinery import (
    is_standard_library,
    is_standard_module,
    machinery_folders,
)
from claude_pm.recording.thread_use import ThreadUse

_BUILTIN_FILE = "~"
_DISABLE = "method 'disable' of '_lsprof.Profiler' objects"
_BUILTIN = re.compile(r"built-in method (?P<module>\w+)\.|method '.*' of '(?P<type>\w+)\.")
# Built-ins that hold the interpreter's lock while they run, and do not wait.
_COMPUTES = re.compile(
    r"built-in method (builtins\.(?!input|print|open|exec|eval|__import__)|math\."
    r"|time\.(?!sleep))|method '.*' of '(str|bytes|int|float|list|dict|set|tuple)'"
)
_WAITS = re.compile(
    r"built-in method (time\.sleep|select\.|posix\.(read|write|wait))"
    r"|method '(acquire|__enter__|poll|select|accept|connect|get|put|write|(read|recv|send)\w*)'"
)
_LOOP = "BaseEventLoop._run_once"
_POLLS = re.compile(r"method '(poll|control)' of 'select\.|built-in method select\.select")
_NOISE = 0.02
_ROUNDS, _MOVED = 50, 1e-3
_Label = tuple[str, str, int]


@dataclass(slots=True)
class _Tally:
    calls: int = 0
    primitive_calls: int = 0
    total_s: float = 0.0
    cumulative_s: float = 0.0

    def add(self, other: _Tally) -> None:
        self.calls += other.calls
        self.primitive_calls += other.primitive_calls
        self.total_s += other.total_s
        self.cumulative_s += other.cumulative_s


@dataclass(slots=True)
class _Entry:
    own: _Tally = field(default_factory=_Tally)
    callers: dict[_Label, _Tally] = field(default_factory=lambda: defaultdict(_Tally))

    def from_outside(self) -> bool:
        """Whether a frame called it that was there before the profile began."""
        return self.own.calls > sum(tally.calls for tally in self.callers.values())


def call_rows(
    read: list[tuple[Any, ThreadUse]], rename_file: RenameFile, *, internals: bool
) -> dict[str, Rows]:
    """Return the rows of ``functions`` and of ``callers``.

    ``read`` has what ``cProfile.Profile.getstats`` gave for each profile, and what its thread used.
    """
    entries = _sum_of_threads(read)
    if not internals:
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


def _sum_of_threads(read: list[tuple[Any, ThreadUse]]) -> dict[_Label, _Entry]:
    whole: dict[_Label, _Entry] = defaultdict(_Entry)
    cpu_s = sum(use.cpu_s for _, use in read if use.known)
    for stats, use in read:
        entries = _entries(stats)
        _take_out_idle_loops(entries)
        if use.known and len(read) > 1:
            _take_out_waits(entries, use, cpu_s - use.cpu_s)
        for label, entry in entries.items():
            whole[label].own.add(entry.own)
            for caller, tally in entry.callers.items():
                whole[label].callers[caller].add(tally)
    # What ends the counting of a thread is itself counted by cProfile.
    whole.pop((_DISABLE, _BUILTIN_FILE, 0), None)
    return dict(whole)


def _take_out_waits(entries: dict[_Label, _Entry], use: ThreadUse, others_cpu_s: float) -> None:
    """Take out of Python functions the time in which their thread waited while others computed.

    A thread takes and gives the interpreter's lock between instructions, and so in Python
    functions: what they took beyond the thread's CPU time is waiting for it, but no more than the
    others computed, and no more than some milliseconds each time the thread had to wait. (Who
    waits for anything else waits long, and once.)
    """
    own_s = {label: entry.own.total_s for label, entry in entries.items()}
    python_s = sum(own_s[label] for label in entries if label[1] != _BUILTIN_FILE)
    computed_s = sum(own_s[label] for label in entries if _COMPUTES.match(label[0]))
    excess_s = python_s - max(use.cpu_s - computed_s, 0.0)
    # Built-ins that wait for something else, and then perhaps for the lock, were counted too.
    elsewhere = sum(entry.own.calls for label, entry in entries.items() if _WAITS.search(label[0]))
    waits = max(use.waits - 2 * elsewhere, 0)
    # On a busy machine who has waited an interval comes back late.
    wait_s = min(excess_s, others_cpu_s, 2 * waits * sys.getswitchinterval())
    if wait_s <= _NOISE * python_s:
        return
    _keep(
        entries,
        {label: 1.0 - wait_s / python_s for label in entries if label[1] != _BUILTIN_FILE},
    )


def _take_out_idle_loops(entries: dict[_Label, _Entry]) -> None:
    """Take out the time in which an asyncio event loop had nothing to do: all of it was awaited.

    It stands in what the loop's selector called. Selectors that others use keep theirs.
    """
    part: dict[_Label, float] = {}
    for label, entry in entries.items():
        if not _POLLS.match(label[0]) or entry.own.total_s <= 0:
            continue
        idle_s = 0.0
        for caller, tally in entry.callers.items():
            select = entries.get(caller)
            if select is not None and select.own.cumulative_s > 0:
                of_loop_s = sum(
                    one.cumulative_s for loop, one in select.callers.items() if loop[0] == _LOOP
                )
                idle_s += tally.total_s * min(of_loop_s / select.own.cumulative_s, 1.0)
        if idle_s > 0:
            part[label] = max(1.0 - idle_s / entry.own.total_s, 0.0)
    if part:
        _keep(entries, part)


def _keep(entries: dict[_Label, _Entry], given: dict[_Label, float]) -> None:
    """Keep these parts of functions' own times, and what follows of the cumulative ones."""
    part = dict.fromkeys(entries, 1.0) | given
    kept = _kept_with_callees(entries, part)
    for label, entry in entries.items():
        for tally in (entry.own, *entry.callers.values()):
            tally.total_s *= part[label]
            tally.cumulative_s = max(tally.cumulative_s * kept[label], tally.total_s)


def _kept_with_callees(
    entries: dict[_Label, _Entry], part: dict[_Label, float]
) -> dict[_Label, float]:
    """Return which part of each function's cumulative time stays, from its own and its callees'."""
    callees: dict[_Label, list[tuple[_Label, float]]] = defaultdict(list)
    for label, entry in entries.items():
        for caller, tally in entry.callers.items():
            callees[caller].append((label, tally.cumulative_s))
    kept = dict(part)
    for _ in range(_ROUNDS):
        moved = 0.0
        for label, entry in entries.items():
            all_s = entry.own.total_s + sum(seconds for _, seconds in callees[label])
            if all_s <= 0:
                continue
            left_s = entry.own.total_s * part[label]
            left_s += sum(seconds * kept[callee] for callee, seconds in callees[label])
            moved = max(moved, abs(left_s / all_s - kept[label]))
            kept[label] = left_s / all_s
        if moved < _MOVED:
            break
    return kept


def _entries(stats: Iterable[Any]) -> dict[_Label, _Entry]:
    """Read the raw statistics; code objects of one label (lambdas of a line) are added up."""
    entries: dict[_Label, _Entry] = defaultdict(_Entry)
    for raw in stats:
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
    """Leave out the machinery, and what only it called in the standard library.

    What it called elsewhere stays: the user's own functions, and libraries such as an HTTP client,
    where a user's time goes. Of a standard-library function that others called too, the calls that
    the machinery made are taken out.
    """
    shown = _shown(entries)
    visible = {}
    for label in shown:
        entry = entries[label]
        callers = {caller: tally for caller, tally in entry.callers.items() if caller in shown}
        if _is_library(label):
            hidden = [tally for caller, tally in entry.callers.items() if caller not in shown]
            entry = _Entry(_less(entry.own, hidden, callers.values()), callers)
        visible[label] = _Entry(entry.own, callers)
    return visible


def _shown(entries: dict[_Label, _Entry]) -> dict[_Label, None]:
    """Return what is not machinery, nor standard library that only machinery leads to."""
    callees: dict[_Label, list[_Label]] = defaultdict(list)
    for label, entry in entries.items():
        for caller in entry.callers:
            callees[caller].append(label)
    folders = machinery_folders()
    candidates = [label for label in entries if not label[1].startswith(folders)]
    shown = {
        label: None
        for label in candidates
        if not _is_library(label) or entries[label].from_outside()
    }
    new = list(shown)
    while new:
        for callee in callees[new.pop()]:
            if callee not in shown and _is_library(callee):
                shown[callee] = None
                new.append(callee)
    return shown


def _is_library(label: _Label) -> bool:
    function, file, _ = label
    if file == _BUILTIN_FILE:
        # "built-in method time.sleep", "method 'append' of 'list' objects"
        place = _BUILTIN.match(function)
        return place is None or is_standard_module(place["module"] or place["type"])
    # The methods that the standard library writes for a dataclass have no file of their own.
    written = file == "<string>" and function.startswith("__create_fn__")
    return written or is_standard_library(file)


def _less(own: _Tally, hidden: Iterable[_Tally], callers: Iterable[_Tally]) -> _Tally:
    """Return what remains of a function without its hidden calls, at least that of each caller.

    Of a function that is called within itself, the calls of its callers overlap.
    """
    left = _Tally(own.calls, own.primitive_calls, own.total_s, own.cumulative_s)
    for tally in hidden:
        left.calls -= tally.calls
        left.primitive_calls -= tally.primitive_calls
        left.total_s -= tally.total_s
        left.cumulative_s -= tally.cumulative_s
    left.total_s = max(left.total_s, 0.0)
    left.cumulative_s = max(left.cumulative_s, left.total_s, *(one.cumulative_s for one in callers))
    left.primitive_calls = max(left.primitive_calls, *(one.primitive_calls for one in callers), 0)
    return left
