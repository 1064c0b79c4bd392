"""The identity against exact arithmetic and against real layers; shapes and extreme scores."""

from __future__ import annotations

import functools
import itertools

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from quick_cases import some_slow

import jaxprompt as jp
from jaxprompt.attention import prefixed_head
from jaxprompt.compute.quick_jit import RUN_ONCE_OPTIONS
from jaxprompt.errors import ParameterError
from jaxprompt.networks.attention_layer import (
    Projections,
    attend,
    attention_mask,
    attention_with_vjp,
    dense,
    embed_tokens,
)
from jaxprompt.prefix.claims.pattern_invariance import ratio_change
from jaxprompt.prefix.head_identity import (
    PAIR,
    SINGLE,
    Layer,
    draw_layer,
    head_from_scores,
    rounding_tolerance,
)

jit = functools.partial(jax.jit, compiler_options=RUN_ONCE_OPTIONS)


def test_worked_example():
    found = jp.claim("prefix.bias_identity").predict(**SINGLE)
    assert found["output"] == pytest.approx([-3 / 8], rel=1e-15)
    assert found["prefix_mass"] == pytest.approx(5 / 8, rel=1e-15)
    assert found["attention"] == pytest.approx([1 / 8, 1 / 4], rel=1e-15)


def brute_force_query(content, content_values, prefix, prefix_values, seen, prefix_seen):
    """Output, weights and mass by exponentials in float64; what is not seen is not summed."""
    terms = np.exp(np.concatenate([prefix, content]))
    terms = terms * np.concatenate([prefix_seen, seen])
    weights = terms / terms.sum()
    output = weights @ np.concatenate([prefix_values, content_values])
    count = len(prefix)
    return {
        "output": output, "attention": weights[count:], "prefix_attention": weights[:count],
        "prefix_mass": weights[:count].sum(),
    }  # fmt: skip


def test_every_query_has_its_own_view_of_prefix_and_content():
    """All 2⁵ − 1 views of three prefix vectors and two of content, in one broadcast call."""
    rng = np.random.default_rng(8)
    scores, values = rng.normal(size=(31, 5)), rng.normal(size=(31, 5, 4))
    views = np.array([[(view >> bit) & 1 for bit in range(5)] for view in range(1, 32)])
    found = jp.claim("prefix.bias_identity").predict(
        content_scores=scores[:, 3:], content_values=values[:, 3:], prefix_scores=scores[:, :3],
        prefix_values=values[:, :3], visible=views[:, 3:], prefix_visible=views[:, :3],
    )  # fmt: skip
    for i, view in enumerate(views):
        expected = brute_force_query(
            scores[i, 3:], values[i, 3:], scores[i, :3], values[i, :3], view[3:], view[:3]
        )
        for name, value in expected.items():
            np.testing.assert_allclose(found[name][i], value, rtol=1e-13, atol=1e-15, err_msg=name)


@pytest.mark.parametrize(
    ("masks", "output", "mass"),
    [
        ({"prefix_visible": [1, 0]}, -3 / 8, 5 / 8),  # the first vector alone
        ({"prefix_visible": [0, 1]}, (2 * 4 + 7) / 5, 2 / 5),
        ({"prefix_visible": [0, 0]}, 7 / 3, 0),  # the plain output
        ({"visible": [0, 0]}, -2 / 7, 1),  # the bias alone
        ({"visible": [1, 0], "prefix_visible": [0, 0]}, 1, 0),
    ],
)
def test_partial_views_of_the_worked_example(masks, output, mass):
    claim = jp.claim("prefix.bias_identity")
    given = {**PAIR, "visible": [1, 1], "prefix_visible": [1, 1], **masks}  # one program for all
    simulated = claim.simulate(key=0, trials=2, **given)
    for found in (claim.predict(**given), {n: e.mean for n, e in simulated.items()}):
        assert found["output"] == pytest.approx([output], rel=1e-14)
        assert found["prefix_mass"] == pytest.approx(mass, rel=1e-14)


def test_prefix_scores_of_minus_infinity_are_not_seen():
    gone = {**PAIR, "prefix_scores": np.full(2, -np.inf)}
    with jax.enable_x64(True):
        assert head_from_scores(**gone)["output"] == pytest.approx([7 / 3], rel=1e-14)


def test_partial_views_run_under_jit():
    claim = jp.claim("prefix.bias_identity")

    @jit
    def output_and_slope(scores, mask):
        output = claim.predict(**PAIR, prefix_visible=mask)["output"]
        slope = jax.grad(lambda s: head_from_scores(
            s, PAIR["content_values"], PAIR["prefix_scores"], PAIR["prefix_values"],
            None, np.zeros(2),
        )["output"][0])(scores)  # fmt: skip
        return output, slope

    output, slope = output_and_slope(np.float32(PAIR["content_scores"]), np.zeros(2, np.float32))
    np.testing.assert_allclose(output, [7 / 3], rtol=1e-6)
    # The plain output's: A_j (v_j − t).
    np.testing.assert_allclose(slope, [1 / 3 * (1 - 7 / 3), 2 / 3 * (3 - 7 / 3)], rtol=1e-5)


def test_a_query_that_sees_nothing_is_refused():
    with pytest.raises(ParameterError, match=r"`visible`.*`prefix_visible`"):
        jp.claim("prefix.bias_identity").predict(**PAIR, visible=[0, 0], prefix_visible=[0, 0])
    with pytest.raises(ParameterError, match="`prefix_visible`"):
        jp.claim("prefix.bias_identity").predict(**PAIR, prefix_visible=[1, 0, 0])
    with pytest.raises(ParameterError, match=r"`prefix_visible`.*made of 0 and 1"):
        jp.claim("prefix.bias_identity").predict(**PAIR, prefix_visible=[0.5, 1])


@pytest.mark.parametrize(
    ("dtype", "eps"), [("float64", 2.0**-52), ("float32", 2.0**-23), ("float16", 2.0**-10),
                       ("bfloat16", 2.0**-7)],
)  # fmt: skip
def test_tolerances_of_every_float_type(dtype, eps):
    point = {"width": 48, "heads": 4, "precision": dtype, "scale": 10.0}
    tolerance = rounding_tolerance(point, np.array([0.5, -3.0]))
    assert tolerance == pytest.approx((48 + 48 + 12) ** 0.5 * eps * 3.0 * 11.0, rel=1e-5)


def test_tolerance_without_a_measured_layer_and_of_numbers_that_are_not_finite():
    assert rounding_tolerance({}, np.array([5.0])) == 1e-13, "a query by its arrays"
    point = {"width": 16, "heads": 1, "precision": "float64", "scale": 0.0}
    one = rounding_tolerance(point, np.ones(2))
    assert rounding_tolerance(point, np.array([np.inf, 2.0])) == 2 * one


@pytest.mark.parametrize("dtype", some_slow(["bfloat16", "float16", "float32"], first=1))
@pytest.mark.parametrize("scale", [1.0, 10.0])
def test_layers_in_short_formats_keep_the_identity(dtype, scale):
    """Within the tolerance, which is not idle: the deviation is more than a hundredth of it."""
    layer = Layer(dtype, causal=True, prefix=3, heads=2, norm=True)
    draws = draw_layer(layer, scale, 200, key=jax.random.key(3))
    assert draws.output.dtype == np.float64, "measured numbers are compared in float64"
    with jax.enable_x64(True):
        exact = head_from_scores(**draws.parameters)
    point = {"width": layer.width, "heads": layer.heads, "precision": dtype, "scale": scale}
    for name in ("attention", "prefix_attention", "output"):
        expected = np.asarray(exact[name])
        off = np.abs(expected - getattr(draws, name)).max()
        tolerance = rounding_tolerance(point, expected)
        assert tolerance / 100 < off < tolerance, name


finite = st.floats(-1e4, 1e4, allow_subnormal=False)


def scores_of(sizes):
    """Scores on content and on prefix, of one of these pairs of sizes; each compiles anew."""
    return st.sampled_from(sizes).flatmap(
        lambda pair: st.tuples(*(st.lists(finite, min_size=n, max_size=n) for n in pair))
    )


@settings(max_examples=40, deadline=None)
@given(scores_of([(1, 1), (5, 4)]))
def test_closed_form_against_exact_arithmetic(scores):
    agrees_with_exact_arithmetic(*scores)


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(scores_of(list(itertools.product(range(1, 6), range(1, 5)))))
def test_closed_form_of_any_size_against_exact_arithmetic(scores):
    agrees_with_exact_arithmetic(*scores)


def agrees_with_exact_arithmetic(content, prefix):
    values = np.linspace(-2, 3, len(content)), np.linspace(4, -1, len(prefix))
    found = jp.claim("prefix.bias_identity").predict(
        content_scores=content, content_values=values[0][:, None],
        prefix_scores=prefix, prefix_values=values[1][:, None],
    )  # fmt: skip
    with mpmath.workdps(60):
        top = max(*content, *prefix)
        weights = [mpmath.exp(mpmath.mpf(s) - top) for s in (*prefix, *content)]
        total = sum(weights)
        mass = float(sum(weights[: len(prefix)]) / total)
        output = sum(w * v for w, v in zip(weights, [*values[1], *values[0]], strict=True)) / total
    # A score of 1e4 is known to 1e-12, and so is the logarithm of a ratio of weights.
    assert found["prefix_mass"] == pytest.approx(mass, rel=1e-11, abs=1e-300)
    assert found["output"] == pytest.approx([float(output)], abs=1e-10)


@pytest.mark.parametrize(("tokens", "prefix", "heads", "causal", "seed"), [
    (6, 3, 2, True, 0), (5, 1, 4, False, 1),
])  # fmt: skip
def test_layer_against_loops(tokens, prefix, heads, causal, seed):
    layer_agrees_with_loops(tokens, prefix, heads, causal, seed)


@pytest.mark.slow
@settings(max_examples=10, deadline=None)  # each shape compiles anew
@given(
    st.integers(1, 6), st.integers(1, 4), st.sampled_from([1, 2, 4]), st.booleans(),
    st.integers(0, 2**31),
)  # fmt: skip
def test_any_layer_against_loops(tokens, prefix, heads, causal, seed):
    layer_agrees_with_loops(tokens, prefix, heads, causal, seed)


@functools.partial(jit, static_argnames=("heads", "causal"))
def whole_and_last_query(weights, content, extra, heads, causal):
    return [
        attend(weights, content, extra, heads=heads, causal=causal, queries=queries)
        for queries in (None, 1)
    ]


def layer_agrees_with_loops(tokens, prefix, heads, causal, seed):
    rng = np.random.default_rng(seed)
    width = 8
    kernel, bias = rng.normal(size=(width, 24)), rng.normal(size=24)
    content, extra = rng.normal(size=(tokens, width)), rng.normal(size=(prefix, width))
    with jax.enable_x64(True):
        weights = Projections(jnp.asarray(kernel), jnp.asarray(bias))
        found, last = jax.tree.map(
            np.asarray, whole_and_last_query(weights, content, extra, heads, causal)
        )
    rows = np.concatenate([extra, content]) @ kernel + bias
    size = width // heads
    for h in range(heads):
        query, key, value = (
            rows[:, part * width + h * size : part * width + (h + 1) * size] for part in range(3)
        )
        for i in range(tokens):
            seen = prefix + (i + 1 if causal else tokens)
            weight = np.exp(query[prefix + i] @ key[:seen].T / np.sqrt(size))
            weight /= weight.sum()
            np.testing.assert_allclose(
                found.output[i, h], weight @ value[:seen], rtol=1e-9, atol=1e-12
            )
            np.testing.assert_allclose(found.prefix[h, i], weight[:prefix], rtol=1e-9)
    np.testing.assert_allclose(last.output[0], found.output[-1], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("dtype", some_slow(["float64", "float32"], first=1))
@pytest.mark.parametrize("scale", [10.0, 1e4])
def test_random_layers_keep_the_identity(dtype, scale):
    layer = Layer(dtype, causal=True, prefix=3, heads=2, norm=True)
    draws = draw_layer(layer, scale, 200, key=jax.random.key(3))
    assert all(np.isfinite(x).all() for x in draws if x is not None)
    largest = max(np.abs(draws.content_scores).max(), np.abs(draws.prefix_scores).max())
    assert largest == pytest.approx(scale, rel=1e-5)
    mass = draws.prefix_attention.sum(-1)[..., None]
    # Model against model: nothing here knows the scores.
    point = {"width": layer.width, "heads": layer.heads, "precision": dtype, "scale": scale}
    allowed = rounding_tolerance(point, np.ones(()))
    assert np.abs(draws.attention - (1 - mass) * draws.alone).max() < allowed
    assert ratio_change(draws.attention, draws.alone).max() < 4 * allowed


def test_closed_form_agrees_with_the_shared_head():
    rng = np.random.default_rng(0)
    q, k, v, pk, pv = (rng.normal(size=s) for s in ((5, 4), (6, 4), (6, 3), (2, 4), (2, 3)))
    with jax.enable_x64(True):
        shared = jit(prefixed_head)(q, k, v, pk, pv)
        found = head_from_scores(q @ k.T, v, q @ pk.T, pv)
    np.testing.assert_allclose(found["output"], shared.output, rtol=1e-12)
    np.testing.assert_allclose(found["prefix_mass"], shared.mass, rtol=1e-12)


def test_runs_under_jit_and_vmap():
    claim = jp.claim("prefix.bias_identity")
    stacked = {n: np.stack([v, v]) for n, v in SINGLE.items()}
    found = jit(jax.vmap(lambda p: claim.predict(**p)["output"]))(stacked)
    np.testing.assert_allclose(found, [[-3 / 8]] * 2, rtol=1e-6)


def test_masks_and_dense():
    x, w = np.ones((2, 3, 4), np.float32), np.ones((4, 5), np.float32)
    causal, whole, product = jit(
        lambda: (attention_mask(2, 4, True), attention_mask(3, 3, False), dense(x, w))
    )()
    np.testing.assert_array_equal(causal, [[1, 1, 1, 0], [1, 1, 1, 1]])
    assert whole.all()
    np.testing.assert_array_equal(product, x @ w)


def plain_attention(query, key, value, seen):
    """The definition, left to automatic differentiation."""
    scores = jnp.einsum("...thk,...shk->...hts", query, key) / np.sqrt(query.shape[-1])
    pattern = jax.nn.softmax(jnp.where(seen, scores, -jnp.inf), axis=-1)
    return jnp.einsum("...hts,...shk->...thk", pattern, value), pattern


def pulled(function, slopes, *values):
    found, pull = jax.vjp(function, *values)
    return found, pull(slopes)


@pytest.mark.parametrize("masks", [(), (3, 1)])
def test_gradients_of_attention_against_its_definition(masks):
    rng = np.random.default_rng(3)
    with jax.enable_x64(True):
        query, key, value, slope, other = (
            rng.normal(size=(*masks[:1], *shape))
            for shape in ((2, 4, 5), (6, 4, 5), (6, 4, 3), (2, 4, 3), (4, 2, 6))
        )
        seen = rng.random((*masks, 2, 6)) < 0.7
        seen[..., 0] = True
        slopes = (slope, other)
        both = jit(lambda *x: [
            pulled(lambda *v, f=f: f(*v, seen), slopes, *x)
            for f in (attention_with_vjp, plain_attention)
        ])(query, key, value)  # fmt: skip
    for found, expected in zip(*map(jax.tree.leaves, both), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("columns", [3, 9])
def test_gradients_of_dense_against_plain_products(columns):
    rng = np.random.default_rng(4)
    with jax.enable_x64(True):
        x, w, slope = (rng.normal(size=s) for s in ((2, 7, 5), (5, columns), (2, 7, columns)))
        found = jit(lambda *values: pulled(dense, slope, *values))(x, w)
    expected = x @ w, (slope @ w.T, np.einsum("abi,abo->io", x, slope))
    for a, b in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)


def test_embedding_against_a_product_with_ones_and_zeros():
    rng = np.random.default_rng(5)
    tokens, table = np.array([[0, 3, 3], [1, 0, 3]]), rng.normal(size=(4, 2)).astype(np.float32)
    slope = rng.normal(size=(2, 3, 2)).astype(np.float32)

    @jit
    def embedded(table):
        rows = pulled(lambda t: embed_tokens(tokens, t), slope, table)
        return rows, embed_tokens(jnp.asarray([4]), table)

    found, beyond = embedded(table)
    ones = np.eye(4)[tokens]
    expected = ones @ table, (np.einsum("abv,abd->vd", ones, slope),)
    for a, b in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)
    assert np.isnan(beyond).all()
