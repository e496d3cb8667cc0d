"""Self time: a span's duration less the union of its children's intervals, cut to its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Whole = NDArray[np.int64]
    Rows = NDArray[np.int32]
    Numbers = NDArray[np.uint32]

_PIECE_ROWS = 32_768


def self_times_ns(spans: Numbers, parents: Numbers, starts: Whole, ends: Whole) -> Whole:
    """Return the self time of each span, in nanoseconds.

    ``spans`` and ``parents`` are small whole numbers in place of ids, 0 for none. The spans have to
    be ordered by start.
    """
    import numpy as np

    own: Whole = ends - starts
    above, below = _pairs(spans, parents)
    end = 0
    while end < len(above):
        # Some parents at a time, with all of their children: so what is computed between stays in
        # the processor's cache.
        begin, last = end, above[min(end + _PIECE_ROWS, len(above)) - 1]
        end = int(np.searchsorted(above, last, "right"))
        _take_off_children(own, above[begin:end], below[begin:end], starts, ends)
    return own


def _take_off_children(own: Whole, above: Rows, below: Rows, starts: Whole, ends: Whole) -> None:
    """Subtract from parents' ``own`` time what their children cover of it."""
    import numpy as np

    begins = np.maximum(starts[below], starts[above])
    finishes = np.minimum(ends[below], ends[above])
    seen = finishes > begins
    if not seen.all():
        above, begins, finishes = above[seen], begins[seen], finishes[seen]
    if len(above) == 0:
        return
    # Children come by start, so within a parent they still do, cut or not.
    first = np.flatnonzero(np.r_[True, above[1:] != above[:-1]])
    reached = _reached_before(first, begins, finishes)
    np.maximum(reached, begins, out=reached)
    covered = np.maximum(finishes - reached, 0)
    own[above[first]] -= np.add.reduceat(covered, first)


def _pairs(spans: Numbers, parents: Numbers) -> tuple[Rows, Rows]:
    """Return the rows of parents, ascending, and of their children, ascending in each parent."""
    import numpy as np

    rows = np.arange(len(spans), dtype=np.int32)
    row_of = np.full(max(spans.max(initial=0), parents.max(initial=0)) + 1, -1, dtype=np.int32)
    row_of[spans] = rows
    once = bool((row_of[spans] == rows).all())
    row_of[0] = -1
    above = row_of[parents]
    below = np.flatnonzero(above >= 0).astype(np.int32)
    above = above[below]
    if not once:  # rows merged twice: each of them is a parent
        above, below = _with_twins(spans, parents[below], below)
    if (above[1:] < above[:-1]).any():
        order = np.argsort(above, kind="stable")
        above, below = above[order], below[order]
    return above, below


def _with_twins(spans: Numbers, wanted: Numbers, below: Rows) -> tuple[Rows, Rows]:
    """Return rows of parents and children, a pair for each row that is the wanted parent's."""
    import numpy as np

    by_number = np.argsort(spans, kind="stable").astype(np.int32)
    ordered = spans[by_number]
    left = np.searchsorted(ordered, wanted, "left")
    found = np.searchsorted(ordered, wanted, "right") - left
    nth = np.arange(found.sum()) - np.repeat(np.cumsum(found) - found, found)
    return by_number[np.repeat(left, found) + nth], np.repeat(below, found)


def _reached_before(first: NDArray[np.int64], begins: Whole, finishes: Whole) -> Whole:
    """Return how far the earlier children of the same parent reach; little for a first one.

    ``first`` are the rows where a new parent begins.
    """
    import numpy as np

    reached = np.empty_like(finishes)
    reached[1:] = finishes[:-1]
    reached[first] = np.iinfo(np.int64).min
    if not (reached > begins).any():
        return reached  # no two children overlap: the one before reaches farthest
    # A running maximum that starts again with each parent: of ranks, with a parent's all above
    # those of the parents before it.
    by_finish = np.argsort(finishes, kind="stable")
    rank = np.empty_like(by_finish)
    rank[by_finish] = np.arange(len(rank))
    group = np.zeros_like(rank)
    group[first[1:]] = len(rank)
    rank += np.cumsum(group)
    np.maximum.accumulate(rank, out=rank)
    rank %= len(rank)
    reached[1:] = finishes[by_finish[rank]][:-1]
    reached[first] = np.iinfo(np.int64).min
    return reached
