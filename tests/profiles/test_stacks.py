"""Samples for other tools."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from claude_pm.errors import ProfileError, ProfileStorageError
from claude_pm.profiles import Profile, schema


def profile_of(*rows: dict[str, Any]) -> Profile:
    """A profile with these samples."""
    defaults = {"thread": "MainThread", "state": "running", "weight_s": 1.0, "cpu_s": 1.0}
    samples = schema.frame_from_rows(schema.SAMPLES, [defaults | row for row in rows])
    return Profile({"name": "made up"}, {"samples": samples})


TWO = profile_of(
    {"stack": "main (a.py:1);work (b.py:7)", "weight_s": 0.25},
    {
        "stack": "main (a.py:1);wait (C:\\x.py:9)", "weight_s": 2.0, "state": "waiting",
        "agent": "qa",
    },
    {"stack": "main (a.py:1)", "weight_s": 0.5},
)  # fmt: skip


class TestSpeedscope:
    """The file format of speedscope."""

    def test_document(self, tmp_path: Path) -> None:
        """A profile for each agent and state, its weights in seconds, frames shared."""
        path = TWO.to_speedscope(tmp_path / "x.speedscope.json")
        document = json.loads(path.read_text())
        frames = document["shared"]["frames"]
        assert {"name": "work", "file": "b.py", "line": 7} in frames
        assert {"name": "wait", "file": "C:\\x.py", "line": 9} in frames
        assert [found["name"] for found in document["profiles"]] == [
            "qa, waiting", "MainThread, running",
        ]  # fmt: skip
        waiting, running = document["profiles"]
        assert running["endValue"] == sum(running["weights"]) == 0.75
        names = [[frames[i]["name"] for i in stack] for stack in running["samples"]]
        assert names == [["main", "work"], ["main"]]
        assert (waiting["type"], waiting["unit"]) == ("sampled", "seconds")


class TestCollapsed:
    """Lines for flame graphs."""

    def test_lines(self, tmp_path: Path) -> None:
        """Agent or thread and state first, then the stack, then microseconds."""
        path = TWO.to_collapsed(tmp_path / "stacks.txt")
        assert path.read_text().splitlines() == [
            "MainThread;running;main (a.py:1);work (b.py:7) 250000",
            "qa;waiting;main (a.py:1);wait (C:\\x.py:9) 2000000",
            "MainThread;running;main (a.py:1) 500000",
        ]

    def test_sums(self, tmp_path: Path) -> None:
        """One stack of several tasks is one line."""
        path = profile_of({"stack": "a (b:1)"}, {"stack": "a (b:1)"}).to_collapsed(tmp_path / "x")
        assert path.read_text() == "MainThread;running;a (b:1) 2000000\n"


@pytest.mark.parametrize("method", ["to_speedscope", "to_collapsed"])
class TestMistakes:
    """What cannot be written is said in a sentence."""

    def test_not_sampled(self, method: str, tmp_path: Path) -> None:
        """Without samples there is nothing to write."""
        with pytest.raises(ProfileError, match="cpu='sample'"):
            getattr(profile_of(), method)(tmp_path / "x")
        assert not list(tmp_path.iterdir())

    def test_folder(self, method: str, tmp_path: Path) -> None:
        """A folder is not a file."""
        with pytest.raises(ProfileStorageError, match="is a folder"):
            getattr(TWO, method)(tmp_path)
