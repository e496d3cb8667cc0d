"""HTML from templates: everything printed is escaped, and cleaned of what could disguise it.

A page that runs a script of ours runs no other: its content security policy names the script by
its hash, and forbids everything from outside.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from claude_pm.views.words import clean

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

_POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{}'; "
    "base-uri 'none'; form-action 'none'"
)


@dataclass(frozen=True, slots=True)
class Script:
    """The source of a script of ours, and the policy of a page that runs it and nothing else."""

    source: Markup
    policy: Markup


@cache
def script(name: str) -> Script:
    """Return the script of that name (in ``templates``)."""
    from markupsafe import Markup

    source = files("claude_pm.views").joinpath("templates", name).read_text(encoding="utf-8")
    digest = hashlib.sha256(source.encode()).digest()
    policy = _POLICY.format(base64.b64encode(digest).decode())
    # No text of a profile is in either: they are as we wrote them.
    return Script(Markup(source), Markup(policy))  # noqa: S704


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
