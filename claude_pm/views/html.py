"""HTML from templates: everything printed is escaped, and cleaned of what could disguise it."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from claude_pm.views.words import clean

if TYPE_CHECKING:
    from jinja2 import Environment


def render(template: str, **values: Any) -> str:
    """Return the template of that name (in ``templates``) with its values filled in."""
    return _environment().get_template(template).render(**values)


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("claude_pm.views"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _finalize(value: Any) -> Any:
    from markupsafe import Markup

    # Markup is what a macro of ours has already printed.
    return clean(value) if isinstance(value, str) and not isinstance(value, Markup) else value
