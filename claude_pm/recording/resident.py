"""The resident memory of this process: now, and its exact peak since it was last read."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import re
import threading
from typing import Any, Protocol

_FIELDS = re.compile(rb"VmHWM:\s*(\d+) kB\nVmRSS:\s*(\d+) kB")
_STATUS_BYTES = 4096
_STATM_BYTES = 128


class ResidentMemory(Protocol):
    """Reads the resident set size."""

    has_exact_peaks: bool

    def read(self) -> tuple[int, int]:
        """Return the bytes resident now, and at most since the last call: now, if not known."""

    def glance(self) -> tuple[int, int] | None:
        """Return what :meth:`read` would now, for a fraction of its price; None: not to be had."""

    def close(self) -> None:
        """Close what is open."""


def resident_memory() -> ResidentMemory:
    """Return the best reader that can be had here."""
    try:
        return _LinuxMemory()
    except (OSError, AttributeError, ImportError):
        return _AnyMemory()


class _LinuxMemory:
    """The kernel's own high-water mark, which is set back after each reading.

    ``proc(5)``: writing 5 to ``clear_refs`` sets ``VmHWM`` back to what is resident. A reading
    costs some 10 µs, most of it for the kernel to write the page that the two figures are on.
    """

    has_exact_peaks = True

    def __init__(self) -> None:
        import resource

        # Called with the interpreter's lock held: to get it back from code that computes takes
        # longer than the calls, and holds that code up.
        libc: Any = ctypes.PyDLL(None)
        self._pread, self._pwrite = libc.pread, libc.pwrite
        for call in (self._pread, self._pwrite):
            call.restype = ctypes.c_ssize_t
            call.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_long)
        self._page = ctypes.create_string_buffer(_STATUS_BYTES)
        self._line = ctypes.create_string_buffer(_STATM_BYTES)
        self._page_bytes = os.sysconf("SC_PAGESIZE")
        self._usage = functools.partial(resource.getrusage, resource.RUSAGE_SELF)
        self.peak_bytes = self._inherited_kib = 0
        with contextlib.ExitStack() as opened:
            self._status, self._statm, self._clear = (
                _open(opened, name, how)
                for name, how in (
                    ("status", os.O_RDONLY),
                    ("statm", os.O_RDONLY),
                    ("clear_refs", os.O_WRONLY),
                )
            )
            self.close_files = opened.pop_all().close
        with _lock:
            _readers.append(self)
        try:
            self.read()
        except OSError:
            self.close()
            raise
        self._inherited_kib = self._usage().ru_maxrss

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

    def glance(self) -> tuple[int, int] | None:
        # getrusage(2) tells the same high-water mark, without setting it back; but for a while that
        # of the process that this one was started by, where it is higher.
        with _lock:
            size = self._pread(self._statm, self._line, _STATM_BYTES, 0)
            if size <= 0:
                return None
            now_bytes = int(self._line.raw.split(b" ", 2)[1]) * self._page_bytes
            peak_kib = self._usage().ru_maxrss
            is_own = peak_kib != self._inherited_kib
            return now_bytes, max(now_bytes, self.peak_bytes, peak_kib * 1024 if is_own else 0)

    def close(self) -> None:
        with _lock:
            _readers.remove(self)
        self.close_files()


class _AnyMemory:
    """psutil's reading; a peak between two of them is not seen."""

    has_exact_peaks = False

    def __init__(self) -> None:
        import psutil

        self._process = psutil.Process()

    def read(self) -> tuple[int, int]:
        now: int = self._process.memory_info().rss
        return now, now

    def glance(self) -> tuple[int, int] | None:
        return None

    def close(self) -> None:
        """Nothing is open."""


def _open(opened: contextlib.ExitStack, name: str, how: int) -> int:
    descriptor = os.open(f"/proc/self/{name}", how | os.O_CLOEXEC)
    opened.callback(os.close, descriptor)
    return descriptor


_readers: list[_LinuxMemory] = []
# The garbage collector may run code that reads, too.
_lock = threading.RLock()


def _forget_in_child() -> None:
    """Close what a forked child has inherited: it is its parent's memory that is read there."""
    global _lock  # noqa: PLW0603 - a thread that the child does not have may have held it
    _lock = threading.RLock()
    for reader in _readers:
        reader.close_files()
    _readers.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)
