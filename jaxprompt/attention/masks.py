"""What a query may look at: masks of positions, and masks as models hold them."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from jaxprompt.errors import ParameterError

__all__ = ["split_mask", "visible_positions"]


def visible_positions(
    query_positions: Any, key_positions: Any, *, causal: bool = True, window: int | None = None
) -> Bool[Array, "T S"]:
    """Which keys (at positions `key_positions`, whole numbers) each query sees.

    A causal query sees the keys up to its own position, and with a `window` of w only the last w
    of them, itself included; without `causal` it sees those less than w away on either side. A
    prefix of n vectors just before the content has the positions −n … −1, and one that is exempt
    from the window (a pinned sink) needs no mask.

    Raises:
        ParameterError: the window is below 1.
    """
    if window is not None and window < 1:
        raise ParameterError("window", window, "an integer ≥ 1", "leave it out to see all")
    distance = jnp.asarray(query_positions)[:, None] - jnp.asarray(key_positions)[None, :]
    seen = distance >= 0 if causal else jnp.ones(distance.shape, bool)
    return seen if window is None else seen & (jnp.abs(distance) < window)


def split_mask(mask: Any) -> tuple[Bool[Array, "*mask_shape"] | None, Array | None]:
    """A model's mask as two: what may be looked at, and what is added to the scores.

    A mask of truth values or integers is the first, and adds nothing; one of a float type is added
    to the scores (so it may hold ALiBi's or T5's biases), and its entries of −∞ or of a size that
    no score has hide a key. Models use the least number of their dtype for that: hidden is what is
    at most half the least float16 in a float16 mask, half the least float32 in any other. None for
    a mask that hides nothing or adds nothing.
    """
    if mask is None:
        return None, None
    given = jnp.asarray(mask)
    if not jnp.issubdtype(given.dtype, jnp.floating):
        return given.astype(bool), None
    # A mask that was widened, say from bfloat16 to float64, still holds the narrow minimum.
    least = np.float16 if given.dtype == jnp.float16 else np.float32
    visible = given > 0.5 * float(np.finfo(least).min)
    return visible, jnp.where(visible, given, 0)
