"""One prefixed attention head as a universal approximator: claims, numerics, and a builder.

For functions of your own:

* :func:`build_prefix`: turns any function on a sphere into a :class:`Prefix` with a
  :class:`Certificate`.
* :func:`build_torus_prefix`: the same for functions of angles, a :class:`TorusPrefix`.
* :func:`build_sequence_prefix`: turns any map of sequences into layers with prefixes, a
  :class:`SequencePrefix` with a :class:`SequenceCertificate`.
* :func:`head_capacity`: whether prefixes make a head of given matrices compute any function.
* `domains`: balls, cubes and tori inside a sphere.
* `head`, `stack`: the head that the prefix drives, and stacks of them for maps of sequences.
* `point_sets`, `kernel_averages`, `bessel`, `harmonics`: centres on the sphere, averages over the
  head's kernel, and the special functions behind them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jaxprompt.core.families import lazy_members

if TYPE_CHECKING:
    from jaxprompt.core.claim import Claim
    from jaxprompt.universal.build import domains
    from jaxprompt.universal.build.build import Certificate, Prefix, build_prefix
    from jaxprompt.universal.build.sequence import (
        SequenceCertificate,
        SequencePrefix,
        build_sequence_prefix,
    )
    from jaxprompt.universal.build.torus_prefix import TorusPrefix, build_torus_prefix
    from jaxprompt.universal.networks import head, stack
    from jaxprompt.universal.networks.given_head import HeadCapacity, head_capacity
    from jaxprompt.universal.numerics import bessel, harmonics, kernel_averages, point_sets

    CLAIMS: tuple[Claim, ...]

__all__ = [
    "CLAIMS",
    "Certificate",
    "HeadCapacity",
    "Prefix",
    "SequenceCertificate",
    "SequencePrefix",
    "TorusPrefix",
    "bessel",
    "build_prefix",
    "build_sequence_prefix",
    "build_torus_prefix",
    "domains",
    "harmonics",
    "head",
    "head_capacity",
    "kernel_averages",
    "point_sets",
    "stack",
]

__getattr__, __dir__ = lazy_members(
    __name__,
    {
        **dict.fromkeys(
            ("Certificate", "Prefix", "build_prefix"), "jaxprompt.universal.build.build"
        ),
        **dict.fromkeys(
            ("HeadCapacity", "head_capacity"), "jaxprompt.universal.networks.given_head"
        ),
        **dict.fromkeys(
            ("SequenceCertificate", "SequencePrefix", "build_sequence_prefix"),
            "jaxprompt.universal.build.sequence",
        ),
        **dict.fromkeys(
            ("TorusPrefix", "build_torus_prefix"), "jaxprompt.universal.build.torus_prefix"
        ),
    },
    {
        "bessel": "jaxprompt.universal.numerics.bessel",
        "domains": "jaxprompt.universal.build.domains",
        "harmonics": "jaxprompt.universal.numerics.harmonics",
        "head": "jaxprompt.universal.networks.head",
        "kernel_averages": "jaxprompt.universal.numerics.kernel_averages",
        "point_sets": "jaxprompt.universal.numerics.point_sets",
        "stack": "jaxprompt.universal.networks.stack",
    },
)
