"""Numbers handed out in order."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from jaxprompt.networks.normal_stream import NormalStream


def test_numbers_are_handed_out_in_order():
    stream = NormalStream(jnp.arange(10.0))
    assert stream.normal((2, 2)).tolist() == [[0, 1], [2, 3]]
    assert stream.normal(()).tolist() == 4
    assert stream.normal((3,)).tolist() == [5, 6, 7]
    assert stream.used == 8


def test_without_numbers_it_counts():
    stream = NormalStream()
    assert not np.asarray(stream.normal((4, 5))).any()
    stream.normal((2,))
    assert stream.used == 22
