"""The memory of each span."""

from __future__ import annotations

from typing import Any

import pandas as pd

from claude_pm.analysis import memory_by_span
from claude_pm.profiles import Profile, schema


def profile_of(spans: list[dict[str, Any]], readings: dict[float, int], pid: int = 1) -> Profile:
    """A profile with these spans and readings of one process."""
    defaults = {"parent_id": None, "agent": None, "pid": pid}
    memory = [
        {"t_s": t_s, "pid": 1, "role": "kernel", "rss_bytes": size}
        for t_s, size in readings.items()
    ]
    return Profile(
        {"name": "made up"},
        {
            "spans": schema.frame_from_rows(schema.SPANS, [defaults | span for span in spans]),
            "memory": schema.frame_from_rows(schema.MEMORY, memory),
        },
    )


def span(name: str, start_s: float, end_s: float, **more: Any) -> dict[str, Any]:
    """A span from start to end."""
    return {
        "span_id": name, "name": name, "start_s": start_s, "duration_s": end_s - start_s, **more,
    }  # fmt: skip


READINGS = {0.0: 100, 1.0: 100, 1.5: 900, 2.0: 300, 3.0: 200, 4.0: 200}


def test_peak_and_growth() -> None:
    """The readings from just before a span to its end are the span's."""
    table = memory_by_span(profile_of([span("a", 1.0, 2.0), span("b", 2.0, 3.0)], READINGS))
    assert table["rss_start_bytes"].tolist() == [100, 300]
    assert table["rss_peak_bytes"].tolist() == [900, 300]
    assert table["growth_bytes"].tolist() == [200, -100]
    assert table["peak_growth_bytes"].tolist() == [800, 0]
    assert table["shared"].tolist() == [False, False]


def test_children_are_not_doubled() -> None:
    """A span's own growth is less that of its children: own growths add up to the whole."""
    spans = [span("a", 0.0, 4.0), span("b", 1.0, 2.0, parent_id="a")]
    table = memory_by_span(profile_of(spans, READINGS)).set_index("name")
    assert table["growth_bytes"].to_dict() == {"a": 100, "b": 200}
    assert table["self_growth_bytes"].to_dict() == {"a": -100, "b": 200}
    assert not table["shared"].any()


def test_overlapping_spans_share() -> None:
    """Spans at the same time share their growth, which is then nobody's own."""
    spans = [
        span("root", 0.0, 4.0),
        span("a", 1.0, 2.5, parent_id="root"),
        span("b", 2.0, 3.0, parent_id="root"),
        span("later", 3.0, 4.0, parent_id="root"),
    ]
    table = memory_by_span(profile_of(spans, READINGS)).set_index("name")
    assert table["shared"].to_dict() == {"root": False, "a": True, "b": True, "later": False}
    assert table["self_growth_bytes"].isna().to_dict() == {
        "root": True, "a": True, "b": True, "later": False,
    }  # fmt: skip


def test_not_known() -> None:
    """Without a reading of its process a span's memory is null."""
    table = memory_by_span(profile_of([span("a", 1.0, 2.0)], READINGS, pid=2))
    assert table["rss_peak_bytes"].isna().all()
    stale = memory_by_span(profile_of([span("a", 3.5, 3.501)], READINGS))
    assert stale["rss_peak_bytes"].isna().all()
    empty = memory_by_span(profile_of([], {}))
    assert list(empty.columns) == list(table.columns)
    assert isinstance(empty, pd.DataFrame)


def test_peak_before_a_span() -> None:
    """A peak between two readings is no span's that begins after it, and not its start."""
    (row,) = memory_by_span(profile_of([span("a", 1.6, 2.0)], READINGS)).to_dict("records")
    assert (row["rss_start_bytes"], row["rss_peak_bytes"]) == (100, 300)
    (short,) = memory_by_span(profile_of([span("a", 1.6, 1.7)], READINGS)).to_dict("records")
    assert pd.isna(short["rss_peak_bytes"])
