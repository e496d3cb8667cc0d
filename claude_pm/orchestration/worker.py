"""The SUBPROCESS worker: ``python -m claude_pm.orchestration.worker`` answers one request.

It reads one line of JSON, a :class:`WorkerRequest`, and writes lines of JSON: ``ready``, then
``model`` when the model is about to be asked, a ``text`` for every piece, and one ``result`` or
``error``. Standard input stays open while the parent lives; when it closes, the worker ends.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from claude_pm.errors import ClaudePMError
from claude_pm.models import connect
from claude_pm.orchestration.local_mode import LocalMode
from claude_pm.orchestration.message_bus import Answer, Message
from claude_pm.orchestration.modes import OrchestrationMode
from claude_pm.orchestration.worker_request import WorkerRequest
from claude_pm.recording import ProfileSession
from claude_pm.services.agent_registry import AgentRegistry
from claude_pm.services.context_manager import ContextManager
from claude_pm.settings import Settings

_MIB = 1024 * 1024


def main() -> None:
    """Serve the one request that comes on standard input."""
    replies = _take_stdout()
    request = WorkerRequest(**json.loads(sys.stdin.readline()))
    settings = Settings(**request.settings)
    if settings.memory_limit_mb is not None:
        _limit_memory(settings.memory_limit_mb * _MIB)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _send(replies, type="ready")
    _send(replies, **_serve(request, settings, replies))


def _serve(request: WorkerRequest, settings: Settings, replies: IO[str]) -> dict[str, Any]:
    session = None
    if request.recording is not None:
        session = ProfileSession("worker", role="worker", **request.recording)
        session.start()
    outcome: dict[str, Any]
    try:
        answer = asyncio.run(_answer(request, settings, replies))
        outcome = {"type": "result", "answer": asdict(answer)}
    except ClaudePMError as error:
        outcome = {"type": "error", "error": type(error).__name__, "message": str(error)}
    except MemoryError:
        limit = settings.memory_limit_mb
        message = "The worker ran out of memory" + (f" (limit {limit} MiB)." if limit else ".")
        outcome = {"type": "error", "error": "WorkerError", "message": message}
    if session is not None:
        outcome["recorded"] = session.dump()
    return outcome


async def _answer(request: WorkerRequest, settings: Settings, replies: IO[str]) -> Answer:
    model = connect(settings)
    told_of, token_budget = request.context
    mode = LocalMode(
        model,
        AgentRegistry(Path(request.agents)),
        ContextManager(None if told_of is None else Path(told_of), token_budget=token_budget),
        use_cache=settings.cache_enabled,
    )
    message = Message(
        agent=request.agent,
        request=request.request,
        mode=OrchestrationMode.SUBPROCESS,
        max_tokens=request.max_tokens,
        on_text=lambda text: _send(replies, type="text", text=text),
        on_call=lambda use: _send(replies, type="model", use=use),
    )
    try:
        return await mode.answer(message)
    finally:
        await model.aclose()


def _take_stdout() -> IO[str]:
    """Keep the pipe to the parent for replies alone: all other prints go to standard error."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return replies


def _send(replies: IO[str], **message: Any) -> None:
    replies.write(json.dumps(message) + "\n")
    replies.flush()


def _limit_memory(limit_bytes: int) -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (limit_bytes, limit_bytes))


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(1)


if __name__ == "__main__":
    main()
