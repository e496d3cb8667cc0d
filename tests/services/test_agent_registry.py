"""Which agents there are, and when their files are read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from claude_pm.errors import AgentFileError, UnknownAgentError
from claude_pm.services.agent_registry import AgentRegistry
from tests.road_fixtures import write_agent


@pytest.fixture
def registry(tmp_path: Path) -> AgentRegistry:
    """A registry of two agents."""
    write_agent(tmp_path, "data_engineer")
    write_agent(tmp_path, "qa")
    return AgentRegistry(tmp_path)


class TestResolve:
    @pytest.mark.parametrize(
        "typed",
        [
            "data_engineer",
            "Data_Engineer",
            "DATA-ENGINEER",
            "data engineer",
            " Data   Engineer ",
            "data- engineer",
            "data\tengineer\n",
        ],
    )
    def test_as_people_type(self, registry: AgentRegistry, typed: str) -> None:
        """Case, hyphens and spaces do not matter."""
        assert registry.resolve(typed) == "data_engineer"

    @pytest.mark.parametrize(
        ("typed", "hint"),
        [
            ("data_enginer", "Did you mean data_engineer?"),
            ("qqa", "Did you mean qa?"),
            ("zzz", "There are: data_engineer, qa."),
            ("", "There are: data_engineer, qa."),
            ("../qa", "Did you mean qa?"),
        ],
    )
    def test_unknown(self, registry: AgentRegistry, typed: str, hint: str) -> None:
        """An unknown name is an error that names the nearest, or all there are."""
        with pytest.raises(UnknownAgentError) as caught:
            registry.resolve(typed)
        assert str(caught.value) == f"There is no agent {typed!r}. {hint}"

    def test_builtin(self) -> None:
        """Without a folder, the agents are those that come with claude_pm."""
        assert AgentRegistry().resolve("Version Control") == "version_control"


class TestLoad:
    def test_miss_then_hit(self, registry: AgentRegistry) -> None:
        """A file is read once, and the agent held."""
        first, cache = registry.load("qa")
        again, cache_again = registry.load("QA")
        assert (cache, cache_again) == ("miss", "hit")
        assert again is first

    def test_cache_off(self, registry: AgentRegistry) -> None:
        """With the cache off every load reads the file."""
        results = [registry.load("qa", use_cache=False)[1] for _ in range(2)]
        assert results == ["miss", "miss"]

    def test_changed_file(self, registry: AgentRegistry, tmp_path: Path) -> None:
        """A file that has changed is read again, even within one tick of a coarse clock."""
        registry.load("qa")
        path = write_agent(tmp_path, "qa", "Be thorough.")
        os.utime(path, ns=(0, 0))
        agent, cache = registry.load("qa")
        assert (agent.prompt, cache) == ("Be thorough.", "miss")
        path.write_text(path.read_text().replace("thorough", "faithful"))
        os.utime(path, ns=(0, 1))
        assert registry.get_agent("qa").prompt == "Be faithful."

    def test_a_broken_file_is_not_held(self, registry: AgentRegistry, tmp_path: Path) -> None:
        """A file that broke is an error, and its repair is seen."""
        registry.load("qa")
        path = tmp_path / "qa.md"
        good = path.read_text()
        path.write_text("nothing")
        with pytest.raises(AgentFileError):
            registry.load("qa")
        path.write_text(good)
        assert registry.get_agent("qa").prompt == "Be brief."

    def test_unknown(self, registry: AgentRegistry) -> None:
        """Loading an unknown agent is the same error as resolving it."""
        with pytest.raises(UnknownAgentError, match="data_engineer, qa"):
            registry.get_agent("zzz")


class TestList:
    def test_names(self, registry: AgentRegistry, tmp_path: Path) -> None:
        """Names are sorted, follow the folder, and need no file to be read."""
        (tmp_path / "broken.md").write_text("nothing")
        (tmp_path / "notes.txt").write_text("no agent")
        assert registry.names() == ["broken", "data_engineer", "qa"]

    def test_agents(self, registry: AgentRegistry, tmp_path: Path) -> None:
        """The list has every agent; a broken file is named."""
        assert [agent.name for agent in registry.list_agents()] == ["data_engineer", "qa"]
        (tmp_path / "broken.md").write_text("nothing")
        with pytest.raises(AgentFileError, match=r"broken\.md"):
            registry.list_agents()
