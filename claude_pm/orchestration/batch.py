"""Many requests, a few at a time: one failure does not lose the rest."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from claude_pm.errors import RequestError
from claude_pm.orchestration.orchestrator import Orchestrator, Response, shared_orchestrator
from claude_pm.orchestration.query import check_query, options_of
from claude_pm.recording import span

Outcome = Response | Exception
"""How one query of a batch ended."""

OnResult = Callable[[int, Outcome], None]


async def batch_orchestrate(
    queries: Iterable[Mapping[str, Any]],
    *,
    orchestrator: Orchestrator | None = None,
    concurrency: int | None = None,
    on_result: OnResult | None = None,
    progress: bool = False,
) -> list[Outcome]:
    """Let agents answer many requests; return how each ended, in the order of the queries.

    Args:
        queries: mappings with ``agent``, ``request`` and, if need be, ``mode``, ``timeout``,
            ``isolated``, ``max_tokens`` and ``attributes`` as for ``orchestrate_agent``.
        orchestrator: who serves them; None is the one that ``orchestrate_agent`` uses.
        concurrency: queries on their way at the same time; None is ``CLAUDE_PM_MAX_WORKERS``.
        on_result: called with each query's position and outcome as soon as it ended.
        progress: show a progress bar, on a terminal or in the notebook.

    Returns:
        A list as long as the queries: a Response, or the exception with which that query failed.

    Raises:
        RequestError: a query is not of that form; nothing was asked then.

    Example:
        >>> answers = await batch_orchestrate([
        ...     {"agent": "qa", "request": "What would you test first?"},
        ...     {"agent": "ops", "request": "What would you watch?"},
        ... ])
    """
    checked = [
        check_query(query, f"Query {number}") for number, query in enumerate(queries, start=1)
    ]
    serving = orchestrator if orchestrator is not None else shared_orchestrator()
    at_once = serving.settings.max_workers if concurrency is None else concurrency
    if at_once < 1:
        raise RequestError(f"concurrency is {at_once!r}; it has to be a whole number from 1.")
    outcomes: list[Any] = [None] * len(checked)
    waiting = iter(enumerate(checked))

    with (
        _progress_bar(len(checked), shown=progress) as advance,
        span("batch", requests=len(checked), concurrency=at_once),
    ):

        async def serve_queries() -> None:
            # Of all these tasks, whichever is free takes the next query.
            for position, query in waiting:
                outcome: Outcome
                try:
                    outcome = await serving.orchestrate_agent(
                        query["agent"], query["request"], **options_of(query)
                    )
                except Exception as error:  # noqa: BLE001 - whatever it is, it is this query's alone
                    outcome = error
                outcomes[position] = outcome
                if on_result is not None:
                    on_result(position, outcome)
                advance()

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(at_once, len(checked))):
                    group.create_task(serve_queries())
        except* Exception as errors:  # noqa: BLE001
            # Only on_result can have raised it: the caller knows that error, not the group.
            raise errors.exceptions[0] from None
    return outcomes


@contextmanager
def _progress_bar(total: int, *, shown: bool) -> Iterator[Callable[[], None]]:
    if not shown:
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=total)
        yield lambda: bar.advance(task)
