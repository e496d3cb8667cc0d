"""Whom time is charged to, against workloads that know it; never how long anything took."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

import claude_pm
from tests.truth.scoring import counted, error, sampled
from tests.truth.workloads import WORKLOADS, Truth

pytestmark = pytest.mark.slow

WALL_ERROR, CPU_ERROR, COUNTED_ERROR = 0.02, 0.03, 0.05
RUNS = 5
# Each of very many short calls costs more to count than to make; of threads that compete for the
# interpreter's lock, its clock cannot tell which one ran; who has processes work, only awaits.
NOT_COUNTED = ("very many short calls", "executor threads", "subprocesses")


def usual_error(
    errors_of_one_run: Callable[[], tuple[float, ...]], allowed: tuple[float, ...]
) -> tuple[float, ...]:
    """The median errors of five runs: one may meet a machine that stands still meanwhile.

    As soon as three are within what is allowed so is the median, and the rest need not run.
    """
    found: list[tuple[float, ...]] = []
    for _ in range(RUNS):
        found.append(errors_of_one_run())
        good = [
            errors
            for errors in found
            if all(error <= most for error, most in zip(errors, allowed, strict=True))
        ]
        if len(good) > RUNS // 2:
            return good[-1]
    return tuple(sorted(errors)[RUNS // 2] for errors in zip(*found, strict=True))


@pytest.mark.skipif(sys.platform != "linux", reason="needs the CPU clocks of other threads")
@pytest.mark.parametrize("name", WORKLOADS)
def test_sampler(name: str) -> None:
    """At most 2 % of the wall time and 3 % of the CPU time is charged to the wrong place."""

    def run() -> tuple[float, float]:
        truth = Truth()
        with claude_pm.profile(name, cpu="sample", memory=None) as profile:
            WORKLOADS[name](truth)
        wall, cpu = sampled(profile, truth)
        return error(wall, truth.wall_s), error(cpu, truth.cpu_s)

    wall_error, cpu_error = usual_error(run, (WALL_ERROR, CPU_ERROR))
    assert wall_error <= WALL_ERROR
    assert cpu_error <= CPU_ERROR


@pytest.mark.parametrize("name", [name for name in WORKLOADS if name not in NOT_COUNTED])
def test_cprofile(name: str) -> None:
    """At most 5 % of the time in which nothing is awaited is charged to the wrong function."""

    def run() -> tuple[float]:
        truth = Truth()
        with claude_pm.profile(name, cpu="cprofile", memory=None) as profile:
            WORKLOADS[name](truth)
        return (error(*counted(profile, truth)),)

    (counted_error,) = usual_error(run, (COUNTED_ERROR,))
    assert counted_error <= COUNTED_ERROR
