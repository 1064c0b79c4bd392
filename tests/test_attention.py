"""Attention on one sequence, against loops in NumPy."""

from __future__ import annotations

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quick_cases import mostly_slow, some_slow

from jaxprompt import attention
from jaxprompt.errors import ParameterError

pytestmark = pytest.mark.usefixtures("strict_ranks")


def softmax(scores):
    scores = np.asarray(scores, dtype=np.float64)
    weights = np.exp(scores - scores.max())
    return weights / weights.sum()


def head(queries, keys, values, mask=None):
    """One softmax head, query by query."""
    rows = []
    for i, query in enumerate(queries):
        seen = np.ones(len(keys), bool) if mask is None else mask[i]
        weights = softmax([query @ key for key in keys[seen]])
        rows.append(sum(w * v for w, v in zip(weights, values[seen], strict=True)))
    return np.array(rows)


@functools.cache
def compiled(function, **options):
    """A function under jit: outside of it each operation is a program to compile."""
    return jax.jit(functools.partial(function, **options))


def apply(function, *arrays):
    """The function's result in NumPy, from NumPy arrays in 64 bits."""
    given = [None if array is None else jnp.asarray(array) for array in arrays]
    return jax.tree.map(np.asarray, compiled(function)(*given))


@pytest.fixture
def rng():
    return np.random.default_rng(7)


@pytest.fixture
def tokens(rng):
    return rng.normal(size=(6, 4))


@pytest.fixture
def prompt(rng):
    return rng.normal(size=4)


@pytest.mark.usefixtures("x64")
class TestPooling:
    def test_prompt_attention(self, tokens, prompt):
        weights = softmax([x @ prompt for x in tokens])
        expected = sum(w * x for w, x in zip(weights, tokens, strict=True))
        np.testing.assert_allclose(
            apply(attention.prompt_weights, tokens, prompt), weights, rtol=1e-13
        )
        np.testing.assert_allclose(
            apply(attention.prompt_attention, tokens, prompt), expected, rtol=1e-12, atol=1e-14
        )

    def test_linear_prompt_attention(self, tokens, prompt):
        expected = sum((x @ prompt) * x for x in tokens) / 6
        np.testing.assert_allclose(
            apply(attention.linear_prompt_attention, tokens, prompt), expected, rtol=1e-12
        )

    def test_linear_pooling(self, tokens):
        np.testing.assert_allclose(
            apply(attention.linear_pooling, tokens), sum(tokens) / 6, rtol=1e-12, atol=1e-15
        )

    def test_self_attention(self, tokens, rng):
        matrix = rng.normal(size=(4, 4))
        rows = [softmax([x @ matrix @ other for other in tokens]) @ tokens for x in tokens]
        np.testing.assert_allclose(
            apply(attention.self_attention, tokens, matrix), sum(rows) / 6, rtol=1e-12, atol=1e-14
        )

    def test_zero_prompt_is_the_mean(self, tokens):
        np.testing.assert_allclose(
            apply(attention.prompt_attention, tokens, np.zeros(4)), tokens.mean(axis=0), atol=1e-15
        )


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("scale", [1.0, 1e2, 1e4])
@pytest.mark.parametrize("masked", [False, True])
class TestHeads:
    @pytest.fixture
    def parts(self, rng, scale, masked):
        queries, keys = rng.normal(size=(5, 3)), scale * rng.normal(size=(7, 3))
        values, prefix_values = rng.normal(size=(7, 2)), rng.normal(size=(4, 2))
        prefix_keys = scale * rng.normal(size=(4, 3))
        mask = np.tril(np.ones((5, 7), bool), 2) if masked else None
        return queries, keys, values, prefix_keys, prefix_values, mask

    def test_head(self, parts):
        queries, keys, values, *_, mask = parts
        np.testing.assert_allclose(
            apply(attention.attention_head, queries, keys, values, mask),
            head(queries, keys, values, mask),
            rtol=1e-10,
            atol=1e-12,
        )

    def test_prefix_equals_concatenation(self, parts):
        queries, keys, values, prefix_keys, prefix_values, mask = parts
        split = apply(
            attention.prefixed_head, queries, keys, values, prefix_keys, prefix_values, mask
        )
        full = None if mask is None else np.concatenate([np.ones((5, 4), bool), mask], axis=1)
        whole = apply(
            attention.attention_head,
            queries,
            np.concatenate([prefix_keys, keys]),
            np.concatenate([prefix_values, values]),
            full,
        )
        # Logits near 1e4 carry an absolute rounding of about 1e4 eps into the exponent.
        scale = max(1.0, np.abs(keys).max())
        np.testing.assert_allclose(split.output, whole, atol=1e-14 * scale)
        assert np.isfinite(split.output).all()

    def test_prefix_splits_into_mass_bias_content(self, parts):
        queries, keys, values, prefix_keys, prefix_values, mask = parts
        split = apply(
            attention.prefixed_head, queries, keys, values, prefix_keys, prefix_values, mask
        )
        np.testing.assert_allclose(
            split.bias, head(queries, prefix_keys, prefix_values), rtol=1e-10, atol=1e-12
        )
        np.testing.assert_allclose(
            split.content, head(queries, keys, values, mask), rtol=1e-10, atol=1e-12
        )
        mass = np.asarray(split.mass)
        assert ((mass >= 0) & (mass <= 1)).all()
        np.testing.assert_allclose(
            split.output,
            mass[:, None] * split.bias + (1 - mass[:, None]) * split.content,
            rtol=1e-9,
        )


@pytest.mark.usefixtures("x64")
def test_a_dominant_prefix_leaves_exact_bias():
    one = np.ones((1, 1))
    split = apply(attention.prefixed_head, one, -1e4 * one, 5 * one, 1e4 * one, 3 * one)
    assert float(split.mass[0]) == 1.0
    assert float(split.output[0, 0]) == 3.0
    split = apply(attention.prefixed_head, one, 1e4 * one, 5 * one, -1e4 * one, 3 * one)
    assert float(split.output[0, 0]) == 5.0


def masked_head(queries, keys, values, mask, scale=1.0, cap=None, sink=None):
    """The definition in float64, query by query: what is not seen is left out of every sum.

    Returns outputs and the weights on every key.
    """
    outputs, patterns = [], []
    for query, seen in zip(queries, mask, strict=True):
        scores = np.array([scale * float(query @ key) for key in keys])
        if cap is not None:
            scores = cap * np.tanh(scores / cap)
        terms = np.where(seen, np.exp(scores), 0.0)
        weights = terms / (terms.sum() + (0.0 if sink is None else np.exp(sink)))
        patterns.append(weights)
        outputs.append(sum(w * v for w, v in zip(weights, values, strict=True)))
    return np.array(outputs), np.array(patterns)


OPTIONS = some_slow(
    [
        {},
        {"scale": 2.0, "soft_cap": 3.0, "sink_score": -1.2},
        {"sink_score": 0.0},
        {"scale": 0.5},
        {"soft_cap": 1.5},
        {"sink_score": 0.7},
    ],
    first=3,
)


def brute_names(options):
    """The options as the definition above names them."""
    new = {"scale": "scale", "soft_cap": "cap", "sink_score": "sink"}
    return {new[name]: value for name, value in options.items()}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("options", OPTIONS)
class TestMasksAndOptions:
    """Visible prefixes query by query, scale, soft cap and sink, against the definition."""

    MASK = np.array([[1, 1, 0, 1], [0, 0, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1], [0, 1, 1, 0]], bool)
    PREFIX_MASK = np.array([[1, 0, 1], [1, 1, 0], [0, 0, 0], [1, 1, 1], [0, 0, 0]], bool)

    @pytest.fixture
    def arrays(self, rng):
        return [rng.normal(size=s) for s in ((5, 3), (4, 3), (4, 2), (3, 3), (3, 2))]

    def test_head(self, arrays, options):
        queries, keys, values, *_ = arrays
        seen = self.MASK if "sink_score" in options else self.MASK[[0, 2, 3, 4]]
        queries = queries if "sink_score" in options else queries[[0, 2, 3, 4]]
        found = compiled(attention.attention_head, **options)(queries, keys, values, seen)
        expected, _ = masked_head(queries, keys, values, seen, **brute_names(options))
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-14)

    def test_prefixed_head(self, arrays, options):
        queries, keys, values, prefix_keys, prefix_values = arrays
        found = compiled(attention.prefixed_head, **options)(
            queries, keys, values, prefix_keys, prefix_values, self.MASK, self.PREFIX_MASK
        )
        both = np.concatenate([self.PREFIX_MASK, self.MASK], axis=1)
        expected, weights = masked_head(
            queries, np.concatenate([prefix_keys, keys]), np.concatenate([prefix_values, values]),
            both, **brute_names(options),
        )  # fmt: skip
        np.testing.assert_allclose(found.output, expected, rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(found.mass, weights[:, :3].sum(1), rtol=1e-12, atol=1e-15)
        np.testing.assert_allclose(
            found.content_mass, weights[:, 3:].sum(1), rtol=1e-12, atol=1e-15
        )
        # A query without a prefix in sight has the plain output, one without content its bias.
        blind = ~self.PREFIX_MASK.any(axis=1)
        plain = compiled(attention.attention_head, **options)(queries, keys, values, self.MASK)
        np.testing.assert_allclose(found.output[blind], plain[blind], rtol=1e-12, atol=1e-14)
        assert (np.asarray(found.mass)[blind] == 0).all()
        assert (np.asarray(found.bias)[blind] == 0).all()
        assert float(found.content_mass[1]) == 0.0
        np.testing.assert_array_equal(found.content[1], 0)
        assert all(np.isfinite(x).all() for x in found)

    def test_slopes_are_numbers(self, arrays, options):
        queries, keys, values, prefix_keys, prefix_values = arrays

        @jax.jit
        @functools.partial(jax.value_and_grad, argnums=(0, 1, 2, 3, 4))
        def total(*given):
            found = attention.prefixed_head(*given, self.MASK, self.PREFIX_MASK, **options)
            return found.output.sum()

        given = (queries, keys, values, prefix_keys, prefix_values)
        _, slopes = total(*given)
        assert all(np.isfinite(x).all() for x in slopes)
        # One entry against a difference quotient.
        step = np.zeros_like(prefix_keys)
        step[0, 1] = 1e-6
        moved = [total(*given[:3], prefix_keys + sign * step, prefix_values)[0] for sign in (1, -1)]
        quotient = float(moved[0] - moved[1]) / 2e-6
        assert float(slopes[3][0, 1]) == pytest.approx(quotient, rel=1e-6, abs=1e-8)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("groups", some_slow([2, 1, 4], first=1))
@pytest.mark.parametrize("sinks", [False, True])
def test_grouped_heads_share_keys_and_values(rng, groups, sinks):
    queries = rng.normal(size=(4, 5, 3))
    keys, values = rng.normal(size=(groups, 6, 3)), rng.normal(size=(groups, 6, 2))
    prefix_keys, prefix_values = rng.normal(size=(groups, 2, 3)), rng.normal(size=(groups, 2, 2))
    mask, prefix_mask = np.tri(5, 6, 1, bool), rng.random((5, 2)) < 0.6
    scores = rng.normal(size=4) if sinks else None
    plain = compiled(attention.grouped_heads, scale=0.6, soft_cap=2.0)(
        queries, keys, values, mask, sink_scores=scores
    )
    split = compiled(attention.grouped_prefixed_heads, scale=0.6, soft_cap=2.0)(
        queries, keys, values, prefix_keys, prefix_values, mask, prefix_mask, sink_scores=scores
    )
    for head in range(4):
        group = head * groups // 4  # consecutive query heads share one key head
        sink = None if scores is None else scores[head]
        expected, _ = masked_head(queries[head], keys[group], values[group], mask, 0.6, 2.0, sink)
        np.testing.assert_allclose(plain[head], expected, rtol=1e-12, atol=1e-14)
        expected, weights = masked_head(
            queries[head], np.concatenate([prefix_keys[group], keys[group]]),
            np.concatenate([prefix_values[group], values[group]]),
            np.concatenate([prefix_mask, mask], axis=1), 0.6, 2.0, sink,
        )  # fmt: skip
        np.testing.assert_allclose(split.output[head], expected, rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(split.mass[head], weights[:, :2].sum(1), rtol=1e-12, atol=1e-15)


@pytest.mark.usefixtures("x64")
def test_a_prefix_or_content_of_no_vectors_is_not_there(rng):
    queries, keys, values = (rng.normal(size=s) for s in ((5, 3), (4, 3), (4, 2)))
    none_keys, none_values = np.zeros((0, 3)), np.zeros((0, 2))
    prefixed = compiled(attention.prefixed_head)
    bare = prefixed(queries, keys, values, none_keys, none_values)
    np.testing.assert_allclose(bare.output, head(queries, keys, values), rtol=1e-12)
    alone = prefixed(queries, none_keys, none_values, keys, values)
    np.testing.assert_allclose(alone.output, head(queries, keys, values), rtol=1e-12)
    assert (np.asarray(alone.mass) == 1).all()


@pytest.mark.usefixtures("x64")
def test_sinks_imitate_a_vector_of_value_zero(rng):
    """A sink is a key that every query scores alike, with value 0: a prefix of one vector."""
    queries, keys, values = (rng.normal(size=s) for s in ((5, 3), (4, 3), (4, 2)))
    with_sink = compiled(attention.attention_head, sink_score=0.4)(queries, keys, values)
    ones = np.ones((5, 1))
    prefix = compiled(attention.prefixed_head)(
        np.concatenate([queries, ones], axis=1), np.pad(keys, ((0, 0), (0, 1))), values,
        np.array([[0.0, 0, 0, 0.4]]), np.zeros((1, 2)),
    )  # fmt: skip
    np.testing.assert_allclose(with_sink, prefix.output, rtol=1e-12)


@pytest.mark.parametrize("sink", [None, 0.0])
def test_scores_of_ten_thousand_stay_numbers(sink):
    one = np.ones((1, 1), np.float32)
    for content, prefix in ((-1e4, 1e4), (1e4, -1e4), (1e4, 1e4), (-1e4, -1e4)):
        given = (one, np.float32(content) * one, one, np.float32(prefix) * one, one)
        found = compiled(attention.prefixed_head, sink_score=sink)(*given)
        assert all(np.isfinite(x).all() for x in found)


def test_wrong_groups_and_caps_are_named():
    x = np.ones((3, 2, 2), np.float32)
    with pytest.raises(ParameterError, match=r"`queries`.*multiple of the 2 key heads"):
        attention.grouped_heads(x, x[:2], x[:2])
    with pytest.raises(ParameterError, match="`soft_cap`"):
        attention.attention_head(x[0], x[0], x[0], soft_cap=0.0)


def test_computes_in_the_dtype_of_its_arguments():
    tokens = jnp.ones((3, 2), jnp.bfloat16)
    assert attention.prompt_attention(tokens, jnp.ones(2, jnp.bfloat16)).dtype == jnp.bfloat16


def test_functions_vmap_and_differentiate():
    tokens = np.random.default_rng(0).normal(size=(3, 5, 4)).astype(np.float32)

    @jax.jit
    @jax.value_and_grad
    def total(prompt):
        return jax.vmap(attention.prompt_attention, (0, None))(tokens, prompt).sum()

    prompt, step = np.ones(4, np.float32), np.array([0.01, 0, 0, 0], np.float32)
    value, slope = total(prompt)
    one_by_one = [compiled(attention.prompt_attention)(each, prompt) for each in tokens]
    assert float(value) == pytest.approx(float(np.sum(one_by_one)), rel=1e-5)
    quotient = float(total(prompt + step)[0] - total(prompt - step)[0]) / 0.02
    assert float(slope[0]) == pytest.approx(quotient, rel=1e-3)


class TestMasks:
    """Masks of positions, and masks as models hold them."""

    @pytest.mark.parametrize("causal", [True, False])
    @pytest.mark.parametrize("window", [None, 1, 3, 20])
    def test_visible_positions(self, causal, window):
        queries, keys = [0, 1, 5, 9], [-3, -2, -1, 0, 4, 5, 6]
        seen = attention.visible_positions(queries, keys, causal=causal, window=window)
        for i, p in enumerate(queries):
            for j, r in enumerate(keys):
                near = window is None or abs(p - r) < window
                assert bool(seen[i, j]) == (near and (r <= p or not causal))

    def test_a_window_hides_the_prefix_from_late_queries(self):
        """Of 12 queries and a window of 6, seven see no prefix just before them: 58 %."""
        seen = attention.visible_positions(range(12), range(-3, 0), window=6)
        assert (~np.asarray(seen).any(axis=1)).mean() == pytest.approx(7 / 12)

    def test_a_window_of_nothing_is_refused(self):
        with pytest.raises(ParameterError, match=r"`window`.*≥ 1"):
            attention.visible_positions([0], [0], window=0)

    @pytest.mark.parametrize(
        ("dtype", "widened"),
        [("bfloat16", False), ("float16", False), ("float32", False), ("float64", False),
         ("bfloat16", True), ("float32", True)],
    )  # fmt: skip
    def test_the_least_number_of_a_dtype_hides(self, dtype, widened):
        """Also in a mask that was widened afterwards, but for float16, whose least is a score."""
        with jax.enable_x64(True):
            least = jnp.finfo(dtype).min
            mask = jnp.asarray([[0, least, -1.5, -jnp.inf]], dtype)
            visible, added = attention.split_mask(mask.astype("float64") if widened else mask)
            np.testing.assert_array_equal(visible, [[True, False, True, False]])
            np.testing.assert_array_equal(np.asarray(added, float), [[0, 0, -1.5, 0]])

    def test_truth_values_add_nothing(self):
        visible, added = attention.split_mask(np.array([1, 0]))
        assert added is None
        np.testing.assert_array_equal(visible, [True, False])
        assert attention.split_mask(None) == (None, None)

    @pytest.mark.usefixtures("x64")
    def test_a_float_mask_is_added_after_the_cap(self, rng):
        queries, keys, values = (rng.normal(size=s) for s in ((5, 3), (6, 3), (6, 2)))
        bias = rng.normal(size=(5, 6))
        bias[2, :4] = np.finfo(np.float32).min
        capped = compiled(attention.attention_head, scale=0.7, soft_cap=1.2)
        found = capped(queries, keys, values, bias)
        for i in range(5):
            terms = [
                np.exp(1.2 * np.tanh(0.7 * (queries[i] @ keys[j]) / 1.2) + bias[i, j])
                for j in range(6)
            ]
            expected = sum(t * v for t, v in zip(terms, values, strict=True)) / sum(terms)
            np.testing.assert_allclose(found[i], expected, rtol=1e-12)

    @pytest.mark.usefixtures("x64")
    def test_every_query_head_may_have_its_own_mask(self, rng):
        queries = rng.normal(size=(6, 5, 3))
        keys, values = rng.normal(size=(2, 7, 3)), rng.normal(size=(2, 7, 2))
        seen = attention.visible_positions(range(5), range(-2, 5), window=4)
        mask = np.where(seen, attention.alibi_bias(6, range(5), range(-2, 5)), -np.inf)
        split = compiled(attention.grouped_prefixed_heads)(
            queries, keys[:, 2:], values[:, 2:], keys[:, :2], values[:, :2],
            mask[..., 2:], mask[..., :2],
        )  # fmt: skip
        for head in range(6):
            for i in range(5):
                score = queries[head, i] @ keys[head // 3].T
                bias = [-(2.0 ** -(2 * (head + 1))) * abs(i - j) for j in range(-2, 5)]
                if head >= 4:  # six heads: four of four, then the first two odd ones of eight
                    bias = [-(2.0 ** -(2 * head - 7)) * abs(i - j) for j in range(-2, 5)]
                terms = np.exp(score + bias) * [j <= i and i - j < 4 for j in range(-2, 5)]
                expected = terms @ values[head // 3] / terms.sum()
                np.testing.assert_allclose(split.output[head, i], expected, rtol=1e-12)
                mass = terms[:2].sum() / terms.sum()
                assert float(split.mass[head, i]) == pytest.approx(mass, rel=1e-12)

    def test_masks_for_another_number_of_heads_are_refused(self):
        x = np.ones((4, 2, 2), np.float32)
        with pytest.raises(ParameterError, match=r"`mask`.*4 along its first axis"):
            attention.grouped_heads(x, x[:2], x[:2], np.ones((2, 2, 2), bool))


class TestPositions:
    """Encodings of positions, against turns of complex numbers and tables from their papers."""

    @pytest.mark.usefixtures("x64")
    @pytest.mark.parametrize("base", [100.0, 10_000.0])
    def test_rotation_is_a_turn_of_complex_numbers(self, rng, base):
        vectors = rng.normal(size=(2, 4, 6))
        rotate = jax.jit(attention.rotate, static_argnums=2)
        turned = np.asarray(rotate(vectors, np.array([-3, 0, 1, 70]), base))
        for i, position in enumerate([-3, 0, 1, 70]):
            for pair in range(3):
                number = vectors[:, i, pair] + 1j * vectors[:, i, pair + 3]
                number = number * np.exp(1j * position / base ** (pair / 3))
                np.testing.assert_allclose(turned[:, i, pair], number.real, atol=1e-13)
                np.testing.assert_allclose(turned[:, i, pair + 3], number.imag, atol=1e-13)

    def test_rotation_keeps_the_dtype_and_the_angle(self):
        """Position 257 is no bfloat16, yet the vector is turned by the angle of 257."""
        one = jnp.asarray([[1.0, 0.0]], jnp.bfloat16)
        turned = attention.rotate(one, [257])
        assert turned.dtype == jnp.bfloat16
        np.testing.assert_allclose(
            np.asarray(turned, float)[0], [np.cos(257), np.sin(257)], atol=4e-3
        )

    def test_slopes_of_alibi(self):
        np.testing.assert_allclose(attention.alibi_slopes(8), [2.0**-h for h in range(1, 9)])
        # Published for 12 heads: those of 8, then 2^(-1/2), 2^(-3/2), ...
        np.testing.assert_allclose(
            attention.alibi_slopes(12), [*(2.0**-h for h in range(1, 9)),
                                         *(2.0 ** -(h + 0.5) for h in range(4))],
        )  # fmt: skip
        bias = attention.alibi_bias(2, [0, 5], [-1, 5])
        np.testing.assert_allclose(bias[0], np.array([[-1, 5], [-6, 0]]) / 16)

    def test_buckets_of_t5(self):
        """Causal: 16 single distances of 32 buckets, then edges that grow up to 128."""
        found = attention.relative_buckets([200], [200 - d for d in range(200)])[0]
        assert list(found[:16]) == list(range(16))
        for distance in range(16, 200):
            # Bucket b holds the distances from 16 · 8^((b - 16)/16) on.
            edges = sum(distance >= 16 * 8 ** (k / 16) - 1e-9 for k in range(1, 16))
            assert found[distance] == 16 + edges, distance
        assert attention.relative_buckets([0], [9])[0, 0] == 0
        both = attention.relative_buckets([10], [9, 10, 11], causal=False)[0]
        assert list(both) == [1, 0, 17]

    def test_odd_widths_and_no_heads_are_refused(self):
        with pytest.raises(ParameterError, match=r"`head_dim`.*even"):
            attention.rotary_frequencies(5)
        with pytest.raises(ParameterError, match="`base`"):
            attention.rotary_frequencies(4, 0.0)
        with pytest.raises(ParameterError, match="`heads`"):
            attention.alibi_slopes(0)


@pytest.mark.parametrize(
    ("dtype", "size"),
    mostly_slow(
        itertools.product(["bfloat16", "float32", "float64", "float16"], [1.0, 10.0]),
        {("bfloat16", 1.0), ("float32", 10.0)}.__contains__,
    ),
)
def test_rounding_stays_within_its_allowance(rng, dtype, size):
    """Exact sums of the very numbers a head was given: it differs by less, but not by nothing."""
    with jax.enable_x64(True):
        given = [
            jnp.asarray(rng.normal(size=s), dtype)
            for s in ((40, 16), (12, 16), (12, 4), (3, 16), (3, 4))
        ]
        wide = [np.asarray(x, np.float64) for x in given]
        scores = np.abs(wide[0] @ np.concatenate([wide[1], wide[3]]).T).max()
        scale = float(jnp.asarray(size / scores, dtype))
        found = compiled(attention.prefixed_head, scale=scale)(*given)
        assert found.output.dtype == dtype
        keys, values = (np.concatenate([wide[i + 2], wide[i]]) for i in (1, 2))
        expected, weights = masked_head(wide[0], keys, values, np.ones((40, 15), bool), scale)
    allowed = attention.rounding_allowance(dtype, terms=16, largest_score=size)
    largest = np.abs(values).max()
    off = np.abs(np.asarray(found.output, np.float64) - expected).max() / largest
    assert allowed / 300 < off < allowed
    assert np.abs(np.asarray(found.mass, np.float64) - weights[:, :3].sum(1)).max() < allowed
