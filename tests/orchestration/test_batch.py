"""Batches: order, bounds, and failures that stay single."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

import claude_pm
from claude_pm.errors import ModelRequestError, OrchestrationTimeoutError, RequestError
from claude_pm.orchestration import Orchestrator, Response, batch_orchestrate
from claude_pm.settings import read_settings
from claude_pm.testing import FakeModel
from tests.road_fixtures import span_rows


class Echo(FakeModel):
    """Answers with the request itself; the longer the request, the sooner. ``bad`` fails."""

    def __init__(self) -> None:
        super().__init__()
        self.at_once = self.most_at_once = 0

    async def stream(self, request: Any) -> Any:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            for _ in range(max(0, 20 - len(request.user))):
                await asyncio.sleep(0)
            if request.user == "bad":
                raise ModelRequestError("No.")
            self.reply = request.user
            async for event in super().stream(request):
                yield event
        finally:
            self.at_once -= 1


def queries(*requests: str, **more: Any) -> list[dict[str, Any]]:
    """Return queries to the qa agent."""
    return [{"agent": "qa", "request": request, **more} for request in requests]


def orchestrator(model: FakeModel, **settings: Any) -> Orchestrator:
    """Return an orchestrator of that model."""
    return Orchestrator(read_settings(**settings), model=model)


async def test_order_is_kept() -> None:
    """Whichever is answered first, each outcome stands at its query's place."""
    requests = ["a", "bb" * 9, "c" * 5, "d", "e" * 30]
    outcomes = await batch_orchestrate(queries(*requests), orchestrator=orchestrator(Echo()))
    assert [outcome.text for outcome in outcomes] == requests  # type: ignore[union-attr]


async def test_as_the_guide_writes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """It can be used without an orchestrator, as orchestrate_agent can."""
    made = orchestrator(Echo())
    monkeypatch.setattr("claude_pm.orchestration.batch.shared_orchestrator", lambda: made)
    (answer,) = await batch_orchestrate([{"agent": "qa", "request": {"task": "hello"}}])
    assert isinstance(answer, Response)
    assert answer.text == "hello"


async def test_one_failure_loses_nothing() -> None:
    """The query that fails has its error in its place; all others are answered."""
    outcomes = await batch_orchestrate(
        [*queries("a", "bad"), {"agent": "nobody", "request": "c"}, *queries("d")],
        orchestrator=orchestrator(Echo()),
    )
    kinds = [type(outcome).__name__ for outcome in outcomes]
    assert kinds == ["Response", "ModelRequestError", "UnknownAgentError", "Response"]


@pytest.mark.parametrize(("workers", "concurrency", "most"), [(3, None, 3), (8, 2, 2), (2, 9, 2)])
async def test_bounded(workers: int, concurrency: int | None, most: int) -> None:
    """Never more at once than the setting, or the argument, allows; and that many are."""
    model = Echo()
    made = orchestrator(model, max_workers=workers)
    await made.orchestrate_agent("qa", "reads the files, which takes any time")
    await batch_orchestrate(queries(*"abcdefghij"), orchestrator=made, concurrency=concurrency)
    assert model.most_at_once == most


async def test_options_of_a_query() -> None:
    """A query may say what orchestrate_agent may be told."""
    slow = FakeModel(ttft_s=60.0)
    outcomes = await batch_orchestrate(
        [*queries("a", timeout=0.01), *queries("b", mode="remote")], orchestrator=orchestrator(slow)
    )
    assert isinstance(outcomes[0], OrchestrationTimeoutError)
    assert "'remote'" in str(outcomes[1])


async def test_told_as_they_end() -> None:
    """on_result hears of every outcome, once, as soon as it is there."""
    heard: list[tuple[int, str]] = []
    made = orchestrator(Echo())
    await made.orchestrate_agent("qa", "reads the files, which takes any time")
    await batch_orchestrate(
        queries("a", "b" * 30),
        orchestrator=made,
        on_result=lambda position, outcome: heard.append((position, outcome.text)),  # type: ignore[union-attr]
    )
    assert heard == [(1, "b" * 30), (0, "a")]


async def test_listener_that_fails() -> None:
    """An error of on_result is the caller's own, and ends the batch."""

    def fail(position: int, outcome: object) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await batch_orchestrate(queries("a"), orchestrator=orchestrator(Echo()), on_result=fail)


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ("hello", "Query 2 is str"),
        ({"agent": "qa"}, "Query 2 has no 'request'"),
        ({"request": "a"}, "Query 2 has no 'agent'"),
        ({"agent": "qa", "request": "a", "prio": 1}, "Query 2 has 'prio', which is not known"),
    ],
)
async def test_malformed(bad: Any, says: str) -> None:
    """A query of another form is refused, before anything is asked."""
    model = Echo()
    with pytest.raises(RequestError, match=says):
        await batch_orchestrate([*queries("a"), bad], orchestrator=orchestrator(model))
    assert model.requests == []


async def test_no_queries() -> None:
    """Nothing asked, nothing answered."""
    assert await batch_orchestrate([], orchestrator=orchestrator(Echo())) == []


async def test_cancelled() -> None:
    """A cancelled batch leaves nothing running."""
    model = FakeModel(ttft_s=60.0)
    made = orchestrator(model)
    task = asyncio.create_task(batch_orchestrate(queries("a", "b"), orchestrator=made))
    while made.get_bus_statistics().in_service < 2:  # noqa: ASYNC110
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert made.get_bus_statistics().in_service == 0
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_recorded() -> None:
    """All requests hang under one span."""
    async with claude_pm.profile("batch", cpu=None, memory=None) as profile:
        await batch_orchestrate(queries("a", "b"), orchestrator=orchestrator(Echo()))
    spans = span_rows(profile)
    assert spans[0]["name"] == "batch"
    assert json.loads(spans[0]["attributes"]) == {"requests": 2, "concurrency": 4}
    roots = [row for row in spans if row["name"] == "orchestrate"]
    assert [row["parent_id"] for row in roots] == [spans[0]["span_id"]] * 2


async def test_progress(capsys: pytest.CaptureFixture[str]) -> None:
    """The bar goes to standard error: standard output is the caller's."""
    await batch_orchestrate(queries("a", "b"), orchestrator=orchestrator(Echo()), progress=True)
    shown = capsys.readouterr()
    assert "2/2" in shown.err
    assert shown.out == ""
