"""What is observed, of any Python code: spans, function calls, memory. Knows nothing of agents."""

from claude_pm.recording.profile_session import ProfileSession, profile
from claude_pm.recording.span import Span, current_recorder, current_span, span, traced

__all__ = [
    "ProfileSession",
    "Span",
    "current_recorder",
    "current_span",
    "profile",
    "span",
    "traced",
]
