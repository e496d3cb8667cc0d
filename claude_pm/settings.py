"""Every ``CLAUDE_PM_*`` environment variable, once."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AliasChoices, BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from claude_pm.errors import SettingsError
from claude_pm.model_names import EMBEDDED

ModeName = Literal["local", "subprocess", "hybrid"]


def _lower(value: Any) -> Any:
    return value.strip().lower() if isinstance(value, str) else value


class Settings(BaseSettings):
    """What the environment says, checked.

    Build it with :func:`read_settings`, which turns a bad value into a
    :class:`~claude_pm.errors.SettingsError` that names the variable. Field names are the
    variables' names in lower case without the prefix ``CLAUDE_PM_``.
    """

    model_config = SettingsConfigDict(
        env_prefix="CLAUDE_PM_",
        # A variable that is set to nothing is as good as not set.
        env_ignore_empty=True,
        frozen=True,
        extra="forbid",
        populate_by_name=True,
    )

    orchestration_mode: Annotated[ModeName, BeforeValidator(_lower)] = Field(
        "local", description="LOCAL, SUBPROCESS or HYBRID"
    )
    force_subprocess_mode: bool = Field(
        default=False, description="true or false: SUBPROCESS for a request that names no mode"
    )
    cache_enabled: bool = Field(
        default=True, description="true or false: use the prompt caches, ours and the model's"
    )
    max_workers: int = Field(
        4, ge=1, description="a whole number from 1: requests served at the same time"
    )
    request_timeout: float = Field(
        60.0, gt=0, allow_inf_nan=False, description="seconds, more than 0, for one request"
    )
    model: str = Field(
        EMBEDDED, min_length=1, description="embedded, a model's name, or the path of a .gguf file"
    )
    base_url: str | None = Field(
        None,
        pattern=r"^https?://[^\s/@]+(/[^\s@]*)?$",
        description="the http(s) address of a server that speaks the Messages API, without a user "
        "name or password (CLAUDE_PM_API_KEY is for the key)",
    )
    api_key: SecretStr | None = Field(
        None,
        validation_alias=AliasChoices("CLAUDE_PM_API_KEY", "ANTHROPIC_API_KEY"),
        description="the key for that server; ANTHROPIC_API_KEY is for Claude's own alone",
    )
    memory_limit_mb: int | None = Field(
        None, ge=1024, description="a whole number from 1024: memory limit of a worker, in MiB"
    )
    profiles_dir: Path = Field(
        Path("profiles"), description="the folder where profiles are saved and looked for"
    )
    model_dir: Path | None = Field(
        None, description="the folder for model weights (default: the user's cache folder)"
    )
    max_tokens: int | None = Field(
        None, ge=1, description="a whole number from 1: output limit (default: the agent's own)"
    )

    def public(self) -> dict[str, Any]:
        """Return the settings as JSON values, without secrets: a key shows only as set or not."""
        values = self.model_dump(mode="json", exclude={"api_key"})
        values["api_key_set"] = self.api_key is not None
        return values


def read_settings(**overrides: Any) -> Settings:
    """Read the environment; a keyword stands in for the variable of its name.

    Raises:
        SettingsError: a value is not allowed; the message names the variable, the value (not
            for the key) and what it may be.
    """
    given = {name: value for name, value in overrides.items() if value is not None}
    unknown = sorted(set(given) - set(Settings.model_fields))
    if unknown:
        known = ", ".join(Settings.model_fields)
        raise SettingsError(f"There is no setting named {unknown[0]!r}; there are: {known}.")
    try:
        settings = Settings(**given)
    except ValidationError as error:
        raise SettingsError(" ".join(_sentences(error))) from None
    own_key = "api_key" in given or os.environ.get("CLAUDE_PM_API_KEY")
    if not own_key and not _is_claude(settings.base_url):
        # The key is ANTHROPIC_API_KEY's, and not for whatever server was named.
        settings = settings.model_copy(update={"api_key": None})
    return settings


def _is_claude(base_url: str | None) -> bool:
    host = "anthropic.com" if base_url is None else urlsplit(base_url).hostname or ""
    return f".{host}".endswith(".anthropic.com")


def variable_name(field: str) -> str:
    """Return the environment variable of a settings field."""
    return f"CLAUDE_PM_{field.upper()}"


def _sentences(error: ValidationError) -> list[str]:
    sentences = []
    for detail in error.errors():
        field = str(detail["loc"][0])
        field = field.removeprefix("CLAUDE_PM_").replace("ANTHROPIC_API_KEY", "api_key").lower()
        # What may hold a secret is not shown.
        is_secret = field == "api_key" or (field == "base_url" and "@" in str(detail["input"]))
        shown = "" if is_secret else f" is {detail['input']!r}, which"
        may_be = Settings.model_fields[field].description
        sentences.append(f"{variable_name(field)}{shown} is not allowed; it may be {may_be}.")
    return sentences
