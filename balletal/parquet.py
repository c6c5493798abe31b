"""Parquet files by name, below a folder or prefix: naming, listing, reading, writing and removing them."""

import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from balletal import files
from balletal.errors import InputError

READERS = 8
"""Files that are read at the same time."""

_LONGEST_NAME = 180  # bytes; a file name has at most 255, and an atomic write adds some


def write_table(uri: str, table: pa.Table) -> None:
    """Write a table as one file, atomically."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    files.write_bytes(uri, sink.getvalue().to_pybytes())


def read_table(uri: str, rows: list[tuple[str, str, int]] | None = None) -> pa.Table:
    """A table, or those of its rows that pass all of Arrow's ``(column, operator, value)`` filters.

    Raises:
        InputError: the file is missing or damaged.
    """
    try:
        return pq.read_table(pa.BufferReader(files.read_bytes(uri)), filters=rows)
    except (pa.ArrowException, OSError) as error:
        raise InputError(uri, expected="a Parquet file", found=str(error).splitlines()[0]) from None


def read_tables(uris: Sequence[str]) -> list[pa.Table]:
    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(read_table, uris))


def empty_frame(schema: pa.Schema) -> pd.DataFrame:
    return schema.empty_table().to_pandas()


def parquet_files(folder: str) -> list[str]:
    return [files.join(folder, name) for name in files.list_names(folder) if re.fullmatch(r"[^._].*\.parquet", name)]


def remove(uris: Iterable[str]) -> None:
    for uri in uris:
        files.remove(uri)


def quote(video_id: str) -> str:
    """A video id as part of a file name: what is no letter, digit, dash or inner dot becomes %XX.

    Raises:
        InputError: the id is empty, too long for a file name, or no text.
    """
    try:
        quoted = re.sub(r"[^\w.~-]|^[._]", lambda found: "".join(f"%{b:02X}" for b in found[0].encode()), video_id)
        length = len(quoted.encode())
    except UnicodeEncodeError:
        raise InputError(f"video id {video_id!r}", expected="text that UTF-8 can write", found="other bytes") from None
    if not 0 < length <= _LONGEST_NAME:
        raise InputError(
            f"video id {video_id!r}", expected=f"1 to {_LONGEST_NAME} bytes as a file name", found=f"{length}"
        )
    return quoted
