r"""Claim ``prefix.soft_prompt``: under a causal mask a soft prompt is a prefix."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Key

from jaxprompt.compute.quick_jit import RUN_ONCE_OPTIONS
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
from jaxprompt.networks.transformer import Added, Config, Trace, Transformer
from jaxprompt.prefix.training.adaptation import sharp_random_model
from jaxprompt.stats import Estimate, exact_estimate

__all__ = ["CLAIM", "closed_form", "deviations", "simulate"]

STATEMENT = r"""
In a causal transformer put $n$ vectors in front of the embeddings. They never see the content, so
in every layer their stream is the same whatever follows, and the content cannot tell them from a
prefix: with $s^{(l)}_k$ the stream of vector $k$ at the input of layer $l$,
$$\text{soft prompt }(s^{(1)})\ =\ \text{prefix }(s^{(1)},\dots,s^{(L)}),$$
exactly. Vectors that are embeddings of tokens make a prompt or in-context examples: they too are
a prefix, a special one. Without the mask the prompt reads the content and the equality fails; so
it does with the first layer's vectors in every layer.
"""

DERIVATION = r"""
By induction over the layers: row $k\le n$ of the stream is a function of the rows up to $k$, which
are the prompt's own. Content row $i$ attends to the prompt's rows of that layer's input and to the
content up to $i$, which is what a prefix with those rows offers it. Content keeps its position
numbers, so both runs are the same model.

*Tolerances.* Relative to the largest logit, a few layers in float64 leave less than $10^{-12}$. A
share of models is a count, so nothing but another count differs from it by $10^{-9}$.
"""

# --- the closed form ---


def closed_form(
    *, layers: ArrayLike, prompt: ArrayLike, soft: float = 0.0, hard: float = 0.0,
    unmasked: float = 1.0, first_stream: float = 1.0,
) -> dict[str, Any]:  # fmt: skip
    """Deviations that must be 0 and shares that must be 1, for any depth and number of vectors.

    Falsifiers change the last four arguments, which the theory has at their defaults.
    """
    zero = np.zeros(np.broadcast_shapes(np.shape(layers), np.shape(prompt)))
    return {
        "soft": zero + soft,
        "hard": zero + hard,
        "unmasked": zero + unmasked,
        "first_stream": zero + first_stream,
    }


FALSIFIERS = (
    Falsifier("no mask needed", "equal without a mask too", unmasked=0.0),
    Falsifier("one stream", "the first layer's vectors do for all", first_stream=0.0),
    Falsifier("prompts differ", "a prompt of tokens changes by 1e-6", hard=1e-6),
    Falsifier("nearly", "a soft prompt changes by 1e-6", soft=1e-6),
)


# --- the simulation ---

_WIDTH, _HEADS, _TOKENS, _SYMBOLS = 24, 2, 8, 8

CHANGE = float(np.sqrt(np.finfo(np.float64).eps))
"""Relative change of the logits that counts as another function: half the digits, 1.5e-8.

Rounding takes the last few: a logit is a sum of some hundred products over a few layers."""

_TOGETHER = 500
"""Models run at once: all 10⁴ of eight layers would take more than 18 GiB."""


# A model is a Flax module, so many run in one block; the worst of them is an exact number.
def simulate(*, key: Key[Array, ""], trials: int, layers: int, prompt: int) -> dict[str, Estimate]:
    """Random transformers (float64): largest deviations, and shares that deviate by more."""
    with jax.enable_x64(True):
        changes = {n: np.asarray(v) for n, v in deviations(layers, prompt, trials, key=key).items()}
    measured = {
        "soft": changes["soft"].max(),
        "hard": changes["hard"].max(),
        "unmasked": (changes["unmasked"] > CHANGE).mean(),
        "first_stream": (changes["first_stream"] > CHANGE).mean(),
    }
    return {name: exact_estimate(value, trials) for name, value in measured.items()}


@functools.partial(jax.jit, static_argnums=(0, 1, 2), compiler_options=RUN_ONCE_OPTIONS)
def deviations(
    layers: int, prompt: int, draws: int, *, key: Key[Array, ""]
) -> dict[str, Float[Array, " R"]]:
    """Largest change of the content's logits, relative to their size, for R random models.

    Between a soft prompt and a prefix: of the prompt's own streams (`soft`, and `hard` for token
    embeddings with positions), without a mask (`unmasked`), and with the first layer's streams
    everywhere (`first_stream`). Float64 where 64-bit types are enabled.
    """

    def one(key: Array) -> dict[str, Array]:
        model_key, token_key = jax.random.split(key)
        tokens = jax.random.randint(token_key, (_TOKENS + prompt,), 0, _SYMBOLS)

        def model(causal: bool, hard: bool) -> Transformer:
            config = Config(layers, _HEADS, _WIDTH, _TOKENS, _TOKENS, _SYMBOLS, causal=causal)
            built = sharp_random_model(config, Added(soft_prompt=prompt), key=model_key)
            if hard and built.soft_prompt is not None:
                words = built.embedding[...][tokens[_TOKENS:]]
                built.soft_prompt[...] = words + built.position[...][:prompt]
            return built

        def compare(causal: bool = True, hard: bool = False, first: bool = False) -> Array:
            built, trace = model(causal, hard), Trace([], [])
            right = built(tokens[:_TOKENS], _TOKENS)
            # A prefix is fixed: its streams come from a run on content that differs at every token.
            built((tokens[:_TOKENS] + 1) % _SYMBOLS, _TOKENS, trace=trace)
            streams = [stream[:prompt] for stream in trace.streams]
            built.soft_prompt = None
            streams = streams[:1] * layers if first else streams
            other = built(tokens[:_TOKENS], _TOKENS, streams=streams)
            return jnp.abs(other - right).max() / jnp.abs(right).max()

        return {
            "soft": compare(),
            "hard": compare(hard=True),
            "unmasked": compare(causal=False),
            "first_stream": compare(first=True),
        }

    return jax.lax.map(one, jax.random.split(key, draws), batch_size=_TOGETHER)


# --- the design ---

# --- the figure ---

_SHOWN = 300
"""Random models of the figure."""


def _panels(claim: Claim, verdict: Verdict | None, key: Key[Array, ""]) -> list[Panel]:
    """How far the two runs are apart over random models, as a distribution function."""
    with jax.enable_x64(True):
        numbers = {n: np.asarray(v) for n, v in deviations(2, 3, _SHOWN, key=key).items()}
    words = {
        "soft": "its own streams in every layer",
        "hard": "the same, of a prompt of tokens",
        "unmasked": "its own streams, no causal mask",
        "first_stream": "the first layer's stream everywhere",
    }
    least = float(np.finfo(np.float64).eps) / 4  # where an equality to the last bit is drawn
    heights = (np.arange(_SHOWN) + 1) / _SHOWN
    marks = [
        Mark("step", np.sort(np.maximum(numbers[name], least)), heights, label=label, colour=colour)
        for colour, (name, label) in enumerate(words.items())
    ]
    rounding = Mark("vertical", [1e-12], label="tolerance for equality", colour=6)
    return [
        Panel(
            [*marks, rounding],
            x_label="at most this relative change of a logit, soft prompt against prefix",
            y_label="share of models", log_x=True,
        )
    ]  # fmt: skip


CLAIM = Claim(
    id="prefix.soft_prompt",
    title="Under a causal mask a soft prompt is a prefix",
    statement=STATEMENT,
    derivation=DERIVATION,
    relation=Relation.IDENTITY,
    source="Petrov et al., ICLR 2024; derived here",
    parameters=(
        Parameter("layers", "integer", "depth of the transformer", "L", low=2),
        Parameter("prompt", "integer", "vectors of the prompt", "n", low=1, high=_TOKENS),
    ),
    quantities=(
        Quantity("soft", "largest change of a logit from soft prompt to its own prefix", 1e-12),
        Quantity("hard", "the same for embeddings of tokens: a prompt", 1e-12),
        Quantity("unmasked", f"share of models that change by {CHANGE:.1e} without a mask", 1e-9),
        Quantity("first_stream", "the same with the first layer's vectors in all layers", 1e-9),
    ),
    compared=Compared(
        {"layers": (2, 8), "prompt": (1, 8)},
        elsewhere="the same numbers at any depth",
    ),
    closed_form=closed_form,
    falsifiers=FALSIFIERS,
    simulation=simulate,
    designs={
        "quick": Design(Run(layers=2, prompt=3), trials=300),
        "full": Design.product({}, {"layers": (2, 4, 8), "prompt": (1, 3, 8)}, trials=10_000),
    },
    broadcasts="layers and prompt",
    figure=Panels(
        _panels,
        "A soft prompt is a prefix under a causal mask, and only there",
        f"{_SHOWN} random transformers of two layers with three vectors in front",
        needs_check=False,
    ),
)
