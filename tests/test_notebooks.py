"""The notebooks run from top to bottom, in a kernel of their own, and are kept without outputs."""

from __future__ import annotations

import contextlib
import re
import shutil
from pathlib import Path

import nbformat
import pandas as pd
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


def run(name: str, folder: Path) -> list[nbformat.NotebookNode]:
    """Run a notebook from a folder that has nothing else in it; return its code cells."""
    shutil.copy(ROOT / "notebooks" / name, folder)
    notebook = nbformat.read(folder / name, as_version=4)
    NotebookClient(
        notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": folder}}
    ).execute()
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    streams = {out.name for cell in code for out in cell.outputs if out.output_type == "stream"}
    assert streams <= {"stdout"}
    return code


def shown(code: list[nbformat.NotebookNode]) -> str:
    """Return all that the cells show as text."""
    outputs = [out for cell in code for out in cell.outputs]
    return "\n".join(
        out.get("text") or out.get("data", {}).get("text/plain", "") for out in outputs
    )


def table(code: list[nbformat.NotebookNode], call: str) -> pd.DataFrame:
    """Return the table that the cell whose last line begins with this call shows."""
    (cell,) = [cell for cell in code if cell.source.splitlines()[-1].startswith(f"{call}(")]
    (html,) = [out.data["text/html"] for out in cell.outputs if "text/html" in out.get("data", {})]
    # Before the first row comes none; the first cell of each row is the index.
    names, *rows = [re.findall(r"<t[dh]>(.*?)</t[dh]>", row)[1:] for row in html.split("<tr")[1:]]
    found = pd.DataFrame(rows, columns=names)
    for name in found.columns:
        with contextlib.suppress(ValueError):
            found[name] = pd.to_numeric(found[name])
    return found


def charts(code: list[nbformat.NotebookNode]) -> int:
    """Return how many charts the cells show."""
    return sum("image/png" in out.get("data", {}) for cell in code for out in cell.outputs)


@pytest.mark.slow
def test_compare_modes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """01_compare_modes measures both modes in turns, says what differs, saves and reports."""
    monkeypatch.setenv("CLAUDE_PM_PROFILES_DIR", str(tmp_path / "profiles"))
    code = run("01_compare_modes.ipynb", tmp_path)
    assert charts(code) == 1
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
    # Which one depends on how busy the machine is.
    assert table.loc["duration_s", "verdict"] in {"slower", "unclear"}
    assert re.search("24 tokens (is slower than|and) 8 tokens", shown(code))
    assert (requests["status"] == "ok").all()
    chats = spans[spans["name"] == "chat"].groupby("mode")["cache_read_tokens"]
    # The notebook's first answer left the agent's prompt in this process, and saved for others.
    assert chats.min()["local"] > 100
    assert chats.min()["subprocess"] > 100


@pytest.mark.slow
def test_cache_effects(tmp_path: Path) -> None:
    """02 measures cold, warm and off, says what a warm cache saves, and sees one evict."""
    code = run("02_cache_effects.ipynb", tmp_path)
    assert charts(code) == 2
    effects, savings, turns = (
        table(code, name) for name in ("cache_effects", "cache_savings", "hit_rate")
    )
    assert effects["n"].tolist() == [3] * 6
    assert sorted(effects["cache_state"]) == ["cold"] * 2 + ["off"] * 2 + ["warm"] * 2
    reads = effects.groupby("cache_state")["cache_read_tokens"]
    # Every prompt begins with the same few tokens.
    assert reads.max()["cold"] < 10
    assert reads.max()["off"] == 0
    assert reads.min()["warm"] > 100
    assert savings["compared_with"].tolist() == ["cold", "off"] * 2
    assert savings["saved_ttft_s"].notna().all()
    # Two agents fit; of four that take turns, none finds its prompt again.
    assert "".join("h" if one == "warm" else "." for one in turns["cache_state"]) == (
        "..hhhhhh......"
    )
    text = shown(code)
    assert re.search(r"5 minutes +2\n.*1 hour +3", text)


@pytest.mark.slow
def test_where_did_the_time_go(tmp_path: Path) -> None:
    """03 tells waiting from work by agent, and names what was waited for."""
    code = run("03_where_did_the_time_go.ipynb", tmp_path)
    assert charts(code) == 1
    text = shown(code)
    assert "fetch took" in text
    assert "without fetch it would take" in text
    assert "worker 3" in text
    assert (tmp_path / "where.speedscope.json").stat().st_size > 1000


@pytest.mark.slow
def test_memory(tmp_path: Path) -> None:
    """04 finds the spike's 80 MB, the lines that hold memory, and the one that leaks."""
    code = run("04_memory.ipynb", tmp_path)
    assert charts(code) == 1
    text = shown(code)
    spike = next(line for line in text.splitlines() if re.match(r"\d+ +spike ", line))
    assert 80_000_000 <= int(spike.split()[3]) <= 84_000_000
    leak = shown(code[-1:])
    assert re.search(r"In\[\d+\] +6 +16\d{4}", leak)


@pytest.mark.slow
def test_regressions(tmp_path: Path) -> None:
    """05 finds the slower version side by side, from saved runs, and at the gate."""
    code = run("05_regressions.ipynb", tmp_path)
    assert charts(code) == 1
    text = shown(code)
    assert "after is slower than before" in text
    assert "again is" not in text
    assert "parse (new) is slower than parse (base)" in text
    assert "exit code 1" in text
    assert "| metric | baseline | compared | ratio |" in text


@pytest.mark.slow
def test_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """06 writes a report with and one without content, reads it again, and reports a notebook."""
    monkeypatch.setenv("CLAUDE_PM_PROFILES_DIR", str(tmp_path / "profiles"))
    text = shown(run("06_share.ipynb", tmp_path))
    assert "[secret: password in a URL]" in text
    assert "correct-horse" not in text
    question = "what should a new reader look at first"
    assert question in (tmp_path / "answer.html").read_text(encoding="utf-8")
    assert question not in (tmp_path / "numbers.html").read_text(encoding="utf-8")
    night = claude_pm.load(tmp_path / "nightly.html").spans
    assert night["name"].str.startswith("In[").sum() == 4
    assert night.loc[night["name"] == "orchestrate", "agent"].tolist() == ["qa"]
