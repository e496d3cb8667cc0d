"""What claude_pm ships for its users' own tests."""

from __future__ import annotations

from contextlib import aclosing

import pytest

from claude_pm.errors import ModelConnectionError, ModelOverloadedError
from claude_pm.models import ChatRequest, Completion, TextDelta, Usage
from claude_pm.testing import FakeClock, FakeModel

REQUEST = ChatRequest(("You are brief.", "A project."), "Say hello.", 16)


async def events(model: FakeModel) -> list[TextDelta | Completion]:
    """Return all that the model streams."""
    return [event async for event in model.stream(REQUEST)]


class TestFakeClock:
    async def test_passes_only_by_sleeping(self) -> None:
        """Time stands until somebody sleeps, and then has passed at once."""
        clock = FakeClock(100.0)
        assert (clock(), clock()) == (100.0, 100.0)
        await clock.sleep(3600)
        await clock.sleep(0.5)
        assert clock() == 3700.5
        assert clock.sleeps_s == [3600, 0.5]


class TestFakeModel:
    async def test_word_by_word(self) -> None:
        """The reply comes in words whose sum is the reply; tokens are words."""
        *pieces, end = await events(FakeModel("Hello  dear world"))
        assert pieces == [
            TextDelta("Hello"),
            TextDelta(" "),
            TextDelta(" dear"),
            TextDelta(" world"),
        ]
        assert end == Completion(Usage(7, 0, None, 4), "fake", "end_turn")

    async def test_no_words(self) -> None:
        """An empty reply has no pieces, only an end."""
        assert await events(FakeModel("")) == [Completion(Usage(7, 0, None, 0), "fake", "end_turn")]

    async def test_remembers_what_it_was_asked(self) -> None:
        """Requests are kept, for the test to look at."""
        model = FakeModel()
        await model.prepare()
        await events(model)
        await model.aclose()
        assert model.requests == [REQUEST]
        assert model.use == "not called"

    async def test_waits(self) -> None:
        """It waits before the first word, and between words, on the clock that it is given."""
        clock = FakeClock()
        model = FakeModel("one two three", ttft_s=2.0, per_token_s=0.5, clock=clock)
        async with aclosing(model.stream(REQUEST)) as stream:
            await anext(stream)
            assert clock.sleeps_s == [2.0]
            await anext(stream)
            assert clock.sleeps_s == [2.0, 0.5]
        assert len(await events(model)) == 4
        assert clock.sleeps_s == [2.0, 0.5, 2.0, 0.5, 0.5]

    async def test_errors_first(self) -> None:
        """The first requests fail with the errors given, one each, without a word."""
        model = FakeModel("ok", errors=[ModelConnectionError("a"), ModelOverloadedError("b")])
        for error in (ModelConnectionError, ModelOverloadedError):
            with pytest.raises(error):
                await events(model)
        assert len(await events(model)) == 2
        assert len(model.requests) == 3
