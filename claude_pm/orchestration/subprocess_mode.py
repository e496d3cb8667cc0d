"""SUBPROCESS: the model is asked in a process of its own, with its own memory."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from claude_pm.agents import Agent
from claude_pm.errors import ClaudePMError, ModelError, WorkerError, error_class
from claude_pm.models import ChatResult, Usage
from claude_pm.orchestration.message_bus import Answer, Message
from claude_pm.orchestration.preparing import collect_context, load_agent
from claude_pm.orchestration.warm_workers import WarmWorkers
from claude_pm.orchestration.worker_process import WorkerProcess
from claude_pm.orchestration.worker_request import WorkerRequest, WorkerSettings
from claude_pm.recording import current_recorder, current_span, span
from claude_pm.services.agent_registry import AgentRegistry
from claude_pm.services.context_manager import ContextManager
from claude_pm.settings import Settings

logger = logging.getLogger("claude_pm.orchestration")

MOST_IDLE = 2
"""Workers that wait for a next request: each holds a model."""


class SubprocessMode:
    """Answers messages in worker processes.

    What a worker need not do is done here: the agent is loaded and the context collected before
    it starts. A message that asks for a ``fresh`` worker gets one that is gone when the answer is
    there; others share workers that are kept for a while (:class:`WarmWorkers`).
    """

    def __init__(
        self, settings: Settings, registry: AgentRegistry, context: ContextManager
    ) -> None:
        self._settings = WorkerSettings.of(settings)
        self._registry = registry
        self._context = context
        self._use_cache = settings.cache_enabled
        self._warm = WarmWorkers(min(settings.max_workers, MOST_IDLE))

    @property
    def idle_workers(self) -> int:
        """How many workers wait for a request, in the running event loop."""
        return self._warm.idle

    async def answer(self, message: Message) -> Answer:
        """Answer one message; a handler for the bus.

        Raises:
            AgentError: the agent cannot be loaded.
            WorkerError: the worker could not start, crashed, or spoke nonsense.
            ClaudePMError: the worker's own error, as it would have been raised here.
        """
        use_cache = self._use_cache
        agent, agent_cache = load_agent(self._registry, message.agent, use_cache=use_cache)
        collected = await collect_context(self._context, agent, use_cache=use_cache)
        # Made out here: what the worker records hangs under the request's span, not start_worker's.
        request = self._request(message, agent, collected.text)
        async with self._worker(message, request) as (worker, start_s):
            chat = await _read_answer(worker, message)
        return Answer(chat, agent_cache, start_s)

    async def aclose(self) -> None:
        """End the workers that wait for a request."""
        await self._warm.aclose()

    @asynccontextmanager
    async def _worker(
        self, message: Message, request: WorkerRequest
    ) -> AsyncIterator[tuple[WorkerProcess, float | None]]:
        """Give a worker that has the request, and the seconds that its start took.

        When the block is left the worker waits for a next request, if it has answered and was not
        to be fresh; else it is gone, however the block was left.
        """
        root = current_span()
        self._warm.drop_closed_loops()
        worker = None if message.fresh else self._warm.take()
        if root is not None:
            root.set(worker="fresh" if worker is None else "warm")
        start_s: float | None = None
        try:
            if worker is not None:
                worker.send(request)
            else:
                start_ns = time.perf_counter_ns()
                with span("start_worker") as current:
                    worker = await WorkerProcess.start(self._settings)
                    current.set(worker_pid=worker.pid)
                    _log_start(message, worker)
                    worker.send(request)
                    await worker.ready()
                start_s = (time.perf_counter_ns() - start_ns) / 1e9
            yield worker, start_s
        except BaseException:
            if worker is not None:
                await worker.end()
            raise
        if message.fresh:
            await worker.end()
        else:
            await self._warm.keep(worker)

    def _request(self, message: Message, agent: Agent, context: str) -> WorkerRequest:
        recorder, parent = current_recorder(), current_span()
        recording = None
        if recorder is not None:
            recording = {
                "cpu": recorder.cpu,
                "memory": recorder.memory,
                "internals": recorder.internals,
                "traceparent": parent.traceparent if parent is not None else None,
            }
        return WorkerRequest(
            agent=agent.name,
            prompt=agent.prompt,
            context=context,
            token_budget=self._context.token_budget,
            user=message.request,
            max_tokens=message.max_tokens or agent.max_tokens,
            temperature=agent.temperature,
            deadline_ns=message.deadline_ns,
            recording=recording,
        )


def _log_start(message: Message, worker: WorkerProcess) -> None:
    logger.info(
        "Starting subprocess",
        extra={"trace_id": message.correlation_id, "agent": message.agent, "pid": worker.pid},
    )


async def _read_answer(worker: WorkerProcess, message: Message) -> ChatResult:
    first_text_ns: int | None = None
    while True:
        reply = await worker.read()
        kind = reply.get("type")
        if kind == "model":
            # Known before the answer is: a request may end without one.
            recorder = current_recorder()
            if recorder is not None:
                recorder.note_model_use(str(reply.get("use")))
            continue
        if kind == "text":
            if first_text_ns is None:
                first_text_ns = time.perf_counter_ns()
            if message.on_text is not None:
                message.on_text(str(reply.get("text")))
            continue
        if kind not in ("result", "error"):
            raise WorkerError(f"The worker (pid {worker.pid}) sent an unknown reply: {kind!r}.")
        try:
            return _outcome(reply, message, first_text_ns)
        except (KeyError, TypeError, ValueError) as error:
            raise WorkerError(
                f"The worker (pid {worker.pid}) sent a reply of another form: {reply!r:.200}."
            ) from error


def _outcome(reply: dict[str, Any], message: Message, first_text_ns: int | None) -> ChatResult:
    recorder = current_recorder()
    if recorder is not None and "recorded" in reply:
        recorder.merge(_as_subprocess(reply["recorded"], message))
    if reply["type"] == "error":
        raise _error(reply)
    chat = dict(reply["chat"], first_text_ns=first_text_ns)
    return ChatResult(**(chat | {"usage": Usage(**chat["usage"])}))


def _error(reply: dict[str, Any]) -> ClaudePMError:
    error = error_class(reply["error"])(reply["message"])
    if isinstance(error, ModelError):
        error.retry_after_s = reply.get("retry_after_s")
    return error


def _as_subprocess(recorded: dict[str, Any], message: Message) -> dict[str, Any]:
    """Give the worker's rows the agent and mode that their parent span has in this process."""
    spans = [
        {**row, "agent": message.agent, "mode": str(message.mode)} for row in recorded["spans"]
    ]
    tables = recorded["tables"]
    samples = [{**row, "agent": message.agent} for row in tables.get("samples", ())]
    return {**recorded, "spans": spans, "tables": {**tables, "samples": samples}}
