"""What a profile session starts and stops beside its recorder of spans."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

RenameFile = Callable[[str], str]
"""Gives a source file the name that a person knows it by, such as a notebook cell's number."""

Rows = list[Mapping[str, Any]]
"""Rows of one table: a mapping a row, from column to value. Times stand in them as ``t_ns``."""


class Instrument(Protocol):
    """Observes the running code for one or more tables of the profile."""

    def start(self) -> None:
        """Begin to observe.

        Raises:
            RecordingError: it cannot, and nothing was begun.
        """

    def stop(self) -> None:
        """End it; safe to call twice, and before :meth:`start`.

        Called once more if a KeyboardInterrupt came meanwhile; so is :meth:`tables`.
        """

    def tables(self, rename_file: RenameFile) -> dict[str, Rows]:
        """Return what was observed, by the names of the tables; called after :meth:`stop`."""

    def overhead(self) -> dict[str, Any]:
        """Return what observing cost, as JSON values, for ``meta["overhead"]``."""
