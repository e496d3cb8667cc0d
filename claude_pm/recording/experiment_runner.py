"""Running an experiment: conditions in turns, each sample a span, everything in one profile."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import random
import resource
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent import futures
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

from claude_pm.errors import RecordingError
from claude_pm.profiles.experiment import KEY, SAMPLE, Experiment
from claude_pm.recording.profile_session import ProfileSession
from claude_pm.recording.progress_line import ProgressLine
from claude_pm.recording.span import span

Condition = Callable[[], Any]
BEFORE = "before_sample"
"""The name of the span around what makes a condition ready for a sample."""
_MOST_SEED = 2**32
_HEED_INTERRUPTS_S = 0.5


@dataclass(frozen=True, slots=True)
class Turn:
    """One sample that is to be taken."""

    condition: str
    block: int
    order: int
    warmup: bool


def experiment(
    conditions: Mapping[str, Condition],
    *,
    repeat: int = 10,
    warmup: int = 1,
    name: str = "experiment",
    cpu: str | None = None,
    memory: str | None = "rss",
    seed: int | None = None,
    before: Callable[[str], Any] | None = None,
) -> Experiment:
    """Measure conditions against each other, in turns: ``experiment({"a": f, "b": g})``.

    Every condition is called without arguments, once in each of ``repeat`` rounds ("blocks"), in
    an order drawn anew for each round: so a machine that slows down, or a neighbour, disturbs all
    conditions alike. ``warmup`` rounds come first; they are recorded, but not compared. What a
    condition returns is dropped; a coroutine is awaited, in a notebook by an event loop in a
    thread of its own, the same for all samples.

    An error in a warm-up is raised at once. Later ones are recorded as failures, and the
    experiment goes on; so does it where a condition ends as cancelled. An interrupt ends the
    experiment and keeps what was measured until then.

    Args:
        conditions: what to call, by the name it is compared under.
        repeat: samples of each condition.
        warmup: samples of each that come before and do not count.
        name: what to call the experiment; becomes part of its id.
        cpu: as in :func:`claude_pm.profile`, but nothing by default: to count calls slows code.
        memory: as in :func:`claude_pm.profile`.
        seed: draws the same order again; it stands in ``meta["experiment"]``.
        before: called with the condition's name before each of its samples, and awaited like a
            condition, to make it ready; recorded, but no part of the sample. An error in it is
            raised at once.

    Raises:
        RecordingError: there is no condition, one cannot be called, or a number is out of range;
            another experiment's option is wrong as in :func:`claude_pm.profile`.
    """
    for condition, call in conditions.items():
        if not callable(call):
            raise RecordingError(
                f"The condition {condition!r} is {type(call).__name__}, which cannot be called: "
                "write it as `lambda: ...` or give a function."
            )
    session = ExperimentSession(
        list(conditions), repeat=repeat, warmup=warmup, name=name, cpu=cpu, memory=memory,
        seed=seed,
    )  # fmt: skip
    session.start()
    try:
        with _EventLoop() as loop:
            _take(session, conditions, loop, before)
    except KeyboardInterrupt:
        # It ended the experiment, and nothing else: what was measured shall be had.
        session.say_interrupted()
    finally:
        with contextlib.suppress(KeyboardInterrupt):  # it comes too late to end anything
            session.stop()
    return session.stop()


class ExperimentSession:
    """Records the samples of an experiment, whoever makes them.

    Between :meth:`start` and :meth:`stop`, for each of :meth:`turns`, take the sample within
    :meth:`measuring`, and that within :meth:`recording_failures`.

    Raises:
        RecordingError: there is no condition, or a number is out of range.
    """

    def __init__(  # noqa: PLR0913 - as experiment()
        self,
        conditions: Sequence[str],
        *,
        repeat: int,
        warmup: int,
        name: str,
        cpu: str | None,
        memory: str | None,
        seed: int | None = None,
        internals: bool = False,
        source: str | None = None,
    ) -> None:
        _check(conditions, repeat, warmup)
        self._conditions = list(conditions)
        self._repeat = repeat
        self._warmup = warmup
        self._seed = random.randrange(_MOST_SEED) if seed is None else seed  # noqa: S311
        self._session = ProfileSession(
            name, cpu=cpu, memory=memory, internals=internals, source=source
        )
        self._line = ProgressLine(len(self._conditions) * (repeat + warmup))
        self._experiment: Experiment | None = None

    def start(self) -> None:
        """Begin to record.

        Raises:
            RecordingError: another profiler is active.
            SettingsError: a ``CLAUDE_PM_*`` variable has a value that it may not have.
        """
        self._session.start()

    def stop(self, **options: Any) -> Experiment:
        """End the recording; the options are those of :meth:`ProfileSession.stop`.

        If an interrupt came meanwhile, and was raised, the next call returns the experiment.
        """
        if self._experiment is None:
            profile = self._session.stop(**options)
            self._line.close()
            profile.meta[KEY] = {
                "conditions": self._conditions,
                "repeat": self._repeat,
                "warmup": self._warmup,
                "seed": self._seed,
                "complete": self._line.done == self._line.total,
            }
            self._experiment = Experiment(profile)
        return self._experiment

    def turns(self) -> Iterator[Turn]:
        """Yield the samples to take: warm-ups, then blocks, each in an order of its own."""
        rng = random.Random(self._seed)  # noqa: S311 - no secret
        order = 0
        for round_number in range(self._warmup + self._repeat):
            block = round_number - self._warmup
            for condition in rng.sample(self._conditions, len(self._conditions)):
                self._line.begin(condition)
                yield Turn(condition, max(block, 0), order, warmup=block < 0)
                order += 1

    @contextlib.contextmanager
    def measuring(self, turn: Turn) -> Iterator[None]:
        """Measure one sample: its span, and the CPU time of this process and of its children."""
        # Of the children, only those that have ended are known: a worker has, with its request.
        said = {"condition": turn.condition, "block": turn.block, "order": turn.order}
        if turn.warmup:
            said["warmup"] = True
        # A sample may be short: the peak of the one before is none of its own.
        self._read_memory()
        started = time.perf_counter()
        with span(SAMPLE, **said) as sample:
            before_s = _cpu_s()
            try:
                yield
            finally:
                sample.set(cpu_s=_cpu_s() - before_s)
                self._read_memory()
        self._line.end(turn.condition, time.perf_counter() - started)

    def _read_memory(self) -> None:
        recorder = self._session.recorder
        if recorder is not None and recorder.at_boundary is not None:
            recorder.at_boundary(always=True)

    def say_interrupted(self) -> None:
        """Say that what was measured until now is kept."""
        self._line.interrupted = True

    async def measure_awaited(self, turn: Turn, call: Callable[[], Awaitable[Any]]) -> None:
        """Measure what is to be awaited."""
        with self.measuring(turn):
            await call()

    @contextlib.contextmanager
    def recording_failures(self, turn: Turn) -> Iterator[None]:
        """Let the experiment go on after an error, which is recorded; but not in a warm-up."""
        try:
            yield
        except (Exception, asyncio.CancelledError) as error:
            if turn.warmup or (isinstance(error, asyncio.CancelledError) and _is_being_cancelled()):
                raise
            self._line.failed(turn.condition, error)


class _EventLoop:
    """One event loop for all samples; in a thread where this one already has a loop running."""

    def __init__(self) -> None:
        self._runner: asyncio.Runner | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        return self

    def run(self, make: Callable[[], Any]) -> None:
        """Await what ``make`` returns; both happen in the loop."""

        async def made() -> None:
            try:
                await make()
            except asyncio.CancelledError:
                # A runner raises no KeyboardInterrupt where more than that cancelled the task.
                task = asyncio.current_task()
                while task is not None and task.cancelling() > 1:
                    task.uncancel()
                raise

        try:
            asyncio.get_running_loop()
        except RuntimeError:
            self._runner = self._runner or asyncio.Runner()
            # A runner's own context is that of its first run: of one sample for all.
            self._runner.run(made(), context=copy_context())
            return
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(
                target=self._loop.run_forever, name="claude-pm-experiment", daemon=True
            )
            self._thread.start()
        future = asyncio.run_coroutine_threadsafe(made(), self._loop)
        try:
            # In turns: an interrupt as a wait is about to begin is only heeded when that is over.
            while not future.done():
                with contextlib.suppress(TimeoutError, futures.CancelledError):
                    future.exception(timeout=_HEED_INTERRUPTS_S)
            if future.cancelled():
                # The future's own error is another class, which no span takes for cancelled.
                raise asyncio.CancelledError
            future.result()
        except KeyboardInterrupt:
            future.cancel()
            raise

    def __exit__(self, *_: object) -> None:
        if self._runner is not None:
            self._runner.close()
        if self._loop is not None and self._thread is not None:
            asyncio.run_coroutine_threadsafe(_end_tasks(), self._loop).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()


def _take(
    session: ExperimentSession,
    conditions: Mapping[str, Condition],
    loop: _EventLoop,
    before: Callable[[str], Any] | None,
) -> None:
    awaited: set[str] = set()
    for turn in session.turns():
        call = conditions[turn.condition]
        if before is not None:
            with span(BEFORE, condition=turn.condition):
                made = before(turn.condition)
                if inspect.isawaitable(made):
                    loop.run(partial(_finish, made))
        if turn.condition in awaited or inspect.iscoroutinefunction(call):
            with session.recording_failures(turn):
                loop.run(partial(session.measure_awaited, turn, call))
            continue
        with session.recording_failures(turn), session.measuring(turn):
            result = call()
            if inspect.isawaitable(result):
                # From the next turn on, the loop makes it too, and no thread changes hands.
                awaited.add(turn.condition)
                loop.run(partial(_finish, result))


async def _end_tasks() -> None:
    """Cancel what is left, and close generators and threads, as ``asyncio.run`` does."""
    loop = asyncio.get_running_loop()
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)
    await loop.shutdown_asyncgens()
    await loop.shutdown_default_executor()


async def _finish(awaitable: Awaitable[Any]) -> None:
    await awaitable


def _is_being_cancelled() -> bool:
    try:
        task = asyncio.current_task()
    except RuntimeError:  # no loop runs here
        return False
    return task is not None and task.cancelling() > 0


def _cpu_s() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def _check(conditions: Sequence[str], repeat: int, warmup: int) -> None:
    if not conditions:
        raise RecordingError("An experiment needs at least one condition.")
    # Any: what is asked for comes from people.
    wanted: tuple[tuple[str, Any, int], ...] = (("repeat", repeat, 1), ("warmup", warmup, 0))
    for name, value, least in wanted:
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise RecordingError(f"{name}={value!r}; it may be a whole number from {least}.")
