"""`universal.prefix_bound`: what the closed form and its construction both use, by hand."""

import math

import numpy as np
import pytest

import jaxprompt as jp
from jaxprompt.universal.claims.prefix_bound import concentration_for
from jaxprompt.universal.numerics import point_sets


@pytest.mark.parametrize(
    ("radius", "count", "content", "sup_norm", "accuracy"),
    [(0.1, 60, 1, 1.0, 0.6), (0.5, 13, 10**6, 50.0, 3.0), (0.02, 1e6, 0, 1.0, 0.12)],
)
def test_concentration_does_what_the_proof_asks(radius, count, content, sup_norm, accuracy):
    """Centres beyond 2δ hold at most δ/π of the mass, and content adds at most ε/2."""
    lam = float(concentration_for(radius, count, content, sup_norm, accuracy))

    def enough(x):
        far = math.log(count) - x * (math.cos(radius) - math.cos(2 * radius))
        beside = sup_norm * content * math.exp(-x * math.cos(radius))
        return far <= math.log(radius / math.pi) and beside <= accuracy / 2

    assert enough(lam)
    # The theorem's first term has 2δ⁻² for 1/(cos δ − cos 2δ), which is 2/(3δ²) for small δ.
    assert not enough(0.3 * lam)


@pytest.mark.parametrize(
    ("m", "constant"), [(4, 8 * math.pi**3 * 4 / 3), (5, 10 * math.pi**4 * 3 * math.pi / 8)]
)
def test_constant_in_more_dimensions(m, constant):
    """C_m = 2m π^{m−1} A_m/A_{m−1} with A_3 = 2π², A_4 = 8π²/3 and A_5 = π³."""
    found = jp.claim("universal.prefix_bound").predict(sphere_dim=m, lipschitz=1.0, accuracy=1.0)
    assert found["constant"] == pytest.approx(constant, rel=1e-14)


@pytest.mark.parametrize(
    ("m", "constant", "tokens", "paper"),
    [
        (1, 2 * np.pi, 75, 2.7e8),
        (2, 8 * np.pi, 3619, 1.8e16),
        (3, 3 * np.pi**3, 160737, 3.1e26),
    ],
)
def test_theorem_against_the_paper(m, constant, tokens, paper):
    bound = jp.claim("universal.prefix_bound").predict(sphere_dim=m, lipschitz=1.0, accuracy=0.5)
    assert bound["constant"] == pytest.approx(constant, rel=1e-14)
    assert round(bound["centres"]) == tokens
    assert bound["paper_scaling"] == pytest.approx(paper, rel=0.02)


@pytest.mark.parametrize("m", [4, pytest.param(5, marks=pytest.mark.slow)])
def test_the_construction_in_more_dimensions(m):
    """Nets of 369 and 1082 points, against the counts, separations and errors of the theorem."""
    claim = jp.claim("universal.prefix_bound")
    given = {"sphere_dim": m, "lipschitz": 1.0, "accuracy": 3.0, "content": 10, "sup_norm": 2.0}
    predicted, measured = claim.predict(**given), claim.simulate(key=0, trials=2, **given)
    count = measured["centres"].mean
    assert count <= predicted["sharper_centres"] < predicted["centres"]
    assert count >= point_sets.cap_share(m, 0.5) ** -1  # it covers
    assert measured["separation"].mean >= predicted["separation"]
    assert measured["error"].mean <= predicted["error"]
