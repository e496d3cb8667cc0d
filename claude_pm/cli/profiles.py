"""``claude-pm profiles list|show``."""

from __future__ import annotations

from typing import Annotated

import typer

from claude_pm.cli.output import print_json, print_table

app = typer.Typer(help="The saved profiles.", no_args_is_help=True)


@app.command("list")
def list_saved(
    *, as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False
) -> None:
    """List the saved profiles, newest first."""
    from claude_pm.profiles import list_profiles

    table = list_profiles()
    rows = table.astype(object).where(table.notna(), None).to_dict("records")
    if as_json:
        print_json(rows)
        return
    if not rows:
        typer.echo("No profile is saved in CLAUDE_PM_PROFILES_DIR yet.", err=True)
        return
    print_table(
        ["profile", "seconds", "model"],
        [
            {
                "profile": row["id"],
                "seconds": "" if row["duration_s"] is None else f"{row['duration_s']:.3f}",
                "model": row["model_use"] or row["error"],
            }
            for row in rows
        ],
    )


@app.command("show")
def show(profile: Annotated[str, typer.Argument(help="Its folder or its id.")]) -> None:
    """Show a saved profile's summary."""
    from claude_pm.profiles import load
    from claude_pm.views.summary import summary_text

    typer.echo(summary_text(load(profile)))
