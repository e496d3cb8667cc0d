"""A report holds its profile: it comes back whole, and what is no report of ours says so."""

from __future__ import annotations

import base64
import io
import json
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from claude_pm.errors import ProfileDamagedError, ProfileNotFoundError, ProfileSchemaError
from claude_pm.profiles import Profile, html_file, load, schema
from tests.profile_builder import ProfileBuilder
from tests.profiles.test_store import assert_same, make_profile
from tests.views.profiles import two_modes

BLOCK = re.compile(r'(<script type="application/octet-stream" id="claude-pm-profile">)([^<]*)')


def zipped(**files: bytes) -> bytes:
    """Return a zip of these files; ``meta_json`` and ``spans_parquet`` for their names."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in files.items():
            file.writestr(name.replace("_", "."), content)
    return archive.getvalue()


def meta(**other: Any) -> bytes:
    """Return a meta record as bytes."""
    return json.dumps(ProfileBuilder().meta | other).encode()


def parquet(data: pa.Table, **options: Any) -> bytes:
    """Return an Arrow table as a Parquet file."""
    content = io.BytesIO()
    pq.write_table(data, content, **options)
    return content.getvalue()


def spans(**columns: pa.Array) -> pa.Table:
    """Return a table of spans as Arrow has it, all null but for these columns."""
    rows = len(next(iter(columns.values()))) if columns else 1
    types = {"string": pa.string(), "Int64": pa.int64(), "Float64": pa.float64()}
    return pa.table(
        {
            column.name: columns.get(column.name, pa.nulls(rows, types[column.dtype]))
            for column in schema.SPANS.columns
        }
    )


def page(profile: Profile) -> str:
    """Return the least page that holds a profile."""
    return (
        f'<!DOCTYPE html><meta name="generator" content="{html_file.GENERATOR}">{"<p>text" * 500}'
        f'<script type="{html_file.ELEMENT_TYPE}" id="{html_file.ELEMENT_ID}">'
        f"{html_file.packed(profile)}</script><script>more()</script>"
    )


@pytest.fixture
def report(tmp_path: Path) -> Path:
    """Return a page that holds a profile with every kind of value in every table."""
    path = tmp_path / "report.html"
    path.write_text(page(make_profile(source="print('</script>')")), encoding="utf-8")
    return path


@pytest.fixture
def replace(report: Path) -> Any:
    """Return a function that puts other bytes in the place of a report's tables."""

    def put(content: bytes) -> Path:
        text = base64.b64encode(content).decode()
        html = BLOCK.sub(lambda found: found[1] + text, report.read_text(encoding="utf-8"))
        report.write_text(html, encoding="utf-8")
        return report

    return put


class TestRoundTrip:
    def test_every_table(self, report: Path) -> None:
        """Meta record, values, nulls, types and order come back, of empty tables too."""
        assert_same(load(report), make_profile(source="print('</script>')"))
        assert_same(load(str(report)), load(report))
        empty = Profile(ProfileBuilder().meta, {})
        report.write_text(page(empty), encoding="utf-8")
        assert_same(load(report), empty)

    def test_report(self, tmp_path: Path) -> None:
        """So does the profile of a real report, and makes the same report again."""
        profile = two_modes().build()
        first = profile.to_html(tmp_path / "report.html")
        assert_same(load(first), profile)
        written = first.read_bytes()
        assert load(first).to_html(first).read_bytes() == written

    def test_halves_of_surrogate_pairs(self, report: Path) -> None:
        """What no file can hold comes back from the meta record all the same."""
        report.write_text(page(make_profile(source="caf\udce9")), encoding="utf-8")
        assert load(report).meta["source"] == "caf\udce9"

    def test_of_other_shape(self, report: Path) -> None:
        """Line ends of Windows, a browser's order of attributes, an upper-case suffix."""
        html = report.read_text(encoding="utf-8")
        saved = report.with_name("SAVED.HTM")
        saved.write_text(
            BLOCK.sub(
                r'<script id="claude-pm-profile" type="application/octet-stream">\2', html
            ).replace("\n", "\r\n"),
            encoding="utf-8",
            newline="",
        )
        assert_same(load(saved), load(report))

    def test_unknown_members_are_left_alone(self, replace: Any) -> None:
        """What else is in the zip is not read."""
        found = load(replace(zipped(meta_json=meta(), __init___py=b"raise SystemExit")))
        assert found.name == "synthetic"


class TestRefuses:
    def test_what_is_not_there(self, tmp_path: Path) -> None:
        """A path that ends in .html is meant as a report."""
        with pytest.raises(ProfileNotFoundError, match=r"There is no report .*missing\.html"):
            load(tmp_path / "missing.html")

    def test_what_is_no_report(self, tmp_path: Path) -> None:
        """Some other page has no profile in it."""
        page = tmp_path / "page.html"
        page.write_text("<!DOCTYPE html><p>Hello", encoding="utf-8")
        with pytest.raises(ProfileNotFoundError, match="not the report of a profile"):
            load(page)

    @pytest.mark.parametrize("share", [0.5, 0.9, 0.98])
    def test_what_was_cut_short(self, report: Path, share: float) -> None:
        """Wherever it ends, before its tables or within, it is said that it ends too soon."""
        content = report.read_bytes()
        end = content.index(b"</script>", content.index(b"octet-stream")) - 10
        report.write_bytes(content[: int(share * end)])
        with pytest.raises(ProfileDamagedError, match="cut short"):
            load(report)

    def test_what_was_changed(self, report: Path) -> None:
        """A changed byte is noticed."""
        html = report.read_text(encoding="utf-8")
        at = BLOCK.search(html)
        assert at is not None
        middle = (at.start(2) + at.end(2)) // 2
        changed = "A" if html[middle] != "A" else "B"
        report.write_text(html[:middle] + changed + html[middle + 1 :], encoding="utf-8")
        with pytest.raises(ProfileDamagedError, match="is damaged"):
            load(report)

    @pytest.mark.parametrize(
        "content",
        [
            b"no zip",
            pickle.dumps({"meta": 1}),
            zipped(spans_parquet=b""),
            zipped(meta_json=b"{"),
            zipped(meta_json=b"[" * 100_000),
            zipped(meta_json=b"[]"),
            zipped(meta_json=meta(id="../../etc")),
            zipped(meta_json=meta(duration_s=-1)),
            zipped(meta_json=meta(), spans_parquet=b"PAR1 no PAR1"),
            zipped(meta_json=meta(), spans_parquet=pickle.dumps(pd.DataFrame())),
        ],
    )
    def test_what_is_damaged(self, replace: Any, content: bytes) -> None:
        """Whatever stands in place of the tables, it is refused in a sentence."""
        with pytest.raises(ProfileDamagedError, match=r"report\.html is damaged: .+\.$"):
            load(replace(content))

    def test_a_later_schema(self, replace: Any) -> None:
        """A report of a later version says that claude-pm has to be updated."""
        content = zipped(meta_json=meta(schema_version=schema.SCHEMA_VERSION + 1))
        with pytest.raises(ProfileSchemaError, match=r"report\.html has schema version.*Update"):
            load(replace(content))

    @pytest.mark.parametrize(
        ("table", "said"),
        [
            (spans().drop_columns(["name"]), "lacks 'name'"),
            (spans().append_column("more", pa.array([1])), "unknown column 'more'"),
            (spans().append_column("pid", pa.array([1])), "a column twice"),
            (spans(pid=pa.array(["1"])), r"spans\.pid .* is string, not Int64"),
            (spans(pid=pa.array([[1]])), r"spans\.pid .* is object, not Int64"),
            (spans(name=pa.array([b"x"])), r"spans\.name .* not string"),
        ],
    )
    def test_other_columns(self, replace: Any, table: pa.Table, said: str) -> None:
        """Columns and types are those of the schema, or it is no profile."""
        with pytest.raises(ProfileSchemaError, match=said):
            load(replace(zipped(meta_json=meta(), spans_parquet=parquet(table))))


class TestBombs:
    """A small file that would unpack to more than a computer holds is refused before it does."""

    def test_a_zip_of_zeros(self, replace: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """What the zip's members say of their size is counted first."""
        monkeypatch.setattr(html_file, "MAX_BYTES", 1 << 20)
        content = zipped(meta_json=meta(), spans_parquet=bytes(1 << 20))
        assert len(content) < 10_000
        with pytest.raises(ProfileDamagedError, match="unpacks to more than 1 GiB"):
            load(replace(content))

    def test_rows_of_nothing(self, replace: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """Many rows of nulls are a small file, and much memory."""
        monkeypatch.setattr(html_file, "MAX_BYTES", 1 << 24)
        rows = 100_000
        table = spans(pid=pa.nulls(rows, pa.int64()))
        content = zipped(meta_json=meta(), spans_parquet=parquet(table))
        assert len(content) < 1 << 20
        with pytest.raises(ProfileDamagedError, match="unpacks to more than 1 GiB"):
            load(replace(content))

    def test_one_text_for_many_rows(self, replace: Any) -> None:
        """A megabyte that stands in two thousand rows is held once in the file."""
        texts = pa.DictionaryArray.from_arrays(pa.array([0] * 2000), pa.array(["x" * 1_000_000]))
        # Without Arrow's own note of it that these are a dictionary, Parquet calls them texts.
        data = parquet(spans(name=texts), store_schema=False)
        content = zipped(meta_json=meta(), spans_parquet=data)
        assert len(content) < 1 << 20
        with pytest.raises(ProfileDamagedError, match="unpacks to more than 1 GiB"):
            load(replace(content))
