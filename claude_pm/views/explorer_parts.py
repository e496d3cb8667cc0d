"""The widgets that the explorer is put together from, and what stands on them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ipywidgets import HTML, Box, Button
    from markupsafe import Markup


def push_button(description: str, tooltip: str) -> Button:
    """Return a button."""
    from ipywidgets import Button, Layout

    # Beside a long list it would be made too narrow for its word.
    layout = Layout(width="7em", flex="0 0 auto")
    return Button(description=description, tooltip=tooltip, layout=layout)


def row(children: list[Any]) -> Box:
    """Return a box whose children stand side by side where there is place for it."""
    from ipywidgets import Box, Layout

    layout = Layout(display="flex", flex_flow="row wrap", width="100%", grid_gap="0 1.2em")
    return Box(children, layout=layout)


def html(template: str, **values: Any) -> HTML:
    """Return a widget with a template filled in."""
    from ipywidgets import HTML

    return HTML(page(template, **values))


def page(
    template: str,
    *,
    headline: list[str] | None = None,
    mark: Markup | None = None,
    timeline: Markup | None = None,
    notes: list[str] | None = None,
) -> str:
    """Return a template filled in; what it is not given is left away."""
    from claude_pm.views.html import render

    return render(
        template, headline=headline or [], mark=mark, timeline=timeline, notes=notes or []
    )
