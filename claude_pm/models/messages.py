"""The values that pass between the road and a model, and the one seam: :class:`Model`."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Literal, Protocol

ModelUse = Literal["live", "replayed", "not called"]


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """One request to a model.

    ``system`` are blocks, the most stable first: each may be kept in the model's prompt cache
    together with all before it. ``temperature`` is not sent to Claude, which refuses it.
    ``cache_key`` is the agent's name: requests with one key are likely to share their blocks.
    """

    system: tuple[str, ...]
    user: str
    max_tokens: int
    temperature: float | None = None
    cache_key: str | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as the server counted them; None is 'the server did not say'.

    ``input_tokens`` is the total: uncached, plus ``cache_read_tokens``, plus
    ``cache_write_tokens``. (The Messages API itself leaves the cached ones out of its field of
    that name.)
    """

    input_tokens: int | None = None
    cache_read_tokens: int | None = None
    cache_write_tokens: int | None = None
    output_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class TextDelta:
    """A piece of the answer, never empty."""

    text: str


@dataclass(frozen=True, slots=True)
class Completion:
    """The end of the answer: what it took, which model gave it, and why it stopped."""

    usage: Usage
    model: str
    stop_reason: str | None


class Model(Protocol):
    """Who generates text. Pass your own as ``Orchestrator(model=...)``.

    ``use`` says what a profile may claim: ``live`` (a model ran), ``replayed`` (a recording
    answered) or ``not called``. ``concurrency`` is how many requests it answers at the same
    time, None where that is not known.
    """

    use: ModelUse
    concurrency: int | None

    async def prepare(self) -> None:
        """Get ready to answer (start a server, find a name); called before every request."""

    async def count_tokens(self, text: str) -> int | None:
        """Return how many tokens the model's own tokenizer makes of a text; None: cannot say."""

    def turn(self, request: ChatRequest) -> AbstractAsyncContextManager[None]:
        """Return a context that is entered when the model can take this request.

        A wait there is a ``queue`` span, so that it does not pass for the model's own time.
        """
        ...

    def stream(self, request: ChatRequest) -> AsyncGenerator[TextDelta | Completion, None]:
        """Answer once: text deltas, then one Completion. One attempt, no retries.

        Raises:
            ModelError: it could not; ``retryable`` says whether a second attempt may help.
        """
        ...

    async def aclose(self) -> None:
        """Give up connections; a later request may open them again."""
