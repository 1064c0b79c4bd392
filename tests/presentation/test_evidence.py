"""The picture that belongs to each kind of comparison, and that it can be drawn again."""

import dataclasses
import functools
import itertools
from pathlib import Path

import jax
import numpy as np
import pytest
import scipy.stats
from quick_cases import mostly_slow

import jaxprompt as jp
from jaxprompt.compute.threefry import unrolled
from jaxprompt.core.figures import complete_figure
from jaxprompt.core.keys import as_key
from jaxprompt.errors import ClaimError
from jaxprompt.presentation import plot, report
from jaxprompt.presentation.figure_tables import FigureTables, figure_needs_verdict, figure_tables
from jaxprompt.stats import mean_estimate

EXAMPLES = Path(__file__).parents[2] / "examples"

KINDS = {
    "semicircle_edge": "limit",
    "random_walk": "rate",
    "bound": "sides",
    "hoffman_wielandt": "sides",
    "determinant_lemma": "sides",
    "order_statistics": "function",
    "normal": "distribution",
    "wigner_surmise": "distribution",
    "james_stein": "values",
}
LONG = ("hoffman_wielandt", "determinant_lemma", "wigner_surmise")


OWN = ("bound", "normal")
"""Kinds whose examples compile programs of eigenvalues have claims of their own here."""


def own_claim(name):
    def instance(*, key):
        return {"pair": jax.random.normal(unrolled(key), (2,))}

    def squares(*, pair, share=0.5):
        return {"value": share * (pair**2).sum()}

    def normal(*, scale, width=1.0):
        return {"value": jp.Distribution(cdf=scipy.stats.norm(scale=width * scale).cdf)}

    own = {
        "bound": {
            "relation": jp.Relation.BOUND, "closed_form": squares,
            "simulation": jp.per_trial(lambda *, pair: {"value": pair.prod()}, instance=instance),
            "falsifiers": (jp.Falsifier("less", "0.3 of it", share=0.3),
                           jp.Falsifier("half", "0.25 of it", share=0.25)),
            "parameters": (), "designs": {"quick": jp.Design({}, trials=60)},
        },
        "normal": {
            "relation": jp.Relation.MEAN, "closed_form": normal,
            "simulation": jp.per_trial(
                lambda *, key, scale: {"value": scale * jax.random.normal(unrolled(key))}
            ),
            "falsifiers": (jp.Falsifier("wide", "twice as wide", width=2.0),
                           jp.Falsifier("narrow", "half as wide", width=0.5)),
            "parameters": (jp.Parameter("scale", "real", "scale", low=0, open_low=True),),
            "designs": {"quick": jp.Design({"scale": 1.0}, trials=60)},
        },
    }[name]  # fmt: skip
    return jp.Claim(
        id=f"example.{name}", title=name, statement="It holds.", derivation="By definition.",
        source="made up", quantities=(jp.Quantity("value", "a value", tolerance=0.3),),
        figure=jp.Evidence(), **own,
    )  # fmt: skip


def example(name: str) -> jp.Claim:
    (claim,) = jp.load_claims(EXAMPLES / f"{name}.py")
    return claim


def by_numpy(name, trial):
    """A simulation of one quantity whose trials are NumPy's, so that no size is a program."""

    def simulate(*, key, trials, **point):
        random = np.random.default_rng(np.asarray(jax.random.key_data(key)))
        return {name: mean_estimate(np.array([trial(random, **point) for _ in range(trials)]))}

    return simulate


def largest_eigenvalue(random, dim):
    matrix = random.normal(size=(dim, dim))
    return np.linalg.eigvalsh((matrix + matrix.T) / (2 * dim) ** 0.5)[-1]


def distance(random, steps):
    return abs(random.choice([-1.0, 1.0], steps).sum())


FEWER_PROGRAMS = {
    "semicircle_edge": {"simulation": by_numpy("largest", largest_eigenvalue)},
    "random_walk": {"simulation": by_numpy("distance", distance)},
    "james_stein": {"designs": {"quick": jp.Design({"dim": 4}, trials=60)}},
}
"""How the sizes of an example become one program, or none; its picture keeps its kind."""


@functools.cache
def checked(name: str) -> tuple[jp.Claim, jp.Verdict]:
    """An example of few programs, and its verdict with few trials."""
    if name in OWN:
        claim = own_claim(name)
    else:
        claim = dataclasses.replace(example(name), **FEWER_PROGRAMS.get(name, {}))
    return claim, claim.check(trials=60)


@pytest.fixture(scope="module", params=mostly_slow(KINDS, lambda name: name not in LONG))
def drawn(request):
    """A claim of each kind, and the tables of its figure."""
    claim, verdict = checked(request.param)
    return claim, figure_tables(claim, verdict, as_key(0))


def test_each_kind_of_comparison_has_its_picture(drawn, tmp_path):
    claim, tables = drawn
    assert isinstance(claim.figure, jp.Evidence)
    assert {row["kind"] for row in tables.points} == {KINDS[claim.id.removeprefix("example.")]}
    assert tables.lines, "theory is drawn as a line"
    report.write_data(tmp_path, claim, tables)
    assert report.draw_figures(tmp_path, [claim], tmp_path)


@pytest.mark.parametrize("name", mostly_slow(KINDS, "order_statistics".__eq__))
def test_the_picture_is_drawn_again_from_what_was_stored(name, tmp_path):
    claim, verdict = checked(name)
    report.write_data(tmp_path, claim, figure_tables(claim, verdict, as_key(0)))
    first = report.draw_figures(tmp_path, [claim], tmp_path / "a")
    second = report.draw_figures(tmp_path, [claim], tmp_path / "b")
    assert first
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]


def test_the_fit_of_a_limit_ends_at_the_limit_of_the_row():
    _, verdict = checked("semicircle_edge")
    (row,) = verdict.rows
    assert row.fit.line_sizes[0] == np.inf
    np.testing.assert_allclose(row.predicted + row.fit.line_values[0], row.simulated, rtol=1e-12)
    # A stated form of two powers through four sizes, by ordinary weighted least squares.
    sizes, values = np.asarray(row.fit.sizes), np.asarray(row.fit.values)
    columns = np.stack([sizes**0, sizes ** (-2 / 3), sizes ** (-4 / 3)], axis=1)
    weights = 1 / np.asarray(row.fit.stderrs)
    found = np.linalg.lstsq(columns * weights[:, None], values * weights, rcond=None)[0]
    line = np.asarray(row.fit.line_sizes[1:])
    expected = found[0] + found[1] * line ** (-2 / 3) + found[2] * line ** (-4 / 3)
    np.testing.assert_allclose(row.fit.line_values[1:], expected, rtol=1e-8)


def test_the_line_of_a_rate_has_the_slope_of_the_row():
    (row,) = checked("random_walk")[1].rows
    x, y = np.log(row.fit.line_sizes), np.log(row.fit.line_values)
    np.testing.assert_allclose(np.diff(y) / np.diff(x), row.simulated, rtol=1e-9)


@pytest.mark.slow
def test_curves_of_a_limit_show_its_extrapolation():
    claim = example("ridge_risk")
    assert figure_needs_verdict(claim)
    tables = figure_tables(claim, claim.check(trials=40), as_key(0))
    assert isinstance(tables, FigureTables)
    limits = [row for row in tables.fits if row["role"] == "limit"]
    assert len(limits) == 4, "one limit for each ratio and ridge of the design"
    assert all(row["x"] == 0 for row in limits)


def test_labels_of_sizes_do_not_meet():
    (claim,) = jp.load_claims(EXAMPLES / "gallery" / "token_selection.py")
    near = by_numpy("second", lambda random, steps, lean: max(1 - lean, 0) - 0.5 / np.log(steps))
    claim = dataclasses.replace(claim, simulation=near)
    figure = plot.draw(claim, figure_tables(claim, claim.check(), as_key(0)))
    figure.draw_without_rendering()
    axis = next(a for a in figure.axes if a.get_title() == "extrapolation")
    boxes = [label.get_window_extent() for label in axis.get_xticklabels()]
    assert len(boxes) >= 3
    for left, right in itertools.pairwise(boxes):
        assert left.x1 < right.x0


def test_a_quantity_that_the_claim_lacks_is_refused():
    claim = example("random_walk")
    with pytest.raises(ClaimError, match="distanse"):
        complete_figure(claim, jp.Evidence(quantities=("distanse",)))
