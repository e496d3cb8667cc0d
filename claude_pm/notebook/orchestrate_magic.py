"""``%%orchestrate``: ask an agent from a cell, and profile the answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from IPython.core.error import UsageError
from IPython.core.magic import Magics, cell_magic, magics_class, no_var_expand
from IPython.core.magic_arguments import argument, magic_arguments, parse_argstring
from IPython.display import DisplayHandle

from claude_pm.errors import RequestError, UnknownAgentError
from claude_pm.notebook.options import or_none, recording_options, whole_from_one
from claude_pm.notebook.results import Keeping, keep
from claude_pm.orchestration import OrchestrationMode, Orchestrator, batch_orchestrate
from claude_pm.orchestration.batch import Outcome
from claude_pm.orchestration.modes import parse_mode
from claude_pm.recording import ExperimentSession, ProfileSession
from claude_pm.settings import Settings, read_settings

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from claude_pm.profiles import Experiment, Profile

_TICK_S = 0.1


@magics_class
class OrchestrateMagics(Magics):
    """The orchestration magic, as IPython lists it."""

    def __init__(self, shell: InteractiveShell) -> None:
        super().__init__(shell)
        self._shell = shell
        self._orchestrator: Orchestrator | None = None

    @no_var_expand
    @magic_arguments()
    @argument("agent", nargs="?", help="the agent's name; `claude-pm agents list` shows them")
    @argument("--mode", help="local, subprocess or hybrid, or several with commas between")
    @argument("--repeat", type=whole_from_one, default=1, help="ask so many times in each mode")
    @argument("--batch", action="store_true", help="each line of the cell is `agent: request`")
    @argument("--model", help="as CLAUDE_PM_MODEL: embedded, a model's name, or a .gguf file")
    @argument("--max-tokens", type=whole_from_one, help="output limit (default: the agent's own)")
    @argument("--timeout", type=float, help="limit in seconds for each request")
    @recording_options
    @cell_magic
    async def orchestrate(self, line: str, cell: str) -> Profile | Experiment:
        """Ask an agent; the cell's text is the request.

        ::

            %%orchestrate documentation --mode local,subprocess --repeat 5
            Explain what this project does in three sentences.

        One request shows its answer as it comes. Several modes or repeats are an experiment, as
        of ``claude_pm.experiment``: after a warm-up the modes are asked in turns, so that what
        disturbs the machine disturbs all modes alike, and verdicts say what differs. With
        ``--batch`` each line is a request of its own, ``agent: request``, and several are served
        at the same time::

            %%orchestrate --batch
            qa: What would you test first?
            ops: What would you watch in production?

        The value is the profile or experiment; it is kept in ``claude_pm.last()`` and under
        ``--as`` too.
        """
        values = parse_argstring(OrchestrateMagics.orchestrate, line)
        request = cell.strip()
        if not request:
            raise RequestError("The request is empty: write it below the %%orchestrate line.")
        modes = _modes(values.mode)
        orchestrator = self._orchestrator_for(values.model)
        options = {"timeout": values.timeout, "max_tokens": values.max_tokens}
        if values.batch:
            if len(modes) * values.repeat > 1:
                raise UsageError("--batch goes with one mode and without --repeat.")
            queries = _queries(orchestrator, values.agent, request)
            name = "orchestrate batch"
        elif values.agent is None:
            raise UsageError("%%orchestrate needs the name of an agent.")
        else:
            agent = orchestrator.registry.resolve(values.agent)
            name = f"orchestrate {agent}"
        recording = {
            "cpu": or_none(values.cpu),
            "memory": or_none(values.memory),
            "internals": values.internals,
            "source": f"%%orchestrate {line}\n{cell}",
        }
        keeping = Keeping(values.save, values.as_name)
        if len(modes) * values.repeat > 1:
            if values.cpu is ...:
                recording["cpu"] = None  # to count calls would slow down what is compared
            names = {str(mode or orchestrator.mode): mode for mode in modes}
            trial = ExperimentSession(
                list(names), repeat=values.repeat, warmup=1, name=name, **recording
            )
            trial.start()
            try:
                async with _interruptible():
                    await _ask_in_turns(trial, orchestrator, agent, request, names, options)
            finally:
                self._end(trial, keeping)
            return trial.stop()
        session = ProfileSession(name, **recording)
        session.start()
        try:
            async with _interruptible():
                if values.batch:
                    await _ask_batch(orchestrator, queries, {**options, "mode": modes[0]})
                else:
                    await _ask_and_print(
                        self._shell, orchestrator, agent, request, modes[0], options
                    )
        finally:
            self._end(session, keeping)
        return session.profile

    def _end(self, session: ProfileSession | ExperimentSession, keeping: Keeping) -> None:
        """End the recording and keep it, if an interrupt comes meanwhile too."""
        try:
            session.stop()
        finally:
            keep(self._shell, session.stop(), keeping)

    def _orchestrator_for(self, model: str | None) -> Orchestrator:
        settings: Settings = read_settings(model=model)
        if self._orchestrator is None or self._orchestrator.settings != settings:
            self._orchestrator = Orchestrator(settings)
        return self._orchestrator


@asynccontextmanager
async def _interruptible() -> AsyncIterator[None]:
    """Let an interrupt through while nothing else happens.

    ipykernel's signal handler does not wake the event loop (seen in 7.4): a silent model, or a
    worker that hangs, would keep the interrupt waiting.
    """

    async def tick() -> None:
        while True:  # noqa: ASYNC110 - it waits for nothing
            await asyncio.sleep(_TICK_S)

    ticking = asyncio.create_task(tick())
    try:
        yield
    finally:
        ticking.cancel()


async def _ask_and_print(
    shell: InteractiveShell,
    orchestrator: Orchestrator,
    agent: str,
    request: str,
    mode: OrchestrationMode | None,
    options: dict[str, Any],
) -> None:
    # A kernel sends what is printed by itself, several pieces at a time; a terminal does not.
    flush = not hasattr(shell, "kernel")

    def show(text: str) -> None:
        print(text, end="", flush=flush)

    await orchestrator.orchestrate_agent(agent, request, mode=mode, on_text=show, **options)
    print()


async def _ask_in_turns(
    trial: ExperimentSession,
    orchestrator: Orchestrator,
    agent: str,
    request: str,
    modes: Mapping[str, OrchestrationMode | None],
    options: dict[str, Any],
) -> None:
    for turn in trial.turns():
        with trial.recording_failures(turn), trial.measuring(turn):
            await orchestrator.orchestrate_agent(
                agent, request, mode=modes[turn.condition], **options
            )


async def _ask_batch(
    orchestrator: Orchestrator, queries: list[dict[str, str]], options: dict[str, Any]
) -> None:
    shown = DisplayHandle()
    shown.display({"text/plain": f"0 of {len(queries)} answered"}, raw=True)
    done = failed = 0

    def show(_position: int, outcome: Outcome) -> None:
        nonlocal done, failed
        done += 1
        failed += isinstance(outcome, Exception)
        failures = f", {failed} failed" if failed else ""
        shown.update(
            {"text/plain": f"{done - failed} of {len(queries)} answered{failures}"}, raw=True
        )

    outcomes = await batch_orchestrate(
        [{**query, **options} for query in queries], orchestrator=orchestrator, on_result=show
    )
    for query, outcome in zip(queries, outcomes, strict=True):
        said = (
            f"{type(outcome).__name__}: {outcome}"
            if isinstance(outcome, Exception)
            else outcome.text.strip()
        )
        print(f"{query['agent']}: {query['request']}\n{said}\n")


def _queries(orchestrator: Orchestrator, agent: str | None, cell: str) -> list[dict[str, str]]:
    """Return the queries of a cell: ``agent: request`` a line, or just requests to ``agent``."""
    queries = []
    for line in filter(None, map(str.strip, cell.splitlines())):
        before, _, after = map(str.strip, line.partition(":"))
        if agent is not None and not _is_agent(orchestrator, before):
            # Any colon in it is the request's own.
            before, after = agent, line
        if not after:
            raise RequestError(f"{line!r} is no query: write `agent: request` on each line.")
        queries.append({"agent": orchestrator.registry.resolve(before), "request": after})
    return queries


def _is_agent(orchestrator: Orchestrator, name: str) -> bool:
    try:
        orchestrator.registry.resolve(name)
    except UnknownAgentError:
        return False
    return True


def _modes(text: str | None) -> list[OrchestrationMode | None]:
    if text is None:
        return [None]
    modes: list[OrchestrationMode | None] = [parse_mode(name) for name in text.split(",")]
    if len(set(modes)) != len(modes):
        raise UsageError(f"--mode {text} names a mode twice.")
    return modes
