"""The SUBPROCESS worker: ``python -m claude_pm.orchestration.worker``.

It reads lines of JSON from its standard input: the :class:`WorkerSettings`, and then requests
(:class:`WorkerRequest`), which it answers one after the other. It writes lines of JSON: ``ready``
once, and for each request ``model`` when the model is about to be asked, a ``text`` for every
piece, and one ``result`` or ``error`` with what was recorded for it. Standard input stays open
while the parent wants the worker; when it closes, the worker ends with all that it started.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import threading
from typing import IO, Any

from claude_pm.orchestration.memory_limit import limit_hint, limit_memory
from claude_pm.orchestration.worker_request import WorkerRequest, WorkerSettings

_LOOK_S = 1.0
"""How often a worker looks whether its parent is still there."""


def main() -> None:
    """Serve the requests that come on standard input."""
    told, replies = _take_pipes()
    line = told.readline()
    if not line:
        return
    settings = WorkerSettings.from_json(line)
    limit_mb = settings.memory_limit_mb
    if limit_mb is not None:
        # Before the imports: what they take counts too.
        limit_memory(limit_mb)
    requests: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(told, requests), daemon=True).start()
    threading.Thread(target=_watch_parent, args=(os.getppid(),), daemon=True).start()

    def reply(**values: Any) -> None:
        replies.write(json.dumps(values) + "\n")
        replies.flush()

    try:
        from claude_pm.orchestration.worker_road import WorkerRoad

        road = WorkerRoad(settings, reply)
        reply(type="ready")
        while True:
            reply(**road.serve(WorkerRequest.from_json(requests.get())))
    except MemoryError:
        message = f"The worker ran out of memory.{limit_hint(limit_mb)}"
        reply(type="error", error="WorkerError", message=message)


def _take_pipes() -> tuple[IO[str], IO[str]]:
    """Keep the pipes to the parent for the two to talk alone.

    All other prints go to standard error, and what the worker starts can neither read the
    requests nor hold the pipes.
    """
    told = os.fdopen(os.dup(0), encoding="utf-8")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return told, replies


def _read(told: IO[str], requests: queue.SimpleQueue[str]) -> None:
    for line in told:
        requests.put(line)
    _end()


def _watch_parent(parent: int) -> None:
    # Another child of the parent may hold the other end of the pipe: then it closes too late.
    never = threading.Event()
    while os.getppid() == parent:
        never.wait(_LOOK_S)
    _end()


def _end() -> None:
    # Nothing that a worker holds is worth keeping, and nothing it has started may stay.
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


if __name__ == "__main__":
    main()
