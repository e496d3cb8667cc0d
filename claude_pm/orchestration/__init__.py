"""How a request is served: modes, message bus, workers and metrics.

Everything here is loaded when first used: a worker process is a module of this package, and
starts sooner without the rest.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from claude_pm.orchestration.batch import batch_orchestrate
    from claude_pm.orchestration.cache_trial import cache_trial
    from claude_pm.orchestration.conditions import request_conditions
    from claude_pm.orchestration.message_bus import SimpleMessageBus
    from claude_pm.orchestration.modes import OrchestrationMode
    from claude_pm.orchestration.orchestrator import (
        Orchestrator,
        Response,
        create_backwards_compatible_orchestrator,
        orchestrate_agent,
    )
    from claude_pm.orchestration.workflow import WorkflowResult, run_workflow

_HOME = {
    "OrchestrationMode": "modes",
    "Orchestrator": "orchestrator",
    "Response": "orchestrator",
    "SimpleMessageBus": "message_bus",
    "WorkflowResult": "workflow",
    "batch_orchestrate": "batch",
    "cache_trial": "cache_trial",
    "create_backwards_compatible_orchestrator": "orchestrator",
    "orchestrate_agent": "orchestrator",
    "request_conditions": "conditions",
    "run_workflow": "workflow",
}

__all__ = [
    "OrchestrationMode",
    "Orchestrator",
    "Response",
    "SimpleMessageBus",
    "WorkflowResult",
    "batch_orchestrate",
    "cache_trial",
    "create_backwards_compatible_orchestrator",
    "orchestrate_agent",
    "request_conditions",
    "run_workflow",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'claude_pm.orchestration' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
