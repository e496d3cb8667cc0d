"""One answer from a model, with its retries: every attempt is a ``chat`` span."""

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
"""Longest wait before the second attempt; it doubles after each. The wait is drawn from the upper
half of it, so that clients that failed together do not come back together. A server's
``retry-after`` wins."""

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
            attempt is waited for that could begin only after it.
        sleep: waits between attempts; tests pass their own.

    Raises:
        ModelError: the last attempt's error.
    """
    attempt = 1
    while True:
        passed_on: list[str] = []
        try:
            await model.prepare()
            if attempt == 1:
                _note_use(model, on_call)
            async with model.turn(request):
                with span("chat", attempt=attempt) as current:
                    return await _attempt(model, request, current, passed_on, on_text)
        except ModelError as error:
            if not error.retryable or attempt == MAX_ATTEMPTS or passed_on:
                raise
            wait_s = _wait_s(error, attempt)
            if deadline_ns is not None and time.perf_counter_ns() + wait_s * 1e9 >= deadline_ns:
                raise type(error)(
                    f"{error} There is no time left to try again in {wait_s:.1f} s.",
                    retry_after_s=error.retry_after_s,
                ) from error
            with span(
                "wait_to_retry", attempt=attempt, reason=str(error), asked_s=error.retry_after_s
            ):
                await sleep(wait_s)
        attempt += 1


def _note_use(model: Model, on_call: OnCall | None) -> None:
    """Tell the profile, and whoever listens, that the model is about to be asked."""
    recorder = current_recorder()
    if recorder is not None:
        recorder.note_model_use(model.use)
    if on_call is not None:
        on_call(model.use)


def _wait_s(error: ModelError, attempt: int) -> float:
    if error.retry_after_s is not None:
        return error.retry_after_s
    return BACKOFF_S * 2.0 ** (attempt - 1) * _random.uniform(0.5, 1.0)


async def _attempt(
    model: Model,
    request: ChatRequest,
    current: Span,
    parts: list[str],
    on_text: OnText | None,
) -> ChatResult:
    start_ns = time.perf_counter_ns()
    first_text_ns: int | None = None
    completion: Completion | None = None
    async with aclosing(model.stream(request)) as events:
        async for event in events:
            if isinstance(event, Completion):
                completion = event
                continue
            if first_text_ns is None:
                first_text_ns = time.perf_counter_ns()
                current.set(ttft_s=(first_text_ns - start_ns) / 1e9)
            parts.append(event.text)
            if on_text is not None:
                on_text(event.text)
    if completion is None:
        raise ModelResponseError("The model's answer ended without saying what it took.")
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
