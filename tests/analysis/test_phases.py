"""Phases: every instant of a request counts once."""

from __future__ import annotations

import pytest

from claude_pm.analysis import phase_table, request_segments, requests_table
from claude_pm.profiles import Profile
from tests.profile_builder import ProfileBuilder


def segments(profile: Profile) -> list[tuple[str, float, float]]:
    """Return phase, start and end of all segments."""
    table = request_segments(profile)
    return list(zip(table["phase"], table["start_s"], table["end_s"], strict=True))


class TestRequestSegments:
    def test_splits_a_request_along_its_road(self) -> None:
        """Phases follow each other; what no phase covers is other."""
        builder = ProfileBuilder()
        request = builder.request("qa", "local", 1.0, 9.0)
        builder.span("choose_mode", 1.0, 0.5, parent=request)
        builder.span("build_context", 1.5, 0.5, parent=request)
        builder.span("queue", 2.0, 1.0, parent=request)
        builder.span("chat", 3.0, 6.0, parent=request, ttft_s=4.0)
        assert segments(builder.build()) == [
            ("other", 1.0, 1.5),
            ("build_context", 1.5, 2.0),
            ("queue", 2.0, 3.0),
            ("prefill", 3.0, 7.0),
            ("decode", 7.0, 9.0),
            ("other", 9.0, 10.0),
        ]

    def test_the_innermost_phase_counts(self) -> None:
        """A model started within the start of a worker is not counted twice."""
        builder = ProfileBuilder()
        request = builder.request("qa", "subprocess", 0.0, 5.0)
        worker = builder.span("start_worker", 0.0, 4.0, parent=request)
        builder.span("start_model", 1.0, 2.0, parent=worker)
        assert segments(builder.build()) == [
            ("start_worker", 0.0, 1.0),
            ("start_model", 1.0, 3.0),
            ("start_worker", 3.0, 4.0),
            ("other", 4.0, 5.0),
        ]

    def test_an_inner_phase_counts_though_both_begin_at_once(self) -> None:
        """Depth decides, where the clock cannot."""
        builder = ProfileBuilder()
        request = builder.request("qa", "subprocess", 0.0, 4.0)
        worker = builder.span("start_worker", 0.0, 4.0, parent=request)
        builder.span("start_model", 0.0, 1.0, parent=worker)
        assert segments(builder.build()) == [("start_model", 0.0, 1.0), ("start_worker", 1.0, 4.0)]

    def test_of_concurrent_phases_the_one_begun_last_counts(self) -> None:
        """Two chats at a time still make one request's time."""
        builder = ProfileBuilder()
        request = builder.request("qa", "local", 0.0, 6.0)
        builder.span("chat", 0.0, 6.0, parent=request, ttft_s=1.0)
        builder.span("queue", 2.0, 2.0, parent=request)
        assert segments(builder.build()) == [
            ("prefill", 0.0, 1.0),
            ("decode", 1.0, 2.0),
            ("queue", 2.0, 4.0),
            ("decode", 4.0, 6.0),
        ]

    def test_spans_of_the_user_take_the_phase_around_them(self) -> None:
        """A user's span within a chat does not interrupt it."""
        builder = ProfileBuilder()
        request = builder.request("qa", "local", 0.0, 4.0)
        mine = builder.span("mine", 0.0, 4.0, parent=request)
        chat = builder.span("chat", 1.0, 2.0, parent=mine, ttft_s=0.5)
        builder.span("on text", 2.0, 0.5, parent=chat)
        assert segments(builder.build()) == [
            ("other", 0.0, 1.0),
            ("prefill", 1.0, 1.5),
            ("decode", 1.5, 3.0),
            ("other", 3.0, 4.0),
        ]

    def test_an_attempt_without_text_is_neither_prefill_nor_decode(self) -> None:
        """Nobody knows how far the prefill of a failed attempt got."""
        builder = ProfileBuilder()
        request = builder.request("qa", "local", 0.0, 5.0)
        builder.span("chat", 0.0, 1.0, parent=request, status="error")
        builder.span("chat", 2.0, 3.0, parent=request, ttft_s=1.0)
        assert segments(builder.build()) == [
            ("no_text", 0.0, 1.0),
            ("other", 1.0, 2.0),
            ("prefill", 2.0, 3.0),
            ("decode", 3.0, 5.0),
        ]

    def test_spans_that_share_a_phase(self) -> None:
        """Restoring and saving a prompt are one phase; a wait to retry belongs to the failure."""
        builder = ProfileBuilder()
        request = builder.request("qa", "local", 0.0, 8.0)
        builder.span("restore_prefix", 0.0, 1.0, parent=request)
        builder.span("chat", 1.0, 1.0, parent=request, status="error")
        builder.span("wait_to_retry", 2.0, 2.0, parent=request)
        builder.span("chat", 4.0, 3.0, parent=request, ttft_s=1.0)
        builder.span("save_prefix", 7.0, 1.0, parent=request)
        assert segments(builder.build()) == [
            ("saved_prefix", 0.0, 1.0),
            ("no_text", 1.0, 4.0),
            ("prefill", 4.0, 5.0),
            ("decode", 5.0, 7.0),
            ("saved_prefix", 7.0, 8.0),
        ]

    def test_what_outlives_the_request_is_cut(self) -> None:
        """A worker's span may end after its request was cancelled."""
        builder = ProfileBuilder()
        request = builder.request("qa", "subprocess", 1.0, 2.0, status="timeout")
        builder.span("chat", 2.0, 5.0, parent=request, ttft_s=4.0)
        assert segments(builder.build()) == [("other", 1.0, 2.0), ("prefill", 2.0, 3.0)]


class TestPhaseTable:
    def test_adds_up_over_requests(self) -> None:
        """Totals, shares, counts and medians are of all requests; other comes last."""
        builder = ProfileBuilder()
        for start, ttft in ((0.0, 3.0), (10.0, 2.0)):
            request = builder.request("qa", "local", start, 5.0)
            builder.span("chat", start, 4.0, parent=request, ttft_s=ttft)
        third = builder.request("qa", "local", 20.0, 10.0)
        builder.span("queue", 20.0, 7.0, parent=third)
        table = phase_table(builder.build()).set_index("phase")
        assert list(table.index) == ["queue", "prefill", "decode", "other"]
        assert table["n"].tolist() == [1, 2, 2, 3]
        assert table["total_s"].tolist() == pytest.approx([7.0, 5.0, 3.0, 5.0])
        assert table["share"].tolist() == pytest.approx([0.35, 0.25, 0.15, 0.25])
        assert table["median_s"].tolist() == pytest.approx([7.0, 2.5, 1.5, 1.0])
        assert table["max_s"].tolist() == pytest.approx([7.0, 3.0, 2.0, 3.0])

    def test_counts_every_second_once(self) -> None:
        """However spans nest and overlap, the totals are the requests' summed duration."""
        builder = ProfileBuilder()
        for number in range(6):
            request = builder.request("qa", "local", number * 0.7, 3.0)
            outer = builder.span("start_worker", number * 0.7 + 0.1, 2.5, parent=request)
            builder.span("start_model", number * 0.7 + 0.3, 1.1, parent=outer)
            builder.span("chat", number * 0.7 + 0.9, 2.7, parent=outer, ttft_s=0.4)
        profile = builder.build()
        whole = requests_table(profile)["duration_s"].sum()
        table = phase_table(profile)
        assert table["total_s"].sum() == pytest.approx(whole)
        assert table["share"].sum() == pytest.approx(1.0)

    def test_no_time_has_no_shares(self) -> None:
        """A request of no duration leaves the shares null."""
        builder = ProfileBuilder()
        builder.request("qa", "local", 1.0, 0.0)
        assert phase_table(builder.build())["share"].isna().all()

    def test_empty_without_requests(self) -> None:
        """Spans outside requests have no phases."""
        builder = ProfileBuilder()
        builder.span("chat", 0.0, 1.0, ttft_s=0.5)
        table = phase_table(builder.build())
        assert list(table.columns) == ["phase", "n", "total_s", "share", "median_s", "max_s"]
        assert len(table) == 0
