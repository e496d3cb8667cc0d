"""A profile as it may be given to others: without secrets, homes and names of users."""

from __future__ import annotations

import getpass
import json
import os
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from claude_pm.profiles import schema
from claude_pm.profiles.profile import Profile
from claude_pm.profiles.secrets import is_value, label, secret_finder

if TYPE_CHECKING:
    import pandas as pd

_Text = Callable[[str], str]

TABLE_CONTENT = {"spans": ("error",), "lines": ("source",)}
"""Columns that quote prompts, answers or code."""
META_CONTENT = ("source", "lines")
"""Of the meta record: the cell's or command's text, and what the second run's error said."""
KEPT_TEXTS = frozenset({
    "cache_trial", "condition", "correlation_id", "counted_by", "files", "needs", "prompt_cache",
    "reason", "step", "stop_reason", "waits_for", "worker",
    "error.type", "operation.cost", "otel.scope.name", "otel_name",
    "server.address", "url.path", "http.request.method",
})  # fmt: skip
"""Attributes whose text says how a request went, and nothing of what was asked and answered."""
_KEPT_PREFIXES = (
    "gen_ai.agent.", "gen_ai.operation.", "gen_ai.provider.", "gen_ai.request.", "gen_ai.response.",
    "gen_ai.token.", "gen_ai.usage.", "gen_ai.output.type", "gen_ai.system",
    "gen_ai.tool.name", "gen_ai.tool.type", "gen_ai.tool.call.id", "gen_ai.conversation.id",
)  # fmt: skip
_CONTENT_NAMES = ("instructions", "messages", "prompt", "content", "text", "stop_sequences")

# The names under which programs run that are nobody's own.
_NOBODY = frozenset({"root", "user", "users", "app", "home", "runner", "admin", "nobody", "tmp"})
_OTHER_HOME = re.compile(
    r"(?<![\w.-])(?P<before>(?:(?:/mnt)?/[A-Za-z]|/var|/export|/private)?/(?:home|Users)/)"
    r"(?P<user>(?!\[user\]|Shared(?![\w.-]))[^\s/\\:\"'`<>|;,()\[\]{}*?$&#]+)"
)
_WINDOWS_HOME = re.compile(
    r"(?P<before>(?<![A-Za-z])[A-Za-z]:(?P<sep>\\+|/)(?:Users|Documents and Settings)(?P=sep))"
    r"(?P<user>(?!\[user\]|Public(?![\w.-]))"
    r"(?:[^\\/:\"'`<>|*?\n;,()]{1,60}(?=[\\/])|[^\s\\/:\"'`<>|*?;,()]+))",
    re.IGNORECASE,
)
_ID = re.compile(r"(?P<time>[0-9]{8}T[0-9]{9})-.*?(?P<end>-[a-z0-9]{1,8})?", re.DOTALL)


def to_share(profile: Profile, *, content: bool = True) -> Profile:
    r"""Return the profile without what others shall not see; the one given stays as it is.

    In every text of every table, of the attributes and of ``meta``:

    - keys, tokens and passwords give way to what they were, as ``[secret: Anthropic key]``; so do
      the values, of 8 characters and more, of this process's environment variables whose names say
      that they are secret;
    - the home folder becomes ``~``, and the name in ``/home/NAME``, ``/Users/NAME`` and
      ``C:\Users\NAME`` ``[user]``; so does the user's name wherever it is a part of a path.

    With ``content=False`` prompts and answers go too, and ``[left out: 123 characters]`` stands
    for each. As content counts:

    - ``meta["source"]`` and ``meta["lines"]``, and the column ``source`` of ``lines``;
    - what an error says after its type (it may quote a prompt): ``spans.error``;
    - of the attributes, each text but those that say how a request went (:data:`KEPT_TEXTS`, and
      OpenTelemetry's names of agents, models, operations, providers, tools and usage). So requests,
      responses, messages, system instructions, the arguments and results of tools, and texts of
      one's own spans go. Numbers and yes or no stay, also within what else is left out.

    Names stay: of spans, agents, models, conditions, files, functions, tasks, and the profile's.

    Tables are made when they are asked for.

    Raises:
        ProfileError: the code is still running.
    """
    variables = _secret_variables()
    text = _once(_text_for_others(secret_finder(variables)))
    meta = _shared_meta(profile, text, content=content)
    return Profile(
        meta,
        {
            name: partial(_shared_table, profile, name, text, content=content)
            for name in schema.TABLES
        },
    )


def _secret_variables() -> Mapping[str, str]:
    """Return names and values of the environment: settings, too, come from there."""
    return dict(os.environ)


def _once(function: _Text) -> _Text:
    """Return the function, with what it made of each text it has seen."""
    known: dict[str, str] = {}

    def remembered(text: str) -> str:
        found = known.get(text)
        if found is None:
            found = known[text] = function(text)
        return found

    return remembered


def _text_for_others(without_secrets: _Text) -> _Text:
    home = _own_home()
    user = _own_name()

    def for_others(text: str) -> str:
        text = without_secrets(text)
        if "/" in text or "\\" in text:
            if home is not None:
                text = home.sub("~", text)
            text = _OTHER_HOME.sub(r"\g<before>[user]", text)
            text = _WINDOWS_HOME.sub(r"\g<before>[user]", text)
            if user is not None:
                text = user.sub("[user]", text)
        return text

    return for_others


def _own_home() -> re.Pattern[str] | None:
    try:
        home = str(Path.home())
    except RuntimeError:  # nobody's process
        return None
    if len(home.strip("/\\")) < 2:  # noqa: PLR2004 - "/" and "C:" are everybody's
        return None
    # A path of Windows has its backslashes doubled within JSON and within Python's strings.
    path = re.escape(home.rstrip("/\\")).replace(r"\\", r"\\+")
    return re.compile(rf"(?<![\w.-]){path}(?![\w.-])")


def _own_name() -> re.Pattern[str] | None:
    """Return a pattern of the user's name as a part of a path, as in ``/tmp/pytest-of-NAME/``."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError, ImportError):
        return None
    if len(name) < 3 or name.lower() in _NOBODY:  # noqa: PLR2004 - two letters may mean anything
        return None
    return re.compile(rf"(?:(?<=[/\\])|(?<=-of-)){re.escape(name)}(?![A-Za-z0-9])")


def _shared_meta(profile: Profile, text: _Text, *, content: bool) -> dict[str, Any]:
    id = profile.id
    meta: dict[str, Any] = {}
    for key, value in profile.meta.items():
        if not content and key in META_CONTENT and value is not None:
            shared: Any = _left_out(value)
        else:
            shared = _shared_value(key, value, text)
        meta[text(key)] = shared
    meta["id"] = _shared_id(id, profile.meta.get("name"), text)
    return meta


def _shared_id(id: str, name: Any, text: _Text) -> str:
    """Return an id without the profile's name where that held what others shall not see."""
    is_clean = text(id) == id and (not isinstance(name, str) or text(name) == name)
    parts = _ID.fullmatch(id)
    if is_clean or parts is None:
        return text(id)
    return f"{parts['time']}-shared{parts['end'] or ''}"


def _shared_value(name: str, value: Any, text: _Text) -> Any:
    """Return a JSON value for others; ``name`` is what it stands under."""
    if isinstance(value, str):
        shared = text(value)
        return label(name) if shared == value and is_value(name, value) else shared
    if isinstance(value, Mapping):
        found: dict[Any, Any] = {}
        for key, part in value.items():
            new = text(key) if isinstance(key, str) else key
            # Two secrets may have become one key.
            while new in found:
                new = f"{new} (more)"
            found[new] = _shared_value(str(key), part, text)
        return found
    if isinstance(value, list | tuple):
        return [_shared_value(name, part, text) for part in value]
    return value


def _left_out(value: Any) -> Any:
    """Return what stands for a content; numbers within it stay."""
    if isinstance(value, str):
        return f"[left out: {len(value):,} characters]"
    if isinstance(value, Mapping | list | tuple):
        return _left_out(json.dumps(value, ensure_ascii=False, default=str))
    return value


def _without_content(name: str, value: Any) -> Any:
    """Return an attribute's value without texts, unless its name says they are harmless."""
    if _is_kept(name) or value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Mapping) and not _is_content(name):
        return {key: _without_content(str(key), part) for key, part in value.items()}
    if isinstance(value, list | tuple) and all(
        isinstance(part, bool | int | float) for part in value
    ):
        return value
    return _left_out(value)


def _is_kept(name: str) -> bool:
    return name in KEPT_TEXTS or (name.startswith(_KEPT_PREFIXES) and not _is_content(name))


def _is_content(name: str) -> bool:
    return name in {"request", "response"} or any(
        word in name.rpartition(".")[2] for word in _CONTENT_NAMES
    )


def _shared_table(profile: Profile, name: str, text: _Text, *, content: bool) -> pd.DataFrame:
    table = profile.table(name)
    columns = {}
    for column in schema.TABLES[name].columns:
        if column.dtype == "string":
            change = text
            if name == "spans" and column.name == "attributes":
                change = partial(_shared_attributes, text=text, content=content)
            elif not content and column.name in TABLE_CONTENT.get(name, ()):
                change = partial(_short_error, text=text) if column.name == "error" else _left_out
            columns[column.name] = _shared_column(table[column.name], change)
    return table.assign(**columns)


def _shared_column(column: pd.Series[str], change: _Text) -> pd.Series[str]:
    """Return a column of texts with each different one changed once."""
    import pandas as pd

    codes, texts = pd.factorize(column)
    plain = [str(text) for text in texts]
    changed = [change(text) for text in plain]
    if changed == plain:
        return column
    found: Any = pd.array([*changed, None], dtype="string")
    # Null has the code -1: the last.
    return pd.Series(found.take(codes), index=column.index, name=column.name)


def _shared_attributes(text_of_row: str, *, text: _Text, content: bool) -> str:
    try:
        attributes = json.loads(text_of_row)
    except ValueError:
        return text(text_of_row) if content else str(_left_out(text_of_row))
    shared = attributes if content else _without_content("", attributes)
    shared = _shared_value("", shared, text)
    if shared == attributes:
        return text_of_row
    # Half a surrogate pair, which was an escape in the JSON, fits no table.
    return json.dumps(shared, ensure_ascii=False).encode("utf-8", "replace").decode()


def _short_error(error: str, *, text: _Text) -> str:
    """Return an error's type, and how long its message is."""
    kind, colon, message = error.partition(": ")
    if not colon or not re.fullmatch(r"[\w.]+", kind):
        return str(_left_out(error))
    return f"{text(kind)}: {_left_out(message)}"
