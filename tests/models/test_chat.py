"""One answer with its retries, and the span that each attempt leaves."""

from __future__ import annotations

import asyncio
import importlib
import json
import random
import re
import time
from collections.abc import AsyncGenerator
from typing import Any

import pytest

import claude_pm
from claude_pm.errors import (
    ModelAuthenticationError,
    ModelConnectionError,
    ModelError,
    ModelOverloadedError,
    ModelRequestError,
    ModelResponseError,
    UnknownModelError,
)
from claude_pm.models import ChatRequest, Completion, MessagesClient, TextDelta, Usage, chat
from claude_pm.testing import FakeClock, FakeModel
from tests import messages_server as api
from tests.messages_server import MessagesServer, Reply
from tests.road_fixtures import span_rows

chat_module = importlib.import_module("claude_pm.models.chat")

REQUEST = ChatRequest(system=("You are brief.",), user="Say hello.", max_tokens=16)
BUSY = "The server is busy."


def busy(retry_after_s: float | None = None) -> ModelOverloadedError:
    """Return an error after which a second attempt may help."""
    return ModelOverloadedError(BUSY, retry_after_s=retry_after_s)


async def recorded(*arguments: Any, **options: Any) -> tuple[Any, list[dict[str, Any]], Any]:
    """Chat in a profile; return what it gave (or raised), its chat spans and the profile."""
    outcome: Any
    async with claude_pm.profile("chat", cpu=None, memory=None) as profile:
        try:
            outcome = await chat(*arguments, **options)
        except ModelError as error:
            outcome = error
    spans = [row for row in span_rows(profile) if row["name"] == "chat"]
    return outcome, spans, profile


def attempts(spans: list[dict[str, Any]]) -> list[tuple[int, str, str | None]]:
    """Return attempt number, status and error of each span."""
    numbers = [json.loads(row["attributes"])["attempt"] for row in spans]
    return [(n, row["status"], row["error"]) for n, row in zip(numbers, spans, strict=True)]


class TestAnswer:
    async def test_result(self, server: MessagesServer) -> None:
        """The result is the whole text with its usage; on_text got the pieces as they came."""
        server.script(api.answer("Hello", ",", " world"))
        client = MessagesClient(server.url, model="claude-scripted")
        heard: list[str] = []
        result = await chat(client, REQUEST, on_text=heard.append)
        await client.aclose()
        assert heard == ["Hello", ",", " world"]
        assert result.text == "Hello, world"
        assert result.usage == Usage(10, None, None, 3)
        assert (result.model, result.stop_reason) == ("claude-scripted", "end_turn")

    async def test_prepares_the_model(self, server: MessagesServer) -> None:
        """The model is asked to get ready first: a client without a name finds it."""
        server.models = ["the-only-one"]
        server.script(api.answer("ok"))
        client = MessagesClient(server.url, model=None)
        await chat(client, REQUEST)
        await client.aclose()
        assert server.received[-1].body["model"] == "the-only-one"

    async def test_without_text(self, server: MessagesServer) -> None:
        """An answer of empty deltas only has no first text: None, and no time to it."""
        server.script(api.answer("", ""))
        client = MessagesClient(server.url, model="m")
        result, (span,), _ = await recorded(client, REQUEST)
        await client.aclose()
        assert (result.text, result.first_text_ns) == ("", None)
        assert span["ttft_s"] is None

    async def test_answer_without_an_end(self) -> None:
        """A model that ends without a Completion breaks the protocol, and that is said."""

        class Endless(FakeModel):
            async def stream(
                self, request: ChatRequest
            ) -> AsyncGenerator[TextDelta | Completion, None]:
                yield TextDelta("Hello")

        with pytest.raises(ModelResponseError, match="ended without"):
            await chat(Endless(), REQUEST)

    async def test_an_error_of_the_listener_closes_the_stream(self, server: MessagesServer) -> None:
        """When on_text raises, the error comes out as it is and the model is stopped."""
        server.script(api.stream(api.start(), api.delta("Hello"), ending="held"))
        client = MessagesClient(server.url, model="m")

        def raises(text: str) -> None:
            raise ZeroDivisionError(text)

        with pytest.raises(ZeroDivisionError, match="Hello"):
            await chat(client, REQUEST, on_text=raises)
        assert await asyncio.to_thread(server.closed.wait, api.WAIT_S)
        await client.aclose()


class TestSpan:
    async def test_says_what_the_answer_took(self, server: MessagesServer) -> None:
        """Model, tokens, time to first text, price and stop reason are on the chat span."""
        usage = {
            "input_tokens": 10,
            "cache_read_input_tokens": 80,
            "cache_creation_input_tokens": 5,
        }
        server.script(
            api.stream(
                api.start("claude-sonnet-4-5", **usage, output_tokens=1),
                api.delta("Hello"),
                api.finish("max_tokens", output_tokens=4),
                api.STOP,
            )
        )
        client = MessagesClient(server.url, model="claude-sonnet-4-5")
        _, (span,), profile = await recorded(client, REQUEST)
        await client.aclose()
        counted = ("input_tokens", "cache_read_tokens", "cache_write_tokens", "output_tokens")
        assert [span[name] for name in counted] == [95, 80, 5, 4]
        assert (span["model"], span["status"], span["error"]) == ("claude-sonnet-4-5", "ok", None)
        told = json.loads(span["attributes"])
        assert (told["attempt"], told["stop_reason"]) == (1, "max_tokens")
        assert 0 < span["ttft_s"] <= span["duration_s"]
        assert span["cost_usd"] > 0
        assert profile.meta["model_use"] == "live"

    async def test_what_is_not_known_is_null(self) -> None:
        """A model without a price or a cache count has null there, never 0."""
        _, (span,), profile = await recorded(FakeModel("one two"), REQUEST)
        assert (span["cost_usd"], span["cache_write_tokens"]) == (None, None)
        assert (span["model"], span["output_tokens"]) == ("fake", 2)
        assert profile.meta["model_use"] == "not called"

    async def test_model_that_never_got_ready_was_not_called(self, server: MessagesServer) -> None:
        """A profile claims a live model only when one was there."""
        server.models = []
        client = MessagesClient(server.url, model=None)
        outcome, spans, profile = await recorded(client, REQUEST)
        await client.aclose()
        assert isinstance(outcome, UnknownModelError)
        assert spans == []
        assert profile.meta["model_use"] == "not called"


@pytest.fixture
def _longest_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw the longest wait that may be drawn, and add nothing to what the server asks for."""
    monkeypatch.setattr(chat_module._random, "uniform", lambda low, high: low or high)


@pytest.mark.usefixtures("_longest_waits")
class TestRetries:
    @pytest.mark.parametrize(
        ("errors", "sleeps"),
        [
            pytest.param([], [], id="at-once"),
            pytest.param([busy()], [0.5], id="second"),
            pytest.param([busy(), busy()], [0.5, 1.0], id="third"),
            pytest.param([busy(7.0), busy(0.0)], [7.0, 0.0], id="as-the-server-says"),
            pytest.param([busy(7.0), busy()], [7.0, 1.0], id="server-then-own"),
            pytest.param([ModelConnectionError("broke")], [0.5], id="connection"),
        ],
    )
    async def test_waits(self, errors: list[ModelError], sleeps: list[float]) -> None:
        """Three attempts, with the wait that the server asked for, else 0.5 s and 1 s."""
        clock = FakeClock()
        model = FakeModel("ok", errors=errors)
        result, spans, _ = await recorded(model, REQUEST, sleep=clock.sleep)
        assert result.text == "ok"
        assert clock.sleeps_s == sleeps
        assert model.requests == [REQUEST] * (len(errors) + 1)
        told = [(n, "error", f"{type(e).__name__}: {e}") for n, e in enumerate(errors, start=1)]
        assert attempts(spans) == [*told, (len(errors) + 1, "ok", None)]

    async def test_gives_up(self) -> None:
        """The third attempt is the last: its error is raised, without another wait."""
        clock = FakeClock()
        model = FakeModel(errors=[busy(), busy(), busy(9.0), busy()])
        outcome, spans, _ = await recorded(model, REQUEST, sleep=clock.sleep)
        assert isinstance(outcome, ModelOverloadedError)
        assert outcome.retry_after_s == 9.0
        assert clock.sleeps_s == [0.5, 1.0]
        assert [number for number, *_ in attempts(spans)] == [1, 2, 3]

    async def test_waits_are_recorded(self) -> None:
        """Each wait is a span of its own, with its reason and what the server asked for."""
        clock = FakeClock()
        model = FakeModel(errors=[busy(7.0)])
        _, _, profile = await recorded(model, REQUEST, sleep=clock.sleep)
        spans = span_rows(profile)
        assert [row["name"] for row in spans] == ["chat", "wait_to_retry", "chat"]
        told = json.loads(spans[1]["attributes"])
        assert (told["attempt"], told["asked_s"]) == (1, 7.0)
        assert told["reason"] == str(busy(7.0))

    async def test_failed_attempts_say_what_follows(self) -> None:
        """A failed attempt's span has the wait after it, and the one the server asked for."""
        clock = FakeClock()
        model = FakeModel(errors=[busy(7.0), busy(), busy(9.0)])
        _, spans, _ = await recorded(model, REQUEST, sleep=clock.sleep)
        told = [json.loads(row["attributes"]) for row in spans]
        assert told == [
            {"attempt": 1, "retry_after_s": 7.0, "retry_in_s": 7.0},
            {"attempt": 2, "retry_in_s": 1.0},
            {"attempt": 3, "retry_after_s": 9.0},
        ]
        assert [row["error"] for row in spans] == [f"ModelOverloadedError: {BUSY}"] * 3

    @pytest.mark.parametrize(("left_s", "asked"), [(600.0, 2), (6.5, 1)])
    async def test_deadline(self, left_s: float, asked: int) -> None:
        """No wait goes beyond the time limit: the error is raised at once, and says so."""
        clock = FakeClock()
        model = FakeModel("ok", errors=[busy(7.0)])
        outcome, spans, _ = await recorded(
            model,
            REQUEST,
            sleep=clock.sleep,
            deadline_ns=time.perf_counter_ns() + round(left_s * 1e9),
        )
        assert ("retry_in_s" in spans[0]["attributes"]) == (asked == 2)
        assert len(model.requests) == asked
        if asked == 1:
            assert isinstance(outcome, ModelOverloadedError)
            assert outcome.retry_after_s == 7.0
            assert str(outcome).endswith("There is no time left to try again in 7.0 s.")
            assert clock.sleeps_s == []

    async def test_getting_ready_is_tried_again(self) -> None:
        """A model that was not there at first is asked again, as one that failed to answer."""

        class Late(FakeModel):
            async def prepare(self) -> None:
                if self.errors:
                    raise self.errors.pop()

        model = Late("ok")
        model.errors = [ModelConnectionError("Nobody answers.")]
        clock = FakeClock()
        result, _, _ = await recorded(model, REQUEST, sleep=clock.sleep)
        assert result.text == "ok"
        assert clock.sleeps_s == [0.5]

    @pytest.mark.parametrize(
        "error",
        [
            ModelAuthenticationError("no"),
            ModelRequestError("no"),
            ModelResponseError("no"),
            UnknownModelError("no"),
        ],
        ids=lambda error: type(error).__name__,
    )
    async def test_not_after_a_refusal(self, error: ModelError) -> None:
        """What a second attempt cannot help is raised at once."""
        clock = FakeClock()
        outcome, spans, _ = await recorded(FakeModel(errors=[error]), REQUEST, sleep=clock.sleep)
        assert outcome is error
        assert clock.sleeps_s == []
        assert attempts(spans) == [(1, "error", f"{type(error).__name__}: no")]


OVERLOADED = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
HELLO = (api.start(), api.BLOCK_START, api.delta("Hel"))
SOON_SILENT_S = 1.0


class TestFaults:
    """What a server can do wrong, over HTTP: what becomes of the request, and what is recorded."""

    @pytest.mark.parametrize(
        ("fault", "error", "retry_after_s"),
        [
            pytest.param(
                api.failure(429, "rate_limit_error", "slow down"),
                "ModelOverloadedError: .*slow down",
                None,
                id="429",
            ),
            pytest.param(
                api.failure(429, "rate_limit_error", "slow down", retry_after="3"),
                "ModelOverloadedError: .*slow down",
                3.0,
                id="429-retry-after",
            ),
            pytest.param(
                api.failure(529, "overloaded_error", "Overloaded", retry_after="2.5"),
                "ModelOverloadedError: .*Overloaded",
                2.5,
                id="529",
            ),
            pytest.param(Reply(500, "oops"), "ModelOverloadedError: .*500.*oops", None, id="500"),
            pytest.param(
                Reply(503, "", {"retry-after": "0"}),
                "ModelOverloadedError: .*503",
                0.0,
                id="503",
            ),
            pytest.param(api.DROPPED, "ModelConnectionError: .*broke", None, id="dropped-at-once"),
            pytest.param(
                Reply(raw=b"HTTP/1.1 200 OK\r\ncontent-type: text/ev"),
                "ModelConnectionError: .*broke",
                None,
                id="dropped-in-the-headers",
            ),
            pytest.param(
                Reply(raw=b"\x16\x03\x01 this is no HTTP\r\n\r\n"),
                "ModelConnectionError: .*broke",
                None,
                id="not-http",
            ),
            pytest.param(
                api.stream(api.start(), api.BLOCK_START, ending="broken off"),
                "ModelConnectionError: .*broke",
                None,
                id="dropped-before-text",
            ),
            pytest.param(
                api.stream(api.start(), api.BLOCK_START),
                "ModelConnectionError: .*broke off",
                None,
                id="ended-before-text",
            ),
            pytest.param(
                api.stream(api.PING, api.start(), OVERLOADED),
                "ModelOverloadedError: .*Overloaded",
                None,
                id="error-event-before-text",
            ),
            pytest.param(api.SILENT, "ModelConnectionError: .*silent for 1 s", None, id="silent"),
            pytest.param(
                api.stream(api.start(), ending="held"),
                "ModelConnectionError: .*silent for 1 s",
                None,
                id="silent-before-text",
            ),
        ],
    )
    async def test_tried_again(
        self, server: MessagesServer, fault: Reply, error: str, retry_after_s: float | None
    ) -> None:
        """Before any text the request is sent again; both attempts and the wait are recorded."""
        silent = fault.silent or fault.ending == "held"
        server.script(fault, api.answer("Hello"))
        client = MessagesClient(
            server.url, model="m", timeout_s=SOON_SILENT_S if silent else api.WAIT_S
        )
        clock = FakeClock()
        heard: list[str] = []
        result, spans, profile = await recorded(
            client, REQUEST, on_text=heard.append, sleep=clock.sleep
        )
        await client.aclose()
        assert (result.text, heard) == ("Hello", ["Hello"])
        assert [row["name"] for row in span_rows(profile)] == ["chat", "wait_to_retry", "chat"]
        failed, answered = spans
        assert (failed["status"], answered["status"]) == ("error", "ok")
        assert re.match(error, failed["error"])
        assert failed["ttft_s"] is None
        told = json.loads(failed["attributes"])
        (wait_s,) = clock.sleeps_s
        assert (told["attempt"], told["retry_in_s"]) == (1, wait_s)
        assert told.get("retry_after_s") == retry_after_s
        assert wait_s >= (retry_after_s or 0.0)
        assert server.received[0].body == server.received[1].body

    @pytest.mark.parametrize(
        ("fault", "error"),
        [
            pytest.param(
                api.stream(*HELLO, ending="broken off"), ModelConnectionError, id="dropped"
            ),
            pytest.param(api.stream(*HELLO), ModelConnectionError, id="ended"),
            pytest.param(api.stream(*HELLO, OVERLOADED), ModelOverloadedError, id="error-event"),
            pytest.param(api.stream(*HELLO, "data: {garbage"), ModelResponseError, id="garbage"),
            pytest.param(api.stream(*HELLO, ending="held"), ModelConnectionError, id="silent"),
        ],
    )
    async def test_not_after_text(
        self, server: MessagesServer, fault: Reply, error: type[ModelError]
    ) -> None:
        """Text that was passed on is not said twice: an answer that breaks off is an error."""
        server.script(fault, api.answer("Hello"))
        client = MessagesClient(server.url, model="m", timeout_s=SOON_SILENT_S)
        clock = FakeClock()
        heard: list[str] = []
        outcome, (span,), _ = await recorded(
            client, REQUEST, on_text=heard.append, sleep=clock.sleep
        )
        await client.aclose()
        assert type(outcome) is error
        assert (heard, clock.sleeps_s, len(server.received)) == (["Hel"], [], 1)
        assert (span["status"], span["error"]) == ("error", f"{error.__name__}: {outcome}")
        assert span["ttft_s"] is not None
        assert "retry_in_s" not in span["attributes"]

    @pytest.mark.parametrize(
        "fault",
        [
            pytest.param(Reply(200, "<html>Sign in</html>"), id="html"),
            pytest.param(api.stream("data: garbage"), id="garbage"),
        ],
    )
    async def test_another_protocol(self, server: MessagesServer, fault: Reply) -> None:
        """A server that speaks something else is not asked again."""
        server.script(fault)
        client = MessagesClient(server.url, model="m")
        outcome, spans, _ = await recorded(client, REQUEST)
        await client.aclose()
        assert isinstance(outcome, ModelResponseError)
        assert attempts(spans) == [(1, "error", f"ModelResponseError: {outcome}")]

    async def test_three_faults(self, server: MessagesServer) -> None:
        """The third attempt is the last, whatever the faults were."""
        server.script(api.DROPPED, Reply(503, ""), api.stream(OVERLOADED), api.answer("Hello"))
        client = MessagesClient(server.url, model="m")
        clock = FakeClock()
        outcome, spans, _ = await recorded(client, REQUEST, sleep=clock.sleep)
        await client.aclose()
        assert isinstance(outcome, ModelOverloadedError)
        assert [status for _, status, _ in attempts(spans)] == ["error"] * 3
        assert len(clock.sleeps_s) == 2

    async def test_finding_the_model(self, server: MessagesServer) -> None:
        """A server that is busy when its models are listed is asked again; each is a span."""
        server.models = api.failure(503, "api_error", "starting", retry_after="2")
        server.script(api.answer("Hello"))
        client = MessagesClient(server.url, model=None)
        sleeps_s: list[float] = []

        async def sleep(seconds: float) -> None:
            sleeps_s.append(seconds)
            server.models = ["smol"]

        result, _, profile = await recorded(client, REQUEST, sleep=sleep)
        await client.aclose()
        assert result.text == "Hello"
        assert 2.0 <= sleeps_s[0] <= 2.2
        rows = [(row["name"], row["status"]) for row in span_rows(profile)]
        assert rows == [
            ("find_model", "error"),
            ("wait_to_retry", "ok"),
            ("find_model", "ok"),
            ("chat", "ok"),
        ]


async def test_clients_do_not_come_back_together() -> None:
    """The wait is drawn anew each time: up to 0.5 s and 1 s, where the server asks for none."""
    waits: list[list[float]] = []
    for _ in range(50):
        clock = FakeClock()
        await chat(FakeModel(errors=[busy(), busy()]), REQUEST, sleep=clock.sleep)
        waits.append(clock.sleeps_s)
    assert all(0 <= first <= 0.5 and 0 <= second <= 1.0 for first, second in waits)
    assert min(first for first, _ in waits) < 0.2
    assert max(second for _, second in waits) > 0.6
    assert len({first for first, _ in waits}) > 40


async def test_never_sooner_than_the_server_asks() -> None:
    """A ``retry-after`` is kept to, and spread over a tenth above it."""
    waits: list[float] = []
    for _ in range(50):
        clock = FakeClock()
        await chat(FakeModel(errors=[busy(7.0)]), REQUEST, sleep=clock.sleep)
        waits += clock.sleeps_s
    assert all(7.0 <= wait <= 7.7 for wait in waits)
    assert len(set(waits)) > 40


async def test_the_users_seed_is_left_alone() -> None:
    """Retrying draws nothing from the generator that the user may have seeded."""
    random.seed(1)
    before = random.getstate()
    clock = FakeClock()
    await recorded(FakeModel(errors=[busy(), busy(7.0)]), REQUEST, sleep=clock.sleep)
    assert random.getstate() == before
