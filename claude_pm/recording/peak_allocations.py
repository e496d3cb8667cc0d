"""``memory="memray"``: the lines that held memory when there was most of it, native code's too.

memray is an optional extra, and exists for Linux and macOS. Like tracing it is a pass of its own.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from claude_pm.errors import RecordingError
from claude_pm.recording.allocations import MAX_LINES
from claude_pm.recording.instrument import RenameFile, Rows
from claude_pm.recording.machinery import machinery_folders
from claude_pm.recording.memory import RssSampler
from claude_pm.recording.recorder import Recorder


class PeakAllocations:
    """Lets memray track from start to stop, and reads memory meanwhile."""

    def __init__(self, recorder: Recorder, role: str, *, internals: bool = False) -> None:
        self._internals = internals
        self._sampler = RssSampler(recorder, role)
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._tracker: Any = None
        self._held: dict[tuple[str, int], list[int]] = {}

    def start(self) -> None:
        """Begin to track.

        Raises:
            RecordingError: memray is not installed, or tracks already.
        """
        try:
            import memray
        except ImportError as error:
            raise RecordingError(
                "memory='memray' needs memray, which is not installed: "
                "pip install \"claude-pm[memray]\", or record with memory='trace'."
            ) from error
        self._sampler.start()
        self._folder = tempfile.TemporaryDirectory(prefix="claude_pm-memray-")
        tracker = memray.Tracker(self._file(), trace_python_allocators=True)
        try:
            tracker.__enter__()
        except RuntimeError as error:
            raise RecordingError(
                "memray tracks this process already, and can do so once: end that first, or record "
                "with memory='rss'."
            ) from error
        self._tracker = tracker

    def stop(self) -> None:
        """End it, and read what memray has written; safe to call twice."""
        self._sampler.stop()
        tracker, self._tracker = self._tracker, None
        if tracker is not None:
            tracker.__exit__(None, None, None)
            self._read()
        if self._folder is not None:
            self._folder.cleanup()

    def tables(self, rename_file: RenameFile) -> dict[str, Rows]:
        """Return the rows of ``memory``, and of ``allocations``: what was held at the peak."""
        pid = os.getpid()
        largest = sorted(self._held.items(), key=lambda line: line[1], reverse=True)[:MAX_LINES]
        rows: Rows = [
            {
                "file": rename_file(file),
                "line": line,
                "size_bytes": size,
                "count": count,
                "pid": pid,
            }
            for (file, line), (size, count) in largest
        ]
        return {**self._sampler.tables(rename_file), "allocations": rows}

    def overhead(self) -> dict[str, Any]:
        """Return the cost of the readings; that of tracking depends on the code."""
        return self._sampler.overhead()

    def _file(self) -> Path:
        assert self._folder is not None  # noqa: S101 - for the type checker
        return Path(self._folder.name) / "allocations.bin"

    def _read(self) -> None:
        from memray import FileReader

        hidden = () if self._internals else machinery_folders()
        with FileReader(self._file()) as reader:
            for record in reader.get_high_watermark_allocation_records(merge_threads=True):
                stack = record.stack_trace(max_stacks=1)
                file, line = stack[0][1:] if stack else ("native code", 0)
                if not (hidden and file.startswith(hidden)):
                    total = self._held.setdefault((file, line), [0, 0])
                    total[0] += record.size
                    total[1] += record.n_allocations
