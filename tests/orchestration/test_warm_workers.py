"""Workers that are kept after their answer: who gets them, and when they end."""

from __future__ import annotations

import asyncio
import gc
import json
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

import claude_pm
from claude_pm.errors import ModelAuthenticationError
from claude_pm.orchestration import OrchestrationMode, warm_workers
from claude_pm.orchestration.message_bus import Answer, Message
from claude_pm.orchestration.subprocess_mode import SubprocessMode
from claude_pm.orchestration.warm_workers import WarmWorkers
from claude_pm.services.agent_registry import AgentRegistry
from claude_pm.services.context_manager import ContextManager
from claude_pm.settings import read_settings
from tests import messages_server as api
from tests.messages_server import MessagesServer
from tests.orchestration.workers import (
    NOBODY,
    _no_process_left,
    open_files,
    run_instead,
    wait_until_gone,
)
from tests.road_fixtures import span_rows, write_agent
from tests.waiting import WAIT_S, until

__all__ = ["_no_process_left"]

pytestmark = pytest.mark.slow

MakeMode = Callable[..., SubprocessMode]

# A worker that answers every request with its pid.
SERVES = """
    while line:
        answer(os.getpid())
        line = sys.stdin.readline()
"""


@pytest.fixture
def mode_of(tmp_path: Path) -> MakeMode:
    """Make the mode with one agent, ``clerk``, that is told of no folder."""
    write_agent(tmp_path / "agents", "clerk", "Be brief.")
    (tmp_path / "empty").mkdir()

    def make(**settings: Any) -> SubprocessMode:
        return SubprocessMode(
            read_settings(**settings),
            AgentRegistry(tmp_path / "agents"),
            ContextManager(tmp_path / "empty", home=tmp_path / "empty"),
        )

    return make


@pytest.fixture
async def serving(
    mode_of: MakeMode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[SubprocessMode]:
    """The mode with workers that answer every request with their pid."""
    run_instead(monkeypatch, tmp_path, SERVES)
    mode = mode_of(**NOBODY)
    yield mode
    await mode.aclose()


async def ask(mode: SubprocessMode, *, fresh: bool = False, user: str = "Hello?") -> Answer:
    """Ask as HYBRID does when it chose a worker to be quick, or as SUBPROCESS does."""
    message = Message("clerk", user, OrchestrationMode.SUBPROCESS, fresh=fresh, timeout_s=WAIT_S)
    return await asyncio.wait_for(mode.answer(message), WAIT_S)


async def pid_of(mode: SubprocessMode, *, fresh: bool = False) -> int:
    """Return which process answered."""
    return int((await ask(mode, fresh=fresh)).chat.text)


class TestWhoGetsThem:
    async def test_the_next_request(self, mode_of: MakeMode, server: MessagesServer) -> None:
        """A real worker serves again, and each request has the spans that are its own."""
        server.script(api.answer("one"), api.answer("two"))
        mode = mode_of(base_url=server.url, model="m")
        async with claude_pm.profile("warm", cpu="cprofile", memory="rss") as profile:
            with claude_pm.span("first"):
                first = await ask(mode)
            assert mode.idle_workers == 1
            with claude_pm.span("second"):
                second = await ask(mode)
        await mode.aclose()
        assert (first.chat.text, second.chat.text) == ("one", "two")
        assert first.worker_start_s is not None
        assert second.worker_start_s is None
        rows = span_rows(profile)
        own = {row["span_id"]: row["name"] for row in rows if row["parent_id"] is None}
        steps = [(own[row["parent_id"]], row["name"]) for row in rows if row["parent_id"]]
        assert [name for root, name in steps if root == "first"] == [
            "load_agent", "build_context", "start_worker", "chat",
        ]  # fmt: skip
        assert [name for root, name in steps if root == "second"] == [
            "load_agent", "build_context", "chat",
        ]  # fmt: skip
        roots = [json.loads(row["attributes"]) for row in rows if row["span_id"] in own]
        assert [root["worker"] for root in roots] == ["fresh", "warm"]
        assert len({row["pid"] for row in rows if row["name"] == "chat"}) == 1
        assert set(profile.memory["role"]) == {"kernel", "worker"}

    async def test_not_who_asks_for_a_fresh_one(self, serving: SubprocessMode) -> None:
        """Isolation means a process that has served nobody before, and serves nobody after."""
        warm = await pid_of(serving)
        isolated = await pid_of(serving, fresh=True)
        assert isolated != warm
        assert not psutil.pid_exists(isolated)
        assert (serving.idle_workers, await pid_of(serving)) == (1, warm)

    async def test_not_the_dead(self, serving: SubprocessMode) -> None:
        """A worker that died while it waited is nobody's any more, and leaves no open file."""
        await ask(serving, fresh=True)
        before = open_files()
        dead = await pid_of(serving)
        psutil.Process(dead).kill()
        await until(lambda: serving.idle_workers == 0)
        assert await pid_of(serving) != dead
        await serving.aclose()
        assert open_files() == before

    async def test_not_after_an_error(self, mode_of: MakeMode, server: MessagesServer) -> None:
        """A worker whose request failed is ended, though it could say why."""
        server.script(api.failure(401, "authentication_error", "invalid x-api-key"))
        mode = mode_of(base_url=server.url, model="m")
        with pytest.raises(ModelAuthenticationError):
            await ask(mode)
        assert mode.idle_workers == 0

    async def test_only_so_many(
        self, mode_of: MakeMode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Two are kept, however many were needed at the same time; one, where only one may run."""
        run_instead(monkeypatch, tmp_path, SERVES)
        for most, kept in ((4, 2), (1, 1)):
            mode = mode_of(**NOBODY, max_workers=most)
            pids = await asyncio.gather(*(pid_of(mode) for _ in range(4)))
            assert len(set(pids)) == 4
            assert mode.idle_workers == kept
            assert len(psutil.Process().children()) == kept
            await mode.aclose()

    async def test_of_this_loop(self, serving: SubprocessMode) -> None:
        """Another event loop has workers of its own, which end with it."""
        here = await pid_of(serving)

        async def elsewhere() -> list[int]:
            return [await pid_of(serving) for _ in range(2)]

        first, second = await asyncio.to_thread(lambda: asyncio.run(elsewhere()))
        assert first == second != here
        assert not psutil.pid_exists(first)
        assert await pid_of(serving) == here


class TestWhenTheyEnd:
    async def test_worn_out(self, serving: SubprocessMode, monkeypatch: pytest.MonkeyPatch) -> None:
        """After so many requests another worker takes over."""
        monkeypatch.setattr(warm_workers, "MOST_REQUESTS", 3)
        pids = [await pid_of(serving) for _ in range(6)]
        assert pids == [pids[0]] * 3 + [pids[3]] * 3
        assert pids[0] != pids[3]

    async def test_grown(
        self, mode_of: MakeMode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """So it does when the worker has grown too much since its first answer."""
        monkeypatch.setattr(warm_workers, "MOST_GROWTH_BYTES", 96 << 20)
        grows = SERVES.replace("answer(", "held = held + [b'x' * (64 << 20)]\n        answer(")
        run_instead(monkeypatch, tmp_path, "    held = []\n" + grows)
        mode = mode_of(**NOBODY)
        pids = [await pid_of(mode) for _ in range(4)]
        assert pids == [pids[0]] * 3 + [pids[3]]
        assert pids[0] != pids[3]
        await mode.aclose()

    async def test_nobody_asks(
        self, serving: SubprocessMode, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A worker that waits for too long is ended."""
        serving._warm = WarmWorkers(2, idle_s=0.05)
        worker = psutil.Process(await pid_of(serving))
        await until(lambda: serving.idle_workers == 0)
        await until(lambda: not worker.is_running())

    async def test_closed(self, serving: SubprocessMode) -> None:
        """Closing ends those that wait, at once, and keeps none that answers later."""
        pids = [await pid_of(serving)]
        await serving.aclose()
        assert serving.idle_workers == 0
        pids.append(await pid_of(serving))
        assert not any(map(psutil.pid_exists, pids))

    def test_with_the_loop(
        self, mode_of: MakeMode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """When the loop ends they do, though nobody closed anything; the next one starts anew."""
        run_instead(monkeypatch, tmp_path, SERVES)
        mode = mode_of(**NOBODY)
        before = open_files()
        pids = [asyncio.run(pid_of(mode)) for _ in range(2)]
        assert pids[0] != pids[1]
        assert not any(map(psutil.pid_exists, pids))
        assert open_files() == before

    @pytest.mark.filterwarnings("ignore:unclosed transport:ResourceWarning")
    def test_with_a_loop_that_ends_nothing(
        self, mode_of: MakeMode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Where a loop is closed just so, its workers are killed when the mode is used again."""
        run_instead(monkeypatch, tmp_path, SERVES)
        mode = mode_of(**NOBODY)
        loop = asyncio.new_event_loop()
        before = open_files()
        left = psutil.Process(loop.run_until_complete(pid_of(mode)))
        loop.close()
        assert left.is_running()
        asyncio.run(ask(mode, fresh=True))
        wait_until_gone(left)
        # What the loop itself had open is counted in, but was closed with it.
        assert open_files() < before
        gc.collect()

    @pytest.mark.parametrize("end", ["exits", "killed"])
    def test_with_the_program(self, server: MessagesServer, end: str, tmp_path: Path) -> None:
        """A program that ends, in whatever way, leaves no worker that waits."""
        server.script(api.answer("ok"))
        code = """
            import asyncio, sys
            from pathlib import Path
            from claude_pm.orchestration.message_bus import Message
            from claude_pm.orchestration.subprocess_mode import SubprocessMode
            from claude_pm.services.agent_registry import AgentRegistry
            from claude_pm.services.context_manager import ContextManager
            from claude_pm.settings import read_settings
            settings = read_settings(base_url=sys.argv[1], model="m")
            folder = ContextManager(Path(sys.argv[2]))
            mode = SubprocessMode(settings, AgentRegistry(), folder)
            loop = asyncio.new_event_loop()
            message = Message("qa", "Hello?", "subprocess", fresh=False)
            loop.run_until_complete(mode.answer(message))
            print("answered", flush=True)
            sys.stdin.readline()
        """
        with subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code), server.url, str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as program:
            assert program.stdout is not None
            assert program.stdout.readline() == "answered\n"
            (worker,) = psutil.Process(program.pid).children()
            if end == "killed":
                program.send_signal(signal.SIGKILL)
            said = program.communicate("\n")[1]
            assert (program.returncode, said) == (-9 if end == "killed" else 0, "")
        wait_until_gone(worker)
