"""Writing a file for a person: whole or not at all."""

from __future__ import annotations

import secrets
from pathlib import Path

from claude_pm.errors import ProfileStorageError


def write_text(path: str | Path, text: str, *, what: str, example: str) -> Path:
    """Write ``text`` to ``path`` and return it.

    ``what`` and ``example`` are for messages, such as "report" and "report.html".

    It is written to a temporary file beside and renamed, so a failure leaves nothing half-written.

    Raises:
        ProfileStorageError: ``path`` is a folder, is in a folder that does not exist, or the disk
            refused.
    """
    target = Path(path)
    try:
        _check_place(target, what, example)
        _write(target, text)
    except OSError as error:
        raise ProfileStorageError(
            f"The {what} could not be written to {target}: {error.strerror or error}. Nothing was "
            "left behind there."
        ) from error
    return target


def _check_place(target: Path, what: str, example: str) -> None:
    if target.is_dir():
        raise ProfileStorageError(
            f"The {what} cannot be written to {target}, which is a folder: name a file, such as "
            f"{target / example}."
        )
    if not target.parent.is_dir():
        raise ProfileStorageError(
            f"The {what} cannot be written to {target}: there is no folder {target.parent}."
        )


def _write(target: Path, text: str) -> None:
    temporary = target.with_name(f".{target.stem[:40]}-{secrets.token_hex(8)}{target.suffix}")
    try:
        # Exclusive: it must not follow a link that somebody has put there.
        with temporary.open("x", encoding="utf-8") as file:
            file.write(text)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
