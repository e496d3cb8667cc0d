"""The memory table: resident memory from the first moment to the last."""

from __future__ import annotations

import contextlib
import gc
import os
import sys
import threading
import time
from typing import Any

import psutil
import pytest

from claude_pm.recording import profile, resident, span
from claude_pm.recording.memory import BOUNDARY_S, INTERVAL_S, RssSampler
from claude_pm.recording.recorder import Recorder
from claude_pm.recording.span import activate, deactivate
from tests.forked_child import held_by_another_thread, in_forked_child, needs_fork
from tests.new_memory import MB, new_memory
from tests.waiting import wait_until


class TestTable:
    """What a profile shows."""

    def test_first_and_last(self) -> None:
        """However short the block, there is a reading from its beginning and one from its end."""
        with profile(cpu=None) as recorded, span("work"):
            pass
        readings = recorded.memory
        assert len(readings) >= 2
        (work,) = recorded.spans.to_dict("records")
        assert 0 <= readings["t_s"].iloc[0] <= work["start_s"]
        assert readings["t_s"].iloc[-1] >= work["start_s"] + work["duration_s"]

    def test_columns(self) -> None:
        """Readings come in order of time, from this process, and are whole bytes of memory."""
        with profile(cpu=None) as recorded:
            time.sleep(3 * INTERVAL_S)
        readings = recorded.memory
        assert readings["t_s"].is_monotonic_increasing
        assert set(readings["pid"]) == {os.getpid()}
        assert set(readings["role"]) == {"kernel"}
        assert readings["traced_bytes"].isna().all()
        assert (readings["rss_bytes"] > MB).all()

    def test_is_what_psutil_reads(self) -> None:
        """The bytes are the resident set size that other tools show."""
        before = psutil.Process().memory_info().rss
        with profile(cpu=None) as recorded:
            pass
        assert recorded.memory["rss_bytes"].iloc[0] == pytest.approx(before, abs=20 * MB)

    def test_peak(self) -> None:
        """80 MB written and held show in the peak and in the last reading; given back they do not.

        Memory that is only asked for is not resident: it has to be written.
        """
        with profile(cpu=None) as recorded:
            held = new_memory(80)
        first, last = recorded.memory["rss_bytes"].iloc[[0, -1]]
        assert recorded.memory["rss_bytes"].max() - first > 75 * MB
        assert last - first > 75 * MB
        held.close()

    def test_peak_given_back(self) -> None:
        """A peak that is over at the end shows, if it lasted a few readings."""
        with profile(cpu=None) as recorded:
            held = new_memory(80)
            time.sleep(4 * INTERVAL_S)
            held.close()
        first, last = recorded.memory["rss_bytes"].iloc[[0, -1]]
        assert recorded.memory["rss_bytes"].max() - first > 75 * MB
        assert last - first < 40 * MB

    def test_without_memory(self) -> None:
        """With memory=None nothing is read, and the table is empty."""
        with profile(cpu=None, memory=None) as recorded:
            pass
        assert recorded.memory.empty


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the exact peak")
class TestExactPeaks:
    """No peak is missed, however short."""

    def test_spike(self) -> None:
        """A spike between two readings shows, in a row between them."""
        with profile(cpu=None) as recorded:
            held = new_memory(120)
            held.close()
        sizes = recorded.memory["rss_bytes"]
        assert sizes.max() - sizes.iloc[0] == pytest.approx(120 * MB, abs=3 * MB)
        assert recorded.memory["t_s"].is_monotonic_increasing
        assert recorded.meta["overhead"]["memory"]["exact_peaks"]

    def test_what_was_before(self) -> None:
        """A peak from before the profile is not the profile's."""
        held = new_memory(120)
        held.close()
        with profile(cpu=None) as recorded:
            pass
        sizes = recorded.memory["rss_bytes"]
        assert sizes.max() - sizes.iloc[0] < 20 * MB

    def test_inner_profile(self) -> None:
        """A profile within another reads the same mark, and takes nothing from the outer one."""
        with profile(cpu=None) as outer:
            held = new_memory(120)
            held.close()
            with profile(cpu=None) as inner:
                pass
        for recorded, expected in ((outer, 120 * MB), (inner, 0)):
            sizes = recorded.memory["rss_bytes"]
            assert sizes.max() - sizes.iloc[0] == pytest.approx(expected, abs=5 * MB)


@needs_fork
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the exact peak")
class TestForkedChild:
    """A forked child has its parent's files, but its memory is another."""

    def test_mark_is_left_alone(self) -> None:
        """A spike before a fork shows, whatever the child does: with spans, at the block's end."""
        recorder = Recorder()
        sampler = RssSampler(recorder, "kernel", interval_s=3600)
        before = activate(recorder)
        sampler.start()
        around = span("around").__enter__()
        new_memory(120).close()

        def work() -> bool:
            time.sleep(2 * BOUNDARY_S)
            with span("child"):
                pass
            around.__exit__(None, None, None)
            sampler.stop()
            return True

        assert in_forked_child(work)
        recorder.finish()
        deactivate(recorder, before)
        sampler.stop()
        sizes = [row["rss_bytes"] for row in sampler.tables(str)["memory"]]
        assert max(sizes) - sizes[0] == pytest.approx(120 * MB, abs=3 * MB)

    def test_memory_of_its_own(self) -> None:
        """A child's own profile has its memory; that its parent was just reading is no matter."""

        def work() -> list[Any]:
            with profile(cpu=None) as own:
                new_memory(120).close()
            sizes = own.memory["rss_bytes"]
            return [int(sizes.max() - sizes.iloc[0]), own.memory["pid"].unique().tolist()]

        with profile(cpu=None) as recorded, held_by_another_thread(resident._lock):
            growth, pids = in_forked_child(work)
        assert growth == pytest.approx(120 * MB, abs=3 * MB)
        assert os.getpid() not in pids
        assert set(recorded.memory["pid"]) == {os.getpid()}

    def test_files_are_closed(self) -> None:
        """A child does not go on to hold its parent's files."""

        parent = f"/proc/{os.getpid()}/"

        def files_of_parent() -> list[str]:
            opened = []
            for number in os.listdir("/proc/self/fd"):  # noqa: PTH208
                # One is that of the listing.
                with contextlib.suppress(FileNotFoundError):
                    opened.append(os.readlink(f"/proc/self/fd/{number}"))  # noqa: PTH115
            return [path for path in opened if path.startswith(parent)]

        with profile(cpu=None):
            here, there = files_of_parent(), in_forked_child(files_of_parent)
        assert len(here) >= 3
        assert there == []


class TestSampler:
    """The sampler itself."""

    def test_reads_meanwhile(self) -> None:
        """It reads at its pace until it is stopped, and not after."""
        sampler = RssSampler(Recorder(), "kernel", interval_s=0.001)
        sampler.start()
        try:
            wait_until(lambda: len(sampler._each()) >= 5)
        finally:
            sampler.stop()
        stopped = sampler.tables(str)["memory"]
        time.sleep(0.02)
        assert sampler.tables(str)["memory"] == stopped
        times = [row["t_ns"] for row in stopped]
        assert times == sorted(times)

    def test_stop_twice(self) -> None:
        """A second stop does nothing."""
        sampler = RssSampler(Recorder(), "kernel")
        sampler.start()
        sampler.stop()
        stopped = sampler.tables(str)["memory"]
        sampler.stop()
        assert sampler.tables(str)["memory"] == stopped
        assert len(stopped) >= 2

    def test_interrupted_stop(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """After a Ctrl-C while the thread ends, a second stop does what is left."""
        sampler = RssSampler(Recorder(), "kernel", interval_s=3600)
        sampler.start()

        def interrupted(_thread: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "join", interrupted)
            with pytest.raises(KeyboardInterrupt):
                sampler.stop()
        sampler.stop()
        assert len(sampler.tables(str)["memory"]) == 2
        assert sampler._memory is None

    def test_stop_is_prompt(self) -> None:
        """Stopping does not wait for the next reading."""
        sampler = RssSampler(Recorder(), "kernel", interval_s=3600)
        sampler.start()
        sampler.stop()
        assert len(sampler.tables(str)["memory"]) == 2

    def test_role(self) -> None:
        """The rows carry the role that they are asked for."""
        sampler = RssSampler(Recorder(), "worker")
        sampler.start()
        sampler.stop()
        roles: list[dict[str, Any]] = sampler.tables(str)["memory"]
        assert {row["role"] for row in roles} == {"worker"}

    @pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts files by /proc")  # noqa: PTH112
    def test_leaves_nothing_open(self) -> None:
        """A hundred recordings leave no file open and no thread behind."""
        process = psutil.Process()

        def left() -> tuple[int, int]:
            return process.num_fds(), process.num_threads()

        # What others have left open and the collector closes meanwhile is not counted.
        gc.collect()
        before = left()
        for _ in range(100):
            sampler = RssSampler(Recorder(), "kernel")
            sampler.start()
            sampler.stop()
        wait_until(lambda: all(now <= then for now, then in zip(left(), before, strict=True)))
