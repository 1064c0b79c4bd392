r"""Claim ``contextual.score_universality``: of the tokens' law only that of the scores matters."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key
from scipy import special

from jaxprompt.compute.trials import per_trial
from jaxprompt.contextual.law.attention_moments import REPLICATES
from jaxprompt.contextual.law.pointwise import (
    evaluate_pointwise,
    quadrature_estimate,
    with_correction,
)
from jaxprompt.contextual.law.token_law import TokenLaw, pooled_law
from jaxprompt.contextual.law.token_law_limit import MOST_DIM, ridge_token_errors
from jaxprompt.contextual.parameters import (
    CONTEXT,
    DIM,
    FAMILY,
    GAIN,
    NOISE,
    RATIO,
    RELEVANT,
    RIDGE,
    SIGNAL,
    TOKENS,
    check_law,
    required,
    sample_counts,
)
from jaxprompt.core.claim import (
    Claim,
    Compared,
    Curves,
    Design,
    Falsifier,
    Quantity,
    Relation,
    Run,
)
from jaxprompt.core.parameters import Parameter
from jaxprompt.errors import ParameterError
from jaxprompt.stats import Estimate

__all__ = ["CLAIM", "closed_form", "simulate"]

STATEMENT = r"""
The noise of irrelevant tokens has independent entries of variance $\sigma^2$ and any law with
moments. A ridge head over a prompt $q$ has, as $n,d\to\infty$, the error of
`contextual.token_law_error` with the scores' own law: that of $\langle q,z\rangle$. If $q$ is
spread over all coordinates the scores are Gaussian by the central limit theorem, and the error is
that of Gaussian tokens, whatever the entries. If $q$ is along one coordinate the scores have the
law of an entry, and the error is another one.
"""

DERIVATION = r"""
Given the scores the pooled feature is a sum of independent entries with the softmax weights, in all
coordinates but those that the scores determine. The head depends on it through many coordinates,
each with a share $1/d$: resolvents, traces and the margin of a fresh feature keep their limits
when the entries are exchanged for Gaussian ones with the same variance (Lindeberg's exchange). The
softmax is no smooth function of many small contributions where $q$ lies along one coordinate, so
there the law of that entry stays: $\pm\gamma\sigma Q$ with even odds for signs, whose exponentials
have light tails and leave the attention sharper than Gaussian scores do.

For a prompt along one coordinate the regression of the noise on its score is that coordinate itself
for any law, so the formula holds with the nodes of the scores exchanged. Spread scores deviate from
Gaussian ones by $1/d$ (their fourth cumulant), as the formula itself does.

*Tolerances.* 0.02 of an error: a quarter of what the law of the scores makes of it in the design.
"""

# --- the closed form ---

_NODES = 256
"""Nodes of each of the rules. So many rules as everywhere, since few would leave a standard error
that is itself uncertain: with four it was too small by 1.7 in the root mean square."""

_LAPLACE_SCALE = np.sqrt(0.5)


def _score_map(entries: str, normals: np.ndarray) -> np.ndarray:
    """Numbers of variance 1 and the entries' law from standard normals, by quantiles."""
    if entries == "signs":
        return np.where(normals < 0, -1.0, 1.0)
    if entries == "laplace":
        tail = special.log_ndtr(-np.abs(normals)) + np.log(2)
        return -np.sign(normals) * _LAPLACE_SCALE * tail
    return normals


def closed_form(
    *, dim: Any, tokens: int, relevant: int, signal: Any, context: Any, noise: Any, gain: Any,
    ridge: Any, ratio: Any, entries: str, prompt: str, always_gaussian: bool = False,
    never_gaussian: bool = False, ridge_factor: float = 1.0, gain_factor: float = 1.0,
) -> dict[str, Estimate]:  # fmt: skip
    """`error`; numbers of any shape broadcast.

    Falsifiers change the last four arguments, which the theory has at their defaults.
    """
    own_law = (prompt == "one" and not always_gaussian) or never_gaussian

    def error_at(
        *, dim: float, signal: float, context: float, noise: float, gain: float, ridge: float,
        ratio: float,
    ) -> dict[str, Estimate]:  # fmt: skip
        w, q = _vectors(int(dim), signal, context, prompt)
        nothing = np.zeros(int(dim))
        law = TokenLaw(tokens, relevant, w, q, noise**2 + nothing, nothing, nothing)
        pooled = pooled_law(
            law, gain_factor * gain * q, replicates=REPLICATES, nodes=_NODES,
            score_map=(lambda normals: _score_map(entries, normals)) if own_law else None,
        )  # fmt: skip
        count = sample_counts(dim, ratio)
        return {
            "error": quadrature_estimate(ridge_token_errors(pooled, count, ridge_factor * ridge))
        }

    return evaluate_pointwise(
        error_at, dim=dim, signal=signal, context=context, noise=noise, gain=gain, ridge=ridge,
        ratio=ratio,
    )  # fmt: skip


def _vectors(
    dim: int, signal: float, context: float, prompt: str
) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, " d"]]:
    """w⋆ and q⋆: both spread over all coordinates, or q⋆ along the first and w⋆ over the others."""
    place = np.arange(dim)
    w = np.where(place % 2, 1.0, -1.0)
    q = np.where(place % 4 < 2, 1.0, -1.0)
    if prompt == "one":
        w[0], q = 0.0, (place == 0) * 1.0
    return signal * w / np.linalg.norm(w), context * q / np.linalg.norm(q)


FALSIFIERS = (
    Falsifier("always_gaussian", "Gaussian scores for a prompt on one coordinate too",
              always_gaussian=True),
    Falsifier("never_gaussian", "the entries' law for scores of a spread prompt too",
              never_gaussian=True),
    Falsifier("large_ridge", "forty times the ridge", ridge_factor=40.0),
    Falsifier("half_gain", "half of the gain", gain_factor=0.5),
    Falsifier.after("correction_left", "a correction of 0.15/d left in the error, as at d = 24",
                    lambda right, _: with_correction(right, "error", plus=0.15 / 24)),
)  # fmt: skip


# --- the simulation ---

TESTED = 512
"""Fresh sequences that a head is tested on."""


def _make_vectors(*, dim: int, signal: float, context: float, prompt: str) -> dict[str, Any]:
    """The set-up of a point: w⋆ and q⋆."""
    w, q = _vectors(dim, signal, context, prompt)
    return {"vectors": np.stack([w, q])}


@per_trial(dtype="float32", setup=_make_vectors, traced=("gain", "ridge", "noise"))
def simulate(
    *, key: Key[Array, ""], vectors: Array, tokens: int, relevant: int, dim: int, ratio: float,
    noise: Array, gain: Array, ridge: Array, entries: str,
) -> dict[str, Array]:  # fmt: skip
    """A head trained on tokens, and its share of wrong signs on others."""
    count = sample_counts(dim, ratio) + TESTED
    w, q = jnp.asarray(vectors, jnp.float32)
    label_key, noise_key = jax.random.split(key)
    label = jax.random.rademacher(label_key, (count, 1, 1), dtype=jnp.float32)
    far = noise * _entries(entries, noise_key, (count, tokens - relevant, dim))
    near = jnp.broadcast_to(q + label * w, (count, relevant, dim))
    sequence = jnp.concatenate([near, far], axis=1)
    weights = jax.nn.softmax(sequence @ (gain * q), axis=1)
    rows = label[:, 0] * jnp.einsum("nt,ntd->nd", weights, sequence)
    train, test = rows[TESTED:], rows[:TESTED]
    matrix = train.T @ train / len(train) + ridge * jnp.eye(dim)
    head = jnp.linalg.solve(matrix, train.mean(axis=0))
    return {"error": (test @ head < 0).mean(dtype=jnp.float32)}


def _entries(entries: str, key: Array, shape: tuple[int, ...]) -> Array:
    if entries == "signs":
        return jax.random.rademacher(key, shape, dtype=jnp.float32)
    if entries == "laplace":
        return jnp.float32(_LAPLACE_SCALE) * jax.random.laplace(key, shape, jnp.float32)
    return jax.random.normal(key, shape, jnp.float32)


# --- the parameters ---

ENTRIES = Parameter(
    "entries", "choice", "law of the noise's entries", choices=("gaussian", "signs", "laplace")
)
PROMPT = Parameter(
    "prompt", "choice", "whether the prompt is spread over all coordinates or along one",
    choices=("spread", "one"),
)  # fmt: skip


def _check_point(values: dict[str, Any], where: str) -> dict[str, Any]:
    if np.any(np.asarray(values["dim"]) % 4):
        raise ParameterError(
            "dim", values["dim"], "a multiple of 4", "w⋆ and q⋆ are orthogonal sign patterns", where
        )
    return check_law(values, where)


# --- the design ---

_USUAL = {
    "tokens": 10, "relevant": 2, "signal": 1.0, "context": 1.5, "noise": 1.0, "gain": 1.0,
    "ridge": 0.05, "ratio": 0.5,
}  # fmt: skip


def _laws_design(trials_by_dim: dict[int, int]) -> Design:
    runs = [
        Run(_USUAL, entries=entries, prompt=prompt, dim=dim, trials=trials)
        for entries, prompt in (("signs", "spread"), ("signs", "one"), ("laplace", "spread"))
        for dim, trials in trials_by_dim.items()
    ]
    return Design(*runs, trials=max(trials_by_dim.values()))


FIGURE = Curves(
    x="ratio",
    y="error",
    design=Design.product(
        {**_USUAL, "dim": 48},
        {
            "prompt": ["spread", "one"],
            "entries": ["gaussian", "signs", "laplace"],
            "ratio": [0.4, 1.5],
        },
        trials=200,
    ),
    lines=tuple(np.geomspace(0.2, 2.5, 8)),
    title="Of the tokens' law only the scores' matters",
    x_label="dimension / samples, $d / n$",
    series="entries",
    series_label="{value} entries",
    panel="prompt",
    panel_label="coordinates of the prompt: {value}",
    log_x=True,
    caption="over many coordinates scores are Gaussian whatever the entries are; "
    "over one they are not",
)

CLAIM = Claim(
    id="contextual.score_universality",
    title="Of the tokens' law only the scores' matters",
    statement=STATEMENT,
    derivation=DERIVATION,
    relation=Relation.ASYMPTOTIC,
    source="setting: Oymak et al., ICML 2023; statement: derived here",
    parameters=(
        replace(required(DIM), high=MOST_DIM), TOKENS, RELEVANT, SIGNAL, CONTEXT, NOISE, GAIN,
        RIDGE, required(RATIO), ENTRIES, PROMPT,
    ),
    ignored=FAMILY,
    check_parameters=_check_point,
    quantities=(
        Quantity("error", "probability of a wrong sign on a fresh sequence", tolerance=0.02),
    ),
    falsifiers=FALSIFIERS,
    compared=Compared(
        {
            "dim": (4, 32), "tokens": (2, 12), "relevant": (1, 3), "signal": (0.3, 1.5),
            "context": (0.3, 1.5), "noise": (0.3, 1.2), "gain": (-0.5, 1.0), "ridge": (0.01, 1.0),
            "ratio": (0.2, 2.0), "entries": ("gaussian", "signs", "laplace"),
            "prompt": ("spread", "one"),
        },
        elsewhere="`NAME_stderr` states what the quadrature loses; "
        "errors below 3e-4 are not resolved, and terms of order 1/n are left out",
    ),
    closed_form=closed_form,
    simulation=simulate,
    designs={
        "quick": _laws_design({24: 500, 48: 250, 96: 100}),
        "full": _laws_design({32: 4000, 64: 2400, 128: 1200, 256: 300}),
    },
    size="dim",
    powers=(1,),
    broadcasts="dim, ratio, gain, ridge and every number of the law",
    figure=FIGURE,
)  # fmt: skip
