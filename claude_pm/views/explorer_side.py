"""One profile in the explorer: its timeline, its spans as a list, and one of them in detail."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from claude_pm.analysis.requests import REQUEST
from claude_pm.views import words
from claude_pm.views.explorer_parts import html, page, push_button, row
from claude_pm.views.explorer_state import State
from claude_pm.views.part_timeline import mark, part_timeline
from claude_pm.views.span_details import details_html
from claude_pm.views.span_index import SpanIndex, Window, listed

if TYPE_CHECKING:
    import numpy as np
    from ipywidgets import Box, VBox

MAX_LISTED = 200
"""Spans in the list: nobody reads more of them, and each is an element of the page."""

_MAX_RELATED = 50
_LEAST_ROWS, _MOST_ROWS = 3, 14
_EMPTY = (
    "No span was recorded, so there is nothing to explore; what else the profile has is in its "
    "summary."
)


class Side:
    """One profile: the timeline and the list of the spans that fit, and the chosen one's details.

    Only what changes is drawn anew.
    """

    def __init__(self, index: SpanIndex, state: State, side: int) -> None:
        from ipywidgets import HTML, Dropdown, HBox, Layout, Select, VBox

        self.index = index
        self._state = state
        self._side = side
        self._chosen: int | None = None
        kept = state.chosen.get(side)
        if kept is not None and len(index):
            self._chosen = index.find(kept)
        self._window: Window | None = None
        self._drawn: tuple[bytes, Window | None] | None = None
        self._detailed: int | None = None
        self._is_filling = False
        self._mark, self._timeline, self._details = HTML(), HTML(), HTML()
        self._note = HTML(layout=Layout(flex="1 1 auto"))
        wide = {"description_width": "4em"}
        self._list = Select(description="Span", style=wide, layout=Layout(width="auto"))
        self._list.observe(self._choose, "value")
        self._related = Dropdown(
            description="Go to",
            style=wide,
            layout=Layout(flex="1 1 auto", width="auto", min_width="0"),
        )
        self._go = push_button("Show", "Show the parent or child that is chosen here")
        self._go.on_click(self._go_to)
        # In JupyterLab the arrow keys move the notebook's cells even when a list has the focus
        # (ipywidgets issue 3912): a button does not mind.
        self._steps = {
            -1: push_button("Previous", "Choose the span above in the list"),
            1: push_button("Next", "Choose the span below in the list"),
        }
        for step, button in self._steps.items():
            button.on_click(partial(self._step, step))
        self._way = HBox([self._related, self._go], layout=Layout(width="100%"))
        left = Layout(flex="1 1 26em", min_width="0", max_width="100%", overflow="hidden")
        right = Layout(flex="2 1 30em", min_width="0", max_width="100%", overflow="hidden")
        self._below: Box = row(
            [
                VBox(
                    [self._list, HBox([self._note, *self._steps.values()]), self._way], layout=left
                ),
                VBox([self._details], layout=right),
            ]
        )
        about = html("explorer_part.html.j2", headline=[_headline(index)])
        self.widget: VBox = VBox(
            [about, self._mark, self._timeline, self._below],
            layout=Layout(flex="1 1 32em", min_width="0", max_width="100%", overflow="hidden"),
        )

    def show(self, places: np.ndarray, window: Window | None, order: str) -> None:
        """Show the spans at these places."""
        self._window = window
        found = self.index.first(places, order, MAX_LISTED)
        if self._chosen is None or self._chosen not in places:
            self._chosen = found[0] if found else None
        self._fill(found, len(places))
        self._show_chosen()
        drawn = places.tobytes(), window
        if drawn != self._drawn:
            self._drawn = drawn
            self._timeline.value = self._picture(places)

    def _fill(self, found: list[int], fitting: int) -> None:
        shown = found
        if self._chosen is not None and self._chosen not in found:
            shown = [self._chosen, *found[: MAX_LISTED - 1]]
        self._list_spans(shown)
        self._below.layout.display = "flex" if shown else "none"
        for button in self._steps.values():
            button.layout.display = None if len(shown) > 1 else "none"
        whole = words.counted(len(self.index), "span")
        note = whole if fitting == len(self.index) else f"{fitting:,} of {whole}"
        if fitting > len(shown):
            note += f", {len(shown):,} of them listed: filter to see the others"
        self._note.value = page("explorer_part.html.j2", notes=[f"{note}."])

    def _list_spans(self, places: list[int]) -> None:
        options = [(listed(self.index.span(place)), place) for place in places]
        self._is_filling = True
        try:
            if self._list.options != tuple(options):
                self._list.options = tuple(options)
                self._list.rows = max(_LEAST_ROWS, min(_MOST_ROWS, len(options)))
            self._list.value = self._chosen
        finally:
            self._is_filling = False

    def _choose(self, change: dict[str, Any]) -> None:
        if self._is_filling or change["new"] is None:
            return
        self._chosen = change["new"]
        self._show_chosen()

    def _step(self, step: int, button: object) -> None:
        del button
        at = self._list.index
        if at is not None and 0 <= at + step < len(self._list.options):
            self._list.index = at + step

    def _go_to(self, button: object) -> None:
        del button
        place = self._related.value
        if place is None:
            return
        self._chosen = place
        shown = [known for _, known in self._list.options]
        # It may be one that the filters leave out.
        self._list_spans(shown if place in shown else [place, *shown[: MAX_LISTED - 1]])
        self._show_chosen()

    def _show_chosen(self) -> None:
        place = self._chosen
        if place is None:
            self._mark.value = self._details.value = ""
            self._detailed = None
            return
        whole = self._window or (0.0, self.index.whole_s)
        self._mark.value = page("explorer_part.html.j2", mark=mark(self.index.span(place), whole))
        if place == self._detailed:
            return
        self._detailed = place
        self._state.chosen[self._side] = self.index.likeness(place)
        self._details.value = details_html(self.index, place)
        self._fill_related(place)

    def _fill_related(self, place: int) -> None:
        parent, children = self.index.parent(place), self.index.children(place)
        found = [] if parent is None else [(f"around: {listed(self.index.span(parent))}", parent)]
        found += [
            (f"within: {listed(self.index.span(child))}", child)
            for child in children[:_MAX_RELATED]
        ]
        self._related.options = tuple(found)
        self._related.index = 0 if found else None
        self._way.layout.display = None if found else "none"

    def _picture(self, places: np.ndarray) -> str:
        if not len(self.index):
            return page("explorer_part.html.j2", notes=[_EMPTY])
        if not len(places):
            return page("explorer_part.html.j2", notes=["No span fits these filters."])
        notes = []
        if self._window is not None:
            first, last = map(words.duration, self._window)
            notes.append(f"The timeline shows {first} to {last}; what reaches beyond is cut off.")
        timeline = part_timeline(self.index, places, self._window)
        return page("explorer_part.html.j2", timeline=timeline, notes=notes)


def _headline(index: SpanIndex) -> str:
    profile = index.profile
    name = words.one_line(profile.name, 120)
    counts = [words.counted(len(index), "span")]
    requests = int((profile.spans["name"] == REQUEST).sum())
    if requests:
        counts.append(words.counted(requests, "request"))
    if index.failed:
        counts.append(f"{index.failed:,} failed")
    spent = profile.meta.get("duration_s")
    within = "" if spent is None else f" in {words.duration(spent)}"
    return f"{name}: {', '.join(counts)}{within}"
