"""A cache trial: what is sent to a scripted server in each state, and what the real model reads."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

import claude_pm
from claude_pm.analysis import cache_effects, cache_savings, hit_rate
from claude_pm.errors import ModelError, RequestError, UnknownAgentError
from claude_pm.models import embedded as embedded_module
from claude_pm.orchestration import cache_trial
from claude_pm.recording.experiment_runner import BEFORE
from claude_pm.settings import read_settings
from tests import messages_server as api
from tests.messages_server import MessagesServer
from tests.road_fixtures import write_agent

PROMPT = "You test what others wrote, and say in one short sentence what breaks. " * 10


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two agents, in a working folder that has nothing else to tell."""
    monkeypatch.chdir(tmp_path)
    for name in ("tester", "writer"):
        write_agent(tmp_path / "agents", name, f"You are the {name}. {PROMPT}")
    return tmp_path / "agents"


def answered(read: int, written: int) -> api.Reply:
    """Answer like Claude: it leaves what the cache read and wrote out of the input tokens."""
    usage = {"cache_read_input_tokens": read, "cache_creation_input_tokens": written}
    return api.stream(
        api.start("claude-sonnet-4-5", input_tokens=100 - read - written, output_tokens=1, **usage),
        api.BLOCK_START,
        api.delta("ok"),
        api.BLOCK_STOP,
        api.finish(output_tokens=1),
        api.STOP,
    )


class Scripted:
    """Answers as Claude's cache would: a marked prefix that came before is read, else written."""

    def __init__(self, server: MessagesServer, monkeypatch: pytest.MonkeyPatch) -> None:
        self.bodies: list[dict[str, Any]] = []
        self._seen: set[str] = set()
        self.url = server.url
        monkeypatch.setattr(server, "reply_to", self._reply)

    def settings(self) -> claude_pm.Settings:
        """Return settings that name this server."""
        return read_settings(base_url=self.url, model="scripted")

    def _reply(self, received: api.Received) -> api.Reply:
        self.bodies.append(received.body)
        block = received.body["system"][0]
        if "cache_control" not in block:
            return answered(0, 0)
        known = block["text"] in self._seen
        self._seen.add(block["text"])
        return answered(90, 0) if known else answered(0, 90)


@pytest.fixture
def scripted(server: MessagesServer, monkeypatch: pytest.MonkeyPatch) -> Scripted:
    """A server that has a cache."""
    return Scripted(server, monkeypatch)


class TestScripted:
    def test_what_each_state_sends(self, scripted: Scripted, folder: Path) -> None:
        """Cold: a new line each time. Warm: asked just before. Off: nothing is marked."""
        made = cache_trial(
            ["tester", "writer"], "Well?", repeat=2, max_tokens=7, folder=folder,
            settings=scripted.settings(), seed=3,
        )  # fmt: skip
        assert made.conditions == [
            f"{agent}, {state}" for agent in ("tester", "writer")
            for state in ("cold", "warm", "off")
        ]  # fmt: skip
        assert made.samples["status"].tolist() == ["ok"] * 12
        asked = [body for body in scripted.bodies if body["max_tokens"] == 7]
        texts: dict[str, list[str]] = {}
        for condition, body in zip(made.samples["condition"], asked, strict=True):
            state = condition.split(", ")[1]
            block = body["system"][0]
            assert ("cache_control" in block) is (state != "off")
            assert body["messages"][0]["content"] == "Well?"
            texts.setdefault(state, []).append(block["text"])
        assert len(set(texts["cold"])) == 4
        assert len({text[:8] for text in texts["cold"]}) == 4
        assert {text.partition("\n\n")[2] for text in texts["cold"]} == set(texts["warm"])
        assert sorted(texts["warm"]) == sorted(texts["off"])

    def test_tables(self, scripted: Scripted, folder: Path) -> None:
        """Reads, writes and money of each state; the warming is recorded, and in no sample."""
        made = cache_trial("tester", repeat=2, folder=folder, settings=scripted.settings())
        table = cache_effects(made).set_index("cache_state")
        assert table["n"].to_dict() == {"cold": 2, "warm": 2, "off": 2}
        assert table["cache_read_tokens"].to_dict() == {"cold": 0, "warm": 90, "off": 0}
        assert table["cache_write_tokens"].to_dict() == {"cold": 90, "warm": 0, "off": 0}
        cold, off = cache_savings(made).to_dict("records")
        # 90 of 100 tokens at 3 dollars a million: written for 1.25 times that, read for a tenth.
        assert cold["saved_usd"] == pytest.approx(90 * 3e-6 * (1.25 - 0.1))
        assert off["saved_usd"] == pytest.approx(90 * 3e-6 * (1 - 0.1))
        assert cold["break_even_requests"] == 2
        assert sorted(hit_rate(made)["hit"]) == [False, False, True, True]
        spans = made.spans
        before = spans[spans["name"] == BEFORE]
        warmed = spans[(spans["name"] == "chat") & spans["parent_id"].isin(before["span_id"])]
        assert len(before) == 6
        assert before["parent_id"].isna().all()
        assert 2 <= len(warmed) <= 3
        assert (spans["name"] == "chat").sum() == 6 + len(warmed)

    def test_in_a_running_loop(self, scripted: Scripted, folder: Path) -> None:
        """As in a notebook; caches that the environment switched off are on where they must be."""
        settings = scripted.settings().model_copy(update={"cache_enabled": False})

        async def cell() -> claude_pm.Experiment:
            return cache_trial("writer", repeat=1, folder=folder, settings=settings)

        states = cache_effects(asyncio.run(cell()))["cache_state"]
        assert states.tolist() == ["cold", "warm", "off"]

    def test_no_server(self, folder: Path) -> None:
        """A model that cannot be made ready is an error, not an experiment of failures."""
        settings = read_settings(base_url="http://127.0.0.1:9", model="m")
        with pytest.raises(ModelError, match="No server answers"):
            cache_trial("tester", repeat=1, folder=folder, settings=settings)

    @pytest.mark.parametrize(
        ("agents", "error", "said"),
        [
            ([], RequestError, "at least one agent"),
            (["tester", "Tester"], RequestError, "one twice"),
            ("nobody", UnknownAgentError, "nobody"),
        ],
    )
    def test_refused(
        self, scripted: Scripted, folder: Path, agents: Any, error: type[Exception], said: str
    ) -> None:
        """Before anything is asked."""
        with pytest.raises(error, match=said):
            cache_trial(agents, folder=folder, settings=scripted.settings())
        assert scripted.bodies == []


@pytest.mark.slow
@pytest.mark.usefixtures("_stop_servers")
def test_the_embedded_model(folder: Path, weights: Path) -> None:
    """Cold reads what every prompt begins with, off nothing, warm the agent's prompt.

    Cold prompts leave no files: there is one for each agent that was warm.
    """
    embedded_module.stop_servers()
    prefixes = weights.parent / "prefixes"
    before = set(prefixes.glob("*.kv"))
    made = cache_trial(["tester", "writer"], repeat=2, max_tokens=2, folder=folder)
    assert made.samples["status"].tolist() == ["ok"] * 12
    assert made.meta["model_use"] == "live"
    table = cache_effects(made)
    assert table["n"].tolist() == [2] * 6
    reads = table.set_index(["agent", "cache_state"])["cache_read_tokens"]
    asked = table.set_index(["agent", "cache_state"])["input_tokens"]
    for agent in ("tester", "writer"):
        assert reads[agent, "cold"] < 10
        assert reads[agent, "off"] == 0
        assert reads[agent, "warm"] > 0.8 * asked[agent, "warm"]
        assert 3 <= asked[agent, "cold"] - asked[agent, "warm"] <= 20
    assert set(cache_savings(made)["compared_with"]) == {"cold", "off"}
    assert len(set(prefixes.glob("*.kv")) - before) == 2
    # The server without a cache is gone, the other one stays.
    assert [size > 0 for _, size in embedded_module._servers] == [True]
