"""Cold against warm, against figures worked out by hand."""

from __future__ import annotations

import pandas as pd

from claude_pm.analysis import cache_effects
from claude_pm.analysis.cache_effects import CACHE_EFFECTS
from tests.profile_builder import ProfileBuilder


class TestCacheEffects:
    def test_medians_per_agent_mode_and_state(self) -> None:
        """A cold warm-up counts: it is the datum. Cold comes before warm."""
        builder = ProfileBuilder()
        builder.answered(
            "qa", "local", 0.0, 5.0, ttft_s=4.0, input_tokens=900, cache_read_tokens=0,
            attributes={"warmup": True},
        )  # fmt: skip
        for start, ttft in ((6.0, 0.25), (7.0, 0.75)):
            builder.answered(
                "qa", "local", start, 1.0, ttft_s=ttft, input_tokens=1000, cache_read_tokens=900
            )
        builder.answered(
            "ops", "subprocess", 9.0, 6.0, ttft_s=5.0, input_tokens=800, cache_read_tokens=10
        )
        table = cache_effects(builder.build())
        assert table.to_numpy().tolist() == [
            ["qa", "local", "cold", 1, 4.0, 4.0, 5.0, 900.0, 0.0],
            ["qa", "local", "warm", 2, 0.5, 0.5, 1.0, 1000.0, 900.0],
            ["ops", "subprocess", "cold", 1, 5.0, 5.0, 6.0, 800.0, 10.0],
        ]

    def test_failures_and_unknown_states_are_left_out(self) -> None:
        """An answer without counts, and a request that failed after one, tell nothing."""
        builder = ProfileBuilder()
        builder.answered("qa", "local", 0.0, 1.0, ttft_s=0.5)
        failed = builder.request("qa", "local", 2.0, 3.0, status="timeout")
        builder.span(
            "chat", 2.0, 1.0, parent=failed, ttft_s=0.5, input_tokens=10, cache_read_tokens=10
        )
        table = cache_effects(builder.build())
        assert list(table.columns) == CACHE_EFFECTS.column_names
        assert len(table) == 0

    def test_an_unknown_agent_has_its_row(self) -> None:
        """Requests without an agent's name are not lost."""
        builder = ProfileBuilder()
        request = builder.request(None, "local", 0.0, 1.0, ttft_s=0.5)
        builder.span("chat", 0.0, 1.0, parent=request, input_tokens=10, cache_read_tokens=10)
        table = cache_effects(builder.build())
        assert table["agent"].tolist() == [pd.NA]
        assert table["n"].tolist() == [1]
        assert table["prefill_median_s"].isna().all()
