"""What the doctor says of a slow request; the command itself is in test_cli.py."""

from __future__ import annotations

import pytest

from claude_pm.cli import doctor
from claude_pm.models import Usage
from claude_pm.orchestration import OrchestrationMode, Response


@pytest.mark.parametrize(
    ("mode", "environment", "read_tokens", "says"),
    [
        ("subprocess", {}, 900, "use LOCAL mode"),
        ("local", {"CLAUDE_PM_CACHE_ENABLED": "false"}, 0, "unset CLAUDE_PM_CACHE_ENABLED"),
        ("local", {}, 0, "Nothing of the prompt came from the model's cache"),
        ("local", {"CLAUDE_PM_BASE_URL": "http://far"}, 900, "the server at http://far"),
        ("local", {}, 900, "the model itself is slow here"),
    ],
)
def test_advice(
    monkeypatch: pytest.MonkeyPatch,
    mode: str,
    environment: dict[str, str],
    read_tokens: int,
    says: str,
) -> None:
    """A warning names the likeliest cause and what to do about it."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    usage = Usage(input_tokens=1000, cache_read_tokens=read_tokens, output_tokens=4)
    response = Response(
        "yes", "qa", OrchestrationMode(mode), "m", usage, "end_turn", 2.0, 1.5, "0" * 32
    )
    advice = doctor._advice(response)
    assert advice.startswith("Slow: over 1 s for 4 tokens. ")
    assert says in advice
