"""A grid of error curves: jaxprompt beside NumPy, its own floor, scikit-learn and PyTorch.

    python benchmarks/grid.py [--trials 64] [--repeats 3] [--dims 64 96 128 192 256 512]

The grid has 6 dimensions and 8 ratios d/n, each with 3 ridges; every rival learns the same heads
from as many training sets with the same exact law (``benchmarks/rivals.py``). scikit-learn and
PyTorch get the training sets made, and are timed for the heads alone. Printed as ratios:

* time of each rival over jaxprompt's, for each dimension and for the grid;
* the share of jaxprompt's time that is its floor: normals and matrix products, and with them the
  factorisations, by this machine's own kernels and nothing else;
* growth of the time with trials, with cells and with tokens T (whose scalars are T − k of the
  d + T − k normals of a sample);
* peak memory of a process that goes to n = 10⁷.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from rivals import Model, best_time, exact_law, factorisations, floor, ridge_heads, rows

# isort: split
import jax
import numpy as np

from jaxprompt.contextual.claims.prompt_error import CLAIM

MODEL = Model()
RATIOS = (2.5, 1.7, 1.2, 0.9, 0.7, 0.45, 0.3, 0.2)
RIDGES = (0.02, 0.1, 0.5)


def sizes(dim: int, ratios: Sequence[float] = RATIOS) -> list[int]:
    """Ascending sample sizes at the grid's ratios."""
    return [max(round(dim / ratio), 1) for ratio in ratios]


def ours(dim: int, trials: int, ratios: Sequence[float] = RATIOS, model: Model = MODEL) -> Any:
    """The claim's simulation of one dimension's cells."""
    return CLAIM.simulate(
        key=0,
        trials=trials,
        dim=dim,
        samples=sizes(dim, ratios),
        ridge=list(RIDGES),
        **model.params,
    )


def distance(dim: int, trials: int) -> float:
    """The largest difference between NumPy's errors and jaxprompt's, in standard errors."""
    estimate = ours(dim, trials)["error"]
    found = exact_law(MODEL, dim, sizes(dim), RIDGES, trials, 1)
    spread = np.hypot(found.std(axis=0, ddof=1) / np.sqrt(trials), estimate.stderr)
    return float(np.abs((found.mean(axis=0) - estimate.mean) / spread).max())


# --- libraries that learn the heads, given the samples ---


def sklearn_heads(table: np.ndarray, labels: np.ndarray) -> None:
    """Ridge for each size and ridge, and linear discriminant analysis for each size."""
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.linear_model import Ridge

    features = table * labels[:, None]
    for n in sizes(table.shape[1]):
        for ridge in RIDGES:
            model = Ridge(alpha=n * ridge, fit_intercept=False, solver="cholesky")
            model.fit(features[:n], labels[:n])
        LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.1).fit(features[:n], labels[:n])


def torch_heads(table: np.ndarray, labels: np.ndarray) -> None:
    """Sums shared along the sizes and one Cholesky factorisation for each system, in float32."""
    import torch

    x = torch.from_numpy(table)
    dim, done = x.shape[1], 0
    gram, moment = torch.zeros(dim, dim), torch.zeros(dim)
    ridges = torch.tensor(RIDGES)[:, None]
    for n in sizes(dim):
        if n <= dim:
            matrix, vector = x[:n] @ x[:n].T, torch.ones(n)
        else:
            gram, moment = gram + x[done:n].T @ x[done:n], moment + x[done:n].sum(0)
            matrix, vector, done = gram, moment, n
        shifted = matrix / n + torch.diag_embed(ridges.expand(-1, len(matrix)))
        factor = torch.linalg.cholesky(shifted)
        solved = torch.cholesky_solve((vector / n)[:, None].expand(len(RIDGES), -1, 1), factor)
        if n <= dim:
            _ = solved[..., 0] @ x[:n]


def library_times(dim: int, trials: int) -> dict[str, float]:
    """Seconds for the heads of `trials` training sets, from the fastest of a few."""
    rng = np.random.Generator(np.random.SFC64(0))
    table = rows(rng, MODEL, sizes(dim)[-1], dim)
    labels = rng.integers(0, 2, len(table)) * np.float32(2) - 1
    found = {}
    for name, module, heads in (
        ("scikit-learn", "sklearn", sklearn_heads),
        ("PyTorch", "torch", torch_heads),
        ("NumPy, heads alone", "numpy", lambda x, _: ridge_heads(x, sizes(dim), RIDGES)),
    ):
        if importlib.util.find_spec(module):
            found[name] = best_time(functools.partial(heads, table, labels), 3) * trials
    return found


# --- what the time grows with ---


def growth(dim: int, trials: int, repeats: int) -> None:
    """Ratios of times: twice the trials, twice the cells, many more tokens."""

    def clock(**changes: object) -> float:
        return best_time(lambda: ours(**{"dim": dim, "trials": trials, **changes}), repeats)

    base, more = clock(), clock(trials=4 * trials)
    print(f"4 × the trials: {more / base:5.2f} × the time")
    print(f"half the cells: {clock(ratios=RATIOS[::2]) / base:5.2f} × the time (d = {dim})")
    for tokens in (8, 128, 512):
        model = MODEL._replace(T=tokens)
        draws = (dim + tokens - MODEL.K) / (dim + MODEL.T - MODEL.K)
        found = clock(model=model) / base
        print(f"T = {tokens:>4}:       {found:5.2f} × the time, {draws:5.2f} × the normals drawn")


LONG = """
import re, time
from pathlib import Path
from jaxprompt.contextual.prompt_error import CLAIM
started = time.perf_counter()
found = CLAIM.simulate(key=0, trials=2, tokens=8, relevant=2, signal=1.0, context=1.0, noise=1.0,
                       gain=1.0, ridge=0.05, dim=64, samples=[10**5, 10**6, 10**7])["error"]
# Not ru_maxrss: a new process begins with the peak of the one that started it.
peak = int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 2**20
print(f"n to 10^7: 2 trials in {time.perf_counter() - started:.0f} s, peak memory {peak:.2f} GiB "
      "(target 2)")
"""


def main() -> None:
    """Run everything side by side and print times and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--trials", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dims", type=int, nargs="+", default=[64, 96, 128, 192, 256, 512])
    options = parser.parse_args()
    trials, repeats = options.trials, options.repeats
    print(f"{platform.machine()}, {os.cpu_count()} processors seen, jax {jax.__version__}")
    print(f"{trials} trials; seconds, least of {repeats}; ratios d/n {RATIOS}, ridges {RIDGES}")
    print("   d  jaxprompt    NumPy  NumPy f32  normals  products  factors  floor/time")
    totals, z = np.zeros(6), 0.0
    libraries: dict[str, float] = {}
    for dim in options.dims:
        n = sizes(dim)
        mine = best_time(functools.partial(ours, dim, trials), repeats)
        double, single = (
            best_time(
                functools.partial(exact_law, MODEL, dim, n, RIDGES, trials, 1, dtype), repeats
            )
            for dtype in (np.float64, np.float32)
        )
        z = max(z, distance(dim, trials))
        normals, products = floor(MODEL, dim, n[-1], trials, repeats)
        factors = factorisations(dim, len(n) * len(RIDGES), trials, repeats)
        line = np.array([mine, double, single, normals, products, factors])
        totals += line
        share = line[3:].sum() / mine
        print(f"{dim:>4} " + " ".join(f"{x:9.3f}" for x in line) + f"   {share:.2f}", flush=True)
        for name, seconds in library_times(dim, trials).items():
            libraries[name] = libraries.get(name, 0.0) + seconds
    mine, double, single, normals, products, factors = totals
    cells = len(options.dims) * len(RATIOS) * len(RIDGES)
    print(f"grid {mine:.2f} s for {cells} cells; NumPy's differ by at most {z:.1f} standard errors")
    print(f"NumPy / jaxprompt                  = {double / mine:.2f}  (target 3)")
    print(f"NumPy in float32 / jaxprompt       = {single / mine:.2f}")
    print(f"(normals + products) / jaxprompt   = {(normals + products) / mine:.2f}")
    print(f"the same with factorisations       = {(normals + products + factors) / mine:.2f}")
    for name, seconds in libraries.items():
        print(f"{name} / jaxprompt: {seconds / mine:.2f}")
    growth(options.dims[len(options.dims) // 2], trials, repeats)
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", LONG], check=True)
    print(f"(with imports and compilation {time.perf_counter() - started:.0f} s)")


if __name__ == "__main__":
    main()
