"""What an explorer remembers, so that a cell that is run again looks as it did.

It is known by the names of the profiles: a cell that records anew gives its profile the same name
and another id, and so do two mornings' loads of the same thing. A profile that nobody named is
called by the number of its cell's run, ``In[7]``, which is another one each time: it is known by
the cell that shows it. What is remembered are short texts and numbers, of the last few names.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from claude_pm.views.span_index import LONGEST, Likeness, Window

if TYPE_CHECKING:
    from ipywidgets import Widget

_MOST = 50
_NAME_LIMIT = 200
_NUMBERED = re.compile(r"In\[\d+\]")


@dataclass(slots=True)
class State:
    """The filters, by what is written in them, and the chosen span of each side."""

    filters: dict[str, str] = field(default_factory=dict)
    window: Window | None = None
    order: str = LONGEST
    chosen: dict[int, Likeness] = field(default_factory=dict)


_remembered: OrderedDict[tuple[str, ...], State] = OrderedDict()
_shown: dict[str, tuple[str, list[Widget]]] = {}


def remembered(*names: str) -> State:
    """Return the state of the explorer of profiles with these names; a new one by default."""
    key = tuple(_known_by(name[:_NAME_LIMIT]) for name in names)
    state = _remembered.setdefault(key, State())
    _remembered.move_to_end(key)
    if len(_remembered) > _MOST:
        _remembered.popitem(last=False)
    return state


def _known_by(name: str) -> str:
    return f"In[] shown by {_running_cell()[0]}" if _NUMBERED.fullmatch(name) else name


def replace_earlier(explorer: Widget) -> None:
    """Close what an earlier run of the same notebook cell has shown.

    A widget lives in the kernel until somebody closes it, and an explorer holds its profile: a
    cell that is run again would keep one more each time. Its earlier output is gone by now.
    """
    cell, run = _running_cell()
    if cell is None:
        return
    earlier_run, earlier = _shown.get(cell, (run, []))
    if earlier_run != run:
        for widget in earlier:
            _close(widget)
        earlier = []
    _shown[cell] = run, [*earlier, explorer]


def _running_cell() -> tuple[str | None, str]:
    """Return the ids of the notebook cell that runs, and of this run; None where that is none."""
    from IPython import get_ipython

    # Only a kernel's shell knows what it was asked; JupyterLab says which cell asked.
    get_parent = getattr(get_ipython(), "get_parent", None)
    asked: dict[str, Any] = (get_parent() if get_parent is not None else None) or {}
    cell = (asked.get("metadata") or {}).get("cellId")
    return cell, str((asked.get("header") or {}).get("msg_id"))


def _close(widget: Widget) -> None:
    children = getattr(widget, "children", ())
    for child in children:
        _close(child)
    for part in (getattr(widget, name, None) for name in ("layout", "style")):
        if part is not None:
            part.close()
    widget.unobserve_all()
    widget.close()
    if children:
        # Out[n] may hold the explorer itself.
        widget.children = ()
