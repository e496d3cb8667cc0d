"""The tables' declaration: it is the contract, and DataFrames are held to it."""

from __future__ import annotations

import pandas as pd
import pytest

from claude_pm.errors import ProfileSchemaError
from claude_pm.profiles import schema

# The design's contract, once more and by hand.
CONTRACT = {
    "spans": """
        span_id parent_id trace_id name agent mode model start_s duration_s self_s status error
        input_tokens cache_read_tokens cache_write_tokens output_tokens ttft_s cost_usd cache pid
        thread task attributes
    """,
    "functions": "function file line calls primitive_calls total_s cumulative_s pid",
    "callers": """
        caller_function caller_file caller_line callee_function callee_file callee_line calls
        total_s cumulative_s pid
    """,
    "samples": "span_id agent pid thread task state stack weight_s cpu_s",
    "memory": "t_s pid role rss_bytes traced_bytes",
    "allocations": "file line size_bytes count pid",
    "lines": """
        file line source cpu_python_percent cpu_native_percent system_percent memory_peak_bytes
        memory_growth_bytes
    """,
}
each_table = pytest.mark.parametrize("table", schema.TABLES.values(), ids=schema.TABLES.keys())


class TestDeclaration:
    """What the tables are."""

    def test_tables(self) -> None:
        """The tables are those of the contract, in its order."""
        assert list(schema.TABLES) == list(CONTRACT)

    @each_table
    def test_columns(self, table: schema.Table) -> None:
        """So are the columns of each."""
        assert table.column_names == CONTRACT[table.name].split()

    @each_table
    def test_types(self, table: schema.Table) -> None:
        """Seconds, percents and dollars are reals, bytes and tokens whole; all can be null."""
        for column in table.columns:
            ending = column.name.rpartition("_")[2]
            if ending in {"s", "percent", "usd"}:
                assert column.dtype == "Float64", column.name
            if ending in {"bytes", "tokens"} or column.name in {"pid", "line", "calls", "count"}:
                assert column.dtype == "Int64", column.name
            assert column.dtype in {"string", "Int64", "Float64"}
            assert column.meaning


class TestFrame:
    """Building DataFrames."""

    @each_table
    def test_empty(self, table: schema.Table) -> None:
        """Without data a table is empty, with its columns and types."""
        data = schema.frame(table)
        assert len(data) == 0
        schema.check(table, data, where="the test")

    def test_columns(self) -> None:
        """Columns given in any order come in the table's; None is null."""
        data = schema.frame(
            schema.ALLOCATIONS,
            {"pid": [1, 2], "file": ["a.py", None], "count": [1, None], "line": [3, 4],
             "size_bytes": [5, 6]},
        )  # fmt: skip
        schema.check(schema.ALLOCATIONS, data, where="the test")
        assert data.iloc[0].tolist() == ["a.py", 3, 5, 1, 1]
        assert data.iloc[1].isna().tolist() == [True, False, False, True, False]

    def test_rows(self) -> None:
        """A key that a row lacks is null; a key that is no column is left out."""
        data = schema.frame_from_rows(
            schema.MEMORY, [{"t_s": 0.5, "pid": 1, "t_ns": 9}, {"rss_bytes": 2**40}]
        )
        schema.check(schema.MEMORY, data, where="the test")
        assert data["t_s"].tolist() == [0.5, pd.NA]
        assert data["rss_bytes"].tolist() == [pd.NA, 2**40]
        assert data["role"].isna().all()


class TestCheck:
    """Holding a DataFrame to its table."""

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            pytest.param(
                lambda data: data.drop(columns="rss_bytes"),
                "The table 'memory' of here lacks 'rss_bytes'.",
                id="missing column",
            ),
            pytest.param(
                lambda data: data.assign(extra=1),
                "The table 'memory' of here has an unknown column 'extra'.",
                id="unknown column",
            ),
            pytest.param(
                lambda data: data.astype({"rss_bytes": "Float64"}),
                "The column memory.rss_bytes of here is Float64, not Int64.",
                id="wrong type",
            ),
            pytest.param(
                lambda data: data.astype({"pid": "int64"}),
                "The column memory.pid of here is int64, not Int64.",
                id="type that cannot be null",
            ),
        ],
    )
    def test_refused(self, change: object, message: str) -> None:
        """The first difference is named, with where it was found."""
        data = schema.frame_from_rows(
            schema.MEMORY, [{"t_s": 0.5, "pid": 1, "role": "kernel", "rss_bytes": 1}]
        )
        schema.check(schema.MEMORY, data, where="here")
        with pytest.raises(ProfileSchemaError) as caught:
            schema.check(schema.MEMORY, change(data), where="here")  # type: ignore[operator]
        assert str(caught.value) == message
