"""``claude-pm``: its commands, and how errors reach a terminal."""

from __future__ import annotations

import sys
from importlib import metadata

import typer

from claude_pm.cli import (
    agents,
    batch,
    bench,
    compare,
    doctor,
    models,
    orchestrate,
    profile,
    profiles,
    report,
)
from claude_pm.errors import ClaudePMError

app = typer.Typer(
    name="claude-pm",
    help="Ask agents, and see where time, memory, tokens and money go.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command("orchestrate")(orchestrate.orchestrate)
app.command("batch")(batch.batch)
app.command(
    "profile",
    # What stands behind the script's name is the script's.
    context_settings={"allow_interspersed_args": False, "ignore_unknown_options": False},
)(profile.profile_script)
app.command("report")(report.report)
app.command("compare")(compare.compare)
app.command("bench")(bench.bench)
app.command("doctor")(doctor.doctor)
app.add_typer(profiles.app, name="profiles")
app.add_typer(agents.app, name="agents")
app.add_typer(models.app, name="models")


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"claude-pm {metadata.version('claude-pm')}")
        raise typer.Exit


@app.callback()
def _common(
    *,
    version: bool = typer.Option(
        False, "--version", callback=_show_version, is_eager=True, help="Show the version."
    ),
) -> None:
    del version


def main() -> None:
    """Run the command; an error is one sentence on standard error and exit code 1."""
    try:
        app()
    except ClaudePMError as error:
        typer.echo(f"claude-pm: {error}", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        typer.echo("claude-pm: interrupted.", err=True)
        sys.exit(130)
