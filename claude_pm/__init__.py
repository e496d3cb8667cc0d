"""claude_pm: orchestrate agents, and see where time, memory, tokens and money go.

In a notebook::

    %load_ext claude_pm

    %%orchestrate documentation
    Summarize what this project does.

Everything here is loaded when first used, so ``import claude_pm`` costs next to nothing.
"""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from claude_pm import analysis, errors, testing
    from claude_pm.analysis import compare
    from claude_pm.errors import ClaudePMError
    from claude_pm.notebook.extension import last
    from claude_pm.orchestration import Orchestrator
    from claude_pm.profiles import Experiment, Profile, list_profiles, load
    from claude_pm.recording import experiment, profile, span, traced
    from claude_pm.settings import Settings, read_settings

__version__ = "0.1.0"

_HOME = {
    "ClaudePMError": "claude_pm.errors",
    "Experiment": "claude_pm.profiles",
    "Orchestrator": "claude_pm.orchestration",
    "Profile": "claude_pm.profiles",
    "Settings": "claude_pm.settings",
    "compare": "claude_pm.analysis",
    "experiment": "claude_pm.recording",
    "last": "claude_pm.notebook.extension",
    "list_profiles": "claude_pm.profiles",
    "load": "claude_pm.profiles",
    "profile": "claude_pm.recording",
    "read_settings": "claude_pm.settings",
    "span": "claude_pm.recording",
    "traced": "claude_pm.recording",
}
_MODULES = ("analysis", "errors", "testing")

__all__ = [
    "ClaudePMError",
    "Experiment",
    "Orchestrator",
    "Profile",
    "Settings",
    "analysis",
    "compare",
    "errors",
    "experiment",
    "last",
    "list_profiles",
    "load",
    "profile",
    "read_settings",
    "span",
    "testing",
    "traced",
]

# A library is quiet until its user says otherwise.
logging.getLogger("claude_pm").addHandler(logging.NullHandler())


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(importlib.import_module(_HOME[name]), name)
    elif name in _MODULES:
        value = importlib.import_module(f"claude_pm.{name}")
    else:
        raise AttributeError(f"module 'claude_pm' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    # Not what only this file needs: completion in a notebook shows what there is to use.
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})


def load_ipython_extension(ipython: InteractiveShell) -> None:
    """Add the magics to a notebook or IPython (``%load_ext claude_pm``)."""
    from claude_pm.notebook.extension import load

    load(ipython)


def unload_ipython_extension(ipython: InteractiveShell) -> None:
    """Take the magics away again (``%unload_ext claude_pm``)."""
    from claude_pm.notebook.extension import unload

    unload(ipython)
