"""The command `new`: a commented file with a claim of the kind that the reader's theorem has.

Each kind has its own small theorem, which is true, so the file can be checked as it is and then
changed part by part. What the kinds share stands once, in the skeleton.
"""

from __future__ import annotations

import argparse
import re
import shlex
import textwrap
from dataclasses import dataclass
from pathlib import Path

from jaxprompt.errors import UsageError, short

__all__ = ["KINDS", "claim_file_text", "write_claim_file"]


@dataclass(frozen=True)
class _Kind:
    """What a kind of theorem puts into the skeleton; texts are lines of Python."""

    what: str
    statement: str
    derivation: str
    closed_form: str
    experiment: str
    relation: str
    parameters: str
    quantity: str
    falsifiers: str
    simulation: str
    design: str
    more: str = ""
    imports: str = ""


_SIGNS = 'jp.Parameter("count", "integer", "number of terms", "n", low=1),'

KINDS: dict[str, _Kind] = {
    "mean": _Kind(
        what="E X = f, or P(A) = p: compared with the mean of many trials",
        statement=r"For independent fair signs $s_i$: $E (\frac1n \sum_i s_i)^2 = \frac1n$.",
        derivation=r"The terms $s_i s_j$ with $i \ne j$ have mean 0, and $s_i^2 = 1$.",
        closed_form='''
            def closed_form(*, count, power=1.0):
                """What the theorem says. `power` is there for a falsifier, at its true default."""
                return {"square": count**-power}
        ''',
        experiment='''
            def experiment(*, key, count):
                """One trial, whose randomness all comes from `key`: a number, or True/False."""
                return {"square": jax.random.rademacher(key, (count,), dtype=float).mean() ** 2}
        ''',
        relation="MEAN",
        parameters=_SIGNS,
        quantity='jp.Quantity("square", "mean square", tolerance=0.05, relative=True),',
        falsifiers='''
            jp.Falsifier("rate", "a wrong power of n", power=1.1),
            jp.Falsifier.scaled("ten_per_cent", closed_form, 1.1),
        ''',
        simulation="jp.per_trial(experiment, batch=500)",
        design='jp.Design.product({}, {"count": [4, 8, 16]}, trials=40_000)',
    ),
    "limit": _Kind(
        what="X → f as a size grows: extrapolated with the form of the correction that you state",
        statement=r"For exponential $x_i$: $E (\frac1n \sum_i x_i)^3 \to 1$ as $n \to \infty$.",
        derivation=r"The sum has a gamma distribution: the mean is $1 + 3/n + 2/n^2$, which also "
        r"gives the powers 1 and 2 of the correction.",
        closed_form='''
            def closed_form(*, limit=1.0):
                """The limit. It does not take the size; other parameters it may take."""
                return {"cube": limit}
        ''',
        experiment='''
            def experiment(*, key, count):
                """One trial at one size."""
                return {"cube": jax.random.exponential(key, (count,)).mean() ** 3}
        ''',
        relation="ASYMPTOTIC",
        parameters='jp.Parameter("count", "integer", "number of terms", "n", low=1, '
        "simulate_only=True),",
        quantity='jp.Quantity("cube", "mean cube", tolerance=0.05),',
        falsifiers='''
            jp.Falsifier("more", "8 % more", limit=1.08),
            jp.Falsifier("less", "8 % less", limit=0.92),
        ''',
        simulation="jp.per_trial(experiment, batch=500)",
        more='''
            size="count",  # the parameter that grows
            powers=(1, 2),  # of 1/size in the correction; leave it out only if you do not know it
        ''',
        design='jp.Design.product({}, {"count": [8, 16, 32, 64]}, trials=40_000)',
    ),
    "identity": _Kind(
        what="left(x) = right(x) for every x: the largest difference over many draws",
        statement=r"$|a + b|^2 + |a - b|^2 = 2 |a|^2 + 2 |b|^2$.",
        derivation=r"Expand both squares; the products $2 a \cdot b$ cancel.",
        closed_form='''
            def instance(*, key, dim):
                """What both sides see."""
                a, b = jax.random.normal(key, (2, dim))
                return {"a": a, "b": b}


            def closed_form(*, a, b, factor=2.0):
                """The right side."""
                return {"square": factor * (a @ a + b @ b)}
        ''',
        experiment='''
            def experiment(*, a, b):
                """The left side, on the same instance."""
                return {"square": (a + b) @ (a + b) + (a - b) @ (a - b)}
        ''',
        relation="IDENTITY",
        parameters='jp.Parameter("dim", "integer", "dimension", "d", low=1, simulate_only=True),',
        quantity='jp.Quantity("square", "sum of squares", tolerance=0.0),  # 0: up to rounding',
        falsifiers='''
            jp.Falsifier("factor", "2.001 for 2", factor=2.001),
            jp.Falsifier("swapped", "a for b", lambda a, b: {"square": 4 * (a @ a)}),
        ''',
        simulation="jp.per_trial(experiment, instance=instance)",
        design='jp.Design.product({}, {"dim": [1, 4, 30]}, trials=500)',
    ),
    "bound": _Kind(
        what='measured(x) ≤ bound(x) for every x (side="lower" on the quantity for ≥)',
        statement=r"$(a \cdot b)^2 \le |a|^2 |b|^2$.",
        derivation=r"$|a|^2 |b|^2 - (a \cdot b)^2 = \sum_{i<j} (a_i b_j - a_j b_i)^2 \ge 0$.",
        closed_form='''
            def instance(*, key, dim):
                """What both sides see."""
                a, b = jax.random.normal(key, (2, dim))
                return {"a": a, "b": b}


            def closed_form(*, a, b, share=1.0):
                """The bound."""
                return {"square": share * (a @ a) * (b @ b)}
        ''',
        experiment='''
            def experiment(*, a, b):
                """What is bounded, on the same instance."""
                return {"square": (a @ b) ** 2}
        ''',
        relation="BOUND",
        parameters='jp.Parameter("dim", "integer", "dimension", "d", low=1, simulate_only=True),',
        quantity='jp.Quantity("square", "squared product", tolerance=0.0),',
        falsifiers='''
            jp.Falsifier("tighter", "0.9 of the bound", share=0.9),
        ''',
        simulation="jp.per_trial(experiment, instance=instance)",
        design='jp.Design.product({}, {"dim": [1, 2, 4]}, trials=2000)',
    ),
    "rate": _Kind(
        what="X grows like size^rate: the exponent from a fit of logarithms",
        statement=r"For a sum $S_n$ of $n$ fair signs, $E |S_n|$ grows like $n^{1/2}$.",
        derivation=r"By the central limit theorem $E |S_n| / \sqrt n \to \sqrt{2/\pi}$.",
        closed_form='''
            def closed_form(*, exponent=0.5):
                """The exponent; `jp.Rate(exponent, log_power)` has powers of log(size) too."""
                return {"distance": jp.Rate(exponent)}
        ''',
        experiment='''
            def experiment(*, key, steps):
                """One trial at one size."""
                return {"distance": abs(jax.random.rademacher(key, (steps,), dtype=float).sum())}
        ''',
        relation="RATE",
        parameters='jp.Parameter("steps", "integer", "steps", "n", low=1, simulate_only=True),',
        quantity='jp.Quantity("distance", "distance from the start", tolerance=0.08),',
        falsifiers='''
            jp.Falsifier("faster", "exponent 0.6", exponent=0.6),
            jp.Falsifier("slower", "exponent 0.4", exponent=0.4),
        ''',
        simulation="jp.per_trial(experiment, batch=100)",
        more='''
            size="steps",  # the parameter that grows
        ''',
        design='jp.Design.product({}, {"steps": [64, 128, 256, 512]}, trials=6000)',
    ),
    "law": _Kind(
        what="X has the distribution F: Kolmogorov's distance",
        statement=r"The sum of two uniform numbers on $[0, s]$ has a triangular density.",
        derivation=r"Convolve two constant densities.",
        closed_form='''
            def closed_form(*, scale, peak=0.5):
                """The distribution function; `jp.Distribution(sampler=…)` if you can only draw."""
                return {"sum": jp.Distribution(cdf=stats.triang(peak, scale=2 * scale).cdf)}
        ''',
        experiment='''
            def experiment(*, key, scale):
                """One draw."""
                return {"sum": scale * jax.random.uniform(key, (2,)).sum()}
        ''',
        relation="MEAN",
        parameters='jp.Parameter("scale", "real", "scale", "s", low=0, open_low=True),',
        quantity='jp.Quantity("sum", "sum", tolerance=0.06),  # a distance of distributions',
        falsifiers='''
            jp.Falsifier("skewed", "the peak at 0.6 of the range", peak=0.6),
            jp.Falsifier("wider", "8 % wider", lambda scale: closed_form(scale=1.08 * scale)),
        ''',
        simulation="jp.per_trial(experiment, batch=500)",
        design='jp.Design.product({}, {"scale": [1.0, 5.0]}, trials=8000)',
        imports="from scipy import stats",
    ),
    "trajectory": _Kind(
        what="along steps or time: every time from one run",
        statement=r"$x_{t+1} = a x_t + \varepsilon_t$ from $x_0 = 0$ with unit noise: "
        r"$E x_t^2 = (1 - a^{2t})/(1 - a^2)$.",
        derivation=r"$x_t$ is a sum of independent terms $a^s \varepsilon_{t-s}$.",
        closed_form='''
            def closed_form(*, time, decay, memory=2.0):
                """What the theorem says at each time."""
                times = np.asarray(time, float)
                return {"square": (1 - decay ** (memory * times)) / (1 - decay**2)}
        ''',
        experiment='''
            def start():
                """The state at time 0."""
                return 0.0


            def step(state, *, key, decay):
                """The next state."""
                return decay * state + jax.random.normal(key)


            def read(state):
                """The numbers that are compared."""
                return {"square": state**2}
        ''',
        relation="MEAN",
        parameters='jp.Parameter("time", "integer", "steps", "t", low=0),\n'
        '        jp.Parameter("decay", "real", "factor of a step", "a", low=0, high=0.99),',
        quantity='jp.Quantity("square", "mean square", tolerance=0.1, relative=True),',
        falsifiers='''
            jp.Falsifier("memory", "forgets half as fast", memory=1.0),
            jp.Falsifier.scaled("more", closed_form, 1.2),
        ''',
        simulation="jp.trajectory(start, step, read, traced=(\"decay\",), batch=500)",
        more='''
            shared=("time",),  # one run serves the whole list of times
        ''',
        design='jp.Design({"time": [1, 2, 4, 8, 16], "decay": 0.9}, trials=20_000)',
        imports="import numpy as np",
    ),
}  # fmt: skip
"""Kinds of theorems, by the names that the command takes."""

_SKELETON = '''\
"""{title}: {what}.

    jaxprompt check {file} --falsify --out out

Change it from top to bottom: the formula, one trial, the words, the falsifiers, the design.
"""

import jax
{imports}
import jaxprompt as jp

# --- what the theorem says ---


{closed_form}


# --- what happens: one independent trial ---


{experiment}


# --- the claim ---

CLAIM = jp.Claim(
    id="mine.{name}",
    title="{title}",
    statement=r"""{statement}""",
    derivation=r"""{derivation}""",
    relation=jp.Relation.{relation},
    source="yours",
    parameters=(  # what is allowed; anything else is refused in one line
        {parameters}
    ),
    quantities=(  # `tolerance`: the discrepancy that you would mind
        {quantity}
    ),
    falsifiers=(  # wrong on purpose: a check that cannot refute them confirms nothing
{falsifiers}
    ),
    closed_form=closed_form,
    simulation={simulation},
{more}    designs={{
        "quick": {design},
    }},
    figure=jp.Evidence(),
)
'''


def claim_file_text(path: str, kind: str) -> str:
    """The text of a new file of that name, with a claim called after it."""
    stem = Path(path).stem
    words = re.sub(r"[\W_]+", " ", stem).strip()
    name = re.sub(r"\W+", "_", stem.lower()).strip("_")
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise UsageError(
            f"FILE.py = {short(path)}: its name must begin with a letter and have letters, digits "
            "and _: rename it, say to my_claim.py"
        )
    parts = KINDS[kind]

    def lines(text: str, indent: int = 0) -> str:
        return textwrap.indent(textwrap.dedent(text).strip("\n").rstrip(), " " * indent)

    def folded(text: str) -> str:
        return ("\n    ").join(textwrap.wrap(text, 78, break_long_words=False))

    imports = f"{parts.imports}\n" if parts.imports else ""
    return _SKELETON.format(
        title=words[:1].upper() + words[1:],
        what=parts.what,
        file=Path(path).name,
        name=name,
        imports=imports,
        closed_form=lines(parts.closed_form),
        experiment=lines(parts.experiment),
        statement=folded(parts.statement),
        derivation=folded(parts.derivation),
        relation=parts.relation,
        parameters=parts.parameters,
        quantity=parts.quantity,
        falsifiers=lines(parts.falsifiers, 8),
        simulation=parts.simulation,
        more=lines(parts.more, 4) + "\n" if parts.more else "",
        design=parts.design,
    )


def write_claim_file(options: argparse.Namespace) -> int:
    """Write a new file of claims; one that exists is never replaced."""
    path = Path(options.file)
    if path.suffix != ".py":
        raise UsageError(f"FILE.py = {short(str(path))}: must end in .py; add it")
    text = claim_file_text(str(path), options.kind)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise UsageError(f"'{path}' exists: choose another name, or remove it") from None
    except OSError as error:
        raise UsageError(f"'{path}' cannot be written ({error.strerror}): choose another") from None
    command = shlex.join(["jaxprompt", "check", str(path), "--falsify"])
    print(f"{path}: a claim of the kind {options.kind}; next: {command}")
    return 0
