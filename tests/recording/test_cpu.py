"""The functions and callers tables: what cProfile saw of the user's code, and nothing of ours."""

from __future__ import annotations

import asyncio
import contextlib
import cProfile
import os
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import thread as pool_threads
from pathlib import Path
from types import FrameType
from typing import Any

import pandas as pd
import pytest

from claude_pm.errors import RecordingError
from claude_pm.profiles.profile import Profile
from claude_pm.recording import profile, profile_session, span, traced
from claude_pm.recording.cpu import CpuProfiler
from claude_pm.recording.memory import INTERVAL_S

OURS = os.path.join("claude_pm", "recording")  # noqa: PTH118 - a part, no path


def leaf(n: int) -> int:
    """Do a little."""
    return sum(range(n))


def branch(n: int) -> int:
    """Call the leaf n times."""
    total = 0
    for _ in range(n):
        total += leaf(50)
    return total


def factorial(n: int) -> int:
    """Call itself."""
    return 1 if n <= 1 else n * factorial(n - 1)


def function(functions: pd.DataFrame, name: str) -> dict[str, Any]:
    """The one row of that function."""
    (found,) = functions[functions["function"] == name].to_dict("records")
    return found


def calls_between(callers: pd.DataFrame, callee: str) -> dict[str, int]:
    """Who called a function how often."""
    found = callers[callers["callee_function"] == callee]
    return dict(zip(found["caller_function"], found["calls"], strict=True))


class TestCounts:
    """Calls are counted, exactly."""

    @pytest.mark.parametrize("n", [1, 2, 1000])
    def test_calls(self, n: int) -> None:
        """A function called n times has n calls, and a line and a file to find it by."""
        with profile(memory=None) as recorded:
            branch(n)
        found = function(recorded.functions, "leaf")
        assert (found["calls"], found["primitive_calls"]) == (n, n)
        assert (found["file"], found["line"]) == (__file__, leaf.__code__.co_firstlineno)
        assert found["pid"] == recorded.meta["pid"]
        assert function(recorded.functions, "branch")["calls"] == 1

    def test_recursion(self) -> None:
        """Recursive calls are calls; primitive are those from outside."""
        with profile(memory=None) as recorded:
            factorial(5)
            factorial(3)
        found = function(recorded.functions, "factorial")
        assert (found["calls"], found["primitive_calls"]) == (8, 2)

    def test_exceptions(self) -> None:
        """A function that raises is counted like one that returns, and its caller goes on."""

        def fails() -> None:
            raise ValueError

        def handles() -> None:
            for _ in range(3):
                try:
                    fails()
                except ValueError:
                    leaf(1)

        with profile(memory=None) as recorded:
            handles()
        assert function(recorded.functions, fails.__qualname__)["calls"] == 3
        assert calls_between(recorded.callers, "leaf") == {handles.__qualname__: 3}

    def test_builtins(self) -> None:
        """Built-in functions are named too, in the file ``~``."""
        with profile(memory=None) as recorded:
            branch(4)
        found = function(recorded.functions, "built-in method builtins.sum")
        assert (found["file"], found["line"], found["calls"]) == ("~", 0, 4)

    def test_two_lambdas_of_a_line(self) -> None:
        """Functions that have one name, file and line are one row."""
        one, two = (lambda: 1), (lambda: 2)  # fmt: skip
        with profile(memory=None) as recorded:
            one()
            two()
            two()
        found = recorded.functions
        lambdas = found[found["function"].str.endswith("<lambda>") & (found["file"] == __file__)]
        assert lambdas["calls"].tolist() == [3]

    async def test_resumed_coroutines(self) -> None:
        """Every resumption of a coroutine is a call, as the column says."""

        async def work() -> None:
            await asyncio.sleep(0)
            await asyncio.sleep(0)

        async with profile(memory=None) as recorded:
            await work()
        assert function(recorded.functions, work.__qualname__)["calls"] == 3

    def test_without_cpu(self) -> None:
        """With cpu=None nothing is counted, and the tables are empty."""
        with profile(cpu=None, memory=None) as recorded:
            branch(2)
        assert recorded.functions.empty
        assert recorded.callers.empty


class TestTimes:
    """Own and cumulative seconds."""

    def test_containment(self) -> None:
        """Own time is part of cumulative time, a callee's of its caller's, all of the profile's."""
        with profile(memory=None) as recorded:
            branch(500)
        outer, inner = (function(recorded.functions, name) for name in ("branch", "leaf"))
        for found in (outer, inner):
            assert 0 <= found["total_s"] <= found["cumulative_s"]
        assert inner["cumulative_s"] <= outer["cumulative_s"] <= recorded.meta["duration_s"]
        assert outer["total_s"] <= outer["cumulative_s"] - inner["cumulative_s"] + 1e-6

    def test_awaited_time_is_not_cpu_time(self) -> None:
        """Time spent awaiting is not in a coroutine's cumulative time."""

        async def waits() -> None:
            with span("waits"):
                await asyncio.sleep(0.1)

        with profile(memory=None) as recorded:
            asyncio.run(waits())
        found = function(recorded.functions, waits.__qualname__)
        assert found["cumulative_s"] < recorded.spans["duration_s"].iloc[0]

    def test_awaited_time_is_not_the_callers(self) -> None:
        """Nor in that of the function that runs the event loop; what blocks the loop is."""

        async def waits() -> None:
            await asyncio.gather(*(asyncio.sleep(0.1) for _ in range(3)))

        async def blocks() -> None:
            time.sleep(0.05)  # noqa: ASYNC251 - as users do by mistake

        def runs(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
            asyncio.run(work())

        def counted_share() -> float:
            with profile(memory=None) as waited:
                runs(waits)
            functions = waited.functions
            assert (functions["total_s"] <= functions["cumulative_s"]).all()
            return float(functions["cumulative_s"].max() / waited.meta["duration_s"])

        with profile(memory=None) as blocked:
            runs(blocks)
        # Another process can take the core just when the loop goes on: so the best of some.
        assert min(counted_share() for _ in range(3)) < 0.5
        for name in (runs.__qualname__, blocks.__qualname__, "built-in method time.sleep"):
            assert function(blocked.functions, name)["cumulative_s"] >= 0.05
        assert (blocked.functions["total_s"] <= blocked.functions["cumulative_s"]).all()

    def test_calibrated(self) -> None:
        """Loops of known time have that time, in whatever thread, within 5 % of the whole."""
        loops = [
            compiled(
                f"def loop_{name}(n):\n    x = 0\n    for i in range(n):\n        x += i * i\n",
                __file__,
            )[f"loop_{name}"]
            for name in "abc"
        ]
        seconds: dict[str, float] = {}

        def timed(loop: Callable[[int], None], n: int) -> None:
            began = time.perf_counter()
            loop(n)
            seconds[loop.__name__] = time.perf_counter() - began

        def measure() -> float:
            with profile(memory=None) as recorded:
                for weight, loop in enumerate(loops, start=1):
                    with ThreadPoolExecutor(1) as pool:
                        pool.submit(timed, loop, 200_000 * weight).result()
            own = {name: function(recorded.functions, name)["total_s"] for name in seconds}
            whole = sum(seconds.values())
            return max(abs(own[name] - seconds[name]) for name in seconds) / whole

        # Another process can take the core just between two clock readings: so the best of some.
        assert min(measure() for _ in range(3)) < 0.05

    def test_most_expensive_first(self) -> None:
        """Functions come by their own time, most first."""
        with profile(memory=None) as recorded:
            branch(300)
        own = recorded.functions["total_s"].tolist()
        assert own == sorted(own, reverse=True)
        assert len(own) > 2


class TestCallers:
    """Who called whom."""

    def test_edges(self) -> None:
        """Each caller of a function has a row with its calls; they add up to all calls."""

        def other() -> None:
            leaf(1)
            leaf(1)

        with profile(memory=None) as recorded:
            branch(5)
            other()
        assert calls_between(recorded.callers, "leaf") == {"branch": 5, other.__qualname__: 2}
        edge = recorded.callers[recorded.callers["caller_function"] == "branch"].iloc[0]
        assert (edge["caller_file"], edge["callee_file"]) == (__file__, __file__)
        assert edge["caller_line"] == branch.__code__.co_firstlineno
        assert edge["callee_line"] == leaf.__code__.co_firstlineno

    def test_recursion(self) -> None:
        """A function can be its own caller."""
        with profile(memory=None) as recorded:
            factorial(5)
        assert calls_between(recorded.callers, "factorial") == {"factorial": 4}


class TestOnlyTheUsersCode:
    """What the recording itself does is in no table."""

    def test_spans_are_not_seen(self) -> None:
        """Spans and ``@traced`` leave no frames, and the functions within keep their counts."""

        @traced
        def work() -> None:
            with span("step", n=1) as current:
                current.set(done=True)
                branch(3)

        with profile() as recorded:
            work()
            work()
        for table, column in (
            (recorded.functions, "file"),
            (recorded.callers, "caller_file"),
            (recorded.callers, "callee_file"),
        ):
            assert [file for file in table[column] if OURS in file] == []
        assert function(recorded.functions, work.__wrapped__.__qualname__)["calls"] == 2
        assert function(recorded.functions, "leaf")["calls"] == 6
        assert calls_between(recorded.callers, "leaf") == {"branch": 6}

    def test_memory_readings_are_not_seen(self) -> None:
        """Memory read meanwhile, by a thread of its own, changes no count, caller or time."""
        rounds = 0
        with profile(memory="rss") as recorded:
            end = time.perf_counter() + 8 * INTERVAL_S
            while time.perf_counter() < end:
                branch(10)
                rounds += 1
        assert len(recorded.memory) > 3
        functions = recorded.functions
        assert function(functions, "branch")["calls"] == rounds
        assert function(functions, "leaf")["calls"] == 10 * rounds
        assert function(functions, "leaf")["primitive_calls"] == 10 * rounds
        assert calls_between(recorded.callers, "leaf") == {"branch": 10 * rounds}
        assert calls_between(recorded.callers, "branch") == {}
        assert function(functions, "branch")["cumulative_s"] <= recorded.meta["duration_s"]
        seen = set(functions["function"])
        assert seen == {
            "branch",
            "leaf",
            "built-in method builtins.sum",
            "built-in method time.perf_counter",
        }

    def test_older_threads_are_not_seen(self) -> None:
        """Nor does what threads do that were there before, whoever gives them work.

        Since Python 3.12 cProfile by itself sees all threads, and takes what two of them do at
        once for calls of one another.
        """
        stop = threading.Event()

        def numbers() -> Iterator[int]:
            yield int("1")
            yield int("no number")

        def disturb() -> int:
            rounds = 0
            while not stop.is_set():
                branch(3)
                with contextlib.suppress(ValueError):
                    rounds += sum(numbers())
                rounds += 1
                time.sleep(0)
            return rounds

        def recurse(depth: int) -> None:
            if depth > 0:
                time.sleep(0)
                recurse(depth - 1)

        with ThreadPoolExecutor(2) as pool:
            disturbers = [pool.submit(disturb) for _ in range(2)]
            with profile(memory=None) as recorded:
                for _ in range(20):
                    branch(20)
                    recurse(10)
                late = [pool.submit(branch, 7) for _ in range(5)]
                stop.set()
                assert [done.result() for done in late] == [7 * leaf(50)] * 5
            assert all(disturber.result() > 0 for disturber in disturbers)
        functions, callers = recorded.functions, recorded.callers
        # One call of the leaf is the test's own, in its comparison.
        assert function(functions, "leaf")["calls"] == 20 * 20 + 1
        assert function(functions, "branch")["calls"] == 20
        recursive = function(functions, recurse.__qualname__)
        assert (recursive["calls"], recursive["primitive_calls"]) == (20 * 11, 20)
        assert calls_between(callers, "leaf") == {"branch": 20 * 20}
        assert calls_between(callers, "branch") == {}
        assert calls_between(callers, "built-in method time.sleep") == {recurse.__qualname__: 200}
        assert functions["cumulative_s"].max() <= recorded.meta["duration_s"]

    def test_inner_memory_readings_are_not_seen(self) -> None:
        """Nor those of an inner profile, whose thread starts and ends meanwhile."""
        with profile(memory=None) as recorded:
            branch(1)
            with profile("inner", cpu=None, memory="rss"):
                branch(2)
            branch(3)
        assert calls_between(recorded.callers, "leaf") == {"branch": 6}
        assert calls_between(recorded.callers, "branch") == {}
        assert [file for file in recorded.functions["file"] if OURS in file] == []

    def test_files_have_the_names_of_cells(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A notebook names its cells: in both tables a file shows as people know it."""
        monkeypatch.setattr(
            profile_session, "cell_name", lambda file: "In[3]" if file == __file__ else file
        )
        with profile(memory=None) as recorded:
            branch(2)
        assert function(recorded.functions, "leaf")["file"] == "In[3]"
        (edge,) = recorded.callers[recorded.callers["callee_function"] == "leaf"].to_dict("records")
        assert (edge["caller_file"], edge["callee_file"]) == ("In[3]", "In[3]")


def compiled(source: str, file: str) -> dict[str, Any]:
    """What a module of that source and file defines."""
    module: dict[str, Any] = {}
    exec(compile(source, file, "exec"), module)
    return module


MACHINE = """
import json

def drives(work, times):
    for _ in range(times):
        json.dumps([1])
        work()
    return sorted([3, 2])

class Client:
    def asks(self, request):
        return request([1, 2])
"""
LIBRARY = """
import textwrap

def request(numbers):
    return textwrap.dedent(str(numbers))
"""


class TestMachinery:
    """Frames of the notebook's machinery and of claude_pm are folded away."""

    @pytest.fixture(autouse=True)
    def machine(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A package that is machinery, and an installed one that is not."""
        folder = str(tmp_path / "machine") + os.sep
        monkeypatch.setattr("claude_pm.recording.call_counts.machinery_folders", lambda: (folder,))
        self.machine = compiled(MACHINE, folder + "machine.py")
        stdlib = Path(os.__file__).parent
        self.library_file = str(stdlib / "site-packages" / "library.py")
        self.library = compiled(LIBRARY, self.library_file)

    def record(self, *, internals: bool) -> Profile:
        """Let the machinery call this file's functions, a library's and Python's own."""
        with profile(memory=None, internals=internals) as recorded:
            self.machine["drives"](lambda: branch(2), 3)
            self.machine["Client"]().asks(self.library["request"])
            sorted([2, 1])
        return recorded

    def test_folded_away(self) -> None:
        """Neither it nor what only it called in the standard library shows."""
        recorded = self.record(internals=False)
        functions = set(recorded.functions["function"])
        assert functions.isdisjoint({"drives", "Client.asks", "dumps", "JSONEncoder.encode"})
        assert {"drives", "Client.asks"}.isdisjoint(recorded.callers["caller_function"])
        assert function(recorded.functions, "built-in method builtins.sorted")["calls"] == 1

    def test_what_it_calls_is_seen(self) -> None:
        """The user's functions that it calls keep all calls and times, and libraries show."""
        recorded = self.record(internals=False)
        lambdas = recorded.functions["function"].str.endswith("<lambda>")
        assert recorded.functions[lambdas]["calls"].tolist() == [3]
        assert function(recorded.functions, "leaf")["calls"] == 6
        assert calls_between(recorded.callers, "branch") == {
            f"{type(self).__qualname__}.record.<locals>.<lambda>": 3
        }
        assert function(recorded.functions, "request")["file"] == self.library_file
        assert calls_between(recorded.callers, "request") == {}
        assert calls_between(recorded.callers, "dedent") == {"request": 1}

    def test_internals(self) -> None:
        """With internals=True all of it shows."""
        recorded = self.record(internals=True)
        assert function(recorded.functions, "drives")["calls"] == 1
        assert calls_between(recorded.callers, "request") == {"Client.asks": 1}
        assert calls_between(recorded.callers, "dumps") == {"drives": 3}
        assert function(recorded.functions, "built-in method builtins.sorted")["calls"] == 2

    def test_times_are_as_with_internals(self) -> None:
        """Folding takes nothing from the user's functions, and adds nothing."""
        session = CpuProfiler(internals=True)
        session.start()
        self.machine["drives"](lambda: branch(20), 5)
        session.stop()
        every = session.tables(str)["functions"]
        session._internals = False
        shown = session.tables(str)["functions"]
        own = [row for row in every if row["file"] == __file__]
        assert len(own) == 3
        assert [row for row in shown if row["file"] == __file__] == own

    def test_called_within_itself(self) -> None:
        """A library function that machinery and the user call within one another stays whole."""
        work = compiled(
            "def again(left, work):\n    return work(left - 1) if left else 0\n",
            str(Path(os.__file__).parent / "again.py"),
        )["again"]
        machine: Callable[[int], int] = compiled(
            "def machine(left): return work(left, user)",
            str(self.machine["drives"].__code__.co_filename),
        )["machine"]

        def user(left: int) -> int:
            return int(work(left, machine))

        machine.__globals__.update(work=work, user=user)
        with profile(memory=None) as recorded:
            machine(8)
        found = function(recorded.functions, "again")
        assert found["calls"] == sum(calls_between(recorded.callers, "again").values())
        assert 1 <= found["primitive_calls"] <= found["calls"]
        assert 0 <= found["total_s"] <= found["cumulative_s"] <= recorded.meta["duration_s"]


class Worker(threading.Thread):
    """A thread with a ``run`` of its own."""

    def run(self) -> None:
        """Work."""
        branch(2)


class TestThreads:
    """Threads that the block starts are counted with it: one row a function, sums over them."""

    async def test_to_thread(self) -> None:
        """``asyncio.to_thread``: its spans are seen, and its functions."""

        def work() -> None:
            with span("in thread"):
                leaf(1)

        async with profile(memory=None) as recorded:
            await asyncio.gather(*(asyncio.to_thread(work) for _ in range(5)))
            branch(2)
        assert len(recorded.spans) == 5
        assert function(recorded.functions, "leaf")["calls"] == 5 + 2
        assert calls_between(recorded.callers, "leaf") == {work.__qualname__: 5, "branch": 2}
        nothing_is_left()

    def test_executor(self) -> None:
        """A pool's functions are counted; the time in which its threads wait for work is not."""
        with profile(memory=None) as recorded, ThreadPoolExecutor(3) as pool:
            assert len(list(pool.map(branch, [4] * 30))) == 30
        found = function(recorded.functions, "branch")
        assert (found["calls"], found["primitive_calls"]) == (30, 30)
        assert calls_between(recorded.callers, "leaf") == {"branch": 120}
        assert "_worker" not in set(recorded.functions["function"])
        nothing_is_left()

    def test_plain_and_nested_threads(self) -> None:
        """A thread's threads are the block's too, and the own ``run`` of a class is counted."""

        def nest(depth: int) -> None:
            branch(1)
            if depth:
                thread = threading.Thread(target=nest, args=(depth - 1,))
                thread.start()
                thread.join()

        with profile(memory=None) as recorded:
            worker = Worker()
            worker.start()
            nest(3)
            worker.join()
        assert "run" not in vars(worker)
        assert function(recorded.functions, "Worker.run")["calls"] == 1
        nested = function(recorded.functions, nest.__qualname__)
        assert (nested["calls"], nested["primitive_calls"]) == (4, 4)
        assert calls_between(recorded.callers, "leaf") == {"branch": 4 + 2}
        nothing_is_left()

    def test_same_function_at_once(self) -> None:
        """Threads in one function at a time do not disturb one another: counts are exact."""
        barrier = threading.Barrier(3)

        def work() -> int:
            barrier.wait()
            for _ in range(100):
                branch(3)
                time.sleep(0)
            return factorial(20)

        with profile() as recorded:
            threads = [threading.Thread(target=work) for _ in range(2)]
            for thread in threads:
                thread.start()
            work()
            for thread in threads:
                thread.join()
        functions = recorded.functions
        assert function(functions, work.__qualname__)["primitive_calls"] == 3
        assert calls_between(recorded.callers, "branch") == {work.__qualname__: 300}
        assert calls_between(recorded.callers, "leaf") == {"branch": 900}
        recursive = function(functions, "factorial")
        assert (recursive["calls"], recursive["primitive_calls"]) == (60, 3)
        inner, outer = function(functions, "leaf"), function(functions, "branch")
        assert inner["cumulative_s"] <= outer["cumulative_s"] <= 3 * recorded.meta["duration_s"]
        assert [file for file in functions["file"] if OURS in file] == []

    def test_exceptions(self) -> None:
        """Work that raises is counted, and its exception goes where it went."""

        def fails() -> None:
            leaf(1)
            raise ValueError("bad")

        with profile(memory=None) as recorded, ThreadPoolExecutor(1) as pool:
            for _ in range(3):
                with pytest.raises(ValueError, match="bad"):
                    pool.submit(fails).result()
            pool.submit(branch, 1).result()
        assert function(recorded.functions, fails.__qualname__)["calls"] == 3
        assert calls_between(recorded.callers, "leaf") == {fails.__qualname__: 3, "branch": 1}
        assert calls_between(recorded.callers, fails.__qualname__) == {"_WorkItem.run": 3}

    def test_a_thread_that_raises(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """An exception that ends a thread reaches its hook; threads after it are counted."""
        caught: list[type[BaseException]] = []
        monkeypatch.setattr(threading, "excepthook", lambda hook: caught.append(hook.exc_type))

        def fails() -> None:
            leaf(1)
            raise ValueError("bad")

        with profile(memory=None) as recorded:
            for work in (fails, fails, lambda: branch(2)):
                thread = threading.Thread(target=work)
                thread.start()
                thread.join()
        assert caught == [ValueError, ValueError]
        assert calls_between(recorded.callers, "leaf") == {fails.__qualname__: 2, "branch": 2}
        nothing_is_left()

    @pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell the waits")
    def test_computing_at_once(self) -> None:
        """Threads that compute at once are not charged for the time that they wait in turn."""
        barrier = threading.Barrier(3)
        walls: list[float] = []

        def loop(n: int) -> None:
            x = 0
            for i in range(n):
                x += i * i

        def work() -> None:
            barrier.wait()
            began = time.perf_counter()
            loop(1_500_000)
            walls.append(time.perf_counter() - began)

        with profile(memory=None) as recorded, ThreadPoolExecutor(3) as pool:
            for done in [pool.submit(work) for _ in range(3)]:
                done.result()
        looped, worked = (function(recorded.functions, f.__qualname__) for f in (loop, work))
        assert looped["total_s"] < 0.75 * sum(walls)
        assert looped["total_s"] <= looped["cumulative_s"] <= worked["cumulative_s"]

    def test_blocked_while_another_computes(self) -> None:
        """Blocking time stays, although another thread computed meanwhile."""
        lock, held = threading.Lock(), threading.Event()
        waited: list[float] = []

        def compute() -> None:
            with lock:
                held.set()
                x = 0
                for i in range(1_500_000):
                    x += i * i

        def wait() -> None:
            began = time.perf_counter()
            with lock:
                waited.append(time.perf_counter() - began)

        with profile(memory=None) as recorded:
            thread = threading.Thread(target=compute)
            thread.start()
            held.wait()
            wait()
            thread.join()
        assert function(recorded.functions, wait.__qualname__)["cumulative_s"] > 0.5 * waited[0]

    def test_a_pool_that_goes_on(self) -> None:
        """A pool's threads are as they were when the recording has ended; what they do then is not.

        Nor is it in the next recording: its threads were there before.
        """
        with ThreadPoolExecutor(1) as pool:
            with profile(memory=None) as first:
                pool.submit(branch, 5).result()
            with profile(memory=None) as second:
                pool.submit(branch, 7).result()
                branch(1)
            assert pool.submit(sys.getprofile).result() is None
            assert function(first.functions, "leaf")["calls"] == 5
            assert function(second.functions, "leaf")["calls"] == 1
            nothing_is_left()

    def test_work_that_outlives_the_recording(self) -> None:
        """What began in the recording is counted until it ends, with the calls that are open."""
        began, end = threading.Event(), threading.Event()

        def work() -> None:
            branch(3)
            began.set()
            end.wait()
            branch(4)

        with ThreadPoolExecutor(1) as pool:
            with profile(memory=None) as recorded:
                thread = threading.Thread(target=work)
                thread.start()
                began.wait()
                began.clear()
                running = pool.submit(work)
                began.wait()
            end.set()
            thread.join()
            running.result()
            assert pool.submit(sys.getprofile).result() is None
        nothing_is_left()
        assert function(recorded.functions, "leaf")["calls"] == 6
        assert function(recorded.functions, work.__qualname__)["calls"] == 2
        with profile(memory=None) as after:
            branch(1)
        assert function(after.functions, "leaf")["calls"] == 1

    def test_recording_in_another_thread(self) -> None:
        """A recording in a thread counts that one and those that it starts, not the main one."""
        found: list[pd.DataFrame] = []
        began, end = threading.Event(), threading.Event()

        def record() -> None:
            with profile(memory=None) as recorded:
                began.set()
                end.wait()
                thread = Worker()
                thread.start()
                thread.join()
                branch(3)
            assert sys.getprofile() is None
            found.append(recorded.functions)

        recording = threading.Thread(target=record)
        recording.start()
        began.wait()
        branch(10)
        other = Worker()
        other.start()
        other.join()
        end.set()
        recording.join()
        assert function(found[0], "leaf")["calls"] == 2 + 3
        assert function(found[0], "Worker.run")["calls"] == 1
        nothing_is_left()

    def test_own_hook_is_left_alone(self) -> None:
        """Threads that a profiler of the user's watches stay its own."""
        seen: list[str] = []

        def hook(frame: FrameType, event: str, _: object) -> None:
            if event == "call":
                seen.append(frame.f_code.co_name)

        threading.setprofile(hook)
        try:
            with profile(memory=None) as recorded:
                thread = Worker()
                thread.start()
                thread.join()
            assert threading.getprofile() is hook
        finally:
            threading.setprofile(None)
        assert seen.count("leaf") == 2
        assert "leaf" not in set(recorded.functions["function"])

    def test_work_with_a_context(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A pool of Python 3.14 gives each piece of work its context, which reaches it."""
        given: list[str] = []

        def run(_: object, context: str) -> None:
            given.append(context)
            branch(2)

        monkeypatch.setattr(pool_threads._WorkItem, "run", run)
        item: Any = object.__new__(pool_threads._WorkItem)
        monkeypatch.setattr(pool_threads, "_worker", lambda: item.run("in a pool"))
        with profile(memory=None) as recorded:
            item.run("here")
            thread = threading.Thread(target=pool_threads._worker)
            thread.start()
            thread.join()
        assert given == ["here", "in a pool"]
        assert calls_between(recorded.callers, "leaf") == {"branch": 4}

    def test_thread_that_does_not_start(self) -> None:
        """A second start is refused by Python as ever, and leaves the thread its ``run``."""
        with profile(memory=None):
            thread = Worker()
            thread.start()
            with pytest.raises(RuntimeError, match="only be started once"):
                thread.start()
            thread.join()
        assert "run" not in vars(thread)


def inner_cprofile() -> None:
    """Profile a little, as ``%prun`` does."""
    cProfile.Profile().runcall(leaf, 1)


def inner_hook() -> None:
    """Set a profiler of one's own for a while."""
    sys.setprofile(lambda *_: None)
    leaf(1)
    sys.setprofile(None)


def nothing_is_left() -> None:
    """Check that no profiler, and no function of ours in Python's place, stayed behind."""
    assert sys.getprofile() is None
    assert threading.getprofile() is None
    assert threading.Thread.start.__code__.co_filename == threading.__file__
    assert pool_threads._WorkItem.run.__code__.co_filename == pool_threads.__file__
    if sys.version_info >= (3, 12):
        assert sys.monitoring.get_tool(sys.monitoring.PROFILER_ID) is None
        assert sys.monitoring.get_events(sys.monitoring.PROFILER_ID) == 0


@pytest.fixture(params=["cProfile", "setprofile", "monitoring", "claude_pm"])
def other_profiler(request: pytest.FixtureRequest) -> Iterator[Callable[[], bool]]:
    """A profiler that is on already; called, says whether it still is and works."""
    seen: list[str] = []
    if request.param == "cProfile":
        active = cProfile.Profile()
        active.enable()
        leaf(1)
        yield lambda: True
        active.disable()
        counted = {str(entry.code): entry.callcount for entry in active.getstats()}
        assert counted[str(leaf.__code__)] == 2
    elif request.param == "setprofile":
        sys.setprofile(lambda frame, event, _: seen.append(f"{event} {frame.f_code.co_name}"))
        leaf(1)
        yield lambda: sys.getprofile() is not None
        sys.setprofile(None)
        assert seen.count("call leaf") == 2
    elif request.param == "monitoring":
        if sys.version_info < (3, 12):
            pytest.skip("sys.monitoring came with Python 3.12")
        tool = sys.monitoring.PROFILER_ID
        sys.monitoring.use_tool_id(tool, "a tool")
        yield lambda: sys.monitoring.get_tool(tool) == "a tool"
        sys.monitoring.free_tool_id(tool)
    else:
        with profile("first", memory=None) as first:
            leaf(1)
            yield lambda: True
        assert function(first.functions, "leaf")["calls"] == 2


class TestSecondProfiler:
    """Python allows one profiler at a time."""

    def test_refused(self, other_profiler: Callable[[], bool]) -> None:
        """A second one is refused with what to do, before any of the block has run."""
        ran = False
        with pytest.raises(RecordingError) as caught, profile("second"):
            ran = True
        assert not ran
        message = str(caught.value)
        assert "Another profiler is already active" in message
        assert "cpu=None" in message
        assert message.endswith(".")
        # The first one works on: the fixture counts this call.
        leaf(1)
        assert other_profiler()

    def test_beside_it_without_cpu(self, other_profiler: Callable[[], bool]) -> None:
        """Without CPU times a profile can be recorded beside it, as the message says."""
        with profile("second", cpu=None) as recorded, span("work"):
            leaf(1)
        assert recorded.spans["name"].tolist() == ["work"]
        assert other_profiler()

    def test_spans_stay_with_the_first(self) -> None:
        """After the refusal, spans go on to the profile that is being recorded."""
        with profile("first") as first:
            with pytest.raises(RecordingError), profile("second"):
                pass
            with span("work"):
                pass
        assert first.spans["name"].tolist() == ["work"]

    def test_free_again(self) -> None:
        """When the first has ended, however it ended, the next can be recorded."""
        with pytest.raises(ValueError, match="bad"), profile("first"):
            raise ValueError("bad")
        with profile("second") as second:
            leaf(1)
        assert function(second.functions, "leaf")["calls"] == 1


class TestDisplaced:
    """Recorded code that begins a profiler of its own."""

    @pytest.mark.skipif(sys.version_info >= (3, 12), reason="both go on, or the second is refused")
    @pytest.mark.parametrize("other", [inner_cprofile, inner_hook])
    @pytest.mark.parametrize("where", ["here", "in a pool", "in a thread"])
    def test_said(
        self, other: Callable[[], None], where: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Where ours lost its place, a sentence says what is missing and what to do."""

        def work() -> None:
            leaf(1)
            other()
            leaf(1)
            leaf(1)

        with profile(memory=None) as recorded:
            if where == "here":
                work()
            elif where == "in a pool":
                with ThreadPoolExecutor(1) as pool:
                    pool.submit(work).result()
            else:
                thread = threading.Thread(target=work)
                thread.start()
                thread.join()
        assert function(recorded.functions, "leaf")["calls"] == 1
        (said,) = caplog.messages
        assert "another profiler" in said
        assert "cpu='sample'" in said
        assert said.endswith(recorded.meta["overhead"]["cprofile"]["lost"])
        nothing_is_left()

    def test_not_said(self, caplog: pytest.LogCaptureFixture) -> None:
        """Not of threads, of profiles in one another, of a thread that is another profiler's.

        Nor of what a thread does that outlives the recording.
        """
        began, end = threading.Event(), threading.Event()

        def outlives() -> None:
            began.set()
            end.wait()
            if sys.version_info < (3, 12):
                inner_cprofile()

        session = CpuProfiler()
        session.start()
        with ThreadPoolExecutor(2) as pool:
            assert list(pool.map(branch, [1] * 4)) == [branch(1)] * 4
        worker = Worker()
        worker.start()
        worker.join()
        with profile("inner", cpu="sample"), pytest.raises(RecordingError), profile("second"):
            pass
        hooked = threading.Thread(target=inner_hook)
        threading.setprofile(lambda *_: None)
        try:
            hooked.start()
            hooked.join()
        finally:
            threading.setprofile(None)
        if sys.version_info >= (3, 12):
            inner_hook()
            with pytest.raises(ValueError, match="already active"):
                inner_cprofile()
        late = threading.Thread(target=outlives)
        late.start()
        began.wait()
        session.stop()
        end.set()
        late.join()
        assert caplog.messages == []
        assert session.overhead() == {}
        # Nor is that we looked counted as a call.
        named = [row["function"] for row in session.tables(str)["functions"]]
        assert [name for name in named if "getprofile" in name] == []
