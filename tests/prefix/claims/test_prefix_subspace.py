"""Dimensions of a prefix's bias: hand-made biases, and what falsifiers change."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

import jaxprompt as jp
from jaxprompt.errors import ParameterError
from jaxprompt.prefix.claims import prefix_subspace

CLAIM = jp.claim("prefix.prefix_subspace")


def test_dimensions_of_biases_made_by_hand():
    """Two heads of width 3: one with two equal directions, one with a weak one in one input."""
    bias = np.zeros((1, 2, 2, 2, 3))  # layers, inputs, positions, heads, width
    bias[0, :, :, 0, :2] = [[[1, 0], [0, 1]], [[1, 0], [0, 1]]]
    bias[0, 0, :, 1, 2] = 1e-3
    found = prefix_subspace.largest_over_layers(jnp.asarray(bias), {"outside": jnp.array([0.25])})
    assert found["rank"].mean == 2
    assert found["joined_rank"].mean == 3
    assert found["effective_rank"].mean == pytest.approx(2)
    assert found["outside"].mean == 0.25
    assert {estimate.kind for estimate in found.values()} == {"exact"}
    noisy = prefix_subspace.largest_over_layers(jnp.asarray(bias), {}, noise=1e-2)
    assert noisy["joined_rank"].mean == 2, "what rounding alone can give is no dimension"


def test_predictions_broadcast_and_falsifiers_change_one_bound():
    given = {"vectors": np.array([1, 3, 12]), "heads": 2, "head_width": 8}
    right = CLAIM.predict(**given)
    assert right["rank"].tolist() == [1, 3, 8]
    assert right["joined_rank"].tolist() == [2, 6, 16]
    shared = prefix_subspace.closed_form(**given, directions="shared")
    assert shared["joined_rank"].tolist() == [1, 3, 8]
    assert shared["rank"].tolist() == right["rank"].tolist()


def test_more_dimensions_than_positions_are_refused():
    with pytest.raises(ParameterError, match="`head_width` = 100: must be at most 192"):
        CLAIM.predict(vectors=1, heads=2, head_width=100)
