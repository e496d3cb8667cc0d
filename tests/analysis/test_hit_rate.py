"""The hit rate over time, counted by hand."""

from __future__ import annotations

import pytest

from claude_pm.analysis import hit_rate
from claude_pm.analysis.hit_rate import HIT_RATE
from claude_pm.errors import ProfileError
from tests.profile_builder import ProfileBuilder


def asked(*reads: int | None) -> ProfileBuilder:
    """Return requests of 1,000 tokens, one a second, that read so many from the cache."""
    builder = ProfileBuilder()
    for number, read in enumerate(reads):
        builder.answered(
            "ops" if number % 2 else "qa", "local", float(number), 0.5, ttft_s=0.25,
            input_tokens=1000, cache_read_tokens=read,
        )  # fmt: skip
    return builder


class TestHitRate:
    def test_rises_as_the_cache_fills_and_falls_as_it_evicts(self) -> None:
        """Of all until then, and of the last few; all agents together, in order of time."""
        table = hit_rate(asked(0, 0, 900, 500, 0, 499).build(), recent=2)
        assert list(table.columns) == HIT_RATE.column_names
        assert table["start_s"].tolist() == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
        assert table["agent"].tolist() == ["qa", "ops"] * 3
        assert table["hit"].tolist() == [False, False, True, True, False, False]
        assert table["read_share"].tolist() == [0.0, 0.0, 0.9, 0.5, 0.0, 0.499]
        assert table["hit_rate"].tolist() == pytest.approx([0, 0, 1 / 3, 1 / 2, 2 / 5, 2 / 6])
        assert table["recent_hit_rate"].tolist() == [0.0, 0.0, 0.5, 1.0, 0.5, 0.0]

    def test_looks_back_on_ten(self) -> None:
        """Unless asked otherwise."""
        table = hit_rate(asked(0, *[900] * 10).build())
        assert table["recent_hit_rate"].tolist()[-2:] == [0.9, 1.0]
        assert table["hit_rate"].tolist()[-1] == pytest.approx(10 / 11)

    def test_leaves_out_what_asked_no_cache(self) -> None:
        """Failures, answers without counts, and requests of a trial with the cache off."""
        builder = asked(0, None, 900)
        builder.answered(
            "qa", "local", 10.0, 1.0, ttft_s=0.5, input_tokens=10, cache_read_tokens=0,
            attributes={"cache_trial": "off"},
        )  # fmt: skip
        builder.request("qa", "local", 12.0, 1.0, status="error")
        assert hit_rate(builder.build())["hit"].tolist() == [False, True]

    def test_nothing_was_asked(self) -> None:
        """An empty profile has the columns."""
        table = hit_rate(ProfileBuilder().build())
        assert (len(table), list(table.columns)) == (0, HIT_RATE.column_names)

    def test_refuses_to_look_back_on_nothing(self) -> None:
        """The message says what may be."""
        with pytest.raises(ProfileError, match="recent is 0; it may be a whole number from 1"):
            hit_rate(asked(0).build(), recent=0)
