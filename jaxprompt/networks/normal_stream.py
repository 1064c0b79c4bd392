"""Normal numbers handed out in order, for the initial parameters of a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Array, Float

__all__ = ["NormalStream"]


class NormalStream:
    """One long row of normal numbers, handed out in order.

    A model drawn from one row needs one generator in its program rather than one for every array,
    and compiles in a small part of the time. Without numbers it gives zeros and counts: `used` is
    then how many a model takes.
    """

    def __init__(self, row: Float[Array | np.ndarray, " n"] | None = None) -> None:
        self.row, self.used = row, 0

    def normal(self, shape: Sequence[int], /) -> Any:
        """The next numbers, in this shape, as an array of the row's kind.

        A float32 array of NumPy where there is no row.
        """
        first, self.used = self.used, self.used + int(np.prod(shape))
        if self.row is None:
            return np.zeros(shape, np.float32)
        return self.row[first : self.used].reshape(shape)
