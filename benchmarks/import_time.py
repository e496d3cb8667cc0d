"""Wall-clock time of ``import X`` in a fresh interpreter, less that of a bare one."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

REPEATS = 15
STATEMENTS = {
    "nothing": "pass",
    "claude_pm": "import claude_pm",
    "claude_pm.orchestration": "import claude_pm.orchestration",
    "asyncio": "import asyncio",
    "pandas": "import pandas",
}


def run() -> Iterator[dict[str, Any]]:
    """Yield one figure a module: median seconds above a bare interpreter, cases taking turns."""
    times_s: dict[str, list[float]] = {name: [] for name in STATEMENTS}
    for turn in range(REPEATS + 1):
        for name, statement in STATEMENTS.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", statement], check=True)
            if turn > 0:  # the first one reads the files from disk
                times_s[name].append(time.perf_counter() - start)
    bare_s = statistics.median(times_s["nothing"])
    for name, times in times_s.items():
        above_s = statistics.median(times) - bare_s
        yield {"what": f"import {name}", "n": REPEATS, "median_above_bare_s": round(above_s, 4)}
