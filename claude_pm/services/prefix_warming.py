"""Getting agents' prompts into the model's own prompt cache before they are asked for."""

from __future__ import annotations

import time
from collections.abc import Sequence

from claude_pm.agents import Agent
from claude_pm.models import ChatRequest, Model, chat, connect
from claude_pm.services.context_manager import ContextManager
from claude_pm.services.shared_prompt_cache import WarmedPrompt
from claude_pm.settings import read_settings

_SHORTEST_REQUEST = "."


def system_blocks(agent: Agent, context: str) -> tuple[str, ...]:
    """Return what the model is told before every request: the agent's prompt, and the context.

    All requests are made of this, so that what was warmed, or saved, for one serves the others.
    """
    return (agent.prompt, context) if context else (agent.prompt,)


async def warm_prefixes(
    agents: Sequence[Agent], model: Model, context: ContextManager
) -> list[WarmedPrompt]:
    """Ask the model for one token after each agent's prompt; return what that took.

    Raises:
        ModelError: the model could not answer.
    """
    warmed = []
    for agent in agents:
        told, _ = await context.build(agent, count_tokens=model.count_tokens)
        start_s = time.perf_counter()
        request = ChatRequest(
            system=system_blocks(agent, told.text),
            user=_SHORTEST_REQUEST,
            max_tokens=1,
            temperature=agent.temperature,
            cache_key=agent.name,
        )
        usage = (await chat(model, request)).usage
        warmed.append(
            WarmedPrompt(
                agent.name,
                usage.cache_read_tokens,
                usage.cache_write_tokens,
                time.perf_counter() - start_s,
            )
        )
    return warmed


async def warm_configured_model(agents: Sequence[Agent]) -> list[WarmedPrompt]:
    """Warm the model that the settings name, unless they switch caches off.

    The embedded model is one for all orchestrators of this process, so what is warmed here is hot
    for those that are made later.
    """
    settings = read_settings()
    if not settings.cache_enabled:
        return []
    model = connect(settings)
    try:
        return await warm_prefixes(agents, model, ContextManager())
    finally:
        await model.aclose()
