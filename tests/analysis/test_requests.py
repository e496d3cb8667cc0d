"""The requests table: one row a request, whatever spans lie in and around it."""

from __future__ import annotations

import pandas as pd
import pytest

from claude_pm.analysis import requests_table
from claude_pm.analysis.requests import REQUESTS
from tests.profile_builder import ProfileBuilder


def retried_request() -> ProfileBuilder:
    """Return a request under a user's span: overloaded once, then answered in the second attempt.

    Its chats lie below a span of the user's, too.
    """
    builder = ProfileBuilder()
    workflow = builder.span("my workflow", 0.0, 9.0)
    request = builder.request(
        "qa", "local", 1.0, 5.0, parent=workflow, model="small", ttft_s=3.5, cost_usd=None
    )
    builder.span("queue", 1.0, 0.25, parent=request)
    wrapper = builder.span("my wrapper", 1.25, 4.5, parent=request)
    builder.span(
        "chat", 1.5, 1.0, parent=wrapper, status="error", error="ModelOverloadedError: busy",
        input_tokens=100, cost_usd=0.5,
    )  # fmt: skip
    builder.span(
        "chat", 3.0, 2.5, parent=wrapper, model="small-1", ttft_s=1.5, input_tokens=200,
        cache_read_tokens=150, cache_write_tokens=50, output_tokens=20, cost_usd=0.25,
    )  # fmt: skip
    return builder


class TestRequestsTable:
    def test_columns_are_as_declared_even_without_requests(self) -> None:
        """An empty profile has an empty table with all columns and their types."""
        table = requests_table(ProfileBuilder().build())
        assert len(table) == 0
        assert {name: str(dtype) for name, dtype in table.dtypes.items()} == {
            column.name: column.dtype for column in REQUESTS.columns
        }

    def test_adds_up_tokens_and_cost_over_all_attempts(self) -> None:
        """A retried request took the tokens of both attempts, as far as they are known."""
        row = requests_table(retried_request().build()).iloc[0]
        assert row["attempts"] == 2
        assert row["input_tokens"] == 300
        assert row["cache_read_tokens"] == 150
        assert row["cache_write_tokens"] == 50
        assert row["output_tokens"] == 20
        assert row["cost_usd"] == pytest.approx(0.75)

    def test_prefill_and_cache_state_are_of_the_attempt_that_answered(self) -> None:
        """The attempt that failed says nothing about prefill and cache."""
        row = requests_table(retried_request().build()).iloc[0]
        assert row["prefill_s"] == 1.5
        assert row["cache_state"] == "warm"

    def test_takes_the_request_s_own_figures(self) -> None:
        """Start, duration and time to first text are of the request, not of its chat."""
        row = requests_table(retried_request().build()).iloc[0]
        assert (row["start_s"], row["duration_s"], row["ttft_s"]) == (1.0, 5.0, 3.5)
        assert (row["agent"], row["mode"], row["model"]) == ("qa", "local", "small")
        assert row["queue_s"] == 0.25
        assert row["status"] == "ok"

    def test_what_nobody_knows_is_null(self) -> None:
        """A request that failed before any attempt has no tokens, cost, prefill or queue."""
        builder = ProfileBuilder()
        builder.request(None, None, 0.0, 0.5, status="error", error="UnknownAgentError: no 'x'")
        row = requests_table(builder.build()).iloc[0]
        unknown = [
            "agent", "mode", "model", "ttft_s", "prefill_s", "queue_s", "input_tokens",
            "cache_read_tokens", "cache_write_tokens", "output_tokens", "cost_usd", "cache_state",
        ]  # fmt: skip
        assert all(row[name] is pd.NA for name in unknown)
        assert row["attempts"] == 0
        assert row["error"] == "UnknownAgentError: no 'x'"

    def test_null_tokens_stay_null(self) -> None:
        """A chat whose server counted nothing leaves the counts null, not 0."""
        builder = ProfileBuilder()
        builder.answered("qa", "local", 0.0, 1.0, ttft_s=0.5)
        row = requests_table(builder.build()).iloc[0]
        assert row["input_tokens"] is pd.NA
        assert row["cache_state"] is pd.NA
        assert row["prefill_s"] == 0.5

    @pytest.mark.parametrize(
        ("input_tokens", "cache_read_tokens", "state"),
        [(100, 0, "cold"), (100, 49, "cold"), (100, 50, "warm"), (100, 100, "warm")],
    )
    def test_warm_from_half_of_the_input_on(
        self, input_tokens: int, cache_read_tokens: int, state: str
    ) -> None:
        """An answer is warm when at least half of its input was read from the cache."""
        builder = ProfileBuilder()
        builder.answered(
            "qa", "local", 0.0, 1.0, ttft_s=0.5,
            input_tokens=input_tokens, cache_read_tokens=cache_read_tokens,
        )  # fmt: skip
        assert requests_table(builder.build())["cache_state"].tolist() == [state]

    def test_no_input_has_no_cache_state(self) -> None:
        """Of no tokens, no share can be read from the cache."""
        builder = ProfileBuilder()
        builder.answered("qa", "local", 0.0, 1.0, ttft_s=0.5, input_tokens=0, cache_read_tokens=0)
        assert requests_table(builder.build())["cache_state"].isna().all()

    def test_rows_are_ordered_by_start(self) -> None:
        """A later row of the spans table may have started earlier."""
        builder = ProfileBuilder()
        builder.request("late", "local", 2.0, 1.0)
        builder.request("early", "local", 1.0, 9.0)
        profile = builder.build()
        shuffled = profile.spans.iloc[::-1].reset_index(drop=True)
        profile.finish(profile.meta, {"spans": shuffled})
        assert requests_table(profile)["agent"].tolist() == ["early", "late"]

    def test_parts_belong_to_the_nearest_request(self) -> None:
        """A request made within another keeps its own attempts."""
        builder = ProfileBuilder()
        outer = builder.request("outer", "local", 0.0, 4.0)
        builder.span("chat", 0.0, 1.0, parent=outer, ttft_s=0.5, output_tokens=1)
        tool = builder.span("tool", 1.0, 3.0, parent=outer)
        inner = builder.request("inner", "local", 1.0, 3.0, parent=tool)
        builder.span("chat", 1.0, 1.0, parent=inner, ttft_s=0.5, output_tokens=10)
        builder.span("chat", 2.0, 1.0, parent=inner, ttft_s=0.5, output_tokens=10)
        table = requests_table(builder.build()).set_index("agent")
        assert table["output_tokens"].to_dict() == {"outer": 1, "inner": 20}

    def test_warmup_comes_from_the_attributes(self) -> None:
        """Only ``true`` marks a warm-up; attributes that cannot be read mark nothing."""
        builder = ProfileBuilder()
        builder.request("a", "local", 0.0, 1.0, attributes={"warmup": True})
        builder.request("b", "local", 1.0, 1.0, attributes={"warmup": False, "repeat": 1})
        builder.request("c", "local", 2.0, 1.0)
        profile = builder.build()
        spans = profile.spans
        spans.loc[2, "attributes"] = "{not json"
        assert requests_table(profile)["warmup"].tolist() == [True, False, False]

    def test_a_circle_of_parents_ends(self) -> None:
        """Spans of a damaged table that are each other's parents belong to no request."""
        builder = ProfileBuilder()
        builder.span("chat", 0.0, 1.0, parent=f"{2:016x}", output_tokens=5)
        builder.span("a", 0.0, 1.0, parent=f"{1:016x}")
        builder.request("qa", "local", 0.0, 1.0)
        table = requests_table(builder.build())
        assert table["attempts"].tolist() == [0]
