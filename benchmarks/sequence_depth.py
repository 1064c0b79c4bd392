"""Depth and prefix tokens of six maps of sequences at one accuracy, against the length.

    python benchmarks/sequence_depth.py [--accuracy 0.2] [--lengths 2 4 8 16] [--method kernel]

Prints a Markdown row for each map and length: layers, prefix tokens of all layers, tokens of the
last layer, the least that all maps with the same constant and symmetry need there, the tokens that
a map without symmetry would take, and the largest error that the certificate found.
"""

from __future__ import annotations

import argparse

import numpy as np

from jaxprompt.universal import build_sequence_prefix


def convolve(x: np.ndarray) -> np.ndarray:
    """Weights ¼, ½, ¼ of neighbours, zeros beyond the ends."""
    padded = np.pad(x, [(0, 0)] * (x.ndim - 2) + [(1, 1), (0, 0)])
    return (padded[..., :-2, :] + 2 * padded[..., 1:-1, :] + padded[..., 2:, :]) / 4


def attend(x: np.ndarray, causal: bool = False) -> np.ndarray:
    """Softmax attention of the tokens on each other, with scores 2 x_p x_q."""
    score = 2 * x @ np.swapaxes(x, -1, -2)
    if causal:
        score = np.where(np.tril(np.ones(score.shape[-2:], bool)), score, -np.inf)
    weight = np.exp(score - score.max(axis=-1, keepdims=True))
    return weight / weight.sum(axis=-1, keepdims=True) @ x


MAPS = {
    "sorting": lambda x: np.sort(x, axis=-2),
    "running maximum": lambda x: np.maximum.accumulate(x, axis=-2),
    "convolution": convolve,
    "reversal": lambda x: x[..., ::-1, :],
    "attention": attend,
    "causal attention": lambda x: attend(x, causal=True),
}


def main() -> None:
    """Build each map at each length and print its row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--accuracy", type=float, default=0.2)
    parser.add_argument("--lengths", type=int, nargs="+", default=[2, 4, 8, 16])
    parser.add_argument("--method", default="kernel")
    options = parser.parse_args()
    print("| map | T | layers | tokens | last layer | needed | without symmetry | error |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for name, f in MAPS.items():
        for length in options.lengths:
            prefix = build_sequence_prefix(
                f, length=length, dim=1, accuracy=options.accuracy, method=options.method
            )
            note = prefix.certificate
            cells = np.ceil(note.lipschitz / (2 * options.accuracy))
            row = (
                name, length, note.depth, note.tokens, prefix.tokens[-1],
                f"{note.needed_tokens:.6g}", f"{length * cells**length:.3g}",
                f"{note.measured:.3f}" + ("" if note.reached else ", NOT reached"),
            )  # fmt: skip
            print("| " + " | ".join(map(str, row)) + " |", flush=True)


if __name__ == "__main__":
    main()
