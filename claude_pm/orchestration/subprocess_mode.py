"""SUBPROCESS: every request in a fresh process, with its own model and memory."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
import time
from collections import deque
from typing import Any, Self

from claude_pm.errors import WorkerError, error_class
from claude_pm.models import ChatResult, Usage
from claude_pm.orchestration.message_bus import Answer, Message
from claude_pm.orchestration.worker_request import WorkerRequest
from claude_pm.recording import current_recorder, current_span, span
from claude_pm.services.agent_registry import AgentRegistry
from claude_pm.services.context_manager import ContextManager
from claude_pm.settings import Settings

logger = logging.getLogger("claude_pm.orchestration")

# A reply carries all that the worker recorded, on one line.
_LINE_LIMIT_BYTES = 256 * 1024 * 1024
_STDERR_LINES = 20
_POLL_S = 0.01


class SubprocessMode:
    """Answers messages in worker processes, one each; a worker is gone when its answer is there."""

    def __init__(
        self, settings: Settings, registry: AgentRegistry, context: ContextManager
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._context = context

    async def answer(self, message: Message) -> Answer:
        """Answer one message; a handler for the bus.

        Raises:
            WorkerError: the worker could not start, crashed, or spoke nonsense.
            ClaudePMError: the worker's own error, as it would have been raised here.
        """
        logger.info("Starting subprocess")
        # Made out here: what the worker records hangs under the request's span, not start_worker's.
        request = self._request(message)
        async with _Worker() as worker:
            with span("start_worker") as current:
                await worker.start(request)
                current.set(worker_pid=worker.pid)
            return await _read_answer(worker, message)

    def _request(self, message: Message) -> WorkerRequest:
        settings = self._settings.model_dump(mode="json", exclude={"api_key"})
        key = self._settings.api_key
        # Also where there is none: the worker must not find another one in the environment.
        settings["api_key"] = None if key is None else key.get_secret_value()
        recorder, parent = current_recorder(), current_span()
        recording = None
        if recorder is not None:
            recording = {
                "cpu": recorder.cpu,
                "memory": recorder.memory,
                "traceparent": parent.traceparent if parent is not None else None,
            }
        told_of = self._context.folder
        return WorkerRequest(
            agent=message.agent,
            request=message.request,
            max_tokens=message.max_tokens,
            agents=str(self._registry.folder),
            context=(None if told_of is None else str(told_of), self._context.token_budget),
            settings=settings,
            recording=recording,
        )


async def _read_answer(worker: _Worker, message: Message) -> Answer:
    first_text_ns: int | None = None
    while True:
        reply = await worker.read()
        kind = reply.get("type")
        if kind == "model":
            # Known before the answer is: a request may end without one.
            recorder = current_recorder()
            if recorder is not None:
                recorder.note_model_use(str(reply.get("use")))
            continue
        if kind == "text":
            if first_text_ns is None:
                first_text_ns = time.perf_counter_ns()
            if message.on_text is not None:
                message.on_text(str(reply.get("text")))
            continue
        if kind not in ("result", "error"):
            raise WorkerError(f"The worker (pid {worker.pid}) sent an unknown reply: {kind!r}.")
        try:
            return _outcome(reply, message, first_text_ns)
        except (KeyError, TypeError, ValueError) as error:
            raise WorkerError(
                f"The worker (pid {worker.pid}) sent a reply of another form: {reply!r:.200}."
            ) from error


def _outcome(reply: dict[str, Any], message: Message, first_text_ns: int | None) -> Answer:
    recorder = current_recorder()
    if recorder is not None and "recorded" in reply:
        recorder.merge(_as_subprocess(reply["recorded"], message))
    if reply["type"] == "error":
        raise error_class(reply["error"])(reply["message"])
    answer = reply["answer"]
    chat = dict(answer["chat"], first_text_ns=first_text_ns)
    return Answer(ChatResult(**(chat | {"usage": Usage(**chat["usage"])})), answer["agent_cache"])


def _as_subprocess(recorded: dict[str, Any], message: Message) -> dict[str, Any]:
    """Give the worker's spans the agent and mode that their parent span has in this process."""
    spans = [
        {**row, "agent": message.agent, "mode": str(message.mode)} for row in recorded["spans"]
    ]
    return {**recorded, "spans": spans}


class _Worker:
    """A worker process; on leaving the block it is gone, however the block was left."""

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None
        self._stderr: deque[str] = deque(maxlen=_STDERR_LINES)
        self._stderr_task: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_error: object) -> None:
        process = self._process
        if process is None:
            return
        self._kill(process)
        await process.wait()
        if self._stderr_task is not None:
            await self._stderr_task
        if process.stdin is not None:
            process.stdin.close()

    @staticmethod
    def _kill(process: asyncio.subprocess.Process) -> None:
        # Its own process group: what it started goes with it, even where it has ended itself.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)

    async def start(self, request: WorkerRequest) -> None:
        """Start the process, hand it the request and wait until it is ready to serve it."""
        try:
            self._process = process = await asyncio.create_subprocess_exec(
                sys.executable,
                # Without the working folder on its path: files there are the user's, not ours.
                "-P",
                "-m",
                "claude_pm.orchestration.worker",
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                start_new_session=True,
                limit=_LINE_LIMIT_BYTES,
            )
        except OSError as error:
            raise WorkerError(f"A worker process could not be started: {error}.") from error
        assert process.stdin is not None  # noqa: S101 - for the type checker: it is a PIPE
        self._stderr_task = asyncio.create_task(self._read_stderr())
        try:
            process.stdin.write(request.to_json().encode() + b"\n")
            await process.stdin.drain()
        except ConnectionError:
            raise await self._crashed() from None
        reply = await self.read()
        if reply.get("type") != "ready":
            raise WorkerError(f"The worker (pid {self.pid}) did not get ready: it sent {reply!r}.")

    async def read(self) -> dict[str, Any]:
        """Return the worker's next reply.

        Raises:
            WorkerError: it ended without one, or what it wrote is no reply.
        """
        assert self._process is not None and self._process.stdout is not None  # noqa: S101, PT018
        try:
            line = await self._process.stdout.readline()
        except ValueError as error:
            raise WorkerError(
                f"The worker (pid {self.pid}) sent a reply of more than {_LINE_LIMIT_BYTES} bytes."
            ) from error
        if not line:
            raise await self._crashed()
        try:
            reply = json.loads(line)
        except ValueError:
            reply = None
        if not isinstance(reply, dict):
            raise WorkerError(f"The worker (pid {self.pid}) sent what is no reply: {line[:80]!r}.")
        return reply

    async def _crashed(self) -> WorkerError:
        assert self._process is not None  # noqa: S101
        # Not wait(): it waits for the pipes too, which a child of the worker may hold open.
        while (status := self._process.returncode) is None:  # noqa: ASYNC110
            await asyncio.sleep(_POLL_S)
        self._kill(self._process)
        if self._stderr_task is not None:
            await self._stderr_task
        how = (
            f"was killed by {signal.Signals(-status).name}"
            if status < 0
            else f"exited with {status}"
        )
        said = f" Its last words: {self._stderr[-1]}" if self._stderr else ""
        return WorkerError(f"The worker (pid {self.pid}) {how} before it answered.{said}")

    async def _read_stderr(self) -> None:
        assert self._process is not None and self._process.stderr is not None  # noqa: S101, PT018
        while line := await self._process.stderr.readline():
            text = line.decode(errors="replace").strip()
            if text:
                self._stderr.append(text)
