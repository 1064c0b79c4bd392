"""How often a check errs: its verdict, and its falsifiers', under many independent seeds.

A check states the chance that it refutes a true claim. That is a statement about the whole of it
(standard errors, degrees of freedom, fits, the rule that shares the rate among rows), and is
tested here by repetition:

>>> from jaxprompt.calibration import calibrate, reduced
>>> found = calibrate(reduced(claim, trials=0.1), range(200))  # doctest: +SKIP
>>> found.refuted, found.falsifiers["half"]  # doctest: +SKIP
(0 of 200 (0 to 1.8 %), 200 of 200 (98.2 to 100 %))
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxprompt import stats
from jaxprompt.core.claim import FALSE_ALARM, Claim, Design, Falsifier, Predictor, Run
from jaxprompt.errors import ParameterError
from jaxprompt.stats import Status

__all__ = ["LOOSE", "Calibration", "Outcome", "Share", "calibrate", "check_under_seeds", "reduced"]

LOOSE = 0.05
"""A second false-alarm rate at which every check is judged.

At the usual 0.001 a few hundred seeds tell little: none refuted is expected, and what was seen
where the true rate is 0.01 as well. At 0.05 standard errors that are a fifth too small show.
"""


class Share(NamedTuple):
    """A count out of a number of seeds, with its exact 95 % interval (Clopper and Pearson)."""

    hits: int
    of: int
    low: float
    high: float

    @classmethod
    def made(cls, hits: int, of: int) -> Share:
        """The share with its interval, which is all of [0, 1] for no seed."""
        low, high = stats.binomial_interval(hits, of) if of else (0.0, 1.0)
        return cls(hits, of, low, high)

    @property
    def value(self) -> float:
        """The share itself; NaN for no seed."""
        return self.hits / self.of if self.of else float("nan")

    def __str__(self) -> str:
        return f"{self.hits} of {self.of} ({100 * self.low:.3g} to {100 * self.high:.3g} %)"

    __repr__ = __str__


@dataclass(frozen=True)
class Outcome:
    """What the check of one claim under one seed found.

    `loose` is the status at the false-alarm rate :data:`LOOSE`, from the same measurements;
    `falsifiers` the status of each falsifier, from those too. `seconds` is processor time.
    """

    seed: int
    status: Status
    loose: Status
    falsifiers: Mapping[str, Status]
    seconds: float
    error: str = ""


@dataclass(frozen=True)
class Calibration:
    """Outcomes of one claim's check under many seeds, and the shares of them."""

    id: str
    outcomes: tuple[Outcome, ...]

    @property
    def refuted(self) -> Share:
        """Seeds under which the claim was refuted: the size of its test, to be at most 0.001."""
        return self._share(lambda o: o.status is Status.REFUTED)

    @property
    def inconclusive(self) -> Share:
        """Seeds under which a row could not have told, or a fit was inadequate."""
        return self._share(lambda o: o.status is Status.INCONCLUSIVE)

    @property
    def failed(self) -> Share:
        """Seeds under which the computation failed."""
        return self._share(lambda o: o.status is Status.FAILED)

    @property
    def unconfirmed(self) -> Share:
        """Seeds under which the claim was anything but confirmed."""
        return self._share(lambda o: o.status is not Status.CONFIRMED)

    @property
    def loose(self) -> Share:
        """Seeds that refute the claim at the rate :data:`LOOSE`, to be at most that."""
        return self._share(lambda o: o.loose is Status.REFUTED)

    @property
    def falsifiers(self) -> dict[str, Share]:
        """For each falsifier, the seeds under which it was refuted."""
        names = list(dict.fromkeys(name for o in self.outcomes for name in o.falsifiers))

        def of(name: str) -> Share:
            return self._share(lambda o: o.falsifiers.get(name) is Status.REFUTED)

        return {name: of(name) for name in names}

    @property
    def sound(self) -> bool:
        """Whether no share contradicts its stated rate, and nothing failed."""
        within = self.refuted.low <= FALSE_ALARM and self.loose.low <= LOOSE
        return within and not self.failed.hits

    def _share(self, counts: Callable[[Outcome], bool]) -> Share:
        return Share.made(sum(map(counts, self.outcomes)), len(self.outcomes))


def reduced(
    claim: Claim,
    *,
    trials: float = 1.0,
    least: int = 8,
    runs: Sequence[int] | None = None,
    changes: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    profile: str = "quick",
) -> Claim:
    """The claim with a smaller design at `profile`: the same experiment, at less cost.

    `trials` multiplies every number of trials, which stays at `least` or above (and is never
    raised); `runs` are the places of the runs that are kept, by default all. `changes` are
    parameters that every run kept takes in place of its own or of the default: fewer training
    steps, shorter inputs, fewer grid points. `options` are keyword arguments for the claim's own
    experiment (:attr:`~jaxprompt.core.claim.Claim.measure`), where it has one that takes them.

    Raises:
        ParameterError: `trials` is not in (0, 1], `least` below 2, a place does not exist, the
            claim has no parameter of a name in `changes`, or no experiment that takes `options`.
    """
    if not 0 < trials <= 1:
        raise ParameterError("trials", trials, "in (0, 1]", "give a share of them", claim.id)
    if least < 2:
        raise ParameterError("least", least, "≥ 2", "a standard error needs two trials", claim.id)
    design = claim.designs[profile]
    places = range(len(design.runs)) if runs is None else runs
    for index in places:
        if not -len(design.runs) <= index < len(design.runs):
            raise ParameterError(
                "runs", index, f"below {len(design.runs)}", "name runs of the design", claim.id
            )

    changes, options = dict(changes or {}), dict(options or {})
    known = [p.name for p in (*claim.ignored, *claim.parameters)]
    for name in changes:
        if name not in known:
            allowed = f"one of {', '.join(known)}"
            raise ParameterError("changes", name, allowed, "name a parameter", claim.id)
    measure = claim.measure
    taken = [] if measure is None else list(inspect.signature(measure).parameters)[3:]
    for name in options:
        if name not in taken:
            allowed = f"one of {', '.join(taken)}" if taken else "nothing"
            raise ParameterError("options", name, allowed, "see its `measure`", claim.id)
    if measure is not None and options:
        measure = functools.partial(measure, **options)

    def fewer(count: int) -> int:
        return min(count, max(least, round(trials * count)))

    kept = [
        Run({**run, **changes}, trials=fewer(design.trials_of(run)))
        for run in (design.runs[index] for index in places)
    ]
    smaller = {
        **claim.designs,
        profile: Design(
            *kept, trials=fewer(design.trials), partial=design.partial or runs is not None
        ),
    }
    return dataclasses.replace(claim, designs=smaller, measure=measure)


def check_under_seeds(
    claim: Claim, seeds: Iterable[int], *, profile: str = "quick"
) -> Iterator[Outcome]:
    """The outcome of each seed, one after another; each seed's measurements serve all falsifiers.

    Closed forms do not depend on the seed, so each is evaluated once at each point.
    """
    kept = dataclasses.replace(
        claim,
        closed_form=_remember_predictions(claim.closed_form),
        falsifiers=tuple(
            # A control measures anew under every seed; there is no prediction of it to remember.
            f
            if f.simulation is not None
            else Falsifier(
                f.name, f.description, _remember_predictions(f.predictor(claim.closed_form))
            )
            for f in claim.falsifiers
        ),
    )
    for seed in seeds:
        started = time.process_time()
        verdict = kept.check(profile, int(seed))
        wrong = {name: judged.status for name, judged in kept.falsify_cells(verdict).items()}
        loose = verdict.status
        if verdict.rows:
            rows = stats.decide(kept.comparisons(verdict.cells), LOOSE)
            loose = stats.combine_statuses(row.verdict for row in rows)
        seconds = time.process_time() - started
        yield Outcome(int(seed), verdict.status, loose, wrong, seconds, verdict.error)


def calibrate(
    claim: Claim, seeds: int | Iterable[int] = 200, *, profile: str = "quick"
) -> Calibration:
    """Check `claim` under every seed (a number stands for 0, 1, …), and collect what was found.

    The check is that of `profile`; :func:`reduced` makes it cheaper.

    Raises:
        ParameterError: there is no such profile, or a parameter of the design is refused.
    """
    each = range(seeds) if isinstance(seeds, int) else seeds
    return Calibration(claim.id, tuple(check_under_seeds(claim, each, profile=profile)))


def _remember_predictions(closed_form: Predictor) -> Predictor:
    """`closed_form`, evaluated once for equal parameters; those with arrays are not kept."""
    known: dict[str, Any] = {}

    @functools.wraps(closed_form)
    def predict(**params: Any) -> Any:
        if any(
            isinstance(x, np.ndarray | jax.Array) for x in jax.tree.leaves(list(params.values()))
        ):
            return closed_form(**params)
        name = repr(sorted(params.items()))
        if name not in known:
            known[name] = closed_form(**params)
        return dict(known[name])

    return predict
