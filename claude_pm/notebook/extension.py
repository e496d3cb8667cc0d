"""``%load_ext claude_pm``: hooks the magics into IPython, and out again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from claude_pm.notebook.cells import CellProfiler, ProfileLine, rewrite_cell
from claude_pm.notebook.orchestrate_magic import OrchestrateMagics
from claude_pm.notebook.profile_magic import ProfileMagics
from claude_pm.notebook.results import last

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

__all__ = ["last", "load", "unload"]


def load(shell: InteractiveShell) -> None:
    """Add the magics, the rewriting of cells and the events; does nothing a second time."""
    if hasattr(shell, "claude_pm"):
        return
    profiler = CellProfiler(shell)
    shell.claude_pm = profiler  # type: ignore[attr-defined]
    shell.register_magics(ProfileMagics, OrchestrateMagics)
    shell.input_transformers_cleanup.append(rewrite_cell)
    shell.input_transformer_manager.token_transformers.append(ProfileLine)
    shell.ast_transformers.append(profiler)
    shell.events.register("pre_run_cell", profiler.pre_run_cell)
    shell.events.register("post_run_cell", profiler.post_run_cell)


def unload(shell: InteractiveShell) -> None:
    """Take away what :func:`load` added."""
    profiler = getattr(shell, "claude_pm", None)
    if profiler is None:
        return
    shell.events.unregister("pre_run_cell", profiler.pre_run_cell)
    shell.events.unregister("post_run_cell", profiler.post_run_cell)
    shell.ast_transformers.remove(profiler)
    shell.input_transformers_cleanup.remove(rewrite_cell)
    shell.input_transformer_manager.token_transformers.remove(ProfileLine)
    magics = shell.magics_manager.magics
    magics["line"].pop("claude_pm_profile", None)
    for name in ("claude_pm_profile", "orchestrate"):
        magics["cell"].pop(name, None)
    del shell.claude_pm  # type: ignore[attr-defined]
