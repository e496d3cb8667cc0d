"""How much of a workload's time a profile charges to the wrong place."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import pandas as pd

from claude_pm.profiles import Profile
from tests.truth.workloads import Truth

_TOO_MUCH = "too much between the places"


def error(found: Mapping[str, float], true: Mapping[str, float]) -> float:
    """Return the sum of all differences as a share of all true time.

    Time that is charged to a wrong place counts twice: missing here, too much there. Where it is
    charged to none of the places it counts once, and what :func:`sampled` knows to be too much.
    """
    places = found.keys() | true.keys()
    wrong = sum(abs(found.get(place, 0.0) - true.get(place, 0.0)) for place in places)
    return wrong / sum(true.values())


def sampled(profile: Profile, truth: Truth) -> tuple[dict[str, float], dict[str, float]]:
    """Return the wall and CPU seconds that ``samples`` charges to each place of the truth.

    Between the places code runs too, up to 7 % of the CPU time, and threads wait, for work or for
    others: how long is not measured. Certainly too much there, and returned as a place of its own,
    is an event loop's waiting, which is its tasks'; what a thread has beyond the time that the
    profile lasted; and CPU time beyond what the process used.
    """
    wall: dict[str, float] = defaultdict(float)
    cpu: dict[str, float] = defaultdict(float)
    places = truth.wall_s.keys()
    between_cpu_s = 0.0
    of_thread_s: dict[str, float] = defaultdict(float)
    for row in profile.samples.to_dict("records"):
        place = _place(row, places)
        waits = row["state"] == "waiting"
        if place is not None:
            wall[place] += row["weight_s"]
            cpu[place] += row["cpu_s"]
        else:
            between_cpu_s += row["cpu_s"]
            if waits and "._run_once" in row["stack"]:
                wall[_TOO_MUCH] += row["weight_s"]
        # Many tasks await at once.
        if not waits or pd.isna(row["task"]):
            of_thread_s[row["thread"]] += row["weight_s"]
    lasted_s = profile.meta["duration_s"]
    wall[_TOO_MUCH] += sum(max(seconds - lasted_s, 0.0) for seconds in of_thread_s.values())
    used_s = profile.meta["overhead"]["sampler"]["process_cpu_s"]
    cpu[_TOO_MUCH] = max(between_cpu_s + sum(truth.cpu_s.values()) - used_s, 0.0)
    return wall, cpu


def _place(row: dict[str, object], places: object) -> str | None:
    if not pd.isna(row["agent"]):
        # Concurrent agents run the same functions: they are told apart by their spans.
        waits = row["state"] == "waiting" and "_burn" not in str(row["stack"])
        return f"{row['agent']} waits" if waits else str(row["agent"])
    names = {frame.split(" (")[0].rsplit(".", 1)[-1] for frame in str(row["stack"]).split(";")}
    found = names & set(places)  # type: ignore[call-overload]
    return found.pop() if found else None


def counted(profile: Profile, truth: Truth) -> tuple[dict[str, float], dict[str, float]]:
    """Return the seconds that cProfile counts for each place that awaits nothing, and the true.

    Its clock is the wall's: who sleeps, or is kept from the processor, is counted too. Agents that
    run one function are one place.
    """
    true = {place: seconds for place, seconds in truth.wall_s.items() if not _awaits(place)}
    functions = profile.functions
    found = functions.groupby(functions["function"].str.split(".").str[-1])["cumulative_s"].sum()
    if not true.keys() & set(found.index):
        return {"all": float(found["_burn"])}, {"all": sum(true.values())}
    return {place: float(found.get(place, 0.0)) for place in true}, true


def _awaits(place: str) -> bool:
    return place in {"wait_a", "wait_b", "never", "child"} or place.endswith(" waits")
