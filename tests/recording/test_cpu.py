"""The functions and callers tables: what cProfile saw of the user's code, and nothing of ours."""

from __future__ import annotations

import asyncio
import contextlib
import cProfile
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pandas as pd
import pytest

from claude_pm.errors import RecordingError
from claude_pm.recording import ProfileSession, profile, span, traced
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

    def test_other_threads_are_not_seen(self) -> None:
        """Nor does what other threads do: only the thread that began the profile is counted.

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
            stop.set()
            assert all(disturber.result() > 0 for disturber in disturbers)
        functions, callers = recorded.functions, recorded.callers
        assert function(functions, "leaf")["calls"] == 20 * 20
        assert function(functions, "branch")["calls"] == 20
        recursive = function(functions, recurse.__qualname__)
        assert (recursive["calls"], recursive["primitive_calls"]) == (20 * 11, 20)
        assert calls_between(callers, "leaf") == {"branch": 20 * 20}
        assert calls_between(callers, "branch") == {}
        assert calls_between(callers, "built-in method time.sleep") == {recurse.__qualname__: 200}
        assert functions["cumulative_s"].max() <= recorded.meta["duration_s"]

    async def test_to_thread(self) -> None:
        """The same holds for ``asyncio.to_thread``: its spans are seen, its functions are not."""

        def work() -> None:
            with span("in thread"):
                leaf(1)

        async with profile(memory=None) as recorded:
            await asyncio.gather(*(asyncio.to_thread(work) for _ in range(5)))
            branch(2)
        assert len(recorded.spans) == 5
        assert function(recorded.functions, "leaf")["calls"] == 2
        assert calls_between(recorded.callers, "leaf") == {"branch": 2}

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

    def test_files_can_be_renamed(self) -> None:
        """A notebook names its cells: in both tables a file shows as people know it."""
        session = ProfileSession("cell", memory=None)
        session.start()
        branch(2)
        session.stop(rename_file=lambda file: "In[3]" if file == __file__ else file)
        recorded = session.profile
        assert function(recorded.functions, "leaf")["file"] == "In[3]"
        (edge,) = recorded.callers[recorded.callers["callee_function"] == "leaf"].to_dict("records")
        assert (edge["caller_file"], edge["callee_file"]) == ("In[3]", "In[3]")


@pytest.fixture(params=["cProfile", "setprofile", "claude_pm"])
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
