"""The explorer: filter a profile's spans, look into each of them, and set two profiles beside."""

from __future__ import annotations

from math import ceil, floor, log10
from typing import TYPE_CHECKING, Any

from claude_pm.analysis.requests import REQUEST
from claude_pm.errors import ComparisonError
from claude_pm.profiles import Profile
from claude_pm.profiles.experiment import Experiment
from claude_pm.views import words
from claude_pm.views.explorer_parts import html, row
from claude_pm.views.explorer_side import Side
from claude_pm.views.explorer_state import remembered, replace_earlier
from claude_pm.views.span_index import (
    ALL,
    FILTERS,
    ORDERS,
    SpanIndex,
    Window,
    labelled,
    length_s,
)

if TYPE_CHECKING:
    from ipywidgets import (
        HTML,
        Dropdown,
        FloatRangeSlider,
        VBox,
        Widget,
    )

MAX_COMPARED = 1_000
"""Requests of a side that are compared at once: of more, that takes seconds."""

_STEPS = 100


def explore(profile: Profile, other: Profile | Experiment | None = None) -> VBox:
    """Return the explorer of a profile, or of two side by side, as a widget.

    Raises:
        ProfileError: a profile is still being recorded.
        ComparisonError: ``other`` is no profile.
    """
    if isinstance(other, Experiment):
        other = other.profile
    if other is not None and not isinstance(other, Profile):
        raise ComparisonError(
            f"A {type(other).__name__} cannot be explored beside a profile: give a profile or an "
            "experiment; claude_pm.load(path_or_id) reads a saved one."
        )
    profiles = [profile] if other is None else [profile, other]
    # Side by side, a second is as wide in both.
    axis_s = max(map(length_s, profiles))
    explorer = _Explorer([SpanIndex(one, side, axis_s=axis_s) for side, one in enumerate(profiles)])
    replace_earlier(explorer.widget)
    return explorer.widget


class _Explorer:
    """The filters, and what they let through of each profile."""

    def __init__(self, indexes: list[SpanIndex]) -> None:
        from ipywidgets import Layout, VBox

        profiles = [index.profile for index in indexes]
        self._state = remembered(*(profile.name for profile in profiles))
        self._sides = [Side(index, self._state, side) for side, index in enumerate(indexes)]
        self._values = {
            column: labelled(
                (value for index in indexes for value in index.values(column)),
                unknown,
                capital=column == "mode",
            )
            for column, unknown in FILTERS.items()
        }
        most = max(len(index) for index in indexes)
        self._filters = {
            column: self._dropdown(column.capitalize(), [ALL, *values], column)
            for column, values in self._values.items()
            if len(values) > 1
        }
        self._order = self._dropdown("Order", list(ORDERS), None) if most > 1 else None
        self._whole_s = max(index.whole_s for index in indexes)
        self._unit_s, self._unit = words.time_unit(self._whole_s)
        self._time = self._slider() if most > 1 else None
        style = html("explorer_style.html.j2")
        self.widget: VBox = VBox(
            [
                *([_compared(*profiles)] if len(profiles) > 1 else []),
                *self._controls(),
                row([side.widget for side in self._sides]),
                style,
            ],
            layout=Layout(width="100%"),
        )
        self.widget.add_class("claude-pm-explorer")
        self._show()

    def _dropdown(self, description: str, options: list[str], column: str | None) -> Dropdown:
        from ipywidgets import Dropdown, Layout

        kept = self._state.order if column is None else self._state.filters.get(column)
        dropdown = Dropdown(
            options=options,
            value=kept if kept in options else options[0],
            description=description,
            style={"description_width": "4em"},
            layout=Layout(width="16em"),
        )
        dropdown.observe(self._change, "value")
        return dropdown

    def _slider(self) -> FloatRangeSlider:
        from ipywidgets import FloatRangeSlider, Layout

        whole = self._whole_s / self._unit_s
        step = 10.0 ** floor(log10(whole)) / _STEPS
        last = ceil(whole / step) * step
        kept = self._state.window
        value = [0.0, last]
        if kept is not None and kept[0] < self._whole_s:
            value = [kept[0] / self._unit_s, min(kept[1] / self._unit_s, last)]
        slider = FloatRangeSlider(
            value=value,
            min=0.0,
            max=last,
            step=step,
            description="Time",
            readout_format=f",.{max(0, -floor(log10(step)))}f",
            continuous_update=False,
            style={"description_width": "4em"},
            layout=Layout(width="40em", max_width="100%"),
        )
        slider.observe(self._change, "value")
        return slider

    def _controls(self) -> list[Widget]:
        from ipywidgets import HBox, Label

        found: list[Widget] = list(self._filters.values())
        if self._order is not None:
            found.append(self._order)
        if self._time is not None:
            found.append(HBox([self._time, Label(self._unit)]))
        return [row(found)] if found else []

    def _change(self, change: dict[str, Any]) -> None:
        del change
        self._state.filters = {
            column: dropdown.value
            for column, dropdown in self._filters.items()
            if dropdown.value != ALL
        }
        self._state.window = self._window()
        if self._order is not None:
            self._state.order = self._order.value
        self._show()

    def _window(self) -> Window | None:
        """Return the seconds that are shown; None for all."""
        if self._time is None:
            return None
        first, last = self._time.value
        if first <= 0 and last >= self._time.max:
            return None
        # A window of no width could not be drawn.
        least = self._time.step
        first = min(first, self._time.max - least)
        return first * self._unit_s, max(last, first + least) * self._unit_s

    def _show(self) -> None:
        chosen = {
            column: self._values[column][dropdown.value]
            for column, dropdown in self._filters.items()
            if dropdown.value != ALL
        }
        order = ORDERS[0] if self._order is None else self._order.value
        for side in self._sides:
            side.show(side.index.fitting(chosen, self._window()), self._window(), order)


def _compared(base: Profile, other: Profile) -> HTML:
    """Return what differs between two profiles, or why that is not said."""
    from ipywidgets import HTML

    from claude_pm.analysis.compare import compare
    from claude_pm.views.comparison import comparison_html

    most = max(int((one.spans["name"] == REQUEST).sum()) for one in (base, other))
    if most > MAX_COMPARED:
        said = (
            f"More than {MAX_COMPARED:,} requests take their time to be compared: "
            "claude_pm.compare(a, b) says what differs."
        )
        return html("explorer_part.html.j2", notes=[said])
    try:
        return HTML(comparison_html(compare(base, other)))
    except ComparisonError as error:
        return html("explorer_part.html.j2", notes=[str(error)])
