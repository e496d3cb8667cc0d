"""The tables of a profile, declared once: column, type, unit, meaning.

What recording writes, what the store checks and what the documentation lists all come from here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from claude_pm.errors import ProfileSchemaError

if TYPE_CHECKING:
    import pandas as pd

SCHEMA_VERSION = 1
"""Rises with every change that an older reader would misread."""

_TEXT = "string"
_WHOLE = "Int64"
_REAL = "Float64"


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its name (the unit stands in it), nullable pandas dtype and meaning."""

    name: str
    dtype: str
    meaning: str


@dataclass(frozen=True, slots=True)
class Table:
    """One table: its name, what a row is, and its columns in order."""

    name: str
    row: str
    columns: tuple[Column, ...]

    @property
    def column_names(self) -> list[str]:
        """The columns' names, in order."""
        return [column.name for column in self.columns]


SPANS = Table(
    "spans",
    "one span: a named interval of work or waiting",
    (
        Column("span_id", _TEXT, "16 hex digits, W3C trace context"),
        Column("parent_id", _TEXT, "span_id of the span it is part of; null for a root"),
        Column("trace_id", _TEXT, "32 hex digits, W3C trace context"),
        Column("name", _TEXT, "what was done; on the road: orchestrate, choose_mode, chat, ..."),
        Column("agent", _TEXT, "the agent at work"),
        Column("mode", _TEXT, "local or subprocess: how the request was served"),
        Column("model", _TEXT, "the model that answered, as the server names it"),
        Column("start_s", _REAL, "seconds since the profile began, monotonic clock"),
        Column("duration_s", _REAL, "seconds from start to end"),
        Column("self_s", _REAL, "duration less the union of its children's intervals"),
        Column("status", _TEXT, "ok, error, timeout or cancelled; null while unfinished"),
        Column("error", _TEXT, "type and message of the error"),
        Column("input_tokens", _WHOLE, "all input: uncached + cache read + cache write"),
        Column("cache_read_tokens", _WHOLE, "part of the input that came from the model's cache"),
        Column("cache_write_tokens", _WHOLE, "part of the input that was written to the cache"),
        Column("output_tokens", _WHOLE, "tokens generated"),
        Column("ttft_s", _REAL, "seconds from request to the first content delta"),
        Column("cost_usd", _REAL, "list price in US dollars; null where no price is known"),
        Column("cache", _TEXT, "hit or miss, of the cache that the span asked"),
        Column("pid", _WHOLE, "process that ran it"),
        Column("thread", _TEXT, "name of the thread that started it"),
        Column("task", _TEXT, "name of the asyncio task that started it"),
        Column("attributes", _TEXT, "everything else, a JSON object"),
    ),
)

_FUNCTION = "qualified name as the profiler gives it"
_FILE = "source file; In[n] for a notebook cell, ~ for built-ins"
_TOTAL = "CPU and blocking seconds in the function itself, callees excluded"
_CUMULATIVE = "seconds in it with its callees; time spent awaiting is not in it"

FUNCTIONS = Table(
    "functions",
    "one function in one process, as cProfile saw it",
    (
        Column("function", _TEXT, _FUNCTION),
        Column("file", _TEXT, _FILE),
        Column("line", _WHOLE, "first line of the function"),
        Column("calls", _WHOLE, "calls, recursive ones and resumed coroutines included"),
        Column("primitive_calls", _WHOLE, "calls that were not recursive"),
        Column("total_s", _REAL, _TOTAL),
        Column("cumulative_s", _REAL, _CUMULATIVE),
        Column("pid", _WHOLE, "process that ran it"),
    ),
)

CALLERS = Table(
    "callers",
    "one caller and one callee in one process, as cProfile saw them",
    (
        Column("caller_function", _TEXT, _FUNCTION),
        Column("caller_file", _TEXT, _FILE),
        Column("caller_line", _WHOLE, "first line of the caller"),
        Column("callee_function", _TEXT, _FUNCTION),
        Column("callee_file", _TEXT, _FILE),
        Column("callee_line", _WHOLE, "first line of the callee"),
        Column("calls", _WHOLE, "calls of the callee by the caller"),
        Column("total_s", _REAL, "the callee's own seconds under this caller"),
        Column("cumulative_s", _REAL, "the callee's seconds with its callees, under this caller"),
        Column("pid", _WHOLE, "process that ran it"),
    ),
)

SAMPLES = Table(
    "samples",
    "one stack seen by the sampler",
    (
        Column("span_id", _TEXT, "span that the stack worked or waited for"),
        Column("agent", _TEXT, "agent of that span"),
        Column("pid", _WHOLE, "process"),
        Column("thread", _TEXT, "thread's name"),
        Column("task", _TEXT, "asyncio task's name"),
        Column("state", _TEXT, "running or waiting"),
        Column(
            "stack", _TEXT, "frames, root first, ';' between; a frame is 'qualname (file:line)'"
        ),
        Column("weight_s", _REAL, "wall seconds that the sample stands for"),
        Column("cpu_s", _REAL, "CPU seconds of that thread in it"),
    ),
)

MEMORY = Table(
    "memory",
    "one reading of a process's memory",
    (
        Column("t_s", _REAL, "seconds since the profile began"),
        Column("pid", _WHOLE, "process"),
        Column("role", _TEXT, "kernel (the process that profiles) or worker"),
        Column("rss_bytes", _WHOLE, "resident set size"),
        Column("traced_bytes", _WHOLE, "bytes that tracemalloc knows of"),
    ),
)

ALLOCATIONS = Table(
    "allocations",
    "one source line that allocated memory still held",
    (
        Column("file", _TEXT, "source file"),
        Column("line", _WHOLE, "line"),
        Column("size_bytes", _WHOLE, "bytes held"),
        Column("count", _WHOLE, "blocks held"),
        Column("pid", _WHOLE, "process"),
    ),
)

LINES = Table(
    "lines",
    "one source line",
    (
        Column("file", _TEXT, "source file"),
        Column("line", _WHOLE, "line"),
        Column("source", _TEXT, "the line's text"),
        Column("cpu_python_percent", _REAL, "share of the run spent in Python code"),
        Column("cpu_native_percent", _REAL, "share of the run spent in native code"),
        Column("system_percent", _REAL, "share of the run spent in the system or waiting"),
        Column("memory_peak_bytes", _WHOLE, "peak memory at the line"),
        Column("memory_growth_bytes", _WHOLE, "memory growth at the line"),
    ),
)

TABLES: Mapping[str, Table] = {
    table.name: table for table in (SPANS, FUNCTIONS, CALLERS, SAMPLES, MEMORY, ALLOCATIONS, LINES)
}


def frame(table: Table, columns: Mapping[str, Sequence[Any]] | None = None) -> pd.DataFrame:
    """Build the table's DataFrame from columns of equal length; None in a column means null.

    Without ``columns`` the DataFrame is empty, with the right columns and dtypes.
    """
    import pandas as pd

    given: Mapping[str, Sequence[Any]] = columns if columns is not None else {}
    data = {
        column.name: pd.array(given.get(column.name, ()), dtype=column.dtype)  # type: ignore[call-overload]
        for column in table.columns
    }
    return pd.DataFrame(data, columns=table.column_names)


def frame_from_rows(table: Table, rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Build the table's DataFrame from one mapping a row; a missing key means null."""
    return frame(table, {name: [row.get(name) for row in rows] for name in table.column_names})


def check(table: Table, data: pd.DataFrame, *, where: str) -> None:
    """Check that a DataFrame has exactly the table's columns and dtypes.

    Raises:
        ProfileSchemaError: it has not; the message names the first difference and ``where``.
    """
    names = [str(name) for name in data.columns]
    missing = [name for name in table.column_names if name not in names]
    extra = [name for name in names if name not in table.column_names]
    if missing or extra:
        wrong = f"lacks {missing[0]!r}" if missing else f"has an unknown column {extra[0]!r}"
        raise ProfileSchemaError(f"The table {table.name!r} of {where} {wrong}.")
    for column in table.columns:
        found = data[column.name].dtype
        if found.name != column.dtype:
            raise ProfileSchemaError(
                f"The column {table.name}.{column.name} of {where} is {found.name}, "
                f"not {column.dtype}."
            )
