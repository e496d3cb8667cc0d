"""From settings to the model they name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from claude_pm.errors import SettingsError
from claude_pm.model_names import EMBEDDED
from claude_pm.models.client import MAX_CONNECTIONS, TIMEOUT_S, MessagesClient
from claude_pm.models.embedded import EmbeddedModel
from claude_pm.models.messages import Model
from claude_pm.models.weights import ensure_weights

if TYPE_CHECKING:
    from claude_pm.settings import Settings

CLAUDE_URL = "https://api.anthropic.com"


def connect(settings: Settings, *, save_prompts: bool = True) -> Model:
    """Return the model that ``CLAUDE_PM_MODEL`` and ``CLAUDE_PM_BASE_URL`` name.

    ===================  =====================  ==========================================
    CLAUDE_PM_BASE_URL   CLAUDE_PM_MODEL        who answers
    ===================  =====================  ==========================================
    not set              ``embedded``           the small model in this process
    not set              a path to a .gguf      that model, in this process
    not set              a name                 Claude; needs a key
    set                  a name                 that model on that server
    set                  not set                the only model that the server lists
    ===================  =====================  ==========================================

    With ``save_prompts=False`` the embedded model neither saves the states of prompts in files nor
    starts from saved ones.

    A key alone changes nothing: nothing is sent to a paid service unless a model of it is named.
    ``ANTHROPIC_API_KEY`` is sent to Claude's own address alone, ``CLAUDE_PM_API_KEY`` to whatever
    server ``CLAUDE_PM_BASE_URL`` names.

    Raises:
        SettingsError: a Claude model without a key, or a .gguf path beside a base URL.
    """
    name = settings.model
    is_file = name.lower().endswith(".gguf")
    key = settings.api_key.get_secret_value() if settings.api_key is not None else None
    if settings.base_url is None and (name == EMBEDDED or is_file):
        return EmbeddedModel(
            Path(name).expanduser() if is_file else None,
            model_dir=settings.model_dir,
            cache=settings.cache_enabled,
            timeout_s=settings.request_timeout,
            save_prompts=save_prompts,
        )
    if is_file:
        raise SettingsError(
            f"CLAUDE_PM_MODEL is the file {name!r}, but CLAUDE_PM_BASE_URL names a server: "
            "unset one of the two."
        )
    if settings.base_url is None and key is None:
        raise SettingsError(
            f"The model {name!r} is not in this process: set ANTHROPIC_API_KEY (or "
            "CLAUDE_PM_API_KEY) to ask Claude, or CLAUDE_PM_BASE_URL for another server, or unset "
            "CLAUDE_PM_MODEL for the embedded model."
        )
    return MessagesClient(
        settings.base_url or CLAUDE_URL,
        model=None if name == EMBEDDED else name,
        api_key=key,
        # How long it may be silent: where nothing is set, less than a request may take.
        timeout_s=settings.request_timeout
        if "request_timeout" in settings.model_fields_set
        else TIMEOUT_S,
        max_connections=max(MAX_CONNECTIONS, settings.max_workers),
        cache=settings.cache_enabled,
    )


def fetch_weights(settings: Settings) -> None:
    """Fetch the default model's weights now, if these settings will need them.

    Raises:
        WeightsError: they could not be fetched.
    """
    if settings.base_url is None and settings.model == EMBEDDED:
        ensure_weights(settings.model_dir)
