"""A real HTTP server on loopback that speaks scripted answers of the Messages API."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

from tests.waiting import WAIT_S

Ending = Literal["complete", "broken off", "held"]


@dataclass(frozen=True)
class Reply:
    """One answer. ``body`` is sent as it is; ``events`` go out as server-sent events, chunked.

    ``ending`` of a stream: ``complete``; ``broken off`` closes the connection without an end;
    ``held`` keeps silent until the client closes it, which sets ``MessagesServer.closed``.
    ``silent`` never answers at all. ``raw`` are bytes that go out in place of an HTTP answer,
    before the connection is closed.
    """

    status: int = 200
    body: str | bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    events: Sequence[Mapping[str, Any] | str] = ()
    ending: Ending = "complete"
    silent: bool = False
    raw: bytes | None = None


def stream(*events: Mapping[str, Any] | str, ending: Ending = "complete") -> Reply:
    """Stream these events; a text goes out as a line of its own."""
    return Reply(events=events, ending=ending)


def failure(status: int, kind: str, message: str, **headers: str) -> Reply:
    """Refuse, in the form that the Messages API gives its errors."""
    body = json.dumps({"type": "error", "error": {"type": kind, "message": message}})
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status, body, {"content-type": "application/json", **named})


SILENT = Reply(silent=True)
DROPPED = Reply(raw=b"")


def start(model: str = "claude-scripted", **usage: int | None) -> dict[str, Any]:
    """Return the first event of an answer."""
    message = {
        "id": "msg_1", "type": "message", "role": "assistant", "model": model, "content": [],
        "stop_reason": None, "stop_sequence": None, "usage": usage,
    }  # fmt: skip
    return {"type": "message_start", "message": message}


def delta(text: str) -> dict[str, Any]:
    """Return the event that brings a piece of text."""
    piece = {"type": "text_delta", "text": text}
    return {"type": "content_block_delta", "index": 0, "delta": piece}


def finish(stop_reason: str = "end_turn", **usage: int | None) -> dict[str, Any]:
    """Return the event that brings the stop reason and the final usage."""
    reason = {"stop_reason": stop_reason, "stop_sequence": None}
    return {"type": "message_delta", "delta": reason, "usage": usage}


BLOCK_START = {
    "type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""},
}  # fmt: skip
BLOCK_STOP = {"type": "content_block_stop", "index": 0}
PING = {"type": "ping"}
STOP = {"type": "message_stop"}


def answer(*pieces: str, model: str = "claude-scripted") -> Reply:
    """Answer with these pieces: 10 tokens in, one out for each piece."""
    return stream(
        start(model, input_tokens=10, output_tokens=1),
        BLOCK_START,
        *map(delta, pieces),
        BLOCK_STOP,
        finish(output_tokens=len(pieces)),
        STOP,
    )


@dataclass(frozen=True)
class Received:
    """One request, and the client's port: the same port is the same connection."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: Any
    port: int


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    # Each event goes out at once, as those of a model do.
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        received = Received(
            self.command, self.path, headers, json.loads(body or b"null"), self.client_address[1]
        )
        try:
            self._send(self.server.owner.reply_to(received))
        except ConnectionError:
            self.close_connection = True

    def _send(self, reply: Reply) -> None:
        if reply.silent:
            self._hold()
            return
        if reply.raw is not None:
            self.close_connection = True
            self.wfile.write(reply.raw)
            return
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        if reply.body is None:
            self._stream(reply)
            return
        body = reply.body.encode() if isinstance(reply.body, str) else reply.body
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _stream(self, reply: Reply) -> None:
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for event in reply.events:
            self._chunk(_event_text(event))
        if reply.ending == "complete":
            self._chunk("")
        elif reply.ending == "held":
            self._hold()
        else:
            self.close_connection = True

    def _chunk(self, text: str) -> None:
        data = text.encode()
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    def _hold(self) -> None:
        """Say nothing until the client closes the connection, or the server is stopped."""
        self.close_connection = True
        self.connection.settimeout(0.05)
        while not self.server.owner.ending.is_set():
            try:
                if not self.connection.recv(1):
                    break
            except TimeoutError:
                continue
            except ConnectionError:
                break
        self.server.owner.closed.set()

    def log_message(self, *_arguments: Any) -> None:
        """Stay quiet."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    # Kept connections may stay open for longer than a test.
    block_on_close = False

    def __init__(self, owner: MessagesServer) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.owner = owner

    def handle_error(self, request: Any, client_address: Any) -> None:
        # A client that goes away is what some tests are about.
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class MessagesServer:
    """Answers ``POST`` with the scripted replies in turn, ``GET /v1/models`` with ``models``.

    ``counts`` is its answer to ``/v1/messages/count_tokens``: a number of tokens, or a reply; None
    has it know no such address.
    """

    def __init__(self) -> None:
        self.models: list[str] | Reply = ["claude-scripted"]
        self.received: list[Received] = []
        self.counts: int | Reply | None = None
        self.counted: list[Received] = []
        self.closed = threading.Event()
        self._arrived = threading.Condition()
        self._replies: list[Reply] = []
        self.ending = threading.Event()
        self._http = _Server(self)
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,))
        self._thread.start()

    def script(self, *replies: Reply) -> None:
        """Give these replies to the next requests, one each."""
        self._replies.extend(replies)

    def wait_for_requests(self, count: int) -> None:
        """Wait until so many requests have come."""
        with self._arrived:
            assert self._arrived.wait_for(lambda: len(self.received) >= count, WAIT_S)

    def stop(self) -> None:
        """Close the port and let go of every held connection."""
        self.ending.set()
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    def reply_to(self, received: Received) -> Reply:
        """Note a request and return what it gets."""
        if received.path.endswith("/count_tokens"):
            return self._count(received)
        with self._arrived:
            self.received.append(received)
            self._arrived.notify_all()
        if received.method == "GET":
            if isinstance(self.models, Reply):
                return self.models
            return Reply(200, json.dumps({"data": [{"id": name} for name in self.models]}))
        if not self._replies:
            return failure(400, "invalid_request_error", "The test has scripted no such request.")
        return self._replies.pop(0)

    def _count(self, received: Received) -> Reply:
        self.counted.append(received)
        if self.counts is None:
            return failure(404, "not_found_error", "There is no such address.")
        if isinstance(self.counts, Reply):
            return self.counts
        return Reply(200, json.dumps({"input_tokens": self.counts}))


def _event_text(event: Mapping[str, Any] | str) -> str:
    if isinstance(event, str):
        return event + "\n\n"
    # As servers do: every character but the ASCII control characters goes out as it is.
    return f"event: {event['type']}\ndata: {json.dumps(event, ensure_ascii=False)}\n\n"
