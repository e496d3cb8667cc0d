"""Agents: the files that come with claude_pm, and what a file may say."""

from __future__ import annotations

from pathlib import Path

import httpx2
import pytest

from claude_pm.agents import BUILTIN_FOLDER, read_agent
from claude_pm.errors import AgentFileError
from claude_pm.models.embedded import EmbeddedServer

NAMES = [
    "data_engineer",
    "documentation",
    "engineer",
    "ops",
    "qa",
    "research",
    "security",
    "ticketing",
    "version_control",
]
FILES = sorted(BUILTIN_FOLDER.glob("*.md"))


class TestBuiltin:
    def test_names(self) -> None:
        """These nine agents come with claude_pm."""
        assert [path.stem for path in FILES] == NAMES

    @pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
    def test_reads(self, path: Path) -> None:
        """Each says when to ask it, in a sentence, and how it is run."""
        agent = read_agent(path)
        assert agent.name == path.stem
        assert agent.description.endswith(".")
        assert "\n" not in agent.description
        assert agent.max_tokens >= 256
        assert agent.temperature is not None

    def test_isolated(self) -> None:
        """The security agent alone asks for a process of its own."""
        isolated = [path.stem for path in FILES if read_agent(path).isolation == "subprocess"]
        assert isolated == ["security"]

    @pytest.mark.slow
    @pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
    async def test_prompt_fits_a_small_model(self, path: Path, embedded: EmbeddedServer) -> None:
        """Each prompt has 300 to 900 tokens of the embedded model: worth caching, and it fits."""
        async with httpx2.AsyncClient(headers={"x-api-key": embedded.api_key}) as http:
            told = await http.post(
                f"{embedded.base_url}/tokenize", json={"content": read_agent(path).prompt}
            )
        assert 300 <= len(told.json()["tokens"]) <= 900


NAMED = "name: clerk\ndescription: Ask it.\n"


def write(folder: Path, text: str | bytes, name: str = "clerk.md") -> Path:
    """Write an agent file."""
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


class TestFile:
    def test_all_keys(self, tmp_path: Path) -> None:
        """Every key of the front matter has its place."""
        agent = read_agent(
            write(
                tmp_path,
                "---\nname: clerk\ndescription: ' Ask it. '\nmax_tokens: 64\ntemperature: 1\n"
                "isolation: subprocess\n---\n\nBe brief.\n\n---\nGrüße.\n",
            )
        )
        assert agent.name == "clerk"
        assert agent.description == "Ask it."
        assert agent.prompt == "Be brief.\n\n---\nGrüße."
        assert (agent.max_tokens, agent.temperature, agent.isolation) == (64, 1.0, "subprocess")
        assert agent.path == tmp_path / "clerk.md"

    def test_defaults(self, tmp_path: Path) -> None:
        """Name, description and prompt are enough."""
        agent = read_agent(
            write(tmp_path, "---\nname: clerk\ndescription: Ask it.\n---\nBe brief.")
        )
        assert (agent.max_tokens, agent.temperature, agent.isolation) == (512, None, "none")

    @pytest.mark.parametrize(
        ("front", "key"),
        [
            pytest.param("description: x", "name", id="no-name"),
            pytest.param("name: other\ndescription: x", "name", id="name-of-another-file"),
            pytest.param("name: 7\ndescription: x", "name", id="name-is-a-number"),
            pytest.param("name: clerk", "description", id="no-description"),
            pytest.param("name: clerk\ndescription: ''", "description", id="empty-description"),
            pytest.param("name: clerk\ndescription: [x]", "description", id="description-list"),
            pytest.param(NAMED + "max_tokens: 0", "max_tokens", id="max-tokens-0"),
            pytest.param(NAMED + "max_tokens: 1.5", "max_tokens", id="max-tokens-fraction"),
            pytest.param(NAMED + "max_tokens: 'many'", "max_tokens", id="max-tokens-text"),
            pytest.param(NAMED + "max_tokens: yes", "max_tokens", id="max-tokens-bool"),
            pytest.param(NAMED + "max_tokens:", "max_tokens", id="max-tokens-empty"),
            pytest.param(NAMED + "temperature: 1.1", "temperature", id="temperature-high"),
            pytest.param(NAMED + "temperature: -1", "temperature", id="temperature-low"),
            pytest.param(NAMED + "temperature: .nan", "temperature", id="temperature-nan"),
            pytest.param(NAMED + "temperature: hot", "temperature", id="temperature-text"),
            pytest.param(NAMED + "isolation: process", "isolation", id="isolation-unknown"),
            pytest.param(NAMED + "isolation: [subprocess]", "isolation", id="isolation-list"),
            pytest.param(NAMED + "isolation: true", "isolation", id="isolation-bool"),
            pytest.param(NAMED + "model: large", "model", id="unknown-key"),
            pytest.param(NAMED + "content: x", "content", id="key-of-the-reader"),
            pytest.param(NAMED + "colour: red\n3: x", "3", id="unknown-keys-of-two-types"),
        ],
    )
    def test_a_value_that_may_not_be(self, tmp_path: Path, front: str, key: str) -> None:
        """The error names the file and the key."""
        path = write(tmp_path, f"---\n{front}\n---\nBe brief.")
        with pytest.raises(AgentFileError) as caught:
            read_agent(path)
        assert str(path) in str(caught.value)
        assert repr(key) in str(caught.value)

    @pytest.mark.parametrize(
        "text",
        [
            pytest.param("", id="empty"),
            pytest.param("Be brief.", id="no-front-matter"),
            pytest.param("---\nname: clerk\ndescription: x\n---\n\n", id="no-prompt"),
            pytest.param("---\nname: [clerk\n---\nBe brief.", id="no-yaml"),
            pytest.param("---\n- name\n- clerk\n---\nBe brief.", id="a-list"),
            pytest.param("---\nname: 2026-13-45\n---\nBe brief.", id="a-day-that-never-was"),
            pytest.param("{\n{\n}\nBe brief.", id="broken-json"),
            pytest.param("---\nname: !!python/object:os.x {}\n---\nBe brief.", id="python-object"),
            pytest.param(b"---\nname: clerk\n---\nBe br\xefef.", id="not-utf-8"),
        ],
    )
    def test_a_file_that_is_none(self, tmp_path: Path, text: str | bytes) -> None:
        """Whatever is wrong with a file is an AgentFileError that names it."""
        path = write(tmp_path, text)
        with pytest.raises(AgentFileError, match=r"clerk\.md"):
            read_agent(path)

    def test_a_file_that_is_not_there(self, tmp_path: Path) -> None:
        """So is a file that cannot be opened."""
        with pytest.raises(AgentFileError, match=r"none\.md cannot be read"):
            read_agent(tmp_path / "none.md")
