"""``make demo``: the main job, with fewer requests than a person gets."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest

import claude_pm
from claude_pm.analysis import compare_modes
from claude_pm.errors import ModelOverloadedError, WeightsError

DEMO = Path(__file__).parent.parent / "scripts" / "demo.py"


@pytest.fixture
def demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script as a module, in an empty folder, asking one agent twice in each mode."""
    monkeypatch.chdir(tmp_path)
    specification = importlib.util.spec_from_file_location("demo", DEMO)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    monkeypatch.setattr(module, "AGENTS", ("qa",))
    monkeypatch.setattr(module, "REPEATS", 2)
    monkeypatch.setattr(module, "MAX_TOKENS", 4)
    return module


@pytest.mark.slow
def test_measures_saves_and_reports(
    demo: Any, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """It prints what it measured, and the table it prints is that of the profile it saved."""
    assert demo.main() == 0
    printed = capsys.readouterr().out
    (row,) = claude_pm.list_profiles().to_dict("records")
    profile = claude_pm.load(row["path"])
    modes = compare_modes(profile).set_index("mode")
    assert modes["n"].to_dict() == {"local": 2, "subprocess": 2}
    assert str(claude_pm.Experiment(profile).compare()) in printed
    for mode in ("local", "subprocess"):
        line = re.search(rf"^ *{mode.upper()} +2 .*", printed, flags=re.MULTILINE)[0]
        assert f"{modes.loc[mode, 'median_s']:.2f} s" in line
    assert profile.meta["model_use"] == "live"
    assert str(tmp_path / "report.html") in printed
    assert "compare modes" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_failure_is_a_sentence(
    demo: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Without weights it says so in a sentence, and its exit code is 1."""

    def refuse(_settings: object) -> None:
        raise WeightsError("The weights could not be downloaded.")

    monkeypatch.setattr(demo, "fetch_weights", refuse)
    assert demo.main() == 1
    assert "demo: The weights could not be downloaded." in capsys.readouterr().err
    assert not (tmp_path / "report.html").exists()


def test_measured_is_kept_after_a_failure(
    demo: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """What was recorded until a failure is saved, and the exit code is 1."""

    async def fail(_settings: object, _session: object) -> None:
        with claude_pm.span("before"):
            pass
        raise ModelOverloadedError("The server is overloaded.")

    monkeypatch.setattr(demo, "fetch_weights", lambda _settings: None)
    monkeypatch.setattr(demo, "compare", fail)
    assert demo.main() == 1
    (row,) = claude_pm.list_profiles().to_dict("records")
    assert claude_pm.load(row["path"]).spans["name"].tolist() == ["before"]
    assert "overloaded" in capsys.readouterr().err
