"""`universal.prefix_rate`: a slope that is confirmed is not the slope of another dimension."""

import numpy as np
import pytest

import jaxprompt as jp
from jaxprompt.core.claim import Cell
from jaxprompt.stats import Estimate, decide
from jaxprompt.universal.claims.prefix_rate import exponent_tolerance, hull_distance
from jaxprompt.universal.numerics import point_sets

CLAIM = "universal.prefix_rate"


@pytest.mark.parametrize("m", range(1, 11))
@pytest.mark.parametrize(("smoothness", "order"), [("lipschitz", 1), ("smooth", 2)])
def test_the_tolerance_tells_dimensions_apart(m, smoothness, order):
    """At m = 3 a tolerance of .12 could not tell −1/3 from −1/4."""
    tolerance = exponent_tolerance({"sphere_dim": m, "smoothness": smoothness})
    assert 0 < tolerance < order / m - order / (m + 1)
    assert tolerance <= 0.12


@pytest.mark.parametrize(("slope", "verdict"), [(-1 / 3, "confirmed"), (-1 / 4, "refuted")])
def test_a_quarter_is_not_a_third(slope, verdict):
    """Errors that fall as N^slope exactly, on the sizes of the quick design."""
    claim = jp.claim(CLAIM)
    cells = [
        Cell(
            {"sphere_dim": 3, "smoothness": "lipschitz", "centres": n},
            {"error": Estimate(2 * n**slope, 0.0, 2), "covering": Estimate(2 * n**slope, 0.0, 2)},
        )
        for n in (60, 160, 320, 640, 960)
    ]
    rows = decide(claim.compare(claim, cells, claim.predict), 1e-3)
    (row,) = [row for row in rows if row.quantity == "exponent"]
    assert row.verdict == verdict


@pytest.mark.parametrize("count", [4, 6, 12, 100, 1000])
def test_least_error_on_the_sphere_is_fejes_toths(count):
    """On S² the least error is the covering theorem's, 10 to 18 % above the area's."""
    found = jp.claim(CLAIM).predict(sphere_dim=2, smoothness="lipschitz", centres=count)["error"]
    by_area = np.arccos(1 - 2 / count)
    assert 1.09 < found / by_area < 1.19
    assert found <= point_sets.covering_radius(point_sets.fibonacci(count))


def test_hull_distance_of_solids():
    corners = np.vstack([np.eye(3), -np.eye(3)])
    assert hull_distance(corners) == pytest.approx(1 - 1 / np.sqrt(3), rel=1e-12)
    hexagon = point_sets.equispaced(6)
    assert hull_distance(hexagon) == pytest.approx(1 - np.cos(np.pi / 6), rel=1e-12)


def test_prefix_rate_floor_is_the_distance_to_the_hull():
    found = jp.claim("universal.prefix_rate").predict(
        sphere_dim=2, smoothness="smooth", covering=0.3
    )
    assert found["exponent"] == -1.0
    assert found["floor"] == pytest.approx(1 - np.cos(0.3), rel=1e-12)
    # Half the sphere for each of two centres: nothing is farther than a right angle.
    least = jp.claim("universal.prefix_rate").predict(
        sphere_dim=2, smoothness="lipschitz", centres=2
    )
    assert least["error"] == pytest.approx(np.pi / 2)
