"""The official SDK and our client read the same from the same server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import httpx2
import pytest

from claude_pm.models import ChatRequest, Completion, MessagesClient, TextDelta
from claude_pm.models.embedded import EmbeddedServer
from tests import messages_server as api
from tests.messages_server import MessagesServer, Reply

anthropic = pytest.importorskip("anthropic")

REQUEST = ChatRequest(("You are brief.",), "Count from one to one hundred.", 4, temperature=0.0)


@dataclass(frozen=True)
class Read:
    """What somebody read of an answer, in the Messages API's own terms."""

    pieces: list[str]
    model: str
    stop_reason: str | None
    uncached: int
    cache_read: int
    cache_write: int
    output: int

    @property
    def total_input(self) -> int:
        return self.uncached + self.cache_read + self.cache_write


async def by_us(url: str, model: str, key: str) -> Read:
    """Ask with our client."""
    client = MessagesClient(url, model=model, api_key=key)
    events = [event async for event in client.stream(REQUEST)]
    await client.aclose()
    *pieces, end = events
    assert isinstance(end, Completion)
    usage = end.usage
    assert usage.input_tokens is not None
    assert usage.output_tokens is not None
    read, write = usage.cache_read_tokens or 0, usage.cache_write_tokens or 0
    texts = [piece.text for piece in pieces if isinstance(piece, TextDelta)]
    uncached = usage.input_tokens - read - write
    return Read(texts, end.model, end.stop_reason, uncached, read, write, usage.output_tokens)


async def by_sdk(url: str, model: str, key: str) -> Read:
    """Ask with the official SDK."""
    system = [
        {"type": "text", "text": text, "cache_control": {"type": "ephemeral"}}
        for text in REQUEST.system
    ]
    async with (
        anthropic.AsyncAnthropic(base_url=url, api_key=key, max_retries=0) as client,
        client.messages.stream(
            model=model,
            max_tokens=REQUEST.max_tokens,
            system=system,
            messages=[{"role": "user", "content": REQUEST.user}],
            # The SDK has no temperature any more, since Claude has none; other models do.
            extra_body={} if "claude" in model else {"temperature": REQUEST.temperature},
        ) as stream,
    ):
        pieces = [text async for text in stream.text_stream]
        end: Any = await stream.get_final_message()
    usage = end.usage
    return Read(
        [piece for piece in pieces if piece],
        end.model,
        end.stop_reason,
        usage.input_tokens,
        usage.cache_read_input_tokens or 0,
        usage.cache_creation_input_tokens or 0,
        usage.output_tokens,
    )


async def both(server: MessagesServer, reply: Reply) -> tuple[Read, Read]:
    """Give both the same reply."""
    server.script(reply, reply)
    ours = await by_us(server.url, "claude-scripted", "sk-1")
    return ours, await by_sdk(server.url, "claude-scripted", "sk-1")


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(api.answer("Hello", ",", "", " world\u2028é\n"), id="plain"),
        pytest.param(
            api.stream(
                api.PING,
                api.start(
                    input_tokens=3,
                    cache_read_input_tokens=800,
                    cache_creation_input_tokens=20,
                    output_tokens=1,
                ),
                api.BLOCK_START,
                api.delta("Hi"),
                api.PING,
                api.BLOCK_STOP,
                api.finish("max_tokens", output_tokens=9),
                api.STOP,
            ),
            id="cached",
        ),
        pytest.param(
            api.stream(
                api.start(input_tokens=0, output_tokens=0),
                api.BLOCK_START,
                api.delta("Hi"),
                api.BLOCK_STOP,
                api.finish(input_tokens=7, cache_read_input_tokens=5, output_tokens=2),
                api.STOP,
            ),
            id="counts-at-the-end",
        ),
    ],
)
async def test_scripted(server: MessagesServer, reply: Reply) -> None:
    """Pieces, their order, usage, model and stop reason are those that the SDK reads."""
    ours, theirs = await both(server, reply)
    assert ours == theirs
    assert ours.pieces


async def test_same_request(server: MessagesServer) -> None:
    """What we send to Claude is what the SDK sends: the same path and body."""
    await both(server, api.answer("ok"))
    ours, theirs = server.received
    assert (ours.method, ours.path) == (theirs.method, theirs.path)
    assert ours.body == theirs.body
    assert ours.headers["content-type"] == theirs.headers["content-type"]


@pytest.mark.slow
async def test_stream_of_the_embedded_server(
    embedded: EmbeddedServer, server: MessagesServer
) -> None:
    """One answer of the embedded server, word for word, is read the same by both."""
    client = MessagesClient(embedded.base_url, model=embedded.model)
    async with httpx2.AsyncClient(headers={"x-api-key": embedded.api_key}, timeout=60) as http:
        told = await http.post(f"{embedded.base_url}/v1/messages", json=client._body(REQUEST))
    events = [text for text in told.text.split("\n\n") if text]
    ours, theirs = await both(server, api.stream(*events))
    assert ours == theirs
    assert (len(ours.pieces), ours.output, ours.stop_reason) == (4, 4, "max_tokens")


@pytest.mark.slow
async def test_live_from_the_embedded_server(embedded: EmbeddedServer) -> None:
    """Asked directly, both get an answer with the same counts of tokens."""
    ours = await by_us(embedded.base_url, embedded.model, embedded.api_key)
    theirs = await by_sdk(embedded.base_url, embedded.model, embedded.api_key)
    assert ours.total_input == theirs.total_input > 0
    assert (ours.output, ours.stop_reason) == (theirs.output, theirs.stop_reason)
    assert ours.model == theirs.model == embedded.model
