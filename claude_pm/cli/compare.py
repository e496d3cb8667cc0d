"""``claude-pm compare``: is it slower than before? For people, for CI and for pull requests."""

from __future__ import annotations

from typing import Annotated

import typer

from claude_pm.cli.output import print_json
from claude_pm.errors import ComparisonError

_GATE = "duration_s"


def compare(
    base: Annotated[str, typer.Argument(help="The baseline: a saved profile's folder or id.")],
    new: Annotated[str, typer.Argument(help="What is compared with it.")],
    *,
    fail_if_slower: Annotated[
        float | None,
        typer.Option(
            metavar="RATIO",
            help="Exit with 1 where NEW is slower than BASE by more than this ratio, as 1.05: by "
            "the median duration, beyond doubt (see the verdict).",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print a table for a pull request.")
    ] = False,
) -> None:
    """Compare two saved profiles or experiments: a verdict for each metric.

    A verdict is faster, slower, no difference beyond 5 % (or what --fail-if-slower says), or not
    enough data: then the gate lets pass, and says how many more samples would likely decide.
    """
    from claude_pm.analysis import compare as compare_profiles

    if as_json and markdown:
        raise typer.BadParameter("--json and --markdown exclude each other.")
    if fail_if_slower is not None and not 1 < fail_if_slower < 2:  # noqa: PLR2004
        raise ComparisonError(
            f"--fail-if-slower {fail_if_slower:g} is no limit: it may be above 1 and below 2, as "
            "1.05 for 5 % slower."
        )
    margin = {} if fail_if_slower is None else {"margin": fail_if_slower - 1}
    comparison = compare_profiles(base, new, **margin)
    table = comparison.table
    slower = comparison.slower(_GATE)
    if as_json:
        rows = table.astype(object).where(table.notna(), None).to_dict("records")
        print_json(
            {"margin": comparison.margin, "slower": bool(slower), "metrics": rows}
            | {"notes": list(comparison.notes)}
        )
    else:
        typer.echo((comparison.to_markdown() if markdown else str(comparison)).rstrip())
    if fail_if_slower is not None and slower:
        typer.echo(f"claude-pm: slower by more than the ratio {fail_if_slower:g}.", err=True)
        raise typer.Exit(1)
