r"""Claim ``contextual.giant_steps``: head and prompt after a few steps on large fresh batches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Key

from jaxprompt.compute.trials import per_trial
from jaxprompt.contextual.claims.sgd_flow import (
    LOSS,
    SGD_DIM,
    START,
    estimates_of,
    limit_of_state,
)
from jaxprompt.contextual.law.giant_steps import giant_steps
from jaxprompt.contextual.law.pointwise import evaluate_pointwise, with_correction
from jaxprompt.contextual.law.sgd_flow import Rates
from jaxprompt.contextual.law.sgd_moments import Formula, Loss, constant_state
from jaxprompt.contextual.parameters import (
    COMPARED_LAW,
    DATA_LAW,
    DIM,
    FAMILY,
    RATIO,
    SAMPLES,
    check_trainable,
    optional,
    resolve_ratio,
    sample_counts,
)
from jaxprompt.contextual.setting import Setting
from jaxprompt.contextual.simulation.sgd_chain import (
    Frame,
    SgdRates,
    Start,
    overlaps_of,
    run_batches,
)
from jaxprompt.contextual.simulation.sgd_paths import errors_of, padded_setting
from jaxprompt.core.claim import Claim, Compared, Curves, Design, Falsifier, Quantity, Relation, Run
from jaxprompt.core.parameters import Parameter
from jaxprompt.stats import Estimate

__all__ = ["CLAIM", "closed_form", "simulate"]

STATEMENT = r"""
Take a few steps on head and prompt together, each on the mean gradient of $n=\nu d$ fresh
sequences, at fixed rates: with $e$, $G_w$ and $G_q$ as in `contextual.sgd_step`,
$w\leftarrow w+\frac{\eta_w}n\sum_ie_iG_{w,i}$ and $q\leftarrow q+\frac{\eta_q}n\sum_ie_iG_{q,i}$,
both at the old point. From 0 or random directions, as $d\to\infty$ each step takes
$A=\langle w,w_\star\rangle$, $B=\langle q,q_\star\rangle$, $|w|^2$ and $|q|^2$ to
$$A'=(1+c)A+aW^2,\qquad |w'|^2=(1+c)^2|w|^2+2(1+c)aA+a^2W^2+\tfrac{\eta_w^2}\nu\sigma^2E[e^2p_2],$$
$$B'=(1+h)B+gQ^2,\qquad |q'|^2=(1+h)^2|q|^2+2(1+h)gB+g^2Q^2+\tfrac{\eta_q^2}\nu\sigma^2N,$$
$$a=\eta_wE[\bar e\,\alpha],\quad c=\eta_w\sigma^2E[p_2\bar e'],\quad g=\eta_qG_1,\quad
h=\eta_q\sigma G_2/|q|,$$
with the means of `contextual.sgd_flow` at the old point. The test error is the one stated there.
"""

DERIVATION = r"""
The mean of $n=\nu d$ terms fluctuates by $1/\sqrt d$ in any fixed direction, so there it is its
expectation. Along the flow's symmetry that expectation is a multiple of $w_\star$ plus one of $w$
for the head: $E[e\sum\varphi z]=\sigma^2E[p_2\bar e']\,w$ by Stein's lemma, since $\varphi$ is
independent of the noise along $w$. For the prompt it is a multiple of $q_\star$, the relevant
tokens' weight in $\psi$, plus one of $q$, its noise scores; terms along $w_\star$ and $w$ are odd
in the label. In the $d$ orthogonal directions the mean gradient is Gaussian of variance
$\sigma^2E[e^2\sum\varphi^2]/n$ each, which sums to that over $\nu$: the last terms.

With $\nu\to\infty$ this is gradient descent on the population; with small rates and many steps it
is the flow. At finite $d$ the simulation is exact: given all weights the orthogonal parts of the
two sums have a Wishart matrix of products, of scale $\sigma^2n^{-2}\sum_ie_i^2(\cdot)$.

*Tolerances.* Those of `contextual.sgd_flow`, with their reasons. Means differ from the limit by
terms in $1/d$ and $1/d^2$.
"""


# --- the closed form ---


def closed_form(
    *, tokens: int, relevant: int, signal: Any, context: Any, noise: Any, ratio: Any, steps: Any,
    head_rate: Any, prompt_rate: Any, head_norm: Any, prompt_norm: Any,
    shifts: Any = ((0.0, 0.0),), shift_weights: Any = (1.0,), loss: Loss = "square",
    sgd_noise: float = 1.0, feedback: float = 1.0, drag: float = 1.0, cross: float = 1.0,
) -> dict[str, Estimate]:  # fmt: skip
    """The four numbers and the error after `steps` steps; numbers of any shape broadcast.

    Falsifiers change the last four arguments, which the theory has at their defaults.

    Raises:
        NumericalError: the steps diverge.
    """
    formula = Formula(sgd_noise, feedback, drag)

    def limit_at(
        *, signal: float, context: float, noise: float, ratio: float, steps: float,
        head_rate: float, prompt_rate: float, head_norm: float, prompt_norm: float,
    ) -> dict[str, Estimate]:  # fmt: skip
        setting = Setting(
            tokens, relevant, signal, context, noise, 0.0, np.asarray(shifts),
            np.asarray(shift_weights),
        )  # fmt: skip
        start = constant_state(0.0, 0.0, head_norm**2, prompt_norm**2)
        rates = Rates(head_rate, prompt_rate)
        state = giant_steps(setting, start, rates, 1 / ratio, int(steps), loss, formula, cross)
        return limit_of_state(setting, state)

    return evaluate_pointwise(
        limit_at, signal=signal, context=context, noise=noise, ratio=ratio, steps=steps,
        head_rate=head_rate, prompt_rate=prompt_rate, head_norm=head_norm, prompt_norm=prompt_norm,
    )  # fmt: skip


FALSIFIERS = (
    Falsifier("no_batch_noise", "drops the noise of the batches' means", sgd_noise=0.0),
    Falsifier("no_feedback", "only the label teaches the prompt", feedback=0.0),
    Falsifier("no_drag", "drops what the prompt's noise scores cost the variance", drag=0.0),
    Falsifier("orthogonal_steps", "adds energies as if a step were orthogonal to what is there",
              cross=0.0),
    Falsifier.after(
        "correction_left", "a correction of 1.5/d left in the error, as at d = 64",
        lambda right, _: with_correction(right, "error", plus=1.5 / 64),
    ),
)  # fmt: skip


# --- the simulation ---


@per_trial(
    dtype="float64",
    batch=16,
    setup=lambda **parameters: {"setting": parameters["setting"]},
    traced=("dim", "samples", "steps", "head_rate", "prompt_rate", "head_norm", "prompt_norm"),
)
def _batches(
    *, key: Key[Array, ""], setting: Setting, dim: Array, samples: Array, steps: Array,
    head_rate: Array, prompt_rate: Array, head_norm: Array, prompt_norm: Array, logistic: Array,
) -> dict[str, Array]:  # fmt: skip
    """The inner products and the error after each of the growing numbers of `steps`."""
    path_key, error_key = jax.random.split(key)

    def read(frame: Frame, count: Array) -> dict[str, Array]:
        errors = errors_of(setting, frame, jax.random.fold_in(error_key, count))
        return overlaps_of(setting, frame) | errors

    return run_batches(
        setting, dim, samples, SgdRates(head_rate, prompt_rate), Start(head_norm, prompt_norm),
        steps, read, key=path_key, logistic=logistic,
    )  # fmt: skip


def simulate(
    *, key: Key[Array, ""], trials: int, first: int = 0, steps: Any, dim: int, ratio: float,
    loss: str = "square", **parameters: Any,
) -> dict[str, Estimate]:  # fmt: skip
    """Head and prompt by their exact law at finite d; one run serves every number of steps, so that
    this is no function of one trial at one point."""
    counts = np.atleast_1d(np.asarray(steps)).astype(np.uint32)
    order = np.argsort(counts, kind="stable")
    names = ("head_rate", "prompt_rate", "head_norm", "prompt_norm")
    values = _batches.trial_values(
        key=key, trials=trials, first=first, setting=padded_setting(parameters, CLAIM.id), dim=dim,
        samples=sample_counts(dim, ratio), steps=counts[order],
        logistic=np.asarray(loss == "logistic"),
        **{name: parameters[name] for name in names},
    )  # fmt: skip
    places = np.argsort(order)
    shape = (trials, *np.shape(steps))
    return estimates_of({n: value[:, places].reshape(shape) for n, value in values.items()})


# --- the parameters ---

STEPS = Parameter("steps", "integer", "steps taken", low=0, high=1000)
BATCH_RATES = (
    Parameter("head_rate", "real", "learning rate of the head", "η_w", low=0),
    Parameter("prompt_rate", "real", "learning rate of the prompt", "η_q", low=0),
)
BATCH_RATIO = replace(RATIO, meaning="d / n, with n fresh sequences a step")


def _check_batches(values: dict[str, Any], where: str) -> dict[str, Any]:
    return resolve_ratio(check_trainable(values, where), where)


# --- the design ---

_FROM_ZERO = {
    "tokens": 8, "relevant": 2, "signal": 1.2, "context": 1.0, "noise": 1.0,
    "shifts": ((0.0, 0.0), (0.5, 0.3)), "shift_weights": (0.5, 0.5), "ratio": 0.25,
    "head_rate": 1.5, "prompt_rate": 2.0,
}  # fmt: skip
_RANDOM_PROMPT = {
    "tokens": 8, "relevant": 2, "signal": 1.0, "context": 1.5, "noise": 1.0, "ratio": 0.5,
    "head_rate": 1.0, "prompt_rate": 1.5, "prompt_norm": 0.3,
}  # fmt: skip


def _batch_design(trials_by_dim: Mapping[int, int]) -> Design:
    runs = [
        Run(setting, dim=dim, steps=[3, 4], trials=trials)
        for setting in (_FROM_ZERO, _RANDOM_PROMPT)
        for dim, trials in trials_by_dim.items()
    ]
    return Design(*runs, trials=max(trials_by_dim.values()))


_FIGURE = Curves(
    x="steps",
    y="error",
    design=Design.product(
        {**_FROM_ZERO, "steps": [1, 2, 3, 4, 5, 6, 8], "dim": 200},
        {"ratio": [1.0, 0.5, 0.25, 0.125]},
        trials=64,
    ),
    lines=(1, 2, 3, 4, 5, 6, 7, 8),
    title="Steps on large fresh batches",
    x_label="steps",
    y_label="probability of a wrong sign",
    series="ratio",
    series_label="d / n = {value} a step",
)

CLAIM = Claim(
    id="contextual.giant_steps",
    title="A few gradient steps on large batches follow four numbers",
    statement=STATEMENT,
    derivation=DERIVATION,
    relation=Relation.ASYMPTOTIC,
    source="setting: Oymak et al., ICML 2023; formula: derived here",
    parameters=(
        *DATA_LAW, BATCH_RATIO, optional(SAMPLES), STEPS, *BATCH_RATES,
        *(replace(p, default=0.0) for p in START), LOSS, SGD_DIM,
    ),
    ignored=tuple(p for p in FAMILY if p is not DIM),
    check_parameters=_check_batches,
    quantities=(
        Quantity("head_signal", "limit of ⟨w, w⋆⟩", tolerance=0.05, symbol="A"),
        Quantity("prompt_context", "limit of ⟨q, q⋆⟩", tolerance=0.05, symbol="B"),
        Quantity("head_energy", "limit of |w|²", tolerance=0.1, relative=True),
        Quantity("prompt_energy", "limit of |q|²", tolerance=0.1, relative=True),
        Quantity("error", "limit of the probability of a wrong sign on a fresh sequence", 0.01),
    ),
    falsifiers=FALSIFIERS,
    compared=Compared(
        {
            **COMPARED_LAW,
            "ratio": (0.2, 2.0), "steps": (1, 4), "head_rate": (0.1, 1.0),
            "prompt_rate": (0.1, 1.5), "head_norm": (0.05, 0.8), "prompt_norm": (0.05, 0.8),
            "loss": LOSS.choices,
        },
        elsewhere="`NAME_stderr` states what the quadrature loses; "
        "steps that diverge are refused",
    ),
    closed_form=closed_form,
    simulation=simulate,
    designs={
        "quick": _batch_design({32: 768, 64: 512, 128: 256, 256: 128}),
        "full": _batch_design({64: 4096, 128: 2048, 256: 1024, 512: 1024}),
    },
    shared=("steps",),
    size="dim",
    powers=(1, 2),
    broadcasts="every real parameter and steps",
    figure=_FIGURE,
)  # fmt: skip
