r"""The contextual model fitted to patch embeddings, and heads learned on them beside the theory.

`contextual.prompt_error` speaks of tokens that are :math:`q_\star + y w_\star` where relevant and
isotropic Gaussian elsewhere. :func:`fit` estimates its parameters from a model's embeddings of
images in context; :func:`predicted_errors` feeds them to the closed form; :func:`measured_errors`
learns the same ridge head on the embeddings themselves. In between, :func:`gaussian_tokens` draws
tokens with the same moments, with the full covariances or with isotropic ones, so that a gap
between theory and measurement can be put down to its cause:

* measured − Gaussian: shape of the laws, and dependence between tokens;
* Gaussian − isotropic: covariances that are no multiples of the identity;
* isotropic − limit with noise on relevant tokens: finite size;
* the two limits: that the setting's relevant tokens have no noise.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Float64, Int

from jaxprompt.attention import prompt_attention
from jaxprompt.contextual.claims import prompt_error
from jaxprompt.contextual.law import attention_moments
from jaxprompt.contextual.law.feature_law import FeatureLaw, feature_law
from jaxprompt.contextual.law.ridge_limit import ridge_limit
from jaxprompt.contextual.law.token_law import TokenLaw

__all__ = [
    "PatchLaw",
    "fit",
    "gaussian_tokens",
    "measured_errors",
    "pooled",
    "predicted_errors",
    "whitened",
]


class PatchLaw(NamedTuple):
    """Moments of embeddings of images in context, in float64.

    Vectors and covariances are those of the tokens; relevant tokens of one image share the part
    with covariance `shared` and have their own with covariance `own`.
    """

    tokens: int
    relevant: int
    signal: np.ndarray
    context: np.ndarray
    behind: np.ndarray
    behind_signal: np.ndarray
    irrelevant: np.ndarray
    shared: np.ndarray
    own: np.ndarray

    @property
    def direction(self) -> Float64[np.ndarray, " d"]:
        """The context without its part along the signal: the setting has them orthogonal."""
        along = self.signal / np.linalg.norm(self.signal)
        return self.context - (self.context @ along) * along

    @property
    def cosine(self) -> float:
        """Of the angle between signal and context; 0 in the setting."""
        norms = np.linalg.norm(self.signal) * np.linalg.norm(self.context)
        return float(self.signal @ self.context / norms)

    @property
    def relevant_noise(self) -> float:
        """Standard deviation of a coordinate of an image's mean relevant token."""
        dim = len(self.signal)
        total = np.trace(self.shared) + np.trace(self.own) / self.relevant
        return float(np.sqrt(total / dim))

    @property
    def anisotropy(self) -> float:
        """tr(Σ²)·d/tr(Σ)² of the irrelevant tokens: 1 where isotropic, d where along one axis."""
        sigma = self.irrelevant
        return float(len(sigma) * (sigma**2).sum() / np.trace(sigma) ** 2)

    def setting(self) -> dict[str, Any]:
        """Parameters as `contextual.prompt_error` takes them, but for gain, ridge and ratio."""
        q, w = self.direction, self.signal
        return {
            "tokens": self.tokens,
            "relevant": self.relevant,
            "signal": float(np.linalg.norm(w)),
            "context": float(np.linalg.norm(q)),
            "noise": float(np.sqrt(np.trace(self.irrelevant) / len(w))),
            "shifts": (
                (float(-self.behind @ q / (q @ q)), float(-self.behind_signal @ w / (w @ w))),
            ),
            "shift_weights": (1.0,),
        }

    def token_law(self) -> TokenLaw:
        """The Gaussian token law with all these moments, for
        :func:`~jaxprompt.contextual.law.token_law_limit.ridge_head_law`.

        Relevant tokens of one image have the noise `shared` + `own`, and the correlation that the
        traces of the two give.
        """
        noise = self.shared + self.own
        total = float(np.trace(noise))
        share = float(np.trace(self.shared)) / total if total > 0 else 0.0
        return TokenLaw(
            self.tokens, self.relevant, self.signal, self.context, self.irrelevant, noise,
            np.zeros_like(noise),
            relevant_correlation=(1 - share) * np.eye(self.relevant) + share,
            behind=self.behind, behind_signal=self.behind_signal,
        )  # fmt: skip


def fit(
    tokens: Float[np.ndarray, "B T d"],
    relevant: Bool[np.ndarray, "B T"],
    labels: Int[np.ndarray, " B"],
) -> PatchLaw:
    """Moments of embeddings whose images have equally many relevant tokens and labels ±1."""
    tokens = np.asarray(tokens, np.float64)
    count = int(relevant[0].sum())
    near = tokens[relevant].reshape(len(tokens), count, -1)
    far = tokens[~relevant].reshape(len(tokens), tokens.shape[1] - count, -1)
    plus, minus = labels > 0, labels < 0

    def halves(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mean over both labels, half their difference, and what is left of each token."""
        up, down = x[plus].mean(axis=(0, 1)), x[minus].mean(axis=(0, 1))
        return (up + down) / 2, (up - down) / 2, x - np.where(plus[:, None, None], up, down)

    context, signal, near_left = halves(near)
    behind, behind_signal, far_left = halves(far)
    middle = near_left.mean(axis=1)
    own = _covariance(near_left - middle[:, None]) * (count / max(count - 1, 1))
    shared = _covariance(middle[:, None]) - own / count
    return PatchLaw(
        tokens.shape[1], count, signal, context, behind, behind_signal, _covariance(far_left),
        _positive(shared), own,
    )  # fmt: skip


def _covariance(rows: np.ndarray) -> np.ndarray:
    flat = rows.reshape(-1, rows.shape[-1])
    return flat.T @ flat / len(flat)


def _positive(matrix: np.ndarray) -> np.ndarray:
    """The nearest matrix without negative eigenvalues."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.maximum(values, 0)) @ vectors.T


def _root(matrix: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    return vectors * np.sqrt(np.maximum(values, 0))


def gaussian_tokens(
    fitted: PatchLaw, labels: Int[np.ndarray, " B"], *, isotropic: bool, seed: int
) -> tuple[Float64[np.ndarray, "B T d"], Bool[np.ndarray, "B T"]]:
    """Independent Gaussian tokens with the fitted moments, the relevant ones first.

    With `isotropic` each covariance is the multiple of the identity with its trace.
    """
    rng, dim, k = np.random.default_rng(seed), len(fitted.signal), fitted.relevant

    def noise(covariance: np.ndarray, count: int) -> np.ndarray:
        drawn = rng.standard_normal((len(labels), count, dim))
        if isotropic:
            return np.sqrt(np.trace(covariance) / dim) * drawn
        return drawn @ _root(covariance).T

    y = labels[:, None, None]
    near = fitted.context + y * fitted.signal + noise(fitted.shared, 1) + noise(fitted.own, k)
    far = fitted.behind + y * fitted.behind_signal + noise(fitted.irrelevant, fitted.tokens - k)
    relevant = np.broadcast_to(np.arange(fitted.tokens) < k, (len(labels), fitted.tokens))
    return np.concatenate([near, far], axis=1), relevant


def whitened(fitted: PatchLaw, tokens: Float[np.ndarray, "B T d"]) -> Float64[np.ndarray, "B T e"]:
    """Tokens in coordinates in which the irrelevant ones have the identity for covariance.

    Directions without variance (a layer norm makes one) are left out.
    """
    values, vectors = np.linalg.eigh(fitted.irrelevant)
    kept = values > 1e-6 * values[-1]
    return np.asarray(tokens, np.float64) @ (vectors[:, kept] / np.sqrt(values[kept]))


def pooled(
    tokens: Float[np.ndarray, "B T d"], prompt: Float[np.ndarray, " d"]
) -> Float64[np.ndarray, "B d"]:
    """Prompt-attention's feature of every image."""
    with jax.enable_x64(True):
        attention = jax.vmap(prompt_attention, (0, None))(np.asarray(tokens, np.float64), prompt)
        return np.asarray(attention)


def measured_errors(
    train: Float[np.ndarray, "N d"],
    labels: Int[np.ndarray, " N"],
    test: Float[np.ndarray, "M d"],
    answers: Int[np.ndarray, " M"],
    samples: tuple[int, ...],
    ridge: float,
    trials: int,
    *,
    seed: int,
) -> Float64[np.ndarray, "trials sizes"]:
    """Test error of ridge heads without intercept on `samples` of the training features.

    The objective is that of `contextual.prompt_error`; every trial draws its samples anew.
    """
    rng, signed = np.random.default_rng(seed), train * labels[:, None]
    errors = np.empty((trials, len(samples)))
    for trial in range(trials):
        order = rng.permutation(len(signed))
        for row, count in enumerate(samples):
            rows = signed[order[:count]]
            matrix = rows.T @ rows / count + ridge * np.eye(rows.shape[1])
            head = np.linalg.solve(matrix, rows.mean(axis=0))
            errors[trial, row] = ((test @ head) * answers <= 0).mean()
    return errors


def predicted_errors(
    fitted: PatchLaw, gain: float, ridge: float, samples: tuple[int, ...]
) -> dict[str, Float64[np.ndarray, " sizes"]]:
    r"""Errors by the closed form at d/n, by number of samples.

    `closed_form` is `contextual.prompt_error` with the fitted parameters. `with_relevant_noise`
    is the same limit where the relevant part of a feature has noise too,
    :math:`\tau^2=\sigma^2p_2+s^2\sigma_r^2`.
    """
    setting, ratios = fitted.setting(), len(fitted.signal) / np.asarray(samples, np.float64)
    plain = prompt_error.closed_form(**setting, gain=gain, ridge=ridge, ratio=ratios)["error"].mean
    features = feature_law(**setting, gain=gain)
    shift, size = setting["shifts"][0][1], setting["signal"]
    attention = (features.alpha / size + shift) / (1 + shift)
    tau = np.sqrt(features.tau**2 + (attention * fitted.relevant_noise) ** 2)
    noisy = FeatureLaw(features.alpha, tau, features.weights)
    limits = [
        attention_moments.mean_and_stderr(ridge_limit(noisy, float(r), ridge).error)[0]
        for r in ratios
    ]
    return {"closed_form": np.asarray(plain), "with_relevant_noise": np.array(limits)}
