"""``claude-pm bench``: the performance guide's table, measured here."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from claude_pm.cli.output import print_json, print_table

if TYPE_CHECKING:
    from claude_pm.cli.measures import Measure

_THREE_DIGITS = 1000


def bench(*, as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Measure this machine against the figures of the performance guide (about half a minute).

    The machine should have nothing else to do meanwhile. A bound that is missed is a finding, not
    an error.
    """
    from claude_pm.cli.measures import measure_all
    from claude_pm.settings import read_settings

    figures = measure_all(read_settings(), _report_progress)
    if as_json:
        print_json([{**asdict(figure), "reached": figure.reached} for figure in figures])
        return
    print_table(
        ["what", "n", "median", "p95", "bound", "", "model"], [_row(figure) for figure in figures]
    )


def _report_progress(figure: Measure) -> None:
    typer.echo(typer.style(f"measured: {figure.what}", dim=True), err=True)


def _row(figure: Measure) -> dict[str, str]:
    sign = "≥" if figure.unit == "%" else "≤"
    return {
        "what": figure.what,
        "n": str(figure.n),
        "median": _value(figure.median, figure.unit),
        "p95": "" if figure.p95 is None else _value(figure.p95, figure.unit),
        "bound": "" if figure.bound is None else f"{sign} {_value(figure.bound, figure.unit)}",
        "": {True: "ok", False: "missed", None: ""}[figure.reached],
        "model": figure.model,
    }


def _value(value: float, unit: str) -> str:
    if unit == "%":
        return f"{value:.2f} %"
    return f"{value:.3g} ms" if value < _THREE_DIGITS else f"{value:.0f} ms"
