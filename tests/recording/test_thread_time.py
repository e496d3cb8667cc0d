"""How a thread's time is charged, with clocks made up."""

from __future__ import annotations

import itertools
import random
import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator

import pytest

from claude_pm.recording.call_tree import Stack
from claude_pm.recording.charges import Charges, Look, Whom
from claude_pm.recording.thread_time import Interruption, Sight, ThreadTime

MS = 1_000_000

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs threads' CPU clocks")


def sleeps() -> None:
    """Stand for code that waits."""


def burns() -> None:
    """Stand for code that runs."""


def prepares() -> None:
    """Stand for the little that runs before it, or after."""


class Thread:
    """A thread that is looked at; its clocks go on as it is told."""

    def __init__(self, thread: threading.Thread | None = None) -> None:
        thread = thread or threading.main_thread()
        self._is_main = thread is threading.main_thread()
        self._root = Stack()
        self.charged: dict[tuple[str, str], int] = defaultdict(int)
        self.cpu: dict[str, int] = defaultdict(int)
        self.tasks: dict[str | None, int] = defaultdict(int)
        self._time = ThreadTime(1, thread, self._charges(), Interruption())
        self._now_ns = self._cpu_ns = 0
        self._waits = False

    def _charges(self) -> Charges:
        charges = Charges()

        def add(whom: Whom, state: str, wall_ns: int, cpu_ns: int) -> None:
            code = whom.stack.code
            assert code is not None
            self.charged[code.co_name, state] += wall_ns
            self.tasks[whom.task] += wall_ns
            self.cpu[code.co_name] += cpu_ns

        charges.add = add  # type: ignore[method-assign]
        return charges

    def look(
        self, code: object, place: int, *, after_ns: int, used_ns: int, waited: bool = True,
        task: str | None = None, is_idle: bool = False, usual_ns: int = 0,
        stood_ns: int = 0, ends_wait: bool = False, contended: bool = False,
    ) -> None:  # fmt: skip
        """Look at it: it is in that code, and used so much CPU time since the last look."""
        self._now_ns += after_ns
        self._cpu_ns += used_ns
        stack = self._root.of([code.__code__])  # type: ignore[attr-defined]
        sight = Sight(
            whom=Whom(stack, None, "MainThread", task), task=None, place=(place, place),
            is_loop=is_idle or task is not None, is_idle_loop=is_idle,
            is_interrupted=self._is_main,
        )  # fmt: skip
        usual_ns = usual_ns or after_ns
        look = Look(
            self._now_ns, after_ns, usual_ns, usual_ns * (2 if self._waits else 1), stood_ns,
            ends_wait=ends_wait, contended=contended,
        )  # fmt: skip
        self._waits = is_idle
        self._time.look(look, sight, self._cpu_ns, waited=waited)

    def looking_takes(self, took_ns: int) -> None:
        """Let the last look have used so much of its CPU time."""
        self._time.note_looking(self._cpu_ns + took_ns)

    def end(self, went_on_ns: int = 0) -> None:
        """Charge what is open; it mostly went on for so long."""
        self._time.end(went_on_ns)


def test_interrupted_wait_is_no_work() -> None:
    """What looking itself uses of a waiting thread, from the first look on, is not its work."""
    thread = Thread()
    thread.look(sleeps, 7, after_ns=0, used_ns=0)
    for _ in range(200):
        # Interruptions on a slow machine, close to each other.
        thread.look(sleeps, 7, after_ns=MS, used_ns=MS // 5)
    thread.end()
    assert thread.charged["sleeps", "waiting"] == 200 * MS
    assert thread.charged["sleeps", "running"] == 0
    # All but what it took to learn the cost.
    assert thread.cpu["sleeps"] < 20 * MS


@pytest.mark.parametrize("worked_ns", [3 * MS, 5 * MS], ids=["has waited", "begins to wait"])
def test_a_look_soon_after_the_first_at_a_wait_is_no_work(worked_ns: int) -> None:
    """What the first look used is most of what the second one finds used: it ran before, not here.

    So it is known from one wait on that threads wait there.
    """
    thread = Thread()
    thread.look(burns, 1, after_ns=0, used_ns=0)
    for turn in range(1, 15):
        thread.look(burns, turn, after_ns=5 * MS, used_ns=5 * MS, waited=False)
        thread.look(sleeps, 7, after_ns=5 * MS, used_ns=worked_ns)
        thread.looking_takes(MS // 5)
        thread.look(sleeps, 7, after_ns=MS // 2, used_ns=MS // 4)
    thread.end()
    # The rest are interruptions, and half of an interval before it was known.
    assert thread.cpu["burns"] > 0.97 * 14 * (5 * MS + worked_ns)
    assert thread.charged["burns", "running"] > 0.97 * 14 * (5 * MS + worked_ns)
    assert thread.charged["sleeps", "running"] < 3 * MS


def test_work_beside_other_processes() -> None:
    """A loop that others keep from the processor works: it never waited, and all it used is its."""
    thread = Thread()
    thread.look(burns, 7, after_ns=0, used_ns=0)
    for _ in range(200):
        # A tight loop is always interrupted in the same place, as a wait is.
        thread.look(burns, 7, after_ns=5 * MS, used_ns=MS, waited=False)
    thread.end()
    assert thread.charged == {("burns", "running"): 1000 * MS}
    assert thread.cpu["burns"] == 200 * MS


def test_work_is_work() -> None:
    """A thread that runs is charged what it runs, wherever it was seen."""
    thread = Thread()
    thread.look(burns, 1, after_ns=0, used_ns=0)
    for place in range(100):
        thread.look(burns, place, after_ns=MS, used_ns=MS)
    thread.end()
    assert thread.charged["burns", "running"] == 100 * MS
    assert thread.cpu["burns"] == 100 * MS


def test_machine_that_stands_still() -> None:
    """A stop of the machine is of the interval in which both clocks show it."""
    thread = Thread()
    thread.look(burns, 1, after_ns=0, used_ns=0)
    thread.look(burns, 2, after_ns=40 * MS, used_ns=40 * MS)
    thread.look(sleeps, 3, after_ns=10 * MS, used_ns=0)
    thread.look(sleeps, 3, after_ns=10 * MS, used_ns=0)
    thread.end()
    assert thread.charged["burns", "running"] == pytest.approx(40 * MS, abs=MS)
    assert thread.charged["sleeps", "waiting"] == pytest.approx(20 * MS, abs=MS)


def test_tasks_that_run_the_same_function() -> None:
    """Where one task follows another in the same function, each has half of the interval."""
    thread = Thread()
    thread.look(burns, 1, after_ns=0, used_ns=0, task="one")
    thread.look(burns, 2, after_ns=2 * MS, used_ns=2 * MS, task="one", waited=False)
    thread.look(burns, 3, after_ns=2 * MS, used_ns=2 * MS, task="two", waited=False)
    thread.end()
    assert thread.tasks == {"one": 3 * MS, "two": MS}


def test_what_a_task_does_first_and_last() -> None:
    """A look stands for as long as it could have come, also at the edges of a run.

    A loop wakes a task that prepares for 0.2 ms, burns for 10 ms and prepares for 0.2 ms. However
    the looks fall, on average each has what it took.
    """
    thread, draw, runs = Thread(), random.Random(1), 4000
    edge_ns, burn_ns, wait_ns = MS // 5, 10 * MS, 20 * MS
    ends_ns = 2 * edge_ns + burn_ns
    # Since the task went on; before that, the loop sleeps.
    at_ns, seen_ns = -wait_ns, 0
    for place in itertools.count(1):
        # As far as they may be from the mean, while it waits and while it runs.
        spread = 0.5 if 0 <= at_ns < ends_ns else 1.0
        step_ns = int(MS * draw.uniform(1 - spread, 1 + spread))
        at_ns += step_ns
        ran_ns = min(max(at_ns, 0), ends_ns)
        how = {
            "after_ns": step_ns, "usual_ns": MS, "used_ns": ran_ns - seen_ns,
            "waited": seen_ns == 0,
        }  # fmt: skip
        if 0 <= at_ns < ends_ns:
            is_edge = at_ns < edge_ns or at_ns >= edge_ns + burn_ns
            thread.look(prepares if is_edge else burns, place, task="task", **how)
        else:
            thread.look(sleeps, 0, is_idle=True, **how)
        seen_ns = ran_ns
        if at_ns >= ends_ns:
            at_ns, seen_ns, runs = at_ns - ends_ns - wait_ns, 0, runs - 1
            if not runs:
                break
    thread.end()
    assert thread.cpu["prepares"] == pytest.approx(4000 * 2 * edge_ns, rel=0.12)
    assert thread.cpu["burns"] == pytest.approx(4000 * burn_ns, rel=0.01)


def test_looked_at_as_its_wait_is_over() -> None:
    """What ended the main thread's wait has just been done: what it did before has all of it."""
    thread = Thread()
    thread.look(sleeps, 7, after_ns=0, used_ns=0)
    thread.look(sleeps, 7, after_ns=10 * MS, used_ns=0)
    thread.look(prepares, 9, after_ns=10 * MS, used_ns=0, ends_wait=True)
    assert thread.charged["sleeps", "waiting"] == 20 * MS
    assert thread.charged["prepares", "waiting"] == 0


def turns(draw: random.Random) -> Iterator[tuple[Callable[[], None], int, bool, bool]]:
    """Yield parts of turns: what a thread does, for how long, if it runs, and if a turn ends then.

    It prepares, burns and sleeps, in turns of up to 5 ms between those of two others.
    """
    left_ns = draw.randint(MS, 5 * MS)
    for code in (prepares, burns):
        work_ns = 50 * MS
        while left_ns < work_ns:
            yield code, left_ns, True, True
            work_ns -= left_ns
            for _ in range(2):
                yield code, draw.randint(MS, 5 * MS), False, True
            left_ns = draw.randint(MS, 5 * MS)
        yield code, work_ns, True, False
        left_ns -= work_ns
    for _ in range(30):
        yield sleeps, draw.randint(MS, 5 * MS), False, True


def test_who_competes_waits_for_its_turns() -> None:
    """What a thread waits for its turns belongs to where it runs then.

    It is looked at where one turn ends, every other time. On average each place has what it took.
    """
    thread, draw = Thread(threading.Thread()), random.Random(1)
    true: dict[str, int] = defaultdict(int)
    since_ns = used_ns = 0
    thread.look(sleeps, 0, after_ns=0, used_ns=0)
    for place in range(300):
        for step, (code, wall_ns, runs, ends_turn) in enumerate(turns(draw)):
            true[code.__name__] += wall_ns
            since_ns += wall_ns
            used_ns += wall_ns if runs else 0
            if ends_turn and draw.random() < 0.5:
                at = 0 if code is sleeps else 1000 * (place + 1) + step
                thread.look(code, at, after_ns=since_ns, used_ns=used_ns, contended=True)
                since_ns = used_ns = 0
    thread.end()
    for name in ("prepares", "burns", "sleeps"):
        found = thread.charged[name, "running"] + thread.charged[name, "waiting"]
        assert found == pytest.approx(true[name], rel=0.02)


def test_who_had_no_turn_runs_on() -> None:
    """A thread that had no turn for a whole interval, as others compete, ran before and after it.

    So of the interval in which it had one, and went on to other work, each work has a half.
    """
    thread = Thread(threading.Thread())
    thread.look(prepares, 1, after_ns=0, used_ns=0)
    thread.look(burns, 2, after_ns=5 * MS, used_ns=5 * MS)
    thread.look(burns, 3, after_ns=5 * MS, used_ns=5 * MS)
    thread.look(prepares, 4, after_ns=5 * MS, used_ns=5 * MS)
    thread.look(prepares, 5, after_ns=5 * MS, used_ns=5 * MS)
    before = dict(thread.charged)
    thread.look(prepares, 5, after_ns=5 * MS, used_ns=0, contended=True)
    thread.look(burns, 6, after_ns=10 * MS, used_ns=4 * MS, contended=True)
    thread.look(burns, 7, after_ns=5 * MS, used_ns=5 * MS, contended=True)
    thread.end()
    more = {key: ns - before.get(key, 0) for key, ns in thread.charged.items()}
    assert more == {
        ("prepares", "running"): 2 * MS,
        ("prepares", "waiting"): 8 * MS,
        ("burns", "running"): 7 * MS,
        ("burns", "waiting"): 3 * MS,
    }


def test_kept_from_running_by_a_look() -> None:
    """A task of another thread's loop runs on for as long as a look has held it up."""
    thread = Thread(threading.Thread())
    thread.look(burns, 1, task="a", after_ns=0, used_ns=0)
    thread.look(burns, 2, task="a", after_ns=2 * MS, used_ns=2 * MS)
    thread.look(sleeps, 3, is_idle=True, after_ns=4 * MS, used_ns=MS, stood_ns=MS)
    assert thread.charged["burns", "running"] == 4 * MS
    assert thread.cpu["burns"] == 3 * MS


@pytest.mark.parametrize(("used_ns", "rest"), [(0, "waiting"), (5 * MS, "running")])
def test_before_its_first_look_and_after_its_last(used_ns: int, rest: str) -> None:
    """A thread that begins and ends between looks is taken to have been there half of the time."""
    thread = Thread()
    thread.look(sleeps, 7, after_ns=10 * MS, used_ns=used_ns)
    assert thread.charged["sleeps", rest] == 5 * MS
    thread.look(sleeps, 7, after_ns=10 * MS, used_ns=2 * used_ns)
    thread.end(went_on_ns=5 * MS)
    assert thread.charged["sleeps", rest] == 20 * MS
    assert sum(thread.charged.values()) == 20 * MS


def test_from_one_wait_to_another() -> None:
    """Of the interval in which it went on, with next to no CPU time, each of them has a half."""
    thread = Thread()
    thread.look(sleeps, 7, after_ns=0, used_ns=0)
    thread.look(sleeps, 7, after_ns=10 * MS, used_ns=0)
    thread.look(prepares, 9, after_ns=10 * MS, used_ns=0)
    thread.look(prepares, 9, after_ns=10 * MS, used_ns=0)
    thread.end()
    assert thread.charged["sleeps", "waiting"] == 15 * MS
    assert thread.charged["prepares", "waiting"] == 15 * MS
