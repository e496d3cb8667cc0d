"""Workloads of a second and more that know themselves where their time goes.

Every part of them (:func:`burn_a` and so on) reads the clocks at its own beginning and end, which
is a few times in 10 ms: so the truth holds however busy the machine is. A *place* is the name of
one such function; nothing of it is nested in another place.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Self

import claude_pm


class Truth:
    """True seconds by place: wall time, and CPU time of the thread that ran it."""

    def __init__(self) -> None:
        self.wall_s: dict[str, float] = defaultdict(float)
        self.cpu_s: dict[str, float] = defaultdict(float)

    def of(self, place: str, *, cpu_of: str | None = None) -> Measured:
        """Add what the block takes; its CPU time to another place, where that is named."""
        return Measured(self, place, place if cpu_of is None else cpu_of)


class Measured:
    """A part of a workload: reads the clocks where its block begins and ends, and at its waits."""

    def __init__(self, truth: Truth, place: str, cpu_of: str) -> None:
        self._truth = truth
        self._place = place
        self._cpu_of = cpu_of

    def __enter__(self) -> Self:
        self._wall_s = time.perf_counter()
        self.goes_on()
        return self

    def __exit__(self, *failure: object) -> None:
        self.waits()
        self._truth.wall_s[self._place] += time.perf_counter() - self._wall_s

    def waits(self) -> None:
        """Count no CPU time from here on: it is another's, or the sampler's."""
        self._truth.cpu_s[self._cpu_of] += time.thread_time() - self._cpu_s

    def goes_on(self) -> None:
        """Count CPU time again."""
        self._cpu_s = time.thread_time()


def _burn(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        sum(range(100))


def burn_a(truth: Truth, seconds: float) -> None:
    with truth.of("burn_a"):
        _burn(seconds)


def burn_b(truth: Truth, seconds: float) -> None:
    with truth.of("burn_b"):
        _burn(seconds)


def block(truth: Truth, seconds: float) -> None:
    with truth.of("block") as part:
        part.waits()
        time.sleep(seconds)
        part.goes_on()


async def sleep(part: Measured, seconds: float) -> None:
    """Do what ``asyncio.sleep`` does."""
    loop = asyncio.get_running_loop()
    future = loop.create_future()
    handle = loop.call_later(seconds, future.set_result, None)
    part.waits()
    try:
        await future
    finally:
        part.goes_on()
        handle.cancel()


async def wait_a(truth: Truth, seconds: float) -> None:
    with truth.of("wait_a") as part:
        await sleep(part, seconds)


async def wait_b(truth: Truth, seconds: float) -> None:
    with truth.of("wait_b") as part:
        await sleep(part, seconds)


def nested_calls(truth: Truth) -> None:
    """CPU work, some calls deep."""

    def deeper(depth: int, work: Callable[[Truth, float], None], seconds: float) -> None:
        if depth:
            deeper(depth - 1, work, seconds)
        else:
            work(truth, seconds)

    for _ in range(40):
        deeper(5, burn_a, 0.02)
        deeper(9, burn_b, 0.04)


def tiny(number: int) -> int:
    return number + 1


def many_calls(truth: Truth) -> None:
    with truth.of("many_calls"):
        number = 0
        for _ in range(600_000):
            number = tiny(number)


def few_calls(truth: Truth) -> None:
    with truth.of("few_calls"):
        number = 0
        for _ in range(1_800_000):
            number = number + 1


def short_calls(truth: Truth) -> None:
    """As much work in very many short calls as in none.

    Where one ends and the other begins is known to one look, every 4 ms: so each lasts for several,
    and that chance stays well below the error that is allowed.
    """
    for _ in range(40):
        many_calls(truth)
        few_calls(truth)


def blocking_sleeps(truth: Truth) -> None:
    """A thread that works and sleeps."""
    for _ in range(80):
        burn_a(truth, 0.01)
        block(truth, 0.02)


def short_sleeps(truth: Truth) -> None:
    """A thread that works for long, and sleeps for a moment now and then."""
    for _ in range(14):
        burn_a(truth, 0.15)
        block(truth, 0.005)


def awaits_and_cpu(truth: Truth) -> None:
    """A coroutine that works and awaits."""

    async def main() -> None:
        for _ in range(50):
            burn_a(truth, 0.01)
            await wait_a(truth, 0.02)
            burn_b(truth, 0.005)
            await wait_b(truth, 0.01)

    asyncio.run(main())


def gathered_tasks(truth: Truth) -> None:
    """Concurrent agents, each with work and waiting of its own.

    The work is a lambda each, so that a profiler that knows no agents can tell it apart too.
    """

    async def agent(name: str, work: Callable[[], None], wait_s: float) -> None:
        with claude_pm.span("agent", agent=name):
            for _ in range(40):
                with truth.of(name):
                    work()
                with truth.of(f"{name} waits", cpu_of=name) as part:
                    await sleep(part, wait_s)

    async def main() -> None:
        await asyncio.gather(
            agent("first", lambda: _burn(0.008), 0.02),
            agent("second", lambda: _burn(0.004), 0.03),
            agent("third", lambda: _burn(0.012), 0.01),
        )

    asyncio.run(main())


def executor_threads(truth: Truth) -> None:
    """Threads of a pool that work and sleep at the same time."""

    def job() -> None:
        for _ in range(5):
            burn_a(truth, 0.05)
            block(truth, 0.1)
            burn_b(truth, 0.05)

    with ThreadPoolExecutor(3) as pool:
        for future in [pool.submit(job) for _ in range(3)]:
            future.result()


def jobs_waited_for(truth: Truth) -> None:
    """Short jobs in other threads, one at a time, for which the main thread waits."""

    def job() -> None:
        burn_a(truth, 0.01)
        block(truth, 0.02)

    with ThreadPoolExecutor(1) as pool:
        for _ in range(40):
            pool.submit(job).result()
    for _ in range(20):
        thread = threading.Thread(target=job)
        thread.start()
        thread.join()


def cancellation_and_exceptions(truth: Truth) -> None:
    """Work and waiting that end with an exception, and waits that are cancelled."""

    def fails() -> None:
        try:
            burn_a(truth, 0.01)
        finally:
            raise ValueError

    async def never() -> None:
        with truth.of("never") as part:
            await sleep(part, 3600)

    async def main() -> None:
        for _ in range(60):
            with contextlib.suppress(ValueError):
                fails()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.02):
                    await never()
            task = asyncio.create_task(wait_a(truth, 3600))
            await wait_b(truth, 0.01)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    asyncio.run(main())


def async_generators(truth: Truth) -> None:
    """Async generators that work and await between what they yield."""

    async def items() -> AsyncIterator[int]:
        for number in range(40):
            await wait_a(truth, 0.02)
            burn_a(truth, 0.01)
            yield number

    async def main() -> None:
        async for _ in items():
            burn_b(truth, 0.01)
            await wait_b(truth, 0.02)

    asyncio.run(main())


def subprocesses(truth: Truth) -> None:
    """A coroutine that waits for other processes, which work."""
    work = "import time\nwhile time.process_time() < 0.15: sum(range(100))"

    async def child(truth: Truth) -> None:
        with truth.of("child") as part:
            process = await asyncio.create_subprocess_exec(sys.executable, "-S", "-c", work)
            part.waits()
            await process.wait()
            part.goes_on()

    async def main() -> None:
        for _ in range(6):
            await child(truth)
            burn_a(truth, 0.06)

    asyncio.run(main())


WORKLOADS: dict[str, Callable[[Truth], None]] = {
    "nested calls": nested_calls,
    "very many short calls": short_calls,
    "blocking sleeps": blocking_sleeps,
    "short sleeps after long work": short_sleeps,
    "awaits mixed with CPU": awaits_and_cpu,
    "gather of concurrent tasks": gathered_tasks,
    "executor threads": executor_threads,
    "jobs waited for": jobs_waited_for,
    "cancellation and exceptions": cancellation_and_exceptions,
    "async generators": async_generators,
    "subprocesses": subprocesses,
}
