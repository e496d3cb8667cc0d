"""A profile within a report: its meta record and tables, put into an HTML file and taken out again.

They stand in a ``<script type="application/octet-stream">``, which a browser neither shows nor
runs, as the base64 of a zip with ``meta.json`` and one Parquet file for each table that has rows.
Nothing is unpacked to disk, and nothing in it is ever code.
"""

from __future__ import annotations

import base64
import io
import json
import re
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

from claude_pm.errors import ProfileDamagedError, ProfileNotFoundError, ProfileSchemaError
from claude_pm.profiles import schema, stored_meta
from claude_pm.profiles.profile import Profile

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

ELEMENT_ID = "claude-pm-profile"
ELEMENT_TYPE = "application/octet-stream"
GENERATOR = "claude_pm report of a profile"
"""What the page names as its generator: by it a report is known even when it is cut short."""

MAX_BYTES = 1 << 30
"""What a report may unpack to; more is refused, for a small file can be made to unpack to much."""

_BLOCK = re.compile(rb'<script\b[^>]*\bid="' + ELEMENT_ID.encode() + rb'"[^>]*>([^<]*)(</script>)?')
# The date of every file in the zip: the same profile makes the same report.
_DATE = (1980, 1, 1, 0, 0, 0)
# Of what a table holds beside the texts: a number or an offset, in every row of each column.
_BYTES_PER_CELL = 8


def packed(profile: Profile) -> str:
    """Return the profile's meta record and tables as lines of base64."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        # Half a surrogate pair, which no file can hold, stays an escape of JSON.
        meta = json.dumps(profile.meta, ensure_ascii=True).encode()
        file.writestr(zipfile.ZipInfo(stored_meta.NAME, _DATE), meta, zipfile.ZIP_DEFLATED)
        for name in schema.TABLES:
            data = profile.table(name)
            if len(data):
                content = io.BytesIO()
                # What the schema says anyway is left out: small tables are mostly that.
                bare = pa.Table.from_pandas(data, preserve_index=False).replace_schema_metadata()
                pq.write_table(
                    bare, content, compression="zstd", store_schema=False, write_statistics=False
                )
                file.writestr(zipfile.ZipInfo(_file_name(name), _DATE), content.getvalue())
    return base64.encodebytes(archive.getvalue()).decode()


def read_html(path: Path) -> Profile:
    """Return the profile that the report at ``path`` was made of.

    Raises:
        ProfileNotFoundError: there is no such file, or it is not the report of a profile.
        ProfileDamagedError: it is cut short, cannot be read, or unpacks to more than 1 GiB.
        ProfileSchemaError: it was written by a later version, or its tables are not as they
            should be.
    """
    from pyarrow import ArrowException

    block = _block(_content(path), path)
    try:
        with zipfile.ZipFile(io.BytesIO(base64.b64decode(block, validate=True))) as archive:
            return _read(archive, path)
    # What zipfile, zlib, json, and Parquet's reader say of bytes that are not what they should be.
    except (
        zipfile.BadZipFile, zlib.error, EOFError, KeyError, NotImplementedError, RuntimeError,
        TypeError, ValueError, OSError, ArrowException,
    ) as error:  # fmt: skip
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ProfileDamagedError(
            f"The report {path} is damaged: its tables cannot be read: {reason}."
        ) from error


def _content(path: Path) -> bytes:
    try:
        too_large = path.stat().st_size > 2 * MAX_BYTES
        content = b"" if too_large else path.read_bytes()
    except FileNotFoundError:
        raise ProfileNotFoundError(f"There is no report {path}.") from None
    except OSError as error:
        raise ProfileDamagedError(
            f"The report {path} cannot be read: {error.strerror or error}."
        ) from error
    if too_large:
        raise ProfileDamagedError(f"The report {path} is too large: more than 2 GiB are not read.")
    return content


def _block(content: bytes, path: Path) -> bytes:
    """Return the base64 without its line breaks."""
    found = _BLOCK.search(content)
    if found is None and GENERATOR.encode() not in content:
        raise ProfileNotFoundError(
            f"There is no profile in {path}: it is not the report of a profile that claude_pm "
            "wrote, or is one of before reports held their tables."
        )
    if found is None or found[2] is None:
        raise ProfileDamagedError(
            f"The report {path} is damaged: it ends before its tables do. It was probably cut "
            "short on its way; ask for it again."
        )
    return b"".join(found[1].split())


class _Room:
    """Counts what a report unpacks to before it is unpacked."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._left = MAX_BYTES

    def take(self, size_bytes: int) -> None:
        self._left -= size_bytes
        if self._left < 0:
            raise ProfileDamagedError(
                f"The report {self._path} is not read: it unpacks to more than 1 GiB."
            )


def _read(archive: zipfile.ZipFile, path: Path) -> Profile:
    sizes = {member.filename: member.file_size for member in archive.infolist()}
    if stored_meta.NAME not in sizes:
        raise ProfileDamagedError(
            f"The report {path} is damaged: there is no {stored_meta.NAME} in it."
        )
    known = [name for name in schema.TABLES if _file_name(name) in sizes]
    room = _Room(path)
    room.take(sum(sizes[name] for name in (stored_meta.NAME, *map(_file_name, known))))
    meta = stored_meta.check_meta(
        json.loads(archive.read(stored_meta.NAME)), where=f"The report {path}"
    )
    tables = {
        name: _table(archive.read(_file_name(name)), table, path, room)
        if name in known
        else schema.frame(table)
        for name, table in schema.TABLES.items()
    }
    return Profile(meta, tables)


def _table(content: bytes, table: schema.Table, path: Path, room: _Room) -> pd.DataFrame:
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {
        pa.int64(): pd.Int64Dtype(),
        pa.float64(): pd.Float64Dtype(),
        pa.string(): pd.StringDtype(),
        pa.large_string(): pd.StringDtype(),
    }
    # Without pandas' own notes: what they say of types is anybody's.
    plain = pq.ParquetFile(io.BytesIO(content)).schema_arrow.remove_metadata()
    if len(set(plain.names)) < len(plain.names):
        raise ProfileSchemaError(f"The table {table.name!r} of {path} has a column twice.")
    schema.check(table, plain.empty_table().to_pandas(types_mapper=types.get), where=str(path))
    # In a small file one text can stand for a million rows, so each is read once and counted.
    texts = [column.name for column in table.columns if column.dtype == pd.StringDtype().name]
    file = pq.ParquetFile(io.BytesIO(content), read_dictionary=texts)
    groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
    room.take(sum(group.total_byte_size for group in groups))
    room.take(file.metadata.num_rows * len(table.columns) * _BYTES_PER_CELL)
    data = file.read().replace_schema_metadata(None)
    room.take(sum(_text_bytes(data.column(name)) for name in texts))
    frame: pd.DataFrame = data.cast(plain).to_pandas(types_mapper=types.get)
    return frame[table.column_names]


def _text_bytes(column: pa.ChunkedArray) -> int:
    """Return the length of all texts of a column of which each different one is held once."""
    import pyarrow.compute as pc

    lengths = (pc.binary_length(chunk.dictionary).take(chunk.indices) for chunk in column.chunks)
    return sum(pc.sum(length).as_py() or 0 for length in lengths)


def _file_name(table: str) -> str:
    return f"{table}.parquet"
