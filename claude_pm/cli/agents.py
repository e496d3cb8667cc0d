"""``claude-pm agents list|show``."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from claude_pm.cli.output import print_json, print_table

app = typer.Typer(help="The agents that can be asked.", no_args_is_help=True)


@app.command("list")
def list_agents(
    *, as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False
) -> None:
    """List the agents."""
    from claude_pm.services.agent_registry import AgentRegistry

    agents = AgentRegistry().list_agents()
    if as_json:
        print_json([asdict(agent) for agent in agents])
        return
    print_table(
        ["agent", "isolation", "when to ask it"],
        [
            {"agent": agent.name, "isolation": agent.isolation, "when to ask it": agent.description}
            for agent in agents
        ],
    )


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
        f"max_tokens {agent.max_tokens}, temperature {temperature}, isolation {agent.isolation}"
    )
    typer.echo(f"{agent.path}\n\n{agent.prompt}")
