"""Requests as conditions of an experiment, asked of a scripted server."""

from __future__ import annotations

from typing import Any

import pytest

import claude_pm
from claude_pm.errors import ModeError, RequestError, SettingsError, UnknownAgentError
from claude_pm.orchestration import request_conditions
from tests import messages_server as api
from tests.messages_server import MessagesServer


class TestExperiment:
    def test_models_and_limits(self, server: MessagesServer) -> None:
        """Every combination is asked, with what it is named by, and compared."""
        server.script(*[api.answer("ok") for _ in range(12)])
        conditions = request_conditions(
            "qa", "Say hello.", base_url=server.url, model=["small", "large"], max_tokens=[8, 16]
        )
        assert list(conditions) == [
            "small, max_tokens=8", "small, max_tokens=16",
            "large, max_tokens=8", "large, max_tokens=16",
        ]  # fmt: skip
        made = claude_pm.experiment(conditions, repeat=2, seed=5)
        asked = [
            f"{received.body['model']}, max_tokens={received.body['max_tokens']}"
            for received in server.received
            if received.method == "POST"
        ]
        assert asked == made.samples["condition"].tolist()
        assert made.samples["status"].tolist() == ["ok"] * 12
        assert made.samples["output_tokens"].notna().all()
        assert {row.baseline for row in made.compare().rows} == {"small, max_tokens=8"}

    def test_modes_and_agents(self, server: MessagesServer) -> None:
        """Agents and modes are named bare; what does not vary is not named."""
        conditions = request_conditions(
            ["qa", "ops"], "Hello", mode=["local", "SUBPROCESS"], timeout=9, base_url=server.url,
            model="m",
        )  # fmt: skip
        assert list(conditions) == [
            "qa, local", "qa, subprocess", "ops, local", "ops, subprocess",
        ]  # fmt: skip
        assert list(request_conditions("qa", "Hello", model="m", base_url=server.url)) == ["qa"]


@pytest.mark.parametrize(
    ("choices", "error", "said"),
    [
        ({"mode": "both"}, ModeError, "both"),
        ({"agent": "nobody"}, UnknownAgentError, "nobody"),
        ({"colour": "red"}, SettingsError, "no setting named 'colour'"),
        ({"cache_enabled": ["maybe"]}, SettingsError, "CACHE_ENABLED"),
        ({"max_tokens": []}, RequestError, "max_tokens is an empty list"),
        ({"mode": ["local", "local"]}, RequestError, "mode names a value twice"),
    ],
)
def test_refused(choices: dict[str, Any], error: type[Exception], said: str) -> None:
    """What cannot be asked is refused before anything is."""
    with pytest.raises(error, match=said):
        request_conditions(**{"agent": "qa", "request": "Hello"} | choices)
