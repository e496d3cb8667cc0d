"""For mkdocs: tables' columns from their schema; links to what is not on the site become text."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from typing import Any

from claude_pm.profiles import schema

_LINK = re.compile(r"\[([^\]]+)\]\((?!\w+:|#)([^)#]+)(?:#[^)]*)?\)")
_TABLES = "<!-- tables -->"


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Return the page's text as it stands on the site (called by mkdocs)."""
    folder = posixpath.dirname(page.file.src_uri)

    def inside(link: re.Match[str]) -> str:
        # Source files beside docs/ are not part of the site.
        target = posixpath.normpath(posixpath.join(folder, link[2]))
        return link[1] if target.startswith("..") else link[0]

    return _LINK.sub(inside, markdown).replace(_TABLES, "\n".join(_tables()))


def _tables() -> Iterator[str]:
    for table in schema.TABLES.values():
        yield from ("", f"## {table.name}", "", f"A row is {table.row}.", "")
        yield from ("| column | type | meaning |", "|---|---|---|")
        for column in table.columns:
            yield f"| `{column.name}` | {column.dtype} | {column.meaning} |"
