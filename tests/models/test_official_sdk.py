"""The official SDK and our client read the same from the same server."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from claude_pm.errors import ModelAuthenticationError
from claude_pm.models import ChatRequest, Completion, MessagesClient, TextDelta
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


async def test_count_of_tokens(server: MessagesServer) -> None:
    """Both ask for a count in the same way, and read the same from the answer."""
    server.counts = 42
    client = MessagesClient(server.url, model="claude-scripted", api_key="sk-1")
    ours = await client.count_tokens("Hello?")
    await client.aclose()
    async with anthropic.AsyncAnthropic(base_url=server.url, api_key="sk-1") as sdk:
        theirs = await sdk.messages.count_tokens(
            model="claude-scripted", messages=[{"role": "user", "content": "Hello?"}]
        )
    assert ours == theirs.input_tokens == 42
    first, second = server.counted
    assert (first.path, first.body) == (second.path, second.body)


@dataclass(frozen=True)
class OtherServer:
    """An embedded server in a process of its own."""

    base_url: str
    api_key: str
    model: str


SERVE = """
import json, sys
from pathlib import Path
from claude_pm.models.embedded import shared_server, stop_servers

server = shared_server(Path(sys.argv[1]), cache=True)
print(json.dumps([server.base_url, server.api_key, server.model]), flush=True)
sys.stdin.read()
stop_servers()
"""


@pytest.fixture(scope="module")
def other(weights: Path) -> Iterator[OtherServer]:
    """Start an embedded server in another process; it ends with its standard input."""
    with subprocess.Popen(
        [sys.executable, "-c", SERVE, str(weights)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        yield OtherServer(*json.loads(process.stdout.readline()))
        process.communicate()
    assert process.returncode == 0


@pytest.mark.slow
async def test_stream_of_the_embedded_server(other: OtherServer, server: MessagesServer) -> None:
    """One answer of the embedded server, word for word, is read the same by both."""
    body = {
        "model": other.model,
        "max_tokens": REQUEST.max_tokens,
        "system": [{"type": "text", "text": text} for text in REQUEST.system],
        "messages": [{"role": "user", "content": REQUEST.user}],
        "stream": True,
    }
    async with httpx2.AsyncClient(headers={"x-api-key": other.api_key}, timeout=60) as http:
        told = await http.post(f"{other.base_url}/v1/messages", json=body)
    events = [text for text in told.text.split("\n\n") if text]
    ours, theirs = await both(server, api.stream(*events))
    assert ours == theirs
    assert (len(ours.pieces), ours.output, ours.stop_reason) == (4, 4, "max_tokens")


@pytest.mark.slow
async def test_live_from_the_embedded_server(other: OtherServer) -> None:
    """Asked directly while the prompt is hot, both get the same answer, piece by piece."""
    await by_us(other.base_url, other.model, other.api_key)
    ours = await by_us(other.base_url, other.model, other.api_key)
    theirs = await by_sdk(other.base_url, other.model, other.api_key)
    assert ours == theirs
    assert ours.cache_read > 0
    assert (ours.model, ours.output, ours.stop_reason) == (other.model, 4, "max_tokens")


@pytest.mark.slow
async def test_events_of_the_embedded_server(other: OtherServer) -> None:
    """The events that the SDK sees bring the text and the counts that our client reports."""
    request: dict[str, Any] = {
        "model": other.model,
        "max_tokens": REQUEST.max_tokens,
        "system": [{"type": "text", "text": text} for text in REQUEST.system],
        "messages": [{"role": "user", "content": REQUEST.user}],
        "stream": True,
        "extra_body": {"temperature": REQUEST.temperature},
    }
    await by_us(other.base_url, other.model, other.api_key)
    async with anthropic.AsyncAnthropic(
        base_url=other.base_url, api_key=other.api_key, max_retries=0
    ) as client:
        events = [event async for event in await client.messages.create(**request)]
    ours = await by_us(other.base_url, other.model, other.api_key)
    deltas = [event.delta for event in events if event.type == "content_block_delta"]
    assert [d.text for d in deltas if d.type == "text_delta" and d.text] == ours.pieces
    kinds = [event.type for event in events if event.type != "ping"]
    assert (kinds[0], kinds[-2:]) == ("message_start", ["message_delta", "message_stop"])
    (end,) = (event for event in events if event.type == "message_delta")
    assert (end.usage.output_tokens, end.delta.stop_reason) == (ours.output, ours.stop_reason)


@pytest.mark.slow
async def test_counts_of_the_embedded_server(other: OtherServer) -> None:
    """The embedded server counts tokens for both alike."""
    ours_client = MessagesClient(other.base_url, model=other.model, api_key=other.api_key)
    ours = await ours_client.count_tokens(REQUEST.user)
    await ours_client.aclose()
    async with anthropic.AsyncAnthropic(base_url=other.base_url, api_key=other.api_key) as sdk:
        theirs = await sdk.messages.count_tokens(
            model=other.model, messages=[{"role": "user", "content": REQUEST.user}]
        )
    assert ours == theirs.input_tokens


@pytest.mark.slow
async def test_refused_by_the_embedded_server(other: OtherServer) -> None:
    """A wrong key is refused to both."""
    with pytest.raises(ModelAuthenticationError):
        await by_us(other.base_url, other.model, "sk-wrong")
    with pytest.raises(anthropic.AuthenticationError):
        await by_sdk(other.base_url, other.model, "sk-wrong")
