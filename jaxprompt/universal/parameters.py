"""Parameters that several claims of the family share, each declared once.

A claim takes them as they are, or narrowed to what its own closed form holds for, with
``dataclasses.replace``.
"""

from __future__ import annotations

from jaxprompt.core.parameters import Parameter

__all__ = ["ACCURACY", "CENTRES", "CONCENTRATION", "CONTENT", "DEGREE", "LIPSCHITZ", "SPHERE_DIM"]

SPHERE_DIM = Parameter("sphere_dim", "integer", "dimension of the sphere", "m", low=1, high=401)

CENTRES = Parameter("centres", "integer", "number of centres, which is prefix tokens", "N", low=1)

CONCENTRATION = Parameter(
    "concentration", "real", "inverse temperature", r"\lambda", low=0, open_low=True
)

DEGREE = Parameter(
    "degree", "integer", "degree of the harmonic, on the circle its frequency", "k", low=0,
    high=1000,
)  # fmt: skip

CONTENT = Parameter(
    "content", "integer", "content tokens in the softmax", "T", low=0, default=1
)  # fmt: skip

LIPSCHITZ = Parameter("lipschitz", "real", "Lipschitz constant", "L", low=0, open_low=True)

ACCURACY = Parameter("accuracy", "real", "error allowed", r"\varepsilon", low=0, open_low=True)
