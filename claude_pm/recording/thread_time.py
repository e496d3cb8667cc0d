"""How one thread spent the time from one look of the sampler to the next.

A look sees a stack, and the thread's CPU clock says how much of the interval it ran. Where it ran
all of the interval, or none, that is all. Where it ran a part, it may have begun to wait or to run,
and the stack before the one part or the stack now the other: what the thread does next, and what
threads were seen to do at these stacks before, tells which.
"""

from __future__ import annotations

import threading
from typing import NamedTuple

from claude_pm.recording.charges import RUNNING, WAITING, Charges, Look, Whom
from claude_pm.recording.task_time import TaskTime
from claude_pm.recording.thread_clocks import cpu_ns

# A thread that used this much of the interval's CPU time ran all of it; below the lower ones, none:
# an interruption of a thread that waits uses some, and where it is known to wait and has not moved,
# that can be much.
_BUSY, _IDLE, _STILL = 0.95, 0.02, 0.3
_MOSTLY = 0.5
IDLE_NS = 150_000
# For so long, CPU time of an event loop may be that of a task which goes on later.
_KEPT_NS = 100_000_000
# Who begins to run has its turn, of up to so long: only after that is it kept waiting for another.
_TURN_NS = 5_000_000


class Sight(NamedTuple):
    """What a look sees of a thread."""

    whom: Whom
    task: TaskTime | None
    """The task that it runs."""
    place: tuple[int, int]
    """The frame and the instruction in it."""
    is_loop: bool
    """Whether an event loop runs in it."""
    is_idle_loop: bool
    """Whether the loop waits for its tasks: that is charged to them."""
    is_interrupted: bool
    """Whether it was interrupted to look."""


class Interruption:
    """What CPU time it takes to interrupt a thread that waits.

    It is the median of what such a thread used between two looks, most often for nothing else.
    """

    def __init__(self) -> None:
        self.cost_ns = 0
        self._is_known = False

    def learn(self, used_ns: int) -> None:
        """Take one more reading."""
        if not self._is_known:
            self.cost_ns, self._is_known = min(used_ns, IDLE_NS), True
        step_ns = self.cost_ns // 10
        self.cost_ns += step_ns if used_ns > self.cost_ns else -step_ns


class _Undecided(NamedTuple):
    before: Sight
    now: Sight
    ran_ns: int
    rest_ns: int
    cpu_ns: int
    contended: bool


class _Split(NamedTuple):
    """An interval in which it ran, at two stacks: the first has ``first_ns`` of it."""

    before: Sight
    now: Sight
    wall_ns: int
    first_ns: int
    used_ns: int


class ThreadTime:
    """A thread as it was seen last."""

    __slots__ = (
        "_before", "_charges", "_cpu_ns", "_interruption", "_kept_ns", "_kept_since_ns",
        "_lead", "_looking_ns", "_native_id", "_split", "_undecided", "name", "running",
        "thread", "used_ns",
    )  # fmt: skip

    def __init__(
        self,
        ident: int,
        thread: threading.Thread | None,
        charges: Charges,
        interruption: Interruption,
    ) -> None:
        self._charges = charges
        self._interruption = interruption
        self._native_id = None if thread is None else thread.native_id
        self._cpu_ns: int | None = None
        self._looking_ns = 0
        self._before: Sight | None = None
        self._undecided: _Undecided | None = None
        self._lead: tuple[Sight, int] | None = None
        self._split: _Split | None = None
        self._kept_ns = self._kept_since_ns = 0
        self.thread = thread
        self.name = f"thread {ident}" if thread is None else thread.name
        self.running = False
        self.used_ns = 0
        """CPU time in the last interval."""

    @property
    def is_idle_loop(self) -> bool:
        """Whether its event loop was seen to wait for its tasks."""
        return self._before is not None and self._before.is_idle_loop

    @property
    def may_wait(self) -> bool:
        """Whether it ran a part of the last interval, and is where no thread was seen to stay."""
        return self._undecided is not None and self._undecided.now.whom.stack.runs is None

    @property
    def rests(self) -> bool:
        """Whether it waits, for all that is known."""
        return not self.running and self._undecided is None and self._before is not None

    def still_waits(self, look: Look, place: tuple[int, int], *, is_loop: bool) -> bool:
        """Whether it has not run since the last look; then the time is charged, and all is said."""
        before = self._before
        if before is None or self._cpu_ns is None or self._undecided is not None:
            return False
        if is_loop != before.is_loop or place != before.place:
            return False
        if cpu_ns(self._native_id) != self._cpu_ns:
            return False
        self.go_on_waiting(look.elapsed_ns)
        return True

    def go_on_waiting(self, elapsed_ns: int) -> None:
        """Charge time in which it is known not to have run."""
        before = self._before
        if before is not None and not before.is_idle_loop:
            self._add(before, WAITING, elapsed_ns, 0)
            before.whom.stack.stayed_ns += elapsed_ns
        self.running, self.used_ns = False, 0

    def look(
        self, look: Look, now: Sight, read_ns: int | None = None, *, waited: bool = True
    ) -> None:
        """Charge the time since the last look.

        ``read_ns`` is the thread's CPU time at ``look.now_ns``, if it was read together with that:
        a machine may stand still between two readings. ``waited`` is false where the kernel knows
        that the thread did not: then it ran, or other processes had the processor.
        """
        cpu_now_ns = cpu_ns(self._native_id) if read_ns is None else read_ns
        if look.elapsed_ns > 0:
            if cpu_now_ns is not None:
                self._charge_interval(look, now, cpu_now_ns - (self._cpu_ns or 0), waited=waited)
            elif not now.is_idle_loop:
                # The best that can be said without a clock.
                stays = self._before is not None and now.place == self._before.place
                self._add(now, WAITING if stays else RUNNING, look.elapsed_ns, 0)
        self._cpu_ns = cpu_now_ns
        self._before = now

    def note_looking(self, cpu_now_ns: int) -> None:
        """Remember what looking used of this thread's own CPU time, which is so much by now."""
        if self._cpu_ns is not None:
            self._looking_ns = cpu_now_ns - self._cpu_ns

    def end(self, went_on_ns: int) -> None:
        """Charge what is still open, when the thread or the recording has ended.

        It ``went_on_ns`` after the last look, mostly: with what it did then, for all that is known.
        """
        self._decide(runs=not self.running)
        before = self._before
        if before is not None and not before.is_idle_loop:
            state, used_ns = (RUNNING, went_on_ns) if self.running else (WAITING, 0)
            self._add(before, state, went_on_ns, used_ns)

    def give(self, tasks: list[Whom], now_ns: int) -> None:
        """Charge what an idle loop ran between looks to the tasks that went on meanwhile."""
        for whom in tasks if self._kept_ns > 0 else ():
            share_ns = self._kept_ns // len(tasks)
            self._charges.add(whom, RUNNING, share_ns, share_ns)
        self._kept_ns, self._kept_since_ns = 0, now_ns

    def _charge_interval(self, look: Look, now: Sight, used_ns: int, *, waited: bool) -> None:
        before, elapsed_ns = self._before, look.elapsed_ns
        lead, self._lead = self._lead, None
        split, self._split = self._split, None
        waits_here = waited and now.whom.stack.runs is False
        stayed = before is not None and before.whom.stack is now.whom.stack
        moved = before is None or before.place != now.place
        stays = stayed and not moved and waited
        # Who has not moved may only have been looked at, even if it ran before that.
        looked = stays or not self.running
        share = (used_ns - (self._looking_ns if looked else 0)) / elapsed_ns
        # Where it is not known yet that threads wait here, little CPU time says so: interruptions
        # use some, and would make the wait look like work for good.
        is_still = stays and share <= _STILL
        stays = is_still or (stays and waits_here)
        self._decide(runs=share >= _MOSTLY or not waited or (share > _IDLE and moved))
        self.running = self.running and not is_still
        used_ns = self._without_ours(used_ns, now, stays=stays, waits_here=waits_here)
        ran_ns = max(0, min(used_ns, elapsed_ns))
        self.used_ns = ran_ns
        share = ran_ns / elapsed_ns
        if stayed:
            now.whom.stack.stayed_ns += elapsed_ns
            now.whom.stack.ran_ns += ran_ns if waited else elapsed_ns
        if now.is_idle_loop:
            if self.running and before is not None:
                self._fall_asleep(before, now, look, ran_ns, split)
            else:
                self._keep(look, now, used_ns)
            self.running = False
        elif before is None:
            # Begun since the last look, mostly half of the interval ago; its CPU time may say more.
            self._add(now, RUNNING, ran_ns, used_ns)
            self._add(now, WAITING, max(0, look.half_ns - ran_ns), 0)
            self.running = True
        elif before.is_idle_loop and now.is_loop and now.whom.stack.runs is not False:
            self._wake_up(before, now, look, ran_ns)
        elif share >= _BUSY or not waited:
            self._charge_run(
                look.half_ns, before if self.running else now, now, elapsed_ns, used_ns, lead
            )
        elif ran_ns <= max(IDLE_NS, int((_STILL if stays else _IDLE) * elapsed_ns)):
            self._charge_wait(look, now if self.running or stayed else before, now, used_ns)
        elif now.is_loop and before.task is not now.task:
            # The one before ended its turn, if it had one, and the loop slept until this one's.
            half_ns = ran_ns // 2 if self.running else 0
            self._add(before, RUNNING, half_ns, half_ns)
            self._add(now, RUNNING, ran_ns - half_ns, ran_ns - half_ns)
            self.running = True
        else:
            self._undecided = _Undecided(
                before, now, ran_ns, elapsed_ns - ran_ns, used_ns, look.contended
            )
            if now.task is not None:
                # All of it will be charged to the task, though it is not said yet where.
                now.task.ran_ns += elapsed_ns

    def _without_ours(self, used_ns: int, now: Sight, *, stays: bool, waits_here: bool) -> int:
        """Take from the CPU time what looking used of it while the thread waited."""
        if not self.running:
            used_ns -= self._looking_ns
        self._looking_ns = 0
        if not now.is_interrupted:
            return used_ns
        if not self.running and (now.is_idle_loop or stays or used_ns <= IDLE_NS):
            self._interruption.learn(used_ns)
            return used_ns - self._interruption.cost_ns
        if now.is_idle_loop or waits_here or not self.running:
            # It waited at one end of the interval: there is the return from one interruption, or
            # the way into the next.
            return used_ns - self._interruption.cost_ns // 2
        return used_ns

    def _loops_own(self, idle: Sight, ran_ns: int) -> int:
        """Charge to an event loop what it uses to wake up, or to go to sleep, and return it.

        It is not measured: an interruption, which is both, costs about as much.
        """
        own_ns = min(ran_ns, self._interruption.cost_ns // 2)
        self._add(idle, RUNNING, own_ns, own_ns)
        return own_ns

    def _fall_asleep(
        self, before: Sight, now: Sight, look: Look, ran_ns: int, split: _Split | None
    ) -> None:
        """Charge an interval in which an event loop ran on, and then had nothing to do."""
        # The look before kept it from running, unless that may have been its own.
        looks = self.thread is threading.main_thread()
        stood_ns = 0 if looks else min(look.stood_ns, look.elapsed_ns - ran_ns)
        ran_ns -= self._loops_own(now, ran_ns)
        self._add(before, RUNNING, ran_ns + stood_ns, ran_ns)
        if split is not None:
            self._end_run(split, max(0, look.stood_ns + look.usual_ns - ran_ns))

    def _wake_up(self, before: Sight, now: Sight, look: Look, ran_ns: int) -> None:
        """Charge an interval in which an event loop woke up, and ran to where it is now.

        The look could have come at any time from then on until the longest interval was over, and
        stands for all of that.
        """
        ran_ns -= self._loops_own(before, ran_ns)
        self._lead = now, look.stood_ns + look.longest_ns - look.elapsed_ns
        self._add(now, RUNNING, ran_ns, ran_ns)
        self.running = True

    def _charge_wait(self, look: Look, before: Sight, now: Sight, used_ns: int) -> None:
        """Charge time in which it waited: half of the interval to either stack."""
        self.running = False
        before_ns = 0
        if before is not now and not (before.is_loop or now.is_loop):
            before_ns = min(look.waited_ns, look.elapsed_ns)
            self._add(before, WAITING, before_ns, 0)
        # CPU time may be less than nothing, as the cost of an interruption is an estimate.
        self._add(now, WAITING, look.elapsed_ns - before_ns, used_ns)

    def _charge_run(
        self, half_ns: int, before: Sight, now: Sight, wall_ns: int, used_ns: int,
        lead: tuple[Sight, int] | None,
    ) -> None:  # fmt: skip
        """Charge time in which it ran: half of the interval to either stack.

        Where threads wait, it has just begun to. After a wait the first stack has a ``lead``. Were
        its look to stand for less, what a task does first, or last, would be charged to what it
        does in between, which is longer and seen more often.
        """
        self.running = True
        if lead is not None:
            led, lead_ns = lead
            led_ns = max(0, min(wall_ns, lead_ns))
            led_used_ns = used_ns * led_ns // wall_ns
            self._add(led, RUNNING, led_ns, led_used_ns)
            if led_ns < lead_ns:
                self._lead = led, lead_ns - led_ns
            wall_ns, used_ns = wall_ns - led_ns, used_ns - led_used_ns
            if led.whom == before.whom:
                half_ns = 0
        first_ns = 0
        # Concurrent agents may run one and the same function.
        if before.whom != now.whom:
            first_ns = min(wall_ns, half_ns)
            self._split = _Split(before, now, wall_ns, first_ns, used_ns)
            if now.whom.stack.runs is False and before.whom.stack.runs is not False:
                first_ns, self.running, self._split = wall_ns, False, None
        used_first_ns = used_ns * first_ns // wall_ns if wall_ns else 0
        if first_ns:
            self._add(before, RUNNING, first_ns, used_first_ns)
        self._add(now, RUNNING, wall_ns - first_ns, used_ns - used_first_ns)

    def _end_run(self, split: _Split, last_ns: int) -> None:
        """Charge the last interval of a run anew, now that its end is known.

        The look at its end stands for a usual interval: for what came after it, and ``last_ns``
        of what came before.
        """
        if not split.wall_ns:
            return
        more_ns = max(0, split.wall_ns - last_ns) - split.first_ns
        used_ns = split.used_ns * more_ns // split.wall_ns
        self._add(split.before, RUNNING, more_ns, used_ns)
        self._add(split.now, RUNNING, -more_ns, -used_ns)

    def _decide(self, *, runs: bool) -> None:
        """Charge an interval in which it both ran and did not; ``runs`` says what it did next.

        It began to wait, or to run, in the interval; or it ran, and the processor or the
        interpreter's lock was another's for a part of it.
        """
        if self._undecided is None:
            return
        before, now, ran_ns, rest_ns, used_ns, contended = self._undecided
        self._undecided = None
        # The task has been told.
        before, now = before._replace(task=None), now._replace(task=None)
        waited_before, waits_now = before.whom.stack.runs is False, now.whom.stack.runs is False
        # Who competes is kept from running by others, before that interval and after it too.
        ran_on = contended and before.whom.stack.runs is True and now.whom.stack.runs is True
        ran = waited = now
        if waits_now and not waited_before:
            ran, runs = before, False
        elif waited_before and not waits_now:
            waited, runs = before, True
        elif ran_on or (self.running and runs):
            self._add(before, RUNNING, ran_ns // 2, used_ns // 2)
            self._add(before, WAITING, rest_ns // 2, 0)
            ran_ns -= ran_ns // 2
            used_ns -= used_ns // 2
            rest_ns -= rest_ns // 2
            runs = True
        elif self.running:
            ran = before
        elif runs:
            waited = before
        self._add(ran, RUNNING, ran_ns, used_ns)
        if ran is not waited:
            # Where threads share the interpreter's lock, to run is to wait for it too.
            since_ns = ran_ns if ran is before else max(ran_ns // 2, ran_ns - _TURN_NS // 2)
            held_up_ns = min(rest_ns, ran.whom.stack.held_up_ns(since_ns))
            self._add(ran, WAITING, held_up_ns, 0)
            rest_ns -= held_up_ns
        self._add(waited, WAITING, rest_ns, 0)
        self.running = runs

    def _keep(self, look: Look, now: Sight, used_ns: int) -> None:
        """Keep what an idle loop ran between two looks; if no task goes on, it is the loop's own.

        It may be less than nothing, as an estimate was taken from it: so it is added up first.
        """
        self._kept_ns += used_ns
        if look.now_ns - self._kept_since_ns > _KEPT_NS:
            self.give([now.whom], look.now_ns)

    def _add(self, sight: Sight, state: str, wall_ns: int, used_ns: int) -> None:
        if sight.task is not None:
            sight.task.ran_ns += wall_ns
        self._charges.add(sight.whom, state, wall_ns, used_ns)
