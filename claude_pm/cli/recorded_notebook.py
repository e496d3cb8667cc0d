"""Runs a notebook in a kernel of its own, and has the kernel record it."""

from __future__ import annotations

import ast
import asyncio
import logging
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import Empty
from typing import IO, TYPE_CHECKING, Any

import typer

from claude_pm.errors import RecordingError

if TYPE_CHECKING:
    from nbformat import NotebookNode

_KERNEL_SIDE = "claude_pm.notebook.whole_notebook"
_ANSWER_S = 60.0
_STOP_S = 10.0
"""How long an interrupted cell may take to end."""
_LAST_BYTES = 2_000
_FIRST_LINE = 60


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a notebook ended early."""

    sentence: str
    by_user: bool = False
    still_runs: bool = False
    """The cell has not ended yet."""


@dataclass(frozen=True, slots=True)
class NotebookRun:
    """What became of a notebook: its saved profile's folder, and why it ended early, if it did."""

    saved: Path
    failure: Failure | None


def run_notebook(
    path: Path, profiles_dir: Path, *, cpu: str | None, timeout_s: float | None
) -> NotebookRun:
    """Run all cells in the notebook's folder, up to the first that fails, and save the profile.

    Says on standard error which cell runs. What was recorded is saved when a cell fails, takes
    longer than ``timeout_s``, or is interrupted, too; only with the kernel's process is it lost.

    Raises:
        RecordingError: it is no notebook, nbclient or its kernel is missing, the kernel has no
            claude_pm, or the kernel died.
    """
    notebook = _read(path)
    try:
        return asyncio.run(_Run(path, notebook, timeout_s).run(profiles_dir.resolve(), cpu))
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


def _read(path: Path) -> NotebookNode:
    try:
        import nbclient  # noqa: F401 - said now, not after a while
        import nbformat
    except ImportError as error:
        raise RecordingError(
            'Running a notebook needs nbclient: pip install "claude-pm[notebook]".'
        ) from error
    try:
        notebook: NotebookNode = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    except OSError as error:
        raise RecordingError(f"The notebook {path} cannot be read: {error.strerror}.") from error
    # Whatever is wrong with a file that somebody calls a notebook.
    except Exception as error:
        raise RecordingError(f"{path} is not a Jupyter notebook: {error}") from error
    return notebook


class _Run:
    """One run of a notebook."""

    def __init__(self, path: Path, notebook: NotebookNode, timeout_s: float | None) -> None:
        from nbclient import NotebookClient

        self._path = path
        self._timeout_s = timeout_s
        self._client = NotebookClient(
            notebook,
            timeout_func=lambda _cell: timeout_s,
            resources={"metadata": {"path": str(path.resolve().parent)}},
            log=_quiet_log(),
        )
        code = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
        self._cells = {
            f"cell {number} of {len(code)}": cell for number, cell in enumerate(code, start=1)
        }

    async def run(self, folder: Path, cpu: str | None) -> NotebookRun:
        async with self._kernel() as stderr:
            await self._begin(cpu)
            failure = None
            for what, cell in self._cells.items():
                failure = await self._run_cell(what, cell, stderr)
                if failure is not None:
                    break
            return NotebookRun(await self._end(folder, failure), failure)

    @asynccontextmanager
    async def _kernel(self) -> AsyncIterator[IO[bytes]]:
        """Start the notebook's kernel, and yield what its process complains of."""
        from jupyter_client.kernelspec import NoSuchKernel

        async with AsyncExitStack() as stack:
            stderr = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 - the stack is one
            try:
                await stack.enter_async_context(self._client.async_setup_kernel(stderr=stderr))
            except NoSuchKernel as error:
                raise RecordingError(
                    f"{self._path} asks for the kernel {error.name!r}, which is not installed "
                    "here: install it, or choose another one in the notebook (Kernel, Change "
                    "Kernel)."
                ) from error
            except RuntimeError as error:
                raise RecordingError(
                    f"The kernel {self._client.kernel_name!r} of {self._path} did not start: "
                    f"{error}.{_tail(stderr)}"
                ) from error
            task = asyncio.current_task()
            assert task is not None  # noqa: S101 - for the type checker
            # Ctrl-C cancels this task. nbclient's own handler would end the kernel, and what was
            # recorded with it.
            asyncio.get_running_loop().add_signal_handler(signal.SIGINT, task.cancel)
            yield stderr

    async def _begin(self, cpu: str | None) -> None:
        found = await self._evaluate(f"__import__({_KERNEL_SIDE!r}) and None")
        if found["status"] != "ok":
            raise RecordingError(
                f"The kernel {self._client.kernel_name!r} of {self._path} cannot import claude_pm "
                f"({_said(found)}): install it in that kernel's environment."
            )
        begun = await self._evaluate(_call("begin", self._path.stem, cpu))
        if begun["status"] != "ok":
            raise RecordingError(_said(begun))

    async def _run_cell(self, what: str, cell: NotebookNode, stderr: IO[bytes]) -> Failure | None:
        """Run a cell; return how it failed, if it did."""
        from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

        try:
            with _progress(f"{what}: {cell.source.strip().splitlines()[0]}"):
                await self._client.async_execute_cell(cell, self._client.nb.cells.index(cell))
        except CellTimeoutError:
            return Failure(
                f"{what} took longer than {self._timeout_s:g} s and was interrupted",
                still_runs=True,
            )
        except CellExecutionError as error:
            typer.echo(error.traceback, err=True)
            return Failure(f"{what} failed with {error.ename}: {error.evalue}")
        except DeadKernelError as error:
            # nbclient takes its own cancelling for the kernel's death.
            if not _take_back_cancelling():
                raise RecordingError(
                    f"The kernel died in {what} of {self._path}, and what it had recorded with "
                    f"it.{_tail(stderr)}"
                ) from error
            return Failure(f"{what} was interrupted", by_user=True, still_runs=True)
        return None

    async def _end(self, folder: Path, failure: Failure | None) -> Path:
        """Have the kernel save the profile, if need be after interrupting its cell."""
        deadline = time.monotonic() + _ANSWER_S
        if failure is not None and failure.still_runs:
            manager: Any = self._client.km  # asynchronous, which its type does not say
            await manager.interrupt_kernel()
            deadline = time.monotonic() + _STOP_S
        while True:
            try:
                answer = await self._evaluate(
                    _call("end", str(folder)), deadline - time.monotonic()
                )
            except TimeoutError:
                raise RecordingError(
                    f"The kernel of {self._path} did not answer in time, so what it had recorded "
                    f"is lost{'' if failure is None else f': {failure.sentence}'}."
                ) from None
            # What is asked while an interrupted cell ends is answered with "aborted".
            if answer["status"] != "aborted":
                break
            await asyncio.sleep(0.1)
        if answer["status"] != "ok":
            raise RecordingError(
                f"The kernel of {self._path} could not save its profile: {_said(answer)}"
            )
        return Path(answer["value"])

    async def _evaluate(self, expression: str, timeout_s: float = _ANSWER_S) -> dict[str, Any]:
        """Evaluate an expression beside the notebook: not a cell, and in none of its variables.

        Raises:
            TimeoutError: the kernel did not answer in time.
        """
        client: Any = self._client.kc  # asynchronous, which its type does not say
        deadline = time.monotonic() + timeout_s
        asked = client.execute(
            "", silent=True, user_expressions={"it": expression}, allow_stdin=False
        )
        # Only the reply is waited for: a cell that ran out of time leaves somebody at the outputs.
        reply: dict[str, Any] = {"parent_header": {}}
        while reply["parent_header"].get("msg_id") != asked:
            try:
                reply = await client.get_shell_msg(timeout=max(deadline - time.monotonic(), 0.0))
            except Empty:
                raise TimeoutError from None
        content: dict[str, Any] = reply["content"]
        if content["status"] != "ok":
            return content
        answer: dict[str, Any] = content["user_expressions"]["it"]
        if answer["status"] == "ok":
            answer["value"] = ast.literal_eval(answer["data"]["text/plain"])
        return answer


def _call(function: str, *arguments: str | None) -> str:
    values = ", ".join(map(repr, arguments))
    return f"__import__({_KERNEL_SIDE!r}, fromlist=[{function!r}]).{function}({values})"


def _said(answer: dict[str, Any]) -> str:
    return str(answer.get("evalue") or answer.get("ename") or answer["status"])


def _take_back_cancelling() -> bool:
    """Whether this task was cancelled; it goes on then."""
    task = asyncio.current_task()
    if task is None or not task.cancelling():
        return False
    task.uncancel()
    return True


def _tail(file: IO[bytes]) -> str:
    """Return the last that a process has complained of, on lines of its own."""
    file.seek(0)
    said = file.read()[-_LAST_BYTES:].decode(errors="replace").strip()
    return f" It said:\n{said}" if said else ""


@contextmanager
def _progress(what: str) -> Iterator[None]:
    begun = time.monotonic()
    typer.echo(f"{what[:_FIRST_LINE]} ... ", err=True, nl=False)
    try:
        yield
    finally:
        typer.echo(f"{time.monotonic() - begun:.1f} s", err=True)


def _quiet_log() -> logging.Logger:
    # What went wrong is said once, by us.
    log = logging.getLogger("claude_pm.recorded_notebook")
    log.propagate = False
    log.addHandler(logging.NullHandler())
    return log
