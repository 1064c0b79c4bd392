"""Adapt MiniLM-L6 to tell sentences from the same words in reverse order.

Two ways with as many parameters each: prefix vectors in front of every layer's input, and factors
of low rank on the maps to queries and values. The encoder itself stays as it is, and so does the
linear head, which has the mean feature of each class as its rows.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, Key

from jaxprompt.errors import ParameterError
from jaxprompt.networks import minilm
from jaxprompt.networks.descend import descend
from jaxprompt.networks.minilm import HEADS, Adapter, Text, Weights
from jaxprompt.prefix.training import adaptation, experiments, sentences

__all__ = [
    "ARMS",
    "BATCH",
    "HEAD_WIDTH",
    "Adaptation",
    "adapt_from_starts",
    "draw_batches",
    "initial_adapter",
    "unit_features",
]

HEAD_WIDTH = 32
"""Width of one of the encoder's heads."""

PER_RANK = 4
"""Prefix vectors with as many parameters as one more rank of both pairs of factors."""

ARMS = {"prefix": 1e-1, "low_rank": 1e-2}
"""Ways to adapt the model, and the best learning rates of 0.01, 0.03, 0.1, 0.3 and of 0.003, 0.01,
0.03, in 60 steps on two splits of their own."""

BATCH, SHARPNESS = 16, 20.0
"""Sentences in a training step; and the factor that makes logits of cosines."""

TEST_SENTENCES = 150
"""Test sentences of each start."""


class Adaptation(NamedTuple):
    """One start: the split, what each arm added, and which test sentences were read right.

    `right` has an entry for each arm and ``"frozen"``, the model with nothing added.
    """

    split: sentences.Split
    adapters: dict[str, Adapter]
    right: dict[str, Bool[np.ndarray, " m"]]


def initial_adapter(arm: str, vectors: int, *, key: Key[Array, ""]) -> Adapter:
    """What is added before training, float32: a small prefix, or factors with no effect yet."""
    layers, d, rank = 6, HEADS * HEAD_WIDTH, vectors // PER_RANK
    if arm == "prefix":
        return Adapter(0.1 * jax.random.normal(key, (layers, vectors, d), jnp.float32))
    down = jax.random.normal(key, (layers, 2, d, rank), jnp.float32) / np.float32(d**0.5)
    return Adapter(down=down, up=jnp.zeros((layers, 2, rank, d), jnp.float32))


def adapt_from_starts(
    starts: int, vectors: int, steps: int, examples: int, *, key: Key[Array, ""]
) -> list[Adaptation]:
    """Adapt the model from several starts, each with a split of its own of the same sentences.

    Raises:
        MissingExtraError: the extra ``transformer`` is not installed.
        ParameterError: no factors have as many parameters as that many vectors.
    """
    if vectors % PER_RANK:
        raise ParameterError(
            "vectors", vectors, f"a multiple of {PER_RANK} in a simulation",
            "factors of equal size have 4dr parameters a layer",
        )  # fmt: skip
    words = experiments.key_words(key)
    return [_adapt(words, start, vectors, steps, examples) for start in range(starts)]


@functools.lru_cache(maxsize=64)
def _adapt(
    words: tuple[int, ...], start: int, vectors: int, steps: int, examples: int
) -> Adaptation:
    """Both arms from one start; kept, since a check looks at it several times."""
    key = jax.random.wrap_key_data(jnp.asarray(words, jnp.uint32), impl="threefry2x32")
    split_key, batch_key, start_key = jax.random.split(jax.random.fold_in(key, start), 3)
    weights = jax.tree.map(jnp.asarray, minilm.load_pretrained())
    split = sentences.split_sentences(examples, TEST_SENTENCES, key=split_key)
    features = np.asarray(unit_features(weights, split.train, Adapter()))
    means = [features[split.train_labels == label].mean(axis=0) for label in range(2)]
    head = _unit_rows(jnp.asarray(np.stack(means)))
    order = draw_batches(len(split.train_labels), steps, batch_key)
    text = jax.tree.map(lambda x: jnp.asarray(x)[order], split.train)
    labels = jnp.asarray(split.train_labels, jnp.int32)[order]
    fall = np.float32(1) - np.arange(steps, dtype=np.float32) / np.float32(steps)
    adapters = {
        arm: _train_adapter(
            weights,
            initial_adapter(arm, vectors, key=start_key),
            head,
            text,
            labels,
            np.float32(rate) * fall,
        )
        for arm, rate in ARMS.items()
    }
    right = {
        name: np.asarray((unit_features(weights, split.test, adapter) @ head.T).argmax(axis=1))
        == split.test_labels
        for name, adapter in {"frozen": Adapter(), **adapters}.items()
    }
    return Adaptation(split, adapters, right)


def _unit_rows(x: Array) -> Array:
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


@jax.jit
def unit_features(weights: Weights, text: Text, adapter: Adapter) -> Float[Array, "B d"]:
    """Sentence embeddings of length 1."""
    return _unit_rows(
        minilm.mean_embedding(minilm.encode(weights, text, adapter).output, text.present)
    )


@jax.jit
def _train_adapter(
    weights: Weights, adapter: Adapter, head: Array, text: Text, labels: Array, rates: Array
) -> Adapter:
    """Train the added parameters by Adam; axis 0 of `text`, `labels` and `rates` is the step."""

    def loss(adapter: Adapter, batch: tuple[Text, Array]) -> Array:
        text, labels = batch
        output = minilm.encode(weights, text, adapter).output
        logits = SHARPNESS * _unit_rows(minilm.mean_embedding(output, text.present)) @ head.T
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    batches = (text, labels)
    return descend(loss, adapter, adaptation.MOMENTS, data=batches, rates=rates).parameters


def draw_batches(count: int, steps: int, key: Array) -> Int[np.ndarray, "steps batch"]:
    """Sentences of each step: one pass over all of them after another, each in a new order."""
    passes = -(-steps * BATCH // count)
    keys = jax.random.split(key, passes)
    rows = np.concatenate([np.asarray(jax.random.permutation(k, count)) for k in keys])
    return rows[: steps * BATCH].reshape(steps, BATCH)
