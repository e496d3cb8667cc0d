"""What recording costs: ``python -m benchmarks profilers [--rounds N] [name ...]``.

A ratio is the wall time of the workload (``profiled_workload.py``) under a profiler, to that of the
bare workload. The time is taken inside the workload, so no profiler's start nor report is in it.
Every run is a fresh process; the cases take turns, and each round begins with another one. A name
chooses the cases that have it in their own name; the bare workload always runs.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.peers.started import CASES
from benchmarks.peers.turns import Result, figures_of, in_turns, not_installed, versions
from benchmarks.profiled_workload import BARE

ROUNDS = 10
WORKLOAD = Path(__file__).with_name("profiled_workload.py")
SCALENE = {"scalene CPU": ["--cpu-only"], "scalene with memory": ["--memory"]}
NAMES = (BARE, *CASES, *SCALENE)
PACKAGES = ("pyinstrument", "viztracer", "yappi", "scalene", "memray")
SAMPLER = ("ticks", "interval_s", "missed_ticks", "own_s")


def run(names: Sequence[str] = (), rounds: int = ROUNDS) -> Iterator[dict[str, Any]]:
    """Yield the figures, one a case."""
    chosen = [name for name in NAMES if not names or any(part in name for part in names)]
    cases = [BARE, *(name for name in chosen if name != BARE)]
    absent = {name: not_installed(_package(name)) for name in cases}
    results: dict[str, list[Result]] = {name: [] for name in cases}
    for name, result in in_turns([case for case in cases if not absent[case]], rounds, _once):
        results[name].append(result)
    bare_s = statistics.median(_figures(results[BARE], "wall_s") or [float("nan")])
    for name in cases:
        yield {"what": name, **_summary(results[name], bare_s, absent[name])}


def main(arguments: Sequence[str]) -> int:
    """Print the figures as a table."""
    parser = argparse.ArgumentParser("python -m benchmarks profilers", description=__doc__)
    parser.add_argument("names", nargs="*", help=f"parts of: {', '.join(NAMES)}")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args(arguments)
    for name in options.names:
        if not any(name in known for known in NAMES):
            parser.error(f"There is no case {name!r}; there are: {', '.join(NAMES)}.")
    print(
        f"Wall time of the workload as a ratio to the median of the bare one; median, min and max "
        f"of {options.rounds} rounds (one process a round and case, in turns)."
    )
    print("Peers: " + ", ".join(f"{name} {it}" for name, it in versions(set(PACKAGES)).items()))
    print(f"{'':22}{'median':>8}{'min':>8}{'max':>8}{'seconds':>10}{'runs':>6}")
    notes = []
    for figure in run(options.names, options.rounds):
        name = figure["what"]
        if "ratio" in figure:
            ratios = "".join(f"{figure[key]:8.3f}" for key in ("ratio", "ratio_min", "ratio_max"))
            print(f"{name:22}{ratios}{figure['wall_s']:10.3f}{figure['n']:6}")
        if "why" in figure:
            count = f"{figure['failed']} runs failed: " if "failed" in figure else ""
            print(f"{name:22}  {count}{figure['why']}")
        if "interval_s" in figure:
            notes.append(
                f"{name}: medians of {figure['ticks']:.0f} ticks, {figure['missed_ticks']:.0f} "
                f"missed; a tick every {figure['interval_s'] * 1e3:.2f} ms (asked for: "
                f"{figure['requested_interval_s'] * 1e3:.2f} ms); {figure['own_s'] * 1e3:.1f} ms "
                "spent in looking."
            )
        elif "ticks" in figure:
            notes.append(f"{name}: a median of {figure['ticks']:.0f} looks.")
    print("\n".join(notes))
    return 0


def _once(name: str) -> Result:
    with tempfile.TemporaryDirectory() as folder:
        # A copy: beside the original there are modules with the names of standard ones.
        script = shutil.copy(WORKLOAD, folder)
        if name in SCALENE:
            out = ["-o", str(Path(folder) / "scalene.json")]
            return figures_of(["-m", "scalene", "run", *SCALENE[name], *out, script], folder)
        return figures_of([script, name], folder)


def _package(name: str) -> str | None:
    first = name.partition(" ")[0]
    return first if first in PACKAGES else None


def _figures(results: list[Result], key: str) -> list[float]:
    return [result[key] for result in results if isinstance(result, dict) and key in result]


def _summary(results: list[Result], bare_s: float, absent: str | None) -> dict[str, Any]:
    if absent:
        return {"why": absent}
    summary: dict[str, Any] = {}
    walls_s = _figures(results, "wall_s")
    if walls_s:
        summary = {
            "n": len(walls_s),
            "wall_s": round(statistics.median(walls_s), 4),
            "ratio": round(statistics.median(walls_s) / bare_s, 4),
            "ratio_min": round(min(walls_s) / bare_s, 4),
            "ratio_max": round(max(walls_s) / bare_s, 4),
        }
    for key in (*SAMPLER, "requested_interval_s"):
        found = _figures(results, key)
        if found:
            summary[key] = round(statistics.median(found), 6)
    failures = [result for result in results if isinstance(result, str)]
    if failures:
        summary |= {"failed": len(failures), "why": failures[-1]}
    return summary


if __name__ == "__main__":
    import sys

    sys.exit(main(sys.argv[1:]))
