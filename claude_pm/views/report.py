"""The report: one HTML file with charts and tables, which opens anywhere and asks no network."""

from __future__ import annotations

import base64
import io
import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from claude_pm.profiles import html_file
from claude_pm.profiles.sharing import to_share
from claude_pm.profiles.text_file import write_text
from claude_pm.views import comparison, fragments, sentences, words
from claude_pm.views.charts import WIDTH_IN, draw_cache, draw_conditions, draw_modes
from claude_pm.views.environment import environment, provenance, reproduction
from claude_pm.views.flame import flame_svg
from claude_pm.views.memory_svg import memory_svg
from claude_pm.views.reading import Reading
from claude_pm.views.timeline_svg import timeline_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from claude_pm.profiles import Profile

FUNCTIONS = 25
_WITHOUT_CONTENT = "Prompts and answers were left out of this file; the numbers are whole."
_MAX_DOTS = 1000
_DOTS_DPI = 160


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart as an SVG in a data URI, and what it shows, for who cannot see it."""

    uri: str
    alt: str


def write_report(profile: Profile, path: str | Path, *, content: bool = True) -> Path:
    """Write the report to ``path`` and return it.

    ``content=False`` leaves prompts and answers out.

    It is written to a temporary file beside and renamed, so a failure leaves nothing half-written.

    Raises:
        ProfileStorageError: ``path`` is a folder, is in a folder that does not exist, or the disk
            refused.
    """
    html = report_html(profile, file_name=Path(path).name, content=content)
    return write_text(path, html, what="report", example="report.html")


def report_html(profile: Profile, *, file_name: str = "report.html", content: bool = True) -> str:
    """Return the report as HTML, of what may be shown to others.

    It names ``file_name`` as what its tables can be read from.
    """
    from claude_pm.views.html import render, script

    profile = to_share(profile, content=content)
    reading = Reading(profile)
    return render(
        "report.html.j2",
        script=script("report.js"),
        generator=html_file.GENERATOR,
        data_id=html_file.ELEMENT_ID,
        data_type=html_file.ELEMENT_TYPE,
        data=html_file.packed(profile),
        name=words.one_line(profile.name),
        headline=sentences.headline(reading),
        provenance=provenance(profile.meta),
        notes=[*sentences.notes(reading), *([] if content else [_WITHOUT_CONTENT])],
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
        timeline=timeline_svg(reading),
        memory=memory_svg(reading),
        flame=flame_svg(reading),
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
        environment=environment(profile.meta),
        source=profile.meta.get("source") or "",
        reproduction=reproduction(profile.meta),
        load_file=_load_line(file_name),
        load_id=_load_line(profile.id),
    )


def _load_line(path_or_id: str) -> str:
    return f"claude_pm.load({json.dumps(path_or_id, ensure_ascii=False)})"


def _charts(reading: Reading) -> list[Chart]:
    """Return the charts that have something to show."""
    drawings: list[tuple[str, Callable[[Axes], float | None]]] = [
        *_compared(reading),
        ("Time to first text, cold and warm", lambda ax: draw_cache(reading, ax)),
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
    import numpy as np
    from matplotlib.figure import Figure

    figure = Figure(layout="constrained")
    ax = figure.add_subplot()
    height = draw(ax)
    if height is None:
        return None
    figure.set_size_inches(WIDTH_IN, height)
    # Each dot of an SVG is an element: thousands are a picture instead.
    if sum(np.shape(dots.get_offsets())[0] for dots in ax.collections) > _MAX_DOTS:
        for dots in ax.collections:
            dots.set_rasterized(True)
    svg = io.BytesIO()
    # Named ids and no date: the same profile gives the same report.
    with mpl.rc_context({"svg.hashsalt": heading}), warnings.catch_warnings():
        # A name in a script that the chart's font lacks: the tables have it in full.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(svg, format="svg", dpi=_DOTS_DPI, metadata={"Date": None})
    uri = f"data:image/svg+xml;base64,{base64.b64encode(svg.getvalue()).decode()}"
    seen = ax.get_title(loc="left").replace(r"\$", "$")
    return Chart(uri, f"{heading}: {seen}")
