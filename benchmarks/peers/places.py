"""What each profiler found, as seconds by place of a workload that knows them itself.

A place that is a function gets the inclusive seconds that the tool shows for the function of that
name. Concurrent agents run the same functions, so each is charged what the tool can tell apart (by
its span, or by the line of its own lambda); their waiting, where no tool but a span's owner knows
whose it is, is charged to nobody and so counts as missing.
"""

from __future__ import annotations

import ast
import inspect
import json
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.peers.turns import ROOT, TIME_LIMIT_S
from tests.truth import workloads
from tests.truth.scoring import error, sampled
from tests.truth.workloads import WORKLOADS, Truth

Row = tuple[str, str, int, float, float]
"""A function, its file and its first line; its inclusive wall and CPU seconds."""

Errors = dict[str, float]
"""``wall`` and ``cpu``: the share of the true seconds that are charged to the wrong place."""


def claude_pm_sampler(name: str) -> Errors:
    """Our sampler, as users get it."""
    import claude_pm

    truth = Truth()
    with claude_pm.profile(name, cpu="sample", memory=None) as profile:
        WORKLOADS[name](truth)
    wall, cpu = sampled(profile, truth)
    return {"wall": error(wall, truth.wall_s), "cpu": error(cpu, truth.cpu_s)}


def claude_pm_cprofile(name: str) -> Errors:
    """Our cProfile: CPU time only, as it never claims to see a wait."""
    import claude_pm

    truth = Truth()
    with claude_pm.profile(name, cpu="cprofile", memory=None) as profile:
        WORKLOADS[name](truth)
    columns = ("function", "file", "line", "cumulative_s")
    found = zip(*(profile.functions[column] for column in columns), strict=True)
    rows = [(function, file, line, 0.0, seconds) for function, file, line, seconds in found]
    return {"cpu": _errors(rows, truth)["cpu"]}


def cprofile(name: str) -> Errors:
    """The cumulative time, its only clock, against both truths.

    Straight from the profiler: ``pstats`` keeps but one of two lambdas that share a line.
    """
    import cProfile

    truth, profiler = Truth(), cProfile.Profile()
    with profiler:
        WORKLOADS[name](truth)
    rows = [
        (entry.code.co_name, entry.code.co_filename, entry.code.co_firstlineno, *2 * (seconds,))
        for entry in profiler.getstats()
        if not isinstance(entry.code, str)  # built-in functions
        for seconds in [entry.totaltime]
    ]
    return _errors(rows, truth)


def pyinstrument(name: str) -> Errors:
    """A frame's time every ms; what it marks as ``[await]`` below it is no CPU time."""
    import pyinstrument
    from pyinstrument.frame import AWAIT_FRAME_IDENTIFIER

    truth, profiler = Truth(), pyinstrument.Profiler(async_mode="enabled")
    with profiler:
        WORKLOADS[name](truth)

    def awaited(frame: Any) -> float:
        if frame.identifier == AWAIT_FRAME_IDENTIFIER:
            return float(frame.time)
        return sum(awaited(child) for child in frame.children)

    def rows(frame: Any) -> Iterator[Row]:
        yield (
            frame.function,
            frame.file_path or "",
            frame.line_no or 0,
            frame.time,
            frame.time - awaited(frame),
        )
        for child in frame.children:
            yield from rows(child)

    root = profiler.last_session.root_frame() if profiler.last_session else None
    return _errors([] if root is None else rows(root), truth)


def yappi(name: str) -> Errors:
    """``ttot``, of a run with the wall clock and of another with the CPU clock."""
    import yappi

    found = {}
    for clock in ("wall", "cpu"):
        truth = Truth()
        yappi.set_clock_type(clock)
        yappi.start()
        try:
            WORKLOADS[name](truth)
        finally:
            yappi.stop()
        stats = yappi.get_func_stats()
        rows = [(each.name, each.module, each.lineno, each.ttot, each.ttot) for each in stats]
        found[clock] = _errors(rows, truth)[clock]
        yappi.clear_stats()
    return found


def viztracer(name: str) -> Errors:
    """The durations of a function's events, of the last million that it keeps by default."""
    import viztracer

    truth, tracer = Truth(), viztracer.VizTracer(verbose=0)
    tracer.start()
    try:
        WORKLOADS[name](truth)
    finally:
        tracer.stop()
    tracer.parse()

    def rows() -> Iterator[Row]:
        for event in tracer.data["traceEvents"]:
            function, _, where = event["name"].partition(" (")
            if event["ph"] == "X" and where:
                file, _, line = where.rstrip(")").rpartition(":")
                yield (function, file, int(line), *2 * (event["dur"] / 1e6,))

    return _errors(rows(), truth)


def scalene(name: str) -> Errors:
    """Its seconds of a line, shared out by the stacks that it saw end in that line.

    Wall is Python, native and system time together; CPU is the first two. The line alone would
    charge a helper's time to nobody, as the helper's caller is the place.
    """
    with tempfile.TemporaryDirectory() as folder:
        script, out = Path(folder) / "script.py", Path(folder) / "scalene.json"
        script.write_text(_SCALENE_SCRIPT)
        done = subprocess.run(
            [sys.executable, "-m", "scalene", "run", "--cpu-only", "--program-path",
             str(ROOT / "tests"), "-o", str(out), str(script), "---", name],
            check=False, capture_output=True, text=True, cwd=folder, timeout=TIME_LIMIT_S,
        )  # fmt: skip
        said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        found = [line for line in said if line.startswith("TRUTH ")]
        if not found:
            raise SystemExit(said[-1] if said else f"scalene ended with {done.returncode}")
        profile = json.loads(out.read_text()) if out.exists() else {}
    if "files" not in profile:
        why = [line for line in said if line.startswith("Scalene:")]
        raise SystemExit(why[0] if why else "scalene wrote no profile")
    truth = Truth()
    truth.wall_s, truth.cpu_s = json.loads(found[0].removeprefix("TRUTH "))
    return _errors(_scalene_rows(profile), truth)


_SCALENE_SCRIPT = """\
import json, sys
from tests.truth.workloads import WORKLOADS, Truth

truth = Truth()
WORKLOADS[sys.argv[1]](truth)
print("TRUTH", json.dumps([truth.wall_s, truth.cpu_s]), flush=True)
"""


def _scalene_rows(profile: dict[str, Any]) -> Iterator[Row]:
    stacks: dict[int, list[tuple[list[str], float]]] = defaultdict(list)
    for frames, counts in profile["stacks"]:
        if "workloads.py" in frames[-1]:
            stacks[_scalene_line(frames[-1])].append((frames, counts["count"]))
    for file, details in profile["files"].items():
        if not file.endswith("workloads.py"):
            continue
        for line in details["lines"]:
            seconds_a_percent = profile["elapsed_time_sec"] / 100
            cpu_s = (line["n_cpu_percent_python"] + line["n_cpu_percent_c"]) * seconds_a_percent
            wall_s = cpu_s + line["n_sys_percent"] * seconds_a_percent
            seen = stacks.get(line["lineno"], [])
            total = sum(count for _, count in seen)
            for frames, count in seen:
                share = count / total
                for frame in frames:
                    function = frame.rpartition(":")[0].rpartition(" ")[2]
                    # A lambda of one line: the line of the frame is its first, too.
                    at = _scalene_line(frame)
                    yield (function, file, at, wall_s * share, cpu_s * share)


def _scalene_line(frame: str) -> int:
    return int(frame.rstrip(";").rpartition(":")[2])


def _errors(rows: Iterable[Row], truth: Truth) -> Errors:
    """Charge the rows to places, and compare with the truth."""
    agents = _agents_by_line()
    file_name = Path(workloads.__file__).name
    wall: dict[str, float] = defaultdict(float)
    cpu: dict[str, float] = defaultdict(float)
    for function, file, line, wall_s, cpu_s in rows:
        if not str(file).endswith(file_name):
            continue
        own_name = function.rpartition(".")[2]
        place = agents.get(line, "") if own_name == "<lambda>" else own_name
        if place in truth.wall_s:
            wall[place] += wall_s
            cpu[place] += cpu_s
    return {"wall": error(wall, truth.wall_s), "cpu": error(cpu, truth.cpu_s)}


def _agents_by_line() -> dict[int, str]:
    """Return the line of each agent's own lambdas."""
    found = {}
    for node in ast.walk(ast.parse(inspect.getsource(workloads))):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "agent":
            name, work = node.args[:2]
            if isinstance(name, ast.Constant):
                found[work.lineno] = str(name.value)
    return found


ADAPTERS: dict[str, Callable[[str], Errors]] = {
    "claude_pm sampler": claude_pm_sampler,
    "claude_pm cProfile": claude_pm_cprofile,
    "cProfile": cprofile,
    "pyinstrument": pyinstrument,
    "yappi": yappi,
    "viztracer": viztracer,
    "scalene": scalene,
}


def main() -> None:
    """Score one profiler on one workload, in this process, and print its errors."""
    adapter, workload = sys.argv[1:]
    print(json.dumps(ADAPTERS[adapter](workload)), flush=True)


if __name__ == "__main__":
    main()
