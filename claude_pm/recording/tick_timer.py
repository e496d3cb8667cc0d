"""When the sampler looks: mostly at random intervals about a mean, so that no period hides from it.

The main thread is interrupted by a signal of a POSIX timer, and looks by itself. A thread of its
own would have to take the interpreter lock from the code that runs: measured on 2 cores (Linux,
CPython 3.11, busy asyncio code) 150 µs for each look against 30 µs, and with Python's switch
interval of 5 ms it gets the lock where the code gives it up, which is at its waits, and so sees
waits alone. A switch interval of 0.1 ms mends the second and not the first.

Code that runs for long is interrupted by a timer of its own CPU time instead. The kernel looks at
that one at its regular ticks, which come anyway: a timer of real time has the hardware's set each
time, which costs more than all else of an interruption where the machine is a virtual one. It goes
off again and again by itself: to arm one costs half as much as a look, as all that it needs has
left the caches. That of real time is put off every other time, and so goes off where the code has
begun to wait.

Where there is no such timer, or the profiled code does not run in the main thread, a thread looks.
It looks too while the main thread cannot, being in code that neither runs Python nor is
interrupted, as when it waits for another thread's lock. Such a thread must not wake up in vain: it
would have to take the interpreter lock each time to see that. So the kernel wakes it, by a timer
that each look of the main thread puts off.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import random
import signal
import sys
import threading
import time
from asyncio import AbstractEventLoop, _get_running_loop
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any, Protocol

Tick = Callable[[FrameType | None, int], bool]
"""Looks once; gets the frame that was interrupted, if any, and the time.

It returns whether the pace may be another one now.
"""

_SIGEV_THREAD_ID = 4
_CLOCK_MONOTONIC, _CLOCK_THREAD_CPUTIME_ID, _CLOCK_MONOTONIC_COARSE = 1, 3, 6
SPREAD = 0.5
"""By so much of the mean intervals are shorter or longer, evenly."""
# A timer set to nothing is off.
_LEAST_NS = 10_000
# Code whose CPU time counts and that begins to wait is looked at after so many intervals at most.
_BEGAN_TO_WAIT = 3
_UNKNOWN = -1
# A look of the main thread that is so late will not come by itself; else it is over by then.
_LATE_NS = 500_000

# Times need no secrecy; a generator of our own leaves the user's seeds alone.
_random = random.Random()  # noqa: S311


class TickTimer(Protocol):
    """Calls a tick again and again."""

    kind: str
    interval_ns: int
    """The mean."""
    spread: float
    runs_on: bool
    """Whether the code runs on and on, so that its CPU time may be what counts."""

    def start(self) -> None:
        """Begin."""

    def stop(self) -> None:
        """End; safe to call twice."""


def make_timer(tick: Tick, interval_ns: int) -> TickTimer:
    """Return the best timer that can be had here."""
    if threading.current_thread() is threading.main_thread() and sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            return _SignalTimer(tick, interval_ns)
    return _ThreadTimer(tick, interval_ns)


class _Event(ctypes.Structure):
    """C's ``struct sigevent``, with the thread that Linux wants beside."""

    _fields_ = (
        ("value", ctypes.c_void_p),
        ("signal", ctypes.c_int),
        ("notify", ctypes.c_int),
        ("thread_id", ctypes.c_int),
        ("rest", ctypes.c_char * 64),
    )


class _Interval(ctypes.Structure):
    """C's ``struct itimerspec``: every and first, in seconds and nanoseconds."""

    _fields_ = (
        ("every_s", ctypes.c_long),
        ("every_ns", ctypes.c_long),
        ("first_s", ctypes.c_long),
        ("first_ns", ctypes.c_long),
    )


class _SignalTimer:
    """A signal to the main thread, one for each timer at a time: signals never pile up."""

    kind = "signal"

    def __init__(self, tick: Tick, interval_ns: int) -> None:
        self.interval_ns = interval_ns
        self.spread = SPREAD
        self.runs_on = False
        self._tick = tick
        self._last_ns = 0
        # Of the timer of CPU time; 0 while that of real time goes off once, and is armed anew.
        self._every_ns = 0
        self._arms = 0
        self._put_off_ns = 0
        # What the timers are set to; made once, as that takes longer than to set them.
        self._once, self._wait, self._every = _Interval(), _Interval(), _Interval()
        self._late, self._later, self._now = _Interval(), _Interval(), _Interval(first_ns=1)
        self._once_at, self._wait_at, self._every_at, self._late_at, self._later_at = map(
            ctypes.byref, (self._once, self._wait, self._every, self._late, self._later)
        )
        self._libc: Any = ctypes.CDLL(None, use_errno=True)
        self._settime: Any = self._libc.timer_settime
        self._settime_of_file: Any = self._libc.timerfd_settime
        self._signal = _free_signal()
        self._before: Any = None
        self._running = False
        # The last look when the watcher was told by when to expect the next.
        self._awaited_ns = 0
        self._watcher = threading.Thread(target=self._watch, name="claude_pm-sampler", daemon=True)
        self._kernels_tick_ns = int(time.clock_getres(_CLOCK_MONOTONIC_COARSE) * 1e9)
        self._timers: list[ctypes.c_void_p] = []
        self._late_file = -1
        try:
            self._timer = self._made(_CLOCK_MONOTONIC)
            self._cpu_timer = self._made(_CLOCK_THREAD_CPUTIME_ID)
            self._late_file = self._checked(
                self._libc.timerfd_create(_CLOCK_MONOTONIC, os.O_CLOEXEC)
            )
        except OSError:
            self._end()
            raise

    def _made(self, clock: int) -> ctypes.c_void_p:
        timer = ctypes.c_void_p()
        event = _Event(
            signal=self._signal, notify=_SIGEV_THREAD_ID, thread_id=threading.get_native_id()
        )
        self._checked(self._libc.timer_create(clock, ctypes.byref(event), ctypes.byref(timer)))
        self._timers.append(timer)
        return timer

    @staticmethod
    def _checked(result: int) -> int:
        if result < 0:
            raise OSError(ctypes.get_errno(), "no timer can be had")
        return result

    def start(self) -> None:
        self._before = signal.signal(self._signal, self._interrupted)
        # Reads and writes of C code that are interrupted go on by themselves.
        signal.siginterrupt(self._signal, False)
        self._running = True
        self._last_ns = time.perf_counter_ns()
        self._arm()
        self._watcher.start()

    def stop(self) -> None:
        was_running, self._running = self._running, False
        try:
            self._end()
            if self._watcher.ident is not None:
                self._watcher.join()
        finally:
            # Again, if an interrupt came between: a timer that went on would end the process.
            self._end()
            if was_running:
                self._give_signal_back()

    def _give_signal_back(self) -> None:
        if threading.current_thread() is threading.main_thread():
            # Not to the default at once, which is to end the process.
            signal.signal(self._signal, signal.SIG_IGN)
            signal.signal(self._signal, self._before)
        else:
            # Only the main thread can: the handler does.
            signal.pthread_kill(threading.main_thread().ident or 0, self._signal)

    def _end(self) -> None:
        """Delete the timers, and let the watcher end; safe to call twice."""
        while self._timers:
            self._libc.timer_delete(self._timers[-1])
            self._timers.pop()
        if self._watcher.is_alive():
            self._settime_of_file(self._late_file, 0, ctypes.byref(self._now), None)
        elif self._watcher.ident is None and self._late_file >= 0:
            late_file, self._late_file = self._late_file, -1
            os.close(late_file)

    def _arm(self) -> None:
        """Set the timers; anew, if the handler of another signal has come between and set them."""
        while True:
            self._arms = arms = self._arms + 1
            follows_cpu = self.runs_on and self.interval_ns >= self._kernels_tick_ns
            every_ns = self.interval_ns if follows_cpu else 0
            if every_ns != self._every_ns:
                self._every_ns = every_ns
                self._every.first_ns = self._every.every_ns = every_ns
                self._wait.first_ns = _BEGAN_TO_WAIT * every_ns
                self._settime(self._cpu_timer, 0, self._every_at, None)
            if follows_cpu:
                self._put_off()
            else:
                self._once.first_ns = max(_LEAST_NS, int(self.interval_ns * _share(self.spread)))
                self._settime(self._timer, 0, self._once_at, None)
                self._expect_look(self._once.first_ns)
            if self._arms == arms:
                return
            self._every_ns = _UNKNOWN

    def _put_off(self) -> None:
        """Let the timer of real time wait until the code has begun to wait, if it does."""
        self._put_off_ns = self._last_ns
        self._settime(self._timer, 0, self._wait_at, None)
        self._expect_look(self._wait.first_ns)

    def _expect_look(self, within_ns: int) -> None:
        """Have the watcher look if this thread has not done so by then."""
        self._awaited_ns = self._last_ns
        self._late.first_ns = within_ns + _LATE_NS
        self._settime_of_file(self._late_file, 0, self._late_at, None)

    def _interrupted(self, _signal: int, frame: FrameType | None) -> None:
        if not self._running:
            if not self._timers:
                # Ended by another thread. Not to the default: one may still be on its way.
                signal.signal(self._signal, signal.SIG_IGN)
            return
        loop = _get_running_loop()
        if loop is not None and getattr(loop, "_signal_handlers", None):
            _take_back(self._signal, loop)
        now_ns = time.perf_counter_ns()
        if now_ns - self._last_ns < self._every_ns // 2:
            # One timer goes off soon after the other.
            return
        self._last_ns = now_ns
        is_pace_new = True
        try:
            is_pace_new = self._tick(frame, now_ns)
        finally:
            # Were it not armed after a KeyboardInterrupt, that would be the last look.
            if is_pace_new or not self._every_ns:
                self._arm()
            elif now_ns - self._put_off_ns > self._every_ns:
                self._put_off()

    def _watch(self) -> None:
        try:
            while os.read(self._late_file, 8) and self._running:
                last_ns = self._last_ns
                if last_ns != self._awaited_ns or _runs(_INTERRUPTED, threading.main_thread()):
                    continue  # it looks in this moment
                self._tick(None, time.perf_counter_ns())
                if last_ns == self._last_ns:
                    self._later.first_ns = self.interval_ns
                    self._settime_of_file(self._late_file, 0, self._later_at, None)
        finally:
            os.close(self._late_file)


_INTERRUPTED = _SignalTimer._interrupted.__code__  # noqa: SLF001


def _runs(code: CodeType, thread: threading.Thread) -> bool:
    """Whether that is among the last things which the thread was called to do."""
    frame = sys._current_frames().get(thread.ident or 0)  # noqa: SLF001
    for _ in range(4):
        if frame is None:
            return False
        if frame.f_code is code:
            return True
        frame = frame.f_back
    return False


class _ThreadTimer:
    """A thread that wakes up and looks."""

    kind = "thread"

    def __init__(self, tick: Tick, interval_ns: int) -> None:
        self.interval_ns = interval_ns
        self.spread = SPREAD
        self.runs_on = False
        self._tick = tick
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="claude_pm-sampler", daemon=True)
        self._before_s: float | None = None

    def start(self) -> None:
        self._before_s = sys.getswitchinterval()
        # With the usual 5 ms it would see a thread only where that waits.
        sys.setswitchinterval(min(self._before_s, _SWITCH_S))
        self._thread.start()

    def stop(self) -> None:
        if self._before_s is None:
            return
        self._over.set()
        self._thread.join()
        sys.setswitchinterval(self._before_s)
        self._before_s = None

    def _run(self) -> None:
        delay_s = 0.0
        while not self._over.wait(delay_s):
            self._tick(None, time.perf_counter_ns())
            delay_s = self.interval_ns / 1e9 * _share(self.spread)


def _share(spread: float) -> float:
    return _random.uniform(1 - spread, 1 + spread)


_SWITCH_S = 0.0005


def _take_back(number: int, loop: AbstractEventLoop) -> None:
    """Take the bytes that tell of our signal from a loop that listens to signals.

    The interpreter writes one for each signal that it handles, and each would wake the loop up; if
    it is busy they fill its socket, and a signal that it waits for is lost.
    """
    # As asyncio's own loops hold them.
    reader, writer = getattr(loop, "_ssock", None), getattr(loop, "_csock", None)
    if reader is None or writer is None:
        return
    with contextlib.suppress(BlockingIOError, InterruptedError):
        others = reader.recv(4096).replace(bytes([number]), b"")
        if others:
            writer.send(others)


def _free_signal() -> int:
    """Return a real-time signal that nobody handles."""
    for number in range(signal.SIGRTMAX - 1, signal.SIGRTMIN, -1):
        if signal.getsignal(number) in {signal.SIG_DFL, signal.SIG_IGN}:
            return number
    raise OSError(errno.EBUSY, "every real-time signal has a handler")
