"""Server-sent events out of bytes, however those are cut."""

from __future__ import annotations

from itertools import pairwise

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from claude_pm.models.event_stream import MAX_EVENT_BYTES, EventStream, EventTooLongError

LINES = st.sampled_from(
    [b"", b"", b"data: a", b"data:b", b"data:  c", b"data", b"data:", b"event: x", b": comment",
     b"id: 7", b"retry: 1", b"unknown: y", "data: é\u2028 世界".encode(), b"datax: no"]
)  # fmt: skip
ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])


def read(stream: bytes, cuts: list[int]) -> list[str]:
    """Feed the stream in pieces."""
    events = EventStream()
    edges = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    return [event for start, end in pairwise(edges) for event in events.feed(stream[start:end])]


@given(st.lists(st.tuples(LINES, ENDS)), st.lists(st.integers(0, 500), max_size=8))
def test_as_httpx2_reads_them(lines: list[tuple[bytes, bytes]], cuts: list[int]) -> None:
    """The data is that of ``httpx2.EventSource``, for every line end and every cut."""
    # A last "\r" could be half of a line end; servers end their streams with more than that.
    stream = b"".join(line + end for line, end in lines) + b": end\n"
    headers = {"content-type": "text/event-stream"}
    request = httpx2.Request("POST", "http://127.0.0.1/v1/messages")
    response = httpx2.Response(200, headers=headers, content=stream, request=request)
    theirs = list(httpx2.EventSource(response))
    assert [e for e in read(stream, cuts) if e] == [e.data for e in theirs if e.data]


def test_an_event_is_there_with_its_empty_line() -> None:
    """An event is given as soon as it is complete, not with the next one."""
    events = EventStream()
    assert events.feed(b"data: a\n") == []
    assert events.feed(b"\ndata: b\n\nda") == ["a", "b"]
    assert events.feed(b"ta: c\n\n") == ["c"]


def test_bytes_that_are_no_text() -> None:
    """What is not UTF-8 is replaced, as a browser does it."""
    assert EventStream().feed(b"data: a\xffb\n\n") == ["a\ufffdb"]


@pytest.mark.parametrize("piece", [b"data: " + b"x" * 1000, b"data: " + b"x" * 1000 + b"\n"])
def test_no_end(piece: bytes) -> None:
    """A stream that never ends an event is refused before it fills the memory."""
    events = EventStream()
    for _ in range(MAX_EVENT_BYTES // len(piece)):
        assert events.feed(piece) == []
    with pytest.raises(EventTooLongError, match="an event of more than"):
        events.feed(piece * 10)
