"""cProfile over a block of code, read out as rows of the ``functions`` and ``callers`` tables.

Counted are the thread that began and every thread that a counted thread starts meanwhile: plain
ones, and those of ``ThreadPoolExecutor`` and ``asyncio.to_thread``, whose waiting for work is left
out. A function has one row, the sum over the threads. Threads that were there before are not the
block's, nor are those that they start.

Time spent awaiting is in no function: neither in the coroutine's, which cProfile does not see while
it waits, nor in that of the event loop, of ``asyncio.run`` and of who called it, which wait
meanwhile. Every resumption of a coroutine counts as a call.

Its clock is the wall's. Where two threads compute at once, the seconds of each would include those
in which it waited for the interpreter's lock while the other one ran: on Linux these are estimated,
for each thread as a whole, and taken out of its Python functions.

Nothing stays behind when the recording ends, but for this: on Python 3.11 a thread's profiler can
be disabled by that thread alone. A thread that outlives the recording keeps it until it ends, or,
in a pool, until its present piece of work ends; what it does after the recording is in no table.
"""

from __future__ import annotations

import cProfile
import functools
import os
import re
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import thread as pool_threads
from dataclasses import dataclass, field
from threading import Thread, get_ident
from types import CodeType
from typing import Any

from claude_pm.errors import RecordingError
from claude_pm.recording.instrument import RenameFile, Rows
from claude_pm.recording.machinery import (
    is_standard_library,
    is_standard_module,
    machinery_folders,
)

if sys.platform == "linux":
    import resource

_BUILTIN_FILE = "~"
_OURS = "claude_pm"
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


@dataclass(slots=True)
class _Use:
    """What the pieces of work of one profile used: CPU seconds, and how often they had to wait."""

    cpu_s: float = 0.0
    waits: int = 0
    known: bool = True

    def begin(self) -> None:
        self.cpu_s -= time.thread_time()
        self.waits -= _waits()
        self.known = False

    def end(self) -> None:
        self.cpu_s += time.thread_time()
        self.waits += _waits()
        self.known = True


class CpuProfiler:
    """cProfile of the current thread and of those that it starts; started and stopped once."""

    def __init__(self, *, internals: bool = False) -> None:
        self._internals = internals
        self._lock = threading.Lock()
        self._enabled = False
        # One profile for each thread that is counted at the same time. Where a thread has ended,
        # or a pool's piece of work, the next one goes on with its profile.
        self._first = cProfile.Profile()
        self._profiles = [self._first]
        self._spare: list[cProfile.Profile] = []
        self._open: dict[int, cProfile.Profile] = {}
        self._uses: dict[cProfile.Profile, _Use] = defaultdict(_Use)
        self._read: list[tuple[Any, _Use]] = []
        self._ident = 0
        # By thread: the profile that its calls go to now. Read on each call, since Python 3.12.
        self._counted: dict[int, cProfile.Profile] = {}

    def start(self) -> None:
        """Begin to count calls.

        Raises:
            RecordingError: another profiler is active, here or in the user's own code.
        """
        active = sys.getprofile()
        if active is not None:
            raise RecordingError(_already_active(type(active).__name__))
        if sys.version_info >= (3, 12):
            _begin_monitoring(self._counted)
        self._ident = ident = get_ident()
        self._open[ident] = self._first
        self._enabled = True
        _hook(self, ident)
        self._uses[self._first].begin()
        if sys.version_info >= (3, 12):
            self._counted[ident] = self._first
        else:
            self._first.enable()

    def stop(self) -> None:
        """Stop counting; safe to call twice."""
        if not self._enabled:
            return
        if sys.version_info >= (3, 12):
            self._counted.clear()
            _end_monitoring()
        else:
            self._first.disable()
        if get_ident() == self._ident:
            self._uses[self._first].end()
        with self._lock:
            self._enabled = False
            still_open = list(self._open.values())
        _unhook(self)
        for profile in still_open:
            _close_calls(profile)
            # Now: on Python 3.11 another thread may go on to count. What it used is unknown.
            use = self._uses[profile] if profile is self._first else _Use(known=False)
            self._read.append((profile.getstats(), use))
            self._profiles.remove(profile)

    def overhead(self) -> dict[str, Any]:
        """Return nothing: how much cProfile slows down depends on the code, and is not measured."""
        return {}

    def tables(self, rename_file: RenameFile) -> dict[str, Rows]:
        """Return the rows of ``functions`` and of ``callers``, machinery left out."""
        for profile in self._profiles:
            self._read.append((profile.getstats(), self._uses[profile]))
        self._profiles.clear()
        entries = _sum_of_threads(self._read)
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

    @property
    def enabled(self) -> bool:
        """Whether it has been started and not been stopped."""
        return self._enabled

    def is_counting(self, ident: int) -> bool:
        """Whether the calls of that thread are being counted at this moment."""
        return ident in self._open

    def count(self, work: Callable[..., None], *arguments: Any) -> None:
        """Do a piece of work of a thread that was not counted before, and count its calls."""
        ident = get_ident()
        with self._lock:
            profile = None
            # A profiler of the user's own in this thread keeps the thread.
            if self._enabled and sys.getprofile() is None:
                self._open[ident] = profile = self._take_profile()
        if profile is None:
            work(*arguments)
            return
        use = self._uses[profile]
        use.begin()
        try:
            self._count_with(profile, work, arguments)
        finally:
            use.end()
            with self._lock:
                self._open.pop(ident, None)
                self._spare.append(profile)

    def _count_with(
        self, profile: cProfile.Profile, work: Callable[..., None], arguments: tuple[Any, ...]
    ) -> None:
        if sys.version_info >= (3, 12):
            # Below this line no call but that of the work: it would be counted, or half of it.
            counted, ident = self._counted, get_ident()
            counted[ident] = profile
            try:
                work(*arguments)
            finally:
                try:  # noqa: SIM105
                    del counted[ident]
                except KeyError:
                    pass  # the recording has ended
        else:
            profile.enable()
            try:
                work(*arguments)
            finally:
                profile.disable()

    def _take_profile(self) -> cProfile.Profile:
        if self._spare:
            return self._spare.pop()
        made = cProfile.Profile()
        self._profiles.append(made)
        return made


_hooks_lock = threading.Lock()
_owners: dict[int, CpuProfiler] = {}
"""By thread: the profiler that counts it and the threads that it starts."""
_undo_hooks: list[Callable[[], None]] = []


def _hook(profiler: CpuProfiler, ident: int) -> None:
    """Let the profiler know of threads that its threads start, and of pieces of work in pools."""
    with _hooks_lock:
        if not _owners:
            _set_hooks()
        _owners[ident] = profiler


def _hook_thread(profiler: CpuProfiler, ident: int) -> None:
    with _hooks_lock:
        if profiler.enabled:
            _owners[ident] = profiler


def _unhook_thread(profiler: CpuProfiler, ident: int) -> None:
    with _hooks_lock:
        if _owners.get(ident) is profiler:
            del _owners[ident]


def _unhook(profiler: CpuProfiler) -> None:
    with _hooks_lock:
        for ident, owner in list(_owners.items()):
            if owner is profiler:
                del _owners[ident]
        if not _owners:
            while _undo_hooks:
                _undo_hooks.pop()()


def _set_hooks() -> None:
    # No ``threading.setprofile``: it would not know which thread started the new one, and would
    # begin inside ``run``, the own time of which would be lost.
    item: Any = pool_threads._WorkItem  # noqa: SLF001
    start, run = Thread.start, item.run

    @functools.wraps(start)
    def start_thread(thread: Thread) -> None:
        owner = _owners.get(get_ident())
        if owner is not None and not str(getattr(thread, "_name", _OURS)).startswith(_OURS):
            _CountedRun.start(owner, thread, start)
        else:
            start(thread)

    @functools.wraps(run)
    def run_item(work_item: Any) -> None:
        ident = get_ident()
        owner = _owners.get(ident)
        if owner is not None and not owner.is_counting(ident):
            owner.count(run, work_item)
        else:
            run(work_item)

    def undo() -> None:
        # Where another tool has put its own function over ours, ours stays, and does nothing.
        if Thread.start is start_thread:
            Thread.start = start  # type: ignore[method-assign]
        if item.run is run_item:
            item.run = run

    Thread.start = start_thread  # type: ignore[method-assign,assignment]
    item.run = run_item
    _undo_hooks.append(undo)


class _CountedRun:
    """Stands in for the ``run`` of a thread that is being started, and is gone when that runs."""

    def __init__(self, owner: CpuProfiler, thread: Thread) -> None:
        self._owner = owner
        self._thread = thread
        self._run = thread.run
        self._had = vars(thread).get("run")

    @classmethod
    def start(cls, owner: CpuProfiler, thread: Thread, start: Callable[[Thread], None]) -> None:
        """Start the thread, to be counted."""
        if isinstance(thread.run, cls):
            start(thread)
            return
        run = cls(owner, thread)
        thread.run = run  # type: ignore[method-assign]
        try:
            start(thread)
        except BaseException:
            run.undo()
            raise

    def undo(self) -> None:
        """Give the thread its own ``run`` back."""
        if self._had is None:
            vars(self._thread).pop("run", None)
        else:
            self._thread.run = self._had  # type: ignore[method-assign]

    def __call__(self) -> None:
        self.undo()
        ident = get_ident()
        _hook_thread(self._owner, ident)
        try:
            # A pool's thread mostly waits, and often outlives the recording: what is counted is
            # each piece of work.
            if getattr(self._thread, "_target", None) is pool_threads._worker:  # noqa: SLF001
                self._run()
            else:
                self._owner.count(self._run)
        finally:
            _unhook_thread(self._owner, ident)


if sys.version_info >= (3, 12):
    # By event: the method of cProfile that takes it, and with how many arguments.
    _CALLBACKS = {
        "PY_START": ("_pystart_callback", 2),
        "PY_RESUME": ("_pystart_callback", 2),
        "PY_THROW": ("_pystart_callback", 3),
        "PY_RETURN": ("_pyreturn_callback", 3),
        "PY_YIELD": ("_pyreturn_callback", 3),
        "PY_UNWIND": ("_pyreturn_callback", 3),
        "CALL": ("_ccall_callback", 4),
        "C_RETURN": ("_creturn_callback", 4),
        "C_RAISE": ("_creturn_callback", 4),
    }

    def _begin_monitoring(profiles: dict[int, cProfile.Profile]) -> None:
        """Hand each thread's calls to its profile, as cProfile does with those of all threads.

        Since Python 3.12 an enabled cProfile sees every thread, and takes what two threads do at
        once for calls of one another: counts, callers and times are all wrong then.
        """
        monitoring, tool = sys.monitoring, sys.monitoring.PROFILER_ID
        try:
            monitoring.use_tool_id(tool, _OURS)
        except ValueError as error:
            name = monitoring.get_tool(tool) or "another tool"
            raise RecordingError(_already_active(name)) from error
        events = monitoring.events.NO_EVENTS
        for name, (method, arguments) in _CALLBACKS.items():
            event = getattr(monitoring.events, name)
            events |= event
            callback = _by_thread(profiles, getattr(cProfile.Profile, method), arguments)
            monitoring.register_callback(tool, event, callback)
        monitoring.set_events(tool, events)

    def _by_thread(
        profiles: dict[int, cProfile.Profile], callback: Callable[..., Any], arguments: int
    ) -> Callable[..., None]:
        """Return a callback that hands the event on; with ``*arguments`` it took twice as long."""
        profile_of, ident = profiles.get, get_ident

        def two(code: CodeType, offset: int) -> None:
            profile = profile_of(ident())
            if profile is not None:
                callback(profile, code, offset)

        def three(code: CodeType, offset: int, value: Any) -> None:
            profile = profile_of(ident())
            if profile is not None:
                callback(profile, code, offset, value)

        def four(code: CodeType, offset: int, function: Any, first: Any) -> None:
            profile = profile_of(ident())
            if profile is not None:
                callback(profile, code, offset, function, first)

        return {2: two, 3: three, 4: four}[arguments]

    def _end_monitoring() -> None:
        monitoring, tool = sys.monitoring, sys.monitoring.PROFILER_ID
        monitoring.set_events(tool, monitoring.events.NO_EVENTS)
        for name in _CALLBACKS:
            monitoring.register_callback(tool, getattr(monitoring.events, name), None)
        monitoring.free_tool_id(tool)


def _close_calls(profile: cProfile.Profile) -> None:
    """Let calls that have not returned end now, so that they and their time are counted."""
    if sys.version_info >= (3, 12):
        # Only an enabled profile does it. Enabled like this, it hears nothing.
        for method, _ in _CALLBACKS.values():
            setattr(profile, method, _ignore)
        try:
            profile.enable()
        except ValueError:
            return  # another tool was faster
    profile.disable()


def _ignore(*event: Any) -> None:
    pass


def _already_active(what: str) -> str:
    return (
        f"Another profiler is already active in this process ({what}), and Python allows one: "
        "stop it first, or record without CPU times (cpu=None, or --cpu none)."
    )


def _waits() -> int:
    """Return how often this thread gave its core back, to wait; 0 where the system does not say."""
    if sys.platform != "linux":
        return 0
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw


def _sum_of_threads(read: list[tuple[Any, _Use]]) -> dict[_Label, _Entry]:
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


def _take_out_waits(entries: dict[_Label, _Entry], use: _Use, others_cpu_s: float) -> None:
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
