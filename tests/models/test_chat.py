"""One answer with its retries, and the span that each attempt leaves."""

from __future__ import annotations

import asyncio
import importlib
import json
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
from tests.messages_server import MessagesServer
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
    """Draw the longest wait that may be drawn."""
    monkeypatch.setattr(chat_module._random, "uniform", lambda low, high: high)


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

    @pytest.mark.parametrize(("left_s", "asked"), [(7.5, 2), (6.5, 1)])
    async def test_deadline(self, left_s: float, asked: int) -> None:
        """No wait goes beyond the time limit: the error is raised at once, and says so."""
        clock = FakeClock()
        model = FakeModel("ok", errors=[busy(7.0)])
        outcome, _, _ = await recorded(
            model,
            REQUEST,
            sleep=clock.sleep,
            deadline_ns=time.perf_counter_ns() + round(left_s * 1e9),
        )
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

    async def test_not_after_text(self, server: MessagesServer) -> None:
        """Text that was passed on is not said twice: an answer that breaks off is an error."""
        server.script(
            api.stream(api.start(), api.delta("Hel"), ending="broken off"), api.answer("Hello")
        )
        client = MessagesClient(server.url, model="m")
        clock = FakeClock()
        heard: list[str] = []
        outcome, spans, _ = await recorded(client, REQUEST, on_text=heard.append, sleep=clock.sleep)
        await client.aclose()
        assert isinstance(outcome, ModelConnectionError)
        assert (heard, clock.sleeps_s, len(server.received)) == (["Hel"], [], 1)
        assert spans[0]["ttft_s"] is not None

    async def test_over_http(self, server: MessagesServer) -> None:
        """The same through the client: a 529 that asks for 2 s, a broken stream, an answer."""
        server.script(
            api.failure(529, "overloaded_error", "Overloaded", retry_after="2"),
            api.stream(api.start(), ending="broken off"),
            api.answer("Hello"),
        )
        client = MessagesClient(server.url, model="m")
        clock = FakeClock()
        result, spans, _ = await recorded(client, REQUEST, sleep=clock.sleep)
        await client.aclose()
        assert result.text == "Hello"
        assert clock.sleeps_s == [2.0, 1.0]
        assert [row["status"] for row in spans] == ["error", "error", "ok"]


async def test_clients_do_not_come_back_together() -> None:
    """Without a word of the server the wait is drawn anew each time, up to 0.5 s and 1 s."""
    waits: list[list[float]] = []
    for _ in range(50):
        clock = FakeClock()
        await recorded(FakeModel(errors=[busy(), busy()]), REQUEST, sleep=clock.sleep)
        waits.append(clock.sleeps_s)
    assert all(0.25 <= first <= 0.5 <= second <= 1.0 for first, second in waits)
    assert len({first for first, _ in waits}) > 40
