"""A sampler that knows the task: what each thread runs, and what each asyncio task waits for.

Every few milliseconds it looks at the stacks of all threads and at the await chains of all tasks
that wait; while the main thread runs on and on, and nobody else does, mostly at that alone. The
time since the look before is charged to what is seen, and to the span, and so the
agent, that the task's or the thread's context says it works for. So awaited time belongs to the
coroutine that waits, and concurrent tasks are told apart. Each thread's CPU clock says how much of
the time it ran: a thread that began or ended to wait between two looks gets both parts right.

``pyinstrument`` (5.1), as a library, was looked at first and does not serve: it follows the one
context that started it, so of gathered tasks and of other threads it sees nothing; it asks the
interpreter for a callback on every call, which costs a fifth of the time; and it knows no spans.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import signal
import sys
import threading
import traceback
from asyncio import AbstractEventLoop, Task, _get_running_loop, current_task
from concurrent.futures import thread as pool_threads
from contextvars import Context
from time import perf_counter_ns, process_time_ns, thread_time_ns
from types import CodeType, FrameType
from typing import Any
from weakref import ReferenceType, ref

from claude_pm.errors import RecordingError
from claude_pm.recording.call_tree import Stack
from claude_pm.recording.charges import Charges, Look, Whom
from claude_pm.recording.instrument import RenameFile, Rows
from claude_pm.recording.pace import Pace
from claude_pm.recording.recorder import Recorder
from claude_pm.recording.span import Opened, opened, opened_here, opened_in
from claude_pm.recording.task_stacks import live_tasks, outermost_frame
from claude_pm.recording.task_time import TaskTime
from claude_pm.recording.thread_clocks import cpu_ns
from claude_pm.recording.thread_time import IDLE_NS, Interruption, Sight, ThreadTime
from claude_pm.recording.thread_use import waits_of_this_thread
from claude_pm.recording.threads_at_rest import ThreadsAtRest
from claude_pm.recording.tick_timer import TickTimer, make_timer

INTERVAL_S = 0.0025
"""Mean seconds between two looks at code that waits; for code that runs see :class:`Pace`."""

_OURS = "claude_pm"
# Looking at all tasks is put off until what it takes, beyond some, is at most one part in so many
# of the time: the more there are, the more is seen each time.
_FREE_NS, _TASKS_PARTS = 40_000, 320
# For so long, looks at code that runs on only note what they see, if it ran for so much of the
# time, or did not wait and was kept from running.
_NOTED_NS, _RAN_ON = 100_000_000, 0.95
# Where code runs on, looks at all tasks, which wait for it, are at least so far apart.
_TASKS_APART_NS = 20_000_000
# A thread that uses so much of the time competes with others.
_COMPETES = 0.03
# Those that competed are taken to do so for so long: a look may see the turn of one alone, and
# Python's and the kernel's turns last some milliseconds each.
_COMPETES_ON_NS = 30_000_000
# What switching between threads more often than Python's 5 ms costs, at most about a tenth of the
# time at 1 ms, is paid only where threads compete.
_LATE, _SWITCH_S = 2, 0.001

_Reference = ReferenceType[Task[Any]]

_Note = tuple[
    int,
    int,
    int,
    bool,
    list[CodeType],
    Opened | None,
    TaskTime | None,
    tuple[int, int],
    AbstractEventLoop | None,
]
"""A look at the interrupted thread: when, its CPU time then, how long the look before took, and
whether it may have waited since that; its codes, innermost first, up to the task's own coroutine;
the span and the task that it works for, its frame's id and the instruction in it, and its loop.
"""


class StackSampler:
    """Samples this process from start to stop; one at a time."""

    def __init__(
        self, recorder: Recorder, *, internals: bool = False, interval_s: float = INTERVAL_S
    ) -> None:
        self._recorder = recorder
        self._internals = internals
        self._pace = Pace(int(interval_s * 1e9))
        self._timer: TickTimer | None = None
        self._timer_kind: str | None = None
        self._looking = threading.Lock()
        # Of other threads there is a clock on Linux alone; one that is known has to be of one kind.
        self._knows_cpu = cpu_ns(threading.get_native_id()) is not None
        self._root = Stack()
        self._charges = Charges()
        self._interruption = Interruption()
        self._threads: dict[int, ThreadTime] = {}
        self._tasks: dict[_Reference, TaskTime] = {}
        self._loops: set[AbstractEventLoop] = set()
        self._switch_s = 0.0
        self._first_ns = 0
        # The last one at any thread, at all of them, and at all tasks.
        self._last = self._last_at_all = self._last_at_tasks = Look(0, 0, 0, 0)
        self._tasks_cost_ns = 0.0
        self._runs = False
        self._notes: list[_Note] = []
        # When the interrupted thread was looked at last, its CPU time then, how long that took, and
        # how often it had waited when all threads were; and until when to note it is enough.
        self._noted_ns = self._cpu_ns = self._took_ns = self._waits = self._noted_until_ns = 0
        self._contenders = 0
        self._contended_until_ns = 0
        self._others = ThreadsAtRest()
        # Whether the main thread had to be looked at from outside, and waited until this look.
        self._watched = self._ends_wait = False
        # Signals' handlers run in the main thread alone.
        self._interrupted_ident = threading.main_thread().ident or 0
        self._held_up_ns = self._own_ns = self._ticks = self._missed = self._failed = 0
        self._process_cpu_ns = 0

    def start(self) -> None:
        """Begin to sample.

        Raises:
            RecordingError: another sampler is active in this process.
        """
        global _active  # noqa: PLW0603 - there is one signal, and one clock for each thread
        if _active is not None:
            raise RecordingError(
                "Another profile samples this process already: end it first, or record this one "
                "without CPU times (cpu=None, or --cpu none)."
            )
        self._switch_s = sys.getswitchinterval()
        _active = self
        try:
            self._recorder.thread_spans = {}
            self._timer = make_timer(self._tick, self._pace.usual_ns)
            self._timer_kind = self._timer.kind
            self._process_cpu_ns = process_time_ns()
            self._first_ns = perf_counter_ns()
            self._last = self._last_at_all = self._last_at_tasks = Look(self._first_ns, 0, 0, 0)
            with self._looking:
                self._look(self._first_ns)
            self._timer.start()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End it, with a last look; safe to call twice."""
        global _active  # noqa: PLW0603 - as above
        if _active is not self:
            return
        try:
            if self._timer is not None:
                self._timer.stop()
            with self._looking:
                # Who is about to look, in another thread, comes too late.
                _active, self._noted_until_ns = None, 0
                self._tasks_cost_ns = 0.0
                self._look(perf_counter_ns())
        except Exception as error:  # noqa: BLE001 - the profile has more than samples
            self._fail(error)
        finally:
            _active = None
            if self._timer is not None:
                self._timer.stop()  # an interrupt may have come before it was, or meanwhile
            sys.setswitchinterval(self._switch_s)
            for thread in self._threads.values():
                thread.end(0)
            for task in self._tasks.values():
                task.settle()
            self._process_cpu_ns = process_time_ns() - self._process_cpu_ns
            # It leads back here, and the others to the user's tasks and threads.
            self._timer = None
            self._notes.clear()
            self._threads.clear()
            self._tasks.clear()
            self._loops.clear()

    def tables(self, rename_file: RenameFile) -> dict[str, Rows]:
        """Return the rows of ``samples``: one for each stack, state, span, thread and task."""
        rows = self._charges.rows(rename_file, internals=self._internals, knows_cpu=self._knows_cpu)
        return {"samples": rows}

    def overhead(self) -> dict[str, Any]:
        """Return the rate achieved, the ticks missed, and the time spent in looking.

        ``own_s`` is the wall time of all looks, and ``held_up_s`` of those that interrupted code
        that ran, or came from a thread of their own while others ran (native code may not have
        minded): one that interrupts a wait holds nobody up. What the interruption itself costs the
        operating system, and what passing on the interpreter's lock does, comes on top, and is not
        measured here. ``process_cpu_s`` is the CPU time of the whole process meanwhile, of threads
        that run no Python too.
        """
        elapsed_s = (self._last.now_ns - self._first_ns) / 1e9
        return {
            "sampler": {
                "timer": self._timer_kind,
                "ticks": self._ticks,
                "missed_ticks": self._missed,
                "failed_ticks": self._failed,
                "requested_interval_s": self._pace.usual_ns / 1e9,
                "interval_s": elapsed_s / self._ticks if self._ticks else None,
                "own_s": self._own_ns / 1e9,
                "held_up_s": self._held_up_ns / 1e9,
                "process_cpu_s": self._process_cpu_ns / 1e9,
            }
        }

    def _tick(self, interrupted: FrameType | None, now_ns: int) -> bool:
        used_ns = thread_time_ns()
        # Only a signal interrupts, and always the same thread.
        if interrupted is not None and now_ns < self._noted_until_ns:
            ran_on = self._ran_on(now_ns, used_ns)
            # Else it may have been kept from running.
            if ran_on or waits_of_this_thread() == self._waits:
                try:
                    self._note(now_ns, used_ns, interrupted, may_have_waited=ran_on)
                except Exception as error:  # noqa: BLE001 - it would be raised in the user's code
                    self._fail(error)
                self._took_ns = took_ns = perf_counter_ns() - now_ns
                self._own_ns += took_ns
                self._held_up_ns += took_ns
                return False
        # An interrupted look is not looked into, and a second thread has nothing to add. Not by
        # acquire(): a KeyboardInterrupt right after it would leave the lock taken for good.
        if not self._looking.locked():
            with self._looking:
                if _active is self:
                    self._look_at_once(now_ns, used_ns, interrupted)
        return True

    def _ran_on(self, now_ns: int, used_ns: int) -> bool:
        """Whether the interrupted thread ran all the time since it was noted last."""
        return used_ns - self._cpu_ns > _RAN_ON * (now_ns - self._noted_ns)

    def _fail(self, error: Exception) -> None:
        """Count a look that failed; what a signal's handler of the user's raised in it goes on."""
        self._failed += 1
        if _is_of_signal_handler(error):
            raise error

    def _look_at_once(self, now_ns: int, used_ns: int, interrupted: FrameType | None) -> None:
        """Look, and set the pace by it."""
        # Nothing is noted meanwhile.
        self._noted_until_ns = 0
        missed_ns = 0
        try:
            self._ends_wait = interrupted is not None and self._watched
            self._watched = interrupted is None
            if interrupted is None:
                self._ticks += 1
            else:
                waits = waits_of_this_thread()
                waited, self._waits = waits != self._waits, waits
                seen_ns = max(self._last_at_all.now_ns, self._others.until_ns)
                turns_ns = self._others.turns_ns(now_ns - seen_ns)
                if waited and not self._ran_on(now_ns, used_ns + turns_ns):
                    missed_ns = now_ns - self._noted_ns - (used_ns + turns_ns - self._cpu_ns)
                self._note(now_ns, used_ns, interrupted, may_have_waited=waited)
            self._look(now_ns)
        except Exception as error:  # noqa: BLE001 - it would be raised in the user's code
            self._fail(error)
        here = self._threads.get(threading.get_ident())
        # Code that waits is not held up. By CPU time: that another process was let in is not
        # looking's doing.
        held_up = here is None or here.running
        used_after_ns = thread_time_ns()
        if here is not None:
            here.note_looking(used_after_ns)
        if held_up:
            may_wait = here is not None and here.may_wait and self._contenders <= 1
            self._pace.note_run(
                now_ns, used_after_ns - used_ns, missed_ns=missed_ns, may_wait=may_wait
            )
        else:
            is_over = here is not None and here.is_idle_loop and self._has_timer_due()
            self._pace.note_wait(now_ns, others_run=self._runs, is_over=is_over)
        runs_on = self._runs_on()
        if runs_on:
            due_ns = self._due_at_tasks_ns() if self._tasks else now_ns + _NOTED_NS
            self._noted_until_ns = min(now_ns + _NOTED_NS, max(now_ns + _TASKS_APART_NS, due_ns))
        if self._timer is not None:
            self._timer.interval_ns = self._pace.interval_ns
            self._timer.spread = self._pace.spread
            self._timer.runs_on = runs_on
        took_ns = self._took_ns = perf_counter_ns() - now_ns
        self._own_ns += took_ns
        # A look from outside takes the interpreter's lock from the threads that run.
        held_up = held_up or (interrupted is None and self._runs)
        self._held_up_ns += took_ns if held_up else 0
        self._last_at_all.took_ns = took_ns
        if self._last_at_tasks.now_ns >= now_ns:
            self._last_at_tasks.took_ns = took_ns

    def _runs_on(self) -> bool:
        """Whether this thread runs on and on, and no other one runs."""
        return self._pace.runs_on and self._contenders <= 1 and self._knows_cpu

    def _has_timer_due(self) -> bool:
        """Whether this thread's event loop, which sleeps, has slept for as long as it wanted."""
        here = threading.get_ident()
        try:
            for loop in self._loops.copy():
                if _thread_of(loop) == here:
                    # As asyncio's own loops hold them; others do not say.
                    timers: list[asyncio.TimerHandle] = getattr(loop, "_scheduled", [])
                    return bool(timers) and timers[0].when() <= loop.time()
        except Exception as error:  # noqa: BLE001 - it would be raised in the user's code
            self._fail(error)
        return False

    def _due_at_tasks_ns(self) -> int:
        least_ns = int((self._tasks_cost_ns - _FREE_NS) * _TASKS_PARTS)
        return self._last_at_tasks.now_ns + least_ns

    def _look(self, now_ns: int) -> None:
        """Look at all threads, and at all tasks if it is time."""
        here = self._threads.get(threading.get_ident())
        waited_here = here is not None and not here.running
        is_noted = bool(self._notes) and self._notes[-1][0] == now_ns
        begun_ns = thread_time_ns()
        is_due = waited_here or now_ns >= self._due_at_tasks_ns()
        # First of all, as it is from its tasks that a loop is known.
        references = self._meet_tasks() if is_due else None
        spent_ns = thread_time_ns() - begun_ns
        self._charge_notes()
        # By now another look may have been taken, in the one thread or the other.
        now_ns = max(now_ns, self._last.now_ns, self._last_at_all.now_ns)
        if not is_noted:
            self._follow(now_ns, self._took_ns)
        running = self._running_tasks()
        if is_noted and self._others.wait_on(now_ns):
            # Nobody but this thread.
            self._contenders, self._runs = 1, self._threads[self._interrupted_ident].running
        else:
            self._charge_rest_of_others()
            look = self._last_at_all = self._following(self._last_at_all, now_ns)
            self._look_at_threads(look, running, is_noted=is_noted)
        if references is not None:
            begun_ns = thread_time_ns()
            look = self._last_at_tasks = self._following(self._last_at_tasks, now_ns)
            self._look_at_tasks(look, references, set(running.values()))
            spent_ns += thread_time_ns() - begun_ns
            self._tasks_cost_ns += (spent_ns - self._tasks_cost_ns) / 4

    def _charge_rest_of_others(self) -> None:
        """Charge to other threads the time in which they were known to rest."""
        last = self._last_at_all
        until_ns, pace = self._others.until_ns, self._pace
        if until_ns <= last.now_ns:
            return
        look = self._last_at_all = last.following(until_ns, pace.interval_ns, pace.longest_ns)
        for ident, known in self._threads.items():
            if ident != self._interrupted_ident:
                known.go_on_waiting(look.elapsed_ns)

    def _following(self, last: Look, now_ns: int) -> Look:
        """Return the look that follows one which others may have been left out after."""
        left_out_ns = max(0, now_ns - self._last.elapsed_ns - last.now_ns)
        pace = self._pace
        return last.following(
            now_ns, pace.interval_ns, left_out_ns + pace.longest_ns,
            contended=now_ns < self._contended_until_ns, ends_wait=self._ends_wait,
        )  # fmt: skip

    def _note(
        self, now_ns: int, used_ns: int, interrupted: FrameType, *, may_have_waited: bool
    ) -> None:
        """See what this thread runs, and leave it to the next look at all threads to charge it.

        To do that for several looks at once costs little more than for one: what it needs is in no
        cache of the processor's, while other code runs. So here each call less counts too.
        """
        loop = _get_running_loop()
        task = None if loop is None else current_task(loop)
        if task is None:
            root = time_of = None
        else:
            root = outermost_frame(task)
            time_of = self._tasks.get(ref(task)) or self._meet_task(task)
        codes, _ = _codes_of(interrupted, root)
        place = id(interrupted), interrupted.f_lasti
        self._notes.append(
            (
                now_ns,
                used_ns,
                self._took_ns,
                may_have_waited,
                codes,
                opened_here(),
                time_of,
                place,
                loop,
            )
        )
        self._noted_ns, self._cpu_ns = now_ns, used_ns

    def _follow(self, now_ns: int, took_ns: int) -> Look:
        """Return the next look at the interrupted thread; the last one took ``took_ns``."""
        pace = self._pace
        self._last.took_ns = took_ns
        look = self._last = self._last.following(
            now_ns,
            pace.interval_ns,
            pace.longest_ns,
            contended=now_ns < self._contended_until_ns,
        )
        # Not of the shortest intervals, which a look takes longer than.
        late_ns = look.elapsed_ns - look.stood_ns - pace.longest_ns
        self._missed += max(0, late_ns // max(pace.interval_ns, pace.usual_ns))
        return look

    def _charge_notes(self) -> None:
        if not self._notes:
            return
        notes, self._notes = self._notes, []
        self._ticks += len(notes)
        known = self._thread(self._interrupted_ident, self._last)
        for now_ns, used_ns, took_ns, waited, codes, span, task, place, loop in notes:
            if now_ns <= self._last.now_ns:
                # The next one, or the thread that watches, came before it was done.
                continue
            look = self._follow(now_ns, took_ns)
            if task is not None:
                task.work_for(span)
            sight = self._sight(
                known.name, codes, span, task, place,
                is_loop=loop in self._loops, is_interrupted=True,
            )  # fmt: skip
            known.look(look, sight, used_ns if self._knows_cpu else None, waited=waited)

    def _thread(self, ident: int, look: Look) -> ThreadTime:
        # Not threading.enumerate(), whose lock the interrupted code may hold.
        threads: dict[int, threading.Thread] = threading._active  # type: ignore[attr-defined] # noqa: SLF001
        thread, known = threads.get(ident), self._threads.get(ident)
        if known is None or known.thread is not thread:
            if known is not None:
                known.end(look.waited_ns)  # a new thread may get the ident of one that has ended
            known = ThreadTime(ident, thread, self._charges, self._interruption)
            self._threads[ident] = known
        return known

    def _meet_task(self, task: Task[Any]) -> TaskTime:
        """Get to know a task that runs."""
        if not self._tasks:
            # There was none when this thread was noted last; now there is more to see than that.
            self._last_at_tasks = Look(max(self._noted_ns, self._last_at_tasks.now_ns), 0, 0, 0)
            self._noted_until_ns = 0
        return self._time_of(task)

    def _meet_tasks(self) -> list[_Reference]:
        """Get to know new tasks, and return references to all of them."""
        references = live_tasks(self._loops)
        for reference in references:
            if reference not in self._tasks:
                task = reference()
                if task is not None and not task.done():
                    self._time_of(task)
        return references

    def _running_tasks(self) -> dict[int, Task[Any] | None]:
        """Return each loop's current task, by the ident of the loop's thread."""
        found: dict[int, Task[Any] | None] = {}
        for loop in self._loops.copy():
            ident = _thread_of(loop)
            if ident:
                found[ident] = current_task(loop)
            elif loop.is_closed():
                self._loops.discard(loop)
        return found

    def _look_at_threads(
        self, look: Look, running: dict[int, Task[Any] | None], *, is_noted: bool
    ) -> None:
        """Look at all threads; ``is_noted`` says that the interrupted one has been looked at."""
        here, self._contenders, self._runs = threading.get_ident(), 0, False
        others = self._others
        others.waited = self._knows_cpu
        frames = sys._current_frames()  # noqa: SLF001 - the documented way to see other threads
        # Not our own, which holds ``frames``: each look would be a cycle for the garbage collector,
        # and keep all that the interrupted code holds alive until it comes.
        frames[here] = sys._getframe(1)  # noqa: SLF001
        for ident, frame in frames.items():
            known = self._thread(ident, look)
            if known.name.startswith(_OURS):
                continue
            is_interrupted = ident == self._interrupted_ident
            if not (is_interrupted and is_noted):
                its_look = self._last if is_interrupted else look
                is_loop, place = ident in running, (id(frame), frame.f_lasti)
                if ident != here and known.still_waits(its_look, place, is_loop=is_loop):
                    continue
                task = running.get(ident)
                codes, work = _codes_of(frame, None if task is None else outermost_frame(task))
                if task is None:
                    time_of, span = None, self._span_of_thread(ident, work)
                else:
                    time_of = self._time_of(task)
                    span = time_of.read_span()
                sight = self._sight(
                    known.name, codes, span, time_of, place, is_loop=is_loop, is_interrupted=False
                )
                known.look(its_look, sight)
            self._contenders += known.used_ns > max(IDLE_NS, _COMPETES * look.elapsed_ns)
            self._runs = self._runs or known.running
            others.waited = others.waited and (is_interrupted or known.rests)
        if self._contenders > 1:
            self._contended_until_ns = look.now_ns + _COMPETES_ON_NS
        if len(self._threads) > len(frames):
            for ident in self._threads.keys() - frames.keys():
                self._threads.pop(ident).end(look.waited_ns)
        is_late = self._last.elapsed_ns > _LATE * self._pace.interval_ns
        if here != self._interrupted_ident or (is_late and self._contenders > 1):
            # Threads that want the interpreter's lock keep each other waiting, and us.
            sys.setswitchinterval(min(self._switch_s, _SWITCH_S))

    def _sight(
        self, name: str, codes: list[CodeType], span: Opened | None, task: TaskTime | None,
        place: tuple[int, int], *, is_loop: bool, is_interrupted: bool,
    ) -> Sight:  # fmt: skip
        stack = self._root.of(reversed(codes))
        return Sight(
            whom=Whom(stack, span, name, None if task is None else task.name),
            task=task,
            place=place,
            is_loop=is_loop,
            is_idle_loop=is_loop and task is None and _is_select(codes[0]),
            is_interrupted=is_interrupted,
        )

    def _look_at_tasks(
        self, look: Look, references: list[_Reference], running: set[Task[Any] | None]
    ) -> None:
        alive = set()
        threads = {loop: self._threads.get(_thread_of(loop)) for loop in self._loops.copy()}
        went_on: dict[AbstractEventLoop, list[Whom]] = {}
        for reference in references:
            task, known = reference(), self._tasks.get(reference)
            if task is None or known is None or task.done():
                continue
            alive.add(reference)
            if task in running:
                known.look_at_running(look)
                continue
            thread = threads.get(known.loop)
            name, is_idle = (None, False) if thread is None else (thread.name, thread.is_idle_loop)
            between = known.look_at_waiting(look, task, self._root, name, loop_is_idle=is_idle)
            if between is not None:
                went_on.setdefault(known.loop, []).append(between)
        for loop, tasks in went_on.items():
            thread = threads[loop]
            if thread is not None:
                thread.give(tasks, look.now_ns)
        for reference in self._tasks.keys() - alive:
            self._tasks.pop(reference).end(look)

    def _time_of(self, task: Task[Any]) -> TaskTime:
        reference = ref(task)
        found = self._tasks.get(reference)
        if found is None:
            found = self._tasks[reference] = TaskTime(task, self._charges)
            if found.loop not in self._loops:
                self._loops.add(found.loop)
                # What its thread waits for is not the thread's own, it turns out.
                self._others.waited = False
        return found

    def _span_of_thread(self, ident: int, work: FrameType | None) -> Opened | None:
        spans = self._recorder.thread_spans
        span = None if spans is None else opened(spans.get(ident))
        if span is None and work is not None:
            # asyncio.to_thread runs its function in a copy of the caller's context.
            function = getattr(work.f_locals.get("self"), "fn", None)
            context = getattr(getattr(function, "func", None), "__self__", None)
            if type(context) is Context:
                return opened_in(context)
        return span


_active: StackSampler | None = None


def _forget_in_child() -> None:
    """Sample no more in a forked child, which inherits neither the timers nor the thread."""
    global _active  # noqa: PLW0603 - as above
    if _active is not None:
        sys.setswitchinterval(_active._switch_s)  # noqa: SLF001
        _active = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)

# The cProfile of another profile may be around it.
_WORK = inspect.unwrap(pool_threads._WorkItem.run).__code__  # noqa: SLF001


def _codes_of(
    frame: FrameType | None, root: FrameType | None
) -> tuple[list[CodeType], FrameType | None]:
    """Return the stack up to ``root``, and the frame of a pool's piece of work in it."""
    codes: list[CodeType] = []
    work = None
    while frame is not None:
        code = frame.f_code
        codes.append(code)
        if frame is root:
            break
        if code is _WORK:
            work = frame
        frame = frame.f_back
    return codes, work


def _is_of_signal_handler(error: Exception) -> bool:
    """Whether an error was raised in a signal's handler, which may run in whatever code of ours."""
    handlers = [signal.getsignal(number) for number in signal.valid_signals()]
    codes = {getattr(getattr(one, "__func__", one), "__code__", None) for one in handlers}
    return any(frame.f_code in codes for frame, _ in traceback.walk_tb(error.__traceback__))


def _thread_of(loop: AbstractEventLoop) -> int:
    """Return the ident of the thread that a loop runs in; 0 for none."""
    return getattr(loop, "_thread_id", None) or 0


def _is_select(code: CodeType) -> bool:
    """Whether an event loop waits in this function for something to do."""
    return code.co_name == "select" and code.co_filename.endswith("selectors.py")
