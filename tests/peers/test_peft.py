"""A GPT-2 of random weights with PEFT's prefix and prompt tuning, against our transformer.

GPT-2's weights fit :class:`jaxprompt.networks.transformer.Transformer` as they are (its read-out is
the transposed embedding). Two things differ and are compared as such. PEFT trains the keys and
values of a prefix, which every prefix of ours has, while not every key and value comes from a
vector in front of the layer. And with `n` prefix vectors the library runs the content at positions
n … n+T−1, not 0 … T−1: it agrees with a model, and with the identities, at those positions only.
"""

from __future__ import annotations

import warnings

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxprompt.networks import transformer
from jaxprompt.networks.normal_stream import NormalStream
from jaxprompt.networks.transformer import Added, Config, InitStreams, Trace, Transformer
from jaxprompt.prefix.claims.pattern_invariance import ratio_change

from .conftest import peer

torch = peer("torch")
transformers = peer("transformers")
peft = peer("peft")

LAYERS, HEADS, WIDTH, TOKENS, VECTORS, VOCABULARY = 3, 4, 24, 9, 5, 31
AT = slice(VECTORS, VECTORS + TOKENS)
"""Positions at which the library runs the content behind a prefix."""


@pytest.fixture(scope="module")
def gpt2():
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=VOCABULARY, n_positions=32, n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS,
        attn_implementation="eager", resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    model = transformers.GPT2LMHeadModel(config).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    return model


@pytest.fixture(scope="module")
def tokens():
    return np.random.default_rng(1).integers(0, VOCABULARY, (2, TOKENS))


def hosted(gpt2, positions, added=Added()):  # noqa: B008
    """Our transformer with the same weights; its position table is these rows of theirs."""
    config = Config(LAYERS, HEADS, WIDTH, TOKENS, TOKENS, VOCABULARY)
    model = Transformer(config, added, rngs=InitStreams(NormalStream(), NormalStream()))
    weights = {n: x.detach().numpy() for n, x in gpt2.transformer.named_parameters()}

    def put(module, own, theirs):
        for name, part in own.items():
            setattr(module, name, nnx.Param(jnp.asarray(weights[f"{theirs}.{part}"])))

    norm = {"scale": "weight", "shift": "bias"}
    dense = {"kernel": "weight", "bias": "bias"}
    for place, block in enumerate(model.blocks):
        put(block.norm, norm, f"h.{place}.ln_1")
        put(block.qkv, dense, f"h.{place}.attn.c_attn")
        put(block.out, dense, f"h.{place}.attn.c_proj")
        put(block.mlp_norm, norm, f"h.{place}.ln_2")
        put(block.wide, dense, f"h.{place}.mlp.c_fc")
        put(block.narrow, dense, f"h.{place}.mlp.c_proj")
    put(model.final_norm, norm, "ln_f")
    model.embedding = nnx.Param(jnp.asarray(weights["wte.weight"]))
    model.readout = nnx.Param(jnp.asarray(weights["wte.weight"].T))
    model.position = nnx.Param(jnp.asarray(weights["wpe.weight"][positions]))
    return model


def adapted(gpt2, config):
    """The library's model around the same weights, and its trainable table."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.get_peft_model(gpt2, config).eval()
    return model, model.prompt_encoder.default.embedding.weight


def run(model, tokens, **options):
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model(torch.from_numpy(tokens), **options)


def test_without_additions(gpt2, tokens):
    found = hosted(gpt2, slice(0, TOKENS))(jnp.asarray(tokens))
    expected = run(gpt2, tokens).logits.numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


@pytest.fixture(scope="module")
def prefix():
    return np.random.default_rng(2).normal(size=(LAYERS, VECTORS, WIDTH))


@pytest.fixture
def prefixed(gpt2, prefix):
    """The library's prefix tuning with the keys and values that our prefix vectors have."""
    own = hosted(gpt2, slice(0, TOKENS))
    rows = []
    for block, vectors in zip(own.blocks, prefix, strict=True):
        joint = np.asarray(block.qkv(block.norm(jnp.asarray(vectors))))
        rows += np.split(joint, 3, axis=-1)[1:]
    config = peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=VECTORS)
    model, table = adapted(gpt2, config)
    model = model.double()
    with torch.no_grad():
        model.prompt_encoder.default.embedding.weight.copy_(
            torch.from_numpy(np.concatenate(rows, axis=-1))
        )
    assert table.shape == (VECTORS, 2 * LAYERS * WIDTH)
    return model


def ours_with(gpt2, prefix, positions):
    model = hosted(gpt2, positions, Added(prefix=VECTORS))
    model.prefix = transformer.Prefix(jnp.asarray(prefix))
    return model


def test_prefix_tuning(gpt2, tokens, prefix, prefixed):
    expected = run(prefixed, tokens).logits.numpy()
    found = ours_with(gpt2, prefix, AT)(jnp.asarray(tokens))
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


def test_prefix_tuning_shifts_the_positions(gpt2, tokens, prefix, prefixed):
    """The condition: with the content at positions 0 … T−1 the two models differ."""
    expected = run(prefixed, tokens).logits.numpy()
    found = ours_with(gpt2, prefix, slice(0, TOKENS))(jnp.asarray(tokens))
    assert np.abs(np.asarray(found) - expected).max() > 1e-2


def test_layer_one_keeps_its_pattern_at_the_shifted_positions_only(gpt2, tokens, prefixed):
    """Their attention against their own model without prefix: no code of ours runs it."""
    with_prefix = run(prefixed, tokens, output_attentions=True).attentions
    places = torch.arange(AT.start, AT.stop)[None]
    shifted = run(gpt2, tokens, position_ids=places, output_attentions=True).attentions
    plain = run(gpt2, tokens, output_attentions=True).attentions

    def change(reference, layer):
        content = with_prefix[layer].numpy()[..., VECTORS:]
        return ratio_change(content, reference[layer].numpy()).max()

    assert change(shifted, 0) < 1e-12
    assert change(plain, 0) > 1e-2, "at positions 0 … T−1 the inputs differ"
    assert change(shifted, 1) > 1e-2, "layer 2 has other inputs"


def test_patterns_of_every_layer(gpt2, tokens, prefix, prefixed):
    trace = Trace([], [])
    ours_with(gpt2, prefix, AT)(jnp.asarray(tokens), trace=trace)
    theirs = run(prefixed, tokens, output_attentions=True).attentions
    for own, other in zip(trace.attended, theirs, strict=True):
        joint = np.concatenate([own.prefix, own.content], axis=-1)
        np.testing.assert_allclose(joint, other.numpy(), rtol=1e-12, atol=1e-12)


def test_prompt_tuning(gpt2, tokens):
    """Their prompt stands at positions 0 … n−1; ours has no position, so it carries theirs."""
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=VECTORS)
    model, _ = adapted(gpt2, config)
    model = model.double()
    vectors = np.random.default_rng(3).normal(size=(VECTORS, WIDTH))
    with torch.no_grad():
        model.prompt_encoder.default.embedding.weight.copy_(torch.from_numpy(vectors))
    expected = run(model, tokens).logits.numpy()
    own = hosted(gpt2, AT, Added(soft_prompt=VECTORS))
    places = gpt2.transformer.wpe.weight.detach().numpy()[:VECTORS]
    own.soft_prompt = transformer.SoftPrompt(jnp.asarray(vectors + places))
    np.testing.assert_allclose(own(jnp.asarray(tokens)), expected, rtol=1e-12, atol=1e-12)
