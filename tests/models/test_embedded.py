"""The embedded model: real weights, a real server on loopback, in this process."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import claude_pm
from claude_pm.errors import ContextTooLongError, ModelAuthenticationError, WeightsError
from claude_pm.models import ChatRequest, ChatResult, EmbeddedModel, MessagesClient, chat
from claude_pm.models.embedded import EmbeddedServer, shared_server, stop_servers
from claude_pm.orchestration import Orchestrator
from claude_pm.services.agent_registry import AgentRegistry
from tests import messages_server as api
from tests.road_fixtures import span_rows, write_agent

RULES = "You are a careful clerk who answers in one short sentence and never invents a fact. " * 4
REQUEST = ChatRequest((RULES,), "Say hello.", 4, temperature=0.0)


async def ask(model: EmbeddedModel, request: ChatRequest = REQUEST) -> ChatResult:
    """Ask once and close the connections."""
    try:
        return await chat(model, request)
    finally:
        await model.aclose()


class TestWeightsFiles:
    async def test_missing(self, tmp_path: Path) -> None:
        """A file that is not there is named, with the variable that named it."""
        with pytest.raises(WeightsError, match=r"none\.gguf cannot be read.*CLAUDE_PM_MODEL"):
            await ask(EmbeddedModel(tmp_path / "none.gguf"))

    async def test_a_folder(self, tmp_path: Path) -> None:
        """Nor is a folder a model."""
        with pytest.raises(WeightsError, match=r"cannot be read.*CLAUDE_PM_MODEL"):
            await ask(EmbeddedModel(tmp_path))

    @pytest.mark.parametrize("content", [b"", b"GG", b"<html>Sign in</html>"])
    async def test_no_gguf(self, tmp_path: Path, content: bytes) -> None:
        """A file of another kind is told by its first bytes, before it is loaded."""
        path = tmp_path / "page.gguf"
        path.write_bytes(content)
        with pytest.raises(WeightsError, match=r"is not a GGUF file.*CLAUDE_PM_MODEL"):
            await ask(EmbeddedModel(path))

    @pytest.mark.slow
    async def test_truncated(
        self, weights: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """Half of a download is refused in a sentence; llama.cpp says nothing of its own."""
        path = tmp_path / "half.gguf"
        with weights.open("rb") as file:
            path.write_bytes(file.read(2_000_000))
        with pytest.raises(WeightsError, match=r"half\.gguf could not be loaded"):
            await ask(EmbeddedModel(path))
        assert capfd.readouterr() == ("", "")


@pytest.mark.slow
class TestAnswers:
    async def test_real_tokens(self, embedded: EmbeddedServer, weights: Path) -> None:
        """The answer is text of the model, with its own counts, recorded as live."""
        heard: list[str] = []
        model = EmbeddedModel(weights)
        async with claude_pm.profile("ask", cpu=None, memory=None) as profile:
            result = await chat(model, REQUEST, on_text=heard.append)
        await model.aclose()
        assert result.text == "".join(heard) != ""
        assert result.model == "SmolLM2-135M-Instruct"
        assert result.usage.input_tokens is not None
        assert 50 < result.usage.input_tokens < 200
        assert result.usage.output_tokens == REQUEST.max_tokens
        assert profile.meta["model_use"] == "live"
        (span,) = [row for row in span_rows(profile) if row["name"] == "chat"]
        assert span["input_tokens"] == result.usage.input_tokens
        assert span["cost_usd"] is None

    async def test_reads_the_cache(self, embedded: EmbeddedServer, weights: Path) -> None:
        """The second request with a prompt reads it from the cache, through any model object."""
        first = await ask(EmbeddedModel(weights))
        again = await ask(EmbeddedModel(weights))
        assert again.usage.input_tokens == first.usage.input_tokens
        assert again.usage.input_tokens is not None
        assert again.usage.cache_read_tokens is not None
        assert again.usage.input_tokens / 2 < again.usage.cache_read_tokens
        assert again.usage.cache_read_tokens < again.usage.input_tokens

    async def test_cache_off(self, embedded: EmbeddedServer, weights: Path) -> None:
        """With the cache off every request is prefilled anew, whatever was asked before."""
        model = EmbeddedModel(weights, cache=False)
        results = [await chat(model, REQUEST), await chat(model, REQUEST)]
        await model.aclose()
        assert [result.usage.cache_read_tokens for result in results] == [0, 0]

    async def test_prompt_too_long(self, embedded: EmbeddedServer, weights: Path) -> None:
        """A prompt over the model's context is refused as such, at once."""
        long = ChatRequest(("word " * 5000,), "Say hello.", 4)
        with pytest.raises(ContextTooLongError):
            await ask(EmbeddedModel(weights), long)

    @pytest.mark.parametrize("key", [None, "another"])
    async def test_asks_for_its_key(self, embedded: EmbeddedServer, key: str | None) -> None:
        """Other users of the machine reach the port, but are refused."""
        client = MessagesClient(embedded.base_url, model=embedded.model, api_key=key)
        with pytest.raises(ModelAuthenticationError):
            await chat(client, REQUEST)
        await client.aclose()

    async def test_no_proxy(
        self, embedded: EmbeddedServer, weights: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A proxy in the environment is for the network, not for the model in this process."""
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, "http://127.0.0.1:9")
        assert (await ask(EmbeddedModel(weights))).text


@pytest.mark.slow
class TestServers:
    async def test_one_for_all(self, embedded: EmbeddedServer, weights: Path) -> None:
        """Models with the same weights and cache setting share one server."""
        async with claude_pm.profile("ask", cpu=None, memory=None) as profile:
            for _ in range(2):
                await ask(EmbeddedModel(weights))
        starts = [row for row in span_rows(profile) if row["name"] == "start_model"]
        assert [row["model"] for row in starts] == [embedded.model] * 2
        assert shared_server(weights, cache=True) is embedded

    async def test_stopped_and_started_again(self, embedded: EmbeddedServer, weights: Path) -> None:
        """After stop_servers the port is closed, and the next request has a new server."""
        model = EmbeddedModel(weights)
        before = await chat(model, REQUEST)
        stop_servers()
        with pytest.raises(claude_pm.errors.ModelConnectionError):
            await anext(
                MessagesClient(embedded.base_url, model=None, keep_alive=False).stream(REQUEST)
            )
        after = await chat(model, REQUEST)
        await model.aclose()
        assert after.usage.input_tokens == before.usage.input_tokens
        assert shared_server(weights, cache=True) is not embedded


ANSWERS = """
    import asyncio, sys
    from pathlib import Path
    from claude_pm.models import ChatRequest, EmbeddedModel, chat
    asyncio.run(chat(EmbeddedModel(Path(sys.argv[1])), ChatRequest((), "Hi.", 2)))
"""
# A thread of its own asks, so that nothing cancels the request when the main program ends.
ENDS_MEANWHILE = """
    import asyncio, contextlib, sys, threading
    from pathlib import Path
    from claude_pm.errors import ModelError
    from claude_pm.models import ChatRequest, EmbeddedModel, chat
    begun = threading.Event()
    model = EmbeddedModel(Path(sys.argv[1]))
    request = ChatRequest((), "Count from one to one thousand.", 2000)
    def ask():
        with contextlib.suppress(ModelError):
            asyncio.run(chat(model, request, on_text=lambda text: begun.set()))
    threading.Thread(target=ask, daemon=True).start()
    assert begun.wait(60)
"""
SERVES = """
    import json, sys
    from pathlib import Path
    from claude_pm.models.embedded import shared_server
    server = shared_server(Path(sys.argv[1]), cache=True)
    print(json.dumps([server.base_url, server.api_key]), flush=True)
    sys.stdin.read()
"""


def _command(code: str, weights: Path) -> list[str]:
    return [sys.executable, "-c", textwrap.dedent(code), str(weights)]


@pytest.mark.slow
@pytest.mark.parametrize(
    "code", [pytest.param(ANSWERS, id="idle"), pytest.param(ENDS_MEANWHILE, id="generating")]
)
def test_silent_to_the_end(weights: Path, code: str) -> None:
    """A program that used the model prints nothing of it and ends well, even in mid-answer."""
    done = subprocess.run(
        _command(code, weights), capture_output=True, text=True, timeout=100, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@contextmanager
def second_process(weights: Path) -> Iterator[tuple[str, str]]:
    """Run an embedded server in another process; give its address and key."""
    process = subprocess.Popen(
        _command(SERVES, weights), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        url, key = json.loads(process.stdout.readline())
        try:
            yield url, key
        finally:
            process.communicate(timeout=api.WAIT_S)


@pytest.mark.slow
async def test_reached_from_another_process(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``CLAUDE_PM_BASE_URL`` and ``CLAUDE_PM_API_KEY`` reach a Messages server anywhere."""
    write_agent(tmp_path / "agents", "clerk")
    registry = AgentRegistry(tmp_path / "agents")
    monkeypatch.chdir(tmp_path)
    with second_process(weights) as (url, key):
        monkeypatch.setenv("CLAUDE_PM_BASE_URL", f"{url}/v1")
        monkeypatch.setenv("CLAUDE_PM_API_KEY", key)
        async with Orchestrator(registry=registry) as orchestrator:
            response = await orchestrator.orchestrate_agent("clerk", "Say hello.", max_tokens=4)
        assert (response.model, response.usage.output_tokens) == ("SmolLM2-135M-Instruct", 4)
        monkeypatch.setenv("CLAUDE_PM_API_KEY", "another")
        async with Orchestrator(registry=registry) as orchestrator:
            with pytest.raises(ModelAuthenticationError, match="CLAUDE_PM_API_KEY"):
                await orchestrator.orchestrate_agent("clerk", "Say hello.")
