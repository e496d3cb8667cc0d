"""Workers that have answered and wait for a next request, which then need not wait for a start."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from weakref import WeakKeyDictionary

from claude_pm.orchestration.worker_process import WorkerProcess

MOST_REQUESTS = 50
"""Requests that one worker serves: what it may leak, it leaks no more often."""

MOST_GROWTH_BYTES = 512 * 1024 * 1024
"""Resident memory that a worker may have beyond what it had after its first answer."""

IDLE_S = 300.0
"""A worker that got no request for so long is ended."""


class WarmWorkers:
    """Keeps up to ``most_idle`` waiting workers for each event loop.

    A worker belongs to the loop that it was started in and ends with it. It is kept until it has
    served ``MOST_REQUESTS``, has grown by ``MOST_GROWTH_BYTES``, or has waited for ``idle_s``.
    """

    def __init__(self, most_idle: int, *, idle_s: float = IDLE_S) -> None:
        self._most_idle = most_idle
        self._idle_s = idle_s
        self._closed = False
        # The last that came is the first to go again; with each, what ends it when it waits long.
        self._waiting: dict[
            asyncio.AbstractEventLoop, dict[WorkerProcess, asyncio.TimerHandle]
        ] = {}
        self._lifetimes: dict[asyncio.AbstractEventLoop, AsyncGenerator[None, None]] = {}
        self._first_rss: WeakKeyDictionary[WorkerProcess, int] = WeakKeyDictionary()

    @property
    def idle(self) -> int:
        """How many workers wait in the running loop."""
        return len(self._waiting.get(asyncio.get_running_loop(), ()))

    def take(self) -> WorkerProcess | None:
        """Return a worker of the running loop that waits, if there is one."""
        waiting = self._waiting.get(asyncio.get_running_loop())
        if not waiting:
            return None
        worker, timer = waiting.popitem()
        timer.cancel()
        return worker

    async def keep(self, worker: WorkerProcess) -> None:
        """Let a worker that has answered wait for a next request; end it if it shall not."""
        loop = asyncio.get_running_loop()
        waiting = self._waiting.setdefault(loop, {})
        if self._closed or len(waiting) >= self._most_idle or self._is_worn_out(worker):
            await worker.end()
            return
        if loop not in self._lifetimes:
            self._lifetimes[loop] = lifetime = self._until_the_end_of(loop)
            await anext(lifetime)
        waiting[worker] = loop.call_later(self._idle_s, self._dismiss, worker)
        worker.exited.add_done_callback(lambda _: self._dismiss(worker))

    def drop_closed_loops(self) -> None:
        """Kill the workers of loops that were closed without ending their generators."""
        for loop in [loop for loop in list(self._waiting) if loop.is_closed()]:
            self._lifetimes.pop(loop, None)
            for worker in self._waiting.pop(loop, {}):
                worker.abandon()

    async def aclose(self) -> None:
        """End the workers that wait, and keep none any more."""
        self._closed = True
        here = asyncio.get_running_loop()
        self.drop_closed_loops()
        for loop in list(self._waiting):
            if loop is here:
                await self._end_all(loop)
            else:
                with contextlib.suppress(RuntimeError):  # closed in this moment
                    loop.call_soon_threadsafe(self._dismiss_all, loop)

    def _is_worn_out(self, worker: WorkerProcess) -> bool:
        rss = worker.rss_bytes()
        if rss is None or worker.served >= MOST_REQUESTS:
            return True
        return rss > self._first_rss.setdefault(worker, rss) + MOST_GROWTH_BYTES

    def _dismiss(self, worker: WorkerProcess) -> None:
        """End a worker if it still waits; it is fetched when it has ended."""
        timer = self._waiting.get(worker.loop, {}).pop(worker, None)
        if timer is not None:
            timer.cancel()
            worker.dismiss()

    def _dismiss_all(self, loop: asyncio.AbstractEventLoop) -> None:
        for worker in list(self._waiting.get(loop, ())):
            self._dismiss(worker)

    async def _end_all(self, loop: asyncio.AbstractEventLoop) -> None:
        workers = self._waiting.pop(loop, {})
        for timer in workers.values():
            timer.cancel()
        await asyncio.gather(*(worker.end() for worker in workers))

    async def _until_the_end_of(
        self, loop: asyncio.AbstractEventLoop
    ) -> AsyncGenerator[None, None]:
        # asyncio.run ends the generators that are still open before it closes its loop.
        try:
            yield
        finally:
            self._lifetimes.pop(loop, None)
            await self._end_all(loop)
