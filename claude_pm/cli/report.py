"""``claude-pm report PROFILE | NOTEBOOK.ipynb``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from claude_pm.errors import RecordingError

if TYPE_CHECKING:
    from claude_pm.profiles import Profile

_NOTEBOOK = ".ipynb"


def report(
    source: Annotated[
        str,
        typer.Argument(
            metavar="PROFILE|NOTEBOOK",
            help="A profile (its folder, id or report), or a notebook to run (.ipynb).",
        ),
    ],
    *,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            help="The file to write (default: report.html, or the notebook's name with .html).",
        ),
    ] = None,
    without_content: Annotated[
        bool, typer.Option("--without-content", help="Leave prompts and answers out.")
    ] = False,
    timeout: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS", help="Of a notebook: how long a cell may take (default: no limit)."
        ),
    ] = None,
    cpu: Annotated[
        str | None,
        typer.Option(
            help="Of a notebook: what to record of all its cells, sample or cprofile (default: "
            "what the cells record themselves)."
        ),
    ] = None,
) -> None:
    """Write a profile as one HTML file that opens anywhere, without a network.

    A notebook is run from its first cell to its last, each cell a span of the profile. Where a cell
    fails, the report has what was recorded until then, and the exit code is 1.
    """
    from claude_pm.profiles import load

    if not source.endswith(_NOTEBOOK):
        if timeout is not None or cpu is not None:
            raise RecordingError(f"--timeout and --cpu are for a notebook; {source!r} is none.")
        _write(load(source), output or Path("report.html"), without_content)
        return
    if timeout is not None and timeout <= 0:
        raise RecordingError(f"--timeout is {timeout:g}; it is a number of seconds above 0.")
    from claude_pm.cli.recorded_notebook import run_notebook
    from claude_pm.settings import read_settings

    notebook = Path(source)
    run = run_notebook(
        notebook,
        read_settings().profiles_dir,
        cpu=None if cpu == "none" else cpu,
        timeout_s=timeout,
    )
    typer.echo(f"Saved as {run.saved}", err=True)
    _write(load(run.saved), output or Path(notebook.with_suffix(".html").name), without_content)
    if run.failure is not None:
        typer.echo(
            f"claude-pm: {notebook}: {run.failure.sentence}; the report has what came before.",
            err=True,
        )
        raise typer.Exit(130 if run.failure.by_user else 1)


def _write(profile: Profile, output: Path, without_content: bool) -> None:
    typer.echo(profile.to_html(output, content=not without_content))
