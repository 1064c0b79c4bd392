"""`universal.sphere_limit`: multipliers and mean angles against quadrature and stored digits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

import jaxprompt as jp
from jaxprompt.errors import ParameterError

CLAIM = "universal.sphere_limit"


def test_multiplier_by_quadrature():
    """Funk–Hecke on S⁴: the mean of the Gegenbauer polynomial under the kernel."""
    m, k, lam = 4, 3, 6.0
    t, w = special.roots_jacobi(80, (m - 2) / 2, (m - 2) / 2)
    poly = special.eval_gegenbauer(k, (m - 1) / 2, t) / special.eval_gegenbauer(k, (m - 1) / 2, 1.0)
    kernel = w * np.exp(lam * (t - 1))
    expected = (kernel * poly).sum() / kernel.sum()
    predicted = jp.claim(CLAIM).predict(sphere_dim=m, degree=k, concentration=lam)
    assert predicted["multiplier"] == pytest.approx(expected, rel=1e-12)
    assert predicted["defect"] == pytest.approx(1 - expected, rel=1e-12)
    assert predicted["log_multiplier"] == pytest.approx(np.log(expected), rel=1e-12)


def test_prediction_broadcasts_and_traces():
    claim = jp.claim(CLAIM)
    lam = np.array([0.5, 5.0])
    many = claim.predict(sphere_dim=np.array([[1], [2]]), degree=2, concentration=lam)
    assert {v.shape for v in many.values()} == {(2, 2)}
    with jax.enable_x64(True):
        traced = jax.jit(
            lambda x: claim.predict(sphere_dim=2, degree=2, concentration=x)["multiplier"]
        )(jnp.asarray(lam))
    np.testing.assert_allclose(traced, many["multiplier"][1], rtol=1e-14)


@pytest.mark.parametrize(
    ("sphere_dim", "degree", "concentration", "name", "value"),
    [
        (1, 1, 10.0, "multiplier", 0.94859982595484595897),
        (1, 3, 10.0, "multiplier", 0.62448781203123363569),
        (2, 1, 10.0, "multiplier", 0.90000000412230725337),
        (3, 1, 10.0, "multiplier", 0.85418530832368160972),
        (1, 1, 1e6, "defect", 5.000001250001250002e-7),
        (1, 1, 10.0, "lipschitz_bias", 0.2580734461392297),
        (2, 1, 10.0, "lipschitz_bias", 0.4016002672689492),
        (3, 1, 10.0, "lipschitz_bias", 0.5062964185680844),
    ],
)
def test_reference_numbers(sphere_dim, degree, concentration, name, value):
    predicted = jp.claim(CLAIM).predict(
        sphere_dim=sphere_dim, degree=degree, concentration=concentration
    )
    assert predicted[name] == pytest.approx(value, rel=2e-14)


@pytest.mark.parametrize(
    ("params", "word"),
    [
        ({"sphere_dim": 0, "degree": 1, "concentration": 1.0}, "sphere_dim"),
        ({"sphere_dim": 1, "degree": 1, "concentration": 0.0}, "concentration"),
        ({"sphere_dim": 1, "degree": 1, "concentration": np.nan}, "concentration"),
    ],
)
def test_bad_input_is_named(params, word):
    with pytest.raises(ParameterError, match=f"`{word}`") as caught:
        jp.claim(CLAIM).predict(**params)
    assert "\n" not in str(caught.value)
