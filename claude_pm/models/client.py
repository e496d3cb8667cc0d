"""The Messages API over HTTP: one attempt, streamed, with usage and typed errors.

The embedded model, Claude and any Messages-compatible server are this one code path with another
``base_url``.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, nullcontext
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, cast

from claude_pm.errors import (
    ContextTooLongError,
    ModelAuthenticationError,
    ModelConnectionError,
    ModelError,
    ModelOverloadedError,
    ModelRequestError,
    ModelResponseError,
    UnknownModelError,
)
from claude_pm.models.connections import Address, Pool, borrow_pool, return_pool
from claude_pm.models.event_stream import EventStream, EventTooLongError
from claude_pm.models.messages import ChatRequest, Completion, ModelUse, TextDelta, Usage
from claude_pm.models.pricing import load_prices
from claude_pm.models.prompt_caching import Breakpoints, place_breakpoints
from claude_pm.recording import current_recorder, current_span, span

if TYPE_CHECKING:
    import httpx2

logger = logging.getLogger("claude_pm.models")

MAX_CONNECTIONS = 10
TIMEOUT_S = 30.0
_PROMPTS_REMEMBERED = 256
_COUNT_TIMEOUT_S = 5.0
_NO_ENDPOINT = (
    HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.NOT_IMPLEMENTED,
)  # fmt: skip
_COUNTS = (
    "input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens", "output_tokens",
)  # fmt: skip


class MessagesClient:
    """A server that speaks the Messages API.

    Args:
        base_url: its address, with or without a final ``/v1``.
        model: the model to ask for; None takes the only one that the server lists.
        api_key: sent as ``x-api-key``.
        timeout_s: longest silence of the server, in seconds.
        cache: mark the system blocks for the server's prompt cache, where they are long enough.
        keep_alive: reuse connections. Off for a server that drops them after a streamed answer.
        max_connections: size of the connection pool.
        use_proxy: go through the proxy that the environment names, if it names one.
    """

    use: ModelUse = "live"

    def __init__(
        self,
        base_url: str,
        *,
        model: str | None,
        api_key: str | None = None,
        timeout_s: float = TIMEOUT_S,
        cache: bool = True,
        keep_alive: bool = True,
        max_connections: int = MAX_CONNECTIONS,
        use_proxy: bool = True,
    ) -> None:
        self.base_url = base_url.rstrip("/").removesuffix("/v1")
        self.model = model
        self._timeout_s = timeout_s
        self._max_connections = max_connections
        self._address = Address(
            self.base_url, api_key, timeout_s, keep_alive, max_connections, use_proxy
        )
        self._cache = cache
        self.concurrency: int | None = max_connections
        # A connection pool belongs to the event loop it was first used in.
        self._pools: dict[asyncio.AbstractEventLoop, Pool] = {}
        self._systems: dict[tuple[str, ...], _System] = {}
        self._counts_tokens = True

    async def prepare(self) -> None:
        """Find the model's name, if none was given.

        Raises:
            UnknownModelError: the server does not list exactly one model.
        """
        if self.model is None:
            with span("find_model") as current:
                self.model = await self._only_model()
                current.set(model=self.model)
        if current_recorder() is not None:
            load_prices(self.model)

    async def count_tokens(self, text: str) -> int | None:
        """Return how many tokens the server makes of a text; None where it cannot say.

        A server without ``/v1/messages/count_tokens`` is asked once.
        """
        if not self._counts_tokens:
            return None
        try:
            await self.prepare()
            fields = {"model": self.model, "messages": [{"role": "user", "content": text}]}
            body = json.dumps(fields).encode()
            path = "/v1/messages/count_tokens"
            async with self._open("POST", path, body, timeout_s=_COUNT_TIMEOUT_S) as response:
                self._counts_tokens = response.status_code not in _NO_ENDPOINT
                await self._check(response)
                counted = _json(await response.aread()).get("input_tokens")
        except ModelError as error:
            logger.debug("%s counts no tokens: %s", self.base_url, error)
            return None
        return counted if isinstance(counted, int) else None

    def turn(self, request: ChatRequest) -> AbstractAsyncContextManager[None]:  # noqa: ARG002
        """Take any number of requests: the server has a queue of its own."""
        return nullcontext()

    async def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Return what the server answers at another of its addresses, in JSON.

        Raises:
            ModelError: it does not answer, or refuses.
        """
        async with self._send("POST", path, json.dumps(body).encode()) as response:
            return _json(await response.aread())

    async def stream(
        self, request: ChatRequest, *, extra: Mapping[str, Any] | None = None
    ) -> AsyncGenerator[TextDelta | Completion, None]:
        """Answer once; see :class:`claude_pm.models.messages.Model`.

        ``extra`` are fields of the body that only some servers know.
        """
        system = await self._system(request.system)
        if system.note is not None:
            current = current_span()
            if current is not None:
                current.set(prompt_cache=system.note)
        body = self._body(request, system, extra or {})
        async with self._send("POST", "/v1/messages", body) as response:
            reading = _Reading(model=self.model or "")
            events = EventStream()
            async with aclosing(_event_bytes(response)) as chunks:
                # What follows the end is no event (vLLM: "[DONE]"), but has to be read: a
                # connection serves again only when its answer was read to the last byte.
                async for chunk in chunks:
                    for event in events.feed(chunk):
                        if event and not reading.ended:
                            text = reading.take(_json(event))
                            if text:
                                yield TextDelta(text)
            yield reading.completion()

    async def aclose(self) -> None:
        """Close the connections of the running loop, unless another client shares them."""
        pool = self._pools.pop(asyncio.get_running_loop(), None)
        if pool is not None:
            await return_pool(self._address, pool)

    async def _system(self, blocks: tuple[str, ...]) -> _System:
        """Return the system prompt as it is sent; decided and written once, for it is long."""
        known = self._systems.get(blocks)
        if known is not None:
            return known
        placed = Breakpoints(frozenset())
        if self._cache:
            placed = await place_breakpoints(self.model or "", blocks, self.count_tokens)
        # Requests that came together asked for the count together: it is said once.
        if placed.note is not None and blocks not in self._systems:
            logger.info("The prompt of %d characters is %s.", len("".join(blocks)), placed.note)
        if len(self._systems) >= _PROMPTS_REMEMBERED:
            self._systems.clear()
        system = self._systems[blocks] = _System(_system_json(blocks, placed.blocks), placed.note)
        return system

    def _body(self, request: ChatRequest, system: _System, extra: Mapping[str, Any]) -> bytes:
        fields: dict[str, Any] = {
            "model": self.model,
            "max_tokens": request.max_tokens,
            "stream": True,
            "messages": [{"role": "user", "content": request.user}],
        }
        # Claude refuses it since Opus 4.7: its API has no sampling parameters any more.
        if request.temperature is not None and "claude" not in (self.model or "").lower():
            fields["temperature"] = request.temperature
        written = json.dumps({**fields, **extra})
        if system.json:
            written = f'{written[:-1]}, "system": {system.json}}}'
        return written.encode()

    async def _only_model(self) -> str:
        async with self._send("GET", "/v1/models", None) as response:
            listed = _json(await response.aread())
        names = [str(_object(entry).get("id")) for entry in _list(listed.get("data"))]
        if len(names) != 1:
            held = ", ".join(names[:20]) or "none"
            raise UnknownModelError(
                f"CLAUDE_PM_MODEL has to name the model to ask at {self.base_url}; "
                f"it lists: {held}."
            )
        return names[0]

    @asynccontextmanager
    async def _send(
        self, method: str, path: str, body: bytes | None
    ) -> AsyncIterator[httpx2.Response]:
        async with self._open(method, path, body) as response:
            await self._check(response)
            yield response

    async def _check(self, response: httpx2.Response) -> None:
        if response.status_code != HTTPStatus.OK:
            raise self._error_of(response, await response.aread())

    @asynccontextmanager
    async def _open(
        self,
        method: str,
        path: str,
        body: bytes | None,
        *,
        timeout_s: float | None = None,
    ) -> AsyncIterator[httpx2.Response]:
        import httpx2

        try:
            pool = await self._pool()
            response = await pool.client.send(
                pool.request(method, path, body, timeout_s=timeout_s), stream=True
            )
            try:
                yield response
            finally:
                await response.aclose()
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            raise ModelConnectionError(
                f"No server answers at {self.base_url} ({_said(error)}). "
                "Check that it runs, and CLAUDE_PM_BASE_URL."
            ) from error
        except httpx2.PoolTimeout as error:
            raise ModelConnectionError(
                f"All {self._max_connections} connections to {self.base_url} were busy "
                f"for {timeout_s or self._timeout_s:g} s."
            ) from error
        except httpx2.TimeoutException as error:
            raise ModelConnectionError(
                f"The server at {self.base_url} was silent for {timeout_s or self._timeout_s:g} s."
            ) from error
        except (httpx2.UnsupportedProtocol, httpx2.InvalidURL) as error:
            raise ModelRequestError(f"{self.base_url} is no http(s) address: {error}.") from error
        except EventTooLongError as error:
            raise _not_of_the_api(str(error)) from error
        except httpx2.HTTPError as error:
            raise ModelConnectionError(
                f"The connection to {self.base_url} broke: {_said(error)}."
            ) from error

    async def _pool(self) -> Pool:
        loop = asyncio.get_running_loop()
        pool = self._pools.get(loop)
        if pool is None:
            # A list: another thread may add its loop meanwhile.
            for ended in [other for other in list(self._pools) if other.is_closed()]:
                self._pools.pop(ended, None)
            pool = self._pools[loop] = await borrow_pool(self._address)
        return pool

    def _error_of(self, response: httpx2.Response, body: bytes) -> ModelError:
        try:
            error = _json(body).get("error")
        except ModelResponseError:
            error = None
        kind, message = "", body[:200].decode("utf-8", "replace").strip()
        if isinstance(error, dict):
            kind, message = str(error.get("type", "")), str(error.get("message", ""))
        return _error(
            response.status_code,
            kind,
            message,
            where=self.base_url,
            model=self.model,
            retry_after_s=_seconds(response.headers.get("retry-after")),
        )


@dataclass(frozen=True, slots=True)
class _System:
    """A system prompt as it is sent, and why nothing of it is cached, where that is so."""

    json: str
    note: str | None


def _system_json(blocks: tuple[str, ...], marked: frozenset[int]) -> str:
    system: list[dict[str, Any]] = [
        {"type": "text", "text": text, "cache_control": {"type": "ephemeral"}}
        if position in marked
        else {"type": "text", "text": text}
        for position, text in enumerate(blocks)
        if text
    ]
    return json.dumps(system) if system else ""


def _event_bytes(response: httpx2.Response) -> AsyncGenerator[bytes, None]:
    """Return the bytes of a stream of events as they come."""
    kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "text/event-stream":
        raise _not_of_the_api(f"it is of the type {kind!r}, not a stream of events")
    if response.headers.get("content-encoding", "identity") == "identity":
        # Not through aiter_bytes(): its layers take as long for an event as all that we do.
        chunks = aiter(response.stream)  # type: ignore[arg-type]
    else:
        chunks = aiter(response.aiter_bytes())
    # Both are generators: what is left half read has to be closed.
    return cast("AsyncGenerator[bytes, None]", chunks)


class _Reading:
    """What one streamed answer has said so far."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._usage: dict[str, Any] = {}
        self._stop_reason: str | None = None
        self.ended = False

    def take(self, event: dict[str, Any]) -> str:
        """Take in one event and return the text it brings, if any."""
        kind = event.get("type")
        if kind == "message_start":
            message = _object(event.get("message"))
            self._model = str(message.get("model") or self._model)
            self._count(message.get("usage"))
        elif kind == "content_block_delta":
            delta = _object(event.get("delta"))
            if delta.get("type") == "text_delta":
                return str(delta.get("text") or "")
        elif kind == "message_delta":
            self._stop_reason = _object(event.get("delta")).get("stop_reason")
            # Its usage is cumulative: it replaces what message_start said, it does not add to it.
            self._count(event.get("usage"))
        elif kind == "message_stop":
            self.ended = True
        elif kind == "error":
            error = event.get("error")
            if not isinstance(error, dict):
                error = {"message": error}
            raise _error(0, str(error.get("type") or ""), str(error.get("message") or kind))
        return ""

    def completion(self) -> Completion:
        """Return the end of the answer.

        Raises:
            ModelConnectionError: the stream ended before the answer did.
        """
        if not self.ended:
            raise ModelConnectionError("The server broke off in the middle of its answer.")
        read = self._usage.get("cache_read_input_tokens")
        write = self._usage.get("cache_creation_input_tokens")
        uncached = self._usage.get("input_tokens")
        total = None if uncached is None else uncached + (read or 0) + (write or 0)
        usage = Usage(total, read, write, self._usage.get("output_tokens"))
        return Completion(usage, self._model, self._stop_reason)

    def _count(self, usage: Any) -> None:
        for name, tokens in _object(usage).items():
            if name in _COUNTS and tokens is not None:
                if not isinstance(tokens, int):
                    raise _not_of_the_api(f"{name} is {tokens!r}")
                self._usage[name] = tokens


def _json(text: str | bytes) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise _not_of_the_api(repr(text[:80])) from error
    if not isinstance(value, dict):
        raise _not_of_the_api(repr(text[:80]))
    return value


def _object(value: Any) -> dict[str, Any]:
    """Return an object of an answer; where there is none, an empty one."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _not_of_the_api(repr(value)[:80])
    return value


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise _not_of_the_api(repr(value)[:80])
    return value


def _not_of_the_api(what: str) -> ModelResponseError:
    return ModelResponseError(
        f"The server's answer is not one of the Messages API: {what.removesuffix('.')}."
    )


def _error(  # noqa: PLR0911 - a table of cases
    status: int,
    kind: str,
    message: str,
    *,
    where: str = "the model's server",
    model: str | None = None,
    retry_after_s: float | None = None,
) -> ModelError:
    said = f"{where} says: {message or kind or status}"
    if status in (401, 403) or kind in ("authentication_error", "permission_error"):
        return ModelAuthenticationError(
            f"The key was refused ({said}). Check CLAUDE_PM_API_KEY or ANTHROPIC_API_KEY."
        )
    if kind == "not_found_error" and "model" in message.lower():
        return UnknownModelError(
            f"There is no model {model!r} there ({said}). Check CLAUDE_PM_MODEL."
        )
    if status == HTTPStatus.NOT_FOUND:
        return ModelRequestError(
            f"{where} does not serve the Messages API (404 at /v1/messages). "
            "Check CLAUDE_PM_BASE_URL."
        )
    if (
        status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE
        or kind == "exceed_context_size_error"
        or "prompt is too long" in message
    ):
        return ContextTooLongError(f"The prompt does not fit the model's context ({said}).")
    if status == HTTPStatus.TOO_MANY_REQUESTS or kind in (
        "rate_limit_error",
        "overloaded_error",
        "api_error",
        "timeout_error",
    ):
        return ModelOverloadedError(
            f"The server cannot take it now ({said}).", retry_after_s=retry_after_s
        )
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return ModelOverloadedError(
            f"The server failed with status {status} ({said}).", retry_after_s=retry_after_s
        )
    return ModelRequestError(f"The server refused the request ({said}).")


def _said(error: Exception) -> str:
    return str(error) or type(error).__name__


def _seconds(retry_after: str | None) -> float | None:
    try:
        seconds = math.nan if retry_after is None else float(retry_after)
    except ValueError:
        # The other legal form is a date; our own back-off serves then.
        return None
    return max(0.0, seconds) if math.isfinite(seconds) else None
