r"""One-pass SGD of head and prompt by its exact law, without a vector of length d.

A step on a fresh sequence depends on the tokens through their coordinates in the span of
:math:`w_\star, q_\star, w, q`, and through two Gaussian vectors orthogonal to it,
:math:`\sigma\Sigma\varphi_tg_t` and :math:`\sigma\Sigma\psi_tg_t`. Given the weights, the products
of these two are :math:`\sigma^2` times a Wishart matrix with d − 4 degrees of freedom. So head and
prompt are a Markov chain of seven coordinates, exactly, for every d ≥ 6, at 4(T − k) + 5 random
numbers a step.

The frame: :math:`e_1=w_\star/W`, :math:`e_2=q_\star/Q`, :math:`e_3` along the rest of the head,
:math:`e_4` along the rest of the prompt. Coordinates are float64, and one step's sums float32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Key, UInt32

from jaxprompt.compute import random_table
from jaxprompt.contextual.law.margins import Geometry
from jaxprompt.contextual.setting import Setting
from jaxprompt.contextual.simulation.sampling import shift_index

__all__ = [
    "LEAST_DIM", "Frame", "SgdRates", "Start", "frame_of_products", "geometry_of", "one_step",
    "overlaps_of", "run_batches", "run_sgd",
]  # fmt: skip

LEAST_DIM = 6
"""Four directions are special, and two Gaussian vectors are orthogonal to them."""

_NUMBERS_AT_ONCE = 2**19
_MOST_STEPS_AT_ONCE = 32
_SEQUENCES_AT_ONCE = 128


class Frame(NamedTuple):
    """Coordinates of head (along e₁, e₂, e₃) and prompt (along e₁ to e₄); float64."""

    head: Float[Array, " 3"]
    prompt: Float[Array, " 4"]


class SgdRates(NamedTuple):
    """Rates of head and prompt, times d."""

    head: Float[Array, ""] | float
    prompt: Float[Array, ""] | float

    def over(self, dim: Array) -> SgdRates:
        """Lengths of a step in d dimensions."""
        return SgdRates(self.head / dim, self.prompt / dim)


class Start(NamedTuple):
    """Where a path begins: a head and a prompt of given lengths in independent random directions.

    Where `fixed_signal` is a number and `is_fixed` holds, the head has that component along w⋆/W
    instead, none along q⋆, and its length.
    """

    head_norm: Float[Array, ""] | float
    prompt_norm: Float[Array, ""] | float
    is_fixed: Array | bool = False
    fixed_signal: Float[Array, ""] | float = 0.0

    def frame(self, normals: Float[Array, " M"], chis: Float[Array, " 2"]) -> Frame:
        """From nine normals, and chi-square numbers with d − 4 and d − 5 degrees of freedom."""
        z, chis = normals[:9].astype(jnp.float64), chis.astype(jnp.float64)
        # Of the head d − 2 coordinates lie beyond w⋆ and q⋆, of the prompt d − 3 beyond these and
        # the head.
        head_rest = jnp.sqrt(chis[0] + jnp.square(z[2:4]).sum())
        prompt_rest = jnp.sqrt(chis[1] + jnp.square(z[7:9]).sum())
        head = _with_length(jnp.append(z[:2], head_rest), self.head_norm)
        beyond = jnp.sqrt(jnp.maximum(self.head_norm**2 - jnp.square(self.fixed_signal), 0.0))
        fixed = jnp.stack([self.fixed_signal * jnp.ones_like(beyond), 0.0 * beyond, beyond])
        return Frame(
            jnp.where(self.is_fixed, fixed, head),
            _with_length(jnp.append(z[4:7], prompt_rest), self.prompt_norm),
        )


def _with_length(vector: Array, length: Array | float) -> Array:
    return vector * (length / jnp.sqrt(jnp.square(vector).sum()))


# --- chi variables -------------------------------------------------------------------------------


def chi_squares(
    freedom: Float[Array, " F"], first_row: UInt32[Array, ""], rows: int, *, key: Key[Array, ""]
) -> Float[Array, "rows F"]:
    """Chi-square numbers with `freedom` ≥ 1 degrees of freedom, float32; exact for every one.

    Row `i` is the same whatever rows are drawn around it. Marsaglia and Tsang (2000): a cubed
    normal is accepted in 95 % of cases or more. All rows are tried at once, until each has a
    number. A shape below 1 is raised by 1, and the number lowered by the power of a uniform one.
    """
    half = freedom.astype(jnp.float32) / 2
    raised = jnp.where(half < 1, half + 1, half)
    power = jnp.where(half < 1, 1 / half, 0.0)
    location = raised - jnp.float32(1 / 3)
    slope = lax.rsqrt(9 * location)
    count = freedom.shape[0]

    def propose(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        attempt, value, done = state
        numbers = random_table.uniforms(
            jax.random.fold_in(key, attempt), first_row, rows, 3 * count
        )
        first, second, third = (numbers[:, i * count : (i + 1) * count] for i in range(3))
        normal = jnp.float32(np.sqrt(2)) * lax.erf_inv(2 * first - 1)
        step = jnp.maximum(slope * normal, -1 + jnp.float32(1e-6))
        cube = step * (3 + step * (3 + step))  # (1 + step)³ − 1
        bound = normal**2 / 2 + location * (3 * jnp.log1p(step) - cube)
        accepted = (slope * normal > -1) & (jnp.log(second) < bound)
        fresh = 2 * location * (1 + cube) * third**power
        return attempt + np.uint32(1), jnp.where(done, value, fresh), done | accepted

    shape = (rows, count)
    start = jnp.uint32(0), jnp.zeros(shape, jnp.float32), jnp.zeros(shape, bool)
    return lax.while_loop(lambda state: ~state[2].all(), propose, start)[1]


# --- one sequence --------------------------------------------------------------------------------


class _Gradients(NamedTuple):
    """One sequence's gradients times −1, in the frame and orthogonal to it; float32."""

    head: Float[Array, " 4"]
    prompt: Float[Array, " 4"]
    orthogonal: Float[Array, " 3"]
    """σ²e² times Σφ², Σφψ and Σψ²: the scale of the Wishart matrix."""


def _slope(logistic: Array | bool, label: Array, output: Array) -> Array:
    """Minus the slope of the loss in the output."""
    return jnp.where(logistic, label * jax.nn.sigmoid(-label * output), label - output)


def _sequence_gradients(
    setting: Setting, frame: Frame, logistic: Array | bool, normals: Float[Array, " M"],
    choices: Float[Array, " 2"],
) -> _Gradients:  # fmt: skip
    """From the frame and one sequence's random numbers, of which 4(T − k) normals are used."""
    normals = normals[: 4 * setting.irrelevant]
    numbers = (setting.signal, setting.context, setting.noise)
    signal, context, noise = (jnp.asarray(x, jnp.float32) for x in numbers)
    head = jnp.append(frame.head, 0.0).astype(jnp.float32)
    prompt = frame.prompt.astype(jnp.float32)
    label = jnp.where(choices[0] < 0.5, -1.0, 1.0).astype(jnp.float32)
    shift = jnp.asarray(setting.shifts, jnp.float32)[shift_index(setting, choices[1])]
    relevant = jnp.array([label * signal, context, 0.0, 0.0], jnp.float32)
    other = jnp.array([-shift[1] * label * signal, -shift[0] * context, 0.0, 0.0], jnp.float32)
    # One array a coordinate: sums over tokens are then elementwise sums of rows.
    tokens = [other[i] + noise * z for i, z in enumerate(jnp.split(normals, 4))]
    scores = jnp.asarray(sum(prompt[i] * tokens[i] for i in range(4)))
    relevant_score = relevant @ prompt
    peak = jnp.maximum(scores.max(initial=-jnp.inf), relevant_score)
    weights = jnp.exp(scores - peak)
    mass = setting.relevant * jnp.exp(relevant_score - peak)
    total = mass + weights.sum()
    weights, share = weights / total, mass / total
    products = sum(head[i] * tokens[i] for i in range(3))
    relevant_product = relevant @ head
    output = share * relevant_product + (weights * products).sum()
    slope = _slope(logistic, label, output)
    tilts = weights * (products - output)
    relevant_tilt = share * (relevant_product - output)
    along_head = [share * relevant[i] + (weights * tokens[i]).sum() for i in range(4)]
    along_prompt = [relevant_tilt * relevant[i] + (tilts * tokens[i]).sum() for i in range(4)]
    squares = [(weights**2).sum(), (weights * tilts).sum(), (tilts**2).sum()]
    return _Gradients(
        slope * jnp.stack(along_head),
        slope * jnp.stack(along_prompt),
        jnp.square(slope * noise) * jnp.stack(squares),
    )


# --- one step ------------------------------------------------------------------------------------


def _moved(
    frame: Frame, gradients: _Gradients, scales: SgdRates, chis: Float[Array, " 2"], normal: Array
) -> Frame:
    """The frame after a step of these lengths; `chis` has d − 4 and d − 5 degrees of freedom."""
    s11, s12, s22 = gradients.orthogonal
    l11 = jnp.sqrt(s11)
    l21 = jnp.where(l11 > 0, s12 / jnp.where(l11 > 0, l11, 1.0), 0.0)
    l22 = jnp.sqrt(jnp.maximum(s22 - l21**2, 0.0))
    c1, c2 = jnp.sqrt(chis)
    wide = (x.astype(jnp.float64) for x in (gradients.head, gradients.prompt))
    head_gradient, prompt_gradient = wide
    head = jnp.append(frame.head, 0.0) + scales.head * head_gradient
    prompt = frame.prompt + scales.prompt * prompt_gradient
    # The two vectors beyond w⋆ and q⋆, in coordinates 3 to 6 of the old frame.
    head_beyond = jnp.concatenate([head[2:], scales.head * jnp.stack([l11 * c1, 0.0 * c1])])
    prompt_beyond = jnp.concatenate(
        [prompt[2:], scales.prompt * jnp.stack([l21 * c1 + l22 * normal, l22 * c2])]
    )
    length = jnp.sqrt(jnp.square(head_beyond).sum())
    along = (head_beyond * prompt_beyond).sum() / jnp.where(length > 0, length, 1.0)
    across = jnp.square(prompt_beyond).sum() - along**2
    return Frame(
        jnp.append(head[:2], length),
        jnp.concatenate([prompt[:2], jnp.stack([along, jnp.sqrt(jnp.maximum(across, 0.0))])]),
    )


def _normals_a_step(setting: Setting) -> int:
    """Four for each irrelevant token, and one for the Wishart matrix; a start takes nine."""
    return max(4 * setting.irrelevant + 1, 9)


class _Table(NamedTuple):
    """Rows of a trial's random numbers: one for the start, then one for each step."""

    normals: Float[Array, "rows M"]
    choices: Float[Array, "rows 2"]
    chis: Float[Array, "rows 2"]


def _table(
    setting: Setting, dim: Array, first_row: Array, rows: int, key: Key[Array, ""]
) -> _Table:
    number_key, chi_key = jax.random.split(key)
    columns = _normals_a_step(setting)
    numbers = random_table.uniforms(number_key, first_row, rows, columns + 2)
    normals = jnp.float32(np.sqrt(2)) * lax.erf_inv(2 * numbers[:, :columns] - 1)
    freedom = dim.astype(jnp.float32) - jnp.array([4.0, 5.0], jnp.float32)
    chis = chi_squares(freedom, first_row, rows, key=chi_key)
    return _Table(normals, numbers[:, columns:], chis)


def one_step(
    setting: Setting, dim: Array, rates: SgdRates, frame: Frame, *, key: Key[Array, ""],
    logistic: Array | bool = False,
) -> Frame:  # fmt: skip
    """One step of SGD on one fresh sequence. Call it with 64-bit types enabled."""
    numbers = jax.tree.map(lambda x: x[0], _table(setting, dim, jnp.uint32(0), 1, key))
    normals, choices, chis = numbers
    gradients = _sequence_gradients(setting, frame, logistic, normals, choices)
    return _moved(frame, gradients, rates.over(dim), chis, normals[-1])


def run_sgd(
    setting: Setting, dim: Array, rates: SgdRates, start: Start, steps: UInt32[Array, " K"],
    read: Callable[[Frame, Array], Any], *, key: Key[Array, ""], logistic: Array | bool = False,
    batch: int = 1,
) -> Any:  # fmt: skip
    """``read(frame, steps)`` after each of the growing numbers of `steps`, along one path.

    Neither d nor the numbers of steps are shapes. A path is the same whichever of its steps are
    read. `batch` says how many paths are followed at once, so that memory is bounded: about 4 MB.
    Call it with 64-bit types enabled.
    """
    size = _NUMBERS_AT_ONCE // (batch * _normals_a_step(setting))
    size = int(np.clip(size, 1, _MOST_STEPS_AT_ONCE))
    dim = jnp.asarray(dim)
    scales = rates.over(dim)

    def follow(frame: Frame, first: Array, until: Array) -> Frame:
        def chunk(state: tuple[Array, Frame]) -> tuple[Array, Frame]:
            at, frame = state
            # Drawn outside the loop over steps: there each draw would be a small program.
            table = _table(setting, dim, at, size, key)

            def step(place: Array, frame: Frame) -> Frame:
                normals, choices, chis = jax.tree.map(lambda x: x[place], table)
                gradients = _sequence_gradients(setting, frame, logistic, normals, choices)
                moved = _moved(frame, gradients, scales, chis, normals[-1])
                row = at + place.astype(jnp.uint32)
                begun = start.frame(normals, chis)
                moved = jax.tree.map(lambda b, m: jnp.where(row == 0, b, m), begun, moved)
                return jax.tree.map(lambda m, f: jnp.where(row < until, m, f), moved, frame)

            return at + np.uint32(size), lax.fori_loop(0, size, step, frame)

        return lax.while_loop(lambda state: state[0] < until, chunk, (first, frame))[1]

    def segment(state: tuple[Array, Frame], until: Array) -> Any:
        first, frame = state
        frame = follow(frame, first, until)
        return (until, frame), read(frame, until - np.uint32(1))

    rows = jnp.asarray(steps, jnp.uint32) + np.uint32(1)  # row 0 makes the start
    nowhere = Frame(jnp.zeros(3, jnp.float64), jnp.zeros(4, jnp.float64))
    return lax.scan(segment, (jnp.uint32(0), nowhere), rows)[1]


def run_batches(
    setting: Setting, dim: Array, samples: Array, rates: SgdRates, start: Start,
    steps: UInt32[Array, " K"], read: Callable[[Frame, Array], Any], *, key: Key[Array, ""],
    logistic: Array | bool = False,
) -> Any:  # fmt: skip
    """``read(frame, steps)`` after each of the growing numbers of `steps` on `samples` sequences.

    A step takes the mean gradient of its fresh sequences, and `rates` are not divided by d. Neither
    d, nor `samples`, nor the numbers of steps are shapes. Call it with 64-bit types enabled.
    """
    row_key, sequence_key = jax.random.split(key)
    dim, count = jnp.asarray(dim), jnp.asarray(samples, jnp.uint32)

    def step(row: Array, frame: Frame) -> Frame:
        normals, _, chis = jax.tree.map(lambda x: x[0], _table(setting, dim, row, 1, row_key))
        # Row 0 makes the start, on no sequence.
        taken = jnp.where(row == 0, np.uint32(0), count)
        own_key = jax.random.fold_in(sequence_key, row)
        gradients = _mean_gradients(setting, frame, logistic, taken, own_key)
        moved = _moved(frame, gradients, rates, chis, normals[-1])
        begun = start.frame(normals, chis)
        return jax.tree.map(lambda b, m: jnp.where(row == 0, b, m), begun, moved)

    def segment(state: tuple[Array, Frame], until: Array) -> Any:
        first, frame = state
        frame = lax.fori_loop(first, until, step, frame)
        return (until, frame), read(frame, until - np.uint32(1))

    rows = jnp.asarray(steps, jnp.uint32) + np.uint32(1)
    nowhere = Frame(jnp.zeros(3, jnp.float64), jnp.zeros(4, jnp.float64))
    return lax.scan(segment, (jnp.uint32(0), nowhere), rows)[1]


def _mean_gradients(
    setting: Setting, frame: Frame, logistic: Array | bool, count: UInt32[Array, ""],
    key: Key[Array, ""],
) -> _Gradients:  # fmt: skip
    """Of `count` fresh sequences, and 0 of none. The squares of a mean are those over count²."""
    columns = 4 * setting.irrelevant

    def add(state: tuple[Array, _Gradients]) -> tuple[Array, _Gradients]:
        at, total = state
        numbers = random_table.uniforms(key, at, _SEQUENCES_AT_ONCE, columns + 2)
        normals = jnp.float32(np.sqrt(2)) * lax.erf_inv(2 * numbers[:, :columns] - 1)
        rows = jax.vmap(lambda z, c: _sequence_gradients(setting, frame, logistic, z, c))(
            normals, numbers[:, columns:]
        )
        places = at + jnp.arange(_SEQUENCES_AT_ONCE, dtype=jnp.uint32)
        kept = (places < count)[:, None]
        sums = jax.tree.map(lambda x: jnp.where(kept, x, 0.0).sum(axis=0), rows)
        wide = jax.tree.map(lambda old, new: old + new.astype(jnp.float64), total, sums)
        return at + np.uint32(_SEQUENCES_AT_ONCE), wide

    zero = _Gradients(*(jnp.zeros(n, jnp.float64) for n in (4, 4, 3)))
    _, total = lax.while_loop(lambda state: state[0] < count, add, (jnp.uint32(0), zero))
    number = jnp.maximum(count, 1).astype(jnp.float64)
    return _Gradients(total.head / number, total.prompt / number, total.orthogonal / number**2)


# --- starts and readings -------------------------------------------------------------------------


def frame_of_products(
    setting: Setting, *, head_signal: Any, head_context: Any, prompt_signal: Any,
    prompt_context: Any, head_energy: Any, head_prompt: Any, prompt_energy: Any,
) -> Frame:  # fmt: skip
    """The frame of a head and a prompt with these inner products; float64."""

    def component(product: Any, norm: Any) -> np.ndarray:
        norm = np.asarray(norm, np.float64)
        return np.where(norm > 0, product / np.where(norm > 0, norm, 1.0), 0.0)

    head = np.array(
        [component(head_signal, setting.signal), component(head_context, setting.context), 0.0]
    )
    head[2] = np.sqrt(max(head_energy - np.square(head).sum(), 0.0))
    prompt = np.zeros(4)
    prompt[0] = component(prompt_signal, setting.signal)
    prompt[1] = component(prompt_context, setting.context)
    prompt[2] = component(head_prompt - head[:2] @ prompt[:2], head[2])
    prompt[3] = np.sqrt(max(prompt_energy - np.square(prompt).sum(), 0.0))
    return Frame(jnp.asarray(head), jnp.asarray(prompt))


def overlaps_of(setting: Setting, frame: Frame) -> dict[str, Array]:
    """The seven inner products by name."""
    head, prompt = frame
    return {
        "head_signal": head[0] * setting.signal,
        "head_context": head[1] * setting.context,
        "prompt_signal": prompt[0] * setting.signal,
        "prompt_context": prompt[1] * setting.context,
        "head_energy": jnp.square(head).sum(),
        "head_prompt": (head * prompt[:3]).sum(),
        "prompt_energy": jnp.square(prompt).sum(),
    }


def geometry_of(setting: Setting, frame: Frame) -> Geometry:
    """The inner products that decide the error of a head and a prompt; float32."""
    head, prompt = (x.astype(jnp.float32) for x in frame)
    return Geometry.of_vectors(setting, jnp.append(head, jnp.float32(0)), prompt)
