"""The worker's part of the road: fit the context, ask the model, tell what was recorded."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import copy_context
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, cast

# Here, so that it counts as the worker's start and not as the model's time to the first word.
import httpx2  # noqa: F401

from claude_pm.errors import ClaudePMError, ModelError, WeightsError, WorkerError
from claude_pm.models import ChatRequest, ChatResult, chat, connect
from claude_pm.orchestration.memory_limit import limit_hint
from claude_pm.orchestration.worker_request import WorkerRequest, WorkerSettings
from claude_pm.recording import ProfileSession, span

if TYPE_CHECKING:
    from claude_pm.settings import Settings


class WorkerRoad:
    """Answers one request after the other with one model, in one event loop.

    ``reply`` sends one message to the parent.
    """

    def __init__(self, settings: WorkerSettings, reply: Callable[..., None]) -> None:
        self._limit_mb = settings.memory_limit_mb
        self._reply = reply
        # All that a model is chosen by has the same name there.
        self._model = connect(cast("Settings", settings))
        self._runner = asyncio.Runner()

    def serve(self, request: WorkerRequest) -> dict[str, Any]:
        """Answer a request; return the message that ends it."""
        session = None
        if request.recording is not None:
            session = ProfileSession("worker", role="worker", **request.recording)
            session.start()
        outcome: dict[str, Any]
        try:
            # A runner's own context is that of its first run, and knows no later recording.
            answered = self._runner.run(self._answer(request), context=copy_context())
            outcome = {"type": "result", "chat": asdict(answered)}
        except (ClaudePMError, MemoryError) as error:
            outcome = _told(self._known(error))
        if session is not None:
            outcome["recorded"] = session.dump()
        return outcome

    async def _answer(self, request: WorkerRequest) -> ChatResult:
        await self._start_model()
        context = await self._fitted(request)
        asked = ChatRequest(
            # Word for word what LOCAL asks: a model's saved state is found by it.
            system=(request.prompt, context) if context else (request.prompt,),
            user=request.user,
            max_tokens=request.max_tokens,
            temperature=request.temperature,
            cache_key=request.agent,
        )
        return await chat(
            self._model,
            asked,
            on_text=lambda text: self._reply(type="text", text=text),
            on_call=lambda use: self._reply(type="model", use=use),
            deadline_ns=request.deadline_ns,
        )

    async def _start_model(self) -> None:
        """Let the model get ready here, so that its start does not count as the context's time."""
        try:
            await self._model.prepare()
        except ModelError as error:
            # Else it is asked again, where that is tried more than once.
            if not error.retryable:
                raise

    async def _fitted(self, request: WorkerRequest) -> str:
        if not request.context:
            return ""
        from claude_pm.services.context_manager import fit

        with span("build_context") as current:
            context = await fit(request.context, request.token_budget, self._model.count_tokens)
            current.set(
                tokens=context.tokens, counted_by=context.counted_by, truncated=context.truncated
            )
        return context.text

    def _known(self, error: ClaudePMError | MemoryError) -> ClaudePMError:
        """Return the error that the parent is told of, with the limit where that may be why."""
        limit_mb = self._limit_mb
        if isinstance(error, MemoryError):
            return WorkerError(f"The worker ran out of memory.{limit_hint(limit_mb)}")
        if limit_mb is not None and isinstance(error, WeightsError):
            # llama.cpp does not say whether the file is wrong or there is no room for it.
            return WorkerError(f"{error}{limit_hint(limit_mb)}")
        return error


def _told(error: ClaudePMError) -> dict[str, Any]:
    return {
        "type": "error",
        "error": type(error).__name__,
        "message": str(error),
        "retry_after_s": getattr(error, "retry_after_s", None),
    }
