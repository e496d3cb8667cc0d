"""The comparison of modes, against figures worked out by hand."""

from __future__ import annotations

import pandas as pd
import pytest

from claude_pm.analysis import compare_modes
from claude_pm.analysis.compare_modes import MODES
from tests.profile_builder import ProfileBuilder


def two_modes() -> ProfileBuilder:
    """Return LOCAL with 1, 2, 3 and 6 s (medians 2.5 s), SUBPROCESS with 9 and 11 s."""
    builder = ProfileBuilder()
    builder.answered("qa", "local", 0.0, 500.0, ttft_s=400.0, attributes={"warmup": True})
    for number, seconds in enumerate((1.0, 6.0, 3.0, 2.0)):
        builder.answered(
            "qa", "local", number + 1.0, seconds, ttft_s=seconds / 2, input_tokens=100 + number,
            cache_read_tokens=50, output_tokens=10 * number,
        )  # fmt: skip
    for seconds in (9.0, 11.0):
        builder.answered("qa", "subprocess", 20.0 + seconds, seconds, ttft_s=4.0)
    return builder


class TestCompareModes:
    def test_medians_p95_and_ratio(self) -> None:
        """Medians and interpolated p95 are of answered requests without warm-ups."""
        local, subprocess = compare_modes(two_modes().build()).to_dict("records")
        assert local["mode"] == "local"
        assert local["n"] == 4
        assert local["median_s"] == pytest.approx(2.5)
        # Of 1, 2, 3, 6: position 2.85 lies 0.85 of the way from 3 to 6.
        assert local["p95_s"] == pytest.approx(5.55)
        assert local["ttft_median_s"] == pytest.approx(1.25)
        assert local["input_tokens"] == pytest.approx(101.5)
        assert local["cache_read_tokens"] == 50
        assert local["output_tokens"] == 15
        assert local["ratio"] == 1.0
        assert subprocess["mode"] == "subprocess"
        assert subprocess["median_s"] == 10.0
        assert subprocess["ratio"] == pytest.approx(4.0)
        assert pd.isna(subprocess["input_tokens"])

    def test_failures_are_counted_but_not_measured(self) -> None:
        """A timeout of a minute does not move the median; a failed warm-up is not counted."""
        builder = two_modes()
        for status in ("error", "timeout", "cancelled"):
            builder.request("qa", "local", 50.0, 60.0, status=status)
        builder.request("qa", "local", 51.0, 60.0, status="error", attributes={"warmup": True})
        builder.request("qa", "local", 52.0, 60.0, status=None)
        local = compare_modes(builder.build()).iloc[0]
        assert (local["n"], local["failures"]) == (4, 3)
        assert local["median_s"] == pytest.approx(2.5)

    def test_a_mode_that_only_failed_has_no_medians(self) -> None:
        """Its row counts the failures, and knows no time and no ratio."""
        builder = two_modes()
        builder.request("qa", "hybrid", 60.0, 1.0, status="error")
        hybrid = compare_modes(builder.build()).iloc[2]
        assert (hybrid["mode"], hybrid["n"], hybrid["failures"]) == ("hybrid", 0, 1)
        assert hybrid[["median_s", "p95_s", "ttft_median_s", "ratio"]].isna().all()

    def test_no_ratio_without_local(self) -> None:
        """The ratio is to LOCAL, and null where there is none."""
        builder = ProfileBuilder()
        builder.answered("qa", "subprocess", 0.0, 3.0, ttft_s=1.0)
        assert compare_modes(builder.build())["ratio"].isna().all()

    def test_no_ratio_to_a_local_that_never_answered(self) -> None:
        """A LOCAL that only failed is no baseline."""
        builder = ProfileBuilder()
        builder.request("qa", "local", 0.0, 3.0, status="error")
        builder.answered("qa", "subprocess", 5.0, 3.0, ttft_s=1.0)
        assert compare_modes(builder.build())["ratio"].isna().all()

    def test_modes_come_in_order_of_appearance(self) -> None:
        """The first request's mode is the first row."""
        builder = ProfileBuilder()
        builder.answered("qa", "subprocess", 0.0, 3.0, ttft_s=1.0)
        builder.answered("qa", "local", 1.0, 3.0, ttft_s=1.0)
        builder.request("qa", None, 2.0, 0.1, status="error")
        assert compare_modes(builder.build())["mode"].tolist() == ["subprocess", "local"]

    def test_columns_are_as_declared_even_when_empty(self) -> None:
        """An empty profile compares nothing, in the right columns."""
        table = compare_modes(ProfileBuilder().build())
        assert list(table.columns) == MODES.column_names
        assert len(table) == 0
