"""``claude-pm batch FILE.jsonl``."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from claude_pm.cli.output import print_json

if TYPE_CHECKING:
    from claude_pm.orchestration.batch_file import BatchReport


def batch(
    file: Annotated[
        Path,
        typer.Argument(help='Queries, one a line: {"agent": "qa", "request": "..."}.'),
    ],
    *,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Results (default: FILE.results.jsonl).", show_default=False
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="embedded, a model's name, or a .gguf file.", show_default=False),
    ] = None,
    concurrency: Annotated[
        int | None,
        typer.Option(min=1, help="Queries at once (default: CLAUDE_PM_MAX_WORKERS)."),
    ] = None,
    save: Annotated[bool, typer.Option("--save", help="Save a profile of the batch.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was done as JSON.")] = False,
) -> None:
    """Answer many queries; run again, it goes on where it stopped and asks what failed."""
    from claude_pm.orchestration import Orchestrator
    from claude_pm.orchestration.batch_file import results_path, run_batch_file
    from claude_pm.recording import ProfileSession
    from claude_pm.settings import read_settings

    settings = read_settings(model=model)

    async def run() -> BatchReport:
        async with Orchestrator(settings) as orchestrator:
            return await run_batch_file(
                file,
                output if output is not None else results_path(file),
                orchestrator=orchestrator,
                concurrency=concurrency,
                progress=sys.stderr.isatty(),
            )

    session = ProfileSession(f"batch {file.stem}", cpu=None, source=" ".join(sys.argv))
    if save:
        session.start()
    try:
        report = asyncio.run(run())
    except KeyboardInterrupt:
        typer.echo("Run it again: it goes on with what has no answer yet.", err=True)
        raise
    finally:
        saved = session.stop_and_save() if save else None
    if as_json:
        print_json({**asdict(report), "profile": saved})
    else:
        before = f", {report.answered_before} answered before" if report.answered_before else ""
        failed = f", {report.failed} failed" if report.failed else ""
        typer.echo(f"{report.asked} asked{before}{failed}: {report.results}")
        if saved is not None:
            typer.echo(f"Saved as {saved}", err=True)
    if report.failed:
        raise typer.Exit(1)
