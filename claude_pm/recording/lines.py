"""CPU and memory of each source line: scalene, over a second run of the code.

scalene records a whole process, and cannot do so within a kernel. So the code runs once more, in a
process of its own (``lines_process``), and what it prints there is dropped. scalene looks every
10 ms what runs and at every MiB what allocates: a line's figures are samples, not counts.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import linecache
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from claude_pm.errors import RecordingError
from claude_pm.recording.carried_names import names_needed, write_names
from claude_pm.recording.instrument import RenameFile, Rows

_PROGRAM = Path(__file__).with_name("lines_process.py")
_PACKAGES = ("scalene", "cloudpickle")
_BYTES_PER_MB = 1024 * 1024
"""What scalene calls MB (``BYTES_PER_MB`` in its source)."""
_SHARES = {
    "cpu_python_percent": "n_cpu_percent_python",
    "cpu_native_percent": "n_cpu_percent_c",
    "system_percent": "n_sys_percent",
}
_SIZES = {"memory_peak_bytes": "n_peak_mb", "memory_allocated_bytes": "n_malloc_mb"}
"""Not ``n_growth_mb``: that is ``n_peak_mb`` by another name (2.4, "for backwards compatibility").
"""
_SECRET = re.compile(
    "(KEY|TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|_PASS|CREDENTIALS?)(_|$)", re.IGNORECASE
)
_SHELLS_OWN = frozenset({"get_ipython", "exit", "quit"})
"""Variables of a notebook that hold on to the notebook itself."""
_HELD_BACK = ("PYTHONSAFEPATH", "TMPDIR")
"""Variables that scalene gets other values of than the user's code."""
_LONGEST_REASON = 300


class LinesResult(NamedTuple):
    """Rows of the ``lines`` table, and what there is to say about them, if anything."""

    rows: Rows
    said: str | None


def require_packages() -> None:
    """See that what the second run is made with is installed.

    Raises:
        RecordingError: it is not.
    """
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise RecordingError(
            f"--lines needs {' and '.join(missing)}, which is not installed here: "
            'pip install "claude-pm[lines]".'
        )


def not_run(reason: str) -> LinesResult:
    """Return the result where there is nothing to run a second time."""
    return LinesResult([], f"No lines were recorded: {reason}.")


class SecondRun:
    """The same code in a process of its own: prepared before the first run, run after it."""

    def __init__(self, name: str, job: dict[str, Any]) -> None:
        self._name = name
        # The first run may change all of these.
        self._job = {**job, "path": list(job["path"]), "argv": list(job["argv"])}
        self._working_folder = Path.cwd()
        self._variables = dict(os.environ)
        # Gone with this object at the latest: it holds the user's values.
        self._folder = tempfile.TemporaryDirectory(prefix="claude_pm-lines-")
        self._names: dict[str, str] = {}
        self._left_out: dict[str, str] = {}

    @classmethod
    def of_cell(
        cls, text: str, name: str, namespace: Mapping[str, Any], rename_file: RenameFile = str
    ) -> SecondRun:
        """Prepare to run a notebook's cell, with the variables as they are now.

        Args:
            text: the cell as plain Python; ``await`` may stand at its top.
            name: what the cell is called in the table, as ``In[3]``.
            namespace: the notebook's variables.
            rename_file: gives the files of cells such names, and any other file its own.

        Raises:
            RecordingError: scalene or cloudpickle is not installed.
        """
        require_packages()
        run = cls(name, {"is_cell": True, "argv": sys.argv, "path": sys.path})
        # In a folder of their own: scalene records what is in the folder of the program.
        (run._path / "cells").mkdir()
        run._job |= {
            "source_file": run._new_cell(text, name),
            "names_file": str(run._path / "names.pickle"),
        }
        copies: dict[str, str] = {}

        def file_of_code(file: str) -> str:
            """Return a copy of the cell that code is of; other files stay where they are."""
            if file not in copies:
                label, lines = rename_file(file), linecache.getlines(file)
                is_cell = label != file and lines
                copies[file] = run._new_cell("".join(lines), label) if is_cell else file
            return copies[file]

        try:
            needed = [name for name in names_needed(text) if name not in _SHELLS_OWN]
        except SyntaxError:  # the first run says so
            needed = []
        run._job["needs_display"] = "display" in needed and "display" not in namespace
        run._left_out = write_names(needed, namespace, run._job["names_file"], file_of_code)
        return run

    @classmethod
    def of_script(cls, script: Path, arguments: list[str]) -> SecondRun:
        """Prepare to run a script with its own arguments.

        Raises:
            RecordingError: scalene or cloudpickle is not installed.
        """
        require_packages()
        file = script.resolve()
        job = {
            "is_cell": False,
            "source_file": str(file),
            "argv": [str(script), *arguments],
            "path": [str(file.parent), *sys.path[1:]],
        }
        run = cls(str(script), job)
        run._names[str(file)] = str(script)
        return run

    def run(self) -> LinesResult:
        """Run it and return its lines; a Ctrl-C ends this run, and nothing else."""
        with self._folder:
            try:
                status = self._run()
            except KeyboardInterrupt:
                return not_run(f"the second run of {self._name} was interrupted")
            except OSError as problem:
                return not_run(f"the second run of {self._name} could not be started: {problem}")
            error = self._error(status)
            if error is not None:
                without = f"; it {self._without()}" if self._left_out else ""
                return not_run(f"the second run of {self._name} ended with {error}{without}")
            try:
                rows = self._rows()
            except (AttributeError, KeyError, TypeError) as problem:
                return not_run(f"what scalene wrote cannot be understood ({problem!r})")
        if not rows:
            return not_run(
                f"the second run of {self._name} was too short; scalene looks every 10 ms what "
                "runs, and at every MiB what allocates"
            )
        said = f"The second run of {self._name} {self._without()}." if self._left_out else None
        return LinesResult(rows, said)

    @property
    def _path(self) -> Path:
        return Path(self._folder.name)

    def _new_cell(self, text: str, name: str) -> str:
        file = self._path / "cells" / f"{len(self._names)}.py"
        file.write_text(text, encoding="utf-8", errors="replace")
        self._names[str(file)] = name
        return str(file)

    def _run(self) -> int:
        """Run the process to its end; return its exit status."""
        kept = {name: self._variables[name] for name in _HELD_BACK if name in self._variables}
        self._job |= {"environment": kept, "ended_file": str(self._path / "ended.json")}
        job_file = self._path / "job.json"
        job_file.write_text(json.dumps(self._job), encoding="utf-8")
        (self._path / "tmp").mkdir()
        command = [
            sys.executable, "-m", "scalene", "run", "--outfile", str(self._path / "lines.json"),
            # The program starts the recording itself, when the user's code begins.
            "--off", "--memory", "--no-stacks",
            # Leave no file out because little happened there.
            "--cpu-percent-threshold", "0", "--malloc-threshold", "0",
            "--program-path", str(Path(self._job["source_file"]).parent),
            str(_PROGRAM), "---", str(job_file),
        ]  # fmt: skip
        with (self._path / "stderr").open("wb") as stderr, _interruptible():
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                cwd=self._working_folder,
                env=self._environment(),
                # A group of its own: it ends with all that it started.
                start_new_session=True,
            )
            try:
                with _ended_with_this_process(process.pid, self._path):
                    return process.wait()
            except BaseException:
                _kill(process)
                raise

    def _environment(self) -> dict[str, str]:
        """Return this process's environment, without the secrets that the code does not name."""
        files = [Path(file) for file in self._names]
        text = "".join(file.read_text(encoding="utf-8", errors="replace") for file in files)
        told = {
            name: value
            for name, value in self._variables.items()
            if not _SECRET.search(name) or name in text
        }
        if told.get("MPLBACKEND", "").startswith("module:"):
            told["MPLBACKEND"] = "agg"  # the notebook's own needs the notebook
        # scalene's own imports and temporary files keep out of the user's way.
        return told | {"PYTHONSAFEPATH": "1", "TMPDIR": str(self._path / "tmp")}

    def _error(self, status: int) -> str | None:
        """Return what the run ended with, if it was an error."""
        try:
            error = json.loads(Path(self._job["ended_file"]).read_text(encoding="utf-8"))["error"]
        except FileNotFoundError:
            words = (
                (self._path / "stderr").read_text(encoding="utf-8", errors="replace").split("\n")
            )
            last = [word for word in words if word.strip()][-1:]
            error = f"exit status {status}{': ' if last else ''}{''.join(last)}"
        return None if error is None else _one_line(error)

    def _without(self) -> str:
        reasons = [f"{name} ({_one_line(why)})" for name, why in self._left_out.items()]
        return f"went without {', '.join(reasons)}, which could not be carried over"

    def _rows(self) -> Rows:
        try:
            told = json.loads((self._path / "lines.json").read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):  # it saw nothing
            return []
        return [
            row
            for file, found in told.get("files", {}).items()
            if file != str(_PROGRAM)
            for row in _rows_of_file(file, self._names.get(file, file), found["lines"])
        ]


def _rows_of_file(file: str, name: str, lines: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    linecache.checkcache(file)
    for line in lines:
        figures = {column: line[key] for column, key in _SHARES.items()}
        figures |= {column: round(line[key] * _BYTES_PER_MB) for column, key in _SIZES.items()}
        if any(figures.values()):
            # Not line["line"]: it is escaped for a web page.
            source = linecache.getline(file, line["lineno"]).rstrip("\n")
            yield {"file": name, "line": line["lineno"], "source": source, **figures}


@contextlib.contextmanager
def _ended_with_this_process(group: int, folder: Path) -> Iterator[None]:
    """See to it that a group of processes and a folder are gone if this process is killed.

    A shell waits for the end of a pipe that is open as long as this process is there. Not the
    second run itself: it has only its main thread to notice, and that may be busy or asleep.
    """
    program = 'read -r _; kill -s KILL -- "-$1"; rm -rf -- "$2"'
    watcher = subprocess.Popen(
        ["/bin/sh", "-c", program, "sh", str(group), str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    with watcher:
        try:
            yield
        finally:
            watcher.kill()


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a process with its group, and remove the files that scalene's processes leave then."""
    import psutil

    try:
        children = psutil.Process(process.pid).children(recursive=True)
    except psutil.Error:
        children = []
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for pid in (process.pid, *(child.pid for child in children)):
        for file in Path("/tmp").glob(f"scalene-m*-*[a-z]{pid}"):  # noqa: S108 - scalene's place
            with contextlib.suppress(OSError):
                file.unlink()


def _one_line(text: str) -> str:
    words = " ".join(text.split())
    return words if len(words) <= _LONGEST_REASON else f"{words[:_LONGEST_REASON]}..."


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Let SIGINT raise: a kernel that runs a coroutine's cell has it wait for the cell."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
