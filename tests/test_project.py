"""What holds for the project's files."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import claude_pm
from claude_pm.settings import Settings, variable_name

ROOT = Path(__file__).parent.parent


def tracked() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [ROOT / name for name in listed.stdout.split("\0") if name]


def test_lock_has_no_addresses() -> None:
    """The lock file pins names, versions and hashes, and tells no download address."""
    lock = (ROOT / "requirements.lock").read_text()
    assert "://" not in lock
    assert "index-url" not in lock
    pinned = re.findall(r"^([\w.-]+)==", lock, flags=re.MULTILINE)
    assert len(pinned) > 50
    assert lock.count("--hash=sha256:") >= len(pinned)


def test_lock_covers_what_is_required() -> None:
    """Every dependency in pyproject.toml is pinned, and the conda environment has it too."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    lock = (ROOT / "requirements.lock").read_text()
    conda = (ROOT / "environment.yml").read_text().replace("matplotlib-base", "matplotlib")
    for requirement in project["project"]["dependencies"]:
        name = re.match(r"[\w-]+", requirement)[0]
        assert re.search(rf"^{name}==", lock, flags=re.MULTILINE), name
        in_conda = rf"- {requirement.replace('>=', ' ?>=')}$"
        assert re.search(in_conda, conda, flags=re.MULTILINE), requirement


def test_readme_lists_every_variable() -> None:
    """The README's table of environment variables is the settings' own."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^\| `(CLAUDE_PM_\w+)` \|", readme, flags=re.MULTILINE))
    assert listed == {variable_name(field) for field in Settings.model_fields}


def test_readme_links_lead_somewhere() -> None:
    """Every local link and picture of the README is there."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)]+)\)", readme) if "://" not in link]
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_version_is_one() -> None:
    """The version is written in one place, from which the package's metadata comes."""
    done = subprocess.run(
        [Path(sys.executable).with_name("claude-pm"), "--version"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == f"claude-pm {claude_pm.__version__}\n"


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="no git checkout")
def test_no_file_is_large() -> None:
    """Nothing large is kept in the repository: weights are fetched, profiles are the user's."""
    assert [path.name for path in tracked() if path.stat().st_size > 1_000_000] == []
