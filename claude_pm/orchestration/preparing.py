"""What is done for a request in this process, whoever asks the model then."""

from __future__ import annotations

from claude_pm.agents import Agent
from claude_pm.recording import span
from claude_pm.services.agent_registry import AgentRegistry, CacheResult
from claude_pm.services.context_manager import Collected, ContextManager


def load_agent(registry: AgentRegistry, name: str, *, use_cache: bool) -> tuple[Agent, CacheResult]:
    """Return the agent, and whether it was held already, in a ``load_agent`` span.

    Raises:
        AgentError: there is none of that name, or its file is broken.
    """
    with span("load_agent") as current:
        agent, cache = registry.load(name, use_cache=use_cache)
        current.set(cache=cache)
    return agent, cache


async def collect_context(context: ContextManager, agent: Agent, *, use_cache: bool) -> Collected:
    """Return what there is to tell the agent, in a ``build_context`` span."""
    with span("build_context") as current:
        collected, cache = await context.collect(agent, use_cache=use_cache)
        current.set(cache=cache, files=", ".join(collected.files), truncated=collected.truncated)
    return collected
