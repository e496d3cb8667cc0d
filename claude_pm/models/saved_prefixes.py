"""The embedded model's states after agents' prompts, in files: a new process starts hot from them.

A file holds what llama.cpp's server saves of a slot (some 20 KB a token), and nothing of any
request or answer. Its name says what it fits: the model and the sizes that it runs with, the first
block of the system prompt, and all blocks; and its size and the checksum of its beginning, for
llama.cpp ends the whole process over a file that is cut short.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import secrets
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

logger = logging.getLogger("claude_pm.models")

MAX_BYTES = 1 << 30
"""Most bytes that the files of a folder take together; the least recently used are removed."""

_CHECKED_BYTES = 1 << 20
_SUFFIX = ".kv"
_DIGITS = 16


@dataclass(frozen=True, slots=True)
class SavedPrefix:
    """A file that fits a system prompt; ``exact`` is False if only its first block is the same."""

    path: Path
    exact: bool


class SavedPrefixes:
    """The files of one model in a folder. Several processes may use it at the same time.

    Args:
        folder: where they are; it is made when the first is saved.
        model: all that a state depends on beside the prompt: weights, sizes, program.
        max_bytes: most bytes for the whole folder.
    """

    def __init__(
        self, folder: Path, model: Iterable[object], *, max_bytes: int = MAX_BYTES
    ) -> None:
        self.folder = folder
        self._model = _hash(*map(str, model))
        self._max_bytes = max_bytes

    def find(self, system: tuple[str, ...]) -> SavedPrefix | None:
        """Return the file for these blocks, or the newest for a prompt that begins like them.

        One that is damaged is removed.
        """
        exact = self._name(system)
        beginning = exact.rpartition("-")[0]
        # The newest first; whatever is exact before all others.
        found = sorted(
            self.folder.glob(f"{beginning}-*{_SUFFIX}"),
            key=lambda path: (path.name.startswith(f"{exact}."), _used_ns(path)),
            reverse=True,
        )
        for path in found:
            if _is_whole(path):
                return SavedPrefix(path, exact=path.name.startswith(f"{exact}."))
            logger.warning("The saved state %s is damaged and was removed.", path.name)
            self.discard(path)
        return None

    def used(self, path: Path) -> None:
        """Remember that a file was used: others are removed before it."""
        with contextlib.suppress(OSError):
            os.utime(path)

    def discard(self, path: Path) -> None:
        """Remove a file that turned out to be of no use."""
        with contextlib.suppress(OSError):
            path.unlink()

    def aside(self) -> Path:
        """Return a new place for a state to be written to, in the same folder.

        Raises:
            OSError: the folder cannot be made.
        """
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self.folder / f".{os.getpid()}-{secrets.token_hex(4)}"

    def keep(self, aside: Path, system: tuple[str, ...]) -> Path:
        """Give a state that was written aside its name, and remove what is too much by then.

        Raises:
            OSError: it is not there, or cannot be renamed.
        """
        path = self.folder / f"{self._name(system)}.{_fingerprint(aside)}{_SUFFIX}"
        aside.replace(path)
        for older in self.folder.glob(f"{self._name(system)}.*{_SUFFIX}"):
            if older != path:
                self.discard(older)
        files = sorted(
            (_used_ns(other), other) for other in self.folder.glob(f"*{_SUFFIX}") if other != path
        )
        left = self._max_bytes - path.stat().st_size
        for _, other in reversed(files):
            try:
                left -= other.stat().st_size
            except FileNotFoundError:  # another process was as tidy
                continue
            if left < 0:
                self.discard(other)
        return path

    def _name(self, system: tuple[str, ...]) -> str:
        return f"{self._model}-{_hash(system[0])}-{_hash(*system)}"


def _hash(*texts: str) -> str:
    digest = hashlib.sha256()
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")
        # With its length: two texts never pass for one.
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()[:_DIGITS]


def _fingerprint(path: Path) -> str:
    """Return the size and the checksum of the beginning, which says how to read the rest."""
    with path.open("rb") as file:
        return f"{path.stat().st_size:x}-{zlib.crc32(file.read(_CHECKED_BYTES)):08x}"


def _is_whole(path: Path) -> bool:
    try:
        return path.name.split(".")[1] == _fingerprint(path)
    except OSError:
        return False


def _used_ns(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0
