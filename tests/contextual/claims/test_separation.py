from __future__ import annotations

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from scipy import optimize

from jaxprompt import attention
from jaxprompt.contextual.claims.separation import CLAIM
from jaxprompt.contextual.simulation.noise_free_models import RIVALS, Rival, cases, separable

LAWS = ("aligned", "opposed")


def predict(**params):
    return CLAIM.predict(**{"law": "aligned", **params})


@pytest.mark.parametrize(("sparsity", "shift", "value"), [(0.25, 8, 0.77885), (0.5, 3, 0.61354)])
def test_reference_thresholds(sparsity, shift, value):
    assert predict(sparsity=sparsity, shift=shift)["threshold"] == pytest.approx(value, abs=5e-6)


@pytest.mark.parametrize("sparsity", [0.02, 0.25, 0.5, 0.61, 0.9])
@pytest.mark.parametrize("shift", [0.0, 0.05, 0.7, 1.0, 3.0, 40.0])
def test_threshold_against_high_precision(sparsity, shift):
    """The statement's own formula in A, in 30 digits, maximised on a fine grid and refined."""
    with mpmath.workdps(30):
        z, d = mpmath.mpf(sparsity), mpmath.mpf(shift)

        def share(a):
            p1 = z * mpmath.exp(a) / (z * mpmath.exp(a) + (1 - z) * mpmath.exp(-d * a))
            up, down = z * mpmath.exp(-d * a), (1 - z) * mpmath.exp(d * d * a)
            return z * p1 + (1 - z) * up / (up + down)

        grid = np.concatenate([np.sinh(np.linspace(-6, 6, 241)) / (1 + shift) ** p for p in (1, 2)])
        grid = np.sort(grid)
        values = [share(mpmath.mpf(a)) for a in grid]
        top = int(np.clip(np.argmax(values), 1, grid.size - 2))
        found = optimize.minimize_scalar(
            lambda a: -float(share(mpmath.mpf(a))),
            bounds=(grid[top - 1], grid[top + 1]), method="bounded", options={"xatol": 1e-10},
        )  # fmt: skip
        best = max(-found.fun, float(max(values)), sparsity, 1 - sparsity)
    # The refinement stops at rounding, where a maximum is flat: values agree far better.
    assert predict(sparsity=sparsity, shift=shift)["threshold"] == pytest.approx(best, abs=1e-13)


def test_least_gain_is_where_attention_balances():
    sparsity, shift, context = 0.2, 3.0, 1.4
    gain = predict(sparsity=sparsity, shift=shift, context=context)["least_gain"]
    own = sparsity * np.exp(gain * context**2)
    other = (1 - sparsity) * np.exp(-gain * shift * context**2)
    assert own / (own + other) == pytest.approx(other / (own + other) * shift, rel=1e-12)
    assert predict(sparsity=0.8, shift=1.0)["least_gain"] == 0
    assert predict(sparsity=0.2, shift=3.0, law="opposed")["least_gain"] == 0


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("name", list(RIVALS))
def test_reduced_models_equal_the_models_on_tokens(law, name):
    """Two kinds of token with weights ζ and 1 − ζ stand for T tokens in d dimensions."""
    tokens, relevant, dim = 8, 3, 5
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        basis = np.linalg.qr(rng.normal(size=(dim, dim)))[0][:, :2]
        p = Rival(*(jnp.asarray(rng.normal(size=s)) for s in ((2,), (2,), (2, 2), ())))
        c = cases(jnp.float64(relevant / tokens), jnp.float64(1.7), law, 1.3, 0.8)
        reduced = RIVALS[name][0](p, c)
        for i in range(4):
            rows = [c.relevant[i]] * relevant + [c.irrelevant[i]] * (tokens - relevant)
            x = jnp.stack(rows) @ basis.T
            head, prompt, matrix = basis @ p.head, basis @ p.prompt, basis @ p.matrix @ basis.T
            feature = {
                "linear": lambda x=x: attention.linear_pooling(x),
                "linear_prompt": lambda x=x, q=prompt: attention.linear_prompt_attention(x, q),
                "self_attention": lambda x=x, m=matrix: attention.self_attention(x, m),
                "prompt": lambda x=x, q=prompt: attention.prompt_attention(x, q),
            }[name.removesuffix("_intercept")]()
            assert float(reduced[i]) == pytest.approx(float(feature @ head), rel=1e-12, abs=1e-12)


def test_cases_are_the_noise_free_sequences():
    c = cases(0.25, 2.0, "opposed", 1.5, 0.5)
    assert c.labels.tolist() == [1, -1, 1, -1]
    np.testing.assert_allclose(c.relevant, [[0.5, 1.5], [-0.5, 1.5]] * 2, rtol=1e-6)
    # −Δ q⋆ + Δ y w⋆ under the shift (Δ, −Δ), and no token at all under (0, 0).
    np.testing.assert_allclose(c.irrelevant, [[0, 0], [0, 0], [1, -3], [-1, -3]], atol=1e-6)


def test_linear_ceiling_by_exhaustive_directions():
    """Every head direction on a fine circle: the ceiling of `linear` is exact."""
    angles = np.linspace(0, 2 * np.pi, 7200, endpoint=False) + 1e-4
    heads = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    for law in LAWS:
        for sparsity, shift in ((0.2, 0.1), (0.2, 1.0), (0.6, 1.2), (0.6, 2.5)):
            c = cases(sparsity, shift, law)
            pooled = sparsity * np.asarray(c.relevant) + (1 - sparsity) * np.asarray(c.irrelevant)
            best = ((pooled @ heads.T) * np.asarray(c.labels)[:, None] > 0).mean(axis=0).max()
            assert predict(sparsity=sparsity, shift=shift, law=law)["linear"] == best


def test_separable_is_the_open_half_plane():
    rng = np.random.default_rng(1)
    angles = np.linspace(0, 2 * np.pi, 3600)
    heads = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    for _ in range(100):
        vectors = rng.normal(size=(4, 2))
        assert bool(separable(jnp.asarray(vectors))) == bool(
            ((vectors @ heads.T).min(axis=0) > 0).any()
        )


@pytest.mark.slow  # the claim's own check covers it too
@pytest.mark.parametrize("law", LAWS)
def test_search_reaches_and_never_beats_the_ceiling(law):
    sparsity, shift = [0.25, 0.7], [0.5, 3.0]
    found = CLAIM.simulate(key=3, trials=256, sparsity=sparsity, shift=shift, law=law)
    ceiling = CLAIM.predict(
        sparsity=np.array(sparsity)[:, None], shift=np.array(shift)[None, :], law=law
    )
    for name, estimate in found.items():
        np.testing.assert_allclose(estimate.mean, ceiling[name], atol=1e-13, err_msg=name)
        assert not np.any(estimate.stderr)


def test_predict_under_jit_and_vmap():
    sparsity = np.array([0.2, 0.5, 0.8])
    traced = jax.jit(jax.vmap(lambda z: predict(sparsity=z, shift=3.0)["threshold"]))(sparsity)
    plain = predict(sparsity=sparsity, shift=3.0)["threshold"]
    np.testing.assert_allclose(traced, plain, rtol=1e-5)  # the traced call is in float32


def test_bad_input_is_one_clear_line():
    with pytest.raises(ValueError, match=r"`law`.*aligned.*opposed"):
        CLAIM.predict(sparsity=0.5, shift=1.0, law="alignd")
    with pytest.raises(ValueError, match="`sparsity`"):
        CLAIM.predict(sparsity=1.0, shift=1.0, law="aligned")


@pytest.mark.slow
def test_confirmed_and_falsifiers_refuted():
    assert CLAIM.check().status == "confirmed"
    assert {v.status for v in CLAIM.falsify().values()} == {"refuted"}
