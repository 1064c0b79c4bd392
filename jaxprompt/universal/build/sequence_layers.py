r"""The softmax layers that a sequence prefix is made of, and their evaluation.

A token is a row of channels: its numbers, the constant 1, its place as one of T unit vectors, and
channels that layers write to. In each layer every token attends to the layer's prefix and to all
tokens in one softmax, and the output is added to the token (`stack.Layer`). Projections depend on
the sizes and on which tokens go together, never on the values of the map: those are in prefixes.

* A *kernel layer* gives prefix i the score :math:`\Lambda + \lambda(\langle z, c_i\rangle
  - |c_i|^2/2 + s)` of the channels z, and so picks, or averages about, the nearest centre.
* A *gather layer* has no prefix: each token averages a channel block over a class of tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jaxprompt.universal.networks.stack import FAR, Layer

__all__ = [
    "Channels", "Kernel", "encode", "gather_layer", "kernel_layer", "run_layers",
]  # fmt: skip

SCORES_AT_ONCE = 2**21
"""Most scores of one layer that are held at once: 16 MiB in float64."""


@dataclass(frozen=True)
class Channels:
    """Where a token keeps its parts.

    Its own numbers (`dim`), 1, its place (`length`), a code (`code`), `gathers` blocks that gather
    layers fill (`gathered` wide each), and the result (`out`).
    """

    dim: int
    length: int
    code: int
    gathers: int
    gathered: int
    out: int

    @property
    def numbers(self) -> np.ndarray:
        """Channels of the token's own numbers."""
        return np.arange(self.dim)

    @property
    def one(self) -> int:
        """The channel that is 1."""
        return self.dim

    @property
    def places(self) -> np.ndarray:
        """Channels of the place."""
        return self.dim + 1 + np.arange(self.length)

    @property
    def coded(self) -> np.ndarray:
        """Channels of the code."""
        return self.dim + 1 + self.length + np.arange(self.code)

    def gather(self, index: int) -> np.ndarray:
        """Channels of a gathered block."""
        first = self.dim + 1 + self.length + self.code
        return first + index * self.gathered + np.arange(self.gathered)

    @property
    def result(self) -> np.ndarray:
        """Channels of the result."""
        first = self.dim + 1 + self.length + self.code + self.gathers * self.gathered
        return first + np.arange(self.out)

    @property
    def width(self) -> int:
        """Numbers a token holds."""
        return self.dim + 1 + self.length + self.code + self.gathers * self.gathered + self.out


def encode(at: Channels, sequences: np.ndarray) -> np.ndarray:
    """Tokens (B, T, width) of sequences (B, T, m): float64, channels to be written are 0."""
    tokens = np.zeros((*sequences.shape[:2], at.width))
    tokens[..., at.numbers] = sequences
    tokens[..., at.one] = 1.0
    tokens[:, :, at.places] = np.eye(at.length)
    return tokens


@dataclass(frozen=True)
class Kernel:
    """Centres (N, r) of a kernel over `reads`, r channels, with values (N, d) and λ.

    Of a centre's channel a token holds `scales` (r) times less: averages stand for sums. It acts
    at the places of `group`, or everywhere. Channels are at most `sizes` (r), or 1.
    """

    reads: np.ndarray
    centres: np.ndarray
    values: np.ndarray
    concentration: float
    scales: np.ndarray
    group: tuple[int, ...] | None
    sizes: np.ndarray | None = None


def kernel_layer(at: Channels, kernels: Sequence[Kernel], write: np.ndarray) -> Layer:
    """One prefixed layer of kernels that act at different places, written to channels `write`."""
    keys, values = [], []
    for kernel in kernels:
        lam, centres = kernel.concentration, kernel.centres
        square = 0.5 * (centres**2).sum(axis=1)
        key = np.zeros((len(centres), at.width))
        np.add.at(key.T, kernel.reads, (lam * centres * kernel.scales).T)
        # Raised so that the nearest centre outweighs content's 0 wherever the channels are small.
        bias = FAR + lam * (square.max(initial=0.0) - square)
        if kernel.group is not None:
            # Elsewhere the score falls below content's 0 whatever the kernel's part is.
            largest = np.abs(centres).max(axis=0, initial=0.0)
            sizes = 1.0 if kernel.sizes is None else kernel.sizes
            reach = (largest * kernel.scales * sizes).sum() + square.max(initial=0.0)
            block = 2 * FAR + lam * reach
            key[:, at.places[list(kernel.group)]] = block
            bias = bias - block
        key[:, at.one] = bias
        keys.append(key)
        written = np.zeros((len(centres), at.width))
        written[:, write] = kernel.values
        values.append(written)
    key = np.concatenate(keys)
    used = np.flatnonzero(np.abs(key).sum(axis=0))
    nothing = np.broadcast_to(0.0, (at.width, at.width))  # takes no memory
    return Layer(
        np.eye(at.width)[used], nothing[: len(used)], nothing, key[:, used], np.concatenate(values)
    )


def gather_layer(
    at: Channels,
    gathered: Sequence[Sequence[int]],
    read: np.ndarray,
    write: np.ndarray,
    shares: np.ndarray | None = None,
) -> Layer:
    """Each place p averages the channels `read` over the places `gathered[p]`, into `write`.

    With `shares` (T) the average is weighted by them. A place that sees none keeps to itself:
    nobody reads what it gathers.
    """
    place = np.zeros((at.length, at.width))
    place[np.arange(at.length), at.places] = 1.0
    scores = np.zeros((at.length, at.length))
    for p, tokens in enumerate(gathered):
        scores[p, list(tokens) or [p]] = 2 * FAR
    if shares is not None:
        scores += np.log(shares)
    value = np.zeros((at.width, at.width))
    value[write, read] = 1.0
    # Scores of places p and q: the query projection holds row p of the table, the key q.
    empty = np.zeros((0, at.length)), np.zeros((0, at.width))
    return Layer(scores.T @ place, place, value, *empty)


# --- evaluation ----------------------------------------------------------------------------------


def run_layers(layers: Sequence[Layer], tokens: np.ndarray, dtype: type = np.float64) -> np.ndarray:
    """Tokens (B, T, width) after all layers, by joint softmax over prefix and tokens."""
    if not len(tokens):
        return tokens.astype(dtype)
    cast = [_Cast.make(layer, dtype) for layer in layers]
    most = max(len(layer.prefix_keys) for layer in layers) + tokens.shape[1]
    chunk = max(1, SCORES_AT_ONCE // (tokens.shape[1] * most))
    parts = []
    for start in range(0, len(tokens), chunk):
        state = tokens[start : start + chunk].astype(dtype)
        for layer in cast:
            state = layer(state)
        parts.append(state)
    return np.concatenate(parts)


@dataclass(frozen=True)
class _Cast:
    """A layer in one dtype, with what is zero left out."""

    query: np.ndarray
    key: np.ndarray | None
    value: np.ndarray
    prefix_keys: np.ndarray
    prefix_values: np.ndarray
    columns: np.ndarray

    @classmethod
    def make(cls, layer: Layer, dtype: type) -> _Cast:
        columns = np.flatnonzero(layer.prefix_values.any(axis=0) | layer.value.any(axis=1))

        def cast(part: np.ndarray) -> np.ndarray:
            return np.ascontiguousarray(part, dtype)

        return cls(
            cast(layer.query), cast(layer.key) if layer.key.any() else None,
            cast(layer.value[columns]), cast(layer.prefix_keys),
            cast(layer.prefix_values[:, columns]), columns,
        )  # fmt: skip

    def __call__(self, state: np.ndarray) -> np.ndarray:
        count, length = state.shape[:2]
        query = state @ self.query.T
        prefix = query.reshape(count * length, -1) @ self.prefix_keys.T
        prefix = prefix.reshape(count, length, -1)
        if self.key is None:
            content = np.zeros((count, length, length), state.dtype)
        else:
            content = query @ (state @ self.key.T).swapaxes(1, 2)
        peak = content.max(axis=-1, keepdims=True)
        if prefix.shape[-1]:
            peak = np.maximum(peak, prefix.max(axis=-1, keepdims=True))
        prefix -= peak
        np.exp(prefix, out=prefix)
        content = np.exp(content - peak)
        total = prefix.sum(axis=-1, keepdims=True) + content.sum(axis=-1, keepdims=True)
        moved = content @ (state @ self.value.T)
        moved += (prefix.reshape(count * length, -1) @ self.prefix_values).reshape(moved.shape)
        after = state.copy()
        after[..., self.columns] += moved / total
        return after
