"""Server-sent events, cut out of the bytes of an answer as they come.

``httpx2.EventSource`` reads more than that (names, ids, when to reconnect), of which the Messages
API needs nothing, and takes more than twice as long for each event.
"""

from __future__ import annotations

MAX_EVENT_BYTES = 1024 * 1024
"""Longest event that is taken: an answer without a line end shall not fill the memory."""


class EventTooLongError(ValueError):
    """An event is longer than anybody would send."""


class EventStream:
    """Gives the data of each event, once the empty line that ends it is there."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []

    def feed(self, chunk: bytes) -> list[str]:
        """Take in the next bytes and return the data of the events that they complete.

        Raises:
            EventTooLongError: an event is longer than ``MAX_EVENT_BYTES``.
        """
        text = self._rest + chunk
        if b"\r" in text:
            # The last one may be half of a line end whose other half has not come yet.
            held = b"\r" if text.endswith(b"\r") else b""
            text = text.removesuffix(held).replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        else:
            held = b""
        *lines, rest = text.split(b"\n")
        self._rest = rest + held
        events = []
        for line in lines:
            if line.startswith(b"data:"):
                self._data.append(line[6:] if line.startswith(b"data: ") else line[5:])
            elif not line and self._data:
                events.append(b"\n".join(self._data).decode("utf-8", "replace"))
                self._data.clear()
            elif line == b"data":
                self._data.append(b"")
        if len(self._rest) + sum(map(len, self._data)) > MAX_EVENT_BYTES:
            raise EventTooLongError(f"an event of more than {MAX_EVENT_BYTES} bytes")
        return events
