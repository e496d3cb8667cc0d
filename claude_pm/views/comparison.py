"""Verdicts for people: sentences, a table, Markdown, HTML."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from claude_pm.analysis.compare import Compared, Comparison
from claude_pm.analysis.compare_samples import CONFIDENCE, Verdict
from claude_pm.analysis.rows import rows
from claude_pm.analysis.samples import METRICS
from claude_pm.profiles.text_file import write_text
from claude_pm.views import words
from claude_pm.views.fragments import Cell, Column, Table, cells, number, numbers

if TYPE_CHECKING:
    from claude_pm.views.reading import Reading

VERDICTS = {"same": "no difference", "unclear": "not enough data"}
"""What is not called by its own name."""
_LEAST_P = 0.001
_SHOWN = ("duration_s", "ttft_s")
"""The metrics that get a sentence, where there are several."""
_MARKDOWN = re.compile(r"[\\`*\[\]<>|~&$]|(?<!\w)_|_(?!\w)")
# Underscores within words stay: they mean nothing there.


def verdict_sentences(comparison: Comparison) -> list[str]:
    """Return a sentence for each side that was compared, on how long it took."""
    shown = [row for row in comparison.rows if row.metric.name in _SHOWN] or comparison.rows
    return [_sentence(row) for row in shown]


def comparison_table(comparison: Comparison) -> Table:
    """Return every metric of every side."""
    several = len({(row.baseline, row.compared) for row in comparison.rows}) > 1
    columns = [
        *([Column("compared")] if several else []),
        Column("metric"),
        *numbers("baseline", "compared", "ratio", "95 % interval"),
        Column("verdict"),
        *numbers("n", "p"),
    ]
    return Table(
        columns,
        [
            [
                *(cells(_plain(f"{row.compared} / {row.baseline}")) if several else []),
                *_cells(row),
            ]
            for row in comparison.rows
        ],
    )


def verdicts(reading: Reading) -> list[str]:
    """Return the verdicts on an experiment's conditions; none where there is no second one."""
    found = reading.comparison
    return [] if found is None else [*verdict_sentences(found), *found.notes]


def verdict_table(reading: Reading) -> Table:
    """Return every metric of an experiment's conditions against the first."""
    found = reading.comparison
    return Table([], []) if found is None else comparison_table(found)


def conditions(reading: Reading) -> Table:
    """Return the medians of each condition of an experiment; of metrics nobody has, none."""
    if reading.experiment is None:
        return Table([], [])
    samples = rows(reading.experiment.samples)
    counted = [row for row in samples if row["status"] == "ok" and not row["warmup"]]
    metrics = [m for m in METRICS if any(row[m.name] is not None for row in counted)]
    headings = ["n", "failed", *(metric.words for metric in metrics)]
    table = []
    for condition in reading.experiment.conditions:
        own = [row for row in counted if row["condition"] == condition]
        failed = sum(
            row["condition"] == condition and row["status"] != "ok" and not row["warmup"]
            for row in samples
        )
        medians = [_measured(m.name, _median([row[m.name] for row in own])) for m in metrics]
        counts = [number(words.whole, count) for count in (len(own), failed)]
        table.append(cells(_plain(condition), *counts, *medians))
    return Table([Column("condition"), *numbers(*headings)], table)


def comparison_text(comparison: Comparison) -> str:
    """Return the verdicts as plain text."""
    return "\n".join([*map(_sentence, comparison.rows), *comparison.notes])


def comparison_html(comparison: Comparison) -> str:
    """Return the verdicts as one ``<div class="claude-pm">``, with its style, without scripts."""
    from claude_pm.views.html import render

    return render("comparison.html.j2", **_pieces(comparison))


def comparison_markdown(comparison: Comparison) -> str:
    """Return the verdicts as a Markdown table."""
    table = comparison_table(comparison)

    def line(texts: Sequence[str]) -> str:
        return f"| {' | '.join(texts)} |"

    body = [line([_in_markdown(cell.text) for cell in row]) for row in table.rows]
    rule = line(["---:" if column.is_number else ":---" for column in table.columns])
    head = line([_in_markdown(column.heading) for column in table.columns])
    said = [f"- {_in_markdown(sentence)}" for sentence in verdict_sentences(comparison)]
    notes = [f"\n{_in_markdown(note)}" for note in comparison.notes]
    return "\n".join([*said, "", head, rule, *body, *notes]) + "\n"


def write_comparison(comparison: Comparison, path: str | Path) -> Path:
    """Write the verdicts as one HTML file and return its path.

    Raises:
        ProfileStorageError: the file could not be written.
    """
    from claude_pm.views.html import render, script

    pieces = _pieces(comparison)
    html = render("comparison_report.html.j2", script=script("report.js"), **pieces)
    return write_text(path, html, what="comparison", example="comparison.html")


def value(metric: str, found: float | None) -> str:
    """Return a metric's value with its unit."""
    if found is None:
        return words.UNKNOWN
    if metric.endswith("_per_s"):
        return f"{found:,.1f}/s"
    if metric.endswith("_s"):
        return words.duration(found)
    if metric.endswith("_bytes"):
        return words.size(found)
    return words.usd(found) if metric.endswith("_usd") else words.whole(found)


def _pieces(comparison: Comparison) -> dict[str, Any]:
    return {
        "headline": verdict_sentences(comparison),
        "table": comparison_table(comparison),
        "notes": comparison.notes,
    }


def _cells(row: Compared) -> list[Cell]:
    verdict = row.verdict
    count = (
        words.whole(verdict.n_a)
        if verdict.n_a == verdict.n_b
        else f"{verdict.n_a:,} and {verdict.n_b:,}"
    )
    p_value = verdict.p_value
    p_text = (
        words.UNKNOWN if p_value is None else "<0.001" if p_value < _LEAST_P else f"{p_value:.3f}"
    )
    return cells(
        row.metric.words,
        _measured(row.metric.name, verdict.median_a),
        _measured(row.metric.name, verdict.median_b),
        number(words.ratio, verdict.ratio),
        Cell(_interval(row), value=verdict.ci_low),
        VERDICTS.get(row.word, row.word),
        Cell(count, value=min(verdict.n_a, verdict.n_b)),
        Cell(p_text, value=p_value),
    )


def _measured(metric: str, found: float | None) -> Cell:
    return Cell(value(metric, found), value=found)


def _sentence(row: Compared) -> str:
    verdict, metric = row.verdict, row.metric
    sides = f"{value(metric.name, verdict.median_b)} against {value(metric.name, verdict.median_a)}"
    if verdict.ratio is not None:
        interval = f" ({_interval(row)})" if verdict.ci_low is not None else ""
        sides += f", {words.ratio(verdict.ratio)} times{interval}"
    count = (
        f"n = {verdict.n_b}"
        if verdict.n_a == verdict.n_b
        else (f"n = {verdict.n_b} against {verdict.n_a}")
    )
    compared, baseline = _plain(row.compared), _plain(row.baseline)
    facts = f"{metric.words} {sides}, {count}"
    if row.word == "same":
        margin = f"{100 * verdict.margin:g} %"
        return f"{compared} and {baseline}: no difference beyond {margin} ({facts})."
    if row.word == "unclear":
        more = _doubt(verdict)
        if verdict.more_repeats is not None:
            more += f" About {words.counted(verdict.more_repeats, 'more sample')} of each would "
            more += "likely decide it."
        return f"{compared} and {baseline}: not enough data ({facts}).{more}"
    if row.metric.is_speed:
        return f"{compared} is {row.word} than {baseline}: {facts}."
    return f"{compared} takes {row.word} than {baseline}: {facts}."


def _doubt(verdict: Verdict) -> str:
    """Say why it is undecided where the interval alone looks as if it were not."""
    low, high, p_value = verdict.ci_low, verdict.ci_high, verdict.p_value
    if low is None or high is None or p_value is None:
        return ""
    if low <= 1.0 <= high or p_value < 1 - CONFIDENCE:
        return ""
    return (
        f" The interval leaves out 1, but p is {p_value:.3f}, corrected for all that is compared "
        "here: one of so many may look clear by chance."
    )


def _interval(row: Compared) -> str:
    low, high = row.verdict.ci_low, row.verdict.ci_high
    if low is None or high is None:
        return words.UNKNOWN
    return f"{words.ratio(low)} to {words.ratio(high)}"


def _median(values: Sequence[float | None]) -> float | None:
    import numpy as np

    known = [number for number in values if number is not None]
    return float(np.median(known)) if known else None


def _in_markdown(text: str) -> str:
    """Return a text that a name may stand in, without links, images, formulas or HTML of it."""
    return _MARKDOWN.sub(r"\\\g<0>", words.one_line(text))


def _plain(text: str) -> str:
    return words.one_line(text, 60)
