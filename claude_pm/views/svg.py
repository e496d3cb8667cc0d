"""Drawing SVG: elements whose every value is escaped and cleaned, and the axes they share.

The drawings hold no script, no reference to anything outside, and no style sheet: they take the
colour of the text around them, so that they are right on a light and on a dark ground. Their units
are pixels down and percents across, so that text keeps its size whatever the width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from math import ceil, floor, log10
from typing import TYPE_CHECKING, Any

from claude_pm.views import words

if TYPE_CHECKING:
    from markupsafe import Markup

    from claude_pm.views.reading import Reading

PLOT_X = 19.0
"""Percent of the width left of a plot, for what its rows are called."""
PLOT_WIDTH = 80.0
"""Percent of the width that is a plot's."""
UNITS = 1000.0
"""Units across a plot, whatever the time they stand for."""

FONT_SIZE = 11
AXIS_HEIGHT = 20.0
KEY_HEIGHT = 18.0
ALARM = "var(--alarm, #e0503e)"
"""A failure's colour, where the page names none."""

_CHARACTER = 6.2
_KEY_WIDTH = 560.0
_MAX_TICKS = 8
_NEAR_END = 0.985


def element(name: str, *content: str, **attributes: object) -> Markup:
    """Return an element; text in it is escaped and cleaned, and what is Markup already is kept.

    ``_`` in an attribute's name is written as ``-``, and at its end left out. None is left out.
    """
    from markupsafe import Markup

    said = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_printed(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    inner = "".join(_printed(part) for part in content)
    # Every value has been escaped, and the names are ours.
    return Markup(f"<{name}{said}>{inner}</{name}>" if content else f"<{name}{said}/>")  # noqa: S704


def number(value: float) -> str:
    """Return a coordinate: two decimals are a hundredth of a pixel."""
    return f"{value:.2f}".rstrip("0").rstrip(".") if value % 1 else f"{value:.0f}"


def whole_s(reading: Reading) -> float:
    """Return the seconds that the time axes of a profile's drawings are long; never 0."""
    spans = (span["start_s"] + (span["duration_s"] or 0.0) for span in reading.spans)
    readings = reading.profile.memory["t_s"].dropna()
    last = max(spans, default=0.0), float(readings.max()) if len(readings) else 0.0
    return max(float(reading.meta.get("duration_s") or 0.0), *last) or 1.0


def percent_of_plot(share: float) -> str:
    """Return where in the drawing a share (0 to 1) of the plot's width is."""
    return f"{number(PLOT_X + PLOT_WIDTH * share)}%"


def drawing(
    kind: str, about: str, height: float, *content: str, duration_s: float | None = None
) -> Markup:
    """Return a whole drawing: as wide as there is place, and ``height`` pixels high.

    ``kind`` is its class. ``about`` says what is seen, to those who do not see. With
    ``duration_s``, its plots' :data:`UNITS` stand for the time from 0 to that.
    """
    return element(
        "svg", *content, class_=kind, role="img", aria_label=about, width="100%", height=height,
        font_size=FONT_SIZE, fill="currentColor", data_start_s=None if duration_s is None else 0,
        data_duration_s=None if duration_s is None else f"{duration_s:.9g}",
    )  # fmt: skip


def plot(height: float, *content: str, y: float = 0.0) -> Markup:
    """Return a plot: :data:`UNITS` across, stretched to its part of the width; pixels down."""
    return element(
        "svg", *content, class_="claude-pm-plot", x=f"{number(PLOT_X)}%", y=y,
        width=f"{number(PLOT_WIDTH)}%", height=height,
        viewBox=f"0 0 {number(UNITS)} {number(height)}", preserveAspectRatio="none",
    )  # fmt: skip


def row_label(text: str, y: float, title: str | None = None) -> Markup:
    """Return what stands left of a plot; what is too long is cut off, and whole in its title."""
    return element(
        "svg", element("title", title or text), element("text", text, x=0, y=y),
        width=f"{number(PLOT_X - 1)}%", height="100%",
    )  # fmt: skip


def time_ticks(
    duration_s: float, height: float, *words_in_plot: str, start_s: float = 0.0
) -> Markup:
    """Return the time axis below a plot of that height, with lines through it.

    The plot shows ``duration_s`` from ``start_s`` on.

    Words that stand at a time within the plot go with the ticks: they are written anew, or not at
    all, when the plot is zoomed.
    """
    unit_s, unit = words.time_unit(start_s + duration_s)
    step = _step(duration_s / unit_s)
    decimals = max(0, -floor(log10(step)))
    marks = []
    at = ceil(start_s / (step * unit_s) - 1e-9)
    while at * step * unit_s <= start_s + duration_s * (1 + 1e-9):
        share = max(0.0, (at * step * unit_s - start_s) / duration_s)
        x = percent_of_plot(share)
        marks.append(element("line", x1=x, x2=x, y1=0, y2=height + 3, stroke="currentColor",
                             stroke_opacity=0.18))  # fmt: skip
        anchor = "end" if share > _NEAR_END else "middle"
        marks.append(element("text", f"{at * step:,.{decimals}f} {unit}", x=x, y=height + 15,
                             text_anchor=anchor, fill_opacity=0.75))  # fmt: skip
        at += 1
    return element("g", *marks, *words_in_plot, class_="claude-pm-ticks", pointer_events="none")


def key(entries: Sequence[tuple[str, Markup]], y: float) -> tuple[Markup, float]:
    """Return a key, and its height: each entry is its words and its :func:`box` or line."""
    found = []
    left, top = 0.0, y
    for text, sign in entries:
        width = 16 + len(text) * _CHARACTER + 14
        if left and left + width > _KEY_WIDTH:
            left, top = 0.0, top + KEY_HEIGHT
        words_of_it = element("text", text, x=16, y=12)
        place = f"translate({number(left)} {number(top)})"
        found.append(element("g", sign, words_of_it, transform=place))
        left += width
    height = top + KEY_HEIGHT - y if entries else 0.0
    return element("g", *found, class_="claude-pm-key"), height


def box(**attributes: object) -> Markup:
    """Return a box of a key."""
    return element("rect", y=4, width=11, height=9, **attributes)


def line(**attributes: object) -> Markup:
    """Return a line of a key."""
    drawn = {"stroke": "currentColor", "stroke_width": 2} | attributes
    return element("line", x2=12, y1=8.5, y2=8.5, **drawn)


def unique_id(meta: Mapping[str, Any], kind: str) -> str:
    """Return an id for a part of a profile's drawing: several drawings stand on one page."""
    return f"cpm-{kind}-{hashlib.sha256(str(meta.get('id')).encode()).hexdigest()[:10]}"


def stripes(id: str, colour: str) -> Markup:
    """Return the pattern of waiting: lines along the time, so that zooming does not change it."""
    return element(
        "pattern",
        element("rect", width=8, height=4, fill=colour, fill_opacity=0.3),
        element("rect", width=8, height=2, fill=colour),
        id=id, width=8, height=4, patternUnits="userSpaceOnUse",
    )  # fmt: skip


def hatch(id: str, colour: str, *, opacity: float = 1.0, ground: str = "none") -> Markup:
    """Return the pattern of slanting lines, upon a thin ground of a colour."""
    return element(
        "pattern",
        element("rect", width=6, height=6, fill=ground, fill_opacity=0.35),
        element("path", d="M-1 1L1 -1M0 6L6 0M5 7L7 5", stroke=colour, stroke_width=1.4,
                stroke_opacity=opacity),
        id=id, width=6, height=6, patternUnits="userSpaceOnUse",
    )  # fmt: skip


def text_px(text: str) -> float:
    """Return about how wide a text is drawn, with some space around it."""
    return len(text) * _CHARACTER + 6


def fitted(text: str, pixels: float) -> str:
    """Return as much of a text as fits, with an ellipsis; nothing where hardly a letter would."""
    fitting = int((pixels - 6) / _CHARACTER)
    if fitting < 3:  # noqa: PLR2004 - fewer letters say nothing
        return ""
    return words.one_line(text, fitting)


def _printed(value: object) -> str:
    from markupsafe import Markup, escape

    if isinstance(value, Markup):
        return value
    if isinstance(value, float):
        return number(value)
    return escape(words.clean(value) if isinstance(value, str) else str(value))


def _step(whole: float) -> float:
    """Return 1, 2 or 5 times a power of ten, so that a few of them make the whole."""
    least = whole / _MAX_TICKS
    power = 10.0 ** floor(log10(least))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= least)
