"""Kernel averages against closed forms and mpmath."""

import jax
import mpmath
import numpy as np
import pytest
from scipy import special

from jaxprompt.universal.numerics import kernel_averages


@pytest.mark.parametrize(
    ("m", "value"), [(1, 0.2580734461392297), (2, 0.4016002672689492), (3, 0.5062964185680844)]
)
def test_mean_angle_reference(m, value):
    with jax.enable_x64(True):
        assert float(kernel_averages.mean_angle(m, 10.0)) == pytest.approx(value, rel=1e-13)


@pytest.mark.parametrize("lam", [0.01, 0.7, 10.0, 14.9, 15.1, 400.0])
def test_mean_angle_closed_forms(lam):
    k = np.arange(1, 4001, 2)
    circle = np.pi / 2 - 4 / np.pi * (special.ive(k, lam) / k**2).sum() / special.ive(0, lam)
    # π (I_0 − e^{−λ}) / (2 sinh λ), numerator and denominator times e^{−λ}
    ball = np.pi * (special.ive(0, lam) - np.exp(-2 * lam)) / -np.expm1(-2 * lam)
    with jax.enable_x64(True):
        assert float(kernel_averages.mean_angle(1, lam)) == pytest.approx(
            circle, rel=2e-9 if lam < 100 else 1e-6
        )
        assert float(kernel_averages.mean_angle(2, lam)) == pytest.approx(ball, rel=1e-12)


@pytest.mark.parametrize(("m", "lam"), [(1, 1e7), (4, 3.0), (40, 0.01), (401, 1e4)])
def test_mean_angle_by_quadrature(m, lam):
    with mpmath.workdps(30):
        top = mpmath.acos(2 * lam / ((m - 1) + mpmath.sqrt((m - 1) ** 2 + 4 * lam**2)))
        width = 1 / mpmath.sqrt(
            lam * mpmath.cos(top) + (m - 1) / mpmath.sin(top) ** 2 if m > 1 else lam
        )
        cuts = [max(top + j * width, 0) for j in (-14, -6, -2, 0, 2, 6, 14)]
        cuts = sorted({min(c, mpmath.pi) for c in cuts})

        def kernel(t):
            return mpmath.exp(
                lam * (mpmath.cos(t) - mpmath.cos(top))
                + (m - 1) * mpmath.log(mpmath.sin(t) / mpmath.sin(top) if m > 1 else 1)
            )

        exact = mpmath.quad(lambda t: t * kernel(t), cuts) / mpmath.quad(kernel, cuts)
    with jax.enable_x64(True):
        assert float(kernel_averages.mean_angle(m, lam)) == pytest.approx(float(exact), rel=1e-12)


@pytest.mark.parametrize("m", [1, 2, 3, 50, 401])
@pytest.mark.parametrize("lam", [0.01, 3.0, 30.0, 1e4])
def test_log_mean_exp(m, lam):
    with mpmath.workdps(30):
        nu = mpmath.mpf(m - 1) / 2
        exact = mpmath.log(
            mpmath.gamma(nu + 1) * (mpmath.mpf(2) / lam) ** nu * mpmath.besseli(nu, lam)
        )
    with jax.enable_x64(True):
        # A logarithm near 0 is known to rounding of 1, one of a large number relatively.
        assert float(kernel_averages.log_mean_exp(m, lam)) == pytest.approx(
            float(exact), rel=1e-13, abs=1e-13
        )
