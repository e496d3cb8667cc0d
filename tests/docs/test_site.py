"""The documentation's site: it builds without a warning, and nothing public is missing from it."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from claude_pm.profiles import schema

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
REFERENCE = (DOCS / "reference.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "module",
    [
        "claude_pm",
        *(
            f"claude_pm.{room}"
            for room in ("agents", "analysis", "models", "orchestration", "profiles", "recording")
        ),
    ],
)
def test_every_public_name_is_in_the_reference(module: str) -> None:
    names = {f"{module}.{name}" for name in importlib.import_module(module).__all__}
    described = set(re.findall(r"(?:^::: |^## |`)(claude_pm[\w.]*)", REFERENCE, re.MULTILINE))
    assert names <= described


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=lambda page: page.stem)
def test_every_link_leads_to_a_file(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_fetches_nothing(tmp_path: Path) -> None:
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    tables = (tmp_path / "tables.html").read_text(encoding="utf-8")
    assert all(f"<code>{column.name}</code>" in tables for column in schema.SPANS.columns)
    # A link to a file beside docs/ would lead nowhere.
    assert not re.search(r'href="(?:\.\./)*(?:notebooks|claude_pm|tests|examples)/', tables)
    for page in tmp_path.rglob("*.html"):
        html = page.read_text(encoding="utf-8")
        assert not re.search(r"""<(?:script|img|link)[^>]*(?:src|href)="?(?:https?:)?//""", html)
