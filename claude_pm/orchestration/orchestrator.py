"""The orchestrator: one road from a request to an answer."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from claude_pm.agents import Agent
from claude_pm.errors import ModeError, RequestError, WorkerError
from claude_pm.models import Model, OnText, Usage, connect, fetch_weights
from claude_pm.orchestration.hybrid_mode import HybridPolicy
from claude_pm.orchestration.local_mode import LocalMode
from claude_pm.orchestration.message_bus import (
    Answer,
    BusStatistics,
    Message,
    SimpleMessageBus,
)
from claude_pm.orchestration.metrics import OrchestrationMetrics, Served
from claude_pm.orchestration.modes import (
    ModeChoice,
    OrchestrationMode,
    choose_mode,
    configured_mode,
    parse_mode,
)
from claude_pm.orchestration.subprocess_mode import SubprocessMode
from claude_pm.recording import current_span, span
from claude_pm.recording.span import new_trace_id
from claude_pm.services.agent_registry import AgentRegistry
from claude_pm.services.context_manager import ContextManager
from claude_pm.services.prefix_warming import warm_prefixes
from claude_pm.services.shared_prompt_cache import WarmedPrompt
from claude_pm.settings import Settings, read_settings

logger = logging.getLogger("claude_pm.orchestration")

Request = str | Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Response:
    """An agent's answer.

    ``mode`` is the one that served it, ``duration_s`` the whole request, ``ttft_s`` the time from
    the request to the first text (None if there was none), ``trace_id`` that of its spans.
    """

    text: str
    agent: str
    mode: OrchestrationMode
    model: str
    usage: Usage
    stop_reason: str | None
    duration_s: float
    ttft_s: float | None
    trace_id: str


class Orchestrator:
    """Answers requests with agents, in LOCAL, SUBPROCESS or HYBRID mode.

    Args:
        settings: None reads the environment.
        model: who answers in LOCAL mode, in place of the one that the settings name.
        registry: the agents; by default those that come with claude_pm.
        context: what the agents are told of the working folder.

    Raises:
        SettingsError: the settings name no model that can be had.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        model: Model | None = None,
        registry: AgentRegistry | None = None,
        context: ContextManager | None = None,
    ) -> None:
        self.settings = settings if settings is not None else read_settings()
        self._configured = configured_mode(self.settings)
        self.registry = registry if registry is not None else AgentRegistry()
        self._context = context = context if context is not None else ContextManager()
        self._own_model = model is not None
        # Only the default model's weights are ours to fetch.
        self._weights_are_there = self._own_model
        self._model = model if model is not None else connect(self.settings)
        self._local = LocalMode(
            self._model, self.registry, context, use_cache=self.settings.cache_enabled
        )
        self._subprocess = SubprocessMode(self.settings, self.registry, context)
        self._policy = HybridPolicy(self._model.concurrency or self.settings.max_workers)
        self._metrics = OrchestrationMetrics()
        self._message_bus = SimpleMessageBus(self.settings.max_workers)
        self._register_default_agent_handlers()
        self.registry.prompt_cache.warm_with(self._warm if self.settings.cache_enabled else None)

    @property
    def mode(self) -> OrchestrationMode:
        """The mode of requests that do not ask for another."""
        return self._configured.mode

    async def orchestrate_agent(
        self,
        agent: str,
        request: Request,
        *,
        mode: str | OrchestrationMode | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - the contract's name for the limit
        isolated: bool | None = None,
        max_tokens: int | None = None,
        on_text: OnText | None = None,
        attributes: Mapping[str, Any] | None = None,
    ) -> Response:
        """Let an agent answer a request.

        Args:
            agent: the agent's name.
            request: a text, or a mapping with a ``task`` and whatever else the agent should know.
            mode: serve it in this mode, whatever the settings say.
            timeout: limit in seconds for all of it; None is ``CLAUDE_PM_REQUEST_TIMEOUT``.
            isolated: True asks for a process of its own; False forbids HYBRID to give one.
            max_tokens: output limit; None is ``CLAUDE_PM_MAX_TOKENS``, or the agent's own.
            on_text: called with every piece of the answer as it comes.
            attributes: recorded with the request's span.

        Raises:
            RequestError, UnknownAgentError, ModeError: the request cannot be served as it is.
            OrchestrationTimeoutError: it took too long, and was cancelled.
            BusClosedError: this orchestrator was closed.
            ModelError, WorkerError: the model, or the worker, could not answer.
        """
        text = _request_text(request)
        name = self._own_name(agent)
        limit_s = self.settings.request_timeout if timeout is None else _seconds(timeout)
        limit_tokens = self.settings.max_tokens if max_tokens is None else _tokens(max_tokens)
        requested = None if mode is None else parse_mode(mode)
        await self._fetch_weights()
        start_ns = time.perf_counter_ns()
        served_in = requested or self.mode
        status = "error"
        answer: Answer | None = None
        try:
            with span("orchestrate", agent=name) as root:
                trace_id = root.trace_id or new_trace_id()
                # Not by set(): the user's names may be those of columns.
                root.attributes.update(attributes or {}, request=text)
                choice = self._choose_mode(name, requested, isolated)
                served_in = choice.mode
                root.mode = str(served_in)
                message = Message(
                    name,
                    text,
                    served_in,
                    max_tokens=limit_tokens,
                    on_text=on_text,
                    timeout_s=limit_s,
                    fresh=choice.fresh,
                    correlation_id=trace_id,
                    sent_ns=start_ns,
                )
                self._policy.begun(served_in)
                try:
                    answer = await self._message_bus.request(message)
                except WorkerError as error:
                    if choice.fresh:
                        raise
                    message = self._fall_back(message, error)
                    self._policy.ended(served_in)
                    served_in = message.mode
                    self._policy.begun(served_in)
                    answer = await self._message_bus.request(message)
                finally:
                    self._policy.ended(served_in)
                chat = answer.chat
                ttft_s = (
                    None if chat.first_text_ns is None else (chat.first_text_ns - start_ns) / 1e9
                )
                root.set(model=chat.model, ttft_s=ttft_s, response=chat.text)
            status = "ok"
        except TimeoutError:
            status = "timeout"
            raise
        except (asyncio.CancelledError, KeyboardInterrupt):
            status = "cancelled"
            raise
        finally:
            duration_s = (time.perf_counter_ns() - start_ns) / 1e9
            self._metrics.add(_served(name, str(served_in), duration_s, status, answer))
        _log_answer(name, served_in, duration_s, trace_id)
        return Response(
            text=chat.text,
            agent=name,
            mode=served_in,
            model=chat.model,
            usage=chat.usage,
            stop_reason=chat.stop_reason,
            duration_s=duration_s,
            ttft_s=ttft_s,
            trace_id=trace_id,
        )

    def get_orchestration_metrics(self) -> dict[str, Any]:
        """Return a snapshot of what was served; see :class:`OrchestrationMetrics`."""
        return self._metrics.snapshot()

    def get_bus_statistics(self) -> BusStatistics:
        """Return a snapshot of the message bus: what waits, what is served, how it ended."""
        return self._message_bus.statistics()

    async def aclose(self) -> None:
        """Let the requests on their way come to their end; then close workers and connections.

        After that this orchestrator takes no more requests.
        """
        await self._message_bus.shutdown()
        await self._subprocess.aclose()
        await self._model.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.aclose()

    async def _warm(self, agents: Sequence[Agent]) -> list[WarmedPrompt]:
        """Prefill this orchestrator's model, for ``SharedPromptCache.preload_agent_prompts``."""
        await self._fetch_weights()
        return await warm_prefixes(agents, self._model, self._context)

    def _own_name(self, agent: str) -> str:
        """Return the name under which the agent has a handler on the bus."""
        try:
            if self._message_bus.handles(agent):
                # That its file is still there is seen when it is loaded.
                return agent
        except TypeError:
            # No text at all: the registry has the sentence for it.
            pass
        name = self.registry.resolve(agent)
        if not self._message_bus.handles(name):
            # Its file came after this orchestrator was made.
            self._message_bus.register_handler(name, self._answer)
        return name

    def _register_default_agent_handlers(self) -> None:
        """Let this orchestrator answer for every agent that there is."""
        for name in self.registry.names():
            self._message_bus.register_handler(name, self._answer)

    async def _fetch_weights(self) -> None:
        """Fetch the default model's weights, once, before any request's time is counted."""
        if self._weights_are_there:
            return
        await asyncio.to_thread(fetch_weights, self.settings)
        self._weights_are_there = True

    def _choose_mode(
        self, agent: str, requested: OrchestrationMode | None, isolated: bool | None
    ) -> ModeChoice:
        with span("choose_mode") as current:
            choice = choose_mode(
                self._configured,
                lambda: self.registry.get_agent(agent),
                requested=requested,
                isolated=isolated,
                quicker=self._quicker,
            )
            if choice.mode is OrchestrationMode.SUBPROCESS and self._own_model:
                raise ModeError(
                    "SUBPROCESS mode cannot be had with a model object: a worker process opens "
                    "its own model from the settings. Leave out model=, or use LOCAL mode."
                )
            current.set(mode=str(choice.mode), reason=choice.reason)
        return choice

    def _quicker(self) -> ModeChoice:
        if self._own_model:
            return ModeChoice(
                OrchestrationMode.LOCAL, "hybrid: a model object cannot go to a worker"
            )
        return self._policy.choose(idle_workers=self._subprocess.idle_workers)

    def _fall_back(self, message: Message, error: WorkerError) -> Message:
        """Return the message for LOCAL mode, with what is left of its time; say so, loudly."""
        logger.warning(
            "Agent %s falls back to LOCAL mode: %s",
            message.agent,
            error,
            extra={"trace_id": message.correlation_id, "agent": message.agent},
        )
        self._metrics.add_fallback()
        root = current_span()
        if root is not None:
            root.set(mode=str(OrchestrationMode.LOCAL), fallback=str(error))
        left_s = message.timeout_s
        if left_s is not None:
            left_s -= (time.perf_counter_ns() - message.sent_ns) / 1e9
        return replace(message, mode=OrchestrationMode.LOCAL, timeout_s=left_s)

    async def _answer(self, message: Message) -> Answer:
        start_ns = time.perf_counter_ns()
        if message.mode is OrchestrationMode.LOCAL:
            answer = await self._local.answer(message)
            self._policy.note_local(start_ns, time.perf_counter_ns())
        else:
            answer = await self._subprocess.answer(message)
            service_s = (time.perf_counter_ns() - start_ns) / 1e9
            start_s = answer.worker_start_s
            self._policy.note_worker(service_s - (start_s or 0.0), start_s)
        return answer


def create_backwards_compatible_orchestrator(**settings: Any) -> Orchestrator:
    """Return an orchestrator set up from the environment; keywords stand in for its variables.

    Not a coroutine: nothing is started before the first request.
    """
    return Orchestrator(read_settings(**settings))


async def orchestrate_agent(agent: str, request: Request, **options: Any) -> Response:
    """Let an agent answer, with one orchestrator that all calls share.

    See :meth:`Orchestrator.orchestrate_agent` for the options and errors.
    """
    return await shared_orchestrator().orchestrate_agent(agent, request, **options)


_shared: Orchestrator | None = None


def shared_orchestrator() -> Orchestrator:
    """Return the orchestrator of the module's functions; a new one when the settings changed."""
    global _shared  # noqa: PLW0603 - the one orchestrator of the module-level function
    settings = read_settings()
    if _shared is None or _shared.settings != settings:
        _shared = Orchestrator(settings)
    return _shared


def _log_answer(agent: str, mode: OrchestrationMode, duration_s: float, trace_id: str) -> None:
    if logger.isEnabledFor(logging.INFO):
        fields = {
            "agent": agent, "mode": str(mode), "duration_s": duration_s, "trace_id": trace_id,
        }  # fmt: skip
        logger.info("Agent %s responded in %.3fs", agent, duration_s, extra=fields)


def _request_text(request: Request) -> str:
    """Return the request as one text; a mapping's ``task`` first, then its other entries."""
    if isinstance(request, str):
        text = request.strip()
    elif isinstance(request, Mapping):
        task = request.get("task", "")
        others = {key: value for key, value in request.items() if key != "task"}
        lines = [
            _as_text(task).strip(),
            *(f"{key}: {_as_text(value)}" for key, value in others.items()),
        ]
        text = "\n".join(line for line in lines if line)
    else:
        raise RequestError(
            "A request is a text or a mapping such as {'task': ...}, not "
            f"{type(request).__name__}."
        )
    if not text:
        raise RequestError("The request is empty: say what the agent should do.")
    return text


def _seconds(timeout: Any) -> float:
    if not isinstance(timeout, (int, float)) or not timeout > 0:
        raise RequestError(f"The timeout is {timeout!r}; it has to be seconds, more than 0.")
    return timeout


def _tokens(max_tokens: Any) -> int:
    if not isinstance(max_tokens, int) or isinstance(max_tokens, bool) or max_tokens < 1:
        raise RequestError(f"max_tokens is {max_tokens!r}; it has to be a whole number from 1.")
    return max_tokens


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _served(agent: str, mode: str, duration_s: float, status: str, answer: Answer | None) -> Served:
    if answer is None:
        return Served(agent, mode, duration_s, status)
    usage = answer.chat.usage
    return Served(
        agent,
        mode,
        duration_s,
        status,
        agent_cache_hit=answer.agent_cache == "hit",
        input_tokens=usage.input_tokens,
        cache_read_tokens=usage.cache_read_tokens,
        output_tokens=usage.output_tokens,
    )
