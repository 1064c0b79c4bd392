"""Mean mass of a prefix with random scores: exact cases, another integral, and sampling."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest

from jaxprompt.errors import ParameterError
from jaxprompt.prefix.random_mass import limiting_prefix_mass, mean_prefix_mass


@pytest.mark.parametrize("spread", [0.0, 0.3, 1.0, 3.0, 5.0])
def test_equal_laws_share_evenly(spread):
    """Each of the n + T weights has the same mean, and they sum to one."""
    n, tokens = np.array([1, 1, 3, 10, 40]), np.array([1, 9, 16, 16, 1000])
    found = mean_prefix_mass(n, tokens, prefix_spread=spread, content_spread=spread)
    np.testing.assert_allclose(found, n / (n + tokens), rtol=1e-11)


@pytest.mark.parametrize("shift", [-30.0, -2.0, 0.7, 5.0])
def test_equal_scores_need_no_mean(shift):
    """Without spread the mass is a number, and the limit is it."""
    n, tokens = np.array([1, 4, 10]), np.array([7, 16, 1])
    exact = [float(1 / (1 + mpmath.mpf(int(t)) / int(k) * mpmath.exp(-shift)))
             for k, t in zip(n, tokens, strict=True)]  # fmt: skip
    np.testing.assert_allclose(mean_prefix_mass(n, tokens, shift=shift), exact, rtol=1e-11)
    np.testing.assert_allclose(limiting_prefix_mass(n, tokens, shift=shift), exact, rtol=1e-12)


@pytest.mark.parametrize(("shift", "s", "r"), [(0.5, 1.0, 2.0), (-3.0, 0.2, 1.5), (2.0, 4.0, 0.5)])
def test_one_vector_and_one_token(shift, s, r):
    """The mean of a logistic function of one normal variable."""
    width = np.hypot(s, r)
    exact = mpmath.quad(
        lambda z: mpmath.npdf(z) / (1 + mpmath.exp(-(shift + width * z))),
        mpmath.linspace(-12, 12, 25),
    )
    found = mean_prefix_mass(1, 1, shift=shift, prefix_spread=s, content_spread=r)
    assert float(found) == pytest.approx(float(exact), abs=1e-12)


@pytest.mark.parametrize(("n", "tokens", "shift", "s", "r"), [
    (1, 16, 1.0, 0.5, 1.5),
    (4, 5, -1.0, 2.0, 1.0),
    (10, 16, 0.5, 1.0, 0.0),
])  # fmt: skip
def test_against_sampled_softmaxes(n, tokens, shift, s, r):
    """By the definition, not by Gumbel numbers."""
    rng, draws = np.random.default_rng(n), 200_000
    prefix = np.exp(shift + s * rng.standard_normal((draws, n))).sum(axis=1)
    content = np.exp(r * rng.standard_normal((draws, tokens))).sum(axis=1)
    mass = prefix / (prefix + content)
    found = mean_prefix_mass(n, tokens, shift=shift, prefix_spread=s, content_spread=r)
    stderr = mass.std() / np.sqrt(draws)
    assert abs(mass.mean() - found) < 4.5 * stderr
    # Such a test tells a shift that is wrong by 0.02 from the right one.
    wrong = mean_prefix_mass(n, tokens, shift=shift + 0.02, prefix_spread=s, content_spread=r)
    assert abs(mass.mean() - wrong) > 4.5 * stderr


def test_many_keys_come_to_the_limit_with_the_expected_correction():
    """α₀ + α₀(1 − α₀)[(1 − α₀)(e^{r²} − 1)/T − α₀(e^{s²} − 1)/n]: the delta method, then 1/n²."""
    shift, s, r = 0.4, 0.8, 1.1
    gaps = []
    for n in (50, 200):
        tokens = 3 * n
        a = limiting_prefix_mass(n, tokens, shift=shift, prefix_spread=s, content_spread=r)
        content, prefix = np.expm1(r**2) / tokens, np.expm1(s**2) / n
        expanded = a + a * (1 - a) * ((1 - a) * content - a * prefix)
        exact = mean_prefix_mass(n, tokens, shift=shift, prefix_spread=s, content_spread=r)
        assert abs(exact - expanded) < 0.2 * abs(exact - a)
        gaps.append(exact - expanded)
    assert gaps[1] / gaps[0] == pytest.approx(1 / 16, rel=0.15)


def test_more_of_the_same_and_broadcasting():
    found = mean_prefix_mass(np.arange(1, 5)[:, None], [4, 8], prefix_spread=1.0)
    assert found.shape == (4, 2)
    assert (np.diff(found, axis=0) > 0).all()
    assert (np.diff(found, axis=1) < 0).all()


@pytest.mark.parametrize(
    ("name", "value"),
    [("prefix", 0), ("prefix", 1.5), ("content", -1), ("shift", 501.0), ("shift", np.nan),
     ("prefix_spread", 5.1), ("content_spread", -0.1)],
)  # fmt: skip
def test_what_the_rules_cannot_do_is_refused(name, value):
    with pytest.raises(ParameterError, match=rf"mean_prefix_mass: parameter `{name}` = "):
        mean_prefix_mass(**{"prefix": 2, "content": 3, name: value})


@pytest.mark.parametrize("shift", [-500.0, 500.0])
def test_ends_of_what_is_allowed(shift):
    found = mean_prefix_mass(3, 4, shift=shift, prefix_spread=5.0, content_spread=5.0)
    assert float(found) == pytest.approx(float(shift > 0), abs=1e-12)
    assert float(mean_prefix_mass(3, 0)) == pytest.approx(1.0, abs=1e-12)
