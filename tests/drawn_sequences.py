"""Sequences of ``contextual`` drawn token by token in NumPy, and what statements say of them.

Oracles of the family share it. None of it calls the package: a law is a plain mapping of its
parameters' names, `shifts` have equal odds, and a number comes with its standard error.
"""

from __future__ import annotations

import numpy as np
from compared_points import Point
from scipy import optimize, special

Numbers = dict[str, tuple[float, float]]


def draw_tokens(
    at: Point, dim: int, count: int, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Labels and sequences (count, T, dim); w⋆ along the first coordinate, q⋆ the second."""
    label = random.choice([-1.0, 1.0], count)
    shifts = np.asarray(at.get("shifts", ((0.0, 0.0),)))
    shift = shifts[random.integers(len(shifts), size=count)]
    near = at["relevant"]
    tokens = np.zeros((count, at["tokens"], dim))
    tokens[:, near:] = at["noise"] * random.standard_normal((count, at["tokens"] - near, dim))
    tokens[:, :near, 0], tokens[:, :near, 1] = (label * at["signal"])[:, None], at["context"]
    tokens[:, near:, 0] -= (shift[:, 1] * label * at["signal"])[:, None]
    tokens[:, near:, 1] -= (shift[:, 0] * at["context"])[:, None]
    return label, tokens


def mean_of(values: np.ndarray) -> tuple[float, float]:
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))


def drawn_features(
    at: Point, count: int, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """α and τ² of sequences whose scores are drawn."""
    shifts = np.asarray(at["shifts"])
    shift = shifts[random.integers(len(shifts), size=count)]
    far = at["tokens"] - at["relevant"]
    score = at["gain"] * at["context"]
    scores = np.empty((count, at["tokens"]))
    scores[:, far:] = score * at["context"]
    scores[:, :far] = score * at["noise"] * random.normal(size=(count, far))
    scores[:, :far] -= score * at["context"] * shift[:, :1]
    weights = special.softmax(scores, axis=1)
    near = weights[:, far:].sum(axis=1)
    alpha = (near - (1 - near) * shift[:, 1]) * at["signal"]
    return alpha, at["noise"] ** 2 * (weights[:, :far] ** 2).sum(axis=1)


def stated_limit(at: Point, alpha: np.ndarray, tau2: np.ndarray) -> tuple[float, float, float]:
    ratio, ridge = at["ratio"], at["ridge"]
    if ridge == 0 and ratio > 1:
        c = np.mean(alpha / tau2) / (ratio + np.mean(alpha**2 / tau2))
        rho = np.sqrt(np.mean((1 - alpha * c) ** 2 / tau2 + c**2) / (ratio - 1))
        error = special.ndtr(-alpha * c / np.sqrt(tau2 * (c**2 + rho**2) + 1e-300)).mean()
        return float(error), float(c), float(rho)

    def excess(log_m: float) -> float:
        m = np.exp(log_m)
        return ridge * m + np.mean(tau2 * m / (1 + tau2 * m)) - ratio

    m = np.exp(optimize.brentq(excess, -60, 300))
    omega = 1 / (1 + tau2 * m)
    c = np.mean(omega * alpha) / (ridge + np.mean(omega * (alpha**2 + tau2)))
    noise = np.mean(tau2 * omega**2 * ((1 - alpha * c) ** 2 + tau2 * c**2))
    rho = np.sqrt(m * noise / (ridge + np.mean(tau2 * omega**2)))
    error = special.ndtr(-alpha * c / np.sqrt(tau2 * (c**2 + rho**2) + 1e-300)).mean()
    return float(error), float(c), float(rho)


def descent_of(at: Point, label: np.ndarray, output: np.ndarray) -> np.ndarray:
    """Minus the loss's derivative in the output; the square loss where none is named."""
    if at.get("loss", "square") == "logistic":
        return label * special.expit(-label * output)
    return label - output


def attention(scores: np.ndarray) -> np.ndarray:
    """Softmax over the tokens, which come first: sums of long rows take a third of the time."""
    terms = np.exp(scores - scores.max(axis=0))
    return terms / terms.sum(axis=0)


class FewNumbers:
    """SGD's four numbers by drawn tokens, in a frame along w⋆, q⋆ and what is left of head and
    prompt: the same tokens at every state, so that a path is smooth."""

    def __init__(self, at: Point, count: int, random: np.random.Generator) -> None:
        self._at = at
        self._label, tokens = draw_tokens(at, 4, count, random)
        self._tokens = np.ascontiguousarray(tokens.T)  # coordinate, token, sequence

    def _products(self, vector: np.ndarray) -> np.ndarray:
        return (vector @ self._tokens.reshape(4, -1)).reshape(self._tokens.shape[1:])

    def means(self, state: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mean gradients of head and prompt, and the energies that noise orthogonal to the frame
        has in d directions, for a rate of 1."""
        head, prompt = self._vectors(state)
        far = self._at["relevant"]
        weights = attention(self._products(prompt))
        of_tokens = self._products(head)
        output = (weights * of_tokens).sum(axis=0)
        miss = descent_of(self._at, self._label, output)
        pulls = weights * (of_tokens - output)
        gradients = [
            self._tokens.reshape(4, -1) @ (miss * each).ravel() / len(miss)
            for each in (weights, pulls)
        ]
        squares = [(each[far:] ** 2).sum(axis=0) for each in (weights, pulls)]
        noise = [self._at["noise"] ** 2 * np.mean(miss**2 * each) for each in squares]
        return gradients[0], gradients[1], np.array(noise)

    def _vectors(self, state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        head, prompt = np.zeros(4), np.zeros(4)
        head[0], prompt[1] = state[0] / self._at["signal"], state[1] / self._at["context"]
        head[2] = np.sqrt(max(state[2] - head[0] ** 2, 0.0))
        prompt[3] = np.sqrt(max(state[3] - prompt[1] ** 2, 0.0))
        return head, prompt

    def drift(self, state: np.ndarray, head_rate: float, prompt_rate: float) -> np.ndarray:
        """Time derivative of the four numbers along the flow."""
        by_head, by_prompt, noise = self.means(state)
        head, prompt = self._vectors(state)
        return np.array([
            head_rate * self._at["signal"] * by_head[0],
            prompt_rate * self._at["context"] * by_prompt[1],
            2 * head_rate * head @ by_head + head_rate**2 * noise[0],
            2 * prompt_rate * prompt @ by_prompt + prompt_rate**2 * noise[1],
        ])  # fmt: skip

    def large_step(self, state: np.ndarray, rates: tuple[float, float], ratio: float) -> np.ndarray:
        """The four numbers after a step on the mean gradient of d/`ratio` sequences."""
        by_head, by_prompt, noise = self.means(state)
        head, prompt = self._vectors(state)
        # Along the frame's other directions the mean is 0 by symmetry.
        head = head + rates[0] * by_head * [1, 0, 1, 0]
        prompt = prompt + rates[1] * by_prompt * [0, 1, 0, 1]
        energies = np.array([head @ head, prompt @ prompt]) + np.square(rates) * ratio * noise
        return np.array([head[0] * self._at["signal"], prompt[1] * self._at["context"], *energies])

    def numbers(self, state: np.ndarray) -> tuple[float, ...]:
        head, prompt = self._vectors(state)
        weights = attention(self._products(prompt))
        output = (weights * self._products(head)).sum(axis=0)
        return *map(float, state), float((self._label * output < 0).mean())

    def smooth_error(self, state: np.ndarray) -> float:
        """The error, given all that is drawn but what the head's rest reads."""
        head, prompt = self._vectors(state)
        weights = attention(self._products(prompt))
        along = self._label * (weights * self._tokens[0]).sum(axis=0) * head[0]
        level = np.sqrt((weights[self._at["relevant"] :] ** 2).sum(axis=0))
        return float(special.ndtr(-along / (head[2] * self._at["noise"] * level)).mean())
