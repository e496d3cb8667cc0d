"""Resident memory of this process, read at a steady pace by a thread of its own."""

from __future__ import annotations

import os
import threading
import time
from array import array
from typing import Any

from claude_pm.recording.instrument import RenameFile, Rows

INTERVAL_S = 0.02
"""Seconds between readings. A peak shorter than this can be missed."""


class RssSampler:
    """Reads the resident set size from start to stop; the first and last reading always exist."""

    def __init__(self, role: str, interval_s: float = INTERVAL_S) -> None:
        import psutil

        self._role = role
        self._process = psutil.Process()
        self._interval_s = interval_s
        self._times = array("q")
        self._bytes = array("q")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="claude_pm-rss", daemon=True)

    def start(self) -> None:
        """Take the first reading and go on in the background."""
        self._read()
        self._thread.start()

    def stop(self) -> None:
        """End the thread and take the last reading; safe to call twice."""
        if self._stop.is_set():
            return
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        self._read()

    def tables(self, rename_file: RenameFile) -> dict[str, Rows]:
        """Return the rows of ``memory``."""
        del rename_file
        pid = os.getpid()
        rows: Rows = [
            {"t_ns": t_ns, "pid": pid, "role": self._role, "rss_bytes": rss}
            for t_ns, rss in zip(self._times, self._bytes, strict=True)
        ]
        return {"memory": rows}

    def overhead(self) -> dict[str, Any]:
        """Return the number of readings."""
        return {"memory": {"readings": len(self._times)}}

    def _run(self) -> None:
        while not self._stop.wait(self._interval_s):
            self._read()

    def _read(self) -> None:
        self._bytes.append(self._process.memory_info().rss)
        self._times.append(time.perf_counter_ns())
