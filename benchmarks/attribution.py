"""Time charged to the wrong place: ``python -m benchmarks attribution [--rounds N] [name ...]``.

The workloads know themselves where their time goes (``tests/truth/workloads.py``). The error is the
sum of all differences between found and true seconds of a place, as a share of all true seconds:
time charged to a wrong place counts twice, time charged to none once. Wall time is that with awaits
and blocking; CPU time that of the threads. The truth is that of the run under the profiler: what a
profiler slows the workload down by is no error here, but a cost, and ``profilers`` shows it.
Every run is a fresh process; profilers and workloads take turns. A name chooses the profilers or
workloads that have it in their own name. How the output of a profiler becomes seconds of a place
stands in ``benchmarks/peers/places.py``.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.peers.turns import Result, figures_of, in_turns, not_installed, versions

ROUNDS = 5
PROFILERS: dict[str, str | None] = {
    "claude_pm sampler": None,
    "claude_pm cProfile": None,
    "cProfile": None,
    "pyinstrument": "pyinstrument",
    "yappi": "yappi",
    "viztracer": "viztracer",
    "scalene": "scalene",
}
"""Those that are compared, and the package that has to be installed for it."""
CLOCKS = ("wall", "cpu")


def run(names: Sequence[str] = (), rounds: int = ROUNDS) -> Iterator[dict[str, Any]]:
    """Yield the figures, one a profiler and workload."""
    cases = [
        (profiler, workload)
        for workload in _chosen(_workloads(), names)
        for profiler in _chosen(list(PROFILERS), names)
    ]
    absent = {profiler: not_installed(package) for profiler, package in PROFILERS.items()}
    results: dict[tuple[str, str], list[Result]] = {case: [] for case in cases}
    for case, result in in_turns([case for case in cases if not absent[case[0]]], rounds, _once):
        results[case].append(result)
    for profiler, workload in cases:
        figure = {"what": profiler, "workload": workload}
        found = results[profiler, workload]
        yield {**figure, **_summary(found, absent[profiler])}


def main(arguments: Sequence[str]) -> int:
    """Print the figures as one table."""
    parser = argparse.ArgumentParser("python -m benchmarks attribution", description=__doc__)
    parser.add_argument("names", nargs="*", help="parts of names of profilers or workloads")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args(arguments)
    known = [*PROFILERS, *_workloads()]
    for name in options.names:
        if not any(name in each for each in known):
            parser.error(f"There is nothing called {name!r}; there are: {', '.join(known)}.")
    figures = list(run(options.names, options.rounds))
    profilers = list(dict.fromkeys(figure["what"] for figure in figures))
    print(
        "Share of the time that is charged to the wrong place, wall / CPU, in percent: medians of "
        f"{options.rounds} rounds (one process a round, profiler and workload, in turns)."
    )
    installed = versions({package for package in PROFILERS.values() if package})
    print("Peers: " + ", ".join(f"{name} {version}" for name, version in installed.items()))
    print(f"{'':28}" + "".join(f"{name:>20}" for name in profilers))
    cells = {(figure["what"], figure["workload"]): figure for figure in figures}
    notes: list[str] = []
    for workload in dict.fromkeys(figure["workload"] for figure in figures):
        row = "".join(f"{_cell(cells[name, workload], notes):>20}" for name in profilers)
        print(f"{workload:28}{row}")
    print("A dash: what the tool does not claim to know.")
    print("\n".join(notes))
    return 0


def _chosen(all_names: list[str], parts: Sequence[str]) -> list[str]:
    """Return the names that have one of the parts; all of them when none has."""
    found = [name for name in all_names if any(part in name for part in parts)]
    return found or all_names


def _workloads() -> list[str]:
    from tests.truth.workloads import WORKLOADS

    return list(WORKLOADS)


def _once(case: tuple[str, str]) -> Result:
    with tempfile.TemporaryDirectory() as folder:
        return figures_of(["-m", "benchmarks.peers.places", *case], folder)


def _summary(results: list[Result], absent: str | None) -> dict[str, Any]:
    if absent:
        return {"why": absent}
    summary: dict[str, Any] = {}
    for clock in CLOCKS:
        found = [each[clock] for each in results if isinstance(each, dict) and clock in each]
        if found:
            summary |= {
                "n": len(found),
                f"{clock}_error": round(statistics.median(found), 4),
                f"{clock}_error_min": round(min(found), 4),
                f"{clock}_error_max": round(max(found), 4),
            }
    failures = [each for each in results if isinstance(each, str)]
    if failures:
        summary |= {"failed": len(failures), "why": failures[-1]}
    return summary


def _cell(figure: dict[str, Any], notes: list[str]) -> str:
    shares = [figure.get(f"{clock}_error") for clock in CLOCKS]
    shown = " / ".join("-" if share is None else f"{share * 100:.1f}" for share in shares)
    if "why" not in figure:
        return shown
    count = f"{figure['failed']} runs failed: " if "failed" in figure else ""
    note = f"{figure['what']}: {count}{figure['why']}"
    if "failed" in figure:
        note = f"{figure['what']} on {figure['workload']}: {count}{figure['why']}"
    if note not in notes:
        notes.append(f"{note}")
    number = notes.index(note) + 1
    return f"{'none' if 'n' not in figure else shown} [{number}]"


if __name__ == "__main__":
    import sys

    sys.exit(main(sys.argv[1:]))
