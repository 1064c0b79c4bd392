"""The audit of a model in a Hugging Face folder, with an adapter of PEFT or a random prefix.

The model runs three times on one sequence: without the adapter; with the adapter's vectors in
place but hidden by the mask, which puts the content at the positions it has behind them; and as
the adapter is used. A layer is audited as it runs (:mod:`jaxprompt.prefix.audit_tape`), and what is
kept between the runs lies in a temporary folder.

Nothing is fetched, no code of a folder is run, and weights are read from safetensors alone.
"""

from __future__ import annotations

import importlib
import inspect
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxprompt.compute.memory import bytes_in_words, usable_memory
from jaxprompt.core.extras import EXTRAS
from jaxprompt.errors import JaxpromptError, ParameterError, UsageError, short
from jaxprompt.prefix.audit_results import Audit
from jaxprompt.prefix.audit_tape import (
    HOOKED,
    INTERFACE,
    HookedFamily,
    Tape,
    recording,
    register_interface,
)

__all__ = ["DTYPES", "MOST_TOKENS", "MOST_VECTORS", "TOKENS", "audit_model"]

DTYPES = ("auto", "float64", "float32", "bfloat16", "float16")
"""Float types in which a model can be run; `auto` is that of its weights."""

MOST_TOKENS = 256
"""Tokens of a text that are used: what a layer's tape holds grows with their square."""

MOST_VECTORS = 1024
"""Vectors of a prefix: beyond that a layer's tape would be larger than its weights."""

TOKENS = 48
"""Tokens that stand for a text where none is given, drawn evenly from the vocabulary, seed 0."""

PREFIX_TYPES = {
    "PREFIX_TUNING": "prefix tuning (P-tuning v2)",
    "P_TUNING": "P-tuning",
    "PROMPT_TUNING": "prompt tuning",
}
"""Kinds of adapters that add vectors, by their names in PEFT."""

_BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}

_LOADING_ERRORS = (OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError)
"""What transformers and PEFT raise at a folder that is not what they expect."""


def audit_model(
    folder: Path,
    *,
    adapter: Path | None = None,
    prefix: int | None = None,
    text: str | None = None,
    dtype: str = "auto",
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Audit:
    """Audit every attention layer of a model with an adapter, or with a random prefix.

    `folder` has config.json and safetensors, and a tokenizer where `text` is given; without a text
    48 tokens are drawn from the vocabulary. `adapter` is a folder that PEFT saved; `prefix` makes
    one of so many vectors in its place, keys and values standard normal as PEFT starts them, from
    `seed`. The model runs on the CPU in `dtype`.

    Raises:
        MissingExtraError: the extra `audit` is not installed.
        UsageError: a folder cannot be loaded, or its model has no attention that can be recorded.
        ParameterError: an argument is out of its range.
    """
    EXTRAS["audit"].require("`jaxprompt audit`")
    if (adapter is None) == (prefix is None):
        raise UsageError("give either an adapter's folder or a number of prefix vectors")
    if prefix is not None and not 1 <= prefix <= MOST_VECTORS:
        raise ParameterError(
            "prefix", prefix, f"an integer from 1 to {MOST_VECTORS}", "choose another number"
        )
    if dtype not in DTYPES:
        raise ParameterError("dtype", dtype, f"one of {', '.join(DTYPES)}", "choose one of them")
    _require_folder(folder, "config.json", "a model")
    if adapter is not None:
        _require_folder(adapter, "adapter_config.json", "an adapter")
    with warnings.catch_warnings():
        # What other libraries warn about, of their own future or of an unused head, helps nobody.
        warnings.simplefilter("ignore")
        model = _load_model(folder, dtype)
        return _audit_adapted(_add_vectors(model, folder, adapter, prefix, seed), text, progress)


# --- loading ---


class _Adapted(NamedTuple):
    """A model `base` and PEFT's wrapping of it; `deep` vectors are keys and values of each layer,
    others are rows of the model's input.
    """

    base: Any
    peft: Any
    folder: Path
    vectors: int
    deep: bool
    described: str

    @property
    def seq2seq(self) -> bool:
        return _is_seq2seq(self.base)

    @property
    def family(self) -> HookedFamily | None:
        return HOOKED.get(self.base.config.model_type)


def _is_seq2seq(base: Any) -> bool:
    return bool(getattr(base.config, "is_encoder_decoder", False))


def _require_folder(folder: Path, file: str, what: str) -> None:
    if not (folder / file).is_file():
        raise UsageError(
            f"'{folder}' holds no {file}: give the folder of {what} as save_pretrained writes it"
        )
    if not any(folder.glob("*.safetensors")):
        raise UsageError(
            f"'{folder}' holds no .safetensors: other files of weights can run code and are not "
            "read; save it again with save_pretrained"
        )


def _load_model(folder: Path, dtype: str) -> Any:
    torch: Any = importlib.import_module("torch")
    transformers: Any = importlib.import_module("transformers")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    register_interface()
    try:
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
        stored = str(getattr(config, "dtype", None) or "float32").removeprefix("torch.")
        run = stored if dtype == "auto" else dtype
        _refuse_narrow(config.model_type, run)
        _refuse_large(folder, _BYTES.get(run, 4) / _BYTES.get(stored, 4))
        options: dict[str, Any] = {}
        if getattr(config, "num_local_experts", 0) or getattr(config, "num_experts", 0):
            # Expert by expert: the grouped product has no float64.
            options["experts_implementation"] = "eager"
        return transformers.AutoModel.from_pretrained(
            folder,
            dtype="auto" if dtype == "auto" else getattr(torch, dtype),
            attn_implementation="eager" if config.model_type in HOOKED else INTERFACE,
            use_safetensors=True,
            local_files_only=True,
            **options,
        ).eval()
    except _LOADING_ERRORS as error:
        raise UsageError(
            f"'{folder}' cannot be loaded ({short(error, 160)}): give the folder of a model that "
            "this version of transformers knows, without code of its own"
        ) from None


def _refuse_narrow(model_type: str, dtype: str) -> None:
    if model_type in HOOKED and dtype == "float16":
        raise UsageError(
            f"models of type {model_type} show their attention weights and no scores, and float16 "
            "has no small weights: run it with --dtype bfloat16 or float32"
        )


def _refuse_large(folder: Path, factor: float) -> None:
    """Refuse weights that would not fit, before any of them is read."""
    stored = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    # The largest tensor is there twice while it is converted, and a layer's tape is beside it.
    needed = int(1.2 * stored * max(1.0, factor)) + 2**29
    usable, whose = usable_memory()
    if needed > usable:
        raise UsageError(
            f"'{folder}' needs {bytes_in_words(needed)} and {whose} {bytes_in_words(usable)}: run "
            "it on a larger machine, or a smaller model of the same family"
        )


def _add_vectors(
    base: Any, folder: Path, adapter: Path | None, prefix: int | None, seed: int
) -> _Adapted:
    torch: Any = importlib.import_module("torch")
    peft: Any = importlib.import_module("peft")
    given = f"a prefix of {prefix} vectors" if adapter is None else f"'{adapter}'"
    try:
        if adapter is None:
            config = _random_prefix(peft, base, prefix)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                adapted = peft.PeftModel(base, config)
            described = f"a random prefix of {prefix} vectors, seed {seed}"
        else:
            config = _saved_config(peft, base, adapter)
            adapted = peft.PeftModel.from_pretrained(base, str(adapter), config=config)
            described = f"{PREFIX_TYPES[_kind(config)]}, {config.num_virtual_tokens} vectors"
    except _LOADING_ERRORS as error:
        raise UsageError(
            f"{given} does not fit '{folder}' ({short(error, 120)}): give an adapter of this model"
        ) from None
    deep = _kind(config) == "PREFIX_TUNING"
    count = int(config.num_virtual_tokens)
    return _Adapted(base, adapted.eval(), folder, count, deep, described)


def _kind(config: Any) -> str:
    return str(getattr(config.peft_type, "value", config.peft_type))


def _saved_config(peft: Any, base: Any, folder: Path) -> Any:
    config = peft.PeftConfig.from_pretrained(str(folder))
    if _kind(config) not in PREFIX_TYPES:
        raise UsageError(
            f"'{folder}' is an adapter of type {_kind(config)}: must be one that adds vectors "
            f"({', '.join(PREFIX_TYPES)}); low-rank and other adapters leave no prefix to audit"
        )
    if config.num_transformer_submodules is None:
        config.num_transformer_submodules = 2 if _is_seq2seq(base) else 1
    # The head of a task is not needed, and so is none of PEFT's classes for tasks.
    config.task_type, config.inference_mode = None, True
    return config


def _random_prefix(peft: Any, base: Any, vectors: int | None) -> Any:
    config = peft.PrefixTuningConfig(num_virtual_tokens=vectors)
    config.num_transformer_submodules = 1
    model = base.config.to_dict()
    if _is_seq2seq(base):
        config.num_transformer_submodules = 2
        # The prefix is the decoder's, and PEFT takes the number of layers of the encoder.
        config.num_layers = model.get("decoder_layers") or model.get("num_decoder_layers")
    if not {"num_attention_heads", "n_head", "num_heads", "encoder_attention_heads"} & model.keys():
        # MPT writes n_heads, which PEFT does not look for.
        config.num_attention_heads = base.config.num_attention_heads
    return config


# --- running ---


def _audit_adapted(
    adapted: _Adapted, text: str | None, progress: Callable[[int, int], None] | None
) -> Audit:
    torch: Any = importlib.import_module("torch")
    base = adapted.base
    ids, words = _token_ids(base.config, text, adapted.folder)
    precision = str(base.dtype).removeprefix("torch.")
    with tempfile.TemporaryDirectory(prefix="jaxprompt-audit-") as kept, torch.no_grad():
        tape = Tape(
            names={id(module): name for name, module in base.named_modules()},
            folder=Path(kept),
            tokens=ids.shape[1],
            last_position=adapted.vectors + ids.shape[1] - 1,
            precision=precision,
            progress=progress,
        )
        with recording(tape, base, adapted.family):
            tape.start("shifted_positions")
            _run(adapted, _plain_inputs(adapted, ids))
            if not tape.calls:
                raise UsageError(
                    f"models of type {base.config.model_type} compute attention outside "
                    "transformers' attention interface: they cannot be audited; "
                    f"{', '.join(HOOKED)} are the exceptions"
                )
            tape.start("same_positions")
            _run(adapted, _inputs(adapted, ids, hidden=True))
            tape.start("prefix", prefixed=True)
            _run(adapted, _inputs(adapted, ids, hidden=False))
    model = {
        "folder": str(adapted.folder),
        "model_type": base.config.model_type,
        "parameters": sum(p.numel() for p in base.parameters()),
        "precision": precision,
        "adapter": adapted.described,
        "vectors": adapted.vectors,
        "tokens": ids.shape[1],
        "text": words,
        "recorded": "by hooks" if adapted.family else "by the attention interface",
    }
    return Audit(tuple(tape.audited), tuple(tape.untouched), model)


def _token_ids(config: Any, text: str | None, folder: Path) -> tuple[Any, str]:
    """Token ids (1, T), and what they are in words."""
    torch: Any = importlib.import_module("torch")
    if text is None:
        vocabulary = int(config.get_text_config().vocab_size)
        drawn = np.random.default_rng(0).integers(0, vocabulary, TOKENS)
        return torch.from_numpy(drawn)[None], f"{TOKENS} token ids drawn evenly, seed 0"
    transformers: Any = importlib.import_module("transformers")
    try:
        if not any(folder.glob("tokenizer*")) and not any(folder.glob("vocab*")):
            # transformers would make an empty one for the model's type.
            raise OSError("it holds neither tokenizer.json nor a vocabulary")
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
        ids = tokenizer(text)["input_ids"]
    except _LOADING_ERRORS as error:
        raise UsageError(
            f"'{folder}' has no tokenizer that can be loaded ({short(error, 100)}): save it there, "
            "or leave the text out"
        ) from None
    if len(ids) < 2:
        raise UsageError(f"the text has {len(ids)} tokens: give one of 2 or more")
    used = ids[:MOST_TOKENS]
    cut = f", the first of {len(ids)}" if len(ids) > len(used) else ""
    return torch.tensor([used]), f"{len(used)} tokens of the text{cut}"


def _run(adapted: _Adapted, inputs: Mapping[str, Any]) -> None:
    try:
        adapted.base(**inputs)
    except JaxpromptError:
        raise
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError, KeyError) as error:
        raise UsageError(
            f"a model of type {adapted.base.config.model_type} does not run with "
            f"{adapted.described} ({short(error, 160)}): its shapes are not those that PEFT makes, "
            "or the text is longer than its positions"
        ) from None


def _plain_inputs(adapted: _Adapted, ids: Any) -> dict[str, Any]:
    torch: Any = importlib.import_module("torch")
    ones = torch.ones_like(ids)
    inputs = {"input_ids": ids, "attention_mask": ones, "use_cache": False}
    if adapted.seq2seq:
        inputs.update(decoder_input_ids=ids, decoder_attention_mask=ones)
    return inputs


def _inputs(adapted: _Adapted, ids: Any, *, hidden: bool) -> dict[str, Any]:
    """As PEFT calls the model; `hidden` masks the vectors and leaves them where they are."""
    torch: Any = importlib.import_module("torch")
    base, n = adapted.base, adapted.vectors
    parameters = inspect.signature(base.forward).parameters
    cache = "cache" if "cache" in parameters else "past_key_values"
    ones = torch.ones_like(ids)
    mask = torch.cat([torch.full((1, n), 0 if hidden else 1), ones], dim=1)
    inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": mask}
    if adapted.seq2seq:
        # A deep prefix is the decoder's, soft prompts are the encoder's.
        inputs.update(decoder_input_ids=ids, decoder_attention_mask=mask if adapted.deep else ones)
        inputs["attention_mask"] = ones if adapted.deep else mask
    if adapted.deep:
        inputs[cache] = adapted.peft.get_prompt(1)
    else:
        words = base.get_input_embeddings()(inputs.pop("input_ids"))
        # For an encoder–decoder PEFT keeps two sets and uses the first.
        prompts = adapted.peft.get_prompt(1)[:, :n].to(words.dtype)
        inputs["inputs_embeds"] = torch.cat([prompts, words], dim=1)
        if adapted.family:
            # Hooks read a layer's values from the cache.
            inputs[cache] = importlib.import_module("transformers").DynamicCache()
    if hidden and "position_ids" in parameters:
        # Some models count positions by the mask: behind a hidden prefix they would start at 0.
        first = n if adapted.deep else 0
        inputs["position_ids"] = torch.arange(first, n + ids.shape[1])[None]
    return inputs
