"""What comes from a worker process: lines, last words and its end."""

from __future__ import annotations

import asyncio
from typing import cast

# A reply carries all that the worker recorded, on one line.
LINE_LIMIT_BYTES = 256 * 1024 * 1024
_LAST_WORDS_BYTES = 8192
# What a process wrote before it ended is in its pipes already; only the loop has to read it.
_DRAIN_S = 0.5


class WorkerPipes(asyncio.SubprocessProtocol):
    """Collects what a worker writes; touched by its event loop alone.

    ``lines`` are those of its standard output, then None: that comes when the pipe is closed, or
    soon after the process has ended. A process that was started by the worker may hold the pipe
    open, so its end alone says nothing. ``exited`` holds the exit status when there is one;
    ``closed`` is done when the pipes are closed on this side as well.
    """

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.lines: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.exited: asyncio.Future[int] = loop.create_future()
        self.closed: asyncio.Future[None] = loop.create_future()
        self.too_long = False
        self._said_all: asyncio.Future[None] = loop.create_future()
        self._transport: asyncio.SubprocessTransport | None = None
        self._line = bytearray()
        self._words = bytearray()
        self._ended = False

    async def last_words(self) -> str:
        """Return the end of what the process wrote to its standard error."""
        await asyncio.wait([self._said_all], timeout=_DRAIN_S)
        return self._words.decode(errors="replace").strip()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember who knows the exit status."""
        self._transport = cast("asyncio.SubprocessTransport", transport)

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        """Take in what was written."""
        if fd != 1:
            self._words += data
            del self._words[:-_LAST_WORDS_BYTES]
        elif not self._ended:
            *ends, rest = data.split(b"\n")
            for end in ends:
                self._line += end
                self.lines.put_nowait(bytes(self._line))
                self._line.clear()
            self._line += rest
            if len(self._line) > LINE_LIMIT_BYTES:
                self.too_long = True
                self._line.clear()
                self._end()

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:  # noqa: ARG002
        """Note that nothing more can come from there."""
        if fd == 1:
            self._end()
        elif fd == 2 and not self._said_all.done():  # noqa: PLR2004 - standard error
            self._said_all.set_result(None)

    def process_exited(self) -> None:
        """Note the exit status, and take what is still in the pipes."""
        status = None if self._transport is None else self._transport.get_returncode()
        if not self.exited.done():
            self.exited.set_result(-1 if status is None else status)
            asyncio.get_running_loop().call_later(_DRAIN_S, self._end)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """Note that all is over."""
        self.closed.set_result(None)

    def _end(self) -> None:
        if not self._ended:
            self._ended = True
            if self._line:
                self.lines.put_nowait(bytes(self._line))
            self.lines.put_nowait(None)
