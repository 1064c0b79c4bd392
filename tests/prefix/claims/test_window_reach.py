"""The reach of a prefix against a graph of who sees whom, and models written as loops."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from quick_cases import some_slow

import jaxprompt as jp
from jaxprompt.errors import ParameterError
from jaxprompt.prefix.claims import window_reach

CLAIM = jp.claim("prefix.window_reach")


def reach_by_graph(window, layers, tokens, prefix, exempt, prefix_at):
    """Follow what depends on the prefix, layer by layer and edge by edge."""
    changed = set()
    for layer in range(layers):
        full = exempt == "last layer" and layer == layers - 1
        there = prefix_at == "every layer" or layer == 0
        reached = set(changed)
        for i in range(tokens):
            for j in range(-prefix, i + 1):
                near = i - j < window or full or (exempt == "prefix" and j < 0)
                if near and (there if j < 0 else j in changed):
                    reached.add(i)
        changed = reached
    return max(changed, default=-1) + 1


@pytest.mark.parametrize("exempt", ["nothing", "prefix", "last layer"])
@pytest.mark.parametrize("prefix_at", ["every layer", "first layer"])
def test_closed_form_against_a_graph(exempt, prefix_at):
    for window in (1, 2, 3, 5, 30):
        for layers in (1, 2, 4):
            for prefix in (1, 6):
                point = {
                    "window": window, "layers": layers, "tokens": 9, "prefix": prefix,
                    "exempt": exempt, "prefix_at": prefix_at,
                }  # fmt: skip
                assert CLAIM.predict(**point)["reach"] == reach_by_graph(**point), point


def test_numbers_broadcast():
    found = CLAIM.predict(window=[[2], [4]], layers=[1, 2, 3], tokens=100)["reach"]
    np.testing.assert_array_equal(found, [[1, 2, 3], [3, 6, 9]])


@pytest.mark.parametrize("precision", some_slow(["bfloat16", "float32", "float64", "float16"], 1))
def test_far_positions_keep_every_bit(precision):
    changes = window_reach.changed_positions(
        4, window=3, layers=4, tokens=32, prefix=2, exempt="nothing", prefix_at="every layer",
        precision=precision, key=jax.random.key(2),
    )  # fmt: skip
    assert (changes[:, 8:] == 0).all()
    assert (changes[:, :2] > 0).all(), "what sees the prefix changes in every model"
    assert changes[::2, 7].min() > 0, "models that look far carry a change to the last position"


def test_a_wider_mask_is_refuted(monkeypatch):
    """The check can fail: layers that see one position more than they say are caught."""
    real = window_reach.changed_positions

    def wider(trials, *, window, **options):
        return real(trials, window=window + 1, **options)

    monkeypatch.setattr(window_reach, "changed_positions", wider)
    point = {"window": 4, "layers": 3, "precision": "bfloat16"}  # the program of the test above
    assert CLAIM.check(trials=4, point=point).status == "refuted"


def test_refusals_name_the_parameter():
    with pytest.raises(ParameterError, match=r"`window`.*≥ 1"):
        CLAIM.predict(window=0, layers=2)
    with pytest.raises(ParameterError, match=r"`layers`.*≤ 32"):
        CLAIM.predict(window=2, layers=33)
