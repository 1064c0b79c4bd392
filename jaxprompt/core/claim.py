"""The claim: a closed form, a simulation, and a calibrated comparison that can fail.

This module knows no family, no storage and no plots; families build :class:`Claim` objects from
their own functions, and everything else works on those.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from jaxprompt.compute.jax_settings import own_settings
from jaxprompt.core.arguments import arguments_of
from jaxprompt.core.building import check_definition, check_trial
from jaxprompt.core.checking import FALSE_ALARM, check_claim, compare_measured, falsify_verdict
from jaxprompt.core.compared import Compared, describe_compared
from jaxprompt.core.designs import Cell, Design, Run
from jaxprompt.core.dry_run import DryRun, plan_check
from jaxprompt.core.extras import Extra
from jaxprompt.core.falsifiers import Falsifier, Prediction, Predictor
from jaxprompt.core.figures import (
    Agreement,
    Curves,
    Evidence,
    ExtraLine,
    Figure,
    Mark,
    Panel,
    Panels,
    Regions,
    complete_figure,
)
from jaxprompt.core.json_values import format_parameters, nonfinite_word, one_line
from jaxprompt.core.keys import as_key
from jaxprompt.core.memory import blocks_that_fit
from jaxprompt.core.parameters import (
    Parameter,
    complete_parameters,
    convert_parameters,
    is_traced,
)
from jaxprompt.core.points import Point
from jaxprompt.core.quantities import AtLeast, AtMost, Distribution, Quantity, Rate
from jaxprompt.core.relation import Relation
from jaxprompt.core.verdict import Verdict
from jaxprompt.errors import JaxpromptError, NumericalError, ParameterError
from jaxprompt.stats import Comparison, Estimate

__all__ = [
    "FALSE_ALARM",
    "MOST_TRIALS",
    "PROFILES",
    "Agreement",
    "AtLeast",
    "AtMost",
    "Cell",
    "Claim",
    "Compared",
    "Curves",
    "Design",
    "Distribution",
    "Evidence",
    "ExtraLine",
    "Falsifier",
    "Mark",
    "Panel",
    "Panels",
    "Prediction",
    "Predictor",
    "Quantity",
    "Rate",
    "Regions",
    "Relation",
    "Run",
    "Verdict",
]

PROFILES = ("quick", "full")
"""Amounts of work a check may do; `full` tightens every detectable discrepancy."""

MOST_TRIALS = 10_000_000
"""Trials one simulation may have; ``stats.combine`` joins what several keys give."""

STATEMENTS = (AtMost, AtLeast, Distribution, Rate)
"""Predictions that are more than a number; they are passed on as they are."""


@dataclass(frozen=True, repr=False)
class Claim:
    """One theoretical statement that can be checked by numbers.

    `closed_form` and `simulation` are plain functions of keyword parameters; the simulation, which
    :func:`jaxprompt.per_trial` makes from a function of one trial, also takes ``key`` and
    ``trials``. The closed form is called with the parameters that it names.

    `check_parameters` may refuse combinations of parameters and complete them; parameters in
    `ignored` are allowed and not used, so that one setting serves every claim of a family.
    `shared` names the parameters along which one simulation serves a whole grid; given as arrays
    they form a product in that order, which is the shape of each estimate.

    `size` is the parameter that grows in a limit or a rate, and `powers` the powers of its inverse
    by which the limit is approached, such as ``(1,)``, ``(1 / 2,)`` or ``("log",)``. Where they are
    not stated the power is found from the data, with what that leaves open.

    An identity or a bound that holds for every instance has a simulation with an `instance`
    (:func:`jaxprompt.per_trial`); the closed form then takes what it draws as further arguments.

    `also` adds rows to the standard comparison; `compare` replaces it and `measure` the standard
    experiment (one simulation for each run of the design), where a statement needs its own.
    `extra` is the optional part of the installation without which the claim cannot be measured.
    `cost` is ``"short"`` where a check takes about five processor seconds, and says else what
    makes it long (``"trained"``, ``"long"``): the command `check` begins with the short ones.
    `memory` estimates the bytes that a simulation of given parameters and trials holds.
    `compared` says where tests set the closed form beside an independent evaluation, and what a
    prediction is worth elsewhere; ``jaxprompt show`` prints it beside the points of the designs.
    """

    id: str
    title: str
    statement: str
    relation: Relation
    source: str
    parameters: tuple[Parameter, ...]
    quantities: tuple[Quantity, ...]
    falsifiers: tuple[Falsifier, ...]
    closed_form: Predictor
    simulation: Callable[..., dict[str, Estimate]]
    designs: Mapping[str, Design]
    derivation: str = ""
    ignored: tuple[Parameter, ...] = ()
    check_parameters: Callable[[dict[str, Any], str], dict[str, Any]] | None = None
    shared: tuple[str, ...] = ()
    size: str = ""
    powers: tuple[float | str, ...] | None = None
    broadcasts: str = ""
    traceable: bool = False
    figure: Figure | None = None
    also: Callable[[Claim, Sequence[Cell], Predictor], Sequence[Comparison]] | None = None
    measure: Callable[[Claim, str, jax.Array], Sequence[Cell]] | None = None
    compare: Callable[[Claim, Sequence[Cell], Predictor], Sequence[Comparison]] | None = None
    extra: Extra | None = None
    cost: str = ""
    memory: Callable[..., int] | None = None
    compared: Compared = field(default_factory=Compared)

    def __post_init__(self) -> None:
        for name in ("parameters", "quantities", "falsifiers", "ignored", "shared"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        check_definition(self)
        if self.figure is not None:
            object.__setattr__(self, "figure", complete_figure(self, self.figure))
        if not self._is_our_own():
            self.refuse_unfit_trial()

    def __repr__(self) -> str:
        return f"Claim({self.id!r}, {self.title!r})"

    def _is_our_own(self) -> bool:
        """Whether it is one of the package's claims, whose trials its tests look at."""
        home = getattr(self.closed_form, "__module__", "") or ""
        return home.startswith("jaxprompt.")

    @property
    def family(self) -> str:
        """The part of the id before the dot."""
        return self.id.partition(".")[0]

    @property
    def simulation_sets_up(self) -> bool:
        """Whether a set-up, which may train, runs before the trials of a point."""
        return getattr(self.simulation, "setup", None) is not None

    @property
    def continues(self) -> bool:
        """Whether :meth:`simulate` can go on from trial `first`."""
        taken = inspect.signature(self.simulation, follow_wrapped=False).parameters
        if any(a.kind is inspect.Parameter.VAR_KEYWORD for a in taken.values()):
            taken = {**taken, **inspect.signature(self.simulation).parameters}  # it passes all on
        return "first" in taken

    def falsifier(self, name: str) -> Falsifier:
        """The falsifier called `name`; KeyError if there is none."""
        return {f.name: f for f in self.falsifiers}[name]

    def quantity(self, name: str) -> Quantity:
        """The quantity called `name`; KeyError if there is none."""
        return {q.name: q for q in self.quantities}[name]

    def describe(self) -> dict[str, Any]:
        """Everything ``jaxprompt show`` tells, as plain lists, dicts, numbers and texts."""
        return {
            "id": self.id,
            "title": self.title,
            "statement": self.statement.strip(),
            "relation": self.relation.value,
            "source": self.source,
            "derivation": self.derivation.strip(),
            "broadcasts": self.broadcasts,
            "parameters": [p.describe() for p in self.parameters],
            "accepted": [p.name for p in self.ignored],
            "quantities": [
                {
                    "name": q.name,
                    "meaning": q.meaning + (f"; infinite {q.infinite}" if q.infinite else ""),
                    "symbol": q.symbol,
                    "tolerance": q.describe_tolerance(),
                }
                for q in self.quantities
            ],
            "falsifiers": [{"name": f.name, "what": f.description} for f in self.falsifiers],
            **describe_compared(self),
            "figure": self.figure.title if self.figure else "",
            "extra": self.extra.name if self.extra else "",
        }

    def refuse_unfit_trial(self) -> None:
        """Refuse a trial whose numbers are not the declared quantities, by their shapes alone.

        Nothing is computed. Simulations that are not made by ``per_trial`` are not looked into.

        Raises:
            ClaimError: the trial and the declared quantities do not fit together.
        """
        shapes = getattr(self.simulation, "output_shapes", None)
        runs = self.designs["quick"].runs
        if shapes is None or not runs or self.measure is not None or self.simulation_sets_up:
            return
        # Along shared parameters a trial returns an entry for each value: one value shows the rest.
        single = {n: v[0] if n in self.shared and np.ndim(v) else v for n, v in runs[0].items()}
        try:
            point = self.validated(single, simulate=True)
        except JaxpromptError:
            return  # the check refuses that point, with a better line
        with own_settings(x64=True):
            outputs = shapes(self.id, point)
        check_trial(self, outputs, getattr(self.simulation, "statistic_arguments", {}))

    @property
    def instance(self) -> Callable[..., Mapping[str, Any]] | None:
        """What draws the instances that both sides see; None where the sides see none."""
        return getattr(self.simulation, "instance", None)

    # --- the two sides ---

    def predict(self, point: Mapping[str, Any] | None = None, /, **params: Any) -> dict[str, Any]:
        """Evaluate the closed form in float64; no model is sampled.

        Parameters are given by name, or as one :meth:`point`, which is not validated again.
        Returns a dict from quantity name to a float, or to a float64 NumPy array when parameters
        were arrays (which ones may be is in :attr:`broadcasts`). A prediction with a standard
        error of its own has it under ``NAME_stderr``. Where :attr:`traceable` is set, the call
        also works on values traced by ``jax.jit`` or ``jax.vmap``, in their dtype. A number is
        finite, or infinite where the quantity says so (:attr:`Quantity.infinite`).

        Raises:
            ParameterError: a parameter is unknown, missing, or outside what is allowed.
            NumericalError: the closed form has no number there that float64 could hold.
        """
        given = _join_parameters(point, params)
        self._refuse_tracers(given, "predict", self.traceable)
        values = self.validated(given)
        remedy = "choose less extreme parameters"
        try:
            with np.errstate(all="ignore"):  # what comes of it is looked at below
                predicted = self.evaluate(self.closed_form, values)
        except NumericalError:
            raise
        except (ArithmeticError, MemoryError, np.linalg.LinAlgError) as error:
            where = format_parameters(values)
            raise NumericalError(
                f"{self.id}: no prediction at {where} ({one_line(error)}); {remedy}"
            ) from error
        for name, value in predicted.items():
            if not is_traced(value) and not self._is_allowed_value(name, value):
                raise NumericalError(
                    f"{self.id}: the prediction of `{name}` at {format_parameters(values)} is "
                    f"{nonfinite_word(value)}; {remedy}"
                )
        return predicted

    def _is_allowed_value(self, name: str, value: Any) -> bool:
        """Whether a predicted value is a number, or infinite where it may be."""
        if isinstance(value, Distribution):
            return True
        if isinstance(value, Rate):
            return bool(np.isfinite([value.exponent, value.log_power]).all())
        quantity = {q.name: q for q in self.quantities}.get(name.removesuffix("_stderr"))
        allowed = np.isfinite(value)
        if quantity is not None and quantity.infinite:
            allowed |= np.isposinf(value)
        return bool(np.all(allowed))

    def simulate(
        self,
        point: Mapping[str, Any] | None = None,
        /,
        *,
        key: jax.Array | int,
        trials: int = 64,
        first: int = 0,
        **params: Any,
    ) -> dict[str, Estimate]:
        """Measure the quantities on `trials` independent simulations.

        Parameters are given by name, or as one :meth:`point`, which is not validated again.
        `key` is a JAX key or an integer seed. Trial `t` uses ``fold_in(key, t)``, so more trials
        keep the earlier ones. Parameters named in :attr:`shared` may be arrays. Where
        :attr:`continues` is set, `first` is the index of the first trial: ``stats.combine`` of
        what two ranges of trials give is, up to rounding, what both together give.

        Raises:
            ParameterError: a parameter is unknown, missing, or outside what is allowed.
            UsageError: it cannot fit into memory, even one block of trials after another.
            NumericalError: the simulation cannot be done there, or a mean or a standard error is
                not finite.
        """
        given = _join_parameters(point, params)
        self._refuse_tracers({**given, "key": key}, "simulate", False)
        self._check_trials(trials, first)
        values = self.validated(given, simulate=True)
        more = {"first": int(first)} if first else {}
        try:
            with (
                np.errstate(all="ignore"),  # what comes of it is looked at below
                own_settings(),
                blocks_that_fit(self, values, int(trials)),
            ):
                estimates = self.simulation(key=as_key(key), trials=int(trials), **more, **values)
        except NumericalError:
            raise
        except (ArithmeticError, MemoryError, np.linalg.LinAlgError) as error:
            raise NumericalError(
                f"{self.id}: no simulation at {format_parameters(values)} ({one_line(error)}); "
                "choose less extreme parameters"
            ) from error
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            raise NumericalError(
                f"{self.id}: no simulation at {format_parameters(values)}, the memory is full "
                f"({one_line(error)}); choose a smaller size, or end other programs"
            ) from error
        for name, estimate in estimates.items():
            for number in (estimate.mean, estimate.stderr):
                if not np.isfinite(number).all():
                    where = format_parameters(values)
                    raise NumericalError(
                        f"{self.id}: simulating `{name}` at {where} gave {nonfinite_word(number)}; "
                        "choose less extreme parameters"
                    )
        declared = {q.name for q in self.quantities}
        unused = getattr(self.simulation, "statistic_arguments", {})
        inputs = {name for names in unused.values() for name in names} - declared
        order = [q.name for q in self.quantities]
        kept = [name for name in estimates if name not in inputs]
        kept.sort(key=lambda name: order.index(name) if name in order else len(order))
        return {name: estimates[name] for name in kept}

    def _check_trials(self, trials: Any, first: int) -> None:
        if not _is_integer(trials) or not 2 <= trials <= MOST_TRIALS:
            raise ParameterError(
                "trials",
                trials,
                f"an integer ≥ 2 and ≤ {MOST_TRIALS}",
                "a standard error needs two trials; combine several keys for more than that",
                self.id,
            )
        if first and not self.continues:
            raise ParameterError(
                "first", first, "0", "this simulation cannot go on where another stopped", self.id
            )

    def _refuse_tracers(self, params: Mapping[str, Any], what: str, traceable: bool) -> None:
        if not traceable and any(is_traced(x) for x in jax.tree.leaves(list(params.values()))):
            raise JaxpromptError(
                f"{self.id}: {what} cannot run under jit or vmap; call it on numbers or arrays"
            )

    def point(self, parameters: Mapping[str, Any] | None = None, /, **named: Any) -> Point:
        """Parameters, validated once: a frozen point, which both sides, keys and labels take.

        What a side needs beyond them is completed, or refused, when that side is first asked for.

        Raises:
            ParameterError: a parameter is unknown or outside what is allowed.
        """
        given = _join_parameters(parameters, named)
        if isinstance(given, Point) and given.claim_id == self.id:
            return given
        values = convert_parameters(self.parameters, given, where=self.id, accepted=self.ignored)
        return Point(self.id, given, values)

    def validated(self, params: Mapping[str, Any], simulate: bool = False) -> dict[str, Any]:
        """What the closed form takes at a point; with `simulate`, what the simulation takes.

        `params` is a point, or parameters of which one is made: checked, converted, completed.

        Raises:
            ParameterError: a parameter is unknown, missing, or outside what is allowed.
            MissingExtraError: the simulation needs a package that is not installed.
        """
        if simulate and self.extra:
            self.extra.require(self.id)
        complete = functools.partial(self._complete_values, simulate=simulate)
        return self.point(params).completed(simulate, complete)

    def _complete_values(self, converted: dict[str, Any], *, simulate: bool) -> dict[str, Any]:
        values = complete_parameters(self.parameters, converted, where=self.id, simulate=simulate)
        if simulate:
            self._refuse_arrays(values)
        return self.check_parameters(values, self.id) if self.check_parameters else values

    def _refuse_arrays(self, values: Mapping[str, Any]) -> None:
        """A simulation takes arrays of numbers along :attr:`shared` parameters only."""
        kinds = {p.name: p.kind for p in (*self.ignored, *self.parameters)}
        for name, value in values.items():
            if kinds[name] in ("integer", "real") and np.ndim(value) > (name in self.shared):
                along = f"; only {', '.join(self.shared)} may be a list" if self.shared else ""
                raise ParameterError(
                    name,
                    value,
                    "one number to simulate",
                    f"simulate its values one by one{along}",
                    self.id,
                )

    def evaluate(self, closed_form: Predictor, values: Mapping[str, Any]) -> dict[str, Any]:
        """A closed form (the claim's own, or a falsifier's) at validated parameters, in float64.

        Raises:
            NumericalError: it returns a complex number, or no dict.
        """
        arguments = arguments_of(closed_form, values)
        if any(is_traced(leaf) for leaf in jax.tree.leaves(list(values.values()))):
            return dict(closed_form(**arguments))
        with own_settings(x64=True):
            predicted = closed_form(**arguments)
            if not isinstance(predicted, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise NumericalError(
                    f"{self.id}: the closed form returned {type(predicted).__name__}: must be a "
                    "dict from quantity name to a number; return one"
                )
            numbers: dict[str, Any] = {}
            for name, value in predicted.items():
                if isinstance(value, Estimate):
                    numbers[name] = self._as_number(name, value.mean)
                    numbers[f"{name}_stderr"] = self._as_number(name, value.stderr)
                else:
                    numbers[name] = self._as_number(name, value)
            return numbers

    def _as_number(self, name: str, value: Any) -> Any:
        if isinstance(value, STATEMENTS):
            return value
        array = np.asarray(value)
        if array.dtype.kind == "c":
            raise NumericalError(
                f"{self.id}: the closed form of `{name}` is complex: return its real and imaginary "
                "part as numbers of their own"
            )
        if array.dtype.kind in "iub":
            return array.item() if array.ndim == 0 else array
        array = array.astype(np.float64)
        return float(array) if array.ndim == 0 else array

    # --- the comparison ---

    def check(
        self,
        profile: str = "quick",
        key: jax.Array | int | None = None,
        *,
        trials: int | None = None,
        point: Mapping[str, Any] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Verdict:
        """Measure, compare with the closed form, and judge.

        `key` is a JAX key or an integer seed; None stands for seed 0. `trials` replaces the
        design's number of trials, and `point` keeps only its runs with those parameters.
        `progress` is called with the number of runs done and of all runs. An exception inside the
        computation gives a verdict with status ``failed`` that carries the traceback.

        Raises:
            ParameterError: there is no such profile, or no such point.
            UsageError: a run of the design cannot fit into memory.
        """
        return check_claim(self, profile, key, trials, point, progress)

    def dry_run(
        self,
        profile: str = "quick",
        trials: int | None = None,
        point: Mapping[str, Any] | None = None,
    ) -> DryRun:
        """What :meth:`check` would measure and predict; nothing is simulated.

        A point at which the closed form has no number has a note in place of the prediction.

        Raises:
            ParameterError: there is no such profile, or no such point.
        """
        return plan_check(self, profile, trials, point)

    def falsify(
        self,
        profile: str = "quick",
        key: jax.Array | int | None = None,
        *,
        progress: Callable[[int, int], None] | None = None,
    ) -> dict[str, Verdict]:
        """Measure once and judge every falsifier against it; each should be refuted."""
        return self.falsify_cells(self.check(profile, key, progress=progress))

    def falsify_cells(self, verdict: Verdict) -> dict[str, Verdict]:
        """Judge every falsifier against what `verdict`'s check measured."""
        return falsify_verdict(self, verdict)

    def comparisons(
        self, cells: Sequence[Cell], closed_form: Predictor | Falsifier | None = None
    ) -> list[Comparison]:
        """What was measured beside what `closed_form` (default: the claim's own) predicts.

        Nothing is judged yet: :func:`jaxprompt.stats.decide` does that, at any false-alarm rate.
        """
        if isinstance(closed_form, Falsifier):
            closed_form = closed_form.predictor(self.closed_form)
        return compare_measured(self, cells, closed_form or self.closed_form)

    def measure_design(
        self, design: Design, key: jax.Array, progress: Callable[[int, int], None] | None = None
    ) -> Iterator[Cell]:
        """Simulate every run of a design, one after another, and split them into cells."""
        from jaxprompt.core.checking import measure_runs

        return measure_runs(self, design, key, progress)


def _join_parameters(
    point: Mapping[str, Any] | None, named: Mapping[str, Any]
) -> Mapping[str, Any]:
    """A point, or parameters given by name; names given beside a point replace its own."""
    if point is None:
        return named
    return {**point, **named} if named else point


def _is_integer(value: object) -> bool:
    """Whether it is an integer, of Python or NumPy, and no truth value."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)
