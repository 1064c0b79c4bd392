"""The exact-law simulations of staged training against sequences drawn token by token in NumPy."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from quick_cases import some_slow

from jaxprompt.contextual.setting import Setting
from jaxprompt.contextual.simulation import staged_steps
from jaxprompt.contextual.simulation.staged_steps import fit_on_fresh_batches, fit_on_one_batch
from jaxprompt.contextual.simulation.staged_trials import staged_trials

SHIFTED = Setting.make(
    tokens=5, relevant=2, signal=1.2, context=1.0, noise=0.9, shifts=((0, 0), (0.5, 0.3)),
    shift_weights=(0.3, 0.7),
)  # fmt: skip
TWO_TOKENS = Setting.make(tokens=2, relevant=1, signal=1.0, context=1.5, noise=1.0)


def draw_tokens(setting, dim, samples, rng):
    labels = rng.choice([-1.0, 1.0], samples)
    index = rng.choice(len(setting.shift_weights), samples, p=setting.shift_weights)
    shift_context, shift_signal = setting.shifts[index].T
    tokens = setting.noise * rng.standard_normal((samples, setting.tokens, dim))
    tokens[:, : setting.relevant] = 0.0
    tokens[:, : setting.relevant, 0] = (labels * setting.signal)[:, None]
    tokens[:, : setting.relevant, 1] = setting.context
    tokens[:, setting.relevant :, 0] -= (shift_signal * labels * setting.signal)[:, None]
    tokens[:, setting.relevant :, 1] -= (shift_context * setting.context)[:, None]
    return tokens, labels


def train_on_tokens(setting, batches, ridge, prompt_norm, head_rate):
    """The numbers that a trial gives, from three batches of tokens."""
    (first, y0), (second, y1), (third, y2) = batches
    head = head_rate * (y0[:, None] * first.mean(axis=1)).mean(axis=0)
    scores = second @ head
    output = scores.mean(axis=1)
    pulls = (y1 - output)[:, None] * (scores - output[:, None]) / setting.tokens
    prompt = np.einsum("nt,ntd->d", pulls, second)
    cosine = prompt[1] / np.linalg.norm(prompt)
    prompt *= prompt_norm / np.linalg.norm(prompt)
    weights = np.exp(third @ prompt)
    weights /= weights.sum(axis=1, keepdims=True)
    rows = y2[:, None] * np.einsum("nt,ntd->nd", weights, third)
    samples, dim = rows.shape
    if ridge:
        fitted = np.linalg.solve(rows.T @ rows / samples + ridge * np.eye(dim), rows.mean(axis=0))
    else:
        fitted = np.linalg.lstsq(rows, np.ones(samples), rcond=None)[0]
    objective = np.square(1 - rows @ fitted).mean() / 2 + ridge * fitted @ fitted / 2
    return [
        fitted[0] * setting.signal, fitted[1] * setting.context, np.linalg.norm(fitted),
        prompt[0] * setting.signal, prompt[1] * setting.context, np.linalg.norm(prompt),
        fitted @ prompt, cosine, objective,
    ]  # fmt: skip


def same_law(exact, drawn):
    """z-scores of means, of variances and of correlations with the first number."""
    scores = []
    for f in (
        lambda x: x,
        lambda x: np.square(x - x.mean(axis=0)),
        lambda x: (x - x.mean(axis=0)) * (x - x.mean(axis=0))[:, :1],
    ):
        a, b = f(exact), f(drawn)
        error = np.sqrt(a.var(axis=0) / len(a) + b.var(axis=0) / len(b))
        scores.append((a.mean(axis=0) - b.mean(axis=0)) / np.maximum(error, 1e-9))
    return np.abs(np.concatenate(scores)).max()


CASES = [
    (SHIFTED, 10, (20, 20, 20), 0.1, 1.5, 1.0),
    (SHIFTED, 12, (9, 9, 9), 0.0, 1.0, 2.0),
    (TWO_TOKENS, 6, (12, 12, 12), 0.2, 2.0, 3.0),
]


@pytest.mark.parametrize(
    ("setting", "dim", "samples", "ridge", "norm", "rate"), some_slow(CASES, first=1)
)
@pytest.mark.parametrize("same", some_slow([True, False], first=1))
def test_exact_law_against_tokens(setting, dim, samples, ridge, norm, rate, same):
    trials = 400
    if not same:
        samples = (samples[0], 2 * samples[1], samples[2])
    exact, drawn = [], []
    for trial in range(2 * trials):
        rng = np.random.default_rng([5, trial])
        options = {"ridge": ridge, "prompt_norm": norm, "head_rate": rate, "rng": rng}
        fit = (
            fit_on_one_batch(setting, dim, samples[0], **options)
            if same
            else fit_on_fresh_batches(setting, dim, samples, **options)
        )
        exact.append([*fit.geometry, fit.prompt_alignment, fit.objective])
    for trial in range(trials):
        rng = np.random.default_rng([6, trial])
        batches = [draw_tokens(setting, dim, n, rng) for n in samples]
        batches = [batches[0]] * 3 if same else batches
        drawn.append(train_on_tokens(setting, batches, ridge, norm, rate))
    # 27 numbers in each of six cases, of which some are heavy-tailed without ridge.
    assert same_law(np.array(exact), np.array(drawn)) < 4.2


def test_trials_do_not_depend_on_how_many_are_asked_for():
    def fit(rng):
        return fit_on_one_batch(SHIFTED, 8, 12, ridge=0.1, prompt_norm=1.0, head_rate=1.0, rng=rng)

    key = jax.random.key(4)
    many = staged_trials(SHIFTED, fit, 70, key=key)
    few = staged_trials(SHIFTED, fit, 3, key=key, first=65)
    for name, values in many.items():
        np.testing.assert_array_equal(values[65:68], few[name])
    other = staged_trials(SHIFTED, fit, 3, key=jax.random.key(5))
    assert not np.any(other["error"] == many["error"][:3])


def test_the_error_of_a_trial_is_that_of_fresh_tokens():
    def fit(rng):
        return fit_on_fresh_batches(
            SHIFTED, 6, (12, 12, 18), ridge=0.1, prompt_norm=1.5, head_rate=1.0, rng=rng
        )

    found = staged_trials(SHIFTED, fit, 1, key=jax.random.key(0))["error"][0]
    seed = np.asarray(jax.random.key_data(jax.random.key(0))).tolist()
    geometry = fit(np.random.Generator(np.random.SFC64([*seed, 0]))).geometry
    # A head and a prompt with these inner products, in four dimensions.
    signal, context = SHIFTED.signal, SHIFTED.context
    prompt = np.array([geometry[3] / signal, geometry[4] / context, 0.0, 0.0])
    prompt[2] = np.sqrt(geometry[5] ** 2 - prompt[:2] @ prompt[:2])
    head = np.array([geometry[0] / signal, geometry[1] / context, 0.0, 0.0])
    head[2] = (geometry[6] - head @ prompt) / prompt[2]
    head[3] = np.sqrt(geometry[2] ** 2 - head @ head)
    tokens, labels = draw_tokens(SHIFTED, 4, 200_000, np.random.default_rng(1))
    weights = np.exp(tokens @ prompt)
    weights /= weights.sum(axis=1, keepdims=True)
    wrong = labels * ((weights[:, :, None] * tokens).sum(axis=1) @ head) < 0
    assert wrong.mean() == pytest.approx(found, abs=4 * np.sqrt(0.25 / 200_000) + 0.002)


@pytest.mark.parametrize("features", [(3, 5), (70, 2000), (0, 4)])
def test_blocks_hold_every_row_once(features):
    matrix = np.zeros(features, np.float32)
    for rows in staged_steps._blocks_of_rows(matrix):
        rows += 1
    assert (matrix == 1).all()
