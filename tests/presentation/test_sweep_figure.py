"""Figures of sweeps: theory beside what was measured, for one to three parameters."""

from __future__ import annotations

import io
import itertools
import json

import matplotlib.collections
import numpy as np
import pytest
import xarray

import jaxprompt as jp
from jaxprompt.errors import UsageError
from jaxprompt.presentation.sweep_figure import draw_sweep, swept_quantities

VALUES = {
    "dim": [10, 100, 1000],
    "ratio": [0.5, 1.0, 2.0, 4.0],
    "loss": ["square", "logistic"],
    "gain": np.linspace(0.0, 1.0, 12).tolist(),
    "ridge": np.geomspace(1e-3, 1.0, 9).tolist(),
}


def make_sweep(*names, quantities=("error",)):
    """A sweep as :func:`jaxprompt.load` gives it; cell i is predicted i and measured i + 0.5."""
    shape = [len(VALUES[name]) for name in names]
    cells = np.arange(np.prod(shape), dtype=np.float64).reshape(shape)
    variables = {}
    for quantity in quantities:
        variables[f"{quantity}_predicted"] = (names, cells)
        variables[f"{quantity}_predicted_stderr"] = (names, 0 * cells)
        variables[quantity] = (names, cells + 0.5)
        variables[f"{quantity}_stderr"] = (names, 0 * cells + 0.1)
    status = np.full(shape, "confirmed")
    status.flat[0] = "refuted"
    variables["trials"] = (names, np.full(shape, 16))
    variables["status"] = (names, status)
    return xarray.Dataset(
        variables,
        coords={name: VALUES[name] for name in names},
        attrs={"config_claim": "contextual.toy", "config_fixed": json.dumps({"noise": 2.0})},
    )


def test_one_parameter_is_a_curve_with_points_and_intervals():
    figure = draw_sweep(make_sweep("ratio"))
    (axis,) = figure.axes
    (line,) = [line for line in axis.lines if line.get_linestyle() == "-"]
    assert line.get_xdata().tolist() == VALUES["ratio"]
    assert line.get_ydata().tolist() == [0.0, 1.0, 2.0, 3.0]
    (bars,) = axis.containers
    assert bars.lines[0].get_ydata().tolist() == [0.5, 1.5, 2.5, 3.5]
    half = np.ptp(bars.lines[2][0].get_paths()[0].vertices[:, 1]) / 2
    assert half == pytest.approx(2.131449546 * 0.1), "Student's interval of 16 trials"
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("ratio", "error")
    texts = [text.get_text() for text in figure.texts]
    assert any("mean of 16 trials with 95 % interval; noise 2" in text for text in texts)


def test_a_second_parameter_is_a_curve_each():
    figure = draw_sweep(make_sweep("dim", "ratio"))
    (axis,) = figure.axes
    assert len(axis.containers) == 3
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["dim 10", "dim 100", "dim 1000"]


def test_many_values_of_two_parameters_are_a_map():
    data = make_sweep("gain", "ridge")
    figure = draw_sweep(data)
    axis = figure.axes[0]
    (mesh,) = [c for c in axis.collections if isinstance(c, matplotlib.collections.QuadMesh)]
    assert np.array_equal(mesh.get_array(), data["error"].values.T), "rows are values of y"
    edges = mesh.get_coordinates()[:, 0, 1]
    assert np.all(np.diff(edges) > 0)
    assert edges[0] > 0, "a logarithmic axis shows the first row too"
    assert np.all((edges[:-1] < VALUES["ridge"]) & (VALUES["ridge"] < edges[1:]))
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("gain", "ridge")
    assert axis.get_yscale() == "log", "the ridge spreads over three decades"
    assert axis.get_xscale() == "linear"
    (cross,) = [line for line in axis.lines if line.get_marker() == "x"]
    assert cross.get_xydata().tolist() == [[0.0, 1e-3]], "the refuted cell"
    assert any(hasattr(c, "levels") for c in axis.collections), "theory is drawn as lines"


@pytest.mark.parametrize("names", list(itertools.permutations(("dim", "ratio", "loss"))))
def test_a_third_parameter_is_a_panel_each(names):
    figure = draw_sweep(make_sweep(*names))
    assert [axis.get_title() for axis in figure.axes] == ["loss square", "loss logistic"]
    assert figure.axes[0].get_xlabel() == "ratio"


def test_panels_of_maps():
    figure = draw_sweep(make_sweep("gain", "loss", "ridge"))
    titles = [axis.get_title() for axis in figure.axes if axis.get_title()]
    assert titles == ["loss square", "loss logistic"]


def test_words_are_an_axis_of_their_own():
    (axis,) = draw_sweep(make_sweep("loss")).axes
    assert [label.get_text() for label in axis.get_xticklabels()] == ["square", "logistic"]


def test_cells_without_a_number_are_gaps():
    for names in (("ratio",), ("gain", "ridge")):
        data = make_sweep(*names)
        data["error"].values.flat[1] = np.nan
        data["error_stderr"].values.flat[1] = np.nan
        data["error_predicted"].values.flat[2] = np.inf
        draw_sweep(data).savefig(io.BytesIO(), format="png")


def test_what_cannot_be_drawn_is_refused_with_a_remedy():
    data = make_sweep("dim", "ratio", "loss", "gain")
    with pytest.raises(UsageError, match=r"three parameters; draw a part .* data.sel\(gain=0\)"):
        draw_sweep(data)
    assert len(draw_sweep(data.sel(gain=0)).axes) == 2
    with pytest.raises(UsageError, match="quantity 'eror': the sweep has error; did you mean"):
        draw_sweep(data, "eror")


def test_quantities():
    data = make_sweep("ratio", quantities=("error", "scale"))
    assert swept_quantities(data) == ["error", "scale"]
    assert draw_sweep(data, "scale").axes[0].get_ylabel() == "scale"


def test_a_sweep_in_a_notebook(tmp_path):
    data = make_sweep("ratio", quantities=("error", "scale"))
    drawing = data.pipe(jp.draw)
    assert drawing.quantity == "error"
    assert drawing._repr_png_().startswith(b"\x89PNG")
    paths = data.pipe(jp.draw, quantity="scale").save(tmp_path, "ratio")
    assert [path.name for path in paths] == ["ratio.scale.png", "ratio.scale.svg"]
    with pytest.raises(UsageError, match="the sweep has error, scale"):
        data.pipe(jp.draw, quantity="none")
