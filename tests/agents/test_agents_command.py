"""``claude-pm agents``: what a terminal shows of the agents of every scope."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from claude_pm.cli.agents import app
from tests.road_fixtures import write_agent


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with an agent of its own, one that hides a built-in one, and a broken file."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "200")
    folder = tmp_path / "project"
    write_agent(folder / ".claude-pm" / "agents", "qa", context_patterns="src/, docs/")
    write_agent(folder / ".claude" / "agents", "painter", tools="[Read]")
    (folder / ".claude" / "agents" / "notes.md").write_text("Buy milk.")
    monkeypatch.chdir(folder)
    return folder


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def test_list() -> None:
    """Each agent is listed once with its scope; a broken file does not stop the others."""
    result = run("list")
    rows = [line.split()[:2] for line in result.stdout.splitlines()]
    assert result.exit_code == 0
    assert ["painter", "project"] in rows
    assert ["qa", "project"] in rows
    assert ["ops", "builtin"] in rows
    assert ["qa", "builtin"] not in rows
    assert "notes.md" in result.stderr
    assert "notes.md" not in result.stdout


def test_one_scope() -> None:
    """The agents of one scope alone, for programs too."""
    result = run("list", "--scope", "builtin", "--json")
    assert {agent["scope"] for agent in json.loads(result.stdout)} == {"builtin"}
    assert "qa" in {agent["name"] for agent in json.loads(result.stdout)}
    assert result.stderr == ""
    assert run("list", "--scope", "mine").exit_code == 2


def test_long_descriptions(project: Path) -> None:
    """Of a description of many lines the table shows the first, letter by letter."""
    path = project / ".claude" / "agents" / "painter.md"
    path.write_text(
        "---\nname: painter\ndescription: Use when: [/red] it is dull.\\nExamples: x\n---\nPaint.\n"
    )
    text = run("list", "--scope", "project").stdout
    assert "Use when: [/red] it is dull." in text
    assert "Examples" not in text


def test_show() -> None:
    """One agent with its scope and what it is told of."""
    text = run("show", "QA").stdout
    assert "scope project, max_tokens 512" in text
    assert "context patterns: src/, docs/" in text
    assert "keywords" not in text
    assert json.loads(run("show", "qa", "--json").stdout)["scope"] == "project"
