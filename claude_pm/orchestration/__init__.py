"""How a request is served: modes, message bus, workers and metrics."""

from claude_pm.orchestration.batch import batch_orchestrate
from claude_pm.orchestration.message_bus import SimpleMessageBus
from claude_pm.orchestration.modes import OrchestrationMode
from claude_pm.orchestration.orchestrator import (
    Orchestrator,
    Response,
    create_backwards_compatible_orchestrator,
    orchestrate_agent,
)
from claude_pm.orchestration.workflow import WorkflowResult, run_workflow

__all__ = [
    "OrchestrationMode",
    "Orchestrator",
    "Response",
    "SimpleMessageBus",
    "WorkflowResult",
    "batch_orchestrate",
    "create_backwards_compatible_orchestrator",
    "orchestrate_agent",
    "run_workflow",
]
