"""The Messages API client, against a real server that speaks from a script."""

from __future__ import annotations

import asyncio
import gc
import gzip
import json
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from typing import Any

import httpx2
import psutil
import pytest

from claude_pm.errors import (
    ContextTooLongError,
    ModelAuthenticationError,
    ModelConnectionError,
    ModelError,
    ModelOverloadedError,
    ModelRequestError,
    ModelResponseError,
    UnknownModelError,
)
from claude_pm.models import ChatRequest, Completion, MessagesClient, TextDelta, Usage
from claude_pm.models.connections import Pool
from tests import messages_server as api
from tests.messages_server import MessagesServer, Reply

REQUEST = ChatRequest(system=("You are brief.",), user="Say hello.", max_tokens=16)
KEY = "sk-secret-of-the-test"


async def ask(
    url: str, request: ChatRequest = REQUEST, **options: Any
) -> tuple[list[str], Completion]:
    """Ask once with a client of its own; return the pieces of text and the completion."""
    client = MessagesClient(url, **({"model": "claude-scripted", "api_key": KEY} | options))
    try:
        await client.prepare()
        return await collect(client, request)
    finally:
        await client.aclose()


async def collect(
    client: MessagesClient, request: ChatRequest = REQUEST
) -> tuple[list[str], Completion]:
    """Return the pieces of one answer, and its completion, which has to be the last event."""
    events = [event async for event in client.stream(request)]
    *pieces, completion = events
    assert isinstance(completion, Completion)
    assert all(isinstance(piece, TextDelta) for piece in pieces)
    return [piece.text for piece in pieces], completion


class TestText:
    async def test_pieces_in_order(self, server: MessagesServer) -> None:
        """Every piece of text comes as it was sent, then one completion."""
        server.script(api.answer("Grüße", ",\n", "a\u2028b\x85c", " 世界", "!"))
        pieces, completion = await ask(server.url)
        assert pieces == ["Grüße", ",\n", "a\u2028b\x85c", " 世界", "!"]
        assert (completion.model, completion.stop_reason) == ("claude-scripted", "end_turn")

    async def test_arrives_while_the_server_still_writes(self, server: MessagesServer) -> None:
        """Text is passed on when it comes, not when the answer is complete."""
        server.script(api.stream(api.start(), api.delta("first"), ending="held"))
        client = MessagesClient(server.url, model="m")
        async with aclosing(client.stream(REQUEST)) as events:
            assert await anext(events) == TextDelta("first")
        await client.aclose()

    async def test_no_empty_pieces(self, server: MessagesServer) -> None:
        """A delta without text is no piece of the answer, so it is not its first text either."""
        server.script(api.answer("", "", "Hello"))
        assert (await ask(server.url))[0] == ["Hello"]

    async def test_skips_what_is_not_text(self, server: MessagesServer) -> None:
        """Pings, comments, deltas of other kinds and events of tomorrow do not disturb the text."""
        thinking = {"type": "thinking_delta", "thinking": "hm"}
        server.script(
            api.stream(
                api.PING,
                ": a comment",
                api.start(),
                {"type": "content_block_delta", "index": 0, "delta": thinking},
                api.delta("Hello"),
                {"type": "event_of_tomorrow", "delta": {"type": "text_delta", "text": "no"}},
                api.STOP,
            )
        )
        assert (await ask(server.url))[0] == ["Hello"]

    async def test_compressed_all_the_same(self, server: MessagesServer) -> None:
        """No compression is asked for; a server or proxy that compresses anyway is understood."""
        events = [api.start(), api.delta("Grüße"), api.STOP]
        body = "".join(f"data: {json.dumps(event)}\n\n" for event in events)
        headers = {"content-type": "text/event-stream; charset=utf-8", "content-encoding": "gzip"}
        server.script(Reply(200, gzip.compress(body.encode()), headers))
        assert (await ask(server.url))[0] == ["Grüße"]
        assert server.received[0].headers["accept-encoding"] == "identity"

    async def test_what_is_left_out_is_nothing(self, server: MessagesServer) -> None:
        """Parts of an event that are absent or null say nothing; they are no fault."""
        server.script(
            api.stream(
                {"type": "message_start", "message": None},
                {"type": "content_block_delta", "delta": None},
                {"type": "content_block_delta", "delta": {"type": "text_delta", "text": None}},
                {"type": "message_delta"},
                api.STOP,
            )
        )
        nothing = Completion(Usage(None, None, None, None), "claude-scripted", None)
        assert await ask(server.url) == ([], nothing)

    async def test_what_follows_the_end_is_not_read(self, server: MessagesServer) -> None:
        """vLLM ends its stream with ``data: [DONE]``, which is no event of the Messages API."""
        server.script(api.stream(api.start(), api.delta("Hello"), api.STOP, "data: [DONE]"))
        assert (await ask(server.url))[0] == ["Hello"]


class TestUsage:
    @pytest.mark.parametrize(
        ("first", "last", "expected"),
        [
            pytest.param(
                {"input_tokens": 7, "output_tokens": 1},
                {"output_tokens": 5},
                Usage(7, None, None, 5),
                id="uncached",
            ),
            pytest.param(
                {
                    "input_tokens": 7,
                    "cache_read_input_tokens": 800,
                    "cache_creation_input_tokens": 30,
                    "output_tokens": 1,
                },
                {"output_tokens": 5},
                Usage(837, 800, 30, 5),
                id="total-has-read-and-written",
            ),
            pytest.param(
                {"input_tokens": 0, "cache_read_input_tokens": 0, "output_tokens": 0},
                {"input_tokens": 9, "cache_read_input_tokens": 4, "output_tokens": 5},
                Usage(13, 4, None, 5),
                id="last-word-overwrites",
            ),
            pytest.param(
                {"input_tokens": 7, "cache_read_input_tokens": 4, "output_tokens": 1},
                {"input_tokens": None, "cache_read_input_tokens": None, "output_tokens": 5},
                Usage(11, 4, None, 5),
                id="null-overwrites-nothing",
            ),
            pytest.param({}, {}, Usage(None, None, None, None), id="nothing-said-is-not-known"),
            pytest.param(
                {"cache_read_input_tokens": 4}, {}, Usage(None, 4, None, None), id="no-total"
            ),
        ],
    )
    async def test_as_the_server_counts(
        self,
        server: MessagesServer,
        first: dict[str, int],
        last: dict[str, int | None],
        expected: Usage,
    ) -> None:
        """Input is the total of uncached, read and written; the last usage replaces the first."""
        server.script(api.stream(api.start(**first), api.delta("x"), api.finish(**last), api.STOP))
        assert (await ask(server.url))[1].usage == expected


class TestRequest:
    async def test_body(self, server: MessagesServer) -> None:
        """The request is the Messages API's own, streamed."""
        server.script(api.answer("ok"))
        request = ChatRequest(("Be brief.", "", "The project."), "Hello?", 16, temperature=0.25)
        await ask(server.url, request, model="smol")
        cached = {"cache_control": {"type": "ephemeral"}}
        assert server.received[0].body == {
            "model": "smol",
            "max_tokens": 16,
            "temperature": 0.25,
            "stream": True,
            "system": [
                {"type": "text", "text": "Be brief.", **cached},
                {"type": "text", "text": "The project.", **cached},
            ],
            "messages": [{"role": "user", "content": "Hello?"}],
        }

    @pytest.mark.parametrize("model", ["claude-sonnet-5", "anthropic/claude-opus-4-7"])
    async def test_no_temperature_for_claude(self, server: MessagesServer, model: str) -> None:
        """Claude has no sampling parameters any more and answers them with a 400."""
        server.script(api.answer("ok"))
        await ask(server.url, ChatRequest((), "Hello?", 16, temperature=0.25), model=model)
        assert "temperature" not in server.received[0].body

    async def test_without_cache(self, server: MessagesServer) -> None:
        """With the cache off no block is marked, and nothing empty is sent."""
        server.script(api.answer("ok"), api.answer("ok"))
        await ask(server.url, cache=False)
        await ask(server.url, ChatRequest((), "Hello?", 16), cache=False)
        assert server.received[0].body["system"] == [{"type": "text", "text": "You are brief."}]
        assert set(server.received[1].body) == {"model", "max_tokens", "stream", "messages"}

    async def test_headers(self, server: MessagesServer) -> None:
        """The key goes as ``x-api-key``, beside the version of the API."""
        server.script(api.answer("ok"), api.answer("ok"))
        await ask(server.url)
        await ask(server.url, api_key=None)
        first, second = server.received
        assert first.headers["x-api-key"] == KEY
        assert first.headers["anthropic-version"] == "2023-06-01"
        assert "x-api-key" not in second.headers

    @pytest.mark.parametrize("ending", ["", "/", "/v1", "/v1/"])
    async def test_base_url(self, server: MessagesServer, ending: str) -> None:
        """The address may be given with and without ``/v1``."""
        server.script(api.answer("ok"))
        await ask(server.url + ending, model=None)
        assert [(r.method, r.path) for r in server.received] == [
            ("GET", "/v1/models"),
            ("POST", "/v1/messages"),
        ]


class TestModelName:
    async def test_the_only_one_listed(self, server: MessagesServer) -> None:
        """Without a name, the server's only model is asked; it is looked up once."""
        server.models = ["smol"]
        server.script(api.answer("ok"), api.answer("ok"))
        client = MessagesClient(server.url, model=None)
        for _ in range(2):
            await client.prepare()
            await collect(client)
        await client.aclose()
        assert [r.method for r in server.received] == ["GET", "POST", "POST"]
        assert [r.body["model"] for r in server.received[1:]] == ["smol", "smol"]

    @pytest.mark.parametrize(
        ("models", "named"),
        [
            pytest.param(["smol", "large"], "smol, large", id="several"),
            pytest.param([], "none", id="none"),
        ],
    )
    async def test_not_exactly_one(
        self, server: MessagesServer, models: list[str], named: str
    ) -> None:
        """Where there is a choice the user makes it: the error names what there is."""
        server.models = models
        with pytest.raises(UnknownModelError, match=f"CLAUDE_PM_MODEL.*lists: {named}"):
            await ask(server.url, model=None)

    @pytest.mark.parametrize(
        "body", ["<html>hello</html>", "[]", '{"data": null}', '{"data": ["smol"]}', '{"data": 1}']
    )
    async def test_a_list_that_is_none(self, server: MessagesServer, body: str) -> None:
        """A server that lists its models otherwise does not speak the Messages API."""
        server.models = Reply(200, body)
        with pytest.raises(ModelResponseError):
            await ask(server.url, model=None)


OVERLOADED = {"type": "overloaded_error", "message": "Overloaded"}
TOO_LONG = "prompt is too long: 250000 tokens > 200000 maximum"
NO_MODEL = "model: claude-nope"


class TestRefusals:
    @pytest.mark.parametrize(
        ("reply", "error", "says"),
        [
            pytest.param(
                api.failure(401, "authentication_error", "invalid x-api-key"),
                ModelAuthenticationError,
                "invalid x-api-key.*CLAUDE_PM_API_KEY",
                id="401",
            ),
            pytest.param(
                api.failure(403, "permission_error", "not yours"),
                ModelAuthenticationError,
                "not yours",
                id="403",
            ),
            pytest.param(Reply(401, ""), ModelAuthenticationError, "401", id="401-without-a-word"),
            pytest.param(Reply(403, ""), ModelAuthenticationError, "403", id="403-without-a-word"),
            pytest.param(
                Reply(404, "<html>Not Found</html>"),
                ModelRequestError,
                "CLAUDE_PM_BASE_URL",
                id="404-wrong-path",
            ),
            pytest.param(
                api.failure(404, "not_found_error", NO_MODEL),
                UnknownModelError,
                f"'claude-scripted'.*{NO_MODEL}.*CLAUDE_PM_MODEL",
                id="404-model",
            ),
            pytest.param(
                api.failure(400, "invalid_request_error", "max_tokens: too many"),
                ModelRequestError,
                "max_tokens: too many",
                id="400",
            ),
            pytest.param(
                api.failure(400, "invalid_request_error", TOO_LONG),
                ContextTooLongError,
                TOO_LONG,
                id="400-too-long-claude",
            ),
            pytest.param(
                api.failure(400, "exceed_context_size_error", "5000 tokens exceed 4096"),
                ContextTooLongError,
                "5000 tokens",
                id="400-too-long-llama.cpp",
            ),
            pytest.param(
                Reply(413, "too large"),
                ContextTooLongError,
                "too large",
                id="413",
            ),
            pytest.param(
                api.failure(429, "rate_limit_error", "slow down"),
                ModelOverloadedError,
                "slow down",
                id="429",
            ),
            pytest.param(
                Reply(500, "<html>oops</html>"), ModelOverloadedError, "500.*oops", id="500-html"
            ),
            pytest.param(
                Reply(503, b"\xff\xfe"), ModelOverloadedError, "503", id="503-not-even-text"
            ),
            pytest.param(
                api.failure(529, "overloaded_error", "Overloaded"),
                ModelOverloadedError,
                "Overloaded",
                id="529",
            ),
            pytest.param(
                Reply(500, '{"error": "a text"}'),
                ModelOverloadedError,
                "a text",
                id="500-error-text",
            ),
            pytest.param(
                Reply(301, "", {"location": "/elsewhere"}), ModelRequestError, "301", id="301"
            ),
        ],
    )
    async def test_typed_and_in_the_servers_words(
        self, server: MessagesServer, reply: Reply, error: type[ModelError], says: str
    ) -> None:
        """A refusal is a typed error that tells what the server said, and where."""
        server.script(reply)
        with pytest.raises(ModelError, match=says) as caught:
            await ask(server.url)
        assert type(caught.value) is error
        assert server.url in str(caught.value)
        assert KEY not in str(caught.value)

    @pytest.mark.parametrize(
        ("header", "seconds"),
        [
            pytest.param("7", 7.0, id="seconds"),
            pytest.param("0.25", 0.25, id="part-of-a-second"),
            pytest.param("-3", 0.0, id="negative"),
            pytest.param("Wed, 21 Oct 2065 07:28:00 GMT", None, id="http-date"),
            pytest.param("soon", None, id="garbage"),
            pytest.param("", None, id="empty"),
            pytest.param("inf", None, id="for-ever"),
            pytest.param("nan", None, id="no-number"),
        ],
    )
    async def test_retry_after(
        self, server: MessagesServer, header: str, seconds: float | None
    ) -> None:
        """The wait that the server asks for comes with the error, if it is a number of seconds."""
        server.script(api.failure(429, "rate_limit_error", "slow down", retry_after=header))
        with pytest.raises(ModelOverloadedError) as caught:
            await ask(server.url)
        assert caught.value.retry_after_s == seconds

    @pytest.mark.parametrize(
        ("status", "retryable"),
        [
            (400, False),
            (401, False),
            (404, False),
            (413, False),
            (429, True),
            (500, True),
            (529, True),
        ],
    )
    async def test_retryable(self, server: MessagesServer, status: int, retryable: bool) -> None:
        """A second attempt is worth it after overload and faults, not after a refusal."""
        server.script(Reply(status, "no"))
        with pytest.raises(ModelError) as caught:
            await ask(server.url)
        assert caught.value.retryable is retryable


class TestBrokenAnswers:
    @pytest.mark.parametrize(
        ("reply", "error"),
        [
            pytest.param(
                api.stream(api.start(), api.delta("Hello"), {"type": "error", "error": OVERLOADED}),
                ModelOverloadedError,
                id="error-event",
            ),
            pytest.param(
                api.stream(api.start(), api.delta("Hello"), ending="broken off"),
                ModelConnectionError,
                id="connection-closed",
            ),
            pytest.param(
                api.stream(api.start(), api.delta("Hello")), ModelConnectionError, id="no-end"
            ),
            pytest.param(
                api.stream(api.start(), api.delta("Hello"), 'data: {"type": "mess'),
                ModelResponseError,
                id="not-json",
            ),
        ],
    )
    async def test_after_the_first_text(
        self, server: MessagesServer, reply: Reply, error: type[ModelError]
    ) -> None:
        """What came is passed on; then the error says that the answer is not whole."""
        server.script(reply)
        client = MessagesClient(server.url, model="m")
        events = client.stream(REQUEST)
        assert await anext(events) == TextDelta("Hello")
        with pytest.raises(ModelError) as caught:
            await anext(events)
        assert type(caught.value) is error
        await client.aclose()

    @pytest.mark.parametrize(
        "reply",
        [
            pytest.param(Reply(200, "<html><title>Portal</title></html>"), id="html-page"),
            pytest.param(Reply(200, '{"content": []}'), id="not-streamed"),
            pytest.param(Reply(200, ""), id="empty"),
            pytest.param(api.stream("data: [1, 2]"), id="event-is-a-list"),
            pytest.param(api.stream("data: null"), id="event-is-null"),
            pytest.param(api.stream("data: " + "x" * 2**21), id="event-without-end"),
            pytest.param(api.stream({"type": "message_start", "message": "hi"}), id="text-message"),
            pytest.param(
                api.stream({"type": "message_start", "message": {"usage": [1]}}), id="usage-list"
            ),
            pytest.param(
                api.stream({"type": "content_block_delta", "delta": [1]}), id="delta-list"
            ),
            pytest.param(
                api.stream(api.start(input_tokens="7"), api.STOP),  # type: ignore[arg-type]
                id="tokens-are-text",
            ),
        ],
    )
    async def test_another_protocol(self, server: MessagesServer, reply: Reply) -> None:
        """An answer of another form is a ModelResponseError that no retry can help."""
        server.script(reply)
        with pytest.raises(ModelResponseError, match="not one of the Messages API") as caught:
            await ask(server.url)
        assert not caught.value.retryable

    @pytest.mark.parametrize("error", [None, "Overloaded", {}])
    async def test_error_event_of_any_form(self, server: MessagesServer, error: object) -> None:
        """An error event is an error however little it says."""
        server.script(api.stream(api.start(), {"type": "error", "error": error}, api.STOP))
        with pytest.raises(ModelError):
            await ask(server.url)


def _classes(base: type[BaseException]) -> Iterator[type[BaseException]]:
    yield base
    for child in base.__subclasses__():
        yield from _classes(child)


TRANSPORT_ERRORS = sorted(
    {c for c in _classes(httpx2.HTTPError) if c.__module__.startswith("httpx2")}
    | {httpx2.InvalidURL},
    key=lambda error: error.__name__,
)


def _made(error: type[BaseException]) -> BaseException:
    request = httpx2.Request("POST", "http://127.0.0.1/v1/messages")
    if issubclass(error, httpx2.HTTPStatusError):
        return error("boom", request=request, response=httpx2.Response(500, request=request))
    return error("boom")


class FailingTransport(httpx2.AsyncBaseTransport):
    """A transport that fails at once, or after the first bytes of an answer."""

    def __init__(self, error: type[BaseException], *, at_once: bool) -> None:
        self._error = error
        self._at_once = at_once

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        if self._at_once:
            raise _made(self._error)
        headers = {"content-type": "text/event-stream"}
        return httpx2.Response(200, headers=headers, stream=FailingStream(self._error))


class FailingStream(httpx2.AsyncByteStream):
    def __init__(self, error: type[BaseException]) -> None:
        self._error = error

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b'data: {"type": "ping"}\n\n'
        raise _made(self._error)


class TestConnectionErrors:
    @pytest.mark.parametrize("at_once", [True, False], ids=["at-once", "in-the-stream"])
    @pytest.mark.parametrize("error", TRANSPORT_ERRORS, ids=lambda error: error.__name__)
    async def test_all_are_mapped(self, error: type[BaseException], at_once: bool) -> None:
        """No exception of httpx2 escapes: callers need not know what lies below."""
        client = MessagesClient("http://127.0.0.1:9", model="m")
        async with httpx2.AsyncClient(
            base_url=client.base_url, transport=FailingTransport(error, at_once=at_once)
        ) as pool:
            client._pools[asyncio.get_running_loop()] = Pool(pool)
            with pytest.raises(ModelError) as caught:
                await collect(client)
        assert isinstance(caught.value.__cause__, error)

    async def test_refused(self) -> None:
        """Nobody at the address: the error names it and the variable to check; worth a retry."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            url = f"http://127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(ModelConnectionError, match=f"{url}.*CLAUDE_PM_BASE_URL") as caught:
            await ask(url)
        assert caught.value.retryable

    async def test_silent(self, server: MessagesServer) -> None:
        """A server that says nothing for ``timeout_s`` is given up."""
        server.script(api.SILENT)
        with pytest.raises(ModelConnectionError, match=r"silent for 0\.05 s"):
            await ask(server.url, timeout_s=0.05)

    async def test_silent_in_the_middle(self, server: MessagesServer) -> None:
        """So is one that falls silent within its answer."""
        server.script(api.stream(api.start(), api.delta("Hello"), ending="held"))
        with pytest.raises(ModelConnectionError, match=r"silent for 0\.05 s"):
            await ask(server.url, timeout_s=0.05)

    async def test_all_connections_busy(self, server: MessagesServer) -> None:
        """A pool that is used up is not the server's silence: the error says what is."""
        server.script(api.stream(api.start(), api.delta("Hello"), ending="held"))
        client = MessagesClient(server.url, model="m", max_connections=1, timeout_s=1.0)
        held = client.stream(REQUEST)
        await anext(held)
        with pytest.raises(ModelConnectionError, match="connections") as caught:
            await collect(client)
        assert "silent" not in str(caught.value)
        await held.aclose()
        await client.aclose()

    @pytest.mark.parametrize(
        "url",
        ["ftp://127.0.0.1", "127.0.0.1:80", "http://h:notaport", "http://127.0.0.1:70000", ""],
    )
    async def test_no_address(self, url: str) -> None:
        """What is no http(s) address is refused as such, and not tried again."""
        with pytest.raises(ModelRequestError, match=r"no http\(s\) address"):
            await ask(url)

    @pytest.mark.parametrize(
        "key",
        [
            pytest.param("sk-schlüssel", id="not-ascii"),
            pytest.param("sk-with-newline\n", id="newline"),
            pytest.param("sk-with\x00null", id="null"),
        ],
    )
    async def test_a_key_that_cannot_be_sent(self, server: MessagesServer, key: str) -> None:
        """It is refused before it is sent, and the error does not show it."""
        with pytest.raises(ModelAuthenticationError, match="CLAUDE_PM_API_KEY") as caught:
            await ask(server.url, api_key=key)
        shown = f"{caught.value!r} {caught.value.__cause__!r} {caught.value.__context__!r}"
        assert "sk-" not in shown
        assert not server.received


class TestConnections:
    async def test_closing_early_stops_the_server(self, server: MessagesServer) -> None:
        """Closing the stream closes the connection, which is how a server learns to stop."""
        server.script(api.stream(api.start(), api.delta("Hello"), ending="held"))
        client = MessagesClient(server.url, model="m")
        async with aclosing(client.stream(REQUEST)) as events:
            await anext(events)
            assert not server.closed.is_set()
        assert await asyncio.to_thread(server.closed.wait, api.WAIT_S)
        await client.aclose()

    async def test_cancelling_stops_the_server(self, server: MessagesServer) -> None:
        """Cancelling the task does the same."""
        server.script(api.SILENT)
        client = MessagesClient(server.url, model="m")
        task = asyncio.create_task(collect(client))
        await asyncio.to_thread(server.wait_for_requests, 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(server.closed.wait, api.WAIT_S)
        await client.aclose()

    @pytest.mark.parametrize(
        ("options", "connections"),
        [
            pytest.param({}, 1, id="reused"),
            pytest.param({"keep_alive": False}, 3, id="one-each"),
        ],
    )
    async def test_keep_alive(
        self, server: MessagesServer, options: dict[str, bool], connections: int
    ) -> None:
        """A connection serves one request after the other, unless that is switched off."""
        server.script(*[api.answer("ok")] * 3)
        client = MessagesClient(server.url, model="m", **options)  # type: ignore[arg-type]
        for _ in range(3):
            await collect(client)
        await client.aclose()
        assert len({received.port for received in server.received}) == connections

    async def test_clients_of_one_server_share(self, server: MessagesServer) -> None:
        """Two clients with the same address and key use the same connections."""
        server.script(*[api.answer("ok")] * 3)
        first, second, other = (MessagesClient(server.url, model="m", api_key=k) for k in "aab")
        for client in (first, second, other):
            await collect(client)
            await client.aclose()
        ports = [received.port for received in server.received]
        # Each was closed before the next one asked.
        assert len(set(ports)) == 3

        server.script(*[api.answer("ok")] * 3)
        for client in (first, second, other):
            await collect(client)
        for client in (first, second, other):
            await client.aclose()
        ports = [received.port for received in server.received[3:]]
        assert (ports[0] == ports[1], ports[0] == ports[2]) == (True, False)

    async def test_closing_one_client_leaves_the_other(self, server: MessagesServer) -> None:
        """A client that is closed does not break the answer that another one is reading."""
        server.script(api.answer("ok"), api.answer("Hello", "!"), api.answer("again"))
        first, second = (MessagesClient(server.url, model="m") for _ in range(2))
        await collect(first)
        events = second.stream(REQUEST)
        await anext(events)
        await first.aclose()
        rest = [event async for event in events]
        assert rest[0] == TextDelta("!")
        assert (await collect(first))[0] == ["again"]
        for client in (first, second, second):
            await client.aclose()

    def test_one_client_in_two_loops(self, server: MessagesServer) -> None:
        """A client may serve one event loop after another."""
        server.script(api.answer("one"), api.answer("two"))
        client = MessagesClient(server.url, model="m")

        async def once() -> list[str]:
            try:
                return (await collect(client))[0]
            finally:
                await client.aclose()

        assert [asyncio.run(once()), asyncio.run(once())] == [["one"], ["two"]]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("whole", [True, False], ids=["read", "left-half-read"])
def test_connections_end_with_their_loop(server: MessagesServer, whole: bool) -> None:
    """Many event loops one after the other leave no sockets open, though nobody closes them."""
    client = MessagesClient(server.url, model="m", keep_alive=True)
    streams: list[Any] = []

    async def once() -> None:
        server.script(api.answer("one", "two"))
        streams.append(client.stream(REQUEST))
        async for _ in streams[-1]:
            if not whole:
                break

    def open_sockets() -> int:
        port = int(server.url.rpartition(":")[2])
        connections = psutil.Process().net_connections()
        return sum(bool(made.raddr) and made.raddr.port == port for made in connections)

    # The garbage collector would close some of them, sometime.
    gc.disable()
    try:
        for _ in range(20):
            asyncio.run(once())
        assert open_sockets() <= 2
    finally:
        gc.enable()
    assert len(client._pools) == 1
