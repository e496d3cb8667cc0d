"""Where sampled time went: by agent, and by the innermost function that is not a library's."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from claude_pm.analysis.rows import rows

if TYPE_CHECKING:
    import pandas as pd

    from claude_pm.profiles import Profile

COLUMNS = ("agent", "place", "running_s", "waiting_s", "cpu_s")

# A profile is read on other machines than it was recorded on: a library is known by its path.
_LIBRARY = re.compile(r"\((?:<frozen|.*[/\\](?:lib[/\\]python3|site-packages)\b)", re.IGNORECASE)


def sampled_places(profile: Profile) -> pd.DataFrame:
    """Return wall and CPU seconds by agent and place, the most wall time first.

    Columns: ``agent`` (null where none was at work), ``place`` (a frame as ``samples`` has it: the
    innermost one outside of the standard library and installed packages, or the innermost of all
    where there is none), ``running_s`` and ``waiting_s`` (wall), ``cpu_s``. Tasks and threads at
    the same time each count, so seconds add up to more than the profile's duration.
    """
    import pandas as pd

    sums: dict[tuple[str | None, str], dict[str, Any]] = {}
    for row in rows(profile.samples, ["agent", "state", "stack", "weight_s", "cpu_s"]):
        key = row["agent"], _place(row["stack"] or "")
        total = sums.setdefault(key, dict.fromkeys(COLUMNS[2:], 0.0))
        # A table that others wrote may name a state that is none.
        state = "running_s" if row["state"] == "running" else "waiting_s"
        total[state] += row["weight_s"] or 0.0
        if row["cpu_s"] is None:
            total["cpu_s"] = None
        elif total["cpu_s"] is not None:
            total["cpu_s"] += row["cpu_s"]
    found = [{"agent": agent, "place": place, **total} for (agent, place), total in sums.items()]
    found.sort(key=lambda place: place["running_s"] + place["waiting_s"], reverse=True)
    table = pd.DataFrame(found, columns=list(COLUMNS))
    return table.astype(
        {"agent": "string", "place": "string"} | dict.fromkeys(COLUMNS[2:], "Float64")
    )


def _place(stack: str) -> str:
    frames = stack.split(";")
    return next((frame for frame in reversed(frames) if not is_library(frame)), frames[-1])


def is_library(frame: str) -> bool:
    """Whether a frame, ``qualname (file:line)``, is the standard library's or a package's."""
    return _LIBRARY.search(frame) is not None
