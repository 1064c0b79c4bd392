r"""Stacks of real softmax layers that realise maps of whole sequences.

A token of a sequence of T numbers in [0, 1] is a row of named channels. In each layer every token
attends to the layer's own prefix and to all tokens in one softmax, and the output is added to the
token. Projections are fixed; only the prefixes depend on the map that is realised. A kernel layer
reads scalars z of a token and gives prefix i the score :math:`\Lambda + \lambda(\langle z, c_i
\rangle - |c_i|^2/2)`, a Gaussian kernel up to what the softmax cancels. Tokens have key and value
0 in it, and hold a share of about :math:`T e^{-\Lambda}`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxprompt.errors import ParameterError

__all__ = [
    "MOST_CANTOR_DIGITS",
    "Layer",
    "Stack",
    "cantor_code",
    "cantor_stack",
    "joint_stack",
    "ridge_stack",
    "score_rounding",
    "whole_codes",
]

FAR = 80.0
"""Score by which a prefix outweighs content, or the reverse: e^{-80} is below rounding."""

HARD = 128.0
"""λ times the squared gap between centres, where a kernel should pick the nearest centre. A power
of two, so that it rounds nothing."""

MOST_CANTOR_DIGITS = 16
"""Most digits K·T of the Cantor form. Codes are whole numbers up to 3^{KT}/2, so scores have the
size HARD·9^{KT}/32. At 16 digits float64 moves the difference of two scores by at most 26, where
neighbours differ by HARD/2 = 64 (`score_rounding`); with one digit more, by 9 times as much."""

SCORES_AT_ONCE = 2**24
"""Most scores of one layer that are held at once."""

Map = Callable[[np.ndarray], np.ndarray]


class Layer(NamedTuple):
    """One softmax layer: fixed maps of tokens (·, width) and a prefix of keys and values.

    `query` and `key` are (q, width), `value` (width, width), `prefix_keys` (N, q),
    `prefix_values` (N, width); float64.
    """

    query: np.ndarray
    key: np.ndarray
    value: np.ndarray
    prefix_keys: np.ndarray
    prefix_values: np.ndarray

    def __call__(self, state: jax.Array, tokens: int | jax.Array | None = None) -> jax.Array:
        """The tokens (T, width) after the layer, by joint softmax over prefix and tokens.

        With `tokens` only so many of the prefix's rows count; the others fill it up.
        """
        keys = jnp.concatenate([self.prefix_keys, state @ self.key.T])
        values = jnp.concatenate([self.prefix_values, state @ self.value.T])
        scores = state @ self.query.T @ keys.T
        if tokens is not None:
            rows = jnp.arange(len(keys))
            idle = (rows >= tokens) & (rows < len(self.prefix_keys))
            scores = jnp.where(idle, -jnp.inf, scores)
        return state + jax.nn.softmax(scores, axis=-1) @ values

    def filled_up(self) -> Layer:
        """The layer with idle rows, so that layers of like size have one shape, and one program."""
        rows = _power_of_two(len(self.prefix_keys)) - len(self.prefix_keys)
        width = _power_of_two(len(self.query)) - len(self.query)
        return Layer(
            np.pad(self.query, ((0, width), (0, 0))),
            np.pad(self.key, ((0, width), (0, 0))),
            self.value,
            np.pad(self.prefix_keys, ((0, rows), (0, width))),
            np.pad(self.prefix_values, ((0, rows), (0, 0))),
        )


class Stack(NamedTuple):
    """Layers in order, how numbers become tokens, the channel of the result, and the length T."""

    layers: tuple[Layer, ...]
    encode: Map
    output: int
    length: int

    @property
    def tokens(self) -> tuple[int, ...]:
        """Prefix tokens of each layer."""
        return tuple(len(layer.prefix_keys) for layer in self.layers)

    def __call__(self, sequences: np.ndarray, chunk: int = 256) -> np.ndarray:
        """Outputs (B, T) of sequences (B, T), or of one (T), of numbers in [0, 1]; float64.

        `chunk` sequences are evaluated at once, or fewer where the prefixes are long.

        Raises:
            ParameterError: another shape, or a number that is not in [0, 1].
        """
        sequences = self._checked(sequences)
        longest = max(self.tokens) + self.length
        chunk = max(1, min(chunk, SCORES_AT_ONCE // (self.length * longest)))
        parts = []
        with jax.enable_x64(True):
            layers = [layer.filled_up() for layer in self.layers]
            for start in range(0, len(sequences), chunk):
                block = sequences[start : start + chunk]
                full = np.concatenate([block, np.zeros((chunk - len(block), block.shape[1]))])
                states = self.encode(full)
                for layer, tokens in zip(layers, self.tokens, strict=True):
                    states = _after(layer, tokens, states)
                parts.append(np.asarray(states)[: len(block), :, self.output])
        return np.concatenate(parts)

    def _checked(self, sequences: np.ndarray) -> np.ndarray:
        rows = np.atleast_2d(np.asarray(sequences, np.float64))
        if rows.ndim != 2 or rows.shape[1] != self.length or not len(rows):
            raise ParameterError(
                "sequences", f"shape {np.shape(sequences)}", f"an array (B, {self.length})",
                "give one sequence a row", "stack",
            )  # fmt: skip
        inside = (rows >= 0) & (rows <= 1)
        if not inside.all():
            raise ParameterError(
                "sequences", float(rows[~inside][0]), "numbers ≥ 0 and ≤ 1",
                "scale them to that range", "stack",
            )  # fmt: skip
        return rows

    def tokens_that_win(self, sequences: np.ndarray) -> tuple[int, ...]:
        """Of each layer, prefix tokens that hold more than half of some token's attention."""
        states = self.encode(self._checked(sequences))
        counts = []
        for layer in self.layers:
            prefix_length = len(layer.prefix_keys)
            winners: set[int] = set()
            after = np.empty_like(states)
            block = max(1, SCORES_AT_ONCE // 4 // (self.length * (prefix_length + self.length)))
            for start in range(0, len(states), block):
                block_states = states[start : start + block]
                keys = block_states @ layer.key.T
                prefix = np.broadcast_to(
                    layer.prefix_keys, (len(block_states), *layer.prefix_keys.shape)
                )
                query = block_states @ layer.query.T
                score = query @ np.concatenate([prefix, keys], axis=1).swapaxes(1, 2)
                weight = np.exp(score - score.max(axis=-1, keepdims=True))
                weight /= weight.sum(axis=-1, keepdims=True)
                value = block_states @ layer.value.T
                moved = (
                    weight[..., :prefix_length] @ layer.prefix_values
                    + weight[..., prefix_length:] @ value
                )
                after[start : start + block] = block_states + moved
                winners.update(
                    np.unique(np.nonzero(weight[..., :prefix_length] > 0.5)[-1]).tolist()
                )
            states = after
            counts.append(len(winners))
        return tuple(counts)

    def layers_that_matter(self, sequences: np.ndarray) -> int:
        """Layers without which some output of these sequences is another."""
        outputs = self(sequences)
        changed = 0
        for i in range(len(self.layers)):
            without = self._replace(layers=(*self.layers[:i], *self.layers[i + 1 :]))
            changed += int(np.abs(without(sequences) - outputs).max() > 1e-9)
        return changed


@jax.jit
def _after(
    layer: Layer, tokens: int | Array, states: Float[Array | np.ndarray, "B T width"]
) -> Float[Array, "B T width"]:
    return jax.vmap(lambda state: layer(state, tokens))(states)


def _power_of_two(count: int) -> int:
    """The least power of two that is not below `count`, at least 1."""
    return 1 << max(0, count - 1).bit_length()


class _Channels(NamedTuple):
    """Where a token keeps its parts: slots of x, the constant 1, its place, work, result."""

    slots: int
    length: int

    @property
    def one(self) -> int:
        return self.slots

    def place(self, p: int) -> int:
        return self.slots + 1 + p

    @property
    def code(self) -> int:
        return self.slots + 1 + self.length

    @property
    def mixed(self) -> tuple[int, ...]:
        return tuple(range(self.code + 1, self.code + 1 + self.slots))

    @property
    def result(self) -> int:
        return self.code + 1 + self.slots

    @property
    def width(self) -> int:
        return self.result + 1

    def unit(self, *index: int) -> np.ndarray:
        return np.eye(self.width)[list(index)]

    def encode(self, sequences: np.ndarray) -> np.ndarray:
        """Tokens (B, T, width): x_p in the only slot, or in slot p when there are T."""
        count, length = sequences.shape
        tokens = np.zeros((count, length, self.width))
        for p in range(length):
            tokens[:, p, p if self.slots > 1 else 0] = sequences[:, p]
            tokens[:, p, self.place(p)] = 1
        tokens[:, :, self.one] = 1
        return tokens


# --- two kinds of layer --------------------------------------------------------------------------


def _kernel_layer(
    at: _Channels, reads: np.ndarray, centres: np.ndarray, values: np.ndarray, lam: float,
    write: int, position: int | None = None, largest: float = 1.0,
) -> Layer:  # fmt: skip
    """Kernel regression on the scalars `reads` (r, width) @ token, written to one channel.

    centres (N, r), values (N). With `position` it acts at that place of the sequence only; the
    scalars are then at most `largest`.
    """
    bias = FAR - 0.5 * lam * (centres**2).sum(axis=1)
    rows, keys = [*reads, *at.unit(at.one)], [*(lam * centres.T), bias]
    if position is not None:
        # Elsewhere the score falls below content's 0 for all scalars of at most `largest`. Each
        # centre has its own part: a common one would be larger, and so would rounding be.
        block = 4 * FAR + lam * largest * np.abs(centres).sum(axis=1)
        rows, keys = [*rows, *at.unit(at.place(position))], [*keys, block]
        keys[-2] = bias - block
    prefix_values = values[:, None] * at.unit(write)
    zero = np.zeros((len(rows), at.width))
    return Layer(
        np.stack(rows), zero, np.zeros((at.width, at.width)), np.stack(keys, axis=1), prefix_values
    )


def _joined(layers: list[Layer]) -> Layer:
    """Position layers as one: each token sees its own position's prefix only."""
    rows = [layer.query for layer in layers]
    shared, places = rows[0][:-1], [r[-1] for r in rows]
    keys = []
    for p, layer in enumerate(layers):
        position = np.zeros((len(layer.prefix_keys), len(layers)))
        position[:, p] = layer.prefix_keys[:, -1]
        keys.append(np.concatenate([layer.prefix_keys[:, :-1], position], axis=1))
    query = np.stack([*shared, *places])
    values = np.concatenate([layer.prefix_values for layer in layers])
    return Layer(query, np.zeros_like(query), layers[0].value, np.concatenate(keys), values)


def _mixing_layer(
    at: _Channels,
    log_share: np.ndarray,
    read: tuple[int, ...],
    write: tuple[int, ...],
    scale: float,
) -> Layer:
    """Fixed layer without prefix: the same weighted sum over the sequence for every token.

    Shares are softmax(log_share) by place; channels `read` are summed into channels `write`.
    """
    key = sum(s * at.unit(at.place(p)) for p, s in enumerate(log_share))
    value = scale * np.einsum("cw,cv->wv", at.unit(*write), at.unit(*read))
    empty = np.zeros((0, 1)), np.zeros((0, at.width))
    return Layer(at.unit(at.one), np.asarray(key), value, *empty)


# --- three constructions -------------------------------------------------------------------------


def cantor_code(x: np.ndarray, digits: int, length: int) -> np.ndarray:
    r""":math:`\varphi(x)=\sum_j 2a_j3^{-1-T(j-1)}` of the first binary digits a_j of x; float64."""
    x = np.asarray(x, np.float64)
    return sum(
        2 * (np.floor(x * 2**j) % 2) * 3.0 ** (-1 - length * (j - 1)) for j in range(1, digits + 1)
    )  # type: ignore[return-value]


def _target_values(target: Map, grid: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    values = np.asarray(target(grid), np.float64)
    if values.shape != shape or not np.isfinite(values).all():
        raise ParameterError(
            "target", f"(returns shape {values.shape})", f"a function that returns {shape}, finite",
            "change the function", "stack",
        )  # fmt: skip
    return values


def cells(digits: int, length: int) -> np.ndarray:
    """Midpoints of the dyadic cells of [0,1]^T: (2^{KT}, T) float64."""
    middle = (np.arange(2**digits) + 0.5) / 2**digits
    return np.array(list(itertools.product(middle, repeat=length)))


def whole_codes(digits: int, length: int) -> np.ndarray:
    """Codes of :func:`cells` in units of 2·3^{−KT}: (2^{KT},) int64, exact.

    Digit j of the number p adds 3^{K·T − p − T(j−1)}, both counted from 1.
    """
    index = np.arange(2**digits)
    bits = (index[:, None] >> np.arange(digits - 1, -1, -1)) & 1
    weight = 3 ** (digits * length - length * np.arange(digits, dtype=np.int64))
    of_number = [bits @ (weight // 3**p) for p in range(1, length + 1)]
    return sum(np.meshgrid(*of_number, indexing="ij")).ravel()  # type: ignore[union-attr]


def score_rounding(layer: Layer, sizes: np.ndarray) -> float:
    """Most that float64 changes the difference of two prefix scores, in any order of summation.

    `sizes` (q) are the largest |query| of each row. A product with a query that is 0 or 1 is exact;
    of n terms each of the n − 1 sums, at most the sum of all sizes, is rounded.
    """
    parts = np.abs(layer.prefix_keys) * sizes
    products = parts[:, sizes != 1].sum(axis=1)
    sums = (len(sizes) - 1) * parts.sum(axis=1)
    return float(np.finfo(np.float64).eps * (products + sums).max())


def cantor_stack(target: Map, length: int, digits: int) -> Stack:
    r"""The Kolmogorov–Arnold form :math:`g(3\sum_p3^{-p}\varphi(x_p))` in T+2 layers.

    Layer 1 realises φ with 2^K prefix tokens, layer 2 mixes with shares 3^{-p} and has no
    prefix, layers 3 to T+2 realise one component of g each with 2^{KT} tokens. `target` maps
    (B, T) to (B, T). Source: Petrov et al., ICML 2024, as recalled; the softmax layers are
    derived here.

    Raises:
        ParameterError: more digits K·T than float64 scores can tell apart.
    """
    if digits * length > MOST_CANTOR_DIGITS:
        raise ParameterError(
            "digits", digits, f"at most {MOST_CANTOR_DIGITS // length} for {length} numbers",
            "use fewer: float64 scores do not tell more codes apart", "cantor_stack",
        )  # fmt: skip
    at = _Channels(1, length)
    middle = (np.arange(2**digits) + 0.5) / 2**digits
    first = _kernel_layer(
        at, at.unit(0), middle[:, None], cantor_code(middle, digits, length),
        1e4 * HARD * 4**digits, at.code,
    )  # fmt: skip
    share = 3.0 ** -np.arange(1, length + 1)
    mix = _mixing_layer(at, np.log(share), (at.code,), at.mixed, 3 * share.sum())
    grid = cells(digits, length)
    # In units of the gap codes are whole numbers, so that keys are exact. Counted from the middle
    # they are half as large, and scores a quarter.
    unit = 3.0 ** (digits * length) / 2
    codes = whole_codes(digits, length)
    middle_code, largest = float(codes.max() // 2), float(codes.max() - codes.max() // 2)
    read = unit * at.unit(*at.mixed) - middle_code * at.unit(at.one)
    values = _target_values(target, grid, (len(grid), length))
    last = [
        _kernel_layer(
            at, read, codes[:, None] - middle_code, values[:, p], HARD, at.result, p, largest
        )
        for p in range(length)
    ]  # fmt: skip
    return Stack((first, mix, *last), at.encode, at.result, length)


def joint_stack(target: Map, length: int, side: int) -> Stack:
    """A kernel on the whole sequence: slots, their average, then T·side^T tokens in one layer.

    Not the paper's construction: it converges uniformly, where the Cantor form cannot. Derived
    here.
    """
    at = _Channels(length, length)
    mix = _mixing_layer(at, np.zeros(length), tuple(range(length)), at.mixed, float(length))
    middle = (np.arange(side) + 0.5) / side
    grid = np.array(list(itertools.product(middle, repeat=length)))
    values = _target_values(target, grid, (len(grid), length))
    reads = at.unit(*at.mixed)
    parts = [
        _kernel_layer(at, reads, grid, values[:, p], 50 * HARD * side**2, at.result, p)
        for p in range(length)
    ]
    return Stack((mix, _joined(parts)), at.encode, at.result, length)


def ridge_stack(
    target: Map, length: int, degree: int, side: int = 16, softness: float = 0.5
) -> Stack:
    r"""A sum of functions of single directions, each a prefixed layer with free values.

    Not the paper's construction. For T = 2 and one output shared by all places: `degree` + 1
    directions, `side` centres along each, values of all layers fitted together by least squares
    on a grid (values bounded by a small ridge). `target` maps (B, 2) to (B,). Derived here.
    """
    at = _Channels(length, length)
    mix = _mixing_layer(at, np.zeros(length), tuple(range(length)), at.mixed, float(length))
    angle = np.pi * (np.arange(degree + 1) + 0.5) / (degree + 1)
    directions = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    node = 0.5 - 0.5 * np.cos(np.pi * (np.arange(4 * side // 2) + 0.5) / (4 * side // 2))
    points = np.array(list(itertools.product(node, repeat=2)))
    features, parts = [], []
    for row in directions:
        low, high = np.minimum(row, 0).sum(), np.maximum(row, 0).sum()
        margin = 2 * (high - low) / (side - 5)  # two centres beyond each end
        centres = np.linspace(low - margin, high + margin, side)
        lam = softness / (centres[1] - centres[0]) ** 2
        score = -0.5 * lam * (points @ row - centres[:, None]).T ** 2
        weight = np.exp(score - score.max(axis=1, keepdims=True))
        features.append(weight / weight.sum(axis=1, keepdims=True))
        parts.append((row @ at.unit(*at.mixed), centres, lam))
    matrix = np.concatenate(features, axis=1)
    aim = _target_values(target, points, (len(points),))
    values = np.linalg.lstsq(matrix, aim, rcond=1e-13)[0].reshape(degree + 1, side)
    layers = [
        _kernel_layer(at, read[None], centres[:, None], v, lam, at.result)
        for (read, centres, lam), v in zip(parts, values, strict=True)
    ]
    return Stack((mix, *layers), at.encode, at.result, length)
