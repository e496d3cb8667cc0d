"""``claude-pm doctor``: does everything work here, and is it quick?"""

from __future__ import annotations

import asyncio
import os
import platform
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from typing import TYPE_CHECKING, Annotated

import typer

from claude_pm.cli.output import print_json
from claude_pm.errors import ClaudePMError

if TYPE_CHECKING:
    from claude_pm.orchestration import Response
    from claude_pm.settings import Settings

SLOW_S = 1.0
"""A request that takes longer than this gets a warning."""

_MAX_TOKENS = 4


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was tried: whether it works, what was seen, and what is to be done."""

    what: str
    works: bool
    seen: str
    warning: str | None = None


def doctor(*, as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Try everything that a request needs, the model included; exit code 1 if something fails."""
    findings = [_try("settings", _mode)]
    if findings[0].works:
        findings += [
            _try("limits", _limits),
            _try("caches", _caches),
            _try("Python", _python),
            _try("profiles folder", _profiles_folder),
            _try("agents", _agents),
            _try("model", _model),
            _try("notebook", _notebook),
        ]
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        for finding in findings:
            _show(finding)
    if not all(finding.works for finding in findings):
        raise typer.Exit(1)


def _show(finding: Finding) -> None:
    if not finding.works:
        mark = typer.style("FAIL", fg="red")
    elif finding.warning:
        mark = typer.style("warn", fg="yellow")
    else:
        mark = typer.style("ok  ", fg="green")
    typer.echo(f"{mark}  {finding.what}: {finding.seen}")
    if finding.warning:
        typer.echo(f"      {finding.warning}")


def _try(what: str, check: Callable[[], str | Finding]) -> Finding:
    try:
        seen = check()
    except (ClaudePMError, OSError, ImportError) as error:
        return Finding(what, works=False, seen=str(error))
    if isinstance(seen, Finding):
        return replace(seen, what=what)
    return Finding(what, works=True, seen=seen)


def _read() -> Settings:
    from claude_pm.settings import read_settings

    return read_settings()


def _mode() -> Finding:
    from claude_pm.orchestration.modes import OrchestrationMode, configured_mode

    settings = _read()
    choice = configured_mode(settings)
    where = f" at {settings.base_url}" if settings.base_url else ""
    warning = None
    if choice.mode is OrchestrationMode.SUBPROCESS:
        variable = (
            "CLAUDE_PM_FORCE_SUBPROCESS_MODE"
            if settings.force_subprocess_mode
            else "CLAUDE_PM_ORCHESTRATION_MODE"
        )
        warning = f"Every request starts a process of its own. For LOCAL mode: unset {variable}."
    return Finding(
        "",
        works=True,
        seen=f"{choice.mode.name} mode ({choice.reason}), model {settings.model}{where}",
        warning=warning,
    )


def _limits() -> str:
    settings = _read()
    memory = (
        "no memory limit"
        if settings.memory_limit_mb is None
        else f"{settings.memory_limit_mb} MiB of memory for each worker"
    )
    tokens = "the agents' own" if settings.max_tokens is None else str(settings.max_tokens)
    return (
        f"{settings.max_workers} requests at once, {settings.request_timeout:g} s each, "
        f"output tokens: {tokens}, {memory}"
    )


def _caches() -> Finding:
    if _read().cache_enabled:
        return Finding("", works=True, seen="on")
    return Finding(
        "",
        works=True,
        seen="off",
        warning="Every request prefills its whole prompt. unset CLAUDE_PM_CACHE_ENABLED.",
    )


def _python() -> str:
    return f"{platform.python_version()} at {sys.executable}, {os.cpu_count()} CPUs"


def _profiles_folder() -> str:
    folder = _read().profiles_dir
    existing = next(path for path in (folder.resolve(), *folder.resolve().parents) if path.exists())
    with tempfile.TemporaryFile(dir=existing):
        return f"{folder} can be written"


def _agents() -> Finding:
    from claude_pm.services.agent_registry import AgentRegistry

    registry = AgentRegistry()
    names = ", ".join(agent.name for agent in registry.list_agents())
    broken = " ".join(file.message for file in registry.broken)
    return Finding("", works=True, seen=names, warning=broken or None)


def _model() -> Finding:
    """Ask twice in the mode of the settings: the first request pays for what is started once."""
    from claude_pm.orchestration import Orchestrator

    async def ask() -> list[Response]:
        async with Orchestrator(_read()) as orchestrator:
            return [
                await orchestrator.orchestrate_agent("qa", "Say yes.", max_tokens=_MAX_TOKENS)
                for _ in range(2)
            ]

    first, second = asyncio.run(ask())
    seen = (
        f"{second.model} answered in {second.duration_s:.2f} s ({_ttft(second)}) in "
        f"{second.mode.name} mode; the first request took {first.duration_s:.2f} s"
    )
    slow = second.duration_s > SLOW_S
    return Finding("", works=True, seen=seen, warning=_advice(second) if slow else None)


def _ttft(response: Response) -> str:
    return "no text" if response.ttft_s is None else f"first text after {response.ttft_s:.2f} s"


def _advice(response: Response) -> str:
    """Say what makes a request of four tokens slow."""
    from claude_pm.orchestration.modes import OrchestrationMode

    settings = _read()
    if response.mode is OrchestrationMode.SUBPROCESS:
        cause = "A process of its own has to start for each: use LOCAL mode."
    elif not settings.cache_enabled:
        cause = "The caches are off: unset CLAUDE_PM_CACHE_ENABLED."
    elif not response.usage.cache_read_tokens:
        cause = (
            "Nothing of the prompt came from the model's cache: check that the agent's file and "
            "the working folder's CLAUDE.md and README do not change with every request."
        )
    elif settings.base_url is not None:
        cause = f"The prompt was cached: it is the server at {settings.base_url}, or the way to it."
    else:
        cause = "The prompt was cached: the model itself is slow here, or others use the CPUs."
    return f"Slow: over {SLOW_S:g} s for {_MAX_TOKENS} tokens. {cause}"


def _notebook() -> str:
    return ", ".join(f"{name} {metadata.version(name)}" for name in ("ipython", "ipykernel"))
