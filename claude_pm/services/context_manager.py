"""What an agent is told of the working folder: excerpts of CLAUDE.md and README."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

from claude_pm.services.agent_registry import CacheResult

TOKEN_BUDGET = 256
"""Largest context in tokens, by :func:`estimate_tokens`."""

_FILES = (("CLAUDE.md",), ("README.md", "README.rst", "README.txt", "README"))
_BYTES_PER_TOKEN = 3
_CUT = "\n[...]"
_TITLE = "# The project in the working folder (excerpts)"
_BETWEEN = "\n\n"


@dataclass(frozen=True, slots=True)
class Context:
    """The context's text (empty where the folder has none of the files) and where it is from."""

    text: str
    estimated_tokens: int
    files: tuple[str, ...]
    truncated: bool


def estimate_tokens(text: str) -> int:
    """Estimate the tokens of a text, on the safe side: one for each 3 bytes of UTF-8.

    English prose has 4 to 5 bytes a token in usual vocabularies, code about 3.
    """
    return -(-len(text.encode()) // _BYTES_PER_TOKEN)


class ContextManager:
    """Builds the context of a folder, and keeps it until one of its files changes.

    Args:
        folder: the folder; None is the process's working folder at the time of each request.
        token_budget: largest context in estimated tokens.
    """

    def __init__(self, folder: Path | None = None, *, token_budget: int = TOKEN_BUDGET) -> None:
        self.folder = folder
        self.token_budget = token_budget
        self._held: dict[tuple[tuple[Path, int, int], ...], Context] = {}

    async def build(self, *, use_cache: bool = True) -> tuple[Context, CacheResult]:
        """Return the context and whether it was held already (``hit``) or read now (``miss``)."""
        found = _find_files(self.folder or Path.cwd())
        held = self._held.get(found)
        if use_cache and held is not None:
            return held, "hit"
        context = await asyncio.to_thread(self._read, [path for path, _, _ in found])
        # One version is enough: who changes the files wants the new one.
        self._held = {found: context}
        return context, "miss"

    def _read(self, paths: list[Path]) -> Context:
        left = self.token_budget * _BYTES_PER_TOKEN - len(_TITLE)
        parts: list[str] = []
        names: list[str] = []
        truncated = False
        for path in paths:
            try:
                with path.open(encoding="utf-8") as file:
                    # Never more than could fit, however large the file is.
                    text = file.read(max(left, 0)).strip()
                    whole = not file.read(1)
            except (OSError, UnicodeDecodeError):
                continue
            part = f"{_BETWEEN}## {path.name}\n\n{text}" if text else ""
            if not whole or len(part.encode()) > left:
                part = _cut(part, left)
                truncated = True
            if part:
                parts.append(part)
                names.append(path.name)
                left -= len(part.encode())
        text = "".join([_TITLE, *parts]) if parts else ""
        return Context(text, estimate_tokens(text), tuple(names), truncated)


def _find_files(folder: Path) -> tuple[tuple[Path, int, int], ...]:
    found = []
    for alternatives in _FILES:
        for name in alternatives:
            path = folder / name
            try:
                status = path.stat()
            except OSError:
                continue
            found.append((path, status.st_mtime_ns, status.st_size))
            break
    return tuple(found)


def _cut(text: str, room: int) -> str:
    """Cut a text at the end of a line so that it fits; empty if not even one line does."""
    kept = text.encode()[: max(room - len(_CUT), 0)].decode(errors="ignore")
    body = kept.rpartition("\n")[0].rstrip()
    # A heading without any of its text tells nothing.
    return body + _CUT if "\n" in body.removeprefix(_BETWEEN) else ""
