"""A process that has grown forgets what it compiled, and computes the same afterwards."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxprompt.compute import programs


def test_a_small_process_keeps_its_programs():
    assert not programs.forget_programs(above=2**62)


def test_a_grown_one_compiles_again(monkeypatch):
    monkeypatch.setattr(programs, "resident_bytes", lambda: 2**40)
    square = jax.jit(lambda x: x * x)
    before = square(jnp.arange(3.0))
    assert square._cache_size() == 1
    assert programs.forget_programs()
    assert square._cache_size() == 0
    assert (square(jnp.arange(3.0)) == before).all()
