"""The documentation's snippets run, page by page, as a reader would type them into a notebook."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

DOCS = Path(__file__).parents[2] / "docs"
PAGES = [DOCS / "index.md", *sorted((DOCS / "howto").glob("*.md"))]
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def cells(page: Path) -> list[str]:
    """Return the page's snippets as a notebook's cells: Python as it is, commands by bash.

    Left out is what shows an output (text), and what needs packages that are not here (py).
    """
    found = _BLOCK.findall(page.read_text(encoding="utf-8"))
    assert {language for language, _ in found} <= {"python", "bash", "text", "py"}
    return [
        text if language == "python" else f"%%bash -e\n{text}"
        for language, text in found
        if language in {"python", "bash"}
    ]


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_snippets_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    monkeypatch.setenv("PATH", programs)
    monkeypatch.setenv("CLAUDE_PM_PROFILES_DIR", "profiles")
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(source) for source in cells(page)]
    )
    NotebookClient(
        notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    ).execute()
    # A user's mistake is a sentence on the standard error stream, and no exception. (Commands say
    # there how far they are, and show by their exit code what went wrong.)
    python = [cell for cell in notebook.cells if not cell.source.startswith("%%bash")]
    assert [
        out.text for cell in python for out in cell.outputs if out.get("name") == "stderr"
    ] == []
