"""The claim: a closed form, a simulation, and a calibrated comparison that can fail.

This module knows no family, no storage and no plots; families build :class:`Claim` objects from
their own functions, and everything else works on those.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import itertools
import math
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jaxprompt import stats
from jaxprompt.core.comparing import COMPARE
from jaxprompt.core.extras import Extra
from jaxprompt.core.figures import Agreement, Curves, ExtraLine, Regions, fill_curve_defaults
from jaxprompt.core.json_values import format_parameters, one_line, to_json_values
from jaxprompt.core.keys import as_key, fold_in_parameters
from jaxprompt.core.parameters import Parameter, check_parameters, is_traced
from jaxprompt.core.relation import Relation
from jaxprompt.core.verdict import Verdict
from jaxprompt.errors import JaxpromptError, NumericalError, ParameterError, suggest
from jaxprompt.stats import Comparison, Estimate, Status

__all__ = [
    "FALSE_ALARM",
    "MOST_TRIALS",
    "PROFILES",
    "Agreement",
    "Cell",
    "Claim",
    "Curves",
    "Design",
    "ExtraLine",
    "Falsifier",
    "Predictor",
    "Quantity",
    "Regions",
    "Relation",
    "Verdict",
    "expand",
]

FALSE_ALARM = 1e-3
"""Chance that a check refutes a true claim, shared over all its rows."""

PROFILES = ("quick", "full")
"""Amounts of work a check may do; `full` tightens every detectable discrepancy."""

MOST_TRIALS = 10_000_000
"""Trials one simulation may have; ``stats.combine`` joins what several keys give."""

Prediction = Mapping[str, Any]
Predictor = Callable[..., Prediction]


@dataclass(frozen=True)
class Quantity:
    """A named number that a claim predicts.

    `tolerance` is the discrepancy a check must be able to see before it may say *confirmed*:
    in the quantity's own units, or as a share of the prediction when `relative`. It does not
    depend on the parameters in `ignores`: cells that differ only there give one row. `infinite`
    says in words where the prediction is infinite; where it is empty an infinite value is an error.
    """

    name: str
    meaning: str
    tolerance: float = math.nan
    relative: bool = False
    symbol: str = ""
    ignores: tuple[str, ...] = ()
    infinite: str = ""

    def allowance(self, predicted: float) -> float:
        """The tolerance at a given prediction, in the quantity's units."""
        return self.tolerance * abs(predicted) if self.relative else self.tolerance


@dataclass(frozen=True)
class Falsifier:
    """A deliberately wrong variant of the prediction, which the check must refute.

    `predict` has the signature and the result of the claim's closed form.
    """

    name: str
    what: str
    predict: Predictor

    @classmethod
    def scaled(cls, name: str, closed_form: Predictor, factor: float) -> Falsifier:
        """The closed form with every number multiplied by `factor`."""

        @functools.wraps(closed_form)
        def predict(**params: Any) -> Prediction:
            return {n: factor * value for n, value in closed_form(**params).items()}

        return cls(name, f"every prediction multiplied by {factor:g}", predict)


@dataclass(frozen=True)
class Cell:
    """One parameter point of a check, with what was measured there."""

    parameters: Mapping[str, Any]
    estimates: Mapping[str, Estimate]


@dataclass(frozen=True)
class Design:
    """The parameter points a check visits.

    Each entry of `runs` is one call of the claim's simulation; parameters along which the
    simulation shares its work (:attr:`Claim.shared`) may be lists there, and their product gives
    the cells. `trials` is per cell; a run may carry its own under the key ``"trials"``.
    """

    runs: tuple[Mapping[str, Any], ...]
    trials: int

    @classmethod
    def product(
        cls, fixed: Mapping[str, Any], grid: Mapping[str, Sequence[Any]], trials: int
    ) -> Design:
        """All combinations of `grid`'s values, the last varying fastest, over `fixed`."""
        names = list(grid)
        points = itertools.product(*grid.values())
        return cls(tuple({**fixed, **dict(zip(names, p, strict=True))} for p in points), trials)


@dataclass(frozen=True)
class Claim:
    """One theoretical statement that can be checked by numbers.

    `closed_form` and `simulation` are plain functions of keyword parameters (the simulation also
    takes ``key`` and ``trials``). `validate` may refuse combinations of parameters and complete
    them. `shared` names the parameters along which one simulation serves a whole grid; given as
    arrays they form a product in that order, which is the shape of each estimate. `size` is the
    parameter that goes to infinity in an asymptotic claim, and `order` the highest power of its
    inverse in the extrapolation, less where there are fewer than `order` + 2 sizes.

    `measure` and `compare` replace the standard experiment (one simulation for each run of the
    design) and the standard comparison (by relation) where a statement needs its own. `extra` is
    the optional part of the installation without which the claim cannot be measured.
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
    accepted: tuple[Parameter, ...] = ()
    validate: Callable[[dict[str, Any], str], dict[str, Any]] | None = None
    shared: tuple[str, ...] = ()
    size: str = ""
    order: int = 1
    broadcasts: str = ""
    traceable: bool = False
    figure: Curves | Agreement | Regions | None = None
    measure: Callable[[Claim, str, jax.Array], Sequence[Cell]] | None = None
    compare: Callable[[Claim, Sequence[Cell], Predictor], Sequence[Comparison]] | None = None
    extra: Extra | None = None

    def __post_init__(self) -> None:
        family, _, stem = self.id.partition(".")
        if not family.isidentifier() or not stem.isidentifier():
            raise ValueError(f"claim id {self.id!r}: must be family.word_stem")
        if len(self.falsifiers) < 2:
            raise ValueError(f"claim {self.id}: needs at least two falsifiers")
        names = [f.name for f in self.falsifiers]
        if len(set(names)) != len(names):
            raise ValueError(f"claim {self.id}: falsifiers need distinct names")
        if self.relation is Relation.ASYMPTOTIC and not self.size and self.compare is None:
            raise ValueError(f"claim {self.id}: an asymptotic claim names its `size` parameter")
        if isinstance(self.figure, Curves):
            object.__setattr__(self, "figure", fill_curve_defaults(self, self.figure))
        if isinstance(self.figure, Agreement):
            known = [q.name for q in self.quantities]
            for name in self.figure.quantities:
                if name not in known:
                    raise ValueError(
                        f"claim {self.id}: the figure's quantity {name!r} must be one of "
                        f"{', '.join(known)}{suggest(name, known, most=1)}"
                    )

    @property
    def family(self) -> str:
        """The part of the id before the dot."""
        return self.id.partition(".")[0]

    @property
    def continues(self) -> bool:
        """Whether :meth:`simulate` can go on from trial `first`."""
        return "first" in inspect.signature(self.simulation, follow_wrapped=False).parameters

    def falsifier(self, name: str) -> Falsifier:
        """The falsifier called `name`; KeyError if there is none."""
        return {f.name: f for f in self.falsifiers}[name]

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
            "accepted": [p.name for p in self.accepted],
            "quantities": [
                {
                    "name": q.name,
                    "meaning": q.meaning + (f"; infinite {q.infinite}" if q.infinite else ""),
                    "symbol": q.symbol,
                    "tolerance": f"{q.tolerance:g}" + (" of the prediction" if q.relative else ""),
                }
                for q in self.quantities
            ],
            "falsifiers": [{"name": f.name, "what": f.what} for f in self.falsifiers],
            "figure": self.figure.title if self.figure else "",
            "extra": self.extra.name if self.extra else "",
        }

    def _repr_html_(self) -> str:
        from jaxprompt.presentation.statement_html import card

        return card(self.describe())

    def quantity(self, name: str) -> Quantity:
        """The quantity called `name`; KeyError if there is none."""
        return {q.name: q for q in self.quantities}[name]

    # --- the two sides ---------------------------------------------------------------------------

    def predict(self, **params: Any) -> dict[str, Any]:
        """Evaluate the closed form in float64; no model is sampled.

        Returns a dict from quantity name to a float, or to a float64 NumPy array when parameters
        were arrays (which ones may be is in :attr:`broadcasts`). Where :attr:`traceable` is set,
        the call also works on values traced by ``jax.jit`` or ``jax.vmap``, in their dtype.
        A number is finite, or infinite where the quantity says so (:attr:`Quantity.infinite`).

        Raises:
            ParameterError: a parameter is unknown, missing, or outside what is allowed.
            NumericalError: the closed form has no number there that float64 could hold.
        """
        values = self.validated(params)
        remedy = "choose less extreme parameters"
        try:
            with np.errstate(all="ignore"):  # what comes of it is looked at below
                found = self._evaluate(self.closed_form, values)
        except NumericalError:
            raise
        except (ArithmeticError, MemoryError, np.linalg.LinAlgError) as error:
            raise NumericalError(
                f"{self.id}: no prediction at {format_parameters(values)} ({one_line(error)}); {remedy}"
            ) from error
        wrong = [n for n, v in found.items() if not is_traced(v) and not self._holds(n, v)]
        if wrong:
            raise NumericalError(
                f"{self.id}: the prediction of `{wrong[0]}` at {format_parameters(values)} is "
                f"{_nonfinite_word(found[wrong[0]])}; {remedy}"
            )
        return found

    def _holds(self, name: str, value: Any) -> bool:
        """Whether a predicted value is a number, or infinite where it may be."""
        quantity = {q.name: q for q in self.quantities}.get(name.removesuffix("_stderr"))
        allowed = np.isfinite(value)
        if quantity is not None and quantity.infinite:
            allowed |= np.isposinf(value)
        return bool(np.all(allowed))

    def simulate(
        self, *, key: jax.Array | int, trials: int = 64, first: int = 0, **params: Any
    ) -> dict[str, Estimate]:
        """Measure the quantities on `trials` independent simulations.

        `key` is a JAX key or an integer seed. Trial `t` uses ``fold_in(key, t)``, so more trials
        keep the earlier ones. Parameters named in :attr:`shared` may be arrays. Where
        :attr:`continues` is set, `first` is the index of the first trial: ``stats.combine`` of
        what two ranges of trials give is, up to rounding, what both together give.

        Raises:
            ParameterError: a parameter is unknown, missing, or outside what is allowed.
            NumericalError: the simulation cannot be done there, or a mean or a standard error is
                not finite.
        """
        if not _is_whole(trials) or not 2 <= trials <= MOST_TRIALS:
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
        values = self.validated(params, simulate=True)
        more = {"first": int(first)} if first else {}
        try:
            with np.errstate(all="ignore"):  # what comes of it is looked at below
                found = self.simulation(key=as_key(key), trials=int(trials), **more, **values)
        except NumericalError:
            raise
        except (ArithmeticError, MemoryError, np.linalg.LinAlgError) as error:
            raise NumericalError(
                f"{self.id}: no simulation at {format_parameters(values)} ({one_line(error)}); "
                "choose less extreme parameters"
            ) from error
        for name, estimate in found.items():
            for part in (estimate.mean, estimate.stderr):
                if not np.isfinite(part).all():
                    raise NumericalError(
                        f"{self.id}: simulating `{name}` at {format_parameters(values)} gave {_nonfinite_word(part)}; "
                        "choose less extreme parameters"
                    )
        return found

    def validated(self, params: Mapping[str, Any], simulate: bool = False) -> dict[str, Any]:
        """`params` checked, converted and completed; with `simulate`, what a simulation needs.

        Raises:
            ParameterError: a parameter is unknown, missing, or outside what is allowed.
            MissingExtraError: the simulation needs a package that is not installed.
        """
        if simulate and self.extra:
            self.extra.require(self.id)
        values = check_parameters(
            self.parameters, params, where=self.id, accepted=self.accepted, simulate=simulate
        )
        if simulate:
            self._refuse_arrays(values)
        return self.validate(values, self.id) if self.validate else values

    def _refuse_arrays(self, values: Mapping[str, Any]) -> None:
        """A simulation takes arrays of numbers along :attr:`shared` parameters only."""
        kinds = {p.name: p.kind for p in (*self.accepted, *self.parameters)}
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

    def _evaluate(self, closed_form: Predictor, values: Mapping[str, Any]) -> dict[str, Any]:
        if any(is_traced(leaf) for leaf in jax.tree.leaves(list(values.values()))):
            if not self.traceable:
                raise JaxpromptError(
                    f"{self.id}: predict cannot run under jit or vmap; call it on numbers or arrays"
                )
            return dict(closed_form(**self._taken(closed_form, values)))
        with jax.enable_x64(True):
            found = closed_form(**self._taken(closed_form, values))
            return {name: _as_number(value) for name, value in found.items()}

    def _taken(self, closed_form: Predictor, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """`values` without those only a simulation needs, unless `closed_form` takes them."""
        if all(p.name not in values for p in self.parameters if p.simulate_only):
            return values
        taken = inspect.signature(closed_form).parameters
        if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in taken.values()):
            return values
        spare = {p.name for p in self.parameters if p.simulate_only and p.name not in taken}
        return {name: value for name, value in values.items() if name not in spare}

    # --- the comparison --------------------------------------------------------------------------

    def check(
        self,
        profile: str = "quick",
        key: jax.Array | int | None = None,
        *,
        progress: Callable[[int, int], None] | None = None,
    ) -> Verdict:
        """Measure, compare with the closed form, and judge.

        `key` is a JAX key or an integer seed; None stands for seed 0. `progress` is called with
        the number of runs done and of all runs. An exception inside the computation gives a
        verdict with status ``failed`` that carries the traceback.
        """
        return self._judge(profile, key, progress)

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
        return {
            f.name: dataclasses.replace(verdict, falsifier=f.name)
            if not verdict.cells
            else self._verdict(
                f.predict, verdict.cells, verdict.profile, verdict.seed, verdict.seconds, f.name
            )
            for f in self.falsifiers
        }

    def compared(
        self, cells: Sequence[Cell], closed_form: Predictor | None = None
    ) -> list[Comparison]:
        """What was measured beside what `closed_form` (default: the claim's own) predicts.

        Nothing is judged yet: :func:`jaxprompt.stats.decide` does that, at any false-alarm rate.
        """
        chosen = self.closed_form if closed_form is None else closed_form

        def predict(**params: Any) -> dict[str, Any]:
            return self._evaluate(chosen, self.validated(params))

        return list((self.compare or COMPARE[self.relation])(self, cells, predict))

    def _judge(self, profile: str, key: Any, progress: Any) -> Verdict:
        if profile not in self.designs:
            raise ParameterError(
                "profile",
                profile,
                " or ".join(self.designs),
                "choose one of those" + suggest(profile, self.designs),
                self.id,
            )
        if self.extra:
            self.extra.require(self.id)
        started = time.perf_counter()
        seed = 0 if key is None else key if isinstance(key, int) else None
        try:
            cells = tuple(self._measure(profile, as_key(0 if key is None else key), progress))
        except Exception as error:
            if _is_user_error(error):
                raise
            seconds = time.perf_counter() - started
            return self._failure(profile, seed, seconds, traceback.format_exc())
        seconds = time.perf_counter() - started
        return self._verdict(self.closed_form, cells, profile, seed, seconds)

    def _measure(self, profile: str, key: jax.Array, progress: Any) -> Iterator[Cell]:
        if self.measure is not None:
            yield from self.measure(self, profile, key)
            return
        yield from self.measure_design(self.designs[profile], key, progress)

    def measure_design(
        self, design: Design, key: jax.Array, progress: Callable[[int, int], None] | None = None
    ) -> Iterator[Cell]:
        """Simulate every run of a design, one after another, and split them into cells."""
        for done, run in enumerate(design.runs):
            if progress:
                progress(done, len(design.runs))
            params = {name: value for name, value in run.items() if name != "trials"}
            trials = run.get("trials", design.trials)
            run_key = fold_in_parameters(key, params, self.shared)
            estimates = self.simulate(key=run_key, trials=trials, **params)
            yield from expand(params, estimates, self.shared)
        if progress:
            progress(len(design.runs), len(design.runs))

    def _verdict(
        self,
        closed_form: Predictor,
        cells: Sequence[Cell],
        profile: str,
        seed: int | None,
        seconds: float,
        falsifier: str = "",
    ) -> Verdict:
        started = time.perf_counter()
        try:
            rows = stats.decide(self.compared(cells, closed_form), FALSE_ALARM)
        except Exception as error:
            if _is_user_error(error):
                raise
            return self._failure(profile, seed, seconds, traceback.format_exc(), falsifier)
        seconds += time.perf_counter() - started
        seen = [row for row in rows if math.isfinite(row.detectable)]
        # Exact rows see no less than their tolerance: they say nothing of what sampling can show.
        noisy = [row for row in seen if row.stderr or row.predicted_stderr]
        least = max(
            noisy or seen,
            key=lambda r: r.detectable / r.tolerance if r.tolerance else 0.0,
            default=None,
        )
        return Verdict(
            self.id,
            self.relation,
            stats.overall(row.verdict for row in rows),
            rows,
            0.0
            if all(row.stderr == 0 and row.predicted_stderr == 0 for row in rows)
            else FALSE_ALARM,
            least.detectable if least else math.nan,
            seconds,
            profile,
            seed,
            tuple(cells),
            falsifier=falsifier,
        )

    def _failure(
        self, profile: str, seed: int | None, seconds: float, error: str, falsifier: str = ""
    ) -> Verdict:
        return Verdict(
            self.id,
            self.relation,
            Status.FAILED,
            (),
            FALSE_ALARM,
            math.nan,
            seconds,
            profile,
            seed,
            error=error,
            falsifier=falsifier,
        )


# --- helpers ---


def _is_whole(value: object) -> bool:
    """Whether it is an integer, of Python or NumPy: who does not check types may bring anything."""
    return isinstance(value, int | np.integer)


def expand(
    params: Mapping[str, Any], estimates: Mapping[str, Estimate], shared: Sequence[str]
) -> Iterator[Cell]:
    """Split one run's estimates into a cell for each combination of its shared arrays."""
    axes = [name for name in shared if name in params and np.ndim(params[name]) == 1]
    values = [list(to_json_values(params[name])) for name in axes]
    for index in itertools.product(*(range(len(v)) for v in values)):
        point = {**params, **{n: v[i] for n, v, i in zip(axes, values, index, strict=True)}}
        yield Cell(
            to_json_values(point),
            {
                name: Estimate(
                    float(np.asarray(e.mean)[index]), float(np.asarray(e.stderr)[index]), e.trials
                )
                for name, e in estimates.items()
            },
        )


def _is_user_error(error: Exception) -> bool:
    """Whether a check was asked for wrongly; everything else is a failed computation."""
    return isinstance(error, JaxpromptError) and not isinstance(error, NumericalError)


def _nonfinite_word(value: Any) -> str:
    """A value that is not finite, in a word."""
    return "not a number" if np.isnan(value).any() else "infinite"


def _as_number(value: Any) -> Any:
    array = np.asarray(value)
    if array.dtype.kind in "iub":
        return array.item() if array.ndim == 0 else array
    array = array.astype(np.float64)
    return float(array) if array.ndim == 0 else array
