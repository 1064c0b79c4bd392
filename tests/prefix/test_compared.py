"""Closed forms against independent evaluations over the ranges that the claims state.

A claim says in `compared` over which ranges it is compared beyond its own check, and this file
draws points from those ranges and goes to each of their ends. Oracles are sums token by token in
mpmath, transformers in plain NumPy, exact ranks in a finite field, linear programmes and
enumeration; none calls the package. Each gives for a quantity the least and the largest number that
a prediction may be: what its own rounding is worth.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

import mpmath as mp
import numpy as np
import pytest
from compared_points import Point, drawn_value, kinds_of, values_outside
from scipy import optimize

import jaxprompt as jp
from jaxprompt.errors import JaxpromptError

Limits = dict[str, tuple[Any, Any]]

DRAWN, DRAWN_SLOWLY = 6, 40
"""Points drawn from the ranges of each claim, beside the ends of each."""


# --- points ---


def points_of(claim: jp.Claim, count: int) -> list[Point]:
    """`count` points in the ranges, and one at each end of each, or for each choice."""
    random = np.random.default_rng(count)
    points = [drawn_point(claim, random) for _ in range(count)]
    for name, (*choices,) in claim.compared.ranges.items():
        points += [drawn_point(claim, random, {name: end}) for end in choices]
        for point, end in zip(points[-len(choices) :], choices, strict=True):
            assert np.any(np.asarray(point[name]) == end), f"{claim.id}: `{name}` is not {end}"
    return points


def drawn_point(
    claim: jp.Claim, random: np.random.Generator, fixed: Mapping[str, Any] | None = None
) -> Point:
    """Numbers between the ends, geometrically where both are positive; and arrays of them.

    What is `fixed` stays, or is one entry of its array.
    """
    fixed, kinds = fixed or {}, kinds_of(claim)
    ranges = claim.compared.ranges
    numbers = {name: drawn_value(ranges[name], kinds[name], random)
               for name in ranges if kinds[name] != "array"}  # fmt: skip
    point = {**numbers, **{name: value for name, value in fixed.items() if name in numbers}}
    repair = REPAIRS.get(claim.id)
    point = repair(point, random, set(fixed)) if repair else point
    shapes = SHAPES[claim.id](point, random) if claim.id in SHAPES else {}
    size = 10 ** random.uniform(-7, 0)
    for name, shape in shapes.items():
        point[name] = array_in(ranges[name], shape, size, random)
        if name in fixed:
            point[name][(0,) * len(shape)] = fixed[name]
    assert fixed.keys() <= point.keys()
    return point


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


def position_shift_repair(at: Point, random: np.random.Generator, fixed: set[str]) -> Point:
    """An even width; and half of the cached keys with vectors that are given."""
    given = bool(fixed & {"query", "cached_key"})
    kind = "cached" if given else at["kind"]
    given = given or (kind == "cached" and bool(random.integers(2)))
    vectors = {"query": None, "cached_key": None} if given else {}
    return {**at, "head_dim": at["head_dim"] + at["head_dim"] % 2, "kind": kind, **vectors}


def vectors_of_cached_keys(point: Point, random: np.random.Generator) -> dict[str, tuple[int, ...]]:
    return {name: (point["head_dim"],) for name in ("query", "cached_key") if name in point}


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
            score[places > place] = -np.inf
            mass = np.exp(score - score.max())
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


def gqa_repair(at: Point, random: np.random.Generator, fixed: set[str]) -> Point:
    """Groups that divide the heads."""
    heads = at["heads"] if "heads" in fixed else max(at["heads"], at["groups"])
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


def prefix_subspace(at: Point) -> Limits:
    random = np.random.default_rng(at["vectors"])
    heads, width, vectors = at["heads"], at["head_width"], at["vectors"]
    biases, _, _ = shared_biases(heads, heads, width, vectors, random)
    single = rank(biases[:, 0])
    # A spectrum of equal values uses all of its dimensions equally.
    equal = np.full(single, 1 / single)
    return {
        "rank": around(single, 0.0),
        "joined_rank": around(rank(biases.reshape(len(biases), -1)), 0.0),
        "effective_rank": around(np.exp(-(equal * np.log(equal)).sum()), 1e-9),
        "odds_move": around(largest_move_of_odds(width, random), 1e-9),
        "outside": around(distance_from_hull(width, vectors, random), 1e-12),
    }


def largest_move_of_odds(width: int, random: np.random.Generator) -> float:
    """Of two keys between random queries, and between two along their difference."""
    key, other_key = random.normal(size=(2, width))
    starts, moves = random.normal(size=(2, 50, width))
    moves[0] = key - other_key
    shares = []
    for start, move in zip(starts, moves, strict=True):
        odds = [
            float(query @ key - query @ other_key) / math.sqrt(width)
            for query in (start, start + move)
        ]
        limit = math.dist(start, start + move) * math.dist(key, other_key) / math.sqrt(width)
        shares.append(abs(odds[1] - odds[0]) / limit)
    return max(shares)


def distance_from_hull(width: int, vectors: int, random: np.random.Generator) -> float:
    """Of a softmax average of values, over its mass, by non-negative least squares."""
    values, score = random.normal(size=(vectors, width)), random.normal(size=vectors)
    mass = np.exp(score) / (np.exp(score).sum() + 2.0)
    point = mass @ values / mass.sum()
    # A row of ones, heavy, asks for weights that add up to 1.
    rows = np.vstack([values.T, np.full(vectors, 1e3)])
    return float(optimize.nnls(rows, np.r_[point, 1e3])[1])


def capacity(at: Point) -> Limits:
    """Ranks of the weights, and of the outputs' derivative, of random keys, queries and values."""
    width, value_width = at["key_dim"], at["value_dim"]
    prefix, examples = at["prefix"], at["examples"]
    random = np.random.default_rng(prefix)
    query = random.integers(0, 2**15, size=(examples, width))
    keys = random.integers(0, 2**15, size=(prefix, width))
    values = random.integers(0, PRIME, size=(prefix, value_width))
    plain = random.integers(0, PRIME, size=(examples, value_width))
    content = random.integers(1, PRIME, size=examples)
    numbers = keys.size + values.size

    weights = weights_on_prefix(query, keys, content)
    lost = (examples - rank(weights)) * value_width
    storable = 1.0 if lost == 0 else 0.0 if examples * value_width > numbers else 0.5
    limits = {"storable": around(storable, 0.0), "codimension": around(lost, 0.0),
              "residual": around(lost, 0.0)}  # fmt: skip
    output = (1 - weights.sum(axis=1)[:, None]) % PRIME * plain % PRIME
    for k in range(prefix):
        output = (output + weights[:, k, None] * values[k]) % PRIME
    by_values = np.einsum("ik,vw->ivkw", weights, np.eye(value_width, dtype=np.int64))
    pull = weights[:, None, :] * ((values.T[None] - output[:, :, None]) % PRIME) % PRIME
    by_keys = pull[..., None] * query[:, None, None, :] % PRIME
    rows = examples * value_width
    derivative = np.concatenate([by_values.reshape(rows, -1), by_keys.reshape(rows, -1)], axis=1)
    # Where the queries have linear relations the rank is below both counts: a bound, no equality.
    limits["rank"] = (np.asarray(rank(derivative)), np.asarray(min(derivative.shape)))
    if examples <= prefix:
        limits["forgotten_content"] = around(missed_without_content(at, random), 1e-12)
    if 2 <= examples <= prefix:
        query[1] = query[0]
        left = examples - rank(weights_on_prefix(query, keys, content))
        limits["equal_residual"] = around(left * value_width, 0.0)
    return limits


def weights_on_prefix(query: np.ndarray, keys: np.ndarray, content: np.ndarray) -> np.ndarray:
    terms = power(GENERATOR, query @ keys.T)
    total = (terms.sum(axis=1) + content) % PRIME
    return terms * power(total, np.full(total.shape, PRIME - 2))[:, None] % PRIME


def missed_without_content(at: Point, random: np.random.Generator) -> float:
    """Squared distance from the wanted outputs with V = P⁻¹Y, over what the content adds."""
    examples = at["examples"]
    score = random.normal(size=(examples, examples)) * 2
    plain, wanted = random.normal(size=(2, examples))
    with mp.workdps(60):
        mass = [[mp.exp(float(s)) for s in row] for row in score]
        share = mp.matrix([[m / (mp.fsum(row) + 3) for m in row] for row in mass])
        values = mp.lu_solve(share, mp.matrix([float(y) for y in wanted]))
        missed, content = mp.mpf(0), mp.mpf(0)
        for i in range(examples):
            left = (1 - mp.fsum(share[i, k] for k in range(examples))) * float(plain[i])
            given = mp.fsum(share[i, k] * values[k] for k in range(examples)) + left
            missed += (given - float(wanted[i])) ** 2
            content += left**2
        return float(missed / content)


# --- soft tokens ---

MOST_TARGETS = 4096


SELECTION_PARTS = (
    {"length", "vocabulary", "value", "temperature"},
    {"case", "outputs"},
    {"precision"},
)
"""Parameters that a point has together."""


def selection_repair(at: Point, random: np.random.Generator, fixed: set[str]) -> Point:
    """A value to be read, off half way between symbols; or a case; or a precision; never all."""
    kind = random.integers(3)
    for number, names in enumerate(SELECTION_PARTS):
        kind = number if fixed & names else kind
    if kind == 0:
        size = 100 if "value" in fixed else at["vocabulary"]
        value = max(at["value"], 0.6 / size)
        if abs(size * value % 1 - 0.5) < 1e-3:
            value += 0.01 / size
        return {"length": at["length"], "vocabulary": size, "value": min(value, 0.99),
                "temperature": at["temperature"]}  # fmt: skip
    if kind == 1:
        case, outputs, size = at["case"], at["outputs"], min(at["vocabulary"], 6)
        while number_of_entries(case, size, outputs) * math.log(size) > math.log(MOST_TARGETS):
            size, outputs = (size - 1, outputs) if size > 2 else (size, outputs - 1)
        return {"case": case, "vocabulary": size, "outputs": outputs}
    return {"precision": at["precision"]}


def number_of_entries(case: str, size: int, outputs: int) -> int:
    return {"completion": outputs, "one_to_one": size, "one_to_many": size * outputs,
            "two_to_one": size * size}[case]  # fmt: skip


def token_selection(at: Point) -> Limits:
    if "precision" in at:
        return {"largest": around(largest_vocabulary(at["precision"]), 0.0)}
    if "case" in at:
        return {"reached": around(targets_read_right(at), 0.0)}
    length, size = at["length"], at["vocabulary"]
    with mp.workdps(40):
        value, root = mp.mpf(at["value"]), mp.sqrt(length)

        def leak(temperature: Any) -> Any:
            """One token of score β among others of score 0."""
            return (length - 1) / (mp.exp(temperature / root) + length - 1)

        symbol = nearest_symbol(value, size)

        def right(temperature: Any) -> bool:
            return nearest_symbol((1 - leak(temperature)) * (1 + value) - 1, size) == symbol

        low, high = mp.mpf(0), mp.mpf(1)
        while not right(high):
            high *= 2
        for _ in range(90):
            middle = (low + high) / 2
            low, high = (low, middle) if right(middle) else (middle, high)
        room = float((size * value - symbol + 0.5) / size)
        leaked = float(leak(mp.mpf(at["temperature"])))
    # V v is rounded at its size, and what counts is its distance from half way.
    rounding = 1e-15 * (1 + at["value"] / room)
    allowed = float(root) * rounding + 1e-15 * float(high)
    return {
        "leakage": around(leaked, 1e-13 * leaked),
        "least_temperature": around(float(high), allowed),
    }


def nearest_symbol(z: Any, size: int) -> int:
    """The nearest j/V, half way as the lower one, and 0 below all."""
    return min(range(size), key=lambda j: (abs(z - mp.mpf(j) / size), j))


def targets_read_right(at: Point) -> int:
    """Every target written into fractions, and read back by the nearest symbol or as digits."""
    size, read = at["vocabulary"], set()
    entries = number_of_entries(at["case"], size, at["outputs"])
    for target in itertools.product(range(size), repeat=entries):
        if at["case"] == "two_to_one":
            text = []
            for row in range(size):
                digits = target[row::size]  # of all first tokens, one second token each
                packed = sum(Fraction(d, size ** (k + 1)) for k, d in enumerate(digits))
                for _ in digits:
                    packed *= size
                    text.append(int(packed))
                    packed -= int(packed)
            if text == [d for row in range(size) for d in target[row::size]]:
                read.add(target)
        else:
            soft = [Fraction(d, size) for d in target]
            if all(round(size * v) == d for v, d in zip(soft, target, strict=True)):
                read.add(tuple(soft))
    return len(read)


def largest_vocabulary(precision: str) -> int:
    """Up to which V digits, packed with half a unit more, come out of 1 + p in this format."""
    number, random = np.dtype(precision).type, np.random.default_rng(0)
    best = 1
    for size in range(2, 20):
        cells = size**size
        words = [0, 1, 2, cells - 1, *(int(random.integers(0, 2**62)) % cells for _ in range(500))]
        for word in words:
            carried = Fraction(float(number(1 + Fraction(2 * word + 1, 2 * cells)))) - 1
            if math.floor(carried * cells) != word:
                return best
        best = size
    return best


# --- prompts and suffixes ---


def soft_prompt(at: Point) -> Limits:
    """Content behind vectors in front, against content with their streams as prefixes."""
    random = np.random.default_rng(at["layers"])
    layers = plain_layers(at["layers"], random)
    words = random.normal(size=(5, WIDTH))
    content, elsewhere = words[np.arange(CONTENT) % 5], random.normal(size=(CONTENT, WIDTH))

    def change(front: np.ndarray, causal: bool = True, first_alone: bool = False) -> float:
        count = len(front)
        right, _ = run_plainly(layers, np.concatenate([front, content]), causal=causal)
        # The streams are those in front of other content.
        other, _ = run_plainly(layers, np.concatenate([front, elsewhere]), causal=causal)
        streams = [stream[:count] for stream in other[:-1]]
        streams = streams[:1] * len(layers) if first_alone else streams
        given, _ = run_plainly(layers, content, streams, causal)
        return float(np.abs(given[-1] - right[-1][count:]).max() / np.abs(right[-1]).max())

    soft = random.normal(size=(at["prompt"], WIDTH))
    hard = words[random.integers(0, 5, size=at["prompt"])]
    return {
        "soft": around(change(soft), 1e-12),
        "hard": around(change(hard), 1e-12),
        "unmasked": around(float(change(soft, causal=False) > 1.5e-8), 0.0),
        "first_stream": around(float(change(soft, first_alone=True) > 1.5e-8), 0.0),
    }


def suffix_repair(at: Point, random: np.random.Generator, fixed: set[str]) -> Point:
    """Some tokens irrelevant; a shift at the threshold, or clearly on one side of it."""
    relevant, tokens = at["relevant"], at["tokens"]
    if "tokens" in fixed:
        relevant = min(relevant, tokens - 1)
    tokens = max(tokens, relevant + 1)
    shift, threshold = at["shift"], relevant / (tokens - relevant)
    if "shift" in fixed:
        pass  # it is far from every threshold
    elif random.integers(3) == 0 or abs(shift / threshold - 1) < 0.01:
        shift = float(np.clip(threshold, 0.01, 100.0))
    elif random.integers(2):
        shift = float(np.clip(threshold * random.uniform(0.5, 2.0), 0.01, 100.0))
    return {**at, "relevant": relevant, "tokens": tokens, "shift": shift}


def suffix_reads_content(at: Point) -> Limits:
    relevant, tokens = at["relevant"], at["tokens"]
    share = Fraction(relevant, tokens)
    level = share - (1 - share) * Fraction(at["shift"])
    level = Fraction(0) if abs(level) < share * Fraction(1, 10**14) else level
    # Mean tokens (y c, c) along signal and context; a scale of each point is no matter of signs.
    points = [(y, float(c), y) for c in (share, level) for y in (1, -1)]
    outputs = []
    for moved in (0.0, at["shift"]):
        for y in (1, -1):
            mark = np.array([y, 1.0])
            rows = np.array([mark] * relevant + [-moved * mark] * (tokens - relevant))
            score = 60 * rows @ np.array([0.0, 1.0])
            mass = np.exp(score - 60)
            outputs.append((y, y * float(mass @ rows[:, 0] / mass.sum())))
    return {
        "prefix_accuracy": around(best_by_a_plane(points), 1e-12),
        "suffix_accuracy": around(np.mean([agrees > 0 for _, agrees in outputs]), 1e-12),
        **suffix_deviations(at["vectors"]),
    }


def best_by_a_plane(points: list[tuple[int, float, int]]) -> float:
    """Largest share of the points (y c, c) that an affine function gives their signs y."""
    for size in range(len(points), 0, -1):
        for chosen in itertools.combinations(points, size):
            rows = [[-label * y * c, -label * c, -label] for y, c, label in chosen]
            solved = optimize.linprog(
                np.zeros(3), rows, -np.ones(size), bounds=[(None, None)] * 3, method="highs"
            )
            if solved.status == 0:
                return size / len(points)
    return 0.0


def suffix_deviations(vectors: int) -> Limits:
    """Of random heads, row by row: unmasked order, causal content, and the suffix's formula."""
    random = np.random.default_rng(vectors)
    layer = plain_layers(1, random)[0]
    content, extra = random.normal(size=(CONTENT, WIDTH)), random.normal(size=(vectors, WIDTH))
    before, after = np.concatenate([extra, content]), np.concatenate([content, extra])
    unmasked = [
        attend_plainly(layer, row, before) - attend_plainly(layer, row, after) for row in content
    ]
    causal = run_plainly([layer], after)[1][0]
    alone = run_plainly([layer], content)[1][0]
    query = normed(extra[0]) @ layer["query"] / math.sqrt(WIDTH)
    own = float(normed(extra[0]) @ layer["key"] @ query)
    total = np.exp(normed(content) @ layer["key"] @ query).sum()
    mass = 1 / (1 + math.exp(math.log(total) - own))
    formula = (1 - mass) * attend_plainly(layer, extra[0], content)
    formula = formula + mass * (normed(extra[0]) @ layer["value"])
    return {
        "bidirectional": around(np.abs(unmasked).max(), 1e-12),
        "content": around(np.abs(causal[:CONTENT] - alone).max(), 1e-12),
        "suffix": around(np.abs(causal[CONTENT] - formula).max(), 1e-12),
    }


# --- trained models: what is counted over all inputs ---


@functools.cache
def every_input(length: int, input_law: str) -> tuple[np.ndarray, np.ndarray]:
    """All inputs of 0 … 7 (N, n), and whole numbers to which their probabilities are as.

    Under the published law an input with more than n/2 different digits is kept half of the time.
    """
    inputs = np.indices((8,) * length).reshape(length, -1).T
    ordered = np.sort(inputs, axis=1)
    different = 1 + (np.diff(ordered, axis=1) > 0).sum(axis=1)
    return inputs, np.where((input_law == "published") & (different > length / 2), 1, 2)


def commonest_answer(answers: np.ndarray, weight: np.ndarray) -> float:
    code = answers @ 16 ** np.arange(answers.shape[1])
    _, place = np.unique(code, return_inverse=True)
    # Sums of whole numbers are exact in float64.
    return float(np.bincount(place, weights=weight).max() / weight.sum())


def new_task_limit(at: Point) -> Limits:
    inputs, weight = every_input(at["length"], at["input_law"])
    downwards = np.sort(inputs, axis=1)[:, ::-1]
    return {"constant_answer": around(commonest_answer(downwards, weight), 1e-15)}


def skill_combination(at: Point) -> Limits:
    inputs, weight = every_input(at["length"], at["input_law"])
    counts = (inputs[:, :, None] == inputs[:, None, :]).sum(axis=2)
    return {"constant_answer": around(commonest_answer(counts, weight), 1e-15)}


def skill_selection(at: Point) -> Limits:
    """Both orders, and the input with 1, 2, … added: which of them agree, input by input."""
    inputs, weight = every_input(at["length"], at["input_law"])
    probability = weight / weight.sum()
    upwards = np.sort(inputs, axis=1)
    answers = [upwards, upwards[:, ::-1], *(inputs + k for k in range(1, at["tasks"] - 1))]
    code = np.stack([answer @ 16 ** np.arange(at["length"]) for answer in answers])
    # How many of the tasks want each task's answer.
    together = (code[:, None] == code[None]).sum(axis=1)
    share = together / at["tasks"]
    entropy = float((-np.log(share).mean(axis=0) * probability).sum()) / at["length"]
    one_answer = float((share.max(axis=0) * probability).sum())
    limits = {"mixture_loss": entropy, "entropy": entropy}
    limits |= dict.fromkeys(("others", "unselected", "one_answer"), one_answer)
    return {name: around(number, 1e-13) for name, number in limits.items()}


ENCODER_HEADS, ENCODER_WIDTH = 12, 32


def real_transformer(at: Point) -> Limits:
    """A query's arrays; and ranks for twelve heads of width 32, whose biases are independent."""
    random = np.random.default_rng(at["vectors"])
    biases, _, _ = shared_biases(1, 1, ENCODER_WIDTH, at["vectors"], random)
    single = rank(biases[:, 0])
    bounds = {
        "rank": around(single, 0.0),
        "joined_rank": around(ENCODER_HEADS * single, 0.0),
        "effective_rank": around(single, 1e-9),
    }
    return {**head_and_ratios(at), **bounds}


# --- the comparison ---

SHAPES: dict[str, Callable[[Point, np.random.Generator], dict[str, tuple[int, ...]]]] = {
    "prefix.bias_identity": head_shapes,
    "prefix.pattern_invariance": head_shapes,
    "prefix.position_shift": vectors_of_cached_keys,
    "prefix.real_transformer": head_shapes,
    "prefix.sink_identity": head_and_sink_shapes,
}
"""Shapes of the arrays at a point."""

REPAIRS: dict[str, Callable[[Point, np.random.Generator, set[str]], Point]] = {
    "prefix.gqa_rank": gqa_repair,
    "prefix.position_shift": position_shift_repair,
    "prefix.suffix_reads_content": suffix_repair,
    "prefix.token_selection": selection_repair,
}
"""What makes numbers that were drawn one by one fit together, and leaves those at an end there."""

MASKS: dict[str, Callable[[Point], Point]] = {
    "prefix.bias_identity": something_seen,
    "prefix.pattern_invariance": content_seen,
    "prefix.real_transformer": content_seen,
}
"""What every query must see."""

ORACLES: dict[str, Callable[[Point], Limits]] = {
    "prefix.bias_identity": head_and_depth,
    "prefix.capacity": capacity,
    "prefix.gqa_rank": gqa_rank,
    "prefix.new_task_limit": new_task_limit,
    "prefix.pattern_invariance": head_and_ratios,
    "prefix.position_shift": position_shift,
    "prefix.prefix_subspace": prefix_subspace,
    "prefix.real_transformer": real_transformer,
    "prefix.sink_identity": head,
    "prefix.skill_combination": skill_combination,
    "prefix.skill_selection": skill_selection,
    "prefix.soft_prompt": soft_prompt,
    "prefix.suffix_reads_content": suffix_reads_content,
    "prefix.token_selection": token_selection,
    "prefix.window_reach": window_reach,
}

UNSEEN = {
    # Of what training finds.
    "prefix.new_task_limit": {
        "one vector learns",
        "ten vectors learn",
        "nothing learns",
        "vacuous",
    },
    "prefix.real_transformer": {"every layer", "factors keep too", "half more"},
    "prefix.skill_combination": {"counting learned", "combined wholly", "nothing learns"},
    "prefix.skill_selection": {"nothing selected"},
}
"""Falsifiers of what no oracle gives."""

NOT_COMPARED = {
    # Of training, which no formula takes.
    "prefix.new_task_limit": {"steps", "width", "batch", "dummies"},
    "prefix.no_forgetting": {"length", "steps", "batch", "input_law", "dummies"},
    "prefix.real_transformer": {"steps", "examples", "layer", "added"},
    "prefix.skill_combination": {"tasks", "steps", "model", "low_rank", "dummies"},
    "prefix.skill_selection": {"steps", "model", "dummies"},
    # Float types of the simulation.
    "prefix.position_shift": {"precision"},
    "prefix.window_reach": {"precision"},
}
"""Parameters without a range."""


def test_every_claim_states_its_ranges_and_has_an_oracle():
    claims = jp.claims("prefix")
    assert {claim.id for claim in claims} == {*ORACLES, "prefix.no_forgetting"}
    for claim in claims:
        without = {p.name for p in claim.parameters} - set(claim.compared.ranges)
        assert without == NOT_COMPARED.get(claim.id, set()), claim.id
        assert claim.compared.elsewhere


def disagreements(id: str, count: int) -> tuple[list[str], set[str]]:
    """Predictions that are far from the oracle, and the falsifiers that are so somewhere."""
    claim, far, caught = jp.claim(id), [], set()
    # Large arrays first: they catch most falsifiers, each of which compiles for every shape.
    points = sorted(points_of(claim, count), key=lambda at: -sum(map(np.size, at.values())))
    for at in points:
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


@pytest.mark.parametrize("id", list(ORACLES))
def test_what_is_not_allowed_is_refused(id):
    """Just outside of what each parameter with a range allows, and choices that are none."""
    claim = jp.claim(id)
    point = next(iter(points_of(claim, 1)))
    point = MASKS.get(id, lambda point: point)(point)
    kinds = {p.name: p for p in claim.parameters}
    for name in claim.compared.ranges:
        parameter = kinds[name]
        if parameter.kind == "choice":
            with pytest.raises(JaxpromptError, match=f"`{name}`"):
                claim.predict(**{**point, name: "none of them"})
            continue
        for outside in values_outside(parameter):
            if parameter.kind == "array":
                outside = np.full(np.shape(point.get(name, 0.0)), outside)
            with pytest.raises(JaxpromptError, match=f"`{name}`"):
                claim.predict(**{**point, name: outside})
