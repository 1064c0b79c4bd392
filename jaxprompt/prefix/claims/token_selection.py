r"""Claim ``prefix.token_selection``: one soft token selects what no hard token can."""

from __future__ import annotations

import functools
import itertools
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, Key

from jaxprompt.attention import attention_head
from jaxprompt.compute import random_table
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
from jaxprompt.errors import NumericalError, ParameterError
from jaxprompt.stats import Estimate, exact_estimate

__all__ = [
    "CASES",
    "CLAIM",
    "closed_form",
    "leakage_and_reading",
    "simulate",
    "targets",
    "unpack",
    "write_completions",
]

STATEMENT = r"""
An attention-only transformer with embeddings (content, one-hot position), a ReLU read-out and
argmax decoding has soft tokens that make it produce any completion:

| case | soft tokens | reached |
| --- | --- | --- |
| a completion of length $N$ | one, $v_i=Y_i/V$ | all $V^N$ |
| a map of one token to one | one, $v_x=m(x)/V$ | all $V^V$ |
| a map of one token to $N$ | $N$, the $r$-th with $v_x=m(x)_r/V$ | all $V^{VN}$ |
| a map of two tokens to one | one, $v_x=\sum_y m(x,y)V^{-y-1}$ | all $V^{V^2}$ |

One hard token reaches at most $V$ of them. With scores scaled by $\beta=T/\sqrt m$ at length $m$,
the attention that leaks is $\varepsilon=(m-1)/(e^\beta+m-1)$. Without leakage an entry $v$ of the
soft token is read as the symbol $j$ whose $j/V$ is nearest (half way, as the lower one), and with
leakage still exactly when $\varepsilon(1+v)<v-(j-\frac12)/V$. For $j\ge1$ that is beyond
$$T^\star=\sqrt m\,\log\Big((m-1)\Big(\frac{1+v}{v-(j-\frac12)/V}-1\Big)\Big),$$
which for a symbol, $v=j/V$, is $\sqrt m\,\log((m-1)(2V(1+v)-1))$. The symbol 0 is read right at any
temperature.
The packing of $V$ digits into one number of $p$ bits survives exactly while $V^V<2^{p-1}$: to
$V=13$ in float64 and $V=7$ in float32.
"""

DERIVATION = r"""
A head whose key is the soft token's position puts $1-\varepsilon$ on it, where
$e^\beta/(e^\beta+m-1)=1-\varepsilon$, and nothing else carries a value. The value of the soft token
is $1+v$, so the head returns $(1-\varepsilon)(1+v)$; the read-out subtracts 1, and 2 more from
every entry that the one-hot position (or input token) does not mark, and a ReLU leaves
$z=(1-\varepsilon)(1+v)-1$ in the marked one. The logits $-(z-j/V)^2+(z-1/2)^2$ are linear in $z$
and largest at the nearest $j/V$. Leakage only lowers $z$, by $v-z=\varepsilon(1+v)$, so the symbol
stays $j$ until $z$ falls to $(j-\frac12)/V$.

Digits come out of $p$ by $V$ rounds of $a=Vp$, digit $\sum_{k<V}[a\ge k]$, $p\leftarrow a-$ digit,
with steps made of ReLUs. Each round multiplies an error by $V$. The head carries $1+p$, in $[1,2)$,
which rounds to within $2^{-p}$ for $p$ bits; after $V$ rounds $V^V2^{-p}$ must stay below the half
step that the packing leaves as a margin.

*Tolerances.* A leakage below 1 is right to $10^{-12}$. Sixty halvings of an interval of length 1000
find a least temperature to its last bits, but the reading turns where two logits are equal to
within $V$ roundings of $z$: a search that rounding would move by more than $10^{-9}$ is refused.
The other quantities are counts, and exact.
"""

CASES = ("completion", "one_to_one", "one_to_many", "two_to_one")

# --- the closed form ---


def closed_form(
    *, length: Any = None, vocabulary: Any = 2, value: Any = None, temperature: Any = None,
    case: Any = None, outputs: int = 1, precision: Any = None, root: float = 0.5,
    leaking: Literal["others", "all"] = "others", step: float = 0.5, carried: float = 1.0,
    above_symbol: bool = True, unreachable: int = 0, reserved_bits: int = 1,
) -> dict[str, Any]:  # fmt: skip
    """`leakage` (with `temperature`) and `least_temperature`; `reached` for a case; `largest`
    vocabulary that packs, for a precision. Numbers broadcast; float64.

    Falsifiers change the last seven arguments, which the theory has at their defaults: the power
    of m in the scores, the tokens that leak, half a step of 1/V, the head's value besides v,
    whether v may lie above its symbol, targets out of reach, and bits kept from the packing.
    """
    predicted: dict[str, Any] = {}
    if length is not None and temperature is not None:
        leaks = np.asarray(length) - (1 if leaking == "others" else 0)
        heat = np.divide(temperature, np.asarray(length) ** root)
        predicted["leakage"] = leaks / (np.exp(heat) + leaks)
    if value is not None:
        scaled = np.multiply(vocabulary, value)
        symbol = np.minimum(np.ceil(scaled - 0.5), np.asarray(vocabulary) - 1)
        # How far v lies above its symbol, in steps of 1/V: room that leakage may use up too.
        above = scaled - symbol if above_symbol else 0.0
        gap = np.multiply(vocabulary, carried + value) / step
        others = np.asarray(length) - 1
        heat = np.log(others * (gap / (1 + 2 * above) - 1))
        predicted["least_temperature"] = np.asarray(length) ** root * heat
    if case is not None:
        predicted["reached"] = _count_targets(case, vocabulary, outputs) - unreachable
    if precision is not None:
        bits = {"float32": 24, "float64": 53}[precision] - reserved_bits
        predicted["largest"] = max(v for v in range(2, 40) if v**v < 2**bits)
    return predicted


def _count_targets(case: str, vocabulary: int, outputs: int) -> int:
    power = {
        "completion": outputs,
        "one_to_one": vocabulary,
        "one_to_many": vocabulary * outputs,
        "two_to_one": vocabulary**2,
    }[case]
    if power * math.log10(vocabulary) > 300:
        raise OverflowError(f"{vocabulary}^{power} functions")
    return vocabulary**power


FALSIFIERS = (
    Falsifier("no root", "scores not divided by √m", root=0.0),
    Falsifier("all leak", "m for m − 1 in the leakage", leaking="all"),
    Falsifier("whole step", "ε(1+v) < 1/V", step=1.0),
    Falsifier("no offset", "ε v < 1/(2V): the head carries v, not 1 + v", carried=0.0),
    Falsifier("on the grid", "1/(2V) for the room of an entry that is no symbol",
              above_symbol=False),
    Falsifier("all but one", "one target is out of reach", unreachable=1),
    Falsifier("all bits", "packing to V^V < 2^(p+1)", reserved_bits=-1),
)  # fmt: skip


# --- the simulation: the networks ---

SHARP = 400.0
"""Temperature of the exhaustive runs: what leaks is below rounding."""


def _embed(content: Array) -> Array:
    """Rows [content, one-hot position]."""
    return jnp.concatenate([content, jnp.eye(content.shape[0], dtype=content.dtype)], axis=1)


def _attend_to_position(tokens: Array, at: int, temperature: Any, value: Array) -> Array:
    """Output of a head whose last token attends to position `at`, with the given values."""
    size = tokens.shape[0]
    positions = tokens[:, -size:]
    sharp = jnp.asarray(temperature, tokens.dtype) / np.sqrt(size).astype(tokens.dtype)
    query = sharp * jax.nn.one_hot(jnp.asarray([at]), size, dtype=tokens.dtype)
    return attention_head(query, positions, value)[0]


def _marked_entry(soft: Array, mark: Array) -> Array:
    """z: what the ReLU leaves of 1 + v in the entry that `mark` (one-hot) marks."""
    return jax.nn.relu(soft - 1 + 2 * (mark - 1)).sum()


def _nearest_symbol(z: Array, vocabulary: int) -> Array:
    """Argmax of the linear logits −(z − j/V)² + (z − ½)²: the nearest j/V."""
    level = jnp.arange(vocabulary, dtype=z.dtype) / vocabulary
    return jnp.argmax(2 * z * level - level**2 - z + 0.25)


def unpack(packed: Float[Array, " k"], vocabulary: int) -> Float[Array, "k V"]:
    """The V base-V digits of numbers in [0, 1), by ReLUs alone; dtype as given."""
    steep = jnp.asarray(2.0 * float(vocabulary) ** vocabulary, packed.dtype)
    levels = jnp.arange(1, vocabulary, dtype=packed.dtype)

    def take_digit(remainder: Array, _: None) -> tuple[Array, Array]:
        shifted = vocabulary * remainder
        # [a ≥ k] as 1 − relu(1 − relu(steep·(a − k))): exactly 0 or 1 off a sliver.
        high = 1 - jax.nn.relu(1 - jax.nn.relu(steep * (shifted[:, None] - levels)))
        digit = high.sum(axis=1)
        return shifted - digit, digit

    return lax.scan(take_digit, packed, None, length=vocabulary)[1].T


def soft_tokens(case: str, target: Int[Array, "*shape"], vocabulary: int, dtype: Any) -> Array:
    """The construction's soft tokens (count, entries) for one target."""
    if case == "two_to_one":
        # Half a unit more, so that rounding has room on both sides.
        places = np.power(float(vocabulary), np.arange(vocabulary))[::-1]
        whole = target.astype(dtype) @ jnp.asarray(places, dtype) + jnp.asarray(0.5, dtype)
        return (whole / jnp.asarray(float(vocabulary) ** vocabulary, dtype))[None]
    rows = target.T if case == "one_to_many" else target[None]
    return rows.astype(dtype) / jnp.asarray(vocabulary, dtype)


def write_completions(
    case: str, soft: Float[Array, "n e"], vocabulary: int, outputs: int, temperature: Any
) -> Int[Array, "*shape"]:
    """What the network with these soft tokens writes: for every input, greedily, token by token.

    Shape (outputs,), (V,), (V, outputs) or (V, V), as `case` has it. The soft token's entries are
    coordinates that no word uses.
    """
    entries = soft.shape[1]
    inputs = {"completion": 0, "one_to_one": 1, "one_to_many": 1, "two_to_one": 2}[case]
    words = jnp.eye(vocabulary, dtype=soft.dtype)
    lead = soft.shape[0]

    def write(input_words: Array) -> Array:
        text: list[Array] = [input_words[i] for i in range(inputs)]
        for step in range(outputs):
            hard = [words[word] for word in text]
            plain = jnp.stack(hard) if hard else jnp.zeros((0, vocabulary), soft.dtype)
            content = jnp.block([
                [soft, jnp.zeros((lead, vocabulary), soft.dtype)],
                [jnp.zeros((len(hard), entries), soft.dtype), plain],
            ])  # fmt: skip
            tokens = _embed(content)
            size = tokens.shape[0]
            flag = (jnp.arange(size) < lead).astype(soft.dtype)[:, None]
            at = step if case == "one_to_many" else 0
            read = _attend_to_position(tokens, at, temperature, tokens[:, :entries] + flag)

            def word(index: int, tokens: Array = tokens) -> Array:
                one_hots = tokens[:, entries : entries + vocabulary]
                return _attend_to_position(tokens, lead + index, temperature, one_hots)

            if case == "completion":
                z = _marked_entry(read, jnp.eye(entries, dtype=soft.dtype)[step])
            elif case == "two_to_one":
                digits = unpack(jax.nn.relu(read - 1), vocabulary) / vocabulary
                row = jax.vmap(lambda d, m: jax.nn.relu(d + m - 1))(
                    digits.T, jnp.tile(word(0), (vocabulary, 1))
                )
                z = jax.nn.relu(row.sum(axis=1) + word(1) - 1).sum()
            else:
                z = _marked_entry(read, word(0))
            text.append(_nearest_symbol(z, vocabulary))
        return jnp.stack(text[inputs:])

    if inputs == 0:
        return write(jnp.zeros(0, int))
    grid = jnp.stack(jnp.meshgrid(*[jnp.arange(vocabulary)] * inputs, indexing="ij"), axis=-1)
    for _ in range(inputs):
        write = jax.vmap(write)
    texts = write(grid)
    return texts if case == "one_to_many" else texts[..., 0]


def targets(case: str, vocabulary: int, outputs: int) -> np.ndarray:
    """Every target of a case, in lexicographic order."""
    shape = {
        "completion": (outputs,),
        "one_to_one": (vocabulary,),
        "one_to_many": (vocabulary, outputs),
        "two_to_one": (vocabulary, vocabulary),
    }[case]
    size = int(np.prod(shape))
    grid = np.indices((vocabulary,) * size).reshape(size, -1).T
    return grid.reshape(-1, *shape)


@functools.partial(jax.jit, static_argnums=(0, 2, 3, 4), compiler_options=RUN_ONCE_OPTIONS)
def _write_all(case: str, wanted: Array, vocabulary: int, outputs: int, precision: str) -> Array:
    dtype = jnp.dtype(precision)

    def write(target: Array) -> Array:
        soft = soft_tokens(case, target, vocabulary, dtype)
        return write_completions(case, soft, vocabulary, outputs, SHARP)

    return jax.vmap(write)(wanted)


def count_reached(case: str, vocabulary: int, outputs: int) -> int:
    """How many distinct targets their own soft tokens produce exactly, over all of them."""
    wanted = targets(case, vocabulary, outputs)
    with jax.enable_x64(True):
        texts = np.asarray(_write_all(case, jnp.asarray(wanted), vocabulary, outputs, "float64"))
    right = (texts == wanted).reshape(len(wanted), -1).all(axis=1)
    return len(np.unique(texts[right].reshape(right.sum(), -1), axis=0))


def largest_packed(precision: str, tries: int, key: Key[Array, ""]) -> int:
    """Largest V up to which every one of `tries` random maps of two tokens, and the two extreme
    ones, comes out of its packed token unchanged."""
    best = 1
    bits = np.asarray(_random_words(key, tries, _MAX_PACKED_VOCABULARY**2), np.int64)
    with jax.enable_x64(True):
        for vocabulary in range(2, _MAX_PACKED_VOCABULARY):
            maps = (bits[:, : vocabulary**2] * vocabulary >> 32).reshape(tries, vocabulary, -1)
            maps[0], maps[1] = 0, vocabulary - 1
            if (np.asarray(_pack_and_unpack(maps, vocabulary, precision)) != maps).any():
                return best
            best = vocabulary
    return best


_MAX_PACKED_VOCABULARY = 20
"""No format of 64 bits packs so many symbols."""


@functools.partial(jax.jit, static_argnums=(1, 2))
def _random_words(key: Array, rows: int, columns: int) -> Array:
    return random_table.words(key, 0, rows, columns)[0]


@functools.partial(jax.jit, static_argnums=(1, 2), compiler_options=RUN_ONCE_OPTIONS)
def _pack_and_unpack(maps: Array, vocabulary: int, precision: str) -> Array:
    """The digits that come out when packed maps pass through the head as 1 + p."""
    dtype = jnp.dtype(precision)

    def carry(target: Array) -> Array:
        soft = soft_tokens("two_to_one", target, vocabulary, dtype)
        return unpack(jax.nn.relu((soft[0] + 1) - 1), vocabulary)

    return jax.vmap(carry)(maps)


@functools.partial(jax.jit, static_argnums=(0, 1))
def leakage_and_reading(length: int, vocabulary: int, value: Array, temperature: Array) -> Any:
    """Leakage, and whether v is read as its nearest symbol, from the head on `length` tokens."""
    soft = jnp.zeros((1, 1)).at[0, 0].set(value)
    others = jnp.zeros((length - 1, 1))
    tokens = _embed(jnp.concatenate([soft, others]))
    flag = jnp.zeros((length, 1)).at[0].set(1)
    leak = 1 - _attend_to_position(tokens, 0, temperature, flag)[0]
    z = _marked_entry(
        _attend_to_position(tokens, 0, temperature, tokens[:, :1] + flag), jnp.ones(1)
    )
    nearest = jnp.argmin(jnp.abs(value * vocabulary - jnp.arange(vocabulary)))
    return leak, _nearest_symbol(z, vocabulary) == nearest


LONGEST_RUN = 2000
"""Most tokens of a network that is run: its positions are the rows of a square matrix."""

TEMPERATURE_TOLERANCE = 1e-9
"""How closely the search must find the least temperature."""


def _require_resolved_reading(length: int, vocabulary: int, value: float) -> None:
    """Refuse a search whose result rounding would move by more than the tolerance.

    Two logits are equal to within V eps of z where the reading turns, and z there differs from the
    entry by `room`, so β is known to within V eps / room.
    """
    steps = vocabulary * value
    room = (steps - int(np.argmin(np.abs(steps - np.arange(vocabulary)))) + 0.5) / vocabulary
    off = 2 * vocabulary * float(np.finfo(np.float64).eps) * math.sqrt(length) / room
    if off > TEMPERATURE_TOLERANCE:
        raise ParameterError(
            "value", value, f"read to within {TEMPERATURE_TOLERANCE:g} in T in a simulation",
            f"rounding leaves {off:.1g}; predict takes it, or take fewer symbols or tokens",
            "prefix.token_selection",
        )  # fmt: skip


def _search_least_temperature(
    length: int, vocabulary: int, value: float, first: float = 1e3
) -> float:
    """The least temperature at which the network reads `value` right, by bisection.

    From the interval up to `first`, which grows until its end is read right; 64-bit types are on
    inside.
    """
    _require_resolved_reading(length, vocabulary, value)
    with jax.enable_x64(True):
        return _bisect_temperature(length, vocabulary, value, first)


def _bisect_temperature(length: int, vocabulary: int, value: float, first: float) -> float:

    def right(temperature: float) -> bool:
        heat = jnp.float64(temperature)
        return bool(leakage_and_reading(length, vocabulary, jnp.float64(value), heat)[1])

    low, high = 0.0, first
    while not right(high):
        low, high = high, 2 * high
        # At such scores nothing leaks, so it is rounding that decides between two symbols.
        if high > 1e3 * length:
            raise NumericalError(
                f"prefix.token_selection: {value:g} is never read as a symbol of {vocabulary}; "
                "choose a value further from half way between two symbols"
            )
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if right(middle) else (middle, high)
    return high


# All targets, or the edge of what is read right: exact numbers, not means of trials.
def simulate(
    *, key: Key[Array, ""], trials: int, length: int = 0, vocabulary: int = 2,
    value: float | None = None, temperature: float | None = None, case: str | None = None,
    outputs: int = 1, precision: str | None = None,
) -> dict[str, Estimate]:  # fmt: skip
    """Run the networks: all targets of a case, the head at a temperature, or the packing.

    The least temperature is found by bisection on what the network reads. Exact: no sampling
    error, except that `largest` tries `trials` random maps.

    Raises:
        ParameterError: the network would be too long, or its reading too close to rounding.
    """
    if length > LONGEST_RUN:
        raise ParameterError(
            "length", length, f"at most {LONGEST_RUN} in a simulation",
            "predict takes more", "prefix.token_selection",
        )  # fmt: skip
    measured: dict[str, Any] = {}
    with jax.enable_x64(True):
        if temperature is not None:
            heat, middle = jnp.float64(temperature), jnp.float64(0.5)
            measured["leakage"] = leakage_and_reading(length, 2, middle, heat)[0]
        if value is not None:
            measured["least_temperature"] = _search_least_temperature(length, vocabulary, value)
    if case is not None:
        measured["reached"] = count_reached(case, vocabulary, outputs)
    if precision is not None:
        measured["largest"] = largest_packed(precision, max(trials, 2), key)
    return {name: exact_estimate(number, trials) for name, number in measured.items()}


# --- the design ---

LISTED_CASES = (
    ("completion", 3, 3), ("completion", 4, 3), ("completion", 2, 5),
    ("one_to_one", 2, 1), ("one_to_one", 3, 1), ("one_to_one", 4, 1),
    ("one_to_many", 2, 2), ("one_to_many", 2, 3), ("one_to_many", 3, 2),
    ("two_to_one", 2, 1), ("two_to_one", 3, 1),
)  # fmt: skip
"""Case, vocabulary and outputs: all targets of each are tried."""

OFF_GRID = (
    {"length": 5, "vocabulary": 2, "value": 0.45},
    {"length": 20, "vocabulary": 7, "value": 0.49},
    {"length": 8, "vocabulary": 4, "value": 0.99},
)
"""Entries below, above and beyond all symbols, 1/2, 3/7 and 3/4."""


PACKING = tuple(Run(precision=precision, trials=2000) for precision in ("float32", "float64"))


def _design(lengths: tuple[int, ...]) -> Design:
    heads = (
        Run(length=m, vocabulary=v, value=(v - 1) / v, temperature=t)
        for m, v, t in itertools.product(lengths, (5, 94), (10.0, 40.0))
    )
    cases = (Run(case=case, vocabulary=v, outputs=n) for case, v, n in LISTED_CASES)
    return Design(*heads, *cases, *PACKING, *map(Run, OFF_GRID), trials=2)


def validate(params: dict[str, Any], where: str) -> dict[str, Any]:
    """What belongs together: a value needs its length and vocabulary, a case its vocabulary."""
    needs = {"value": ("length", "vocabulary"), "temperature": ("length",), "case": ("vocabulary",)}
    for name, others in needs.items():
        for other in others:
            if name in params and other not in params:
                raise ParameterError(other, "(missing)", f"given with `{name}`", "give both", where)
    if not {"value", "temperature", "case", "precision"} & set(params):
        raise ParameterError(
            "value", "(missing)", "a number in (0, 1)",
            "give it, or `temperature`, `case` or `precision`", where,
        )  # fmt: skip
    if "value" in params:
        steps = np.multiply(params["vocabulary"], params["value"])
        if (steps <= 0.5).any():
            raise ParameterError(
                "value", params["value"], "> 1/(2 vocabulary)",
                "what is nearest to the symbol zero is read right at any temperature", where,
            )  # fmt: skip
    return params


# --- the figure ---


def _panels(claim: Claim, verdict: Verdict, key: Key[Array, ""]) -> list[Panel]:
    """Leaked attention against temperature, how many targets are reached, and what packs."""
    vocabulary, value = 5, 0.8
    leaks: list[Mark] = []
    for colour, length in enumerate((5, 20, 80)):
        heats = np.linspace(1.0, 60.0, 60)
        line = closed_form(length=length, vocabulary=vocabulary, value=value, temperature=heats)
        few = heats[4::11]
        with jax.enable_x64(True):
            run = [leakage_and_reading(length, vocabulary, value, heat)[0] for heat in few]
        leaks += [
            Mark("line", heats, line["leakage"], label=f"{length} tokens: theory", colour=colour),
            Mark("points", few, np.asarray(run, np.float64), label=f"{length} tokens: network",
                 colour=colour),
            Mark("vertical", [float(line["least_temperature"])], colour=colour),
        ]  # fmt: skip
    counted = [row for row in verdict.rows if row.quantity == "reached"]
    names = [
        f"{row.parameters['case'].replace('_', ' ')}, {row.parameters['vocabulary']} symbols"
        for row in counted
    ]
    places = range(len(counted))
    reached = [
        Mark("line", [row.predicted] * 2, [place - 0.4, place + 0.4], label="theory: all of them",
             colour=7)
        for place, row in enumerate(counted)
    ]  # fmt: skip
    reached += [
        Mark("points", [row.simulated for row in counted], places, label="reached", colour=3),
    ]  # fmt: skip
    return [
        Panel(leaks, "attention that leaks", "temperature", "share of attention", log_y=True,
              y_range=(1e-4, 1.1)),
        Panel(reached, "targets reached by some soft tokens", "targets", log_x=True,
              y_names=names),
    ]  # fmt: skip


CLAIM = Claim(
    id="prefix.token_selection",
    title="One soft token selects any completion or map",
    statement=STATEMENT,
    derivation=DERIVATION,
    relation=Relation.EXISTENCE,
    source="Petrov et al., ICLR 2024; derived here",
    parameters=(
        Parameter("length", "integer", "tokens in the sequence", "m", low=2, default=None),
        Parameter("vocabulary", "integer", "size of the vocabulary", "V", low=2, default=None),
        Parameter("value", "real", "entry to be read, above 1/(2V): nearest to a symbol j ≥ 1",
                  "v", low=0, high=1, default=None),
        Parameter("temperature", "real", "factor of the scores, before 1/√m", "T", low=0,
                  default=None),
        Parameter("case", "choice", "what is selected", choices=CASES, default=None),
        Parameter("outputs", "integer", "tokens written", "N", low=1, default=1),
        Parameter("precision", "choice", "number format", choices=("float32", "float64"),
                  default=None),
    ),
    check_parameters=validate,
    quantities=(
        Quantity("leakage", "attention not on the soft token", 1e-12, symbol=r"\varepsilon",
                 side="two"),
        Quantity("least_temperature", "temperature beyond which v is read right",
                 TEMPERATURE_TOLERANCE, symbol=r"T^\star", side="two"),
        Quantity("reached", "distinct targets that some soft tokens produce", 0.0, side="two"),
        Quantity("largest", "largest vocabulary whose packed maps survive", 0.0, side="two"),
    ),
    compared=Compared(
        {"length": (2, 10**6), "vocabulary": (2, 100), "value": (0.01, 0.99),
         "temperature": (0.0, 1000.0),
         "case": ("completion", "one_to_one", "one_to_many", "two_to_one"), "outputs": (1, 6),
         "precision": ("float32", "float64")},
        elsewhere="formulas keep their digits, but for a `value` half way between symbols, whose "
        "distance to there is what is rounded; targets are counted up to 4096, and are exact "
        "beyond",
    ),
    closed_form=closed_form,
    falsifiers=FALSIFIERS,
    simulation=simulate,
    designs={"quick": _design((20,)), "full": _design((2, 3, 8, 20, 50, 200))},
    broadcasts="length, vocabulary, value and temperature",
    figure=Panels(
        _panels,
        "One soft token selects any completion, once its attention is sharp enough",
        "vertical lines: theory's least temperature at which the token is read right",
    ),
)  # fmt: skip
