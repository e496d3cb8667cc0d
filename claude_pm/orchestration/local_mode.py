"""LOCAL: load the agent, build the context, ask the model, all in this process and loop."""

from __future__ import annotations

from claude_pm.agents import Agent
from claude_pm.models import ChatRequest, Model, chat
from claude_pm.orchestration.message_bus import Answer, Message
from claude_pm.orchestration.preparing import load_agent
from claude_pm.recording import span
from claude_pm.services.agent_registry import AgentRegistry
from claude_pm.services.context_manager import Context, ContextManager
from claude_pm.services.prefix_warming import system_blocks


class LocalMode:
    """Answers messages in this process."""

    def __init__(
        self, model: Model, registry: AgentRegistry, context: ContextManager, *, use_cache: bool
    ) -> None:
        self._model = model
        # Bound once: a count holds for the counter that made it.
        self._count_tokens = model.count_tokens
        self._registry = registry
        self._context = context
        self._use_cache = use_cache

    async def answer(self, message: Message) -> Answer:
        """Answer one message; a handler for the bus."""
        use_cache = self._use_cache
        agent, agent_cache = load_agent(self._registry, message.agent, use_cache=use_cache)
        context = await self._build_context(agent)
        request = ChatRequest(
            system=system_blocks(agent, context.text),
            user=message.request,
            max_tokens=message.max_tokens or agent.max_tokens,
            temperature=agent.temperature,
            cache_key=agent.name,
        )
        chat_result = await chat(
            self._model,
            request,
            on_text=message.on_text,
            on_call=message.on_call,
            deadline_ns=message.deadline_ns,
        )
        return Answer(chat_result, agent_cache)

    async def _build_context(self, agent: Agent) -> Context:
        # A method of its own: its span is not held as long as the model answers.
        with span("build_context") as current:
            context, cache = await self._context.build(
                agent, count_tokens=self._count_tokens, use_cache=self._use_cache
            )
            # Plain values, and few: this is what every request costs.
            current.set(
                cache=cache,
                tokens=context.tokens,
                counted_by=context.counted_by,
                files=", ".join(context.files),
                truncated=context.truncated,
            )
        return context
