"""Closed forms against independent evaluations over the ranges that the claims state.

A claim says in `compared` over which ranges it is compared beyond its own check, and this file
draws points from those ranges and goes to each of their ends. Oracles are sums token by token in
mpmath, transformers in plain NumPy, exact ranks in a finite field, linear programmes and
enumeration; none calls the package. Each gives for a quantity the least and the largest number that
a prediction may be: what its own rounding is worth.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import mpmath as mp
import numpy as np
import pytest

import jaxprompt as jp

Point = dict[str, Any]
Limits = dict[str, tuple[Any, Any]]

DRAWN, DRAWN_SLOWLY = 12, 40
"""Points drawn from the ranges of each claim, beside the ends of each."""


# --- points ---


def points_of(claim: jp.Claim, count: int) -> list[Point]:
    """`count` points in the ranges, and one at each end of each, or for each choice."""
    random = np.random.default_rng(count)
    points = [drawn_point(claim, random) for _ in range(count)]
    for name, (*choices,) in claim.compared.ranges.items():
        points += [drawn_point(claim, random, {name: end}) for end in choices]
    return points


def drawn_point(
    claim: jp.Claim, random: np.random.Generator, fixed: Mapping[str, Any] | None = None
) -> Point:
    """Numbers between the ends, geometrically where both are positive; and arrays of them.

    What is `fixed` stays, or is one entry of its array.
    """
    fixed, kinds = fixed or {}, {p.name: p.kind for p in claim.parameters}
    ranges = claim.compared.ranges
    numbers = {name: number_at(ranges[name], kinds[name], random)
               for name in ranges if kinds[name] != "array"}  # fmt: skip
    point = {**numbers, **{name: value for name, value in fixed.items() if name in numbers}}
    repair = REPAIRS.get(claim.id)
    point = repair(point, random) if repair else point
    shapes = SHAPES[claim.id](point, random) if claim.id in SHAPES else {}
    size = 10 ** random.uniform(-7, 0)
    for name, shape in shapes.items():
        point[name] = array_in(ranges[name], shape, size, random)
        if name in fixed:
            point[name][(0,) * len(shape)] = fixed[name]
    return point


def number_at(choices: tuple[Any, ...], kind: str, random: np.random.Generator) -> Any:
    if isinstance(choices[0], str):
        return choices[random.integers(len(choices))]
    low, high = choices
    share = random.uniform()
    value = low * (high / low) ** share if low > 0 else low + (high - low) * share
    return round(value) if kind == "integer" else float(np.clip(value, low, high))


def array_in(
    ends: tuple[Any, ...], shape: tuple[int, ...], size: float, random: np.random.Generator
) -> np.ndarray:
    """Masks of 0 and 1; other entries up to a share of the range, which each point draws."""
    low, high = ends
    if isinstance(low, int):
        return random.integers(low, high + 1, size=shape)
    return np.asarray(random.uniform(low, high, size=shape) * size)


def around(value: Any, allowed: float) -> tuple[Any, Any]:
    return np.asarray(value) - allowed, np.asarray(value) + allowed


# --- heads, token by token ---


def head_shapes(point: Point, random: np.random.Generator) -> dict[str, tuple[int, ...]]:
    content, prefix, width = ((7, 3, 2), (1, 1, 1))[random.integers(2)]
    return {
        "content_scores": (content,), "content_values": (content, width),
        "prefix_scores": (prefix,), "prefix_values": (prefix, width), "visible": (content,),
        "prefix_visible": (prefix,),
    }  # fmt: skip


def head_and_sink_shapes(point: Point, random: np.random.Generator) -> dict[str, tuple[int, ...]]:
    return {**head_shapes(point, random), "sink_scores": ()}


def something_seen(at: Point) -> Point:
    """A query that would see neither content nor prefix sees its first content."""
    visible = np.array(at["visible"])
    visible[0] |= not (visible.any() or at["prefix_visible"].any())
    return {**at, "visible": visible}


def content_seen(at: Point) -> Point:
    visible = np.array(at["visible"])
    visible[0] |= not visible.any()
    return {**at, "visible": visible}


def weights_by_sums(at: Point, with_prefix: bool = True) -> tuple[list[Any], list[Any], Any]:
    """Weights on the content, the prefix and the sink by the definition, in 40 digits."""
    content = [(mp.mpf(float(s)), seen) for s, seen in
               zip(at["content_scores"], at["visible"], strict=True)]  # fmt: skip
    prefix = [(mp.mpf(float(s)), seen and with_prefix) for s, seen in
              zip(at["prefix_scores"], at["prefix_visible"], strict=True)]  # fmt: skip
    sink = [(mp.mpf(float(at["sink_scores"])), True)] if "sink_scores" in at else []
    together = [*content, *prefix, *sink]
    top = max(score for score, seen in together if seen)
    mass = [mp.exp(score - top) if seen else mp.mpf(0) for score, seen in together]
    total = mp.fsum(mass)
    share = [m / total for m in mass]
    first, last = len(content), len(content) + len(prefix)
    return share[:first], share[first:last], sum(share[last:], mp.mpf(0))


def largest_size(*arrays: Any) -> float:
    return max(float(np.abs(x).max()) for x in arrays)


def head(at: Point) -> Limits:
    with mp.workdps(40):
        content, prefix, sink = weights_by_sums(at)
        rows = [*at["content_values"], *at["prefix_values"]]
        output = [
            float(mp.fsum(w * mp.mpf(float(row[i]))
                          for w, row in zip([*content, *prefix], rows, strict=True)))
            for i in range(len(rows[0]))
        ]  # fmt: skip
        numbers = {
            "attention": [float(w) for w in content],
            "prefix_attention": [float(w) for w in prefix],
            "prefix_mass": float(mp.fsum(prefix)),
            "content_mass": float(mp.fsum(content)),
            "sink_mass": float(sink),
        }
    # A difference of scores is rounded at their size, and so are its exponential and its weight.
    scores = (at["content_scores"], at["prefix_scores"], at.get("sink_scores", 0))
    allowed = 4e-16 * (10 + largest_size(*scores))
    value = largest_size(at["content_values"], at["prefix_values"])
    limits = {name: around(number, allowed) for name, number in numbers.items()}
    return {**limits, "output": around(output, allowed * (1 + value))}


def head_and_ratios(at: Point) -> Limits:
    """And the largest change of a log-ratio of content weights, with 40 digits beside the prefix.

    The weights themselves underflow at such scores, so their logarithms are those of the sums.
    """
    with mp.workdps(40):
        change = [
            mp.log(with_prefix / alone)
            for with_prefix, alone in zip(
                weights_by_sums(at)[0], weights_by_sums(at, with_prefix=False)[0], strict=True
            )
            if alone > 0
        ]
        ratio = float(max(change) - min(change))
    return {**head(at), "log_ratio_change": around(ratio, 1e-20)}


# --- transformers in plain NumPy ---

WIDTH, CONTENT = 8, 6


def plain_layers(depth: int, random: np.random.Generator) -> list[dict[str, np.ndarray]]:
    names = {"query": 3.0, "key": 3.0, "value": 1.0, "out": 1.0, "in": 1.0, "back": 1.0}
    return [
        {name: size * random.normal(size=(WIDTH, WIDTH)) / math.sqrt(WIDTH)
         for name, size in names.items()}
        for _ in range(depth)
    ]  # fmt: skip


def normed(x: np.ndarray) -> np.ndarray:
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred / np.sqrt(np.square(centred).mean(axis=-1, keepdims=True))


def attend_plainly(
    layer: Mapping[str, np.ndarray], row: np.ndarray, keys: np.ndarray
) -> np.ndarray:
    """One position's softmax average of the values of the rows `keys`."""
    score = (normed(keys) @ layer["key"]) @ (normed(row) @ layer["query"]) / math.sqrt(WIDTH)
    mass = np.exp(score - score.max())
    return (mass / mass.sum()) @ (normed(keys) @ layer["value"])


def run_plainly(
    layers: list[dict[str, np.ndarray]], stream: np.ndarray,
    prefixes: list[np.ndarray] | None = None, causal: bool = True,
) -> tuple[list[np.ndarray], list[np.ndarray]]:  # fmt: skip
    """Inputs of every layer and the last output; and what attention gives in every layer."""
    streams, attended = [stream], []
    for number, layer in enumerate(layers):
        x = streams[-1]
        front = prefixes[number] if prefixes else np.zeros((0, WIDTH))
        given = np.array([
            attend_plainly(layer, x[i], np.concatenate([front, x[: i + 1] if causal else x]))
            for i in range(len(x))
        ])  # fmt: skip
        attended.append(given)
        x = x + given @ layer["out"]
        streams.append(x + np.tanh(normed(x) @ layer["in"]) @ layer["back"])
    return streams, attended


def damped_and_moved(
    layer: Mapping[str, np.ndarray], stream: np.ndarray, front: np.ndarray
) -> np.ndarray:
    """The identity's right side: bias and damped output, each from a softmax of its own."""
    found = []
    for i, row in enumerate(stream):
        mass = []
        for rows in (front, stream[: i + 1]):
            query = normed(row) @ layer["query"] / math.sqrt(WIDTH)
            mass.append(np.exp((normed(rows) @ layer["key"]) @ query).sum())
        share = mass[0] / (mass[0] + mass[1])
        bias, alone = (attend_plainly(layer, row, rows) for rows in (front, stream[: i + 1]))
        found.append(share * bias + (1 - share) * alone)
    return np.array(found)


def head_and_depth(at: Point) -> Limits:
    """And the identity in every layer of a transformer with a prefix of three."""
    depth, random = at["layers"], np.random.default_rng(at["layers"])
    layers = plain_layers(depth, random)
    content = random.normal(size=(CONTENT, WIDTH))
    front = list(random.normal(size=(depth, 3, WIDTH)))
    streams, attended = run_plainly(layers, content, front)
    base, _ = run_plainly(layers, content)

    def deviation(layer: int, stream: np.ndarray) -> float:
        right = damped_and_moved(layers[layer], stream, front[layer])
        return float(np.abs(right - attended[layer]).max())

    deep = {
        "own_inputs": around(max(deviation(i, streams[i]) for i in range(depth)), 1e-11),
        "first_layer": around(deviation(0, base[0]), 1e-11),
        "changed": around(float(deviation(1, base[1]) > 1e-3), 0.0),
    }
    return {**head(at), **deep}


# --- positions ---


def position_shift_repair(at: Point, random: np.random.Generator) -> Point:
    return {**at, "head_dim": at["head_dim"] + at["head_dim"] % 2}


def vectors_of_cached_keys(point: Point, random: np.random.Generator) -> dict[str, tuple[int, ...]]:
    if point["kind"] != "cached" or random.integers(2):
        return {}
    return {"query": (point["head_dim"],), "cached_key": (point["head_dim"],)}


def position_shift(at: Point) -> Limits:
    if at["kind"] == "learned":
        # Each coordinate is linear in each of its six normal numbers: signs have the same moments.
        signs = np.array(np.meshgrid(*[[-1.0, 1.0]] * 6)).reshape(6, -1)
        a, b, query_here, query_there, key_here, key_there = signs
        change = (a + query_there) * (b + key_there) - (a + query_here) * (b + key_here)
        square = at["head_dim"] * np.square(change).mean()
        return {"shift_square": around(square, 1e-12 * square)}
    if at["kind"] != "cached":
        farthest = at["length"] + at["prefix"]
        return {"deviation": around(change_of_weights(at), 1e-15 * (100 + 30 * farthest))}
    angles = angles_of_pairs(at["head_dim"], at["base"])
    turns = np.exp(1j * np.outer(np.arange(at["length"] + at["prefix"]), angles))
    farthest, half = len(turns), at["head_dim"] // 2
    here, there = turns[: at["length"]], turns[at["prefix"] :]
    if "query" not in at:
        # E s(p)s(p') = tr R_pᵀR_p' for normal vectors: squares of Frobenius norms.
        mean, moved = here.mean(axis=0), there[0] - here[0]
        allowed = 1e-15 * farthest * (1 + at["head_dim"])
        return {
            "mean": around(0.0, 0.0),
            "variance": around(2 * (half - (np.abs(mean) ** 2).sum()), allowed),
            "shift_square": around(2 * (np.abs(moved) ** 2).sum(), allowed),
        }
    query, key = at["query"], at["cached_key"]
    scores = np.zeros(farthest)
    for f in range(half):
        cosine, sine = turns[:, f].real, turns[:, f].imag
        scores += (query[f] * cosine - query[f + half] * sine) * key[f]
        scores += (query[f + half] * cosine + query[f] * sine) * key[f + half]
    size = (np.hypot(query[:half], query[half:]) * np.hypot(key[:half], key[half:])).sum()
    first, last = scores[: at["length"]], scores[at["prefix"] :]
    allowed = 1e-15 * (100 + farthest)
    return {
        "scores": around(first, allowed * size),
        "mean": around(first.mean(), allowed * size),
        "variance": around(first.var(), allowed * size**2),
        "shift_square": around(np.square(last - first).mean(), allowed * size**2),
    }


def angles_of_pairs(width: int, base: float) -> np.ndarray:
    with mp.workdps(30):
        return np.array(
            [float(mp.mpf(base) ** (-mp.mpf(2 * f) / width)) for f in range(width // 2)]
        )


def change_of_weights(at: Point) -> float:
    """Of a random head on up to eight positions, when content and prefix move by `prefix`."""
    random = np.random.default_rng(at["length"])
    content = np.unique(np.linspace(0, at["length"] - 1, 8).astype(int))
    places = np.concatenate([np.arange(-at["prefix"], 0), content])
    query = random.normal(size=(len(content), at["head_dim"]))
    keys = random.normal(size=(len(places), at["head_dim"]))
    table = random.normal(size=32)
    patterns = []
    for shift in (0, at["prefix"]):
        rows = []
        for i, place in enumerate(content):
            score = np.empty(len(places))
            for j, other in enumerate(places):
                score[j] = score_of(at, query[i], keys[j], place + shift, other + shift, table)
            mass = np.where(places <= place, np.exp(score - score[places <= place].max()), 0.0)
            rows.append(mass / mass.sum())
        patterns.append(np.array(rows))
    return float(np.abs(patterns[1] - patterns[0]).max())


def score_of(
    at: Point, query: np.ndarray, key: np.ndarray, place: int, other: int, table: np.ndarray
) -> float:
    half, root = at["head_dim"] // 2, math.sqrt(at["head_dim"])
    if at["kind"] == "rope":
        angles = _angles(at["head_dim"], at["base"])
        turned = (query[:half] + 1j * query[half:]) * np.exp(1j * place * angles)
        other_turned = (key[:half] + 1j * key[half:]) * np.exp(1j * other * angles)
        return float((turned * other_turned.conj()).real.sum()) / root
    score = float(query @ key) / root
    if at["kind"] == "alibi":
        return score + 0.25 * other
    distance = max(place - other, 0)
    if distance < 16:
        return score + table[distance]
    return score + table[min(31, 16 + int(16 * math.log(distance / 16) / math.log(8)))]


@functools.cache
def _angles(width: int, base: float) -> np.ndarray:
    return angles_of_pairs(width, base)


def window_reach(at: Point) -> Limits:
    """Which positions a change spreads to, layer by layer, along every edge of the masks."""
    prefix, tokens = at["prefix"], at["tokens"]
    places = np.arange(-prefix, tokens)
    query, key = places[:, None], places[None, :]
    near = (key <= query) & (query - key < at["window"])
    moved = np.zeros(tokens, bool)
    for layer in range(at["layers"]):
        last = at["exempt"] == "last layer" and layer == at["layers"] - 1
        sees = key <= query if last else near
        if at["exempt"] == "prefix":
            sees = sees | (key < 0)
        stands = at["prefix_at"] == "every layer" or layer == 0
        changed = np.concatenate([np.full(prefix, stands), moved])
        moved = moved | (sees & changed[None, :]).any(axis=1)[prefix:]
    reach = int(np.flatnonzero(moved).max(initial=-1)) + 1
    return {"reach": around(reach, 0.0)}


# --- exact ranks: exponentials of whole numbers in a field of 2³¹ − 1 numbers ---

PRIME, GENERATOR = 2**31 - 1, 7


def power(base: Any, exponent: Any) -> np.ndarray:
    """Powers in the field, by squaring; exponents count modulo PRIME − 1."""
    exponent = np.asarray(exponent, np.int64) % (PRIME - 1)
    square = np.broadcast_to(np.asarray(base, np.int64) % PRIME, exponent.shape).copy()
    result = np.ones(exponent.shape, np.int64)
    for bit in range(31):
        result = np.where(exponent >> bit & 1, result * square % PRIME, result)
        square = square * square % PRIME
    return result


def rank(matrix: np.ndarray) -> int:
    """By elimination, without rounding."""
    rows, found = np.array(matrix, np.int64) % PRIME, 0
    for column in range(rows.shape[1]):
        pivot = np.flatnonzero(rows[found:, column])
        if not len(pivot):
            continue
        rows[[found, found + pivot[0]]] = rows[[found + pivot[0], found]]
        scaled = rows[found] * power(rows[found, column], PRIME - 2) % PRIME
        below = rows[found + 1 :]
        rows[found + 1 :] = (below - below[:, column, None] * scaled % PRIME) % PRIME
        found += 1
        if found == len(rows):
            break
    return found


def shared_biases(
    heads: int, groups: int, width: int, prefix: int, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, int]:
    """Biases (N, H, v) and masses (N, H) of heads with shared keys, and how many numbers they have.

    A softmax weight is a power over a sum of powers, as it is with the number e.
    """
    inputs = heads * width + 8
    query = random.integers(0, 2**15, size=(inputs, heads, width))
    keys = random.integers(0, 2**15, size=(groups, prefix, width))
    values = random.integers(0, PRIME, size=(groups, prefix, width))
    content = random.integers(1, PRIME, size=(inputs, heads))
    group = np.arange(heads) * groups // heads
    terms = power(GENERATOR, np.einsum("ihd,hnd->ihn", query, keys[group]))
    total = (terms.sum(axis=2) + content) % PRIME
    weights = terms * power(total, np.full(total.shape, PRIME - 2))[..., None] % PRIME
    biases = np.zeros((inputs, heads, width), np.int64)
    for k in range(prefix):
        biases = (biases + weights[..., k, None] * values[group, k]) % PRIME
    return biases, weights.sum(axis=2) % PRIME, keys.size + values.size


def gqa_repair(at: Point, random: np.random.Generator) -> Point:
    """As many heads as groups at least, and groups that divide them."""
    heads = max(at["heads"], at["groups"])
    groups = max(g for g in range(1, at["groups"] + 1) if heads % g == 0)
    return {**at, "heads": heads, "groups": groups}


def gqa_rank(at: Point) -> Limits:
    random = np.random.default_rng(at["heads"])
    biases, masses, numbers = shared_biases(
        at["heads"], at["groups"], at["head_dim"], at["prefix"], random
    )
    return {
        "rank": around(rank(biases.reshape(len(biases), -1)), 0.0),
        "mass_rank": around(rank(masses), 0.0),
        "parameters": around(numbers, 0.0),
    }


# --- the comparison ---

SHAPES: dict[str, Callable[[Point, np.random.Generator], dict[str, tuple[int, ...]]]] = {
    "prefix.bias_identity": head_shapes,
    "prefix.pattern_invariance": head_shapes,
    "prefix.position_shift": vectors_of_cached_keys,
    "prefix.sink_identity": head_and_sink_shapes,
}
"""Shapes of the arrays at a point."""

REPAIRS: dict[str, Callable[[Point, np.random.Generator], Point]] = {
    "prefix.gqa_rank": gqa_repair,
    "prefix.position_shift": position_shift_repair,
}
"""What makes numbers that were drawn one by one fit together."""

MASKS: dict[str, Callable[[Point], Point]] = {
    "prefix.bias_identity": something_seen,
    "prefix.pattern_invariance": content_seen,
}

ORACLES: dict[str, Callable[[Point], Limits]] = {
    "prefix.bias_identity": head_and_depth,
    "prefix.gqa_rank": gqa_rank,
    "prefix.pattern_invariance": head_and_ratios,
    "prefix.position_shift": position_shift,
    "prefix.sink_identity": head,
    "prefix.window_reach": window_reach,
}

UNSEEN: dict[str, set[str]] = {}
"""Falsifiers of what no oracle gives."""


def disagreements(id: str, count: int) -> tuple[list[str], set[str]]:
    """Predictions that are far from the oracle, and the falsifiers that are so somewhere."""
    claim, far, caught = jp.claim(id), [], set()
    for at in points_of(claim, count):
        at = MASKS.get(id, lambda point: point)(at)
        given = claim.validated(at)
        exact = ORACLES[id](at)
        far += [f"{text} at {at}" for text in what_is_outside(exact, claim.predict(given))]
        for falsifier in claim.falsifiers:
            if falsifier.name not in caught:
                wrong = claim.evaluate(falsifier.predictor(claim.closed_form), given)
                if what_is_outside(exact, wrong):
                    caught.add(falsifier.name)
    return far, caught


def what_is_outside(exact: Limits, predicted: Mapping[str, Any]) -> list[str]:
    found = []
    for name, (low, high) in exact.items():
        if name not in predicted:
            continue
        number = np.asarray(predicted[name], float)
        outside = np.maximum(low - number, number - high)
        if not (outside <= 0).all():
            found.append(f"{name} is {number}, outside {low} to {high} by {outside.max():.3g}")
    return found


@pytest.mark.parametrize("id", list(ORACLES))
def test_predictions_over_the_stated_ranges(id):
    """And the oracles see what is wrong: every falsifier is far from them at some point."""
    far, caught = disagreements(id, DRAWN)
    assert not far, "\n".join(far)
    names = {falsifier.name for falsifier in jp.claim(id).falsifiers}
    assert names - caught == UNSEEN.get(id, set())


@pytest.mark.slow
@pytest.mark.parametrize("id", list(ORACLES))
def test_predictions_at_many_points_of_the_stated_ranges(id):
    far, _ = disagreements(id, DRAWN_SLOWLY)
    assert not far, "\n".join(far)
