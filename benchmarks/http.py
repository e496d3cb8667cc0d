"""Our client against bare ``httpx2``: requests per second of both, from a server 20 ms away.

The server is a process of its own that gives one answer, as a JSON body or as server-sent events.
Each case sends the same requests, so many at a time, over one pool of connections, and reads the
answer to its last byte; the cases take turns, in an order that turns around each time.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import IO, Any, cast

import claude_pm
from claude_pm.models import ChatRequest, MessagesClient, chat
from claude_pm.orchestration import Orchestrator
from claude_pm.settings import read_settings

LATENCY_S = 0.02
REQUESTS = 500
CONCURRENCY = 10
ROUNDS = 7
MODEL = "fake"
AGENT = "documentation"
PIECES = 20
_PROMPT = "Be brief. " * 300
_QUESTION = "Generate quick summary"
_BODY = {
    "model": MODEL,
    "max_tokens": 256,
    "system": [{"type": "text", "text": _PROMPT, "cache_control": {"type": "ephemeral"}}],
    "messages": [{"role": "user", "content": _QUESTION}],
}

Ask = Callable[[], Awaitable[object]]
Figures = Coroutine[Any, Any, tuple[float, float]]


def run() -> Iterator[dict[str, Any]]:
    """Yield the figures."""
    process = subprocess.Popen([sys.executable, "-m", __name__], stdout=subprocess.PIPE, text=True)
    try:
        url = cast("IO[str]", process.stdout).readline().strip()
        per_s: dict[str, list[float]] = {name: [] for name in CASES}
        cpu_ms: dict[str, list[float]] = {name: [] for name in CASES}
        for turn in range(ROUNDS + 1):
            names = list(CASES)
            for name in names if turn % 2 else reversed(names):
                wall_s, cpu_s = asyncio.run(CASES[name](url))
                if turn > 0:  # the first one imports
                    per_s[name].append(REQUESTS / wall_s)
                    cpu_ms[name].append(cpu_s * 1e3 / REQUESTS)
    finally:
        process.terminate()
        process.wait()
    for name in CASES:
        yield {
            "what": name,
            "n": ROUNDS,
            "requests_per_s_median": round(statistics.median(per_s[name]), 1),
            "cpu_ms_per_request_median": round(statistics.median(cpu_ms[name]), 3),
        }
    for ours in ("chat", "the whole road"):
        for bare in ("httpx2, JSON", "httpx2, streamed"):
            ratios = [a / b for a, b in zip(per_s[ours], per_s[bare], strict=True)]
            yield {
                "what": f"{ours} / {bare}, requests per second",
                "ratio_median": round(statistics.median(ratios), 3),
                "ratio_least": round(min(ratios), 3),
            }


async def _spread(ask: Ask) -> tuple[float, float]:
    """Ask until all requests are answered; return the seconds of wall and of processor time."""
    # What is done once, such as loading an agent, is not what a request takes.
    await ask()
    left: Iterator[int] = iter(range(REQUESTS))

    async def worker() -> None:
        for _ in left:
            await ask()

    wall, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(worker() for _ in range(CONCURRENCY)))
    return time.perf_counter() - wall, time.process_time() - cpu


async def _bare_json(url: str) -> tuple[float, float]:
    import httpx2

    body = {**_BODY, "stream": False}
    limits = httpx2.Limits(max_connections=CONCURRENCY)
    async with httpx2.AsyncClient(base_url=url, limits=limits, timeout=30) as client:

        async def ask() -> None:
            response = await client.post("/v1/messages", json=body)
            _ = response.json()["usage"]

        return await _spread(ask)


async def _bare_stream(url: str) -> tuple[float, float]:
    import httpx2

    body = {**_BODY, "stream": True}
    limits = httpx2.Limits(max_connections=CONCURRENCY)
    async with httpx2.AsyncClient(base_url=url, limits=limits, timeout=30) as client:

        async def ask() -> None:
            async with client.stream("POST", "/v1/messages", json=body) as response:
                async for _ in response.aiter_lines():
                    pass

        return await _spread(ask)


async def _chat(url: str) -> tuple[float, float]:
    client = MessagesClient(url, model=MODEL)
    request = ChatRequest((_PROMPT,), _QUESTION, 256)
    async with claude_pm.profile("chat", cpu=None, memory=None):
        figures = await _spread(lambda: chat(client, request))
    await client.aclose()
    return figures


async def _road(url: str) -> tuple[float, float]:
    orchestrator = Orchestrator(read_settings(base_url=url, model=MODEL, max_workers=CONCURRENCY))
    async with claude_pm.profile("road", cpu=None, memory=None):
        figures = await _spread(lambda: orchestrator.orchestrate_agent(AGENT, _QUESTION))
    await orchestrator.aclose()
    return figures


CASES: dict[str, Callable[[str], Figures]] = {
    "httpx2, JSON": _bare_json,
    "httpx2, streamed": _bare_stream,
    "chat": _chat,
    "the whole road": _road,
}


def _http(kind: str, body: bytes, framing: str) -> bytes:
    return f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\n{framing}\r\n\r\n".encode() + body


def _answers() -> dict[bool, bytes]:
    """Return the two forms of the one answer: streamed, and not."""
    usage = {"input_tokens": 812, "cache_read_input_tokens": 0, "output_tokens": PIECES}
    message = {
        "id": "msg_1", "type": "message", "role": "assistant", "model": MODEL, "usage": usage,
        "stop_reason": "end_turn", "stop_sequence": None,
    }  # fmt: skip
    piece = {"type": "text_delta", "text": "Looks fine. "}
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": {**message, "content": [], "stop_reason": None}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        *[{"type": "content_block_delta", "index": 0, "delta": piece}] * PIECES,
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": usage},
        {"type": "message_stop"},
    ]
    chunks = [f"event: {e['type']}\ndata: {json.dumps(e)}\n\n".encode() for e in events]
    streamed = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in (*chunks, b""))
    whole = {**message, "content": [{"type": "text", "text": piece["text"] * PIECES}]}
    body = json.dumps(whole).encode()
    return {
        True: _http("text/event-stream", streamed, "transfer-encoding: chunked"),
        False: _http("application/json", body, f"content-length: {len(body)}"),
    }


class _Connection(asyncio.Protocol):
    """One client's connection: each request is answered after the latency, in one write."""

    answers = _answers()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._read = b""

    def data_received(self, data: bytes) -> None:
        self._read += data
        head, end, body = self._read.partition(b"\r\n\r\n")
        length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
        if not end or len(body) < int(length or 0):
            return
        self._read = b""
        answer = self.answers[bool(json.loads(body).get("stream"))]
        if not head.startswith(b"POST /v1/messages HTTP"):
            answer = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"
        asyncio.get_running_loop().call_later(LATENCY_S, self._transport.write, answer)


async def _serve() -> None:
    server = await asyncio.get_running_loop().create_server(_Connection, "127.0.0.1", 0)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve())
