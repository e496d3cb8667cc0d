"""What memory each span took: its peak, and what it left."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from claude_pm.analysis.rows import Row, rows

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from claude_pm.profiles import Profile

_BYTES = (
    "rss_start_bytes", "rss_end_bytes", "rss_peak_bytes", "growth_bytes", "peak_growth_bytes",
    "self_growth_bytes",
)  # fmt: skip
COLUMNS = ("span_id", "name", "agent", "pid", *_BYTES, "shared")

_MIDDLE_S = 1e-6


def memory_by_span(profile: Profile) -> pd.DataFrame:
    """Return one row a span with the resident memory of its process, ordered by start.

    Columns, in bytes: ``rss_start_bytes`` and ``rss_end_bytes`` (the last readings before its
    begin and its end), ``rss_peak_bytes``, ``growth_bytes`` (end less start),
    ``peak_growth_bytes`` (peak less start), ``self_growth_bytes`` (growth less that of its
    children). ``shared`` says that another span of the same process, neither around it nor within
    it, overlaps it: the growth belongs to both, and ``self_growth_bytes`` is null, so that its sum
    counts nothing twice. Memory that is freed stays resident for a while: growth alone is no leak.

    Null where no reading falls into the span: one of less than 5 ms may have none of its own.
    """
    import pandas as pd

    spans = rows(
        profile.spans, ["span_id", "parent_id", "name", "agent", "pid", "start_s", "duration_s"]
    )
    shared = _shared(spans)
    readings = _readings(profile)
    found = [
        {**{name: span[name] for name in COLUMNS[:4]}, "shared": is_shared}
        | _memory(readings.get(span["pid"]), span)
        for span, is_shared in zip(spans, shared, strict=True)
    ]
    _add_own_growth(spans, found)
    table = pd.DataFrame(found, columns=list(COLUMNS))
    return table.astype(
        dict.fromkeys(COLUMNS[:3], "string")
        | dict.fromkeys(("pid", *_BYTES), "Int64")
        | {"shared": "boolean"}
    )


def _readings(profile: Profile) -> dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Return the times and bytes of each process, in order of time, and which are peaks between."""
    memory = profile.memory.dropna(subset=["rss_bytes", "pid"]).sort_values("t_s", kind="stable")
    found = {}
    for pid in memory["pid"].unique().tolist():
        own = memory[memory["pid"] == pid]
        times = own["t_s"].to_numpy(dtype="float64")
        sizes = own["rss_bytes"].to_numpy(dtype="int64")
        found[pid] = times, sizes, _are_peaks(times, sizes)
    return found


def _are_peaks(times: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Say which rows are peaks whose time is not known: in the middle, and above both beside."""
    import numpy as np

    found = np.zeros(len(times), dtype=bool)
    if len(times) > 2:  # noqa: PLR2004 - one between two
        middle = np.abs(times[1:-1] - (times[:-2] + times[2:]) / 2) < _MIDDLE_S
        found[1:-1] = middle & (sizes[1:-1] > np.maximum(sizes[:-2], sizes[2:]))
    return found


def _memory(
    readings: tuple[np.ndarray, np.ndarray, np.ndarray] | None, span: Row
) -> dict[str, int | None]:
    nothing: dict[str, int | None] = dict.fromkeys(_BYTES)
    if readings is None or span["start_s"] is None or span["duration_s"] is None:
        return nothing
    times, sizes, is_peak = readings
    first = int(times.searchsorted(span["start_s"], side="right")) - 1
    last = int(times.searchsorted(span["start_s"] + span["duration_s"], side="right")) - 1
    if first >= 0 and is_peak[first]:
        first -= 1
    if last <= max(first, 0) or times[last] < span["start_s"]:
        return nothing
    first = max(first, 0)
    within = sizes[first : last + 1]
    # What was held before the span began was held at another time.
    peak = int(max(within[0], within[times[first : last + 1] >= span["start_s"]].max()))
    start, end = int(within[0]), int(within[~is_peak[first : last + 1]][-1])
    return nothing | {
        "rss_start_bytes": start,
        "rss_end_bytes": end,
        "rss_peak_bytes": peak,
        "growth_bytes": end - start,
        "peak_growth_bytes": peak - start,
    }


def _shared(spans: list[Row]) -> list[bool]:
    """Say of each span whether one that is no relative overlaps it in the same process."""
    import numpy as np

    index = {span["span_id"]: i for i, span in enumerate(spans)}
    starts = np.array([span["start_s"] or 0.0 for span in spans])
    ends = starts + np.array([span["duration_s"] or 0.0 for span in spans])
    overlapping = np.zeros(len(spans), dtype=int)
    for pid in {span["pid"] for span in spans}:
        own = np.array([i for i, span in enumerate(spans) if span["pid"] == pid])
        begun_before_end = np.sort(starts[own]).searchsorted(ends[own], side="left")
        ended_before_start = np.sort(ends[own]).searchsorted(starts[own], side="right")
        overlapping[own] = np.maximum(begun_before_end - ended_before_start - 1, 0)
    relatives = np.zeros(len(spans), dtype=int)
    for i, span in enumerate(spans):
        around = index.get(span["parent_id"])
        while around is not None:
            is_same = spans[around]["pid"] == span["pid"]
            if is_same and starts[around] < ends[i] and starts[i] < ends[around]:
                relatives[i] += 1
                relatives[around] += 1
            around = index.get(spans[around]["parent_id"])
    return [bool(is_shared) for is_shared in overlapping > relatives]


def _add_own_growth(spans: list[Row], found: list[dict[str, Any]]) -> None:
    within: dict[str, list[dict[str, Any]]] = {}
    for span, row in zip(spans, found, strict=True):
        if span["parent_id"] is not None:
            within.setdefault(span["parent_id"], []).append(row)
    for row in found:
        children = [child for child in within.get(row["span_id"], ()) if child["pid"] == row["pid"]]
        growths = [child["growth_bytes"] for child in children]
        if row["shared"] or row["growth_bytes"] is None or None in growths:
            continue
        if not any(child["shared"] for child in children):
            row["self_growth_bytes"] = row["growth_bytes"] - sum(growths)
