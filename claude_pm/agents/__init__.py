"""Who answers: an agent is a Markdown file, its front matter and its system prompt."""

from claude_pm.agents.agent import (
    BUILTIN_FOLDER,
    Agent,
    Scope,
    agent_key,
    read_agent,
    read_name,
)

__all__ = ["BUILTIN_FOLDER", "Agent", "Scope", "agent_key", "read_agent", "read_name"]
