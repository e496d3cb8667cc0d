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

There a thread has one profiler, too: one that the code itself begins takes the place of this one,
and that is said. From Python 3.12 on the code's ``cProfile`` is refused.
"""

from __future__ import annotations

import cProfile
import functools
import logging
import sys
import threading
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import thread as pool_threads
from threading import Thread, get_ident
from types import CodeType
from typing import Any

from claude_pm.errors import RecordingError
from claude_pm.recording.call_counts import call_rows
from claude_pm.recording.instrument import RenameFile, Rows
from claude_pm.recording.thread_use import ThreadUse

logger = logging.getLogger("claude_pm.recording")

_OURS = "claude_pm"
_LOST = (
    "calls: another profiler (cProfile, %prun or sys.setprofile) took its place in the recorded "
    "code, so what that thread called from then on is not counted, and its time is charged to "
    "calls that were open; leave the other one out, or record with cpu='sample'."
)
# Such a call is one that cProfile does not see.
_profiler_of_this_thread: Callable[[], object] = functools.partial(sys.getprofile)


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
        self._uses: dict[cProfile.Profile, ThreadUse] = defaultdict(ThreadUse)
        self._read: list[tuple[Any, ThreadUse]] = []
        self._ident = 0
        self._displaced = False
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
        is_own_thread = get_ident() == self._ident
        if sys.version_info >= (3, 12):
            self._counted.clear()
            _end_monitoring()
        else:
            if is_own_thread and _profiler_of_this_thread() is not self._first:
                self._displaced = True
            self._first.disable()
        if is_own_thread:
            self._uses[self._first].end()
        with self._lock:
            self._enabled = False
            still_open = list(self._open.values())
        _unhook(self)
        for profile in still_open:
            _close_calls(profile)
            # Now: on Python 3.11 another thread may go on to count. What it used is unknown.
            use = self._uses[profile] if profile is self._first else ThreadUse(known=False)
            self._read.append((profile.getstats(), use))
            self._profiles.remove(profile)
        if self._displaced:
            logger.warning("cProfile lost %s", _LOST)

    def overhead(self) -> dict[str, Any]:
        """Return whether calls were lost, in words; what counting cost is not measured."""
        return {"cprofile": {"lost": _LOST}} if self._displaced else {}

    def tables(self, rename_file: RenameFile) -> dict[str, Rows]:
        """Return the rows of ``functions`` and of ``callers``, machinery left out."""
        for profile in self._profiles:
            self._read.append((profile.getstats(), self._uses[profile]))
        self._profiles.clear()
        return call_rows(self._read, rename_file, internals=self._internals)

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
                # When the recording has ended it may be another profiler's turn.
                if self._enabled and _profiler_of_this_thread() is not profile:
                    self._displaced = True
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
    def run_item(*arguments: Any) -> None:
        # The piece of work and, since Python 3.14, its context.
        ident = get_ident()
        owner = _owners.get(ident)
        if owner is not None and not owner.is_counting(ident):
            owner.count(run, *arguments)
        else:
            run(*arguments)

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
