"""Which of a project's files an agent is told of by its patterns."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from pathlib import Path

import pytest

from claude_pm.services import context_files
from claude_pm.services.context_files import (
    Look,
    PassedOver,
    find_instructions,
    find_matching,
    find_readme,
)


def found(folder: Path, *patterns: str) -> list[str]:
    """Return the names of the files that match, in order."""
    return [source.name for source in find_matching(str(folder), patterns, Look({}))]


def write(folder: Path, *names: str) -> None:
    """Write files that say their name."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        (("*.md",), ["b.md", "docs/a.md", "docs/deep/c.md"]),
        (("/*.md",), ["b.md"]),
        (("docs/",), ["docs/a.md", "docs/x.py", "docs/deep/c.md"]),
        (("docs/**", "!*.md"), ["docs/x.py"]),
        (("*.md", "!docs/*.md"), ["b.md", "docs/deep/c.md"]),
        (("", "# no", "!"), []),
    ],
)
def test_patterns(tmp_path: Path, patterns: tuple[str, ...], names: list[str]) -> None:
    """Patterns are those of a .gitignore; the least deep come first, then by name."""
    write(tmp_path, "docs/deep/c.md", "docs/x.py", "docs/a.md", "b.md")
    assert found(tmp_path, *patterns) == names


def test_git_itself_is_left_out(tmp_path: Path) -> None:
    """Nothing in .git is told, not even by a link."""
    write(tmp_path, ".git/a.md", "a/.git/b.md", ".github/c.md")
    (tmp_path / "link.md").symlink_to(".git/a.md")
    assert found(tmp_path, "*") == [".github/c.md"]


def test_links(tmp_path: Path) -> None:
    """A link that leads out of the folder is passed over and counted; others are followed."""
    write(tmp_path, "secret.md", "project/a.md", "outside/b.md")
    project = tmp_path / "project"
    (project / "out.md").symlink_to(tmp_path / "secret.md")
    (project / "in.md").symlink_to("a.md")
    (project / "loop.md").symlink_to("loop.md")
    (project / "folder").symlink_to(tmp_path / "outside")
    (project / "CLAUDE.md").symlink_to(tmp_path / "secret.md")
    (project / "README.md").symlink_to(tmp_path / "secret.md")
    look = Look({})
    names = [source.name for source in find_matching(str(project), ("/*.md",), look)]
    assert names == ["a.md", "in.md", "loop.md"]
    assert look.counts() == PassedOver(outside=3)
    assert not list(find_readme(str(project), look))
    assert not list(find_instructions(str(project), str(project), look))


def test_users_own_file_may_be_a_link(tmp_path: Path) -> None:
    """The user keeps ~/.claude/CLAUDE.md where the user likes."""
    write(tmp_path, "dotfiles/claude.md", "home/.claude/x")
    (tmp_path / "home/.claude/CLAUDE.md").symlink_to(tmp_path / "dotfiles/claude.md")
    home = str(tmp_path / "home")
    assert [s.name for s in find_instructions(home, home, Look({}))] == ["~/.claude/CLAUDE.md"]


def test_at_most_so_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A huge project is looked at in part, and it is known that there was more."""
    monkeypatch.setattr(context_files, "MAX_ENTRIES", 3)
    write(tmp_path, "a.md", "b.md", "c/d.md", "e.md")
    look = Look({})
    assert len(list(find_matching(str(tmp_path), ("*",), look))) == 2
    assert look.counts() == PassedOver(not_walked=2)


def test_no_more_is_walked_than_is_told(tmp_path: Path) -> None:
    """Who has enough after one file has looked into no folder below."""
    write(tmp_path, "a.md", "b/c.md")
    look = Look({})
    next(find_matching(str(tmp_path), ("*",), look))
    assert str(tmp_path / "b") not in look.stamps


def test_names_are_one_line(tmp_path: Path) -> None:
    """A file's name cannot pretend to be text of its own."""
    write(tmp_path, "a\n# b.md")
    assert found(tmp_path, "*.md") == ["a?# b.md"]


def test_without_a_repository(tmp_path: Path) -> None:
    """Outside a repository the folder's own .gitignore holds, and none from above."""
    (tmp_path / "project").mkdir()
    (tmp_path / ".gitignore").write_text("*.md")
    (tmp_path / "project/.gitignore").write_text("b.md")
    write(tmp_path / "project", "a.md", "b.md")
    assert found(tmp_path / "project", "*.md") == ["a.md"]


NAMES = ["a", "b", "docs", "build", "x.md", "y.txt", "z.md"]
# fmt: off
LINES = [
    "*.md", "!*.md", "docs/", "/docs", "!docs/", "build", "*", "!*/", "*/", "!x.md", "a/**",
    "**/b", "a/*", "!a/x.md", "docs/*.md", "/x.md", "*.txt", "#c", "!", "/", "[ab]", "b/",
    "**/z.md", "a/b/", "!a/b/", "\\#x", "**/a/", "**",
]
# fmt: on


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
@pytest.mark.parametrize("seed", range(25))
def test_as_git_does(tmp_path: Path, seed: int) -> None:
    """In any repository and any folder of it those files are left out that git ignores."""
    chance = random.Random(seed)
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    subprocess.run(["git", "init", "-q", tmp_path], check=True, env=environment)
    folders = [tmp_path]
    for _ in range(5):
        folders.append(chance.choice(folders) / chance.choice(NAMES[:4]))
        folders[-1].mkdir(exist_ok=True)
    for folder in folders:
        write(folder, *NAMES[4:])
        if chance.random() < 0.5:
            (folder / ".gitignore").write_text("\n".join(chance.choices(LINES, k=4)))
    (tmp_path / ".git/info").mkdir(exist_ok=True)
    (tmp_path / ".git/info/exclude").write_text("\n".join(chance.choices(LINES, k=2)))
    for folder in (tmp_path, folders[-1]):
        listed = subprocess.run(
            ["git", "ls-files", "--others", "--exclude-standard", "."],
            check=True,
            capture_output=True,
            text=True,
            cwd=folder,
            env=environment,
        )
        assert sorted(found(folder, "*")) == sorted(listed.stdout.split())
