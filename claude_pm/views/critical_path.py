"""The critical path for people: a sentence, and tables of what was waited for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from claude_pm.analysis.replay import OWN
from claude_pm.analysis.rows import rows
from claude_pm.views import words
from claude_pm.views.fragments import Column, Table, cells, numbers
from claude_pm.views.text_table import text_table

if TYPE_CHECKING:
    from claude_pm.analysis.critical_path import CriticalPath

_OWN = "own Python"
_SPAN = "span "
_MOST_IN_WORDS = 3
_LEAST_SHARE = 0.01
_MAX_ROWS = 8


def headline(path: CriticalPath) -> str:
    """Say what most of the time was waited for, and what would save the most."""
    waited = _waited(path)
    shares = words.shares([seconds / path.wall_s for _, seconds in waited] if path.wall_s else [])
    parts = [
        f"{what} took {share}"
        for (what, seconds), share in zip(waited, shares, strict=False)
        if seconds >= _LEAST_SHARE * path.wall_s
    ][:_MOST_IN_WORDS]
    said = f"Of {words.duration(path.wall_s)}"
    said += f", {', '.join(parts)}." if parts else " there is nothing to tell."
    # Without an agent there is nothing to ask, and without all of one's own code nothing at all:
    # that is for the table.
    for row in rows(path.without):
        what = row["what"]
        if row["saved_s"] > 0 and (what.startswith(_SPAN) or (what in words.PHASES)):
            saved = words.duration(row["saved_s"])
            return f"{said} The most to gain: without {_named(what)} it would take {saved} less."
    return said


def critical_path_text(path: CriticalPath) -> str:
    """Return the sentence and the tables as plain text."""
    return "\n\n".join([headline(path), *filter(None, map(text_table, _tables(path)))])


def critical_path_html(path: CriticalPath) -> str:
    """Return them as one ``<div class="claude-pm">``, with its style, without scripts."""
    from claude_pm.views.html import render

    tables = [table for table in _tables(path) if table.rows]
    return render("critical_path.html.j2", headline=headline(path), tables=tables)


def _tables(path: CriticalPath) -> Iterable[Table]:
    """Return what was waited for, of which agents, and what it would take without each."""
    yield _shares("waited for", _waited(path), path.wall_s)
    agents = [(row["agent"], row["seconds"]) for row in rows(path.by_agent)]
    if any(agent is not None for agent, _ in agents):
        named = [(agent or words.UNKNOWN, seconds) for agent, seconds in agents]
        yield _shares("agent", named, path.wall_s)
    columns = [Column("if this took no time"), *numbers("the whole would take", "saved")]
    yield Table(
        columns,
        [
            cells(
                _named(row["what"]),
                words.duration(row["wall_s"]),
                words.duration(max(0.0, row["saved_s"])),
            )
            for row in rows(path.without)[:_MAX_ROWS]
        ],
    )


def _waited(path: CriticalPath) -> list[tuple[str, float]]:
    """Return the seconds of each kind, one's own spans by their names, the longest first."""
    seconds: dict[str, float] = {}
    for row in rows(path.table, ["kind", "name", "duration_s"]):
        kind, name = row["kind"], row["name"]
        what = _plain(name) if kind == OWN and name is not None else _named(kind)
        seconds[what] = seconds.get(what, 0.0) + row["duration_s"]
    return sorted(seconds.items(), key=lambda item: -item[1])


def _named(what: str) -> str:
    if what == OWN:
        return _OWN
    return words.PHASES.get(what) or _plain(what.removeprefix(_SPAN))


def _shares(heading: str, seconds: list[tuple[str, float]], wall_s: float) -> Table:
    shares = words.shares([spent / wall_s if wall_s else None for _, spent in seconds])
    found = [
        cells(what, words.duration(spent), share)
        for (what, spent), share in zip(seconds, shares, strict=True)
    ]
    return Table([Column(heading), *numbers("time", "share")], found[:_MAX_ROWS])


def _plain(text: str) -> str:
    return words.one_line(text, 60)
