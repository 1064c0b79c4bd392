"""Parameters that the claims of the family share, and what no single one of them can check.

A claim takes them as they are, or with another default: :func:`required`, :func:`optional`,
:func:`to_simulate`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from jaxprompt.core.parameters import MAX_EXACT_INTEGER, REQUIRED, Parameter
from jaxprompt.errors import ParameterError

__all__ = [
    "COMPARED_LAW", "CONTEXT", "DATA_LAW", "DIM", "FAMILY", "GAIN", "LAW_NAMES", "NOISE",
    "RATIO", "RELEVANT", "RIDGE", "SAMPLES", "SETTING_NAMES", "SHIFTS", "SHIFT_WEIGHTS", "SIGNAL",
    "SPARSITY", "TOKENS",
    "check_law", "check_law_and_ratio", "check_trainable", "optional", "required",
    "resolve_ratio", "sample_counts", "to_simulate",
]  # fmt: skip

DIM = Parameter("dim", "integer", "token dimension", "d", low=2, default=None)
TOKENS = Parameter("tokens", "integer", "tokens per sequence", "T", low=1, high=100_000)
RELEVANT = Parameter("relevant", "integer", "relevant tokens, 1 ≤ k ≤ T", "k", low=1)
SPARSITY = Parameter(
    "sparsity", "real", "share ζ = k/T of relevant tokens", "ζ", low=0, high=1, open_low=True,
    open_high=True,
)  # fmt: skip
SIGNAL = Parameter("signal", "real", "norm of w⋆", "W", low=0)
CONTEXT = Parameter("context", "real", "norm of q⋆", "Q", low=0)
NOISE = Parameter("noise", "real", "standard deviation of the irrelevant tokens' noise", "σ", low=0)
SHIFTS = Parameter(
    "shifts",
    "pairs",
    "pairs (δq, δw), one drawn for each sequence",
    "(δq, δw)",
    default=((0.0, 0.0),),
)
SHIFT_WEIGHTS = Parameter(
    "shift_weights", "weights", "probabilities of the shifts; equal if left out", default=None
)
GAIN = Parameter("gain", "real", "the prompt is γ q⋆", "γ")
SAMPLES = Parameter("samples", "integer", "training sequences", "n", low=1, default=None)
RATIO = Parameter("ratio", "real", "d / n", "κ", low=0, open_low=True, default=None)
RIDGE = Parameter("ridge", "real", "ridge strength", "λ", low=0, default=0.0)

DATA_LAW = (TOKENS, RELEVANT, SIGNAL, CONTEXT, NOISE, SHIFTS, SHIFT_WEIGHTS)
"""Parameters of the data's law."""

COMPARED_LAW: dict[str, tuple[float, float]] = {
    "tokens": (2, 12), "relevant": (1, 3), "signal": (0.3, 1.5), "context": (0.3, 1.5),
    "noise": (0.3, 1.2), "shifts": (-0.5, 1.0),
}  # fmt: skip
"""Ranges of the law over which claims on learning are compared with sequences drawn by token."""

FAMILY = (DIM, *DATA_LAW, GAIN, SAMPLES, RATIO, RIDGE)
"""Every parameter of the family's table; a claim accepts the ones it does not need."""

LAW_NAMES = tuple(parameter.name for parameter in DATA_LAW)
"""Names of the parameters of the data's law."""

SETTING_NAMES = (*LAW_NAMES, "gain")
"""Names of what makes a :class:`~jaxprompt.contextual.setting.Setting`: the law, and the gain of
the known prompt."""


def required(parameter: Parameter) -> Parameter:
    """`parameter` without a default."""
    return replace(parameter, default=REQUIRED)


def optional(parameter: Parameter, default: Any = None) -> Parameter:
    """`parameter` with a default, None standing for "may be left out"."""
    return replace(parameter, default=default)


def to_simulate(parameter: Parameter) -> Parameter:
    """`parameter` as one that a simulation requires and the closed form does without."""
    return replace(parameter, default=REQUIRED, simulate_only=True)


def check_law(values: dict[str, Any], where: str) -> dict[str, Any]:
    """Check what no single parameter can: k ≤ T, and one probability for each shift.

    Fills in equal `shift_weights`. Raises :class:`~jaxprompt.errors.ParameterError`.
    """
    if "tokens" in values and "relevant" in values:
        excess = np.max(np.asarray(values["relevant"]) - np.asarray(values["tokens"]))
        if excess > 0:
            raise ParameterError(
                "relevant",
                values["relevant"],
                f"at most `tokens` ({values['tokens']})",
                "lower `relevant` or raise `tokens`",
                where,
            )
    if "shifts" in values:
        count = len(values["shifts"])
        weights = values.get("shift_weights", (1.0 / count,) * count)
        if len(weights) != count:
            raise ParameterError(
                "shift_weights",
                weights,
                f"{count} probabilities, one for each of `shifts`",
                "add or remove entries, or leave it out for equal odds",
                where,
            )
        values["shift_weights"] = weights
    return values


def check_trainable(values: dict[str, Any], where: str) -> dict[str, Any]:
    """:func:`check_law`, and an irrelevant token: without one no gradient moves the prompt."""
    values = check_law(values, where)
    if np.any(np.asarray(values["relevant"]) >= np.asarray(values["tokens"])):
        raise ParameterError(
            "relevant",
            values["relevant"],
            f"less than `tokens` ({values['tokens']})",
            "lower it: where every token is relevant no step moves the prompt",
            where,
        )
    return values


def sample_counts(dim: Any, ratio: Any) -> Any:
    """Whole sample sizes n nearest to dim / ratio, at least 1.

    Raises:
        ParameterError: there are more of them than float64 counts.
    """
    counts = np.maximum(np.rint(np.asarray(dim) / np.asarray(ratio)), 1)
    if np.any(counts > MAX_EXACT_INTEGER):
        raise ParameterError("ratio", ratio, "at least dim / 2^53", "raise it or give `samples`")
    counts = counts.astype(np.int64)
    return counts if counts.ndim else int(counts)


def resolve_ratio(values: dict[str, Any], where: str) -> dict[str, Any]:
    """Settle `ratio`, d / n, and remove `samples`.

    It is dim / samples where those are given, else the ratio that the nearest whole number of
    samples has at `dim`, else the given one. Arrays broadcast.

    Raises:
        ParameterError: `samples` is given with `ratio` or without `dim`, or there is neither.
    """
    dim, samples = values.get("dim"), values.pop("samples", None)
    if samples is not None and "ratio" in values:
        raise ParameterError(
            "samples", samples, "left out when `ratio` is given", "give one of the two", where
        )
    if samples is not None and dim is None:
        raise ParameterError("dim", "(missing)", "an integer ≥ 2", "give it with `samples`", where)
    if samples is None and "ratio" not in values:
        allowed = "a number > 0, or `dim` with `samples`"
        raise ParameterError("ratio", "(missing)", allowed, "give d / n", where)
    if samples is None and dim is not None:
        samples = sample_counts(dim, values["ratio"])
    if samples is not None:
        values["ratio"] = np.asarray(dim) / np.asarray(samples)
    if np.ndim(values["ratio"]) == 0:
        values["ratio"] = float(values["ratio"])
    return values


def check_law_and_ratio(values: dict[str, Any], where: str) -> dict[str, Any]:
    """:func:`check_law`, then :func:`resolve_ratio`, for claims that predict at a d/n."""
    return resolve_ratio(check_law(values, where), where)
