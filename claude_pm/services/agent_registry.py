"""Which agents there are. Their files are read when first asked for, and again when they change."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Literal

from claude_pm.agents import BUILTIN_FOLDER, Agent, read_agent
from claude_pm.errors import UnknownAgentError

CacheResult = Literal["hit", "miss"]


class AgentRegistry:
    """The agents of a folder of Markdown files; by default those that come with claude_pm."""

    def __init__(self, folder: Path = BUILTIN_FOLDER) -> None:
        self.folder = folder
        self._loaded: dict[str, tuple[tuple[int, int], Agent]] = {}

    def names(self) -> list[str]:
        """Return the agents' names, sorted, without reading their files."""
        return sorted(path.stem for path in self.folder.glob("*.md"))

    def resolve(self, name: str) -> str:
        """Return an agent's own name for what a person typed: case and ``-`` do not matter.

        Raises:
            UnknownAgentError: there is none; the message names the nearest.
        """
        if not isinstance(name, str):  # a notebook's user passes anything
            raise UnknownAgentError(f"An agent is named by a text, not {type(name).__name__}.")
        known = self.names()
        wanted = "_".join(name.strip().lower().replace("-", " ").split())
        if wanted in known:
            return wanted
        nearest = difflib.get_close_matches(wanted, known, n=3, cutoff=0.4)
        hint = (
            f"Did you mean {' or '.join(nearest)}?"
            if nearest
            else f"There are: {', '.join(known)}."
        )
        raise UnknownAgentError(f"There is no agent {name!r}. {hint}")

    def get_agent(self, name: str) -> Agent:
        """Return the agent of that name; see :meth:`load` for the errors."""
        return self.load(name)[0]

    def load(self, name: str, *, use_cache: bool = True) -> tuple[Agent, CacheResult]:
        """Return the agent and whether it was held already (``hit``) or read now (``miss``).

        Raises:
            UnknownAgentError: there is none of that name.
            AgentFileError: its file is broken.
        """
        own_name = self.resolve(name)
        path = self.folder / f"{own_name}.md"
        status = path.stat()
        version = (status.st_mtime_ns, status.st_size)
        held = self._loaded.get(own_name)
        if use_cache and held is not None and held[0] == version:
            return held[1], "hit"
        agent = read_agent(path)
        self._loaded[own_name] = (version, agent)
        return agent, "miss"

    def list_agents(self) -> list[Agent]:
        """Return all agents, by name.

        Raises:
            AgentFileError: a file is broken.
        """
        return [self.get_agent(name) for name in self.names()]
