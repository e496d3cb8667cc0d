"""A whole notebook as one profile: begun before its first cell, ended after its last.

Runs in the notebook's kernel, for ``claude-pm report NOTEBOOK.ipynb``. Each cell is a span, named
``In[3]`` as the notebook numbers it; what the cell's own magics record becomes a part of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from IPython.core.getipython import get_ipython

from claude_pm.errors import RecordingError
from claude_pm.recording import ProfileSession, Span, span
from claude_pm.recording.span import record_here

if TYPE_CHECKING:
    from IPython.core.interactiveshell import ExecutionInfo, ExecutionResult, InteractiveShell

_recording: _Recording | None = None


def begin(name: str, cpu: str | None) -> None:
    """Record every cell that runs from here on.

    Raises:
        RecordingError: on a ``cpu`` that does not exist, or where another profiler is active.
    """
    global _recording  # noqa: PLW0603 - a kernel runs one notebook
    shell = get_ipython()
    if shell is None:
        raise RecordingError("There are no cells to record outside a kernel.")
    session = ProfileSession(name, cpu=cpu)
    session.start()
    _recording = _Recording(shell, session)


def end(folder: str) -> str:
    """Save what was recorded in a folder; return the saved profile's own."""
    if _recording is None:
        raise RecordingError("No notebook is being recorded.")
    return _recording.end(folder)


class _Recording:
    def __init__(self, shell: InteractiveShell, session: ProfileSession) -> None:
        self._shell = shell
        self._session = session
        self._sources: list[str] = []
        # A cell may run another one: the innermost is last.
        self._cells: list[tuple[str, Span]] = []
        shell.events.register("pre_run_cell", self._pre_run_cell)
        shell.events.register("post_run_cell", self._post_run_cell)

    def end(self, folder: str) -> str:
        self._shell.events.unregister("pre_run_cell", self._pre_run_cell)
        self._shell.events.unregister("post_run_cell", self._post_run_cell)
        return str(self._session.stop_and_save(folder, source="\n\n".join(self._sources)))

    def _pre_run_cell(self, info: ExecutionInfo) -> None:
        if self._session.recorder is None:
            return
        text = info.raw_cell or ""
        # The count is of the next cell already.
        name = f"In[{self._shell.execution_count - 1}]"
        self._sources.append(f"# {name}\n{text}")
        record_here(self._session.recorder)
        self._cells.append((text, span(name, source=text).__enter__()))

    def _post_run_cell(self, result: ExecutionResult | None) -> None:
        # A blank cell ends without having begun.
        text = None if result is None or result.info is None else result.info.raw_cell
        if not self._cells or text not in (None, self._cells[-1][0]):
            return
        _, cell = self._cells.pop()
        # An interrupted cell that awaits has no result.
        error = KeyboardInterrupt() if result is None else result.error_before_exec
        if result is not None and result.error_in_exec is not None:
            error = result.error_in_exec
        cell.__exit__(None if error is None else type(error), error, None)
