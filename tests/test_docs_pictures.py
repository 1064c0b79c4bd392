"""The documentation's pictures: each is drawn by a script beside it, from a table beside it."""

from __future__ import annotations

import csv
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from quick_cases import mostly_slow

from jaxprompt.core.figures import Mark, Panel
from jaxprompt.stats import Estimate

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PICTURES = sorted(path.stem for path in DOCS.glob("*.png") if path.stem != "ridge_risk")
each_picture = pytest.mark.parametrize("name", PICTURES)


def load_script(name):
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def drawing():
    """docs/drawing.py, which the scripts import from beside them."""
    sys.path.insert(0, str(DOCS))
    try:
        import drawing

        yield drawing
    finally:
        sys.path.remove(str(DOCS))
        sys.modules.pop("drawing", None)


@pytest.fixture(scope="module")
def drawn_by(drawing):
    """Script of every picture that a script draws."""
    scripts = [path.stem for path in DOCS.glob("*_pictures.py") if path.stem != "gallery_pictures"]
    return {name: script for script in scripts for name in load_script(script).PICTURES}


def test_every_picture_has_one_script_and_every_script_its_pictures(drawn_by):
    assert sorted(drawn_by) == PICTURES
    for name, script in drawn_by.items():
        assert name.startswith(script.removesuffix("_pictures")), f"{script}.py draws {name}"


@each_picture
def test_a_picture_has_a_table_and_a_page(name):
    assert (DOCS / f"{name}.csv").is_file()
    pages = [path for path in DOCS.glob("*.md") if f"]({name}.png)" in path.read_text()]
    assert pages, f"no page shows {name}.png"


DRAWN_BY_DEFAULT = {"contextual_attention", "prefix_temperature", "real_data_embeddings"}
"""Pictures that have every kind of mark between them."""


@pytest.mark.parametrize("name", mostly_slow(PICTURES, DRAWN_BY_DEFAULT.__contains__))
def test_a_picture_is_drawn_from_its_table(name, drawing, tmp_path):
    from matplotlib.image import imread

    drawing.draw(name, DOCS, tmp_path)
    stored, drawn = imread(DOCS / f"{name}.png"), imread(tmp_path / f"{name}.png")
    assert stored.shape == drawn.shape
    # Another version of the fonts' rasteriser may move edges, but not a mark.
    assert np.abs(stored - drawn).mean() < 0.01


@each_picture
def test_a_table_comes_back_as_it_was(name, drawing, tmp_path):
    picture = drawing.read(DOCS / f"{name}.csv")
    drawing.write(picture, tmp_path / "again.csv")
    assert (tmp_path / "again.csv").read_bytes() == (DOCS / f"{name}.csv").read_bytes()


@each_picture
def test_axes_of_a_table_say_what_they_are(name):
    with (DOCS / f"{name}.csv").open(newline="", encoding="utf-8") as file:
        numbers = [row for row in csv.DictReader(file) if row["panel"] and row["style"]]
    assert numbers
    assert all(row["x axis"] for row in numbers)


def test_pictures_drawn_by_default_have_every_mark(drawing):
    marks = {
        name: {mark.kind for panel in drawing.read(DOCS / f"{name}.csv").panels
               for mark in panel.marks}
        for name in PICTURES
    }  # fmt: skip
    assert set.union(*marks.values()) == set.union(*(marks[name] for name in DRAWN_BY_DEFAULT))


def test_equal_numbers_give_equal_bytes(drawing, tmp_path):
    points = drawing.measured((1.0, 2.0), (Estimate(0.5, 0.1, 9), Estimate(0.7, 0.1, 9)), "run", 1)
    panel = Panel([Mark("line", (1, 2), (0.5, 0.6), label="theory"), points], "", "n", "share")
    for folder in ("one", "two"):
        drawing.save("small", drawing.Picture([panel], "A line and two points"), tmp_path / folder)
    for suffix in ("csv", "png"):
        first, second = (tmp_path / f / f"small.{suffix}" for f in ("one", "two"))
        assert first.read_bytes() == second.read_bytes()


def test_marks_that_a_table_could_not_tell_apart_are_refused(drawing, tmp_path):
    panel = Panel([Mark("line", (1, 2), (0.5, 0.6)), Mark("line", (1, 2), (0.7, 0.8))])
    with pytest.raises(ValueError, match="two marks share"):
        drawing.write(drawing.Picture([panel], "Two lines"), tmp_path / "small.csv")


def test_pictures_of_examples_have_their_tables():
    pictures = [path.stem for path in (DOCS / "gallery").glob("*.png")]
    assert pictures
    for claim in (*pictures, "example.ridge_risk"):
        assert (DOCS / "gallery" / "data" / claim / "points.csv").is_file()
