"""The notebooks run from top to bottom, in a kernel of their own, and are kept without outputs."""

from __future__ import annotations

import shutil
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

import claude_pm

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_kept_without_outputs(path: Path) -> None:
    """A notebook in the repository has no outputs and no execution counts."""
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            assert (cell.outputs, cell.execution_count) == ([], None)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_sentence_before_each_cell(path: Path) -> None:
    """No more than two code cells follow each other without a sentence."""
    kinds = [cell.cell_type for cell in nbformat.read(path, as_version=4).cells]
    assert "code code code" not in " ".join(kinds)


@pytest.mark.slow
def test_compare_modes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """01_compare_modes measures both modes in turns, says what differs, saves and reports."""
    monkeypatch.setenv("CLAUDE_PM_PROFILES_DIR", str(tmp_path / "profiles"))
    shutil.copy(ROOT / "notebooks" / "01_compare_modes.ipynb", tmp_path)
    notebook = nbformat.read(tmp_path / "01_compare_modes.ipynb", as_version=4)
    NotebookClient(
        notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    ).execute()
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    streams = {out.name for cell in code for out in cell.outputs if out.output_type == "stream"}
    assert streams == {"stdout"}
    charts = [out for cell in code for out in cell.outputs if "image/png" in out.get("data", {})]
    assert len(charts) == 1
    assert "orchestrate documentation" in (tmp_path / "report.html").read_text(encoding="utf-8")

    (row,) = claude_pm.list_profiles(tmp_path / "profiles").to_dict("records")
    profile = claude_pm.load(row["path"])
    spans = profile.spans
    requests = spans[spans["name"] == "orchestrate"]
    assert profile.meta["model_use"] == "live"
    # A warm-up and five rounds.
    assert requests["mode"].value_counts().to_dict() == {"local": 6, "subprocess": 6}
    experiment = claude_pm.Experiment(profile)
    assert (~experiment.samples["warmup"]).sum() == 10
    table = experiment.compare().table.set_index("metric")
    assert table.loc["duration_s", "verdict"] == "slower"
    lengths = "".join(str(out.get("data", {})) for cell in code for out in cell.outputs)
    assert "24 tokens is slower than 8 tokens" in lengths
    assert (requests["status"] == "ok").all()
    chats = spans[spans["name"] == "chat"].groupby("mode")["cache_read_tokens"]
    # The notebook's first answer left the agent's prompt in this process, and saved for others.
    assert chats.min()["local"] > 100
    assert chats.min()["subprocess"] > 100
