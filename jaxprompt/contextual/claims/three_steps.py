r"""Claim ``contextual.three_steps``: the test error after head, prompt and head again."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, Key
from scipy import special, stats

from jaxprompt.compute.devices import map_trials
from jaxprompt.compute.numpy_normals import generator_of
from jaxprompt.contextual.claims.first_step import pooled_coefficients
from jaxprompt.contextual.law import attention_moments
from jaxprompt.contextual.law.pointwise import evaluate_pointwise, quadrature_estimate
from jaxprompt.contextual.law.prompt_step_moments import prompt_moments
from jaxprompt.contextual.law.third_step import ThirdStep, covariance_root, third_step
from jaxprompt.contextual.parameters import (
    DATA_LAW,
    DIM,
    FAMILY,
    SAMPLES,
    check_trainable,
    required,
)
from jaxprompt.contextual.pictures import along_samples
from jaxprompt.contextual.setting import Setting
from jaxprompt.contextual.simulation.evaluation import errors_of_trained_heads
from jaxprompt.contextual.simulation.gradient_steps import reduced_steps, trials_of_a_block
from jaxprompt.core.claim import (
    Claim,
    Compared,
    Design,
    Falsifier,
    Panels,
    Quantity,
    Relation,
    Run,
)
from jaxprompt.core.parameters import Parameter
from jaxprompt.stats import Estimate, mean_estimate

__all__ = [
    "CLAIM", "INFINITE", "MEANS", "NAMES", "PROMPT_NORM", "THREE_TOKENS", "UNEVEN_SHIFTS",
    "closed_form", "limits", "simulate", "simulate_trials",
]  # fmt: skip

STATEMENT = r"""
Square loss, head and prompt from 0, a fresh batch of $n$ sequences for each step: head (of step
size $\eta$), prompt (rescaled to a given norm), head again from 0. The steps' coordinates along
$w_\star$, $q_\star$ and along each other are sample means of independent terms with explicit means
$\mu$ and covariances $\Sigma$, so to order $1/n$ they are $N(\mu,\Sigma/n)$, and what is orthogonal
has energy
$\bar D\,\chi^2_{d-2}/n$ or $\bar D\,\chi^2_{d-3}/n$ with an explicit $\bar D$. The test error is
the error of a fixed head and prompt (`contextual.conditional_error`), averaged over that law, and
so are the alignments $\langle q,q_\star\rangle/(|q|Q)$ of the prompt and
$\langle w,w_\star\rangle/(|w|W)$ of the last head. They depend on $d$ and $n$ through $d/n$ up to
fluctuations of order $1/n$. Averaged over the head or prompt that a step is given, $\mu$, the
diagonal of $\Sigma$, $\bar D$ and the variance of $D$ are the means and variances of single terms.
"""

DERIVATION = r"""
*Step 1* (`contextual.first_step`): $\langle\hat w,w_\star\rangle/W$ and
$\langle\hat w,q_\star\rangle/Q$ have means $E[a]W$ and 0 and variances
$(\mathrm{Var}(a)W^2+s^2)/n$ and $(E[b^2]Q^2+s^2)/n$; they are uncorrelated, and the rest is
isotropic with energy $s^2\chi^2_{d-2}/n$ exactly. *Step 2* (`contextual.prompt_step`): given the
head, $\hat q$ is a mean of $n$ independent terms. Its coordinates along $w_\star$, $q_\star$ and
the head's rest, and the variance $D$ of an orthogonal coordinate given the sequence's scalars, have
second moments that are polynomial in two independent variables, a Gaussian and a chi-square.
*Step 3*: given the prompt, $y\bar x$ has mean $E[y\mu]$ and covariance
$E[\mu\mu^\top]+\sigma^2E[p_2](I-qq^\top/|q|^2)$ less the mean's square, where
$\mu=s(q_\star+yw_\star)-(1-s)(\delta_qq_\star+\delta_wyw_\star)+\bar u\,q/|q|^2$; here
$D=\sigma^2p_2$. The mean of a smooth function of a sample mean depends on its law beyond mean and
covariance only at order $n^{-2}$, through the third cumulant. Averages over order parameters and
over scores are taken by randomised quasi-Monte Carlo.

*Measured terms.* The $n$ terms of a step share the head or prompt it is given and are independent
given that, so their sample mean and sample variance are unbiased for $\mu$ and for the diagonal of
$\Sigma$ there; a trial's mean over what it was given is the prediction's. The variances are
predicted from the law that the errors are averaged over, as $n$ times its variances.

*Tolerances.* 0.01 in an error, and a hundredth of the most that an alignment can be. 5 % of a
term's mean, and 10 % of a variance, which is 5 % of a fluctuation's size: all fluctuations together
move the errors by one to four hundredths.
"""


# --- the closed form ---

OUTER_NODES = 128
"""Nodes for the order parameters, in each of the randomised rules."""

INNER_NODES = 128
"""Nodes for the attention scores, for each node of the order parameters."""

INFINITE = 10**8
"""The d that stands for d → ∞: what is left is smaller than rounding to seven digits."""


def closed_form(
    *, dim: Any, samples: Any, prompt_norm: float, tokens: int, relevant: int, signal: float,
    context: float, noise: float, shifts: Any, shift_weights: Any, head_rate: float = 1.0,
    fluctuation: float = 1.0,
    later_fluctuation: float = 1.0, pooled_noise: float = 1.0, orthogonal_energy: float = 1.0,
) -> dict[str, Estimate]:  # fmt: skip
    """Errors, alignments, and means and variances of the steps' terms, with standard errors, for
    arrays of `dim` and `samples`.

    Falsifiers change the last four arguments, which the theory has at their defaults.
    """
    setting = Setting(
        tokens, relevant, signal, context, noise, 0.0, np.asarray(shifts),
        np.asarray(shift_weights),
    )  # fmt: skip

    def averages_at(*, dim: float, samples: float) -> dict[str, Estimate]:
        replicates, unseen = _averages(
            setting, int(dim), int(samples), float(prompt_norm), head_rate=float(head_rate),
            fluctuation=fluctuation, later_fluctuation=later_fluctuation,
            pooled_noise=pooled_noise, orthogonal_energy=orthogonal_energy,
        )  # fmt: skip
        estimates = {n: quadrature_estimate(x) for n, x in zip(NAMES, replicates, strict=True)}
        rare = estimates["step3_orthogonal_variance"]
        stderr = float(np.hypot(rare.stderr, unseen))
        estimates["step3_orthogonal_variance"] = Estimate(rare.mean, stderr, rare.trials)
        return estimates

    return evaluate_pointwise(averages_at, dim=dim, samples=samples)


_OUTCOMES = ("error", "final_error", "prompt_alignment", "head_alignment")
_DIRECTIONS = ("signal", "context", "rest", "orthogonal")
_TERMS = {
    "step1_signal_variance": "variance of a term of step 1 along w⋆",
    "step1_context_variance": "variance of a term of step 1 along q⋆",
    "step2_context_mean": "mean of a term of step 2 along q⋆",
    "step2_orthogonal_mean": "mean of D in step 2",
    "step2_signal_variance": "variance of a term of step 2 along w⋆",
    "step2_context_variance": "variance of a term of step 2 along q⋆",
    "step2_rest_variance": "variance of a term of step 2 along the rest of the head",
    "step2_orthogonal_variance": "variance of D in step 2",
    "step3_signal_mean": "mean of a term of step 3 along w⋆",
    "step3_orthogonal_mean": "mean of D in step 3",
    "step3_signal_variance": "variance of a term of step 3 along w⋆",
    "step3_context_variance": "variance of a term of step 3 along q⋆",
    "step3_rest_variance": "variance of a term of step 3 along the rest of the prompt",
    "step3_orthogonal_variance": "variance of D in step 3",
}
"""What is stated of the steps' terms: variances, and the means that are not 0 by symmetry."""

NAMES = (*_OUTCOMES, *_TERMS)
"""All that a trial shows and the closed form predicts."""

MEANS = {name: meaning for name, meaning in _TERMS.items() if name.endswith("mean")}
_WITH_A_LIMIT = (*_OUTCOMES, *MEANS)


def _name_moments(step: int, mean: Any, variance: Any) -> dict[str, Any]:
    """Means and variances of a step's terms (last axis: :data:`_DIRECTIONS`) by name."""
    moments: dict[str, Any] = {}
    for i, name in enumerate(_DIRECTIONS):
        moments[f"step{step}_{name}_mean"] = mean[..., i]
        moments[f"step{step}_{name}_variance"] = variance[..., i]
    return {name: value for name, value in moments.items() if name in _TERMS}


def _averages(
    setting: Setting, dim: int, samples: int, prompt_norm: float, *, head_rate: float = 1.0,
    fluctuation: float = 1.0, later_fluctuation: float = 1.0, pooled_noise: float = 1.0,
    orthogonal_energy: float = 1.0,
) -> tuple[np.ndarray, float]:  # fmt: skip
    """Every quantity for each replicate of the rule: shape (quantity, replicate).

    Also what the most extreme node of the scores adds to the variance of D in step 3. Over a sharp
    prompt that variance is one of rare sequences, of which the rules together may hold a few: one
    more or less is then an error that their spread does not show.
    """
    outer, inner, each = _quadrature(setting.irrelevant, fluctuation != 0)
    nodes = outer.reshape(-1, 13)
    fluctuations = np.full(3, fluctuation)
    fluctuations[1:] *= later_fluctuation
    scales = fluctuations / np.sqrt(samples)
    heads, first = _first_heads(setting, dim, samples, nodes[:, :3], scales[0], pooled_noise)
    heads = heads * head_rate
    prompts, second = _prompts(
        setting, dim, samples, heads, nodes[:, 3:8], scales[1], orthogonal_energy
    )
    prompts *= prompt_norm / np.linalg.norm(prompts, axis=1, keepdims=True)
    chi = _chi(nodes[:, 12], dim - 3, fluctuations[2])
    last = third_step(
        setting, heads, prompts, nodes[:, 8:12], scales[2], chi / samples, inner, each
    )
    outcomes = _outcomes_of_law(setting, prompts, last)
    values: dict[str, Any] = dict(zip(_OUTCOMES, outcomes, strict=True))
    for step, (mean, spread) in enumerate((first, second, (last.mean, last.root)), start=1):
        # n times the variance that the step's coordinates are given: that of one term. What
        # rounding leaves of a variance that is 0 is none.
        variance = samples * np.square(spread).sum(axis=2)
        variance = np.where(variance > 1e-13 * np.square(mean), variance, 0.0)
        values |= _name_moments(step, mean, variance)
    every = np.stack([values[name] for name in NAMES])
    # A node of the scores serves all nodes of the order parameters that take turns over its part.
    served = float(np.bincount(each).max()) / len(each)
    unseen = float(last.largest.max()) * served * float(fluctuations[2]) ** 2
    return every.reshape(len(every), *outer.shape[:2]).mean(axis=-1), unseen


def limits(
    setting: Setting, ratio: float, prompt_norm: float, *, orthogonal_energy: float = 1.0
) -> dict[str, np.ndarray]:
    """Errors, alignments and means of the terms as n, d → ∞ with n/d = `ratio`, for each replicate
    of the rule: nothing fluctuates. A falsifier changes `orthogonal_energy`."""
    samples = max(round(ratio * INFINITE), 1)
    replicates, _ = _averages(
        setting, INFINITE, samples, float(prompt_norm), fluctuation=0.0,
        orthogonal_energy=orthogonal_energy,
    )  # fmt: skip
    named = zip(NAMES, replicates, strict=True)
    return {name: values for name, values in named if name in _WITH_A_LIMIT}


def _quadrature(count: int, moving: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Nodes for the order parameters, (replicate, node, 13); nodes for `count` scores, in parts,
    (part, node, score); and the part for each node of the order parameters.

    The nodes of a replicate take turns over its parts, so that all scores' nodes are used. Order
    parameters that do not move need one node, which can have more scores.
    """
    outer = attention_moments.normal_nodes(13)[:, : OUTER_NODES if moving else 1]
    replicates, times = outer.shape[:2]
    scores = attention_moments.normal_nodes(count)
    most = min(INNER_NODES if moving else 8 * INNER_NODES, scores.shape[1])
    parts = scores.reshape(replicates, -1, most, count)
    each = np.arange(replicates)[:, None] * parts.shape[1] + np.arange(times) % parts.shape[1]
    return outer, parts.reshape(-1, most, count), each.reshape(-1)


def _chi(nodes: np.ndarray, freedom: int, fluctuation: float) -> np.ndarray:
    """Chi-square variables from standard normal nodes, or their mean."""
    if not fluctuation:
        return np.full(nodes.shape, float(freedom))
    return stats.chi2.ppf(special.ndtr(nodes), freedom)


Law = tuple[np.ndarray, np.ndarray]
"""Mean and square root of the covariance of a step's coordinates, for each node."""


def _first_heads(
    setting: Setting, dim: int, samples: int, nodes: np.ndarray, scale: float, pooled_noise: float
) -> tuple[np.ndarray, Law]:
    """Step 1: coordinates of the head along w⋆, q⋆ and what remains of it, for each node."""
    along, variance, square = pooled_coefficients(
        setting.tokens, setting.relevant, setting.shifts, setting.shift_weights
    )
    noise = setting.noise**2 * setting.irrelevant / setting.tokens**2
    shifted = np.array([variance * setting.signal**2, square * setting.context**2])
    mean = np.array([along * setting.signal, 0.0, 0.0, noise])
    spread = np.diag([*np.sqrt(shifted + noise * pooled_noise), 0.0, 0.0]) * scale
    moved = nodes[:, :2] @ spread[:2, :2]
    plane = mean[:2] + moved
    remainder = np.sqrt(noise / samples * _chi(nodes[:, 2], dim - 2, scale))
    each = len(nodes)
    moments = np.broadcast_to(mean, (each, 4)), np.broadcast_to(spread, (each, 4, 4))
    return np.column_stack([plane, remainder]), moments


def _prompts(
    setting: Setting, dim: int, samples: int, heads: np.ndarray, nodes: np.ndarray,
    scale: float, orthogonal_energy: float,
) -> tuple[np.ndarray, Law]:  # fmt: skip
    """Step 2: coordinates of the prompt along w⋆, q⋆, the head's remainder and what remains."""
    moments = prompt_moments(setting, heads)
    spread = covariance_root(moments.covariance) * scale
    moved = np.einsum("mij,mj->mi", spread, nodes[:, :4])
    coordinates = moments.mean + moved
    level = np.maximum(coordinates[:, 3], 0.0) / samples * orthogonal_energy
    remainder = np.sqrt(level * _chi(nodes[:, 4], dim - 3, scale))
    return np.column_stack([coordinates[:, :3], remainder]), (moments.mean, spread)


def _outcomes_of_law(
    setting: Setting, prompts: Float[np.ndarray, "M 4"], last: ThirdStep
) -> Float[np.ndarray, "outcome M"]:
    """:data:`_OUTCOMES` for each node of the order parameters."""
    # A rescaled prompt has a length; a head may have none.
    prompt = prompts[:, 1] / np.linalg.norm(prompts, axis=1)
    head = last.head_signal / np.where(last.head_norm > 0, last.head_norm, 1.0)
    sizes = np.sign([float(setting.context), float(setting.signal)])
    return np.stack([*last.errors.T, prompt * sizes[0], head * sizes[1]])


FALSIFIERS = (
    Falsifier("no_fluctuations", "order parameters at their means", fluctuation=0.0),
    Falsifier("first_only", "only the first step fluctuates", later_fluctuation=0.0),
    Falsifier("no_pooled_noise", "step 1's variances without s²", pooled_noise=0.0),
    Falsifier("less_noise", "0.8 of the prompt's orthogonal energy", orthogonal_energy=0.8),
)


# --- the simulation ---


def simulate(
    *, key: Key[Array, ""], trials: int, dim: int, samples: int, prompt_norm: float,
    head_rate: float = 1.0, **params: Any,
) -> dict[str, Estimate]:  # fmt: skip
    """Run all three steps by their exact law in float32, at a cost that does not grow with d."""
    setting = Setting.of(params)
    values = simulate_trials(
        setting, dim, samples, trials, prompt_norm, key=key, head_rate=float(head_rate)
    )
    # One sequence shows no variance.
    measured = [name for name in NAMES if samples > 1 or not name.endswith("variance")]
    return {name: mean_estimate(values[:, NAMES.index(name)]) for name in measured}


# No function of one trial: trials whose sequences fit into a core's cache are drawn together.
def simulate_trials(
    setting: Setting, dim: int, samples: int, trials: int, prompt_norm: float,
    *, key: Key[Array, ""], head_rate: float = 1.0,
) -> Float[np.ndarray, "trials quantity"]:  # fmt: skip
    """Both errors and alignments, then what its sequences show of the steps' terms, of every trial;
    float64. `contextual.sample_complexity` searches with it."""
    together = trials_of_a_block(setting, samples)

    def block(indices: np.ndarray) -> Any:
        runs = [
            reduced_steps(
                setting, dim, samples, prompt_norm, together,
                rng=generator_of(key, int(index)), head_rate=head_rate,
            )
            for index in np.ravel(indices)
        ]  # fmt: skip
        shape = *np.shape(indices), together
        joined = jax.tree.map(lambda *parts: np.concatenate(parts), *runs)
        return jax.tree.map(lambda x: x.reshape(*shape, *x.shape[1:]), joined)

    parts = map_trials(block, -(-trials // together))
    steps, terms = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:trials], parts)
    second, third = steps
    # Both heads are judged over the new prompt.
    heads = np.stack(
        [np.stack([*each[:3], each.head_prompt], axis=1) for each in (second, third)], axis=1
    )
    errors = errors_of_trained_heads(setting, heads, np.stack(third[3:6], axis=1), key=key,
                                     nodes=_nodes_for(samples))  # fmt: skip
    shown: dict[str, np.ndarray] = {
        "error": errors[:, 0],
        "final_error": errors[:, 1],
        "prompt_alignment": _cosine(second.prompt_context, second.prompt_norm * setting.context),
        "head_alignment": _cosine(third.head_signal, third.head_norm * setting.signal),
    }
    for step, each in enumerate(terms, start=1):
        shown |= _name_moments(step, *each)
    return np.stack([shown[name] for name in NAMES], axis=1)


def _nodes_for(samples: int) -> int:
    """Nodes that average a trial's error: trials differ less from more sequences, and cost more."""
    return 2 ** int(np.clip(np.rint(np.log2(samples / 8)), 7, 11))


def _cosine(product: np.ndarray, norms: np.ndarray) -> np.ndarray:
    """A scalar product over the product of the norms; 0 where there is no vector."""
    return product / np.where(norms > 0, norms, 1.0)


# --- the design ---

_TEN_TOKENS = {
    "tokens": 10, "relevant": 2, "signal": 1.5, "context": 1.5, "noise": 1.0,
    "shifts": ((0.0, 0.0), (0.5, 0.3)), "shift_weights": (0.5, 0.5), "prompt_norm": 4.0,
}  # fmt: skip
UNEVEN_SHIFTS = {
    "tokens": 10, "relevant": 2, "signal": 1.5, "context": 2.0, "noise": 1.0,
    "shifts": ((0.2, 0.0), (0.0, 0.2)), "shift_weights": (0.7, 0.3), "prompt_norm": 2.5,
}  # fmt: skip
_SHORT_HEAD = {
    "tokens": 3, "relevant": 1, "signal": 1.2, "context": 1.1, "noise": 0.8,
    "shifts": ((0.0, 0.0), (0.8, 0.6)), "shift_weights": (0.6, 0.4), "prompt_norm": 1.5,
}  # fmt: skip
THREE_TOKENS = {
    "tokens": 3, "relevant": 1, "signal": 2.5, "context": 1.5, "noise": 1.2,
    "shifts": ((0.8, 0.4), (0.0, -0.2)), "shift_weights": (0.6, 0.4), "prompt_norm": 1.5,
}  # fmt: skip
_RUNS = (
    # Fewer trials where an error fluctuates less.
    Run(_TEN_TOKENS, dim=200, samples=400, times=6),
    Run(_TEN_TOKENS, dim=300, samples=3000),
    Run(UNEVEN_SHIFTS, dim=400, samples=1600),
    # d is so small that d − 3 differs visibly from d.
    Run(_SHORT_HEAD, dim=100, samples=200, times=4),
    # With three tokens every part of the moments is a fair share of them; so many sequences show
    # 0.03 of one. The head is short in the first, and long in the second.
    Run(_SHORT_HEAD, dim=1500, samples=1500, times=8),
    Run(THREE_TOKENS, dim=3000, samples=3000, times=4),
)

PROMPT_NORM = Parameter(
    "prompt_norm", "real", "norm the learned prompt is rescaled to", "|q|", low=0, open_low=True
)
HEAD_RATE = Parameter(
    "head_rate", "real", "step size of the first head step", "η", low=0, open_low=True, default=1.0
)

CLAIM = Claim(
    id="contextual.three_steps",
    title="Test error after three gradient steps",
    statement=STATEMENT,
    derivation=DERIVATION,
    relation=Relation.MEAN,
    source="setting: Oymak et al., ICML 2023; formula: derived here",
    parameters=(
        *DATA_LAW,
        Parameter("dim", "integer", "token dimension", "d", low=4),
        required(SAMPLES),
        PROMPT_NORM,
        HEAD_RATE,
    ),
    ignored=tuple(p for p in FAMILY if p is not DIM),
    quantities=(
        Quantity("error", "probability of a wrong sign after step 2", 0.01),
        Quantity("final_error", "probability of a wrong sign after step 3", 0.01),
        Quantity("prompt_alignment", "mean of ⟨q, q⋆⟩/(|q|Q) after step 2", 0.01),
        Quantity("head_alignment", "mean of ⟨w, w⋆⟩/(|w|W) after step 3", 0.01),
        *(
            Quantity(name, meaning, 0.1 if name.endswith("variance") else 0.05, True)
            for name, meaning in _TERMS.items()
        ),
    ),
    falsifiers=FALSIFIERS,
    compared=Compared(
        {
            "tokens": (2, 12),
            "relevant": (1, 3),
            "signal": (0.5, 2.0),
            "context": (0.5, 2.0),
            "noise": (0.5, 1.2),
            "shifts": (-0.3, 0.6),
            "dim": (6, 24),
            "samples": (100, 1000),
            "prompt_norm": (0.5, 3.0),
            "head_rate": (0.3, 2.0),
        },
        elsewhere="`NAME_stderr` states what the quadrature loses; "
        "what the law of sums leaves out is of order 1/n²",
    ),
    closed_form=closed_form,
    simulation=simulate,
    designs={"quick": Design(*_RUNS, trials=320), "full": Design(*_RUNS, trials=4096)},
    check_parameters=check_trainable,
    broadcasts="dim and samples",
    figure=Panels(
        along_samples(
            (
                ("error after two steps", "probability of a wrong sign", {"error": ""}),
                ("error after three steps", "probability of a wrong sign", {"final_error": ""}),
                ("alignment of the prompt with q⋆", "alignment", {"prompt_alignment": ""}),
                ("alignment of the head with w⋆", "alignment", {"head_alignment": ""}),
            ),
            lambda at: f"{at['tokens']} tokens, W = {at['signal']:g}, Q = {at['context']:g}",
        ),
        "Three gradient steps: alignment and error are functions of n/d",
        "lines: theory at the largest dimension measured; points: the check's, 95 % intervals",
    ),
)
