"""What is observed, of any Python code: spans, function calls, memory. Knows nothing of agents."""

from claude_pm.recording.experiment_runner import ExperimentSession, experiment
from claude_pm.recording.profile_session import ProfileSession, profile
from claude_pm.recording.span import Span, current_recorder, current_span, span, traced

__all__ = [
    "ExperimentSession",
    "ProfileSession",
    "Span",
    "current_recorder",
    "current_span",
    "experiment",
    "profile",
    "span",
    "traced",
]
