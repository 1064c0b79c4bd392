from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from scipy import optimize

from jaxprompt.contextual.law.maximise import golden_section


def test_golden_section_finds_what_scipy_finds():
    def value(x, place):
        return -(jnp.abs(x - place) ** 1.5) - 0.1 * (x - place) ** 2

    with jax.enable_x64(True):
        places = jnp.asarray([0.13, 0.5, 0.9])
        search = jax.vmap(lambda p: golden_section(lambda x: value(x, p), 0.0, 1.0))
        found = np.asarray(search(places))
    for place, ours in zip(np.asarray(places), found, strict=True):
        theirs = optimize.minimize_scalar(
            lambda x, p=place: float(np.abs(x - p) ** 1.5 + 0.1 * (x - p) ** 2),
            bounds=(0, 1),
            method="bounded",
            options={"xatol": 1e-9},
        )
        assert abs(ours - theirs.x) < 1e-6, f"{ours} against {theirs.x}"


def test_golden_section_reaches_an_end_of_a_monotone_function():
    with jax.enable_x64(True):
        assert abs(float(golden_section(lambda x: x, 2.0, 3.0)) - 3) < 1e-12


def test_golden_section_by_numpy_is_that_of_jax():
    """Two intervals at once, nothing compiled."""
    places = np.array([0.2, 1.7])
    found = golden_section(lambda x: -np.abs(x - places), np.zeros(2), np.full(2, 2.0), xp=np)
    np.testing.assert_allclose(found, places, atol=1e-7)
    assert isinstance(found, np.ndarray)
