"""The audit of Hugging Face folders: small models of random weights from configuration classes.

One family for each way a head may differ: learned positions, rotary ones with shared keys, a
window, caps, sinks, ALiBi through hooks, relative biases in an encoder–decoder.
"""

from __future__ import annotations

import json
import warnings

import pytest

from jaxprompt.errors import MissingExtraError, ParameterError, UsageError
from jaxprompt.prefix import audit_model

VOCABULARY, LAYERS, HEADS, VECTORS = 31, 2, 4, 3
WINDOW = 6

LLAMA = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 16,
    "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}  # fmt: skip
SMALL = {"vocab_size": VOCABULARY, "n_layer": LAYERS, "n_head": HEADS}
CONFIGS = {
    "gpt2": ("GPT2", {**SMALL, "n_positions": 128, "n_embd": 32}),
    "llama": ("Llama", LLAMA),
    "mistral": ("Mistral", {**LLAMA, "sliding_window": WINDOW}),
    "gemma2": ("Gemma2", {**LLAMA, "head_dim": 8, "sliding_window": WINDOW,
                          "attn_logit_softcapping": 2.0}),
    "gpt_oss": ("GptOss", {**LLAMA, "head_dim": 8, "sliding_window": WINDOW,
                           "num_local_experts": 2, "num_experts_per_tok": 1}),
    "bloom": ("Bloom", {**SMALL, "hidden_size": 32}),
    "t5": ("T5", {"vocab_size": VOCABULARY, "d_model": 32, "d_kv": 8, "d_ff": 16, "num_layers": 1,
                  "num_decoder_layers": LAYERS, "num_heads": HEADS, "decoder_start_token_id": 0}),
}  # fmt: skip


@pytest.fixture(scope="module")
def libraries():
    """torch, transformers and PEFT, or a skip."""
    reason = "torch, transformers and PEFT come with the extra `audit`"
    with warnings.catch_warnings():
        # What other libraries warn about while they are imported is not ours to mend.
        warnings.simplefilter("ignore")
        return tuple(
            pytest.importorskip(name, reason=reason) for name in ("torch", "transformers", "peft")
        )


@pytest.fixture(scope="module")
def folder(libraries, tmp_path_factory):
    """A maker of model folders; weights are normal, so that attention is far from even."""
    torch, transformers, _ = libraries
    root, kept = tmp_path_factory.mktemp("models"), {}

    def make(name):
        if name not in kept:
            stem, options = CONFIGS[name]
            torch.manual_seed(0)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                config = getattr(transformers, f"{stem}Config")(**options)
                model = getattr(transformers, f"{stem}Model")(config)
                with torch.no_grad():
                    for weights in model.parameters():
                        if weights.ndim > 1:
                            weights.normal_(std=0.25)
                model.save_pretrained(root / name)
            kept[name] = root / name
        return kept[name]

    return make


@pytest.mark.parametrize("name", CONFIGS)
def test_every_family_is_confirmed(folder, name):
    found = audit_model(folder(name), prefix=VECTORS, dtype="float32")
    assert found.status == "confirmed", found.to_dict()
    assert len(found.layers) == LAYERS
    first = found.layers[0]
    assert first.prefix == VECTORS
    assert first.heads == HEADS
    assert first.groups == (2 if CONFIGS[name][1].get("num_key_value_heads") else HEADS)
    assert first.same_positions.equal
    assert first.shifted_positions.equal is (name != "gpt2")
    assert found.layers[1].same_positions.equal is None
    assert found.layers[1].same_positions.largest > 0.01
    windowed = name in ("mistral", "gemma2", "gpt_oss")
    # 48 queries behind 3 vectors: with a window of 6 the first five see some of the prefix.
    assert first.share_seeing == (pytest.approx(5 / 48) if windowed else 1)
    assert first.bias.rank == min(48, HEADS * VECTORS, 5 if windowed else 48)
    cross = [layer for layer in found.untouched if "EncDec" in layer]
    assert (len(found.untouched), len(cross)) == ((3, 2) if name == "t5" else (0, 0))


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_other_float_types(folder, dtype):
    found = audit_model(folder("gpt2"), prefix=VECTORS, dtype=dtype)
    assert found.status == "confirmed"
    assert {layer.precision for layer in found.layers} == {dtype}
    # LLaMA takes its softmax in float32 even then, and that is what rounds.
    if dtype == "float64":
        found = audit_model(folder("llama"), prefix=VECTORS, dtype=dtype)
        assert {layer.precision for layer in found.layers} == {"float32"}


def save_adapter(libraries, model_folder, path, config):
    torch, transformers, peft = libraries
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = transformers.AutoModelForCausalLM.from_pretrained(model_folder)
        torch.manual_seed(1)
        peft.get_peft_model(model, config).save_pretrained(path)
    return path


@pytest.mark.parametrize("kind", ["prefix", "projected", "prompt", "encoder"])
def test_adapters_that_peft_saved(libraries, folder, tmp_path, kind):
    peft = libraries[2]
    named = {"task_type": "CAUSAL_LM", "num_virtual_tokens": VECTORS}
    config = {
        "prefix": lambda: peft.PrefixTuningConfig(**named),
        "projected": lambda: peft.PrefixTuningConfig(
            **named, prefix_projection=True, encoder_hidden_size=8
        ),
        "prompt": lambda: peft.PromptTuningConfig(**named),
        "encoder": lambda: peft.PromptEncoderConfig(**named, encoder_hidden_size=8),
    }[kind]()
    adapter = save_adapter(libraries, folder("llama"), tmp_path / "adapter", config)
    found = audit_model(folder("llama"), adapter=adapter)
    assert found.status == "confirmed", found.to_dict()
    assert [layer.prefix for layer in found.layers] == [VECTORS] * LAYERS
    assert [layer.queries for layer in found.layers] == [48] * LAYERS
    assert found.layers[0].same_positions.equal
    assert found.layers[0].shifted_positions.equal


def test_what_is_no_prefix_or_does_not_fit_is_refused(libraries, folder, tmp_path):
    peft = libraries[2]
    low_rank = peft.LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"])
    adapter = save_adapter(libraries, folder("llama"), tmp_path / "lora", low_rank)
    with pytest.raises(UsageError, match=r"LORA.*adds vectors"):
        audit_model(folder("llama"), adapter=adapter)
    config = peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=VECTORS)
    adapter = save_adapter(libraries, folder("llama"), tmp_path / "prefix", config)
    with pytest.raises(UsageError, match="does not run with"):  # it has twice the key heads
        audit_model(folder("gpt2"), adapter=adapter)
    with pytest.raises(UsageError, match="float16 has no small weights"):
        audit_model(folder("bloom"), prefix=2, dtype="float16")
    with pytest.raises(UsageError, match="no tokenizer"):
        audit_model(folder("gpt2"), prefix=2, text="some words")
    with pytest.raises(ParameterError, match="`dtype`"):
        audit_model(folder("gpt2"), prefix=2, dtype="int8")
    with pytest.raises(ParameterError, match="`prefix`"):
        audit_model(folder("gpt2"), prefix=0)
    with pytest.raises(UsageError, match="either"):
        audit_model(folder("gpt2"))


def test_folders_that_hold_something_else_are_refused(libraries, tmp_path):
    with pytest.raises(UsageError, match=r"no config\.json"):
        audit_model(tmp_path, prefix=2)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "unheard_of"}), "utf-8")
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(UsageError, match="can run code"):
        audit_model(tmp_path, prefix=2)
    (tmp_path / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(UsageError, match="cannot be loaded") as error:
        audit_model(tmp_path, prefix=2)
    assert "\n" not in str(error.value)


def test_without_the_extra_one_line_says_how_to_get_it(monkeypatch, tmp_path):
    from jaxprompt.core.extras import Extra

    monkeypatch.setattr(Extra, "missing", lambda self: self.modules)
    with pytest.raises(MissingExtraError, match=r"torch, transformers, peft.*\[audit\]") as error:
        audit_model(tmp_path, prefix=2)
    assert "\n" not in str(error.value)
