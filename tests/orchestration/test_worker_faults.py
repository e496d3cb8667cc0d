"""Workers that crash, hang, speak nonsense or lack memory: one error each, and nothing is left."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path
from typing import Any

import psutil
import pytest

from claude_pm.errors import ClaudePMError, OrchestrationTimeoutError, WorkerError
from claude_pm.orchestration import Orchestrator, worker_pipes, worker_process
from tests import messages_server as api
from tests.messages_server import MessagesServer
from tests.orchestration.workers import (
    NOBODY,
    Make,
    _no_process_left,
    ask,
    made,
    named,
    open_files,
    processes_of,
    run_instead,
    wait_until_gone,
)
from tests.waiting import WAIT_S, wait_until

__all__ = ["_no_process_left", "made"]

pytestmark = pytest.mark.slow


class TestBadWorkers:
    @pytest.mark.parametrize(
        ("code", "ready", "says"),
        [
            pytest.param("print('hello')", False, "no reply: b'hello", id="garbage-first"),
            pytest.param('print(\'{"type": "text"}\')', False, "did not get ready", id="unready"),
            pytest.param("print('hello')", True, "no reply: b'hello", id="garbage"),
            pytest.param("print('[1, 2]')", True, "no reply", id="a-list"),
            pytest.param("os.write(1, b'\\xff\\xfe\\n')", True, "no reply", id="no-text"),
            pytest.param("print('{\"type\": \"rea', end='')", True, "no reply", id="half-a-line"),
            pytest.param('print(\'{"type": "dance"}\')', True, "'dance'", id="unknown-kind"),
            pytest.param('print(\'{"type": "result"}\')', True, "another form", id="no-answer"),
            pytest.param('print(\'{"type": "error"}\')', True, "another form", id="no-error"),
            pytest.param(
                "print(json.dumps({'type': 'result', 'chat': {'usage': {'x': 1}}}))",
                True,
                "another form",
                id="answer-of-another-version",
            ),
            pytest.param(
                "print(json.dumps({'type': 'result', 'recorded': {'spans': [{}]}}))",
                True,
                "another form",
                id="spans-of-another-version",
            ),
            pytest.param("print('x' * 3_000_000)", True, "more than 2000000 bytes", id="endless"),
            pytest.param(
                "print('No such luck', file=sys.stderr); sys.exit(3)",
                True,
                "exited with 3 before it answered. Its last words: No such luck",
                id="exits",
            ),
            pytest.param("sys.exit(3)", False, "exited with 3 before", id="exits-at-once"),
            pytest.param("", True, "exited with 0 before", id="ends-without-a-word"),
            pytest.param(
                "os.kill(os.getpid(), 6)", True, "was killed by SIGABRT before", id="aborts"
            ),
            pytest.param(
                "os.close(1); os.close(2); time.sleep(600)",
                True,
                "closed its output before",
                id="closes-its-output",
            ),
        ],
    )
    async def test_is_a_worker_error(
        self,
        made: Make,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        code: str,
        ready: bool,
        says: str,
    ) -> None:
        """A worker that crashes or speaks nonsense is an error that says which."""
        monkeypatch.setattr(worker_pipes, "LINE_LIMIT_BYTES", 2_000_000)
        monkeypatch.setattr(worker_process, "_END_S", 0.5)
        run_instead(monkeypatch, tmp_path, code, ready=ready)
        error, profile = await ask(made(**NOBODY), timeout=WAIT_S)
        assert type(error) is WorkerError
        assert says in str(error)
        root = named(profile, "orchestrate")
        assert (root["status"], root["error"]) == ("error", f"WorkerError: {error}")

    async def test_cannot_start(self, made: Make, monkeypatch: pytest.MonkeyPatch) -> None:
        """A program that cannot be started is said to be so, on the span of the start."""
        monkeypatch.setattr(sys, "executable", "/nowhere/python")
        error, profile = await ask(made(**NOBODY))
        assert type(error) is WorkerError
        assert "could not be started" in str(error)
        assert "/nowhere/python" in str(error)
        assert named(profile, "start_worker")["status"] == "error"

    async def test_error_of_a_class_from_elsewhere(
        self, made: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """An error's class is found among ours only; its message is kept."""
        told = {"type": "error", "error": "SystemExit", "message": "No."}
        run_instead(monkeypatch, tmp_path, f"print(json.dumps({told!r}))")
        error, _ = await ask(made(**NOBODY))
        assert (type(error), str(error)) == (ClaudePMError, "No.")

    async def test_others_go_on(
        self, made: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What befalls one worker is no other's business, though they run at the same time."""
        code = """
            user = json.loads(line)["user"]
            gate = os.path.join(os.path.dirname(sys.argv[0]), "gate")
            say("here")
            while not os.path.exists(gate):
                time.sleep(0.01)
            if user == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            elif user == "hang":
                time.sleep(600)
            elif user == "babble":
                print("babble")
            else:
                answer(user)
        """
        run_instead(monkeypatch, tmp_path, code)
        orchestrator = made(**NOBODY, max_workers=6)
        requests = ["one", "die", "two", "hang", "babble", "three"]
        here: list[str] = []

        def listen(text: str) -> None:
            here.append(text)
            if len(here) == len(requests):
                (tmp_path / "gate").touch()

        outcomes = await asyncio.gather(
            *(
                orchestrator.orchestrate_agent(
                    "clerk", request, on_text=listen, timeout=5 if request == "hang" else WAIT_S
                )
                for request in requests
            ),
            return_exceptions=True,
        )
        kinds = [getattr(outcome, "text", type(outcome)) for outcome in outcomes]
        assert kinds == [
            "one", WorkerError, "two", OrchestrationTimeoutError, WorkerError, "three",
        ]  # fmt: skip


@pytest.fixture
def big(weights: Path, tmp_path: Path) -> Path:
    """A model's file that takes 8 GiB of address space, and no more room than the model."""
    path = tmp_path / "big.gguf"
    path.write_bytes(weights.read_bytes())
    os.truncate(path, 8 << 30)
    return path


class TestMemoryLimit:
    @pytest.mark.parametrize(
        ("code", "hinted"),
        [
            pytest.param("os.kill(os.getpid(), 6)", True, id="aborts"),
            pytest.param(
                "print('libgomp: Thread creation failed: No', file=sys.stderr); sys.exit(1)",
                True,
                id="says-so",
            ),
            pytest.param(
                "print('ModuleNotFoundError: x', file=sys.stderr); sys.exit(1)", False, id="else"
            ),
        ],
    )
    async def test_is_named(
        self,
        made: Make,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        code: str,
        hinted: bool,
    ) -> None:
        """Where a limit is set and may be why a worker died, the error names it."""
        run_instead(monkeypatch, tmp_path, code)
        limited, _ = await ask(made(**NOBODY, memory_limit_mb=1500), timeout=WAIT_S)
        assert type(limited) is WorkerError
        assert ("1500 MiB by CLAUDE_PM_MEMORY_LIMIT_MB" in str(limited)) is hinted
        free, _ = await ask(made(**NOBODY), timeout=WAIT_S)
        assert "CLAUDE_PM_MEMORY_LIMIT_MB" not in str(free)

    async def test_out_of_memory(
        self,
        made: Make,
        server: MessagesServer,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """A real worker that asks for more than its limit is an error that names the limit."""
        (tmp_path / "site").mkdir()
        (tmp_path / "site" / "sitecustomize.py").write_text(
            "import asyncio\nasyncio.Runner.run = lambda *a, **k: a[1].close() or bytes(1 << 40)\n"
        )
        monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
        error, profile = await ask(made(base_url=server.url, model="m", memory_limit_mb=2048))
        assert type(error) is WorkerError
        assert str(error).startswith("The worker ran out of memory. Its memory was limited to 2048")
        assert named(profile, "orchestrate")["error"] == f"WorkerError: {error}"

    async def test_model_without_room(self, made: Make, big: Path) -> None:
        """A model for which the limit leaves no room is an error that names the limit."""
        error, _ = await ask(made(model=str(big), memory_limit_mb=2048))
        assert type(error) is WorkerError
        assert "2048 MiB by CLAUDE_PM_MEMORY_LIMIT_MB" in str(error)

    async def test_smallest_limit(self, made: Make, weights: Path) -> None:
        """With the smallest limit that may be set, the default model answers."""
        response, _ = await ask(made(memory_limit_mb=1024), max_tokens=8)
        assert response.text


# A worker with a child in its group that holds its standard error; both tell their pids.
HANGS = """
    child = subprocess.Popen(["sleep", "600"], stdout=sys.stderr)
    say(f"{os.getpid()} {child.pid}")
"""
# Its child has left the group and holds everything: pipes, and the requests too.
ESCAPES = """
    child = subprocess.Popen(["sleep", "600"], stdin=0, start_new_session=True)
    say(f"{os.getpid()} {child.pid}")
"""


class TestEnds:
    async def _pids(
        self, orchestrator: Orchestrator, *request: str, **options: Any
    ) -> tuple[Any, Any, list[psutil.Process]]:
        told: list[list[psutil.Process]] = []
        error, profile = await ask(
            orchestrator, *request, on_text=lambda text: told.append(processes_of(text)), **options
        )
        (processes,) = told
        return error, profile, processes

    async def test_timeout(
        self, made: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """When time is up the worker is killed with all that it started; the spans say so."""
        run_instead(monkeypatch, tmp_path, HANGS + "    time.sleep(600)\n")
        orchestrator = made(**NOBODY)
        error, profile, processes = await self._pids(orchestrator, timeout=2.0)
        assert type(error) is OrchestrationTimeoutError
        assert "SUBPROCESS mode" in str(error)
        wait_until_gone(*processes)
        assert named(profile, "orchestrate")["status"] == "timeout"
        assert named(profile, "start_worker")["status"] == "ok"
        assert orchestrator.get_orchestration_metrics()["timeouts"] == 1

    async def test_never_ready(
        self, made: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A worker that hangs before it is ready is ended too, and that is where the time went."""
        run_instead(monkeypatch, tmp_path, "time.sleep(600)", ready=False)
        error, profile = await ask(made(**NOBODY), timeout=0.5)
        assert type(error) is OrchestrationTimeoutError
        assert named(profile, "start_worker")["status"] == "cancelled"

    async def test_cancelled(
        self, made: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """So it is when the request is cancelled."""
        run_instead(monkeypatch, tmp_path, HANGS + "    time.sleep(600)\n")
        begun = asyncio.Event()
        processes: list[psutil.Process] = []

        def listen(text: str) -> None:
            processes.extend(processes_of(text))
            begun.set()

        task = asyncio.create_task(ask(made(**NOBODY), on_text=listen))
        await begun.wait()
        assert len(processes) == 2
        task.cancel()
        error, profile = await task
        assert isinstance(error, asyncio.CancelledError)
        wait_until_gone(*processes)
        assert named(profile, "orchestrate")["status"] == "cancelled"

    async def test_crash_with_a_child(
        self, made: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A worker that dies and leaves a child behind neither hangs nor leaves it running."""
        run_instead(monkeypatch, tmp_path, HANGS + "    os._exit(3)\n")
        error, _, processes = await self._pids(made(**NOBODY), timeout=WAIT_S)
        assert type(error) is WorkerError
        assert "exited with 3" in str(error)
        wait_until_gone(*processes)

    @pytest.mark.parametrize(
        ("after", "expected"),
        [
            ("os._exit(3)", WorkerError),
            ("time.sleep(600)", OrchestrationTimeoutError),
            ("answer('ok')", Orchestrator),
        ],
    )
    async def test_child_that_left_the_group(
        self,
        made: Make,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        after: str,
        expected: type,
    ) -> None:
        """A child that has left the group and holds the pipes holds up nothing, and no file."""
        # Nobody reads the request, which is too large for the pipe.
        run_instead(monkeypatch, tmp_path, ESCAPES + f"    {after}\n", reads=False)
        before = open_files()
        outcome, _, (*_, child) = await self._pids(made(**NOBODY), "x" * 2_000_000, timeout=2.0)
        try:
            assert child.is_running()
            if expected is Orchestrator:
                assert outcome.text == "ok"
            else:
                assert type(outcome) is expected
            assert open_files() == before
        finally:
            child.kill()

    def test_interrupted(self, made: Make, server: MessagesServer) -> None:
        """Ctrl-C ends the request, its worker and the program."""
        server.script(api.SILENT)
        with _program(server.url) as parent:
            server.wait_for_requests(1)
            (worker,) = psutil.Process(parent.pid).children()
            parent.send_signal(signal.SIGINT)
            assert parent.wait(WAIT_S) == -signal.SIGINT
            assert not worker.is_running()

    def test_with_its_parent(
        self, server: MessagesServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """When the parent is killed its worker ends by itself, with all that it started."""
        (tmp_path / "sitecustomize.py").write_text(
            "import subprocess, sys\n"
            "if 'claude_pm.orchestration.worker' in sys.orig_argv:\n"
            "    subprocess.Popen(['sleep', '600'])\n"
        )
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        server.script(api.SILENT)
        with _program(server.url) as parent:
            server.wait_for_requests(1)
            worker, child = psutil.Process(parent.pid).children(recursive=True)
            parent.send_signal(signal.SIGKILL)
        wait_until_gone(worker, child)


def _program(url: str) -> subprocess.Popen[bytes]:
    code = """
        import asyncio, sys
        from claude_pm.orchestration import create_backwards_compatible_orchestrator as create
        orchestrator = create(base_url=sys.argv[1], model="m", orchestration_mode="subprocess")
        asyncio.run(orchestrator.orchestrate_agent("qa", "Hello?"))
    """
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), url], stderr=subprocess.DEVNULL
    )


class TestMany:
    async def test_two_hundred(
        self, made: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """However they end, workers leave no process, no zombie and no open file."""
        code = """
            how = json.loads(line)["user"]
            if how == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            elif how == "babble":
                print("babble")
            elif how == "hang":
                child = subprocess.Popen(["sleep", "600"])
                say(child.pid)
                time.sleep(600)
            else:
                answer(how)
        """
        run_instead(monkeypatch, tmp_path, code)
        orchestrator = made(**NOBODY)
        ways = ["answer", "answer", "die", "babble", "hang"]
        children: list[int] = []
        await self._ask_all(orchestrator, ways, children)
        before = open_files()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            outcomes = await self._ask_all(orchestrator, ways * 40, children)
        assert outcomes == ["answer", "answer", "WorkerError", "WorkerError", "cancelled"] * 40
        assert open_files() == before
        assert psutil.Process().children() == []
        assert len(children) == 41
        wait_until(lambda: not any(map(psutil.pid_exists, children)))

    async def test_real_ones(self, made: Make, server: MessagesServer) -> None:
        """Nor do our own, at the same time."""
        orchestrator = made(base_url=server.url, model="m")
        server.script(*[api.answer("ok")] * 7)
        await orchestrator.orchestrate_agent("clerk", "Hello?")
        before = open_files()
        await asyncio.gather(*(orchestrator.orchestrate_agent("clerk", "Hello?") for _ in range(6)))
        # The server of this test is in this process: its connections end a little later.
        wait_until(lambda: open_files() <= before)
        assert psutil.Process().children() == []

    @staticmethod
    async def _ask_all(
        orchestrator: Orchestrator, ways: list[str], children: list[int]
    ) -> list[str]:
        async def one(way: str) -> str:
            hangs = asyncio.Event()

            def listen(text: str) -> None:
                children.append(int(text))
                hangs.set()

            task = asyncio.create_task(orchestrator.orchestrate_agent("clerk", way, on_text=listen))
            if way == "hang":
                await hangs.wait()
                task.cancel()
            try:
                return (await task).text
            except asyncio.CancelledError:
                return "cancelled"
            except WorkerError as error:
                return type(error).__name__

        return await asyncio.gather(*(one(way) for way in ways))
