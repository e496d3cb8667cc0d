"""What an agent is told of the working folder."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from claude_pm.services.context_manager import (
    TOKEN_BUDGET,
    Context,
    ContextManager,
    estimate_tokens,
)

TITLE = "# The project in the working folder (excerpts)"
CUT = "[...]"


async def build(folder: Path, *, budget: int = TOKEN_BUDGET) -> Context:
    """Build the context of a folder anew."""
    return (await ContextManager(folder, token_budget=budget).build())[0]


class TestText:
    async def test_claude_md_first(self, tmp_path: Path) -> None:
        """CLAUDE.md comes before the README, each under its name."""
        (tmp_path / "README.md").write_text("It sorts.\n")
        (tmp_path / "CLAUDE.md").write_text("\nBe kind.\n")
        context = await build(tmp_path)
        assert context.text == f"{TITLE}\n\n## CLAUDE.md\n\nBe kind.\n\n## README.md\n\nIt sorts."
        assert context.files == ("CLAUDE.md", "README.md")
        assert not context.truncated
        assert context.estimated_tokens == estimate_tokens(context.text)

    @pytest.mark.parametrize("name", ["README.md", "README.rst", "README.txt", "README"])
    async def test_any_readme(self, tmp_path: Path, name: str) -> None:
        """The README may be of any usual kind; of several, the first is taken."""
        (tmp_path / name).write_text("It sorts.")
        assert (await build(tmp_path)).files == (name,)
        (tmp_path / "README.md").write_text("It sorts.")
        assert (await build(tmp_path)).files == ("README.md",)

    async def test_nothing_there(self, tmp_path: Path) -> None:
        """A folder without either has no context."""
        assert await build(tmp_path) == Context("", 0, (), truncated=False)

    @pytest.mark.parametrize("text", ["", "\n \n"], ids=["empty", "blank"])
    async def test_nothing_said(self, tmp_path: Path, text: str) -> None:
        """A file without text is not spoken of."""
        (tmp_path / "CLAUDE.md").write_text(text)
        (tmp_path / "README.md").write_text("It sorts.")
        assert (await build(tmp_path)).files == ("README.md",)

    async def test_working_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without a folder it is the working folder, as it is at each request."""
        (tmp_path / "README.md").write_text("It sorts.")
        manager = ContextManager()
        monkeypatch.chdir(tmp_path)
        assert (await manager.build())[0].files == ("README.md",)
        (tmp_path / "empty").mkdir()
        monkeypatch.chdir(tmp_path / "empty")
        assert (await manager.build())[0].files == ()

    async def test_passed_over(self, tmp_path: Path) -> None:
        """What cannot be read, or is no UTF-8, is passed over; the rest is told."""
        (tmp_path / "CLAUDE.md").write_bytes(b"caf\xe9")
        (tmp_path / "README.md").write_text("It sorts.")
        assert (await build(tmp_path)).files == ("README.md",)
        (tmp_path / "CLAUDE.md").unlink()
        (tmp_path / "CLAUDE.md").mkdir()
        assert (await build(tmp_path)).files == ("README.md",)

    async def test_no_utf_8_behind_the_budget(self, tmp_path: Path) -> None:
        """A character on the edge of what is read does not make a file unreadable."""
        (tmp_path / "README.md").write_text("ä\n" * 5000, encoding="utf-8")
        context = await build(tmp_path)
        assert context.files == ("README.md",)
        assert context.truncated


class TestBudget:
    async def test_cut_is_marked(self, tmp_path: Path) -> None:
        """A text that is too long ends at the end of a line, and says so."""
        (tmp_path / "README.md").write_text("".join(f"Line {n}.\n" for n in range(500)))
        context = await build(tmp_path)
        *_, last, mark = context.text.splitlines()
        assert (last[-1], mark) == (".", CUT)
        assert context.truncated
        assert TOKEN_BUDGET * 0.9 < context.estimated_tokens <= TOKEN_BUDGET

    async def test_claude_md_leaves_no_room(self, tmp_path: Path) -> None:
        """CLAUDE.md may take it all; the README is then left out, and the cut is known."""
        (tmp_path / "CLAUDE.md").write_text("Be kind.\n" * 1000)
        (tmp_path / "README.md").write_text("It sorts.\n" * 1000)
        context = await build(tmp_path)
        assert context.files == ("CLAUDE.md",)
        assert context.truncated

    @pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 100])
    async def test_small_budgets(self, tmp_path: Path, size: int) -> None:
        """However small the budget, it is kept."""
        (tmp_path / "README.md").write_text("It sorts.\n" * 9)
        assert (await build(tmp_path, budget=size)).estimated_tokens <= size

    @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        claude=st.text(max_size=400) | st.none(),
        readme=st.text(max_size=400) | st.none(),
        budget=st.integers(0, 120),
    )
    @example(claude="\n" * 900 + "x", readme="y", budget=100)
    @example(claude=" " * 300 + "x", readme="long line " * 100, budget=100)
    @example(claude="ä" * 200, readme="日本語" * 200, budget=100)
    @example(claude="a\r\nb\rc\x85d", readme="\ufeffx", budget=100)
    def test_any_text(
        self, tmp_path: Path, claude: str | None, readme: str | None, budget: int
    ) -> None:
        """Whatever the files say, the budget is kept and a cut is marked and known."""
        whole = []
        for name, text in (("CLAUDE.md", claude), ("README.md", readme)):
            (tmp_path / name).unlink(missing_ok=True)
            if text is not None:
                (tmp_path / name).write_text(text, encoding="utf-8", errors="ignore")
                said = (tmp_path / name).read_text(encoding="utf-8").strip()
                whole += [f"## {name}\n\n{said}"] if said else []
        context = asyncio.run(build(tmp_path, budget=budget))
        assert context.estimated_tokens == estimate_tokens(context.text) <= budget
        if context.truncated:
            assert context.text == "" or CUT in context.text or len(context.files) < len(whole)
        else:
            assert context.text == ("\n\n".join([TITLE, *whole]) if whole else "")

    @pytest.mark.parametrize(
        ("text", "tokens"), [("", 0), ("a", 1), ("abc", 1), ("abcd", 2), ("日本", 2)]
    )
    def test_estimate(self, text: str, tokens: int) -> None:
        """A token for every 3 bytes that have begun."""
        assert estimate_tokens(text) == tokens


class TestCache:
    async def test_held_until_changed(self, tmp_path: Path) -> None:
        """The context is held until one of its files changes, comes or goes."""
        manager = ContextManager(tmp_path)
        readme = tmp_path / "README.md"
        readme.write_text("It sorts.")
        assert [(await manager.build())[1] for _ in range(2)] == ["miss", "hit"]
        readme.write_text("It finds.")
        os.utime(readme, ns=(0, 1))
        changed, cache = await manager.build()
        assert ("It finds." in changed.text, cache) == (True, "miss")
        (tmp_path / "CLAUDE.md").write_text("Be kind.")
        assert (await manager.build())[1] == "miss"
        readme.unlink()
        assert (await manager.build())[0].files == ("CLAUDE.md",)
        assert (await manager.build())[1] == "hit"

    async def test_cache_off(self, tmp_path: Path) -> None:
        """With the cache off every request reads the files."""
        manager = ContextManager(tmp_path)
        results = [(await manager.build(use_cache=False))[1] for _ in range(2)]
        assert results == ["miss", "miss"]
