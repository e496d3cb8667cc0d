"""A profile on half a page: a headline, where the time went, and what went wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

from claude_pm.views import fragments, sentences, words
from claude_pm.views.fragments import Table
from claude_pm.views.sentences import headline

if TYPE_CHECKING:
    from claude_pm.profiles import Profile

__all__ = ["headline", "summary_html", "summary_text"]

TEXT_FUNCTIONS = 5
HTML_FUNCTIONS = 15
_CELL_LIMIT = 60


def summary_text(profile: Profile) -> str:
    """Return the summary as plain text, for a terminal."""
    modes = fragments.modes(profile)
    functions = fragments.functions(profile, TEXT_FUNCTIONS)
    parts = [
        "\n".join([headline(profile), *sentences.notes(profile)]),
        _text_table(fragments.phases(profile)),
        _text_table(fragments.other_spans(profile)),
    ]
    if len(modes.rows) > 1:
        parts.append("\n".join([_text_table(modes), *sentences.mode_sentences(profile)]))
    if functions.rows:
        parts.append(f"{_text_table(functions)}\n{words.AWAITED_SENTENCE}")
    parts.append(sentences.peak_memory(profile))
    failures = sentences.errors(profile)
    if failures:
        parts.append("\n".join(["Failures:", *(f"  {line}" for line in failures)]))
    return words.clean("\n\n".join(part for part in parts if part))


def summary_html(profile: Profile) -> str:
    """Return the summary as one ``<div class="claude-pm">``, with its style and without scripts."""
    from claude_pm.views.html import render

    return render(
        "summary.html.j2",
        headline=headline(profile),
        notes=sentences.notes(profile),
        bar=fragments.phase_bar(profile),
        phases=fragments.phases(profile),
        other_spans=fragments.other_spans(profile),
        modes=fragments.modes(profile),
        mode_sentences=sentences.mode_sentences(profile),
        functions=fragments.functions(profile, HTML_FUNCTIONS),
        awaited=words.AWAITED_SENTENCE,
        peak_memory=sentences.peak_memory(profile),
        errors=sentences.errors(profile),
    )


def _text_table(table: Table) -> str:
    if not table.rows:
        return ""
    lines = [[column.heading for column in table.columns]]
    lines += [[words.one_line(cell.text, _CELL_LIMIT) for cell in row] for row in table.rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(table.columns))]
    return "\n".join(
        "  ".join(
            text.rjust(width) if column.is_number else text.ljust(width)
            for text, width, column in zip(line, widths, table.columns, strict=True)
        ).rstrip()
        for line in lines
    )
