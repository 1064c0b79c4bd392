from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprompt import attention
from jaxprompt.contextual.law.attention_moments import normal_nodes
from jaxprompt.contextual.law.least_error import CEILINGS, exact_error, least_error
from jaxprompt.contextual.setting import Setting

MILD = Setting.make(
    tokens=5, relevant=1, signal=1.0, context=1.2, noise=0.8, shifts=((0.0, 0.0), (0.5, 0.3)),
    shift_weights=(0.4, 0.6),
)  # fmt: skip
ALIGNED = Setting.make(
    tokens=5, relevant=1, signal=1.0, context=1.2, noise=0.8, shifts=((0.0, 0.0), (2.0, 2.0))
)


def sample(setting, dim, count, seed):
    """Sequences token by token, in NumPy."""
    rng = np.random.default_rng(seed)
    label = rng.choice([-1.0, 1.0], count)
    shift = setting.shifts[rng.choice(len(setting.shifts), count, p=setting.shift_weights)]
    tokens = setting.noise * rng.normal(size=(count, setting.tokens, dim))
    k = setting.relevant
    tokens[:, :k] = 0
    tokens[:, :k, 0], tokens[:, :k, 1] = (label * setting.signal)[:, None], setting.context
    tokens[:, k:, 0] -= (shift[:, 1] * label * setting.signal)[:, None]
    tokens[:, k:, 1] -= (shift[:, 0] * setting.context)[:, None]
    return tokens, label


@pytest.mark.parametrize(("head", "prompt"), [
    tuple(np.random.default_rng(1).normal(size=(2, 4))),
    # Close to each other, and to the tokens' mean: what they share is a fair part of each.
    (np.array([1.0, 0.2, 0.8, 0.0]), np.array([0.3, 1.0, 0.9, 0.0])),
], ids=["random", "close"])  # fmt: skip
def test_linear_prompt_error_against_brute_force(head, prompt):
    tokens, label = sample(MILD, 4, 400_000, 2)
    outputs = np.einsum("nti,i,ntj,j->n", tokens, head, tokens, prompt)
    wrong = (outputs * label < 0).mean()
    with jax.enable_x64(True):
        nodes = jnp.asarray(normal_nodes(4)[0])
        exact = jax.jit(exact_error, static_argnums=0)(
            "linear_prompt", MILD, jnp.asarray(head), jnp.asarray(prompt), nodes
        )
    assert abs(float(exact) - wrong) < 4 * np.sqrt(wrong * (1 - wrong) / label.size)


def test_linear_prompt_error_is_that_of_the_attention_model():
    """Its outputs are the ones of the model on tokens."""
    tokens, _ = sample(MILD, 4, 3, 3)
    head, prompt = np.random.default_rng(4).normal(size=(2, 4))
    for x in tokens:
        feature = attention.linear_prompt_attention(jnp.asarray(x, jnp.float32), prompt)
        assert float(feature @ head) == pytest.approx(
            (x @ prompt) @ (x @ head) / MILD.tokens, rel=1e-4
        )


@pytest.mark.parametrize("setting", [MILD, ALIGNED], ids=["mild", "aligned"])
@pytest.mark.parametrize("model", CEILINGS)
def test_no_random_weights_do_better(model, setting):
    """Three thousand heads and prompts in four dimensions, of all sizes."""
    rng = np.random.default_rng(5)
    heads, prompts = rng.normal(size=(2, 3000, 4))
    prompts *= 10 ** rng.uniform(-1.5, 1.0, size=(3000, 1)) * (model != "linear")
    # Half of them in the plane of w⋆ and q⋆, where the best ones mostly are.
    heads[::2, 2:], prompts[::2, 2:] = 0, 0
    with jax.enable_x64(True):
        nodes = jnp.asarray(normal_nodes(4)[0, :128])
        errors = jax.jit(jax.vmap(lambda w, q: exact_error(model, setting, w, q, nodes)))(
            jnp.asarray(heads), jnp.asarray(prompts)
        )
        least, _ = least_error(model, setting)
    found = np.nanmin(np.asarray(errors))
    assert least.mean() <= found + 3e-3, "up to the few nodes' own error"
    assert found - least.mean() < 0.05, "random weights come close, so the search is no fluke"


def test_best_linear_head_may_want_noise():
    """Where the mean token has the wrong sign for one shift, a head of pure noise is better there.

    The least error over heads along w⋆ alone is larger than over all heads.
    """
    least, point = least_error("linear", ALIGNED)
    with jax.enable_x64(True):
        nodes = jnp.asarray(normal_nodes(4)[0])
        zero = jnp.zeros(4)
        along = [float(exact_error("linear", ALIGNED, s * jnp.eye(4)[0], zero, nodes))
                 for s in (1.0, -1.0)]  # fmt: skip
    assert least.mean() < min(along) - 0.01
    assert np.linalg.norm(point[2:4]) > 0.1
