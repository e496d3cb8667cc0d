"""One line that says how far an experiment is: in a notebook, on a terminal, nowhere else."""

from __future__ import annotations

import sys
from typing import Any


class ProgressLine:
    """Written between samples only, so that it disturbs none."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.done = 0
        self.interrupted = False
        self._seconds: dict[str, list[float]] = {}
        self._failures = 0
        self._last_failure = ""
        self._handle: Any = None
        self._width = 0

    def begin(self, condition: str) -> None:
        """Say what is being measured now, and how long the rest will take."""
        left = self._left()
        parts = [f"{self.done} of {self.total} samples", f"now {condition}"]
        if left:
            parts.append(f"{left} left")
        if self._failures:
            parts.append(f"{self._failures} failed, the last with {self._last_failure}")
        self.say(" · ".join(parts))

    def end(self, condition: str, seconds: float) -> None:
        """Count a sample."""
        self.done += 1
        self._seconds.setdefault(condition, []).append(seconds)

    def failed(self, condition: str, error: BaseException) -> None:
        """Count a sample that failed."""
        self.done += 1
        self._failures += 1
        self._last_failure = f"{type(error).__name__} ({condition})"

    def close(self) -> None:
        """Say that all is done."""
        failures = f", {self._failures} of them failed" if self._failures else ""
        before = "Interrupted; kept: " if self.interrupted else ""
        self.say(f"{before}{self.done} of {self.total} samples{failures}")
        if self._width:
            sys.stderr.write("\n")
            self._width = 0

    def say(self, text: str) -> None:
        """Replace the line."""
        if _in_notebook():
            from IPython import display

            bundle = {"text/plain": text}
            if self._handle is None:
                # IPython's classes have no types.
                make: Any = display.DisplayHandle
                self._handle = make()
                self._handle.display(bundle, raw=True)
            else:
                self._handle.update(bundle, raw=True)
        elif sys.stderr.isatty():
            sys.stderr.write(f"\r{text.ljust(self._width)}")
            sys.stderr.flush()
            self._width = len(text)

    def _left(self) -> str:
        if not self._seconds:
            return ""
        means = [sum(seconds) / len(seconds) for seconds in self._seconds.values()]
        seconds = (self.total - self.done) * sum(means) / len(means)
        return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"  # noqa: PLR2004


def _in_notebook() -> bool:
    # Only who imported IPython can be in a notebook.
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return hasattr(shell, "kernel")
