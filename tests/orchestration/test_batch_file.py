"""Batches in files: what is kept, what is asked again, and what a broken-off run leaves."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from claude_pm.errors import ModelRequestError, RequestError
from claude_pm.orchestration import Orchestrator
from claude_pm.orchestration.batch_file import BatchReport, results_path, run_batch_file
from claude_pm.settings import read_settings
from claude_pm.testing import FakeModel


class Echo(FakeModel):
    """Answers with the request; fails for those in ``bad``."""

    def __init__(self, *bad: str) -> None:
        super().__init__()
        self.bad = set(bad)

    async def stream(self, request: Any) -> Any:
        self.reply = request.user
        async for event in super().stream(request):
            if request.user in self.bad:
                raise ModelRequestError("No.")
            yield event

    @property
    def asked(self) -> list[str]:
        return [request.user for request in self.requests]


@pytest.fixture
def queries(tmp_path: Path) -> Path:
    """A file of four queries, the last of which has an id, with an empty line."""
    path = tmp_path / "questions.jsonl"
    lines = [{"agent": "qa", "request": text} for text in ("a", "b\u2028b", "c")]
    last = {"agent": "qa", "request": "d", "id": "the last"}
    text = "\n".join(json.dumps(line, ensure_ascii=False) for line in lines)
    path.write_text(f"{text}\n\n{json.dumps(last)}\n", encoding="utf-8")
    return path


async def run(queries: Path, model: FakeModel, **options: Any) -> BatchReport:
    """Run the batch."""
    return await run_batch_file(
        queries,
        results_path(queries),
        orchestrator=Orchestrator(read_settings(max_workers=1), model=model),
        **options,
    )


def results(queries: Path) -> list[dict[str, Any]]:
    """Return the lines of the results file."""
    text = results_path(queries).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


async def test_results(queries: Path) -> None:
    """Each query has a line with its answer, in the order of the queries."""
    report = await run(queries, Echo())
    assert report == BatchReport(4, 0, 0, queries.with_name("questions.results.jsonl"))
    found = results(queries)
    assert [(row["line"], row["text"]) for row in found] == [
        (1, "a"), (2, "b\u2028b"), (3, "c"), (5, "d"),
    ]  # fmt: skip
    assert found[0]["status"] == "ok"
    assert found[0]["usage"]["output_tokens"] == 1
    assert found[3]["id"] == "the last"


async def test_asked_once(queries: Path) -> None:
    """A second run asks nothing and leaves the results as they are."""
    await run(queries, Echo())
    before = results_path(queries).read_bytes()
    again = Echo()
    report = await run(queries, again)
    assert (report.asked, report.answered_before, again.asked) == (0, 4, [])
    assert results_path(queries).read_bytes() == before


async def test_failures_are_asked_again(queries: Path) -> None:
    """What failed is a line with its error, and is asked by the next run."""
    report = await run(queries, Echo("c"))
    assert (report.asked, report.failed) == (4, 1)
    assert results(queries)[2]["error"] == "ModelRequestError: No."
    again = Echo()
    report = await run(queries, again)
    assert again.asked == ["c"]
    assert (report.asked, report.answered_before, report.failed) == (1, 3, 0)
    assert [row["status"] for row in results(queries)] == ["ok"] * 4


async def test_changed_query_is_asked_again(queries: Path) -> None:
    """An answer belongs to the query as it was."""
    await run(queries, Echo())
    changed = queries.read_text("utf-8").replace('"c"', '"C"')  # noqa: ASYNC240
    queries.write_text(changed, "utf-8")  # noqa: ASYNC240
    again = Echo()
    await run(queries, again)
    assert again.asked == ["C"]
    assert [row["text"] for row in results(queries)][2] == "C"


async def test_broken_off(queries: Path) -> None:
    """Every answer is in the file as soon as it is there; a later run asks the rest."""

    class Slow(Echo):
        async def stream(self, request: Any) -> Any:
            if request.user == "c":
                await asyncio.sleep(60)
            async for event in super().stream(request):
                yield event

    task = asyncio.create_task(run(queries, Slow()))
    path = results_path(queries)
    while not (path.exists() and path.read_text("utf-8").count("\n") == 2):  # noqa: ASYNC110
        await asyncio.sleep(0.005)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    # As if it had been killed in the middle of a line.
    with path.open("a", encoding="utf-8") as file:
        file.write('{"line": 3, "sta')
    again = Echo()
    report = await run(queries, again)
    assert again.asked == ["c", "d"]
    assert (report.asked, report.answered_before) == (2, 2)
    assert [row["line"] for row in results(queries)] == [1, 2, 3, 5]
    assert sorted(entry.name for entry in path.parent.glob("*questions*")) == [
        "questions.jsonl", "questions.results.jsonl",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "has no queries"),
        ("{", "line 1 is no JSON"),
        ('{"agent": "qa", "request": "a"}\n["qa"]', "line 2 is list"),
        ('{"agent": "qa"}', "line 1 has no 'request'"),
        ('{"agent": "qa", "request": "a", "prio": 1}', "'prio', which is not known"),
    ],
)
async def test_bad_queries(queries: Path, text: str, says: str) -> None:
    """A file that is no batch is refused with its line, and nothing is asked or written."""
    queries.write_text(text)  # noqa: ASYNC240
    model = Echo()
    with pytest.raises(RequestError, match=says):
        await run(queries, model)
    assert model.asked == []
    assert not results_path(queries).exists()


async def test_no_such_file(tmp_path: Path) -> None:
    """The file that is not there is named."""
    with pytest.raises(RequestError, match=r"none\.jsonl cannot be read: No such file"):
        await run(tmp_path / "none.jsonl", Echo())


async def test_results_of_something_else(queries: Path) -> None:
    """A file that holds no results is not written over."""
    results_path(queries).write_text("my notes\nare here\n")
    with pytest.raises(RequestError, match=r"line 1 is not a result.*--output"):
        await run(queries, Echo())
    assert results_path(queries).read_text() == "my notes\nare here\n"


async def test_folder_that_is_not_there(queries: Path, tmp_path: Path) -> None:
    """Results that cannot be written are an error before anything is asked."""
    model = Echo()
    with pytest.raises(RequestError, match="cannot be written: No such file"):
        await run_batch_file(
            queries,
            tmp_path / "nowhere" / "results.jsonl",
            orchestrator=Orchestrator(read_settings(), model=model),
        )
    assert model.asked == []
