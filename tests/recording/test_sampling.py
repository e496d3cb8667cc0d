"""``cpu="sample"``: whom sampled time is charged to, and what sampling leaves behind."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pandas as pd
import pytest

import claude_pm
from claude_pm.errors import RecordingError
from claude_pm.profiles import Profile, schema
from claude_pm.recording import ProfileSession, profile, sampling
from claude_pm.recording.recorder import Recorder
from claude_pm.recording.sampling import StackSampler
from claude_pm.recording.task_stacks import live_tasks
from tests.forked_child import in_forked_child, needs_fork

WAIT_S = 0.1


def sample() -> ProfileSession:
    """Sample and record nothing else."""
    return profile("sampled", cpu="sample", memory=None)


def burn(seconds: float = 0.05) -> None:
    """Use the CPU."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        sum(range(100))


def _sleeps(seconds: float) -> None:
    time.sleep(seconds)


async def waits() -> None:
    """Wait, and nothing else."""
    await asyncio.sleep(WAIT_S)


def rows_of(recorded: Profile, function: str) -> pd.DataFrame:
    """The samples with a function in their stack."""
    named = recorded.samples["stack"].str.contains(rf"(?:^|[;.]){function} \(", regex=True)
    return recorded.samples[named]


class TestTable:
    """The table of samples."""

    async def test_columns(self) -> None:
        """Columns and types are the schema's; a stack's root is first, a frame has its line."""
        async with sample() as recorded:
            await waits()
        schema.check(schema.SAMPLES, recorded.samples, where="the profile")
        row = rows_of(recorded, "waits").sort_values("weight_s").iloc[-1]
        assert (row["state"], row["pid"]) == ("waiting", recorded.meta["pid"])
        frames = row["stack"].split(";")
        line = waits.__code__.co_firstlineno
        assert f"waits ({__file__}:{line})" in frames[:-1]
        assert frames[-1].startswith("sleep (")

    async def test_nothing_else_is_recorded(self) -> None:
        """Sampling is not cProfile: there are no functions."""
        async with sample() as recorded:
            await asyncio.sleep(0.01)
        assert recorded.functions.empty
        assert recorded.meta["cpu"] == "sample"

    async def test_own_frames(self) -> None:
        """Our own frames are left out, and shown where they are asked for."""
        async with profile("x", cpu="sample", memory=None, internals=True) as shown:
            with claude_pm.profile("inner", cpu=None, memory=None):
                await waits()
        async with sample() as folded:
            await waits()
        assert not folded.samples["stack"].str.contains("claude_pm/recording").any()
        assert len(shown.samples) >= len(folded.samples) > 0


class TestWhom:
    """Time belongs to the span, the agent, the task and the coroutine that it was spent for."""

    async def test_concurrent_agents(self) -> None:
        """Tasks that run one function for several agents are told apart."""

        async def ask(agent: str, seconds: float) -> None:
            with claude_pm.span("ask", agent=agent):
                await asyncio.sleep(seconds)

        async with sample() as recorded:
            await asyncio.gather(ask("one", WAIT_S), ask("two", 3 * WAIT_S))
        waited = recorded.samples.groupby("agent")["weight_s"].sum()
        assert set(waited.index) == {"one", "two"}
        assert waited["two"] > 2 * waited["one"]
        spans = recorded.spans.set_index("span_id")["agent"]
        for row in recorded.samples.dropna(subset=["span_id"]).itertuples():
            assert spans[row.span_id] == row.agent

    async def test_inherited_span(self) -> None:
        """A task without a span of its own works for the span that it was started in."""
        async with sample() as recorded:
            with claude_pm.span("outer", agent="qa"):
                task = asyncio.create_task(waits(), name="inner task")
            await task
        row = rows_of(recorded, "waits").iloc[0]
        assert (row["agent"], row["task"]) == ("qa", "inner task")

    async def test_standstill_in_a_look(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """What was waited for when the machine stood still, or garbage was collected, has that."""
        begun: list[bool] = []
        took_s: list[float] = []

        def stands_still(loops: set[asyncio.AbstractEventLoop]) -> list[weakref.ref[Any]]:
            # In a look of the thread that waits: it cannot go on meanwhile.
            if begun and not took_s and threading.current_thread() is threading.main_thread():
                begun_s = time.perf_counter()
                time.sleep(5 * WAIT_S)
                took_s.append(time.perf_counter() - begun_s)
            return live_tasks(loops)

        async def both() -> None:
            await first()
            await second()

        async def first() -> None:
            begun.append(True)
            await asyncio.sleep(WAIT_S)

        async def second() -> None:
            await asyncio.sleep(WAIT_S)

        async with sample() as recorded:
            monkeypatch.setattr("claude_pm.recording.sampling.live_tasks", stands_still)
            await both()
        stood = rows_of(recorded, "first")["weight_s"].sum()
        assert stood >= took_s[0]
        assert rows_of(recorded, "second")["weight_s"].sum() < stood / 2

    async def test_thread_of_a_task(self) -> None:
        """Work that a coroutine gives to a thread belongs to the coroutine's span."""
        async with sample() as recorded:
            with claude_pm.span("tool", agent="qa"):
                await asyncio.to_thread(burn)
        ran = rows_of(recorded, "burn")
        assert set(ran["agent"]) == {"qa"}
        assert ran["task"].isna().all()
        assert not ran["thread"].str.contains("MainThread").any()

    def test_spans_in_threads(self) -> None:
        """A thread's own span is found, and the span around it when it has ended."""

        def work() -> None:
            with claude_pm.span("outer", agent="outer"):
                with claude_pm.span("inner", agent="inner"):
                    burn(0.1)
                burn(0.1)

        with sample() as recorded:
            thread = threading.Thread(target=work, name="worker")
            thread.start()
            thread.join()
        ran = rows_of(recorded, "burn")
        cpu = ran.groupby("agent")["cpu_s"].sum()
        assert set(ran["thread"]) == {"worker"}
        assert cpu["inner"] == pytest.approx(0.1, rel=0.3)
        assert cpu["outer"] == pytest.approx(0.1, rel=0.3)

    @pytest.mark.parametrize("awaiting", ["generator", "anext", "await", "task group"])
    async def test_await_chain(self, awaiting: str) -> None:
        """The chain leads through everything that can be awaited."""

        async def items() -> AsyncIterator[int]:
            await waits()
            yield 1

        class Awaitable:
            def __await__(self) -> object:
                return waits().__await__()

        async def grouped() -> None:
            async with asyncio.TaskGroup() as group:
                group.create_task(waits())

        async def outermost() -> None:
            if awaiting == "generator":
                async for _ in items():
                    pass
            elif awaiting == "anext":
                await anext(items(), None)
            elif awaiting == "await":
                await Awaitable()  # type: ignore[misc]
            else:
                await grouped()

        async with sample() as recorded:
            await asyncio.create_task(outermost())
        found = rows_of(recorded, "waits")
        assert found["weight_s"].sum() > WAIT_S / 2
        if awaiting != "task group":
            assert found["stack"].str.contains("outermost ").all()

    def test_event_loop_does_not_wait(self) -> None:
        """Waiting is the coroutine's: none of it is charged to the loop's select."""
        with sample() as recorded:
            asyncio.run(waits())
        selecting = recorded.samples[recorded.samples["stack"].str.contains(r"select \(")]
        assert selecting["weight_s"].sum() < WAIT_S / 3
        assert rows_of(recorded, "waits")["weight_s"].sum() > WAIT_S / 2

    def test_event_loop_after_long_work(self) -> None:
        """So too if the loop begins in code that has run for long, and its task runs first."""

        async def works_and_waits() -> None:
            burn(0.2)
            await asyncio.sleep(WAIT_S)

        with sample() as recorded:
            burn(0.4)
            asyncio.run(works_and_waits())
        selecting = recorded.samples[recorded.samples["stack"].str.contains(r"select \(")]
        assert selecting["weight_s"].sum() < WAIT_S / 3
        found = rows_of(recorded, "works_and_waits")
        assert found.groupby("state")["weight_s"].sum()["waiting"] > WAIT_S / 2
        assert found["task"].notna().all()
        of_main = recorded.samples[recorded.samples["thread"] == "MainThread"]
        total_s = of_main["weight_s"].sum()
        assert total_s == pytest.approx(recorded.meta["duration_s"], rel=0.1)

    def test_event_loop_without_tasks(self) -> None:
        """A loop that has only callbacks to wait for waits itself."""
        with sample() as recorded:
            loop = asyncio.new_event_loop()
            loop.call_later(WAIT_S, loop.stop)
            loop.run_forever()
            loop.close()
        found = rows_of(recorded, "select")
        assert found.groupby("state")["weight_s"].sum()["waiting"] > WAIT_S / 2

    def test_tasks_begin_after_long_work(self) -> None:
        """Tasks wait from their beginning on, and not from the last look at all of them on."""

        async def waits_till_the_end() -> None:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(60)

        async def begin_many() -> float:
            begun = time.perf_counter()
            tasks = [asyncio.create_task(waits_till_the_end()) for _ in range(20)]
            await asyncio.sleep(0)
            burn(0.01)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks)
            return 20 * (time.perf_counter() - begun)

        for _ in range(8):
            with sample() as recorded:
                burn(0.45)
                lived_s = asyncio.run(begin_many())
            charged_s = rows_of(recorded, "waits_till_the_end")["weight_s"].sum()
            assert charged_s < 1.5 * lived_s

    def test_work_and_waits_in_turn(self) -> None:
        """Long work, and the waits between it, each get what they took."""
        took: dict[str, float] = {}

        def timed(name: str, function: Callable[[float], None], seconds: float) -> None:
            begun = time.perf_counter()
            function(seconds)
            took[name] = took.get(name, 0.0) + time.perf_counter() - begun

        with sample() as recorded:
            for _ in range(2):
                timed("burn", burn, 0.4)
                timed("sleep", _sleeps, 0.3)
        for name, function in (("burn", "burn"), ("sleep", "_sleeps")):
            found = rows_of(recorded, function)["weight_s"].sum()
            assert found == pytest.approx(took[name], rel=0.15)

    def test_span_used_twice(self) -> None:
        """Each use of a span gets its own time."""
        again = []
        with sample() as recorded:
            one = claude_pm.span("again")
            for seconds in (0.2, 0.1):
                with one:
                    burn(seconds)
                    again.append(one.span_id)
        cpu_s = recorded.samples.groupby("span_id")["cpu_s"].sum()
        assert cpu_s[again[0]] == pytest.approx(0.2, rel=0.2)
        assert cpu_s[again[1]] == pytest.approx(0.1, rel=0.2)

    def test_blocked_thread(self) -> None:
        """A thread that sleeps waits, and uses no CPU time."""

        def sleeps() -> None:
            time.sleep(WAIT_S)

        with sample() as recorded:
            sleeps()
        found = rows_of(recorded, "sleeps").groupby("state")["weight_s"].sum()
        assert found["waiting"] > WAIT_S / 2
        assert rows_of(recorded, "sleeps")["cpu_s"].sum() < WAIT_S / 4

    def test_loop_of_another_thread(self) -> None:
        """Coroutines that run in another thread's loop are seen while the main thread waits."""
        true = {"running": 0.0, "waiting": 0.0}

        async def answers() -> None:
            with claude_pm.span("answer", agent="qa"):
                begun = time.thread_time()
                burn(0.02)
                true["running"] += time.thread_time() - begun
                begun = time.perf_counter()
                await asyncio.sleep(0.04)
                true["waiting"] += time.perf_counter() - begun

        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever)
        thread.start()
        with sample() as recorded:
            for _ in range(20):
                asyncio.run_coroutine_threadsafe(answers(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
        burnt, slept = (
            found[found["agent"] == "qa"]
            for found in (rows_of(recorded, "burn"), rows_of(recorded, "sleep"))
        )
        assert burnt["cpu_s"].sum() == pytest.approx(true["running"], rel=0.15)
        assert slept["weight_s"].sum() == pytest.approx(true["waiting"], rel=0.25)

    def test_threads_that_rest(self) -> None:
        """What other threads wait for has its whole time, while only the main thread runs."""
        over = threading.Event()
        lasted = {}

        def rests() -> None:
            begun = time.perf_counter()
            over.wait(10)
            lasted["rests"] = time.perf_counter() - begun

        async def rests_too() -> None:
            begun = time.perf_counter()
            await asyncio.get_running_loop().run_in_executor(None, over.wait, 10)
            lasted["rests_too"] = time.perf_counter() - begun

        def loops() -> None:
            asyncio.run(rests_too())

        with sample() as recorded:
            threads = [threading.Thread(target=target) for target in (rests, loops)]
            for thread in threads:
                thread.start()
            for _ in range(12):
                burn(0.02)
                _sleeps(0.02)
            over.set()
            for thread in threads:
                thread.join()
        for function, true_s in lasted.items():
            found = rows_of(recorded, function).groupby("state")["weight_s"].sum()
            assert found["waiting"] == pytest.approx(true_s, rel=0.1)
        assert rows_of(recorded, "select")["weight_s"].sum() < 0.1 * lasted["rests_too"]

    def test_time_in_one_call(self) -> None:
        """A call that neither runs Python nor lets others run is charged in full to its caller."""

        def adds_up() -> int:
            return sum(range(6_000_000))

        with sample() as recorded:
            begun, cpu_begun = time.perf_counter(), time.thread_time()
            adds_up()
            lasted, used = time.perf_counter() - begun, time.thread_time() - cpu_begun
        rows = rows_of(recorded, "adds_up")
        # What another process kept it from may be charged to what came before.
        assert 0.8 * used <= rows["weight_s"].sum() <= 1.2 * lasted
        assert rows["cpu_s"].sum() == pytest.approx(used, rel=0.2)
        assert recorded.meta["overhead"]["sampler"]["missed_ticks"] > 0


class TestOutsideOfTheMainThread:
    """A profile that is recorded in another thread."""

    def test_thread(self) -> None:
        """There a thread looks, and sees the same."""
        found: list[Profile] = []

        def record() -> None:
            with sample() as recorded:
                burn(0.1)
                asyncio.run(waits())
            found.append(recorded)

        thread = threading.Thread(target=record)
        thread.start()
        thread.join()
        (recorded,) = found
        assert recorded.meta["overhead"]["sampler"]["timer"] == "thread"
        assert rows_of(recorded, "burn")["cpu_s"].sum() == pytest.approx(0.1, rel=0.3)
        assert rows_of(recorded, "waits")["weight_s"].sum() > WAIT_S / 2

    def test_main_thread_in_native_code(self) -> None:
        """While the main thread cannot be interrupted, other threads are seen all the same."""
        code = """
import ctypes, threading, time, claude_pm
def burn():
    end = time.thread_time() + 0.3
    while time.thread_time() < end: sum(range(100))
# It goes on after an interruption: Python runs nothing meanwhile.
sleep = ctypes.CDLL(None).usleep
def native():
    end = time.monotonic() + 0.5
    while time.monotonic() < end: sleep(100_000)
with claude_pm.profile("x", cpu="sample", memory=None) as recorded:
    thread = threading.Thread(target=burn); thread.start(); native(); thread.join()
ran = recorded.samples[recorded.samples["stack"].str.contains("burn ")]
print(round(ran["cpu_s"].sum(), 1))
"""
        done = subprocess.run(
            [sys.executable, "-c", code], check=False, capture_output=True, text=True
        )
        assert done.stdout.strip() == "0.3", done.stderr


class _Unhashable:
    """Handles a signal."""

    __hash__ = None  # type: ignore[assignment]

    def __call__(self, *_: object) -> None:
        pass


class TestLeavesNothing:
    """Sampling changes nothing that stays."""

    def test_signals_and_switching(self) -> None:
        """Signal handlers, switch interval and threads are as before."""

        def state() -> tuple[object, ...]:
            handlers = [signal.getsignal(number) for number in range(1, signal.NSIG - 1)]
            return handlers, sys.getswitchinterval(), threading.active_count()

        before = state()
        for _ in range(20):
            with sample():
                burn(0.003)
        assert state() == before

    async def test_tasks_live_no_longer(self) -> None:
        """Neither tasks, nor futures, nor what frames hold, live longer for it."""

        class Held:
            pass

        held = weakref.WeakSet[Held]()

        async def holds() -> None:
            one = Held()
            held.add(one)
            await asyncio.sleep(0.02)

        async with sample():
            await asyncio.create_task(holds())
            await asyncio.sleep(0.02)
            assert not list(held)
        gc.collect()

    def test_loops_live_no_longer(self) -> None:
        """An event loop that is closed goes, though the profile goes on."""
        loops = weakref.WeakSet[asyncio.AbstractEventLoop]()

        async def uses_loop() -> None:
            loops.add(asyncio.get_running_loop())
            await asyncio.sleep(0.02)

        with sample():
            for _ in range(5):
                asyncio.run(uses_loop())
            burn()
            gc.collect()
            assert not list(loops)

    @pytest.mark.parametrize("amid", ["make_timer", "StackSampler._look", "threading.Thread.join"])
    def test_interrupted_as_it_begins_or_ends(
        self, amid: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """After a Ctrl-C in its own beginning or end all is as before, and it can begin anew."""

        def interrupted(*_: object) -> None:
            raise KeyboardInterrupt

        handlers = [signal.getsignal(number) for number in range(1, signal.NSIG - 1)]
        sampler = StackSampler(Recorder())
        begins = amid != "threading.Thread.join"
        if not begins:
            sampler.start()
        with monkeypatch.context() as patched:
            patched.setattr(f"claude_pm.recording.sampling.{amid}", interrupted)
            with pytest.raises(KeyboardInterrupt):
                (sampler.start if begins else sampler.stop)()
        assert [signal.getsignal(number) for number in range(1, signal.NSIG - 1)] == handlers
        with sample() as recorded:
            burn()
        assert not rows_of(recorded, "burn").empty

    @needs_fork
    def test_forked_child(self) -> None:
        """A forked child can sample itself while its parent is sampled, which goes on."""

        def samples_itself() -> list[str]:
            with sample() as recorded:
                burn()
            return rows_of(recorded, "burn")["state"].tolist()

        with sample() as recorded:
            found = in_forked_child(samples_itself)
            burn()
        assert "running" in found
        assert not rows_of(recorded, "burn").empty

    def test_locals_live_no_longer(self) -> None:
        """What a function holds goes when it returns, and not when the garbage collector comes."""

        class Held:
            pass

        def holds() -> weakref.ref[Held]:
            one = Held()
            burn()
            return weakref.ref(one)

        gc.disable()
        try:
            with sample() as recorded:
                held = [holds() for _ in range(10)]
                alive = [one for one in held if one() is not None]
        finally:
            gc.enable()
        assert not alive
        assert not rows_of(recorded, "burn").empty

    def test_exceptions(self) -> None:
        """The block's exception is the caller's, and sampling has ended."""

        def fails() -> None:
            with recording as recorded:
                found.append(recorded)
                burn()
                raise ZeroDivisionError

        recording, found = sample(), list[Profile]()
        with pytest.raises(ZeroDivisionError):
            fails()
        (recorded,) = found
        assert not recorded.samples.empty
        with sample():
            pass

    @pytest.mark.parametrize("stall", [time.sleep, burn])
    def test_look_that_takes_long(
        self, stall: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Other looks come while one is taken: no time is charged twice."""
        looks = itertools.count()

        def opened_here() -> None:
            if next(looks) % 50 == 25:
                stall(0.03)

        monkeypatch.setattr(sampling, "opened_here", opened_here)
        with sample() as recorded:
            burn(1.0)
        assert next(looks) > 100
        found = recorded.samples[recorded.samples["thread"] == "MainThread"]
        assert found["weight_s"].sum() == pytest.approx(recorded.meta["duration_s"], rel=0.03)

    @pytest.mark.skipif(sys.platform != "linux", reason="only there signals interrupt to look")
    def test_users_signal_in_a_look(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """What a signal's handler raises reaches the code below it, a look's own errors do not."""

        def handler(_number: int, _frame: object) -> None:
            raise TimeoutError("It has taken too long.")

        def opened_here() -> None:
            if next(looks) == 20:
                signal.raise_signal(signal.SIGUSR1)
            raise ZeroDivisionError

        looks = itertools.count()
        monkeypatch.setattr(sampling, "opened_here", opened_here)
        before = signal.signal(signal.SIGUSR1, handler)
        before_2 = signal.signal(signal.SIGUSR2, _Unhashable())
        try:
            with sample() as recorded:
                with pytest.raises(TimeoutError):
                    burn(10)
                burn(0.05)
        finally:
            signal.signal(signal.SIGUSR2, before_2)
            signal.signal(signal.SIGUSR1, before)
        assert next(looks) > 22
        assert recorded.meta["overhead"]["sampler"]["failed_ticks"] > 20

    def test_interrupts_nothing(self) -> None:
        """Calls that wait go on waiting when they are interrupted: reading, sleeping, joining."""
        code = "import time, sys; time.sleep(0.3); print('said'); sys.stdout.flush()"
        with sample() as recorded:
            done = subprocess.run(
                [sys.executable, "-c", code], check=False, capture_output=True, text=True
            )
            with ThreadPoolExecutor() as pool:
                assert pool.submit(time.sleep, 0.05).result() is None
        assert done.stdout == "said\n"
        assert recorded.meta["overhead"]["sampler"]["ticks"] > 10

    def test_one_at_a_time(self) -> None:
        """A second sampler is refused in a sentence, and the first goes on."""
        with sample() as recorded:
            with pytest.raises(RecordingError, match=r"samples this process already.*cpu=None"):
                sample().__enter__()
            with profile("inner", cpu=None, memory=None):
                burn()
        assert rows_of(recorded, "burn")["cpu_s"].sum() == pytest.approx(0.05, rel=0.5)


class TestOverhead:
    """A profile says what sampling cost."""

    def test_meta(self) -> None:
        """It says how often it looked, how late it was, and what looking took."""
        with sample() as recorded:
            burn(0.1)
        said = recorded.meta["overhead"]["sampler"]
        assert said["ticks"] > 5
        assert said["failed_ticks"] == 0
        assert said["timer"] == ("signal" if sys.platform == "linux" else "thread")
        assert 0 < said["own_s"] < recorded.meta["duration_s"]
        assert said["interval_s"] * said["ticks"] == pytest.approx(
            recorded.meta["duration_s"], rel=0.5
        )

    @pytest.mark.skipif(sys.platform != "linux", reason="elsewhere no look interrupts a wait")
    def test_who_is_held_up(self) -> None:
        """Looks hold up threads that run while the main one waits for them, and no mere wait."""
        with sample() as busy, ThreadPoolExecutor() as pool:
            pool.submit(burn, 0.3).result()
        with sample() as idle:
            time.sleep(0.3)
        at_work, at_rest = (each.meta["overhead"]["sampler"] for each in (busy, idle))
        assert at_work["held_up_s"] > 0.5 * at_work["own_s"]
        assert at_rest["held_up_s"] < 0.5 * at_rest["own_s"]

    def test_rows_add_up(self) -> None:
        """One thread's rows add up to the time that passed, and to its CPU time."""
        with sample() as recorded:
            burn(0.2)
            time.sleep(0.1)
        found = recorded.samples[recorded.samples["thread"] == "MainThread"]
        assert found["weight_s"].sum() == pytest.approx(recorded.meta["duration_s"], rel=0.05)
        assert found["cpu_s"].sum() == pytest.approx(0.2, rel=0.15)


def test_errors_stay_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error in looking is counted, and never raised in the user's code."""

    def fails(*_: object) -> None:
        raise RuntimeError

    look: Callable[..., None] = StackSampler._look_at_threads
    with sample() as recorded:
        monkeypatch.setattr(StackSampler, "_look_at_threads", fails)
        burn()
        monkeypatch.setattr(StackSampler, "_look_at_threads", look)
    assert recorded.meta["overhead"]["sampler"]["failed_ticks"] > 0
