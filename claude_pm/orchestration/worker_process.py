"""A worker process as its parent sees it: requests go in, replies come out, it can be ended."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import json
import os
import signal
import subprocess
import sys
from typing import Any, cast

from claude_pm.errors import WorkerError
from claude_pm.orchestration import worker_pipes
from claude_pm.orchestration.memory_limit import limit_hint, speaks_of_memory
from claude_pm.orchestration.worker_pipes import WorkerPipes
from claude_pm.orchestration.worker_request import WorkerRequest, WorkerSettings

_MODULE = "claude_pm.orchestration.worker"
# Killed, a process only has to be fetched; one that hangs in the kernel is not waited for.
_END_S = 5.0
_KEYS = ("CLAUDE_PM_API_KEY", "ANTHROPIC_API_KEY")


class WorkerProcess:
    """One worker; made by :meth:`start`, ended by :meth:`end`, both in the same event loop.

    It is the first of a process group: what it starts ends with it. Nothing here waits for a pipe
    to be closed: a process that has left the group may hold it for ever.
    """

    def __init__(
        self, transport: asyncio.SubprocessTransport, pipes: WorkerPipes, limit_mb: int | None
    ) -> None:
        self.pid = transport.get_pid()
        self.loop = asyncio.get_running_loop()
        self.served = 0
        self._transport = transport
        self._pipes = pipes
        self._limit_mb = limit_mb
        self._group_is_ours = True
        _running.add(self)
        pipes.exited.add_done_callback(self._end_group)

    @classmethod
    async def start(cls, settings: WorkerSettings) -> WorkerProcess:
        """Start a process and tell it the settings; it is not :meth:`ready` yet.

        Raises:
            WorkerError: it could not be started.
        """
        try:
            transport, pipes = await asyncio.get_running_loop().subprocess_exec(
                WorkerPipes,
                sys.executable,
                # Without the working folder on its path: files there are the user's, not ours.
                "-P",
                "-m",
                _MODULE,
                env=_environment(settings.memory_limit_mb),
                start_new_session=True,
            )
        except OSError as error:
            raise WorkerError(f"A worker process could not be started: {error}.") from error
        worker = cls(transport, pipes, settings.memory_limit_mb)
        worker._write(settings.to_json())
        return worker

    @property
    def exited(self) -> asyncio.Future[int]:
        """The exit status, when there is one."""
        return self._pipes.exited

    async def ready(self) -> None:
        """Wait until it can serve.

        Raises:
            WorkerError: it ended before, or said something else.
        """
        reply = await self.read()
        if reply.get("type") == "error":
            raise WorkerError(str(reply.get("message")))
        if reply.get("type") != "ready":
            raise WorkerError(f"The worker (pid {self.pid}) did not get ready: it sent {reply!r}.")

    def send(self, request: WorkerRequest) -> None:
        """Give it a request; its replies can be :meth:`read` then."""
        self.served += 1
        self._write(request.to_json())

    async def read(self) -> dict[str, Any]:
        """Return the worker's next reply.

        Raises:
            WorkerError: it ended without one, or what it wrote is no reply.
        """
        line = await self._pipes.lines.get()
        if line is None:
            raise await self._crashed()
        try:
            reply = json.loads(line)
        except ValueError:
            reply = None
        if not isinstance(reply, dict):
            raise WorkerError(f"The worker (pid {self.pid}) sent what is no reply: {line[:80]!r}.")
        return reply

    def rss_bytes(self) -> int | None:
        """Return the memory that it has resident; None if that cannot be known."""
        import psutil

        try:
            return int(psutil.Process(self.pid).memory_info().rss)
        except psutil.Error:
            return None

    def kill(self) -> None:
        """Kill the process and its group, and wait for nothing; safe to call twice."""
        # Once it was fetched and its group is gone, another process may get its number.
        if self._group_is_ours:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)

    async def end(self) -> None:
        """Kill the process, fetch its exit status and close the pipes; safe to call twice."""
        self.dismiss()
        await asyncio.wait([self._pipes.closed], timeout=_END_S)

    def dismiss(self) -> None:
        """Do as :meth:`end` does, but wait for nothing."""
        self.kill()
        # Fetched before the pipes are closed: asyncio would else fetch the status a second time.
        self.exited.add_done_callback(lambda _: self.close())

    def close(self) -> None:
        """Close the pipes on this side, whoever holds their other ends."""
        _running.discard(self)
        stdin = self._pipe(0)
        if stdin is not None and not stdin.is_closing():
            # Not close(), which would first write what the worker has not read.
            cast("asyncio.WriteTransport", stdin).abort()
        self._transport.close()

    def abandon(self) -> None:
        """Do as :meth:`end` does where the event loop is closed, and can do nothing for it."""
        _running.discard(self)
        self.kill()
        self._group_is_ours = False
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._transport.get_extra_info("subprocess").wait(_END_S)
        for number in range(3):
            pipe = self._pipe(number)
            if pipe is not None:
                pipe.get_extra_info("pipe").close()
        with contextlib.suppress(RuntimeError):  # the loop is closed, as we know
            self._transport.close()

    def _end_group(self, _exited: object) -> None:
        self.kill()
        self._group_is_ours = False

    def _pipe(self, number: int) -> asyncio.BaseTransport | None:
        return self._transport.get_pipe_transport(number)

    def _write(self, line: str) -> None:
        stdin = cast("asyncio.WriteTransport | None", self._pipe(0))
        if stdin is not None:
            # Not waited for: a worker that does not read does not answer either.
            stdin.write(line.encode() + b"\n")

    async def _crashed(self) -> WorkerError:
        pipes, who = self._pipes, f"The worker (pid {self.pid})"
        if pipes.too_long:
            return WorkerError(
                f"{who} sent a reply of more than {worker_pipes.LINE_LIMIT_BYTES} bytes."
            )
        await asyncio.wait([self.exited], timeout=_END_S)
        if not self.exited.done():
            return WorkerError(f"{who} closed its output before it answered, and runs on.")
        status = self.exited.result()
        words = await pipes.last_words()
        how = f"was killed by {_signal_name(-status)}" if status < 0 else f"exited with {status}"
        said = f" Its last words: {words.splitlines()[-1]}" if words else ""
        hint = limit_hint(self._limit_mb) if status < 0 or speaks_of_memory(words) else ""
        return WorkerError(f"{who} {how} before it answered.{said}{hint}")


def kill_all() -> None:
    """Kill every worker that this process still has."""
    for worker in list(_running):
        worker.kill()


_running: set[WorkerProcess] = set()
atexit.register(kill_all)
if hasattr(os, "register_at_fork"):
    # A forked child has the list, but they are not its workers.
    os.register_at_fork(after_in_child=_running.clear)


def _environment(limit_mb: int | None) -> dict[str, str]:
    """Return this process's environment without keys: what a worker may use, it is told."""
    told = {name: value for name, value in os.environ.items() if name.upper() not in _KEYS}
    if limit_mb is not None:
        # Else each of the model's threads reserves 128 MiB, and the last finds no room to start.
        told.setdefault("MALLOC_ARENA_MAX", "1")
    return told


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
