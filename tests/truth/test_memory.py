"""Peaks of memory, against what is known to have been held and for how long."""

from __future__ import annotations

import asyncio
import mmap
import sys
import time

import pytest

import claude_pm
from claude_pm.analysis import memory_by_span
from tests.new_memory import MB, new_memory

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells exact peaks")


def hold(megabytes: int, seconds: float) -> None:
    """Hold new memory, all of it written, for some time."""
    held = new_memory(megabytes)
    time.sleep(seconds)
    held.close()


@pytest.mark.parametrize("seconds", [0.0, 0.005, 0.05])
@pytest.mark.parametrize("megabytes", [40, 120, 500])
def test_peak_of_a_span(megabytes: int, seconds: float) -> None:
    """A span's peak is what it held, within 3 % or 3 MB, however short; its neighbours' is not."""
    with claude_pm.profile("peaks", cpu=None, memory="rss") as profile:
        with claude_pm.span("before"):
            time.sleep(0.01)
        with claude_pm.span("holds"):
            hold(megabytes, seconds)
        with claude_pm.span("after"):
            time.sleep(0.01)
    found = memory_by_span(profile).set_index("name")["peak_growth_bytes"]
    allowed = max(3 * MB, 0.03 * megabytes * MB)
    assert found["holds"] == pytest.approx(megabytes * MB, abs=allowed)
    assert found["before"] < allowed
    assert found["after"] < allowed
    assert profile.memory["rss_bytes"].max() - profile.memory["rss_bytes"].iloc[0] == pytest.approx(
        megabytes * MB, abs=allowed
    )


def test_peak_of_a_span_after_another() -> None:
    """What a span's neighbour took just before is not the span's, whenever the last reading was."""
    kept = []
    with claude_pm.profile("neighbours", cpu=None, memory="rss") as profile:
        for number in range(20):
            with claude_pm.span("fills"):
                kept.append(new_memory(8))
                time.sleep(0.001 * (number % 5))
                kept.append(new_memory(4))
            with claude_pm.span("spike"):
                hold(40, 0.0)
            with claude_pm.span("calm"):
                pass
            with claude_pm.span("calm after 3 ms"):
                time.sleep(0.003)
    found = memory_by_span(profile)
    grown = found.groupby("name")["peak_growth_bytes"].agg(["min", "max"])
    for name, megabytes in (("fills", 12), ("spike", 40), ("calm after 3 ms", 0)):
        assert grown["min"][name] == pytest.approx(megabytes * MB, abs=3 * MB)
        assert grown["max"][name] == pytest.approx(megabytes * MB, abs=3 * MB)
    # A span too short for a reading of its own has none.
    assert (found.loc[found["name"] == "calm", "peak_growth_bytes"].fillna(0) < 3 * MB).all()


def test_untouched_memory_is_not_resident() -> None:
    """Memory that nobody has written is not there yet: only what is resident counts."""
    with claude_pm.profile("untouched", cpu=None, memory="rss") as profile:
        untouched = bytes(200 * MB)
        del untouched
    sizes = profile.memory["rss_bytes"]
    assert sizes.max() - sizes.iloc[0] < 3 * MB


async def test_overlapping_spans() -> None:
    """What concurrent spans grew by is marked as shared, and counted for none of them."""

    async def grows(name: str, kept: list[mmap.mmap]) -> None:
        with claude_pm.span(name):
            await asyncio.sleep(0.01)
            kept.append(new_memory(40))
            await asyncio.sleep(0.01)

    kept: list[mmap.mmap] = []
    async with claude_pm.profile("shared", cpu=None, memory="rss") as profile:
        with claude_pm.span("all"):
            await asyncio.gather(grows("one", kept), grows("two", kept))
    table = memory_by_span(profile).set_index("name")
    assert table["shared"].to_dict() == {"all": False, "one": True, "two": True}
    assert table["growth_bytes"]["all"] == pytest.approx(80 * MB, abs=4 * MB)
    assert table["self_growth_bytes"].isna()[["one", "two"]].all()
