"""The constant of the rate: error · N^(2/m) / log N for prefixes of up to 100 000 tokens.

    python benchmarks/prefix_rate_constant.py   measures prefix_rate_constant.csv (minutes)

``python docs/universal_pictures.py universal_rate`` draws what it holds.

The target is f(x) = x, for which raw values are the centres b, two-term values (1 + m/(2λ)) b and
deconvolved ones b/ρ₁(λ): one average of the centres under the kernel serves all three. Each is at
its best concentration. On the circle the centres are equispaced, on S² a Fibonacci spiral, on S³
the points of tori at equal distances. Several lengths near each give the interval.

A spiral has two poles, and the tori two circles, about which centres are no lattice. Errors are
measured away from them and everywhere.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from scipy import special
from scipy.spatial import KDTree

from jaxprompt.stats import half_width
from jaxprompt.universal import point_sets

HERE = Path(__file__).resolve().parent
TABLE = HERE / "prefix_rate_constant.csv"
SIZES = (100, 300, 1000, 3000, 10_000, 30_000, 100_000)
SETS = 3
METHODS = ("raw", "two_term", "deconvolution")

SHORTEST = {1: 1.0, 2: 2 * np.pi / np.sqrt(5), 3: 4 * np.pi**2 / (2 * np.pi**2) ** (2 / 3)}
"""Squared length of the shortest wave of the centres' density, over N^{2/m}: the dual lattice's."""

WAVES = {1: 1, 2: 1, 3: 3}
"""Orthogonal waves of that length."""


def centres(m: int, count: int) -> np.ndarray:
    """About `count` evenly spread centres (N, m+1)."""
    return point_sets.quasi_uniform(m, count) if m < 3 else tori(count)


def tori(count: int) -> np.ndarray:
    """Points of S³ on tori at equal distances, each with a grid of the same spacing."""
    layers = max(round(np.pi / 2 / (2 * np.pi**2 / count) ** (1 / 3)), 2)
    step = np.pi / 2 / layers
    points = []
    for j in range(layers):
        eta = (j + 0.5) * step
        rings = [max(round(2 * np.pi * r / step), 1) for r in (np.sin(eta), np.cos(eta))]
        alpha, beta = (2 * np.pi * (np.arange(n) + 0.5 * (j % 2)) / n for n in rings)
        alpha, beta = (a.ravel() for a in np.meshgrid(alpha, beta))
        points.append(np.stack([
            np.sin(eta) * np.cos(alpha), np.sin(eta) * np.sin(alpha),
            np.cos(eta) * np.cos(beta), np.cos(eta) * np.sin(beta),
        ], axis=1))  # fmt: skip
    return np.concatenate(points)


QUERIES = {1: 257, 2: 500, 3: 300}
"""Query points away from the singular places, and again as many near them."""

WIDEST = {1: 75.0, 2: 75.0, 3: 40.0}
"""Largest q²/λ tried: kernels wider still have too many centres."""


def queries(at: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Query points (Q, m+1), and which of them lie away from the singular places."""
    m, count = at.shape[1] - 1, QUERIES[at.shape[1] - 1]
    if m == 1:  # every phase of one cell
        angle = 2 * np.pi / len(at) * np.arange(count) / count
        return np.stack([np.cos(angle), np.sin(angle)], axis=1), np.ones(count, bool)
    points = random.normal(size=(30 * count, m + 1))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    # The distance to the nearer pole, or to the nearer of the two circles.
    first = np.hypot(points[:, 0], points[:, 1])
    depth = first if m == 2 else np.minimum(first, np.hypot(points[:, 2], points[:, 3]))
    regular = points[depth > 0.5][:count]
    near = points[:count].copy()
    scale = 8 * (point_sets.area(m) / len(at)) ** (1 / m) * random.random((count, 1))
    near[:, :2] *= scale / np.linalg.norm(near[:, :2], axis=1, keepdims=True)
    near[::2] = np.roll(near[::2], m - 1, axis=1) if m == 3 else near[::2] * [1, 1, -1]
    near /= np.linalg.norm(near, axis=1, keepdims=True)
    return np.concatenate([regular, near]), np.arange(len(regular) + count) < len(regular)


def averages(query: np.ndarray, at: np.ndarray, tree: KDTree, lam: float) -> np.ndarray:
    """Σ w_i b_i − x under the kernel, from the centres where it is above e^{−40}: (Q, m+1)."""
    reach = np.sqrt(80 / lam)
    if reach >= 1.5:
        near = [np.arange(len(at))] * len(query)
    else:
        near = tree.query_ball_point(query, reach + tree.query(query)[0])
    result = np.empty_like(query)
    for row, (x, index) in enumerate(zip(query, near, strict=True)):
        gap = at[index] - x
        square = np.square(gap).sum(axis=1)
        weight = np.exp(-0.5 * lam * (square - square.min()))
        result[row] = weight @ gap / weight.sum()
    return result


def value_scale(method: str, m: int, lam: float) -> float:
    """What the centres are multiplied by to be values."""
    if method == "raw":
        return 1.0
    if method == "two_term":
        return 1 + m / (2 * lam)
    nu = (m - 1) / 2
    return float(special.ive(nu, lam) / special.ive(nu + 1, lam))


def best_errors(
    at: np.ndarray, random: np.random.Generator
) -> dict[tuple[str, str], tuple[float, float]]:
    """Least over λ of the largest error, and that λ, for each kind of values and each region."""
    m, count = at.shape[1] - 1, len(at)
    wave = SHORTEST[m] * count ** (2 / m)
    tree, (query, regular) = KDTree(at), queries(at, random)
    regions = {"regular": regular, "everywhere": np.ones(len(query), bool)}
    best = {(method, region): (np.inf, 0.0) for method in METHODS for region in regions}
    for lam in wave / np.geomspace(4.5, WIDEST[m], 28):
        gap = averages(query, at, tree, lam)
        for method, region in best:
            scale = value_scale(method, m, lam)
            if scale > 10:
                continue
            missed = scale * gap + (scale - 1) * query
            error = float(np.linalg.norm(missed[regions[region]], axis=1).max())
            best[method, region] = min(best[method, region], (error, float(lam)))
    return best


def measure() -> None:
    """Measure every size and write the table."""
    rows = []
    for m in (1, 2, 3):
        for size in SIZES:
            for index in range(SETS):
                at = centres(m, round(size * (1 + 0.03 * index)))
                best = best_errors(at, np.random.default_rng([m, size, index]))
                rows += [(m, size, len(at), *key, *found) for key, found in best.items()]
            print(rows[-6], flush=True)
        with TABLE.open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            names = ("sphere_dim", "size", "centres", "method", "region", "error", "concentration")
            writer.writerow(names)
            writer.writerows((*row[:5], f"{row[5]:.6g}", f"{row[6]:.6g}") for row in rows)


def predicted(m: int, count: np.ndarray) -> np.ndarray:
    """The two-scale law of the raw error at its best concentration, at each N.

    The bias is radial, m/(2λ), and the waves of the centres' density pull sideways by the gradient
    of log Z over λ: ε = min over λ of (1/λ) √(m²/4 + 4 w q² e^{−q²/λ}), w waves of length q.
    """
    square = SHORTEST[m] * count[:, None] ** (2 / m)
    ratio = np.geomspace(0.5, 80, 4000)  # q²/λ
    error = ratio / square * np.sqrt(m * m / 4 + 4 * WAVES[m] * square * np.exp(-ratio))
    return error.min(axis=1)


def mean_constants(
    rows: list[dict[str, str]], m: int, power: int
) -> tuple[list[float], list[float], list[float]]:
    """Lengths, means over the prefixes near each, and half widths of their 95 % intervals.

    With `power` 1 the means are of error · N^(2/m) / log N, with 0 of the error.
    """
    at, mean, half = [], [], []
    for size in sorted({int(r["size"]) for r in rows}):
        group = [r for r in rows if int(r["size"]) == size]
        count = np.array([float(r["centres"]) for r in group])
        error = np.array([float(r["error"]) for r in group])
        values = error * (count ** (2 / m) / np.log(count)) ** power
        at.append(float(np.exp(np.log(count).mean())))
        mean.append(float(values.mean()))
        stderr = values.std(ddof=1) / np.sqrt(len(values))
        half.append(min(float(half_width(stderr, len(values) - 1)), 0.9 * mean[-1]))
    return at, mean, half


if __name__ == "__main__":
    measure()
