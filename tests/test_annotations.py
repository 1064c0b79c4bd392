"""While the package is under test, its annotations are checks."""

from __future__ import annotations

import os
import typing

import jax
import numpy as np
import pytest
from annotations import CALLS, CHECKED, begin_test, enforced
from jaxtyping import Array, Float, TypeCheckError

import jaxprompt as jp
from jaxprompt import attention, stats
from jaxprompt.contextual.setting import Setting

pytestmark = pytest.mark.skipif(
    os.environ.get("JAXPROMPT_TEST_TYPES", "1") == "0", reason="annotations are left out"
)


def test_types_of_arguments_and_results_are_checked():
    with pytest.raises(TypeCheckError):
        stats.binomial_interval("3", 20)
    with pytest.raises(TypeCheckError):
        stats.mean_estimates([[1.0, 2.0]])
    with pytest.raises(TypeCheckError):
        jp.Falsifier(3, "a number for a name")

    @enforced
    def named(number: int) -> str:
        return number

    with pytest.raises(TypeCheckError):
        named(3)


@pytest.mark.parametrize("name", attention.__all__)
def test_annotations_of_attention_can_be_read(name):
    """What cannot be read is not checked."""
    item = getattr(attention, name)
    if callable(item):
        assert typing.get_type_hints(item, include_extras=True)


def test_a_mask_is_an_array():
    one = np.ones((1, 1), np.float32)
    with pytest.raises(TypeCheckError):
        attention.attention_scores(one, one, [[True]])


def test_an_int_will_do_for_a_float():
    assert stats.detectable(1, 20, 0.05) > 0


def test_axes_of_one_name_have_one_size():
    wide, high = np.ones((3, 2), np.float32), np.ones((4, 2), np.float32)
    with pytest.raises(TypeCheckError):
        attention.attention_head(wide, wide, high)
    with pytest.raises(TypeCheckError):
        jax.jit(attention.attention_head)(wide, wide, high)
    with pytest.raises(TypeCheckError):
        Setting("4", 1, 1.0, 1.0, 1.0, 0.0, np.zeros((1, 2)), np.ones(1))


def test_of_nested_functions_the_first_called_ones_are_checked():
    def make():
        @enforced
        def nested(x: Float[Array, " n"]) -> int:
            return len(x)

        return nested

    never_called = [make() for _ in range(10)]
    for _ in range(CHECKED):
        with pytest.raises(TypeCheckError):
            make()("text")
    assert make()("text") == 4
    assert len(never_called) == 10


def test_each_test_checks_the_first_calls_of_a_function():
    @enforced
    def named(number: int) -> None: ...

    for _ in range(CALLS):
        named(1)
    named("1")
    begin_test()
    with pytest.raises(TypeCheckError):
        named("1")
