"""Sections of Markdown files: where they begin and end, and which are the same."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from claude_pm.services.context_manager import ContextManager
from claude_pm.services.context_sections import split_sections


@pytest.mark.parametrize(
    ("text", "sections"),
    [
        ("", []),
        ("Preface.\n# A\na\n## B\nb", ["Preface.", "# A\na", "## B\nb"]),
        ("# A\n# B", ["# A", "# B"]),
        ("#A\n####### B\n    # C\n#", ["#A\n####### B\n    # C", "#"]),
        ("   ### A\na", ["### A\na"]),
        ("# A\n```sh\n# no\n```\n# B", ["# A\n```sh\n# no\n```", "# B"]),
        ("# A\n~~~\n```\n# no\n~~~\n# B", ["# A\n~~~\n```\n# no\n~~~", "# B"]),
        ("````\n```\n# no\n`````\n# B", ["````\n```\n# no\n`````", "# B"]),
        ("```\n# no\n``` x\n# no", ["```\n# no\n``` x\n# no"]),
        ("```a``` b\n# A", ["```a``` b", "# A"]),
    ],
)
def test_split(text: str, sections: list[str]) -> None:
    """A section begins at each heading that is not in a code fence."""
    assert [section.text for section in split_sections(text, markdown=True)] == sections


def test_no_markdown() -> None:
    """A file that is no Markdown is one section."""
    assert [s.text for s in split_sections("a\n# A\nb", markdown=False)] == ["a\n# A\nb"]


def test_preface() -> None:
    """Only the text before any heading is the preface."""
    assert [s.preface for s in split_sections("a\n# A", markdown=True)] == [True, False]
    assert [s.preface for s in split_sections("# A\n# B", markdown=True)] == [False, False]


SECTIONS = st.lists(
    st.builds(
        lambda heading, body, gap: f"# {heading}{gap}{body}\n",
        st.sampled_from(["a", "A", "b c", "b  c", "bc"]),
        st.sampled_from(["x", "x y", "x\ty", "x\n\ny", "xy", "X"]),
        st.sampled_from(["\n", "\n\n", "\n \n"]),
    ),
    max_size=8,
)


@settings(max_examples=100, deadline=None)
@given(files=st.tuples(SECTIONS, SECTIONS, SECTIONS))
def test_each_section_once(files: tuple[list[str], ...]) -> None:
    """Every section that differs in more than white space is told once, in its first place."""
    distinct = list(dict.fromkeys(" ".join(section.split()) for file in files for section in file))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "a" / "b"
        folder.mkdir(parents=True)
        for file, at in zip(files, (folder, folder.parent, folder.parents[1]), strict=True):
            (at / "CLAUDE.md").write_text("\n".join(file))
        manager = ContextManager(folder, home=folder, token_budget=10_000)
        text = asyncio.run(manager.build())[0].text
    told = [" ".join(section.text.split()) for section in split_sections(text, markdown=True)]
    assert [t for t in told if not t.startswith(("# The project", "## "))] == distinct
