"""Saved states of prompts: which file fits, how many are kept, what a new process makes of them."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import claude_pm
from claude_pm.models import ChatRequest, EmbeddedModel, chat
from claude_pm.models import embedded as embedded_module
from claude_pm.models.saved_prefixes import SavedPrefix, SavedPrefixes
from tests.road_fixtures import span_rows


def keep(prefixes: SavedPrefixes, *system: str, size: int = 10, used_at: int = 0) -> Path:
    """Save something for a prompt, as if it had been used at that second."""
    aside = prefixes.aside()
    aside.write_bytes(b"x" * size)
    os.utime(aside, (used_at, used_at))
    return prefixes.keep(aside, system)


class TestFiles:
    def test_nothing_yet(self, tmp_path: Path) -> None:
        """A folder that is not there has nothing, and is not made by looking."""
        prefixes = SavedPrefixes(tmp_path / "none", ["m"])
        assert prefixes.find(("a",)) is None
        assert not prefixes.folder.exists()

    def test_exact(self, tmp_path: Path) -> None:
        """The same blocks find their file; it is the user's alone."""
        prefixes = SavedPrefixes(tmp_path / "prefixes", ["m"])
        path = keep(prefixes, "a", "b")
        assert prefixes.find(("a", "b")) == SavedPrefix(path, exact=True)
        assert path.parent.stat().st_mode & 0o777 == 0o700

    def test_same_beginning(self, tmp_path: Path) -> None:
        """Of prompts with the same first block, the newest helps a new one."""
        prefixes = SavedPrefixes(tmp_path, ["m"])
        keep(prefixes, "a", "old", used_at=1)
        newest = keep(prefixes, "a", "new", used_at=3)
        keep(prefixes, "a", "middle", used_at=2)
        assert prefixes.find(("a", "other")) == SavedPrefix(newest, exact=False)

    @pytest.mark.parametrize("system", [("b",), ("ab",), ("b", "a")])
    def test_other_prompts(self, tmp_path: Path, system: tuple[str, ...]) -> None:
        """A changed prompt finds nothing of the one before."""
        prefixes = SavedPrefixes(tmp_path, ["m"])
        keep(prefixes, "a", "b")
        assert prefixes.find(system) is None

    def test_other_models(self, tmp_path: Path) -> None:
        """A state fits one model, with one context size."""
        keep(SavedPrefixes(tmp_path, ["m", 4096]), "a")
        for model in (["m", 2048], ["n", 4096], ["m4096"]):
            assert SavedPrefixes(tmp_path, model).find(("a",)) is None
        assert SavedPrefixes(tmp_path, ["m", 4096]).find(("a",)) is not None

    def test_damaged(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        """A file that is not what was saved is removed, and the next best is taken."""
        prefixes = SavedPrefixes(tmp_path, ["m"])
        good = keep(prefixes, "a", "good", used_at=1)
        bad = [keep(prefixes, "a", "short", used_at=3), keep(prefixes, "a", "changed", used_at=2)]
        bad[0].write_bytes(b"x" * 9)
        bad[1].write_bytes(b"y" * 10)
        assert prefixes.find(("a", "short")) == SavedPrefix(good, exact=False)
        assert list(tmp_path.iterdir()) == [good]
        assert caplog.text.count("is damaged and was removed") == 2

    def test_saved_again(self, tmp_path: Path) -> None:
        """The newest state of a prompt takes the place of the one before."""
        prefixes = SavedPrefixes(tmp_path, ["m"])
        keep(prefixes, "a", size=5)
        newest = keep(prefixes, "a", size=6)
        assert list(tmp_path.iterdir()) == [newest]

    def test_bounded(self, tmp_path: Path) -> None:
        """The least recently used are removed, of whichever model; the new one never is."""
        other = SavedPrefixes(tmp_path, ["other"])
        prefixes = SavedPrefixes(tmp_path, ["m"], max_bytes=100)
        oldest = keep(other, "o", size=30, used_at=1)
        second = keep(prefixes, "a", size=30, used_at=2)
        third = keep(prefixes, "b", size=30, used_at=3)
        prefixes.used(second)
        newest = keep(prefixes, "c", size=30, used_at=4)
        assert [path.exists() for path in (oldest, second, third, newest)] == [
            False, True, True, True,
        ]  # fmt: skip
        huge = keep(prefixes, "d", size=500, used_at=5)
        assert list(tmp_path.iterdir()) == [huge]


PROMPT = "You are a careful clerk who answers letters. " * 12

_PROGRAM = """
import asyncio, json, sys
import claude_pm
from claude_pm.models import ChatRequest, EmbeddedModel, chat
from pathlib import Path

async def main():
    folder, *asked = json.loads(sys.argv[1])
    model = EmbeddedModel(model_dir=Path(folder))
    usages = []
    async with claude_pm.profile("p", cpu=None, memory=None) as profile:
        for system, user in asked:
            request = ChatRequest(tuple(system), user, max_tokens=2, cache_key="a")
            usage = (await chat(model, request)).usage
            usages.append([usage.cache_read_tokens, usage.input_tokens])
    print(json.dumps([usages, profile.spans["name"].tolist()]))

asyncio.run(main())
"""


def ask_in_a_new_process(folder: Path, *asked: tuple[list[str], str]) -> tuple[Any, Any]:
    """Return the (read, input) tokens of each answer of a fresh process, and its spans' names."""
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, json.dumps([str(folder), *asked])],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    usages, names = json.loads(done.stdout.splitlines()[-1])
    return usages, names


@pytest.fixture
def folder(tmp_path: Path, weights: Path) -> Path:
    """A model folder with the weights and nothing saved."""
    (tmp_path / weights.name).symlink_to(weights.resolve())
    return tmp_path


@pytest.mark.slow
class TestNewProcess:
    def test_starts_hot(self, folder: Path) -> None:
        """What one process has saved, the next need not prefill; and nothing else was saved."""
        secret = "The password of the safe is swordfish, swordfish, swordfish. " * 4
        ((read, asked),), names = ask_in_a_new_process(folder, ([PROMPT], secret))
        assert read < 0.1 * asked
        assert names == ["start_model", "chat", "save_prefix"]
        ((read, asked),), names = ask_in_a_new_process(folder, ([PROMPT], secret))
        assert names == ["start_model", "restore_prefix", "chat"]
        # The prompt is there, and not a word of the request.
        prompt_tokens = len(PROMPT) / 6
        assert 0.8 * prompt_tokens < read < asked - 20

    def test_of_the_same_agent(self, folder: Path) -> None:
        """With another context behind it, the agent's own prompt is still hot; it is saved too."""
        ask_in_a_new_process(folder, ([PROMPT, "It is Monday. " * 20], "Hello?"))
        ((read, asked),), names = ask_in_a_new_process(
            folder, ([PROMPT, "The sun shines. " * 20], "Hello?")
        )
        assert names == ["start_model", "restore_prefix", "chat", "save_prefix"]
        assert 0.4 * asked < read < 0.9 * asked
        assert len(list((folder / "prefixes").glob("*.kv"))) == 2

    def test_changed_prompt(self, folder: Path) -> None:
        """A prompt that was edited is another one."""
        ask_in_a_new_process(folder, ([PROMPT], "Hello?"))
        ((read, asked),), names = ask_in_a_new_process(folder, (["Be quick. " + PROMPT], "Hello?"))
        assert names == ["start_model", "chat", "save_prefix"]
        assert read < 0.1 * asked

    def test_damaged_file(self, folder: Path) -> None:
        """A file that is of no use is removed; the request is answered, cold, and saved anew."""
        ask_in_a_new_process(folder, ([PROMPT], "Hello?"))
        (path,) = (folder / "prefixes").glob("*.kv")
        path.write_bytes(path.read_bytes()[:5000])
        ((read, asked),), names = ask_in_a_new_process(folder, ([PROMPT], "Hello?"))
        assert names == ["start_model", "chat", "save_prefix"]
        assert read < 0.1 * asked
        (path,) = (folder / "prefixes").glob("*.kv")
        assert path.stat().st_size > 1_000_000


@pytest.mark.slow
class TestThisProcess:
    @pytest.fixture(autouse=True)
    def _own_server(self, monkeypatch: pytest.MonkeyPatch) -> Any:
        """A server of the test's own, stopped when it ends."""
        monkeypatch.setattr(embedded_module, "_servers", {})
        yield
        embedded_module.stop_servers()

    async def test_alternating_agents_stay_hot(self, folder: Path) -> None:
        """Of three agents that take turns each reads its prompt from the cache."""
        model = EmbeddedModel(model_dir=folder)
        agents = [f"You are clerk number {number}. {PROMPT}" for number in range(3)]
        for turn in range(3):
            for number, prompt in enumerate(agents):
                request = ChatRequest((prompt,), f"Hello {turn}?", 2, cache_key=str(number))
                usage = (await chat(model, request)).usage
                assert usage.cache_read_tokens is not None
                assert usage.input_tokens is not None
                if turn > 0:
                    assert usage.cache_read_tokens > 0.8 * usage.input_tokens

    async def test_switched_off(self, folder: Path) -> None:
        """Without caches nothing is read, written or reused."""
        model = EmbeddedModel(model_dir=folder, cache=False)
        for _ in range(2):
            usage = (await chat(model, ChatRequest((PROMPT,), "Hello?", 2))).usage
            assert not usage.cache_read_tokens
        assert not (folder / "prefixes").exists()

    async def test_not_to_be_saved(self, folder: Path) -> None:
        """A model that saves nothing shares the server, and its cache, with one that does."""
        request = ChatRequest((PROMPT,), "Hello?", 2)
        cold = await chat(EmbeddedModel(model_dir=folder, save_prompts=False), request)
        assert not (folder / "prefixes").exists()
        warm = await chat(EmbeddedModel(model_dir=folder), request)
        assert not cold.usage.cache_read_tokens
        assert (warm.usage.cache_read_tokens or 0) > 0.8 * (warm.usage.input_tokens or 0)

    async def test_a_cache_that_is_too_small(self, folder: Path) -> None:
        """What does not fit is evicted: with room for one, of three agents none stays hot."""
        reads = {}
        for mib in (64, 1):
            model = EmbeddedModel(model_dir=folder, save_prompts=False, prompt_cache_mib=mib)
            for number in (0, 1, 2, 0):
                request = ChatRequest((f"Clerk {number}: {PROMPT}",), "Hello?", 2)
                reads[mib] = (await chat(model, request)).usage.cache_read_tokens or 0
        assert reads[64] > 100
        assert reads[1] < 20

    async def test_short_prompts(self, folder: Path) -> None:
        """What is prefilled in no time is not worth a file."""
        await chat(EmbeddedModel(model_dir=folder), ChatRequest(("Be brief.",), "Hello?", 2))
        assert not (folder / "prefixes").exists()

    async def test_folder_that_cannot_be_written(
        self, folder: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A disk that refuses costs the state, not the answer; and it is said."""
        (folder / "prefixes").write_text("in the way")
        with caplog.at_level(logging.WARNING, logger="claude_pm"):
            async with claude_pm.profile("p", cpu=None, memory=None) as profile:
                result = await chat(
                    EmbeddedModel(model_dir=folder), ChatRequest((PROMPT,), "Hello?", 2)
                )
        assert result.usage.output_tokens
        assert "could not be saved" in caplog.text
        saved = span_rows(profile)[-1]
        assert (saved["name"], saved["status"]) == ("save_prefix", "ok")
        assert "failed" in json.loads(saved["attributes"])

    async def test_failed_request_saves_nothing(self, folder: Path) -> None:
        """After a request that broke off nobody knows what is in the slot."""

        def stop(text: str) -> None:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await chat(
                EmbeddedModel(model_dir=folder), ChatRequest((PROMPT,), "Hello?", 9), on_text=stop
            )
        assert not (folder / "prefixes").exists()

    async def test_count_tokens(self, folder: Path) -> None:
        """Texts are counted by the model's own tokenizer."""
        model = EmbeddedModel(model_dir=folder)
        assert await model.count_tokens("") == 0
        one, two = await model.count_tokens("Hello"), await model.count_tokens("Hello Hello")
        assert one == 1
        assert two == 2
