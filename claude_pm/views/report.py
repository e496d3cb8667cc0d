"""The report: one HTML file with charts and tables, which opens anywhere and asks no network."""

from __future__ import annotations

import base64
import io
import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from claude_pm.profiles.text_file import write_text
from claude_pm.views import comparison, fragments, sentences, words
from claude_pm.views.charts import WIDTH_IN, draw_cache, draw_conditions, draw_memory, draw_modes
from claude_pm.views.reading import Reading
from claude_pm.views.timeline import draw_timeline

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from claude_pm.profiles import Profile

FUNCTIONS = 25

_META = {
    "created_at": "Created",
    "duration_s": "Duration",
    "model_use": "Model",
    "cpu": "CPU recording",
    "memory": "Memory recording",
    "python": "Python",
    "platform": "Platform",
    "cpu_count": "CPUs",
    "git_commit": "Git commit",
    "git_dirty": "Git working copy",
    "packages": "Packages",
    "settings": "Settings",
    "id": "Profile",
    "pid": "Process",
    "schema_version": "Schema version",
}
_MEANINGS = {
    ("model_use", "live"): "live: called while this was recorded",
    ("model_use", "replayed"): "replayed: its answers came from a recording",
    ("model_use", "not called"): "not called: no model stands behind these figures",
    ("cpu", "cprofile"): "cProfile on (it slows Python code down)",
    ("cpu", "sample"): "sampled",
    ("cpu", None): "off",
    ("memory", "rss"): "resident memory, read at intervals",
    ("memory", "trace"): "allocations traced (it makes code several times slower)",
    ("memory", "memray"): "allocations tracked by memray (it makes code slower)",
    ("memory", None): "off",
    ("git_dirty", True): "with changes that were not committed",
    ("git_dirty", False): "as committed",
}
# Shown elsewhere in the report.
_ELSEWHERE = ("name", "source")


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart as an SVG in a data URI, and what it shows, for who cannot see it."""

    uri: str
    alt: str


def write_report(profile: Profile, path: str | Path) -> Path:
    """Write the report to ``path`` and return it.

    It is written to a temporary file beside and renamed, so a failure leaves nothing half-written.

    Raises:
        ProfileStorageError: ``path`` is a folder, is in a folder that does not exist, or the disk
            refused.
    """
    return write_text(path, report_html(profile), what="report", example="report.html")


def report_html(profile: Profile) -> str:
    """Return the report as HTML."""
    from claude_pm.views.html import render

    reading = Reading(profile)
    return render(
        "report.html.j2",
        name=words.one_line(profile.name),
        headline=sentences.headline(reading),
        notes=sentences.notes(reading),
        errors=sentences.errors(reading),
        peak_memory=sentences.peak_memory(reading),
        bar=fragments.phase_bar(reading),
        phases=fragments.phases(reading),
        other_spans=fragments.other_spans(reading),
        modes=fragments.modes(reading) if reading.experiment is None else None,
        conditions=comparison.conditions(reading),
        verdicts=comparison.verdicts(reading),
        comparison=comparison.verdict_table(reading),
        mode_sentences=sentences.mode_sentences(reading),
        charts=_charts(reading),
        requests=fragments.requests(reading),
        spans=fragments.spans(reading),
        functions=fragments.functions(reading, FUNCTIONS),
        awaited=words.AWAITED_SENTENCE,
        places=fragments.places(reading, FUNCTIONS),
        sampling=sentences.sampling(reading),
        allocations=fragments.allocations(reading, FUNCTIONS),
        traced=sentences.allocations(reading),
        lines=fragments.lines(reading, FUNCTIONS),
        scalene=words.LINES_SENTENCE,
        environment=_environment(profile.meta),
        source=profile.meta.get("source") or "",
        load_line=f"claude_pm.load({json.dumps(profile.id, ensure_ascii=False)})",
    )


def _charts(reading: Reading) -> list[Chart]:
    """Return the charts that have something to show."""
    drawings: list[tuple[str, Callable[[Axes], float | None]]] = [
        *_compared(reading),
        ("Time to first text, cold and warm", lambda ax: draw_cache(reading, ax)),
        ("Timeline", lambda ax: draw_timeline(reading, ax)),
        ("Memory", lambda ax: draw_memory(reading, ax)),
    ]
    charts = [_chart(heading, draw) for heading, draw in drawings]
    return [chart for chart in charts if chart is not None]


def _compared(reading: Reading) -> list[tuple[str, Callable[[Axes], float | None]]]:
    if reading.experiment is None:
        return [
            ("Request duration by mode", lambda ax: draw_modes(reading, ax, "duration_s")),
            ("Time to first text by mode", lambda ax: draw_modes(reading, ax, "ttft_s")),
        ]
    return [
        ("Duration by condition", lambda ax: draw_conditions(reading, ax, "duration_s")),
        ("Time to first text by condition", lambda ax: draw_conditions(reading, ax, "ttft_s")),
    ]


def _chart(heading: str, draw: Callable[[Axes], float | None]) -> Chart | None:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    figure = Figure(layout="constrained")
    ax = figure.add_subplot()
    height = draw(ax)
    if height is None:
        return None
    figure.set_size_inches(WIDTH_IN, height)
    svg = io.BytesIO()
    # Named ids and no date: the same profile gives the same report.
    with mpl.rc_context({"svg.hashsalt": heading}), warnings.catch_warnings():
        # A name in a script that the chart's font lacks: the tables have it in full.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(svg, format="svg", metadata={"Date": None})
    uri = f"data:image/svg+xml;base64,{base64.b64encode(svg.getvalue()).decode()}"
    seen = ax.get_title(loc="left").replace(r"\$", "$")
    return Chart(uri, f"{heading}: {seen}")


def _environment(meta: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """Return every meta item by its name in prose, or by its own if it is of a later version."""
    known = [(_META[key], key) for key in _META if key in meta]
    unknown = [(key, key) for key in meta if key not in _META and key not in _ELSEWHERE]
    return [(name, _meta_lines(key, meta[key])) for name, key in known + unknown]


def _meta_lines(key: str, value: Any) -> list[str]:
    if isinstance(value, Mapping):
        between = " " if key == "packages" else " = "
        return [
            f"{name}{between}{'not set' if part is None else _plain(part)}"
            for name, part in value.items()
        ]
    if key == "created_at":
        return [datetime.fromisoformat(value).astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")]
    if key == "duration_s":
        return [words.duration(value)]
    return [_MEANINGS.get((key, value)) or _plain(value)]


def _plain(value: Any) -> str:
    if value is None:
        return "not known"
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
