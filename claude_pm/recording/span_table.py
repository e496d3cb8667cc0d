"""The ``spans`` table, made of a recorder's rows a column at a time.

Its text columns are Arrow's: the texts of all rows one after the other, and where each begins. So
a column of texts costs their bytes and 8 a row; one of texts of equal length only their bytes, and
one whose texts are all equal nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from claude_pm.profiles import schema
from claude_pm.recording.self_time import self_times_ns
from claude_pm.recording.span_rows import (
    COUNTS,
    FACT_COLUMNS,
    FOREIGN,
    NULL,
    REALS,
    SPAN_COLUMNS,
    TEXTS,
    SpanRows,
    encoded,
    encoded_texts,
)  # fmt: skip

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from numpy.typing import NDArray

_SPAN = np.dtype([(name, "<u4") for name in SPAN_COLUMNS[:7]] + [("start", "<i8"), ("end", "<i8")])
_FACT = np.dtype(
    [(name, "<u4") for name in FACT_COLUMNS[: len(TEXTS) + 1]]
    + [(name, "<i8") for name in COUNTS]
    + [(name, "<f8") for name in REALS]
)
_HEX_ID = np.dtype("V16")
# The four hex digits of each two bytes.
_HEX = np.frombuffer(np.arange(65_536, dtype=">u2").tobytes().hex().encode(), dtype="<u4")
_PIECE_ROWS = 8_192
"""A column is made in pieces of this many rows, so that what is needed meanwhile stays small; they
share what is equal: the texts, or where they begin."""


def spans_frame(rows: SpanRows, origin_ns: int, *, final: bool) -> pd.DataFrame:
    """Return the ``spans`` table, ordered by start.

    ``final`` says that the recording has ended: then nothing has to be copied.
    """
    import pandas as pd

    with rows.lock:
        # The rows first, for what they name was there before them.
        spans = _written(np.frombuffer(rows.spans if final else bytes(rows.spans), dtype=_SPAN))
        facts = np.frombuffer(rows.facts if final else bytes(rows.facts), dtype=_FACT)
        facts = facts[1 : spans["fact"].max(initial=0) + 1]
        columns = dict(_columns(rows, spans, facts, origin_ns))
        # They keep the arrays from growing.
        del spans, facts
    return pd.DataFrame({name: columns.pop(name) for name in schema.SPANS.column_names}, copy=False)


def _written(spans: NDArray[Any]) -> NDArray[Any]:
    """Return the rows without those of spans that never began, and without room for more."""
    written = spans["fact"] != 0
    room = int(np.argmax(written[::-1]))
    spans, written = spans[1 : len(spans) - room], written[1 : len(spans) - room]
    return spans if written.all() else spans[written]


def _columns(
    rows: SpanRows, spans: NDArray[Any], facts: NDArray[Any], origin_ns: int
) -> Iterator[tuple[str, Any]]:
    order = _order(spans["start"])

    def column(name: str) -> NDArray[Any]:
        values: NDArray[Any] = spans[name]
        return values if order is None else values[order]

    # Copied where they are looked up by row or become a column; the others stay where they lie.
    starts, ends = np.array(column("start")), np.array(column("end"))
    numbers, parents = np.array(column("number")), np.array(column("parent"))
    self_ns = self_times_ns(*_small(numbers, parents), starts, ends)
    yield "self_s", _real(self_ns / 1e9)
    del self_ns
    yield "span_id", _id_texts(numbers, rows)
    del numbers
    yield "parent_id", _id_texts(parents, rows)
    del parents
    ends -= starts
    yield "duration_s", _real(ends / 1e9)
    del ends
    starts -= origin_ns
    yield "start_s", _real(starts / 1e9)
    del starts
    yield "trace_id", _traces(column("trace"), rows)

    places, codes = rows.places.listed(), column("place")
    pids = np.array([NULL if pid is None else pid for pid, _ in places] or [0], dtype=np.int64)
    yield "pid", _whole(_looked_up(pids, codes))
    yield "thread", _texts(codes, [encoded(thread) for _, thread in places])
    yield "task", _texts(column("task"), encoded_texts(rows.tasks))

    fact = column("fact") - np.uint32(1)
    texts = encoded_texts(rows.texts)
    outcome, outcomes = column("outcome"), rows.outcomes.listed()
    for nth, name in enumerate(("status", "error")):
        # What was set by hand stands before what the end said.
        said = [encoded(each[nth]) for each in outcomes]
        by_hand = facts[name]
        if not by_hand.any():
            yield name, _texts(outcome, said)
        else:
            codes = by_hand[fact]
            codes = np.where(codes == 0, outcome + len(texts), codes)
            yield name, _texts(codes, [*texts, *said])
    del outcome
    for name in TEXTS:
        if name not in {"status", "error"}:
            yield name, _texts_of(facts[name], fact, texts)
    yield "attributes", _texts_of(facts["attributes"], fact, rows.attributes.texts())
    for name in COUNTS:
        yield name, _whole_of(facts[name], fact)
    for name in REALS:
        yield name, _real_of(facts[name], fact)


def _order(starts: NDArray[np.int64]) -> NDArray[np.int64] | None:
    """Return the rows by start; None where they lie so."""
    if (starts[1:] >= starts[:-1]).all():
        return None
    return np.argsort(starts, kind="stable")


def _small(
    numbers: NDArray[np.uint32], parents: NDArray[np.uint32]
) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """Return spans' and their parents' numbers without the gap between own and foreign ones."""
    if numbers.max(initial=0) < FOREIGN and parents.max(initial=0) < FOREIGN:
        return numbers, parents
    # Own ones are even, foreign ones odd; the bit that tells them apart is shifted out.
    small, above = (each << np.uint32(1) | (each >= FOREIGN) for each in (numbers, parents))
    return small, above


def _ids(numbers: NDArray[np.uint32], rows: SpanRows) -> NDArray[np.uint64]:
    """Return the ids that spans' numbers stand for; 0 for none."""
    ids = numbers.astype(np.uint64)
    ids += np.uint64(rows.first_id - 1)
    ids[numbers == 0] = 0
    foreign = numbers >= FOREIGN
    if foreign.any():
        listed = np.array(rows.foreign_ids.listed(), dtype=np.uint64)
        ids[foreign] = listed[numbers[foreign] - FOREIGN]
    return ids


def _hex(ids: NDArray[np.uint64]) -> NDArray[np.void]:
    """Return each id's 16 hex digits."""
    pairs = ids.byteswap().view(">u2").astype(np.intp)
    digits: NDArray[np.void] = _HEX.take(pairs, mode="clip").view(_HEX_ID)
    return digits


def _id_texts(numbers: NDArray[np.uint32], rows: SpanRows, start: str = "") -> Any:
    """Return a column of the ids that numbers stand for, each after ``start``; null for 0."""
    import pyarrow as pa

    count = len(numbers)
    before = np.frombuffer(start.encode(), dtype=_HEX_ID)
    parts = len(before) + 1
    digits = np.empty((count, parts), dtype=_HEX_ID)
    digits[:, :-1] = before
    offsets = np.arange(min(count, _PIECE_ROWS) + 1, dtype=np.int64) * (parts * _HEX_ID.itemsize)
    pieces = []
    for piece in _pieces(numbers):
        known, texts = numbers[piece], digits[piece]
        texts[:, -1] = _hex(_ids(known, rows))
        mask = None if known.all() else pa.py_buffer(np.packbits(known != 0, bitorder="little"))
        buffers = [mask, pa.py_buffer(offsets), pa.py_buffer(texts)]
        pieces.append(pa.Array.from_buffers(pa.large_string(), len(known), buffers))
    return _arrow(pa.chunked_array(pieces, type=pa.large_string()))


def _traces(codes: NDArray[np.uint32], rows: SpanRows) -> Any:
    if (codes < FOREIGN).all():
        return _id_texts(codes, rows, rows.trace_start)
    distinct, nth = np.unique(codes, return_inverse=True)
    return _texts(nth, [encoded(rows.trace_of(int(code))) for code in distinct])


def _texts(codes: NDArray[Any], texts: Sequence[str | None]) -> Any:
    """Return a column of texts from each row's number of a text."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if len(codes) > 0 and (codes == codes[0]).all():
        return _one_text(len(codes), texts[codes[0]])
    table = pa.array(texts, type=pa.large_string())
    # Where numpy's arrays were: that memory is at hand, and Arrow's own has still to be got.
    pool = pa.system_memory_pool()
    pieces = [pc.take(table, pa.array(codes[piece]), memory_pool=pool) for piece in _pieces(codes)]
    return _arrow(pa.chunked_array(pieces, type=table.type))


def _one_text(count: int, text: str | None) -> Any:
    """Return a column of the same text, which is held for one piece only."""
    import pyarrow as pa

    piece = pa.repeat(pa.scalar(text, type=pa.large_string()), min(count, _PIECE_ROWS))
    whole, rest = divmod(count, _PIECE_ROWS)
    return _arrow(pa.chunked_array([piece] * whole + [piece.slice(0, rest)] * bool(rest)))


def _texts_of(
    facts: NDArray[np.uint32], fact: NDArray[np.uint32], texts: Sequence[str | None]
) -> Any:
    """Return a column of texts of the facts that each row has."""
    if len(facts) > 0 and (facts == facts[0]).all():
        return _one_text(len(fact), texts[facts[0]])
    return _texts(_looked_up(facts, fact), texts)


def _looked_up(values: NDArray[Any], index: NDArray[np.uint32]) -> NDArray[Any]:
    """Return ``values[index]``, of which numpy would make an index of 8 bytes a row first."""
    found = np.empty(len(index), dtype=values.dtype)
    for piece in _pieces(index):
        found[piece] = values[index[piece]]
    return found


def _pieces(rows: NDArray[Any]) -> Iterator[slice]:
    for begin in range(0, len(rows), _PIECE_ROWS):
        yield slice(begin, begin + _PIECE_ROWS)


def _arrow(texts: pa.ChunkedArray) -> Any:
    import pandas as pd

    dtype = pd.StringDtype()
    if dtype.storage != "pyarrow":
        return pd.array(texts.to_pylist(), dtype=dtype)
    return pd.arrays.ArrowStringArray(texts, dtype=dtype)  # type: ignore[call-arg]


def _real(values: NDArray[np.float64]) -> Any:
    import pandas as pd

    # Zeros that nobody wrote to take no memory.
    return pd.arrays.FloatingArray(values, np.zeros(len(values), dtype=bool))


def _real_of(values: NDArray[np.float64], fact: NDArray[np.uint32]) -> Any:
    import pandas as pd

    null = np.isnan(values)
    if null.all():
        return pd.arrays.FloatingArray(np.zeros(len(fact)), np.ones(len(fact), dtype=bool))
    if not null.any():
        return _real(_looked_up(values, fact))
    return pd.arrays.FloatingArray(_looked_up(np.where(null, 0.0, values), fact), null[fact])


def _whole(values: NDArray[np.int64]) -> Any:
    import pandas as pd

    null = values == NULL
    if not null.any():
        return pd.arrays.IntegerArray(values, np.zeros(len(values), dtype=bool))
    values[null] = 0
    return pd.arrays.IntegerArray(values, null)


def _whole_of(values: NDArray[np.int64], fact: NDArray[np.uint32]) -> Any:
    import pandas as pd

    if (values == NULL).all():
        return pd.arrays.IntegerArray(
            np.zeros(len(fact), dtype=np.int64), np.ones(len(fact), dtype=bool)
        )
    return _whole(_looked_up(values, fact))
