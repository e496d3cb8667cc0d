"""SUBPROCESS: real worker processes, and programs that behave as bad workers do."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import shlex
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import claude_pm
from claude_pm.errors import (
    ClaudePMError,
    ModelAuthenticationError,
    OrchestrationTimeoutError,
    WeightsError,
    WorkerError,
)
from claude_pm.orchestration import OrchestrationMode, Orchestrator, subprocess_mode
from claude_pm.services.agent_registry import AgentRegistry
from claude_pm.services.context_manager import ContextManager
from claude_pm.settings import read_settings
from tests import messages_server as api
from tests.messages_server import WAIT_S, MessagesServer
from tests.road_fixtures import span_rows, write_agent

pytestmark = pytest.mark.slow

KEY = "sk-secret-of-the-test"
NOBODY = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def _no_process_left() -> Iterator[None]:
    """Whatever happens, no worker outlives its request."""
    before = set(psutil.Process().children(recursive=True))
    yield
    left = [p for p in psutil.Process().children(recursive=True) if p not in before]
    assert left == []


@pytest.fixture
def made(tmp_path: Path) -> Callable[..., Orchestrator]:
    """Make orchestrators with one agent, ``clerk``, and a folder with a README."""
    write_agent(tmp_path / "agents", "clerk", "Be brief.", temperature=0.5)
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "README.md").write_text("It sorts.")

    def make(**settings: Any) -> Orchestrator:
        return Orchestrator(
            read_settings(**{"orchestration_mode": "subprocess"} | settings),
            registry=AgentRegistry(tmp_path / "agents"),
            context=ContextManager(tmp_path / "project"),
        )

    return make


async def ask(
    orchestrator: Orchestrator, *, cpu: Any = None, memory: Any = None, **options: Any
) -> tuple[Any, Any]:
    """Ask in a profile; return the response (or the error) and the profile."""
    outcome: Any
    async with claude_pm.profile("ask", cpu=cpu, memory=memory) as profile:
        try:
            outcome = await orchestrator.orchestrate_agent("clerk", "Say hello.", **options)
        except (ClaudePMError, asyncio.CancelledError) as error:
            outcome = error
    return outcome, profile


def named(profile: Any, name: str) -> dict[str, Any]:
    """Return the only span of that name."""
    (row,) = [row for row in span_rows(profile) if row["name"] == name]
    return row


def worker_process() -> psutil.Process:
    """Return the worker that this process has just now."""
    (process,) = psutil.Process().children()
    return process


def wait_until_gone(*processes: psutil.Process) -> None:
    """Wait until the processes have ended; a zombie that init has not fetched yet has ended."""
    deadline = time.monotonic() + WAIT_S
    for process in processes:
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < deadline, f"{process} still runs"
            time.sleep(0.02)


class TestAnswer:
    async def test_road(self, made: Callable[..., Orchestrator], server: MessagesServer) -> None:
        """The worker answers as LOCAL would, and what it recorded is part of the profile."""
        server.script(api.answer("Hello", " world"))
        heard: list[str] = []
        orchestrator = made(base_url=server.url, model="smol", api_key=KEY)
        response, profile = await ask(
            orchestrator, cpu="cprofile", memory="rss", on_text=heard.append, max_tokens=9
        )
        assert response.text == "Hello world"
        assert heard == ["Hello", " world"]
        assert response.mode is OrchestrationMode.SUBPROCESS
        assert (response.usage.input_tokens, response.usage.output_tokens) == (10, 2)
        assert 0 < response.ttft_s < response.duration_s
        self._check_request(server)
        self._check_spans(response, profile)
        pid = named(profile, "chat")["pid"]
        functions = profile.functions.groupby("pid")["function"].agg(set)
        assert "LocalMode.answer" in functions[pid]
        assert "LocalMode.answer" not in functions[os.getpid()]
        assert set(zip(profile.memory["pid"], profile.memory["role"], strict=True)) == {
            (os.getpid(), "kernel"), (pid, "worker"),
        }  # fmt: skip
        assert orchestrator.get_orchestration_metrics()["by_mode"] == {"subprocess": 1}

    @staticmethod
    def _check_request(server: MessagesServer) -> None:
        (received,) = server.received
        assert received.headers["x-api-key"] == KEY
        assert received.body["max_tokens"] == 9
        assert received.body["temperature"] == 0.5
        assert [block["text"].split("\n")[-1] for block in received.body["system"]] == [
            "Be brief.", "It sorts.",
        ]  # fmt: skip

    @staticmethod
    def _check_spans(response: Any, profile: Any) -> None:
        spans = span_rows(profile)
        names = ["orchestrate", "choose_mode", "queue", "start_worker"]
        assert [row["name"] for row in spans] == [*names, "load_agent", "build_context", "chat"]
        here, there = spans[:4], spans[4:]
        root, pid = spans[0], spans[-1]["pid"]
        assert {row["pid"] for row in here} == {os.getpid()}
        assert {row["pid"] for row in there} == {pid} != {os.getpid()}
        assert {row["parent_id"] for row in spans[1:]} == {root["span_id"]}
        assert {row["trace_id"] for row in spans} == {response.trace_id}
        assert {(row["agent"], row["mode"], row["status"]) for row in spans} == {
            ("clerk", "subprocess", "ok")
        }
        assert json.loads(here[-1]["attributes"]) == {"worker_pid": pid}
        end = root["start_s"] + root["duration_s"]
        assert all(root["start_s"] < row["start_s"] < end for row in there)
        assert there[-1]["ttft_s"] > 0
        assert profile.meta["model_use"] == "live"

    async def test_embedded(self, made: Callable[..., Orchestrator], weights: Path) -> None:
        """A worker loads the embedded model itself, and answers with real tokens."""
        response, profile = await ask(made(), max_tokens=4)
        assert response.text
        assert (response.model, response.usage.output_tokens) == ("SmolLM2-135M-Instruct", 4)
        assert named(profile, "start_model")["pid"] != os.getpid()
        assert (
            named(profile, "start_model")["parent_id"] == (named(profile, "orchestrate")["span_id"])
        )

    async def test_logged(
        self,
        made: Callable[..., Orchestrator],
        server: MessagesServer,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """Starting a process is never silent: it is logged at INFO."""
        server.script(api.answer("ok"))
        with caplog.at_level(logging.INFO, logger="claude_pm"):
            await made(base_url=server.url, model="m").orchestrate_agent("clerk", "Hello?")
        started, responded = [record.getMessage() for record in caplog.records]
        assert started == "Starting subprocess"
        assert responded.startswith("Agent clerk responded in ")

    async def test_stray_prints(
        self,
        made: Callable[..., Orchestrator],
        server: MessagesServer,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Whatever a library prints in the worker, the answer comes through."""
        (tmp_path / "site").mkdir()
        (tmp_path / "site" / "sitecustomize.py").write_text(
            textwrap.dedent("""
                import os, sys
                if "claude_pm.orchestration.worker" in sys.orig_argv:
                    import frontmatter
                    parse = frontmatter.parse
                    def noisy(*arguments, **options):
                        print("stray", flush=True)
                        os.write(1, b'{"type": "text", "text": "stray"}\\n')
                        os.system("echo stray")
                        return parse(*arguments, **options)
                    frontmatter.parse = noisy
            """)
        )
        monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
        server.script(api.answer("ok"), api.SILENT)
        orchestrator = made(base_url=server.url, model="m")
        assert (await orchestrator.orchestrate_agent("clerk", "Hello?")).text == "ok"
        # That it did print can be seen when the worker is killed: its last words are told.
        task = asyncio.create_task(orchestrator.orchestrate_agent("clerk", "Hello?"))
        await asyncio.to_thread(server.wait_for_requests, 2)
        worker_process().kill()
        with pytest.raises(WorkerError, match="last words: stray"):
            await task


class TestErrors:
    async def test_of_the_model(
        self, made: Callable[..., Orchestrator], server: MessagesServer
    ) -> None:
        """The worker's error arrives as it would have been raised here, with its spans."""
        server.script(api.failure(401, "authentication_error", "invalid x-api-key"))
        error, profile = await ask(made(base_url=server.url, model="m", api_key=KEY))
        assert type(error) is ModelAuthenticationError
        assert "invalid x-api-key" in str(error)
        chat, root = named(profile, "chat"), named(profile, "orchestrate")
        assert (chat["status"], root["status"]) == ("error", "error")
        assert chat["error"] == root["error"] == f"ModelAuthenticationError: {error}"
        assert chat["pid"] != os.getpid()

    async def test_of_the_weights(self, made: Callable[..., Orchestrator], tmp_path: Path) -> None:
        """So does an error of the embedded model."""
        (tmp_path / "page.gguf").write_text("<html>")
        error, _ = await ask(made(model=str(tmp_path / "page.gguf")))
        assert type(error) is WeightsError
        assert "page.gguf is not a GGUF file" in str(error)

    async def test_killed_in_the_middle(
        self, made: Callable[..., Orchestrator], server: MessagesServer
    ) -> None:
        """A worker that is killed while it answers is an error that names the signal."""
        server.script(api.stream(api.start(), api.delta("Hel"), ending="held"))
        seen: dict[str, Any] = {}

        def look_and_kill(text: str) -> None:
            process = worker_process()
            seen["pid"] = process.pid
            seen["told"] = [*process.cmdline(), *process.environ().values()]
            seen["limit"] = process.rlimit(psutil.RLIMIT_AS)
            process.kill()

        here = psutil.Process().rlimit(psutil.RLIMIT_AS)
        orchestrator = made(base_url=server.url, model="m", api_key=KEY, memory_limit_mb=2048)
        error, profile = await ask(orchestrator, on_text=look_and_kill)
        assert type(error) is WorkerError
        assert str(error) == (
            f"The worker (pid {seen['pid']}) was killed by SIGKILL before it answered."
        )
        assert named(profile, "orchestrate")["status"] == "error"
        # The key is on the pipe alone, and the memory limit is the worker's alone.
        assert not [text for text in seen["told"] if KEY in text]
        assert seen["limit"] == (2048 * 1024 * 1024,) * 2
        assert psutil.Process().rlimit(psutil.RLIMIT_AS) == here


def run_instead(
    monkeypatch: pytest.MonkeyPatch, folder: Path, code: str, *, ready: bool = True
) -> None:
    """Let workers run this code, after they have said that they are ready."""
    program = folder / "worker.py"
    begin = "import json, os, subprocess, sys, time\nsys.stdin.readline()\n"
    says_ready = 'print(\'{"type": "ready"}\', flush=True)\n' if ready else ""
    program.write_text(begin + says_ready + textwrap.dedent(code))
    script = folder / "python"
    script.write_text(f"#!/bin/sh\nexec {shlex.quote(sys.executable)} -S {program}\n")
    script.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(script))


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
                "print(json.dumps({'type': 'result', 'answer': {'chat': {'usage': {'x': 1}}}}))",
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
        ],
    )
    async def test_is_a_worker_error(
        self,
        made: Callable[..., Orchestrator],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        code: str,
        ready: bool,
        says: str,
    ) -> None:
        """A worker that crashes or speaks nonsense is an error that says which."""
        monkeypatch.setattr(subprocess_mode, "_LINE_LIMIT_BYTES", 2_000_000)
        run_instead(monkeypatch, tmp_path, code, ready=ready)
        error, profile = await ask(made(base_url=NOBODY, model="m"), timeout=WAIT_S)
        assert type(error) is WorkerError
        assert says in str(error)
        assert named(profile, "orchestrate")["status"] == "error"

    async def test_cannot_start(
        self, made: Callable[..., Orchestrator], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A program that cannot be started is said to be so, on the span of the start."""
        monkeypatch.setattr(sys, "executable", "/nowhere/python")
        error, profile = await ask(made(base_url=NOBODY, model="m"))
        assert type(error) is WorkerError
        assert "could not be started" in str(error)
        assert "/nowhere/python" in str(error)
        assert named(profile, "start_worker")["status"] == "error"

    async def test_error_of_a_class_from_elsewhere(
        self, made: Callable[..., Orchestrator], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """An error's class is found among ours only; its message is kept."""
        told = {"type": "error", "error": "SystemExit", "message": "No."}
        run_instead(monkeypatch, tmp_path, f"print(json.dumps({told!r}))")
        error, _ = await ask(made(base_url=NOBODY, model="m"))
        assert (type(error), str(error)) == (ClaudePMError, "No.")


# A worker with a child that holds its standard error; both tell their pids and do nothing.
HANGS = """
    child = subprocess.Popen(["sleep", "600"], stdout=sys.stderr)
    print(json.dumps({"type": "text", "text": f"{os.getpid()} {child.pid}"}), flush=True)
"""


def processes_of(pids: str) -> list[psutil.Process]:
    """Return those of the processes that still run."""
    running = []
    for pid in pids.split():
        with contextlib.suppress(psutil.NoSuchProcess):
            running.append(psutil.Process(int(pid)))
    assert running
    return running


class TestEnds:
    async def _pids(
        self, orchestrator: Orchestrator, **options: Any
    ) -> tuple[Any, Any, list[psutil.Process]]:
        told: list[list[psutil.Process]] = []
        error, profile = await ask(
            orchestrator, on_text=lambda text: told.append(processes_of(text)), **options
        )
        (processes,) = told
        return error, profile, processes

    async def test_timeout(
        self, made: Callable[..., Orchestrator], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """When time is up the worker is killed with all that it started; the spans say so."""
        run_instead(monkeypatch, tmp_path, HANGS + "    time.sleep(600)\n")
        orchestrator = made(base_url=NOBODY, model="m")
        error, profile, processes = await self._pids(orchestrator, timeout=2.0)
        assert type(error) is OrchestrationTimeoutError
        assert "SUBPROCESS mode" in str(error)
        wait_until_gone(*processes)
        assert named(profile, "orchestrate")["status"] == "timeout"
        assert named(profile, "start_worker")["status"] == "ok"
        assert orchestrator.get_orchestration_metrics()["timeouts"] == 1

    async def test_cancelled(
        self, made: Callable[..., Orchestrator], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """So it is when the request is cancelled."""
        run_instead(monkeypatch, tmp_path, HANGS + "    time.sleep(600)\n")
        begun = asyncio.Event()
        processes: list[psutil.Process] = []

        def listen(text: str) -> None:
            processes.extend(processes_of(text))
            begun.set()

        task = asyncio.create_task(ask(made(base_url=NOBODY, model="m"), on_text=listen))
        await begun.wait()
        assert len(processes) == 2
        task.cancel()
        error, profile = await task
        assert isinstance(error, asyncio.CancelledError)
        wait_until_gone(*processes)
        assert named(profile, "orchestrate")["status"] == "cancelled"

    async def test_crash_with_a_child(
        self, made: Callable[..., Orchestrator], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A worker that dies and leaves a child behind neither hangs nor leaves it running."""
        run_instead(monkeypatch, tmp_path, HANGS + "    os._exit(3)\n")
        error, _, processes = await self._pids(made(base_url=NOBODY, model="m"), timeout=WAIT_S)
        assert type(error) is WorkerError
        assert "exited with 3" in str(error)
        wait_until_gone(*processes)

    async def test_crash_with_a_child_that_holds_the_pipe(
        self, made: Callable[..., Orchestrator], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Even a child that keeps the pipe open hangs no longer than the request may take."""
        code = HANGS.replace(", stdout=sys.stderr", "") + "    os._exit(3)\n"
        run_instead(monkeypatch, tmp_path, code)
        error, _, processes = await self._pids(made(base_url=NOBODY, model="m"), timeout=2.0)
        assert type(error) is OrchestrationTimeoutError
        wait_until_gone(*processes)

    def test_with_its_parent(self, server: MessagesServer) -> None:
        """When the parent is killed its worker ends by itself, even in the middle of a request."""
        server.script(api.SILENT)
        code = """
            import asyncio, sys
            from claude_pm.orchestration import create_backwards_compatible_orchestrator as create
            orchestrator = create(base_url=sys.argv[1], model="m", orchestration_mode="subprocess")
            asyncio.run(orchestrator.orchestrate_agent("qa", "Hello?"))
        """
        command = [sys.executable, "-c", textwrap.dedent(code), server.url]
        with subprocess.Popen(command) as parent:
            server.wait_for_requests(1)
            (worker,) = psutil.Process(parent.pid).children()
            assert worker.is_running()
            parent.send_signal(signal.SIGKILL)
        wait_until_gone(worker)


@pytest.mark.slow
async def test_files_of_the_folder_are_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker imports nothing from the working folder, whatever its files are called."""
    (tmp_path / "frontmatter.py").write_text("raise SystemExit('imported from the folder')\n")
    (tmp_path / "none.gguf").write_text("no model")
    monkeypatch.chdir(tmp_path)
    orchestrator = Orchestrator(read_settings(model="none.gguf"))
    with pytest.raises(WeightsError, match="not a GGUF file"):
        await orchestrator.orchestrate_agent("qa", "hi", mode="subprocess")
