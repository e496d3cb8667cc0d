"""Workflows: steps that need one another's answers; those that are ready run together."""

from __future__ import annotations

import asyncio
import graphlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from claude_pm.errors import RequestError
from claude_pm.orchestration.modes import OrchestrationMode, is_configured
from claude_pm.orchestration.orchestrator import Orchestrator, Response, shared_orchestrator
from claude_pm.orchestration.query import check_query, options_of
from claude_pm.recording import span

_PLACEHOLDER = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class WorkflowResult(Mapping[str, Response]):
    """How a workflow ended: the response of each step, by its name.

    ``result["step"]`` is that step's response, or raises the error with which it failed. Steps
    that were never asked, since one that they need failed, are in ``skipped``, with its name.
    """

    responses: Mapping[str, Response]
    errors: Mapping[str, Exception]
    skipped: Mapping[str, str]

    def __getitem__(self, step: str) -> Response:
        if step in self.errors:
            raise self.errors[step]
        if step in self.skipped:
            raise RequestError(
                f"The step {step!r} was skipped: {self.skipped[step]!r}, which it needs, failed."
            )
        return self.responses[step]

    def __iter__(self) -> Iterator[str]:
        return iter(self.responses)

    def __len__(self) -> int:
        return len(self.responses)


async def run_workflow(
    steps: Iterable[Mapping[str, Any]],
    *,
    orchestrator: Orchestrator | None = None,
    on_result: Callable[[str, Response | Exception], None] | None = None,
) -> WorkflowResult:
    """Run steps that need one another's answers; those whose needs are met run together.

    Args:
        steps: mappings with ``name``, ``agent``, ``request`` and ``needs`` (the names of the
            steps that have to be answered before), and the options of ``orchestrate_agent``.
            ``{name}`` in a request stands for the answer of that step, which has to be needed. A
            step without a ``mode`` is served as the environment says, and in HYBRID mode where it
            says nothing.
        orchestrator: who serves them; None is the one that ``orchestrate_agent`` uses.
        on_result: called with each step's name and response (or error) as soon as it ended.

    Raises:
        RequestError: a step is not of that form, two have one name, a need does not exist, or
            steps need each other in a circle; nothing was asked then.

    Example:
        >>> result = await run_workflow([
        ...     {"name": "risks", "agent": "security", "request": "What could go wrong?"},
        ...     {"name": "plan", "agent": "engineer", "request": "Mend this: {risks}",
        ...      "needs": ["risks"]},
        ... ])
        >>> result["plan"].text
    """
    checked = _check(steps)
    serving = orchestrator if orchestrator is not None else shared_orchestrator()
    mode = None if is_configured(serving.settings) else OrchestrationMode.HYBRID
    ended = {name: asyncio.Event() for name in checked}
    responses: dict[str, Response] = {}
    errors: dict[str, Exception] = {}
    skipped: dict[str, str] = {}

    async def serve(name: str, step: Mapping[str, Any]) -> None:
        for need in _needs(step):
            await ended[need].wait()
        missing = [need for need in _needs(step) if need not in responses]
        if missing:
            # Not the one in between that was skipped itself: the one that failed.
            skipped[name] = skipped.get(missing[0], missing[0])
        else:
            try:
                responses[name] = await _ask(serving, name, step, responses, mode)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is this step's alone
                errors[name] = error
            if on_result is not None:
                on_result(name, responses.get(name) or errors[name])
        ended[name].set()

    with span("workflow", steps=len(checked)):
        try:
            async with asyncio.TaskGroup() as group:
                for name, step in checked.items():
                    group.create_task(serve(name, step))
        except* Exception as raised:  # noqa: BLE001
            # Only on_result can have raised it: the caller knows that error, not the group.
            raise raised.exceptions[0] from None
    in_order = {name: responses[name] for name in checked if name in responses}
    return WorkflowResult(in_order, errors, skipped)


async def _ask(
    orchestrator: Orchestrator,
    name: str,
    step: Mapping[str, Any],
    responses: Mapping[str, Response],
    mode: OrchestrationMode | None,
) -> Response:
    def fill(value: Any) -> Any:
        if not isinstance(value, str):
            return value
        # In one pass: what an answer says is never taken for a placeholder.
        return _PLACEHOLDER.sub(
            lambda found: responses[found[1]].text if found[1] in _needs(step) else found[0], value
        )

    request = step["request"]
    if isinstance(request, Mapping):
        request = {key: fill(value) for key, value in request.items()}
    options = {"mode": mode, **options_of(step)}
    # The graph is recorded with the spans: what waited for what can be read there.
    options["attributes"] = {
        **options.get("attributes", {}), "step": name, "needs": list(_needs(step)),
    }  # fmt: skip
    return await orchestrator.orchestrate_agent(step["agent"], fill(request), **options)


def _check(steps: Iterable[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    checked: dict[str, Mapping[str, Any]] = {}
    for number, step in enumerate(steps, start=1):
        check_query(step, f"Step {number}", more_keys=("name", "needs"))
        name = step.get("name")
        if not isinstance(name, str) or not name.isidentifier():
            raise RequestError(
                f"Step {number} has the name {name!r}; it has to be letters, digits and _."
            )
        if name in checked:
            raise RequestError(f"Two steps have the name {name!r}.")
        checked[name] = step
    for name, step in checked.items():
        _check_needs(name, step, checked)
    try:
        graphlib.TopologicalSorter({name: _needs(step) for name, step in checked.items()}).prepare()
    except graphlib.CycleError as error:
        circle = " needs ".join(reversed(error.args[1]))
        raise RequestError(f"The steps need each other in a circle: {circle}.") from None
    return checked


def _check_needs(
    name: str, step: Mapping[str, Any], steps: Mapping[str, Mapping[str, Any]]
) -> None:
    needs = step.get("needs", ())
    if isinstance(needs, str) or not all(isinstance(need, str) for need in needs):
        raise RequestError(f"The step {name!r} needs {needs!r}; it has to be a list of names.")
    for need in needs:
        if need not in steps:
            raise RequestError(f"The step {name!r} needs {need!r}, and there is no such step.")
    request = step["request"]
    texts = request.values() if isinstance(request, Mapping) else [request]
    mentioned = {
        found for text in texts if isinstance(text, str) for found in _PLACEHOLDER.findall(text)
    }
    for mention in sorted(mentioned & (steps.keys() - set(needs))):
        raise RequestError(
            f"The step {name!r} uses {{{mention}}} in its request: add {mention!r} to its needs."
        )


def _needs(step: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(step.get("needs", ()))
