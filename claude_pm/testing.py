"""For tests of your own: a model that answers without a model, and a clock that never waits."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, nullcontext

from claude_pm.errors import ModelError
from claude_pm.models.messages import ChatRequest, Completion, ModelUse, TextDelta, Usage


class FakeClock:
    """Time that passes only when somebody waits: ``clock()`` reads it, ``await clock.sleep(s)``."""

    def __init__(self, now_s: float = 0.0) -> None:
        self.now_s = now_s
        self.sleeps_s: list[float] = []

    def __call__(self) -> float:
        """Return the time in seconds."""
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        """Let the time pass at once, and other tasks run."""
        self.sleeps_s.append(seconds)
        self.now_s += seconds
        await asyncio.sleep(0)


class FakeModel:
    """Answers ``reply`` word by word: ``Orchestrator(model=FakeModel("ok"))``.

    A profile says of it that no model was called. Its token counts are counts of words.

    Args:
        reply: what it answers.
        ttft_s: wait before the first word, in seconds.
        per_token_s: wait before every further word, in seconds.
        errors: raised by the first requests, one each, before any word.
        clock: waits on this instead of the real time.
    """

    use: ModelUse = "not called"
    concurrency: int | None = None

    def __init__(
        self,
        reply: str = "ok",
        ttft_s: float = 0.0,
        per_token_s: float = 0.0,
        *,
        errors: list[ModelError] | None = None,
        clock: FakeClock | None = None,
    ) -> None:
        self.reply = reply
        self.ttft_s = ttft_s
        self.per_token_s = per_token_s
        self.requests: list[ChatRequest] = []
        self._errors = list(errors or ())
        self._clock = clock

    async def prepare(self) -> None:
        """Be ready: it always is."""

    async def count_tokens(self, text: str) -> int | None:
        """Return the number of words, which is what this model counts in."""
        return _words(text)

    def turn(self, request: ChatRequest) -> AbstractAsyncContextManager[None]:  # noqa: ARG002
        """Take any number of requests at once."""
        return nullcontext()

    async def stream(self, request: ChatRequest) -> AsyncGenerator[TextDelta | Completion, None]:
        """Answer; see :class:`claude_pm.models.messages.Model`."""
        self.requests.append(request)
        await self._wait(self.ttft_s)
        if self._errors:
            raise self._errors.pop(0)
        words = self.reply.split(" ") if self.reply else []
        for number, word in enumerate(words):
            if number:
                await self._wait(self.per_token_s)
            yield TextDelta(word if number == 0 else f" {word}")
        asked = sum(map(_words, request.system)) + _words(request.user)
        yield Completion(Usage(asked, 0, None, len(words)), "fake", "end_turn")

    async def aclose(self) -> None:
        """Do nothing: there is nothing to close."""

    async def _wait(self, seconds: float) -> None:
        if seconds:
            await (self._clock.sleep if self._clock is not None else asyncio.sleep)(seconds)


@functools.lru_cache(maxsize=256)
def _words(text: str) -> int:
    # Held: counting the words of a long prompt takes longer than the whole road.
    return len(text.split())
