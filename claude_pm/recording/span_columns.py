"""The columns of the ``spans`` table that a span is given, and what each can hold."""

from __future__ import annotations

import operator
from typing import Any

COLUMNS = (
    "agent", "mode", "model", "status", "error", "input_tokens", "cache_read_tokens",
    "cache_write_tokens", "output_tokens", "ttft_s", "cost_usd", "cache",
)  # fmt: skip

KINDS: dict[str, type] = dict.fromkeys(COLUMNS, str)
KINDS |= {"ttft_s": float, "cost_usd": float}
KINDS |= {name: int for name in COLUMNS if name.endswith("_tokens")}

_WHOLE_LIMIT = 2**63


def column_value(column: str, value: Any) -> Any:
    """Return the value as its column holds it; a wrong one would spoil the table in the end.

    Raises:
        TypeError: the column cannot hold it.
    """
    kind = KINDS[column]
    if value is None or type(value) is str is kind:
        return value
    if type(value) is int is kind and -_WHOLE_LIMIT < value < _WHOLE_LIMIT:
        return value
    try:
        if kind is str:
            return _text(value)
        return _whole(value) if kind is int else kind(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise TypeError(f"The span column {column!r} cannot hold {value!r}: {error}.") from None


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("it is text")
    return value


def _whole(value: Any) -> int:
    number = operator.index(value)
    if not -_WHOLE_LIMIT < number < _WHOLE_LIMIT:
        raise ValueError("its numbers have 64 bits")
    return number
