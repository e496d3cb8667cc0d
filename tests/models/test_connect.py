"""From settings to a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from claude_pm.errors import SettingsError
from claude_pm.models import EmbeddedModel, MessagesClient, connect
from claude_pm.models.connect import CLAUDE_URL, fetch_weights
from claude_pm.models.weights import FILE_NAME, SIZE_BYTES
from claude_pm.settings import read_settings

SERVER = "http://127.0.0.1:11434"


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        pytest.param({}, EmbeddedModel, id="nothing-set"),
        pytest.param({"model": "embedded"}, EmbeddedModel, id="embedded"),
        pytest.param({"api_key": "sk-1"}, EmbeddedModel, id="a-key-alone-selects-no-server"),
        pytest.param({"model": "large.gguf"}, EmbeddedModel, id="file"),
        pytest.param({"model": "Large.GGUF", "api_key": "sk-1"}, EmbeddedModel, id="file-and-key"),
        pytest.param(
            {"model": "claude-x", "api_key": "sk-1"}, (CLAUDE_URL, "claude-x"), id="claude"
        ),
        pytest.param({"base_url": SERVER, "model": "m"}, (SERVER, "m"), id="named-on-server"),
        pytest.param({"base_url": SERVER}, (SERVER, None), id="only-one-on-server"),
        pytest.param(
            {"base_url": SERVER, "model": "embedded"}, (SERVER, None), id="embedded-on-server"
        ),
    ],
)
def test_who_answers(settings: dict[str, Any], expected: type | tuple[str, str | None]) -> None:
    """The table of ``connect``: model and base URL decide who answers."""
    model = connect(read_settings(**settings))
    if isinstance(expected, type):
        assert type(model) is expected
    else:
        assert isinstance(model, MessagesClient)
        assert (model.base_url, model.model) == expected


@pytest.mark.parametrize(
    ("settings", "silence_s", "connections"),
    [
        pytest.param({}, 30.0, 10, id="nothing-set"),
        pytest.param({"request_timeout": 120.0}, 120.0, 10, id="a-longer-request"),
        pytest.param({"request_timeout": 60.0}, 60.0, 10, id="the-default-by-name"),
        pytest.param({"max_workers": 25}, 30.0, 25, id="more-workers-than-connections"),
    ],
)
def test_limits(settings: dict[str, Any], silence_s: float, connections: int) -> None:
    """A server may be silent for 30 s, if no other limit is set; each worker has a connection."""
    model = connect(read_settings(base_url=SERVER, **settings))
    assert isinstance(model, MessagesClient)
    assert model._timeout_s == silence_s
    assert model.concurrency == connections


def test_limits_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A time limit that the environment sets counts as set."""
    monkeypatch.setenv("CLAUDE_PM_BASE_URL", SERVER)
    monkeypatch.setenv("CLAUDE_PM_REQUEST_TIMEOUT", "90")
    model = connect(read_settings())
    assert isinstance(model, MessagesClient)
    assert model._timeout_s == 90.0


def test_keys_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """``ANTHROPIC_API_KEY``, which many have set, alone sends nothing to a paid service."""
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-of-the-user")
    assert isinstance(connect(read_settings()), EmbeddedModel)
    monkeypatch.setenv("CLAUDE_PM_MODEL", "claude-x")
    assert isinstance(connect(read_settings()), MessagesClient)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        pytest.param({"model": "claude-x"}, "'claude-x'.*ANTHROPIC_API_KEY", id="no-key"),
        pytest.param(
            {"model": "/m/large.gguf", "base_url": SERVER},
            "'/m/large.gguf'.*CLAUDE_PM_BASE_URL",
            id="file-and-server",
        ),
    ],
)
def test_cannot_be_had(settings: dict[str, Any], says: str) -> None:
    """Settings that name no model are an error that says which of them to change."""
    with pytest.raises(SettingsError, match=says):
        connect(read_settings(**settings))


@pytest.mark.parametrize(
    "settings",
    [{"base_url": SERVER}, {"model": "large.gguf"}, {"model": "claude-x", "api_key": "k"}],
)
def test_fetches_only_what_is_needed(settings: dict[str, Any], tmp_path: Path) -> None:
    """Who answers elsewhere, or from a file of the user's, needs no download."""
    fetch_weights(read_settings(**settings, model_dir=tmp_path / "models"))
    assert not (tmp_path / "models").exists()


def test_fetching_takes_what_is_there(tmp_path: Path) -> None:
    """Weights that are there are not fetched again."""
    with (tmp_path / FILE_NAME).open("wb") as file:
        file.truncate(SIZE_BYTES)
    fetch_weights(read_settings(model_dir=tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]
