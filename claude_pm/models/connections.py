"""The connections to a server: one pool for each event loop, shared by all that ask that server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from claude_pm.errors import ModelAuthenticationError

if TYPE_CHECKING:
    import httpx2

API_VERSION = "2023-06-01"
_CONNECT_TIMEOUT_S = 10.0
_MAX_PORT = 65_535


@dataclass(frozen=True, slots=True)
class Address:
    """A server and how to talk to it; see :class:`claude_pm.models.client.MessagesClient`."""

    base_url: str
    api_key: str | None = field(repr=False)
    timeout_s: float
    keep_alive: bool
    max_connections: int
    use_proxy: bool


class Pool:
    """The connections of one event loop to one address, closed with the loop at the latest."""

    def __init__(self, client: httpx2.AsyncClient) -> None:
        import httpx2

        self.client = client
        self.users = 0
        # Made once: with every request they would cost more than all else that we do for it.
        self._headers = httpx2.Headers(client.headers)
        self._headers["host"] = client.base_url.netloc.decode("ascii")
        self._headers["content-type"] = "application/json"
        self._urls: dict[str, httpx2.URL] = {}
        self._lifetime = _closing(client)

    def request(
        self, method: str, path: str, body: bytes | None, *, timeout_s: float | None = None
    ) -> httpx2.Request:
        """Return a request with JSON in its body, if any; ``timeout_s`` is for it alone."""
        import httpx2

        request = httpx2.Request(
            method,
            self._url(path),
            headers=self._headers,
            stream=httpx2.ByteStream(body or b""),
            extensions=None
            if timeout_s is None
            else {"timeout": httpx2.Timeout(timeout_s).as_dict()},
        )
        if body is not None:
            request.headers["content-length"] = str(len(body))
        return request

    def _url(self, path: str) -> httpx2.URL:
        url = self._urls.get(path)
        if url is None:
            base = self.client.base_url
            url = base.copy_with(raw_path=base.raw_path.rstrip(b"/") + path.encode())
            self._urls[path] = url
        return url

    async def open(self) -> None:
        """Have the running loop close the client when it ends."""
        await anext(self._lifetime)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._lifetime.aclose()


_pools: dict[tuple[asyncio.AbstractEventLoop, Address], Pool] = {}


async def borrow_pool(address: Address) -> Pool:
    """Return the running loop's pool for this address; give it back with :func:`return_pool`."""
    key = (asyncio.get_running_loop(), address)
    pool = _pools.get(key)
    if pool is None:
        # A list: another thread may add a pool of its loop meanwhile.
        for ended in [other for other in list(_pools) if other[0].is_closed()]:
            _pools.pop(ended, None)
        pool = _pools[key] = Pool(_new_client(address))
        await pool.open()
    pool.users += 1
    return pool


async def return_pool(address: Address, pool: Pool) -> None:
    """Close the running loop's pool for this address, if nobody else uses it."""
    pool.users -= 1
    if pool.users <= 0:
        _pools.pop((asyncio.get_running_loop(), address), None)
        await pool.aclose()


async def _closing(client: httpx2.AsyncClient) -> AsyncGenerator[None, None]:
    # asyncio.run ends the generators that are still open before it closes its loop. Later is too
    # late: a closed loop's sockets can only be left to the garbage collector.
    try:
        yield
    finally:
        await client.aclose()


def _new_client(address: Address) -> httpx2.AsyncClient:
    import httpx2

    # Events are passed on as they come: a compressed answer would come in blocks.
    headers = {"anthropic-version": API_VERSION, "accept-encoding": "identity"}
    if address.api_key is not None:
        headers["x-api-key"] = _checked_key(address.api_key)
    if not address.keep_alive:
        headers["connection"] = "close"
    return httpx2.AsyncClient(
        base_url=_checked_url(address.base_url),
        headers=headers,
        limits=httpx2.Limits(max_connections=address.max_connections),
        timeout=httpx2.Timeout(address.timeout_s, connect=_CONNECT_TIMEOUT_S),
        trust_env=address.use_proxy,
        # Reading the certificates takes longer than the road; plain http needs none.
        verify=not address.base_url.startswith("http://"),
    )


def _checked_url(base_url: str) -> httpx2.URL:
    import httpx2

    url = httpx2.URL(base_url)
    if url.scheme not in ("http", "https"):
        raise httpx2.UnsupportedProtocol("it begins with neither http:// nor https://")
    if url.port is not None and url.port > _MAX_PORT:
        # The event loop's own error for it is an OverflowError in a group.
        raise httpx2.InvalidURL(f"there is no port {url.port}")
    return url


def _checked_key(key: str) -> str:
    # Refused here: httpx2 would show the key in its error.
    if not key.isascii() or not key.isprintable():
        raise ModelAuthenticationError(
            "The key has characters that no key has, such as a line end or a letter that is not "
            "ASCII. Check CLAUDE_PM_API_KEY or ANTHROPIC_API_KEY."
        )
    return key
