"""One call that measures what the model's prompt cache is worth to some agents."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from claude_pm.errors import ModelError, RequestError
from claude_pm.models import (
    ChatRequest,
    Completion,
    EmbeddedModel,
    Model,
    ModelUse,
    TextDelta,
    connect,
)
from claude_pm.orchestration.modes import OrchestrationMode
from claude_pm.orchestration.orchestrator import Orchestrator, Response
from claude_pm.profiles.experiment import CACHE_TRIAL, Experiment
from claude_pm.recording import experiment
from claude_pm.services.agent_registry import AgentRegistry
from claude_pm.services.context_manager import ContextManager
from claude_pm.services.prefix_warming import warm_prefixes
from claude_pm.settings import Settings, read_settings

STATES = ("cold", "warm", "off")
"""What the model's cache holds of the agent's prompt: nothing, all of it; or no cache is asked."""

_REQUEST = "What would you look at first?"
_LINE_BYTES = 4


def cache_trial(
    agents: str | Sequence[str],
    request: str = _REQUEST,
    *,
    repeat: int = 5,
    max_tokens: int = 16,
    folder: Path | None = None,
    settings: Settings | None = None,
    seed: int | None = None,
) -> Experiment:
    """Ask each agent with the caches cold, warm and off, in turns; return the Experiment.

    ``claude_pm.analysis`` reads it: ``cache_effects``, ``cache_savings`` and ``hit_rate``. Its
    conditions are called ``qa, cold``, ``qa, warm``, ``qa, off``, and each is sampled once in each
    of ``repeat`` rounds, in LOCAL mode. All answers are the model's own, and what the server says
    it read from its cache stands in each request's spans:

    - cold: the caches are on, but the model has never seen the prompt: before it stands a line of
      some ten tokens that is new each time, so nothing matches but the few tokens with which every
      prompt begins. The embedded model does not save such a prompt's state in a file. (For Claude a
      new prompt may mean that its tokens are counted first: one short request more.)
    - warm: just before the sample the agent was asked for one token, so its prompt is in the
      model's cache; the request is not. That is recorded as a ``before_sample`` span, and no part
      of the sample.
    - off: as ``CLAUDE_PM_CACHE_ENABLED=false``. For Claude nothing is marked for the cache, and a
      server that caches without being asked may still do so. The embedded model's server cannot
      switch its cache off for one request, so these go to a second server in this process, which
      takes some 0.1 GB and is stopped at the end. While both live, decoding is slower in all three
      states alike (measured on 2 cores: 18 ms a token, against 12 ms alone), and prefill as fast as
      alone: read TTFT as it stands, and of durations the differences.

    Args:
        agents: who is asked: a name or several.
        request: what each is asked.
        repeat: samples of each agent and state.
        max_tokens: output limit of each answer.
        folder: take the agents of this folder; by default those of the project, of the user and of
            claude_pm.
        settings: which model answers; None reads the environment.
        seed: draws the same order again.

    Raises:
        RequestError: no agent is named, or one twice.
        UnknownAgentError: there is no such agent.
        SettingsError: the settings name no model that can be had.
        RecordingError: ``repeat`` is out of range, or another profiler is active.
        ModelError: the model could not be made ready.
    """
    trial = _Trial(settings if settings is not None else read_settings(), folder)
    names = [trial.registry.resolve(agent) for agent in _listed(agents)]
    if len(set(names)) < len(names):
        raise RequestError(f"The agents {', '.join(map(repr, names))} name one twice.")
    try:
        return experiment(
            {
                f"{name}, {state}": partial(trial.ask, name, state, request, max_tokens)
                for name in names
                for state in STATES
            },
            repeat=repeat,
            warmup=0,
            name="cache trial",
            seed=seed,
            before=trial.make_ready,
        )
    finally:
        trial.stop()


class _Trial:
    """An orchestrator for each state; their agents are the same."""

    def __init__(self, settings: Settings, folder: Path | None) -> None:
        on = settings.model_copy(update={"cache_enabled": True})
        off = settings.model_copy(update={"cache_enabled": False})
        self._models: dict[str, Model] = {
            "cold": _NeverSeen(connect(on, save_prompts=False)),
            "warm": connect(on),
            "off": connect(off),
        }
        self._orchestrators = {
            state: Orchestrator(
                off if state == "off" else on, model=model, registry=AgentRegistry(folder)
            )
            for state, model in self._models.items()
        }
        self.registry = self._orchestrators["warm"].registry
        self._context = ContextManager()
        self._ready: set[str] = set()

    async def ask(self, agent: str, state: str, request: str, max_tokens: int) -> Response:
        """Ask once; a condition of the experiment."""
        return await self._orchestrators[state].orchestrate_agent(
            agent,
            request,
            mode=OrchestrationMode.LOCAL,
            max_tokens=max_tokens,
            attributes={CACHE_TRIAL: state},
        )

    async def make_ready(self, condition: str) -> None:
        """Start the models before the first sample, and warm the agent before a warm one."""
        agent, _, state = condition.rpartition(", ")
        if not self._ready:
            for model in self._models.values():
                await model.prepare()
        if state == "warm" or not self._ready:
            # What fails later is seen in the sample: it says what it read from the cache.
            errors: tuple[type[Exception], ...] = (ModelError,) if self._ready else ()
            with contextlib.suppress(*errors):
                await warm_prefixes(
                    [self.registry.get_agent(agent)], self._models["warm"], self._context
                )
        self._ready.add(condition)

    def stop(self) -> None:
        """Stop the server without a cache: the process would decode more slowly beside it."""
        model = self._models["off"]
        if isinstance(model, EmbeddedModel):
            model.stop_own_server()


class _NeverSeen:
    """A model to which every prompt is new, since a line that never came before precedes it."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self.use: ModelUse = model.use
        self.concurrency = model.concurrency

    async def prepare(self) -> None:
        """Get ready to answer."""
        await self._model.prepare()

    async def count_tokens(self, text: str) -> int | None:
        """Return how many tokens the model makes of a text."""
        return await self._model.count_tokens(text)

    def turn(self, request: ChatRequest) -> AbstractAsyncContextManager[None]:
        """Wait for the model as a prompt that is new does."""
        return self._model.turn(_new(request))

    def stream(self, request: ChatRequest) -> AsyncGenerator[TextDelta | Completion, None]:
        """Answer; a second attempt has another line: the first may have left its prompt there."""
        return self._model.stream(_new(request))

    async def aclose(self) -> None:
        """Give up connections."""
        await self._model.aclose()


def _new(request: ChatRequest) -> ChatRequest:
    first, *others = request.system or ("",)
    return replace(request, system=(f"{secrets.token_hex(_LINE_BYTES)}\n\n{first}", *others))


def _listed(agents: Any) -> list[str]:
    names = [agents] if isinstance(agents, str) else list(agents)
    if not names:
        raise RequestError("A cache trial needs at least one agent.")
    return names
