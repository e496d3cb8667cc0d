"""Batches in files: queries in JSON lines, results beside them, and going on where it stopped."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from claude_pm.errors import RequestError
from claude_pm.orchestration.batch import Outcome, batch_orchestrate
from claude_pm.orchestration.orchestrator import Orchestrator, Response
from claude_pm.orchestration.query import check_query

_ID = "id"


@dataclass(frozen=True, slots=True)
class BatchReport:
    """What a run over a file did, in queries: asked now, found answered already, and failed."""

    asked: int
    answered_before: int
    failed: int
    results: Path


def results_path(queries: Path) -> Path:
    """Return where the results of a file of queries are kept unless said otherwise."""
    return queries.with_name(f"{queries.stem}.results.jsonl")


async def run_batch_file(
    queries: Path,
    results: Path,
    *,
    orchestrator: Orchestrator,
    concurrency: int | None = None,
    progress: bool = False,
) -> BatchReport:
    """Answer the queries of a file that have no answer in the results file yet.

    Every result is a line of the results file as soon as it is there, so whatever stops the run
    loses nothing: the next one asks what is missing, and what failed. When the run ends, the
    results stand in the order of the queries.

    Args:
        queries: JSON lines, each with ``agent`` and ``request``, the options of
            :func:`batch_orchestrate`, and an ``id`` of the user's own if wanted.
        results: JSON lines, each with the query's ``line`` and ``key`` (a hash of it: a query
            that was changed is asked again), its ``status`` and ``text`` or ``error``.
        orchestrator: who serves them.
        concurrency: queries on their way at the same time; None is ``CLAUDE_PM_MAX_WORKERS``.
        progress: show a progress bar.

    Raises:
        RequestError: a file cannot be read or written, or a line is no query; nothing was asked.
    """
    asked = _read_queries(queries)
    known = _read_results(results)
    done = {
        number: known[number]
        for number, query in asked.items()
        if number in known
        and known[number].get("status") == "ok"
        and known[number].get("key") == _key(query)
    }
    missing = [number for number in asked if number not in done]
    found = dict(done)
    # Without the lines that are asked again, and without what a broken-off run left of its last.
    _write(results, done)
    with results.open("a", encoding="utf-8") as file:

        def keep(position: int, outcome: Outcome) -> None:
            number = missing[position]
            found[number] = _result(number, asked[number], outcome)
            file.write(_line(found[number]))
            file.flush()

        await batch_orchestrate(
            [
                {name: value for name, value in asked[number].items() if name != _ID}
                for number in missing
            ],
            orchestrator=orchestrator,
            concurrency=concurrency,
            on_result=keep,
            progress=progress,
        )
    _write(results, found)
    failed = sum(result["status"] != "ok" for result in found.values())
    return BatchReport(len(missing), len(done), failed, results)


def _read_queries(path: Path) -> dict[int, Mapping[str, Any]]:
    """Return the queries by the number of their line."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"The queries {path} cannot be read: {_reason(error)}.") from error
    found: dict[int, Mapping[str, Any]] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            query = json.loads(line)
        except ValueError as error:
            raise RequestError(f"{path}, line {number} is no JSON: {error}.") from None
        found[number] = check_query(query, f"{path}, line {number}", more_keys=(_ID,))
    if not found:
        raise RequestError(
            f'{path} has no queries: write one a line, such as {{"agent": "qa", "request": "..."}}.'
        )
    return found


def _read_results(path: Path) -> dict[int, dict[str, Any]]:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise RequestError(f"The results {path} cannot be read: {_reason(error)}.") from error
    found: dict[int, dict[str, Any]] = {}
    for number, line in enumerate(lines, start=1):
        try:
            result = json.loads(line)
        except ValueError:
            result = None
        if isinstance(result, dict) and isinstance(result.get("line"), int):
            found[result["line"]] = result
        elif line.strip() and number < len(lines):
            # Only a last line without an end can be what a run that was broken off has left.
            raise RequestError(
                f"{path}, line {number} is not a result of a batch: name another file for the "
                "results with --output."
            )
    return found


def _write(path: Path, results: Mapping[int, Mapping[str, Any]]) -> None:
    """Write all results in order, aside, and take the place of what was there by a rename."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        aside.write_text(
            "".join(_line(results[number]) for number in sorted(results)), encoding="utf-8"
        )
        aside.replace(path)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise RequestError(f"The results {path} cannot be written: {_reason(error)}.") from error


def _result(number: int, query: Mapping[str, Any], outcome: Outcome) -> dict[str, Any]:
    result: dict[str, Any] = {"line": number, "key": _key(query)}
    if _ID in query:
        result[_ID] = query[_ID]
    if isinstance(outcome, Response):
        return result | {"status": "ok", **asdict(outcome)}
    return result | {
        "status": "error",
        "agent": query["agent"],
        "error": f"{type(outcome).__name__}: {outcome}",
    }


def _key(query: Mapping[str, Any]) -> str:
    text = json.dumps(query, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _line(result: Mapping[str, Any]) -> str:
    return json.dumps(result, default=str) + "\n"


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)
