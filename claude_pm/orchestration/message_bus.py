"""The message bus: requests find their agent's handler, a few at a time."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from claude_pm.errors import (
    BusClosedError,
    BusError,
    OrchestrationTimeoutError,
    UnknownAgentError,
)
from claude_pm.models import ChatResult, OnCall, OnText
from claude_pm.orchestration.modes import OrchestrationMode
from claude_pm.recording import span
from claude_pm.recording.span import new_trace_id
from claude_pm.services.agent_registry import CacheResult

MAX_QUEUED = 1000
"""Messages that wait on the bus; further senders are held back until there is room."""

_POLL_S = 0.01


@dataclass(slots=True)
class Message:
    """One request on its way to an agent.

    ``max_tokens`` None means the agent's own limit, ``timeout_s`` None no limit of time.
    ``fresh`` asks for a worker process that has served nobody before. ``sent_ns`` is a reading of
    ``time.perf_counter_ns``.
    """

    agent: str
    request: str
    mode: OrchestrationMode
    max_tokens: int | None = None
    on_text: OnText | None = None
    on_call: OnCall | None = None
    timeout_s: float | None = None
    fresh: bool = True
    correlation_id: str = field(default_factory=new_trace_id)
    sent_ns: int = field(default_factory=time.perf_counter_ns)

    @property
    def deadline_ns(self) -> int | None:
        """When the answer has to be there, on the clock of ``sent_ns``."""
        return None if self.timeout_s is None else self.sent_ns + round(self.timeout_s * 1e9)


@dataclass(slots=True)
class Answer:
    """What a handler gives back: the model's answer, and whether the agent was held already.

    ``worker_start_s`` is the time that starting a worker for it took; None if none was started.
    """

    chat: ChatResult
    agent_cache: CacheResult
    worker_start_s: float | None = None


@dataclass(frozen=True, slots=True)
class BusStatistics:
    """What a bus has done until now. The last four are of this moment; the others only grow."""

    received: int
    answered: int
    failed: int
    timed_out: int
    cancelled: int
    most_in_service: int
    in_service: int
    queued: int
    held_back: int


Handler = Callable[[Message], Awaitable[Answer]]


class SimpleMessageBus:
    """Serves up to ``max_workers`` messages at once; further ones wait, first come first served.

    A message is handled in the task that sent it, so its context, its time limit and its
    cancellation reach the handler without any machinery. Up to ``max_queued`` messages wait; who
    sends more is held back before the queue (that is the back-pressure), and waits there.

    A bus is ready when it is made: there is nothing to start, and handlers are registered before
    the first message can find them missing. The limits hold for each event loop that uses it.
    """

    def __init__(self, max_workers: int = 4, *, max_queued: int = MAX_QUEUED) -> None:
        self.max_workers = max_workers
        self.max_queued = max_queued
        self._handlers: dict[str, Handler] = {}
        self._desks: WeakKeyDictionary[asyncio.AbstractEventLoop, _Desk] = WeakKeyDictionary()
        self._closed = False

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
            OrchestrationTimeoutError: there was no answer in time; the handler was cancelled.
            BusClosedError: the bus is shut down, or was while this message was on its way.
            BusError: the handler was cancelled by something that is not its sender.
            Exception: whatever the handler raises, as it raised it.
        """
        handler = self._handlers.get(message.agent)
        if handler is None:
            raise UnknownAgentError(
                f"No handler is registered on the bus for the agent {message.agent!r}."
            )
        if self._closed:
            raise BusClosedError(
                f"The message to {message.agent} was not taken: the bus has been shut down. "
                "Make a new orchestrator."
            )
        desk = self._desk()
        desk.counts["received"] += 1
        outcome = "failed"
        limit = asyncio.timeout(message.timeout_s)
        try:
            async with limit:
                desk.limits.add(limit)
                await desk.enter(message)
                try:
                    answer = await handler(message)
                finally:
                    desk.leave()
        except TimeoutError as error:
            if not limit.expired():
                raise
            if desk.cancelling:
                outcome = "cancelled"
                raise BusClosedError(
                    f"The message to {message.agent} was cancelled: the bus was shut down."
                ) from error
            outcome = "timed_out"
            raise OrchestrationTimeoutError(
                f"The agent {message.agent} did not answer within {message.timeout_s:g} s in "
                f"{message.mode.name} mode and was cancelled; CLAUDE_PM_REQUEST_TIMEOUT or "
                "timeout= allows more."
            ) from error
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and not task.cancelling():
                # Passed on as it is, it would pass for the sender's own cancellation.
                raise BusError(
                    f"The handler of {message.agent} was cancelled from within."
                ) from error
            outcome = "cancelled"
            raise
        else:
            outcome = "answered"
            return answer
        finally:
            desk.limits.discard(limit)
            desk.counts[outcome] += 1

    async def shutdown(self, *, drain: bool = True) -> None:
        """Take no more messages, and return when none is on its way any more.

        Args:
            drain: True lets the messages that were taken come to their end; False cancels their
                handlers, and their senders get a BusClosedError.
        """
        self._closed = True
        for loop, desk in list(self._desks.items()):
            if not drain and not loop.is_closed():
                loop.call_soon_threadsafe(desk.cancel_all)
        # By polling: the others may be in other loops, which know nothing of this one.
        while any(  # noqa: ASYNC110
            desk.busy and not loop.is_closed() for loop, desk in list(self._desks.items())
        ):
            await asyncio.sleep(_POLL_S)

    def _desk(self) -> _Desk:
        loop = asyncio.get_running_loop()
        desk = self._desks.get(loop)
        if desk is None:
            desk = self._desks[loop] = _Desk(self.max_workers, self.max_queued)
        return desk

    def statistics(self) -> BusStatistics:
        """Return a snapshot of what was done, over all event loops."""
        desks = list(self._desks.values())
        counts: Counter[str] = Counter()
        for desk in desks:
            counts.update(desk.counts)
        return BusStatistics(
            received=counts["received"],
            answered=counts["answered"],
            failed=counts["failed"],
            timed_out=counts["timed_out"],
            cancelled=counts["cancelled"],
            most_in_service=max((desk.most_in_service for desk in desks), default=0),
            in_service=sum(desk.in_service for desk in desks),
            queued=sum(desk.queued for desk in desks),
            held_back=sum(desk.held_back for desk in desks),
        )


class _Desk:
    """The places of one event loop, and what happens at them; touched by that loop alone."""

    def __init__(self, max_workers: int, max_queued: int) -> None:
        self.counts: Counter[str] = Counter()
        self.limits: set[asyncio.Timeout] = set()
        self.cancelling = False
        self.in_service = 0
        self.most_in_service = 0
        self.queued = 0
        self.held_back = 0
        self._room = asyncio.Semaphore(max_workers + max_queued)
        self._workers = asyncio.Semaphore(max_workers)

    @property
    def busy(self) -> bool:
        """Whether a message is on its way."""
        return bool(self.limits)

    def cancel_all(self) -> None:
        """End every message that is on its way."""
        self.cancelling = True
        now = asyncio.get_running_loop().time()
        for limit in self.limits:
            if not limit.expired():
                limit.reschedule(now)

    async def enter(self, message: Message) -> None:
        """Wait for a place on the queue, and then for one of the workers."""
        with span("queue") as current:
            if current.trace_id != message.correlation_id:
                current.set(correlation_id=message.correlation_id)
            self.held_back += 1
            try:
                await self._room.acquire()
            finally:
                self.held_back -= 1
            self.queued += 1
            try:
                await self._workers.acquire()
            except BaseException:
                self._room.release()
                raise
            finally:
                self.queued -= 1
        self.in_service += 1
        self.most_in_service = max(self.most_in_service, self.in_service)

    def leave(self) -> None:
        """Give the place to whoever waits longest."""
        self.in_service -= 1
        self._workers.release()
        self._room.release()
