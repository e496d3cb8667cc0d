"""The agents' prompts that are held in memory, and how they are warmed before they are asked for.

The one owner of the prompts: every registry keeps what it has read here. ::

    cache = SharedPromptCache()
    registry = AgentRegistry(prompt_cache=cache)
    cache.preload_agent_prompts(["documentation", "qa", "engineer"])
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import hashlib
import inspect
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from claude_pm.agents import Agent, agent_key
from claude_pm.errors import RequestError, SettingsError

_SECONDS_PER_HOUR = 3600.0
_HEED_INTERRUPTS_S = 0.5


@dataclass(frozen=True, slots=True)
class WarmedPrompt:
    """What it took to warm the model for one agent."""

    agent: str
    cache_read_tokens: int | None
    cache_write_tokens: int | None
    duration_s: float


@dataclass(frozen=True, slots=True)
class PreloadReport:
    """What a preload did; ``warmed`` is empty where no model was to be warmed.

    ``hits`` of the ``agents`` were held already, ``misses`` were read from their files;
    ``prompt_bytes`` is the size of all their prompts.
    """

    agents: tuple[str, ...]
    hits: int
    misses: int
    prompt_bytes: int
    duration_s: float
    warmed: tuple[WarmedPrompt, ...] = ()


@dataclass(frozen=True, slots=True)
class CacheStats:
    """The cache at one moment; the counts are since it was made. ``hit_rate`` is in percent."""

    entries: int
    bytes: int
    hits: int
    misses: int
    evictions: int
    expirations: int
    hit_rate: float


class AgentLoader(Protocol):
    """What the cache loads agents through: an ``AgentRegistry``."""

    def resolve(self, name: str) -> str:
        """Return the agent's own name."""
        ...

    def load(self, name: str) -> tuple[Agent, Literal["hit", "miss"]]:
        """Return the agent, and whether it was held already."""
        ...


WarmModel = Callable[[Sequence[Agent]], Awaitable[Sequence[WarmedPrompt]]]
"""Prefills the model with the prompts of some agents."""


@dataclass(slots=True)
class _Entry:
    prompt: str
    sha256: str
    size: int
    used_at: float
    agent: Agent | None = None
    version: tuple[Any, ...] | None = None


class SharedPromptCache:
    """Agents' prompts by name: the least recently used leave when it is full, or when they age.

    Safe to use from threads and tasks. Spellings of one name (``data-engineer``,
    ``Data Engineer``) are one entry.

    Args:
        max_entries: most prompts held.
        max_bytes: most bytes of prompts (as UTF-8) held; a prompt larger than that is not held.
        max_age_hours: a prompt that was not used (got, set or loaded) for that long is dropped.
        clock: seconds; what ages are measured with.
    """

    def __init__(
        self,
        max_entries: int = 1024,
        max_bytes: int = 64 * 1024 * 1024,
        max_age_hours: float = 24.0,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        for name, value in (("max_entries", max_entries), ("max_bytes", max_bytes)):
            if value < 1:
                raise SettingsError(f"{name} is {value}; it may be a whole number from 1.")
        self.max_entries = max_entries
        self.max_bytes = max_bytes
        self.max_age_hours = _checked_hours(max_age_hours)
        self._max_age_s = max_age_hours * _SECONDS_PER_HOUR
        self._clock = clock
        self._lock = threading.Lock()
        self._entries: OrderedDict[str, _Entry] = OrderedDict()  # least recently used first
        self._bytes = 0
        self._hits = self._misses = self._evictions = self._expirations = 0
        self._loader: AgentLoader | None = None
        self._warm: Callable[[], WarmModel | None] = _configured_model

    def get(self, agent_name: str) -> str | None:
        """Return the prompt held for an agent, or None. It does not look at the agent's file."""
        key = agent_key(agent_name)
        with self._lock:
            entry = self._use(key)
            return None if entry is None else entry.prompt

    def set(self, agent_name: str, prompt: str) -> None:
        """Hold a text for an agent.

        It is there for :meth:`get`; a registry answers with what the agent's file says, and
        puts that in its place.
        """
        self._put(agent_key(agent_name), prompt)

    def held_agent(self, key: str, version: tuple[Any, ...]) -> Agent | None:
        """Return the agent held under a key of ``agent_key``, if it is of that file's version.

        For registries. An entry of another version is left to :meth:`hold_agent` to replace.
        """
        with self._lock:
            entry = self._use(key, version)
            return None if entry is None else entry.agent

    def hold_agent(self, key: str, agent: Agent, version: tuple[Any, ...]) -> None:
        """Hold an agent that was read from that version of its file. For registries."""
        self._put(key, agent.prompt, agent, version)

    def drop(self, key: str) -> None:
        """Drop what is held under a key of ``agent_key``: its file is gone, or broken."""
        with self._lock:
            self._remove(key)

    def content_hash(self, agent_name: str) -> str | None:
        """Return the SHA-256 (hex) of the prompt held for an agent, or None."""
        with self._lock:
            entry = self._entries.get(agent_key(agent_name))
            return None if entry is None else entry.sha256

    def cleanup_old_entries(self, max_age_hours: float = 24) -> int:
        """Drop the prompts that were not used for that long, and return how many there were."""
        seconds = _checked_hours(max_age_hours) * _SECONDS_PER_HOUR
        with self._lock:
            return self._expire(seconds)

    def clear(self) -> None:
        """Drop all prompts; the counts stay."""
        with self._lock:
            self._entries.clear()
            self._bytes = 0

    @property
    def stats(self) -> CacheStats:
        """What is held now, and what was asked for so far."""
        with self._lock:
            asked = self._hits + self._misses
            return CacheStats(
                entries=len(self._entries),
                bytes=self._bytes,
                hits=self._hits,
                misses=self._misses,
                evictions=self._evictions,
                expirations=self._expirations,
                hit_rate=100.0 * self._hits / asked if asked else 0.0,
            )

    def load_with(self, loader: AgentLoader) -> None:
        """Preload through this registry from now on; a registry does this for its cache."""
        self._loader = loader

    def warm_with(self, warm: WarmModel | None) -> None:
        """Warm the model with ``warm`` when prompts are preloaded; the newest wins.

        None warms no model. A bound method is held weakly, so that the cache does not keep its
        object alive; when that is gone, the model that the settings name is warmed again.
        """
        if warm is None:
            self._warm = lambda: None
        elif inspect.ismethod(warm):
            method = weakref.WeakMethod(warm)
            self._warm = lambda: method() or _configured_model()
        else:
            self._warm = lambda: warm

    def preload_agent_prompts(self, agent_names: Iterable[str]) -> PreloadReport:
        """Load the agents' prompts, and have the model prefill them.

        The model is that of the orchestrator whose registry uses this cache, or else the one that
        the settings name; with CLAUDE_PM_CACHE_ENABLED=false it is none. This returns when all is
        done, also inside Jupyter: the model is warmed in a thread with an event loop of its own.
        In a coroutine, await :meth:`apreload_agent_prompts`.

        Raises:
            UnknownAgentError: one of the names is unknown; nothing was loaded.
            AgentFileError: an agent's file is broken; the model was not warmed.
            ModelError: the model could not be warmed; the prompts are loaded.
        """
        started = time.perf_counter()
        loaded = self._load(agent_names)
        warm = self._warm()
        warmed = () if warm is None else _run_in_thread(warm, [agent for agent, _ in loaded])
        return _report(loaded, warmed, started)

    async def apreload_agent_prompts(self, agent_names: Iterable[str]) -> PreloadReport:
        """Do as :meth:`preload_agent_prompts`, with the model warmed in the running loop."""
        started = time.perf_counter()
        loaded = await asyncio.to_thread(self._load, agent_names)
        warm = self._warm()
        warmed = () if warm is None else await warm([agent for agent, _ in loaded])
        return _report(loaded, warmed, started)

    def _load(self, agent_names: Iterable[str]) -> list[tuple[Agent, Literal["hit", "miss"]]]:
        if isinstance(agent_names, str):
            raise RequestError(f"Preload takes a list of agents' names: [{agent_names!r}].")
        loader = self._loader
        if loader is None:
            from claude_pm.services.agent_registry import AgentRegistry

            loader = AgentRegistry(prompt_cache=self)  # which makes itself the loader
        # All names first: after an unknown one nothing shall have been loaded.
        names = list(dict.fromkeys(loader.resolve(name) for name in agent_names))
        return [loader.load(name) for name in names]

    def _use(self, key: str, version: tuple[Any, ...] | None = None) -> _Entry | None:
        entry = self._entries.get(key)
        now = self._clock()
        if entry is not None and now - entry.used_at >= self._max_age_s:
            self._remove(key)
            self._expirations += 1
            entry = None
        if entry is None or (version is not None and entry.version != version):
            self._misses += 1
            return None
        self._hits += 1
        entry.used_at = now
        self._entries.move_to_end(key)
        return entry

    def _put(
        self,
        key: str,
        prompt: str,
        agent: Agent | None = None,
        version: tuple[Any, ...] | None = None,
    ) -> None:
        text = prompt.encode(errors="surrogatepass")
        sha256 = hashlib.sha256(text).hexdigest()
        with self._lock:
            self._remove(key)
            self._expire(self._max_age_s)
            if len(text) > self.max_bytes:
                return
            self._entries[key] = _Entry(prompt, sha256, len(text), self._clock(), agent, version)
            self._bytes += len(text)
            while len(self._entries) > self.max_entries or self._bytes > self.max_bytes:
                self._remove(next(iter(self._entries)))
                self._evictions += 1

    def _expire(self, seconds: float) -> int:
        oldest = self._clock() - seconds
        old = 0
        while self._entries:
            key, entry = next(iter(self._entries.items()))
            if entry.used_at > oldest:
                break
            self._remove(key)
            old += 1
        self._expirations += old
        return old

    def _remove(self, key: str) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._bytes -= entry.size


def _configured_model() -> WarmModel:
    # When first needed: it brings the models with it.
    from claude_pm.services.prefix_warming import warm_configured_model

    return warm_configured_model


def _checked_hours(hours: float) -> float:
    if hours >= 0:
        return hours
    raise SettingsError(f"max_age_hours is {hours}; it may be a number from 0.")


def _run_in_thread(warm: WarmModel, agents: Sequence[Agent]) -> Sequence[WarmedPrompt]:
    """Run the hook to its end in a loop of its own: in this thread one may be running."""
    interrupted = threading.Event()
    running: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[Sequence[WarmedPrompt]]]] = []

    async def run() -> Sequence[WarmedPrompt]:
        warming = asyncio.ensure_future(warm(agents))
        running.append((asyncio.get_running_loop(), warming))
        if interrupted.is_set():  # before there was anything to cancel
            warming.cancel()
        return await warming

    # The copied context lets the spans of the hook find their parent.
    context = contextvars.copy_context()
    with ThreadPoolExecutor(1, "claude-pm-warm") as pool:
        # An interrupt while the pool starts its thread would make it forget to wait for it.
        pool.submit(bool).result()
        try:
            ended = pool.submit(context.run, lambda: asyncio.run(run()))
            # In turns: an interrupt as a wait is about to begin is only heeded when that is over.
            while not ended.done():
                with contextlib.suppress(TimeoutError):
                    ended.exception(timeout=_HEED_INTERRUPTS_S)
            return ended.result()
        except KeyboardInterrupt:
            interrupted.set()
            for loop, warming in running:
                with contextlib.suppress(RuntimeError):  # it ended in this very moment
                    loop.call_soon_threadsafe(warming.cancel)
            raise


def _report(
    loaded: Sequence[tuple[Agent, Literal["hit", "miss"]]],
    warmed: Sequence[WarmedPrompt],
    started: float,
) -> PreloadReport:
    hits = sum(result == "hit" for _, result in loaded)
    return PreloadReport(
        agents=tuple(agent.name for agent, _ in loaded),
        hits=hits,
        misses=len(loaded) - hits,
        prompt_bytes=sum(len(agent.prompt.encode()) for agent, _ in loaded),
        duration_s=time.perf_counter() - started,
        warmed=tuple(warmed),
    )
