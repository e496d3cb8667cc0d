"""``claude-pm report NOTEBOOK.ipynb``: a notebook run in a real kernel, and its report."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pandas as pd
import pytest

import claude_pm
from tests.cli.test_cli import COMMAND, run

pytestmark = pytest.mark.slow


def written(folder: Path, *cells: str, **metadata: object) -> Path:
    """Write a notebook of these code cells."""
    path = folder / "nightly.ipynb"
    code = [nbformat.v4.new_code_cell(cell) for cell in cells]
    nbformat.write(nbformat.v4.new_notebook(cells=code, metadata=metadata), path)
    return path


def cells_of(report: Path) -> pd.DataFrame:
    """Return the spans of the cells in a report."""
    spans = claude_pm.load(report).spans
    return spans[spans["name"].str.startswith("In[")]


class TestRecorded:
    def test_each_cell_is_a_span_with_what_it_did(self, tmp_path: Path) -> None:
        """Awaiting cells, blank ones, and cells with a profile of their own; nothing is counted."""
        notebook = written(
            tmp_path,
            "%load_ext claude_pm",
            "",
            "import asyncio\nimport claude_pm\nwith claude_pm.span('wait', agent='a'):\n"
            "    await asyncio.sleep(0.1)",
            "%%claude_pm_profile --cpu cprofile\n"
            "with claude_pm.span('inner'):\n    sum(range(10_000))",
            "open('here.txt', 'w').close()",
        )
        done = run("report", str(notebook), "-o", str(tmp_path / "out.html"), cwd=tmp_path)
        assert (done.returncode, done.stdout.strip()) == (0, str(tmp_path / "out.html"))
        assert "cell 4 of 4: open(" in done.stderr
        assert (tmp_path / "here.txt").exists()

        profile = claude_pm.load(tmp_path / "out.html")
        spans = profile.spans.set_index("span_id")
        cells = cells_of(tmp_path / "out.html")
        assert cells["name"].tolist() == ["In[1]", "In[2]", "In[3]", "In[4]"]
        assert (cells["status"] == "ok").all()
        assert cells["parent_id"].isna().all()
        by_name = spans.reset_index().set_index("name")
        assert spans.loc[by_name.loc["wait", "parent_id"], "name"] == "In[2]"
        assert spans.loc[by_name.loc["inner", "parent_id"], "name"] == "In[3]"
        assert by_name.loc["In[2]", "duration_s"] >= 0.1
        assert profile.name == "nightly"
        assert profile.meta["source"].startswith("# In[1]\n%load_ext claude_pm\n\n# In[2]\nimport")
        # The third cell counted its own calls; the notebook as a whole counts none.
        assert profile.meta["cpu"] is None
        assert len(profile.functions) > 0
        assert len(profile.memory) > 0
        # It is saved as well, where profiles are.
        assert len(claude_pm.list_profiles(tmp_path / "profiles")) == 1

    def test_in_the_notebooks_folder(self, tmp_path: Path) -> None:
        """Cells run in the notebook's folder; report and profile stand where the command ran."""
        (tmp_path / "books").mkdir()
        notebook = written(tmp_path / "books", "print(open('nightly.ipynb').read()[:1])")
        done = run("report", str(notebook), cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert sorted(path.name for path in tmp_path.iterdir()) == [
            "books", "nightly.html", "profiles",
        ]  # fmt: skip

    def test_sampled(self, tmp_path: Path) -> None:
        """With --cpu sample, cells that record nothing show where they spent their time."""
        notebook = written(
            tmp_path,
            "import time\ndef busy():\n    end = time.thread_time() + 0.3\n"
            "    while time.thread_time() < end: pass\nbusy()",
            "import asyncio\nasync def waits():\n    await asyncio.sleep(0.3)\nawait waits()",
        )
        done = run("report", str(notebook), "--cpu", "sample", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        profile = claude_pm.load(tmp_path / "nightly.html")
        names = dict(zip(profile.spans["span_id"], profile.spans["name"], strict=True))
        samples = profile.samples.assign(cell=profile.samples["span_id"].map(names))
        by_cell = samples.groupby(["cell", "state"])["weight_s"].sum()
        assert by_cell["In[1]", "running"] > 0.25
        assert by_cell["In[2]", "waiting"] > 0.25
        assert samples["stack"].astype(str).str.contains("busy").any()

    def test_without_content(self, tmp_path: Path) -> None:
        notebook = written(tmp_path, "question = 'is the sea blue?'")
        assert run("report", str(notebook), "--without-content", cwd=tmp_path).returncode == 0
        assert "is the sea blue" not in (tmp_path / "nightly.html").read_text(encoding="utf-8")
        assert cells_of(tmp_path / "nightly.html")["name"].tolist() == ["In[1]"]


class TestFailing:
    """What was recorded until then is in the report; the exit code says that it is not all."""

    def test_a_cell_that_fails(self, tmp_path: Path) -> None:
        notebook = written(tmp_path, "x = 1", "x / 0", "x = 2")
        done = run("report", str(notebook), cwd=tmp_path)
        assert done.returncode == 1
        assert "ZeroDivisionError" in done.stderr
        assert "cell 2 of 3 failed with ZeroDivisionError: division by zero" in done.stderr
        cells = cells_of(tmp_path / "nightly.html")
        assert cells["status"].tolist() == ["ok", "error"]
        assert cells["error"].tolist()[1] == "ZeroDivisionError: division by zero"

    @pytest.mark.parametrize(
        "cell", ["import time\ntime.sleep(100)", "import asyncio\nawait asyncio.sleep(100)"]
    )
    def test_a_cell_that_takes_too_long(self, cell: str, tmp_path: Path) -> None:
        done = run("report", str(written(tmp_path, "x = 1", cell)), "--timeout", "1", cwd=tmp_path)
        assert done.returncode == 1
        assert "cell 2 of 2 took longer than 1 s" in done.stderr
        cells = cells_of(tmp_path / "nightly.html")
        assert cells["status"].tolist() == ["ok", "cancelled"]
        assert cells["duration_s"].tolist()[1] >= 1

    def test_interrupted(self, tmp_path: Path) -> None:
        """Ctrl-C ends the cell; the report is written and the exit code is that of an interrupt."""
        notebook = written(tmp_path, "x = 1", "open('begun', 'w').close()\nwhile True: pass")
        command = subprocess.Popen(
            [COMMAND, "report", notebook], cwd=tmp_path, stderr=subprocess.PIPE, text=True
        )
        while not (tmp_path / "begun").exists():
            assert command.poll() is None
            time.sleep(0.05)
        command.send_signal(signal.SIGINT)
        _, said = command.communicate(timeout=60)
        assert command.returncode == 130
        assert "cell 2 of 2 was interrupted" in said
        assert cells_of(tmp_path / "nightly.html")["status"].tolist() == ["ok", "cancelled"]

    def test_a_kernel_that_dies(self, tmp_path: Path) -> None:
        notebook = written(tmp_path, "import os\nos._exit(3)")
        done = run("report", str(notebook), cwd=tmp_path)
        assert done.returncode == 1
        assert "The kernel died in cell 1 of 1" in done.stderr
        assert "Traceback" not in done.stderr


class TestMistakes:
    """One sentence each, and exit code 1."""

    def said(self, *arguments: str, cwd: Path) -> str:
        done = run("report", *arguments, cwd=cwd)
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        return done.stderr.strip().splitlines()[-1]

    def test_no_file(self, tmp_path: Path) -> None:
        assert "missing.ipynb cannot be read" in self.said("missing.ipynb", cwd=tmp_path)

    def test_no_notebook(self, tmp_path: Path) -> None:
        (tmp_path / "no.ipynb").write_text("nothing")
        assert "no.ipynb is not a Jupyter notebook" in self.said("no.ipynb", cwd=tmp_path)

    def test_no_such_kernel(self, tmp_path: Path) -> None:
        notebook = written(tmp_path, "1", kernelspec={"name": "ir", "display_name": "R"})
        assert "asks for the kernel 'ir'" in self.said(str(notebook), cwd=tmp_path)

    def test_a_kernel_without_claude_pm(self, tmp_path: Path) -> None:
        spec = tmp_path / "jupyter" / "kernels" / "bare"
        spec.mkdir(parents=True)
        arguments = [sys.executable, "-c", BARE_KERNEL, "-f", "{connection_file}"]
        (spec / "kernel.json").write_text(
            json.dumps({"argv": arguments, "display_name": "Bare", "language": "python"})
        )
        notebook = written(tmp_path, "1", kernelspec={"name": "bare", "display_name": "Bare"})
        done = run("report", str(notebook), cwd=tmp_path, JUPYTER_PATH=str(tmp_path / "jupyter"))
        assert done.returncode == 1
        assert "The kernel 'bare'" in done.stderr
        assert "cannot import claude_pm" in done.stderr

    @pytest.mark.parametrize(
        ("options", "sentence"),
        [
            (["--timeout", "0"], "--timeout is 0"),
            (["--cpu", "all"], "cpu='all' is not something that can be recorded"),
        ],
    )
    def test_options(self, options: list[str], sentence: str, tmp_path: Path) -> None:
        assert sentence in self.said(str(written(tmp_path, "1")), *options, cwd=tmp_path)

    def test_options_of_a_notebook_for_a_profile(self, tmp_path: Path) -> None:
        assert "are for a notebook" in self.said("some-id", "--timeout", "3", cwd=tmp_path)


BARE_KERNEL = """
import sys
sys.modules["claude_pm"] = None  # what import does where there is none
from ipykernel.kernelapp import launch_new_instance
launch_new_instance()
"""


def test_no_kernel_stays_behind(tmp_path: Path) -> None:
    notebook = written(tmp_path, "import os\nprint(os.getpid(), file=open('pid', 'w'))", "1 / 0")
    run("report", str(notebook), cwd=tmp_path)
    pid = int((tmp_path / "pid").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
