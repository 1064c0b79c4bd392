"""Patterns with a prefix: refused arrays, and a layer that breaks the invariance."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pytest

import jaxprompt as jp
from jaxprompt.core.claim import Design
from jaxprompt.errors import ParameterError
from jaxprompt.prefix import head_identity
from jaxprompt.prefix.head_identity import SINGLE

CLAIM = jp.claim("prefix.pattern_invariance")


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"prefix_values": np.ones((2, 1))}, "prefix_values"),
        ({"content_values": None}, "content_values"),
        ({"visible": np.array([0, 0])}, "visible"),
    ],
)
def test_bad_arrays_are_named(change, name):
    with pytest.raises(ParameterError, match=f"`{name}`"):
        CLAIM.predict(**{**SINGLE, **change})


@pytest.mark.slow
def test_a_wrong_layer_is_refuted(monkeypatch):
    """The check can fail: a layer that leaks 1 % of its mass is caught."""
    real = head_identity.draw_layer

    def leaky(layer, scale, draws, *, key):
        drawn = real(layer, scale, draws, key=key)
        return drawn._replace(attention=0.99 * drawn.attention)

    monkeypatch.setattr(head_identity, "draw_layer", leaky)
    quick = Design(SINGLE, trials=CLAIM.designs["quick"].trials)
    claim = dataclasses.replace(
        CLAIM,
        designs={**CLAIM.designs, "quick": quick},
        measure=functools.partial(CLAIM.measure, draws=200),
    )
    assert claim.check().status == "refuted"
