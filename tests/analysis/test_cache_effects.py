"""Cold against warm, against figures worked out by hand."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from claude_pm import Experiment
from claude_pm.analysis import break_even_requests, cache_effects, cache_savings
from claude_pm.analysis.cache_effects import CACHE_EFFECTS, CACHE_SAVINGS
from tests.profile_builder import ProfileBuilder

CLAUDE = "claude-sonnet-4-5"


def trial(ttfts: dict[str, list[float]], *, agent: str = "qa", **meta: Any) -> ProfileBuilder:
    """Return an experiment with a sample of each state in each round."""
    plan = {"conditions": [f"{agent}, {state}" for state in ttfts], "repeat": 1, "warmup": 0}
    builder = ProfileBuilder(experiment=plan, **meta)
    order = 0
    for block in range(max(map(len, ttfts.values()))):
        for state, seconds in ttfts.items():
            if block >= len(seconds):
                continue
            sample = builder.span(
                "sample", 10.0 * order, 9.0,
                attributes={"condition": f"{agent}, {state}", "block": block, "order": order},
            )  # fmt: skip
            builder.answered(
                agent, "local", 10.0 * order, seconds[block] + 1.0, parent=sample,
                ttft_s=seconds[block], input_tokens=1000,
                cache_read_tokens=900 if state == "warm" else 0,
                cache_write_tokens=900 if state == "cold" else 0,
                cost_usd={"cold": 0.004, "warm": 0.001, "off": 0.003}[state],
                model=CLAUDE, attributes={"cache_trial": state},
            )  # fmt: skip
            order += 1
    return builder


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
            ["qa", "local", "cold", 1, 4.0, 4.0, 5.0, 900.0, 0.0, pd.NA, pd.NA],
            ["qa", "local", "warm", 2, 0.5, 0.5, 1.0, 1000.0, 900.0, pd.NA, pd.NA],
            ["ops", "subprocess", "cold", 1, 5.0, 5.0, 6.0, 800.0, 10.0, pd.NA, pd.NA],
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

    def test_a_cache_that_was_off_is_a_state_of_its_own(self) -> None:
        """Cold, warm, off: with what was read, written and paid. An Experiment will do, too."""
        built = trial({"off": [4.0, 4.0], "warm": [0.1, 0.3], "cold": [3.0, 5.0]}).build()
        table = cache_effects(Experiment(built))
        columns = ["cache_state", "n", "ttft_median_s", "cache_write_tokens", "cost_usd"]
        assert table[columns].to_numpy().tolist() == [
            ["cold", 2, 4.0, 900.0, 0.004],
            ["warm", 2, 0.2, 0.0, 0.001],
            ["off", 2, 4.0, 0.0, 0.003],
        ]

    def test_off_is_what_the_server_did(self) -> None:
        """A server that read its cache all the same is not called off; one that is silent is."""
        builder = ProfileBuilder()
        said = {"cache_trial": "off"}
        builder.answered(
            "qa", "local", 0.0, 1.0, ttft_s=0.5, input_tokens=10, cache_read_tokens=9,
            attributes=said,
        )  # fmt: skip
        builder.answered("qa", "local", 2.0, 1.0, ttft_s=0.5, input_tokens=10, attributes=said)
        assert cache_effects(builder.build())["cache_state"].tolist() == ["warm", "off"]


class TestCacheSavings:
    def test_time_and_money_against_cold_and_off(self) -> None:
        """Differences of medians, and a ratio that reads as "times as long as warm"."""
        built = trial(
            {
                "cold": [4.0, 4.2, 3.8, 4.1, 3.9, 4.0],
                "warm": [0.1, 0.11, 0.09, 0.1, 0.1, 0.1],
                "off": [3.0, 3.1, 2.9, 3.0, 3.0, 3.0],
            }
        ).build()
        table = cache_savings(built)
        assert list(table.columns) == CACHE_SAVINGS.column_names
        cold, off = table.to_dict("records")
        assert [cold["compared_with"], off["compared_with"]] == ["cold", "off"]
        assert cold["saved_ttft_s"] == pytest.approx(3.9)
        assert cold["saved_s"] == pytest.approx(3.9)
        assert cold["saved_usd"] == pytest.approx(0.003)
        assert off["saved_usd"] == pytest.approx(0.002)
        assert cold["ttft_ratio"] == pytest.approx(40.0)
        assert cold["ci_low"] < 40.0 < cold["ci_high"]
        assert (cold["verdict"], off["verdict"]) == ("faster", "faster")
        assert (cold["n"], cold["n_warm"], cold["model"]) == (6, 6, CLAUDE)
        assert cold["break_even_requests"] == 2

    def test_rounds_are_compared_with_themselves(self) -> None:
        """A machine that gets ten times slower is no difference within a round."""
        slow = [1.0, 2.0, 4.0, 6.0, 8.0, 10.0]
        built = trial({"cold": [2 * one for one in slow], "warm": slow}).build()
        (row,) = cache_savings(built).to_dict("records")
        assert (row["ci_low"], row["ttft_ratio"], row["ci_high"]) == (2.0, 2.0, 2.0)
        assert row["verdict"] == "faster"

    def test_without_rounds_all_requests_count(self) -> None:
        """Cold once and warm ever after, as in any profile: a difference, and no interval."""
        builder = ProfileBuilder()
        for number in range(4):
            builder.answered(
                "qa", "local", 2.0 * number, 1.5 - number / 10, ttft_s=0.1 if number else 1.0,
                input_tokens=1000, cache_read_tokens=900 if number else 0,
            )  # fmt: skip
        (row,) = cache_savings(builder.build()).to_dict("records")
        assert row["saved_ttft_s"] == pytest.approx(0.9)
        assert row["saved_s"] == pytest.approx(0.2)
        assert row["ttft_ratio"] == pytest.approx(10.0)
        assert (row["verdict"], row["n"], row["n_warm"]) == ("unclear", 1, 3)
        # A model that nobody knows has no price.
        for name in ("ci_low", "ci_high", "saved_usd", "break_even_requests", "model"):
            assert pd.isna(row[name])

    def test_a_local_model_has_no_break_even(self) -> None:
        """Nor does a price appear from nowhere."""
        builder = ProfileBuilder()
        for start, read in ((0.0, 0), (2.0, 900)):
            builder.answered(
                "qa", "local", start, 1.0, ttft_s=0.5, input_tokens=1000, cache_read_tokens=read,
                model="SmolLM2-135M-Instruct",
            )  # fmt: skip
        (row,) = cache_savings(builder.build()).to_dict("records")
        assert row["model"] == "SmolLM2-135M-Instruct"
        assert pd.isna(row["break_even_requests"])
        assert pd.isna(row["saved_usd"])

    def test_modes_are_apart_and_only_warm_saves_nothing(self) -> None:
        """The start of a worker is not the cache's doing; what has no cold side has no row."""
        builder = ProfileBuilder()
        for mode, start, read in (("local", 0.0, 0), ("subprocess", 2.0, 900)):
            builder.answered(
                "qa", mode, start, 1.0, ttft_s=0.5, input_tokens=1000, cache_read_tokens=read
            )
        assert len(cache_savings(builder.build())) == 0


class TestBreakEven:
    def test_the_surcharge_of_five_minutes_and_of_an_hour(self) -> None:
        """Claude's own figures: the second request pays for 1.25, the third for 2."""
        assert break_even_requests(CLAUDE) == 2
        assert break_even_requests(CLAUDE, write_price=2.0) == 3

    def test_the_number_is_the_least_that_pays(self) -> None:
        """Checked against the sum that it solves, for many surcharges."""
        for write in (1.0, 1.1, 1.25, 1.9, 2.0, 2.8, 5.0, 10.0):
            n = break_even_requests(CLAUDE, write_price=write)
            assert n is not None
            assert write + (n - 1) * 0.1 <= n + 1e-9
            assert n == 1 or write + (n - 2) * 0.1 > n - 1

    @pytest.mark.parametrize("model", ["SmolLM2-135M-Instruct", "", "claude-none-1"])
    def test_null_without_prices(self, model: str) -> None:
        """Not 0, and no guess."""
        assert break_even_requests(model) is None
