"""Which frames are the notebook's machinery or our own, and not the user's program.

They share the kernel's thread and event loop with the user's code; profiles leave them out unless
they are asked for (``internals=True``).
"""

from __future__ import annotations

import os
import sys
import sysconfig
from pathlib import Path

_MACHINERY = (
    "IPython", "ipykernel", "tornado", "traitlets", "zmq", "jupyter_client", "comm", "claude_pm",
)  # fmt: skip
_INSTALLED = ("site-packages", "dist-packages")


def machinery_folders() -> tuple[str, ...]:
    """Return the folders of the machinery that is loaded, each with a separator at its end."""
    folders = []
    for name in _MACHINERY:
        file = getattr(sys.modules.get(name), "__file__", None)
        if file is not None:
            folders.append(str(Path(file).parent) + os.sep)
    # A file beside its package, which starts the kernel.
    folders += [folder.rstrip(os.sep) + "_launcher.py" for folder in folders]
    return tuple(folders)


def command_folder() -> str:
    """Return the folder of the command ``claude-pm``, which runs scripts, with a separator."""
    return str(Path(__file__).parent.with_name("cli")) + os.sep


def library_folders() -> tuple[str, ...]:
    """Return the folder of the standard library, with a separator at its end."""
    return (str(Path(sysconfig.get_path("stdlib"))) + os.sep,)


def is_standard_library(file: str) -> bool:
    """Whether a source file belongs to the standard library; a package installed into it does not.

    Outside a virtual environment the folder of installed packages lies within the library's.
    """
    if file.startswith("<frozen "):
        return True
    for folder in library_folders():
        if file.startswith(folder):
            return file[len(folder) :].partition(os.sep)[0] not in _INSTALLED
    return False


def is_standard_module(name: str) -> bool:
    """Whether an outermost module is the standard library's, or the machinery's."""
    return name in sys.stdlib_module_names or name in _MACHINERY
