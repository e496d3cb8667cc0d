"""The resident memory of this process: now, and its exact peak since it was last read."""

from __future__ import annotations

import ctypes
import os
import re
import threading
from typing import Any, Protocol

_FIELDS = re.compile(rb"VmHWM:\s*(\d+) kB\nVmRSS:\s*(\d+) kB")
_STATUS_BYTES = 4096


class ResidentMemory(Protocol):
    """Reads the resident set size."""

    has_exact_peaks: bool

    def read(self) -> tuple[int, int]:
        """Return the bytes resident now, and at most since the last call: now, if not known."""

    def close(self) -> None:
        """Close what is open."""


def resident_memory() -> ResidentMemory:
    """Return the best reader that can be had here."""
    try:
        return _LinuxMemory()
    except (OSError, AttributeError):
        return _AnyMemory()


class _LinuxMemory:
    """The kernel's own high-water mark, which is set back after each reading.

    ``proc(5)``: writing 5 to ``clear_refs`` sets ``VmHWM`` back to what is resident. A reading
    costs some 10 µs, most of it for the kernel to write the page that the two figures are on.
    """

    has_exact_peaks = True

    def __init__(self) -> None:
        # Called with the interpreter's lock held: to get it back from code that computes takes
        # longer than the calls, and holds that code up.
        libc: Any = ctypes.PyDLL(None)
        self._pread, self._pwrite = libc.pread, libc.pwrite
        for call in (self._pread, self._pwrite):
            call.restype = ctypes.c_ssize_t
            call.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_long)
        self._page = ctypes.create_string_buffer(_STATUS_BYTES)
        self.peak_bytes = 0
        self._status = os.open("/proc/self/status", os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._clear = os.open("/proc/self/clear_refs", os.O_WRONLY | os.O_CLOEXEC)
        except OSError:
            os.close(self._status)
            raise
        with _lock:
            _readers.append(self)
        try:
            self.read()
        except OSError:
            self.close()
            raise

    def read(self) -> tuple[int, int]:
        with _lock:
            size = self._pread(self._status, self._page, _STATUS_BYTES, 0)
            found = _FIELDS.search(self._page.raw, 0, max(size, 0))
            if found is None or self._pwrite(self._clear, b"5", 1, 0) != 1:
                raise OSError("the kernel does not say what is resident")
            # There is one mark for all who read it.
            peak_bytes = int(found[1]) * 1024
            for reader in _readers:
                reader.peak_bytes = max(reader.peak_bytes, peak_bytes)
            peak_bytes, self.peak_bytes = self.peak_bytes, 0
        return int(found[2]) * 1024, peak_bytes

    def close(self) -> None:
        with _lock:
            _readers.remove(self)
        os.close(self._status)
        os.close(self._clear)


class _AnyMemory:
    """psutil's reading; a peak between two of them is not seen."""

    has_exact_peaks = False

    def __init__(self) -> None:
        import psutil

        self._process = psutil.Process()

    def read(self) -> tuple[int, int]:
        now: int = self._process.memory_info().rss
        return now, now

    def close(self) -> None:
        """Nothing is open."""


_readers: list[_LinuxMemory] = []
# The garbage collector may run code that reads, too.
_lock = threading.RLock()
