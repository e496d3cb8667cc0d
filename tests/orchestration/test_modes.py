"""How the mode of a request is chosen."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from claude_pm.agents import Agent
from claude_pm.agents.agent import Isolation
from claude_pm.errors import ModeError
from claude_pm.orchestration.modes import (
    ModeChoice,
    OrchestrationMode,
    choose_mode,
    configured_mode,
    parse_mode,
)
from claude_pm.services.agent_registry import AgentRegistry
from claude_pm.settings import read_settings

REQUEST = "asked for on the request"
FORCED = "CLAUDE_PM_FORCE_SUBPROCESS_MODE is set"
VARIABLE = "CLAUDE_PM_ORCHESTRATION_MODE"
ISOLATED = "isolation asked for on the request"
AGENT = "hybrid: the agent asks for isolation"
NOBODY = "hybrid: no isolation asked for"


def configured(mode: str | None, *, force: bool) -> ModeChoice:
    """Return what such an environment asks for; None is a variable that is not set."""
    return configured_mode(
        read_settings(orchestration_mode=mode, force_subprocess_mode=force or None)
    )


def agent(isolation: Isolation) -> Agent:
    """Return an agent with that isolation."""
    return Agent("clerk", "Ask it.", "Be brief.", 16, None, isolation, Path("clerk.md"))


def choose(
    requested: str | None,
    force: bool,
    variable: str | None,
    isolated: bool | None,
    isolation: Isolation,
) -> ModeChoice:
    """Choose with everything given."""
    return choose_mode(
        configured(variable, force=force),
        lambda: agent(isolation),
        requested=requested,
        isolated=isolated,
    )


@pytest.mark.parametrize(
    ("requested", "force", "variable", "isolated", "isolation", "mode", "reason"),
    [
        # Who is asked first: the request, the forcing variable, the mode's variable, nobody.
        (None, False, None, None, "none", "local", "default"),
        (None, False, "local", None, "none", "local", VARIABLE),
        (None, False, "subprocess", None, "none", "subprocess", VARIABLE),
        (None, True, None, None, "none", "subprocess", FORCED),
        (None, True, "local", None, "none", "subprocess", FORCED),
        (None, True, "hybrid", None, "none", "subprocess", FORCED),
        ("local", False, "subprocess", None, "none", "local", REQUEST),
        ("local", True, None, None, "none", "local", REQUEST),
        ("subprocess", False, None, None, "none", "subprocess", REQUEST),
        # Isolation on the request wins over every mode that was not asked for beside it.
        (None, False, None, True, "none", "subprocess", ISOLATED),
        (None, False, "local", True, "none", "subprocess", ISOLATED),
        ("subprocess", False, None, True, "none", "subprocess", ISOLATED),
        ("hybrid", False, None, True, "none", "subprocess", ISOLATED),
        (None, True, None, False, "none", "subprocess", FORCED),
        ("subprocess", False, None, False, "none", "subprocess", REQUEST),
        # An agent's own isolation counts in HYBRID, unless the request forbids it.
        (None, False, None, None, "subprocess", "local", "default"),
        ("local", False, None, None, "subprocess", "local", REQUEST),
        (None, False, "hybrid", None, "subprocess", "subprocess", AGENT),
        ("hybrid", False, None, None, "subprocess", "subprocess", AGENT),
        ("hybrid", True, "local", None, "subprocess", "subprocess", AGENT),
        ("hybrid", False, None, False, "subprocess", "local", NOBODY),
        ("hybrid", False, None, None, "none", "local", NOBODY),
        (None, False, "hybrid", None, "none", "local", NOBODY),
    ],
)
def test_truth_table(
    requested: str | None,
    force: bool,
    variable: str | None,
    isolated: bool | None,
    isolation: Isolation,
    mode: str,
    reason: str,
) -> None:
    """Request, force, variable, isolation and agent decide together, and the reason says which."""
    chosen = choose(requested, force, variable, isolated, isolation)
    assert chosen == ModeChoice(OrchestrationMode(mode), reason)


MODES = (None, "local", "subprocess", "hybrid")


def test_every_combination() -> None:
    """A request is served LOCAL or in SUBPROCESS; what asks for isolation is never LOCAL."""
    combinations = itertools.product(
        MODES, (False, True), MODES, (None, True, False), ("none", "subprocess")
    )
    for given in combinations:
        requested, force, variable, isolated, isolation = given
        if requested == "local" and isolated:
            with pytest.raises(ModeError, match="both LOCAL and isolated"):
                choose(*given)
            continue
        mode = choose(*given).mode
        hybrid = requested == "hybrid" or (requested is None and not force and variable == "hybrid")
        if isolated or requested == "subprocess" or (requested is None and force):
            assert mode is OrchestrationMode.SUBPROCESS, given
        elif hybrid:
            apart = isolation == "subprocess" and isolated is None
            assert mode is OrchestrationMode("subprocess" if apart else "local"), given
        else:
            assert mode is OrchestrationMode(requested or variable or "local"), given


def test_security_in_hybrid() -> None:
    """Of the agents that come with claude_pm, HYBRID isolates the security agent."""
    registry = AgentRegistry()
    isolated = [
        name
        for name in registry.names()
        if choose_mode(
            configured("hybrid", force=False),
            lambda name=name: registry.get_agent(name),  # type: ignore[misc]
            requested=None,
            isolated=None,
        ).mode
        is OrchestrationMode.SUBPROCESS
    ]
    assert isolated == ["security"]


def test_only_hybrid_reads_the_agent() -> None:
    """The other modes are chosen without the agent's file."""

    def read() -> Agent:
        raise AssertionError

    for mode in ("local", "subprocess"):
        choose_mode(configured(None, force=False), read, requested=mode, isolated=None)


class TestParse:
    @pytest.mark.parametrize("mode", OrchestrationMode)
    def test_any_case(self, mode: OrchestrationMode) -> None:
        """A mode is found by its name in any case, or is itself."""
        assert parse_mode(f" {mode.name} ") is mode
        assert parse_mode(mode.value.title()) is mode
        assert parse_mode(mode) is mode

    @pytest.mark.parametrize("name", ["", "remote", "local,subprocess"])
    def test_unknown(self, name: str) -> None:
        """An unknown name is an error that names the modes."""
        with pytest.raises(ModeError, match=r"local, subprocess, hybrid\.$") as caught:
            parse_mode(name)
        assert repr(name) in str(caught.value)


def test_hybrid_stays_hybrid_until_a_request() -> None:
    """The configured mode is what was asked for, before any agent is looked at."""
    assert configured("hybrid", force=False).mode is OrchestrationMode.HYBRID
