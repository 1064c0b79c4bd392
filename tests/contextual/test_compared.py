"""Closed forms against independent evaluations over the ranges that the claims state.

A claim says in `compared` over which ranges it is compared beyond its own check, and this file
draws points from those ranges and goes to each of their ends. Each oracle is NumPy and SciPy alone,
token by token, by quadrature or by the stated equations on drawn sequences, and gives for each
quantity a number and its standard error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import contextual_oracles as oracles
import numpy as np
import pytest
from compared_points import Point, points_of, values_outside
from drawn_sequences import (
    FewNumbers,
    Numbers,
    descent_of,
    draw_tokens,
    drawn_features,
    mean_of,
    stated_limit,
)
from quick_cases import mostly_slow
from scipy import integrate, optimize, special

import jaxprompt as jp
from jaxprompt.errors import JaxpromptError, ParameterError

DRAWN, DRAWN_SLOWLY = 2, 60
"""Points drawn from the ranges of each claim, beside those at ends."""

SHAPES = ("tokens", "relevant")
"""Parameters of which few values are compiled."""

FAR = 4.75
"""Standard errors: one of a thousand comparisons passes them with odds of 1 in 500."""

SECOND_LOOKS = 25
"""Times that an oracle is asked again where it is far off. The standard error of a few batches has
few degrees of freedom, so some of hundreds of comparisons are beyond :data:`FAR` by chance."""


# --- points ---


def repaired(point: Point) -> Point:
    """Fewer relevant tokens than tokens, whatever was drawn; dimensions that have sign patterns."""
    if "tokens" in point:
        point["relevant"] = min(point["relevant"], point["tokens"] - 1)
    if "entries" in point:
        point["dim"] = max(4, point["dim"] // 4 * 4)
    return point


# --- oracles ---


def conditional_error(at: Point, random: np.random.Generator) -> Numbers:
    """Share of wrong signs among sequences attended to in four dimensions."""
    head, prompt = vectors(at)
    label, tokens = draw_tokens(at, 4, 20_000, random)
    weights = special.softmax(tokens @ prompt, axis=1)
    margin = label * np.einsum("nt,ntd,d->n", weights, tokens, head)
    share, count = float((margin < 0).mean()), len(margin)
    # As if one more sequence of each kind had been seen: a share of 0 is not exact.
    return {"error": (share, float(np.sqrt((share + 1 / count) * (1 - share + 1 / count) / count)))}


def vectors(at: Point) -> tuple[np.ndarray, np.ndarray]:
    """A head and a prompt with a point's products: their rests by a Cholesky factor."""
    head, prompt = np.zeros(4), np.zeros(4)
    for vector, name in ((head, "head"), (prompt, "prompt")):
        vector[0] = at[f"{name}_signal"] / at["signal"]
        vector[1] = at[f"{name}_context"] / at["context"]
    rest = np.sqrt(max(at["prompt_norm"] ** 2 - prompt @ prompt, 0.0))
    prompt[2] = rest
    head[2] = (at["head_prompt"] - head[:2] @ prompt[:2]) / rest
    head[3] = np.sqrt(max(at["head_norm"] ** 2 - head @ head, 0.0))
    return head, prompt


def with_possible_products(at: Point) -> Point:
    """The same with products that vectors of the stated ranges have."""
    random = np.random.default_rng(round(1e6 * at["head_norm"]))
    head, prompt = random.normal(size=(2, 4))
    head *= at["head_norm"] / np.linalg.norm(head)
    prompt *= at["prompt_norm"] / np.linalg.norm(prompt)
    sizes = {"signal": (at["signal"], 0), "context": (at["context"], 1)}
    products = {
        f"{name}_{of}": float(vector[i] * size)
        for name, vector in (("head", head), ("prompt", prompt))
        for of, (size, i) in sizes.items()
    }
    return {**at, **products, "head_prompt": float(head @ prompt)}


def first_step(at: Point, random: np.random.Generator) -> Numbers:
    """Moments of the labelled mean token, of which the head is a mean over n sequences."""
    label, tokens = draw_tokens(at, at["dim"], 10_000, random)
    rows = label[:, None] * tokens.mean(axis=1)
    signal, stderr = mean_of(rows[:, 0])
    # E|ŵ|² = |Er|² + (E|r|² − |Er|²)/n, and Er is along w⋆ alone.
    square, square_stderr = mean_of((rows**2).sum(axis=1))
    n = at["samples"]
    return {
        "signal": (signal, stderr),
        "energy": (
            signal**2 + (square - signal**2) / n,
            float(np.hypot(2 * signal * stderr * (1 - 1 / n), square_stderr / n)),
        ),
    }


def prompt_step(at: Point, random: np.random.Generator) -> Numbers:
    """The step of single sequences, with the tokens' covariance written out."""
    dim = at["dim"]
    head = np.zeros(dim)
    head[0], head[1] = at["head_signal"] / at["signal"], at["head_context"] / at["context"]
    head[2] = np.sqrt(max(at["head_norm"] ** 2 - head @ head, 0.0))
    label, tokens = draw_tokens(at, dim, 20_000, random)
    mean = tokens.mean(axis=1)
    centred = tokens - mean[:, None]
    step = np.einsum("ntd,nt->nd", centred, centred @ head) / at["tokens"]
    step *= at["prompt_rate"] * (label - mean @ head)[:, None]
    return {
        "signal": mean_of(step[:, 0]),
        "context": mean_of(step[:, 1]),
        "orthogonal_energy": mean_of((step[:, 3:] ** 2).sum(axis=1) / at["samples"]),
    }


def prompt_error(at: Point, random: np.random.Generator) -> Numbers:
    """The statement on drawn signals and noise levels; ten batches of them tell its error."""
    batches = [stated_limit(at, *drawn_features(at, 10_000, random)) for _ in range(10)]
    names = ("error", "head_signal", "head_noise")
    return {
        name: mean_of(np.array(column))
        for name, column in zip(names, zip(*batches, strict=True), strict=True)
    }


def context_gain(at: Point, random: np.random.Generator) -> Numbers:
    """Exponential moments by quadrature, and the best gain by SciPy from many starts."""

    def law(gain: float) -> tuple[float, float, float]:
        score = gain * at["context"]
        first, second = (
            np.exp(-k * score * at["shift_context"] * at["context"])
            * exponential_moment(k * score * at["noise"])
            for k in (1, 2)
        )
        near = at["sparsity"] * np.exp(score * at["context"])
        total = near + (1 - at["sparsity"]) * first
        spread = (1 - at["sparsity"]) * second / total**2
        mean = (near - (1 - at["sparsity"]) * first * at["shift_signal"]) / total
        return near / total, spread, mean**2 / spread

    attention, spread, snr = law(at["gain"])
    unit = 1 / (at["noise"] * at["context"])
    scan = np.linspace(-6 * unit, 6 * unit + 1 / at["noise"] ** 2, 241)
    start = scan[np.argmax([law(float(g))[2] for g in scan])]
    best = optimize.minimize_scalar(
        lambda g: -law(g)[2], bounds=(start - unit / 10, start + unit / 10), method="bounded",
        options={"xatol": 1e-9 * unit},
    )  # fmt: skip
    uniform = law(0.0)[2]
    found = {"attention": attention, "spread": spread, "snr_gain": snr / uniform,
             "best_snr_gain": -best.fun / uniform}  # fmt: skip
    return {name: (float(value), 1e-7 * abs(float(value))) for name, value in found.items()}


def exponential_moment(size: float) -> float:
    """E e^{size·v} of a standard normal v, on a grid around the integrand's peak."""
    v = np.linspace(size - 12, size + 12, 4001)
    return float(integrate.trapezoid(np.exp(size * v - v**2 / 2), v) / np.sqrt(2 * np.pi))


def best_prompt(at: Point, random: np.random.Generator) -> Numbers:
    """Both exponents maximised numerically, on eigenvalues written out."""
    dim, factor = at["dim"], 1 + at["shift_context"]
    variances = ((np.arange(dim) + 0.5) / dim) ** -at["exponent"]
    variances *= at["noise"] ** 2 / variances.mean()
    w = np.where(np.arange(dim) % 2, 1.0, -1.0) * (1 + (np.arange(dim) + 0.5) / dim)
    q = np.where(np.arange(dim) % 4 < 2, 1.0, -1.0) * (1.5 - (np.arange(dim) + 0.5) / dim)
    q -= (q @ w) / (w @ w) * w
    q *= at["context"] / np.linalg.norm(q)
    best = optimize.minimize(
        lambda x: 2 * x**2 @ variances - 2 * factor * x @ q, np.zeros(dim),
        jac=lambda x: 4 * variances * x - 2 * factor * q, method="BFGS", options={"gtol": 1e-9},
    )  # fmt: skip
    along = optimize.minimize_scalar(
        lambda g: float(2 * g**2 * (q**2 @ variances) - 2 * factor * g * (q @ q))
    )
    found = {"best_snr_gain": np.exp(-best.fun), "along_snr_gain": np.exp(-along.fun)}
    return {name: (float(value), 1e-7 * float(value)) for name, value in found.items()}


def separation(at: Point, random: np.random.Generator) -> Numbers:
    """The threshold by a fine scan with refinement, the least gain by root finding."""
    z, delta = at["sparsity"], at["shift"]
    odds = np.log(z / (1 - z))

    def share(b: float) -> float:
        return z * special.expit(odds + b) + (1 - z) * special.expit(odds - delta * b)

    scan = np.concatenate([np.linspace(-60, 60, 4001), np.linspace(-60, 60, 4001) / delta])
    top = scan[np.argmax([share(b) for b in scan])]
    width = 0.05 * max(1.0, 1 / delta)
    best = optimize.minimize_scalar(
        lambda b: -share(b), bounds=(top - width, top + width), method="bounded",
        options={"xatol": 1e-10},
    )  # fmt: skip
    threshold = max(z, 1 - z, share(top), -best.fun)

    def lead(gain: float) -> float:  # of relevant tokens over shifted ones, on the output
        s = special.expit(odds + gain * (1 + delta) * at["context"] ** 2)
        return s - (1 - s) * delta

    gain = 0.0 if lead(0.0) >= 0 else optimize.brentq(lead, 0.0, 1e6, xtol=1e-13)
    return {"threshold": (float(threshold), 1e-9), "least_gain": (gain, 1e-9 * (1 + gain))}


def sgd_step(at: Point, random: np.random.Generator) -> Numbers:
    """One step on single sequences in all dimensions, with both gradients written out."""
    dim = at["dim"]
    head, prompt = (np.zeros(dim) for _ in range(2))
    head[:4], prompt[:4] = vectors(at)
    label, tokens = draw_tokens(at, dim, 40_000, random)
    weights = special.softmax(tokens @ prompt, axis=1)
    of_tokens = tokens @ head
    output = (weights * of_tokens).sum(axis=1)
    miss = descent_of(at, label, output)[:, None]
    by_head = np.einsum("nt,ntd->nd", weights, tokens)
    by_prompt = np.einsum("nt,ntd->nd", weights * (of_tokens - output[:, None]), tokens)
    moved_head = head + at["head_rate"] / dim * miss * by_head
    moved_prompt = prompt + at["prompt_rate"] / dim * miss * by_prompt
    new = {
        "head_signal": at["signal"] * moved_head[:, 0],
        "head_context": at["context"] * moved_head[:, 1],
        "prompt_signal": at["signal"] * moved_prompt[:, 0],
        "prompt_context": at["context"] * moved_prompt[:, 1],
        "head_energy": (moved_head**2).sum(axis=1),
        "prompt_energy": (moved_prompt**2).sum(axis=1),
        "head_prompt": (moved_head * moved_prompt).sum(axis=1),
    }
    lengths = {f"{name}_energy": at[f"{name}_norm"] ** 2 for name in ("head", "prompt")}
    old = {**at, **lengths}
    return {f"{name}_change": mean_of(dim * (value - old[name])) for name, value in new.items()}


FLOW_NUMBERS = ("head_signal", "prompt_context", "head_energy", "prompt_energy", "error")


def of_batches(
    at: Point, random: np.random.Generator, last: Callable[[FewNumbers], np.ndarray]
) -> Numbers:
    """Ten independent sets of tokens, whose spread tells the error."""
    table = []
    for _ in range(10):
        drawn = FewNumbers(at, 3000, random)
        table.append(drawn.numbers(last(drawn)))
    columns = zip(FLOW_NUMBERS, zip(*table, strict=True), strict=True)
    found = {name: mean_of(np.array(column)) for name, column in columns}
    # Wrong signs are counted: none among so many leaves an error of their inverse possible.
    error, stderr = found["error"]
    return {**found, "error": (error, max(stderr, 1 / (10 * 3000)))}


def flow(at: Point, random: np.random.Generator, start: list[float], head_rate: float) -> Numbers:
    """The flow by Runge and Kutta's rule of order 4 with 12 steps."""

    def last(drawn: FewNumbers) -> np.ndarray:
        state, step = np.array(start), at["time"] / 12
        for _ in range(12):
            one = drawn.drift(state, head_rate, at["prompt_rate"])
            two = drawn.drift(state + step / 2 * one, head_rate, at["prompt_rate"])
            three = drawn.drift(state + step / 2 * two, head_rate, at["prompt_rate"])
            four = drawn.drift(state + step * three, head_rate, at["prompt_rate"])
            state = state + step / 6 * (one + 2 * two + 2 * three + four)
        return state

    return of_batches(at, random, last)


def sgd_flow(at: Point, random: np.random.Generator) -> Numbers:
    start = [0.0, 0.0, at["head_norm"] ** 2, at["prompt_norm"] ** 2]
    return flow(at, random, start, at["head_rate"])


def prompt_tuning(at: Point, random: np.random.Generator) -> Numbers:
    start = [at["head_signal"], 0.0, at["head_norm"] ** 2, at["prompt_norm"] ** 2]
    found = flow(at, random, start, 0.0)
    return {name: found[name] for name in ("prompt_context", "prompt_energy", "error")}


def giant_steps(at: Point, random: np.random.Generator) -> Numbers:
    rates = at["head_rate"], at["prompt_rate"]

    def last(drawn: FewNumbers) -> np.ndarray:
        state = np.array([0.0, 0.0, at["head_norm"] ** 2, at["prompt_norm"] ** 2])
        for _ in range(at["steps"]):
            state = drawn.large_step(state, rates, at["ratio"])
        return state

    return of_batches(at, random, last)


def two_stage(at: Point, random: np.random.Generator) -> Numbers:
    """Both steps on drawn tokens, then :func:`stated_limit` over the prompt that they give."""
    table = []
    for _ in range(10):
        drawn = FewNumbers(at, 10_000, random)
        # The head's step from 0 is towards the mean of the labelled mean tokens.
        by_head, _, noise = drawn.means(np.zeros(4))
        along = at["head_rate"] * by_head[0]
        energy = along**2 + at["head_rate"] ** 2 * at["head_ratio"] * noise[0]
        state = np.array([along * at["signal"], 0.0, energy, 0.0])
        _, by_prompt, noise = drawn.means(state)
        cosine = by_prompt[1] / np.hypot(by_prompt[1], np.sqrt(at["prompt_ratio"] * noise[1]))
        features = drawn_features_of_prompt(at, cosine, 10_000, random)
        table.append((stated_limit(at, *features)[0], float(cosine)))
    columns = zip(("error", "prompt_alignment"), zip(*table, strict=True), strict=True)
    return {name: mean_of(np.array(column)) for name, column in columns}


def drawn_features_of_prompt(
    at: Point, cosine: float, count: int, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """α and τ² of sequences under a prompt at an angle to q⋆, whose rest is away from w⋆."""
    shifts = np.asarray(at["shifts"])
    shift = shifts[random.integers(len(shifts), size=count)]
    near, length = at["relevant"], at["prompt_norm"]
    scores = length * at["noise"] * random.normal(size=(count, at["tokens"]))
    scores[:, near:] -= length * cosine * at["context"] * shift[:, :1]
    scores[:, :near] = length * cosine * at["context"]
    weights = special.softmax(scores, axis=1)
    kept = weights[:, :near].sum(axis=1)
    alpha = (kept - (1 - kept) * shift[:, 1]) * at["signal"]
    return alpha, at["noise"] ** 2 * (weights[:, near:] ** 2).sum(axis=1)


ORACLES: dict[str, Callable[[Point, np.random.Generator], Numbers]] = {
    "contextual.best_prompt": best_prompt,
    "contextual.best_ridge": oracles.best_ridge,
    "contextual.conditional_error": conditional_error,
    "contextual.context_gain": context_gain,
    "contextual.convex_head": oracles.convex_head,
    "contextual.first_step": first_step,
    "contextual.giant_steps": giant_steps,
    "contextual.prompt_error": prompt_error,
    "contextual.prompt_step": prompt_step,
    "contextual.prompt_tuning": prompt_tuning,
    "contextual.same_data": oracles.same_data,
    "contextual.sample_complexity": oracles.sample_complexity,
    "contextual.score_universality": oracles.score_universality,
    "contextual.separation": separation,
    "contextual.sgd_flow": sgd_flow,
    "contextual.sgd_spread": oracles.sgd_spread,
    "contextual.sgd_step": sgd_step,
    "contextual.three_steps": oracles.three_steps,
    "contextual.token_law_error": oracles.token_law_error,
    "contextual.training": oracles.training,
    "contextual.two_stage": two_stage,
}


DEAR = {
    "contextual.best_ridge": 8, "contextual.sgd_spread": 12, "contextual.training": 6,
    "contextual.convex_head": 20, "contextual.same_data": 20, "contextual.sample_complexity": 20,
    "contextual.score_universality": 20, "contextual.three_steps": 20,
    "contextual.token_law_error": 20,
}  # fmt: skip
"""Points drawn slowly for claims of which a second is one."""

AT_ONE_POINT = (
    "contextual.best_ridge", "contextual.sample_complexity", "contextual.score_universality",
    "contextual.sgd_spread", "contextual.token_law_error", "contextual.training",
)  # fmt: skip
"""Claims of which a point takes a second or more: the default run tries one, the slow test more."""

OF_VECTORS = ("contextual.conditional_error", "contextual.sgd_step")
"""Claims on a head and a prompt, whose products are those of some vectors."""


def test_every_stated_range_has_an_oracle():
    """Of this family; a claim without ranges states those of its designs alone."""
    stated = {claim.id for claim in jp.claims("contextual") if claim.compared.ranges}
    assert stated == set(ORACLES)


def assert_near_oracle(id: str, count: int, corners: bool = False, most: int | None = None) -> None:
    claim, random = jp.claim(id), np.random.default_rng(11)
    far = []
    for point in points_of(claim, count, repair=repaired, coarse=SHAPES, corners=corners)[:most]:
        at = with_possible_products(point) if id in OF_VECTORS else point
        given = {**at, "law": "aligned"} if id == "contextual.separation" else at
        try:
            predicted = claim.predict(**given)
        except ParameterError as refused:
            if refused.name != "target":
                raise
            with pytest.raises(oracles.UnreachedError):
                ORACLES[id](at, random)
            continue
        suspects = far_from(predicted, ORACLES[id](at, random))
        if suspects:
            looks = [ORACLES[id](at, random) for _ in range(SECOND_LOOKS)]
            again = {name: joined([look[name] for look in looks]) for name in suspects}
            far += [f"{text} at {at}" for text in far_from(predicted, again).values()]
    assert not far, "\n".join(far)


def far_from(predicted: Mapping[str, float], oracle: Numbers) -> dict[str, str]:
    """Names of the numbers that are beyond :data:`FAR`, and what is to be said of each."""
    far = {}
    for name, (value, stderr) in oracle.items():
        error = np.hypot(stderr, predicted.get(f"{name}_stderr", 0.0))
        if not abs(predicted[name] - value) <= FAR * error + 1e-9 * abs(value):
            far[name] = f"{name}: {predicted[name]} for {value} ± {error}"
    return far


def joined(looks: list[tuple[float, float]]) -> tuple[float, float]:
    """The mean of an oracle's answers. What they state but do not scatter by is no chance, and
    stays."""
    values, errors = np.array(looks).T
    scatter, stated = float(values.std(ddof=1)), float(np.sqrt(np.square(errors).mean()))
    by_chance = max(scatter, stated) / np.sqrt(len(values))
    return float(values.mean()), by_chance if 2 * scatter >= stated else stated


LONGEST = (
    "contextual.best_ridge", "contextual.conditional_error", "contextual.convex_head",
    "contextual.same_data", "contextual.three_steps", "contextual.training",
)  # fmt: skip
"""Claims that take more than a second here; their own tests set what they predict beside oracles
too."""


@pytest.mark.parametrize("id", mostly_slow(ORACLES, lambda id: id not in LONGEST))
def test_predictions_over_the_stated_ranges(id):
    """The ends of all parameters fall on few points here; in the slow test each has its own."""
    most = 1 if id in AT_ONE_POINT else None
    assert_near_oracle(id, 1 if id in DEAR else DRAWN, corners=True, most=most)


@pytest.mark.slow
@pytest.mark.parametrize("id", list(ORACLES))
def test_predictions_at_many_points_of_the_stated_ranges(id):
    assert_near_oracle(id, DEAR.get(id, DRAWN_SLOWLY))


@pytest.mark.parametrize("claim", jp.claims("contextual"), ids=lambda claim: claim.id)
def test_what_is_not_allowed_is_refused(claim):
    """Just outside of what each parameter allows."""
    point = {n: v for n, v in claim.designs["quick"].runs[0].items() if n != "trials"}
    for parameter in claim.parameters:
        if parameter.kind in ("integer", "real"):
            for value in values_outside(parameter):
                with pytest.raises(JaxpromptError, match=f"`{parameter.name}`"):
                    claim.predict(**{**point, parameter.name: value})
