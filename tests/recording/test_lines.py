"""Lines by a second run under scalene, and the variables that it is given."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import threading
import time
import types
from pathlib import Path
from typing import Any

import psutil
import pytest

from claude_pm.errors import RecordingError
from claude_pm.profiles import schema
from claude_pm.recording.carried_names import names_needed, write_names
from claude_pm.recording.lines import SecondRun, require_packages
from tests.waiting import wait_until

cloudpickle = pytest.importorskip("cloudpickle")
pytest.importorskip("scalene")

BUSY = "total = 0\nfor i in range(4_000_000):\n    total += i\n"


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The namespace of a ``__main__`` of its own."""
    module = types.ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", module)
    return vars(module)


class TestNamesNeeded:
    @pytest.mark.parametrize(
        ("cell", "needed"),
        [
            ("y = x", ["x"]),
            ("x = 1\ny = x", []),
            ("x += 1", ["x"]),
            ("def f(x): return x + other\nf(1)", ["other"]),
            ("def f(): return f", []),
            ("class A:\n    x = 1\n    def f(self): return helper", ["helper"]),
            ("import os\nos.getcwd()", []),
            ("with open(p) as f:\n    text = f.read()\ntext", ["open", "p"]),
            ("for a, b in pairs:\n    c = a\n    c, b", ["pairs"]),
            ("for a in rows:\n    if a: break\n    else: continue\na", ["rows", "a"]),
            ("if flag: x = 1\nx", ["flag", "x"]),
            ("try:\n    x = 1\nexcept KeyError as e:\n    e, y\nx", ["KeyError", "y", "x"]),
            ("while todo:\n    one = todo.pop()\n    one", ["todo"]),
            ("await go(n)", ["go", "n"]),
            ("async with lock() as held:\n    held\n[held for held in held]", ["lock"]),
            ("del x", ["x"]),
        ],
    )
    def test_used_before_bound(self, cell: str, needed: list[str]) -> None:
        """A name is needed where it is used and the cell has not surely bound it before."""
        assert names_needed(cell) == needed


class TestWriteNames:
    def test_functions_share_the_other_main(
        self, notebook: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A function arrives with what it uses, and sees later changes of the namespace there."""
        exec("count = 1\nunused = 2\ndef f(): return g()\ndef g(): return count", notebook)
        file = tmp_path / "names"
        assert write_names(["f", "print"], notebook, str(file)) == {}
        there = types.ModuleType("__main__")
        monkeypatch.setitem(sys.modules, "__main__", there)
        vars(there).update(cloudpickle.loads(file.read_bytes()))
        assert there.f() == 1
        there.count = 5
        assert there.f() == 5
        assert not hasattr(there, "unused")

    def test_what_cannot_go_is_named(self, notebook: dict[str, Any], tmp_path: Path) -> None:
        """A value that cannot be written is left out with the reason, the others are there."""
        exec("import threading\nlock = threading.Lock()\nx = 1\ndef f(): return lock", notebook)
        left_out = write_names(["x", "lock", "f"], notebook, str(tmp_path / "names"))
        assert left_out == {
            "lock": "cannot pickle '_thread.lock' object",
            "f": "it uses lock: cannot pickle '_thread.lock' object",
        }
        assert cloudpickle.loads((tmp_path / "names").read_bytes()) == {"x": 1}


@pytest.mark.slow
class TestCell:
    def test_lines_of_this_cell_and_of_another(
        self, notebook: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """Each line has its own CPU and memory, functions of earlier cells included."""
        other = tmp_path / "cell-2.py"
        other.write_text(
            "def work(n):\n    total = 0\n    while n:\n        n -= 1\n    return n\n"
        )
        exec(compile(other.read_text(), str(other), "exec"), notebook)
        run = SecondRun.of_cell(
            "# %%claude_pm_profile --lines\n"
            "import asyncio\n"
            "await asyncio.sleep(0)\n"
            "print('once more')\n"
            "held = bytearray(50_000_000)\n"
            "work(8_000_000) < 3  # & more\n",
            "In[3]",
            notebook,
            lambda file: "In[2]" if file == str(other) else file,
        )
        found = run.run()
        assert found.said is None
        table = schema.frame_from_rows(schema.LINES, found.rows).set_index(["file", "line"])
        assert {file for file, _ in table.index} <= {"In[2]", "In[3]"}
        held = table.loc[("In[3]", 5)]
        assert held["source"] == "held = bytearray(50_000_000)"
        assert held["memory_peak_bytes"] == pytest.approx(50_000_000, rel=0.1)
        loop = table.loc["In[2]"]
        assert loop.loc[3:4, ["cpu_python_percent", "cpu_native_percent"]].sum().sum() > 20
        percents = ["cpu_python_percent", "cpu_native_percent", "system_percent"]
        assert 50 < table[percents].sum().sum() < 101
        assert "once more" not in capfd.readouterr().out

    def test_variables_are_those_of_before(
        self, notebook: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What changes after the preparing does not show: variables, folder, environment."""
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("PLACE", "before")
        notebook["values"] = [1]
        run = SecondRun.of_cell(
            "import os, sys\n"
            f"assert values == [1] and os.getcwd() == {str(tmp_path)!r}\n"
            f"assert os.environ['PLACE'] == 'before' and sys.path == {sys.path!r}\n"
            "assert 'PYTHONSAFEPATH' not in os.environ\n" + BUSY,
            "In[1]",
            notebook,
        )
        notebook["values"].append(2)
        monkeypatch.chdir("/")
        monkeypatch.setenv("PLACE", "after")
        found = run.run()
        assert found.said is None
        assert {row["line"] for row in found.rows} <= {5, 6, 7}

    def test_secrets_stay_here(
        self, notebook: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A variable that looks like a secret is handed on only if the code names it."""
        for name in ("ANTHROPIC_API_KEY", "DB_PASSWORD", "HUB_TOKEN", "PLAIN"):
            monkeypatch.setenv(name, "x")
        run = SecondRun.of_cell(
            "import os\nraise KeyError(sorted(n for n in os.environ if os.environ[n] == 'x'), "
            "os.environ['HUB_TOKEN'])",
            "In[1]",
            notebook,
        )
        said = run.run().said
        assert said is not None
        assert "['HUB_TOKEN', 'PLAIN']" in said

    def test_error_is_told(self, notebook: dict[str, Any]) -> None:
        """An error in the second run leaves no rows and one sentence with it."""
        found = SecondRun.of_cell("{}['gone']", "In[4]", notebook).run()
        assert found == (
            [],
            "No lines were recorded: the second run of In[4] ended with KeyError: 'gone'.",
        )

    def test_end_of_the_process_is_told(self, notebook: dict[str, Any]) -> None:
        """Nor does a process that ends by itself leave more than a sentence."""
        cell = "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"
        found = SecondRun.of_cell(cell, "In[4]", notebook).run()
        assert found.rows == []
        assert found.said is not None
        assert "In[4] ended with exit status" in found.said

    def test_short_program(self, notebook: dict[str, Any]) -> None:
        """Where nothing was seen the table is empty, and it is said why."""
        found = SecondRun.of_cell("x = 1", "In[4]", notebook).run()
        assert found.rows == []
        assert found.said is not None
        assert "too short" in found.said

    def test_goes_on_without_a_name(self, notebook: dict[str, Any]) -> None:
        """A name that could not be carried over, and was not needed, is told beside the rows."""
        notebook["lock"] = threading.Lock()
        found = SecondRun.of_cell(BUSY + "if not total: lock", "In[4]", notebook).run()
        assert found.rows
        assert found.said == (
            "The second run of In[4] went without lock (cannot pickle '_thread.lock' object), "
            "which could not be carried over."
        )

    def test_interrupt_ends_the_group(self, notebook: dict[str, Any], tmp_path: Path) -> None:
        """A Ctrl-C ends the second run with all it started, and is over with that."""
        started = tmp_path / "started"
        run = SecondRun.of_cell(
            "import os, pathlib, subprocess, time\n"
            "child = subprocess.Popen(['sleep', '100'])\n"
            f"part, whole = pathlib.Path({str(started) + '.part'!r}), {str(started)!r}\n"
            "part.write_text(f'{os.getpid()} {child.pid}')\n"
            "part.rename(whole)\n"
            "time.sleep(100)",
            "In[4]",
            notebook,
        )

        def interrupt() -> None:
            while not started.exists():
                time.sleep(0.05)
            os.kill(os.getpid(), signal.SIGINT)

        before = signal.signal(signal.SIGINT, lambda *_: None)  # as a kernel's in a coroutine
        waiting = threading.Thread(target=interrupt)
        waiting.start()
        try:
            found = run.run()
        finally:
            assert signal.signal(signal.SIGINT, before) is not signal.default_int_handler
        waiting.join()
        assert found == (
            [],
            "No lines were recorded: the second run of In[4] was interrupted.",
        )
        for pid in map(int, started.read_text().split()):
            assert _is_gone(pid)
            assert not list(Path("/tmp").glob(f"scalene-*[a-z]{pid}"))

    def test_ends_with_the_process_that_started_it(self, tmp_path: Path) -> None:
        """A kernel that is killed leaves no second run behind, nor the variables it was given."""
        started = tmp_path / "started"
        cell = (
            "import os, pathlib, time\n"
            f"part = pathlib.Path({str(started) + '.part'!r})\n"
            "part.write_text(f'{os.getpid()} {os.getppid()}')\n"
            f"part.rename({str(started)!r})\n"
            "time.sleep(100)"
        )
        program = (
            "from claude_pm.recording.lines import SecondRun\n"
            f"SecondRun.of_cell({cell!r}, 'In[1]', globals()).run()"
        )
        environment = {**os.environ, "TMPDIR": str(tmp_path)}
        starter = subprocess.Popen([sys.executable, "-c", program], env=environment)
        while not started.exists():
            assert starter.poll() is None
            time.sleep(0.05)
        starter.kill()
        starter.wait()
        for pid in map(int, started.read_text().split()):
            assert _is_gone(pid)
        wait_until(lambda: not list(tmp_path.glob("claude_pm-lines-*")))


def _is_gone(pid: int) -> bool:
    try:
        process = psutil.Process(pid)
        if process.status() != psutil.STATUS_ZOMBIE:
            process.wait(10)
    except psutil.NoSuchProcess:
        pass
    return True


@pytest.mark.slow
def test_script(tmp_path: Path) -> None:
    """A script runs as by itself, modules of its folder are in the table, ``exit`` is no error."""
    (tmp_path / "helper.py").write_text(f"def go():\n    {BUSY.replace(chr(10), chr(10) + '    ')}")
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, helper\n"
        "assert sys.argv[1:] == ['--lines', 'b.py'] and __name__ == '__main__'\n"
        "helper.go()\n"
        "sys.exit(3)\n"
    )
    found = SecondRun.of_script(script, ["--lines", "b.py"]).run()
    assert found.said is None
    assert {(row["file"], row["source"].strip()) for row in found.rows} >= {
        (str(tmp_path / "helper.py"), "total += i")
    }


def test_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without scalene it is said what to install."""
    there = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "scalene" else there(name)
    )
    with pytest.raises(RecordingError, match=r'needs scalene.*pip install "claude-pm\[lines\]"'):
        require_packages()
