"""Tables of numbers and texts as CSV files, which every program can open.

The first line is a comment with a checksum of what follows, so that a table whose numbers were
changed or cut short is refused. Texts are quoted and numbers are not, so each column comes back as
what it was, every float64 exactly.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxprompt.errors import UsageError, short
from jaxprompt.presentation.files import write_atomically

if TYPE_CHECKING:
    import xarray

__all__ = ["load_table", "load_table_rows", "save_table"]

_HEADER = "# jaxprompt table 1, crc32 {:08x}\n"
_HEADER_PATTERN = re.compile(r"# jaxprompt table (\d+), crc32 ([0-9a-f]{8})\r?\n")
_LONGEST_TEXT = 2**24
"""Characters that one text of a table may have; Python's own limit is lower."""


def save_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Store rows under `path`; a complete table replaces an older one.

    A column whose values are all numbers is stored as float64, with NaN where a row lacks it;
    every other column as texts, values that are none as JSON, with "" where a row lacks it.
    """
    columns = {name: _column(name, rows) for name in dict.fromkeys(n for row in rows for n in row)}
    text = io.StringIO(newline="")
    writer = csv.writer(text, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
    if columns:
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    # A text may hold lone surrogates, which no encoding has.
    body = text.getvalue().encode("utf-8", "backslashreplace")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, _HEADER.format(zlib.crc32(body)).encode() + body)


def _column(name: str, rows: Sequence[Mapping[str, Any]]) -> list[Any]:
    values = [row.get(name) for row in rows]
    if all(isinstance(v, int | float | None) for v in values):
        return [math.nan if v is None else float(v) for v in values]
    return ["" if v is None else v if isinstance(v, str) else json.dumps(v) for v in values]


def load_table_rows(path: Path) -> list[dict[str, Any]]:
    """A stored table as a list of rows, of floats and texts.

    Raises:
        UsageError: there is none, or it is damaged.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise UsageError(
            f"no table at '{path}' ({error.strerror}): give a file that a run wrote with --out"
        ) from None
    try:
        return _parse_table(data)
    except (ValueError, csv.Error) as error:
        raise UsageError(
            f"the table '{path}' is damaged ({short(error, 200)}): run the command that wrote it "
            "again"
        ) from None


def _parse_table(data: bytes) -> list[dict[str, Any]]:
    line, _, body = data.partition(b"\n")
    header = _HEADER_PATTERN.fullmatch(line.decode("utf-8") + "\n")
    if header is None:
        raise ValueError("its first line is not that of a table")
    if header[1] != "1":
        raise ValueError(f"schema {header[1]}, this version reads 1")
    if int(header[2], 16) != zlib.crc32(body):
        raise ValueError("it holds other numbers than were written")
    limit = csv.field_size_limit(_LONGEST_TEXT)
    try:
        lines = list(
            csv.reader(io.StringIO(body.decode("utf-8"), newline=""), quoting=csv.QUOTE_NONNUMERIC)
        )
    finally:
        csv.field_size_limit(limit)
    names, rows = (lines[0], lines[1:]) if lines else ([], [])
    rows_read = [dict(zip(names, row, strict=True)) for row in rows]
    for name in names:
        if len({type(row[name]) for row in rows_read}) > 1:
            raise ValueError(f"column {name} holds numbers and texts")
    return rows_read


def load_table(path: Path) -> xarray.Dataset:
    """A stored table as a dataset with the one dimension `row`.

    Raises:
        UsageError: there is none, or it is damaged.
    """
    import xarray

    rows = load_table_rows(path)
    names = list(rows[0]) if rows else []
    return xarray.Dataset({name: ("row", np.array([row[name] for row in rows])) for name in names})
