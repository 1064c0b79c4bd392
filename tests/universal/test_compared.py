"""Closed forms against independent evaluations over the ranges that the claims state.

A claim says in `compared` over which ranges it is compared beyond its own check, and this file
draws points from those ranges and goes to each of their ends. Oracles are mpmath, sums over all
centres, linear programmes, enumeration and derivatives by imaginary steps; none calls the law's own
functions. Each gives for a quantity a number and the distance at which the two may lie apart: what
its own rounding or sampling is worth.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

import mpmath as mp
import numpy as np
import pytest
from compared_points import Point, points_of, values_outside
from quick_cases import mostly_slow
from scipy import fft, optimize

import jaxprompt as jp
from jaxprompt.errors import JaxpromptError
from jaxprompt.universal.claims import quantised_prefix

Numbers = dict[str, tuple[Any, float]]

DRAWN, DRAWN_SLOWLY = 2, 40
"""Points drawn from the ranges of each claim. Beside the few are two at ends of all ranges, beside
the many some at each end of each."""


# --- points ---


def steps_below_keys(at: Point) -> Point:
    """No grid step above the size of the keys; and the weights of small prefixes alone."""
    return {**at, "key_step": min(at["key_step"], at["concentration"])}


def digits_that_are_told_apart(at: Point) -> Point:
    """A resolution that the form allows at this length; the ridge sum has two numbers."""
    length = at["content"]
    most = {"cantor": 16 // length, "joint": math.floor((2**14 / length) ** (1 / length)),
            "ridge": 12}[at["form"]]  # fmt: skip
    content = 2 if at["form"] == "ridge" else length
    return {**at, "content": content, "resolution": max(1, min(at["resolution"], most))}


def odd_centres(at: Point) -> Point:
    """Even numbers of centres do no better than the odd ones below them."""
    return {**at, "centres": at["centres"] - 1 + at["centres"] % 2}


def unchanged(at: Point) -> Point:
    return at


REPAIRS: dict[str, Callable[[Point], Point]] = {
    "universal.quantised_prefix": steps_below_keys,
    "universal.sequence_map": digits_that_are_told_apart,
    "universal.prefix_lower_bound": odd_centres,
}


# --- oracles ---


def circle_error(at: Point) -> Numbers:
    """The head's output as the sum over all centres, in 40 digits."""
    with mp.workdps(40):
        count, k = at["centres"], at["degree"]
        angle = mp.mpf(at["phase"]) / count
        mass, output = mp.mpf(0), mp.mpc(0)
        for i in range(count):
            centre = 2 * mp.pi * i / count
            weight = mp.exp(mp.mpf(at["concentration"]) * (mp.cos(angle - centre) - 1))
            mass += weight
            output += weight * mp.expj(k * centre)
        error = complex(1 - output / mass * mp.expj(-k * angle))
    # Products of numbers up to 1e6 with angles in float64.
    far = 2e-13 * (1 + 1e-3 * abs(at["phase"] * k))
    return {"error": (abs(error), far), "error_real": (error.real, far),
            "error_imag": (error.imag, far)}  # fmt: skip


def kernel_head(at: Point) -> Numbers:
    """Joint softmax over prefix and content by its definition, in 60 digits."""
    given = kernel_arrays(at)
    query, centres, values, bias = (
        given[name] for name in ("query", "centres", "values", "log_weights")
    )
    with mp.workdps(60):
        lam = mp.mpf(at["concentration"])
        scores = [
            lam * mp.fdot(map(mp.mpf, query), map(mp.mpf, b)) + mp.mpf(w)
            for b, w in zip(centres, bias, strict=True)
        ]
        top = max([*scores, mp.mpf(0)])
        mass = [mp.exp(s - top) for s in scores]
        total = mp.fsum(mass)
        gate = total / (total + at["content"] * mp.exp(-top))
        core = [float(mp.fsum(w * mp.mpf(v[i]) for w, v in zip(mass, values, strict=True)) / total)
                for i in range(2)]  # fmt: skip
        gate = float(gate)
    far = 1e-14 * (10 + 4 * at["concentration"])
    core = np.array(core)
    return {"core": (core, far), "classical": (gate * core, far), "gate": (gate, far)}


def kernel_arrays(at: Point) -> Point:
    random = np.random.default_rng(round(at["content"] + at["concentration"]))
    arrays = {"query": (3,), "centres": (6, 3), "values": (6, 2), "log_weights": (6,)}
    drawn = {name: random.normal(size=shape) for name, shape in arrays.items()}
    for name in ("query", "centres"):
        drawn[name] /= np.linalg.norm(drawn[name], axis=-1, keepdims=True)
    return {**at, **drawn}


def optimal_values(at: Point) -> Numbers:
    """The head on a dense grid of phases, with values made from mpmath's Bessel functions."""
    count, lam, k = at["centres"], at["concentration"], at["degree"]
    layer = min(count / (2 * lam * math.sin(math.pi / count)), 0.5)
    fine = np.pi + layer * np.linspace(-30, 30, 24_001)
    phase = np.unique(np.concatenate([
        np.linspace(0, 2 * np.pi, 6001), fine[(fine > 0) & (fine < 2 * np.pi)]
    ]))  # fmt: skip
    centre = 2 * np.pi * np.arange(count) / count
    raw = np.empty(len(phase), complex)
    for block in np.array_split(np.arange(len(phase)), 20):
        angle = phase[block] / count
        near = np.cos(angle[:, None] - centre)
        weight = np.exp(lam * (near - near.max(axis=1, keepdims=True)))
        raw[block] = weight @ np.exp(1j * k * centre) / weight.sum(axis=1) * np.exp(-1j * k * angle)

    def mean(values: np.ndarray) -> float:
        return float(np.trapezoid(values, phase)) / (2 * math.pi)

    with mp.workdps(30):
        rho = float(mp.besseli(k, lam) / mp.besseli(0, lam))
    scale = {
        "raw": 1.0,
        "deconvolution": 1 / rho,
        "two_term": 1 + k * k / (2 * lam),
        "least_squares": mean(raw.real) / mean(np.abs(raw) ** 2),
    }[at["method"]]
    error = np.abs(1 - scale * raw)
    rounding = 1e-13 * scale
    return {
        "sup_error": (error.max(), rounding + 2e-5 * error.max()),
        "rms_error": (math.sqrt(mean(error**2)), rounding + 1e-5 * error.max()),
        "value_norm": (scale, 1e-6 * scale),
    }


def prefix_bound(at: Point) -> Numbers:
    """The theorem's numbers in 40 digits, areas of spheres from the gamma function."""
    with mp.workdps(40):
        m, slope, accuracy = at["sphere_dim"], mp.mpf(at["lipschitz"]), mp.mpf(at["accuracy"])

        def area(n: int) -> Any:
            return 2 * mp.pi ** (mp.mpf(n + 1) / 2) / mp.gamma(mp.mpf(n + 1) / 2)

        radius = min(mp.mpf(1) / 2, accuracy / (6 * slope))
        constant = 2 * m * mp.pi ** (m - 1) * area(m) / area(m - 1)
        count = constant * radius**-m
        near = 2 / radius**2 * mp.log(mp.pi * count / radius)
        away = 2 * mp.mpf(at["sup_norm"]) * at["content"] / accuracy
        lam = max(near, mp.log(away) / mp.cos(radius)) if away > 0 else near
        exact = {"separation": radius, "constant": constant, "centres": count,
                 "concentration": lam, "error": accuracy}  # fmt: skip
        return {name: (float(x), 1e-12 * float(x)) for name, x in exact.items()}


def prefix_lower_bound(at: Point) -> Numbers:
    """A linear programme: values for one head that best meet alternating signs at N + 1 points."""
    count, slope = at["centres"], at["lipschitz"]
    centre = 2 * np.pi * np.arange(count) / count
    points = 2 * np.pi * np.arange(count + 1) / (count + 1)
    weight = np.exp(0.1 * count**2 * (np.cos(points[:, None] - centre) - 1))
    weight /= weight.sum(axis=1, keepdims=True)
    # Neighbours are 2π/(N + 1) apart: slope L at the heights ±Lπ/(N + 1).
    aim = np.where(np.arange(count + 1) % 2, -1.0, 1.0) * np.pi / (count + 1)
    rows = np.block([[weight, -np.ones((count + 1, 1))], [-weight, -np.ones((count + 1, 1))]])
    solved = optimize.linprog(
        np.r_[np.zeros(count), 1.0], rows, np.r_[aim, -aim], bounds=[(None, None)] * (count + 1),
    )  # fmt: skip
    assert solved.success
    return {"error": (slope * solved.fun, 1e-7 * slope)}


def prefix_rate(at: Point) -> Numbers:
    """Floors from 1 − cos, and the radius of caps that N times cover the area, by mpmath.

    On the sphere S² no covering is thinner than by 2N − 4 equal triangles (Fejes Tóth): their
    angles are πN/(3N − 6), and the centre sees a side under 2π/3.
    """
    with mp.workdps(30):
        m, count = at["sphere_dim"], at["centres"]
        hull = 1 - mp.cos(mp.mpf(at["covering"]))

        def share(angle: Any) -> Any:  # of a cap, for angles up to π/2
            return mp.betainc(mp.mpf(m) / 2, 0.5, 0, mp.sin(angle) ** 2, regularized=True) / 2

        low, high = mp.mpf(0), mp.pi / 2
        for _ in range(90):
            middle = (low + high) / 2
            low, high = (middle, high) if share(middle) < mp.mpf(1) / count else (low, middle)
        if m == 2 and count > 2:
            half_angle = mp.pi * count / (6 * (count - 2))
            low = mp.acos(mp.cot(half_angle) / mp.sqrt(3))
        return {
            "hull": (float(hull), 1e-12 * float(hull)),
            "floor": (float(hull), 1e-12 * float(hull)),
            "exponent": (-1.0 / m, 1e-14),
            "error": (float(low), 1e-9),
        }


def quantised(at: Point) -> Numbers:
    """The bound in mpmath; the law by derivatives of the head in each key and value."""
    n = at["sphere_dim"] + 1
    head = quantised_prefix._identity_head(
        at["sphere_dim"], at["centres"], at["concentration"], at["content"]
    )
    queries = head.queries[::4]
    keys = at["concentration"] * head.centres

    def output(keys: np.ndarray, values: np.ndarray) -> np.ndarray:
        mass = np.exp(queries @ keys.T - at["concentration"])
        content = at["content"] * math.exp(-at["concentration"])
        return mass @ values / (mass.sum(axis=1, keepdims=True) + content)

    # Derivatives by an imaginary step, which cancels nothing.
    square, step = [0.0, 0.0], 1e-30
    for entry in np.ndindex(keys.shape):
        moved = np.zeros(keys.shape, complex)
        moved[entry] = 1j * step
        for number, outputs in enumerate(
            (output(keys + moved, head.centres), output(keys, head.centres + moved))
        ):
            square[number] += float(np.square(outputs.imag / step).sum()) / len(queries)
    # Of every fourth query both laws are means; the closed form's is over all of them.
    ratio = mean_over_queries(at, head, slice(None)) / mean_over_queries(
        at, head, slice(None, None, 4)
    )
    rms = math.sqrt(square[0] * at["key_step"] ** 2 / 12 + square[1] * at["value_step"] ** 2 / 12)
    with mp.workdps(40):
        root = mp.sqrt(n)
        bound = 2 * mp.tanh(root * at["key_step"] / 4) + root * at["value_step"] / 2
        allowed = 4 / root * mp.atanh(mp.mpf(at["accuracy"]) / 4)
        key_bits = max(mp.log(2 * mp.mpf(at["concentration"]) / allowed, 2), 0)
        value_bits = mp.log(2 * root / mp.mpf(at["accuracy"]), 2)
    return {
        "rms": (rms * ratio, 1e-9 * rms),
        "bound": (float(bound), 1e-12 * float(bound)),
        "bits_per_key": (float(key_bits), 1e-10),
        "bits_per_value": (float(value_bits), 1e-10),
    }


def mean_over_queries(at: Point, head: Any, some: slice) -> float:
    """Root of the mean of Σφ²(…) over some queries, with a softmax written out here."""
    score = at["concentration"] * (head.queries[some] @ head.centres.T - 1)
    mass = np.exp(score)
    weight = mass / (
        mass.sum(axis=1, keepdims=True) + at["content"] * math.exp(-at["concentration"])
    )
    gap = head.centres[None] - (weight @ head.centres)[:, None]
    n = at["sphere_dim"] + 1
    each = n * at["value_step"] ** 2 + np.square(gap).sum(axis=2) * at["key_step"] ** 2
    return math.sqrt(float((weight**2 * each).sum(axis=1).mean()))


def random_centres(at: Point) -> Numbers:
    """The formula in 40 digits, from mpmath's Bessel functions."""
    with mp.workdps(40):
        lam, count = mp.mpf(at["concentration"]), at["centres"]
        nu = mp.mpf(at["sphere_dim"] - 1) / 2

        def mass(x: Any) -> Any:
            return mp.gamma(nu + 1) * (2 / x) ** nu * mp.besseli(nu, x)

        def pull(x: Any) -> Any:
            return mp.besseli(nu + 1, x) / mp.besseli(nu, x)

        ratio = mass(2 * lam) / mass(lam) ** 2
        a, a2 = pull(lam), pull(2 * lam)
        bias = 1 - a + ratio / count * (a2 - a)
        mse = float(bias**2 + ratio / count * (1 - 2 * a * a2 + a * a))
    return {"mse": (mse, 1e-11 * mse)}


def sphere_limit(at: Point) -> Numbers:
    """Bessel functions and the mean angle in 50 digits."""
    m, k = at["sphere_dim"], at["degree"]
    with mp.workdps(50):
        lam, nu = mp.mpf(at["concentration"]), mp.mpf(m - 1) / 2
        rho = mp.besseli(nu + k, lam) / mp.besseli(nu, lam)
        peak = mp.asin(min(1, mp.sqrt((m - 1) / lam))) if m > 1 else mp.mpf(0)
        width = 1 / mp.sqrt(lam + m)
        around = [peak + i * width for i in (-16, -8, -4, -2, 0, 2, 4, 8, 16)]
        cuts = sorted({mp.mpf(0), mp.pi, *(min(max(t, 0), mp.pi) for t in around)})

        def weight(t: Any) -> Any:
            return mp.sin(t) ** (m - 1) * mp.exp(lam * (mp.cos(t) - 1))

    with mp.workdps(20):
        top = weight(max(peak, width / 10))
        total = mp.quad(lambda t: weight(t) / top, cuts)
        angle = mp.quad(lambda t: t * weight(t) / top, cuts) / total
    return {
        "multiplier": (float(rho), 1e-12 * (1 + float(rho))),
        "defect": (float(1 - rho), 1e-10 * float(1 - rho) + 1e-300),
        "log_multiplier": (float(mp.log(rho)), 1e-11 * (1 + abs(float(mp.log(rho))))),
        "lipschitz_bias": (float(angle), 1e-9 * float(angle)),
    }


def sequence_map(at: Point) -> Numbers:
    """Counts by enumeration; lengths by sampling; the grid by a scan; Chebyshev sums by a DCT."""
    size, length = at["resolution"], at["content"]
    if at["form"] == "cantor":
        cells = sum(1 for _ in itertools.product(range(2**size), repeat=length))
        u = np.random.default_rng(0).uniform(-0.5, 0.5, size=(400_000, length))
        distance = np.linalg.norm(u, axis=1) / 2**size
        edges = np.arange(2**size) / 2**size
        # Codes in between send the second number to the middle of every cell.
        middle = np.abs(edges[:, None] + 0.5 / 2**size - [0.5]).max()
        return {
            "mean_error": (distance.mean(), 5 * distance.std() / math.sqrt(len(u))),
            "edge_error": (middle, 1e-12),
            "layers": (len(["digits", "mix", *range(length)]), 0.0),
            "tokens": (len(edges) + length * cells, 0.0),
        }
    if at["form"] == "joint":
        scan = np.linspace(0, 1, 20_001)
        grid = (np.arange(size) + 0.5) / size
        gap = np.abs(scan[:, None] - grid).min(axis=1).max()
        cells = sum(1 for _ in itertools.product(grid, repeat=length))
        return {"sup_error": (gap, 1e-4), "layers": (2, 0.0), "tokens": (length * cells, 0.0)}
    nodes = 40
    t = np.cos(np.pi * (np.arange(nodes) + 0.5) / nodes)
    x, y = np.meshgrid((t + 1) / 2, (t + 1) / 2, indexing="ij")
    table = fft.dctn(np.exp(x * y) * np.cos(3 * x - y), type=2) / nodes**2
    table[0] /= 2
    table[:, 0] /= 2
    i, j = np.indices(table.shape)
    table = np.where(i + j > size, 0, table)
    fine = np.linspace(0, 1, 151)
    turn = np.cos(np.outer(np.arccos(2 * fine - 1), np.arange(nodes)))
    u, v = np.meshgrid(fine, fine, indexing="ij")
    error = np.abs(turn @ table @ turn.T - np.exp(u * v) * np.cos(3 * u - v)).max()
    return {"polynomial_error": (error, 0.01 * error + 1e-13), "layers": (1 + size + 1, 0.0)}


ORACLES: dict[str, Callable[[Point], Numbers]] = {
    "universal.circle_error": circle_error,
    "universal.kernel_head": kernel_head,
    "universal.optimal_values": optimal_values,
    "universal.prefix_bound": prefix_bound,
    "universal.prefix_lower_bound": prefix_lower_bound,
    "universal.prefix_rate": prefix_rate,
    "universal.quantised_prefix": quantised,
    "universal.random_centres": random_centres,
    "universal.sequence_map": sequence_map,
    "universal.sphere_limit": sphere_limit,
}

GIVEN: dict[str, Callable[[Point], Point]] = {
    "universal.kernel_head": kernel_arrays,
    "universal.prefix_rate": lambda at: {**at, "smoothness": "lipschitz"},
}
"""Parameters that are no ranges: arrays, and the choice whose numbers the oracle has."""


def test_every_claim_states_its_ranges_and_has_an_oracle():
    assert {claim.id for claim in jp.claims("universal")} == set(ORACLES)
    for claim in jp.claims("universal"):
        named = set(claim.compared.ranges)
        open_parameters = {p.name for p in claim.parameters} - named
        assert open_parameters <= {"query", "centres", "values", "log_weights", "smoothness",
                                   "accuracy"}, claim.id  # fmt: skip
        assert claim.compared.elsewhere


def disagreements(id: str, count: int) -> tuple[list[str], set[str]]:
    """Predictions that are far from the oracle, and the falsifiers that are so somewhere."""
    claim, far, caught = jp.claim(id), [], set()
    repair = REPAIRS.get(id, unchanged)
    for at in points_of(claim, count, repair=repair, corners=count == DRAWN):
        given = claim.validated(GIVEN.get(id, lambda point: point)(at))
        exact = ORACLES[id](at)
        wrong_names = names_far_from(exact, claim.predict(given))
        far.extend(f"{name} at {at}: not {exact[name]}" for name in wrong_names)
        for falsifier in claim.falsifiers:
            wrong = claim.evaluate(falsifier.predictor(claim.closed_form), given)
            if names_far_from(exact, wrong):
                caught.add(falsifier.name)
    return far, caught


def names_far_from(exact: Numbers, predicted: Mapping[str, Any]) -> list[str]:
    return [
        name
        for name, (value, allowed) in exact.items()
        if name in predicted and not (np.abs(np.asarray(predicted[name]) - value) <= allowed).all()
    ]


UNSEEN = {
    "universal.circle_error": {"best +3 %"},  # the oracle has no best concentration
    "universal.prefix_bound": {"packing −2 %"},  # nor packings
    "universal.prefix_lower_bound": {"gaps for every N"},  # right for the odd numbers drawn
    "universal.prefix_rate": {"rate of random centres"},  # of smooth targets
}


LONGEST = ("universal.circle_error", "universal.optimal_values")
"""Claims that take more than a second here; their own tests set them beside oracles too."""


@pytest.mark.parametrize("id", mostly_slow(ORACLES, lambda id: id not in LONGEST))
def test_predictions_over_the_stated_ranges(id):
    """And the oracles see what is wrong: every falsifier is far from them at some point."""
    far, caught = disagreements(id, DRAWN)
    assert not far, "\n".join(far)
    names = {falsifier.name for falsifier in jp.claim(id).falsifiers}
    assert names - caught == UNSEEN.get(id, set())


@pytest.mark.slow
@pytest.mark.parametrize("id", list(ORACLES))
def test_predictions_at_many_points_of_the_stated_ranges(id):
    far, _ = disagreements(id, DRAWN_SLOWLY)
    assert not far, "\n".join(far)


@pytest.mark.parametrize("claim", jp.claims("universal"), ids=lambda claim: claim.id)
def test_what_is_not_allowed_is_refused(claim):
    """Just outside of what each parameter allows."""
    point = {n: v for n, v in claim.designs["quick"].runs[0].items() if n != "trials"}
    if claim.id == "universal.kernel_head":
        point = kernel_arrays({"concentration": 1.0, "content": 1})
    for parameter in claim.parameters:
        if parameter.kind in ("integer", "real"):
            for value in values_outside(parameter):
                with pytest.raises(JaxpromptError, match=f"`{parameter.name}`"):
                    claim.predict(**{**point, parameter.name: value})
