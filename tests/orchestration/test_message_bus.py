"""The message bus: handlers, the limit, fairness."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import threading

import pytest

import claude_pm
from claude_pm.errors import (
    BusClosedError,
    BusError,
    OrchestrationTimeoutError,
    UnknownAgentError,
)
from claude_pm.models import ChatResult, Usage
from claude_pm.orchestration import OrchestrationMode, SimpleMessageBus
from claude_pm.orchestration.message_bus import Answer, BusStatistics, Message
from tests.road_fixtures import span_rows
from tests.waiting import WAIT_S


def message(request: str, agent: str = "qa", timeout_s: float | None = None) -> Message:
    """Return a message."""
    return Message(agent, request, OrchestrationMode.LOCAL, timeout_s=timeout_s)


def statistics(**counts: int) -> BusStatistics:
    """Return statistics that are 0 except for these."""
    names = [field.name for field in dataclasses.fields(BusStatistics)]
    return BusStatistics(**dict.fromkeys(names, 0) | counts)


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


class TestTimeLimit:
    async def test_the_handler_is_cancelled(self) -> None:
        """A message that takes too long is an error, and its handler has ended by then."""
        bus = SimpleMessageBus()
        ended = []

        async def handle(message: Message) -> Answer:
            try:
                await asyncio.sleep(60)
            finally:
                ended.append(message.request)
            raise AssertionError

        bus.register_handler("qa", handle)
        with pytest.raises(OrchestrationTimeoutError, match=r"within 0\.01 s in LOCAL mode"):
            await bus.request(message("?", timeout_s=0.01))
        assert ended == ["?"]
        assert bus.statistics() == statistics(received=1, timed_out=1, most_in_service=1)

    async def test_waiting_counts(self) -> None:
        """The time on the queue is part of the limit; who never got a place frees none."""
        bus = SimpleMessageBus(max_workers=1)
        office = Office(bus)
        (first,) = send(bus, "first")
        await settle()
        with pytest.raises(OrchestrationTimeoutError):
            await bus.request(message("second", timeout_s=0.01))
        office.finish("first")
        await first
        (third,) = send(bus, "third")
        await settle()
        assert office.begun == ["first", "third"]
        office.finish("third")
        await third

    async def test_error_of_the_handler(self) -> None:
        """A TimeoutError of the handler's own is not the limit's."""
        bus = SimpleMessageBus()
        office = Office(bus)
        (task,) = send(bus, "a")
        await settle()
        office.finish("a", TimeoutError("of my own"))
        with pytest.raises(TimeoutError, match="of my own") as caught:
            await task
        assert type(caught.value) is TimeoutError
        assert bus.statistics().failed == 1


class TestBackPressure:
    async def test_bounded(self) -> None:
        """No more wait on the bus than may; further senders are held back, in order."""
        bus = SimpleMessageBus(max_workers=1, max_queued=2)
        office = Office(bus)
        requests = [str(number) for number in range(7)]
        tasks = send(bus, *requests)
        await settle()
        seen = bus.statistics()
        assert (seen.in_service, seen.queued, seen.held_back) == (1, 2, 4)
        for request in requests:
            await settle()
            assert bus.statistics().queued <= 2
            office.finish(request)
        assert [(await task).chat.text for task in tasks] == requests
        assert bus.statistics() == statistics(received=7, answered=7, most_in_service=1)

    async def test_cancelled_senders(self) -> None:
        """Whoever gives up, wherever it waits, leaves its place to others."""
        bus = SimpleMessageBus(max_workers=1, max_queued=1)
        office = Office(bus)
        tasks = send(bus, "served", "queued", "held", "last")
        await settle()
        for task in tasks[:3]:
            task.cancel()
        await settle()
        assert office.begun == ["served", "last"]
        office.finish("last")
        assert (await tasks[3]).chat.text == "last"
        assert bus.statistics() == statistics(
            received=4, answered=1, cancelled=3, most_in_service=1
        )


class TestErrors:
    async def test_stay_errors(self) -> None:
        """What a handler raises reaches its sender as it was raised, and nobody else."""
        bus = SimpleMessageBus()
        office = Office(bus)
        bad, good = send(bus, "bad", "good")
        await settle()
        office.finish("bad", ZeroDivisionError("mine"))
        office.finish("good")
        with pytest.raises(ZeroDivisionError, match="mine"):
            await bad
        assert (await good).chat.text == "good"

    async def test_cancelled_from_within(self) -> None:
        """A handler that is cancelled by another than its sender is an error of its own."""
        bus = SimpleMessageBus()

        async def handle(message: Message) -> Answer:
            raise asyncio.CancelledError

        bus.register_handler("qa", handle)
        with pytest.raises(BusError, match="handler of qa was cancelled from within"):
            await bus.request(message("?"))
        assert bus.statistics().failed == 1


class TestShutdown:
    async def test_drains(self) -> None:
        """What was taken comes to its end; nothing more is taken."""
        bus = SimpleMessageBus(max_workers=1)
        office = Office(bus)
        tasks = send(bus, "a", "b")
        await settle()
        ending = asyncio.create_task(bus.shutdown())
        await settle()
        with pytest.raises(BusClosedError, match="Make a new orchestrator"):
            await bus.request(message("late"))
        assert not ending.done()
        for request in ("a", "b"):
            office.finish(request)
            await settle()
        assert [(await task).chat.text for task in tasks] == ["a", "b"]
        await ending

    async def test_cancels(self) -> None:
        """Or everything ends at once: handlers are cancelled, senders told why."""
        bus = SimpleMessageBus(max_workers=1)
        office = Office(bus)
        tasks = send(bus, "served", "queued")
        await settle()
        await bus.shutdown(drain=False)
        for task in tasks:
            with pytest.raises(BusClosedError, match="cancelled: the bus was shut down"):
                await task
        assert office.begun == ["served"]
        assert bus.statistics() == statistics(received=2, cancelled=2, most_in_service=1)
        await bus.shutdown()

    async def test_of_another_loop(self) -> None:
        """Messages of other threads' loops are ended too."""
        bus = SimpleMessageBus()
        begun = threading.Event()

        async def handle(message: Message) -> Answer:
            begun.set()
            await asyncio.sleep(60)
            raise AssertionError

        bus.register_handler("qa", handle)
        elsewhere = asyncio.create_task(
            asyncio.to_thread(asyncio.run, bus.request(message("far away")))
        )
        await asyncio.to_thread(begun.wait, WAIT_S)
        await bus.shutdown(drain=False)
        with pytest.raises(BusClosedError):
            await elsewhere


async def test_statistics_are_a_snapshot() -> None:
    """What was read does not change any more, by whatever the bus does or the reader tries."""
    bus = SimpleMessageBus()
    before = bus.statistics()
    office = Office(bus)
    (task,) = send(bus, "a")
    await settle()
    assert before == statistics()
    assert bus.statistics() == statistics(received=1, in_service=1, most_in_service=1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        before.received = 5  # type: ignore[misc]
    office.finish("a")
    await task
