"""What people know source files by: a notebook's cell by its number."""

from __future__ import annotations

import sys


def cell_name(file: str) -> str:
    """Return ``In[3]`` for the file of a notebook's cell, which changes with edits; else the file.

    Where IPython does not run there are no cells.
    """
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    named = None if shell is None else shell.compile.format_code_name(file)
    return file if named is None else str(named[1])
