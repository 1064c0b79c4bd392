"""Tables of figures: they come back as they were put in, or are refused."""

from __future__ import annotations

import csv
import math

import numpy as np
import pytest

import jaxprompt as jp
from jaxprompt.errors import UsageError
from jaxprompt.presentation.table_files import load_table_rows, save_table

ROWS = [
    {"x": 1.5, "label": "a", "count": 3},
    {"x": np.pi, "label": "b", "count": 4, "extra": "only here"},
    {"x": None, "label": "a", "count": 5},
]


def test_tables_round_trip(tmp_path):
    path = tmp_path / "deep" / "points.csv"
    save_table(path, ROWS)
    rows = load_table_rows(path)
    assert [row["x"] for row in rows[:2]] == [1.5, np.pi]
    assert np.isnan(rows[2]["x"])
    assert [row["label"] for row in rows] == ["a", "b", "a"]
    assert [row["extra"] for row in rows] == ["", "only here", ""]
    data = jp.load(path)
    assert dict(data.sizes) == {"row": 3}
    assert data["count"].values.tolist() == [3, 4, 5]


def test_a_table_replaces_an_older_one(tmp_path):
    path = tmp_path / "points.csv"
    save_table(path, ROWS)
    save_table(path, [{"y": 1.0}])
    assert load_table_rows(path) == [{"y": 1.0}]
    assert [p.name for p in tmp_path.iterdir()] == ["points.csv"]


@pytest.mark.parametrize(
    "values",
    [[0.1, 1 / 3, 5e-324, -0.0, 1.7976931348623157e308], [math.inf, -math.inf, math.nan],
     ["", "a,b", 'say "x"', "two\nlines", "\r\n", "é ⋆", "1.5", "nan"], [True, 2, 2.5],
     ["mixed", 3, [1, 2]], ["x" * 200_000]],
)  # fmt: skip
def test_every_value_comes_back(tmp_path, values):
    path = tmp_path / "table.csv"
    save_table(path, [{"value": value} for value in values])
    found = [row["value"] for row in load_table_rows(path)]
    numbers = all(isinstance(value, bool | int | float) for value in values)
    if numbers:
        assert repr(found) == repr([float(value) for value in values])
    else:
        texts = {3: "3", (1, 2): "[1, 2]"}
        assert found == [v if isinstance(v, str) else texts[tuple(v) if v == [1, 2] else v]
                         for v in values]  # fmt: skip
    assert jp.load(path)["value"].shape == (len(values),)


def test_no_rows(tmp_path):
    save_table(tmp_path / "table.csv", [])
    assert load_table_rows(tmp_path / "table.csv") == []
    assert dict(jp.load(tmp_path / "table.csv").sizes) == {}


def test_other_programs_can_open_it(tmp_path):
    save_table(tmp_path / "table.csv", ROWS)
    with (tmp_path / "table.csv").open(newline="") as file:
        assert file.readline().startswith("# jaxprompt table 1, crc32 ")
        rows = list(csv.DictReader(file))
    assert rows[1] == {"x": repr(np.pi), "label": "b", "count": "4.0", "extra": "only here"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda data: data.replace(b"1.5", b"2.5"), "holds other numbers than were written"),
        (lambda data: data[:-5], "holds other numbers than were written"),
        (lambda data: data.replace(b"table 1", b"table 9"), "schema 9, this version reads 1"),
        (lambda data: data.partition(b"\n")[2], "its first line is not that of a table"),
        (lambda data: b"", "its first line"),
        (lambda data: b"\xff\xfe\n", "codec"),
    ],
)
def test_damaged_tables_are_refused_in_one_line(tmp_path, change, said):
    path = tmp_path / "table.csv"
    save_table(path, ROWS)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(UsageError, match=said) as caught:
        jp.load(path)
    assert "\n" not in str(caught.value)


def test_no_table(tmp_path):
    for path in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(UsageError, match="no table at"):
            load_table_rows(path)
