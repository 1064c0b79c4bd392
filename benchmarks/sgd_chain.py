"""SGD of head and prompt by its exact chain, and token by token, at equal standard error.

    python benchmarks/sgd_chain.py [DIM ...]

Both run one pass to n/d = 1 and estimate the mean of the same products. They have the same law, so
a standard error takes as many paths of either, and the ratio of costs is that of one step of one
path, in processor seconds. The chain's includes reading the error twice, which is half of it at
d = 100. Token by token means vectors of length d in NumPy, vectorised over paths, in float32, with
the two gradients written out. Where a pass would take long, some of its steps are measured.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from jaxprompt.compute.jax_settings import own_settings
from jaxprompt.contextual.simulation.sgd_paths import path_values
from jaxprompt.core.keys import as_key

MODEL = {
    "tokens": 8, "relevant": 2, "signal": 1.2, "context": 1.0, "noise": 1.0,
    "shifts": ((0.0, 0.0), (0.5, 0.3)), "shift_weights": (0.5, 0.5),
}  # fmt: skip
RATES = {"head_rate": 1.0, "prompt_rate": 2.0, "head_norm": 0.3, "prompt_norm": 0.3}
PATHS = 256


def chain_seconds(dim: int) -> float:
    """Processor seconds of a step and path of the chain, over a pass, compilation not counted."""

    paths = max(PATHS, 400_000 // dim)  # so that starting and reading cost little beside steps

    def run(time: float) -> None:
        with own_settings():
            path_values(
                key=as_key(0), trials=paths, first=0, where="benchmark", time=[0.0, time], dim=dim,
                **MODEL, **RATES,
            )  # fmt: skip

    run(0.0)
    pass_length = min(1.0, 2000 / dim)  # a step costs the same wherever it is
    started = time.process_time()
    run(pass_length)
    return (time.process_time() - started) / (paths * round(pass_length * dim))


def token_seconds(dim: int, least: float = 2.0) -> float:
    """Processor seconds of a step and path on whole tokens."""
    paths = max(1, min(PATHS, 4_000_000 // (8 * dim)))
    rng = np.random.default_rng(0)
    head, prompt = (
        rng.standard_normal((paths, dim), dtype=np.float32) * np.float32(0.3 / np.sqrt(dim))
        for _ in range(2)
    )
    shifts = np.array(MODEL["shifts"], np.float32)
    started, steps = time.process_time(), 0
    while time.process_time() - started < least:
        label = rng.choice(np.array([-1, 1], np.float32), paths)
        shift = shifts[rng.integers(2, size=paths)]
        tokens = np.zeros((paths, 8, dim), np.float32)
        rng.standard_normal(out=(noise := np.empty((paths, 6, dim), np.float32)), dtype=np.float32)
        tokens[:, 2:] = noise
        tokens[:, :2, 0], tokens[:, :2, 1] = 1.2 * label[:, None], 1.0
        tokens[:, 2:, 0] -= (1.2 * shift[:, 1] * label)[:, None]
        tokens[:, 2:, 1] -= shift[:, :1]
        scores = (tokens @ prompt[:, :, None])[..., 0]
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        weights /= weights.sum(axis=1, keepdims=True)
        values = (tokens @ head[:, :, None])[..., 0]
        output = (weights * values).sum(axis=1)
        slope = label - output
        tilts = weights * (values - output[:, None])
        both = (slope / dim)[:, None, None] * np.stack([weights, 2 * tilts], axis=1) @ tokens
        head += both[:, 0]
        prompt += both[:, 1]
        steps += 1
    return (time.process_time() - started) / (steps * paths)


def main() -> None:
    """Print one row for each dimension."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("dims", nargs="*", type=int, default=[100, 1000, 10_000, 100_000])
    options = parser.parse_args()
    print("     d   chain µs/step   tokens µs/step   ratio   chain s a pass   tokens s a pass")
    for dim in options.dims:
        chain, tokens = chain_seconds(dim), token_seconds(dim)
        print(
            f"{dim:6d}   {1e6 * chain:13.2f}   {1e6 * tokens:14.1f}   {tokens / chain:5.0f}"
            f"   {chain * dim:14.4f}   {tokens * dim:15.3f}"
        )


if __name__ == "__main__":
    main()
