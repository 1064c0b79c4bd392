"""Ridge heads against direct solutions."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quick_cases import slow_case, some_slow

from jaxprompt.contextual.simulation import ridge_heads as module
from jaxprompt.contextual.simulation.ridge_heads import Chunks, ridge_path

pytestmark = pytest.mark.usefixtures("x64", "strict_ranks")

ROWS = np.random.default_rng(0).normal(size=(400, 12)) + 0.2


def draw(first, rows):
    """Rows of the table; past its end anything, since the last chunk may reach beyond it."""
    return jnp.take(jnp.asarray(ROWS), first + jnp.arange(rows), axis=0, mode="fill")


def chunks_of(samples, multiplied, at_once):
    """All rows at once, or a few at a time; `drawn` holds d rows at least."""
    drawn = max(*samples, multiplied, 12) if at_once else max(multiplied, 12)
    return Chunks(drawn, multiplied, 12, at_once)


def path(samples, ridges, chunks, rows=None, dtype=jnp.float64):
    """Heads at ascending sizes, which the function takes apart at d."""
    sizes = np.array(samples, np.uint32)
    chunks = chunks_of(samples, *chunks) if len(chunks) == 2 else Chunks(*chunks)
    small, large = jnp.asarray(sizes[sizes <= 12]), jnp.asarray(sizes[sizes > 12])

    @jax.jit
    def run(small, large, ridges):
        return ridge_path(rows or draw, 12, small, large, ridges, chunks=chunks, dtype=dtype)

    return run(small, large, jnp.asarray(ridges))


def expected(n, ridge):
    rows, ones = ROWS[:n], np.ones(n)
    if ridge == 0:
        return np.linalg.pinv(rows) @ ones
    return np.linalg.solve(rows.T @ rows / n + ridge * np.eye(12), rows.T @ ones / n)


@pytest.mark.parametrize(
    "samples",
    [(5,), (13,), (3, 8, 11), (4, 12, 13, 100, 400),
     *map(slow_case, [((12,),), ((400,),), ((20, 50, 333),)])],
)  # fmt: skip
@pytest.mark.parametrize(
    "chunks", [(3, True), *map(slow_case, [((3, False),), ((64, False),), ((32, True),)])]
)
def test_against_direct_solutions(samples, chunks):
    ridges = (0.0, 1e-3, 0.5)
    found = path(samples, ridges, chunks)
    assert found.shape == (len(samples), 3, 12)
    for i, n in enumerate(samples):
        for j, ridge in enumerate(ridges):
            if ridge == 0 and n in (11, 12, 13):
                continue  # at the threshold both sides are ill-conditioned
            np.testing.assert_allclose(
                found[i, j], expected(n, ridge), rtol=1e-8, atol=1e-10, err_msg=f"{n}, {ridge}"
            )


@pytest.mark.parametrize("block", some_slow([5, 4, 11], first=1))
def test_sums_of_outer_products_in_blocks(block, monkeypatch):
    """Wide sums are made below the diagonal only: in blocks that divide d, and that do not."""
    monkeypatch.setattr(module, "_BLOCK", block)
    lower = module._outer_product(jnp.asarray(ROWS))
    np.testing.assert_allclose(np.tril(lower), np.tril(ROWS.T @ ROWS), rtol=1e-12)
    found = path((3, 8, 12, 400), (0.1,), (64, True))
    for i, n in enumerate((3, 8, 12, 400)):
        np.testing.assert_allclose(found[i, 0], expected(n, 0.1), rtol=1e-8, err_msg=f"{n}")


def test_interpolates_beyond_the_threshold():
    found = path((6,), [0.0], (4, True))[0, 0]
    np.testing.assert_allclose(ROWS[:6] @ found, 1, rtol=1e-10)


def test_primal_and_dual_agree():
    # Just below and above n = d the two routes solve neighbouring problems.
    by_dual = path((12,), [0.1], (4, False))[0, 0]
    np.testing.assert_allclose(by_dual, expected(12, 0.1), rtol=1e-10)


def test_nested_sizes_do_not_change_each_other():
    together = path((8, 30, 200), [0.01], (16, True))
    for i, n in enumerate((8, 30, 200)):
        alone = path((n,), [0.01], (16, False))[0]
        np.testing.assert_allclose(together[i], alone, rtol=1e-9)


@pytest.mark.slow
def test_float32_products_give_nearly_the_same_heads():
    def draw32(first, rows):
        return draw(first, rows).astype(jnp.float32)

    sizes, ridges = (5, 12, 50, 333), [0.1, 1.0]
    double = path(sizes, ridges, (32, True), draw32)
    single = path(sizes, ridges, (32, True), draw32, jnp.float32)
    assert double.dtype == single.dtype == jnp.float64
    # The worst condition number here is about 100.
    np.testing.assert_allclose(single, double, rtol=0, atol=2e-5 * np.abs(double).max())


@pytest.mark.parametrize(
    ("samples", "dim", "chunks"),
    [
        ((64, 128, 256, 384, 512, 640, 768, 1024), 128, (1024, 128, 128, True)),
        ((64, 73, 213, 256, 366), 128, (384, 64, 96, True)),
        ((64, 128), 128, (128, 32, 128, True)),  # nothing above the dimension
        ((10**6,), 256, (256, 256, 0, False)),
        ((100, 10**6), 256, (256, 256, 128, False)),
        ((7, 11, 13), 10, (16, 16, 10, True)),
        ((40, 56, 72), 8, (96, 32, 0, True)),
    ],
)
def test_chunks_are_few_and_full(samples, dim, chunks):
    assert Chunks.for_sizes(samples, dim) == chunks


@pytest.mark.parametrize(
    "samples", [(5,), (4, 12, 13, 100, 400), *map(slow_case, [((3, 8, 11),), ((20, 50, 333),)])]
)
def test_the_chunks_that_a_grid_gets_serve_it(samples):
    found = path(samples, (0.1,), Chunks.for_sizes(samples, 12))
    for i, n in enumerate(samples):
        np.testing.assert_allclose(found[i, 0], expected(n, 0.1), rtol=1e-8, err_msg=f"{n}")
