"""One prefixed attention head as a universal approximator: claims, numerics, and a builder.

`build_prefix` turns any function on a sphere into a prefix with a certificate. The numerics are
in the modules `bessel`, `sphere`, `harmonics`, `head` and `stack`; each claim in a module of its
own name.
"""

from __future__ import annotations

from jaxprompt.core.claim import Claim
from jaxprompt.universal.build.build import Certificate, Prefix, build_prefix
from jaxprompt.universal.claims import (
    circle_error,
    kernel_head,
    optimal_values,
    prefix_bound,
    prefix_lower_bound,
    prefix_rate,
    random_centres,
    sequence_map,
    sphere_limit,
)
from jaxprompt.universal.networks import head, stack
from jaxprompt.universal.numerics import bessel, harmonics, sphere

__all__ = [
    "CLAIMS",
    "Certificate",
    "Prefix",
    "bessel",
    "build_prefix",
    "harmonics",
    "head",
    "sphere",
    "stack",
]

CLAIMS: tuple[Claim, ...] = (
    kernel_head.CLAIM,
    sphere_limit.CLAIM,
    circle_error.CLAIM,
    random_centres.CLAIM,
    prefix_rate.CLAIM,
    prefix_bound.CLAIM,
    prefix_lower_bound.CLAIM,
    optimal_values.CLAIM,
    sequence_map.CLAIM,
)
