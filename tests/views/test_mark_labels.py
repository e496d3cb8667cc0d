"""Which labels stand beside their marks."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from claude_pm.views.mark_labels import MAX_LABELS, Mark, labels_with_room


def test_behind_or_before() -> None:
    """A label stands behind its mark, before it near the end, nowhere between two close ones."""
    marks = [
        Mark("a", 10, 11, 20),
        Mark("a", 95, 96, 20),
        Mark("b", 50, 51, 20),
        Mark("b", 55, 56, 20),
        Mark("b", 60, 61, 20),
    ]
    found = labels_with_room(marks, 100)
    assert found == [(0, False), (1, True), (2, True), (4, False)]


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 990), st.integers(0, 9), st.integers(5, 60))
    )
)
def test_none_runs_into_another(drawn: list[tuple[int, int, int, int]]) -> None:
    """No label reaches into another, over another mark or beyond the line."""
    marks = [Mark(line, start, start + long, width) for line, start, long, width in drawn]
    found = labels_with_room(marks, 1000)
    assert len(found) <= MAX_LABELS
    boxes = [
        (marks[n].line, marks[n].start - marks[n].label_width, marks[n].start)
        if is_before
        else (marks[n].line, marks[n].end, marks[n].end + marks[n].label_width)
        for n, is_before in found
    ]
    for number, (line, left, right) in enumerate(boxes):
        assert left >= 0
        assert right <= 1000
        for other, (its_line, its_left, its_right) in enumerate(boxes):
            assert number == other or line != its_line or right <= its_left or its_right <= left
        for mark in marks:
            assert (
                mark.line != line
                or mark.end <= left
                or right <= mark.start
                or (mark.start == mark.end and left <= mark.start <= right)
            )
