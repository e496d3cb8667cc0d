"""Claude's prompt cache: breakpoints where they do something, a word where they would not."""

from __future__ import annotations

import asyncio
import json
import logging

import pytest

import claude_pm
from claude_pm.models import ChatRequest, MessagesClient, chat
from claude_pm.models.prompt_caching import Breakpoints, minimum_tokens, place_breakpoints
from tests import messages_server as api
from tests.messages_server import MessagesServer, Reply
from tests.road_fixtures import span_rows

SONNET = "claude-sonnet-4-5"


@pytest.mark.parametrize(
    ("model", "tokens"),
    [
        ("claude-opus-5-5", 512),
        ("claude-opus-5", 512),
        ("claude-haiku-5-5", 512),
        ("claude-opus-4-8", 1024),
        ("claude-opus-4-7", 2048),
        ("claude-opus-4-6", 4096),
        ("claude-opus-4-5-20251101", 4096),
        ("claude-opus-4-1-20250805", 1024),
        ("claude-opus-4-20250514", 1024),
        ("claude-sonnet-5", 1024),
        ("claude-sonnet-5-5", 512),
        ("claude-sonnet-4-5-20250929", 1024),
        ("claude-sonnet-4-20250514", 1024),
        ("claude-haiku-4-5", 4096),
        ("claude-3-5-haiku-20241022", 2048),
        ("claude-3-5-haiku-latest", 2048),
        # As gateways name them.
        ("anthropic/claude-sonnet-4.5", 1024),
        ("us.anthropic.claude-sonnet-4-5-20250929-v1:0", 1024),
        ("claude-haiku-4-5@20251001", 4096),
        # Not known: a model of tomorrow, and one that is not Claude.
        ("claude-sonnet-5-9", None),
        ("claude-sonnet-50", None),
        ("claude-chronicle-9", None),
        ("not-claude-opus-5", None),
        ("smol", None),
        ("", None),
    ],
)
def test_minimums(model: str, tokens: int | None) -> None:
    """The shortest prefix that is cached depends on the model."""
    assert minimum_tokens(model) == tokens


class Counter:
    """Counts what it is told to."""

    def __init__(self, tokens: int | None) -> None:
        self.tokens = tokens
        self.asked: list[str] = []

    async def count(self, text: str) -> int | None:
        self.asked.append(text)
        return self.tokens


@pytest.mark.parametrize(
    ("model", "system", "counted", "blocks", "note", "asked"),
    [
        # The length in bytes decides where it can.
        (SONNET, ("x" * 1023,), None, [], "at most 1023 tokens", 0),
        (SONNET, ("x" * 9000,), None, [0], None, 0),
        # Else the server's own count.
        (SONNET, ("x" * 5000,), 1023, [], "1023 tokens, and claude-sonnet-4-5 caches from 1024", 1),
        (SONNET, ("x" * 5000,), 1024, [0], None, 1),
        # Where it cannot say, an estimate, which is called one.
        (SONNET, ("x" * 4000,), None, [], "about 1000 (estimated) tokens", 1),
        (SONNET, ("x" * 4100,), None, [0], None, 1),
        # Each block counts with all before it.
        (SONNET, ("x" * 500, "y" * 9000), None, [1], None, 0),
        (SONNET, ("x" * 9000, "y"), None, [0, 1], None, 0),
        # What is longer than a prefix that is long enough needs no count.
        (SONNET, ("x" * 5000, "y", "z"), 1024, [0, 1, 2], None, 1),
        (SONNET, ("x" * 5000, "y", "z"), 1023, [], "1023 tokens", 3),
        # An empty block is not sent.
        (SONNET, ("", "x" * 9000, ""), None, [1], None, 0),
        (SONNET, (), None, [], None, 0),
        # At most four, the last ones.
        (SONNET, ("x" * 9000,) * 6, None, [2, 3, 4, 5], None, 0),
        # Of other models nothing is known: everything is marked.
        ("smol", ("x", "y"), None, [0, 1], None, 0),
    ],
)
async def test_breakpoints(
    model: str,
    system: tuple[str, ...],
    counted: int | None,
    blocks: list[int],
    note: str | None,
    asked: int,
) -> None:
    """A block is marked if the prefix that ends with it is long enough for the model."""
    counter = Counter(counted)
    placed = await place_breakpoints(model, system, counter.count)
    assert placed.blocks == frozenset(blocks)
    assert len(counter.asked) == asked
    if note is None:
        assert placed == Breakpoints(frozenset(blocks))
    else:
        assert note in (placed.note or "")


async def test_said_where_nothing_is_cached(
    server: MessagesServer, caplog: pytest.LogCaptureFixture
) -> None:
    """A prompt that is too short gets no breakpoint; each span says so, the log once."""
    server.counts = 700
    server.script(api.answer("one"), api.answer("two"))
    client = MessagesClient(server.url, model=SONNET)
    request = ChatRequest(("x" * 3000,), "Hello?", 5)
    with caplog.at_level(logging.INFO, logger="claude_pm.models"):
        async with claude_pm.profile("p", cpu=None, memory=None) as profile:
            for _ in range(2):
                await chat(client, request)
    await client.aclose()
    assert "cache_control" not in json.dumps([received.body for received in server.received])
    assert len(server.counted) == 1
    notes = [json.loads(row["attributes"])["prompt_cache"] for row in span_rows(profile)]
    assert notes == [f"not cached: 700 tokens, and {SONNET} caches from 1024 on"] * 2
    assert len(caplog.records) == 1


async def test_marked_where_it_is(server: MessagesServer) -> None:
    """A prompt that is long enough is marked, and nothing is said."""
    server.script(api.answer("one"))
    client = MessagesClient(server.url, model=SONNET)
    async with claude_pm.profile("p", cpu=None, memory=None) as profile:
        await chat(client, ChatRequest(("x" * 9000,), "Hello?", 5))
    await client.aclose()
    (block,) = server.received[0].body["system"]
    assert block["cache_control"] == {"type": "ephemeral"}
    assert "prompt_cache" not in span_rows(profile)[0]["attributes"]


class TestCountTokens:
    async def test_as_the_server_says(self, server: MessagesServer) -> None:
        """The text is counted by the server, for the model that is asked."""
        server.counts = 42
        client = MessagesClient(server.url, model="m")
        assert await client.count_tokens("Hello?") == 42
        await client.aclose()
        assert server.counted[0].body == {
            "model": "m",
            "messages": [{"role": "user", "content": "Hello?"}],
        }

    @pytest.mark.parametrize("status", [404, 405, 501])
    async def test_server_that_cannot(self, server: MessagesServer, status: int) -> None:
        """A server without that address is asked once, and it is no error."""
        server.counts = Reply(status, "no such thing")
        client = MessagesClient(server.url, model="m")
        assert await client.count_tokens("Hello?") is None
        assert await client.count_tokens("Hello?") is None
        await client.aclose()
        assert len(server.counted) == 1

    @pytest.mark.parametrize(
        "fault",
        [
            Reply(400, "no"),
            Reply(401, "no"),
            Reply(429, "no"),
            Reply(503, "no"),
            Reply(200, "<html>"),
            Reply(200, "{}"),
            Reply(200, '{"input_tokens": "7"}'),
            api.DROPPED,
        ],
        ids=lambda reply: f"{reply.status}-{reply.body}",
    )
    async def test_a_failure_is_no_answer_and_no_error(
        self, server: MessagesServer, fault: Reply, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Whatever goes wrong, the count is not known; the server is asked the next time."""
        server.counts = fault
        client = MessagesClient(server.url, model="m")
        assert await client.count_tokens("Hello?") is None
        server.counts = 42
        assert await client.count_tokens("Hello?") == 42
        await client.aclose()
        assert not [record for record in caplog.records if record.levelno >= logging.INFO]

    async def test_server_that_is_away(self) -> None:
        """Nobody there is no error either; whoever asks the model will hear of it."""
        client = MessagesClient("http://127.0.0.1:9", model="m")
        assert await client.count_tokens("Hello?") is None
        await client.aclose()


async def test_requests_at_the_same_time(
    server: MessagesServer, caplog: pytest.LogCaptureFixture
) -> None:
    """A prompt that many requests bring together is spoken of once."""
    server.counts = 700
    server.script(*[api.answer("ok")] * 5)
    client = MessagesClient(server.url, model=SONNET)
    request = ChatRequest(("x" * 3000,), "Hello?", 5)
    with caplog.at_level(logging.INFO, logger="claude_pm.models"):
        await asyncio.gather(*(chat(client, request) for _ in range(5)))
    await client.aclose()
    assert len(caplog.records) == 1


async def test_a_server_that_cannot_count(server: MessagesServer) -> None:
    """Without a count there is an estimate, and the span says that it is one."""
    server.script(api.answer("ok"))
    client = MessagesClient(server.url, model=SONNET)
    async with claude_pm.profile("p", cpu=None, memory=None) as profile:
        await chat(client, ChatRequest(("x" * 2800,), "Hello?", 5))
    await client.aclose()
    told = json.loads(span_rows(profile)[0]["attributes"])
    assert told["prompt_cache"].startswith("not cached: about 700 (estimated) tokens")
