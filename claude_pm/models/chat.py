"""One answer from a model, with its retries: every attempt is a ``chat`` span.

A failed attempt's span has the error, ``retry_in_s`` where another one follows, and
``retry_after_s`` where the server asked for a wait. The wait itself is a ``wait_to_retry`` span.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass

from claude_pm.errors import ModelError, ModelResponseError
from claude_pm.models.messages import ChatRequest, Completion, Model, ModelUse, Usage
from claude_pm.models.pricing import cost_usd
from claude_pm.recording import Span, current_recorder, span

MAX_ATTEMPTS = 3
BACKOFF_S = 0.5
"""Longest wait before the second attempt; it doubles after each. The wait is drawn between nothing
and that, so that clients that failed together do not come back together."""
RETRY_AFTER_SPREAD = 0.1
"""A server's ``retry-after`` is kept to, and for the same reason up to a tenth is added to it."""

# A generator of our own leaves the user's seeds alone.
_random = random.Random()  # noqa: S311


@dataclass(frozen=True, slots=True)
class ChatResult:
    """A whole answer. ``first_text_ns`` is the clock at the first delta, None without text."""

    text: str
    usage: Usage
    model: str
    stop_reason: str | None
    first_text_ns: int | None


OnText = Callable[[str], None]
OnCall = Callable[[ModelUse], None]


async def chat(
    model: Model,
    request: ChatRequest,
    *,
    on_text: OnText | None = None,
    on_call: OnCall | None = None,
    deadline_ns: int | None = None,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> ChatResult:
    """Ask the model; try again where that may help and nothing was passed on yet.

    Args:
        model: who answers.
        request: what is asked.
        on_text: called with every piece of text as it comes.
        on_call: called when the model is about to be asked, with what may be claimed of it.
        deadline_ns: when the answer has to be there, on the clock of ``perf_counter_ns``. No
            attempt is waited for that could begin only after it: then the last error is raised
            at once, and says so.
        sleep: waits between attempts; tests pass their own.

    Raises:
        ModelError: the last attempt's error.
    """
    retries = _Retries(deadline_ns)
    while True:
        try:
            await model.prepare()
            if retries.attempt == 1:
                _note_use(model, on_call)
            async with model.turn(request):
                with span("chat", attempt=retries.attempt) as current:
                    return await _attempt(model, request, current, retries, on_text)
        except ModelError as error:
            wait_s = retries.wait_s(error)
            if wait_s is None:
                raise
            with span(
                "wait_to_retry",
                attempt=retries.attempt,
                reason=str(error),
                asked_s=error.retry_after_s,
            ):
                await sleep(wait_s)
        retries.attempt += 1


class _Retries:
    """Whether a request is tried again, and when; decided once for each error."""

    def __init__(self, deadline_ns: int | None) -> None:
        self.attempt = 1
        self.text_passed_on = False
        self._deadline_ns = deadline_ns
        self._decided: tuple[ModelError | None, float | None] = (None, None)

    def wait_s(self, error: ModelError) -> float | None:
        """Return the wait before the next attempt; None: there is none.

        An error that only the deadline makes the last says so from here on.
        """
        if self._decided[0] is not error:
            self._decided = (error, self._decide(error))
        return self._decided[1]

    def _decide(self, error: ModelError) -> float | None:
        # Text that was passed on is not said twice.
        if not error.retryable or self.text_passed_on or self.attempt >= MAX_ATTEMPTS:
            return None
        asked_s = error.retry_after_s
        if asked_s is None:
            wait_s = _random.uniform(0.0, BACKOFF_S * 2.0 ** (self.attempt - 1))
        else:
            wait_s = _random.uniform(asked_s, asked_s * (1.0 + RETRY_AFTER_SPREAD))
        if (
            self._deadline_ns is not None
            and time.perf_counter_ns() + wait_s * 1e9 >= self._deadline_ns
        ):
            error.args = (f"{error} There is no time left to try again in {wait_s:.1f} s.",)
            return None
        return wait_s


def _note_use(model: Model, on_call: OnCall | None) -> None:
    """Tell the profile, and whoever listens, that the model is about to be asked."""
    recorder = current_recorder()
    if recorder is not None:
        recorder.note_model_use(model.use)
    if on_call is not None:
        on_call(model.use)


async def _attempt(
    model: Model,
    request: ChatRequest,
    current: Span,
    retries: _Retries,
    on_text: OnText | None,
) -> ChatResult:
    start_ns = time.perf_counter_ns()
    first_text_ns: int | None = None
    completion: Completion | None = None
    parts: list[str] = []
    try:
        async with aclosing(model.stream(request)) as events:
            async for event in events:
                if isinstance(event, Completion):
                    completion = event
                    continue
                if first_text_ns is None:
                    first_text_ns = time.perf_counter_ns()
                    current.set(ttft_s=(first_text_ns - start_ns) / 1e9)
                    retries.text_passed_on = True
                parts.append(event.text)
                if on_text is not None:
                    on_text(event.text)
        if completion is None:
            raise ModelResponseError("The model's answer ended without saying what it took.")
    except ModelError as error:
        wait_s = retries.wait_s(error)
        if error.retry_after_s is not None:
            current.set(retry_after_s=error.retry_after_s)
        if wait_s is not None:
            current.set(retry_in_s=wait_s)
        raise
    usage = completion.usage
    current.set(
        model=completion.model,
        input_tokens=usage.input_tokens,
        cache_read_tokens=usage.cache_read_tokens,
        cache_write_tokens=usage.cache_write_tokens,
        output_tokens=usage.output_tokens,
        stop_reason=completion.stop_reason,
    )
    if current.recording:
        current.set(cost_usd=cost_usd(completion.model, usage))
    return ChatResult(
        "".join(parts), usage, completion.model, completion.stop_reason, first_text_ns
    )
