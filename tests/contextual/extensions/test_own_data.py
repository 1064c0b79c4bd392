"""Learning curves of a user's own data: against training, at the ends, and refusals."""

from __future__ import annotations

import numpy as np
import pytest
from quick_cases import mostly_slow, some_slow

import jaxprompt.contextual as contextual
from jaxprompt.contextual.extensions import own_data, own_data_heads
from jaxprompt.contextual.extensions.own_data_input import make_pool
from jaxprompt.contextual.extensions.own_data_moments import token_moments
from jaxprompt.errors import NumericalError, ParameterError

TOKENS, RELEVANT, DIM = 6, 2, 12
MARKS = np.arange(TOKENS) < RELEVANT


def sequences(count, seed=0):
    """Tokens with heavy tails, unequal variances and a context; labels ±1."""
    rng = np.random.default_rng(seed)
    y = rng.choice([-1, 1], count)
    x = rng.standard_t(5, (count, TOKENS, DIM)) * np.linspace(0.4, 1.2, DIM)
    x[:, :RELEVANT] *= 0.4
    x[:, :RELEVANT, 0] += 1.2
    x[:, :RELEVANT, 1] += 0.7 * y[:, None]
    return x, y


def pooled(tokens, prompt):
    """Features over the softmax attention of one prompt."""
    scores = np.exp(tokens @ prompt - (tokens @ prompt).max())
    return np.einsum("nt,ntd->nd", scores / scores.sum(axis=1, keepdims=True), tokens)


def least_squares_head(features, targets, ridge, intercept=False):
    """The ridge head as a least-squares problem with a row for each penalty."""
    n, dim = features.shape
    if intercept:
        features = np.concatenate([features, np.ones((n, 1))], axis=1)
    penalty = np.sqrt(n * ridge) * np.eye(dim, features.shape[1])
    matrix = np.concatenate([features, penalty])
    zeros = np.zeros((dim, *targets.shape[1:]))
    return np.linalg.lstsq(matrix, np.concatenate([targets, zeros]))[0]


def test_the_curve_is_that_of_training_on_new_sequences():
    tokens, labels = sequences(3000)
    prompt = contextual.best_prompt(tokens, MARKS)
    samples = (16, 64, 400)
    curve = contextual.predict_curve(tokens, labels, prompt, samples, 0.05, relevant=MARKS)
    fresh, answers = sequences(12_000, seed=1)
    rows = answers[:, None] * pooled(fresh, prompt)
    train, test = rows[:6000], rows[6000:]
    for place, n in enumerate(samples):
        errors = [
            (test @ least_squares_head(train[first : first + n], np.ones(n), 0.05) < 0).mean()
            for first in range(0, 6000 - n, max(n, 100))
        ]
        error = np.hypot(np.std(errors) / np.sqrt(len(errors)), curve.stderr[place])
        assert abs(np.mean(errors) - curve.semi_empirical[place]) < 4 * error + 0.01
    assert (np.diff(curve.semi_empirical) < 0).all()
    assert curve.samples_for(float(curve.semi_empirical[1])) == 64
    assert contextual.samples_for(float(curve.semi_empirical[1]), curve=curve) == 64
    # Unequal variances are most of what the isotropic level misses.
    off = [np.abs(x - curve.semi_empirical).max() for x in (curve.all_moments, curve.isotropic)]
    assert off[0] < off[1]


def head_law(rows, kinds, fresh, fresh_kinds, ridge, *, classes=2, noise=0.0, intercept=False,
             shares=None):  # fmt: skip
    odds = np.full(len(rows), 1 / len(rows))
    if shares is not None:
        odds = (np.array(shares) / np.bincount(kinds))[kinds]
    targets = own_data_heads.make_targets(classes, noise)
    return own_data_heads.EmpiricalHeads.of(
        rows, kinds, odds, fresh, fresh_kinds, targets, ridge, intercept=intercept
    )


def clusters(kinds, dim, rng):
    """Gaussian features of unequal variances around a mean for each class."""
    rows = rng.standard_normal((len(kinds), dim)) * np.linspace(0.5, 1.5, dim)
    rows[np.arange(len(kinds)), kinds] += 1.5
    return rows


@pytest.mark.parametrize("intercept", [False, True])
def test_with_all_of_the_pool_the_head_is_the_ridge_head(intercept):
    rng = np.random.default_rng(0)
    kinds = rng.integers(0, 2, 80)
    rows, fresh = clusters(kinds, DIM, rng), clusters(kinds, DIM, rng)
    law = head_law(rows, kinds, fresh, kinds, 0.1, intercept=intercept)
    head = least_squares_head(rows, 2.0 * kinds - 1, 0.1, intercept)
    margin = (2 * kinds - 1) * (fresh @ head[:DIM] + (head[-1] if intercept else 0.0))
    np.testing.assert_array_equal(law.wrong_probabilities(80), margin < 0)
    assert np.abs(law.wrong_probabilities(79) - (margin < 0)).mean() < 0.1


CASES = {
    "more dimensions than n": {"m": 200, "dim": 150, "n": 100},
    "more dimensions than m": {"m": 150, "dim": 220, "n": 60},
    "intercept, noise": {"m": 200, "dim": 100, "n": 150, "noise": 0.2, "intercept": True},
    "unequal classes": {"m": 240, "dim": 60, "n": 80, "noise": 0.1, "shares": (0.8, 0.2)},
    "three classes": {"m": 240, "dim": 60, "n": 80, "classes": 3, "intercept": True},
    "four unequal classes": {"m": 240, "dim": 60, "n": 80, "classes": 4, "noise": 0.1,
                             "intercept": True, "shares": (0.4, 0.3, 0.2, 0.1)},
    "small": {"m": 200, "dim": 40, "n": 60, "classes": 3, "scale": 1e-3, "intercept": True},
    "large": {"m": 200, "dim": 40, "n": 60, "classes": 3, "scale": 1e3, "intercept": True},
    "noise alone": {"m": 200, "dim": 40, "n": 200, "noise": 0.2},
}  # fmt: skip


@pytest.mark.parametrize(
    "case", mostly_slow(CASES, lambda case: case not in ("three classes", "large", "noise alone"))
)
def test_the_law_of_heads_on_parts_is_that_of_drawing_parts(case):
    given = {"classes": 2, "noise": 0.0, "intercept": False, "shares": None, "scale": 1.0,
             **CASES[case]}  # fmt: skip
    m, n, classes, scale = given["m"], given["n"], given["classes"], given["scale"]
    rng = np.random.default_rng(5)
    kinds, fresh_kinds = np.arange(m) % classes, rng.integers(0, classes, 500)
    rows = scale * clusters(kinds, given["dim"], rng)
    fresh = scale * clusters(fresh_kinds, given["dim"], rng)
    ridge, trials = 0.05 * scale**2, 120
    law = head_law(rows, kinds, fresh, fresh_kinds, ridge, classes=classes, noise=given["noise"],
                   intercept=given["intercept"], shares=given["shares"])  # fmt: skip
    wrong = np.zeros((trials, 500))
    for trial in range(trials):
        if given["shares"] is None:
            part = rng.permutation(m)[:n]
        else:
            sizes = rng.multinomial(n, given["shares"])
            part = np.concatenate(
                [rng.permutation(np.flatnonzero(kinds == c))[:k] for c, k in enumerate(sizes)]
            )
        labels = kinds[part]
        flipped = rng.random(len(part)) < given["noise"]
        labels = np.where(flipped, (labels + rng.integers(1, classes, len(part))) % classes, labels)
        targets = np.where(labels[:, None] == np.arange(classes), 1.0, -1.0)
        heads = least_squares_head(rows[part], targets, ridge, given["intercept"])
        scores = fresh @ heads[: given["dim"]] + (heads[-1] if given["intercept"] else 0.0)
        wrong[trial] = scores.argmax(axis=1) != fresh_kinds
    means = wrong.mean(axis=1)
    error = means.std(ddof=1) / np.sqrt(trials)
    predicted = law.wrong_probabilities(n)
    # The theory's own error is of order 1/n.
    assert abs(means.mean() - predicted.mean()) < 4 * error + 0.4 / n
    # Sequence by sequence no more than the counting of `trials` answers makes.
    counting = (predicted * (1 - predicted)).mean() / trials
    assert ((wrong.mean(axis=0) - predicted) ** 2).mean() < 2 * counting + 1e-4


def test_products_that_are_not_held_are_the_same(monkeypatch):
    rng = np.random.default_rng(0)
    kinds = rng.integers(0, 3, 150)
    rows = clusters(kinds, 20, rng)
    law = head_law(rows, kinds, rows, kinds, 0.1, classes=3, noise=0.1)
    held = law.wrong_probabilities(60)
    monkeypatch.setattr(own_data_heads, "MOST_PAIRS", 100)
    monkeypatch.setattr(own_data_heads, "_SHARED_SETTLED", own_data_heads._SETTLED)
    np.testing.assert_allclose(law.wrong_probabilities(60), held, rtol=1e-6)
    monkeypatch.setattr(own_data_heads, "MOST_WEIGHED_RANK", 10)
    shared = law.wrong_probabilities(60)
    assert abs(shared.mean() - held.mean()) < 0.01


@pytest.mark.parametrize("samples", [20, 60])
def test_heads_without_a_ridge_on_features_of_very_different_lengths(samples):
    """Beside heads of drawn parts; with one weight for all 0.433 stood for 0.398 at 20."""
    rng = np.random.default_rng(1)
    kinds, fresh_kinds = rng.integers(0, 2, 300), rng.integers(0, 2, 400)
    rows = rng.standard_normal((300, 40)) * np.sqrt(2 / rng.chisquare(2, (300, 1)))
    fresh = rng.standard_normal((400, 40))
    rows[:, 0] += (2 * kinds - 1) * 0.8
    fresh[:, 0] += (2 * fresh_kinds - 1) * 0.8
    predicted = head_law(rows, kinds, fresh, fresh_kinds, 0.0).wrong_probabilities(samples).mean()
    errors = []
    for _ in range(300):
        chosen = rng.permutation(300)[:samples]
        head = np.linalg.lstsq(rows[chosen], 2.0 * kinds[chosen] - 1, rcond=None)[0]
        errors.append(((fresh @ head) * (2 * fresh_kinds - 1) < 0).mean())
    error = np.std(errors, ddof=1) / np.sqrt(300)
    # Heads of twenty sequences are not quite Gaussian.
    assert abs(predicted - np.mean(errors)) < 4 * error + 0.1 / samples


def test_equations_without_an_answer_are_refused(monkeypatch):
    """One leverage for all, as many sequences as dimensions: a variance would be negative."""
    monkeypatch.setattr(own_data_heads, "MOST_WEIGHED_RANK", 10)
    rng = np.random.default_rng(0)
    kinds = rng.integers(0, 2, 90)
    rows = rng.standard_normal((90, 70))
    with pytest.raises(NumericalError, match="raise the ridge or change n"):
        head_law(rows, kinds, rows, kinds, 0.0).wrong_probabilities(70)


def test_the_chance_of_the_largest_is_that_of_drawing():
    rng = np.random.default_rng(1)
    roots = rng.standard_normal((3, 4, 4))
    mean, kinds = rng.standard_normal((3, 4)), np.array([0, 2, 3])
    covariance = roots @ roots.swapaxes(1, 2)
    found = own_data_heads._chance_of_the_largest(mean, covariance, kinds)
    draws = mean[:, None] + rng.standard_normal((3, 200_000, 4)) @ roots.swapaxes(1, 2)
    share = (draws.argmax(axis=2) == kinds[:, None]).mean(axis=1)
    np.testing.assert_allclose(found, share, atol=0.005)
    certain = own_data_heads._chance_of_the_largest(mean, 0 * covariance, mean.argmax(axis=1))
    np.testing.assert_array_equal(certain, 1.0)


OPTIONS = [
    {"intercept": True},
    {"label_noise": 0.2},
    {"intercept": True, "class_shares": (0.85, 0.15), "label_noise": 0.1},
]


@pytest.mark.parametrize("options", some_slow(OPTIONS, first=1))
def test_gaussian_tokens_have_one_curve_at_all_levels_and_measured(options):
    rng = np.random.default_rng(2)
    tokens = rng.standard_normal((2500, TOKENS, DIM))
    labels = rng.choice([-1, 1], 2500)
    tokens[:, :RELEVANT] *= 0.5
    tokens[:, :RELEVANT, 0] += 1.0
    tokens[:, :RELEVANT, 1] += 0.8 * labels[:, None]
    # Attention that depends on the label, so that an intercept matters.
    given = (tokens, labels, np.array([0.8, 0.5] + [0.0] * (DIM - 2)), (40, 400), 0.05)
    curve = contextual.predict_curve(*given, relevant=MARKS, **options)
    measured, stderr = contextual.measure_curve(*given, trials=60, **options)
    allowed = 4 * np.hypot(stderr, curve.stderr) + (0.4 / 40, 0.4 / 400)
    assert (np.abs(curve.semi_empirical - measured) < allowed).all()
    assert (np.abs(curve.all_moments - measured) < allowed).all()
    plain = contextual.predict_curve(*given, relevant=MARKS)
    assert (np.abs(plain.all_moments - curve.all_moments) > 0.01).any()


def test_two_classes_by_two_targets_or_one():
    tokens, labels = sequences(300)
    three = np.where(np.arange(300) % 3 == 0, 2, labels)
    curve = contextual.predict_curve(tokens, three, np.ones(DIM), [30, 200], 0.1, relevant=MARKS)
    measured, stderr = contextual.measure_curve(tokens, three, np.ones(DIM), [30, 200], 0.1)
    assert (np.abs(curve.semi_empirical - measured) < 0.03 + 4 * stderr).all()
    assert np.isnan(curve.all_moments).all()
    assert "two labels" in curve.assumed[-1]


def test_several_prompts_join_their_features():
    tokens, labels = sequences(300)
    prompts = np.stack([np.zeros(DIM), np.eye(DIM)[0]])
    joined = np.concatenate([pooled(tokens, q) for q in prompts], axis=1)
    both = contextual.predict_curve(tokens, labels, prompts, [50], 0.1, relevant=MARKS)
    alone = contextual.predict_curve(joined[:, None], labels, np.zeros(2 * DIM), [50], 0.1)
    np.testing.assert_allclose(both.semi_empirical, alone.semi_empirical, rtol=1e-9)
    assert "one prompt" in both.assumed[-1]


def test_training_parts_have_the_shares_that_are_given():
    tokens, labels = np.ones((100, 2, 2)), np.arange(100) % 2
    pool = make_pool(tokens, labels, np.ones(2), 0.1, None, class_shares=(0.9, 0.1))
    rng, train = np.random.default_rng(0), np.arange(80)
    parts = [own_data._training_part(pool, rng.permutation(train), 40, rng) for _ in range(400)]
    assert all(len(set(part)) == 40 for part in parts)
    share = np.mean([pool.kinds[part] for part in parts])
    assert abs(share - 0.1) < 0.01


def test_more_dimensions_than_sequences():
    tokens, labels = sequences(60)
    wide = np.concatenate([tokens, np.zeros((60, TOKENS, 100))], axis=-1)
    padded = np.concatenate([np.ones(DIM), np.zeros(100)])
    narrow = contextual.predict_curve(tokens, labels, np.ones(DIM), [8, 40], 0.1)
    found = contextual.predict_curve(wide, labels, padded, [8, 40], 0.1)
    np.testing.assert_allclose(found.semi_empirical, narrow.semi_empirical, atol=1e-7)
    assert np.isnan(found.isotropic).all()
    assert "marked" in found.assumed[-1]


def test_moments_are_found():
    rng, count = np.random.default_rng(3), 20_000
    y = rng.choice([-1.0, 1.0], count)
    common = 0.5 * rng.standard_normal((count, 1, 3))
    tokens = common + rng.standard_normal((count, TOKENS, 3)) * np.array([0.5, 1.0, 1.5])
    tokens[:, :RELEVANT] += np.array([1.0, 0.0, 0.0]) + y[:, None, None] * np.array([0, 0.6, 0])
    found = token_moments(make_pool(tokens, y, np.zeros(3), 0.0, MARKS))
    np.testing.assert_allclose(found.signal, [0, 0.6, 0], atol=0.03)
    np.testing.assert_allclose(found.context, [1, 0, 0], atol=0.03)
    np.testing.assert_allclose(found.common, 0.25 * np.eye(3), atol=0.03)
    np.testing.assert_allclose(found.irrelevant, np.diag([0.25, 1, 2.25]), atol=0.05)
    assert abs(found.irrelevant_correlation) < 0.02
    prompt = contextual.best_prompt(tokens, MARKS)
    np.testing.assert_allclose(prompt, [2.0, 0, 0], atol=0.15)


def test_labels_may_be_any_two_values_and_blocks_do_not_matter(monkeypatch):
    tokens, labels = sequences(200)
    first = contextual.predict_curve(tokens, labels, np.ones(DIM), [20], 0.1)
    words = np.where(labels > 0, "yes", "no")
    monkeypatch.setattr("jaxprompt.contextual.extensions.own_data_input._BLOCK_BYTES", 4096)
    second = contextual.predict_curve(tokens, words, np.ones(DIM), [20], 0.1)
    np.testing.assert_allclose(second.semi_empirical, first.semi_empirical, rtol=1e-12)


# Powers of two scale without rounding; rounding turns the quadrature's nodes, which moves the
# Gaussian levels by up to 7e-4.
@pytest.mark.parametrize("scale", some_slow([2.0**-10, 2.0**10], first=1))
@pytest.mark.parametrize("samples", [2, 80])
def test_corners_of_size_and_number(scale, samples):
    """One coordinate, one that is constant, no ridge, two samples: a number, in any unit."""
    tokens, labels = sequences(100)
    for part in (tokens[..., :1], np.concatenate([tokens, np.ones((100, TOKENS, 1))], axis=-1)):
        for ridge in (0.0, 0.1):
            options = {"intercept": True, "label_noise": 0.2, "relevant": MARKS}
            units = (scale, 1.0)
            found = [
                contextual.predict_curve(
                    unit * part, labels, np.ones(part.shape[-1]) / unit, [samples],
                    ridge * unit**2, **options,
                )
                for unit in units
            ]  # fmt: skip
            for level in ("isotropic", "all_moments", "semi_empirical"):
                scaled, plain = (getattr(x, level) for x in found)
                assert (plain >= 0).all()
                assert (plain <= 1).all()
                np.testing.assert_allclose(scaled, plain, atol=1e-9)


def test_what_memory_cannot_hold_is_refused(monkeypatch):
    tokens, labels = np.zeros((400, 2, 50)), np.arange(400) % 2
    module = "jaxprompt.contextual.extensions.own_data_input"
    monkeypatch.setattr(f"{module}._BLOCK_BYTES", 2**12)
    monkeypatch.setattr(f"{module}.available_memory", lambda: (10**6, "this machine has"))
    with pytest.raises(ParameterError, match=r"fits in memory.*give \d+ sequences"):
        contextual.predict_curve(tokens, labels, np.zeros(50), [10], 0.1)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"tokens": np.zeros((30, 4))}, "tokens"),
        ({"tokens": np.full((30, 4, 3), np.nan)}, "tokens"),
        ({"tokens": np.zeros((5, 4, 3)), "labels": np.arange(5) % 2}, "tokens"),
        ({"labels": np.ones(30)}, "labels"),
        ({"labels": np.arange(30)}, "labels"),
        ({"labels": np.arange(30) == 0}, "labels"),
        ({"labels": np.arange(29) % 2}, "labels"),
        ({"prompt": np.zeros(4)}, "prompt"),
        ({"samples": [25]}, "samples"),
        ({"samples": [2.5]}, "samples"),
        ({"ridge": -0.1}, "ridge"),
        ({"intercept": 1}, "intercept"),
        ({"class_shares": (0.5, 0.6)}, "class_shares"),
        ({"class_shares": (1.0, 0.0)}, "class_shares"),
        ({"class_shares": (0.2, 0.3, 0.5)}, "class_shares"),
        ({"class_shares": (0.9, 0.1), "samples": [15]}, "samples"),
        ({"label_noise": 0.5}, "label_noise"),
        ({"label_noise": True}, "label_noise"),
        ({"relevant": np.ones(4, bool)}, "relevant"),
        ({"relevant": np.zeros(3, bool)}, "relevant"),
    ],
)
def test_refusals_name_the_argument(change, named):
    good = {
        "tokens": np.random.default_rng(0).standard_normal((30, 4, 3)),
        "labels": np.arange(30) % 2, "prompt": np.zeros(3), "samples": [10], "ridge": 0.1,
    }  # fmt: skip
    contextual.predict_curve(**good)
    with pytest.raises(ParameterError, match=f"parameter `{named}`"):
        contextual.predict_curve(**{**good, **change})


def test_what_cannot_be_answered_is_refused():
    tokens, labels = sequences(200)
    curve = contextual.predict_curve(tokens, labels, np.ones(DIM), [20, 100], 0.1)
    with pytest.raises(ParameterError, match="`error`"):
        curve.samples_for(1e-9)
    with pytest.raises(ParameterError, match="`level`"):
        curve.samples_for(0.3, "isotropic")
