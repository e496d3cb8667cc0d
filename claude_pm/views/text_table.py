"""A table of text for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from claude_pm.views import words

if TYPE_CHECKING:
    from claude_pm.views.fragments import Table

_CELL_LIMIT = 60


def text_table(table: Table) -> str:
    """Return the table with its columns aligned; nothing where it has no rows."""
    if not table.rows:
        return ""
    lines = [[column.heading for column in table.columns]]
    lines += [[words.one_line(cell.text, _CELL_LIMIT) for cell in row] for row in table.rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(table.columns))]
    return "\n".join(
        "  ".join(
            text.rjust(width) if column.is_number else text.ljust(width)
            for text, width, column in zip(line, widths, table.columns, strict=True)
        ).rstrip()
        for line in lines
    )
