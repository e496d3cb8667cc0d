"""The message bus: handlers, the limit, fairness."""

from __future__ import annotations

import asyncio
import json

import pytest

import claude_pm
from claude_pm.errors import UnknownAgentError
from claude_pm.models import ChatResult, Usage
from claude_pm.orchestration import OrchestrationMode, SimpleMessageBus
from claude_pm.orchestration.message_bus import Answer, Message
from tests.road_fixtures import span_rows


def message(request: str, agent: str = "qa") -> Message:
    """Return a message."""
    return Message(agent, request, OrchestrationMode.LOCAL)


def answer(text: str) -> Answer:
    """Return an answer of that text."""
    return Answer(ChatResult(text, Usage(), "m", "end_turn", None), "hit")


class Office:
    """A handler that lets the test decide when each request is done."""

    def __init__(self, bus: SimpleMessageBus, agent: str = "qa") -> None:
        self.begun: list[str] = []
        self._done: dict[str, asyncio.Future[None]] = {}
        bus.register_handler(agent, self.handle)

    async def handle(self, message: Message) -> Answer:
        self.begun.append(message.request)
        self._done[message.request] = asyncio.get_running_loop().create_future()
        await self._done[message.request]
        return answer(message.request)

    def finish(self, request: str, error: Exception | None = None) -> None:
        """Let a request end, well or not."""
        if error is None:
            self._done[request].set_result(None)
        else:
            self._done[request].set_exception(error)


async def settle() -> None:
    """Let every task run until it waits."""
    for _ in range(20):
        await asyncio.sleep(0)


def send(bus: SimpleMessageBus, *requests: str) -> list[asyncio.Task[Answer]]:
    """Send requests, each in a task of its own."""
    return [asyncio.create_task(bus.request(message(request))) for request in requests]


class TestHandlers:
    async def test_each_agent_has_its_own(self) -> None:
        """A message goes to its agent's handler, the one registered last."""
        bus = SimpleMessageBus()

        async def first(message: Message) -> Answer:
            return answer("first")

        async def second(message: Message) -> Answer:
            return answer("second")

        bus.register_handler("qa", second)
        bus.register_handler("qa", first)
        bus.register_handler("ops", second)
        assert (await bus.request(message("?"))).chat.text == "first"
        assert (await bus.request(message("?", "ops"))).chat.text == "second"

    async def test_unknown_agent(self) -> None:
        """A message to nobody is an error that names the agent."""
        with pytest.raises(UnknownAgentError, match="'nobody'"):
            await SimpleMessageBus().request(message("?", "nobody"))


class TestLimit:
    @pytest.mark.parametrize("limit", [1, 2, 4])
    async def test_at_most_so_many(self, limit: int) -> None:
        """Never more than max_workers at once; the rest wait, first come first served."""
        bus = SimpleMessageBus(max_workers=limit)
        office = Office(bus)
        requests = [str(number) for number in range(7)]
        tasks = send(bus, *requests)
        for done, request in enumerate(requests):
            await settle()
            assert office.begun == requests[: done + limit]
            office.finish(request)
        assert [(await task).chat.text for task in tasks] == requests

    async def test_out_of_order(self) -> None:
        """Whichever ends first makes room for the one that waits longest."""
        bus = SimpleMessageBus(max_workers=2)
        office = Office(bus)
        tasks = send(bus, "a", "b", "c", "d")
        await settle()
        office.finish("b")
        await settle()
        assert office.begun == ["a", "b", "c"]
        for request in ("a", "c"):
            office.finish(request)
        await settle()
        office.finish("d")
        await asyncio.gather(*tasks)

    async def test_one_limit_for_all_agents(self) -> None:
        """The limit is the bus's, not each agent's."""
        bus = SimpleMessageBus(max_workers=1)
        office, other = Office(bus), Office(bus, "ops")
        tasks = send(bus, "a")
        tasks.append(asyncio.create_task(bus.request(message("b", "ops"))))
        await settle()
        assert (office.begun, other.begun) == (["a"], [])
        office.finish("a")
        await settle()
        other.finish("b")
        await asyncio.gather(*tasks)

    async def test_an_error_makes_room(self) -> None:
        """A handler's error comes out as it is, and frees its place."""
        bus = SimpleMessageBus(max_workers=1)
        office = Office(bus)
        failing, waiting = send(bus, "a", "b")
        await settle()
        office.finish("a", ZeroDivisionError("no"))
        with pytest.raises(ZeroDivisionError):
            await failing
        await settle()
        office.finish("b")
        assert (await waiting).chat.text == "b"

    @pytest.mark.parametrize("which", ["being-served", "waiting"])
    async def test_a_cancellation_makes_room(self, which: str) -> None:
        """Cancelling a message frees its place, or its turn."""
        bus = SimpleMessageBus(max_workers=1)
        office = Office(bus)
        tasks = dict(zip("abc", send(bus, "a", "b", "c"), strict=True))
        await settle()
        cancelled = "a" if which == "being-served" else "b"
        tasks[cancelled].cancel()
        with pytest.raises(asyncio.CancelledError):
            await tasks[cancelled]
        for request in [name for name in "abc" if name != cancelled]:
            await settle()
            office.finish(request)
            assert (await tasks[request]).chat.text == request
        assert office.begun == (["a", "b", "c"] if cancelled == "a" else ["a", "c"])

    def test_in_one_loop_after_another(self) -> None:
        """A bus may serve several event loops in turn, each with waiting messages."""
        bus = SimpleMessageBus(max_workers=1)

        async def once() -> list[str]:
            async def handle(message: Message) -> Answer:
                await asyncio.sleep(0)
                return answer(message.request)

            bus.register_handler("qa", handle)
            return [a.chat.text for a in await asyncio.gather(*send(bus, "a", "b", "c"))]

        assert [asyncio.run(once()), asyncio.run(once())] == [["a", "b", "c"]] * 2


async def test_waiting_is_a_span() -> None:
    """The wait is a queue span with the message's id; the handler's own work is not in it."""
    bus = SimpleMessageBus(max_workers=1)

    async def handle(message: Message) -> Answer:
        with claude_pm.span("work", request=message.request):
            return answer(message.request)

    bus.register_handler("qa", handle)
    asked = message("a")
    async with claude_pm.profile("bus", cpu=None, memory=None) as profile:
        with claude_pm.span("outer"):
            await bus.request(asked)
    outer, queue, work = span_rows(profile)
    assert (queue["name"], work["name"]) == ("queue", "work")
    assert queue["parent_id"] == work["parent_id"] == outer["span_id"]
    assert json.loads(queue["attributes"]) == {"correlation_id": asked.correlation_id}
    assert queue["start_s"] + queue["duration_s"] <= work["start_s"]
