"""``claude-pm profile``: what else it can record, as a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import claude_pm
from claude_pm.profiles import Profile

COMMAND = Path(sys.executable).with_name("claude-pm")


def start(*arguments: str, cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [COMMAND, "profile", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env={**os.environ, "COLUMNS": "200"},
    )


def run(*arguments: str, cwd: Path) -> tuple[int, str, str]:
    started = start(*arguments, cwd=cwd)
    stdout, stderr = started.communicate(timeout=120)
    return started.returncode, stdout, stderr


def saved(stderr: str, folder: Path) -> Profile:
    return claude_pm.load(folder / stderr.rpartition("Saved as ")[2].strip())


@pytest.mark.slow
class TestLines:
    def test_of_a_script(self, tmp_path: Path) -> None:
        """The script's own output and exit code are those of its first run; lines are saved."""
        (tmp_path / "job.py").write_text(
            "import sys\nprint(sys.argv[1:])\nheld = bytearray(80_000_000)\nsys.exit(3)\n"
        )
        code, stdout, stderr = run("--lines", "job.py", "--lines", "-x", cwd=tmp_path)
        assert (code, stdout) == (3, "['--lines', '-x']\n")
        profile = saved(stderr, tmp_path)
        (row,) = profile.lines.to_dict("records")
        assert (row["file"], row["line"]) == ("job.py", 3)
        assert row["source"] == "held = bytearray(80_000_000)"
        assert row["memory_peak_bytes"] == pytest.approx(80_000_000, rel=0.1)
        assert profile.meta["lines"] is None
        assert len(profile.functions) > 0

    def test_failed_script_is_not_run_again(self, tmp_path: Path) -> None:
        """A script that failed ran once, and it is said that there are no lines."""
        (tmp_path / "job.py").write_text("open('runs', 'a').write('x')\n1 / 0\n")
        code, _, stderr = run("--lines", "job.py", cwd=tmp_path)
        assert code == 1
        assert "No lines were recorded: the script ended with ZeroDivisionError" in stderr
        assert (tmp_path / "runs").read_text() == "x"
        assert len(saved(stderr, tmp_path).lines) == 0

    def test_interrupt_of_the_second_run(self, tmp_path: Path) -> None:
        """A Ctrl-C in the second run leaves the profile of the first."""
        (tmp_path / "job.py").write_text(
            "import time\n"
            "with open('runs', 'a') as file: file.write('x')\n"
            "if open('runs').read() == 'xx': time.sleep(100)\n"
        )
        started, runs = start("--lines", "job.py", cwd=tmp_path), tmp_path / "runs"
        while not runs.exists() or runs.read_text() != "xx":
            assert started.poll() is None
            time.sleep(0.05)
        started.send_signal(signal.SIGINT)
        _, stderr = started.communicate(timeout=60)
        assert started.returncode == 0
        assert "the second run of job.py was interrupted" in stderr
        assert len(saved(stderr, tmp_path).functions) > 0


@pytest.mark.slow
def test_interrupted_as_it_ends(tmp_path: Path) -> None:
    """A Ctrl-C while the profile is made ends the command; the profile is saved."""
    (tmp_path / "job.py").write_text(
        "from claude_pm.recording import profile_session\n"
        "def interrupted(): raise KeyboardInterrupt\n"
        "profile_session._git_state = interrupted\n"
    )
    code, _, stderr = run("job.py", cwd=tmp_path)
    assert code == 130
    assert saved(stderr, tmp_path).meta["git_commit"] is None


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--cpu", "never"], "cpu='never'"),
        (["--memory", "all"], "memory='all'"),
        (["--memory", "trace", "--cpu", "cprofile"], "a pass of its own"),
    ],
)
def test_mistakes_get_a_sentence(tmp_path: Path, options: list[str], said: str) -> None:
    """An option that cannot be is a sentence, exit code 1, and the script does not run."""
    (tmp_path / "job.py").write_text("print('ran')\n")
    code, stdout, stderr = run(*options, "job.py", cwd=tmp_path)
    assert (code, stdout) == (1, "")
    assert stderr.startswith("claude-pm: ")
    assert said in stderr
    assert "Traceback" not in stderr
