"""``contextual.conditional_error``: brute force, quadrature, transformations, refusals."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quick_cases import some_slow
from scipy import integrate
from scipy import stats as sps

import jaxprompt as jp
from jaxprompt.contextual.claims.conditional_error import vectors_with_products
from jaxprompt.contextual.law.error_given_prompt import Geometry, conditional_error
from jaxprompt.contextual.setting import Setting
from jaxprompt.errors import ParameterError

CLAIM = jp.claim("contextual.conditional_error")
POINTS = [dict(run) for run in CLAIM.designs["quick"].runs]
NAMES = Geometry._fields


def setting_of(point):
    return Setting.make(**{n: v for n, v in point.items() if n not in NAMES})


def brute_force(point, count, rng, dim=4):
    """Share of wrong signs among sequences drawn and attended to in NumPy, and its error."""
    s = setting_of(point)
    head, prompt = (
        np.asarray(v, np.float64)
        for v in vectors_with_products(s, Geometry(*(point[n] for n in NAMES)), dim)
    )
    y = rng.choice([-1.0, 1.0], count)
    shift = s.shifts[rng.choice(len(s.shifts), count, p=s.shift_weights)]
    x = s.noise * rng.normal(size=(count, s.tokens, dim))
    x[:, :, 0] -= (shift[:, 1] * y)[:, None] * s.signal
    x[:, :, 1] -= shift[:, :1] * s.context
    x[:, : s.relevant] = 0
    x[:, : s.relevant, 0] = (y * s.signal)[:, None]
    x[:, : s.relevant, 1] = s.context
    scores = x @ prompt
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    wrong = y * (np.einsum("nt,ntd->nd", weights, x) @ head) < 0
    return wrong.mean(), wrong.std() / np.sqrt(count)


@pytest.mark.parametrize("place", range(len(POINTS)))
def test_against_brute_force(place):
    point = POINTS[place]
    measured, error = brute_force(point, 100_000, np.random.default_rng(place))
    found = CLAIM.predict(**point)
    z = (measured - found["error"]) / np.hypot(error, found["error_stderr"])
    assert abs(z) < 4.2, f"predicted {found['error']:.5f}, measured {measured:.5f}: z = {z:.1f}"


@pytest.mark.parametrize(("place", "dim"), [(1, 4), (2, 9), (4, 5)])
def test_simulation_against_brute_force(place, dim):
    """A head and a prompt with noise of their own, shifts, and one irrelevant token."""
    found = CLAIM.simulate(key=place, trials=60, **POINTS[place], dim=dim)["error"]
    measured, error = brute_force(POINTS[place], 50_000, np.random.default_rng(place), dim)
    assert abs(found.mean - measured) < 4.5 * np.hypot(found.stderr, error)


def test_simulation_without_irrelevant_tokens_and_without_a_head():
    found = CLAIM.simulate(key=0, trials=2, **{**POINTS[0], "relevant": 10})["error"]
    assert found.mean == found.stderr == 0
    silent = {"head_signal": 0.0, "head_context": 0.0, "head_norm": 0.0, "head_prompt": 0.0}
    found = CLAIM.simulate(key=0, trials=2, **{**POINTS[0], **silent})["error"]
    assert found.mean == 0.5


def test_one_irrelevant_token_against_quadrature():
    point = POINTS[4]
    assert point["tokens"] - point["relevant"] == 1
    g = Geometry(*(point[n] for n in NAMES))

    def wrong(u, y):
        relevant = point["relevant"] * np.exp(g.prompt_context + y * g.prompt_signal)
        weight = np.exp(u) / (relevant + np.exp(u))
        mean = (1 - weight) * (g.head_context + y * g.head_signal)
        mean += weight * u * g.head_prompt / g.prompt_norm**2
        away = g.head_norm**2 - (g.head_prompt / g.prompt_norm) ** 2
        deviation = point["noise"] * weight * np.sqrt(away)
        return sps.norm.cdf(-y * mean / deviation) * sps.norm.pdf(u, scale=g.prompt_norm)

    expected = np.mean([integrate.quad(wrong, -15, 15, args=(y,))[0] for y in (-1, 1)])
    found = CLAIM.predict(**point)
    miss = abs(found["error"] - expected)
    assert miss < 5 * found["error_stderr"] + 1e-10, f"off by {miss:.1e}"
    assert found["error_stderr"] < 1e-5


def test_the_head_scale_does_not_matter():
    point = POINTS[1]
    names = ("head_signal", "head_context", "head_norm", "head_prompt")
    scaled = {**point, **{n: 7 * point[n] for n in names}}
    assert CLAIM.predict(**scaled)["error"] == pytest.approx(CLAIM.predict(**point)["error"])


def test_a_flipped_head_is_the_complement():
    point = POINTS[1]
    flipped = {**point, **{n: -point[n] for n in ("head_signal", "head_context", "head_prompt")}}
    total = CLAIM.predict(**flipped)["error"] + CLAIM.predict(**point)["error"]
    assert total == pytest.approx(1)


def test_without_noise_and_without_head():
    certain = {**POINTS[0], "noise": 0.0}
    assert CLAIM.predict(**certain)["error"] == 0.0
    silent = {**POINTS[0], **dict.fromkeys(("head_signal", "head_context"), 0.0)}
    silent |= {"head_norm": 0.0, "head_prompt": 0.0}
    assert CLAIM.predict(**silent)["error"] == 0.5


def test_all_tokens_relevant():
    point = {**POINTS[0], "relevant": 10}
    assert CLAIM.predict(**point)["error"] == 0.0


def test_predict_broadcasts():
    found = CLAIM.predict(**{**POINTS[0], "head_norm": [[1.3], [2.0]], "noise": [0.5, 1.0, 1.5]})
    assert found["error"].shape == (2, 3)
    one = CLAIM.predict(**{**POINTS[0], "head_norm": 2.0, "noise": 1.5})
    assert found["error"][1, 2] == pytest.approx(one["error"], rel=1e-12)
    assert (np.diff(found["error"], axis=1) > 0).all(), "more noise, more errors"


@pytest.mark.slow
@pytest.mark.parametrize("batched", some_slow([True, False], first=1))
def test_predict_under_jit_and_vmap(batched):
    # Of one irrelevant token, whose scores are few: the compiler sums over constants.
    point = {n: v for n, v in POINTS[4].items() if n != "head_norm"}

    def error(norm):
        return CLAIM.predict(**point, head_norm=norm)["error"]

    norms = POINTS[4]["head_norm"] * jnp.array([1.0, 1.5])
    expected = CLAIM.predict(**point, head_norm=np.asarray(norms, np.float64))["error"]
    if batched:
        found = jax.jit(jax.vmap(error))(norms)
    else:
        found = np.stack([jax.jit(error)(norm) for norm in norms])
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.usefixtures("x64")
@pytest.mark.slow
def test_the_function_differentiates():
    s = setting_of(POINTS[1])
    g = Geometry(*(POINTS[1][n] for n in NAMES))
    scalars = jnp.asarray(np.random.default_rng(0).normal(size=(300, s.irrelevant)))

    def error(signal):
        return conditional_error(s, g._replace(head_signal=signal), scalars)

    slope = jax.jit(jax.grad(error))(0.9)
    numeric = (error(0.9 + 1e-5) - error(0.9 - 1e-5)) / 2e-5
    assert float(slope) == pytest.approx(float(numeric), rel=1e-6)


def test_the_simulatedvectors_with_products_have_the_products():
    for point in POINTS:
        s = setting_of(point)
        g = Geometry(*(point[n] for n in NAMES))
        head, prompt = (np.asarray(v, np.float64) for v in vectors_with_products(s, g, 8))
        found = Geometry(
            head_signal=head[0] * s.signal,
            head_context=head[1] * s.context,
            head_norm=np.linalg.norm(head),
            prompt_signal=prompt[0] * s.signal,
            prompt_context=prompt[1] * s.context,
            prompt_norm=np.linalg.norm(prompt),
            head_prompt=head @ prompt,
        )
        np.testing.assert_allclose(found, g, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"head_norm": 0.5}, "head_norm"),
        ({"prompt_norm": 1.0}, "prompt_norm"),
        ({"head_prompt": 3.0}, "head_prompt"),
        ({"head_norm": -1.0}, "head_norm"),
        ({"signal": 0.0}, "head_signal"),
        ({"head_norm": [1.3, 0.5]}, "head_norm"),
    ],
)
def test_impossible_geometries(change, named):
    with pytest.raises(ParameterError, match=f"`{named}` = "):
        CLAIM.predict(**{**POINTS[0], **change})


def test_a_simulation_needs_four_dimensions():
    with pytest.raises(ParameterError, match="`dim` = 3"):
        CLAIM.simulate(key=0, trials=2, **POINTS[0], dim=3)
