"""SUBPROCESS: a request is answered by a real worker process, as LOCAL would answer it."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import psutil
import pytest

from claude_pm.errors import (
    ModelAuthenticationError,
    ModelOverloadedError,
    WeightsError,
    WorkerError,
)
from claude_pm.orchestration import OrchestrationMode, Orchestrator
from claude_pm.services.prefix_warming import system_blocks
from claude_pm.settings import read_settings
from tests import messages_server as api
from tests.messages_server import MessagesServer
from tests.orchestration.workers import (
    KEY,
    Make,
    _no_process_left,
    ask,
    made,
    named,
    worker_process,
)
from tests.road_fixtures import span_rows

__all__ = ["_no_process_left", "made"]

pytestmark = pytest.mark.slow


class TestAnswer:
    async def test_road(self, made: Make, server: MessagesServer) -> None:
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
        assert "AsyncClient.send" in functions[pid]
        assert "AsyncClient.send" not in functions[os.getpid()]
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
        names = ["orchestrate", "choose_mode", "queue", "load_agent", "build_context"]
        names += ["start_worker", "build_context", "chat"]
        assert [row["name"] for row in spans] == names
        here, there = spans[:6], spans[6:]
        root, pid = spans[0], spans[-1]["pid"]
        assert {row["pid"] for row in here} == {os.getpid()}
        assert {row["pid"] for row in there} == {pid} != {os.getpid()}
        assert {row["parent_id"] for row in spans[1:]} == {root["span_id"]}
        assert {row["trace_id"] for row in spans} == {response.trace_id}
        assert {(row["agent"], row["mode"], row["status"]) for row in spans} == {
            ("clerk", "subprocess", "ok")
        }
        assert json.loads(here[-1]["attributes"]) == {"worker_pid": pid}
        assert json.loads(root["attributes"])["worker"] == "fresh"
        assert [row["cache"] for row in spans if row["name"] == "load_agent"] == ["miss"]
        collected, fitted = (
            json.loads(row["attributes"]) for row in spans if row["name"] == "build_context"
        )
        assert collected == {"files": "README.md", "truncated": False}
        assert fitted["tokens"] > 0
        end = root["start_s"] + root["duration_s"]
        assert all(root["start_s"] < row["start_s"] < end for row in there)
        assert there[-1]["ttft_s"] > 0
        assert profile.meta["model_use"] == "live"

    async def test_embedded(self, made: Make, weights: Path) -> None:
        """A worker loads the embedded model itself, and answers with real tokens."""
        response, profile = await ask(made(), max_tokens=4)
        assert response.text
        assert (response.model, response.usage.output_tokens) == ("SmolLM2-135M-Instruct", 4)
        assert named(profile, "start_model")["pid"] != os.getpid()
        assert (
            named(profile, "start_model")["parent_id"] == (named(profile, "orchestrate")["span_id"])
        )

    async def test_same_words_as_local(
        self, made: Make, server: MessagesServer, tmp_path: Path
    ) -> None:
        """A worker tells the model what LOCAL does, word for word, also where it had to be cut."""
        lines = "".join(f"{number}. It sorts, and then it sorts again.\n" for number in range(400))
        (tmp_path / "project" / "README.md").write_text(lines)
        server.script(api.answer("ok"), api.answer("ok"))
        orchestrator = made(base_url=server.url, model="m")
        for mode in ("local", "subprocess"):
            await orchestrator.orchestrate_agent("clerk", "Hello?", mode=mode)
        local, worker = [one.body for one in server.received if one.path.endswith("/v1/messages")]
        assert worker == local
        told = tuple(block["text"] for block in worker["system"])
        assert told == system_blocks(orchestrator.registry.get_agent("clerk"), told[1])
        assert told[1].endswith("[...]")

    async def test_logged(
        self, made: Make, server: MessagesServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Starting a process is never silent: it is logged at INFO, with fields to search by."""
        server.script(api.answer("ok"))
        orchestrator = made(base_url=server.url, model="m")
        with caplog.at_level(logging.INFO, logger="claude_pm"):
            response, profile = await ask(orchestrator)
        started, responded = [r for r in caplog.records if r.name == "claude_pm.orchestration"]
        assert (started.getMessage(), started.levelname) == ("Starting subprocess", "INFO")
        fields = vars(started)
        assert (fields["agent"], fields["trace_id"]) == ("clerk", response.trace_id)
        assert fields["pid"] == named(profile, "chat")["pid"]
        assert responded.getMessage().startswith("Agent clerk responded in ")

    async def test_stray_prints(
        self,
        made: Make,
        server: MessagesServer,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Whatever a library prints or reads in the worker, the answer comes through."""
        (tmp_path / "site").mkdir()
        (tmp_path / "site" / "sitecustomize.py").write_text(
            textwrap.dedent("""
                import os, sys
                if "claude_pm.orchestration.worker" in sys.orig_argv:
                    import asyncio
                    run = asyncio.Runner.run
                    def noisy(*arguments, **options):
                        print("stray", flush=True)
                        os.write(1, b'{"type": "text", "text": "stray"}\\n')
                        os.system("cat; echo stray")
                        return run(*arguments, **options)
                    asyncio.Runner.run = noisy
            """)
        )
        monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
        server.script(api.answer("ok"), api.SILENT)
        orchestrator = made(base_url=server.url, model="m")
        heard: list[str] = []
        response = await orchestrator.orchestrate_agent("clerk", "Hello?", on_text=heard.append)
        assert (response.text, heard) == ("ok", ["ok"])
        # That it did print can be seen when the worker is killed: its last words are told.
        task = asyncio.create_task(orchestrator.orchestrate_agent("clerk", "Hello?"))
        await asyncio.to_thread(server.wait_for_requests, 2)
        worker_process().kill()
        with pytest.raises(WorkerError, match="last words: stray"):
            await task

    async def test_no_key_of_its_own(
        self, made: Make, server: MessagesServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A key of Claude's in the environment is neither sent to another server nor passed on."""
        monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
        server.script(api.stream(api.start(), api.delta("Hel"), ending="held"))
        environment: dict[str, str] = {}

        def look_and_kill(text: str) -> None:
            environment.update(worker_process().environ())
            worker_process().kill()

        error, _ = await ask(made(base_url=server.url, model="m"), on_text=look_and_kill)
        assert type(error) is WorkerError
        assert not [one for one in server.received if "x-api-key" in one.headers]
        assert "PATH" in environment
        assert KEY not in environment.values()

    def test_light(self) -> None:
        """A worker starts quickly: it loads nothing that its parent has done for it."""
        code = "import sys, claude_pm.orchestration.worker_road; print(*sys.modules)"
        loaded = subprocess.check_output([sys.executable, "-P", "-c", code], text=True).split()
        heavy = {
            "pandas",
            "numpy",
            "yaml",
            "frontmatter",
            "psutil",
            "IPython",
            "matplotlib",
            "rich",
        }
        assert heavy & set(loaded) == set()
        ours = {
            name for name in loaded if name.startswith(("claude_pm.services", "claude_pm.agents"))
        }
        assert ours == set()


class TestErrors:
    async def test_of_the_model(self, made: Make, server: MessagesServer) -> None:
        """The worker's error arrives as it would have been raised here, with its spans."""
        server.script(api.failure(401, "authentication_error", "invalid x-api-key"))
        error, profile = await ask(made(base_url=server.url, model="m", api_key=KEY))
        assert type(error) is ModelAuthenticationError
        assert "invalid x-api-key" in str(error)
        chat, root = named(profile, "chat"), named(profile, "orchestrate")
        assert (chat["status"], root["status"]) == ("error", "error")
        assert chat["error"] == root["error"] == f"ModelAuthenticationError: {error}"
        assert chat["pid"] != os.getpid()

    async def test_time_limit(self, made: Make, server: MessagesServer) -> None:
        """A worker knows when its answer has to be there, and does not wait beyond that."""
        server.script(api.failure(529, "overloaded_error", "Overloaded", retry_after="100"))
        error, _ = await ask(made(base_url=server.url, model="m"), timeout=30.0)
        assert type(error) is ModelOverloadedError
        assert error.retry_after_s == 100.0
        assert "no time left" in str(error)

    async def test_of_the_weights(self, made: Make, tmp_path: Path) -> None:
        """So does an error of the embedded model."""
        (tmp_path / "page.gguf").write_text("<html>")
        error, _ = await ask(made(model=str(tmp_path / "page.gguf")))
        assert type(error) is WeightsError
        assert "page.gguf is not a GGUF file" in str(error)

    async def test_killed_in_the_middle(
        self, made: Make, server: MessagesServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A worker that is killed while it answers is an error that names the signal."""
        server.script(api.stream(api.start(), api.delta("Hel"), ending="held"))
        seen: dict[str, Any] = {}
        monkeypatch.setenv("CLAUDE_PM_API_KEY", KEY)

        def look_and_kill(text: str) -> None:
            process = worker_process()
            seen["pid"] = process.pid
            seen["told"] = [*process.cmdline(), *process.environ().values()]
            seen["limit"] = process.rlimit(psutil.RLIMIT_AS)
            process.kill()

        here = psutil.Process().rlimit(psutil.RLIMIT_AS)
        orchestrator = made(base_url=server.url, model="m", memory_limit_mb=2048)
        error, profile = await ask(orchestrator, on_text=look_and_kill)
        assert type(error) is WorkerError
        assert str(error) == (
            f"The worker (pid {seen['pid']}) was killed by SIGKILL before it answered. Its memory "
            "was limited to 2048 MiB by CLAUDE_PM_MEMORY_LIMIT_MB: allow it more, if that was too "
            "little."
        )
        assert named(profile, "orchestrate")["status"] == "error"
        # The key is on the pipe alone, and the memory limit is the worker's alone.
        assert not [text for text in seen["told"] if KEY in text]
        assert seen["limit"] == (2048 * 1024 * 1024,) * 2
        assert psutil.Process().rlimit(psutil.RLIMIT_AS) == here


async def test_files_of_the_folder_are_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker imports nothing from the working folder, whatever its files are called."""
    (tmp_path / "httpx2.py").write_text("raise SystemExit('imported from the folder')\n")
    (tmp_path / "none.gguf").write_text("no model")
    monkeypatch.chdir(tmp_path)
    orchestrator = Orchestrator(read_settings(model="none.gguf"))
    with pytest.raises(WeightsError, match="not a GGUF file"):
        await orchestrator.orchestrate_agent("qa", "hi", mode="subprocess")
