"""DataFrames as plain rows, for work that follows parents and intervals rather than columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

Row = dict[str, Any]
"""One row of a table; None is 'not known'."""


def rows(frame: pd.DataFrame, columns: Sequence[str] | None = None) -> list[Row]:
    """Return the frame's rows as dicts of Python values, None for null; all columns by default."""
    names = list(frame.columns) if columns is None else list(columns)
    values = [frame[name].array.to_numpy(dtype=object, na_value=None).tolist() for name in names]
    return [dict(zip(names, row, strict=True)) for row in zip(*values, strict=True)]
