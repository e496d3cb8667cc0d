"""The road from a request to an answer, with a model that needs no model."""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
import math
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import psutil
import pytest

import claude_pm
from claude_pm.errors import (
    AgentFileError,
    BusClosedError,
    ModeError,
    ModelOverloadedError,
    ModelRequestError,
    OrchestrationTimeoutError,
    RequestError,
    SettingsError,
    UnknownAgentError,
)
from claude_pm.models import ChatRequest, Completion, TextDelta, Usage
from claude_pm.orchestration import (
    OrchestrationMode,
    Orchestrator,
    create_backwards_compatible_orchestrator,
    orchestrate_agent,
)
from claude_pm.orchestration import orchestrator as orchestrator_module
from claude_pm.services.agent_registry import AgentRegistry
from claude_pm.services.context_manager import ContextManager
from claude_pm.services.shared_prompt_cache import SharedPromptCache
from claude_pm.settings import read_settings
from claude_pm.testing import FakeModel
from tests import messages_server as api
from tests.messages_server import MessagesServer
from tests.road_fixtures import span_rows, write_agent

LOCAL, HYBRID = OrchestrationMode.LOCAL, OrchestrationMode.HYBRID


class Endless(FakeModel):
    """Says one word and then nothing until it is stopped."""

    def __init__(self) -> None:
        super().__init__()
        self.speaking = asyncio.Event()
        self.stopped = False

    async def stream(self, request: ChatRequest) -> AsyncGenerator[TextDelta | Completion, None]:
        try:
            yield TextDelta("Well")
            self.speaking.set()
            await asyncio.Event().wait()
        finally:
            self.stopped = True


@pytest.fixture
def context(tmp_path: Path) -> ContextManager:
    """The context of a folder with a README."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "README.md").write_text("It sorts.")
    return ContextManager(folder)


async def ask(
    orchestrator: Orchestrator, agent: str = "qa", request: Any = "Say hello.", **options: Any
) -> tuple[Any, list[dict[str, Any]]]:
    """Ask in a profile; return the response (or the error) and the spans."""
    outcome: Any
    async with claude_pm.profile("ask", cpu=None, memory=None) as profile:
        try:
            outcome = await orchestrator.orchestrate_agent(agent, request, **options)
        except (claude_pm.ClaudePMError, asyncio.CancelledError) as error:
            outcome = error
    return outcome, span_rows(profile)


def statuses(spans: list[dict[str, Any]]) -> dict[str, str]:
    """Return the status of each span by its name."""
    return {row["name"]: row["status"] for row in spans}


class TestResponse:
    async def test_fields(self, context: ContextManager) -> None:
        """A response has the text, who answered and how, what it took, and its trace."""
        orchestrator = Orchestrator(model=FakeModel("All is well"), context=context)
        heard: list[str] = []
        response, spans = await ask(orchestrator, "QA", on_text=heard.append)
        assert response.text == "".join(heard) == "All is well"
        assert (response.agent, response.mode, response.model) == ("qa", LOCAL, "fake")
        assert response.usage.output_tokens == 3
        assert response.stop_reason == "end_turn"
        assert 0 < response.ttft_s < response.duration_s
        assert {row["trace_id"] for row in spans} == {response.trace_id}

    async def test_without_a_profile(self, context: ContextManager) -> None:
        """It needs no profile; the trace id is then a fresh one."""
        orchestrator = Orchestrator(model=FakeModel(), context=context)
        one, two = [await orchestrator.orchestrate_agent("qa", "Hello?") for _ in range(2)]
        assert one.text == two.text == "ok"
        assert one.trace_id != two.trace_id
        assert len(one.trace_id) == 32

    async def test_no_text(self, context: ContextManager) -> None:
        """An answer without text has no time to first text."""
        orchestrator = Orchestrator(model=FakeModel(""), context=context)
        response = await orchestrator.orchestrate_agent("qa", "Hello?")
        assert (response.text, response.ttft_s) == ("", None)

    async def test_what_the_model_is_asked(self, context: ContextManager, tmp_path: Path) -> None:
        """The agent's prompt first, then the folder's context, then the request."""
        write_agent(tmp_path, "clerk", "Be brief.", temperature=0.5, max_tokens=9)
        model = FakeModel()
        orchestrator = Orchestrator(model=model, registry=AgentRegistry(tmp_path), context=context)
        await orchestrator.orchestrate_agent("clerk", "  Hello?\n")
        told = "# The project in the working folder (excerpts)\n\n## README.md\n\nIt sorts."
        assert model.requests == [ChatRequest(("Be brief.", told), "Hello?", 9, 0.5, "clerk")]

    @pytest.mark.parametrize(
        ("setting", "option", "expected"), [(None, None, 9), (7, None, 7), (7, 5, 5), (None, 5, 5)]
    )
    async def test_max_tokens(
        self, tmp_path: Path, setting: int | None, option: int | None, expected: int
    ) -> None:
        """The request's limit goes before the setting, and that before the agent's own."""
        write_agent(tmp_path / "agents", "clerk", max_tokens=9)
        model = FakeModel()
        orchestrator = Orchestrator(
            read_settings(max_tokens=setting),
            model=model,
            registry=AgentRegistry(tmp_path / "agents"),
            context=ContextManager(tmp_path),
        )
        await orchestrator.orchestrate_agent("clerk", "Hello?", max_tokens=option)
        (request,) = model.requests
        assert request.max_tokens == expected
        assert request.system == ("Be brief.",)


class TestRequest:
    @pytest.mark.parametrize(
        ("request_", "text"),
        [
            pytest.param(" Hello? \n", "Hello?", id="text"),
            pytest.param({"task": "Sort."}, "Sort.", id="task"),
            pytest.param(
                {"files": ["ä.py"], "task": " Sort. ", "depth": 2, "why": "It is slow."},
                'Sort.\nfiles: ["ä.py"]\ndepth: 2\nwhy: It is slow.',
                id="task-first",
            ),
            pytest.param({"question": "Why?"}, "question: Why?", id="no-task"),
            pytest.param({"task": {"id": 1}}, '{"id": 1}', id="task-is-an-object"),
            pytest.param({"at": Path("a")}, 'at: "a"', id="no-json-value"),
        ],
    )
    async def test_forms(self, context: ContextManager, request_: Any, text: str) -> None:
        """A request is a text, or a mapping whose task comes first."""
        model = FakeModel()
        await Orchestrator(model=model, context=context).orchestrate_agent("qa", request_)
        assert model.requests[0].user == text

    @pytest.mark.parametrize(
        "request_", ["", " \n", {}, {"task": ""}, {"task": "  "}, None, 5, ["Sort."], b"Sort."]
    )
    async def test_refused(self, context: ContextManager, request_: Any) -> None:
        """An empty request, or one of another type, is refused before anything is done."""
        model = FakeModel()
        orchestrator = Orchestrator(model=model, context=context)
        with pytest.raises(RequestError):
            await orchestrator.orchestrate_agent("qa", request_)
        assert model.requests == []

    async def test_unknown_agent(self, context: ContextManager) -> None:
        """An unknown agent is an error that names the nearest; nothing is counted."""
        orchestrator = Orchestrator(model=FakeModel(), context=context)
        with pytest.raises(UnknownAgentError, match="Did you mean documentation"):
            await orchestrator.orchestrate_agent("documentaton", "Hello?")
        assert orchestrator.get_orchestration_metrics()["total_orchestrations"] == 0

    async def test_broken_agent(self, context: ContextManager, tmp_path: Path) -> None:
        """An agent whose file broke is an error on its own span."""
        (tmp_path / "clerk.md").write_text("nothing")
        registry = AgentRegistry(tmp_path)
        error, spans = await ask(
            Orchestrator(model=FakeModel(), registry=registry, context=context), "clerk"
        )
        assert isinstance(error, AgentFileError)
        assert statuses(spans) == {
            "orchestrate": "error", "choose_mode": "ok", "queue": "ok", "load_agent": "error",
        }  # fmt: skip

    @pytest.mark.parametrize("limit_s", [0, -1, math.nan])
    async def test_no_time(self, context: ContextManager, limit_s: float) -> None:
        """A limit has to be more than nothing."""
        orchestrator = Orchestrator(model=FakeModel(), context=context)
        with pytest.raises(RequestError, match="more than 0"):
            await orchestrator.orchestrate_agent("qa", "Hello?", timeout=limit_s)


class TestSpans:
    async def test_the_whole_road(self, context: ContextManager) -> None:
        """Every step is a span under ``orchestrate``, in order, with agent and mode."""
        orchestrator = Orchestrator(model=FakeModel("All is well"), context=context)
        response, spans = await ask(orchestrator)
        names = ["orchestrate", "choose_mode", "queue", "load_agent", "build_context", "chat"]
        assert [row["name"] for row in spans] == names
        root = spans[0]
        assert root["parent_id"] is None
        assert {row["parent_id"] for row in spans[1:]} == {root["span_id"]}
        assert {(row["agent"], row["mode"], row["status"]) for row in spans} == {
            ("qa", "local", "ok")
        }
        assert (root["model"], root["ttft_s"]) == ("fake", response.ttft_s)
        told = {row["name"]: json.loads(row["attributes"]) for row in spans}
        assert told["orchestrate"] == {"request": "Say hello.", "response": "All is well"}
        assert told["choose_mode"] == {"reason": "default"}
        assert told["build_context"]["files"] == "README.md"
        assert told["build_context"]["truncated"] is False
        assert told["build_context"]["tokens"] > 0
        assert told["build_context"]["counted_by"] == "model"
        assert told["chat"] == {"attempt": 1, "stop_reason": "end_turn"}

    async def test_caches(self, context: ContextManager) -> None:
        """Agent and context are read once and then held, unless the cache is off."""
        for cache, expected in ((True, ["miss", "hit"]), (False, ["miss", "miss"])):
            orchestrator = Orchestrator(
                read_settings(cache_enabled=cache),
                model=FakeModel(),
                context=ContextManager(context.folder),
            )
            spans = [row for _ in range(2) for row in (await ask(orchestrator))[1]]
            for name in ("load_agent", "build_context"):
                assert [row["cache"] for row in spans if row["name"] == name] == expected

    async def test_attributes_of_the_user(self, context: ContextManager) -> None:
        """The user's attributes are recorded whatever their names; ours keep their own."""
        theirs = {"name": "run 1", "ticket": 7, "agent": "me", "status": "draft", "request": "no"}
        orchestrator = Orchestrator(model=FakeModel(), context=context)
        _, (root, *_) = await ask(orchestrator, attributes=theirs)
        assert (root["name"], root["agent"], root["status"]) == ("orchestrate", "qa", "ok")
        assert json.loads(root["attributes"]) == {
            **theirs, "request": "Say hello.", "response": "ok",
        }  # fmt: skip

    async def test_at_the_same_time(self, context: ContextManager) -> None:
        """Requests that run at once each have their own trace under the span they came from."""
        orchestrator = Orchestrator(model=FakeModel("a b c"), context=context)
        async with claude_pm.profile("batch", cpu=None, memory=None) as profile:
            with claude_pm.span("batch"):
                await asyncio.gather(
                    *(orchestrator.orchestrate_agent(name, "Hello?") for name in ("qa", "ops"))
                )
        spans = span_rows(profile)
        (outer,) = [row for row in spans if row["name"] == "batch"]
        roots = {row["span_id"]: row for row in spans if row["name"] == "orchestrate"}
        assert {row["parent_id"] for row in roots.values()} == {outer["span_id"]}
        assert {row["agent"] for row in roots.values()} == {"qa", "ops"}
        for row in spans:
            if row["name"] in ("queue", "load_agent", "build_context", "chat"):
                assert row["agent"] == roots[row["parent_id"]]["agent"]


class TestFailures:
    async def test_timeout(self, context: ContextManager) -> None:
        """Too late is an error that says so, a TimeoutError too; the model is stopped."""
        model = Endless()
        orchestrator = Orchestrator(model=model, context=context)
        error, spans = await ask(orchestrator, timeout=0.5)
        assert isinstance(error, OrchestrationTimeoutError)
        assert isinstance(error, TimeoutError)
        assert "qa did not answer within 0.5 s in LOCAL mode" in str(error)
        assert "CLAUDE_PM_REQUEST_TIMEOUT" in str(error)
        assert model.stopped
        told = statuses(spans)
        assert (told["orchestrate"], told["chat"], told["queue"]) == ("timeout", "cancelled", "ok")

    async def test_timeout_of_the_settings(self, context: ContextManager) -> None:
        """Without timeout= the limit is the setting's."""
        settings = read_settings(request_timeout=0.1)
        orchestrator = Orchestrator(settings, model=Endless(), context=context)
        with pytest.raises(OrchestrationTimeoutError, match=r"0\.1 s"):
            await orchestrator.orchestrate_agent("qa", "Hello?")

    async def test_waiting_counts(self, context: ContextManager) -> None:
        """Time spent waiting for a place is part of the limit; the place is free afterwards."""
        settings = read_settings(max_workers=1)
        model = Endless()
        orchestrator = Orchestrator(settings, model=model, context=context)
        first = asyncio.create_task(orchestrator.orchestrate_agent("qa", "Hello?"))
        await model.speaking.wait()
        error, spans = await ask(orchestrator, timeout=0.1)
        assert isinstance(error, OrchestrationTimeoutError)
        told = statuses(spans)
        assert told == {"orchestrate": "timeout", "choose_mode": "ok", "queue": "cancelled"}
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first

    async def test_cancelled(self, context: ContextManager) -> None:
        """Cancelling stops the model, and the spans say so."""
        model = Endless()
        orchestrator = Orchestrator(model=model, context=context)
        task = asyncio.create_task(ask(orchestrator))
        await model.speaking.wait()
        task.cancel()
        error, spans = await task
        assert isinstance(error, asyncio.CancelledError)
        assert model.stopped
        told = statuses(spans)
        assert (told["orchestrate"], told["chat"]) == ("cancelled", "cancelled")

    async def test_error_of_the_model(self, context: ContextManager) -> None:
        """The model's own error comes out, and stands on the spans."""
        model = FakeModel(errors=[ModelRequestError("No such thing.")])
        error, spans = await ask(Orchestrator(model=model, context=context))
        assert isinstance(error, ModelRequestError)
        told = {row["name"]: row["error"] for row in spans}
        assert told["orchestrate"] == told["chat"] == "ModelRequestError: No such thing."
        assert told["queue"] is None

    async def test_retried(self, context: ContextManager) -> None:
        """A server that is busy once is asked twice; both attempts are on the road."""
        model = FakeModel(errors=[ModelOverloadedError("Busy.", retry_after_s=0.0)])
        response, spans = await ask(Orchestrator(model=model, context=context))
        assert response.text == "ok"
        assert [row["status"] for row in spans if row["name"] == "chat"] == ["error", "ok"]

    async def test_error_of_the_listener(self, context: ContextManager) -> None:
        """An error in the user's on_text comes out as it is."""

        def listen(text: str) -> None:
            raise ZeroDivisionError(text)

        orchestrator = Orchestrator(model=FakeModel(), context=context)
        with pytest.raises(ZeroDivisionError, match="ok"):
            await orchestrator.orchestrate_agent("qa", "Hello?", on_text=listen)


class TestModes:
    @pytest.mark.parametrize(
        "options", [{"mode": "subprocess"}, {"mode": "SUBPROCESS"}, {"isolated": True}], ids=str
    )
    async def test_no_worker_for_a_model_object(
        self, context: ContextManager, options: dict[str, Any]
    ) -> None:
        """A worker cannot have the caller's model: refused, never quietly served otherwise."""
        model = FakeModel()
        orchestrator = Orchestrator(model=model, context=context)
        error, spans = await ask(orchestrator, **options)
        assert isinstance(error, ModeError)
        assert "model=" in str(error)
        assert model.requests == []
        assert statuses(spans) == {"orchestrate": "error", "choose_mode": "error"}

    async def test_hybrid(self, context: ContextManager) -> None:
        """HYBRID serves here what asks for no isolation, and says why."""
        model = FakeModel()
        orchestrator = Orchestrator(
            read_settings(orchestration_mode="hybrid"), model=model, context=context
        )
        assert orchestrator.mode is HYBRID
        response, spans = await ask(orchestrator, "qa")
        assert response.mode is LOCAL
        assert json.loads(spans[1]["attributes"])["reason"] == (
            "hybrid: a model object cannot go to a worker"
        )
        with pytest.raises(ModeError):
            await orchestrator.orchestrate_agent("security", "Hello?")
        response = await orchestrator.orchestrate_agent("security", "Hello?", isolated=False)
        assert (response.mode, len(model.requests)) == (LOCAL, 2)

    async def test_unknown_mode(self, context: ContextManager) -> None:
        """A mode that does not exist is an error that names those that do."""
        orchestrator = Orchestrator(model=FakeModel(), context=context)
        with pytest.raises(ModeError, match="local, subprocess, hybrid"):
            await orchestrator.orchestrate_agent("qa", "Hello?", mode="remote")


class TestMetrics:
    async def test_snapshot(self, context: ContextManager) -> None:
        """The snapshot is what was served, to the number."""
        model = FakeModel("one two")
        orchestrator = Orchestrator(model=model, context=context)
        answered = [
            await orchestrator.orchestrate_agent(name, "Hi?") for name in ("qa", "ops", "qa")
        ]
        model._errors.append(ModelRequestError("No."))
        with pytest.raises(ModelRequestError):
            await orchestrator.orchestrate_agent("ops", "Hi?")
        slow = Orchestrator(model=Endless(), context=context)
        with pytest.raises(OrchestrationTimeoutError):
            await slow.orchestrate_agent("qa", "Hi?", timeout=0.05)
        taken = orchestrator.get_orchestration_metrics()
        asked = sum(response.usage.input_tokens or 0 for response in answered)
        mean_s = sum(response.duration_s for response in answered) / 3
        assert taken["average_response_time_ms"] == pytest.approx(mean_s * 1e3)
        assert taken["total_orchestrations"] == 4
        assert taken["cache_hit_rate"] == pytest.approx(100 / 3)
        assert (taken["failures"], taken["timeouts"], taken["cancelled"]) == (1, 0, 0)
        assert taken["by_agent"] == {"qa": 2, "ops": 2}
        assert taken["by_mode"] == {"local": 4}
        assert taken["tokens"] == {
            "input_tokens": asked, "cache_read_tokens": 0, "output_tokens": 6,
        }  # fmt: skip
        late = slow.get_orchestration_metrics()
        assert (late["timeouts"], late["failures"], late["total_orchestrations"]) == (1, 0, 1)


class TestPreload:
    async def test_warms_this_model(self, context: ContextManager) -> None:
        """Preloading asks this orchestrator's model, with what a request would be told."""
        model = FakeModel()
        cache = SharedPromptCache()
        registry = AgentRegistry(prompt_cache=cache)
        orchestrator = Orchestrator(model=model, registry=registry, context=context)
        report = cache.preload_agent_prompts(["qa", "ops"])
        assert [warmed.agent for warmed in report.warmed] == ["qa", "ops"]
        await orchestrator.orchestrate_agent("qa", "Hello?")
        warmed, _, asked = model.requests
        assert warmed.system == asked.system
        assert (warmed.max_tokens, warmed.cache_key) == (1, "qa")
        assert orchestrator.get_orchestration_metrics()["cache_hit_rate"] == 100.0

    def test_switched_off(self, context: ContextManager) -> None:
        """With CLAUDE_PM_CACHE_ENABLED=false no model is warmed."""
        model = FakeModel()
        settings = read_settings(cache_enabled=False)
        orchestrator = Orchestrator(settings, model=model, context=context)
        assert orchestrator.registry.prompt_cache.preload_agent_prompts(["qa"]).warmed == ()
        assert model.requests == []


class TestLogging:
    async def test_answer(self, context: ContextManager, caplog: pytest.LogCaptureFixture) -> None:
        """Each answer is one line at INFO, of the form that people search their logs for."""
        with caplog.at_level(logging.INFO, logger="claude_pm"):
            orchestrator = Orchestrator(model=FakeModel(), context=context)
            response = await orchestrator.orchestrate_agent("documentation", "Hello?")
        (record,) = caplog.records
        assert record.name == "claude_pm.orchestration"
        assert record.getMessage() == (
            f"Agent documentation responded in {response.duration_s:.3f}s"
        )

    async def test_failure(self, context: ContextManager, caplog: pytest.LogCaptureFixture) -> None:
        """Nobody responded where there was no answer."""
        with caplog.at_level(logging.INFO, logger="claude_pm"):
            model = FakeModel(errors=[ModelRequestError("No.")])
            with pytest.raises(ModelRequestError):
                await Orchestrator(model=model, context=context).orchestrate_agent("qa", "Hello?")
        assert caplog.records == []


class TestMaking:
    def test_backwards_compatible(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """It is no coroutine, reads the environment, and takes its variables as keywords."""
        assert not inspect.iscoroutinefunction(create_backwards_compatible_orchestrator)
        orchestrator = create_backwards_compatible_orchestrator()
        assert type(orchestrator) is Orchestrator
        assert orchestrator.mode is LOCAL
        monkeypatch.setenv("CLAUDE_PM_ORCHESTRATION_MODE", "SUBPROCESS")
        assert create_backwards_compatible_orchestrator().mode is OrchestrationMode.SUBPROCESS
        given = create_backwards_compatible_orchestrator(orchestration_mode="hybrid", max_workers=2)
        assert (given.mode, given.settings.max_workers) == (HYBRID, 2)

    def test_settings_that_name_no_model(self) -> None:
        """Settings without a model are refused when the orchestrator is made, not later."""
        with pytest.raises(SettingsError, match="ANTHROPIC_API_KEY"):
            create_backwards_compatible_orchestrator(model="claude-x")

    async def test_shared(self, server: MessagesServer, monkeypatch: pytest.MonkeyPatch) -> None:
        """The module's function keeps one orchestrator, and its connection, between calls."""
        monkeypatch.setattr(orchestrator_module, "_shared", None)
        monkeypatch.setenv("CLAUDE_PM_BASE_URL", server.url)
        server.script(*map(api.answer, ("one", "two", "three")))
        texts = [(await orchestrate_agent("qa", "Hello?", max_tokens=5)).text for _ in range(2)]
        shared = orchestrator_module._shared
        assert shared is not None
        assert shared.get_orchestration_metrics()["total_orchestrations"] == 2
        asked = [received for received in server.received if received.method == "POST"]
        assert (texts, len({received.port for received in asked})) == (["one", "two"], 1)
        assert asked[0].body["max_tokens"] == 5
        monkeypatch.setenv("CLAUDE_PM_MODEL", "another")
        assert (await orchestrate_agent("qa", "Hello?")).text == "three"
        assert server.received[-1].body["model"] == "another"
        assert orchestrator_module._shared is not None
        await orchestrator_module._shared.aclose()
        await shared.aclose()

    async def test_block(self, server: MessagesServer) -> None:
        """As a block it closes its connections in the end, and takes no more requests."""
        server.script(api.stream(api.start(), api.delta("Hi"), api.STOP))
        async with Orchestrator(read_settings(base_url=server.url)) as orchestrator:
            assert (await orchestrator.orchestrate_agent("qa", "Hello?")).usage == Usage()
        (port,) = {received.port for received in server.received}
        here = psutil.Process().net_connections()
        assert not [c for c in here if c.laddr.port == port and c.status == "ESTABLISHED"]
        with pytest.raises(BusClosedError, match="Make a new orchestrator"):
            await orchestrator.orchestrate_agent("qa", "Hello?")


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"mode": 3}, ModeError, "3"),
        ({"timeout": "5"}, RequestError, "'5'"),
        ({"timeout": float("nan")}, RequestError, "nan"),
        ({"max_tokens": 0}, RequestError, "0"),
        ({"max_tokens": -1}, RequestError, "-1"),
        ({"max_tokens": "8"}, RequestError, "'8'"),
    ],
)
async def test_options_of_a_wrong_kind(
    options: dict[str, Any], error: type[Exception], said: str
) -> None:
    """An option of a wrong kind is a typed error that shows it, and nothing is counted."""
    orchestrator = Orchestrator(model=FakeModel())
    with pytest.raises(error, match=said):
        await orchestrator.orchestrate_agent("qa", "hi", **options)
    assert orchestrator.get_orchestration_metrics()["total_orchestrations"] == 0


async def test_agent_is_a_name() -> None:
    """What is no text is no agent."""
    with pytest.raises(UnknownAgentError, match="NoneType"):
        await Orchestrator(model=FakeModel()).orchestrate_agent(None, "hi")  # type: ignore[arg-type]


async def test_agent_that_came_later(tmp_path: Path) -> None:
    """An agent whose file came after the orchestrator was made can be asked."""
    orchestrator = Orchestrator(model=FakeModel(), registry=AgentRegistry(tmp_path))
    (tmp_path / "new.md").write_text("---\nname: new\ndescription: New.\n---\nYou are new.\n")
    assert (await orchestrator.orchestrate_agent("new", "hi")).text == "ok"
