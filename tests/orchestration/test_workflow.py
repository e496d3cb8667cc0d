"""Workflows: who waits for whom, what flows from one to the next, and what a failure stops."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

import claude_pm
from claude_pm.errors import ModelRequestError, RequestError
from claude_pm.orchestration import OrchestrationMode, Orchestrator, run_workflow
from claude_pm.settings import read_settings
from claude_pm.testing import FakeModel
from tests.road_fixtures import span_rows
from tests.waiting import WAIT_S


class Loud(FakeModel):
    """Answers with the request in capitals; ``bad`` fails."""

    async def stream(self, request: Any) -> Any:
        if request.user == "bad":
            raise ModelRequestError("No.")
        self.reply = request.user.upper()
        async for event in super().stream(request):
            yield event


class Pairs(FakeModel):
    """Answers a request only when its partner was asked too; notes the order."""

    def __init__(self, *pairs: str) -> None:
        super().__init__()
        self.barriers = {}
        self.asked: list[str] = []
        for pair in pairs:
            self.barriers |= dict.fromkeys(pair, asyncio.Barrier(len(pair)))

    async def stream(self, request: Any) -> Any:
        self.asked.append(request.user)
        async with asyncio.timeout(WAIT_S):
            await self.barriers[request.user].wait()
        async for event in super().stream(request):
            yield event


def step(name: str, request: Any = None, *needs: str, **more: Any) -> dict[str, Any]:
    """Return a step for the qa agent."""
    asked = name if request is None else request
    return {"name": name, "agent": "qa", "request": asked, "needs": list(needs), **more}


def orchestrator(model: FakeModel | None = None, **settings: Any) -> Orchestrator:
    """Return an orchestrator of that model."""
    return Orchestrator(read_settings(**settings), model=model or Loud())


async def test_answers_flow_on() -> None:
    """A step's request has the answers that it needs in it, in texts and in mappings."""
    result = await run_workflow(
        [
            step("last", {"task": "{left} and {right}", "number": 3}, "left", "right"),
            step("left", "one {braces} {}"),
            step("right", "{ two"),
        ],
        orchestrator=orchestrator(),
    )
    assert result["left"].text == "ONE {BRACES} {}"
    assert result["last"].text == "ONE {BRACES} {} AND { TWO\nNUMBER: 3"
    assert list(result) == ["last", "left", "right"]


async def test_an_answer_is_no_template() -> None:
    """What an agent says is passed on as it is, even if it looks like a placeholder."""
    model = FakeModel("{second}")
    await run_workflow(
        [step("first"), step("second"), step("third", "{first}|{second}", "first", "second")],
        orchestrator=orchestrator(model),
    )
    assert model.requests[-1].user == "{second}|{second}"


async def test_ready_steps_run_together() -> None:
    """Steps wait for what they need, and for nothing else."""
    model = Pairs("ab", "c", "de")
    result = await run_workflow(
        [
            step("e", None, "c"),
            step("d", None, "c"),
            step("c", None, "a", "b"),
            step("b"),
            step("a"),
        ],
        orchestrator=orchestrator(model),
    )
    assert len(result.responses) == 5
    order = "".join(model.asked)
    assert {*order[:2]} == {"a", "b"}
    assert order[2] == "c"


async def test_failure_stops_only_what_needs_it() -> None:
    """What needs the failed step is skipped, with the name of it; the rest is answered."""
    heard: list[str] = []
    result = await run_workflow(
        [
            step("broken", "bad"),
            step("after", None, "broken"),
            step("long_after", None, "after"),
            step("apart"),
        ],
        orchestrator=orchestrator(),
        on_result=lambda name, outcome: heard.append(f"{name} {type(outcome).__name__}"),
    )
    assert list(result.responses) == ["apart"]
    assert result.skipped == {"after": "broken", "long_after": "broken"}
    assert sorted(heard) == ["apart Response", "broken ModelRequestError"]
    with pytest.raises(ModelRequestError):
        result["broken"]
    with pytest.raises(RequestError, match="'long_after' was skipped: 'broken'"):
        result["long_after"]
    with pytest.raises(KeyError):
        result["nobody"]


@pytest.mark.parametrize(
    ("steps", "says"),
    [
        ([step("a"), step("a")], "Two steps have the name 'a'"),
        ([step("a b")], "has the name 'a b'"),
        ([{"agent": "qa", "request": "x"}], "has the name None"),
        ([step("a", None, "b")], "'a' needs 'b', and there is no such step"),
        (
            [step("a", None, "b"), step("b", None, "a")],
            "circle: a needs b needs a|b needs a needs b",
        ),
        ([step("a", "{b}"), step("b")], "add 'b' to its needs"),
        ([{**step("a"), "needs": "b"}, step("b")], "a list of names"),
        ([{"name": "a", "agent": "qa"}], "Step 1 has no 'request'"),
    ],
)
async def test_malformed(steps: Any, says: str) -> None:
    """Steps that cannot work are refused before anything is asked."""
    model = Loud()
    with pytest.raises(RequestError, match=says):
        await run_workflow(steps, orchestrator=orchestrator(model))
    assert model.requests == []


@pytest.mark.parametrize(
    ("variable", "mode", "reason"),
    [
        (None, None, "hybrid: a model object cannot go to a worker"),
        ("local", None, "CLAUDE_PM_ORCHESTRATION_MODE"),
        (None, "local", "asked for on the request"),
    ],
)
async def test_mode_of_a_step(variable: str | None, mode: str | None, reason: str) -> None:
    """The step's own mode, then what the environment says, then HYBRID."""
    made = orchestrator(orchestration_mode=variable)
    async with claude_pm.profile("w", cpu=None, memory=None) as profile:
        result = await run_workflow([step("a", mode=mode)], orchestrator=made)
    assert result["a"].mode is OrchestrationMode.LOCAL
    (chosen,) = [row for row in span_rows(profile) if row["name"] == "choose_mode"]
    assert json.loads(chosen["attributes"])["reason"] == reason


async def test_graph_is_recorded() -> None:
    """The spans tell which step each request was, and what it waited for."""
    async with claude_pm.profile("w", cpu=None, memory=None) as profile:
        await run_workflow(
            [step("a"), step("b", None, "a", attributes={"mine": 1})], orchestrator=orchestrator()
        )
    spans = span_rows(profile)
    assert spans[0]["name"] == "workflow"
    asked = [json.loads(row["attributes"]) for row in spans if row["name"] == "orchestrate"]
    assert [(row["step"], row["needs"]) for row in asked] == [("a", []), ("b", ["a"])]
    assert asked[1]["mine"] == 1


async def test_cancelled() -> None:
    """A cancelled workflow leaves nothing running."""
    made = orchestrator(FakeModel(ttft_s=60.0))
    task = asyncio.create_task(run_workflow([step("a"), step("b")], orchestrator=made))
    while made.get_bus_statistics().in_service < 2:  # noqa: ASYNC110
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert asyncio.all_tasks() == {asyncio.current_task()}
