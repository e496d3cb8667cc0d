"""Prompts held in memory: what stays, what goes, and what a preload does."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import signal
import threading
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import claude_pm
from claude_pm.agents import Agent
from claude_pm.errors import (
    AgentFileError,
    ModelConnectionError,
    RequestError,
    SettingsError,
    UnknownAgentError,
)
from claude_pm.services.agent_registry import AgentRegistry
from claude_pm.services.shared_prompt_cache import SharedPromptCache, WarmedPrompt
from tests import messages_server as api
from tests.messages_server import MessagesServer
from tests.road_fixtures import write_agent

HOUR = 3600.0


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class TestEntries:
    def test_get_and_set(self) -> None:
        """What was set is got, under any spelling of the name."""
        cache = SharedPromptCache()
        assert cache.get("qa") is None
        assert cache.content_hash("qa") is None
        cache.set("data-engineer", "Grüße")
        assert cache.get("Data Engineer") == "Grüße"
        assert cache.content_hash("data_engineer") == hashlib.sha256("Grüße".encode()).hexdigest()
        cache.set("data_engineer", "Other")
        assert cache.get("data-engineer") == "Other"

    def test_stats(self) -> None:
        """Entries, their bytes as UTF-8, and how often something was found."""
        cache = SharedPromptCache()
        assert cache.stats.hit_rate == 0.0
        cache.set("qa", "Grüße")
        for name in ("qa", "qa", "qa", "ops"):
            cache.get(name)
        stats = cache.stats
        assert (stats.entries, stats.bytes) == (1, 7)
        assert (stats.hits, stats.misses, stats.hit_rate) == (3, 1, 75.0)
        cache.clear()
        assert (cache.stats.entries, cache.stats.bytes, cache.stats.hits) == (0, 0, 3)
        assert cache.get("qa") is None
        assert stats.entries == 1

    def test_most_entries(self) -> None:
        """The least recently used leaves first."""
        cache = SharedPromptCache(max_entries=2)
        cache.set("a", "1")
        cache.set("b", "2")
        cache.get("a")
        cache.set("c", "3")
        assert [cache.get(name) for name in "abc"] == ["1", None, "3"]
        assert cache.stats.evictions == 1

    def test_most_bytes(self) -> None:
        """So it is where the bytes are too many; a text that never fits displaces nothing."""
        cache = SharedPromptCache(max_bytes=10)
        for name in "abc":
            cache.set(name, "ää")
        assert [cache.get(name) for name in "abc"] == [None, "ää", "ää"]
        cache.set("d", "ää123456789")
        assert [cache.get(name) for name in "bcd"] == ["ää", "ää", None]
        cache.set("b", "x" * 11)
        assert cache.get("b") is None
        assert cache.stats.bytes == 4

    def test_age(self) -> None:
        """A prompt that was not used for too long is gone; each use keeps it."""
        clock = Clock()
        cache = SharedPromptCache(max_age_hours=2, clock=clock)
        cache.set("a", "1")
        cache.set("b", "2")
        clock.now_s = 1.5 * HOUR
        assert cache.get("a") == "1"
        clock.now_s = 3 * HOUR
        assert (cache.get("a"), cache.get("b")) == ("1", None)
        clock.now_s = 6 * HOUR
        cache.set("c", "3")
        assert (cache.stats.entries, cache.stats.expirations) == (1, 2)

    def test_cleanup(self) -> None:
        """A cleanup drops what was not used for that long, and counts it."""
        clock = Clock()
        cache = SharedPromptCache(max_age_hours=100, clock=clock)
        for name in "abc":
            cache.set(name, name)
        clock.now_s = 12 * HOUR
        cache.get("a")
        clock.now_s = 24 * HOUR
        assert cache.cleanup_old_entries() == 2
        assert cache.cleanup_old_entries(max_age_hours=24) == 0
        assert cache.stats.entries == 1
        assert cache.cleanup_old_entries(max_age_hours=0) == 1
        assert (cache.stats.bytes, cache.stats.expirations) == (0, 3)

    @pytest.mark.parametrize(
        ("options", "name"),
        [
            ({"max_entries": 0}, "max_entries"),
            ({"max_bytes": -1}, "max_bytes"),
            ({"max_age_hours": -1}, "max_age_hours"),
            ({"max_age_hours": float("nan")}, "max_age_hours"),
        ],
    )
    def test_limits_that_may_not_be(self, options: dict[str, float], name: str) -> None:
        """The error names the option."""
        with pytest.raises(SettingsError, match=f"{name} is"):
            SharedPromptCache(**options)  # type: ignore[arg-type]
        with pytest.raises(SettingsError, match="max_age_hours is -1"):
            SharedPromptCache().cleanup_old_entries(-1)

    def test_threads(self) -> None:
        """Bytes and counts stay right when many threads use one cache."""
        cache = SharedPromptCache(max_entries=5)

        def use(thread: int) -> None:
            for number in range(500):
                cache.set(f"agent {number % 9}", "x" * (thread + 1))
                cache.get(f"agent {number % 7}")
                cache.cleanup_old_entries(1)

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(use, range(4)))
        stats = cache.stats
        assert stats.hits + stats.misses == 2000
        assert stats.entries == 5
        held = [cache.get(f"agent {number}") for number in range(9)]
        assert stats.bytes == sum(len(prompt) for prompt in held if prompt)


class Warmer:
    """A model that can be warmed; it notes what it was given."""

    def __init__(self) -> None:
        self.given: list[str] = []
        self.thread = 0

    async def warm(self, agents: Sequence[Agent]) -> list[WarmedPrompt]:
        self.given += [agent.name for agent in agents]
        self.thread = threading.get_ident()
        with claude_pm.span("warm"):
            await asyncio.sleep(0.01)
        return [WarmedPrompt(agent.name, 0, len(agent.prompt), 0.01) for agent in agents]


@pytest.fixture
def cache(tmp_path: Path) -> SharedPromptCache:
    """A cache with a registry of two agents."""
    write_agent(tmp_path, "qa")
    write_agent(tmp_path, "ops", "Be calm.")
    cache = SharedPromptCache()
    AgentRegistry(tmp_path, prompt_cache=cache)
    return cache


class TestPreload:
    def test_as_the_guide_has_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: MessagesServer
    ) -> None:
        """Three lines, and the prompts are held here and in the model that the settings name."""
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("CLAUDE_PM_BASE_URL", server.url)
        monkeypatch.setenv("CLAUDE_PM_MODEL", "m")
        server.script(*[api.answer("ok")] * 3)
        cache = SharedPromptCache()
        registry = AgentRegistry(prompt_cache=cache)
        cache.preload_agent_prompts(["documentation", "qa", "engineer"])
        assert registry.load("documentation")[1] == "hit"
        assert cache.get("engineer") == registry.get_agent("engineer").prompt
        asked = [received.body for received in server.received]
        assert [body["max_tokens"] for body in asked] == [1, 1, 1]
        assert asked[2]["system"][0]["text"] == cache.get("engineer")

    def test_caches_switched_off(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: MessagesServer
    ) -> None:
        """With CLAUDE_PM_CACHE_ENABLED=false no model is warmed."""
        monkeypatch.setenv("CLAUDE_PM_BASE_URL", server.url)
        monkeypatch.setenv("CLAUDE_PM_CACHE_ENABLED", "false")
        report = SharedPromptCache().preload_agent_prompts(["qa"])
        assert (report.agents, report.warmed, server.received) == (("qa",), (), [])

    def test_text_alone(self, cache: SharedPromptCache) -> None:
        """Without a model the texts are loaded, each once, under the agents' own names."""
        cache.warm_with(None)
        cache.get("nobody")
        report = cache.preload_agent_prompts(["QA", "qa", "ops"])
        assert report.agents == ("qa", "ops")
        assert (report.hits, report.misses, report.prompt_bytes) == (0, 2, 17)
        assert report.warmed == ()
        assert report.duration_s > 0
        again = cache.preload_agent_prompts(name for name in ["qa"])
        assert (again.hits, again.misses) == (1, 0)

    def test_without_a_registry(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A cache that no registry was made with finds the agents by itself."""
        monkeypatch.chdir(tmp_path)
        write_agent(tmp_path / ".claude-pm" / "agents", "qa", "Of the project.")
        cache = SharedPromptCache()
        cache.warm_with(None)
        assert cache.preload_agent_prompts(["qa"]).agents == ("qa",)
        assert cache.get("qa") == "Of the project."

    def test_unknown(self, cache: SharedPromptCache) -> None:
        """One unknown name, and nothing is loaded or warmed."""
        warmer = Warmer()
        cache.warm_with(warmer.warm)
        with pytest.raises(UnknownAgentError, match="Did you mean ops"):
            cache.preload_agent_prompts(["qa", "opps"])
        assert (cache.stats.entries, warmer.given) == (0, [])
        with pytest.raises(RequestError, match=r"a list of agents' names: \['qa'\]"):
            cache.preload_agent_prompts("qa")

    def test_broken(self, cache: SharedPromptCache, tmp_path: Path) -> None:
        """A broken file is an error before the model is warmed."""
        (tmp_path / "bad.md").write_text("nothing")
        warmer = Warmer()
        cache.warm_with(warmer.warm)
        with pytest.raises(AgentFileError, match=r"bad\.md"):
            cache.preload_agent_prompts(["qa", "bad"])
        assert warmer.given == []

    def test_warm(self, cache: SharedPromptCache) -> None:
        """The model is warmed in the given order, and tells what it took."""
        warmer = Warmer()
        cache.warm_with(warmer.warm)
        report = cache.preload_agent_prompts(["ops", "qa"])
        assert warmer.given == ["ops", "qa"]
        assert report.warmed == (
            WarmedPrompt("ops", 0, 8, 0.01),
            WarmedPrompt("qa", 0, 9, 0.01),
        )
        cache.warm_with(None)
        assert cache.preload_agent_prompts(["qa"]).warmed == ()

    async def test_where_a_loop_runs(self, cache: SharedPromptCache) -> None:
        """It is called without await, as in a notebook; its spans are in the caller's profile."""
        warmer = Warmer()
        cache.warm_with(warmer.warm)
        with claude_pm.profile("preload") as profile, claude_pm.span("outer"):
            report = cache.preload_agent_prompts(["qa"])
        assert len(report.warmed) == 1
        assert warmer.thread != threading.get_ident()
        spans = profile.spans.set_index("name")
        assert spans.loc["warm", "parent_id"] == spans.loc["outer", "span_id"]

    async def test_awaited(self, cache: SharedPromptCache) -> None:
        """Awaited, the model is warmed in the running loop."""
        warmer = Warmer()
        cache.warm_with(warmer.warm)
        report = await cache.apreload_agent_prompts(["qa"])
        assert [warmed.agent for warmed in report.warmed] == ["qa"]
        assert warmer.thread == threading.get_ident()
        assert (await cache.apreload_agent_prompts(["qa"])).hits == 1
        with pytest.raises(UnknownAgentError):
            await cache.apreload_agent_prompts(["nobody"])

    def test_a_model_that_fails(self, cache: SharedPromptCache) -> None:
        """The model's error is the caller's; the texts are loaded all the same."""

        async def fail(agents: Sequence[Agent]) -> list[WarmedPrompt]:
            raise ModelConnectionError("Nobody answers.")

        cache.warm_with(fail)
        with pytest.raises(ModelConnectionError, match="Nobody answers"):
            cache.preload_agent_prompts(["qa"])
        assert cache.get("qa") == "Be brief."

    def test_the_newest_model(self, cache: SharedPromptCache) -> None:
        """The newest wins; one that is gone is forgotten and was not kept alive by the cache."""
        first, second = Warmer(), Warmer()
        cache.warm_with(first.warm)
        cache.warm_with(second.warm)
        cache.preload_agent_prompts(["qa"])
        assert (first.given, second.given) == ([], ["qa"])
        gone = weakref.ref(second)
        del second
        gc.collect()
        assert gone() is None

    def test_interrupted(self, cache: SharedPromptCache) -> None:
        """Ctrl-C ends it at once, and the warming too."""
        ended = []
        main = threading.get_ident()

        async def warm(agents: Sequence[Agent]) -> list[WarmedPrompt]:
            try:
                signal.pthread_kill(main, signal.SIGINT)
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                ended.append(True)
                raise
            return []

        cache.warm_with(warm)
        with pytest.raises(KeyboardInterrupt):
            cache.preload_agent_prompts(["qa"])
        assert ended == [True]
