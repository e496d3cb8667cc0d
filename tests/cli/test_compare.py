"""``claude-pm compare``, the gate of CI, as a process of its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.analysis.test_compare import requests, trial
from tests.cli.test_cli import run


@pytest.fixture
def saved(tmp_path: Path) -> dict[str, str]:
    """Profiles as fast, 1.3 and 1.03 times as slow, and with one request, too few to say."""
    sides = {
        "base": requests("base"),
        "slow": requests("slow", 1.3, seed=2),
        "near": requests("near", 1.03, n=40, seed=3),
        "few": requests("few", 1.1, n=1, seed=4),
    }
    paths = {}
    for name, profile in sides.items():
        profile.meta["id"] = f"20260131T090000123-{name}-1a2b"
        paths[name] = str(profile.save(tmp_path))
    return paths


class TestGate:
    def test_slower(self, saved: dict[str, str]) -> None:
        """What is slower beyond the ratio fails, with a verdict a line."""
        ran = run("compare", saved["base"], saved["slow"], "--fail-if-slower", "1.05")
        assert ran.returncode == 1
        assert "slow is slower than base: duration" in ran.stdout
        assert "slower by more than the ratio 1.05" in ran.stderr

    def test_passes(self, saved: dict[str, str]) -> None:
        """What is as fast, faster, slower by less than the ratio, or unclear passes."""
        for base, new in (
            ("base", "base"), ("slow", "base"), ("base", "near"), ("base", "few"),
        ):  # fmt: skip
            ran = run("compare", saved[base], saved[new], "--fail-if-slower", "1.05")
            assert ran.returncode == 0, (base, new, ran.stdout)
        assert "not enough data" in ran.stdout
        assert run("compare", saved["base"], saved["slow"]).returncode == 0
        assert (
            run("compare", saved["base"], saved["slow"], "--fail-if-slower", "1.6").returncode == 0
        )

    def test_json(self, saved: dict[str, str]) -> None:
        """A program reads the same as JSON."""
        ran = run("compare", saved["base"], saved["slow"], "--json", "--fail-if-slower", "1.1")
        told = json.loads(ran.stdout)
        assert ran.returncode == 1
        assert told["slower"] is True
        assert told["margin"] == pytest.approx(0.1)
        duration = next(row for row in told["metrics"] if row["metric"] == "duration_s")
        assert duration["verdict"] == "slower"
        assert duration["ci_low"] > 1.2
        assert duration["more_repeats"] is None

    def test_markdown(self, saved: dict[str, str]) -> None:
        """A pull request gets a table."""
        ran = run("compare", saved["base"], saved["slow"], "--markdown")
        assert ran.stdout.startswith("- slow is slower than base")
        assert "| metric | baseline | compared | ratio |" in ran.stdout

    def test_experiments(self, tmp_path: Path) -> None:
        """Of two experiments each condition is looked at: one that is slower is enough."""
        paths = []
        for name, factor in (("old", 1.0), ("new", 1.5)):
            made = trial(
                {
                    "a": [1.0, 1.01, 0.99, 1.0, 1.0, 1.0],
                    "b": [factor * s for s in (1.0, 1.01, 0.99, 1.0, 1.02, 0.98)],
                },
                name=name,
            )
            made.meta["id"] = f"20260131T090000123-{name}-1a2b"
            paths.append(str(made.save(tmp_path)))
        ran = run("compare", *paths, "--fail-if-slower", "1.05")
        assert ran.returncode == 1
        assert "b (new) is slower than b (base)" in ran.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere", "nowhere"], "no profile"),
        (["{base}", "{base}", "--fail-if-slower", "0.9"], "above 1 and below 2"),
        (["{base}", "{base}", "--json", "--markdown"], "exclude each other"),
    ],
)
def test_refused(saved: dict[str, str], arguments: list[str], said: str) -> None:
    """What is wrong is said in a sentence, and the exit code is not zero."""
    ran = run("compare", *(argument.format(**saved) for argument in arguments))
    assert ran.returncode > 0
    assert said in ran.stderr.lower().replace("\n", " ")
    assert "Traceback" not in ran.stderr
