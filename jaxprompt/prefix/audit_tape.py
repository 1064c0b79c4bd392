"""Recording the attention of a model of transformers, layer by layer, as it runs.

Most models let a registered function compute their attention (transformers' attention interface).
Ours calls the model's own ``eager_attention_forward`` and looks on. Families that have no such
interface show their attention weights to PyTorch's hooks. Either way a layer with a prefix is
computed a second time without it, on the same input, by the model's own code.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxprompt.errors import JaxpromptError, UsageError
from jaxprompt.prefix.audit_layers import TapedLayer, audit_layer
from jaxprompt.prefix.audit_results import LayerAudit

__all__ = ["HOOKED", "INTERFACE", "HookedFamily", "Tape", "recording", "register_interface"]

INTERFACE = "jaxprompt_tape"
"""The name under which transformers knows our attention function."""

ANGLE_STEP = float(np.finfo(np.float32).eps)
"""transformers turns queries and keys by angles in float32, whatever the model's type."""


class HookedFamily(NamedTuple):
    """How the attention module of a family without attention interface is called.

    `projection` is the map behind the heads, whose input are their outputs; the other names are
    arguments of the module: its cache, and what has an entry for each key.
    """

    module: str
    projection: str
    cache: str
    over_keys: tuple[str, ...]


HOOKED = {
    "bloom": HookedFamily("BloomAttention", "dense", "layer_past", ("alibi", "attention_mask")),
    "falcon": HookedFamily("FalconAttention", "dense", "layer_past", ("alibi", "attention_mask")),
    "mpt": HookedFamily("MptAttention", "out_proj", "cache", ("attention_mask",)),
}
"""Families of models that compute attention without transformers' attention interface."""


@dataclass
class Tape:
    """What the runs of a model leave: patterns without prefix in a folder, verdicts of the last.

    `run` names the run in progress; while `prefixed` is false its patterns are kept under that
    name, and then the layers are audited against them. `last_position` is the largest position of
    the content.
    """

    names: Mapping[int, str]
    folder: Path
    tokens: int
    last_position: int
    precision: str
    progress: Callable[[int, int], None] | None = None
    run: str = "shifted_positions"
    prefixed: bool = False
    calls: int = 0
    expected: int = 0
    audited: list[LayerAudit] = field(default_factory=list)
    untouched: list[str] = field(default_factory=list)

    def start(self, run: str, *, prefixed: bool = False) -> None:
        """The next run of the model begins."""
        self.expected, self.calls = max(self.expected, self.calls), 0
        self.run, self.prefixed = run, prefixed

    def record(
        self, module: Any, pattern: Any, tape_of: Callable[[int, slice], TapedLayer]
    ) -> None:
        """Keep a layer's pattern (1, H, rows, keys), or audit it.

        The content are the last rows and keys; `tape_of` makes the layer's tape from the number of
        prefix vectors and the rows.
        """
        self.calls += 1
        name = self.names[id(module)]
        n = pattern.shape[-1] - self.tokens
        rows = slice(pattern.shape[-2] - self.tokens, None)
        if not self.prefixed:
            content = pattern[0, :, rows, max(n, 0) :]
            kept = content.double() if self.precision == "float64" else content.float()
            np.save(self._file(self.run, name), kept.numpy())
            return
        if self.progress:
            self.progress(self.calls, self.expected)
        if n <= 0:
            self.untouched.append(name)
            return
        runs = ("same_positions", "shifted_positions")
        tape = dataclasses.replace(
            tape_of(n, rows),
            **{run: np.load(self._file(run, name), allow_pickle=False) for run in runs},
            name=name,
            first=not self.audited,
            precision=_softmax_precision(pattern, self.precision),
            angle_error=ANGLE_STEP * (1 + self.last_position),
        )
        try:
            self.audited.append(audit_layer(tape))
        except JaxpromptError:
            raise
        except Exception as error:
            # The model is running: what it raises is said to be the input's fault, this is ours.
            raise AssertionError(f"the audit of {name} failed") from error

    def _file(self, run: str, name: str) -> Path:
        return self.folder / f"{run}.{name}.npy"


_active: ContextVar[Tape | None] = ContextVar("jaxprompt_tape", default=None)


@contextmanager
def recording(tape: Tape, base: Any, family: HookedFamily | None) -> Generator[None]:
    """While this lasts, `tape` records the attention of the model `base`."""
    hooks = _add_hooks(base, family) if family else []
    token = _active.set(tape)
    try:
        yield
    finally:
        _active.reset(token)
        for hook in hooks:
            hook.remove()


def _softmax_precision(pattern: Any, precision: str) -> str:
    """Many models take the softmax in float32 even where all else is float64: weights tell."""
    if precision == "float64" and bool((pattern == pattern.float()).all()):
        return "float32"
    return precision


def _rows(array: Any, rows: slice) -> Any:
    """Rows of a mask or bias, of which one may stand for all."""
    return array if array.shape[-2] == 1 else array[..., rows, :]


# --- the attention interface ---


def register_interface() -> None:
    """Make our attention function known to transformers, with the masks of eager attention."""
    transformers: Any = importlib.import_module("transformers")
    masks: Any = importlib.import_module("transformers.masking_utils")
    transformers.AttentionInterface.register(INTERFACE, _attend_and_record)
    masks.AttentionMaskInterface.register(INTERFACE, masks.eager_mask)


def _attend_and_record(
    module: Any, query: Any, key: Any, value: Any, attention_mask: Any, **options: Any
) -> tuple[Any, Any]:
    """The model's own eager attention; arguments and results are transformers'."""
    eager: Any = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
    if eager is None:
        raise UsageError(
            f"{type(module).__name__} has no eager attention in this version of transformers: it "
            "cannot be audited"
        )
    output, pattern = eager(module, query, key, value, attention_mask, **options)
    tape = _active.get()
    if tape is None:
        return output, pattern

    def tape_of(n: int, rows: slice) -> TapedLayer:
        queries, bias = query[:, :, rows], options.get("position_bias")
        mask, bias = (None if x is None else _rows(x, rows) for x in (attention_mask, bias))
        without = dict(options)
        if bias is not None:
            without["position_bias"] = bias[..., n:]
        plain_output, plain_pattern = eager(
            module, queries, key[:, :, n:], value[:, :, n:],
            None if mask is None else mask[..., n:], **without,
        )  # fmt: skip
        return TapedLayer(
            values=value[0],
            prefix=n,
            queries=queries[0],
            keys=key[0],
            mask=None if mask is None else mask[0],
            score_bias=None if bias is None else bias[0],
            scale=options.get("scaling"),
            soft_cap=options.get("softcap"),
            sink_scores=options.get("s_aux"),
            output=output[0, rows].transpose(0, 1),
            pattern=pattern[0, :, rows],
            plain_output=plain_output[0].transpose(0, 1),
            plain_pattern=plain_pattern[0],
        )

    tape.record(module, pattern, tape_of)
    return output, pattern


# --- hooks ---


def _add_hooks(base: Any, family: HookedFamily) -> Sequence[Any]:
    """Hooks on every attention module of the family; they are to be removed."""
    hooks: list[Any] = []
    for module in base.modules():
        if type(module).__name__ == family.module:
            watcher = _Watcher(module, family)
            projection = getattr(module, family.projection)
            hooks.append(projection.register_forward_pre_hook(watcher.keep_heads))
            hooks.append(module.register_forward_hook(watcher.record, with_kwargs=True))
    return hooks


@dataclass
class _Watcher:
    """Records one attention module by its weights, its heads' outputs and the values it cached."""

    module: Any
    family: HookedFamily
    heads: Any = None

    def keep_heads(self, projection: Any, inputs: tuple[Any, ...]) -> None:
        """The heads' outputs, side by side, on their way into the projection."""
        self.heads = inputs[0]

    def record(self, module: Any, args: Any, options: Any, outputs: Any) -> None:
        tape = _active.get()
        if tape is None:
            return
        pattern, heads = outputs[1], self.heads
        given = dict(inspect.signature(module.forward).bind(*args, **options).arguments)
        given.update(given.pop("kwargs", {}))

        def tape_of(n: int, rows: slice) -> TapedLayer:
            values = given[self.family.cache].layers[module.layer_idx].values
            plain_pattern, plain_heads = self._without_prefix(given, n, rows)
            return TapedLayer(
                values=values[0],
                prefix=n,
                scores=_log_weights(pattern[0, :, rows], given["attention_mask"]),
                output=_split_heads(heads[:, rows], pattern.shape[1]),
                pattern=pattern[0, :, rows],
                plain_output=_split_heads(plain_heads, pattern.shape[1]),
                plain_pattern=plain_pattern[0],
            )

        tape.record(module, pattern, tape_of)

    def _without_prefix(self, given: Mapping[str, Any], n: int, rows: slice) -> tuple[Any, Any]:
        """Weights and heads of the same module on the content alone."""
        changed: dict[str, Any] = {**given, self.family.cache: None}
        for name in self.family.over_keys:
            if changed.get(name) is not None:
                changed[name] = _rows(changed[name], rows)[..., n:]
        # Soft prompts are rows of the layer's input too; a prefix in the cache is none.
        for name in ("hidden_states", "residual"):
            if name in changed:
                changed[name] = changed[name][:, rows]
        tables: Any = changed.get("position_embeddings")
        if tables is not None:
            changed["position_embeddings"] = tuple(table[:, rows] for table in tables)
        token = _active.set(None)
        try:
            return self.module(**changed)[1], self.heads
        finally:
            _active.reset(token)


def _split_heads(joined: Any, count: int) -> Any:
    """(1, T, H·v) as (H, T, v)."""
    return joined[0].unflatten(-1, (count, -1)).transpose(0, 1)


def _log_weights(pattern: Any, mask: Any) -> Any:
    """Scores (H, T, n + S) but for a constant a query; a weight that underflowed is still seen."""
    torch: Any = importlib.import_module("torch")
    scores = pattern.double().clamp(min=torch.finfo(torch.float32).tiny).log()
    if mask is None:
        return scores
    # MPT's mask is true for what is hidden; the others' are added to the scores.
    hidden = mask if mask.dtype == torch.bool else mask < 0
    return scores.masked_fill(_rows(hidden, slice(-pattern.shape[1], None))[0], -torch.inf)
