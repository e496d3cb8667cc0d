"""The files an agent may be told of: which there are, what they say, and whether they changed."""

# Every request waits for these, and pathlib takes many times as long as os:
# ruff: noqa: PTH100, PTH109, PTH111, PTH112, PTH113, PTH114, PTH116, PTH118, PTH119, PTH120, PTH123

from __future__ import annotations

import os
import re
import stat
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from pathspec.patterns.gitignore.spec import GitIgnoreSpecPattern

MAX_ENTRIES = 5000
"""How many files and folders below the working folder are looked at for an agent's patterns."""

INSTRUCTIONS = ("CLAUDE.md", ".claude/CLAUDE.md", "CLAUDE.local.md")
READMES = ("README.md", "README.rst", "README.txt", "README")

_BINARY_WITHIN = 8192
# Two writes within one tick of the file system's clock leave the same times behind (10 ms where
# the kernel ticks at 100 Hz).
_TICK_NS = 20_000_000

_LARGEST_RULES = 1 << 20

# Two patterns that pathspec takes for more than git does, and what it understands instead: what
# is in a folder (not that folder too), and any folder (not what is in it too).
_ALL_IN = re.compile(r"/\*\*\s*$")
_ANY_FOLDER = re.compile(r"(?:^|(?<=^!))\*{1,2}/\s*$")

Stamp = tuple[int, int, int, int]
Rules = dict[str, tuple[Stamp | None, list["GitIgnoreSpecPattern"]]]
"""What .gitignore files say, by path."""


@dataclass(frozen=True, slots=True)
class PassedOver:
    """How many files (of those that would have been told of) were passed over, and why.

    ``outside`` are symbolic links that lead out of the folder (or into its ``.git``),
    ``not_walked`` files and folders beyond the largest number that is looked at.
    """

    large: int = 0
    binary: int = 0
    unreadable: int = 0
    not_utf8: int = 0
    outside: int = 0
    not_walked: int = 0


@dataclass(frozen=True, slots=True)
class Source:
    """A file to tell of, under the name it is told of by.

    ``kept`` says what the agent's keywords do not apply to: nothing of it, its preface, or all.
    """

    path: str
    name: str
    kept: Literal["nothing", "preface", "all"] = "nothing"

    @property
    def markdown(self) -> bool:
        """Whether it is split at headings."""
        return self.path.lower().endswith((".md", ".markdown"))


def folder_and_home(folder: Path | None, home: Path | None) -> tuple[str, str]:
    """Return the absolute paths; of None, what the process has for it now.

    Raises:
        FileNotFoundError: the process's working folder was removed.
    """
    at = os.getcwd() if folder is None else os.fspath(folder)
    own = _process_home() if home is None else os.fspath(home)
    # abspath takes as long as a look at a file.
    return (
        at if at.startswith("/") else os.path.abspath(at),
        own if own.startswith("/") else os.path.abspath(own),
    )


def _process_home() -> str:
    return os.environ.get("HOME") or os.path.expanduser("~")


def unchanged(stamps: tuple[tuple[str, Stamp | None], ...]) -> bool:
    """Tell whether all files and folders are as they were; this is what every request waits for."""
    look = os.stat
    try:
        for path, stamp in stamps:
            now = look(path)
            if (now.st_mtime_ns, now.st_ctime_ns, now.st_size, now.st_ino) != stamp:
                return False
    except OSError:
        return False
    return True


class Look:
    """One look at the file system: what all that mattered was like, and what was passed over.

    A stamp is taken before the file or folder is read: a change while it is read is then seen at
    the next look. A stamp of None never holds: whether the thing changed cannot be told.

    Args:
        rules: what the .gitignore files said at earlier looks, by path; added to.
    """

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.stamps: dict[str, Stamp | None] = {}
        self.passed_over: dict[str, str] = {}
        self.not_walked = 0
        self.reads = 0

    def counts(self) -> PassedOver:
        """Return how many files were passed over, and why."""
        return PassedOver(**Counter(self.passed_over.values()), not_walked=self.not_walked)

    def folder(self, path: str) -> None:
        """Note a folder whose entries matter; one that is not there, by the nearest above it."""
        while path not in self.stamps:
            try:
                status = os.stat(path)
            except OSError:
                path = os.path.dirname(path)
                continue
            self.stamps[path] = None if _age_ns(status) < _TICK_NS else _stamp(status)

    def file(self, path: str) -> os.stat_result | None:
        """Note a file; None where there is none."""
        try:
            status = os.stat(path)
        except OSError:
            if os.path.islink(path):
                # What it points to may come into being in any folder.
                self.stamps[path] = None
                self.passed_over[path] = "unreadable"
            return None
        young_ns = _TICK_NS - _age_ns(status)
        if young_ns > 0 and stat.S_ISREG(status.st_mode):
            time.sleep(young_ns / 1e9)
            try:
                status = os.stat(path)
            except OSError:
                self.stamps[path] = None
                return None
        self.stamps[path] = None if _age_ns(status) < _TICK_NS else _stamp(status)
        return status

    def read(self, path: str, status: os.stat_result, max_bytes: int) -> bytes | str:
        """Return what a file says, or, as a str, why it is passed over."""
        if not stat.S_ISREG(status.st_mode):  # a pipe would be waited for
            return "unreadable"
        if status.st_size > max_bytes:
            return "large"
        self.reads += 1
        try:
            with open(path, "rb", buffering=0) as file:
                data = file.read(max_bytes + 1) or b""
        except OSError:
            return "unreadable"
        if len(data) > max_bytes:
            return "large"
        return "binary" if b"\0" in data[:_BINARY_WITHIN] else data


def find_instructions(folder: str, home: str, look: Look) -> Iterator[Source]:
    """Find the CLAUDE.md files of a folder and of those above it, nearest first, then the user's.

    The user's own may be a link to wherever its owner keeps it; others have to stay in their
    folder: a project from elsewhere shall not have any file of the user's told.
    """
    own = os.path.join(home, INSTRUCTIONS[1])
    at, up = folder, ""
    while True:
        for name in INSTRUCTIONS:
            path = os.path.join(at, name)
            if path == own:
                yield from _user_instructions(own, look)
                continue
            look.folder(os.path.dirname(path))
            if look.file(path) and not _leads_out(path, at, look):
                first = not up and name == INSTRUCTIONS[0]
                yield Source(path, up + name, "preface" if first else "nothing")
        above = os.path.dirname(at)
        if above == at:
            break
        at, up = above, f"../{up}"
    if own not in look.stamps:
        yield from _user_instructions(own, look)


def _user_instructions(own: str, look: Look) -> Iterator[Source]:
    look.folder(os.path.dirname(own))
    if look.file(own):
        yield Source(own, "~/.claude/CLAUDE.md")


def find_readme(folder: str, look: Look) -> Iterator[Source]:
    """Find the folder's README; of several, the first kind."""
    look.folder(folder)
    for name in READMES:
        path = os.path.join(folder, name)
        if not os.path.isdir(path) and look.file(path) and not _leads_out(path, folder, look):
            yield Source(path, name, "all")
            return


def find_matching(folder: str, patterns: tuple[str, ...], look: Look) -> Iterator[Source]:
    """Find the files below a folder that match an agent's patterns, the least deep first.

    Files that git ignores are left out, and ``.git``. It is a generator so that no more is
    walked than is told of.
    """
    from pathspec import GitIgnoreSpec

    wanted = GitIgnoreSpec(_patterns(patterns))
    above = _rules_above(folder, look)
    if _in_ignored_folder(above):
        return
    left = MAX_ENTRIES
    folders = deque([("", above)])
    while folders:
        below, rules = folders.popleft()
        at = os.path.join(folder, below)
        look.folder(at.rstrip("/") or "/")
        if not left:
            look.not_walked += 1
            continue
        try:
            with os.scandir(at) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError:
            look.passed_over[at] = "unreadable"
            continue
        rules = _rules(os.path.join(at, ".gitignore"), "", len(below), look) + rules
        look.not_walked += max(len(entries) - left, 0)
        entries = entries[:left]
        left -= len(entries)
        for entry in entries:
            name = below + entry.name
            if entry.is_dir(follow_symlinks=False):
                if entry.name != ".git" and not _ignored(f"{name}/", rules):
                    folders.append((f"{name}/", rules))
            # A link to a folder is not followed: if it stays inside, its target is walked anyway.
            elif wanted.match_file(name) and not _ignored(name, rules):
                if entry.is_symlink() and (
                    os.path.isdir(entry.path) or _leads_out(entry.path, folder, look)
                ):
                    continue
                yield Source(entry.path, "".join(c if c.isprintable() else "?" for c in name))


_Rules = tuple[tuple[list["GitIgnoreSpecPattern"], str, int], ...]
# Nearest first: a .gitignore's patterns, the last of which counts. They are of names that begin
# with the text, once as many characters of the name below the walked folder are left out.


def _rules_above(folder: str, look: Look) -> _Rules:
    """Return what git ignores in the repository that the folder is in, but for its own file's."""
    rules: _Rules = ()
    at, lead = folder, ""
    look.folder(at)
    while not os.path.lexists(os.path.join(at, ".git")):
        above = os.path.dirname(at)
        if above == at:
            return ()  # no repository: files above have no say
        at, lead = above, f"{os.path.basename(at)}/{lead}"
        look.folder(at)
        rules += _rules(os.path.join(at, ".gitignore"), lead, 0, look)
    look.folder(os.path.join(at, ".git", "info"))
    return rules + _rules(os.path.join(at, ".git", "info", "exclude"), lead, 0, look)


def _rules(path: str, lead: str, skip: int, look: Look) -> _Rules:
    if not os.path.isfile(path) or not (status := look.file(path)):
        return ()
    stamp = look.stamps[path]
    held = look.rules.get(path)
    if held is not None and stamp is not None and held[0] == stamp:
        return ((held[1], lead, skip),)
    data = look.read(path, status, _LARGEST_RULES)
    patterns = [] if isinstance(data, str) else _patterns(os.fsdecode(data).splitlines())
    look.rules[path] = stamp, patterns
    return ((patterns, lead, skip),)


def _ignored(name: str, rules: _Rules) -> bool:
    """Tell whether git ignores a file, or a folder (``name/``), that is in no ignored folder."""
    for patterns, lead, skip in rules:
        path = lead + name[skip:]
        for pattern in reversed(patterns):
            found = pattern.regex.match(path) if pattern.regex else None
            # pathspec's patterns also match what is in a folder that they match; the group is
            # then the slash after that. To git, "!docs/" takes in the folder and not its files.
            if found and not (found.lastindex and found.end(found.lastindex) < len(path)):
                return bool(pattern.include)
    return False


def _in_ignored_folder(rules: _Rules) -> bool:
    """Tell whether the walked folder, or one that it is in, is ignored by rules from above."""
    while rules := tuple(rule for rule in rules if rule[1]):
        if _ignored("", rules):
            return True
        rules = tuple((spec, lead[: lead[:-1].rfind("/") + 1], 0) for spec, lead, _ in rules)
    return False


def _patterns(lines: Iterable[str]) -> list[GitIgnoreSpecPattern]:
    from pathspec.patterns.gitignore.spec import GitIgnoreSpecPattern

    patterns = []
    for line in lines:
        try:
            patterns.append(
                GitIgnoreSpecPattern(_ANY_FOLDER.sub("?*/", _ALL_IN.sub("/**/*", line)))
            )
        except ValueError:  # git, too, passes over a line that makes no sense
            continue
    return patterns


def _leads_out(path: str, folder: str, look: Look) -> bool:
    """Tell, and count, whether a link (the file or a folder before it) leads out of a folder."""
    inside = os.path.join(os.path.realpath(folder), "")
    real = os.path.realpath(path)
    out = not real.startswith(inside) or ".git" in real.removeprefix(inside).split("/")
    if out:
        look.passed_over[path] = "outside"
    return out


def _stamp(status: os.stat_result) -> Stamp:
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino


def _age_ns(status: os.stat_result) -> int:
    age = time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns)
    # Times to come were set by hand or by another clock, and the next write's will differ.
    return age if age >= 0 else _TICK_NS
