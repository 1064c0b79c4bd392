"""The table of docs/own_model.md: `jaxprompt audit` on families of models with random weights.

    python benchmarks/audit_families.py             the table, in Markdown (extra `audit`)
    python benchmarks/audit_families.py --large     a model of 1.9 GiB: its time and peak memory

Models are made from transformers' configuration classes, with normal weights of 0.25, so that
attention is far from even. Nothing is fetched.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import resource
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch
import transformers

from jaxprompt.cli.main import main as jaxprompt

VECTORS = 5
DTYPES = ("float64", "float32", "bfloat16")

LLAMA: dict[str, Any] = {
    "vocab_size": 97, "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 3,
    "num_attention_heads": 6, "num_key_value_heads": 2, "max_position_embeddings": 128,
}  # fmt: skip
WINDOW = {**LLAMA, "sliding_window": 6}
WIDE_HEADS = {**WINDOW, "head_dim": 16, "query_pre_attn_scalar": 16}
OLD: dict[str, Any] = {
    "vocab_size": 97, "hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 6,
}  # fmt: skip
SEQ2SEQ: dict[str, Any] = {
    "vocab_size": 97, "d_model": 48, "encoder_layers": 2, "decoder_layers": 3,
    "encoder_attention_heads": 6, "decoder_attention_heads": 6, "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64, "max_position_embeddings": 128,
}  # fmt: skip
SHORT = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "GPT-2 (learned positions)": (
        "GPT2", {"vocab_size": 97, "n_positions": 128, "n_embd": 48, "n_layer": 3, "n_head": 6}
    ),
    "OPT (learned positions)": ("OPT", {**OLD, "ffn_dim": 64, "word_embed_proj_dim": 48}),
    "LLaMA (rotary, shared keys)": ("Llama", LLAMA),
    "LLaMA, dynamic scaling, 48 tokens at a trained length of 32": (
        "Llama", {**LLAMA, "max_position_embeddings": 32, "rope_parameters": SHORT}
    ),
    "Qwen2": ("Qwen2", LLAMA),
    "Qwen3 (normed queries and keys)": ("Qwen3", {**LLAMA, "head_dim": 16}),
    "Mistral (window 6)": ("Mistral", WINDOW),
    "Gemma 2 (window 6, cap 3)": ("Gemma2", {**WIDE_HEADS, "attn_logit_softcapping": 3.0}),
    "Gemma 3 (window 6)": ("Gemma3Text", WIDE_HEADS),
    "GPT-OSS (window 6, sinks)": (
        "GptOss", {**WINDOW, "head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2}
    ),
    "BLOOM (ALiBi, by hooks)": (
        "Bloom", {"vocab_size": 97, "hidden_size": 48, "n_layer": 3, "n_head": 6}
    ),
    "MPT (ALiBi, by hooks)": (
        "Mpt", {"vocab_size": 97, "d_model": 48, "n_layers": 3, "n_heads": 6, "max_seq_len": 128}
    ),
    "Falcon (rotary, by hooks)": (
        "Falcon", {**OLD, "num_kv_heads": 2, "new_decoder_architecture": True, "alibi": False}
    ),
    "Falcon (ALiBi, by hooks)": (
        "Falcon", {**OLD, "multi_query": False, "new_decoder_architecture": False, "alibi": True}
    ),
    "T5 decoder (relative biases)": (
        "T5", {"vocab_size": 97, "d_model": 48, "d_kv": 8, "d_ff": 64, "num_layers": 2,
               "num_decoder_layers": 3, "num_heads": 6, "decoder_start_token_id": 0}
    ),
    "BART decoder (learned positions)": ("Bart", SEQ2SEQ),
    "BERT (learned positions)": (
        "Bert", {**OLD, "intermediate_size": 64, "max_position_embeddings": 128}
    ),
}  # fmt: skip

LARGE: dict[str, Any] = {
    "vocab_size": 32000, "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22,
    "num_attention_heads": 32, "num_key_value_heads": 4, "max_position_embeddings": 2048,
}  # fmt: skip


def make_model(folder: Path, stem: str, options: dict[str, Any]) -> None:
    """Random weights of one family, saved as a model is."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{stem}Config")(**options)
    name = f"{stem.removesuffix('Text')}TextModel" if stem == "Gemma3Text" else f"{stem}Model"
    model = getattr(transformers, name)(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.25)
    model.save_pretrained(folder)


def audit(folder: Path, *options: str) -> dict[str, Any]:
    """What the command prints as JSON."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(io.StringIO()):
        jaxprompt(["audit", str(folder), "--prefix", str(VECTORS), "--json", *options])
    return json.loads(printed.getvalue())


def worst(report: dict[str, Any]) -> str:
    """Largest deviation over all layers, by the type in which their softmax ran."""
    found = max(
        layer[name]["value"]
        for layer in report["layers"]
        for name in ("pattern_identity", "output_identity")
    )
    softmax = {layer["precision"] for layer in report["layers"]} - {report["model"]["precision"]}
    mark = "" if report["status"] == "confirmed" else f" {report['status']}"
    return f"{found:.0e}{'*' if softmax else ''}{mark}"


def table_row(name: str, folder: Path) -> str:
    reports = {dtype: audit(folder, "--dtype", dtype) for dtype in DTYPES}
    first = reports["float32"]["layers"][0]

    def compared(comparison: dict[str, Any]) -> str:
        return "equal" if comparison["equal"] else f"off by {comparison['largest']:.2g}"

    cells = [
        *(worst(report) for report in reports.values()),
        compared(first["same_positions"]), compared(first["shifted_positions"]),
        f"{100 * first['share_seeing']:.0f} %", str(len(reports["float32"]["untouched"])),
    ]  # fmt: skip
    return f"| {name} | {' | '.join(cells)} |"


def print_table() -> None:
    columns = (*DTYPES, "same positions", "positions from 0", "see the prefix", "without prefix")
    print(f"| model | {' | '.join(columns)} |")
    print(f"|{' --- |' * (len(columns) + 1)}")
    for name, (stem, options) in FAMILIES.items():
        with tempfile.TemporaryDirectory() as folder:
            make_model(Path(folder), stem, options)
            print(table_row(name, Path(folder)), flush=True)


def print_large() -> None:
    """In a process of its own, so that making the model does not count."""
    import subprocess
    import sys

    with tempfile.TemporaryDirectory() as folder:
        torch.set_default_dtype(torch.bfloat16)
        transformers.LlamaModel(transformers.LlamaConfig(**LARGE)).save_pretrained(folder)
        stored = sum(file.stat().st_size for file in Path(folder).glob("*.safetensors"))
        started = time.monotonic()
        command = [sys.executable, "-m", "jaxprompt", "audit", folder, "--prefix", "16"]
        done = subprocess.run(command, capture_output=True, text=True)
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    print(done.stdout.splitlines()[-1], f"exit code {done.returncode}")
    print(f"weights {stored / 2**30:.2f} GiB, peak {peak / 2**20:.2f} GiB, "
          f"{time.monotonic() - started:.0f} s")  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--large", action="store_true")
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    print_large() if parser.parse_args().large else print_table()
