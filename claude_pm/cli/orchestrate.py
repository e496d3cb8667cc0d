"""``claude-pm orchestrate AGENT "REQUEST"``."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from claude_pm.cli.output import print_json

if TYPE_CHECKING:
    from claude_pm.orchestration import Response


def orchestrate(
    agent: Annotated[str, typer.Argument(help="The agent's name; see `claude-pm agents list`.")],
    request: Annotated[str, typer.Argument(help="What it should do; - reads standard input.")],
    *,
    mode: Annotated[
        str | None, typer.Option(help="local, subprocess or hybrid.", show_default=False)
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="embedded, a model's name, or a .gguf file.", show_default=False),
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Output limit.", show_default=False)
    ] = None,
    timeout: Annotated[
        float | None, typer.Option(help="Limit in seconds.", show_default=False)
    ] = None,
    save: Annotated[bool, typer.Option("--save", help="Save a profile of the request.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the answer and its figures as JSON.")
    ] = False,
) -> None:
    """Ask an agent; the answer is printed as it comes."""
    from claude_pm.orchestration import Orchestrator
    from claude_pm.recording import ProfileSession
    from claude_pm.settings import read_settings

    text = sys.stdin.read() if request == "-" else request
    settings = read_settings(model=model)

    async def ask() -> Response:
        async with Orchestrator(settings) as orchestrator:
            return await orchestrator.orchestrate_agent(
                agent,
                text,
                mode=mode,
                timeout=timeout,
                max_tokens=max_tokens,
                on_text=None if as_json else _print_piece,
            )

    session = ProfileSession(f"orchestrate {agent}", cpu=None, source=" ".join(sys.argv))
    if save:
        session.start()
    try:
        response = asyncio.run(ask())
    finally:
        saved = session.stop_and_save() if save else None
    if as_json:
        print_json({**asdict(response), "profile": saved})
        return
    typer.echo()
    # The answer alone goes to standard output: it may be on its way into a file.
    typer.echo(typer.style(_figures(response), dim=True), err=True)
    if saved is not None:
        typer.echo(f"Saved as {saved}", err=True)


def _print_piece(text: str) -> None:
    typer.echo(text, nl=False)
    sys.stdout.flush()


def _figures(response: Response) -> str:
    usage = response.usage
    parts = [response.agent, str(response.mode), response.model, f"{response.duration_s:.2f} s"]
    if response.ttft_s is not None:
        parts.append(f"first text after {response.ttft_s:.2f} s")
    if usage.input_tokens is not None:
        cached = f", {usage.cache_read_tokens} from the cache" if usage.cache_read_tokens else ""
        parts.append(f"{usage.input_tokens} tokens in{cached}")
    if usage.output_tokens is not None:
        parts.append(f"{usage.output_tokens} out")
    return " | ".join(parts)
