"""LOCAL: load the agent, build the context, ask the model, all in this process and loop."""

from __future__ import annotations

from claude_pm.models import ChatRequest, Model, chat
from claude_pm.orchestration.message_bus import Answer, Message
from claude_pm.recording import span
from claude_pm.services.agent_registry import AgentRegistry
from claude_pm.services.context_manager import ContextManager


class LocalMode:
    """Answers messages in this process. A SUBPROCESS worker does the same in its own."""

    def __init__(
        self, model: Model, registry: AgentRegistry, context: ContextManager, *, use_cache: bool
    ) -> None:
        self._model = model
        self._registry = registry
        self._context = context
        self._use_cache = use_cache

    async def answer(self, message: Message) -> Answer:
        """Answer one message; a handler for the bus."""
        with span("load_agent") as current:
            agent, agent_cache = self._registry.load(message.agent, use_cache=self._use_cache)
            current.set(cache=agent_cache)
        with span("build_context") as current:
            context, context_cache = await self._context.build(use_cache=self._use_cache)
            current.set(
                cache=context_cache,
                estimated_tokens=context.estimated_tokens,
                files=list(context.files),
                truncated=context.truncated,
            )
        request = ChatRequest(
            system=tuple(text for text in (agent.prompt, context.text) if text),
            user=message.request,
            max_tokens=message.max_tokens or agent.max_tokens,
            temperature=agent.temperature,
        )
        return Answer(
            await chat(self._model, request, on_text=message.on_text, on_call=message.on_call),
            agent_cache,
        )
