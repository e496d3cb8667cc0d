"""A profile on a page: a headline, pictures, where the time went, and what went wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

from claude_pm.views import comparison, fragments, sentences, words
from claude_pm.views.flame import flame_svg
from claude_pm.views.memory_svg import memory_svg
from claude_pm.views.reading import Reading
from claude_pm.views.text_table import text_table
from claude_pm.views.timeline_svg import timeline_svg
from claude_pm.views.timeline_text import timeline_text

if TYPE_CHECKING:
    from claude_pm.profiles import Profile

TEXT_FUNCTIONS = 5
HTML_FUNCTIONS = 15


def headline(profile: Profile) -> str:
    """Say in a sentence what was answered, in what time, and where the time went."""
    return sentences.headline(Reading(profile))


def summary_bundle(profile: Profile) -> dict[str, str]:
    """Return the summary in both forms, reading the profile once (IPython's display protocol)."""
    reading = Reading(profile)
    return {"text/plain": _text(reading), "text/html": _html(reading)}


def summary_text(profile: Profile) -> str:
    """Return the summary as plain text, for a terminal."""
    return _text(Reading(profile))


def summary_html(profile: Profile) -> str:
    """Return the summary as one ``<div class="claude-pm">``, with its style and without scripts."""
    return _html(Reading(profile))


def _text(reading: Reading) -> str:
    modes = fragments.modes(reading)
    verdicts = comparison.verdicts(reading)
    functions = fragments.functions(reading, TEXT_FUNCTIONS)
    places = fragments.places(reading, TEXT_FUNCTIONS)
    parts = [
        "\n".join([sentences.headline(reading), *sentences.notes(reading)]),
        timeline_text(reading),
        text_table(fragments.phases(reading)),
        text_table(fragments.other_spans(reading)),
    ]
    if reading.experiment is not None:
        parts.append("\n".join([text_table(comparison.conditions(reading)), *verdicts]))
    elif len(modes.rows) > 1:
        parts.append("\n".join([text_table(modes), *sentences.mode_sentences(reading)]))
    if functions.rows:
        parts.append(f"{text_table(functions)}\n{words.AWAITED_SENTENCE}")
    if places.rows:
        parts.append(f"{text_table(places)}\n{sentences.sampling(reading)}")
    for table, said in (
        (fragments.allocations(reading, TEXT_FUNCTIONS), sentences.allocations(reading)),
        (fragments.lines(reading, TEXT_FUNCTIONS), words.LINES_SENTENCE),
    ):
        if table.rows:
            parts.append(f"{text_table(table)}\n{said}")
    parts.append(sentences.peak_memory(reading))
    failures = sentences.errors(reading)
    if failures:
        parts.append("\n".join(["Failures:", *(f"  {line}" for line in failures)]))
    return "\n\n".join(part for part in parts if part)


def _html(reading: Reading) -> str:
    from claude_pm.views.html import render

    places = fragments.places(reading, HTML_FUNCTIONS)
    return render(
        "summary.html.j2",
        headline=sentences.headline(reading),
        notes=sentences.notes(reading),
        bar=fragments.phase_bar(reading),
        timeline=timeline_svg(reading),
        memory=memory_svg(reading),
        flame=flame_svg(reading),
        phases=fragments.phases(reading),
        other_spans=fragments.other_spans(reading),
        modes=fragments.modes(reading) if reading.experiment is None else None,
        conditions=comparison.conditions(reading),
        verdicts=comparison.verdicts(reading),
        mode_sentences=sentences.mode_sentences(reading),
        functions=fragments.functions(reading, HTML_FUNCTIONS),
        awaited=words.AWAITED_SENTENCE,
        places=places,
        sampling=sentences.sampling(reading),
        allocations=fragments.allocations(reading, HTML_FUNCTIONS),
        traced=sentences.allocations(reading),
        lines=fragments.lines(reading, HTML_FUNCTIONS),
        scalene=words.LINES_SENTENCE,
        peak_memory=sentences.peak_memory(reading),
        errors=sentences.errors(reading),
        # Where no request says it, the code does: what tells most stands open.
        is_code=not reading.requests,
    )
