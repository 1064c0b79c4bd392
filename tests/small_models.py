"""Small transformers with initial parameters that cost no program."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from jaxprompt.networks.transformer import Added, Config, init_sizes
from jaxprompt.prefix.training import adaptation


@functools.cache
def initial_arrays(config: Config, added: Added = Added(), seed: int = 0) -> Any:  # noqa: B008
    """Parameters of a new model (float32), of NumPy's generator; do not change them in place.

    As :func:`jaxprompt.prefix.training.adaptation.initial_state` makes them of its own numbers.
    """
    random = np.random.default_rng(seed)
    rows = [random.normal(size=size).astype(np.float32) for size in init_sizes(config, added)]
    return adaptation._state_of_rows(config, added, *rows)  # pyright: ignore[reportPrivateUsage]
