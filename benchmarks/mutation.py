"""Mutation of the theory: every constant and term of each closed form changed, one at a time.

    python benchmarks/mutation.py [--claims ID ...] [--most 60] [--out FILE]
                                  [--elsewhere | --tests | --table]

The source of a claim's closed form, and of every function of the package that it calls, is parsed;
each place below gives one or two mutants, and each mutant is a prediction to be refuted by the
claim's own check (profile quick, seed 0; some with fewer runs, :data:`DESIGNS`), whose
measurements are made once.

=============  ===================================================================================
constant       a number times 1.05; an int only where it is an operand, an argument of arithmetic
               or a returned value, a 0 becomes 0.05, and float constants of the module too
sign           a + b becomes a - b, a - b becomes a + b, and -a becomes a
dropped        a + b and a - b become a, or b (with its sign)
factor         a * b and a / b times 1.03, once for a whole product
exponent       x ** p becomes x ** (1.05 p); square(x) becomes |x| ** 2.1, sqrt(x) x ** 0.525
comparison     a < b becomes a >= b (and the like); maximum and minimum are exchanged
=============  ===================================================================================

Left out are docstrings, annotations, errors, subscripts, shapes, axes, types and counts. From more
than ``--most`` places, evenly spaced ones are taken, in the order of the source. A mutant is

* a *convention* when the place is a number that the statement sets by definition and no theory
  gives (:data:`CONVENTIONS`, each with its reason), whatever the check says: it is not counted;
* *equivalent* when no row's prediction moves by more than 1e-12 of itself, or when it turns the
  sign of a variable of symmetric law (:data:`SYMMETRIC`): it is not counted;
* *weaker* when it only moves bounds to where the claim implies them (an upper bound raised);
* *crashed* when it raises, gives a number that is not finite, or does not end within some minutes;
* *negligible* when the check does not refute it and it moves no row by more than a hundredth of
  that row's tolerance: less than anyone would mind, and than any check of this kind can see;
* *refuted* or *survived* by the verdict of the check.

The share refuted is of those refuted or survived: a crash is a refusal, but no measurement's
doing. Survivors are listed with how far the worst row's difference moved, in units of that row's
tolerance; beyond 1 a check should have seen it. A function that several claims call need not show
in each: ``--elsewhere`` sets survivors before the checks of up to two other claims that call it,
and *by any check* counts those that one of them refutes. What is left can be set before the fast
unit tests of its module and claim (``--tests``).
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import copy
import functools
import inspect
import json
import math
import multiprocessing
import textwrap
import types
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import installed
import numpy as np
import records

import jaxprompt as jp
from jaxprompt import stats
from jaxprompt.core.calibration import reduced
from jaxprompt.core.claim import FALSE_ALARM, Cell, Claim
from jaxprompt.stats import Comparison, Status

MOST = 60
DEAR = {
    "contextual.best_ridge": 40, "contextual.conditional_error": 24, "contextual.context_gain": 40,
    "contextual.convex_head": 40, "contextual.prompt_error": 30, "contextual.separation": 24,
    "contextual.training": 30, "universal.circle_error": 30,
}  # fmt: skip
"""At most so many mutants of claims whose predictions take seconds to compile or to evaluate."""

DESIGNS: dict[str, dict[str, Any]] = {
    "contextual.image_context": {"runs": (0, 1, 2, 4, 5), "changes": {"steps": 100}},
    "prefix.bias_identity": {"options": {"draws": 500}},
    "prefix.pattern_invariance": {"options": {"draws": 500}},
    "prefix.real_transformer": {"changes": {"steps": 16, "examples": 128}},
}
"""What :func:`~jaxprompt.core.calibration.reduced` makes of the quick design, where every mutant
would be compared with thousands of draws, or training takes long: fewer of them, shorter ones."""

CONVENTIONS = {
    ("contextual.image_context", "ATTENTION"): "by how much attention is to rise",
    ("contextual.image_context", "BEST_GAIN"): "how much the best prompt is to save",
    ("contextual.image_context", "GAIN"): "by how much accuracy is to rise",
    ("contextual.image_context", "ISOTROPIC"): "how much too high counts as wrong",
    ("contextual.image_context", "LEAD"): "by how much fine-tuning is to be ahead",
    ("contextual.image_context", "OTHERS"): "how far off the curve counts as wrong",
    ("contextual.image_context", "SMALL_LEAD"): "by how much prompts are to be ahead",
    ("contextual.image_context", "WITHIN"): "how near counts as right",
    ("contextual.training", "0.0"): "*not behind* is a lead of at least 0",
    ("prefix.new_task_limit", "LEARNS"): "from what accuracy a task counts as learned",
    ("prefix.new_task_limit", "FAILS"): "up to what accuracy it counts as not learned",
    ("prefix.new_task_limit", "RELAXED"): "how many nats are *far above*",
    ("prefix.no_forgetting", "LEARNS"): "from what accuracy a task counts as kept",
    ("prefix.no_forgetting", "FAILS"): "up to what accuracy it counts as lost",
    ("prefix.skill_combination", "LEARNS"): "from what gain a task counts as learned",
    ("prefix.skill_combination", "FAILS"): "up to what gain it counts as not learned",
    (
        "prefix.skill_combination",
        "0.0",
    ): "gains are counted from a constant answer, whose gain is 0",
    ("prefix.skill_selection", "LEARNS"): "from what accuracy a task counts as selected",
    ("prefix.real_transformer", "CHANGE"): "from what size on a log-ratio counts as changed",
}
"""Numbers that a statement sets by definition, by claim and place, and what they define.

Trained models keep such limits with room, so another number makes another statement, which is true
of them as well; there is no number that would be right."""

SYMMETRIC = {
    (
        "contextual.claims.three_steps._first_heads",
        "mean[:2] + moved",
    ): "moved is Gaussian with mean 0",
    (
        "contextual.claims.three_steps._prompts",
        "moments.mean + moved",
    ): "moved is Gaussian with mean 0",
    (
        "contextual.law.third_step._step_of_chunk",
        "mean + np.einsum('mij,mj->mi', root, nodes)",
    ): "moved is Gaussian with mean 0",
}
"""Sums with a variable of symmetric law that is independent of all else, by function and place:
with the other sign what is predicted is the same, and only its quadrature's error is another."""

NEGLIGIBLE = 0.01
"""Share of a row's tolerance that nobody would mind."""

PATIENCE = 300.0
"""Seconds after which a mutant that says nothing is given up, on a machine that has other work."""

NOT_THEORY = ("core", "errors", "compute", "stats", "contextual.setting", "contextual.parameters",
              "contextual.simulation.gradient_steps", "prefix.training.experiments",
              "prefix.training.adaptation", "prefix.training.tasks",
              "networks.transformer")  # fmt: skip
"""Modules that check, draw, compare or train, and hold no formula."""

METHODS = (
    "contextual.law.attention_moments.normal_nodes",
    "contextual.law.attention_moments._points",
    "contextual.law.maximise.golden_section",
    "contextual.law.ridge_limit._refined",
    "contextual.law.ridge_limit._ridge_range",
    "contextual.law.ridge_limit.refined_optimum",
    "contextual.law.feature_law.FeatureLaw.thinned",
    "contextual.law.convex_limit._solve",
    "contextual.law.convex_limit._followed_solution",
    "contextual.law.convex_limit._graded_rule",
    "contextual.law.convex_limit._trapezoid",
    "contextual.law.least_error._descend",
    "contextual.law.least_error._starts",
    "contextual.law.prompt_step_moments.laguerre_nodes",
    "contextual.claims.three_steps._quadrature",
    "universal.numerics.kernel_averages.kernel_quadrature",
    "universal.numerics.kernel_averages._legendre",
    "universal.numerics.bessel._bound_start",
    "universal.numerics.bessel._series_start",
)
"""Nodes, searches, iterations and their starts: a change moves the accuracy, not the theory."""


# --- the functions behind a closed form ---


def unwrapped(item: Any) -> Any:
    """The plain function inside partials, jitted functions and caches."""
    while not isinstance(item, types.FunctionType):
        if isinstance(item, functools.partial):
            item = item.func
        elif hasattr(item, "__wrapped__"):
            item = item.__wrapped__
        elif hasattr(item, "fun"):  # custom derivatives
            item = item.fun
        else:
            return None
    return inspect.unwrap(item)


@dataclass
class Theory:
    """Functions that a closed form reaches, whom each calls, and the callables around them."""

    functions: dict[str, types.FunctionType] = field(default_factory=dict)
    calls: dict[str, set[str]] = field(default_factory=dict)
    wrappers: dict[str, list[Any]] = field(default_factory=dict)

    def above(self, name: str) -> set[str]:
        """The functions that reach `name`, itself included."""
        found, todo = {name}, [name]
        while todo:
            called = todo.pop()
            for caller, callees in self.calls.items():
                if called in callees and caller not in found:
                    found.add(caller)
                    todo.append(caller)
        return found

    def forget(self, name: str) -> None:
        """Empty what was compiled from, or computed by, the functions that reach `name`."""
        for above in self.above(name):
            for wrapper in self.wrappers[above]:
                for empty in ("cache_clear", "clear_cache"):
                    if hasattr(wrapper, empty):
                        getattr(wrapper, empty)()


def theory(closed_form: Any) -> Theory:
    """Everything of the package that `closed_form` calls, by name, but for :data:`NOT_THEORY`."""
    found, todo = Theory(), [closed_form]
    while todo:
        item = todo.pop()
        function = unwrapped(item)
        if function is None or not is_theory(function.__module__):
            continue
        name = label(function)
        if name in METHODS:
            continue
        layers = wrappers(item)
        if name in found.functions:
            found.wrappers[name] += [
                w for w in layers if all(w is not x for x in found.wrappers[name])
            ]
            continue
        found.functions[name], found.wrappers[name] = function, layers
        called = [x for x in referenced(function) if unwrapped(x) is not None]
        found.calls[name] = {label(unwrapped(x)) for x in called}
        todo += called
    return found


def wrappers(item: Any) -> list[Any]:
    """The callables around a plain function, outermost first."""
    found = []
    while item is not None and not isinstance(item, types.FunctionType):
        found.append(item)
        item = getattr(item, "func", None) or getattr(item, "__wrapped__", None)
    while hasattr(item, "__wrapped__"):
        found.append(item)
        item = item.__wrapped__
    return found


def label(function: types.FunctionType) -> str:
    return f"{function.__module__.removeprefix('jaxprompt.')}.{function.__qualname__}"


def is_theory(module: str) -> bool:
    name = module.removeprefix("jaxprompt.")
    practice = any(name == p or name.startswith(f"{p}.") for p in NOT_THEORY)
    return module.startswith("jaxprompt.") and not practice


def referenced(function: types.FunctionType) -> Iterator[Any]:
    """Callables that the function's source names: globals, members of modules, class members."""
    space = function.__globals__
    for node in ast.walk(tree(function)):
        item = None
        if isinstance(node, ast.Name):
            item = space.get(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            home = space.get(node.value.id)
            if isinstance(home, types.ModuleType) and home.__name__.startswith("jaxprompt"):
                item = getattr(home, node.attr, None)
        if isinstance(item, Mapping):
            yield from (x for x in item.values() if callable(x))
        elif isinstance(item, type) and is_theory(item.__module__):
            yield from (getattr(x, "__func__", x) for x in vars(item).values() if methodlike(x))
        elif callable(item):
            yield item


def methodlike(item: Any) -> bool:
    function = getattr(item, "__func__", item)
    return isinstance(function, types.FunctionType) and is_theory(function.__module__)


@functools.cache
def tree(function: types.FunctionType) -> ast.FunctionDef:
    """The function's source, without docstring, decorators and annotations."""
    source = textwrap.dedent(inspect.getsource(function))
    root = ast.parse(source).body[0]
    if not isinstance(root, ast.FunctionDef):  # a lambda: found with the text around it
        return ast.FunctionDef("none", ast.arguments([], [], None, [], [], None, []), [ast.Pass()],
                               [], type_params=[])  # fmt: skip
    root.decorator_list, root.returns = [], None
    for node in ast.walk(root):
        if isinstance(node, ast.arg):
            node.annotation = None
        elif isinstance(node, ast.FunctionDef):
            node.returns = None
    return root


# --- mutants ---


@dataclass(frozen=True)
class Mutant:
    """One change at one place: `make` gives the changed tree, or the module's changed constant."""

    function: str
    line: int
    kind: str
    text: str
    make: Callable[[], ast.FunctionDef] | None = None
    constant: tuple[dict[str, Any], str, float] | None = None


def mutants(found: Theory) -> list[Mutant]:
    """Every mutant of every function, in the order of the source; constants of modules last."""
    everything = []
    for name, function in sorted(found.functions.items()):
        everything += sorted(of_function(name, function), key=lambda m: m.line)
    return everything + list(of_constants(found))


def evenly(items: Sequence[Any], most: int) -> list[Any]:
    """At most `most` of the items, evenly spaced."""
    if len(items) <= most:
        return list(items)
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


def of_function(name: str, function: types.FunctionType) -> Iterator[Mutant]:
    root, first = tree(function), function.__code__.co_firstlineno
    for path, node, numeric, inner in places(root):
        for kind, new in changes(node, numeric, inner):
            text = f"{ast.unparse(node)} → {ast.unparse(new)}"
            make = functools.partial(replaced, root, path, new)
            yield Mutant(name, first + node.lineno - 1, kind, text, make)


def of_constants(found: Theory) -> Iterator[Mutant]:
    seen = set()
    for name, function in sorted(found.functions.items()):
        space = function.__globals__
        for node in ast.walk(tree(function)):
            if not isinstance(node, ast.Name) or not isinstance(space.get(node.id), float):
                continue
            place = (space["__name__"], node.id)
            if place not in seen:
                seen.add(place)
                value = space[node.id]
                text = f"{node.id} = {value:g} → {1.05 * value:g}"
                yield Mutant(name, 0, "constant", text, constant=(space, node.id, 1.05 * value))


Path_ = tuple[tuple[str, int | None], ...]


def places(
    node: ast.AST, path: Path_ = (), numeric: bool = False, inner: bool = False
) -> Iterator[Any]:
    """Nodes that may be changed, with the way to them, whether an int there is a number, and
    whether the node is a factor of a larger product."""
    yield path, node, numeric, inner
    product = isinstance(node, ast.BinOp) and isinstance(node.op, PRODUCTS)
    for name, value in ast.iter_fields(node):
        if left_out(node, name):
            continue
        children = value if isinstance(value, list) else [value]
        for index, child in enumerate(children):
            if isinstance(child, ast.expr | ast.stmt | ast.keyword | ast.arguments) and not (
                is_text(child)
            ):
                step = (name, index if isinstance(value, list) else None)
                yield from places(child, (*path, step), counts(node, name, numeric), product)


def left_out(node: ast.AST, name: str) -> bool:
    """Whether a field holds no theory: errors, tests of membership, shapes, places, types."""
    if isinstance(node, ast.Raise | ast.Assert | ast.JoinedStr | ast.Global | ast.Import):
        return True
    if isinstance(node, ast.Subscript):
        return name == "slice"
    if isinstance(node, ast.keyword):
        return node.arg in SETTINGS
    if isinstance(node, ast.If) and name == "body":
        return all(isinstance(x, ast.Raise) for x in node.body)
    if isinstance(node, ast.If) and name == "test":
        return all(isinstance(x, ast.Raise) for x in node.body)
    if isinstance(node, ast.For) and name == "iter":
        return True
    return isinstance(node, ast.Call) and called(node) in ("isinstance", "range", "einsum")


def counts(node: ast.AST, name: str, before: bool) -> bool:
    """Whether an int in this field is a number of the theory."""
    if isinstance(node, ast.BinOp | ast.Return | ast.Dict):
        return True
    if isinstance(node, ast.UnaryOp | ast.IfExp):
        return before
    return isinstance(node, ast.Call) and called(node) in (
        "maximum",
        "minimum",
        "where",
        "max",
        "min",
    )


def is_text(node: ast.AST) -> bool:
    docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    return docstring or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def called(node: ast.Call) -> str:
    return getattr(node.func, "attr", getattr(node.func, "id", ""))


FLIPPED = {
    ast.Lt: ast.GtE, ast.LtE: ast.Gt, ast.Gt: ast.LtE, ast.GtE: ast.Lt, ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
}  # fmt: skip
SETTINGS = {
    "axis", "shape", "dtype", "ndmin", "length", "num", "keepdims", "order", "batch_size", "xtol",
    "xatol", "options", "epsabs", "epsrel", "limit",
}  # fmt: skip
"""Keyword arguments that are shapes, types or accuracies."""

PRODUCTS = (ast.Mult, ast.Div, ast.MatMult)
EXCHANGED = {"maximum": "minimum", "minimum": "maximum", "max": "min", "min": "max"}


def changes(node: ast.AST, numeric: bool, inner: bool) -> Iterator[tuple[str, ast.expr]]:
    """The changes that the rules make of one node."""
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        if isinstance(node.value, float) or numeric:
            yield "constant", ast.Constant(1.05 * node.value if node.value else 0.05)
    elif isinstance(node, ast.BinOp) and not is_list(node):
        yield from of_operation(node, inner)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        if not isinstance(node.operand, ast.Constant):
            yield "sign", node.operand
    elif isinstance(node, ast.Compare) and type(node.ops[0]) in FLIPPED and len(node.ops) == 1:
        yield "comparison", ast.Compare(node.left, [FLIPPED[type(node.ops[0])]()], node.comparators)
    elif isinstance(node, ast.Call):
        yield from of_call(node)


def is_list(node: ast.BinOp) -> bool:
    """Whether the operation joins sequences."""
    return any(isinstance(x, ast.List | ast.Tuple | ast.JoinedStr | ast.Dict) or is_text(x)
               for x in (node.left, node.right))  # fmt: skip


def of_operation(node: ast.BinOp, inner: bool) -> Iterator[tuple[str, ast.expr]]:
    if isinstance(node.op, ast.Add):
        yield "sign", ast.BinOp(node.left, ast.Sub(), node.right)
        yield "dropped", node.left
        yield "dropped", node.right
    elif isinstance(node.op, ast.Sub):
        yield "sign", ast.BinOp(node.left, ast.Add(), node.right)
        yield "dropped", node.left
        yield "dropped", ast.UnaryOp(ast.USub(), node.right)
    elif isinstance(node.op, PRODUCTS) and not inner:
        yield "factor", ast.BinOp(node, ast.Mult(), ast.Constant(1.03))
    elif isinstance(node.op, ast.Pow) and not isinstance(node.right, ast.Constant):
        yield "exponent", power(node.left, ast.BinOp(ast.Constant(1.05), ast.Mult(), node.right))
    # A constant exponent is changed as a constant.


def of_call(node: ast.Call) -> Iterator[tuple[str, ast.expr]]:
    name = called(node)
    if name == "square" and len(node.args) == 1:
        size = ast.Call(ast.Name("abs", ast.Load()), node.args, [])
        yield "exponent", power(size, ast.Constant(2.1))
    elif name == "sqrt" and len(node.args) == 1:
        yield "exponent", power(node.args[0], ast.Constant(0.525))
    elif name in EXCHANGED and len(node.args) == 2:
        function = copy.deepcopy(node.func)
        if isinstance(function, ast.Attribute):
            function.attr = EXCHANGED[name]
        elif isinstance(function, ast.Name):
            function.id = EXCHANGED[name]
        yield "comparison", ast.Call(function, node.args, node.keywords)


def power(base: ast.expr, exponent: ast.expr) -> ast.expr:
    return ast.BinOp(base, ast.Pow(), exponent)


def replaced(root: ast.FunctionDef, path: Path_, new: ast.expr) -> ast.FunctionDef:
    """A copy of the tree with another node at the end of the path."""
    whole = copy.deepcopy(root)
    node: Any = whole
    for name, index in path[:-1]:
        node = getattr(node, name) if index is None else getattr(node, name)[index]
    name, index = path[-1]
    if index is None:
        setattr(node, name, copy.deepcopy(new))
    else:
        getattr(node, name)[index] = copy.deepcopy(new)
    return ast.fix_missing_locations(whole)


@contextlib.contextmanager
def applied(found: Theory, mutant: Mutant) -> Iterator[None]:
    """The package with one mutant in place of what it was made from."""
    function = found.functions[mutant.function]
    users = [mutant.function]
    before = function.__code__, function.__defaults__, function.__kwdefaults__
    if mutant.constant:
        space, name, value = mutant.constant
        users = [n for n, f in found.functions.items() if f.__globals__ is space]
        kept, space[name] = space[name], value
    else:
        assert mutant.make is not None
        scope: dict[str, Any] = {}
        tree = ast.Module([mutant.make()], [])
        exec(compile(tree, f"<mutant of {mutant.function}>", "exec"), function.__globals__, scope)
        made = next(iter(scope.values()))
        function.__code__, function.__defaults__, function.__kwdefaults__ = (
            made.__code__, made.__defaults__, made.__kwdefaults__,
        )  # fmt: skip
    for user in users:
        found.forget(user)
    try:
        yield
    finally:
        function.__code__, function.__defaults__, function.__kwdefaults__ = before
        if mutant.constant:
            space[name] = kept
        for user in users:
            found.forget(user)


# --- what becomes of them ---


@dataclass(frozen=True)
class Fate:
    """What became of one mutant, and how far it moved the worst row, in units of its tolerance."""

    function: str
    line: int
    kind: str
    text: str
    fate: str
    moved: float = math.nan
    error: str = ""


def fates(claim: Claim, cells: Sequence[Cell], most: int = MOST, first: int = 0) -> Iterator[Fate]:
    """The fate of every mutant of a claim, against what its check measured."""
    found = theory(claim.closed_form)
    right = claim.comparisons(cells)
    for mutant in evenly(mutants(found), most)[first:]:
        yield fate_of(mutant, found, claim, cells, right)


def fate_of(
    mutant: Mutant, found: Theory, claim: Claim, cells: Sequence[Cell], right: Sequence[Comparison]
) -> Fate:
    """What the check makes of one mutant; `right` are its rows without one."""
    place = place_of(mutant)
    try:
        with applied(found, mutant), warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            wrong = claim.comparisons(cells)
            status = stats.combine_statuses(row.verdict for row in stats.decide(wrong, FALSE_ALARM))
    except Exception as error:  # whatever a wrong formula runs into
        return Fate(*place, "crashed", error=f"{type(error).__name__}: {error}"[:200])
    if len(wrong) != len(right) or status is Status.FAILED:
        return Fate(*place, "crashed", error=f"{len(wrong)} rows, {status}")
    if all(map(equal, right, wrong)):
        return Fate(*place, "equivalent", 0.0)
    fate = "survived"
    if status is Status.REFUTED:
        fate = "refuted"
    elif all(map(implied, right, wrong)):
        fate = "weaker"
    return Fate(*place, fate, max(map(shift, right, wrong)))


def place_of(item: Mutant | Fate) -> tuple[str, int, str, str]:
    """What tells one mutant from all others."""
    return item.function, item.line, item.kind, item.text


def equal(right: Comparison, wrong: Comparison) -> bool:
    """Whether a row's prediction moved by no more than 1e-12 of itself."""
    pairs = ((right.predicted, wrong.predicted), (right.simulated, wrong.simulated))
    return all(abs(a - b) <= 1e-12 * max(abs(a), abs(b)) for a, b in pairs)


def implied(right: Comparison, wrong: Comparison) -> bool:
    """Whether a row asserts no more than it did: unmoved, or a bound that came to be easier."""
    return equal(right, wrong) or (right.side != "two" and wrong.excess <= right.excess)


def shift(right: Comparison, wrong: Comparison) -> float:
    """How far the difference of prediction and measurement moved, in tolerances."""
    moved = abs((wrong.simulated - wrong.predicted) - (right.simulated - right.predicted))
    if right.tolerance:
        return moved / right.tolerance
    return math.inf if moved else 0.0


# --- the run: one worker, which is replaced when a mutant hangs ---


def cap(id: str, most: int) -> int:
    """How many mutants of a claim are tried."""
    return min(most, DEAR.get(id, most))


def work(jobs: Sequence[tuple[str, int]], most: int, pipe: Any) -> None:
    for id, first in jobs:
        claim = reduced(jp.claim(id), **DESIGNS.get(id, {}))
        cells = claim.check("quick", 0).cells
        pipe.send((id, None))
        for fate in fates(claim, cells, cap(id, most), first):
            pipe.send((id, fate))
        pipe.send((id, "done"))
    pipe.send((None, None))


def run(ids: Sequence[str], most: int, path: Path) -> None:
    """Every mutant that the file does not hold, each as a line of its own."""
    known = read(path, most)
    left = {id: len(known.get(id, [])) for id in ids}
    left = {id: n for id, n in left.items() if n < total(id, most)}
    context = multiprocessing.get_context("spawn")
    while left:
        ours, theirs = context.Pipe(duplex=False)
        worker = context.Process(target=work, args=(list(left.items()), most, theirs), daemon=True)
        worker.start()
        theirs.close()
        current = next(iter(left))
        measuring = True
        while left:
            # Measuring takes as long as the check does.
            if not ours.poll(None if measuring else PATIENCE):
                worker.kill()
                tried = cap(current, most)
                skipped = evenly(mutants(theory(jp.claim(current).closed_form)), tried)[
                    left[current]
                ]
                hung = Fate(skipped.function, skipped.line, skipped.kind, skipped.text, "crashed",
                            error="did not end")  # fmt: skip
                left[current] += 1
                keep(path, current, most, hung)
                break
            id, found = ours.recv()
            if id is None:
                break
            current, measuring = id, found == "done"
            if found == "done":
                del left[id]
            elif found is not None:
                left[id] += 1
                keep(path, id, most, found)
        worker.join(1)


def run_elsewhere(ids: Sequence[str], most: int, path: Path) -> None:
    """Set survivors before the checks of the other claims that call the same function."""
    theories = {c.id: theory(c.closed_form) for c in jp.claims() if c.extra is None}
    measured: dict[str, tuple[Claim, Sequence[Cell], Sequence[Comparison]]] = {}
    known = read_elsewhere(path)
    for id, each in read(path, most).items():
        for fate in each if id in ids else ():
            if kind_of(id, fate) != "survived" or (id, *place_of(fate)) in known:
                continue
            for judge in judges(id, fate.function, theories):
                if judge not in measured:
                    claim = reduced(jp.claim(judge), **DESIGNS.get(judge, {}))
                    cells = claim.check("quick", 0).cells
                    measured[judge] = claim, cells, claim.comparisons(cells)
                found = theories[judge]
                same = [m for m in mutants(found) if place_of(m) == place_of(fate)]
                verdict = fate_of(same[0], found, *measured[judge]).fate if same else "absent"
                place = dict(zip(PLACE, place_of(fate), strict=True))
                row = {"id": id, **place, "judge": judge, "verdict": verdict}
                records.append(path, row)
                if verdict == "refuted":
                    break


def run_tests(ids: Sequence[str], most: int, path: Path) -> None:
    """Set survivors that no check refutes before the fast tests of their module and their claim."""
    known = read_elsewhere(path)
    # A child for each run: what one mutant compiled or remembered must not reach the next. It is
    # forked before anything is computed, so that it need not import the package again.
    context = multiprocessing.get_context("fork")
    for id, each in read(path, most).items():
        left = [x for x in each if kind_of(id, x) == "survived"] if id in ids else []
        for fate in left:
            if known.get((id, *place_of(fate))):
                continue
            for file in tests_of(id, fate.function):
                child = context.Process(target=tested, args=(id, place_of(fate), file))
                child.start()
                child.join()
                if child.exitcode not in (0, 1):
                    raise RuntimeError(f"{file}: pytest ended with {child.exitcode}")
                verdict = "refuted" if child.exitcode else "survived"
                place = dict(zip(PLACE, place_of(fate), strict=True))
                judge = str(file.relative_to(TESTS.parent))
                records.append(path, {"id": id, **place, "judge": judge, "verdict": verdict})
                if verdict == "refuted":
                    break


def tested(id: str, place: tuple[str, int, str, str], file: Path) -> None:
    """Run a file's fast tests under one mutant; the exit status is pytest's."""
    import pytest

    found = theory(jp.claim(id).closed_form)
    mutant = next(m for m in mutants(found) if place_of(m) == place)
    options = ["-q", "-x", "-p", "no:cacheprovider", "--assert=plain", "-m", "not slow"]
    with applied(found, mutant):
        raise SystemExit(int(pytest.main([*options, str(file)])))


TESTS = Path(__file__).parents[1] / "tests"


def tests_of(id: str, function: str) -> list[Path]:
    """The test files of a function's module and of a claim, where there are such."""
    family, module = function.split(".")[:2]
    files = [TESTS / family / f"test_{name}.py" for name in (module, id.split(".")[1])]
    return [file for file in dict.fromkeys(files) if file.exists()]


PLACE = ("function", "line", "kind", "text")


def judges(id: str, function: str, theories: Mapping[str, Theory]) -> list[str]:
    """Other claims that reach a function, the one it belongs to first."""
    found = [c for c, theory in theories.items() if c != id and function in theory.functions]
    return sorted(found, key=lambda c: (not function.startswith(f"{c}."), c))[:2]


def read_elsewhere(path: Path) -> dict[tuple[Any, ...], str]:
    """For each survivor that was set before other checks and tests: what refuted it, or nothing."""
    found: dict[tuple[Any, ...], str] = {}
    for row in records.read(path):
        if "judge" in row:
            place = (row["id"], *(row[name] for name in PLACE))
            found[place] = row["judge"] if row["verdict"] == "refuted" else found.get(place, "")
    return found


def total(id: str, most: int) -> int:
    return len(evenly(mutants(theory(jp.claim(id).closed_form)), cap(id, most)))


def keep(path: Path, id: str, most: int, fate: Fate) -> None:
    """Write one fate as one line."""
    records.append(path, {"id": id, **settings(id, most), **vars(fate)})


def settings(id: str, most: int) -> dict[str, Any]:
    """What decides a claim's mutants and what they are set beside, as JSON gives it back."""
    design = DESIGNS.get(id)
    own = {"design": json.loads(json.dumps(design))} if design else {}
    return {"most": cap(id, most), **own}


def read(path: Path, most: int) -> dict[str, list[Fate]]:
    """Fates by claim."""
    found: dict[str, list[Fate]] = {}
    for row in records.read(path):
        if "judge" in row:
            continue
        id = row.pop("id")
        made = {name: row.pop(name) for name in ("most", "design") if name in row}
        if made == settings(id, most):
            found.setdefault(id, []).append(Fate(**row))
    return found


def table(found: Mapping[str, Sequence[Fate]], elsewhere: Mapping[tuple[Any, ...], str]) -> str:
    """Counts for each claim, in Markdown, and every survivor."""
    kinds = ("convention", "equivalent", "weaker", "negligible", "crashed", "refuted", "survived")
    more = ("beyond tolerance", "other checks", "tests")
    heads = ("claim", "mutants", *kinds, *more, "share refuted", "by any check")
    lines = [f"| {' | '.join(heads)} |", "| --- " * len(heads) + "|"]
    for id, each in sorted(found.items()):
        count = {kind: sum(kind_of(id, x) == kind for x in each) for kind in kinds}
        left = [x for x in each if kind_of(id, x) == "survived"]
        beyond = sum(x.moved > 1 for x in left)
        by = [elsewhere.get((id, *place_of(x)), "") for x in left]
        tests = sum(judge.startswith("tests") for judge in by)
        others = sum(map(bool, by)) - tests
        judged = count["refuted"] + count["survived"]
        shares = [
            f"{100 * hits / judged:.0f} %" if judged else "–"
            for hits in (count["refuted"], count["refuted"] + others)
        ]
        cells = (f"`{id}`", len(each), *count.values(), beyond, others, tests, *shares)
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def kind_of(id: str, fate: Fate) -> str:
    """The fate, with conventions, symmetries and survivors that move next to nothing set apart."""
    place = fate.text.split(" → ")[0].split(" = ")[0]
    family, _, stem = id.partition(".")
    if (
        fate.function.startswith(f"{family}.claims.{stem}.")
        and fate.kind == "constant"
        and (id, place) in CONVENTIONS
    ):
        return "convention"
    if fate.kind == "sign" and (fate.function, place) in SYMMETRIC:
        return "equivalent"
    return "negligible" if fate.fate == "survived" and fate.moved <= NEGLIGIBLE else fate.fate


def survivors(
    found: Mapping[str, Sequence[Fate]], elsewhere: Mapping[tuple[Any, ...], str]
) -> Iterable[str]:
    """Every survivor, how far it moved the worst row, and whose check refutes it."""
    for id, each in sorted(found.items()):
        for x in each:
            if kind_of(id, x) == "survived":
                other = elsewhere.get((id, *place_of(x)))
                end = f"; refuted by {other}" if other else ""
                yield f"{id}: {x.function}:{x.line} {x.kind}: {x.text} (moved {x.moved:.2g}{end})"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--claims", nargs="*", metavar="ID")
    parser.add_argument("--most", type=int, default=MOST, help="mutants of one claim")
    parser.add_argument("--out", type=Path, default=Path("mutation.jsonl"))
    parser.add_argument("--elsewhere", action="store_true",
                        help="set survivors before other claims' checks")  # fmt: skip
    parser.add_argument("--tests", action="store_true",
                        help="set what no check refutes before the unit tests")  # fmt: skip
    parser.add_argument("--table", action="store_true", help="print what the file holds")
    args = parser.parse_args()
    ids = args.claims or [c.id for c in jp.claims()]
    if args.elsewhere:
        run_elsewhere(ids, args.most, args.out)
    elif args.tests:
        run_tests(ids, args.most, args.out)
    elif not args.table:
        run(installed.measurable(ids), args.most, args.out)
    found = {id: each for id, each in read(args.out, args.most).items() if id in ids}
    elsewhere = read_elsewhere(args.out)
    print(table(found, elsewhere))
    print("\n".join(survivors(found, elsewhere)))


if __name__ == "__main__":
    main()
