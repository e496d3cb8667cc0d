"""``claude-pm agents list|show``."""

from __future__ import annotations

import textwrap
from dataclasses import asdict
from typing import Annotated, Literal

import typer
from rich.markup import escape

from claude_pm.cli.output import print_json, print_table

app = typer.Typer(help="The agents that can be asked.", no_args_is_help=True)
_COLUMNS = ["agent", "scope", "isolation", "when to ask it"]
_DESCRIPTION_LENGTH = 240


@app.command("list")
def list_agents(
    *,
    scope: Annotated[
        Literal["all", "project", "user", "builtin"],
        typer.Option(help="Whose agents; with all, the nearest of each name."),
    ] = "all",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the agents; files that are broken are named on standard error."""
    from claude_pm.services.agent_registry import AgentRegistry

    registry = AgentRegistry()
    agents = registry.list_agents(scope)
    if as_json:
        print_json([asdict(agent) for agent in agents])
    else:
        rows = [
            (escape(agent.name), agent.scope, agent.isolation, escape(_short(agent.description)))
            for agent in agents
        ]
        print_table(_COLUMNS, [dict(zip(_COLUMNS, row, strict=True)) for row in rows])
    for broken in registry.broken:
        typer.echo(f"claude-pm: {broken.message}", err=True)


@app.command("show")
def show_agent(
    name: Annotated[str, typer.Argument(help="The agent's name.")],
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show an agent's parameters and its prompt."""
    from claude_pm.services.agent_registry import AgentRegistry

    agent = AgentRegistry().get_agent(name)
    if as_json:
        print_json(asdict(agent))
        return
    typer.echo(f"{agent.name}: {agent.description}")
    temperature = "the model's own" if agent.temperature is None else agent.temperature
    typer.echo(
        f"scope {agent.scope}, max_tokens {agent.max_tokens}, temperature {temperature}, "
        f"isolation {agent.isolation}"
    )
    for label, texts in (
        ("context patterns", agent.context_patterns),
        ("context keywords", agent.context_keywords),
    ):
        if texts:
            typer.echo(f"{label}: {', '.join(texts)}")
    typer.echo(f"{agent.path}\n\n{agent.prompt}")


def _short(description: str) -> str:
    """Return the first line: Claude Code's files have pages, often with a written-out newline."""
    first = description.replace("\\n", "\n").partition("\n")[0]
    return textwrap.shorten(first, _DESCRIPTION_LENGTH, placeholder=" ...")
