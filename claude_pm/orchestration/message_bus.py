"""The message bus: requests find their agent's handler, a few at a time."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from claude_pm.errors import UnknownAgentError
from claude_pm.models import ChatResult, OnCall, OnText
from claude_pm.orchestration.modes import OrchestrationMode
from claude_pm.recording import span
from claude_pm.services.agent_registry import CacheResult


@dataclass(frozen=True, slots=True)
class Message:
    """One request on its way to an agent. ``max_tokens`` None means the agent's own limit."""

    agent: str
    request: str
    mode: OrchestrationMode
    max_tokens: int | None = None
    on_text: OnText | None = None
    on_call: OnCall | None = None
    correlation_id: str = field(default_factory=lambda: uuid.uuid4().hex)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a handler gives back: the model's answer, and whether the agent was held already."""

    chat: ChatResult
    agent_cache: CacheResult


Handler = Callable[[Message], Awaitable[Answer]]


class SimpleMessageBus:
    """Serves up to ``max_workers`` messages at once; further ones wait, first come first served.

    A message is handled in the task that sent it, so its context, its time limit and its
    cancellation reach the handler without any machinery.
    """

    def __init__(self, max_workers: int = 4) -> None:
        self.max_workers = max_workers
        self._handlers: dict[str, Handler] = {}
        # A semaphore belongs to the event loop that first waited on it.
        self._slots: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = (
            WeakKeyDictionary()
        )

    def handles(self, agent: str) -> bool:
        """Say whether somebody answers the messages to ``agent``."""
        return agent in self._handlers

    def register_handler(self, agent: str, handler: Handler) -> None:
        """Let ``handler`` answer the messages to ``agent``, in place of an earlier one."""
        self._handlers[agent] = handler

    async def request(self, message: Message) -> Answer:
        """Send a message and return its answer. The time spent waiting is a ``queue`` span.

        Raises:
            UnknownAgentError: nobody handles messages to that agent.
        """
        handler = self._handlers.get(message.agent)
        if handler is None:
            raise UnknownAgentError(
                f"No handler is registered on the bus for the agent {message.agent!r}."
            )
        loop = asyncio.get_running_loop()
        slots = self._slots.setdefault(loop, asyncio.Semaphore(self.max_workers))
        with span("queue", correlation_id=message.correlation_id):
            await slots.acquire()
        try:
            return await handler(message)
        finally:
            slots.release()
