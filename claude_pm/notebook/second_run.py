"""How a cell under ``--lines`` gets its second run."""

from __future__ import annotations

from itertools import zip_longest
from typing import TYPE_CHECKING

from claude_pm.recording.cell_names import cell_name
from claude_pm.recording.lines import LinesResult, SecondRun, not_run, require_packages

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

_MARK = "get_ipython()"
"""Stands in what IPython makes of its own syntax."""


def second_run(
    shell: InteractiveShell, name: str, source: str, python: str
) -> SecondRun | LinesResult:
    """Prepare a cell's second run; or return the empty result of one that cannot be.

    Args:
        shell: has the variables.
        name: what the cell is called, as ``In[3]``.
        source: the cell as it was typed.
        python: what IPython made of it, with the same line numbers.

    Raises:
        RecordingError: scalene or cloudpickle is not installed.
    """
    require_packages()
    if _MARK in python and _MARK not in source:
        typed = zip_longest(source.splitlines(), python.splitlines(), fillvalue="")
        lines = [line for line, (_, made) in enumerate(typed, 1) if _MARK in made]
        return not_run(
            f"{name} has syntax of IPython in line {lines[0]}, and the second run, outside of the "
            "notebook, knows Python alone"
        )
    return SecondRun.of_cell(python, name, shell.user_ns, cell_name)
