"""For the tests of workers: orchestrators that use them, programs in their place, and their end."""

from __future__ import annotations

import asyncio
import contextlib
import shlex
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import claude_pm
from claude_pm.errors import ClaudePMError
from claude_pm.orchestration import Orchestrator
from claude_pm.services.agent_registry import AgentRegistry
from claude_pm.services.context_manager import ContextManager
from claude_pm.settings import read_settings
from tests.road_fixtures import span_rows, write_agent
from tests.waiting import wait_until

Make = Callable[..., Orchestrator]

KEY = "sk-secret-of-the-test"
NOBODY: dict[str, Any] = {"base_url": "http://127.0.0.1:9", "model": "m"}
"""Settings of a model that no test's worker asks."""


@pytest.fixture(autouse=True)
def _no_process_left() -> Iterator[None]:
    """Whatever happens, no worker is left behind, not even as a zombie."""
    before = set(psutil.Process().children(recursive=True))
    yield
    left = [p for p in psutil.Process().children(recursive=True) if p not in before]
    assert left == []


@pytest.fixture
def made(tmp_path: Path) -> Make:
    """Make orchestrators with one agent, ``clerk``, and a folder with a README."""
    write_agent(tmp_path / "agents", "clerk", "Be brief.", temperature=0.5)
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "README.md").write_text("It sorts.")

    def make(**settings: Any) -> Orchestrator:
        return Orchestrator(
            read_settings(**{"orchestration_mode": "subprocess"} | settings),
            registry=AgentRegistry(tmp_path / "agents"),
            context=ContextManager(tmp_path / "project", home=tmp_path / "home"),
        )

    return make


async def ask(
    orchestrator: Orchestrator,
    request: str = "Say hello.",
    *,
    cpu: Any = None,
    memory: Any = None,
    **options: Any,
) -> tuple[Any, Any]:
    """Ask in a profile; return the response (or the error) and the profile."""
    outcome: Any
    async with claude_pm.profile("ask", cpu=cpu, memory=memory) as profile:
        try:
            outcome = await orchestrator.orchestrate_agent("clerk", request, **options)
        except (ClaudePMError, asyncio.CancelledError) as error:
            outcome = error
    return outcome, profile


def named(profile: Any, name: str) -> dict[str, Any]:
    """Return the only span of that name."""
    (row,) = [row for row in span_rows(profile) if row["name"] == name]
    return row


def run_instead(
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    code: str,
    *,
    ready: bool = True,
    reads: bool = True,
) -> None:
    """Let workers run this code, which finds its request in ``line``, in place of ours."""
    program = folder / "worker.py"
    begin = "import json, os, signal, subprocess, sys, time\nsys.stdin.readline()\n"
    says_ready = 'print(\'{"type": "ready"}\', flush=True)\n' if ready else ""
    takes = "line = sys.stdin.readline()\n" if reads else ""
    program.write_text(begin + says_ready + takes + ANSWERS + textwrap.dedent(code))
    script = folder / "python"
    script.write_text(f"#!/bin/sh\nexec {shlex.quote(sys.executable)} -S -E {program}\n")
    script.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(script))


ANSWERS = """
def say(text):
    print(json.dumps({"type": "text", "text": str(text)}), flush=True)

def answer(text):
    usage = {"input_tokens": 1, "cache_read_tokens": None, "cache_write_tokens": None,
             "output_tokens": 1}
    chat = {"text": str(text), "usage": usage, "model": "m", "stop_reason": "end_turn",
            "first_text_ns": None}
    print(json.dumps({"type": "result", "chat": chat}), flush=True)
"""


def processes_of(pids: str) -> list[psutil.Process]:
    """Return those of the processes that still run."""
    running = []
    for pid in pids.split():
        with contextlib.suppress(psutil.NoSuchProcess):
            running.append(psutil.Process(int(pid)))
    assert running
    return running


def worker_process() -> psutil.Process:
    """Return the worker that this process has just now."""
    (process,) = psutil.Process().children()
    return process


def wait_until_gone(*processes: psutil.Process) -> None:
    """Wait until the processes have ended; a zombie that init has not fetched yet has ended."""
    for process in processes:
        wait_until(lambda process=process: not _runs(process))


def open_files() -> int:
    """Return how many descriptors this process has open."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
