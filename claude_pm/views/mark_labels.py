"""Labels beside marks on a line: only where none runs into another, or over the next mark."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Sequence
from typing import NamedTuple

MAX_LABELS = 25


class Mark(NamedTuple):
    """A mark on a line, from ``start`` to ``end``, and how wide its label is, in the same unit."""

    line: Hashable
    start: float
    end: float
    label_width: float


class Placed(NamedTuple):
    """A label that has room: the number of its mark, and whether it stands before it."""

    mark: int
    is_before: bool


def labels_with_room(marks: Sequence[Mark], width: float) -> list[Placed]:
    """Return the labels that have room on lines from 0 to ``width``; of very many an even choice.

    A label stands behind its mark, or before it where there is room only there.
    """
    by_line: dict[Hashable, list[int]] = defaultdict(list)
    for number, mark in enumerate(marks):
        by_line[mark.line].append(number)
    found: list[Placed] = []
    for numbers in by_line.values():
        numbers.sort(key=lambda number: marks[number].start)
        free_from = 0.0
        for number, following in zip(numbers, [*numbers[1:], None], strict=True):
            mark = marks[number]
            free_to = width if following is None else marks[following].start
            if free_from <= mark.end <= free_to - mark.label_width:
                found.append(Placed(number, is_before=False))
                free_from = mark.end + mark.label_width
                continue
            if mark.start - free_from >= mark.label_width:
                found.append(Placed(number, is_before=True))
            free_from = max(free_from, mark.end)
    return found[:: math.ceil(len(found) / MAX_LABELS)] if found else []
