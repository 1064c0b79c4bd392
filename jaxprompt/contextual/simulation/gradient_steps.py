r"""Gradient descent on the square loss of prompt-attention: token by token, and by its exact law.

From head 0 and prompt 0, each step on a fresh batch of n sequences:

1. head: :math:`\hat w = -\eta\nabla_w L(0, 0)`;
2. prompt: :math:`\hat q = -\nabla_q L(\hat w, 0)`, rescaled to a given norm;
3. head again, from 0, with that prompt: :math:`\hat w_3 = -\nabla_w L(0, \hat q)`.

:func:`token_steps` differentiates the loss of sampled tokens and costs T·d normals a sequence.
:func:`steps_in_few_coordinates` differentiates a single step on tokens without the coordinates in
which it is linear, where all that is random is Gaussian.
:func:`reduced_steps` has the same law at a cost without d: of a token's noise only the component
along the head or prompt that the step was given is drawn. Given those, the rest of a step is a
Gaussian vector with a known variance; its part along :math:`w_\star`, :math:`q_\star` and one more
direction is drawn once for a batch, and of what is orthogonal only the length.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Key

from jaxprompt.attention import prompt_attention
from jaxprompt.compute.devices import map_trials
from jaxprompt.compute.numpy_normals import NUMBERS_TOGETHER, fill_normals, generator_of
from jaxprompt.contextual.law.margins import Geometry
from jaxprompt.contextual.setting import Setting
from jaxprompt.contextual.simulation.sampling import sample_sequence
from jaxprompt.errors import ParameterError

__all__ = [
    "Batch", "Step", "Steps", "Terms", "draw_few_coordinates", "head_step", "prompt_step",
    "reduced_steps", "sample_batch", "square_loss", "steps_in_few_coordinates", "token_steps",
    "trials_of_a_block",
]  # fmt: skip


class Batch(NamedTuple):
    """Sequences as tokens and labels."""

    tokens: Float[Array, "n T d"]
    labels: Float[Array, " n"]


# --- token by token ------------------------------------------------------------------------------


def sample_batch(setting: Setting, dim: int, samples: int, *, key: Key[Array, ""]) -> Batch:
    """Draw `samples` sequences token by token, in float32."""
    keys = jax.random.split(key, samples)
    drawn = jax.vmap(lambda k: sample_sequence(setting, dim, key=k, dtype=jnp.float32))(keys)
    return Batch(drawn.tokens, drawn.label)


def square_loss(head: Float[Array, " d"], prompt: Float[Array, " d"], batch: Batch) -> Array:
    r"""Mean of :math:`(y - w\cdot X^\top\varphi(Xq))^2/2` over the batch, in its dtype."""
    features = jax.vmap(prompt_attention, (0, None))(batch.tokens, prompt)
    return jnp.square(batch.labels - features @ head).mean() / 2


def head_step(head: Array, prompt: Array, batch: Batch) -> Array:
    """Minus the gradient of the loss in the head, by automatic differentiation."""
    return -jax.grad(square_loss, 0)(head, prompt, batch)


def prompt_step(head: Array, prompt: Array, batch: Batch) -> Array:
    """Minus the gradient of the loss in the prompt, by automatic differentiation."""
    return -jax.grad(square_loss, 1)(head, prompt, batch)


class Steps(NamedTuple):
    """Inner products after step 2 (head of step 1) and after step 3, both with the new prompt."""

    second: Geometry
    third: Geometry


def token_steps(
    setting: Setting,
    dim: int,
    samples: int,
    prompt_norm: float | Array,
    *,
    key: Key[Array, ""],
    head_rate: float = 1.0,
) -> Steps:
    """All three steps by automatic differentiation on sampled tokens, in float32."""
    first, second, third = (
        sample_batch(setting, dim, samples, key=k) for k in jax.random.split(key, 3)
    )
    zero = jnp.zeros(dim, jnp.float32)
    head = head_rate * head_step(zero, zero, first)
    prompt = prompt_step(head, zero, second)
    prompt = prompt * (prompt_norm / jnp.linalg.norm(prompt))
    return Steps(
        Geometry.of_vectors(setting, head, prompt),
        Geometry.of_vectors(setting, head_step(zero, prompt, third), prompt),
    )


# --- on tokens in few coordinates ----------------------------------------------------------------

Step = Callable[[Array, Array, Batch], Array]
"""A step of the head or the prompt as a function of head, prompt and batch."""

MOST_NUMBERS = 2**38
"""Most normals of one trial's batch, which take about an hour: batches are drawn in parts, so that
memory sets no limit."""


def _refuse_endless(samples: int, numbers: int) -> None:
    """Refuse a batch that no one would wait for: `samples` sequences of so many normals each."""
    most = MOST_NUMBERS // max(numbers, 1)
    if samples > most:
        raise ParameterError(
            "samples", samples, f"at most {most} in a simulation",
            "use fewer: a trial draws every sequence",
        )  # fmt: skip


ROWS = 2048
"""Sequences of one compiled call, whatever their number in a batch."""


def steps_in_few_coordinates(
    step: Step, setting: Setting, dim: int, samples: int, trials: int,
    head: Float[np.ndarray, " m"], *, key: Key[Array, ""], first: int = 0,
) -> tuple[Float[np.ndarray, "t m"], Float[np.ndarray, " t"]]:  # fmt: skip
    """Steps from `head` and prompt 0 by automatic differentiation on sampled tokens, float32, in
    the trials from the index `first` on.

    Tokens are drawn in the m ≥ 2 coordinates that the head has; the first two are along w⋆ and q⋆.
    Returned are the steps' coordinates there, and the mean of the squared norm in the other
    ``dim - m`` given them: the step is linear in the tokens' noise there, with slopes that
    differentiation gives too. Each sequence is differentiated alone, for one compilation whatever
    the size of the batch.
    """
    if dim < len(head):
        raise ValueError(f"dim = {dim}: must be at least {len(head)}")
    _refuse_endless(samples, setting.irrelevant * len(head))
    together = max(1, ROWS // samples)

    def block(indices: np.ndarray) -> dict[str, np.ndarray]:
        parts = [
            _mean_terms(step, setting, samples, together, head, generator_of(key, int(index)))
            for index in np.ravel(indices)
        ]
        shape = *np.shape(indices), together
        means, levels = (np.stack(each) for each in zip(*parts, strict=True))
        return {"mean": means.reshape(*shape, len(head)), "level": levels.reshape(shape)}

    start, done = divmod(first, together)
    batches = map_trials(block, -(-(done + trials) // together), first=start)
    wanted = slice(done, done + trials)
    mean, level = (batches[n].reshape(-1, *batches[n].shape[2:])[wanted] for n in ("mean", "level"))
    return mean, (dim - len(head)) * level


def _mean_terms(
    step: Step, setting: Setting, samples: int, trials: int, head: Float[np.ndarray, " m"],
    rng: np.random.Generator,
) -> tuple[Float[np.ndarray, "t m"], Float[np.ndarray, " t"]]:  # fmt: skip
    """Means over batches of sequences' terms, and the variance of their mean across the head."""
    total, size = trials * samples, len(head)
    # Either all batches are in one call, or there is one batch.
    term_sums, square_sums = np.zeros((trials, size)), np.zeros(trials)
    for first in range(0, total, ROWS):
        drawn = draw_few_coordinates(setting, size, ROWS, rng)
        term, slopes = _terms_and_slopes(step, np.asarray(head, np.float32), *drawn)
        number = min(ROWS, total - first)
        terms = np.asarray(term)[:number].reshape(trials, -1, size)
        noisy = np.asarray(slopes)[:number, setting.relevant :]
        squares = np.einsum("nt,nt->n", noisy, noisy).reshape(trials, -1)
        term_sums += terms.sum(axis=1, dtype=np.float64)
        square_sums += squares.sum(axis=1, dtype=np.float64)
    return term_sums / samples, np.square(setting.noise / samples) * square_sums


def draw_few_coordinates(
    setting: Setting, coordinates: int, rows: int, rng: np.random.Generator
) -> tuple[Float32[np.ndarray, "rows T m"], Float32[np.ndarray, " rows"]]:
    """Tokens of sequences in their first coordinates, and labels, by NumPy."""
    label = np.where(rng.random(rows, np.float32) < 0.5, np.float32(-1), np.float32(1))
    edges = np.cumsum(np.asarray(setting.shift_weights, np.float64))[:-1]
    index = np.searchsorted(edges, rng.random(rows, np.float32), side="right")
    shift = np.asarray(setting.shifts, np.float32)[index]
    noise = np.empty((rows, setting.irrelevant, coordinates), np.float32)
    fill_normals(noise, rng)
    tokens = np.zeros((rows, setting.tokens, coordinates), np.float32)
    tokens[:, : setting.relevant, 0] = (label * np.float32(setting.signal))[:, None]
    tokens[:, : setting.relevant, 1] = setting.context
    noise *= np.float32(setting.noise)
    noise[:, :, 0] -= (shift[:, 1] * label * np.float32(setting.signal))[:, None]
    noise[:, :, 1] -= (shift[:, 0] * np.float32(setting.context))[:, None]
    tokens[:, setting.relevant :] = noise
    return tokens, label


@functools.partial(jax.jit, static_argnums=0)
def _terms_and_slopes(
    step: Step, head: Float[Array | np.ndarray, " m"],
    tokens: Float[Array | np.ndarray, "n T m"], labels: Float[Array | np.ndarray, " n"],
) -> tuple[Float[Array, "n m"], Float[Array, "n T"]]:  # fmt: skip
    """Each sequence's step, and the slopes of a further coordinate of it in the tokens' own."""

    def one(tokens: Array, label: Array) -> tuple[Array, Array]:
        def step_across(beyond: Array) -> tuple[Array, Array]:
            batch = Batch(jnp.column_stack([tokens, beyond])[None], label[None])
            wide = jnp.append(jnp.asarray(head), 0.0)
            moved = step(wide, jnp.zeros_like(wide), batch)
            return moved[-1], moved[:-1]

        slopes, term = jax.grad(step_across, has_aux=True)(jnp.zeros(len(tokens), tokens.dtype))
        return term, slopes

    return jax.vmap(one)(jnp.asarray(tokens), jnp.asarray(labels))


# --- by the exact law ----------------------------------------------------------------------------

_ROW_NUMBERS = 8
"""Numbers beside its scores that are at work for a sequence."""


def trials_of_a_block(setting: Setting, samples: int) -> int:
    """Trials that :func:`reduced_steps` best runs together."""
    return max(1, _most_rows(setting) // samples)


def _most_rows(setting: Setting) -> int:
    """Sequences that are best drawn together."""
    return max(1, 4 * NUMBERS_TOGETHER // (setting.irrelevant + _ROW_NUMBERS))


def _parts_of_batch(setting: Setting, samples: int, trials: int) -> Iterator[int]:
    """Numbers of sequences that are drawn together, of each trial; they sum to `samples`."""
    most = max(1, _most_rows(setting) // trials)
    for first in range(0, samples, most):
        yield min(most, samples - first)


class Terms(NamedTuple):
    """Every trial's sample means and sample variances of its sequences' terms in a step; float64.

    Entries are the coordinates along w⋆, q⋆ and the rest of what the step was given (nothing in
    step 1, the head in step 2, the prompt in step 3), then the variance of an orthogonal
    coordinate given the sequence's scalars (0 in step 1, where it is the same for all). Both are
    expectations over the noise that is orthogonal to what the step was given, in the coordinates
    too. The variances of fewer than two sequences mean nothing.
    """

    mean: Float[np.ndarray, "t 4"]
    variance: Float[np.ndarray, "t 4"]


def reduced_steps(
    setting: Setting,
    dim: int,
    samples: int,
    prompt_norm: float,
    trials: int,
    *,
    rng: np.random.Generator,
    head_rate: float = 1.0,
) -> tuple[Steps, tuple[Terms, Terms, Terms]]:
    """All three steps by their exact law in `trials` trials, and the terms whose means they were.

    Inner products are arrays (trials,) in float64, made of rows in float32. `head_rate` multiplies
    the first head; its terms are those of a step of size 1. Needs ``dim >= 4``.
    """
    _refuse_endless(samples, 2 * setting.irrelevant)
    head, first = _first_heads(setting, dim, samples, trials, rng)
    head = head_rate * head
    prompt, second = _prompts(setting, dim, samples, head, rng)
    prompt = prompt * (prompt_norm / np.linalg.norm(prompt, axis=1, keepdims=True))
    # Two frames: along w⋆, q⋆, the head's rest and the prompt's rest; then along w⋆, q⋆ and all
    # of the prompt's rest, with the new head's rest as a fourth direction.
    known = _geometry_of_rows(setting, np.pad(head, ((0, 0), (0, 1))), prompt)
    framed = np.column_stack([prompt[:, :2], np.hypot(prompt[:, 2], prompt[:, 3])])
    last, third = _last_heads(setting, dim, samples, framed, rng)
    framed = np.pad(framed, ((0, 0), (0, 1)))
    return Steps(known, _geometry_of_rows(setting, last, framed)), (first, second, third)


def _geometry_of_rows(
    setting: Setting, heads: Float[np.ndarray, "t 4"], prompts: Float[np.ndarray, "t 4"]
) -> Geometry:
    numbers: tuple[Any, ...] = (
        heads[:, 0] * setting.signal, heads[:, 1] * setting.context,
        np.linalg.norm(heads, axis=1), prompts[:, 0] * setting.signal,
        prompts[:, 1] * setting.context, np.linalg.norm(prompts, axis=1),
        (heads * prompts).sum(axis=1),
    )  # fmt: skip
    return Geometry(*numbers)


class _Kinds:
    """Sequences of `trials` batches by kind: a kind is a label with a shift.

    `own` is a relevant token and `other` the mean irrelevant one, along w⋆ and q⋆: (kind, 2).
    Sequences of one kind stand together, which the law of sums allows: what is drawn of a batch is
    how many there are of each.
    """

    def __init__(
        self, setting: Setting, samples: int, trials: int, rng: np.random.Generator
    ) -> None:
        shifts = np.asarray(setting.shifts, np.float64)
        odds = np.asarray(setting.shift_weights, np.float64)
        self.label = np.repeat([-1.0, 1.0], len(shifts))
        size = np.stack([self.label * setting.signal, np.full_like(self.label, setting.context)])
        self.own = size.T
        self.other = -np.tile(shifts[:, ::-1], (2, 1)) * self.own
        self.counts = rng.multinomial(samples, np.tile(odds / odds.sum() / 2, 2), size=trials)
        self._shape = trials, samples

    def rows(self, values: Float[np.ndarray, "*t kind"]) -> Float32[np.ndarray, "t n"]:
        """A value of each kind (and trial), for each sequence of each trial."""
        each = np.broadcast_to(values, self.counts.shape).astype(np.float32)
        return np.repeat(each.reshape(-1), self.counts.reshape(-1)).reshape(self._shape)


def _first_heads(
    setting: Setting, dim: int, samples: int, trials: int, rng: np.random.Generator
) -> tuple[Float[np.ndarray, "t 3"], Terms]:
    """Heads of step 1 along w⋆, q⋆ and their own rest: uniform attention has Gaussian noise."""
    kinds, share = _Kinds(setting, samples, trials, rng), setting.relevant / setting.tokens
    term = kinds.label[:, None] * (share * kinds.own + (1 - share) * kinds.other)
    mean = kinds.counts @ term / samples
    away = np.square(term - mean[:, None]) * kinds.counts[:, :, None]
    level = setting.irrelevant * np.square(setting.noise / setting.tokens)
    variance = _beyond_rounding(away.sum(axis=1) / max(samples - 1, 1), mean) + level
    plane = mean + np.sqrt(level / samples) * rng.standard_normal((trials, 2))
    remainder = np.sqrt(level / samples * rng.chisquare(dim - 2, trials))
    nothing = ((0, 0), (0, 2))
    return np.column_stack([plane, remainder]), Terms(
        np.pad(mean, nothing), np.pad(variance, nothing)
    )


def _prompts(
    setting: Setting, dim: int, samples: int, heads: Float[np.ndarray, "t 3"],
    rng: np.random.Generator,
) -> tuple[Float[np.ndarray, "t 4"], Terms]:  # fmt: skip
    """Prompts of step 2 along w⋆, q⋆, the head's rest, and their own rest."""
    unit, _ = _unit_rows(heads)
    parts = (
        _prompt_terms(setting, part, heads, rng)
        for part in _parts_of_batch(setting, samples, len(heads))
    )
    return _mean_step(parts, unit, dim, rng)


def _prompt_terms(
    setting: Setting, samples: int, heads: Float[np.ndarray, "t 3"], rng: np.random.Generator
) -> list[Float32[np.ndarray, "t n"]]:
    """Sequences' terms in step 2, as :func:`_mean_step` takes them."""
    trials, total, relevant = len(heads), setting.tokens, setting.relevant
    kinds = _Kinds(setting, samples, trials, rng)
    unit, norm = _unit_rows(heads)
    # Scores of a relevant and of an irrelevant token without noise, and their mean, for each kind.
    own, other = heads[:, :2] @ kinds.own.T, heads[:, :2] @ kinds.other.T
    still = (relevant * own + setting.irrelevant * other) / total
    normals = _normals_of_rows(setting, trials, samples, rng)
    size = np.asarray(setting.noise * norm, np.float32)[:, None]
    moved = normals.sum(axis=0) * (size / total)
    residual = (kinds.rows(kinds.label - still) - moved) / total
    # Scores less their mean over the tokens of the sequence.
    lead = kinds.rows(own - still) - moved
    centred = size * normals
    centred += kinds.rows(other - still) - moved
    pull, along = centred.sum(axis=0), np.einsum("tbn,tbn->bn", centred, normals)
    along *= setting.noise * residual
    energy = np.einsum("tbn,tbn->bn", centred, centred)
    energy *= np.square(setting.noise * residual)
    pull *= residual
    lead *= relevant * residual
    unit32 = unit.astype(np.float32)[:, :, None]
    rows = [
        lead * kinds.rows(kinds.own[:, i]) + pull * kinds.rows(kinds.other[:, i])
        + along * unit32[:, i]
        for i in (0, 1)
    ]  # fmt: skip
    return [*rows, along * unit32[:, 2], energy]


def _last_heads(
    setting: Setting, dim: int, samples: int, prompts: Float[np.ndarray, "t 3"],
    rng: np.random.Generator,
) -> tuple[Float[np.ndarray, "t 4"], Terms]:  # fmt: skip
    """Heads of step 3 along w⋆, q⋆, the prompt's rest, and their own rest."""
    unit, _ = _unit_rows(prompts)
    parts = (
        _last_terms(setting, part, prompts, rng)
        for part in _parts_of_batch(setting, samples, len(prompts))
    )
    return _mean_step(parts, unit, dim, rng)


def _last_terms(
    setting: Setting, samples: int, prompts: Float[np.ndarray, "t 3"], rng: np.random.Generator
) -> list[Float32[np.ndarray, "t n"]]:
    """Sequences' terms in step 3, as :func:`_mean_step` takes them."""
    trials = len(prompts)
    kinds = _Kinds(setting, samples, trials, rng)
    unit, norm = _unit_rows(prompts)
    normals = _normals_of_rows(setting, trials, samples, rng)
    # Scores less that of a relevant token.
    scores = np.asarray(setting.noise * norm, np.float32)[:, None] * normals
    scores += kinds.rows(prompts[:, :2] @ (kinds.other - kinds.own).T)
    peak = scores.max(axis=0, initial=0.0)
    scores -= peak
    weights = np.exp(scores, out=scores)
    share = setting.relevant * np.exp(-peak)
    total = share + weights.sum(axis=0)
    share /= total
    drift = np.einsum("tbn,tbn->bn", weights, normals)
    drift *= setting.noise / total
    energy = np.einsum("tbn,tbn->bn", weights, weights)
    energy *= np.square(setting.noise / total)
    label = kinds.label
    drift *= kinds.rows(label)
    unit32 = unit.astype(np.float32)[:, :, None]
    rows = [
        share * kinds.rows(label * (kinds.own - kinds.other)[:, i])
        + kinds.rows(label * kinds.other[:, i]) + drift * unit32[:, i]
        for i in (0, 1)
    ]  # fmt: skip
    return [*rows, drift * unit32[:, 2], energy]


def _unit_rows(vectors: Float[np.ndarray, "t 3"]) -> tuple[np.ndarray, Float[np.ndarray, " t"]]:
    """Unit vectors and lengths; a zero vector has no direction."""
    norm = np.linalg.norm(vectors, axis=1)
    return vectors / np.where(norm > 0, norm, 1.0)[:, None], norm


def _normals_of_rows(
    setting: Setting, trials: int, samples: int, rng: np.random.Generator
) -> Float32[np.ndarray, "N t n"]:
    """A standard normal for every irrelevant token: its noise along what the step was given."""
    normals = np.empty((setting.irrelevant, trials, samples), np.float32)
    fill_normals(normals, rng)
    return normals


def _mean_step(
    parts: Iterable[list[Float32[np.ndarray, "t _"]]], unit: Float[np.ndarray, "t 3"], dim: int,
    rng: np.random.Generator,
) -> tuple[Float[np.ndarray, "t 4"], Terms]:  # fmt: skip
    """Steps along three coordinates and what is orthogonal to them, from the sequences' terms.

    Each part of a batch is the terms' means given their scalars in the three coordinates, then the
    variance D of their noise in every direction that is orthogonal to `unit`. Of sums of Gaussian
    vectors with known variances only the sums are drawn.
    """
    trials, samples = len(unit), 0
    mean, squares = np.zeros((trials, 4)), np.zeros((trials, 4))
    for rows in parts:
        number = rows[0].shape[1]
        samples += number
        for i, row in enumerate(rows):
            new = row.mean(axis=1, dtype=np.float64)
            row -= new[:, None].astype(np.float32)
            away = new - mean[:, i]
            mean[:, i] += away * (number / samples)
            squares[:, i] += np.einsum("tn,tn->t", row, row)
            squares[:, i] += np.square(away) * (number * (samples - number) / samples)
    variance = _beyond_rounding(squares / max(samples - 1, 1), mean)
    level = mean[:, 3]
    variance[:, :3] += level[:, None] * (1 - np.square(unit))
    fresh = rng.standard_normal((trials, 3))
    fresh -= unit * (unit * fresh).sum(axis=1, keepdims=True)
    deviation = np.sqrt(level / samples)
    coordinates = mean[:, :3] + deviation[:, None] * fresh
    remainder = deviation * np.sqrt(rng.chisquare(dim - 3, trials))
    return np.column_stack([coordinates, remainder]), Terms(mean, variance)


def _beyond_rounding(variance: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Variances, 0 where rows that are equal in exact arithmetic differ by some last places."""
    return np.where(variance > np.square(16 * np.finfo(np.float32).eps * mean), variance, 0.0)
