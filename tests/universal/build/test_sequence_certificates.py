"""Certificates of sequence prefixes for random maps, against an adversary of the tests' own."""

import math

import numpy as np
import pytest
from quick_cases import some_slow

from jaxprompt.universal import build_sequence_prefix


def trigonometric(random, length, dim):
    """Sums of sines of random directions; its constant is Σ |a| Σ_q |b_q|, by the chain rule."""
    terms, out = 3, int(random.integers(1, 3))
    a = random.normal(size=(length, out, terms)) / terms
    b = random.normal(size=(terms, length, dim)) * 1.5
    c = random.uniform(0, 6, size=terms)
    slope = np.linalg.norm(b, axis=2).sum(axis=1)
    constant = (np.linalg.norm(a, axis=1) * slope).sum(axis=1).max()

    def f(x):
        return np.einsum("poj,...j->...po", a, np.sin(np.einsum("jqm,...qm->...j", b, x) + c))

    return f, constant, "none"


def ridged(random, length, dim):
    """Largest of random affine functions: not differentiable, constant that of the steepest."""
    b = random.normal(size=(length, 4, length, dim))
    c = random.normal(size=(length, 4))
    constant = np.linalg.norm(b, axis=3).sum(axis=2).max()

    def f(x):
        return (np.einsum("pjqm,...qm->...pj", b, x) + c).max(axis=-1)[..., None]

    return f, constant, "none"


def attentive(random, length, dim):
    """Softmax attention with random scores: equivariant. Its values move by 1; scores x·A y move by
    2 |A| √m at most, and weights move the mean by that times its distance from values, √m."""
    scores = random.normal(size=(dim, dim))

    def f(x):
        s = x @ scores @ np.swapaxes(x, -1, -2)
        w = np.exp(s - s.max(axis=-1, keepdims=True))
        return w / w.sum(axis=-1, keepdims=True) @ x

    size = np.linalg.norm(scores, 2)
    return f, 1 + 2 * size * dim, "equivariant"


def remembering(random, length, dim):
    """A recurrence s_t = tanh(w s_{t-1} + ⟨u, x_t⟩), causal; constants add up along it."""
    w, u = random.normal(), random.normal(size=dim) * 1.5
    slope = 0.0
    for _ in range(length):
        slope = abs(w) * slope + np.linalg.norm(u)

    def f(x):
        state, states = np.zeros(x.shape[:-2]), []
        for t in range(length):
            state = np.tanh(w * state + x[..., t, :] @ u)
            states.append(state)
        return np.stack(states, axis=-1)[..., None]

    # Each step's slope only adds to that of the step before.
    return f, max(slope, np.linalg.norm(u)), "causal"


def ordered(random, length, dim):
    """Weighted order statistics of one number of each token: invariant, the constant Σ |weight|."""
    weight = random.normal(size=(length, length))
    axis = int(random.integers(dim))

    def f(x):
        return np.einsum("pq,...q->...p", weight, np.sort(x[..., axis], axis=-1))[..., None]

    return f, np.abs(weight).sum(axis=1).max(), "invariant"


def bumped(random, length, dim):
    """A bump on a random sequence, of slope √(2 s/e) in the Euclidean length, √T of that here."""
    sharp = random.uniform(2, 12)
    peak = random.uniform(size=(length, dim))

    def f(x):
        height = np.exp(-sharp * ((x - peak) ** 2).sum(axis=(-2, -1)))
        return np.repeat(height[..., None], length, axis=-1)

    return f, math.sqrt(2 * sharp / math.e * length), "none"


FAMILIES = (trigonometric, ridged, attentive, remembering, ordered, bumped)


def largest_error(prefix, f, random, length, dim):
    """Largest error that coordinate searches from random sequences and from corners find."""

    def error(x):
        outputs = np.asarray(f(x)).reshape(len(x), length, -1)
        return np.linalg.norm(prefix(x).reshape(outputs.shape) - outputs, axis=-1).max(axis=-1)

    x = random.uniform(size=(600, length, dim))
    x[:150] = random.integers(2, size=(150, length, dim))
    x[150:300] = random.integers(7, size=(150, length, dim)) / 6
    height = error(x)
    top = np.argsort(-height)[:8]
    x, height = x[top], height[top]
    step = 0.1
    for _ in range(10):
        improved = False
        for q in range(length):
            for i in range(dim):
                for sign in (-1, 1):
                    moved = x.copy()
                    moved[:, q, i] = np.clip(moved[:, q, i] + sign * step, 0, 1)
                    there = error(moved)
                    better = there > height
                    x[better], height[better] = moved[better], there[better]
                    improved |= bool(better.any())
        step *= 1 if improved else 0.4
    return float(height.max())


def check_certificate(seed):
    """Builds a prefix for one random map; returns what a false certificate would be about."""
    random = np.random.default_rng(seed)
    family = FAMILIES[seed % len(FAMILIES)]
    length, dim = int(random.integers(1, 5)), int(random.integers(1, 3))
    if length * dim > 4:
        dim = 1
    f, constant, symmetry = family(random, length, dim)
    given = seed % 2 == 0
    scale = float(np.abs(f(random.uniform(size=(300, length, dim)))).max())
    prefix = build_sequence_prefix(
        f, length=length, dim=dim, accuracy=scale * random.uniform(0.1, 0.4), budget=1500,
        lipschitz=constant if given else None, symmetry=symmetry if given else "auto",
        test_sequences=300, seed=seed,
    )  # fmt: skip
    note = prefix.certificate
    found = largest_error(prefix, f, random, length, dim)
    problems = []
    if found > note.guaranteed * (1 + 1e-9):
        problems.append("guaranteed")
    if note.reached and found > note.accuracy:
        problems.append("reached")
    if not note.measured <= note.estimated <= note.guaranteed:
        problems.append("order")
    if given != math.isfinite(note.guaranteed):
        problems.append("finite")
    return problems, note, found


@pytest.mark.parametrize("seed", some_slow([1, 2, 4, 0, 3, 5], first=1))
def test_certificates_of_random_maps_hold(seed):
    problems, note, found = check_certificate(seed)
    assert not problems, (note, found)


@pytest.mark.slow
def test_certificates_of_two_hundred_random_maps_hold():
    outcomes = [check_certificate(seed) for seed in range(200)]
    false = [(seed, *outcome) for seed, outcome in enumerate(outcomes) if outcome[0]]
    assert not false, false
    # The maps are such that about half of them can be reached: neither answer is trivial.
    reached = sum(note.reached for _, note, _ in outcomes)
    assert 60 <= reached <= 190
