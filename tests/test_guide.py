"""The performance tuning guide, section by section: what it says to type works as it stands there.

Snippets that are fragments (a method without its class, a call of the reader's own function) are
completed by what stands around them in the test; docs/guide.md says what serves each section.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import json
import logging
import os
import re
import subprocess
import sys
import time
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

from claude_pm.models import MessagesClient, connect
from claude_pm.orchestration import (
    OrchestrationMode,
    Orchestrator,
    Response,
    SimpleMessageBus,
    create_backwards_compatible_orchestrator,
    orchestrate_agent,
)
from claude_pm.orchestration import orchestrator as orchestrator_module
from claude_pm.services.agent_registry import AgentRegistry
from claude_pm.services.context_manager import ContextManager
from claude_pm.services.shared_prompt_cache import SharedPromptCache
from claude_pm.settings import read_settings
from claude_pm.testing import FakeModel
from tests.road_fixtures import _stop_servers, weights

__all__ = ["_stop_servers", "weights"]

ROOT = Path(__file__).parents[1]


def shell(script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a shell snippet in the project's folder, with this environment's programs."""
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-e", "-c", script],
        cwd=ROOT,
        env={**os.environ, "PATH": programs, **environment},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


async def execute(snippet: str, **names: Any) -> dict[str, Any]:
    """Run a Python snippet as a notebook would, with these names; return all names."""
    code = compile(
        inspect.cleandoc(snippet), "<guide>", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    )
    result = eval(code, names)
    if inspect.isawaitable(result):
        await result
    return names


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> FakeModel:
    """Let everything that makes its own orchestrator have one without a model."""
    model = FakeModel("Fine.")
    monkeypatch.setattr(orchestrator_module, "connect", lambda settings: model)
    monkeypatch.setattr(orchestrator_module, "fetch_weights", lambda settings: None)
    monkeypatch.setattr(orchestrator_module, "_shared", None)
    return model


def test_every_section_has_its_row() -> None:
    """docs/guide.md names tests that are here, and all of them."""
    named = re.findall(r"`(?:Test\w+::)?(test_\w+)`", (ROOT / "docs/guide.md").read_text())
    here = re.findall(r"def (test_\w+)", Path(__file__).read_text())
    assert sorted(named) == sorted(set(here) - {"test_every_section_has_its_row"})


class TestOrchestrationPerformance:
    def test_mode_comparison(self) -> None:
        """There are the three modes of the table."""
        assert [mode.name for mode in OrchestrationMode] == ["LOCAL", "SUBPROCESS", "HYBRID"]

    def test_check_current_mode(self) -> None:
        """What the variable says is what the orchestrator does."""
        done = shell(
            """
            export CLAUDE_PM_ORCHESTRATION_MODE=HYBRID
            echo $CLAUDE_PM_ORCHESTRATION_MODE
            python -c "
from claude_pm.orchestration import create_backwards_compatible_orchestrator as make
print(make().mode.name)"
            """
        )
        assert done.stdout.split() == ["HYBRID", "HYBRID"], done.stderr

    def test_remove_subprocess_overrides(self) -> None:
        """With the variable gone the mode is LOCAL again."""
        done = shell(
            """
            export CLAUDE_PM_FORCE_SUBPROCESS_MODE=true
            unset CLAUDE_PM_FORCE_SUBPROCESS_MODE
            python -c "
from claude_pm.orchestration import create_backwards_compatible_orchestrator as make
print(make().mode.name)"
            """
        )
        assert done.stdout.split() == ["LOCAL"], done.stderr

    @pytest.mark.slow
    def test_verify_performance(self, weights: Path) -> None:
        """The command answers, and the shell can time it."""
        done = shell(
            'time claude-pm orchestrate documentation "Generate quick summary"',
            CLAUDE_PM_MAX_TOKENS="8",
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip()
        assert "local" in done.stderr
        assert "real" in done.stderr


class TestCommonPerformanceIssues:
    def test_slow_agent_responses(self) -> None:
        """The cure of the guide finds nothing to cure: a bus is there from the beginning."""
        orchestrator = Orchestrator(read_settings(), model=FakeModel())
        before = orchestrator._message_bus
        assert isinstance(before, SimpleMessageBus)
        snippet = """
            # Ensure LOCAL mode components are initialized
            if not self._message_bus:
                self._message_bus = SimpleMessageBus()
                self._register_default_agent_handlers()
        """
        asyncio.run(execute(snippet, self=orchestrator, SimpleMessageBus=SimpleMessageBus))
        assert orchestrator._message_bus is before
        assert all(before.handles(name) for name in orchestrator.registry.names())

    @pytest.mark.slow
    async def test_starting_subprocess_is_logged(
        self, weights: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The symptom to look for in logs is there when, and only when, a process is started."""
        with caplog.at_level(logging.INFO, logger="claude_pm"):
            async with create_backwards_compatible_orchestrator() as orchestrator:
                await orchestrator.orchestrate_agent("qa", "Hello?", max_tokens=1)
                assert "Starting subprocess" not in caplog.messages
                await orchestrator.orchestrate_agent(
                    "qa", "Hello?", max_tokens=1, mode="subprocess"
                )
        assert "Starting subprocess" in caplog.messages

    async def test_memory_usage_growth(self) -> None:
        """Old entries can be cleaned up."""
        snippet = """
            # Use shared prompt cache
            cache = SharedPromptCache()
            cache.cleanup_old_entries(max_age_hours=24)
        """
        names = await execute(snippet, SharedPromptCache=SharedPromptCache)
        names["cache"].set("qa", "Be brief.")
        assert names["cache"].cleanup_old_entries(max_age_hours=0) == 1


class TestCachingStrategies:
    @pytest.mark.slow
    async def test_shared_prompt_cache(self, weights: Path) -> None:
        """Preloaded agents are hot: their first request reads its prompt from the model's cache."""
        snippet = """
            from claude_pm.services.shared_prompt_cache import SharedPromptCache

            # Initialize with cache
            cache = SharedPromptCache()
            registry = AgentRegistry(prompt_cache=cache)

            # Preload frequently used agents
            cache.preload_agent_prompts(['documentation', 'qa', 'engineer'])
        """
        names = await execute(snippet, AgentRegistry=AgentRegistry)
        async with Orchestrator(read_settings(), registry=names["registry"]) as orchestrator:
            for agent in ("documentation", "qa", "engineer"):
                assert names["cache"].get(agent)
                usage = (await orchestrator.orchestrate_agent(agent, "Hello?", max_tokens=1)).usage
                assert usage.cache_read_tokens is not None
                assert usage.input_tokens is not None
                assert usage.cache_read_tokens > 0.8 * usage.input_tokens
            assert orchestrator.get_orchestration_metrics()["cache_hit_rate"] == 100.0

    async def test_context_manager_caching(self, tmp_path: Path) -> None:
        """The context manager keeps what it made of a CLAUDE.md by the hash of the file."""
        snippet = """
            # Cache CLAUDE.md deduplication
            context_manager._claude_md_cache[file_hash] = {
                'content': filtered_content,
                'timestamp': time.time()
            }
        """
        (tmp_path / "CLAUDE.md").write_text("Use tabs.")
        context_manager = ContextManager(tmp_path, home=tmp_path)
        await context_manager.build()
        ((file_hash, held),) = context_manager._claude_md_cache.items()
        assert set(held) == {"content", "timestamp"}
        await execute(
            snippet,
            context_manager=context_manager,
            file_hash=file_hash,
            filtered_content=held["content"],
            time=time,
        )
        assert "Use tabs." in (await context_manager.build())[0].text

    async def test_agent_registry_caching(self) -> None:
        """Listings can be cached by the reader's own method; the registry's are cached anyway."""
        snippet = """
            class Registry(AgentRegistry):
                # Cache agent listings
                @lru_cache(maxsize=100)
                def list_agents_cached(self, scope='all'):
                    return self.listAgents(scope=scope)
        """
        names = await execute(snippet, AgentRegistry=AgentRegistry, lru_cache=lru_cache)
        registry = names["Registry"]()
        assert [agent.name for agent in registry.list_agents_cached("builtin")][:2] == [
            "data_engineer", "documentation",
        ]  # fmt: skip
        assert registry.list_agents_cached() is registry.list_agents_cached()


class TestPerformanceMonitoring:
    async def test_orchestration_metrics(
        self, no_model: FakeModel, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """The three figures are there, before and after requests."""
        snippet = """
            # Get performance metrics
            metrics = orchestrator.get_orchestration_metrics()
            print(f"Total orchestrations: {metrics['total_orchestrations']}")
            print(f"Average response time: {metrics['average_response_time_ms']}ms")
            print(f"Cache hit rate: {metrics['cache_hit_rate']}%")
        """
        orchestrator = create_backwards_compatible_orchestrator()
        await execute(snippet, orchestrator=orchestrator)
        for _ in range(4):
            await orchestrator.orchestrate_agent("qa", "Hello?")
        names = await execute(snippet, orchestrator=orchestrator)
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == "Total orchestrations: 0"
        assert lines[3] == "Total orchestrations: 4"
        assert lines[5] == "Cache hit rate: 75.0%"
        assert names["metrics"]["average_response_time_ms"] > 0

    async def test_logging_performance_data(
        self, no_model: FakeModel, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The reader's own line can be written, and stands beside ours."""
        snippet = """
            import time
            import logging

            logger = logging.getLogger(__name__)

            start = time.perf_counter()
            response = await orchestrate_agent(agent_type, request)
            duration = time.perf_counter() - start

            logger.info(f"Agent {agent_type} responded in {duration:.3f}s")
        """
        with caplog.at_level(logging.INFO):
            await execute(
                snippet,
                __name__="mine",
                orchestrate_agent=orchestrate_agent,
                agent_type="qa",
                request="Hello?",
            )
        ours, theirs = caplog.records
        assert (ours.name, theirs.name) == ("claude_pm.orchestration", "mine")
        assert all(
            record.getMessage().startswith("Agent qa responded in ") for record in (ours, theirs)
        )
        assert len(ours.trace_id) == 32  # type: ignore[attr-defined]

    @pytest.mark.slow
    def test_performance_benchmarks(self, weights: Path) -> None:
        """The suite gives each of the guide's figures with its bound, and what was measured."""
        done = shell("python scripts/performance_benchmark.py --json")
        assert done.returncode == 0, done.stderr
        figures = json.loads(done.stdout)
        bounds = {figure["bound"] for figure in figures if figure["unit"] == "ms"}
        assert {500.0, 10.0, 100.0} <= bounds
        assert {figure["model"] for figure in figures} == {"live", "not called"}
        assert all(figure["n"] >= 2 and figure["median"] > 0 for figure in figures)


class TestOptimizationTechniques:
    async def test_batch_operations(self, no_model: FakeModel) -> None:
        """The reader's own gather works; ours is as easy, and keeps order and failures apart."""
        snippet = """
            # Batch multiple agent queries
            async def batch_orchestrate(queries):
                tasks = [
                    orchestrate_agent(q['agent'], q['request'])
                    for q in queries
                ]
                return await asyncio.gather(*tasks)
        """
        names = await execute(snippet, orchestrate_agent=orchestrate_agent, asyncio=asyncio)
        queries = [{"agent": "qa", "request": "a"}, {"agent": "ops", "request": {"task": "b"}}]
        theirs = await names["batch_orchestrate"](queries)
        from claude_pm.orchestration import batch_orchestrate

        ours = await batch_orchestrate(queries)
        assert all(isinstance(answer, Response) for answer in ours)
        assert [answer.agent for answer in theirs] == ["qa", "ops"]
        assert [answer.agent for answer in ours] == ["qa", "ops"]  # type: ignore[union-attr]

    async def test_lazy_loading(self) -> None:
        """The registry reads an agent when it is first asked for; so can the reader's own."""
        snippet = """
            class Registry:
                # Only load what's needed
                def get_agent_lazy(self, agent_type):
                    if agent_type not in self._loaded_agents:
                        self._loaded_agents[agent_type] = self._load_agent(agent_type)
                    return self._loaded_agents[agent_type]
        """
        cache = SharedPromptCache()
        registry = AgentRegistry(prompt_cache=cache)
        mine = (await execute(snippet))["Registry"]()
        mine._loaded_agents, mine._load_agent = {}, registry.get_agent
        assert cache.stats.entries == 0
        assert mine.get_agent_lazy("qa") is mine.get_agent_lazy("qa")
        assert cache.stats.entries == 1

    async def test_connection_pooling(self) -> None:
        """The reader's own pool can be made; ours has the same bounds, and is used again."""
        snippet = """
            # Reuse HTTP connections for AI APIs
            import httpx

            async_client = httpx.AsyncClient(
                limits=httpx.Limits(max_connections=10),
                timeout=30.0
            )
        """
        names = await execute(snippet)
        await names["async_client"].aclose()
        client = connect(read_settings(model="claude-test", api_key="none"))
        assert isinstance(client, MessagesClient)
        assert (client._address.max_connections, client._address.timeout_s) == (10, 30.0)

    async def test_async_processing(self, tmp_path: Path) -> None:
        """Files can be read at the same time; the context manager reads its own so."""
        snippet = """
            # Use async for I/O operations
            async def process_files(file_paths):
                tasks = [read_file_async(path) for path in file_paths]
                return await asyncio.gather(*tasks)
        """

        async def read_file_async(path: Path) -> str:
            return await asyncio.to_thread(path.read_text)

        for name in "ab":
            (tmp_path / name).write_text(name)
        names = await execute(snippet, asyncio=asyncio, read_file_async=read_file_async)
        assert await names["process_files"]([tmp_path / "a", tmp_path / "b"]) == ["a", "b"]


class TestConfigurationTuning:
    def test_environment_variables(self) -> None:
        """Every variable is read, as it is written there."""
        done = shell(
            """
            # Optimize for performance
            export CLAUDE_PM_ORCHESTRATION_MODE=LOCAL
            export CLAUDE_PM_CACHE_ENABLED=true
            export CLAUDE_PM_MAX_WORKERS=4
            export CLAUDE_PM_REQUEST_TIMEOUT=30
            python -c "
from claude_pm import read_settings
print(read_settings().model_dump_json())"
            """
        )
        told = json.loads(done.stdout)
        assert told["orchestration_mode"] == "local"
        assert told["cache_enabled"] is True
        assert told["max_workers"] == 4
        assert told["request_timeout"] == 30.0

    @pytest.mark.slow
    def test_memory_limits(self, weights: Path) -> None:
        """A process that limits itself to 2 GB can ask an agent."""
        done = shell(
            """
            python -c "
# Configure memory limits
import resource

# Set max memory to 2GB
resource.setrlimit(resource.RLIMIT_AS, (2 * 1024 * 1024 * 1024, -1))

import asyncio
from claude_pm.orchestration import orchestrate_agent
print(asyncio.run(orchestrate_agent('qa', 'Hello?', max_tokens=2)).mode)"
            """
        )
        assert done.stdout.split() == ["local"], done.stderr

    async def test_logging_optimization(
        self, no_model: FakeModel, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The two loggers are ours, and their levels do what the guide says."""
        snippet = """
            # Reduce logging overhead in production
            import logging

            # Only log warnings and above
            logging.getLogger('claude_pm').setLevel(logging.WARNING)

            # Disable debug logging for performance
            logging.getLogger('claude_pm.orchestration').setLevel(logging.INFO)
        """
        loggers = [logging.getLogger(name) for name in ("claude_pm", "claude_pm.orchestration")]
        before = [logger.level for logger in loggers]
        try:
            await execute(snippet)
            assert loggers[0].getEffectiveLevel() == logging.WARNING
            await orchestrate_agent("qa", "Hello?")
            assert [record.name for record in caplog.records] == ["claude_pm.orchestration"]
            caplog.clear()
            loggers[1].setLevel(logging.WARNING)
            await orchestrate_agent("qa", "Hello?")
            assert caplog.records == []
        finally:
            for logger, level in zip(loggers, before, strict=True):
                logger.setLevel(level)


@pytest.mark.slow
class TestProfilingAndAnalysis:
    def test_cpu_profiling(self, weights: Path, tmp_path: Path) -> None:
        """cProfile takes the script, and pstats reads what it wrote."""
        done = shell(
            f"""
            # Profile CPU usage
            python -m cProfile -o {tmp_path}/profile.stats scripts/orchestrate_test.py
            echo "sort cumulative\nstats orchestrate_agent" |
                python -m pstats {tmp_path}/profile.stats
            """
        )
        assert done.returncode == 0, done.stderr
        assert "request 3: " in done.stdout
        assert "orchestrator.py" in done.stdout

    def test_memory_profiling(self, weights: Path) -> None:
        """memory_profiler, which the development environment has, takes the script too."""
        done = shell("python -m memory_profiler scripts/orchestrate_test.py")
        assert done.returncode == 0, done.stderr
        assert "request 3: " in done.stdout

    async def test_async_profiling(self, capsys: pytest.CaptureFixture[str]) -> None:
        """The reader's own coroutine can be timed as it stands there."""
        snippet = """
            import asyncio
            import time

            async def profile_async_operation():
                start = time.perf_counter()
                await your_async_operation()
                duration = time.perf_counter() - start
                print(f"Operation took {duration:.3f}s")
        """

        async def your_async_operation() -> None:
            async with create_backwards_compatible_orchestrator() as orchestrator:
                await orchestrator.orchestrate_agent("qa", "Hello?", max_tokens=1)

        names = await execute(snippet, your_async_operation=your_async_operation)
        await names["profile_async_operation"]()
        assert capsys.readouterr().out.startswith("Operation took ")


class TestBestPractices:
    async def test_implement_timeouts(self) -> None:
        """An operation that hangs ends, and says which limit ended it."""
        orchestrator = Orchestrator(read_settings(), model=FakeModel(ttft_s=60.0))
        with pytest.raises(TimeoutError, match="CLAUDE_PM_REQUEST_TIMEOUT"):
            await orchestrator.orchestrate_agent("qa", "Hello?", timeout=0.01)


@pytest.mark.slow
class TestTroubleshootingPerformance:
    def test_quick_diagnostics(self, weights: Path) -> None:
        """The command of the guide, as it stands there."""
        done = shell("""
            # Check orchestration mode and performance
            python3 -c "
import asyncio
import time
from claude_pm.orchestration import create_backwards_compatible_orchestrator

async def diagnose():
    orch = create_backwards_compatible_orchestrator()
    print(f'Mode: {orch.mode}')
    
    start = time.perf_counter()
    await orch.orchestrate_agent('qa', {'task': 'test'})
    duration = time.perf_counter() - start
    
    print(f'Response time: {duration:.3f}s')
    if duration > 1.0:
        print('WARNING: Slow response detected!')
        print('Check orchestration mode and initialization')

asyncio.run(diagnose())
"
        """)  # noqa: W293 - the guide's own blanks
        lines = done.stdout.splitlines()
        assert lines[0] == "Mode: local", done.stderr
        assert lines[1].startswith("Response time: ")
