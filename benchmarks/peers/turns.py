"""Cases that take turns, each in a fresh process, and what became of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
TIME_LIMIT_S = 180

Result = dict[str, Any] | str
"""The figures of one process, or one sentence on why there are none."""


def in_turns(cases: list[Any], rounds: int, run: Callable[[Any], Result]) -> Iterator[Any]:
    """Yield ``(case, result)`` of every case once a round; each round begins with another case."""
    for turn in range(rounds):
        first = turn % len(cases)
        for case in cases[first:] + cases[:first]:
            if sys.stderr.isatty():
                print(f"round {turn + 1} of {rounds}: {case}", file=sys.stderr)
            yield case, run(case)


def figures_of(command: list[str], folder: str) -> Result:
    """Run a process in a folder; return the JSON object that it prints last, or its last error."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    try:
        done = subprocess.run(
            [sys.executable, *command],
            check=False,
            capture_output=True,
            text=True,
            cwd=folder,
            env=environment,
            timeout=TIME_LIMIT_S,
        )
    except subprocess.TimeoutExpired:
        return f"not done within {TIME_LIMIT_S} s"
    found = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if found:
        figures: dict[str, Any] = json.loads(found[-1])
        return figures
    said = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
    return f"exit code {done.returncode}: {said[-1].strip() if said else 'no message'}"


def not_installed(package: str | None) -> str | None:
    """Say that a package is not installed; None where it is, or where none is needed."""
    if package is None:
        return None
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return f"{package} is not installed"
    return None


def versions(packages: set[str]) -> dict[str, str]:
    """Return the versions of the packages that are installed."""
    return {name: metadata.version(name) for name in sorted(packages) if not not_installed(name)}
