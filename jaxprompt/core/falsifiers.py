"""Deliberately wrong variants of a prediction, which a check must refute."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from jaxprompt.errors import suggest

__all__ = ["Falsifier", "Prediction", "Predictor"]

Prediction = Mapping[str, Any]
Predictor = Callable[..., Prediction]
Change = Callable[[Mapping[str, Any], Mapping[str, Any]], Mapping[str, Any]]


class Falsifier:
    """A deliberately wrong variant of the prediction, with a name and a description in words.

    Three ways to write one, all with the claim's own parameters:

    * named changes: ``Falsifier("no_mixture", "drops Var a", mixture_variance=0.0)`` evaluates the
      closed form with that argument, which the theory has at its default;
    * a closed form of its own: ``Falsifier("unbiased", "n − 1 for n", wrong_form)``;
    * what the right numbers become: ``Falsifier.after("late", "doubles them", change)``, where
      ``change(predicted, parameters)`` gets the right dict and returns the wrong one.

    A theorem whose prediction may be far off by nature, such as a loose bound, may have a control
    instead: ``Falsifier.control("dependent", "terms that are not independent", simulation)``
    measures what breaks the theorem's hypothesis, against the right prediction.
    """

    def __init__(
        self, name: str, description: str, predict: Predictor | None = None, /, **changes: Any
    ) -> None:
        if predict is None and not changes:
            raise ValueError(
                f"falsifier {name!r} changes nothing: name an argument of the closed form with its "
                "wrong value, or give a closed form of its own"
            )
        if predict is not None and changes:
            raise ValueError(
                f"falsifier {name!r} has both a closed form of its own and changes "
                f"({', '.join(changes)}): keep one of them"
            )
        self.name = name
        self.description = description
        self.changes: Mapping[str, Any] = dict(changes)
        self.simulation: Callable[..., Any] | None = None
        self._own_form = predict
        self._made: tuple[Predictor, Predictor] | None = None
        self._change: Callable[[Mapping[str, Any], Mapping[str, Any]], Mapping[str, Any]] | None = (
            None
        )

    def __repr__(self) -> str:
        return f"Falsifier({self.name!r}, {self.description!r})"

    @property
    def what(self) -> str:
        """The description, by its name of 0.1."""
        return self.description

    @classmethod
    def after(
        cls,
        name: str,
        description: str,
        change: Change,
    ) -> Falsifier:
        """What ``change(predicted, parameters)`` makes of the right prediction."""
        made = cls(name, description, change)
        made._own_form, made._change = None, change
        return made

    @classmethod
    def control(cls, name: str, description: str, simulation: Callable[..., Any]) -> Falsifier:
        """The right prediction, measured by `simulation` where the theorem's hypothesis fails.

        `simulation` takes the claim's parameters and is made as the claim's own one is
        (:func:`jaxprompt.per_trial`). Judging it simulates the whole design again.
        """
        made = cls(name, description, simulation)
        made._own_form, made.simulation = None, simulation
        return made

    @classmethod
    def scaled(cls, name: str, closed_form: Predictor, factor: float) -> Falsifier:
        """The closed form with every number multiplied by `factor`."""

        @functools.wraps(closed_form)
        def predict(**params: Any) -> Mapping[str, Any]:
            return {n: factor * value for n, value in closed_form(**params).items()}

        return cls(name, f"every prediction multiplied by {factor:g}", predict)

    def predictor(self, closed_form: Predictor) -> Predictor:
        """The wrong closed form, made from the right one; the same object at every call."""
        if self._made is None or self._made[0] is not closed_form:
            self._made = (closed_form, self._make_predictor(closed_form))
        return self._made[1]

    def _make_predictor(self, closed_form: Predictor) -> Predictor:
        if self.simulation is not None:
            return closed_form
        if self._own_form is not None:
            return self._own_form
        change = self._change
        if change is not None:

            @functools.wraps(closed_form)
            def changed(**params: Any) -> Mapping[str, Any]:
                return change(closed_form(**params), params)

            return changed
        changes = self.changes

        @functools.wraps(closed_form)
        def with_changes(**params: Any) -> Mapping[str, Any]:
            # A change may name a parameter of the claim too, in place of the point's own value.
            return closed_form(**{**params, **changes})

        return with_changes

    def problem(self, closed_form: Predictor, parameters: tuple[str, ...]) -> str:
        """Why this falsifier cannot change that closed form; empty if it can."""
        arguments = inspect.signature(closed_form).parameters
        open_ended = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in arguments.values())
        for name in self.changes:
            if name in parameters:
                continue
            if name not in arguments and not open_ended:
                near = suggest(name, [n for n in arguments if n not in parameters], most=1)
                return (
                    f"falsifier {self.name!r} changes `{name}`, which the closed form lacks{near}"
                )
            if name in arguments and arguments[name].default is inspect.Parameter.empty:
                return (
                    f"falsifier {self.name!r} changes `{name}`, which has no default: the theory's "
                    "own value is the default"
                )
        return ""
