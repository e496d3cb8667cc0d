"""``%claude_pm_profile`` and ``%%claude_pm_profile``: their options and help.

Where they stand as they should, a cell is rewritten before it runs (``claude_pm.notebook.cells``)
and the functions here are not called; they are there for ``?``, and to say what is wrong.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from types import EllipsisType
from typing import Any

from IPython.core.error import UsageError
from IPython.core.magic import Magics, line_cell_magic, magics_class, no_var_expand
from IPython.core.magic_arguments import argument, magic_arguments, parse_argstring

from claude_pm.notebook.options import or_none, recording_options, whole_from_one
from claude_pm.notebook.results import Keeping


@dataclass(frozen=True, slots=True)
class ProfileOptions:
    """The options of one use."""

    name: str | None
    cpu: str | EllipsisType | None
    memory: str | None
    internals: bool
    lines: bool
    repeat: int | None
    quiet: bool
    keeping: Keeping


@magics_class
class ProfileMagics(Magics):
    """The profiling magics, as IPython lists them."""

    @no_var_expand
    @magic_arguments()
    @argument("--name", help="what to call the profile (default: the cell's number)")
    @recording_options
    @argument(
        "--lines",
        action="store_true",
        help="record CPU and memory of each line too: the code runs a second time for that, in a "
        "process of its own, with the variables as they were before, and what it prints there is "
        'dropped (needs pip install "claude-pm[lines]")',
    )
    @argument(
        "--repeat",
        type=whole_from_one,
        metavar="N",
        help="run the cell N times, to tell what stays in memory from what grows with every run; "
        "with --memory trace and %%%%claude_pm_profile alone",
    )
    @argument("--quiet", action="store_true", help="record without showing the profile")
    @line_cell_magic
    def claude_pm_profile(self, line: str, cell: str | None = None) -> None:
        """Record spans, function calls and memory of a statement or of a whole cell.

        ::

            %claude_pm_profile [options] STATEMENT
            %%claude_pm_profile [options]

        The first has to be a line of its own with one simple statement, the second the first line
        of the cell. ``await`` works in both; output, last value and variables of the code are as
        without it. The profile is kept in ``claude_pm.last()``, and in ``_`` where the code has no
        value of its own.
        """
        options = parse_options(line if cell is not None else split_statement(line)[0])
        if cell is None and options.repeat is not None:
            raise UsageError(
                "--repeat is for a whole cell: %%claude_pm_profile --memory trace --repeat N."
            )
        if cell is None:
            raise UsageError(
                "%claude_pm_profile takes one simple statement, on a line of its own: "
                "%claude_pm_profile [options] STATEMENT. For more than that, put "
                "%%claude_pm_profile on the first line of a cell."
            )
        if not cell.strip():
            raise UsageError("%%claude_pm_profile stands above the code to record; there is none.")
        raise UsageError("%%claude_pm_profile has to be the first line of the cell.")


def parse_options(line: str) -> ProfileOptions:
    """Read the options.

    Raises:
        UsageError: there is no such option, or it may not have that value.
    """
    try:
        values: Any = parse_argstring(ProfileMagics.claude_pm_profile, line)
    except ValueError as error:
        raise UsageError(f"%claude_pm_profile: the options cannot be read: {error}.") from None
    if values.repeat is not None and values.memory != "trace":
        raise UsageError(
            "--repeat goes with --memory trace: it tells what grows in memory with every run."
        )
    return ProfileOptions(
        name=_unquoted(values.name),
        cpu=or_none(values.cpu),
        memory=or_none(values.memory),
        internals=values.internals,
        lines=values.lines,
        repeat=values.repeat,
        quiet=values.quiet,
        keeping=Keeping(save=values.save, as_name=values.as_name),
    )


def split_statement(line: str) -> tuple[str, str]:
    """Part a line into its options and the statement behind them, which stays as it was typed."""
    actions = ProfileMagics.claude_pm_profile.parser._option_string_actions  # noqa: SLF001
    rest = line.lstrip()
    while rest.startswith("--"):
        word, _, behind = rest.partition(" ")
        action = actions.get(word)
        rest = behind.lstrip()
        if action is not None and action.nargs is None:
            # It takes a value, which may be quoted.
            rest = rest[len(_first_word(rest)) :].lstrip()
    return line[: len(line) - len(rest)].strip(), rest.strip()


def _first_word(text: str) -> str:
    if text[:1] in ("'", '"'):
        end = text.find(text[0], 1)
        return text if end < 0 else text[: end + 1]
    return text.partition(" ")[0]


def _unquoted(text: str | None) -> str | None:
    # IPython keeps the quotes around an argument.
    return None if text is None else " ".join(shlex.split(text))
