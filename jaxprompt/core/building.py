"""What a claim must be, refused in one line when it is built."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxprompt.core.designs import Design
from jaxprompt.core.falsifiers import Falsifier
from jaxprompt.core.parameters import KINDS, Parameter
from jaxprompt.core.quantities import Quantity
from jaxprompt.core.relation import Relation
from jaxprompt.errors import ClaimError, suggest

if TYPE_CHECKING:
    from jaxprompt.core.claim import Claim

__all__ = ["check_definition", "check_trial"]

RESERVED_PARAMETERS = ("key", "trials", "first")
"""Names that every simulation has as arguments of its own."""

RESERVED_QUANTITIES = ("status", "trials", "done")
"""Names that a store has for itself."""

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


def check_definition(claim: Claim) -> None:
    """Refuse a claim that could not be checked, with the remedy in the same line.

    Raises:
        ClaimError: (a ValueError) with what is wrong and what to write instead.
    """
    for problem in _all_problems(claim):
        raise ClaimError(f"claim {claim.id}: {problem}")


def _all_problems(claim: Claim) -> Iterator[str]:
    yield from _id_problems(claim.id)
    if not isinstance(claim.relation, Relation):  # pyright: ignore[reportUnnecessaryIsInstance]
        near = suggest(str(claim.relation), [r.value for r in Relation], most=1)
        yield (
            f"relation = {claim.relation!r}: must be a jaxprompt.Relation, such as "
            f"Relation.MEAN{near}"
        )
    yield from _parameter_problems(claim)
    yield from _quantity_problems(claim)
    yield from _falsifier_problems(claim)
    yield from _simulation_problems(claim)
    yield from _design_problems(claim)
    yield from _compared_problems(claim)


def _id_problems(id: str) -> Iterator[str]:
    family, _, stem = id.partition(".")
    if not family.isidentifier() or not stem.isidentifier():
        yield "the id must be family.word_stem"


def _parameter_problems(claim: Claim) -> Iterator[str]:
    everything = (*claim.parameters, *claim.ignored)
    for parameter in everything:
        if not isinstance(parameter, Parameter):  # pyright: ignore[reportUnnecessaryIsInstance]
            yield f"parameters holds {parameter!r}: must be a jaxprompt.Parameter"
        if parameter.name in RESERVED_PARAMETERS:
            yield f"parameter `{parameter.name}`: a simulation has that argument already; rename it"
        if parameter.kind not in KINDS:
            near = suggest(parameter.kind, KINDS, most=1)
            yield (
                f"parameter `{parameter.name}` has kind {parameter.kind!r}: must be one of "
                f"{', '.join(KINDS)}{near}"
            )
    names = [p.name for p in claim.parameters]
    yield from _repeated_names(names, "parameters")
    known = [p.name for p in everything]
    if claim.size and claim.size not in known:
        near = suggest(claim.size, known, most=1)
        yield f"size = {claim.size!r}: must be one of its parameters{near}"
    for name in claim.shared:
        if name not in known:
            near = suggest(name, known, most=1)
            yield f"shared names `{name}`: must be one of its parameters{near}"
    needs_size = claim.relation in (Relation.ASYMPTOTIC, Relation.RATE)
    if needs_size and not claim.size and claim.compare is None:
        article = "an asymptotic claim" if claim.relation is Relation.ASYMPTOTIC else "a rate"
        yield f'{article} names its `size` parameter: the one that grows, such as size="dim"'


def _quantity_problems(claim: Claim) -> Iterator[str]:
    if not claim.quantities:
        yield "it has no quantity: declare what it predicts, with a tolerance each"
    for quantity in claim.quantities:
        if not isinstance(quantity, Quantity):  # pyright: ignore[reportUnnecessaryIsInstance]
            yield f"quantities holds {quantity!r}: must be a jaxprompt.Quantity"
        yield from _one_quantity(claim, quantity)
    names = [q.name for q in claim.quantities]
    yield from _repeated_names(names, "quantities")
    stored = {f"{name}{end}": name for name in names for end in ("_predicted", "_stderr")}
    for name in names:
        if name in stored:
            yield (
                f"quantity `{name}` would be stored where `{stored[name]}` keeps its "
                f"{'prediction' if name.endswith('_predicted') else 'standard error'}: rename it"
            )


def _one_quantity(claim: Claim, quantity: Quantity) -> Iterator[str]:
    name, tolerance = quantity.name, quantity.tolerance
    if not _NAME.fullmatch(name):
        yield f"quantity {name!r}: a name is a word of letters, digits and underscores; rename it"
    if name in RESERVED_QUANTITIES:
        yield f"quantity `{name}`: a store has that name for itself; rename it"
    if not callable(tolerance):
        if np.isnan(tolerance) and claim.compare is None and not quantity.unmeasured:
            yield (
                f"quantity `{name}` has no tolerance: state the discrepancy that you would mind, "
                "such as tolerance=0.01"
            )
        if tolerance < 0:
            yield f"quantity `{name}` has tolerance {tolerance:g}: must be ≥ 0"
    undeclared = quantity.side == "" and claim.compare is None and not quantity.unmeasured
    if undeclared and claim.relation in (Relation.EXISTENCE, Relation.IMPOSSIBILITY):
        yield (
            f"{claim.relation.value} says nothing of how `{name}` is compared: give the quantity a "
            'side ("two", "upper", "lower" or "predicted"), or the claim a `compare=`'
        )


def _falsifier_problems(claim: Claim) -> Iterator[str]:
    if len(claim.falsifiers) < (1 if claim.relation is Relation.BOUND else 2):
        yield (
            "it needs at least two falsifiers (a bound one): wrong variants that the check must "
            "refute"
        )
    for falsifier in claim.falsifiers:
        if not isinstance(falsifier, Falsifier):  # pyright: ignore[reportUnnecessaryIsInstance]
            yield f"falsifiers holds {falsifier!r}: must be a jaxprompt.Falsifier"
        problem = falsifier.problem(claim.closed_form, tuple(p.name for p in claim.parameters))
        if problem:
            yield problem
    names = [f.name for f in claim.falsifiers]
    if len(set(names)) != len(names):
        yield "falsifiers need distinct names"


def _simulation_problems(claim: Claim) -> Iterator[str]:
    taken = _argument_names(claim.simulation)
    if taken is not None and "trials" not in taken:
        name = getattr(claim.simulation, "__name__", "experiment")
        yield (
            f"simulation = {name} is a function of one trial: wrap it, "
            f"simulation=jaxprompt.per_trial({name})"
        )


def _argument_names(function: Callable[..., Any]) -> list[str] | None:
    """Names of the arguments; None where any name is taken."""
    arguments = inspect.signature(function, follow_wrapped=False).parameters.values()
    if any(a.kind is inspect.Parameter.VAR_KEYWORD for a in arguments):
        named = [a.name for a in arguments]
        return named if "trials" in named else None
    return [a.name for a in arguments]


def _design_problems(claim: Claim) -> Iterator[str]:
    known = [p.name for p in (*claim.parameters, *claim.ignored)]
    if "quick" not in claim.designs:
        named = ", ".join(claim.designs) or "none"
        yield f'it has no design "quick" (designs: {named}): a check runs that one'
    for profile, design in claim.designs.items():
        if not isinstance(design, Design):  # pyright: ignore[reportUnnecessaryIsInstance]
            yield f"design {profile!r} is {design!r}: must be a jaxprompt.Design"
        if not design.runs and claim.measure is None:
            yield f"design {profile!r} has no run: a check would measure nothing"
        for run in design.runs:
            for name in run:
                if name not in known:
                    near = suggest(name, known, most=1)
                    yield f"design {profile!r} sets `{name}`, which is no parameter{near}"


def _compared_problems(claim: Claim) -> Iterator[str]:
    kinds = {p.name: p.kind for p in claim.parameters}
    for name, values in claim.compared.ranges.items():
        if name not in kinds:
            near = suggest(name, list(kinds), most=1)
            yield f"compared names `{name}`, which is none of its parameters{near}"
        elif kinds[name] != "choice" and (len(values) != 2 or not values[0] <= values[1]):
            yield f"compared gives `{name}` as {values!r}: must be its least and its largest number"


def _repeated_names(names: Iterable[str], what: str) -> Iterator[str]:
    names = list(names)
    for name in dict.fromkeys(names):
        if names.count(name) > 1:
            yield f"two {what} are called `{name}`: rename one of them"


def check_trial(claim: Claim, outputs: Mapping[str, Any], statistics: Mapping[str, Any]) -> None:
    """Refuse a trial whose numbers are not the declared quantities.

    `outputs` gives the shape and dtype of each number that a trial returns, `statistics` the names
    of the trial's numbers that each declared statistic is made of.

    Raises:
        ClaimError: a quantity is neither returned nor made, or a number is undeclared, complex, or
            of a shape that its quantity does not declare.
    """
    quantities = {q.name: q for q in claim.quantities}
    used = {name for names in statistics.values() for name in names}
    for name, output in outputs.items():
        if name not in quantities and name not in used:
            near = suggest(name, quantities, most=1)
            raise ClaimError(
                f"claim {claim.id}: a trial returns `{name}`, which is no quantity{near or ';'} "
                f"declare jaxprompt.Quantity({name!r}, …) or leave it out"
            )
        if np.issubdtype(output.dtype, np.complexfloating):
            raise ClaimError(
                f"claim {claim.id}: a trial's `{name}` is complex: return its real and imaginary "
                "part, or its absolute value, as numbers of their own"
            )
        axis = quantities[name].axis if name in quantities else ""
        if output.shape and name in quantities and not axis and claim.instance is None:
            raise ClaimError(
                f"claim {claim.id}: a trial's `{name}` has shape {tuple(output.shape)}: must be a "
                'scalar; average it, or name the axis that it runs along: Quantity(…, axis="x")'
            )
    for name in quantities:
        unmeasured = quantities[name].unmeasured
        if name not in outputs and name not in statistics and not unmeasured:
            near = suggest(name, [*outputs, *statistics], most=1)
            raise ClaimError(
                f"claim {claim.id}: no trial returns the quantity `{name}`{near or ';'} return it, "
                "or make it by a statistic"
            )
