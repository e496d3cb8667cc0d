"""What holds for every test: a clean environment, and nothing left recording."""

from __future__ import annotations

import cProfile
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from claude_pm.models.weights import default_weights_path
from claude_pm.recording.span import _active as active_recorders
from claude_pm.settings import read_settings

_KEPT = "CLAUDE_PM_MODEL_DIR"
"""Where the weights are: the tests that need them shall not fetch them again."""


def _clean(environment: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        ours = name.upper().startswith("CLAUDE_PM_") or name.upper() == "ANTHROPIC_API_KEY"
        if ours and name != _KEPT:
            environment.delenv(name)


@pytest.fixture(scope="session", autouse=True)
def _clean_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Hide the developer's own settings and key, from fixtures of a wider scope too.

    The weights are seen from a folder of the session's own: states that are saved beside them
    come from no earlier run, and none of these is left to the developer's own.
    """
    with pytest.MonkeyPatch.context() as environment:
        _clean(environment)
        weights = default_weights_path(read_settings().model_dir)
        folder = tmp_path_factory.mktemp("models")
        (folder / weights.name).symlink_to(weights)
        environment.setenv(_KEPT, str(folder))
        yield


@pytest.fixture(scope="session", autouse=True)
def _can_be_interrupted() -> None:
    """Heed interrupts, also in child processes: who runs in a shell's background ignores them."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _isolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Give each test a folder of its own for profiles, and see that it leaves nothing recording."""
    _clean(monkeypatch)
    monkeypatch.setenv("CLAUDE_PM_PROFILES_DIR", str(tmp_path / "profiles"))
    yield
    profiler, recorders = _left_profiler(), list(active_recorders)
    active_recorders.clear()
    assert profiler is None, f"The test left a profiler on: {profiler}."
    assert not recorders, f"The test left {len(recorders)} recordings on."


def _left_profiler() -> str | None:
    """Return what profiles this thread, if anything does, and switch it off for the next test."""
    found = sys.getprofile()
    if found is not None:
        sys.setprofile(None)
        return repr(found)
    if sys.version_info >= (3, 12):
        # From here on cProfile is a tool of sys.monitoring, and getprofile() is blind to it.
        probe = cProfile.Profile()
        try:
            probe.enable()
        except ValueError:
            tool = sys.monitoring.PROFILER_ID
            name = sys.monitoring.get_tool(tool)
            sys.monitoring.set_events(tool, 0)
            sys.monitoring.free_tool_id(tool)
            return str(name)
        probe.disable()
    return None
