"""Who generates text: the Messages API, over HTTP or to the model in this process."""

from claude_pm.models.chat import ChatResult, OnCall, OnText, chat
from claude_pm.models.client import MessagesClient
from claude_pm.models.connect import connect, fetch_weights
from claude_pm.models.embedded import EmbeddedModel
from claude_pm.models.messages import ChatRequest, Completion, Model, ModelUse, TextDelta, Usage

__all__ = [
    "ChatRequest",
    "ChatResult",
    "Completion",
    "EmbeddedModel",
    "MessagesClient",
    "Model",
    "ModelUse",
    "OnCall",
    "OnText",
    "TextDelta",
    "Usage",
    "chat",
    "connect",
    "fetch_weights",
]
