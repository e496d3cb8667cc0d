"""Recording one profile: spans, CPU and memory around a block of code."""

from __future__ import annotations

import functools
import importlib.util
import os
import platform
import re
import secrets
import subprocess
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from types import EllipsisType, TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

from claude_pm.errors import RecordingError
from claude_pm.profiles import schema
from claude_pm.profiles.profile import Profile, TableSource
from claude_pm.recording.cell_names import cell_name
from claude_pm.recording.recorder import Recorder, encodable
from claude_pm.recording.span import activate, current_recorder, current_span, deactivate

if TYPE_CHECKING:
    import pandas as pd

    from claude_pm.recording.allocations import AllocationTracer
    from claude_pm.recording.instrument import Instrument, Rows

CpuRecording = Literal["cprofile", "sample"]
MemoryRecording = Literal["rss", "trace", "memray"]
CPU_RECORDINGS: tuple[str, ...] = get_args(CpuRecording)
_ALLOCATIONS = ("trace", "memray")
MEMORY_RECORDINGS: tuple[str, ...] = get_args(MemoryRecording)
_T = TypeVar("_T")

_PACKAGES = (
    "claude-pm", "xllamacpp", "httpx2", "pandas", "numpy", "pyarrow", "matplotlib", "ipython",
    "ipykernel",
)  # fmt: skip
_GIT_TIMEOUT_S = 2.0


def profile(
    name: str = "profile",
    *,
    cpu: CpuRecording | EllipsisType | None = ...,
    memory: MemoryRecording | None = "rss",
    internals: bool = False,
) -> ProfileSession:
    """Record a block of code: ``with claude_pm.profile("name") as profile:`` (or ``async with``).

    Args:
        name: what to call it; becomes part of its id.
        cpu: ``"cprofile"`` counts function calls (and slows Python code down meanwhile);
            ``"sample"`` looks every few milliseconds what every thread runs and what every asyncio
            task waits for; None does neither. Default: ``"cprofile"``, but None beside
            ``"trace"`` and ``"memray"``.
        memory: ``"rss"`` reads the process's resident memory every 20 ms; ``"trace"`` records which
            lines hold memory, with ``tracemalloc``, and ``"memray"`` which held it at the peak,
            native code's too (with the extra ``claude-pm[memray]``). Both make code several times
            slower: they are passes of their own, without CPU times. None does nothing.
        internals: show the frames of IPython and the kernel, and of claude_pm itself, too.

    The tables of the :class:`~claude_pm.profiles.profile.Profile` can be read when the block has
    ended, however it ended.

    Raises:
        RecordingError: on an option that does not exist or does not go with another; on entry,
            when another profiler is active and ``cpu`` is not None.
        SettingsError: on entry, when a ``CLAUDE_PM_*`` variable has a value that it may not have.
    """
    return ProfileSession(name, cpu=cpu, memory=memory, internals=internals)


class ProfileSession:
    """Starts and stops the recording of one profile; a context manager, sync and async."""

    def __init__(
        self,
        name: str,
        *,
        cpu: str | EllipsisType | None = ...,
        memory: str | None = "rss",
        internals: bool = False,
        source: str | None = None,
        role: Literal["kernel", "worker"] = "kernel",
        traceparent: str | None = None,
    ) -> None:
        _check_option("memory", memory, MEMORY_RECORDINGS)
        self.recorder: Recorder | None = None
        self.profile = Profile({"name": encodable(name)}, None)
        self._source = source
        self._role = role
        self._cpu_option = _cpu_option(cpu, memory)
        self._memory_option = memory
        self._internals = internals
        self._traceparent = traceparent
        self._instruments: list[Instrument] = []
        self._outer: Recorder | None = None
        self._before: Any = None
        self._filled = False
        self._tracer: AllocationTracer | None = None
        self._repeats: int | None = None
        self._created_at = datetime.now(UTC)
        self._settings: dict[str, Any] = {}

    def start(self) -> Profile:
        """Begin to record; the tables of the returned profile are there after :meth:`stop`."""
        if self._role == "kernel":
            from claude_pm.settings import read_settings

            # Now, not at the end: a bad variable shall not cost the profile. (What a worker
            # records becomes a part of its parent's profile.)
            self._settings = read_settings().public()
        self._created_at = datetime.now(UTC)
        self._outer = current_recorder()
        self.recorder = Recorder(
            cpu=self._cpu_option,
            memory=self._memory_option,
            internals=self._internals,
            traceparent=self._traceparent or _traceparent_here(),
        )
        self._before = activate(self.recorder)
        try:
            self._instruments = self._make_instruments(self.recorder)
            # Now: making the first ones of a process imports what they need, and takes its time.
            self.recorder.begin()
            for instrument in self._instruments:
                instrument.start()
        except BaseException:
            self.end_recording()
            raise
        return self.profile

    def end_recording(self) -> None:
        """Record no more; :meth:`stop` fills the profile then. Safe to call twice.

        Whatever an instrument raises, an interrupt too, all are stopped before that goes on.
        """
        recorder = self.recorder
        if recorder is None:
            return
        steps = _Steps()
        # An enabled cProfile that stays behind breaks every later one.
        if self._cpu_option is not None and self._instruments:
            steps.take(self._instruments[-1].stop)
        # Then the clock: the others may take their time to look back.
        steps.take(recorder.finish)
        steps.take(lambda: deactivate(recorder, self._before))
        for instrument in reversed(self._instruments):
            steps.take(instrument.stop)
        steps.raise_first()

    def stop(
        self,
        *,
        source: str | None = None,
        more: Mapping[str, Rows] | None = None,
    ) -> Profile:
        """End the recording and fill the profile; safe to call twice.

        What goes wrong meanwhile, or an interrupt, is raised when the profile has been filled.

        Args:
            source: the text of the recorded cell or command, if it was not given before.
            more: rows of other tables, recorded elsewhere.
        """
        recorder = self.recorder
        if recorder is not None and not self._filled:
            steps = _Steps()
            steps.take(self.end_recording)
            steps.take(lambda: self._fill(recorder, source or self._source, more or {}))
            steps.raise_first()
        return self.profile

    def stop_and_save(self, folder: str | None = None, *, source: str | None = None) -> Path:
        """Do as :meth:`stop`, and save the profile, even if that is interrupted; return where."""
        try:
            self.stop(source=source)
        finally:
            saved = self.profile.save(folder)
        return saved

    def repeats(self, n: int) -> Iterator[int]:
        """Count to ``n`` around code that is repeated to find what it keeps.

        The table ``allocations`` then holds what grew since the end of the first repeat.

        Raises:
            RecordingError: the session does not trace allocations.
        """
        if self._tracer is None:
            raise RecordingError(
                "Repeats show what memory the code keeps: record them with memory='trace' "
                "(or --memory trace)."
            )
        self._repeats = n
        for repeat in range(n):
            yield repeat
            self._tracer.end_repeat()

    def dump(self) -> dict[str, Any]:
        """Stop, and return all that was recorded as JSON values, for another process's recorder."""
        if self.recorder is None:
            raise RecordingError("Nothing was recorded: the session was never started.")
        self.end_recording()
        steps = _Steps()
        dumped = self.recorder.dump(self._rows(steps), self._overhead(steps))
        steps.raise_first()
        return dumped

    def __enter__(self) -> Profile:
        return self.start()

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    async def __aenter__(self) -> Profile:
        return self.start()

    async def __aexit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _make_instruments(self, recorder: Recorder) -> list[Instrument]:
        """Return what records beside the spans; the last one starts last and stops first."""
        made: list[Instrument] = []
        if importlib.util.find_spec("opentelemetry") is not None:
            from claude_pm.recording.otel_spans import OtelSpans

            made.append(OtelSpans(recorder))
        if self._memory_option == "rss":
            from claude_pm.recording.memory import RssSampler

            made.append(RssSampler(recorder, self._role))
        elif self._memory_option == "trace":
            from claude_pm.recording.allocations import AllocationTracer

            self._tracer = AllocationTracer(recorder, self._role, internals=self._internals)
            made.append(self._tracer)
        elif self._memory_option == "memray":
            from claude_pm.recording.peak_allocations import PeakAllocations

            made.append(PeakAllocations(recorder, self._role, internals=self._internals))
        if self._cpu_option == "cprofile":
            from claude_pm.recording.cpu import CpuProfiler

            made.append(CpuProfiler(internals=self._internals))
        elif self._cpu_option == "sample":
            from claude_pm.recording.sampling import StackSampler

            made.append(StackSampler(recorder, internals=self._internals))
        return made

    def _fill(self, recorder: Recorder, source: str | None, more: Mapping[str, Rows]) -> None:
        if self._filled:
            return
        steps = _Steps()
        rows = self._rows(steps)
        for name, found in (*more.items(), *recorder.worker_tables.items()):
            rows.setdefault(name, []).extend(found)
        steps.take(lambda: self._hand_on(recorder, rows), again=False)
        tables: dict[str, pd.DataFrame | TableSource] = {"spans": recorder.spans_frame}
        for name, found in rows.items():
            tables[name] = functools.partial(_frame, name, found, recorder.origin_ns)
        self.profile.finish(self._meta(recorder, source, steps), tables)
        self._filled = True
        steps.raise_first()

    def _rows(self, steps: _Steps) -> dict[str, Rows]:
        rows: dict[str, Rows] = {}
        for instrument in self._instruments:
            tables = steps.take(functools.partial(instrument.tables, cell_name)) or {}
            for name, found in tables.items():
                rows.setdefault(name, []).extend(found)
        return rows

    def _hand_on(self, recorder: Recorder, rows: Mapping[str, Rows]) -> None:
        """Let the profile that this one was begun within have all of it, once."""
        outer, self._outer = self._outer, None
        if outer is not None and not outer.finished:
            # The outer profile reads this process's memory itself: one series a process.
            own = os.getpid()
            workers = [row for row in rows.get("memory", ()) if row["pid"] != own]
            outer.merge(recorder.dump({**rows, "memory": workers}))

    def _overhead(self, steps: _Steps) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for instrument in self._instruments:
            found |= steps.take(instrument.overhead) or {}
        return found

    def _meta(self, recorder: Recorder, source: str | None, steps: _Steps) -> dict[str, Any]:
        end_ns = recorder.end_ns if recorder.end_ns is not None else recorder.origin_ns
        # Not again: whoever interrupts it has waited long enough.
        commit, dirty = steps.take(_git_state, again=False) or (None, None)
        return {
            "schema_version": schema.SCHEMA_VERSION,
            "id": _profile_id(self._created_at, self.profile.name),
            "name": self.profile.name,
            "created_at": self._created_at.isoformat(),
            "duration_s": (end_ns - recorder.origin_ns) / 1e9,
            "source": None if source is None else encodable(source),
            "cpu": self._cpu_option,
            "memory": self._memory_option,
            "python": platform.python_version(),
            "platform": platform.platform(),
            "cpu_count": os.cpu_count(),
            "packages": _package_versions(),
            "git_commit": commit,
            "git_dirty": dirty,
            "settings": self._settings,
            "model_use": recorder.model_use,
            "repeats": self._repeats,
            "overhead": self._overhead(steps) | {"workers": recorder.worker_overheads},
            "pid": os.getpid(),
        }


def _traceparent_here() -> str | None:
    """Return the ``traceparent`` of the span that is open here, ours or somebody else's."""
    ours, recorder = current_span(), current_recorder()
    theirs = recorder.theirs(ours) if recorder is not None and recorder.theirs else None
    if recorder is None or theirs is None:
        return None if ours is None else ours.traceparent
    number, trace, _ = theirs
    return f"00-{recorder.rows.trace_of(trace)}-{recorder.rows.id_of(number):016x}-01"


class _Steps:
    """Steps that are all taken, whatever one of them raises; what came first is raised at last."""

    def __init__(self) -> None:
        self._first: BaseException | None = None

    def take(self, step: Callable[[], _T], *, again: bool = True) -> _T | None:
        """Return what a step returns, or None if it fails.

        One that was interrupted is taken ``again``: what it had still to do shall not be lost.
        """
        try:
            return step()
        except BaseException as error:  # noqa: BLE001 - raised at last
            if self._first is None:
                self._first = error
            if not again or not isinstance(error, KeyboardInterrupt):
                return None
        return self.take(step, again=False)

    def raise_first(self) -> None:
        """Raise the first error or interrupt, if there was one."""
        if self._first is not None:
            raise self._first


def _cpu_option(cpu: str | EllipsisType | None, memory: str | None) -> str | None:
    if cpu is ...:
        return None if memory in _ALLOCATIONS else CPU_RECORDINGS[0]
    _check_option("cpu", cpu, CPU_RECORDINGS)
    if cpu is not None and memory in _ALLOCATIONS:
        raise RecordingError(
            f"memory={memory!r} makes code several times slower, so it is a pass of its own: "
            f"record CPU times (cpu={cpu!r}) in another one."
        )
    return cpu


def _check_option(name: str, value: str | None, allowed: tuple[str, ...]) -> None:
    if value is not None and value not in allowed:
        raise RecordingError(
            f"{name}={value!r} is not something that can be recorded; it may be "
            f"{', '.join(map(repr, allowed))} or None."
        )


def _frame(name: str, rows: list[Mapping[str, Any]], origin_ns: int) -> pd.DataFrame:
    table = schema.TABLES[name]
    if name == "memory":
        timed = [{**row, "t_s": (row["t_ns"] - origin_ns) / 1e9} for row in rows]
        rows = sorted(timed, key=lambda row: row["t_s"])
    return schema.frame_from_rows(table, rows)


def _profile_id(created_at: datetime, name: str) -> str:
    """Return an id that sorts by time, holds the name, and is unique."""
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40].rstrip("-") or "profile"
    time_part = created_at.strftime("%Y%m%dT%H%M%S") + f"{created_at.microsecond // 1000:03d}"
    return f"{time_part}-{slug}-{secrets.token_hex(2)}"


def _package_versions() -> dict[str, str]:
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _git_state() -> tuple[str | None, bool | None]:
    """Return the commit of the working folder and whether tracked files differ from it."""
    commit = _git("rev-parse", "HEAD")
    if commit is None:
        return None, None
    changes = _git("status", "--porcelain", "--untracked-files=no")
    return commit, None if changes is None else bool(changes)


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments],  # noqa: S607 - whichever git the user has
            capture_output=True,
            text=True,
            timeout=_GIT_TIMEOUT_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
