"""Agents: the files that come with claude_pm, and what a file may say."""

from __future__ import annotations

from pathlib import Path

import httpx2
import pytest

from claude_pm.agents import BUILTIN_FOLDER, agent_key, read_agent, read_name
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
                "isolation: subprocess\ncontext_patterns: ['*.py', ' docs/ ']\n"
                "context_keywords: tests, , coverage\n---\n\nBe brief.\n\n---\nGrüße.\n",
            ),
            scope="project",
        )
        assert agent.name == "clerk"
        assert agent.description == "Ask it."
        assert agent.prompt == "Be brief.\n\n---\nGrüße."
        assert (agent.max_tokens, agent.temperature, agent.isolation) == (64, 1.0, "subprocess")
        assert agent.context_patterns == ("*.py", "docs/")
        assert agent.context_keywords == ("tests", "coverage")
        assert (agent.path, agent.scope) == (tmp_path / "clerk.md", "project")

    def test_defaults(self, tmp_path: Path) -> None:
        """Name, description and prompt are enough."""
        agent = read_agent(
            write(tmp_path, "---\nname: clerk\ndescription: Ask it.\n---\nBe brief.")
        )
        assert (agent.max_tokens, agent.temperature, agent.isolation) == (512, None, "none")
        assert (agent.context_patterns, agent.context_keywords) == ((), ())
        assert agent.scope == "builtin"

    def test_byte_order_mark(self, tmp_path: Path) -> None:
        """The mark that some editors begin a file with is not part of it."""
        path = write(tmp_path, f"\ufeff---\n{NAMED}---\nBe brief.")
        assert read_agent(path).prompt == "Be brief."

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
            pytest.param(NAMED + "isolation: worktree", "isolation", id="isolation-worktree"),
            pytest.param(NAMED + "context_patterns:", "context_patterns", id="patterns-empty"),
            pytest.param(NAMED + "context_patterns: ','", "context_patterns", id="patterns-comma"),
            pytest.param(NAMED + "context_patterns: 3", "context_patterns", id="patterns-number"),
            pytest.param(NAMED + "context_keywords: ['']", "context_keywords", id="keyword-empty"),
            pytest.param(NAMED + "context_keywords: [1]", "context_keywords", id="keyword-number"),
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
            pytest.param(f"---\nname: {'[' * 3000}\n---\nBe brief.", id="too-deep"),
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


REVIEWER = """---
name: code-reviewer
description: Use this agent when: code was written. Examples:\\n<example>\\nuser: "Fix [it"
  assistant: 'Now: the reviewer.'
name: not-this-one
tools: Read, Grep
model: sonnet
isolation: worktree
max_tokens: 64
context_patterns:
  - src/
  - docs/
---
Review it.
"""
"""As such files are in real life: the description is no valid YAML."""


class TestClaudeCodeFile:
    def test_valid_yaml(self, tmp_path: Path) -> None:
        """Its name is its own, and keys that we do not know are read past."""
        path = write(
            tmp_path,
            "---\nname: code-reviewer\ndescription: Ask it.\ntools: [Read]\ncolor: red\n"
            "isolation: worktree\nhooks: {a: {b: 1}}\n---\nReview it.\n",
        )
        agent = read_agent(path, scope="user", strict=False)
        assert (agent.name, agent.description, agent.scope) == ("code-reviewer", "Ask it.", "user")
        assert (agent.max_tokens, agent.isolation) == (512, "none")

    def test_no_valid_yaml(self, tmp_path: Path) -> None:
        """Front matter that is no YAML is read line by line."""
        agent = read_agent(write(tmp_path, REVIEWER), strict=False)
        assert agent.name == "code-reviewer"
        assert agent.description.startswith("Use this agent when: code was written. Examples:")
        assert agent.description.endswith("assistant: 'Now: the reviewer.'")
        assert (agent.max_tokens, agent.isolation) == (64, "none")
        assert agent.context_patterns == ("src/", "docs/")
        assert agent.prompt == "Review it."

    @pytest.mark.parametrize("description", ["yes", "Ask: it", "'Ask: it'", "12"])
    def test_a_text_is_a_text(self, tmp_path: Path, description: str) -> None:
        """Where lines are read plainly, what looks like another type is the text it is."""
        path = write(tmp_path, f"---\nname: a\ntools: [\ndescription: {description}\n---\nGo.")
        assert read_agent(path, strict=False).description == description.strip("'")

    @pytest.mark.parametrize(
        ("front", "key"),
        [
            ("description: x", "name"),
            ("name: 7\ndescription: x", "name"),
            ("name: '-'\ndescription: x", "name"),
            ("name: ../clerk\ndescription: x", "name"),
            ("name: a/b\ndescription: x", "name"),
            ("name: clerk", "description"),
            ("name: clerk\ndescription: x\nisolation: process", "isolation"),
            ("name: clerk\ndescription: x: y\nmax_tokens: many", "max_tokens"),
        ],
    )
    def test_a_value_that_may_not_be(self, tmp_path: Path, front: str, key: str) -> None:
        """What we need has to be there, and our own keys keep their rules."""
        path = write(tmp_path, f"---\n{front}\n---\nBe brief.")
        with pytest.raises(AgentFileError, match=rf"clerk\.md, '{key}'"):
            read_agent(path, strict=False)

    @pytest.mark.parametrize("text", ["", "# Notes\n", "---\nname: a\ndescription: b: c\n---\n"])
    def test_a_file_that_is_none(self, tmp_path: Path, text: str) -> None:
        """Notes that lie beside the agents are an error that names the file."""
        with pytest.raises(AgentFileError, match=r"clerk\.md"):
            read_agent(write(tmp_path, text), strict=False)

    @pytest.mark.parametrize(
        "front",
        [
            "name: code-reviewer",
            "name:   qa  ",
            "name: 'code-reviewer'",
            "name: qa # the tester",
            "name: Code Reviewer",
            "name: code\n  reviewer",
            "name: code\n\n  reviewer",
            "name: qa\nname: ops",
            "name: qa\nname: ops\ntools: [",
            "name: 'yes'",
            "name : qa",
            "tools: [\nname: qa",
            "x: |\n  name: ops\nname: qa",
            "name: qa\nlong: " + "x" * 10_000,
        ],
    )
    @pytest.mark.parametrize("newline", ["\n", "\r\n"])
    def test_name_alone(self, tmp_path: Path, front: str, newline: str) -> None:
        """The name that is found quickly is the one that the whole file gives."""
        text = f"---\n{front}\ndescription: Ask it.\n---\nBe brief.".replace("\n", newline)
        path = write(tmp_path, text)
        assert read_name(path) == read_agent(path, strict=False).name

    @pytest.mark.parametrize("front", ["name: yes", "name:", "name: ..", "names: qa", ""])
    def test_no_name(self, tmp_path: Path, front: str) -> None:
        """A file without a name is an error in both."""
        path = write(tmp_path, f"---\n{front}\ndescription: Ask it.\n---\nBe brief.")
        for read in (read_name, lambda path: read_agent(path, strict=False)):
            with pytest.raises(AgentFileError, match="'name'"):
                read(path)


def test_key() -> None:
    """Spellings of one name have one key."""
    spellings = ["data_engineer", "Data-Engineer", " data  engineer", "DATA_-ENGINEER\n"]
    assert {agent_key(name) for name in spellings} == {"data_engineer"}
