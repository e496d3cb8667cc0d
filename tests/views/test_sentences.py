"""What a profile says in sentences."""

from __future__ import annotations

import pytest

from claude_pm.views import sentences
from claude_pm.views.reading import Reading
from tests.profile_builder import ProfileBuilder
from tests.views.drawings import sampled
from tests.views.profiles import empty, of_lines, two_modes


def test_what_was_lost() -> None:
    """A recorder that lost calls or lines says so under the headline."""
    profile = ProfileBuilder(duration_s=1.0).build()
    assert sentences.notes(Reading(profile)) == []
    profile.meta["overhead"] = {
        "cprofile": {"lost": "calls: another one\ntook its place."},
        "allocations": {"lost": "what is held."},
    }
    assert sentences.notes(Reading(profile)) == [
        "cProfile lost calls: another one took its place.",
        "tracemalloc lost what is held.",
    ]


class TestHeadline:
    def test_says_requests_time_shares_cache_and_model(self) -> None:
        """Shares are of the requests' summed time, longest first, other last."""
        builder = ProfileBuilder(duration_s=24.1, model_use="live")
        for number in range(10):
            request = builder.request("qa", "subprocess", number * 2.0, 10.0)
            builder.span("start_worker", number * 2.0, 0.9, parent=request)
            builder.span(
                "chat", number * 2.0 + 0.9, 8.3, parent=request, ttft_s=6.1,
                input_tokens=100, cache_read_tokens=80 if number < 4 else 0,
            )  # fmt: skip
        assert sentences.headline(Reading(builder.build())) == (
            "Answered 10 requests in 24.1 s: 61 % prefill, 22 % decode, 9 % starting workers, "
            "8 % other; cache warm 4 of 10; model live."
        )

    def test_counts_failures_and_warmups(self) -> None:
        """What was not answered is said, by what became of it."""
        builder = ProfileBuilder(duration_s=5.0)
        builder.request("qa", "local", 0.0, 1.0, attributes={"warmup": True})
        for number, status in enumerate(("error", "error", "timeout", "cancelled", None)):
            builder.request("qa", "local", number + 1.0, 1.0, status=status)
        assert sentences.headline(Reading(builder.build())).startswith(
            "Answered 1 of 6 requests (1 warm-up, 2 errors, 1 timeout, 1 cancelled, 1 unfinished) "
            "in 5.00 s: "
        )

    def test_small_phases_go_with_other(self) -> None:
        """A phase of less than a percent is not worth a word; nothing is lost of the whole."""
        builder = ProfileBuilder(duration_s=10.0)
        request = builder.request("qa", "local", 0.0, 10.0)
        builder.span("queue", 0.0, 0.09, parent=request)
        builder.span("chat", 0.09, 8.91, parent=request, ttft_s=7.0)
        assert sentences.headline(Reading(builder.build())) == (
            "Answered 1 request in 10.0 s: 70 % prefill, 19 % decode, 11 % other; model not called."
        )

    def test_code_without_requests(self) -> None:
        """Spans are counted, and the function with most time of its own is named."""
        builder = ProfileBuilder(duration_s=0.31)
        for number in range(3):
            builder.span("step", number * 0.1, 0.1)
        builder.function("slow", 0.05, cumulative_s=0.3)
        builder.function("f", 0.12)
        # The user's functions ran for 0.17 of 0.31 s.
        assert sentences.headline(Reading(builder.build())) == (
            "0.31 s: 3 spans; your Python 55 % of the time; top function f 0.12 s of own time."
        )

    def test_sampled_code(self) -> None:
        """How long the user's Python ran, and how long nothing did, are shares of the whole."""
        library = "loop (/usr/lib/python3.11/asyncio/base_events.py:1)"
        profile = sampled(
            [
                {"stack": "main (app.py:1);parse (app.py:5)", "weight_s": 3.0},
                {"stack": library, "weight_s": 1.0},
                {"stack": "main (app.py:1)", "state": "waiting", "weight_s": 6.0},
            ],
            duration_s=10.0,
        )
        assert sentences.headline(Reading(profile)) == (
            "10.0 s: your Python 30 % of the time, 60 % waiting; "
            "most time in main: 0 s running and 6.00 s waiting."
        )

    def test_threads_at_the_same_time_are_no_share(self) -> None:
        """More running than there was time is said in seconds, and nothing of waiting."""
        profile = sampled([{"stack": "main (app.py:1)", "weight_s": 25.0}], duration_s=10.0)
        assert sentences.headline(Reading(profile)).startswith(
            "10.0 s: your Python 25.0 s, in several threads; most time in main: "
        )

    def test_says_the_users_share_beside_the_phases(self) -> None:
        """Phases are of the requests' time, the user's Python of the whole."""
        builder = ProfileBuilder(duration_s=4.0)
        builder.answered("qa", "local", 0.0, 2.0, ttft_s=1.0)
        builder.function("prepare", 0.1)
        assert sentences.headline(Reading(builder.build())) == (
            "Answered 1 request in 4.00 s: 50 % decode, 50 % prefill; "
            "your Python 2 % of the time; model not called."
        )

    @pytest.mark.parametrize(
        ("costs", "said"),
        [
            ((0.0015, 0.0006), "; $0.00210; model"),
            ((0.0015, None), "; $0.00150 for 1 of 2 calls; model"),
            ((None, None), "prefill; model"),
        ],
    )
    def test_says_the_cost_where_it_is_known(
        self, costs: tuple[float | None, ...], said: str
    ) -> None:
        """A sum over some of the calls says so; no known price is no cost of 0."""
        builder = ProfileBuilder()
        for number, cost in enumerate(costs):
            builder.answered(
                "qa", "local", float(number), 1.0, ttft_s=0.5, output_tokens=5, cost_usd=cost
            )
        assert said in sentences.headline(Reading(builder.build()))

    def test_model_calls_outside_requests(self) -> None:
        """What other frameworks ask of a model is counted, and has its price."""
        builder = ProfileBuilder(duration_s=2.0)
        builder.span("agent run", 0.0, 2.0)
        builder.span("chat", 0.0, 1.0, ttft_s=0.5, output_tokens=5, cost_usd=0.25)
        assert sentences.headline(Reading(builder.build())) == (
            "2.00 s: 2 spans, 1 model call; $0.250."
        )

    def test_claims_nothing_that_is_unknown(self) -> None:
        """Without spans and functions, none are spoken of."""
        assert sentences.headline(Reading(empty())) == "10.0 s: nothing but the time was recorded."

    def test_lines_alone(self) -> None:
        """A profile of lines without functions says what it has."""
        assert sentences.headline(Reading(of_lines())) == "10.0 s: CPU and memory of 2 lines."


class TestNotes:
    @pytest.mark.parametrize(
        ("model", "is_said"),
        [("SmolLM2-135M-Instruct", True), ("claude-x", False), (None, False)],
    )
    def test_says_when_the_small_model_answered(self, model: str | None, is_said: bool) -> None:
        """Who reads answers of the embedded model is told how good they are."""
        builder = ProfileBuilder()
        request = builder.request("qa", "local", 0.0, 1.0)
        builder.span("chat", 0.0, 1.0, parent=request, model=model)
        sentence = (
            "Answers come from SmolLM2-135M, a small model: fluent, often wrong; "
            "timings and token counts are real."
        )
        assert (sentence in sentences.notes(Reading(builder.build()))) is is_said

    def test_says_when_requests_fell_back(self) -> None:
        """A fallback to another mode is never silent."""
        builder = ProfileBuilder()
        builder.request("qa", "local", 0.0, 1.0, attributes={"fallback": "no memory limit here"})
        builder.request("qa", "local", 1.0, 1.0, attributes={"fallback": None})
        assert sentences.notes(Reading(builder.build())) == [
            "1 request was served in another mode than asked (fallback)."
        ]


class TestModeSentences:
    @pytest.mark.parametrize(
        ("seconds", "said"),
        [
            (8.0, "SUBPROCESS took 4.0 times as long as LOCAL (median 8.00 s against 2.00 s)."),
            (1.0, "SUBPROCESS was 2.0 times as fast as LOCAL (median 1.00 s against 2.00 s)."),
            (2.05, "SUBPROCESS took about as long as LOCAL (median 2.05 s against 2.00 s)."),
        ],
    )
    def test_says_the_ratio(self, seconds: float, said: str) -> None:
        """Slower, faster and alike are told apart."""
        builder = ProfileBuilder()
        builder.answered("qa", "local", 0.0, 2.0, ttft_s=1.0)
        builder.answered("qa", "subprocess", 3.0, seconds, ttft_s=0.5)
        assert sentences.mode_sentences(Reading(builder.build())) == [said]

    def test_says_nothing_without_local(self) -> None:
        """There is nothing to compare with."""
        builder = ProfileBuilder()
        builder.answered("qa", "subprocess", 0.0, 2.0, ttft_s=1.0)
        assert sentences.mode_sentences(Reading(builder.build())) == []


class TestErrors:
    def test_names_each_failure_once(self) -> None:
        """A span that a failure only passed through, and parts of the request, are not named."""
        builder = ProfileBuilder()
        outer = builder.span("workflow", 0.0, 5.0, status="error", error="ValueError: no")
        request = builder.request(
            "qa", "local", 0.0, 1.0, parent=outer, status="error", error="WorkerError: died"
        )
        builder.span("start_worker", 0.0, 1.0, parent=request, status="error", error="died")
        builder.span("step", 2.0, 1.0, parent=outer, status="error", error="ValueError: no")
        assert sentences.errors(Reading(builder.build())) == [
            "qa (LOCAL), error: WorkerError: died",
            "step, error: ValueError: no",
        ]

    def test_leaves_out_attempts_that_were_made_good(self) -> None:
        """A retried request that was answered is no failure; a failed span in it is one."""
        builder = ProfileBuilder()
        request = builder.request("qa", "local", 0.0, 3.0)
        builder.span("chat", 0.0, 1.0, parent=request, status="error", error="busy")
        builder.span("chat", 1.0, 1.0, parent=request, ttft_s=0.5)
        builder.span("tool", 2.0, 1.0, parent=request, status="timeout", error="TimeoutError: ")
        assert sentences.errors(Reading(builder.build())) == ["tool, timeout: TimeoutError:"]

    def test_counts_the_rest(self) -> None:
        """After five, the number of further ones has to do."""
        builder = ProfileBuilder()
        for number in range(7):
            builder.request("qa", "local", float(number), 1.0, status="error", error=f"no {number}")
        assert len(sentences.errors(Reading(builder.build()))) == 6
        assert sentences.errors(Reading(builder.build()))[-1] == "and 2 more failures"

    def test_same_failures_are_one_line(self) -> None:
        """What failed in the same way again and again is said once, with how often."""
        builder = ProfileBuilder()
        for number in range(7):
            error = "odd" if number == 3 else "no"
            builder.request("qa", "local", float(number), 1.0, status="error", error=error)
        assert sentences.errors(Reading(builder.build())) == [
            "qa (LOCAL), error: no (6 times)",
            "qa (LOCAL), error: odd",
        ]


class TestPeakMemory:
    def test_says_the_largest_reading_of_each_role(self) -> None:
        """Unknown readings are skipped; a worker's peak stands beside the kernel's."""
        builder = two_modes()
        for t_s, size in ((0.0, 100_000_000), (1.0, None), (2.0, 250_000_000), (3.0, 200_000_000)):
            builder.memory(t_s, size)
        builder.memory(1.0, 80_000_000, pid=5000, role="worker")
        builder.memory(1.0, 90_000_000, pid=5001, role="worker")
        said = sentences.peak_memory(Reading(builder.build()))
        assert said == "Peak resident memory: 250 MB (kernel), 90 MB (worker)."

    def test_says_nothing_where_it_was_not_recorded(self) -> None:
        """No reading is not 0 MB."""
        assert sentences.peak_memory(Reading(empty())) == ""
