"""The store: what is saved comes back, and what cannot be read or written says why."""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import claude_pm
from claude_pm.errors import (
    ProfileDamagedError,
    ProfileError,
    ProfileNotFoundError,
    ProfileSchemaError,
    ProfileStorageError,
)
from claude_pm.profiles import Profile, list_profiles, load, schema
from claude_pm.recording import ProfileSession, span
from tests.profile_builder import ProfileBuilder

_VALUES: dict[str, list[Any]] = {
    "string": ["plain", None, "", 'ü → \U0001f600 "quoted"\n;\\'],
    "Int64": [0, None, -1, 2**62 + 1],
    "Float64": [0.1, None, 1e-12, 1e300],
}


def full_table(table: schema.Table) -> pd.DataFrame:
    """A table with every kind of value in every column."""
    return schema.frame(table, {column.name: _VALUES[column.dtype] for column in table.columns})


def make_profile(id: str = "20260131T090000123-a-1a2b", **meta: Any) -> Profile:
    """A profile with rows in every table."""
    builder = ProfileBuilder(id=id, **meta)
    return Profile(builder.meta, {name: full_table(t) for name, t in schema.TABLES.items()})


def assert_same(found: Profile, expected: Profile) -> None:
    """Compare two profiles: the record and all tables, values, nulls, types and order."""
    assert found.meta == expected.meta
    for name in schema.TABLES:
        pd.testing.assert_frame_equal(found.table(name), expected.table(name))


@pytest.fixture
def folder() -> Path:
    """The folder that profiles are saved in by default."""
    return Path(os.environ["CLAUDE_PM_PROFILES_DIR"])


@pytest.fixture
def saved() -> Path:
    """The folder of a saved profile."""
    return make_profile().save()


class TestRoundTrip:
    """Saved and loaded, a profile is the same."""

    @pytest.mark.parametrize("rows", ["rows", "empty"])
    def test_every_table(self, rows: str) -> None:
        """Values, nulls and types of every table come back, of empty tables too."""
        profile = make_profile() if rows == "rows" else Profile(ProfileBuilder().meta, {})
        loaded = load(profile.save())
        assert_same(loaded, profile)
        for name, table in schema.TABLES.items():
            schema.check(table, loaded.table(name), where="the loaded profile")
            assert loaded.table(name).empty == (rows == "empty")

    def test_recorded(self) -> None:
        """So does a profile that was recorded just now."""
        with claude_pm.profile("now", memory="rss") as profile, claude_pm.span("step", text="ü"):
            sorted([3, 1, 2])
        assert_same(claude_pm.load(profile.save()), profile)

    def test_lone_surrogates(self) -> None:
        """A character that no encoding has costs itself, not the profile."""
        odd, even = "half \ud83d", "half ?"
        session = ProfileSession(odd, cpu=None, memory=None, source=odd)
        recorded = session.start()
        with pytest.raises(RuntimeError), span(odd, agent=odd, **{odd: [odd, "ü"]}):
            raise RuntimeError(odd)
        session.stop()
        loaded = load(recorded.save())
        assert_same(loaded, recorded)
        row = loaded.spans.iloc[0]
        assert (row["name"], row["agent"], row["error"]) == (even, even, f"RuntimeError: {even}")
        assert json.loads(row["attributes"]) == {even: [even, "ü"]}
        assert (loaded.name, loaded.meta["source"]) == (even, even)
        "".join(loaded._repr_mimebundle_().values()).encode()

    def test_saved_again(self, tmp_path: Path) -> None:
        """A loaded profile can be saved elsewhere, and is still the same."""
        profile = make_profile()
        loaded = load(profile.save())
        assert_same(load(loaded.save(tmp_path / "copy")), profile)

    def test_files(self, folder: Path) -> None:
        """A profile is a folder of its id with a JSON record and a Parquet file a table."""
        profile = make_profile(name="ü")
        saved = profile.save()
        assert saved == folder / profile.id
        assert {path.name for path in saved.iterdir()} == {
            "meta.json", *(f"{name}.parquet" for name in schema.TABLES)
        }  # fmt: skip
        assert [path.name for path in folder.iterdir()] == [profile.id]
        text = (saved / "meta.json").read_text(encoding="utf-8")
        assert json.loads(text) == profile.meta
        assert '"name": "ü"' in text

    @pytest.mark.parametrize("kind", [str, Path])
    def test_folder_given(self, tmp_path: Path, kind: Callable[[str], Any]) -> None:
        """A folder can be named, as text or path; it is made if it is not there."""
        target = tmp_path / "some" / "where"
        profile = make_profile()
        assert profile.save(kind(str(target))) == target / profile.id
        assert_same(load(kind(str(target / profile.id))), profile)

    def test_as_open_as_other_folders(self, folder: Path) -> None:
        """A saved profile is readable for whom the user's other new folders are."""
        saved = make_profile().save()
        by_hand = folder / "by_hand"
        by_hand.mkdir()
        assert stat.S_IMODE(saved.stat().st_mode) == stat.S_IMODE(by_hand.stat().st_mode)

    def test_twice_replaces(self, folder: Path) -> None:
        """Saved again under its id, a profile replaces what was there, wholly."""
        make_profile(name="first").save()
        (folder / "20260131T090000123-a-1a2b" / "notes.txt").write_text("old", encoding="utf-8")
        second = Profile(ProfileBuilder(id="20260131T090000123-a-1a2b", name="second").meta, {})
        saved = second.save()
        assert_same(load(saved), second)
        assert not (saved / "notes.txt").exists()
        assert [path.name for path in folder.iterdir()] == [saved.name]


class TestFinding:
    """By path or by id."""

    def test_by_path(self, saved: Path) -> None:
        """A path is taken as it is, from wherever."""
        assert load(saved).id == load(str(saved)).id == saved.name

    def test_by_relative_path(self, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A relative one is from the working folder."""
        monkeypatch.chdir(saved.parent.parent)
        assert load(f"{saved.parent.name}/{saved.name}").id == saved.name

    def test_by_id(self, saved: Path) -> None:
        """An id is looked for in the folder of profiles."""
        assert load(saved.name).id == saved.name

    @pytest.mark.parametrize(
        ("asked", "nearest"),
        [
            ("20260131T090000123-a-1a2c", "20260131T090000123-a-1a2b"),
            ("load-docs", "20260201T100000000-load-docs-ffff"),
            ("load", "20260201T100000000-load-docs-ffff"),
            ("20260201T100000000-lood-docs-ffff", "20260201T100000000-load-docs-ffff"),
        ],
    )
    def test_unknown_id(self, saved: Path, asked: str, nearest: str) -> None:
        """An unknown id is told with the nearest that there are, the very nearest first."""
        make_profile("20260201T100000000-load-docs-ffff").save()
        with pytest.raises(ProfileNotFoundError) as caught:
            load(asked)
        message = str(caught.value)
        assert message.startswith(f"There is no profile {asked!r}. Nearest: {nearest}")
        assert message.endswith(".")

    def test_nothing_near(self, saved: Path, folder: Path) -> None:
        """Where nothing is near, it is told where was looked and how many there are."""
        with pytest.raises(ProfileNotFoundError) as caught:
            load("?")
        assert str(caught.value) == f"There is no profile '?'. {folder} holds 1 profiles."

    def test_no_folder(self, folder: Path) -> None:
        """So it is where nothing was ever saved."""
        with pytest.raises(ProfileNotFoundError, match="holds 0 profiles"):
            load("20260131T090000123-a-1a2b")

    def test_empty_text(self, saved: Path) -> None:
        """An empty text names no profile, not the working folder."""
        with pytest.raises(ProfileNotFoundError):
            load("")


class TestList:
    """All saved profiles, newest first."""

    COLUMNS = ("id", "name", "created_at", "duration_s", "model_use", "path", "error")

    def test_none(self, folder: Path) -> None:
        """Without profiles the list has its columns and no rows, folder or not."""
        for _ in range(2):
            found = list_profiles()
            assert tuple(found.columns) == self.COLUMNS
            assert len(found) == 0
            folder.mkdir(exist_ok=True)

    def test_newest_first(self) -> None:
        """Profiles come by their ids, the last first, with what one looks for in a list."""
        for day in ("02", "01", "03"):
            make_profile(f"202601{day}T090000123-a-1a2b", name=f"day {day}").save()
        found = claude_pm.list_profiles()
        assert tuple(found.columns) == self.COLUMNS
        assert found["name"].tolist() == ["day 03", "day 02", "day 01"]
        assert found["id"].is_monotonic_decreasing
        assert found["duration_s"].tolist() == [10.0] * 3
        assert found["model_use"].tolist() == ["not called"] * 3
        assert found["error"].isna().all()
        assert [load(path).name for path in found["path"]] == found["name"].tolist()

    def test_damaged(self, saved: Path) -> None:
        """A damaged profile keeps its row, with the reason and nulls; the others are as ever."""
        broken = make_profile("20260201T090000123-b-1a2b").save()
        (broken / "meta.json").write_text("{", encoding="utf-8")
        found = list_profiles()
        assert found["id"].tolist() == [broken.name, saved.name]
        bad, good = found.iloc[0], found.iloc[1]
        assert "meta.json" in bad["error"]
        assert bad["path"] == str(broken)
        assert bad[["name", "created_at", "duration_s", "model_use"]].isna().all()
        assert pd.isna(good["error"])
        assert good["name"] == "synthetic"

    def test_of_a_folder(self, tmp_path: Path, saved: Path) -> None:
        """Another folder can be listed."""
        make_profile("20260301T090000123-c-1a2b").save(tmp_path / "other")
        assert list_profiles(tmp_path / "other")["id"].tolist() == ["20260301T090000123-c-1a2b"]

    @pytest.mark.parametrize("name", [".saving-x1y2", ".replaced-20260131T090000123-a-1a2b-77"])
    def test_leftovers(self, saved: Path, name: str) -> None:
        """What a killed process left half-way is no profile, in the list nor among the nearest."""
        shutil.copytree(saved, saved.parent / name)
        assert list_profiles()["id"].tolist() == [saved.name]
        with pytest.raises(ProfileNotFoundError) as caught:
            load(saved.name[:-1])
        assert name not in str(caught.value)

    def test_other_things(self, saved: Path) -> None:
        """Files and folders that are no profiles are not listed."""
        (saved.parent / "notes.txt").write_text("mine", encoding="utf-8")
        (saved.parent / "figures").mkdir()
        assert list_profiles()["id"].tolist() == [saved.name]


def edit_meta(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """Change the record of a saved profile."""

    def damage(saved: Path) -> None:
        path = saved / "meta.json"
        meta = json.loads(path.read_text(encoding="utf-8"))
        change(meta)
        path.write_text(json.dumps(meta), encoding="utf-8")

    return damage


def write_meta(content: bytes) -> Callable[[Path], object]:
    """Replace the record of a saved profile."""
    return lambda saved: (saved / "meta.json").write_bytes(content)


def edit_table(name: str, change: Callable[[pd.DataFrame], pd.DataFrame]) -> Callable[[Path], None]:
    """Change a table of a saved profile."""

    def damage(saved: Path) -> None:
        path = saved / f"{name}.parquet"
        change(pd.read_parquet(path)).to_parquet(path, index=False)

    return damage


def cut(name: str, keep: Callable[[int], int]) -> Callable[[Path], None]:
    """Cut a file of a saved profile short."""

    def damage(saved: Path) -> None:
        content = (saved / name).read_bytes()
        (saved / name).write_bytes(content[: keep(len(content))])

    return damage


class TestDamage:
    """What cannot be read is told with the folder, the file and the reason."""

    @pytest.mark.parametrize(
        ("damage", "error", "says"),
        [
            pytest.param(write_meta(b"{"), ProfileDamagedError, "meta.json", id="not JSON"),
            pytest.param(write_meta(b""), ProfileDamagedError, "meta.json", id="empty record"),
            pytest.param(write_meta(b"\xff\xfe{}"), ProfileDamagedError, "meta.json", id="bytes"),
            pytest.param(
                write_meta(b"[]"), ProfileDamagedError, "meta.json has no schema_version",
                id="not an object",
            ),
            pytest.param(
                lambda saved: (saved / "meta.json").unlink(), ProfileDamagedError, "meta.json",
                id="no record",
            ),
            pytest.param(
                edit_meta(lambda meta: meta.pop("schema_version")), ProfileDamagedError,
                "meta.json has no schema_version", id="no version",
            ),
            pytest.param(
                edit_meta(lambda meta: meta.update(schema_version="1")), ProfileDamagedError,
                "meta.json has no schema_version", id="version of another type",
            ),
            *(
                pytest.param(
                    edit_meta(lambda meta, key=key: meta.pop(key)), ProfileDamagedError,
                    f"meta.json has no {key}", id=f"no {key}",
                )
                for key in ("id", "name", "created_at", "duration_s", "model_use")
            ),
            *(
                pytest.param(
                    edit_meta(lambda meta, key=key, value=value: meta.update({key: value})),
                    ProfileDamagedError, f"meta.json: {key} may not be ", id=f"{key}={value!r:.20}",
                )
                for key, values in {
                    "id": ("", "../../evil", "/evil", "20260131T090000123-a\n", 1),
                    "name": (None, 1, []),
                    "created_at": ("x", "", 1, None),
                    "duration_s": ("x", "1", None, True, -1, float("nan"), float("inf"), 10**400),
                    "model_use": ("dead", None, ["live"], {}),
                }.items()
                for value in values
            ),
            pytest.param(
                edit_meta(lambda meta: meta.update(schema_version=schema.SCHEMA_VERSION + 1)),
                ProfileSchemaError, "Update claude-pm", id="later version",
            ),
            *(
                pytest.param(
                    lambda saved, name=name: (saved / f"{name}.parquet").unlink(),
                    ProfileDamagedError, f"{name}.parquet: the file is missing",
                    id=f"no {name}",
                )
                for name in schema.TABLES
            ),
            pytest.param(
                cut("spans.parquet", lambda size: size // 2), ProfileDamagedError,
                "spans.parquet: ", id="half a table",
            ),
            pytest.param(
                cut("spans.parquet", lambda size: size - 1), ProfileDamagedError,
                "spans.parquet: ", id="a byte short",
            ),
            pytest.param(
                cut("lines.parquet", lambda _: 0), ProfileDamagedError, "lines.parquet: ",
                id="an empty file",
            ),
            pytest.param(
                edit_table("memory", lambda data: data.drop(columns="rss_bytes")),
                ProfileSchemaError, "'memory'", id="missing column",
            ),
            pytest.param(
                edit_table("memory", lambda data: data.rename(columns={"rss_bytes": "rss"})),
                ProfileSchemaError, "lacks 'rss_bytes'", id="renamed column",
            ),
            pytest.param(
                edit_table("spans", lambda data: data.assign(extra=1)), ProfileSchemaError,
                "unknown column 'extra'", id="unknown column",
            ),
            pytest.param(
                edit_table("spans", lambda data: data.astype({"start_s": "string"})),
                ProfileSchemaError, "spans.start_s", id="wrong type",
            ),
        ],
    )  # fmt: skip
    def test_told(
        self,
        saved: Path,
        damage: Callable[[Path], object],
        error: type[ProfileError],
        says: str,
    ) -> None:
        """Each kind of damage is its own error, one sentence naming folder and file or table."""
        damage(saved)
        with pytest.raises(error) as caught:
            load(saved)
        message = str(caught.value)
        assert type(caught.value) is error
        assert str(saved) in message
        assert says in message
        assert message.endswith(".")
        assert "\n" not in message

    def test_later_version_says_both(self, saved: Path) -> None:
        """A profile of a later version is told with its version and the one that can be read."""
        edit_meta(lambda meta: meta.update(schema_version=99))(saved)
        with pytest.raises(ProfileSchemaError, match=r"has schema version 99.* reads up to 1"):
            load(saved)

    def test_a_table_of_one_type_of_null(self, saved: Path) -> None:
        """A column with nothing but nulls is no damage."""
        edit_table("spans", lambda data: data.assign(agent=data["agent"].mask(data["pid"] >= -1)))(
            saved
        )
        assert load(saved).spans["agent"].isna().all()


def no_space(*_arguments: Any, **_options: Any) -> None:
    """Fail as a full disk does."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def half_written(_data: pd.DataFrame, path: Path, **_options: Any) -> None:
    """Write some of the file, then fail as a full disk does."""
    Path(path).write_bytes(b"PAR1")
    no_space()


def rename_fails_for_new(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the older save be put aside, and the new one then not take its place."""
    rename = Path.rename

    def fail(self: Path, target: Path) -> Path:
        if self.name.startswith(".saving-"):
            no_space()
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)


DISK_FULL: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "making the folder": lambda patch: patch.setattr("tempfile.mkdtemp", no_space),
    "opening it": lambda patch: patch.setattr(Path, "chmod", no_space),
    "a table": lambda patch: patch.setattr(pd.DataFrame, "to_parquet", no_space),
    "half a table": lambda patch: patch.setattr(pd.DataFrame, "to_parquet", half_written),
    "the record": lambda patch: patch.setattr(Path, "write_text", no_space),
    "any rename": lambda patch: patch.setattr(Path, "rename", no_space),
    "the new rename": rename_fails_for_new,
}


class TestStorage:
    """A disk that refuses leaves nothing half-written and loses nothing."""

    @pytest.mark.parametrize("older", [False, True], ids=["new", "replacing"])
    @pytest.mark.parametrize("fail", DISK_FULL.values(), ids=DISK_FULL.keys())
    def test_disk_full(
        self,
        monkeypatch: pytest.MonkeyPatch,
        folder: Path,
        fail: Callable[[pytest.MonkeyPatch], None],
        older: bool,
    ) -> None:
        """The error says where and why; no folder is left, and an older save is untouched."""
        before = make_profile(name="older")
        if older:
            before.save()
        profile = make_profile(name="newer")
        with monkeypatch.context() as patch:
            fail(patch)
            with pytest.raises(ProfileStorageError) as caught:
                profile.save()
        message = str(caught.value)
        assert profile.id in message
        assert str(folder) in message
        assert "No space left on device" in message
        assert "CLAUDE_PM_PROFILES_DIR" in message
        left = [path.name for path in folder.iterdir()] if folder.exists() else []
        assert left == ([profile.id] if older else [])
        if older:
            assert_same(load(profile.id), before)
        # And the profile is still there to be saved when there is room.
        assert_same(load(profile.save()), profile)

    def test_a_file_in_the_way(self, tmp_path: Path) -> None:
        """A file where the folder should be is a refusal like any other."""
        (tmp_path / "file").write_text("mine", encoding="utf-8")
        with pytest.raises(ProfileStorageError, match=r"could not be stored in .*file"):
            make_profile().save(tmp_path / "file")
        assert (tmp_path / "file").read_text(encoding="utf-8") == "mine"

    def test_interrupted(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        """Ctrl-C while saving leaves nothing half-written either."""

        def interrupt(*_arguments: Any, **_options: Any) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(pd.DataFrame, "to_parquet", interrupt)
        with pytest.raises(KeyboardInterrupt):
            make_profile().save()
        assert list(folder.iterdir()) == []

    @pytest.mark.parametrize("id", ["", ".", "../../evil", "/evil", "20260131T090000123-a/b"])
    def test_wrong_ids_are_not_saved(self, tmp_path: Path, id: str) -> None:
        """An id that could name another folder is refused before anything is written."""
        (tmp_path / "a").mkdir()
        with pytest.raises(ProfileError, match=r"^The profile 'synthetic' cannot be stored.*\.$"):
            make_profile(id).save(tmp_path / "a" / "b")
        assert [path.name for path in tmp_path.rglob("*")] == ["a"]

    def test_wrong_tables_are_not_saved(self, folder: Path) -> None:
        """A table that is not of the schema is refused before anything is written."""
        wrong = Profile(ProfileBuilder().meta, {"memory": pd.DataFrame({"t_s": [1.0]})})
        with pytest.raises(ProfileSchemaError, match="'memory' of the profile"):
            wrong.save()
        assert not folder.exists()
