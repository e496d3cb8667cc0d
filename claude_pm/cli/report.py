"""``claude-pm report PROFILE -o FILE.html``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    profile: Annotated[str, typer.Argument(help="A profile: its folder, id or report.")],
    *,
    output: Annotated[Path, typer.Option("-o", "--output", help="The file to write.")] = Path(
        "report.html"
    ),
    without_content: Annotated[
        bool, typer.Option("--without-content", help="Leave prompts and answers out.")
    ] = False,
) -> None:
    """Write a saved profile as one HTML file that opens anywhere, without a network."""
    from claude_pm.profiles import load

    typer.echo(load(profile).to_html(output, content=not without_content))
