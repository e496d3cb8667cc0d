"""``memory="memray"``: the lines that held memory at the peak."""

from __future__ import annotations

import builtins
from typing import Any

import pytest

from claude_pm.errors import RecordingError
from claude_pm.profiles import schema
from claude_pm.recording import profile

_MB = 1_000_000


def takes(size: int) -> int:
    """Hold memory for a moment."""
    return len(bytearray(size))


TAKES = takes.__code__.co_firstlineno + 2


def test_peak() -> None:
    """What was given back by the end is there too, at its line; it needs no CPU recording."""
    pytest.importorskip("memray")
    with profile(memory="memray") as recorded:
        takes(7 * _MB)
    schema.check(schema.ALLOCATIONS, recorded.allocations, where="the profile")
    largest = recorded.allocations.iloc[0]
    assert (largest["file"], largest["line"]) == (__file__, TAKES)
    assert largest["size_bytes"] == pytest.approx(7 * _MB, rel=0.01)
    assert recorded.meta["cpu"] is None
    assert not recorded.memory.empty


def test_once() -> None:
    """A second one at the same time is refused in a sentence, and the first goes on."""
    pytest.importorskip("memray")
    with profile(memory="memray") as recorded:
        with pytest.raises(RecordingError, match="tracks this process already"):
            profile(memory="memray").__enter__()
        takes(7 * _MB)
    assert recorded.allocations["size_bytes"].iloc[0] > 6 * _MB


def test_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without memray the sentence says what to install."""
    found = builtins.__import__

    def missing(name: str, *rest: Any, **more: Any) -> Any:
        if name == "memray":
            raise ImportError(name)
        return found(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(RecordingError, match=r"claude-pm\[memray\]"):
        profile(memory="memray").__enter__()
