"""What recording costs, told from the machine's noise.

``profilers`` starts a process for each figure, so that any profiler can take part; what differs
between two processes of one program is then more than what our recording costs. Here the same
workload runs on in one process, and is recorded and not recorded in turns of some 50 ms: not,
twice, not. A ratio is the median over all such fours, beside the bounds that hold the true median
95 times in 100. ``wall`` is time passed; ``cpu`` is the time of all threads of the process.

Each turn is recorded anew; starting and ending is not in the figures. Our sampler goes on, as what
it sees first tells it how often to look: in its turns off, nothing interrupts, and its timers start
anew after them. The thread that watches for it wakes up in both, so that is not in the figure.
Spans are recorded all along too, by tasks that began in the recording: in their turns off, no step
opens one.
"""

# ruff: noqa: SLF001 - nobody else has to stop a sampler for a while

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import math
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import claude_pm
from benchmarks import profiled_workload as workload
from benchmarks.peers.started import CASES
from benchmarks.peers.turns import figures_of
from claude_pm.recording import sampling, tick_timer

FOURS, FOURS_OF_PEERS = 300, 60
WARM_FOURS = 10
TURN_STEPS = 30
ORDER = (False, True, True, False)
SPANS = "claude_pm spans"
SAMPLERS = ("claude_pm sampler", "claude_pm sampler beside RSS")
"""The second one's memory is read all the time: the ratio is of the sampler alone."""

Times = tuple[float, float]
"""Wall and processor seconds."""
Switch = Callable[[bool], None]
"""Told at the beginning of each turn whether to record in it."""


def run() -> Iterator[dict[str, Any]]:
    """Yield the figures, one a case, each of a process of its own."""
    for case in CASES:
        figures = figures_of(["-m", "benchmarks.cost", case], ".")
        yield {"what": case, **({"why": figures} if isinstance(figures, str) else figures)}


def _measure(case: str) -> dict[str, Any]:
    count = WARM_FOURS + (FOURS if case.startswith("claude_pm") else FOURS_OF_PEERS)
    with contextlib.ExitStack() as whole:
        around: Callable[[str], Any] = contextlib.nullcontext
        if case == SPANS:
            whole.enter_context(CASES[case]({}))
            around = _SpansInTurns()
            switch: Switch = around.switch
        elif case in SAMPLERS:
            whole.enter_context(CASES[case]({}))
            switch = _pausing(whole)
        else:
            switch = _anew(case)
        turns = _Turns(count * len(ORDER), switch)
        asyncio.run(_work(turns, around))
    fours = list(zip(*[iter(turns.times[WARM_FOURS * len(ORDER) :])] * len(ORDER), strict=True))
    figures: dict[str, Any] = {"n": len(fours)}
    if isinstance(around, _SpansInTurns):
        figures["spans"] = around.recorded
    for nth, clock in enumerate(("wall", "cpu")):
        ratios = sorted(
            (second[nth] + third[nth]) / (first[nth] + fourth[nth])
            for first, second, third, fourth in fours
        )
        # Order statistics that hold the median: the normal form of the binomial distribution.
        rank = math.floor(len(ratios) / 2 - 1.96 * math.sqrt(len(ratios)) / 2)
        for name, ratio in (
            ("ratio", statistics.median(ratios)),
            ("ratio_low", ratios[rank]),
            ("ratio_high", ratios[-1 - rank]),
        ):
            figures[f"{clock}_{name}"] = round(ratio, 4)
    return figures


class _Turns:
    """Turns the recording on and off while the workload runs, and takes each turn's times."""

    def __init__(self, count: int, switch: Switch) -> None:
        self._count = count
        self.times: list[Times] = []
        self._switch = switch
        self._steps = 0
        self._begun: Times | None = None

    @property
    def are_over(self) -> bool:
        """Whether there were enough."""
        return len(self.times) == self._count

    def count_step(self) -> None:
        """Count a step of the workload, and change turns if it is time."""
        self._steps += 1
        if self._steps < TURN_STEPS or self.are_over:
            return
        now = _now()
        if self._begun is not None:
            self.times.append((now[0] - self._begun[0], now[1] - self._begun[1]))
        self._switch(ORDER[len(self.times) % len(ORDER)] and not self.are_over)
        self._steps, self._begun = 0, _now()


def _now() -> Times:
    return time.perf_counter(), time.process_time()


async def _work(turns: _Turns, around: Callable[..., Any]) -> None:
    async def task() -> None:
        while not turns.are_over:
            with around("step"):
                await workload.step([])
            turns.count_step()

    await asyncio.gather(*(task() for _ in range(workload.TASKS)))


def _anew(case: str) -> Switch:
    """Return what ends a recording and begins the next."""
    recordings = contextlib.ExitStack()

    def switch(is_on: bool) -> None:
        recordings.close()
        if is_on:
            recordings.enter_context(CASES[case]({}))

    return switch


class _SpansInTurns:
    """Opens a span around a step, or nothing."""

    def __init__(self) -> None:
        self.recorded = 0
        self._is_on = False

    def __call__(self, name: str) -> contextlib.AbstractContextManager[Any]:
        if not self._is_on:
            return contextlib.nullcontext()
        made = claude_pm.span(name)
        self.recorded += made.recording
        return made

    def switch(self, is_on: bool) -> None:
        self._is_on = is_on


def _pausing(whole: contextlib.ExitStack) -> Switch:
    """Return what keeps the sampler from being called at all, and lets it go on."""
    sampler = sampling._active
    if sampler is None:
        raise RuntimeError("No sampler is active.")
    timer: Any = sampler._timer
    tick = timer._tick
    paused_ns = paused_cpu_ns = 0
    was_on = True

    def switch(is_on: bool) -> None:
        nonlocal was_on
        if is_on != was_on:
            was_on = is_on
            (go_on if is_on else pause)()

    def go_on() -> None:
        # For all that is charged, as if no time had passed.
        timer._last_ns = time.perf_counter_ns()
        gap_ns, gap_cpu_ns = timer._last_ns - paused_ns, time.thread_time_ns() - paused_cpu_ns
        sampler._noted_until_ns += gap_ns
        sampler._noted_ns += gap_ns
        sampler._others.until_ns += gap_ns
        sampler._cpu_ns += gap_cpu_ns
        for look in (sampler._last, sampler._last_at_all, sampler._last_at_tasks):
            look.now_ns += gap_ns
        sampler._notes[:] = [
            (now_ns + gap_ns, cpu_ns + gap_cpu_ns, *rest)
            for now_ns, cpu_ns, *rest in sampler._notes
        ]
        here = sampler._threads[threading.get_ident()]
        here._cpu_ns = (here._cpu_ns or 0) + gap_cpu_ns
        timer._tick = tick
        timer._arm()

    def pause() -> None:
        nonlocal paused_ns, paused_cpu_ns
        timer._tick = _nothing
        timer._every_ns = 0
        # A signal that is on its way finds that it was looked just now, and sets no timer.
        timer._last_ns = sys.maxsize
        never = ctypes.byref(tick_timer._Interval())
        for each in (timer._timer, timer._cpu_timer):
            timer._settime(each, 0, never, None)
        timer._settime_of_file(timer._late_file, 0, never, None)
        paused_ns, paused_cpu_ns = time.perf_counter_ns(), time.thread_time_ns()

    whole.callback(switch, True)
    return switch


def _nothing(_frame: object, _now_ns: int) -> bool:
    return False


if __name__ == "__main__":
    print(json.dumps(_measure(sys.argv[1])))
