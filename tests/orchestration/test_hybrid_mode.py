"""HYBRID: what the policy chooses from what was measured, and what happens when it is wrong."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

import claude_pm
from claude_pm.errors import OrchestrationTimeoutError, WorkerError
from claude_pm.models import ChatResult, Usage
from claude_pm.orchestration import OrchestrationMode, Orchestrator
from claude_pm.orchestration.hybrid_mode import HybridPolicy
from claude_pm.orchestration.message_bus import Answer, Message
from claude_pm.orchestration.modes import ModeChoice
from claude_pm.settings import read_settings
from tests import messages_server as api
from tests.messages_server import MessagesServer
from tests.road_fixtures import span_rows

LOCAL, SUBPROCESS = OrchestrationMode.LOCAL, OrchestrationMode.SUBPROCESS
_S = 1_000_000_000


def policy(
    *,
    capacity: int = 1,
    on_their_way: int = 0,
    local_s: list[float] | None = None,
    worker_s: list[float] | None = None,
    start_s: float = 3.0,
) -> HybridPolicy:
    """Return a policy that has measured this, one LOCAL answer right after the other."""
    made = HybridPolicy(capacity)
    now_ns = 0
    for service_s in local_s or ():
        made.note_local(now_ns, now_ns + round(service_s * _S))
        now_ns += round(service_s * _S)
    for service_s in worker_s or ():
        made.note_worker(service_s, start_s)
    for _ in range(on_their_way):
        made.begun(LOCAL)
    return made


class TestPolicy:
    @pytest.mark.parametrize(
        ("known", "idle", "mode", "why"),
        [
            # Nothing starts sooner than where nobody waits.
            ({}, 0, LOCAL, "the model is free"),
            ({"capacity": 3, "on_their_way": 2}, 0, LOCAL, "the model is free"),
            ({"local_s": [9.0] * 5, "worker_s": [0.1], "start_s": 0.0}, 1, LOCAL, "is free"),
            # Nothing is expected from too little.
            ({"on_their_way": 9}, 0, LOCAL, "too few answers"),
            ({"on_their_way": 9, "local_s": [1.0] * 2}, 0, LOCAL, "too few answers"),
            # A first worker is tried where the queue is long.
            ({"on_their_way": 1, "local_s": [1.0] * 3}, 0, LOCAL, "no worker measured"),
            ({"on_their_way": 2, "local_s": [1.0] * 3}, 0, SUBPROCESS, "no worker measured"),
            (
                {"capacity": 2, "on_their_way": 3, "local_s": [1.0] * 3},
                0,
                LOCAL,
                "no worker measured",
            ),
            # Four before it and itself: 5 s here; a worker starts in 3 s and answers in 1.2 s.
            (
                {"on_their_way": 4, "local_s": [1.0] * 3, "worker_s": [1.2]},
                0,
                LOCAL,
                "LOCAL is expected in 5.00 s, a worker in 4.20 s",
            ),
            (
                {"on_their_way": 4, "local_s": [1.0] * 3, "worker_s": [0.9]},
                0,
                SUBPROCESS,
                "LOCAL is expected in 5.00 s, a worker in 3.90 s",
            ),
            # One that is idle need not start.
            (
                {"on_their_way": 1, "local_s": [1.0] * 3, "worker_s": [1.2]},
                1,
                SUBPROCESS,
                "LOCAL is expected in 2.00 s, a worker in 1.20 s",
            ),
            # One slow answer is not yet a slow model.
            (
                {"on_their_way": 1, "local_s": [1.0, 9.0, 1.0], "worker_s": [1.7]},
                1,
                LOCAL,
                "LOCAL is expected in 2.00 s, a worker in 1.70 s",
            ),
        ],
    )
    def test_choice(self, known: Any, idle: int, mode: OrchestrationMode, why: str) -> None:
        """What is expected to end sooner, by a margin, from what was measured."""
        choice = policy(**known).choose(idle_workers=idle)
        assert choice.mode is mode
        assert choice.reason.startswith("hybrid: ")
        assert why in choice.reason
        assert choice.fresh is (mode is LOCAL)

    def test_one_trial_at_a_time(self) -> None:
        """While the first worker is on its way, nobody else tries one."""
        made = policy(on_their_way=5, local_s=[1.0] * 3)
        made.begun(SUBPROCESS)
        assert made.choose(idle_workers=0).mode is LOCAL
        made.ended(SUBPROCESS)
        assert made.choose(idle_workers=0).mode is SUBPROCESS

    def test_the_past_is_forgotten(self) -> None:
        """The last twenty answers count: who was slow may have become quick."""
        made = policy(local_s=[9.0] * 50 + [0.1] * 20, worker_s=[1.0], on_their_way=1)
        assert "LOCAL is expected in 0.20 s" in made.choose(idle_workers=1).reason

    def test_served_together(self) -> None:
        """Of answers that were made at the same time, each is a step of a part of the time."""
        made = policy(capacity=2, worker_s=[5.0], on_their_way=2)
        for end_ns in (2 * _S, 3 * _S, 4 * _S, 5 * _S):
            made.note_local(end_ns - 2 * _S, end_ns)
        assert "LOCAL is expected in 3.00 s" in made.choose(idle_workers=0).reason


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Let HYBRID always choose a worker, and workers answer (or raise) what is in the list."""
    outcomes: list[Any] = []

    async def answer(self: Any, message: Message) -> Answer:
        assert message.mode is SUBPROCESS
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return Answer(ChatResult(outcome, Usage(), "m", "end_turn", None), "hit", 0.5)

    monkeypatch.setattr("claude_pm.orchestration.subprocess_mode.SubprocessMode.answer", answer)
    monkeypatch.setattr(
        HybridPolicy,
        "choose",
        lambda self, *, idle_workers: ModeChoice(SUBPROCESS, "hybrid: test", fresh=False),
    )
    return outcomes


def made(server: MessagesServer, **settings: Any) -> Orchestrator:
    """Return a HYBRID orchestrator whose model is the scripted server."""
    return Orchestrator(
        read_settings(base_url=server.url, model="m", orchestration_mode="hybrid", **settings)
    )


class TestFallback:
    async def test_is_loud(
        self, server: MessagesServer, worker: list[Any], caplog: pytest.LogCaptureFixture
    ) -> None:
        """A worker that cannot be had is a warning, a mark on the span and a count; not silence."""
        worker.append(WorkerError("The worker (pid 7) was killed by SIGKILL."))
        server.script(api.answer("ok"))
        async with made(server) as orchestrator:
            with caplog.at_level(logging.WARNING, logger="claude_pm"):
                async with claude_pm.profile("f", cpu=None, memory=None) as profile:
                    response = await orchestrator.orchestrate_agent("qa", "Hello?")
            assert (response.text, response.mode) == ("ok", LOCAL)
            metrics = orchestrator.get_orchestration_metrics()
            assert (metrics["fallbacks"], metrics["by_mode"]) == (1, {"local": 1})
            assert metrics["failures"] == 0
        (record,) = caplog.records
        assert "Agent qa falls back to LOCAL mode: The worker (pid 7)" in record.getMessage()
        assert record.trace_id == response.trace_id  # type: ignore[attr-defined]
        root = next(row for row in span_rows(profile) if row["name"] == "orchestrate")
        assert (root["mode"], root["status"]) == ("local", "ok")
        assert "killed by SIGKILL" in json.loads(root["attributes"])["fallback"]
        assert "served in another mode than asked" in profile._repr_mimebundle_()["text/plain"]

    async def test_not_where_isolation_was_asked_for(
        self, server: MessagesServer, worker: list[Any]
    ) -> None:
        """Who asked for a process of its own gets that or an error, never LOCAL."""
        async with made(server) as orchestrator:
            for options in ({"isolated": True}, {"mode": "subprocess"}):
                worker.append(WorkerError("No worker."))
                with pytest.raises(WorkerError):
                    await orchestrator.orchestrate_agent("qa", "Hello?", **options)
            assert orchestrator.get_orchestration_metrics()["fallbacks"] == 0
        assert server.received == []

    async def test_not_for_errors_of_the_model(
        self, server: MessagesServer, worker: list[Any]
    ) -> None:
        """A worker that works and has no answer in time is not asked again."""
        worker.append(OrchestrationTimeoutError("Too late."))
        async with made(server) as orchestrator:
            with pytest.raises(OrchestrationTimeoutError):
                await orchestrator.orchestrate_agent("qa", "Hello?")
        assert server.received == []

    async def test_worker_that_works(self, server: MessagesServer, worker: list[Any]) -> None:
        """A worker's answer says which mode served it."""
        worker.append("from afar")
        async with made(server) as orchestrator:
            response = await orchestrator.orchestrate_agent("qa", "Hello?")
            assert (response.text, response.mode) == ("from afar", SUBPROCESS)
            assert orchestrator.get_orchestration_metrics()["by_mode"] == {"subprocess": 1}
