"""``memory="trace"``: the lines that hold memory, and what repeated code keeps."""

from __future__ import annotations

import threading
import tracemalloc
from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest

from claude_pm.errors import RecordingError
from claude_pm.profiles import Profile, schema
from claude_pm.recording import ProfileSession, profile
from claude_pm.recording.allocations import AllocationTracer

_MB = 1_000_000


def line_of(allocations: pd.DataFrame, part: int) -> int:
    """The bytes held at this file's line of that number."""
    mine = allocations[(allocations["file"] == __file__) & (allocations["line"] == part)]
    return int(mine["size_bytes"].sum())


def keeps(held: list[Any], size: int) -> None:
    """Keep one more block."""
    held.append(bytearray(size))


def _interrupt(*_: Any) -> Any:
    raise KeyboardInterrupt


KEEPS = keeps.__code__.co_firstlineno + 2


def repeated(work: Any, repeats: int = 5) -> Profile:
    """Record repeats of a function."""
    session = ProfileSession("repeated", memory="trace")
    session.start()
    for _ in session.repeats(repeats):
        work()
    return session.stop()


class TestHeld:
    """What a block holds at its end."""

    def test_lines(self) -> None:
        """Lines are there with what they hold, the largest first; what was given back is not."""
        held: list[Any] = []
        with profile(memory="trace") as recorded:
            keeps(held, 3 * _MB)
            given_back = bytearray(8 * _MB)
            del given_back
        schema.check(schema.ALLOCATIONS, recorded.allocations, where="the profile")
        assert line_of(recorded.allocations, KEEPS) == pytest.approx(3 * _MB, rel=0.01)
        assert recorded.allocations["size_bytes"].is_monotonic_decreasing
        assert recorded.allocations["size_bytes"].iloc[0] < 4 * _MB
        assert not tracemalloc.is_tracing()

    def test_traced_memory(self) -> None:
        """The memory table has what is traced beside what is resident, with its peak."""
        with profile(memory="trace") as recorded:
            given_back = bytearray(8 * _MB)
            del given_back
        assert recorded.memory["traced_bytes"].max() > 8 * _MB
        assert recorded.memory["traced_bytes"].iloc[-1] < 4 * _MB
        assert recorded.memory["rss_bytes"].notna().any()

    def test_no_cpu_times(self) -> None:
        """It is a pass of its own: CPU times are not recorded, and refused when asked for."""
        with profile(memory="trace") as recorded:
            pass
        assert recorded.meta["cpu"] is None
        assert recorded.functions.empty
        with pytest.raises(RecordingError, match="pass of its own"):
            profile(cpu="cprofile", memory="trace")

    def test_ours_is_left_out(self) -> None:
        """What recording itself allocates is not the user's."""
        with profile(memory="trace") as recorded:
            pass
        assert not recorded.allocations["file"].str.contains("claude_pm/recording").any()

    def test_users_tracing_goes_on(self) -> None:
        """Where the user traces already, only what is new counts, and tracing stays on."""
        tracemalloc.start()
        try:
            held: list[Any] = []
            keeps(held, 5 * _MB)
            with profile(memory="trace") as recorded:
                keeps(held, 2 * _MB)
            assert tracemalloc.is_tracing()
        finally:
            tracemalloc.stop()
        assert line_of(recorded.allocations, KEEPS) == pytest.approx(2 * _MB, rel=0.01)

    @pytest.mark.parametrize(
        "forget",
        [
            pytest.param((tracemalloc.stop,), id="ended"),
            pytest.param((tracemalloc.stop, tracemalloc.start), id="begun-anew"),
            pytest.param((tracemalloc.clear_traces,), id="cleared"),
        ],
    )
    def test_code_that_ends_the_tracing(
        self, forget: tuple[Callable[[], None], ...], caplog: pytest.LogCaptureFixture
    ) -> None:
        """Where the code itself ends the tracing, the profile says why it knows of no lines."""
        held: list[Any] = []
        with profile(memory="trace") as recorded:
            keeps(held, _MB)
            for call in forget:
                call()
        assert recorded.allocations.empty
        lost = recorded.meta["overhead"]["allocations"]["lost"]
        assert lost.endswith("the recorded code itself ended or cleared tracemalloc's tracing.")
        assert lost in caplog.text
        assert len(recorded.memory) >= 2
        assert not tracemalloc.is_tracing()
        with profile(memory="trace") as recorded:
            pass
        assert "allocations" not in recorded.meta["overhead"]

    @pytest.mark.parametrize("was_tracing", [False, True])
    def test_interrupted_end(self, monkeypatch: pytest.MonkeyPatch, was_tracing: bool) -> None:
        """A Ctrl-C in the look at what is held leaves the rest, and no tracing that is ours."""
        session = ProfileSession("interrupted", memory="trace")
        if was_tracing:
            tracemalloc.start()
        try:
            recorded = session.start()
            monkeypatch.setattr(AllocationTracer, "_held", _interrupt)
            with pytest.raises(KeyboardInterrupt):
                session.stop()
            assert tracemalloc.is_tracing() == was_tracing
        finally:
            tracemalloc.stop()
        assert "interrupted" in recorded.meta["overhead"]["allocations"]["lost"]
        assert len(recorded.memory) >= 2

    def test_interrupted_start(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A Ctrl-C in the first look leaves no thread that reads the memory."""
        monkeypatch.setattr(AllocationTracer, "_held", _interrupt)
        tracemalloc.start()
        try:
            with pytest.raises(KeyboardInterrupt):
                ProfileSession("interrupted", memory="trace").start()
        finally:
            tracemalloc.stop()
        assert "claude_pm-rss" not in [thread.name for thread in threading.enumerate()]


class TestRepeats:
    """What each repeat keeps, beyond the first."""

    def test_leak(self) -> None:
        """A list that grows by 1 MB in each repeat has grown by four after the first of five."""
        held: list[Any] = []
        recorded = repeated(lambda: keeps(held, _MB))
        assert line_of(recorded.allocations, KEEPS) == pytest.approx(4 * _MB, rel=0.01)
        assert recorded.meta["repeats"] == 5

    def test_churn(self) -> None:
        """Memory that is given back is no leak, however much."""
        recorded = repeated(lambda: [bytearray(1000) for _ in range(20_000)])
        assert recorded.allocations["size_bytes"].sum() < _MB / 10

    def test_replaced(self) -> None:
        """What each repeat replaces does not grow."""
        state: dict[str, Any] = {}
        recorded = repeated(lambda: state.update(now=bytearray(5 * _MB)))
        assert recorded.allocations["size_bytes"].sum() < _MB / 10

    def test_code_that_ends_the_tracing(self) -> None:
        """Repeats go on where the code itself ends the tracing; nothing is told of growth then."""
        held: list[Any] = []

        def work() -> None:
            keeps(held, _MB)
            if len(held) == 4:
                tracemalloc.stop()

        recorded = repeated(work)
        assert len(held) == 5
        assert recorded.allocations.empty
        assert "allocations" in recorded.meta["overhead"]

    def test_without_tracing(self) -> None:
        """Repeats without tracing are refused in a sentence."""
        with pytest.raises(RecordingError, match="memory='trace'"):
            next(iter(ProfileSession("x").repeats(3)))
