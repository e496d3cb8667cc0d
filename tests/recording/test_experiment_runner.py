"""Experiments that are run: turns, warm-ups, failures, interrupts, and whatever is awaited."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import pytest

import claude_pm
from claude_pm.errors import RecordingError
from claude_pm.recording.experiment_runner import ExperimentSession
from tests.new_memory import new_memory


def nothing() -> None:
    """Take no time."""


def run_experiment(
    conditions: Mapping[str, Callable[[], Any]], *, running_loop: bool, **options: Any
) -> claude_pm.Experiment:
    """Run an experiment as a script does, or as a notebook, where a loop runs already."""

    async def cell() -> claude_pm.Experiment:
        return claude_pm.experiment(conditions, **options)

    return asyncio.run(cell()) if running_loop else claude_pm.experiment(conditions, **options)


class TestTurns:
    def test_blocks(self) -> None:
        """Every condition has one turn in each block, in an order drawn anew; warm-ups first."""
        made = claude_pm.experiment(
            {"a": nothing, "b": nothing, "c": nothing}, repeat=8, warmup=2, seed=3
        )
        samples = made.samples
        assert samples["order"].tolist() == list(range(30))
        assert samples["warmup"].tolist() == [True] * 6 + [False] * 24
        counted = samples[~samples["warmup"]]
        assert counted["block"].tolist() == [block for block in range(8) for _ in range(3)]
        orders = [tuple(block["condition"]) for _, block in counted.groupby("block")]
        assert all(sorted(order) == ["a", "b", "c"] for order in orders)
        assert len(set(orders)) > 2

    def test_seed(self) -> None:
        """The seed is kept, and draws the same order again."""
        first = claude_pm.experiment({"a": nothing, "b": nothing}, repeat=12)
        seed = first.meta["experiment"]["seed"]
        again = claude_pm.experiment({"a": nothing, "b": nothing}, repeat=12, seed=seed)
        other = claude_pm.experiment({"a": nothing, "b": nothing}, repeat=12, seed=seed + 1)
        orders = [made.samples["condition"].tolist() for made in (first, again, other)]
        assert orders[0] == orders[1] != orders[2]

    def test_saved_and_loaded(self, tmp_path: Any) -> None:
        """A saved experiment comes back with its samples and verdicts."""
        made = claude_pm.experiment({"a": nothing, "b": nothing}, repeat=3)
        loaded = claude_pm.Experiment(claude_pm.load(made.save(tmp_path)))
        assert loaded.samples.equals(made.samples)
        assert loaded.compare().table.equals(made.compare().table)

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            ({"conditions": {}}, "at least one condition"),
            ({"conditions": {"a": 3}}, "'a' is int, which cannot be called"),
            ({"repeat": 0}, "repeat=0; it may be a whole number from 1"),
            ({"warmup": -1}, "warmup=-1; it may be a whole number from 0"),
            ({"cpu": "x"}, "cpu='x'"),
        ],
    )
    def test_refused(self, arguments: dict[str, Any], said: str) -> None:
        """What cannot be run is refused before anything runs."""
        with pytest.raises(RecordingError, match=said):
            claude_pm.experiment(**{"conditions": {"a": nothing}} | arguments)


class TestMeasured:
    def test_spans_below(self) -> None:
        """What a condition does lies below its sample's span."""

        def work() -> None:
            with claude_pm.span("step"):
                pass

        made = claude_pm.experiment({"a": work}, repeat=2, warmup=0)
        steps = made.spans[made.spans["name"] == "step"]
        assert steps["parent_id"].tolist() == made.samples["span_id"].tolist()

    def test_cpu_of_children(self) -> None:
        """CPU time is that of the process and of processes that it waited for; sleep has none."""
        burn = "import time\nwhile time.process_time() < 0.3: pass"

        def child() -> None:
            subprocess.run([sys.executable, "-c", burn], check=True)

        def own() -> None:
            until = time.process_time() + 0.3
            while time.process_time() < until:
                pass

        made = claude_pm.experiment(
            {"child": child, "own": own, "sleep": lambda: time.sleep(0.05)}, repeat=1, warmup=0
        )
        cpu_s = made.samples.set_index("condition")["cpu_s"]
        assert cpu_s["child"] >= 0.3
        assert 0.3 <= cpu_s["own"] < 1.0
        assert cpu_s["sleep"] < 0.05

    def test_peak_memory(self) -> None:
        """A condition that holds 80 MB for a moment has them in its peak."""

        def much() -> None:
            held = new_memory(80)
            time.sleep(0.02)
            held.close()

        made = claude_pm.experiment({"none": lambda: time.sleep(0.02), "much": much}, repeat=3)
        peaks = made.samples.groupby("condition")["peak_rss_bytes"].max()
        assert peaks["much"] - peaks["none"] > 70_000_000


class TestAwaited:
    def test_coroutine_functions(self) -> None:
        """Coroutines are awaited, all in one loop, by whatever kind of call they are made."""
        loops = set()

        async def work() -> None:
            loops.add(id(asyncio.get_running_loop()))
            await asyncio.sleep(0.01)

        made = claude_pm.experiment({"a": work, "b": lambda: work()}, repeat=3)  # noqa: PLW0108
        assert len(loops) == 1
        assert made.samples["duration_s"].min() >= 0.01
        assert made.samples["status"].tolist() == ["ok"] * 8

    def test_in_a_running_loop(self) -> None:
        """In a notebook a loop runs already: another thread's loop awaits, with the same spans."""
        threads = set()

        async def work() -> None:
            threads.add(threading.current_thread())
            with claude_pm.span("step"):
                await asyncio.sleep(0)

        async def cell() -> claude_pm.Experiment:
            return claude_pm.experiment({"a": work, "b": lambda: work()}, repeat=2)  # noqa: PLW0108

        made = asyncio.run(cell())
        assert threading.main_thread() not in threads
        steps = made.spans[made.spans["name"] == "step"]
        assert steps["parent_id"].tolist() == made.samples["span_id"].tolist()
        assert not any(thread.is_alive() for thread in threads)

    @pytest.mark.parametrize("running_loop", [False, True])
    @pytest.mark.parametrize("warmup", [0, 1])
    @pytest.mark.parametrize("prepared", [False, True])
    def test_each_sample_has_its_own(self, running_loop: bool, warmup: int, prepared: bool) -> None:
        """Spans and tokens lie under the sample that they were made in, and samples beside it."""

        async def work(tokens: int) -> None:
            with claude_pm.span("chat", input_tokens=tokens):
                await asyncio.sleep(0)

        async def thousand() -> None:
            await work(1000)

        async def ready(_condition: str) -> None:
            with claude_pm.span("ready", input_tokens=7):
                await asyncio.sleep(0)

        made = run_experiment(
            {"a": lambda: work(1), "b": lambda: work(100), "c": thousand},
            running_loop=running_loop,
            repeat=2,
            warmup=warmup,
            before=ready if prepared else None,
        )
        samples = made.samples
        tokens = samples["condition"].map({"a": 1, "b": 100, "c": 1000})
        assert samples["input_tokens"].tolist() == tokens.tolist()
        spans = made.spans
        by_name = dict(iter(spans.groupby("name")))
        assert by_name["chat"]["parent_id"].tolist() == samples["span_id"].tolist()
        roots = by_name["sample"]
        if prepared:
            around = by_name["before_sample"]
            assert by_name["ready"]["parent_id"].tolist() == around["span_id"].tolist()
            assert around["parent_id"].isna().all()
        assert roots["parent_id"].isna().all()
        assert roots["trace_id"].is_unique

    @pytest.mark.parametrize("running_loop", [False, True])
    def test_generators_left_open(self, running_loop: bool) -> None:
        """A generator that a sample leaves open is closed, and no other sample lies below it."""
        kept = []

        async def stream() -> AsyncIterator[int]:
            with claude_pm.span("stream"):
                yield 1
                yield 2

        async def work() -> None:
            generator = stream()
            kept.append(generator)
            await anext(generator)
            with claude_pm.span("step"):
                await asyncio.sleep(0)

        made = run_experiment({"a": work}, running_loop=running_loop, repeat=3, warmup=0)
        spans = made.spans
        streams = spans[spans["name"] == "stream"]
        assert streams["parent_id"].tolist() == made.samples["span_id"].tolist()
        assert streams["status"].tolist() == ["cancelled"] * 3
        steps = spans[spans["name"] == "step"]
        assert steps["parent_id"].tolist() == streams["span_id"].tolist()
        assert spans.loc[spans["name"] == "sample", "parent_id"].isna().all()
        assert made.samples["status"].tolist() == ["ok"] * 3


class TestBefore:
    @pytest.mark.parametrize("awaited", [False, True])
    def test_is_no_part_of_the_sample(self, awaited: bool) -> None:
        """It comes before every sample, in the samples' loop, and is recorded beside them."""
        done: list[str] = []

        def ready(condition: str) -> None:
            done.append(f"before {condition}")
            with claude_pm.span("ready"):
                pass

        async def ready_awaited(condition: str) -> None:
            await asyncio.sleep(0)
            ready(condition)

        made = claude_pm.experiment(
            {"a": lambda: done.append("a"), "b": lambda: done.append("b")},
            repeat=2,
            before=ready_awaited if awaited else ready,
        )
        taken = made.samples["condition"].tolist()
        assert done == [one for name in taken for one in (f"before {name}", name)]
        spans = made.spans.set_index("span_id")
        parents = spans.loc[spans["name"] == "ready", "parent_id"]
        assert spans.loc[parents, "name"].tolist() == ["before_sample"] * 6
        assert spans.loc[parents, "parent_id"].isna().all()

    def test_an_error_in_it_is_raised(self) -> None:
        """What could not be made ready is not measured."""

        def wrong(condition: str) -> None:
            raise ValueError(f"{condition} is not ready")

        with pytest.raises(ValueError, match="a is not ready"):
            claude_pm.experiment({"a": nothing}, warmup=0, before=wrong)


class TestFailures:
    def test_go_on(self) -> None:
        """A failure is a row with its error, and the others go on."""
        calls: Counter[str] = Counter()

        def sometimes() -> None:
            calls["sometimes"] += 1
            if calls["sometimes"] == 3:
                raise ValueError("broken")

        async def sometimes_awaited() -> None:
            sometimes()

        for condition in (sometimes, sometimes_awaited):
            calls.clear()
            made = claude_pm.experiment({"a": condition, "b": nothing}, repeat=3)
            failed = made.samples[made.samples["status"] == "error"]
            assert len(made.samples) == 8
            assert failed["condition"].tolist() == ["a"]
            assert failed["error"].tolist() == ["ValueError: broken"]
            assert made.meta["experiment"]["complete"]
            assert made.compare().notes == ("1 sample of a failed and is left out.",)

    def test_warm_up(self) -> None:
        """What fails in the warm-up is wrong altogether: its own error is raised."""

        def wrong() -> None:
            raise ValueError("broken")

        with pytest.raises(ValueError, match="broken"):
            claude_pm.experiment({"a": nothing, "b": wrong})
        # And nothing stays behind that would forbid the next one.
        claude_pm.experiment({"a": nothing}, repeat=1, cpu="cprofile")

    @pytest.mark.parametrize("running_loop", [False, True])
    def test_cancelled(self, running_loop: bool) -> None:
        """A condition that ends as cancelled has failed like any other: the rest is measured."""

        def cancelled() -> None:
            raise asyncio.CancelledError

        async def cancelled_wait() -> None:
            waited_for = asyncio.ensure_future(asyncio.sleep(30))
            waited_for.cancel()
            await waited_for

        async def cancels_itself() -> None:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(30)

        made = run_experiment(
            {
                "sync": cancelled,
                "function": cancelled_wait,
                "lambda": lambda: cancelled_wait(),  # noqa: PLW0108
                "itself": cancels_itself,
                "good": nothing,
            },
            running_loop=running_loop,
            repeat=2,
            warmup=0,
        )
        statuses = made.samples.groupby("condition")["status"].agg(list).to_dict()
        assert statuses.pop("good") == ["ok"] * 2
        assert statuses == dict.fromkeys(
            ("sync", "function", "lambda", "itself"), ["cancelled"] * 2
        )
        assert made.meta["experiment"]["complete"]

    @pytest.mark.parametrize("running_loop", [False, True])
    def test_cancelled_in_the_warm_up(self, running_loop: bool) -> None:
        """There it is raised, as the same class wherever the condition was awaited."""

        async def cancelled() -> None:
            raise asyncio.CancelledError

        with pytest.raises(asyncio.CancelledError):
            run_experiment({"a": cancelled}, running_loop=running_loop)

    def test_cancelling_the_experiment(self) -> None:
        """Whoever cancels the task that measures ends all of it, and not one sample."""
        session = ExperimentSession(
            ["a"], repeat=2, warmup=0, name="x", cpu=None, memory=None, seed=1
        )

        async def measure() -> None:
            for turn in session.turns():
                with session.recording_failures(turn), session.measuring(turn):
                    await asyncio.sleep(0)

        async def cancel() -> None:
            task = asyncio.create_task(measure())
            await asyncio.sleep(0)
            task.cancel()
            await task

        session.start()
        with pytest.raises(asyncio.CancelledError):
            asyncio.run(cancel())
        assert session.stop().samples["status"].tolist() == ["cancelled"]

    def test_interrupt_of_a_task_cancelled_before(self) -> None:
        """An interrupt is one, even in a condition that was cancelled and went on."""
        calls = []

        async def stubborn() -> None:
            calls.append(1)
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0)
            if len(calls) == 2:
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
                await asyncio.sleep(30)

        made = claude_pm.experiment({"a": stubborn}, repeat=4, warmup=0)
        assert made.meta["experiment"]["complete"] is False
        assert made.samples["status"].tolist() == ["ok", "cancelled"]

    def test_interrupt_as_it_ends(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """An interrupt after the last sample has nothing left to end."""

        def interrupted() -> tuple[str | None, bool | None]:
            raise KeyboardInterrupt

        monkeypatch.setattr("claude_pm.recording.profile_session._git_state", interrupted)
        made = claude_pm.experiment({"a": lambda: None}, repeat=3)
        assert made.meta["experiment"]["complete"] is True
        assert (~made.samples["warmup"]).sum() == 3

    @pytest.mark.parametrize("awaited", [False, True])
    @pytest.mark.parametrize("running_loop", [False, True])
    def test_interrupt_keeps(self, awaited: bool, running_loop: bool) -> None:
        """An interrupt ends the experiment; what was measured until then is had."""
        calls = []

        def interrupt() -> None:
            calls.append(1)
            if len(calls) == 4:
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

        def waiting() -> None:
            interrupt()
            time.sleep(0.01 if len(calls) < 4 else 30)

        async def waiting_awaited() -> None:
            interrupt()
            await asyncio.sleep(0.01 if len(calls) < 4 else 30)

        def run() -> claude_pm.Experiment:
            return claude_pm.experiment(
                {"a": waiting_awaited if awaited else waiting}, repeat=9, warmup=1
            )

        async def cell() -> claude_pm.Experiment:
            # asyncio.run's own handler would only cancel this task, as no kernel's does.
            signal.signal(signal.SIGINT, signal.default_int_handler)
            return run()

        made = asyncio.run(cell()) if running_loop else run()
        assert made.meta["experiment"]["complete"] is False
        assert (made.samples["status"] == "ok").sum() == 3
        assert made.samples["status"].iloc[3] == "cancelled"


def test_progress_on_a_terminal() -> None:
    """On a terminal one line tells how far it is; elsewhere nothing is printed."""
    code = (
        "import claude_pm, time\n"
        "claude_pm.experiment({'a': lambda: time.sleep(.01)}, repeat=3, warmup=0)"
    )
    quiet = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert (quiet.stdout, quiet.stderr) == (b"", b"")
    leader, follower = os.openpty()
    with subprocess.Popen([sys.executable, "-c", code], stderr=follower) as process:
        os.close(follower)
        text = b""
        while True:
            try:
                text += os.read(leader, 4096)
            except OSError:  # the end of a terminal
                break
        assert process.wait() == 0
    os.close(leader)
    lines = text.decode().split("\r")
    assert "now a" in lines[1]
    assert "1 of 3 samples" in lines[2]
    assert "left" in lines[2]
    assert lines[-1].strip() == "" or "3 of 3 samples" in text.decode()
