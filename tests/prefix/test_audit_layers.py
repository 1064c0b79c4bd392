"""The audit of layers from arrays, against sums over tokens written out here."""

from __future__ import annotations

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quick_cases import some_slow

from jaxprompt.errors import ParameterError
from jaxprompt.prefix import TapedLayer, audit

H, G, T, N, D, V = 4, 2, 7, 3, 5, 6


def arrays(seed=0, dtype=np.float64):
    """Queries, keys, values and a causal mask whose window hides the prefix from late queries."""
    rng = np.random.default_rng(seed)
    queries, keys, values = (
        rng.standard_normal(shape).astype(dtype)
        for shape in ((H, T, D), (G, N + T, D), (G, N + T, V))
    )
    distance = np.arange(N, N + T)[:, None] - np.arange(N + T)
    return queries, keys, values, (distance >= 0) & (distance < 6)


def weights_of(scores, sink=None):
    """Softmax of a list of scores, one exponential after the other."""
    powers = [math.exp(s) for s in scores]
    total = sum(powers) + (0 if sink is None else math.exp(sink))
    return [p / total for p in powers]


def brute_force(queries, keys, values, mask, *, scale, cap=None, sinks=None, kept=None):
    """Prefix mass, and outputs with and without the prefix, by loops over heads and queries.

    `kept` are the places of the keys that are there, all if left out.
    """
    mass, output, plain = np.zeros((H, T)), np.zeros((H, T, V)), np.zeros((H, T, V))
    for h in range(H):
        g = h // (H // G)
        for i in range(T):
            places = [j for j in kept or range(N + T) if mask[i, j]]
            scores = {j: scale * float(sum(queries[h, i] * keys[g, j])) for j in places}
            if cap:
                scores = {j: cap * math.tanh(s / cap) for j, s in scores.items()}
            sink = None if sinks is None else sinks[h]
            found = dict(zip(places, weights_of(scores.values(), sink), strict=True))
            content = [j for j in places if j >= N]
            alone = weights_of([scores[j] for j in content], sink)
            mass[h, i] = sum(w for j, w in found.items() if j < N)
            output[h, i] = sum(w * values[g, j] for j, w in found.items())
            plain[h, i] = sum(w * values[g, j] for j, w in zip(content, alone, strict=True))
    return mass, output, plain


OPTIONS = [{}, {"soft_cap": 1.5}, {"sink_scores": np.array([0.3, -1.0, 2.0, 0.0])}]


@pytest.mark.parametrize("options", OPTIONS, ids=["plain", "cap", "sinks"])
def test_numbers_are_those_of_loops_over_tokens(options):
    queries, keys, values, mask = arrays()
    given = {"scale": 0.7, "cap": options.get("soft_cap"), "sinks": options.get("sink_scores")}
    mass, output, plain = brute_force(queries, keys, values, mask, **given)
    tape = TapedLayer(
        values, N, queries, keys, mask=mask, scale=0.7, output=output, plain_output=plain, **options
    )
    (layer,) = audit(tape).layers
    assert layer.status == "confirmed"
    assert 0 < layer.output_identity.allowed < 1e-13
    np.testing.assert_allclose(layer.mass.by_head, mass.mean(axis=1), rtol=1e-12)
    np.testing.assert_allclose(layer.mass.by_query, mass.mean(axis=0), rtol=1e-12)
    assert layer.mass.mean == pytest.approx(mass.mean(), rel=1e-12)
    assert layer.mass.quantiles[3] == pytest.approx(np.median(mass), rel=1e-12)
    # Queries at 3 … 9 with a window of 6 see keys down to −2 … 4: the last two see no prefix.
    assert layer.share_seeing == pytest.approx(5 / 7)
    seen = [(3, 1), (3, 2), (3, 3), (2, 4), (1, 5), (0, 6), (0, 6)]
    assert layer.mass.uniform == pytest.approx(np.mean([n / (n + t) for n, t in seen]))
    effect = output - plain
    left = effect - effect.mean(axis=1, keepdims=True)
    by_head = 1 - (left**2).sum(axis=(1, 2)) / (effect**2).sum(axis=(1, 2))
    np.testing.assert_allclose(layer.constant_share_by_head, by_head, rtol=1e-10)
    assert layer.constant_share == pytest.approx(1 - (left**2).sum() / (effect**2).sum())
    assert layer.effect_size == pytest.approx(np.linalg.norm(effect) / np.linalg.norm(plain))
    shorter = {
        m: brute_force(queries, keys, values, mask, kept=[*range(m), *range(N, N + T)], **given)[0]
        for m in (1, 2, 3)
    }
    assert [m for m, _ in layer.mass.by_prefix_length] == [1, 2, 3]
    for m, mean in layer.mass.by_prefix_length:
        assert mean == pytest.approx(shorter[m].mean(), rel=1e-12)
    # The sixth content position and the seventh see six each.
    by_length = dict(layer.mass.by_length)
    assert by_length[6] == 0
    assert by_length[2] == pytest.approx(mass[:, 1].mean(), rel=1e-12)


@pytest.mark.parametrize(
    "wrong",
    [{"soft_cap": 3.0}, {"scale": 0.72}, {"sink_scores": np.zeros(H)}, {"prefix": N - 1}],
    ids=["cap", "scale", "sink", "one vector fewer"],
)
def test_a_layer_that_computes_something_else_is_refuted(wrong):
    queries, keys, values, mask = arrays()
    _, output, plain = brute_force(queries, keys, values, mask, scale=0.7)
    given = {"prefix": N, "scale": 0.7, "output": output, "plain_output": plain, **wrong}
    found = audit(TapedLayer(values, queries=queries, keys=keys, mask=mask, **given))
    assert found.status == "refuted"
    assert found.exit_code == 1
    assert "something else than a softmax" in " ".join(found.layers[0].findings)


@pytest.mark.parametrize("dtype", some_slow(["float64", "bfloat16", "float32", "float16"], 2))
def test_rounding_of_every_float_type_is_allowed_and_not_much_more(dtype):
    *vectors, mask = arrays()
    with jax.enable_x64(True):
        queries, keys, values = (jnp.asarray(x, dtype) for x in vectors)
    with_cap = TapedLayer(values, N, queries, keys, mask=mask, soft_cap=4.0)
    (layer,) = audit(with_cap).layers
    eps = float(jnp.finfo(dtype).eps)
    for deviation in (layer.pattern_identity, layer.output_identity):
        assert deviation.status == "confirmed"
        assert eps / 50 < deviation.value < deviation.allowed < 25 * eps
    assert layer.precision == dtype


def test_the_prefix_must_outweigh_rounding():
    """Scores so low that the prefix changes less than bfloat16 rounds: no verdict."""
    queries, keys, values, _ = arrays(dtype=np.float32)
    keys[:, :N] = 0
    low = np.where(np.arange(N + T) < N, -12.0, 0.0).astype(np.float32)
    tape = TapedLayer(values, N, queries, keys, mask=low[None], precision="bfloat16")
    found = audit(tape)
    assert found.status == "inconclusive"
    assert found.exit_code == 3
    assert "wider type" in found.layers[0].findings[0]


def test_ranks_and_directions():
    """Each head's bias has rank min(n, v), and one direction where one vector takes it all."""
    rng = np.random.default_rng(3)
    queries = rng.standard_normal((H, 30, D))
    for n in (1, 8):
        keys, values = (rng.standard_normal((G, n + 30, k)) for k in (D, V))
        (layer,) = audit(TapedLayer(values, n, queries, keys)).layers
        assert layer.bias.rank_by_head.tolist() == [min(n, V)] * H
        assert layer.bias.rank == layer.bias.bound == min(30, H * min(n, V))
        assert layer.bias.effective_rank <= layer.bias.rank
        assert sum(layer.bias.energy) <= 1 + 1e-12
    keys = np.zeros((G, n + 30, D))
    keys[:, 0] = [30, 0, 0, 0, 0]
    queries[:, :, 0] = 3 + np.abs(queries[:, :, 0])
    values = rng.standard_normal((G, n + 30, V))
    (layer,) = audit(TapedLayer(values, n, queries, keys)).layers
    assert layer.bias.effective_rank == pytest.approx(1, abs=1e-6)
    # The output of all heads side by side, of which each reads the values of its group.
    direction = np.repeat(values[:, 0], H // G, axis=0).ravel()
    direction /= np.linalg.norm(direction)
    assert abs(layer.bias.directions[0] @ direction) == pytest.approx(1, abs=1e-4)
    # All attention goes to one vector, and what is replaced was nearly one vector too.
    assert layer.mass.mean > 0.99


def test_the_plain_model_is_compared_where_the_input_is_the_same():
    queries, keys, values, mask = arrays()
    content = queries @ np.repeat(keys[:, N:], H // G, axis=0).swapaxes(1, 2) / math.sqrt(D)
    content = np.where(mask[:, N:], content, -np.inf)
    plain = np.array([[weights_of(row) for row in head] for head in content])
    other = plain[..., ::-1].copy()
    runs = {"same_positions": plain, "shifted_positions": other}
    first = TapedLayer(values, N, queries, keys, mask=mask, first=True, name="first", **runs)
    later = TapedLayer(values, N, queries, keys, mask=mask, name="later", **runs)
    found = audit([first, later])
    one, two = found.layers
    assert one.same_positions.equal
    assert one.shifted_positions.equal is False
    assert two.same_positions.equal is two.shifted_positions.equal is None
    distance = np.abs(plain - other).sum(axis=-1).mean() / 2
    assert two.shifted_positions.distance == pytest.approx(distance)
    assert found.status == "confirmed"  # positions that are not the same refute nothing
    assert "at the same positions only" in " ".join(found.findings)
    moved = TapedLayer(values, N, queries, keys, mask=mask, first=True, same_positions=other)
    assert audit(moved).status == "refuted"


def test_scores_masks_and_biases_in_every_form():
    """Final scores, a float mask with the dtype's minimum and a bias apart say the same."""
    queries, keys, values, mask = arrays()
    bias = np.random.default_rng(5).standard_normal((H, T, N + T))
    least = np.where(mask, 0, np.finfo(np.float32).min)
    scores = queries @ np.repeat(keys, H // G, axis=0).swapaxes(1, 2) / math.sqrt(D) + bias
    forms = (
        TapedLayer(values, N, queries, keys, mask=mask, score_bias=bias),
        TapedLayer(values, N, queries, keys, mask=least + bias),
        TapedLayer(values[None], N, queries[None], keys[None], mask=(bias + least)[None]),
        TapedLayer(values, N, scores=np.where(mask, scores, -np.inf)),
    )
    first, *others = (audit(form).to_dict()["layers"][0] for form in forms)
    for other in others:
        assert other["mass"]["mean"] == pytest.approx(first["mass"]["mean"], rel=1e-12)
        assert other["constant_share"] == pytest.approx(first["constant_share"], rel=1e-10)
        assert other["status"] == "confirmed"


def test_torch_arrays():
    torch = pytest.importorskip("torch", reason="torch comes with the extra `audit`")
    queries, keys, values, mask = arrays(dtype=np.float32)
    ours = audit(TapedLayer(values, N, queries, keys, mask=mask)).layers[0]
    theirs = [torch.from_numpy(x) for x in (values, queries, keys)]
    same = audit(TapedLayer(theirs[0], N, *theirs[1:], mask=torch.from_numpy(mask))).layers[0]
    assert same.mass.mean == ours.mass.mean
    assert same.precision == "float32"
    half = audit(TapedLayer(theirs[0].bfloat16(), N, *(x.bfloat16() for x in theirs[1:])))
    assert half.layers[0].precision == "bfloat16"
    assert half.status == "confirmed"


def test_json_and_an_audit_without_layers():
    queries, keys, values, mask = arrays()
    found = audit(TapedLayer(values, N, queries, keys, mask=mask), untouched=["encoder"])
    plain = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert plain["status"] == "confirmed"
    assert plain["untouched"] == ["encoder"]
    assert "directions" not in plain["layers"][0]["bias"]
    assert plain["layers"][0]["pattern_identity"]["status"] == "confirmed"
    nothing = audit([])
    assert (nothing.status, nothing.exit_code) == ("failed", 3)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"values": np.zeros((3, N + T, V))}, "values"),
        ({"values": None}, "values"),
        ({"prefix": 0}, "prefix"),
        ({"prefix": N + T}, "prefix"),
        ({"keys": np.zeros((G, N + T, D + 1))}, "keys"),
        ({"queries": np.zeros((2, H, T, D))}, "queries"),
        ({"queries": None}, "scores"),
        ({"mask": np.ones((T, T))}, "mask"),
        ({"mask": np.zeros((T, N + T), bool)}, "mask"),
        ({"sink_scores": np.zeros(H + 1)}, "sink_scores"),
        ({"output": np.zeros((T, H, V))}, "output"),
        ({"same_positions": np.zeros((H, T, N + T))}, "same_positions"),
        ({"precision": "int8"}, "precision"),
        ({"soft_cap": -1.0}, "soft_cap"),
    ],
)
def test_arrays_that_do_not_fit_are_refused_in_one_line(changes, named):
    queries, keys, values, mask = arrays()
    given = {"values": values, "prefix": N, "queries": queries, "keys": keys, "mask": mask}
    with pytest.raises(ParameterError, match=rf"`{named}`") as error:
        audit(TapedLayer(**{**given, **changes}))
    assert "\n" not in str(error.value)
