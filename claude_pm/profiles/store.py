"""Where profiles are kept: ``profiles/<id>/`` with ``meta.json`` and one Parquet file a table."""

from __future__ import annotations

import difflib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from claude_pm.errors import (
    ProfileDamagedError,
    ProfileError,
    ProfileNotFoundError,
    ProfileSchemaError,
    ProfileStorageError,
)
from claude_pm.profiles import schema, stored_meta
from claude_pm.profiles.profile import Profile
from claude_pm.profiles.stored_meta import check_meta, is_id

if TYPE_CHECKING:
    import pandas as pd

_REPORT_SUFFIXES = (".html", ".htm")


def save(profile: Profile, dir: str | Path | None = None) -> Path:
    """Store a profile as ``<dir>/<id>/``; see :meth:`claude_pm.profiles.profile.Profile.save`."""
    if not is_id(profile.id):
        raise ProfileError(
            f"The profile {profile.name!r} cannot be stored: its id {profile.id!r} is not of the "
            "form 20260131T090000123-name-1a2b."
        )
    parent = _profiles_dir(dir)
    target = parent / profile.id
    tables = {name: profile.table(name) for name in schema.TABLES}
    for name, data in tables.items():
        schema.check(schema.TABLES[name], data, where=f"the profile {profile.id}")
    temporary: Path | None = None
    try:
        parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".saving-", dir=parent))
        # mkdtemp makes the folder private; a profile is as open as what the user makes by hand.
        temporary.chmod(0o777 & ~_umask())
        for name, data in tables.items():
            data.to_parquet(temporary / f"{name}.parquet", index=False)
        meta = json.dumps(profile.meta, indent=2, ensure_ascii=False)
        (temporary / stored_meta.NAME).write_text(meta + "\n", encoding="utf-8")
        _replace_folder(temporary, target)
    except OSError as error:
        raise ProfileStorageError(
            f"The profile {profile.id} could not be stored in {parent}: "
            f"{error.strerror or error}. Nothing was left behind there; free some space or name "
            "another folder with CLAUDE_PM_PROFILES_DIR."
        ) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
    return target


def load(path_or_id: str | Path) -> Profile:
    """Read a stored profile, by its folder or by its id in ``CLAUDE_PM_PROFILES_DIR``.

    The path of a report (``report.html``) does as well: a report holds the tables it was made of.

    Raises:
        ProfileNotFoundError: there is none; the message names the nearest ids.
        ProfileDamagedError: a file is missing, cut short, or cannot be read.
        ProfileSchemaError: it was written by a later version, or its tables are not as they
            should be.
    """
    if Path(path_or_id).suffix.lower() in _REPORT_SUFFIXES and not Path(path_or_id).is_dir():
        from claude_pm.profiles.html_file import read_html

        return read_html(Path(path_or_id))
    folder = _find(path_or_id)
    meta = _read_meta(folder)
    return Profile(meta, {name: _read_table(folder, name) for name in schema.TABLES})


def list_profiles(dir: str | Path | None = None) -> pd.DataFrame:
    """Return all saved profiles, newest first.

    Columns: ``id, name, created_at, duration_s, model_use, path, error``.

    A folder that cannot be read is not listed as if it could: its row has the reason under
    ``error`` and nulls elsewhere.
    """
    import pandas as pd

    rows: list[dict[str, Any]] = []
    for folder in _profile_folders(_profiles_dir(dir)):
        row: dict[str, Any] = {"id": folder.name, "path": str(folder)}
        try:
            meta = _read_meta(folder)
        except (ProfileDamagedError, ProfileSchemaError) as error:
            row["error"] = str(error)
        else:
            row |= {name: meta[name] for name in stored_meta.REQUIRED}
        rows.append(row)
    columns = [*stored_meta.REQUIRED, "path", "error"]
    return pd.DataFrame(rows, columns=columns).convert_dtypes()


def _profiles_dir(dir: str | Path | None) -> Path:
    if dir is not None:
        return Path(dir)
    from claude_pm.settings import read_settings

    return read_settings().profiles_dir


def _profile_folders(parent: Path) -> list[Path]:
    if not parent.is_dir():
        return []
    # What begins with a dot is a save that was killed half-way.
    found = [
        path
        for path in parent.iterdir()
        if not path.name.startswith(".") and (path / stored_meta.NAME).is_file()
    ]
    return sorted(found, key=lambda path: path.name, reverse=True)


def _find(path_or_id: str | Path) -> Path:
    direct = Path(path_or_id)
    parent = _profiles_dir(None)
    for candidate in (direct, parent / path_or_id):
        if path_or_id and candidate.is_dir():
            return candidate
    known = [path.name for path in _profile_folders(parent)]
    named = [id for id in known if str(path_or_id) and str(path_or_id) in id]
    nearest = named[:3] or difflib.get_close_matches(str(path_or_id), known, n=3, cutoff=0.3)
    hint = (
        f" Nearest: {', '.join(nearest)}." if nearest else f" {parent} holds {len(known)} profiles."
    )
    raise ProfileNotFoundError(f"There is no profile {str(path_or_id)!r}.{hint}")


def _read_meta(folder: Path) -> dict[str, Any]:
    path = folder / stored_meta.NAME
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ProfileDamagedError(
            f"The profile {folder} is damaged: {path.name}: {error}."
        ) from error
    return check_meta(meta, where=f"The profile {folder}")


def _read_table(folder: Path, name: str) -> pd.DataFrame:
    import pandas as pd
    from pyarrow import ArrowException

    path = folder / f"{name}.parquet"
    try:
        data = pd.read_parquet(path)
    except (OSError, ValueError, ArrowException) as error:
        reason = "the file is missing" if not path.exists() else str(error).splitlines()[0]
        raise ProfileDamagedError(
            f"The profile {folder} is damaged: {path.name}: {reason}."
        ) from error
    schema.check(schema.TABLES[name], data, where=str(folder))
    return data


def _replace_folder(temporary: Path, target: Path) -> None:
    """Rename ``temporary`` to ``target``, keeping an older ``target`` until the new one stands."""
    if not target.exists():
        temporary.rename(target)
        return
    old = target.with_name(f".replaced-{target.name}-{os.getpid()}")
    target.rename(old)
    try:
        temporary.rename(target)
    except OSError:
        old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _umask() -> int:
    current = os.umask(0o022)
    os.umask(current)
    return current
