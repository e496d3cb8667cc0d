"""Which agents there are. Their files are read when first asked for, and again when they change."""

from __future__ import annotations

import contextlib
import difflib
import logging
import os
import stat
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from claude_pm.agents import BUILTIN_FOLDER, Agent, Scope, agent_key, read_agent, read_name
from claude_pm.errors import AgentFileError, SettingsError, UnknownAgentError
from claude_pm.services.shared_prompt_cache import SharedPromptCache

CacheResult = Literal["hit", "miss"]
ListedScope = Literal["all", "project", "user", "builtin"]
logger = logging.getLogger("claude_pm.services")

_OURS = ".claude-pm/agents"
_CLAUDE_CODE = ".claude/agents"
_TICK_NS = 100_000_000
"""Two changes of a folder this close may bear the same time: kernels' clocks are coarse."""
_ATTEMPTS = 5
_SUFFIX = ".md"


@dataclass(frozen=True, slots=True)
class BrokenFile:
    """An agent's file that cannot be used, and why."""

    path: Path
    scope: Scope
    message: str


class _File:
    """One agent's file and the name it is asked by, which needs not be read again."""

    __slots__ = ("folder", "identity", "key", "name", "path", "scope", "seen")

    def __init__(
        self, folder: _Folder, path: str, name: str, seen: tuple[Any, ...] | None = None
    ) -> None:
        self.folder = folder
        self.path = path
        self.name = name
        self.seen = seen  # the version that the name was read from
        self.key = agent_key(name)
        self.scope = folder.scope
        self.identity = (path, folder.scope, folder.of_claude_code)

    def version(self) -> tuple[Any, ...]:
        """Return what differs as soon as the file is another or says something else."""
        try:
            status = os.stat(self.path)  # noqa: PTH116 - a Path costs more than the call
        except OSError:
            return (self.identity,)
        return (
            self.identity, status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino,
        )  # fmt: skip

    def read(self) -> Agent:
        """Read the agent.

        Raises:
            AgentFileError: the file is broken, or leads out of its folder.
        """
        _check_place(self.path)
        return read_agent(Path(self.path), scope=self.scope, strict=not self.folder.of_claude_code)


@dataclass(frozen=True, slots=True)
class _Index:
    """The agents' files of a folder by key, as they were at one version of the folder."""

    version: tuple[int, int] | None = None
    settled: bool = True
    files: dict[str, _File] = field(default_factory=dict)
    unused: tuple[BrokenFile, ...] = ()


_EMPTY = _Index()


class _Folder:
    """A folder of agents' files; its index is made again when the folder has changed."""

    def __init__(self, path: str, scope: Scope, *, of_claude_code: bool = False) -> None:
        self.path = path
        self.scope: Scope = scope
        self.of_claude_code = of_claude_code
        self._index = _EMPTY

    def index(self, *, fresh: bool = False) -> _Index:
        """Return the index; ``fresh`` also looks for names that were edited inside files."""
        held = self._index
        # Most of the folders are not there, and this is cheaper than a stat() that fails.
        if held is _EMPTY and not os.access(self.path, os.F_OK):
            return held
        try:
            status = os.stat(self.path)  # noqa: PTH116 - a Path costs more than the call
        except OSError:
            self._index = _EMPTY
            return _EMPTY
        version = (status.st_mtime_ns, status.st_ino)
        if held.version == version and held.settled and not (fresh and self.of_claude_code):
            return held
        settled = abs(time.time_ns() - status.st_mtime_ns) > _TICK_NS
        self._index = made = self._scan(version, held, settled=settled)
        return made

    def forget(self) -> None:
        """Make the index again at the next request."""
        self._index = replace(self._index, version=None, settled=False)

    def _scan(self, version: tuple[int, int], held: _Index, *, settled: bool) -> _Index:
        known = {file.path: file for file in held.files.values()}
        files: dict[str, _File] = {}
        unused = []
        try:
            with os.scandir(self.path) as entries:
                paths = sorted(entry.path for entry in entries if _is_agent(entry.name))
        except OSError as error:
            message = f"The agents' folder {self.path} cannot be read: {error}."
            unused.append(BrokenFile(Path(self.path), self.scope, message))
            paths = []
        for path in paths:
            file = self._file(path, known.get(path))
            first = files.setdefault(file.key, file)
            if first is not file:
                message = (
                    f"The agent file {path} is not used: {first.path} has the same name, "
                    f"{first.name!r}; rename one of the two."
                )
                unused.append(BrokenFile(Path(path), self.scope, message))
        return _Index(version, settled, files, tuple(unused))

    def _file(self, path: str, known: _File | None) -> _File:
        stem = os.path.basename(path)[: -len(_SUFFIX)]  # noqa: PTH119 - see _File.version
        if not self.of_claude_code:
            return known or _File(self, path, stem)
        version = (known or _File(self, path, stem)).version()
        if known is not None and known.seen == version:
            return known
        try:
            _check_place(path)
            name = read_name(Path(path))
        except AgentFileError:
            name = stem  # by which it can be asked for, to be told what is wrong with it
        return _File(self, path, name, version)


class AgentRegistry:
    """The agents of a project, of a user, and those that come with claude_pm: the nearest wins.

    Agents of one name are looked for in ``<project>/.claude-pm/agents``, the project's
    ``.claude/agents`` (Claude Code's), the same two of the home folder, and claude_pm itself.
    Files and folders that come, change or go are seen at the next request. (One thing waits for
    the next listing: a Claude Code file that is renamed by an edit in place, where its new name
    was served from a farther folder until then.)

    Safe to use from threads and tasks.

    Args:
        folder: take only the agents of this folder.
        project: the project's folder; None is the process's working folder at each request.
        home: the user's folder; None is ``Path.home()`` at each request.
        prompt_cache: where the agents that were read are held; by default one of its own.

    Attributes:
        folder: the one folder, or None.
        prompt_cache: the cache in use.
        broken: the files that the last listing found broken.
    """

    def __init__(
        self,
        folder: Path | None = None,
        *,
        project: Path | None = None,
        home: Path | None = None,
        prompt_cache: SharedPromptCache | None = None,
    ) -> None:
        self.folder = folder
        self.prompt_cache = SharedPromptCache() if prompt_cache is None else prompt_cache
        self.prompt_cache.load_with(self)
        self.broken: tuple[BrokenFile, ...] = ()
        self._project = None if project is None else str(Path(project).absolute())
        self._home = None if home is None else str(Path(home).absolute())
        builtin = _Folder(str(BUILTIN_FOLDER), "builtin")
        self._builtin = builtin
        self._only: tuple[_Folder, ...] | None = None
        if folder is not None:
            ours = folder == BUILTIN_FOLDER
            self._only = (builtin,) if ours else (_Folder(str(folder), "project"),)
        self._places: tuple[tuple[str | None, str | None], tuple[_Folder, ...]] | None = None
        self._warned: dict[str, object] = {}
        self._warned_lock = threading.Lock()

    def names(self) -> list[str]:
        """Return the agents' names, sorted. Of our own files none is read for that."""
        return sorted(file.name for file in self._nearest().values())

    def resolve(self, name: str) -> str:
        """Return an agent's own name for what a person typed: case and ``-`` do not matter.

        Raises:
            UnknownAgentError: there is none; the message names the nearest.
        """
        return self._find(name).name

    def get_agent(self, name: str) -> Agent:
        """Return the agent of that name; see :meth:`load` for the errors."""
        return self.load(name)[0]

    def load(self, name: str, *, use_cache: bool = True) -> tuple[Agent, CacheResult]:
        """Return the agent and whether it was held already (``hit``) or read now (``miss``).

        Raises:
            UnknownAgentError: there is none of that name.
            AgentFileError: its file is broken. Another agent of that name, farther away, does
                not take its place.
        """
        for _ in range(_ATTEMPTS):
            loaded = self._load(self._find(name), use_cache=use_cache)
            if loaded is not None:
                return loaded
        raise AgentFileError(f"The file of the agent {name!r} changes too fast; ask again.")

    def list_agents(self, scope: ListedScope = "all") -> list[Agent]:
        """Return the agents, by name; the files that are broken are left out, see ``broken``.

        Args:
            scope: whose agents. An agent that a nearer one of its name hides is listed only
                with its own scope.

        Raises:
            SettingsError: there is no such scope.
        """
        if scope not in get_args(ListedScope):
            known = ", ".join(get_args(ListedScope))
            raise SettingsError(f"The scope is {scope!r}; it may be one of {known}.")
        agents = []
        broken: list[tuple[object, BrokenFile]] = []
        served = self._nearest()
        for file in (served if scope == "all" else self._nearest(scope)).values():
            version = file.version()
            # A hidden agent must not take the place of the one that is served.
            hidden = served.get(file.key, file).path != file.path
            try:
                loaded = (file.read(), "miss") if hidden else self._load(file, use_cache=True)
            except AgentFileError as error:
                broken.append((version, BrokenFile(Path(file.path), file.scope, str(error))))
            else:
                if loaded is not None:  # else it went away in this moment
                    agents.append(loaded[0])
        for folder in self._folders():
            if scope in {"all", folder.scope}:
                broken.extend((None, file) for file in folder.index().unused)
        self._warn(broken)
        self.broken = tuple(file for _, file in broken)
        return sorted(agents, key=lambda agent: agent.name)

    listAgents = list_agents  # noqa: N815 - so it is called in guides

    def _find(self, name: str) -> _File:
        if not isinstance(name, str):  # a notebook's user passes anything
            raise UnknownAgentError(f"An agent is named by a text, not {type(name).__name__}.")
        key = agent_key(name)
        for folder in self._folders():
            file = folder.index().files.get(key)
            if file is not None:
                return file
        # A Claude Code file may have got this name by an edit, which its folder does not tell.
        nearest = self._nearest()
        if key in nearest:
            return nearest[key]
        raise _unknown(name, key, nearest)

    def _nearest(self, scope: Scope | None = None) -> dict[str, _File]:
        """Return the files by key, as they are now; of two of one key, the nearest."""
        nearest: dict[str, _File] = {}
        for folder in self._folders():
            if scope in {None, folder.scope}:
                nearest = {**folder.index(fresh=True).files, **nearest}
        return nearest

    def _load(self, file: _File, *, use_cache: bool) -> tuple[Agent, CacheResult] | None:
        """Return the agent of a file, or None if that is no longer the file of that name."""
        version = file.version()
        if use_cache:
            agent = self.prompt_cache.held_agent(file.key, version)
            if agent is not None:
                return agent, "hit"
        try:
            agent = file.read()
        except AgentFileError:
            if use_cache:
                self.prompt_cache.drop(file.key)
            # A Claude Code file that has changed may no longer have that name: look again.
            known = not file.folder.of_claude_code or file.seen == version
            if known and os.path.lexists(file.path):
                raise
            file.folder.forget()
            return None
        if agent_key(agent.name) != file.key:
            file.folder.forget()
            return None
        if use_cache:
            self.prompt_cache.hold_agent(file.key, agent, version)
        return agent, "miss"

    def _folders(self) -> tuple[_Folder, ...]:
        """Return the folders to look in, the nearest first."""
        if self._only is not None:
            return self._only
        where = (self._project or _working_folder(), self._home or _home_folder())
        places = self._places
        if places is None or places[0] != where:
            places = (where, (*_scopes(*where), self._builtin))
            self._places = places
        return places[1]

    def _warn(self, broken: list[tuple[object, BrokenFile]]) -> None:
        """Log each broken version of a file once."""
        for version, file in broken:
            path = str(file.path)
            with self._warned_lock:
                known = path in self._warned and self._warned[path] == version
                self._warned[path] = version
            if not known:
                logger.warning("%s", file.message)


def _is_agent(file_name: str) -> bool:
    return file_name.endswith(_SUFFIX) and not file_name.startswith(".")


def _check_place(path: str) -> None:
    """See that a file is one, and in its folder: a link may lead anywhere."""
    if os.path.islink(path):  # noqa: PTH114 - Path.resolve() fails on links in a circle
        folder = os.path.realpath(os.path.dirname(path))  # noqa: PTH120
        if os.path.commonpath([folder, os.path.realpath(path)]) != folder:
            raise AgentFileError(
                f"The agent file {path} leads out of its folder; put a copy there."
            )
    with contextlib.suppress(OSError):  # which reading tells
        if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116
            raise AgentFileError(f"The agent file {path} is no file.")


def _scopes(project: str | None, home: str | None) -> Iterator[_Folder]:
    places: list[tuple[str | None, Scope]] = [(project, "project"), (home, "user")]
    if project and home and Path(project).resolve() == Path(home).resolve():
        del places[0]  # at home, everything there is the user's
    for base, scope in places:
        if base:
            yield _Folder(os.path.join(base, _OURS), scope)  # noqa: PTH118 - see _File.version
            yield _Folder(
                os.path.join(base, _CLAUDE_CODE),  # noqa: PTH118
                scope,
                of_claude_code=True,
            )


def _working_folder() -> str | None:
    try:
        return os.getcwd()  # noqa: PTH109 - see _File.version
    except OSError:  # it was removed
        return None


def _home_folder() -> str | None:
    home = os.environ.get("HOME")
    if home:
        return home
    try:
        return str(Path.home())
    except RuntimeError:  # this user has none
        return None


def _unknown(name: str, key: str, nearest: dict[str, _File]) -> UnknownAgentError:
    close = difflib.get_close_matches(key, nearest, n=3, cutoff=0.4)
    if close:
        hint = f"Did you mean {' or '.join(nearest[key].name for key in close)}?"
    elif nearest:
        hint = f"There are: {', '.join(sorted(file.name for file in nearest.values()))}."
    else:
        hint = "There are none in its folder."
    return UnknownAgentError(f"There is no agent {name!r}. {hint}")
