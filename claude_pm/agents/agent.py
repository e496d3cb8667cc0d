"""An agent, as its Markdown file describes it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from claude_pm.errors import AgentFileError

BUILTIN_FOLDER = Path(__file__).parent
"""The Markdown files of the agents that come with claude_pm."""

Isolation = Literal["none", "subprocess"]
Scope = Literal["project", "user", "builtin"]
_KEYS = (
    "name",
    "description",
    "max_tokens",
    "temperature",
    "isolation",
    "context_patterns",
    "context_keywords",
)
_HEAD_BYTES = 8192
_HEAD = re.compile(rb"---[ \t]*\r?\n(.*?\n)---[ \t]*\r?(?:\n|\Z)", re.DOTALL)
_NAME_LINE = re.compile(rb"^name[ \t]*:(.*)(?=\n\S|\n\Z)", re.MULTILINE)
"""The line of the name, where the next line does not continue it."""
_NAME = re.compile(r"(?!(?:y|n|yes|no|on|off|true|false|null)$)[a-z][a-z0-9_-]*", re.IGNORECASE)
"""Names that YAML can only read as this very text."""
_KEY_LINE = re.compile(r"([a-z][A-Za-z_]*)[ \t]*:(?:[ \t]+(.*))?")
_NO_NAME = re.compile(r"[/\\\x00-\x1f\x7f]|\.\.")


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


def agent_key(name: str) -> str:
    """Return what two spellings of one name have in common: case, ``-``, ``_`` and blanks go."""
    return "_".join(name.lower().replace("-", " ").replace("_", " ").split())


def read_agent(path: Path, *, scope: Scope = "builtin", strict: bool = True) -> Agent:
    """Read an agent's Markdown file.

    Args:
        path: the file.
        scope: where it was found; noted on the agent.
        strict: False for a file that was written for Claude Code: its name may differ from the
            file's, it may have keys that are not ours, and front matter that is no valid YAML
            is read line by line.

    Raises:
        AgentFileError: the file cannot be read, its front matter is broken, or a key of it has a
            value that it may not have; the message names file and key.
    """
    values, content = _parse(path, strict=strict)
    unknown = sorted(str(key) for key in values if key not in _KEYS) if strict else []
    if unknown:
        raise _wrong(path, unknown[0], f"is not known; the keys are {', '.join(_KEYS)}")
    prompt = content.strip()
    if not prompt:
        raise AgentFileError(f"The agent file {path} has no prompt below its front matter.")
    name = values.get("name")
    if strict and name != path.stem:
        raise _wrong(path, "name", f"is {name!r}; it has to be the file's own name, {path.stem!r}")
    description = values.get("description")
    if not isinstance(description, str) or not description.strip():
        raise _wrong(path, "description", "is missing; it is one sentence on when to ask the agent")
    isolation = values.get("isolation", "none")
    if not strict and isolation == "worktree":  # Claude Code's own: a checkout, not a process
        isolation = "none"
    return Agent(
        name=path.stem if strict else _name(path, name),
        description=description.strip(),
        prompt=prompt,
        max_tokens=_max_tokens(path, values.get("max_tokens", 512)),
        temperature=_temperature(path, values.get("temperature")),
        isolation=_isolation(path, isolation),
        path=path,
        scope=scope,
        context_patterns=_texts(path, "context_patterns", values.get("context_patterns", [])),
        context_keywords=_texts(path, "context_keywords", values.get("context_keywords", [])),
    )


def read_name(path: Path) -> str:
    """Return the name that the front matter of a Claude Code file gives.

    A folder of such files has to be read for the names alone, so a plain name is found in the
    first bytes without parsing any YAML.

    Raises:
        AgentFileError: there is no name in it that can be read.
    """
    try:
        with path.open("rb", buffering=0) as file:
            head = _HEAD.match(file.read(_HEAD_BYTES))
    except OSError as error:
        raise AgentFileError(f"The agent file {path} cannot be read: {error}.") from error
    found = _NAME_LINE.findall(head[1]) if head else []
    if len(found) == 1:
        name: str = found[0].decode(errors="replace").strip()
        if _NAME.fullmatch(name):
            return name
    return _name(path, _parse(path, strict=False)[0].get("name"))


def _parse(path: Path, *, strict: bool) -> tuple[dict[str, Any], str]:
    import frontmatter
    import yaml

    try:
        text = path.read_text(encoding="utf-8-sig")  # some editors begin a file with a mark
    except (OSError, UnicodeDecodeError) as error:
        raise AgentFileError(f"The agent file {path} cannot be read: {error}.") from error
    try:
        values, content = frontmatter.parse(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        if not strict and text.lstrip().startswith("---"):
            return _parse_lines(text)
        reason = " ".join(str(error).split())
        raise AgentFileError(f"The front matter of {path} is no valid YAML: {reason}.") from error
    return values, content


def _parse_lines(text: str) -> tuple[dict[str, Any], str]:
    """Read front matter as plain lines, ``key: value``; any other line continues the value."""
    from frontmatter.default_handlers import YAMLHandler

    front, content = YAMLHandler().split(text.strip())
    chunks: dict[str, list[str]] = {}
    current: list[str] = []
    for line in front.splitlines():
        found = _KEY_LINE.fullmatch(line)
        if found:
            # The first of two wins: a later one is rather a line of a long description.
            current = [found[2] or ""]
            chunks.setdefault(found[1], current)
        else:
            current.append(line)
    return {key: _plain(key, "\n".join(lines)) for key, lines in chunks.items()}, content


def _plain(key: str, text: str) -> Any:
    import yaml

    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return text.strip()
    # Of a name or a description any text is meant as it stands.
    as_it_stands = key in {"name", "description"} and not isinstance(value, str)
    return text.strip() if as_it_stands else value


def _name(path: Path, value: Any) -> str:
    if not isinstance(value, str) or not agent_key(value):
        raise _wrong(path, "name", "is missing; it is the name to ask the agent by")
    name = " ".join(value.split())
    if _NO_NAME.search(name):
        raise _wrong(path, "name", f"is {name!r}; it may not look like a path")
    return name


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


def _texts(path: Path, key: str, value: Any) -> tuple[str, ...]:
    """Return a list of texts, or the parts of one text between its commas."""
    if isinstance(value, str):
        parts = [part.strip() for part in value.split(",") if part.strip()]
        if parts:
            return tuple(parts)
    elif isinstance(value, list) and all(isinstance(item, str) and item.strip() for item in value):
        return tuple(item.strip() for item in value)
    raise _wrong(path, key, f"is {value!r}; it may be a list of texts, or a text with commas")


def _wrong(path: Path, key: str, what: str) -> AgentFileError:
    return AgentFileError(f"In the front matter of {path}, {key!r} {what}.")
