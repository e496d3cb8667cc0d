"""Which agents there are, and when their files are read."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from claude_pm.agents import BUILTIN_FOLDER
from claude_pm.errors import AgentFileError, SettingsError, UnknownAgentError
from claude_pm.services.agent_registry import AgentRegistry
from claude_pm.services.shared_prompt_cache import SharedPromptCache
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

    def test_a_name_that_is_no_text(self, registry: AgentRegistry) -> None:
        """Whatever is passed for a name, the error says what a name is."""
        with pytest.raises(UnknownAgentError, match="by a text, not int"):
            registry.load(7)  # type: ignore[arg-type]

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
        """The list has every agent; a broken file is reported, and not listed."""
        assert [agent.name for agent in registry.list_agents()] == ["data_engineer", "qa"]
        assert registry.broken == ()
        (tmp_path / "broken.md").write_text("nothing")
        assert [agent.name for agent in registry.list_agents()] == ["data_engineer", "qa"]
        assert [broken.path for broken in registry.broken] == [tmp_path / "broken.md"]
        assert "broken.md" in registry.broken[0].message
        (tmp_path / "broken.md").unlink()
        registry.list_agents()
        assert registry.broken == ()

    def test_broken_is_logged_once(
        self, registry: AgentRegistry, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Each broken version of a file is one WARNING, however often agents are listed."""
        for text in ("nothing", "nothing at all"):
            (tmp_path / "broken.md").write_text(text)
            registry.list_agents()
            registry.list_agents()
        assert [(r.name, r.levelname) for r in caplog.records] == [
            ("claude_pm.services", "WARNING")
        ] * 2

    def test_as_guides_call_it(self, registry: AgentRegistry) -> None:
        """The listing can be asked for as in the guides."""
        assert registry.listAgents(scope="all") == registry.list_agents()


OURS = Path(".claude-pm", "agents")
CLAUDE_CODE = Path(".claude", "agents")


class Places:
    """A project and a home folder, and a registry of them."""

    def __init__(self, base: Path) -> None:
        self.project = base / "project"
        self.home = base / "home"
        self.project.mkdir()
        self.home.mkdir()
        self.registry = AgentRegistry(project=self.project, home=self.home)

    def prompt(self, name: str) -> str:
        return self.registry.get_agent(name).prompt


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places(tmp_path)


class TestScopes:
    def test_the_nearest_wins(self, places: Places) -> None:
        """Project before user before built-in, and in each our own folder before Claude Code's."""
        assert places.registry.get_agent("qa").scope == "builtin"
        farthest_first = [
            places.home / CLAUDE_CODE, places.home / OURS,
            places.project / CLAUDE_CODE, places.project / OURS,
        ]  # fmt: skip
        for folder in farthest_first:
            write_agent(folder, "qa", f"From {folder}.")
            assert places.prompt("qa") == f"From {folder}."
            assert len(places.registry.names()) == 9
        for folder in reversed(farthest_first):
            assert places.prompt("qa") == f"From {folder}."
            (folder / "qa.md").unlink()
        assert places.registry.get_agent("qa").path == BUILTIN_FOLDER / "qa.md"

    def test_working_and_home_folder(self, places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
        """By default they are those of the moment of the request."""
        registry = AgentRegistry()
        write_agent(places.project / OURS, "qa", "Of the project.")
        write_agent(places.home / OURS, "ops", "Of the user.")
        monkeypatch.chdir(places.home)
        monkeypatch.setenv("HOME", str(places.project))
        assert (registry.get_agent("qa").scope, registry.get_agent("ops").scope) == (
            "user", "project",
        )  # fmt: skip
        monkeypatch.chdir(places.project)
        monkeypatch.setenv("HOME", str(places.home))
        assert (registry.get_agent("qa").scope, registry.get_agent("ops").scope) == (
            "project", "user",
        )  # fmt: skip

    def test_at_home(self, places: Places) -> None:
        """Who works in the home folder finds the agents there once, as the user's."""
        write_agent(places.home / OURS, "clerk")
        registry = AgentRegistry(project=places.home, home=places.home)
        assert registry.get_agent("clerk").scope == "user"
        assert registry.list_agents("project") == []

    def test_listing(self, places: Places) -> None:
        """A hidden agent is listed with its own scope alone, and does not disturb the nearer."""
        write_agent(places.project / OURS, "qa", "Of the project.")
        write_agent(places.home / CLAUDE_CODE, "qa", "Of the user.")
        write_agent(places.home / CLAUDE_CODE, "painter")

        def listed(scope: str) -> list[tuple[str, str]]:
            agents = places.registry.list_agents(scope)  # type: ignore[arg-type]
            return [(agent.name, agent.scope) for agent in agents]

        assert listed("project") == [("qa", "project")]
        assert listed("user") == [("painter", "user"), ("qa", "user")]
        assert ("qa", "builtin") in listed("builtin")
        assert [scope for name, scope in listed("all") if name == "qa"] == ["project"]
        assert places.registry.prompt_cache.get("qa") == "Of the project."
        with pytest.raises(SettingsError, match="one of all, project, user, builtin"):
            listed("mine")

    def test_one_folder(self, places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
        """A registry of one folder has nothing else."""
        write_agent(places.project / OURS, "clerk")
        write_agent(places.home, "qa")
        monkeypatch.chdir(places.project)
        registry = AgentRegistry(places.home)
        assert (registry.names(), registry.folder) == (["qa"], places.home)
        assert AgentRegistry().folder is None
        assert AgentRegistry(BUILTIN_FOLDER).get_agent("qa").scope == "builtin"


class TestClaudeCode:
    def test_name_of_its_own(self, places: Places) -> None:
        """The front matter names the agent, and it is found as people type it."""
        path = write_agent(places.project / CLAUDE_CODE, "code-reviewer", model="opus")
        path.rename(path.with_name("reviewer.md"))
        assert places.registry.resolve("Code_Reviewer") == "code-reviewer"
        assert "code-reviewer" in places.registry.names()
        with pytest.raises(UnknownAgentError, match="Did you mean code-reviewer"):
            places.registry.load("reviewer")

    def test_hides_by_any_spelling(self, places: Places) -> None:
        """``data-engineer`` is the nearer ``data_engineer``."""
        write_agent(places.project / CLAUDE_CODE, "data-engineer", "Nearer.")
        assert places.prompt("data_engineer") == "Nearer."
        assert "data_engineer" not in places.registry.names()

    def test_renamed_inside(self, places: Places) -> None:
        """An edit of the name in place is seen, though the folder's time stays."""
        path = write_agent(places.project / CLAUDE_CODE, "painter", "Paint.")
        os.utime(path.parent, ns=(0, 0))
        assert places.prompt("painter") == "Paint."
        path.write_text(path.read_text().replace("painter", "plumber"))
        assert places.prompt("plumber") == "Paint."
        path.write_text(path.read_text().replace("plumber", "joiner"))
        with pytest.raises(UnknownAgentError):
            places.registry.load("plumber")
        path.write_text(path.read_text().replace("joiner", "ops"))
        assert "joiner" not in places.registry.names()
        assert places.prompt("ops") == "Paint."
        path.write_text("nothing")
        assert places.registry.get_agent("ops").scope == "builtin"
        with pytest.raises(AgentFileError, match=r"painter\.md"):
            places.registry.load("painter")

    def test_two_of_one_name(self, places: Places) -> None:
        """The first file is used, the other reported."""
        folder = places.project / CLAUDE_CODE
        write_agent(folder, "painter", "First.").rename(folder / "a.md")
        write_agent(folder, "painter", "Second.").rename(folder / "b.md")
        assert [agent.prompt for agent in places.registry.list_agents("project")] == ["First."]
        assert [broken.path.name for broken in places.registry.broken] == ["b.md"]
        assert "a.md has the same name" in places.registry.broken[0].message


class TestBroken:
    @pytest.mark.parametrize("kind", [OURS, CLAUDE_CODE])
    def test_nearer_and_broken(self, places: Places, kind: Path) -> None:
        """A broken agent is an error: another of that name does not take its place."""
        (places.project / kind).mkdir(parents=True)
        (places.project / kind / "qa.md").write_text("---\nname: qa\n---\nNo description.")
        with pytest.raises(AgentFileError, match="description"):
            places.registry.load("qa")
        assert "qa" not in [agent.name for agent in places.registry.list_agents()]
        assert [broken.scope for broken in places.registry.broken] == ["project"]
        assert places.registry.list_agents("user") == []
        assert places.registry.broken == ()

    @pytest.mark.parametrize("kind", [OURS, CLAUDE_CODE])
    def test_leads_out(self, places: Places, kind: Path) -> None:
        """A link out of the agents' folder is not followed; one inside is, and so is the folder."""
        real = write_agent(places.home / "elsewhere", "painter").parent
        (places.project / kind).parent.mkdir()
        (places.project / kind).symlink_to(real)
        assert places.prompt("painter") == "Be brief."
        secret = write_agent(places.home, "secret")
        (real / "secret.md").symlink_to(secret)
        (real / "loop.md").symlink_to(real / "loop.md")
        (real / "gone.md").symlink_to(real / "never.md")
        with pytest.raises(AgentFileError, match="leads out of its folder"):
            places.registry.load("secret")
        assert [agent.name for agent in places.registry.list_agents("project")] == ["painter"]
        assert sorted(broken.path.name for broken in places.registry.broken) == [
            "gone.md", "loop.md", "secret.md",
        ]  # fmt: skip

    @pytest.mark.parametrize("kind", [OURS, CLAUDE_CODE])
    def test_becomes_a_link(self, places: Places, kind: Path) -> None:
        """A file that was held and is now a link that leads out is not served any more."""
        path = write_agent(places.project / kind, "painter")
        places.registry.load("painter")
        path.unlink()
        path.symlink_to(write_agent(places.home, "painter"))
        with pytest.raises(AgentFileError, match="leads out of its folder"):
            places.registry.load("painter")

    @pytest.mark.parametrize("kind", [OURS, CLAUDE_CODE])
    def test_no_file(self, places: Places, kind: Path) -> None:
        """Folders and pipes are named, not waited for; hidden files are nobody's agents."""
        folder = places.project / kind
        (folder / "box.md").mkdir(parents=True)
        os.mkfifo(folder / "pipe.md")
        (folder / ".#qa.md").write_text("an editor's")
        assert places.registry.list_agents("project") == []
        messages = [broken.message for broken in places.registry.broken]
        assert len(messages) == 2
        assert all("is no file" in message for message in messages)

    def test_a_folder_that_is_none(self, places: Places) -> None:
        """What stands in the place of the folder is reported, the other agents are served."""
        (places.project / ".claude").mkdir()
        (places.project / CLAUDE_CODE).write_text("no folder")
        assert len(places.registry.list_agents()) == 9
        assert "cannot be read" in places.registry.broken[0].message

    @pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "..", "a/../qa", "\0"])
    def test_a_name_is_no_path(self, places: Places, name: str) -> None:
        """No name leads to a file outside the folders."""
        write_agent(places.project / ".claude-pm", "secret")
        write_agent(places.project / OURS, "clerk")
        with pytest.raises(UnknownAgentError):
            places.registry.load(name)

    def test_no_agents(self, tmp_path: Path) -> None:
        """A folder without agents, or that is not there, says so."""
        with pytest.raises(UnknownAgentError, match="There are none in its folder"):
            AgentRegistry(tmp_path / "none").load("qa")


class TestCache:
    def test_shared(self, places: Places) -> None:
        """What one registry read, another with the same cache has; the text is held once."""
        cache = SharedPromptCache()
        first = AgentRegistry(project=places.project, prompt_cache=cache)
        second = AgentRegistry(project=places.project, prompt_cache=cache)
        agent, _ = first.load("qa")
        assert second.load("qa") == (agent, "hit")
        assert cache.get("QA") is agent.prompt
        assert cache.stats.entries == 1

    def test_two_projects(self, tmp_path: Path) -> None:
        """Projects that share a cache do not get each other's agents."""
        cache = SharedPromptCache()
        for _ in range(2):
            for name in ("one", "two"):
                write_agent(tmp_path / name / OURS, "qa", f"Of {name}.")
                registry = AgentRegistry(project=tmp_path / name, prompt_cache=cache)
                assert registry.get_agent("qa").prompt == f"Of {name}."

    def test_a_text_set_by_hand(self, registry: AgentRegistry) -> None:
        """The file is what counts."""
        registry.prompt_cache.set("qa", "By hand.")
        assert registry.load("qa")[0].prompt == "Be brief."
        assert registry.prompt_cache.get("qa") == "Be brief."

    def test_off(self, registry: AgentRegistry) -> None:
        """With the cache off nothing is held or counted."""
        registry.load("qa", use_cache=False)
        assert registry.prompt_cache.stats == SharedPromptCache().stats

    def test_changed_and_broken(self, registry: AgentRegistry, tmp_path: Path) -> None:
        """The old version of a file goes when the new one comes, whole or broken."""
        registry.load("qa")
        write_agent(tmp_path, "qa", "Be thorough.")
        assert registry.load("qa")[1] == "miss"
        assert (registry.prompt_cache.get("qa"), registry.prompt_cache.stats.entries) == (
            "Be thorough.", 1,
        )  # fmt: skip
        (tmp_path / "qa.md").write_text("nothing")
        with pytest.raises(AgentFileError):
            registry.load("qa")
        assert registry.prompt_cache.get("qa") is None

    def test_threads(self, places: Places) -> None:
        """Many threads load while agents come and go; nobody sees half of a file or an error."""
        write_agent(places.project / OURS, "qa", "Nearer.")
        stop = threading.Event()

        def load() -> set[str]:
            seen = set()
            while not stop.is_set():
                seen.add(places.prompt("qa")[:7])
                places.registry.names()
            return seen

        with ThreadPoolExecutor(4) as pool:
            loads = [pool.submit(load) for _ in range(4)]
            try:
                for number in range(50):
                    path = write_agent(places.project / OURS, f"clerk_{number}")
                    path.replace(path.with_name("qa.md.new"))
                    new = write_agent(places.home, "qa", f"Nearer {number}.")
                    new.replace(places.project / OURS / "qa.md")
            finally:
                stop.set()
        assert {prefix for done in loads for prefix in done.result()} <= {"Nearer.", "Nearer "}
        assert places.prompt("qa") == "Nearer 49."
