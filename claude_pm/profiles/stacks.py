"""The ``samples`` of a profile for other tools: speedscope and collapsed stacks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from claude_pm.errors import ProfileError
from claude_pm.profiles.text_file import write_text

if TYPE_CHECKING:
    from claude_pm.profiles.profile import Profile

_SPEEDSCOPE_SCHEMA = "https://www.speedscope.app/file-format-schema.json"


def write_speedscope(profile: Profile, path: str | Path) -> Path:
    """Write a file that speedscope opens, and return its path.

    It holds one speedscope profile, in seconds of wall time, for each agent (or thread, where no
    agent was at work) and state, the largest first.

    Raises:
        ProfileError: nothing was sampled.
        ProfileStorageError: the file could not be written.
    """
    groups: dict[str, list[tuple[list[str], float]]] = {}
    for row in _sampled(profile):
        group = f"{row['agent'] or row['thread'] or 'no thread'}, {row['state']}"
        groups.setdefault(group, []).append((row["stack"].split(";"), row["weight_s"]))
    frames: dict[str, int] = {}
    profiles: list[dict[str, Any]] = []
    for name, stacks in groups.items():
        total_s = sum(weight_s for _, weight_s in stacks)
        profiles.append(
            {
                "type": "sampled",
                "name": name,
                "unit": "seconds",
                "startValue": 0,
                "endValue": total_s,
                "samples": [
                    [frames.setdefault(frame, len(frames)) for frame in stack]
                    for stack, _ in stacks
                ],
                "weights": [weight_s for _, weight_s in stacks],
            }
        )
    profiles.sort(key=lambda found: found["endValue"], reverse=True)
    document = {
        "$schema": _SPEEDSCOPE_SCHEMA,
        "exporter": "claude_pm",
        "name": profile.name,
        "activeProfileIndex": 0,
        "shared": {"frames": [_frame(frame) for frame in frames]},
        "profiles": profiles,
    }
    text = json.dumps(document, ensure_ascii=False)
    return write_text(path, text, what="speedscope file", example="profile.speedscope.json")


def write_collapsed(profile: Profile, path: str | Path) -> Path:
    """Write collapsed stacks, which flame graph tools read, and return the path.

    A line is a stack, root first with ``;`` between, and its wall time in whole microseconds. Its
    first two frames are the agent (or thread) and the state.

    Raises:
        ProfileError: nothing was sampled.
        ProfileStorageError: the file could not be written.
    """
    sums: dict[str, float] = {}
    for row in _sampled(profile):
        who = str(row["agent"] or row["thread"] or "no thread").replace(";", ",")
        stack = f"{who};{row['state']};{row['stack']}"
        sums[stack] = sums.get(stack, 0.0) + row["weight_s"]
    lines = [f"{stack} {round(weight_s * 1e6)}\n" for stack, weight_s in sums.items()]
    return write_text(path, "".join(lines), what="collapsed stacks", example="stacks.txt")


def _sampled(profile: Profile) -> list[dict[str, Any]]:
    samples = profile.samples
    if samples.empty:
        raise ProfileError(
            f"The profile {profile.name!r} has no samples: record it with cpu='sample' "
            "(or --cpu sample)."
        )
    columns = ("agent", "thread", "state", "stack", "weight_s")
    read = [samples[name].astype(object).where(samples[name].notna(), None) for name in columns]
    return [dict(zip(columns, row, strict=True)) for row in zip(*read, strict=True)]


def _frame(text: str) -> dict[str, Any]:
    """Return a frame of a stack, ``qualname (file:line)``, as speedscope names its parts."""
    name, _, place = text.rpartition(" (")
    file, _, line = place.removesuffix(")").rpartition(":")
    return {"name": name, "file": file, "line": int(line)} if line.isdigit() else {"name": text}
