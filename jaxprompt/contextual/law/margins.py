r"""What a head and a prompt see of a sequence's tokens: the parts that every exact error shares.

A vector :math:`v` has the product :math:`\langle v,q_\star\rangle+y\langle v,w_\star\rangle` with
a relevant token, and
:math:`-\delta_q\langle v,q_\star\rangle-\delta_wy\langle v,w_\star\rangle` with the mean of an
irrelevant one. The noise along the prompt decides the attention, so a head's length is split into
its part along the prompt and what lies across it.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax.scipy.special import ndtr
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxprompt.contextual.setting import Setting

__all__ = [
    "Geometry", "LabelsAndShifts", "along_and_across", "labels_and_shifts", "mean_error",
    "normal_error", "token_products", "wrong_sign",
]  # fmt: skip


class Geometry(NamedTuple):
    r"""The seven inner products of head :math:`w` and prompt :math:`q` that decide the error."""

    head_signal: Float[Array, ""] | float
    head_context: Float[Array, ""] | float
    head_norm: Float[Array, ""] | float
    prompt_signal: Float[Array, ""] | float
    prompt_context: Float[Array, ""] | float
    prompt_norm: Float[Array, ""] | float
    head_prompt: Float[Array, ""] | float

    @classmethod
    def of_vectors(
        cls,
        setting: Setting,
        head: Float[Array, " d"],
        prompt: Float[Array, " e"],
        *,
        head_norm: Float[Array, ""] | None = None,
        head_prompt: Float[Array, ""] | None = None,
    ) -> Geometry:
        """Of vectors whose first two coordinates are along the unit vectors of w⋆ and q⋆.

        Give `head_norm` where the head has more coordinates than are listed, all of them
        orthogonal to the prompt; `head_prompt` where the prompt has more of them than the head.
        """
        return cls(
            head_signal=head[0] * setting.signal,
            head_context=head[1] * setting.context,
            head_norm=jnp.linalg.norm(head) if head_norm is None else head_norm,
            prompt_signal=prompt[0] * setting.signal,
            prompt_context=prompt[1] * setting.context,
            prompt_norm=jnp.linalg.norm(prompt),
            head_prompt=head @ prompt if head_prompt is None else head_prompt,
        )

    @classmethod
    def of_known_prompt(
        cls, setting: Setting, along_signal: Array, along_context: Array | float, norm: Array
    ) -> Geometry:
        r"""Of a head over the prompt :math:`\gamma q_\star`.

        The head is given by its components along the unit vectors of :math:`w_\star` and
        :math:`q_\star` and by its norm.
        """
        return cls(
            head_signal=along_signal * setting.signal,
            head_context=along_context * setting.context,
            head_norm=norm,
            prompt_signal=0.0,
            prompt_context=setting.gain * setting.context**2,
            prompt_norm=jnp.abs(setting.gain) * setting.context,
            head_prompt=setting.gain * setting.context * along_context,
        )


class LabelsAndShifts(NamedTuple):
    """Both labels along the first axis, all shifts along the second; the third is for nodes."""

    label: Float[Array, "2 1 1"]
    shift_context: Float[Array, "1 S 1"]
    shift_signal: Float[Array, "1 S 1"]


def labels_and_shifts(setting: Setting, dtype: DTypeLike) -> LabelsAndShifts:
    """Every combination of label and shift, on axes of their own."""
    label = jnp.array([-1.0, 1.0], dtype)[:, None, None]
    shifts = jnp.asarray(setting.shifts, dtype)
    return LabelsAndShifts(label, shifts[None, :, None, 0], shifts[None, :, None, 1])


def token_products(
    on: LabelsAndShifts, with_context: Array | float, with_signal: Array | float
) -> tuple[Float[Array, "2 1 1"], Float[Array, "2 S 1"]]:
    """Products of a vector with a relevant token, and with the mean of an irrelevant one.

    The vector is given by its products with q⋆ and w⋆.
    """
    relevant = with_context + on.label * with_signal
    irrelevant = -on.shift_context * with_context - on.shift_signal * on.label * with_signal
    return relevant, irrelevant


def along_and_across(
    geometry: Geometry, dtype: DTypeLike, removed: float = 1.0
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The head's component along the prompt's direction, and the length of what lies across it.

    A zero prompt has no direction: all of the head lies across it. A falsifier changes `removed`,
    the multiple of the squared component that is taken from the squared length.
    """
    norm = jnp.asarray(geometry.prompt_norm, dtype)
    along = geometry.head_prompt / jnp.where(norm > 0, norm, jnp.inf)
    squared = jnp.square(geometry.head_norm) - removed * jnp.square(along)
    return along, jnp.sqrt(jnp.maximum(squared, 0.0))


def mean_error(
    setting: Setting, margin: Float[Array, "2 S M"], deviation: Float[Array, "*#n"]
) -> Float[Array, ""]:
    """Probability of a wrong sign, averaged over labels, shifts and nodes.

    Given label, shift and node the margin is normal with these means and deviations.
    """
    error = normal_error(margin, deviation).mean(axis=(0, 2))
    return error @ jnp.asarray(setting.shift_weights, error.dtype)


def normal_error(margin: Float[Array, "*#n"], deviation: Float[Array, "*#n"]) -> Float[Array, "*_"]:
    r""":math:`\Phi(-\text{margin}/\text{deviation})`, with its limit where the deviation is 0.

    Where one of the two is NaN, so is the result.
    """
    certain = deviation <= 0
    safe = jnp.where(certain, 1.0, deviation)
    return jnp.where(certain, wrong_sign(margin), ndtr(-margin / safe))


def wrong_sign(margin: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """1 where `margin` is negative, a half where it is 0, NaN where it is; in its dtype."""
    return (1 - jnp.sign(margin)) / 2
