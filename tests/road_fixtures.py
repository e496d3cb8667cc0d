"""Fixtures of the road's tests; the conftest of each folder takes those that it needs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from claude_pm.models import embedded as embedded_module
from claude_pm.models.embedded import EmbeddedServer, shared_server
from claude_pm.models.weights import default_weights_path, ensure_weights
from claude_pm.settings import read_settings
from tests.messages_server import MessagesServer

if TYPE_CHECKING:
    from claude_pm.profiles import Profile

__all__ = ["embedded", "server", "span_rows", "weights", "write_agent"]


@pytest.fixture
def server() -> Iterator[MessagesServer]:
    """A scripted server on loopback."""
    started = MessagesServer()
    yield started
    started.stop()


@pytest.fixture(scope="session")
def weights() -> Path:
    """The default model's weights, fetched if they are not there."""
    linked = default_weights_path(read_settings().model_dir)
    ensure_weights(linked.resolve().parent)
    return linked


@pytest.fixture(scope="session")
def _stop_servers() -> Iterator[None]:
    yield
    embedded_module.stop_servers()


@pytest.fixture
def embedded(weights: Path, _stop_servers: None) -> EmbeddedServer:
    """The session's one embedded server, as every EmbeddedModel here uses it."""
    return shared_server(weights, cache=True, prefixes=weights.parent / "prefixes")


def span_rows(profile: Profile) -> list[dict[str, Any]]:
    """Return the spans of a profile as dicts, by start, with None where nothing is known."""
    table = profile.spans.astype(object)
    return table.where(table.notna(), None).to_dict("records")


def write_agent(folder: Path, name: str, prompt: str = "Be brief.", **keys: object) -> Path:
    """Write the Markdown file of an agent and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    front = {"name": name, "description": f"Ask {name}.", **keys}
    lines = "".join(f"{key}: {value}\n" for key, value in front.items())
    path = folder / f"{name}.md"
    path.write_text(f"---\n{lines}---\n{prompt}\n", encoding="utf-8")
    return path
