"""What an agent is told of the working folder."""

from __future__ import annotations

import asyncio
import os
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from claude_pm.agents import Agent
from claude_pm.services import context_manager
from claude_pm.services.context_files import PassedOver
from claude_pm.services.context_manager import (
    TOKEN_BUDGET,
    Context,
    ContextManager,
    estimate_tokens,
    fit,
)

TITLE = "# The project in the working folder (excerpts)"
CUT = "\n[...]"
PLENTY = 100_000


def agent(*, patterns: tuple[str, ...] = (), keywords: tuple[str, ...] = ()) -> Agent:
    """Return an agent that asks for these."""
    return Agent(
        "qa",
        "Tests.",
        "Test.",
        512,
        None,
        "none",
        Path("qa.md"),
        context_patterns=patterns,
        context_keywords=keywords,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return an empty folder whose user has an empty home."""
    (tmp_path / "home").mkdir()
    (tmp_path / "above" / "project").mkdir(parents=True)
    return tmp_path / "above" / "project"


def manager(folder: Path, *, budget: int = PLENTY) -> ContextManager:
    """Return a manager that knows nothing of the real user's files."""
    return ContextManager(folder, token_budget=budget, home=folder.parents[1] / "home")


async def build(folder: Path, who: Agent | None = None, *, budget: int = PLENTY) -> Context:
    """Build the context of a folder anew."""
    return (await manager(folder, budget=budget).build(who))[0]


def write(path: Path, text: str) -> None:
    """Write a file, and the folders it is in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


async def count_words(text: str) -> int | None:
    """Count tokens as a tokenizer might."""
    return len(re.findall(r"\w{1,5}|[^\w\s]|\n+", text)) + 1


class TestText:
    async def test_order(self, folder: Path) -> None:
        """CLAUDE.md files come first, nearest first, then the chosen files, then the README."""
        home = folder.parents[1] / "home"
        named = {
            "CLAUDE.md": folder / "CLAUDE.md",
            ".claude/CLAUDE.md": folder / ".claude/CLAUDE.md",
            "CLAUDE.local.md": folder / "CLAUDE.local.md",
            "../CLAUDE.md": folder.parent / "CLAUDE.md",
            "../../.claude/CLAUDE.md": folder.parents[1] / ".claude/CLAUDE.md",
            "~/.claude/CLAUDE.md": home / ".claude/CLAUDE.md",
            "z.py": folder / "z.py",
            "a/b.py": folder / "a/b.py",
            "README.md": folder / "README.md",
        }
        for name, path in named.items():
            write(path, f"This is {name}.")
        write(folder.parent / "README.md", "The README of another folder.")
        context = await build(folder, agent(patterns=("*.py",)))
        assert context.files == tuple(named)
        assert context.text == "\n\n".join(
            [TITLE, *(f"## {name}\n\nThis is {name}." for name in named)]
        )
        assert not context.truncated

    async def test_user_home_is_above(self, tmp_path: Path) -> None:
        """The user's own file is told once where the folder is in the user's home."""
        write(tmp_path / ".claude/CLAUDE.md", "Be kind.")
        (tmp_path / "project").mkdir()
        told, _ = await ContextManager(tmp_path / "project", home=tmp_path).build()
        assert told.files == ("~/.claude/CLAUDE.md",)

    @pytest.mark.parametrize("name", ["README.md", "README.rst", "README.txt", "README"])
    async def test_any_readme(self, folder: Path, name: str) -> None:
        """The README may be of any usual kind; of several, the first is taken."""
        write(folder / name, "It sorts.")
        assert (await build(folder)).files == (name,)
        write(folder / "README.md", "It sorts.")
        assert (await build(folder)).files == ("README.md",)

    async def test_nothing_there(self, folder: Path) -> None:
        """A folder without any of the files has no context."""
        assert await build(folder) == Context("", 0, "estimate", truncated=False)
        assert await build(folder / "nowhere") == Context("", 0, "estimate", truncated=False)

    @pytest.mark.parametrize("text", ["", "\n \n"], ids=["empty", "blank"])
    async def test_nothing_said(self, folder: Path, text: str) -> None:
        """A file without text is not spoken of."""
        write(folder / "CLAUDE.md", text)
        write(folder / "README.md", "It sorts.")
        assert (await build(folder)).files == ("README.md",)

    async def test_working_folder(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without a folder and home they are the process's, as they are at each request."""
        write(folder / "README.md", "It sorts.")
        write(folder / "home/.claude/CLAUDE.md", "Be kind.")
        told_of = ContextManager()
        monkeypatch.chdir(folder)
        monkeypatch.setenv("HOME", str(folder / "home"))
        assert (await told_of.build())[0].files == ("~/.claude/CLAUDE.md", "README.md")
        (folder / "empty").mkdir()
        monkeypatch.chdir(folder / "empty")
        monkeypatch.setenv("HOME", str(folder / "empty"))
        assert (await told_of.build())[0].files == ()
        (folder / "empty").rmdir()
        assert (await told_of.build())[0].files == ()

    async def test_relative_folder(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A relative folder is one of the working folder."""
        write(folder / "README.md", "It sorts.")
        monkeypatch.chdir(folder.parent)
        assert (await ContextManager(Path("project")).build())[0].files[-1:] == ("README.md",)

    async def test_repeated_sections(self, folder: Path) -> None:
        """What was said already is not said again; the nearest says it."""
        write(folder / "CLAUDE.md", "# Style\n\nBe  kind.\n\n# Mine\nYes.")
        write(folder.parent / "CLAUDE.md", "# Style\nBe kind.\n\n# style\n\nBe kind.")
        write(folder / "README.md", "# Mine\n\nYes.")
        context = await build(folder)
        assert context.files == ("CLAUDE.md", "../CLAUDE.md")
        assert context.text.endswith(
            "# Style\n\nBe  kind.\n\n# Mine\nYes.\n\n## ../CLAUDE.md\n\n# style\n\nBe kind."
        )

    async def test_keywords(self, folder: Path) -> None:
        """An agent is told of its keywords only, but always the preface and the README."""
        write(folder / "CLAUDE.md", "Preface.\n# Tests\nRun.\n# Run\nPYTEST!\n# Style\nNo pytests.")
        write(folder.parent / "CLAUDE.md", "Above.\n# C++\nTools.")
        write(folder / "a.md", "# In a\nUse pytest.\n# Else\nNothing.")
        write(folder / "README.md", "# What\nIt sorts.")
        who = agent(patterns=("*.md",), keywords=("pytest", "tests", "c++"))
        said = (await build(folder, who)).text
        told = ["Preface.", "# Tests", "# Run", "# C++", "# In a", "# What"]
        assert [line for line in told if line in said] == told
        assert not [line for line in ("# Style", "Above.", "# Else") if line in said]
        everything = (await build(folder, agent(patterns=("*.md",)))).text
        assert all(line in everything for line in [*told, "# Style", "Above.", "# Else"])


class TestFit:
    @pytest.mark.parametrize("budget", [0, 1, 20, 25, 60, 100, 1000])
    async def test_longest_that_fits(self, budget: int) -> None:
        """No beginning of the text that is longer would have fitted, by the model's own count."""
        lines = [TITLE, "", "## README.md", ""]
        lines += [f"Line {n} " + "word " * (n % 9) for n in range(30)]
        text = "\n".join(lines)
        calls = 0

        async def count(part: str) -> int | None:
            nonlocal calls
            calls += 1
            return await count_words(part)

        context = await fit(text, budget, count)
        assert calls <= 4
        beginnings = ["\n".join(lines[:n]) + CUT for n in range(5, len(lines))] + [text]
        fitting = [part for part in beginnings if (await count_words(part) or 0) <= budget]
        assert context.text == (fitting[-1] if fitting else "")
        assert context.tokens == (await count_words(context.text) if fitting else 0) <= budget
        assert (context.counted_by, context.truncated) == ("model", context.text != text)

    async def test_no_lonely_heading(self) -> None:
        """A heading without any of its text is not kept."""
        text = "# Title\n\nOne.\n\n## Heading\n\n" + "Two. " * 50
        assert (await fit(text, 12)).text == f"# Title\n\nOne.{CUT}"

    async def test_counter_cannot_say(self) -> None:
        """A counter that cannot say, even if later than at first, has the text estimated."""
        answers = iter([1000])

        async def count(_text: str) -> int | None:
            return next(answers, None)

        text = "Some words.\n" * 100
        context = await fit(text, 50, count)
        assert context == await fit(text, 50)
        assert context.counted_by == "estimate"
        assert context.tokens == estimate_tokens(context.text) <= 50

    async def test_few_bytes_counted_of_a_long_text(self) -> None:
        """The first count is of a beginning: a long text is not sent as a whole."""
        sizes = []

        async def count(part: str) -> int | None:
            sizes.append(len(part.encode()))
            return await count_words(part)

        await fit("Some words and some more.\n" * 10_000, 256, count)
        assert max(sizes) < 256 * 8

    @settings(max_examples=100, deadline=None)
    @given(text=st.text("ab #`\n日", max_size=300), budget=st.integers(0, 80))
    @example(text="\n" * 900 + "x", budget=100)
    def test_any_text(self, text: str, budget: int) -> None:
        """Whatever the text, the budget is kept, and a cut is marked."""
        context = asyncio.run(fit(text, budget, count_words))
        assert context.tokens <= budget
        if context.truncated:
            assert context.text == "" or context.text.endswith(CUT)
            assert text.startswith(context.text.removesuffix(CUT))
        else:
            assert context.text == text

    @pytest.mark.parametrize(
        ("text", "tokens"), [("", 0), ("a", 1), ("abc", 1), ("abcd", 2), ("日本", 2)]
    )
    def test_estimate(self, text: str, tokens: int) -> None:
        """A token for every 3 bytes that have begun."""
        assert estimate_tokens(text) == tokens


class TestBudget:
    async def test_cut_is_marked(self, folder: Path) -> None:
        """A text that is too long ends at the end of a line, and says so."""
        write(folder / "README.md", "".join(f"Line {n}.\n" for n in range(5000)))
        context = await build(folder, budget=TOKEN_BUDGET)
        *_, last, mark = context.text.splitlines()
        assert (last[-1], mark) == (".", "[...]")
        assert context.truncated
        assert TOKEN_BUDGET * 0.9 < context.tokens <= TOKEN_BUDGET
        assert context.tokens == context.estimated_tokens

    async def test_claude_md_leaves_no_room(self, folder: Path) -> None:
        """CLAUDE.md may take it all; the README is then left out, and the cut is known."""
        write(folder / "CLAUDE.md", "Be kind.\n" * 100)
        write(folder / "README.md", "It sorts.\n" * 1000)
        told_of = manager(folder, budget=TOKEN_BUDGET)
        context, _ = await told_of.build()
        assert context.files == ("CLAUDE.md",)
        assert context.truncated
        collected, _ = await told_of.collect()
        assert collected.files == ("CLAUDE.md", "README.md")
        assert len(collected.text.encode()) <= TOKEN_BUDGET * 16
        assert collected.truncated

    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
    @given(claude=st.text(max_size=400), readme=st.text(max_size=400), budget=st.integers(0, 120))
    @example(claude=" " * 300 + "x", readme="long line " * 100, budget=100)
    @example(claude="ä" * 200, readme="日本語" * 200, budget=100)
    def test_any_text(self, folder: Path, claude: str, readme: str, budget: int) -> None:
        """Whatever the files say, the budget is kept and a cut is known."""
        (folder / "CLAUDE.md").write_text(claude, encoding="utf-8", errors="ignore")
        (folder / "README.md").write_text(readme, encoding="utf-8", errors="ignore")
        context = asyncio.run(build(folder, budget=budget))
        whole = asyncio.run(build(folder))
        assert context.tokens == estimate_tokens(context.text) <= budget
        assert context.truncated == (context.text != whole.text)
        assert context.files == whole.files[: len(context.files)]


class TestCache:
    async def test_every_change_is_seen(self, folder: Path) -> None:
        """Whatever changes, comes or goes is told at the next request, and only then is read."""
        told_of = manager(folder)
        who = agent(patterns=("docs/**",))
        for name in ("README.md", "docs/a.md", "docs/b.md"):
            write(folder / name, f"This is {name}.")
        home = folder.parents[1] / "home"
        changes = {
            "same size": lambda: (folder / "README.md").write_text("That is README.md."),
            "same size and times": lambda: rewrite(folder / "README.md", "That is readme.md."),
            "replaced": lambda: (folder / "docs/a.md").rename(folder / "docs/b.md"),
            "chosen, added": lambda: write(folder / "docs/deep/c.md", "This is c."),
            "ignored": lambda: write(folder / "docs/.gitignore", "b.md"),
            "ignored otherwise": lambda: write(folder / "docs/.gitignore", "c.md"),
            "unignored": (folder / "docs/.gitignore").unlink,
            "CLAUDE.md": lambda: write(folder / ".claude/CLAUDE.md", "Be kind."),
            "above": lambda: write(folder.parent / "CLAUDE.local.md", "Be good."),
            "home": lambda: write(home / ".claude/CLAUDE.md", "Be brief."),
            "removed": (folder / "README.md").unlink,
        }
        last = (await told_of.build(who))[0].text
        for change, make in changes.items():
            assert await told_of.build(who) == (await build(folder, who), "hit")
            make()
            context, _ = await told_of.build(who)
            assert context.text != last, change
            assert context == await build(folder, who), change
            last = context.text

    async def test_hit_reads_and_counts_nothing(self, folder: Path) -> None:
        """What is held is neither read nor counted again, for each agent and model by itself."""
        counted = []

        async def count(text: str) -> int | None:
            counted.append(text)
            return 1

        told_of = manager(folder)
        write(folder / "CLAUDE.md", "Be kind.\n# Tests\nRun.")
        who = agent(keywords=("none",))
        asked = [(None, "a"), (who, "a"), (None, "b")]
        results = [
            (await told_of.build(a, count_tokens=count, model=m))[1] for a, m in asked + asked
        ]
        assert results == ["miss"] * 3 + ["hit"] * 3
        assert len(counted) == 3

    async def test_counts_of_two_counters(self, folder: Path) -> None:
        """Without a model's name each counter counts for itself."""
        write(folder / "CLAUDE.md", "Be kind.")

        async def one(_text: str) -> int | None:
            return 1

        told_of = manager(folder)
        assert (await told_of.build())[0].counted_by == "estimate"
        assert (await told_of.build(count_tokens=one))[0].tokens == 1
        counted, _ = await told_of.build(count_tokens=count_words)
        assert counted.tokens == await count_words(counted.text)

    async def test_same_text_with_other_files_passed_over(self, folder: Path) -> None:
        """A context tells what was passed over now, even where its text stayed the same."""
        write(folder / "CLAUDE.md", "Be kind.")
        told_of = manager(folder)
        before, _ = await told_of.build()
        (folder / "CLAUDE.local.md").write_bytes(b"\0")
        after, _ = await told_of.build()
        assert (after.text, after.passed_over) == (before.text, PassedOver(binary=1))

    async def test_many_files(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """In a large project, too, a change is seen and nothing is read without one."""
        monkeypatch.setattr(context_manager, "_MANY_FILES", 0)
        write(folder / "CLAUDE.md", "Be kind.")
        told_of = manager(folder)
        assert [(await told_of.build())[1] for _ in range(2)] == ["miss", "hit"]
        write(folder / "CLAUDE.md", "Be good.")
        assert (await told_of.build())[0].text.endswith("Be good.")

    async def test_busy_folder(self, folder: Path) -> None:
        """Other files that come and go above are no reason to read again."""
        write(folder / "CLAUDE.md", "Be kind.")
        told_of = manager(folder)
        await told_of.build()
        write(folder.parent / "other.txt", "x")
        assert (await told_of.build())[1] == "hit"

    async def test_unchanged_text_is_not_parsed_again(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A file that was only touched is read, but its sections are known by its text's hash."""
        write(folder / "CLAUDE.md", "Be kind.")
        told_of = manager(folder)
        before, _ = await told_of.build()
        ((key, held),) = told_of._claude_md_cache.items()
        assert (len(key), set(held)) == (64, {"content", "timestamp"})
        os.utime(folder / "CLAUDE.md")
        monkeypatch.setattr(context_manager, "split_sections", None)
        assert await told_of.build() == (before, "miss")

    async def test_same_text_in_another_kind_of_file(self, folder: Path) -> None:
        """A file's kind decides on its sections, even where another says the same."""
        write(folder / "CLAUDE.md", "# A\nx\n# B\ny")
        write(folder / "notes.txt", "# A\nx\n# B\ny")
        context = await build(folder, agent(patterns=("*.txt",), keywords=("x",)))
        assert context.text.endswith("## CLAUDE.md\n\n# A\nx\n\n## notes.txt\n\n# A\nx\n# B\ny")

    async def test_cache_off(self, folder: Path) -> None:
        """With the cache off every request reads the files."""
        write(folder / "CLAUDE.md", "Be kind.")
        told_of = manager(folder)
        results = [(await told_of.build(use_cache=False))[1] for _ in range(2)]
        assert results == ["miss", "miss"]

    async def test_bounded(self, folder: Path) -> None:
        """However many agents ask, and however often files change, little is held."""
        told_of = manager(folder)
        for n in range(40):
            await told_of.build(agent(keywords=(f"word{n}",)))
        assert len(told_of._held) <= 16
        assert len(told_of._fitted) <= 16

    async def test_many_at_once(self, folder: Path) -> None:
        """Requests that come at the same time are told the same."""
        write(folder / "CLAUDE.md", "Be kind.")
        told_of = manager(folder)
        told = await asyncio.gather(*(told_of.build() for _ in range(20)))
        assert {context.text for context, _ in told} == {told[0][0].text}

    async def test_passed_over(self, folder: Path) -> None:
        """Files that say nothing to read are counted; a held context still knows them."""
        (folder / "CLAUDE.md").write_bytes(b"caf\xe9")
        (folder / "CLAUDE.local.md").write_bytes(b"a\0b")
        (folder.parent / "CLAUDE.md").mkdir()
        (folder.parent / "CLAUDE.local.md").write_bytes(b"x" * (256 * 1024 + 1))
        write(folder / "README.md", "It sorts.")
        told_of = manager(folder)
        for _ in range(2):
            context, _ = await told_of.build(agent(patterns=("*.md",)))
            assert context.passed_over == PassedOver(large=1, binary=1, unreadable=1, not_utf8=1)
            assert context.files == ("README.md",)


def rewrite(path: Path, text: str) -> None:
    """Change a file and leave no trace in its size and the time it was written."""
    status = path.stat()
    path.write_text(text)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
