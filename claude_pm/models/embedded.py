"""A real small model in this process: llama.cpp's own server on a loopback port.

One server for each weights file and size of cache, started once, shared by all orchestrators, and
stopped at exit (a thread that still generates then would abort the process).

Agents' prompts stay hot in it. Measured with prompts of 700 tokens on 2 cores, TTFT of agents that
take turns, cold 3.2 s: with one slot and the server's own prompt cache in memory 30 to 70 ms for
three agents and for six; with three slots and an agent pinned to each 30 ms for three, but cold
again for six, in more memory. So there is one slot, and the cache in memory. A new process gets the
states of prompts that others have saved (:mod:`claude_pm.models.saved_prefixes`).
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import secrets
import threading
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from claude_pm.errors import ModelConnectionError, ModelError, WeightsError
from claude_pm.models.client import MessagesClient
from claude_pm.models.messages import ChatRequest, Completion, ModelUse, TextDelta
from claude_pm.models.saved_prefixes import SavedPrefixes
from claude_pm.models.weights import check_weights, default_weights_path, ensure_weights
from claude_pm.recording import span

logger = logging.getLogger("claude_pm.models")

CONTEXT_TOKENS = 4096
"""Context of the embedded model: prompt and answer together."""

_GGUF_MAGIC = b"GGUF"
# A cancelled prefill ends at the end of its batch: 128 tokens are 0.3 s, the default is 3 s.
_BATCH_TOKENS = 128
# Prompts of agents that alternate are kept here; llama.cpp's own default is 8 GiB.
_PROMPT_CACHE_MIB = 256
_HTTP_THREADS = 8
# Stopping in the middle of an answer waits for the next ping; llama.cpp's own default is 30 s.
_PING_S = 1
_MAX_THREADS = 8
# An agent's prompt takes some 20 MiB of it: of so many one is surely still there.
_MIB_PER_HOT_PROMPT = 32
# Shorter prompts are prefilled in no time.
_SHORTEST_SAVED_BYTES = 400
_SHORTEST_REQUEST = "."
# The small model repeats itself without end otherwise.
_REPEAT_PENALTY = 1.1


class EmbeddedServer:
    """A running llama.cpp server. Made by :func:`shared_server`."""

    def __init__(
        self,
        weights: Path,
        *,
        cache: bool,
        prefixes: Path | None = None,
        prompt_cache_mib: int = _PROMPT_CACHE_MIB,
    ) -> None:
        _check_gguf(weights)
        # llama.cpp would start a debugger to print a backtrace of its own when it fails.
        os.environ.setdefault("GGML_NO_BACKTRACE", "1")
        import xllamacpp

        self.model = weights.stem.split(".")[0]
        self.api_key = secrets.token_urlsafe(32)
        parameters = xllamacpp.CommonParams()
        parameters.model.path = str(weights)
        parameters.model_alias = {self.model}
        parameters.n_ctx = CONTEXT_TOKENS
        parameters.n_parallel = 1
        parameters.n_batch = parameters.n_ubatch = _BATCH_TOKENS
        parameters.warmup = False
        # Nothing to fit into: it would load the model's description twice.
        parameters.fit_params = False
        parameters.cache_prompt = cache
        parameters.cache_ram_mib = prompt_cache_mib if cache else 0
        parameters.cpuparams.n_threads = _threads()
        parameters.cpuparams_batch.n_threads = _threads()
        # Threads that spin while they wait take the CPUs from other processes, and gain nothing.
        parameters.cpuparams.poll = parameters.cpuparams_batch.poll = 0
        parameters.n_threads_http = _HTTP_THREADS
        parameters.sse_ping_interval = _PING_S
        parameters.sampling.penalty_repeat = _REPEAT_PENALTY
        parameters.hostnames = ["127.0.0.1"]
        parameters.port = 0
        # Any user of this machine can reach a loopback port: ask for a key.
        parameters.api_keys = [self.api_key]
        parameters.endpoint_slots = True
        if prefixes is not None:
            # A folder's name has to end with the separator here.
            parameters.slot_save_path = f"{prefixes}{os.sep}"
        parameters.ui = False
        parameters.verbosity = -1
        try:
            self._server: Any = xllamacpp.Server(parameters)
        except RuntimeError as error:
            raise WeightsError(
                f"{weights} could not be loaded: llama.cpp does not take it as a model. "
                "Fetch it again, or name another .gguf file with CLAUDE_PM_MODEL."
            ) from error
        self.base_url = str(self._server.listening_address)
        self.prefixes: SavedPrefixes | None = None
        if cache and prefixes is not None:
            status = weights.stat()
            self.prefixes = SavedPrefixes(
                prefixes,
                (
                    weights.name, status.st_size, status.st_mtime_ns, CONTEXT_TOKENS,
                    _BATCH_TOKENS, xllamacpp.__version__,
                ),
            )  # fmt: skip
        self.hot_prompts: OrderedDict[tuple[str, ...], None] = OrderedDict()
        self._most_hot = max(1, prompt_cache_mib // _MIB_PER_HOT_PROMPT)
        self._slots: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = (
            WeakKeyDictionary()
        )

    def note_hot(self, system: tuple[str, ...]) -> None:
        """Remember that a prompt is in the server's cache now."""
        self.hot_prompts[system] = None
        self.hot_prompts.move_to_end(system)
        if len(self.hot_prompts) > self._most_hot:
            self.hot_prompts.popitem(last=False)

    def slot(self) -> asyncio.Semaphore:
        """Return what the running loop's requests wait on: the server answers one at a time."""
        return self._slots.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(1))

    def stop(self) -> None:
        """Stop generating and close the port."""
        # The destructor joins llama.cpp's threads.
        self._server = None


_servers: dict[tuple[Path, int], EmbeddedServer] = {}
_servers_lock = threading.Lock()
_of_parent: list[EmbeddedServer] = []


def shared_server(
    weights: Path,
    *,
    cache: bool,
    prefixes: Path | None = None,
    prompt_cache_mib: int = _PROMPT_CACHE_MIB,
) -> EmbeddedServer:
    """Return this process's server for these weights, starting it if there is none.

    ``prefixes`` is the folder of the saved states, for a server that is started now.

    Raises:
        WeightsError: the file is not there, is no GGUF file, or cannot be loaded.
    """
    key = (weights.resolve(), prompt_cache_mib if cache else 0)
    with _servers_lock:
        if key not in _servers:
            if not _servers:
                atexit.register(stop_servers)
            _servers[key] = EmbeddedServer(
                weights, cache=cache, prefixes=prefixes, prompt_cache_mib=prompt_cache_mib
            )
        return _servers[key]


def stop_servers() -> None:
    """Stop every embedded server of this process; a later request starts a new one."""
    with _servers_lock:
        while _servers:
            _servers.popitem()[1].stop()
    atexit.unregister(stop_servers)


class EmbeddedModel:
    """The default :class:`~claude_pm.models.messages.Model`.

    Args:
        weights: a .gguf file, or None for the default model, whose weights are fetched on first
            use.
        model_dir: where the default weights are kept; None is the user's cache folder.
        cache: let the model keep prompts' prefixes, so that a known one is not prefilled again.
        timeout_s: longest silence of the model, in seconds.
        save_prompts: save prompts' states in files, and start hot from those of other processes.
        prompt_cache_mib: memory for the prompts of agents that take turns, in MiB; a token takes
            some 23 KiB of it. Models of one process with the same size share one server.
    """

    use: ModelUse = "live"
    concurrency: int | None = 1

    def __init__(
        self,
        weights: Path | None = None,
        *,
        model_dir: Path | None = None,
        cache: bool = True,
        timeout_s: float = 60.0,
        save_prompts: bool = True,
        prompt_cache_mib: int = _PROMPT_CACHE_MIB,
    ) -> None:
        self._weights = weights
        self._model_dir = model_dir
        self._cache = cache
        self._timeout_s = timeout_s
        self._save_prompts = save_prompts
        self._prompt_cache_mib = prompt_cache_mib
        self._server: EmbeddedServer | None = None
        self._started_server = False
        self._client: MessagesClient | None = None

    async def prepare(self) -> None:
        """Start the server, or take the one that runs; fetches the weights if need be."""
        await self._connected()

    async def count_tokens(self, text: str) -> int | None:
        """Return how many tokens the model's own tokenizer makes of a text."""
        client = await self._connected()
        tokens = (await client.post("/tokenize", {"content": text})).get("tokens")
        return len(tokens) if isinstance(tokens, list) else None

    @asynccontextmanager
    async def turn(self, request: ChatRequest) -> AsyncIterator[None]:
        """Wait for the server's one slot, a ``queue`` span, and see that the prompt is hot.

        A prompt whose state was saved by another process is restored before the request, and one
        that was cold is saved after it, for the next process.
        """
        server = self._server
        if server is None:
            raise ModelConnectionError("The embedded model has not been started: call prepare().")
        slot = server.slot()
        if slot.locked():
            with span("queue", waits_for="the model"):
                await slot.acquire()
        else:
            await slot.acquire()
        try:
            missing = self._save_prompts and await self._restore(server, request.system)
            yield
            server.note_hot(request.system)
            if missing:
                await self._save(server, request)
        finally:
            slot.release()

    async def _restore(self, server: EmbeddedServer, system: tuple[str, ...]) -> bool:
        """Have the server take over the saved state of a prompt that is not hot in it.

        Returns whether a state for exactly this prompt should be saved, since there is none.
        """
        if server.prefixes is None or not system or system in server.hot_prompts:
            return False
        if sum(len(text.encode()) for text in system) < _SHORTEST_SAVED_BYTES:
            return False
        saved = await asyncio.to_thread(server.prefixes.find, system)
        if saved is None:
            return True
        with span("restore_prefix", exact=saved.exact) as current:
            try:
                client = await self._connected()
                if server.hot_prompts:
                    # A restored state takes the place of what is in the slot. For another request
                    # the server keeps that in memory first.
                    await client.post("/completion", {"prompt": _SHORTEST_REQUEST, "n_predict": 1})
                await client.post("/slots/0?action=restore", {"filename": saved.path.name})
            except ModelError as error:
                current.set(failed=str(error))
                logger.warning("The saved state %s is of no use: %s", saved.path.name, error)
                server.prefixes.discard(saved.path)
                return True
        server.prefixes.used(saved.path)
        return not saved.exact

    async def _save(self, server: EmbeddedServer, request: ChatRequest) -> None:
        """Save the state after a prompt: without the request, which is nobody else's business."""
        assert server.prefixes is not None  # noqa: S101 - for the type checker: it was asked
        only_prefix = replace(request, user=_SHORTEST_REQUEST, max_tokens=1)
        with span("save_prefix") as current:
            aside = None
            try:
                aside = server.prefixes.aside()
                async with aclosing(self.stream(only_prefix)) as events:
                    async for _ in events:
                        pass
                client = await self._connected()
                await client.post("/slots/0?action=save", {"filename": aside.name})
                await asyncio.to_thread(server.prefixes.keep, aside, request.system)
            except (ModelError, OSError) as error:
                # The answer is there: a full disk shall not take it away.
                current.set(failed=str(error))
                logger.warning("The state of a prompt could not be saved: %s", error)
            finally:
                if aside is not None:
                    server.prefixes.discard(aside)

    async def stream(self, request: ChatRequest) -> AsyncGenerator[TextDelta | Completion, None]:
        """Answer once; see :class:`claude_pm.models.messages.Model`."""
        client = await self._connected()
        async with aclosing(client.stream(request)) as events:
            async for event in events:
                yield event

    async def aclose(self) -> None:
        """Close the connections; the server stays for others, until the process ends."""
        if self._client is not None:
            await self._client.aclose()

    def stop_own_server(self) -> None:
        """Stop the server if this model started it; a later request starts a new one.

        While two servers live in one process, both decode more slowly, even if one only waits.
        """
        with _servers_lock:
            for key in [key for key, server in _servers.items() if server is self._server]:
                if self._started_server:
                    _servers.pop(key).stop()

    async def _connected(self) -> MessagesClient:
        running = self._server is not None and self._server in _servers.values()
        if self._client is not None and running:
            return self._client
        with span("start_model") as current:
            server = await asyncio.to_thread(self._start)
            current.set(model=server.model)
        self._server = server
        self._client = MessagesClient(
            server.base_url,
            model=server.model,
            api_key=server.api_key,
            timeout_s=self._timeout_s,
            cache=self._cache,
            # Seen: it may drop a kept connection after a streamed answer.
            keep_alive=False,
            use_proxy=False,
        )
        return self._client

    def _start(self) -> EmbeddedServer:
        weights = self._weights
        if weights is None:
            weights = ensure_weights(self._model_dir)
        running = list(_servers.values())
        try:
            server = shared_server(
                weights,
                cache=self._cache,
                prefixes=default_weights_path(self._model_dir).parent / "prefixes",
                prompt_cache_mib=self._prompt_cache_mib,
            )
        except WeightsError:
            if weights == default_weights_path(self._model_dir):
                # Names the difference, where it is that.
                check_weights(weights)
            raise
        self._started_server = server not in running
        return server


def _check_gguf(path: Path) -> None:
    try:
        with path.open("rb") as file:
            magic = file.read(len(_GGUF_MAGIC))
    except OSError as error:
        raise WeightsError(
            f"The weights {path} cannot be read: {error.strerror or error}. "
            "Check the path in CLAUDE_PM_MODEL."
        ) from error
    if magic != _GGUF_MAGIC:
        raise WeightsError(
            f"{path} is not a GGUF file: it does not begin with 'GGUF'. "
            "Check the path in CLAUDE_PM_MODEL."
        )


def _threads() -> int:
    # More threads than cores make decoding several times slower.
    if hasattr(os, "sched_getaffinity"):
        usable = len(os.sched_getaffinity(0))
    else:
        usable = os.cpu_count() or 1
    return min(usable, _MAX_THREADS)


def _forget_after_fork() -> None:
    # A forked child has the memory but not the threads: stopping there would wait for ever.
    _of_parent.extend(_servers.values())
    _servers.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_after_fork)
