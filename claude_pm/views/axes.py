"""What the charts share: titles in words, axes with units, dots that show every sample."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from claude_pm.views import palette, words

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

FRAME_IN = 1.35
"""Height of what surrounds the rows of a chart: title, axis and note."""
LEGEND_IN = 0.35
_AXIS_IN = 0.5

_LOG_SPREAD = 20
_MANY = 200
_LEGEND_CHARACTERS = 97
_KEY_CHARACTERS = 5
_TITLE_CHARACTERS = 120
_NOTE_CHARACTERS = 115
_SHORT_NAME = 10
_GOLDEN_RATIO = 0.6180339887498949


def label(text: str | None, limit: int = 28) -> str:
    """Return a name as a label; matplotlib would read a pair of dollars as a formula."""
    return "unknown" if text is None else words.one_line(text, limit).replace("$", r"\$")


def model_note(meta: Mapping[str, Any]) -> str:
    """Return the end of a chart's note: whether a model stood behind the figures."""
    use = meta.get("model_use")
    return f"; model {label(use)}" if use else ""


def say(ax: Axes, sentence: str) -> None:
    """Put one sentence where there is nothing to draw."""
    ax.set_axis_off()
    ax.text(0.5, 0.5, sentence, ha="center", va="center", transform=ax.transAxes, wrap=True)


def title(ax: Axes, seen: str, note: str) -> None:
    """Write what is seen over the chart, and under it, smaller, what is drawn."""
    # Many long names would leave the chart itself no place.
    if len(seen) > _TITLE_CHARACTERS:
        seen = seen[: _TITLE_CHARACTERS - 1].rstrip("\\ ") + "…"
    lines = textwrap.wrap(note, _NOTE_CHARACTERS)
    pad = 13 + 11 * len(lines)
    ax.set_title(seen, loc="left", fontsize=11.5, fontweight="bold", pad=pad)
    # A long note shall not make the chart narrower; the title's pad keeps its place.
    ax.annotate(
        "\n".join(lines), (0, 1), (0, 9), xycoords="axes fraction", textcoords="offset points",
        fontsize=8.5, alpha=0.75, annotation_clip=False, in_layout=False,
    )  # fmt: skip


def dress(ax: Axes, *, grid_axis: str = "x") -> None:
    """Leave only what helps to read the chart."""
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.set_axisbelow(True)
    ax.grid(visible=True, axis="x" if grid_axis == "x" else "y", alpha=0.25, linewidth=0.7)
    ax.tick_params(axis="both", length=0, labelsize=9)


def rows_axis(ax: Axes, labels: Sequence[str]) -> None:
    """Label the rows, the first on top."""
    ax.set_yticks(range(len(labels)), labels)
    ax.set_ylim(len(labels) - 0.45, -0.6)


def time_axis(ax: Axes, longest_s: float, what: str) -> None:
    """Label the x axis, whose data are seconds, in the unit that suits its longest value."""
    from matplotlib.ticker import FuncFormatter

    unit_s, unit = words.time_unit(longest_s)
    ax.set_xlabel(f"{what} ({unit})", fontsize=9)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda seconds, _: f"{seconds / unit_s:,.6g}"))


def samples_axis(ax: Axes, samples: Sequence[float], what: str, *, is_time: bool = True) -> None:
    """Make the x axis fit samples: from zero, or logarithmic where they are far apart."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    shortest, longest = min(samples), max(samples)
    if shortest > 0 and longest > _LOG_SPREAD * shortest:
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.xaxis.set_minor_formatter(NullFormatter())
        ax.set_xlim(shortest / 1.6, longest * 1.6)
        what = f"{what}, logarithmic"
    else:
        ax.set_xlim(0, longest * 1.08 or 1.0)
    if is_time:
        time_axis(ax, longest, what)
    else:
        ax.set_xlabel(what, fontsize=9)
        ax.xaxis.set_major_formatter(FuncFormatter(lambda number, _: f"{number:,.6g}"))


def strip(
    ax: Axes,
    row: float,
    seconds: Sequence[float],
    colour: str,
    *,
    half_height: float = 0.24,
    marker: str = "o",
) -> None:
    """Draw samples of one row: a dot each, a bar at the median, a box over the middle half."""
    # Steps by the golden ratio spread any number of dots evenly, and always in the same way.
    heights = [
        row + half_height * 0.8 * (2 * (number * _GOLDEN_RATIO % 1) - 1) if number else row
        for number in range(len(seconds))
    ]
    many = len(seconds) > _MANY
    ax.scatter(
        seconds, heights, s=9 if many else 22, marker=marker, color=colour, alpha=0.85,
        edgecolors="white", linewidths=0.2 if many else 0.6, zorder=3,
    )  # fmt: skip
    lower, median, upper = (quantile(seconds, share) for share in (0.25, 0.5, 0.75))
    if len(seconds) > 1:
        ax.fill_betweenx(
            [row - half_height, row + half_height], lower, upper, color=colour, alpha=0.2,
            linewidth=0, zorder=1,
        )  # fmt: skip
    reach = half_height * 1.2
    # In the colour of the text, to be seen on any background; few dots it leaves in sight.
    ax.vlines(
        median, row - reach, row + reach, color=ax.xaxis.label.get_color(), linewidth=1.6,
        zorder=4 if many else 2,
    )  # fmt: skip


def quantile(values: Iterable[float], share: float) -> float:
    """Return a quantile by linear interpolation, as pandas computes it."""
    import pandas as pd

    return float(pd.Series(list(values)).quantile(share))


def legend(ax: Axes, keys: Sequence[Artist]) -> None:
    """Put a legend below the x axis, wherever that is."""
    from matplotlib.transforms import ScaledTranslation

    # Long names of rows leave the axes, and what is below them, less of the width.
    names = [line for name in ax.get_yticklabels() for line in name.get_text().split("\n")]
    room = _LEGEND_CHARACTERS - max(0, max(map(len, names), default=0) - _SHORT_NAME)
    below = ax.transAxes + ScaledTranslation(0, -_AXIS_IN, ax.figure.dpi_scale_trans)
    ax.legend(
        handles=keys, ncols=_fitting_columns([str(key.get_label()) for key in keys], room),
        loc="upper left", bbox_to_anchor=(0, 0), bbox_transform=below, borderaxespad=0,
        frameon=False, fontsize=8.5, handlelength=1.1, columnspacing=1.4,
    )  # fmt: skip


def _fitting_columns(texts: Sequence[str], room: int) -> int:
    """Return how many columns, filled one after the other, fit the width of the chart."""
    for columns in range(len(texts), 1, -1):
        height, longer = divmod(len(texts), columns)
        ends = [height * (n + 1) + min(n + 1, longer) for n in range(columns)]
        widths = [max(map(len, texts[first:end])) for first, end in pairwise([0, *ends])]
        if sum(widths) + _KEY_CHARACTERS * len(widths) <= room:
            return columns
    return 1


def dot_key(text: str, colour: str, marker: str = "o") -> Artist:
    """Return a legend's entry for dots."""
    from matplotlib.lines import Line2D

    return Line2D([], [], color=colour, marker=marker, linestyle="", markersize=6, label=text)


def box_key(text: str, colour: str, hatch: str | None = None) -> Artist:
    """Return a legend's entry for bars; a hatched one is not filled."""
    from matplotlib.patches import Patch

    if hatch is None:
        return Patch(facecolor=colour, edgecolor=palette.DARK_GREY, linewidth=0.3, label=text)
    return Patch(facecolor="none", edgecolor=colour, hatch=hatch, label=text)
