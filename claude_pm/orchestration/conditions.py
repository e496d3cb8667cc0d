"""Requests as the conditions of an experiment: modes, agents, models, caches, any setting."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

from claude_pm.errors import RequestError
from claude_pm.orchestration.modes import parse_mode
from claude_pm.orchestration.orchestrator import Orchestrator, Request, Response
from claude_pm.settings import read_settings

# Of one request; everything else is a setting of its orchestrator.
_OF_REQUEST = ("mode", "timeout", "isolated", "max_tokens")
_BARE = ("agent", "mode", "model")


def request_conditions(
    agent: str | Sequence[str], request: Request, **choices: Any
) -> dict[str, Callable[[], Awaitable[Response]]]:
    """Return conditions for ``claude_pm.experiment``: one request, served in different ways.

    ::

        claude_pm.experiment(
            request_conditions(
                "qa", "What would you test?", mode=["local", "subprocess"], max_tokens=32
            ),
            repeat=10,
        )

    Args:
        agent: who is asked, or several.
        request: what each is asked.
        choices: ``mode``, ``timeout``, ``isolated`` and ``max_tokens`` of the request, and any
            setting, such as ``model`` or ``cache_enabled``: one value, or a list of them. Every
            combination of the lists is a condition, named by what differs.

    Raises:
        RequestError: a list is empty, or has a value twice.
        ModeError, UnknownAgentError: there is no such mode or agent.
        SettingsError: there is no such setting, or it cannot have that value.
    """
    axes = {name: _values(name, value) for name, value in {"agent": agent, **choices}.items()}
    if "mode" in axes:
        axes["mode"] = [str(parse_mode(mode)) for mode in axes["mode"]]
    varied = [name for name, values in axes.items() if len(values) > 1]
    orchestrators: dict[str, Orchestrator] = {}
    conditions: dict[str, Callable[[], Awaitable[Response]]] = {}
    for combination in itertools.product(*axes.values()):
        chosen = dict(zip(axes, combination, strict=True))
        asked = str(chosen.pop("agent"))
        options = {name: chosen.pop(name) for name in _OF_REQUEST if name in chosen}
        settings = read_settings(**chosen)
        key = repr(settings.model_dump())
        orchestrator = orchestrators.get(key)
        if orchestrator is None:
            orchestrator = orchestrators[key] = Orchestrator(settings)
        orchestrator.registry.resolve(asked)
        named = {"agent": asked, **options, **chosen}
        name = ", ".join(_name(axis, named[axis]) for axis in varied) or asked
        conditions[name] = partial(orchestrator.orchestrate_agent, asked, request, **options)
    return conditions


def _values(name: str, value: Any) -> list[Any]:
    values = [value] if isinstance(value, str) or not isinstance(value, Sequence) else list(value)
    if not values:
        raise RequestError(f"{name} is an empty list: give at least one value.")
    if len({str(one) for one in values}) < len(values):
        raise RequestError(f"{name} names a value twice.")
    return values


def _name(axis: str, value: Any) -> str:
    return str(value) if axis in _BARE else f"{axis}={value}"
