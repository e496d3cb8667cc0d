"""Options that several magics share."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any, TypeVar

from IPython.core.error import UsageError
from IPython.core.magic_arguments import argument

from claude_pm.recording.profile_session import CPU_RECORDINGS, MEMORY_RECORDINGS

if TYPE_CHECKING:
    from collections.abc import Callable

_NONE = "none"
_Choice = TypeVar("_Choice")


def recording_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add --cpu, --memory, --save and --as to a magic."""
    for decorate in (
        argument(
            "--as", dest="as_name", metavar="VAR", type=_variable, help="keep the profile as VAR"
        ),
        argument("--save", action="store_true", help="save the profile in CLAUDE_PM_PROFILES_DIR"),
        argument(
            "--memory",
            choices=(*MEMORY_RECORDINGS, _NONE),
            default=MEMORY_RECORDINGS[0],
            help="rss: resident memory every 20 ms (default); trace: the lines that hold memory, "
            "memray: those that held it at the peak, each in a pass of its own",
        ),
        argument(
            "--cpu",
            choices=(*CPU_RECORDINGS, _NONE),
            default=...,
            help="cprofile: count function calls (default; slows Python code down meanwhile); "
            "sample: see every few ms what each thread runs and each task waits for",
        ),
        argument(
            "--internals",
            action="store_true",
            help="show the frames of IPython, the kernel and claude_pm too",
        ),
    ):
        function = decorate(function)
    return function


def or_none(choice: _Choice) -> _Choice | None:
    """Return the choice, or None for ``none``."""
    return None if choice == _NONE else choice


def whole_from_one(text: str) -> int:
    """Read a whole number from 1."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise UsageError(f"{text!r} is not a whole number from 1.")
    return value


def _variable(text: str) -> str:
    if not text.isidentifier():
        raise argparse.ArgumentTypeError(f"{text!r} is no name for a variable")
    return text
