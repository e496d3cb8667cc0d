"""What the ``meta.json`` of a stored profile has to hold before anybody relies on it."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from datetime import datetime
from typing import Any

from claude_pm.errors import ProfileDamagedError, ProfileSchemaError
from claude_pm.profiles.schema import SCHEMA_VERSION

NAME = "meta.json"
REQUIRED = ("id", "name", "created_at", "duration_s", "model_use")

# As claude_pm.recording makes them. The id becomes a folder's name: no other form may pass.
_ID = re.compile(r"[0-9]{8}T[0-9]{9}-[a-z0-9-]+")
_MODEL_USES = ("live", "replayed", "not called")


def check_meta(meta: Any, *, where: str) -> dict[str, Any]:
    """Return what was read from ``meta.json``, if it is a profile's record.

    ``where`` is for messages, such as "The profile profiles/x".

    Raises:
        ProfileDamagedError: something is missing, or of a wrong kind.
        ProfileSchemaError: it was written by a later version.
    """
    version = meta.get("schema_version") if isinstance(meta, dict) else None
    if not isinstance(version, int):
        raise ProfileDamagedError(f"{where} is damaged: {NAME} has no schema_version.")
    if version > SCHEMA_VERSION:
        raise ProfileSchemaError(
            f"{where} has schema version {version}; this claude_pm reads up to "
            f"{SCHEMA_VERSION}. Update claude-pm to read it."
        )
    missing = [name for name in REQUIRED if name not in meta]
    if missing:
        raise ProfileDamagedError(f"{where} is damaged: {NAME} has no {missing[0]}.")
    for name, is_right in _CHECKS.items():
        if not is_right(meta[name]):
            raise ProfileDamagedError(
                f"{where} is damaged: {NAME}: {name} may not be {meta[name]!r:.80}."
            )
    return dict(meta)


def is_id(value: Any) -> bool:
    """Say whether it has the form of a profile's id."""
    return isinstance(value, str) and _ID.fullmatch(value) is not None


def _is_time(value: Any) -> bool:
    try:
        datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return False
    return True


def _is_duration(value: Any) -> bool:
    # The bound leaves out NaN and infinity, and whole numbers that no float can hold.
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and 0 <= value <= sys.float_info.max


_CHECKS: dict[str, Callable[[Any], bool]] = {
    "id": is_id,
    "name": lambda value: isinstance(value, str),
    "created_at": _is_time,
    "duration_s": _is_duration,
    "model_use": lambda value: value in _MODEL_USES,
}
