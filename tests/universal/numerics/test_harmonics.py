"""Zonal harmonics against SciPy's Gegenbauer polynomials."""

import numpy as np
import pytest
from scipy import special

from jaxprompt.universal.numerics import harmonics


@pytest.mark.parametrize(("m", "degree"), [(1, 5), (2, 4), (3, 3), (6, 2), (2, 0), (2, 1)])
def test_zonal_harmonics(m, degree):
    t = np.linspace(-1, 1, 9)
    if m == 1:
        exact = np.cos(degree * np.arccos(t))
    else:
        exact = special.eval_gegenbauer(degree, (m - 1) / 2, t) / special.eval_gegenbauer(
            degree, (m - 1) / 2, 1.0
        )
    np.testing.assert_allclose(harmonics.zonal(t, m, degree), exact, atol=1e-13)
