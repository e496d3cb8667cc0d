"""The modes in which a request can be served, and how one is chosen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from claude_pm.agents import Agent
from claude_pm.errors import ModeError
from claude_pm.settings import Settings


class OrchestrationMode(StrEnum):
    """How requests are served.

    LOCAL answers in this process. SUBPROCESS starts a fresh process for every request. HYBRID
    answers in this process, except where isolation is asked for or where a worker is quicker.
    """

    LOCAL = "local"
    SUBPROCESS = "subprocess"
    HYBRID = "hybrid"


@dataclass(frozen=True, slots=True)
class ModeChoice:
    """The mode that a request is served in (LOCAL or SUBPROCESS), and why.

    ``fresh`` is False where a worker was chosen to be quick, not to be isolated: then one that
    has served before will do, and if no worker can be had, LOCAL.
    """

    mode: OrchestrationMode
    reason: str
    fresh: bool = True


_LOCAL = ModeChoice(OrchestrationMode.LOCAL, "hybrid: no isolation asked for")


def parse_mode(value: str | OrchestrationMode) -> OrchestrationMode:
    """Return the mode of a name, in any case.

    Raises:
        ModeError: there is none; the message names those there are.
    """
    try:
        return OrchestrationMode(value.strip().lower())
    except (AttributeError, ValueError):
        known = ", ".join(OrchestrationMode)
        raise ModeError(f"There is no mode {value!r}; the modes are {known}.") from None


def is_configured(settings: Settings) -> bool:
    """Say whether the environment asks for a mode at all."""
    return settings.force_subprocess_mode or "orchestration_mode" in settings.model_fields_set


def configured_mode(settings: Settings) -> ModeChoice:
    """Return the mode that the environment asks for, before any request is looked at."""
    if settings.force_subprocess_mode:
        return ModeChoice(OrchestrationMode.SUBPROCESS, "CLAUDE_PM_FORCE_SUBPROCESS_MODE is set")
    if is_configured(settings):
        return ModeChoice(
            OrchestrationMode(settings.orchestration_mode), "CLAUDE_PM_ORCHESTRATION_MODE"
        )
    return ModeChoice(OrchestrationMode.LOCAL, "default")


def choose_mode(
    configured: ModeChoice,
    read_agent: Callable[[], Agent],
    *,
    requested: str | OrchestrationMode | None,
    isolated: bool | None,
    quicker: Callable[[], ModeChoice] = lambda: _LOCAL,
) -> ModeChoice:
    """Return the mode to serve one request in, and why; ``configured`` is what the settings say.

    The request's own mode goes first, then ``CLAUDE_PM_FORCE_SUBPROCESS_MODE``, then
    ``CLAUDE_PM_ORCHESTRATION_MODE``, then LOCAL. Isolation asked for on the request always means
    a process of its own; asked for in the agent's front matter, it does so in HYBRID mode, which
    alone needs to read the agent. Where HYBRID is free to choose, ``quicker`` does; and it is free
    unless the request forbids a process of its own (``isolated=False``).

    Raises:
        ModeError: the mode does not exist, or LOCAL and isolation were both asked for.
    """
    if requested is None:
        asked = configured
    else:
        asked = ModeChoice(parse_mode(requested), "asked for on the request")
        if isolated and asked.mode is OrchestrationMode.LOCAL:
            raise ModeError(
                "A request cannot be both LOCAL and isolated: leave out mode='local', or "
                "isolated=True."
            )
    if isolated:
        return ModeChoice(OrchestrationMode.SUBPROCESS, "isolation asked for on the request")
    if asked.mode is not OrchestrationMode.HYBRID:
        return asked
    if isolated is None and read_agent().isolation == "subprocess":
        return ModeChoice(OrchestrationMode.SUBPROCESS, "hybrid: the agent asks for isolation")
    return _LOCAL if isolated is False else quicker()
