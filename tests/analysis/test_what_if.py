"""What-if: replays with other workers, caches and modes."""

from __future__ import annotations

import random
from typing import Any

import pytest

from claude_pm.analysis.what_if import what_if
from claude_pm.errors import ProfileError
from claude_pm.profiles import Profile
from tests.profile_builder import ProfileBuilder


def batch(requests: int, workers: int, service_s: float = 1.0) -> Profile:
    """Return a batch of equal requests, in waves of so many at a time."""
    builder = ProfileBuilder()
    waves = -(-requests // workers)
    root = builder.span(
        "batch", 0.0, waves * service_s,
        attributes={"requests": requests, "concurrency": workers}, task="main",
    )  # fmt: skip
    for number in range(requests):
        start = number // workers * service_s
        request = builder.request(
            "qa", "local", start, service_s, parent=root, task=f"place {number % workers}"
        )
        builder.span("queue", start, 0.0, parent=request)
        builder.span("chat", start, service_s, parent=request, ttft_s=service_s / 2)
    return builder.build()


def gathered(
    services: list[float], workers: int, *, waits_for: dict[str, Any] | None = None
) -> Profile:
    """Return requests sent at once, served in order as places on the bus become free."""
    builder = ProfileBuilder()
    free = [0.0] * workers
    for service in services:
        start = min(free)
        free[free.index(start)] = start + service
        request = builder.request("qa", "local", 0.0, start + service)
        if waits_for is None or start > 0:
            builder.span("queue", 0.0, start, parent=request, attributes=waits_for)
        builder.span("chat", start, service, parent=request, ttft_s=service / 2)
    return builder.build()


def warmth(*requests: tuple[str, str, float, float, int]) -> Profile:
    """Return requests one after another: agent, hot or cold, prefill, decode, input tokens."""
    builder = ProfileBuilder()
    start = 0.0
    for agent, state, prefill, decode, tokens in requests:
        builder.answered(
            agent, "local", start, prefill + decode, ttft_s=prefill, input_tokens=tokens,
            cache_read_tokens=tokens if state == "hot" else 0,
        )  # fmt: skip
        start += prefill + decode
    return builder.build()


class TestMaxWorkers:
    @pytest.mark.parametrize(("workers", "expected_s"), [(10, 5.0), (5, 10.0), (1, 50.0), (99, 1)])
    def test_a_batch(self, workers: int, expected_s: float) -> None:
        """Twice the workers halve a batch of equal requests."""
        estimate = what_if(batch(50, 5), max_workers=workers)
        assert estimate.wall_s == pytest.approx(expected_s)
        assert estimate.low_s == pytest.approx(estimate.high_s)
        assert (estimate.recorded_s, estimate.n) == (10.0, 50)
        assert estimate.replayed_s == pytest.approx(10.0)
        assert "in place of 5" in estimate.what

    def test_the_bus(self) -> None:
        """How many it served at a time is seen where requests waited."""
        rng = random.Random(3)
        profile = gathered([rng.uniform(0.5, 1.5) for _ in range(60)], 4)
        estimate = what_if(profile, max_workers=8)
        assert estimate.what == "8 workers in place of 4"
        assert estimate.replayed_s == pytest.approx(estimate.recorded_s)
        assert estimate.wall_s == pytest.approx(estimate.recorded_s / 2, rel=0.1)
        assert estimate.low_s < estimate.wall_s < estimate.high_s

    def test_the_embedded_model_has_one_slot(self) -> None:
        """More workers do not help where the requests wait for the model."""
        profile = gathered([1.0] * 6, 1, waits_for={"waits_for": "the model"})
        assert what_if(profile, max_workers=8).wall_s == pytest.approx(6.0)

    def test_the_slot_by_the_settings(self) -> None:
        """One request at a time never waits: that the model was the embedded one, meta says."""
        builder = ProfileBuilder(settings={"model": "embedded"})
        root = builder.span("batch", 0.0, 4.0, attributes={"requests": 4, "concurrency": 1})
        for number in range(4):
            request = builder.request("qa", "local", number * 1.0, 1.0, parent=root)
            builder.span("chat", number + 0.5, 0.5, parent=request, ttft_s=0.1)
        # Only what is not the model's, half a second each, is done at the same time.
        assert what_if(builder.build(), max_workers=4).wall_s == pytest.approx(2.5)

    def test_a_model_of_its_own_whatever_the_settings_say(self) -> None:
        """Two answers at a time come from no embedded model."""
        builder = ProfileBuilder(settings={"model": "embedded"})
        root = builder.span("batch", 0.0, 3.0, attributes={"requests": 6, "concurrency": 2})
        for number in range(6):
            request = builder.request("qa", "local", float(number // 2), 1.0, parent=root)
            builder.span("chat", float(number // 2), 1.0, parent=request, ttft_s=0.1)
        assert what_if(builder.build(), max_workers=6).wall_s == pytest.approx(1.0)

    def test_requests_one_after_another_stay_so(self) -> None:
        """They keep their time of thought, and more workers do not help."""
        builder = ProfileBuilder()
        for start in (0.0, 3.0, 6.0):
            builder.answered("qa", "local", start, 2.0, ttft_s=1.0)
        assert what_if(builder.build(), max_workers=9).wall_s == pytest.approx(8.0)

    def test_steps_wait_for_what_they_need(self) -> None:
        """One worker serves the middle of a diamond one after the other."""
        builder = ProfileBuilder()
        workflow = builder.span("workflow", 0.0, 4.0)
        steps = (("a", 0, 1, []), ("b", 1, 2, ["a"]), ("c", 1, 2, ["a"]), ("d", 3, 1, ["b", "c"]))
        for name, start, duration, needs in steps:
            builder.request(
                name, "local", float(start), float(duration), parent=workflow,
                attributes={"step": name, "needs": needs},
            )  # fmt: skip
        assert what_if(builder.build(), max_workers=1).wall_s == pytest.approx(6.0)
        assert what_if(builder.build(), max_workers=9).wall_s == pytest.approx(4.0)

    def test_a_batch_keeps_a_limit_of_its_own(self) -> None:
        """It asked for 3 at a time while the bus served 2: that is no question of workers."""
        builder = ProfileBuilder()
        root = builder.span("batch", 0.0, 3.0, attributes={"requests": 6, "concurrency": 3})
        for number in range(6):
            start, sent = number // 2, max(0, number - 1) // 2
            request = builder.request(
                "qa", "local", float(sent), start + 1.0 - sent, parent=root, task=f"{number % 3}"
            )
            builder.span("queue", float(sent), float(start - sent), parent=request)
            builder.span("chat", float(start), 1.0, parent=request, ttft_s=0.5)
        assert what_if(builder.build(), max_workers=6).wall_s == pytest.approx(2.0)


class TestCache:
    def test_hot_as_the_same_agent_had_it(self) -> None:
        """The cold request's prefill becomes that of the hot ones; its decode stays."""
        profile = warmth(("qa", "cold", 3.0, 1.0, 900), ("qa", "hot", 0.5, 1.0, 900))
        estimate = what_if(profile, cache="hot")
        assert estimate.wall_s == pytest.approx(3.0)
        assert estimate.what == "a hot cache"

    def test_cold_is_the_other_way_round(self) -> None:
        """All prefill as the cold one."""
        profile = warmth(("qa", "cold", 3.0, 1.0, 900), ("qa", "hot", 0.5, 1.0, 900))
        assert what_if(profile, cache="cold").wall_s == pytest.approx(8.0)

    def test_of_other_agents_by_token(self) -> None:
        """Where an agent was never hot, others say what a token takes."""
        profile = warmth(("qa", "cold", 3.0, 1.0, 900), ("ops", "hot", 0.1, 1.0, 300))
        assert what_if(profile, cache="hot").wall_s == pytest.approx(0.3 + 1.0 + 1.1)

    def test_already_so(self) -> None:
        """Where all were hot, nothing changes."""
        profile = warmth(("qa", "hot", 0.5, 1.0, 900), ("qa", "hot", 0.5, 1.0, 900))
        assert what_if(profile, cache="hot").wall_s == pytest.approx(3.0)

    def test_a_restored_prompt_is_hot(self) -> None:
        """A hot cache has nothing to restore or save."""
        builder = ProfileBuilder()
        request = builder.request("qa", "local", 0.0, 6.0)
        builder.span("chat", 0.0, 4.0, parent=request, ttft_s=3.0, input_tokens=9,
                     cache_read_tokens=0)  # fmt: skip
        builder.span("save_prefix", 4.0, 2.0, parent=request)
        builder.answered("qa", "local", 6.0, 1.5, ttft_s=0.5, input_tokens=9, cache_read_tokens=9)
        assert what_if(builder.build(), cache="hot").wall_s == pytest.approx(1.5 + 1.5)

    @pytest.mark.parametrize("cache", ["hot", "cold"])
    def test_nothing_to_estimate_from(self, cache: Any) -> None:
        """One sentence says what is missing."""
        other = "cold" if cache == "hot" else "hot"
        with pytest.raises(ProfileError, match=rf"no answered request with a {cache} cache"):
            what_if(warmth(("qa", other, 3.0, 1.0, 900)), cache=cache)

    def test_nothing_known_of_the_cache(self) -> None:
        """A server that says nothing of its cache leaves nothing to estimate from."""
        builder = ProfileBuilder()
        builder.answered("qa", "local", 0.0, 1.0, ttft_s=0.5)
        with pytest.raises(ProfileError, match="with a hot cache"):
            what_if(builder.build(), cache="hot")


class TestMode:
    def build(self) -> Profile:
        builder = ProfileBuilder()
        builder.answered("qa", "subprocess", 0.0, 5.0, ttft_s=1.0)
        builder.answered("ops", "subprocess", 5.0, 5.0, ttft_s=1.0)
        builder.answered("qa", "local", 10.0, 2.0, ttft_s=1.0)
        return builder.build()

    def test_local(self) -> None:
        """Of the same agent where there is one, else of any."""
        assert what_if(self.build(), mode="local").wall_s == pytest.approx(6.0)

    def test_subprocess(self) -> None:
        """The other way round."""
        estimate = what_if(self.build(), mode="subprocess")
        assert estimate.wall_s == pytest.approx(15.0)
        assert estimate.what == "SUBPROCESS mode"

    def test_a_worker_of_its_own_needs_no_slot(self) -> None:
        """Requests that shared the embedded model do not in worker processes."""
        builder = ProfileBuilder(settings={"model": "embedded"})
        for number in range(3):
            request = builder.request("qa", "local", 0.0, number + 1.0)
            builder.span("queue", 0.0, float(number), parent=request,
                         attributes={"waits_for": "the model"})  # fmt: skip
            builder.span("chat", float(number), 1.0, parent=request, ttft_s=0.5)
        other = builder.request("qa", "subprocess", 3.0, 2.0)
        builder.span("chat", 3.0, 2.0, parent=other, ttft_s=0.5)
        assert what_if(builder.build(), mode="subprocess").wall_s == pytest.approx(4.0)

    def test_nothing_to_estimate_from(self) -> None:
        """One sentence says what is missing."""
        builder = ProfileBuilder()
        builder.answered("qa", "subprocess", 0.0, 5.0, ttft_s=1.0)
        with pytest.raises(ProfileError, match="no answered request in LOCAL mode"):
            what_if(builder.build(), mode="local")


class TestAsked:
    @pytest.mark.parametrize(
        ("wrong", "sentence"),
        [
            ({}, "Say what should be different: max_workers, cache or mode."),
            ({"max_workers": 0}, "max_workers is 0; it has to be a whole number from 1."),
            ({"cache": "warm"}, "cache is 'warm'; it has to be 'hot' or 'cold'."),
            ({"mode": "hybrid"}, "mode is 'hybrid'; it has to be 'local' or 'subprocess'."),
        ],
    )
    def test_what_cannot_be(self, wrong: Any, sentence: str) -> None:
        """A sentence says what can be asked."""
        with pytest.raises(ProfileError) as raised:
            what_if(batch(2, 1), **wrong)
        assert str(raised.value) == sentence

    def test_no_requests(self) -> None:
        """Spans of the user's alone have nothing to serve."""
        builder = ProfileBuilder()
        builder.span("mine", 0.0, 1.0)
        with pytest.raises(ProfileError, match="holds no request"):
            what_if(builder.build(), max_workers=2)

    def test_is_shown_as_an_estimate(self) -> None:
        """The words say what was changed, and that it is an estimate."""
        assert repr(what_if(batch(50, 5), max_workers=10)) == (
            "With 10 workers in place of 5: an estimate of 5 s (95 % of replays within 5 to 5 s), "
            "-50% against the 10 s recorded; 50 requests, replayed unchanged 10 s."
        )

    def test_the_same_seed_gives_the_same(self) -> None:
        """Draws come from the seed alone."""
        rng = random.Random(3)
        profile = gathered([rng.uniform(0.5, 1.5) for _ in range(20)], 4)
        assert what_if(profile, max_workers=8) == what_if(profile, max_workers=8)
        assert what_if(profile, max_workers=8) != what_if(profile, max_workers=8, seed=1)
