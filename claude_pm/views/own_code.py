"""Telling the user's own Python from libraries, and how long it ran."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from claude_pm.analysis.rows import rows
from claude_pm.analysis.sampled_places import is_library

if TYPE_CHECKING:
    from claude_pm.profiles import Profile

# Where it is no installed package, but a checkout.
_OURS = re.compile(
    r"[/\\]claude_pm[/\\](?:agents|cli|models|notebook|orchestration|recording|services)[/\\]"
)


def is_own(frame: str) -> bool:
    """Whether a frame, ``qualname (file:line)``, is of the user's own code."""
    return not is_library(frame) and not _OURS.search(frame)


def own_python_s(profile: Profile) -> float | None:
    """Return the seconds that the user's own Python ran in the process that was profiled.

    Sampled, these are the seconds in which a thread ran and a function of the user's was on its
    stack, whatever that had called; counted by cProfile, those of the user's functions themselves.
    None where neither was recorded.
    """
    pid = profile.meta.get("pid")
    if len(profile.samples):
        return _sampled_s(profile, pid)
    if len(profile.functions):
        return sum(
            function["total_s"] or 0.0
            for function in rows(profile.functions, ["file", "total_s", "pid"])
            if (pid is None or function["pid"] == pid)
            and function["file"] not in (None, "~")
            and is_own(f"({function['file']}:")
        )
    return None


def running_s(profile: Profile) -> float | None:
    """Return the seconds that its threads ran any Python; None where nothing was sampled."""
    samples = profile.samples
    if not len(samples):
        return None
    pid = profile.meta.get("pid")
    ran = samples[(samples["state"] == "running") & ((samples["pid"] == pid) | (pid is None))]
    return float(ran["weight_s"].sum())


def _sampled_s(profile: Profile, pid: int | None) -> float:
    known: dict[str, bool] = {}
    seconds = 0.0
    for sample in rows(profile.samples, ["pid", "state", "stack", "weight_s"]):
        if sample["state"] != "running" or (pid is not None and sample["pid"] != pid):
            continue
        stack = sample["stack"] or ""
        if stack not in known:
            known[stack] = any(is_own(frame) for frame in stack.split(";") if frame)
        seconds += (sample["weight_s"] or 0.0) if known[stack] else 0.0
    return seconds
