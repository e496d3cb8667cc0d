"""``claude-pm doctor``: does everything work here?"""

from __future__ import annotations

import asyncio
import os
import platform
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Annotated

import typer

from claude_pm.cli.output import print_json
from claude_pm.errors import ClaudePMError

if TYPE_CHECKING:
    from claude_pm.settings import Settings


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was tried: whether it works, and what was seen."""

    what: str
    works: bool
    seen: str


def doctor(*, as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Try everything that a request needs, the model included; exit code 1 if something fails."""
    findings = [_try("settings", _settings)]
    if findings[0].works:
        findings += [
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
            mark = (
                typer.style("ok  ", fg="green") if finding.works else typer.style("FAIL", fg="red")
            )
            typer.echo(f"{mark}  {finding.what}: {finding.seen}")
    if not all(finding.works for finding in findings):
        raise typer.Exit(1)


def _try(what: str, check: Callable[[], str]) -> Finding:
    try:
        return Finding(what, works=True, seen=check())
    except (ClaudePMError, OSError, ImportError) as error:
        return Finding(what, works=False, seen=str(error))


def _read() -> Settings:
    from claude_pm.settings import read_settings

    return read_settings()


def _settings() -> str:
    from claude_pm.orchestration.modes import configured_mode

    settings = _read()
    choice = configured_mode(settings)
    return (
        f"{choice.mode.name} mode ({choice.reason}), model {settings.model}, "
        f"{settings.max_workers} requests at once, {settings.request_timeout:g} s each"
    )


def _python() -> str:
    return f"{platform.python_version()} at {sys.executable}, {os.cpu_count()} CPUs"


def _profiles_folder() -> str:
    folder = _read().profiles_dir
    existing = next(path for path in (folder.resolve(), *folder.resolve().parents) if path.exists())
    with tempfile.TemporaryFile(dir=existing):
        return f"{folder} can be written"


def _agents() -> str:
    from claude_pm.services.agent_registry import AgentRegistry

    return ", ".join(agent.name for agent in AgentRegistry().list_agents())


def _model() -> str:
    from claude_pm.orchestration import Orchestrator, Response

    async def ask() -> Response:
        async with Orchestrator(_read()) as orchestrator:
            return await orchestrator.orchestrate_agent(
                "qa", "Say yes.", mode="local", max_tokens=4
            )

    response = asyncio.run(ask())
    ttft = "no text" if response.ttft_s is None else f"first text after {response.ttft_s:.2f} s"
    return f"{response.model} answered in {response.duration_s:.2f} s ({ttft})"


def _notebook() -> str:
    return ", ".join(f"{name} {metadata.version(name)}" for name in ("ipython", "ipykernel"))
