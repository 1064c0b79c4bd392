r"""Claim ``universal.kernel_head``: a prefixed head is a kernel estimator times a gate."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Key
from scipy import special

from jaxprompt.compute.namespace import Numbers, namespace_of
from jaxprompt.core.claim import (
    Claim,
    Design,
    Falsifier,
    Mark,
    Panel,
    Panels,
    Quantity,
    Relation,
    Run,
    Verdict,
)
from jaxprompt.core.compared import Compared
from jaxprompt.core.parameters import Parameter
from jaxprompt.errors import ParameterError
from jaxprompt.stats import Estimate, exact_estimate
from jaxprompt.universal.networks import head
from jaxprompt.universal.numerics import point_sets
from jaxprompt.universal.parameters import CONCENTRATION, CONTENT

__all__ = ["CLAIM", "closed_form", "simulate"]

STATEMENT = r"""
Let a softmax head have the fixed blocks $W_Q=[I\,0\,0]$, $W_K=[0\,I\,0]$, $W_V=[0\,0\,I]$ on
tokens of width $3n$. With $T$ content tokens $(x,0,0)$ and prefix tokens $(0,\lambda b_i,v_i)$,
$i\le N$, its output at the query $x$ is
$$ g(x)\sum_{i} w_i(x)\,v_i,\qquad w_i(x)=\frac{e^{\lambda\langle x,b_i\rangle}}{Z_P(x)},\qquad
   g(x)=\frac{Z_P(x)}{Z_P(x)+T},\qquad Z_P(x)=\sum_i e^{\lambda\langle x,b_i\rangle}, $$
a Nadaraya–Watson estimator with kernel $e^{\lambda\langle x,b\rangle}$ times a gate. When the head
divides its scores by $\sqrt{d_k}$, the prefix's keys are $\sqrt{d_k}\,\lambda b_i$. Weights
$\omega_i$ on the centres are key biases $\log\omega_i$ against one constant query coordinate.
Width $2n$ does as well: with $W_Q=W_K=[I\,0]$, $W_V=[0\,I]$, content $(x_j,0)$ and prefix
$(\lambda b_i,v_i)$ the average is the same, and the gate has $\sum_je^{\langle x,x_j\rangle}$ in
place of $T$.
"""

DERIVATION = r"""
The score of a prefix token is $\langle x,\lambda b_i\rangle$ and that of a content token
$\langle x,0\rangle=0$, so the joint softmax has the normaliser $Z_P+T$; content has value $0$.
Dividing and multiplying by $Z_P$ separates the kernel average from the gate, which is
$\mathrm{sigmoid}(\log Z_P-\log T)$. Width $3n$ buys content scores that are $0$ whatever the other
tokens are. At width $2n$ queries and keys are read from the same coordinates, so that content token
$x_j$ has the key $x_j$ and the score $\langle x,x_j\rangle$; its value is still $0$.

*Tolerances.* Both sides are equal to rounding. The error of a score of size $\lambda$, which is
$\lambda$ ulps, multiplies the weights: $4(1+\lambda)$ ulps of the largest value $|v_i|$, and of 1
for the gate.
"""


# --- the closed form ---


def closed_form(
    *, query: ArrayLike, centres: ArrayLike, values: ArrayLike, concentration: ArrayLike,
    content: ArrayLike = 1, log_weights: ArrayLike | None = None,
    scaled_keys: bool = True, weighted: bool = True, most_content: float = math.inf,
) -> dict[str, Numbers]:  # fmt: skip
    """Core output (…, d), classical output (…, d) and gate (…) of the head; float64 or as traced.

    query (…, n), centres (N, n), values (N, d), log_weights (N). Values (N,) are plain numbers,
    and so are outputs then, of shape (…). `concentration` and `content`
    broadcast against the leading axes of `query`. Falsifiers change the last three arguments,
    which the theory has at their defaults.
    """
    xp = namespace_of(query, centres, values, concentration, content, log_weights)
    score_scale = xp.asarray(concentration)
    if not scaled_keys:
        score_scale = score_scale / math.sqrt(np.shape(centres)[1])
    weights = log_weights if weighted else None
    kernel, log_mass = head.core(query, centres, values, score_scale, weights)
    counted = xp.minimum(xp.asarray(content, log_mass.dtype), most_content)
    with np.errstate(divide="ignore"):  # no content: the gate is 1
        log_counted = xp.log(counted)
    gate = (jax.nn.sigmoid if xp is jnp else special.expit)(log_mass - log_counted)
    share = gate if np.ndim(values) == 1 else gate[..., None]
    return {"core": kernel, "classical": share * kernel, "gate": gate}


FALSIFIERS = (
    Falsifier("missing √d_k", "keys not scaled up by √d_k", scaled_keys=False),
    Falsifier("one content token", "gate with T = 1", most_content=1.0),
    Falsifier("weights ignored", "log-weights dropped", weighted=False),
    Falsifier.after("gate +2 %", "gate two per cent too large",
                    lambda right, _: {**right, "gate": 1.02 * right["gate"]}),
)  # fmt: skip


# --- the simulation ---


# The head's matrices are NumPy's, and a single query has one exact output: nothing to trace.
def simulate(
    *, key: Key[Array, ""], trials: int, query: np.ndarray, centres: np.ndarray,
    values: np.ndarray, concentration: float, content: int = 1,
    log_weights: np.ndarray | None = None,
) -> dict[str, Estimate]:  # fmt: skip
    """The block-matrix head itself, its scores divided by √d_k, on one query.

    The other content tokens are random: their own queries do not matter to this one.
    """
    if np.ndim(query) != 1 or np.ndim(concentration) or np.ndim(content):
        raise ParameterError(
            "query", f"shape {np.shape(query)}", "one query (n) with one concentration and content",
            "call simulate once for each query", CLAIM.id,
        )  # fmt: skip
    columns = np.reshape(values, (len(values), -1))
    with jax.enable_x64(True):
        weights = head.blocks(centres, columns, concentration, log_weights, scaled=True)
        other = point_sets.uniform(key, max(content - 1, 0), len(query) - 1, jnp.float64)
        tokens = np.concatenate([np.asarray(query)[None], np.asarray(other)])
        tokens = head.content_tokens(tokens, weights.prefix.shape[1], log_weights is not None)
        kernel, _ = head.apply_blocks(weights, tokens, scaled=True, alone=True)
        full, share = head.apply_blocks(weights, tokens, scaled=True, alone=content == 0)
    shape = np.shape(values)[1:]
    return {
        "core": exact_estimate(np.reshape(kernel[0], shape), trials),
        "classical": exact_estimate(np.reshape(full[0], shape), trials),
        "gate": exact_estimate(share[0], trials),
    }


# --- the parameters ---


def validate(params: dict[str, Any], where: str) -> dict[str, Any]:
    """Shapes that fit together."""
    query, centres, values = (params[name] for name in ("query", "centres", "values"))
    if np.ndim(centres) != 2:
        raise ParameterError(
            "centres", f"shape {np.shape(centres)}", "an array (N, n)", "one centre a row", where
        )
    count, n = np.shape(centres)
    if np.ndim(query) < 1 or np.shape(query)[-1] != n:
        raise ParameterError(
            "query", f"shape {np.shape(query)}", f"an array (…, {n})",
            "give it as many coordinates as the centres", where,
        )  # fmt: skip
    if np.ndim(values) not in (1, 2) or np.shape(values)[0] != count:
        raise ParameterError(
            "values", f"shape {np.shape(values)}", f"an array ({count}, d) or ({count},)",
            "give one row for each centre", where,
        )  # fmt: skip
    weights = params.get("log_weights")
    if weights is not None and np.shape(weights) != (count,):
        raise ParameterError(
            "log_weights", f"shape {np.shape(weights)}", f"an array ({count},)",
            "give one number for each centre", where,
        )  # fmt: skip
    return params


# --- the design ---


def _random_heads(contents: tuple[int, ...]) -> Iterator[Run]:
    """Random heads of several sizes, one query each, with and without weights."""
    random = np.random.default_rng(20240517)
    for n, count, lam, content in itertools.product((2, 5), (1, 40), (0.1, 4.0, 60.0), contents):
        points = random.normal(size=(count + 1, n))
        points /= np.linalg.norm(points, axis=1, keepdims=True)
        unweighted = Run(
            query=points[0], centres=points[1:], values=random.normal(size=count),
            concentration=lam, content=content,
        )  # fmt: skip
        yield unweighted
        yield Run(unweighted, log_weights=random.normal(size=count))


def _rounding_of_the_gate(parameters: Mapping[str, Any]) -> float:
    """4 (1 + λ) ulps of 1."""
    return 4 * 2.0**-52 * (1.0 + float(parameters["concentration"]))


def _rounding_of_outputs(parameters: Mapping[str, Any]) -> float:
    """4 (1 + λ) ulps of the largest value |v|."""
    return float(np.abs(parameters["values"]).max()) * _rounding_of_the_gate(parameters)


# --- the figure ---

_CENTRES = 9
_VALUES = np.array([0.2, 0.9, 0.7, -0.1, -0.8, -0.5, 0.3, -0.2, 0.6])
_FLAT, _SHARP = 3.0, 12.0


def _panels_on_the_circle(claim: Claim, verdict: Verdict | None, key: Any) -> list[Panel]:
    """What the prefix alone puts out along the circle, and its share among content tokens."""
    angles = np.linspace(0.0, 2.0, 361)
    at_centres = 2.0 * np.arange(_CENTRES) / _CENTRES
    tested = np.linspace(0.05, 1.95, 20)
    contents = np.geomspace(1, 10_000, 41)
    fixed: dict[str, Any] = {"centres": _on_circle(at_centres), "values": _VALUES}
    outputs: list[Mark] = [Mark("points", at_centres, _VALUES, label="values of the prefix")]
    gates: list[Mark] = []
    for colour, concentration in enumerate((_FLAT, _SHARP), 1):
        point: dict[str, Any] = {**fixed, "concentration": concentration}
        label, query = f"λ = {concentration:g}", _on_circle(np.asarray(0.3))
        heads = [claim.simulate(key=key, trials=2, **point, query=q) for q in _on_circle(tested)]
        counted = [int(count) for count in contents[::10]]
        shares = [
            claim.simulate(key=key, trials=2, **point, query=query, content=count)["gate"]
            for count in counted
        ]
        outputs += [
            Mark("line", angles, claim.predict(**point, query=_on_circle(angles))["core"],
                 label=label, colour=colour),
            Mark("points", tested, [float(h["core"].mean) for h in heads], colour=colour),
        ]  # fmt: skip
        gates += [
            Mark("line", np.round(contents),
                 [float(claim.predict(**point, query=query, content=c)["gate"])
                  for c in np.round(contents).astype(int)], colour=colour),
            Mark("points", counted, [float(share.mean) for share in shares], colour=colour),
        ]  # fmt: skip
    return [
        Panel(outputs, "output of the prefix alone", "angle of the query / π", "output"),
        Panel(gates, "gate", "content tokens T", "share on the prefix", log_x=True),
    ]


def _on_circle(halves: np.ndarray) -> np.ndarray:
    """Points (…, 2) at these angles, in units of π."""
    return np.stack([np.cos(np.pi * halves), np.sin(np.pi * halves)], axis=-1)


CLAIM = Claim(
    id="universal.kernel_head",
    title="A prefixed head is a kernel estimator times a gate",
    statement=STATEMENT,
    derivation=DERIVATION,
    relation=Relation.IDENTITY,
    source="Petrov et al., ICML 2024; width and weights derived here",
    parameters=(
        Parameter("query", "array", "the query, (…, n)", "x"),
        Parameter("centres", "array", "directions of the prefix's keys, (N, n)", "b_i"),
        Parameter("values", "array", "values of the prefix, (N, d)", "v_i"),
        replace(CONCENTRATION, open_low=False),
        CONTENT,
        Parameter("log_weights", "array", "log-weights of the centres, (N)", r"\log\omega_i",
                  default=None),
    ),
    quantities=(
        Quantity("core", "output of the prefix alone", tolerance=_rounding_of_outputs),
        Quantity("classical", "output of the whole head", tolerance=_rounding_of_outputs),
        Quantity("gate", "share of attention on the prefix", tolerance=_rounding_of_the_gate,
                 symbol="g"),
    ),
    compared=Compared(
        {"concentration": (1e-3, 1e6), "content": (0, 10**6)},
        elsewhere="scores of size s are rounded by 1e-16 s, and so are the outputs",
    ),
    falsifiers=FALSIFIERS,
    closed_form=closed_form,
    simulation=simulate,
    check_parameters=validate,
    designs={
        "quick": Design(*_random_heads((3,)), trials=2),
        "full": Design(*_random_heads((0, 1, 30, 1000)), trials=2),
    },
    broadcasts="query (…, n); concentration and content against its leading axes",
    traceable=True,
    figure=Panels(
        _panels_on_the_circle,
        "A prefix of nine tokens makes a head a kernel smoother of nine values",
        "lines: theory; points: the block-matrix head",
        needs_check=False,
    ),
)  # fmt: skip
