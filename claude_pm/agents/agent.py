"""An agent, as its Markdown file describes it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from claude_pm.errors import AgentFileError

BUILTIN_FOLDER = Path(__file__).parent
"""The Markdown files of the agents that come with claude_pm."""

Isolation = Literal["none", "subprocess"]
Scope = Literal["project", "user", "builtin"]
_KEYS = ("name", "description", "max_tokens", "temperature", "isolation")


@dataclass(frozen=True, slots=True)
class Agent:
    """A system prompt and how to run it.

    ``isolation`` is ``subprocess`` for an agent that HYBRID mode has to run in a process of its
    own. ``context_patterns`` (as in a .gitignore) choose the project's files that the agent is
    told of beside the CLAUDE.md chain; ``context_keywords`` choose the sections.
    """

    name: str
    description: str
    prompt: str
    max_tokens: int
    temperature: float | None
    isolation: Isolation
    path: Path
    scope: Scope = "builtin"
    context_patterns: tuple[str, ...] = ()
    context_keywords: tuple[str, ...] = ()


def read_agent(path: Path) -> Agent:
    """Read an agent's Markdown file.

    Raises:
        AgentFileError: the file cannot be read, its front matter is broken, or a key of it has a
            value that it may not have; the message names file and key.
    """
    import frontmatter
    import yaml

    try:
        values, content = frontmatter.parse(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise AgentFileError(f"The agent file {path} cannot be read: {error}.") from error
    except (yaml.YAMLError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise AgentFileError(f"The front matter of {path} is no valid YAML: {reason}.") from error
    unknown = sorted(str(key) for key in values if key not in _KEYS)
    if unknown:
        raise _wrong(path, unknown[0], f"is not known; the keys are {', '.join(_KEYS)}")
    prompt = content.strip()
    if not prompt:
        raise AgentFileError(f"The agent file {path} has no prompt below its front matter.")
    name = values.get("name")
    if name != path.stem:
        raise _wrong(path, "name", f"is {name!r}; it has to be the file's own name, {path.stem!r}")
    description = values.get("description")
    if not isinstance(description, str) or not description.strip():
        raise _wrong(path, "description", "is missing; it is one sentence on when to ask the agent")
    return Agent(
        name=path.stem,
        description=description.strip(),
        prompt=prompt,
        max_tokens=_max_tokens(path, values.get("max_tokens", 512)),
        temperature=_temperature(path, values.get("temperature")),
        isolation=_isolation(path, values.get("isolation", "none")),
        path=path,
    )


def _max_tokens(path: Path, value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return value
    raise _wrong(path, "max_tokens", f"is {value!r}; it may be a whole number from 1")


def _temperature(path: Path, value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1:
        return float(value)
    raise _wrong(path, "temperature", f"is {value!r}; it may be a number from 0 to 1")


def _isolation(path: Path, value: Any) -> Isolation:
    if value in get_args(Isolation):
        isolation: Isolation = value
        return isolation
    raise _wrong(path, "isolation", f"is {value!r}; it may be {' or '.join(get_args(Isolation))}")


def _wrong(path: Path, key: str, what: str) -> AgentFileError:
    return AgentFileError(f"In the front matter of {path}, {key!r} {what}.")
