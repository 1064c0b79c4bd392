"""What an audit of a model with a prefix says: numbers and a verdict for each layer.

All numbers are plain Python floats and small NumPy arrays, so that an audit of a large model stays
small: nothing here keeps a pattern, a key or a value.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jaxprompt.core.json_values import to_json_values
from jaxprompt.errors import short

__all__ = ["Audit", "BiasShape", "Comparison", "Deviation", "LayerAudit", "PrefixMass"]

SCHEMA = 1

EXIT_CODES = {"confirmed": 0, "refuted": 1, "inconclusive": 3, "failed": 3}
"""Those of `check`."""


@dataclass(frozen=True)
class Deviation:
    """How far a layer is from the identity, beside what rounding may leave.

    `value` is the largest difference between what the layer computed and what the identity says,
    over all heads, queries and entries: of attention weights, and of outputs in units of the
    layer's largest value. `allowed` is what roundings in the layer's float type may add up to, and
    `effect` how much the prefix changes the same numbers: with `allowed` above it, agreement says
    nothing.
    """

    value: float
    allowed: float
    effect: float

    @property
    def status(self) -> str:
        """`confirmed`, `refuted`, `inconclusive` (rounding could hide the prefix) or `failed`."""
        if not math.isfinite(self.value):
            return "failed"
        if self.value > self.allowed:
            return "refuted"
        return "inconclusive" if 0 < self.effect <= self.allowed else "confirmed"


@dataclass(frozen=True)
class Comparison:
    """The content's relative attention against that of the model without the prefix.

    `largest` is the largest difference of a weight, `distance` the mean over heads and queries of
    half the sum of the absolute differences. `equal` says whether `largest` is within `allowed`,
    what rounding may leave; it is None where an earlier layer's prefix has changed this layer's
    input, so that no theorem says what to expect.
    """

    largest: float
    distance: float
    allowed: float
    equal: bool | None


@dataclass(frozen=True)
class PrefixMass:
    """The attention α that goes to the prefix.

    `by_head` (H) is the mean over queries; `by_query` (T) that over heads; `quantiles` are those of
    all heads and queries at :data:`LEVELS`. `uniform` is the mean α if all scores were equal: the
    share of prefix vectors among what a query sees. `by_length` pairs the number of content
    positions that a query sees with the mean α of those queries, `by_prefix_length` a number m with
    the mean α if only the first m vectors of the prefix were there.
    """

    mean: float
    by_head: np.ndarray
    by_query: np.ndarray
    quantiles: tuple[float, ...]
    uniform: float
    by_length: tuple[tuple[int, float], ...]
    by_prefix_length: tuple[tuple[int, float], ...]

    LEVELS = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


@dataclass(frozen=True)
class BiasShape:
    """The bias α_i Σ_k p_ik v_k that the prefix adds, as a matrix of queries by heads · values.

    `rank` is that of the matrix, and `rank_by_head` (H) those of the heads' columns; none can
    exceed `bound` = min(T, H·min(n, d_h)) and min(T, n, d_h). `effective_rank` is
    (Σσ²)² / Σσ⁴ over its singular values: the number of directions if all were used alike.
    `energy` are the shares of Σσ² in the leading directions, `directions` (3, H·d_h at most) those
    directions, with signs as they come.
    """

    rank: int
    bound: int
    rank_by_head: np.ndarray
    effective_rank: float
    energy: tuple[float, ...]
    directions: np.ndarray = field(repr=False)


@dataclass(frozen=True)
class LayerAudit:
    """One layer's numbers and verdict.

    `constant_share` is how much of the prefix's effect on the head outputs one constant vector a
    head would reproduce: 1 − (what is left) / (all), in squares; `constant_share_by_head` (H) the
    same for each head. `effect_size` is the root mean square of the effect over that of the output
    without the prefix. `share_seeing` is the share of heads and queries that see any of the prefix.
    """

    name: str
    precision: str
    heads: int
    groups: int
    head_dim: int
    prefix: int
    queries: int
    pattern_identity: Deviation
    output_identity: Deviation
    mass: PrefixMass
    share_seeing: float
    bias: BiasShape
    effect_size: float
    constant_share: float
    constant_share_by_head: np.ndarray
    same_positions: Comparison | None = None
    shifted_positions: Comparison | None = None

    @property
    def status(self) -> str:
        """The worse of the two identities', refuted before failed before inconclusive.

        A first layer whose relative pattern is not the plain model's at the same positions is
        refuted too: its input is the same, so the theorem holds there.
        """
        statuses = {self.pattern_identity.status, self.output_identity.status}
        if self.same_positions is not None and self.same_positions.equal is False:
            statuses.add("refuted")
        order = ("refuted", "failed", "inconclusive", "confirmed")
        return next(status for status in order if status in statuses)

    @property
    def findings(self) -> tuple[str, ...]:
        """What the numbers say, in sentences."""
        return tuple(_layer_findings(self))


@dataclass(frozen=True)
class Audit:
    """All layers that hold a prefix, in the order in which the model runs them.

    `untouched` names attention layers without one, whose verdict is empty. `model` describes what
    was audited, in words and numbers.
    """

    layers: tuple[LayerAudit, ...]
    untouched: tuple[str, ...] = ()
    model: Mapping[str, Any] = field(default_factory=dict)

    @property
    def status(self) -> str:
        """`refuted` before `failed` before `inconclusive`; `failed` without any layer."""
        statuses = {layer.status for layer in self.layers} or {"failed"}
        order = ("refuted", "failed", "inconclusive", "confirmed")
        return next(status for status in order if status in statuses)

    @property
    def exit_code(self) -> int:
        """The code with which the command ends."""
        return EXIT_CODES[self.status]

    @property
    def findings(self) -> tuple[str, ...]:
        """What the audit says of the whole, in sentences."""
        return tuple(_model_findings(self))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; numbers that are not finite become None.

        Directions are left out: they are as wide as the model.
        """
        layers: list[dict[str, Any]] = []
        for layer in self.layers:
            entry = dataclasses.asdict(layer)
            del entry["bias"]["directions"]
            for name in ("pattern_identity", "output_identity"):
                entry[name]["status"] = getattr(layer, name).status
            layers.append({**entry, "status": layer.status, "findings": layer.findings})
        return to_json_values(
            {
                "schema": SCHEMA,
                "status": self.status,
                "model": dict(self.model),
                "findings": self.findings,
                "quantile_levels": PrefixMass.LEVELS,
                "layers": layers,
                "untouched": self.untouched,
            }
        )


# --- sentences ---


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.095 or share == 0 else f"{100 * share:.2g} %"


def _layer_findings(layer: LayerAudit) -> list[str]:
    findings: list[str] = []
    for what, deviation in (
        ("attention weights", layer.pattern_identity),
        ("outputs", layer.output_identity),
    ):
        if deviation.status == "refuted":
            findings.append(
                f"{what} are {deviation.value:.2g} from the identity, and rounding in "
                f"{layer.precision} explains {deviation.allowed:.2g}: the layer computes something "
                "else than a softmax over prefix and content"
            )
        if deviation.status == "inconclusive":
            findings.append(
                f"rounding in {layer.precision} may leave {deviation.allowed:.2g} in the {what}, "
                f"and the prefix changes them by {deviation.effect:.2g}: run it in a wider type"
            )
        if deviation.status == "failed":
            findings.append(f"{what} are not finite")
    if layer.share_seeing < 1:
        findings.append(f"{_percent(layer.share_seeing)} of the queries see the prefix")
    if layer.share_seeing == 0:
        return [*findings, "the prefix does nothing here"]
    if layer.mass.mean < 0.01:
        findings.append(f"{_percent(layer.mass.mean)} of the attention goes to the prefix")
    if layer.constant_share > 0.9:
        findings.append(
            f"a constant bias a head would do {_percent(layer.constant_share)} of what the prefix "
            "does: the output moves by nearly the same vector whatever the input"
        )
    if layer.bias.effective_rank < 1.5 and layer.prefix > 1:
        findings.append(
            f"{layer.prefix} vectors act as {layer.bias.effective_rank:.2g}: their bias points "
            "one way"
        )
    return findings


def _model_findings(audit: Audit) -> list[str]:
    if not audit.layers:
        return ["No attention layer holds a prefix."]
    findings: list[str] = []
    counts = {s: sum(layer.status == s for layer in audit.layers) for s in EXIT_CODES}
    named = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
    layers = "1 layer" if len(audit.layers) == 1 else f"{len(audit.layers)} layers"
    findings.append(f"Identity of attention weights and head outputs in {layers}: {named}.")
    findings += _position_findings(audit.layers)
    if counts["refuted"] == counts["failed"] == 0:
        findings.append(
            "In every layer the ratios of attention between content positions are those that the "
            "layer has without the prefix on the same input: the prefix cannot make a head look at "
            "other content, except through what earlier layers have changed in that input. A task "
            "that needs new attention in the first layer cannot be learned by this adapter."
        )
    mean_share_seeing = float(np.mean([layer.share_seeing for layer in audit.layers]))
    if mean_share_seeing < 1:
        blind = [layer.name for layer in audit.layers if layer.share_seeing < 1]
        findings.append(
            f"{_percent(mean_share_seeing)} of the queries see the prefix (mean over layers): a "
            f"window or a mask hides it from others in {_list_names(blind)}. Content that no "
            "path reaches is answered as without the adapter."
        )
    share = _mean_constant_share(audit.layers)
    if math.isfinite(share):
        findings.append(
            f"A constant bias a head would reproduce {_percent(share)} of what the prefix does to "
            "the heads' outputs (mean over layers)."
        )
    if audit.untouched:
        findings.append(f"Without a prefix: {_list_names(audit.untouched)}.")
    return findings


def _position_findings(layers: Sequence[LayerAudit]) -> list[str]:
    first = layers[0]
    shifted = first.shifted_positions
    if shifted is None or shifted.equal is None:
        return []
    if shifted.equal:
        return [
            f"The first layer ({first.name}) attends within the content as the model without "
            "prefix does, whether that counts positions from 0 or from behind the prefix."
        ]
    return [
        f"The first layer ({first.name}) attends within the content as the model without prefix "
        f"does at the same positions only. Against positions from 0 on a weight differs by "
        f"{shifted.largest:.2g}, so some of the adapter's effect is that the content stands "
        "elsewhere."
    ]


def _mean_constant_share(layers: Sequence[LayerAudit]) -> float:
    shares = [layer.constant_share for layer in layers if math.isfinite(layer.constant_share)]
    return float(np.mean(shares)) if shares else math.nan


def _list_names(names: Sequence[str]) -> str:
    if len(names) <= 3:
        return ", ".join(short(name)[1:-1] for name in names)
    return f"{names[0]} … {names[-1]} ({len(names)} layers)"
