r"""What it costs to learn a prompt: searches over the family's closed forms.

Every function takes the data model's parameters by keyword, as the claims do (`tokens`,
`relevant`, `signal`, `context`, `noise`, and `shifts` with `shift_weights`). Samples are counted
in units of the dimension: `ratio` is d/n, and results are n/d. Step sizes, ridges and prompt
norms have the units of the claims whose closed form is searched; ranges scale with the tokens.
Everything is float64, on few quadrature nodes while searching and on all of them for the error that
is returned, so a stated error is that of a claim's ``predict`` at the stated place.

Ways to learn, by name:

* ``"known_prompt"``: a ridge head over the prompt γq⋆, at the best gain and ridge;
* ``"linear_probe"``: a ridge head over the mean token, at the best ridge;
* ``"split"``: head step, prompt step and ridge head on fresh batches (`contextual.two_stage`);
* ``"same_data"``: the three of them on all samples (`contextual.same_data`);
* ``"sgd"``: one pass of SGD over head and prompt from 0, at constant rates (`contextual.sgd_flow`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import optimize

from jaxprompt.contextual.law.ridge_limit import best_ridge, ridge_limit
from jaxprompt.contextual.law.same_data_limit import same_data_limit
from jaxprompt.contextual.law.sgd_flow import FlowPath, Rates, drift, flow_path
from jaxprompt.contextual.law.sgd_moments import (
    THEORY,
    Loss,
    constant_state,
    symmetric_error,
    unit_of_energy,
)
from jaxprompt.contextual.law.staged_limit import (
    coarse_learned_features,
    head_after_step,
    learned_features,
    mean_token_noise,
    prompt_alignment,
    prompt_pull,
)
from jaxprompt.contextual.setting import Setting
from jaxprompt.errors import NumericalError, ParameterError

__all__ = [
    "PROCEDURES", "BestRates", "KnownPrompt", "Reuse", "Split", "best_error", "best_known_prompt",
    "best_rates", "best_reuse", "best_split", "crossover", "samples_for", "time_to",
]  # fmt: skip

PROCEDURES = ("known_prompt", "linear_probe", "split", "same_data", "sgd")
"""Ways to learn, by name."""

_NODES, _REPLICATES = 256, 2
"""Quadrature of a search: an error is flat at its least, so the place needs few."""

_PAIRS = 32
"""Nodes of a replicate, each with its mirror image, along a flow that a search follows."""

_LEAST_SAMPLES, _MOST_SAMPLES = 0.05, 1e4
"""Range of n/d that :func:`samples_for` and :func:`crossover` look at."""


class KnownPrompt(NamedTuple):
    """The best norm of a prompt along q⋆ (0: none) and the best ridge, with the error there."""

    error: float
    prompt_norm: float
    ridge: float


class Split(NamedTuple):
    """The best way to spend n samples on three fresh batches.

    Limiting error; shares of n for head step, prompt step and ridge head; the head's step size, the
    prompt's norm, the ridge; and the prompt's cosine with q⋆.
    """

    error: float
    head_share: float
    prompt_share: float
    last_share: float
    head_rate: float
    prompt_norm: float
    ridge: float
    prompt_alignment: float


class Reuse(NamedTuple):
    """The best step size, prompt norm and ridge of three steps on the same data."""

    error: float
    head_rate: float
    prompt_norm: float
    ridge: float
    prompt_alignment: float


class BestRates(NamedTuple):
    """The best constant rates of head and prompt for one pass of SGD, with the error at its end."""

    error: float
    head_rate: float
    prompt_rate: float


# --- the last fit ---


def _make_setting(model: dict[str, Any], where: str) -> Setting:
    setting = Setting.make(**model, where=where)
    if not setting.irrelevant:
        raise ParameterError(
            "relevant", setting.relevant, f"less than `tokens` ({setting.tokens})",
            "lower it: where every token is relevant no step moves the prompt", where,
        )  # fmt: skip
    return setting


def _units(setting: Setting) -> tuple[float, float, float]:
    """Units of a head's step size, of a prompt's norm and of a ridge: pure numbers times them do
    not depend on the unit of the tokens."""
    shift, odds = np.asarray(setting.shifts)[:, 1], np.asarray(setting.shift_weights)
    share = setting.relevant / setting.tokens
    signal = float(np.square(share - (1 - share) * shift) @ odds) * float(setting.signal) ** 2
    power = signal + mean_token_noise(setting) or 1.0
    length = float(setting.noise or setting.context or 1.0)
    return 1 / power, 1 / length, power


_LOG_RATE, _LOG_NORM, _LOG_RIDGE = (-7.0, 5.0), (-5.0, 4.0), (-9.0, 8.0)
"""Natural logarithms of the searched multiples of those units."""


def _least(
    function: Callable[[np.ndarray], float], starts: Sequence[Sequence[float]],
    bounds: Sequence[tuple[float, float]],
) -> np.ndarray:  # fmt: skip
    """The place of the least of the minima that Nelder and Mead's method finds from the starts."""
    results: list[Any] = [
        optimize.minimize(
            function, np.asarray(start, np.float64), method="Nelder-Mead", bounds=bounds,
            options={"xatol": 0.01, "fatol": 1e-6, "maxfev": 80 * len(bounds)},
        )
        for start in starts
    ]  # fmt: skip
    return min(results, key=lambda result: result.fun).x


def _check_ratio(ratio: float, where: str) -> float:
    if not (np.ndim(ratio) == 0 and np.isfinite(ratio) and ratio > 0):
        raise ParameterError("ratio", ratio, "a number > 0", "give d / n", where)
    return float(ratio)


def _coarse_error(
    setting: Setting, ratio: float, norm: float, cosine: float, ridge: float
) -> float:
    features = coarse_learned_features(setting, norm, cosine, nodes=_NODES, replicates=_REPLICATES)
    return float(ridge_limit(features, ratio, ridge).error.mean())


def best_known_prompt(ratio: float, *, probe: bool = False, **model: Any) -> KnownPrompt:
    """The best norm of a prompt along q⋆ and the best ridge for n = d/`ratio`, in the limit.

    With `probe` the norm stays 0: the linear probe, a ridge head over the mean token.

    Raises:
        ParameterError: a parameter is unknown or outside what is allowed.
    """
    where = "best_known_prompt"
    setting, ratio = _make_setting(model, where), _check_ratio(ratio, where)
    _, length, power = _units(setting)

    def error(logarithms: np.ndarray) -> float:
        norm, ridge = np.exp(logarithms) * (length, power)
        return _coarse_error(setting, ratio, norm, 1.0, ridge)

    if probe:
        features = learned_features(setting, 0.0, 1.0)
        norm, ridge = 0.0, best_ridge(features, ratio)
    else:
        starts = [(norm, ridge) for norm in (-1.0, 1.0) for ridge in (-2.0, 4.0)]
        multiples = np.exp(_least(error, starts, (_LOG_NORM, _LOG_RIDGE)))
        norm, ridge = (float(x) for x in multiples * (length, power))
        features = learned_features(setting, norm, 1.0)
    return KnownPrompt(float(ridge_limit(features, ratio, ridge).error.mean()), norm, ridge)


# --- learned prompts ---


def best_split(ratio: float, *, least_share: float = 0.05, **model: Any) -> Split:
    """The best split of n = d/`ratio` samples into three fresh batches, in the limit.

    Shares of the samples, the head's step size, the prompt's norm and the ridge are searched
    together; each batch has at least `least_share` of the samples (float in (0, 1/3]). Step size
    and shares enter through the cosine of prompt and q⋆ alone, which is made as large as can be
    for the samples that the ridge head leaves over.

    Raises:
        ParameterError: a parameter is unknown or outside what is allowed.
    """
    setting = _make_setting(model, "best_split")
    total = 1 / _check_ratio(ratio, "best_split")
    if not 0 < least_share <= 1 / 3:
        raise ParameterError(
            "least_share", least_share, "a number in (0, 1/3]", "lower it", "best_split"
        )
    _, length, power = _units(setting)
    known: dict[float, tuple[float, float, float]] = {}

    def best_steps(last: float) -> tuple[float, float, float]:
        """Cosine, share of the head step and its rate, for a share of the ridge head."""
        shares = round(last, 6)
        if shares not in known:
            known[shares] = _best_two_steps(setting, total, 1 - last, least_share)
        return known[shares]

    def error(choice: np.ndarray) -> float:
        share, *logarithms = choice
        norm, ridge = np.exp(logarithms) * (length, power)
        cosine = best_steps(float(share))[0]
        return _coarse_error(setting, 1 / (total * share), norm, cosine, ridge)

    bounds = ((least_share, 1 - 2 * least_share), _LOG_NORM, _LOG_RIDGE)
    starts = [
        (last, norm, ridge)
        for last, norm in ((0.3, 0.0), (0.8, -2.0))
        for ridge in (-2.0, 3.0)
    ]  # fmt: skip
    starts = [(float(np.clip(s[0], *bounds[0])), *s[1:]) for s in starts]
    last, *logarithms = _least(error, starts, bounds)
    cosine, head_share, rate = best_steps(float(last))
    norm, ridge = (float(x) for x in np.exp(logarithms) * (length, power))
    features = learned_features(setting, norm, cosine)
    value = float(ridge_limit(features, 1 / (total * last), ridge).error.mean())
    return Split(
        value, head_share, 1 - float(last) - head_share, float(last), rate, norm, ridge, cosine
    )


def _best_two_steps(
    setting: Setting, total: float, share: float, least_share: float
) -> tuple[float, float, float]:
    """The largest cosine of a head and a prompt step on a share of total·d samples, with the head
    step's share and its rate."""
    unit = _units(setting)[0]

    def cosine(head_share: Any, rate: Any) -> Any:
        pull = prompt_pull(setting, head_after_step(setting, 1 / (total * head_share), rate))
        return prompt_alignment(setting, pull, 1 / (total * (share - head_share)))

    heads = np.linspace(least_share, share - least_share, 33)
    rates = np.linspace(*_LOG_RATE, 97)
    best = (-np.inf, heads[0], 0.0)
    for _ in range(4):
        values = np.nan_to_num(cosine(heads[:, None], unit * np.exp(rates)), nan=-np.inf)
        i, j = np.unravel_index(np.argmax(values), values.shape)
        best = float(values[i, j]), float(heads[i]), float(unit * np.exp(rates[j]))
        near = slice(max(i - 1, 0), i + 2), slice(max(j - 1, 0), j + 2)
        heads = np.linspace(heads[near[0]][0], heads[near[0]][-1], 17)
        rates = np.linspace(rates[near[1]][0], rates[near[1]][-1], 17)
    return best


def best_reuse(ratio: float, **model: Any) -> Reuse:
    """The best step size, prompt norm and ridge of head step, prompt step and ridge head on the
    same n = d/`ratio` samples, in the limit of `contextual.same_data`.

    Raises:
        ParameterError: a parameter is unknown or outside what is allowed.
    """
    setting, ratio = _make_setting(model, "best_reuse"), _check_ratio(ratio, "best_reuse")
    units = np.array(_units(setting))

    def limit(logarithms: np.ndarray, **nodes: int) -> Any:
        rate, norm, ridge = (float(x) for x in np.exp(logarithms) * units)
        return same_data_limit(setting, ratio, ridge, norm, rate, **nodes)

    def error(logarithms: np.ndarray) -> float:
        value = limit(logarithms, nodes=2 * _NODES, replicates=_REPLICATES).error.mean()
        return float(value) if np.isfinite(value) else 1.0

    starts = [(-0.5, norm, ridge) for norm, ridge in ((0.0, 2.0), (-1.5, 5.0), (0.0, -1.0))]
    logarithms = _least(error, starts, (_LOG_RATE, _LOG_NORM, _LOG_RIDGE))
    best = limit(logarithms)
    rate, norm, ridge = (float(x) for x in np.exp(logarithms) * units)
    return Reuse(float(best.error.mean()), rate, norm, ridge, float(best.prompt_alignment.mean()))


# --- one pass of SGD ---

_START = (0.0, 0.0, 0.0, 0.0)

_NEAR = 4e-3
"""What an error on few nodes, along a flow on few nodes, may be above that on all: several times
what they differ by."""


def _coarse_path(
    setting: Setting, rates: Rates, start: tuple[float, float, float, float], loss: Loss
) -> FlowPath:
    unit = unit_of_energy(setting)
    return FlowPath(
        lambda state: drift(setting, state, rates, loss, THEORY, _PAIRS), constant_state(*start),
        speed=unit * (abs(rates.head) + abs(rates.prompt)),
        scale=np.array([1.0, 1.0, unit, unit])[:, None], accuracy=1e-3,
    )  # fmt: skip


def best_rates(ratio: float, *, loss: Loss = "square", **model: Any) -> BestRates:
    """The constant rates with the least error after one pass over n = d/`ratio` samples, from 0.

    In the limit of `contextual.sgd_flow`; rates at which the flow diverges count as error ½. A
    local search from two starts.

    Raises:
        ParameterError: a parameter is unknown or outside what is allowed.
    """
    setting, ratio = _make_setting(model, "best_rates"), _check_ratio(ratio, "best_rates")
    unit = 1 / unit_of_energy(setting)

    def error(logarithms: np.ndarray) -> float:
        rates = Rates(*(float(x) for x in np.exp(logarithms) * unit))
        try:
            state = _coarse_path(setting, rates, _START, loss).at(1 / ratio)
        except NumericalError:
            return 0.5
        return float(symmetric_error(setting, state).mean())

    head = np.log(10 * ratio)
    starts = [(head, np.log(15.0)), (head, np.log(4.0))]
    logarithms = _least(error, starts, ((-9.0, 6.0), (-9.0, 6.0)))
    rates = Rates(*(float(x) for x in np.exp(logarithms) * unit))
    state = flow_path(setting, rates, _START, loss).at(1 / ratio)
    return BestRates(float(symmetric_error(setting, state).mean()), rates.head, rates.prompt)


def time_to(
    error: float, *, head_rate: float, prompt_rate: float, head_norm: float = 0.0,
    prompt_norm: float = 0.0, loss: Loss = "square", most_time: float = 100.0, **model: Any,
) -> float:  # fmt: skip
    """The first n/d at which one pass of SGD has at most this error, in the limit.

    Rates and the norms of the random start are those of `contextual.sgd_flow`. Infinite where the
    error stays above it up to `most_time` (or until the flow diverges): at a constant rate it may
    rise again. The path is looked at in steps of 2 % of n/d.

    Raises:
        ParameterError: a parameter is unknown or outside what is allowed.
    """
    setting = _make_setting(model, "time_to")
    error = _check_error(error, "time_to")
    start = (0.0, 0.0, head_norm**2, prompt_norm**2)
    rates = Rates(float(head_rate), float(prompt_rate))
    coarse = _coarse_path(setting, rates, start, loss)
    path = flow_path(setting, rates, start, loss)

    def excess(time: float) -> float:
        return float(symmetric_error(setting, path.at(time)).mean()) - error

    def is_near(time: float) -> bool:
        """Few nodes tell where to look; all of them decide."""
        return float(symmetric_error(setting, coarse.at(time), _PAIRS).mean()) - error <= _NEAR

    if excess(0.0) <= 0:
        return 0.0
    times = np.geomspace(min(0.01, most_time), most_time, 1 + int(np.log(most_time / 0.01) / 0.02))
    try:
        for before, time in zip([0.0, *times[:-1]], times, strict=True):
            if is_near(float(time)) and excess(float(time)) <= 0:
                if excess(float(before)) <= 0:
                    return float(before)
                root: Any = optimize.brentq(excess, before, time, xtol=1e-6 * time)
                return float(root)
    except NumericalError:
        pass  # the path diverges: it is not followed beyond
    return float("inf")


# --- how many samples ---


def _check_error(error: float, where: str) -> float:
    if not 0 < error < 1:
        raise ParameterError("error", error, "a number in (0, 1)", "give a test error", where)
    return float(error)


def best_error(ratio: float, *, procedure: str, **model: Any) -> float:
    """The limiting error of a way to learn from n = d/`ratio` samples, at its best parameters.

    Raises:
        ParameterError: a parameter is unknown or outside what is allowed.
    """
    if procedure not in PROCEDURES:
        raise ParameterError(
            "procedure", procedure, f"one of {', '.join(PROCEDURES)}", "choose one", "best_error"
        )
    ratio = _check_ratio(ratio, "best_error")
    if procedure in ("known_prompt", "linear_probe"):
        return best_known_prompt(ratio, probe=procedure == "linear_probe", **model).error
    if procedure == "split":
        return best_split(ratio, **model).error
    if procedure == "same_data":
        return best_reuse(ratio, **model).error
    return best_rates(ratio, **model).error


def samples_for(
    error: float, *, procedure: str = "same_data", curve: Any = None,
    most: float = _MOST_SAMPLES, accuracy: float = 0.01, **model: Any,
) -> float:  # fmt: skip
    """The least n/d at which a way to learn, at its best parameters, has at most this error.

    To a relative `accuracy`; infinite where the error is larger still at n/d = `most`. More samples
    never hurt at the best parameters, so the crossing is bracketed and halved. With a `curve` of
    one's own data (:func:`~jaxprompt.contextual.predict_curve`) the answer is its own, in samples.

    Raises:
        ParameterError: a parameter is unknown or outside what is allowed.
    """
    error = _check_error(error, "samples_for")
    if curve is not None:
        return curve.samples_for(error)

    def reaches(samples: float) -> bool:
        return best_error(1 / samples, procedure=procedure, **model) <= error

    return _first_samples(reaches, most, accuracy)


def crossover(
    *, procedure: str = "split", most: float = _MOST_SAMPLES, accuracy: float = 0.01,
    least_gain: float = 1e-3, **model: Any,
) -> float:  # fmt: skip
    """The least n/d from which a way to learn a prompt beats the linear probe on as many samples.

    By at least `least_gain` of the error, with both at their best parameters; to a relative
    `accuracy`. The least value looked at, 0.05, stands for "at every n"; infinite where the probe
    is as good still at n/d = `most`.

    Raises:
        ParameterError: a parameter is unknown or outside what is allowed.
    """

    def wins(samples: float) -> bool:
        learned = best_error(1 / samples, procedure=procedure, **model)
        return learned <= best_error(1 / samples, procedure="linear_probe", **model) - least_gain

    return _first_samples(wins, most, accuracy)


def _first_samples(reached: Callable[[float], bool], most: float, accuracy: float) -> float:
    """The least n/d with a property that more samples keep: upwards in factors of 2, then halved.

    It starts at small n/d, where every search is cheap.
    """
    high = _LEAST_SAMPLES
    while not reached(high):
        if high >= most:
            return float("inf")
        high = min(2 * high, most)
    low = high / 2
    if high == _LEAST_SAMPLES:
        return high
    while high > low * (1 + accuracy):
        middle = float(np.sqrt(low * high))
        low, high = (low, middle) if reached(middle) else (middle, high)
    return high
