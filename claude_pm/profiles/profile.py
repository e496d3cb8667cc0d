"""A Profile: what one profiled cell, command or block of code recorded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from claude_pm.errors import ProfileError
from claude_pm.profiles import schema

if TYPE_CHECKING:
    import pandas as pd
    from ipywidgets import VBox
    from matplotlib.axes import Axes

    from claude_pm.analysis.critical_path import CriticalPath
    from claude_pm.analysis.what_if import WhatIf
    from claude_pm.profiles.experiment import Experiment

TableSource = Callable[[], "pd.DataFrame"]
"""Makes a table's DataFrame when somebody asks for it."""

SUMMARY_COLUMNS = ("phase", "n", "total_s", "median_s", "p95_s", "max_s")


class Profile:
    """Tables and a meta record; see ``claude_pm.profiles.schema`` for every column.

    ``meta`` is a dict of JSON values: ``schema_version``, ``id``, ``name``, ``created_at``,
    ``duration_s``, ``source``, ``python``, ``platform``, ``cpu_count``, ``packages``,
    ``git_commit``, ``git_dirty``, ``settings``, ``model_use`` (``live``, ``replayed`` or
    ``not called``) and ``overhead`` (what recording itself cost: looks taken and missed, time in
    our own code; that of workers too). ``repeats`` and ``lines`` are there where they were asked
    for.

    The tables are pandas DataFrames, empty with the right columns where nothing was recorded.
    They are made when first asked for. While the code still runs there are none yet, and asking
    raises :class:`~claude_pm.errors.ProfileError`.
    """

    def __init__(
        self, meta: dict[str, Any], tables: Mapping[str, pd.DataFrame | TableSource] | None
    ) -> None:
        self.meta = meta
        self._tables: dict[str, pd.DataFrame | TableSource] | None = (
            None if tables is None else dict(tables)
        )

    def finish(
        self, meta: dict[str, Any], tables: Mapping[str, pd.DataFrame | TableSource]
    ) -> None:
        """Fill in what was recorded. Called once, by whoever recorded it."""
        self.meta = meta
        self._tables = dict(tables)

    @property
    def name(self) -> str:
        """What the profile was called by its maker."""
        return str(self.meta["name"])

    @property
    def id(self) -> str:
        """Unique, sorts by time, and is the folder's name when saved."""
        if self._tables is None:
            raise ProfileError(self._still_recording("its id"))
        return str(self.meta["id"])

    @property
    def spans(self) -> pd.DataFrame:
        """One row a span: named intervals with agent, mode, tokens, TTFT, cost and status."""
        return self.table("spans")

    @property
    def functions(self) -> pd.DataFrame:
        """One row a function, from cProfile. ``cumulative_s`` never counts awaited time."""
        return self.table("functions")

    @property
    def callers(self) -> pd.DataFrame:
        """One row a caller and callee, from cProfile."""
        return self.table("callers")

    @property
    def samples(self) -> pd.DataFrame:
        """One row a stack seen by the sampler."""
        return self.table("samples")

    @property
    def memory(self) -> pd.DataFrame:
        """One row a reading of a process's resident memory."""
        return self.table("memory")

    @property
    def allocations(self) -> pd.DataFrame:
        """One row a source line that held memory at the end."""
        return self.table("allocations")

    @property
    def lines(self) -> pd.DataFrame:
        """One row a source line, with its CPU and memory."""
        return self.table("lines")

    def table(self, name: str) -> pd.DataFrame:
        """Return a table by its name.

        Raises:
            ProfileError: there is no such table, or the code is still running.
        """
        if name not in schema.TABLES:
            raise ProfileError(
                f"A profile has no table {name!r}; it has {', '.join(schema.TABLES)}."
            )
        if self._tables is None:
            raise ProfileError(self._still_recording("its tables"))
        found = self._tables.get(name)
        if found is None:
            found = schema.frame(schema.TABLES[name])
        elif callable(found):
            found = found()
        self._tables[name] = found
        return found

    def summary(self) -> pd.DataFrame:
        """Return one row a phase: ``phase, n, total_s, median_s, p95_s, max_s``.

        A phase is a span's name, except that a ``chat`` is told apart into ``prefill`` (request
        to first content, the TTFT) and ``decode`` (the rest), and ``orchestrate`` into its
        parts, its own remaining time being ``other``. A span's time holds that of the spans
        within it, so totals of nested or overlapping spans add up to more than the wall-clock
        time; ``claude_pm.analysis.phase_table`` gives shares that add up to 1. Seconds
        throughout; p95 by linear interpolation.
        """
        import pandas as pd

        seconds = pd.DataFrame(_phase_seconds(self.spans), columns=["phase", "seconds"])
        rows = [
            {
                "phase": phase,
                "n": len(group),
                "total_s": group["seconds"].sum(),
                "median_s": group["seconds"].median(),
                "p95_s": group["seconds"].quantile(0.95),
                "max_s": group["seconds"].max(),
            }
            for phase, group in seconds.groupby("phase")
        ]
        table = pd.DataFrame(rows, columns=list(SUMMARY_COLUMNS))
        return table.sort_values("total_s", ascending=False, ignore_index=True)

    def save(self, dir: str | Path | None = None) -> Path:
        """Store it as ``<dir>/<id>/`` and return that folder.

        ``dir`` defaults to ``CLAUDE_PM_PROFILES_DIR`` (``profiles``). It is written to a temporary
        folder and renamed, so a failure leaves nothing half-written.

        Raises:
            ProfileStorageError: the disk refused.
            ProfileError: the code is still running, or ``meta["id"]`` was changed to what is no id.
        """
        from claude_pm.profiles.store import save

        return save(self, dir)

    def to_html(self, path: str | Path, content: bool = True) -> Path:
        """Write a report: one HTML file that opens anywhere, without a network. Return its path.

        What looks like a secret is left out, and home folders and user names are shortened;
        ``content=False`` leaves out prompts and answers too, and keeps the numbers. The tables
        are in the file as well: ``claude_pm.load(path)`` reads them again.

        Raises:
            ProfileStorageError: the file could not be written.
        """
        from claude_pm.views.report import write_report

        return write_report(self, path, content=content)

    def to_speedscope(self, path: str | Path) -> Path:
        """Write the samples for speedscope (www.speedscope.app): wall time by agent and state.

        Raises:
            ProfileError: nothing was sampled: record with ``cpu="sample"``.
            ProfileStorageError: the file could not be written.
        """
        from claude_pm.profiles.stacks import write_speedscope

        return write_speedscope(self, path)

    def to_collapsed(self, path: str | Path) -> Path:
        """Write the samples as collapsed stacks, a line each, with microseconds of wall time.

        Raises:
            ProfileError: nothing was sampled: record with ``cpu="sample"``.
            ProfileStorageError: the file could not be written.
        """
        from claude_pm.profiles.stacks import write_collapsed

        return write_collapsed(self, path)

    def to_otlp(self, endpoint: str) -> int:
        """Send the spans to a collector under OpenTelemetry's names; return how many.

        ``endpoint`` is where it listens for OTLP over HTTP, such as ``http://localhost:4318``.

        Raises:
            ProfileError: ``claude-pm[otel]`` is not installed, or nobody takes the spans there.
        """
        from claude_pm.profiles.otel import to_otlp

        return to_otlp(self, endpoint)

    def critical_path(self) -> CriticalPath:
        """Return what the user waited for, and what the whole would take without each part."""
        from claude_pm.analysis.critical_path import critical_path

        return critical_path(self)

    def what_if(
        self,
        *,
        max_workers: int | None = None,
        cache: Literal["hot", "cold"] | None = None,
        mode: Literal["local", "subprocess"] | None = None,
    ) -> WhatIf:
        """Estimate what the recorded requests would have taken otherwise, by replaying them.

        Raises:
            ProfileError: nothing was asked for, or the recording has nothing to estimate it from.
        """
        from claude_pm.analysis.what_if import what_if

        return what_if(self, max_workers=max_workers, cache=cache, mode=mode)

    def plot(self) -> Axes:
        """Draw the spans on a time axis, a lane an agent and process; return the Axes."""
        from claude_pm.views.charts import plot_timeline

        return plot_timeline(self)

    def explore(self, other: Profile | Experiment | None = None) -> VBox:
        """Return a widget to filter the spans and look into each, beside another's if given.

        A cell that is run again shows what was chosen before; it is kept by the profiles' names.

        Raises:
            ProfileError: the code is still running.
            ComparisonError: ``other`` is no profile.
        """
        from claude_pm.views.explorer import explore

        return explore(self, other)

    def _still_recording(self, wanted: str) -> str:
        return (
            f"The profile {self.name!r} is still being recorded: {wanted} can be read when the "
            "block has ended."
        )

    def __repr__(self) -> str:
        if self._tables is None:
            return f"<Profile {self.name!r}, recording>"
        return f"<Profile {self.name!r}, {self.meta['duration_s']:.3f} s, {self.id}>"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        """Show a summary: one bundle with plain text and HTML (IPython's display protocol)."""
        del include, exclude
        if self._tables is None:
            return {"text/plain": repr(self)}
        from claude_pm.views.summary import summary_bundle

        return summary_bundle(self)


def _phase_seconds(spans: pd.DataFrame) -> list[tuple[str, float]]:
    import pandas as pd

    seconds: list[tuple[str, float]] = []
    columns = ("name", "duration_s", "self_s", "ttft_s")
    for name, duration, own, ttft in zip(*(spans[column] for column in columns), strict=True):
        if name == "orchestrate":
            seconds.append(("other", float(own)))
        elif name == "chat" and not pd.isna(ttft):
            seconds += [("prefill", float(ttft)), ("decode", float(duration) - float(ttft))]
        else:
            seconds.append((str(name), float(duration)))
    return seconds
