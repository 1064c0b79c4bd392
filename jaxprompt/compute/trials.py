"""A claim's simulation from a function of one trial."""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, overload

import jax
import jax.numpy as jnp
import numpy as np

from jaxprompt.compute.cells import (
    Structure,
    cells_share_programs,
    loop_over_rows,
    map_cells,
    structure_of,
)
from jaxprompt.compute.compiler_flags import thorough_options
from jaxprompt.compute.devices import (
    FAST_COMPILATION,
    compile_block,
    map_rows_bit_stable,
    map_trials,
)
from jaxprompt.compute.jax_settings import own_settings
from jaxprompt.compute.operations import Operations, count_operations, operations_of
from jaxprompt.compute.threefry import unrolled
from jaxprompt.errors import ClaimError, JaxpromptError
from jaxprompt.stats import Estimate, exact_estimate, jackknife, sample_estimate

__all__ = ["TrialSimulation", "paired", "per_trial", "trajectory"]

Trial = Callable[..., Mapping[str, Any]]
Dtype = Literal["float32", "float64"]

COMPILED_PROGRAMS = 256
"""Programs that one simulation keeps: one for each combination of parameters that are shapes."""

_SHORT_TRIAL = 1e5
"""Additions of a trial below which compiling costs more than running, up to some 10⁵ trials."""

_SETUP_STREAM = np.uint32(2**32 - 2)
"""Index of the key that a set-up draws from; no trial has it."""

_DRAWN = "drawn: "
"""Mark of what an instance drew, among the names of what a trial returns."""

_LAPACK = (
    "cholesky", "eig", "eigh", "geqrf", "hessenberg", "householder_product", "lu", "qr", "schur",
    "svd", "triangular_solve", "tridiagonal", "tridiagonal_solve",
)  # fmt: skip
"""Primitives that JAX hands to LAPACK on the CPU."""


_BATCHED_LAPACK = threading.Lock()
"""Held by the one program with batched factorisations that runs in this process."""


class _Program:
    """The trials of one point as a compiled block of :func:`map_trials`.

    On a CPU two batched LAPACK calls at work at the same time wait for each other for ever
    (jaxlib 0.10). So a batch of trials that factorise runs one trial after another, and a trial
    that itself factorises batches runs on one thread, alone in this process.
    """

    def __init__(self, one: Callable[..., dict[str, jax.Array]], batch: int) -> None:
        self._one = one
        self._batch = batch
        self._facts: dict[Any, _TrialFacts] = {}
        self._blocks: dict[Any, Callable[..., dict[str, jax.Array]]] = {}
        self._cell_blocks: dict[Structure, Callable[..., Any]] = {}

    def block(
        self, key: jax.Array, free: dict[str, Any]
    ) -> functools.partial[dict[str, jax.Array]]:
        """The compiled trials, at a key and traced parameters: a function of their indices."""

        def trials(
            indices: jax.Array, key: jax.Array, free: dict[str, Any]
        ) -> dict[str, jax.Array]:
            return map_rows_bit_stable(lambda row: self._run_batch(row, key, free), indices)

        options = self._one_trial(key, free).compiler_options
        chosen = tuple(options.items())
        if chosen not in self._blocks:
            self._blocks[chosen] = compile_block(trials, options)
        return functools.partial(self._blocks[chosen], key=key, free=free)

    def _run_batch(
        self, indices: jax.Array, key: jax.Array, free: dict[str, Any]
    ) -> dict[str, jax.Array]:
        """What a batch of trials returns, in arrays (batch, …)."""
        if self._one_trial(key, free).takes_unrolled_key:
            key = unrolled(key)

        def trial(index: jax.Array) -> dict[str, jax.Array]:
            return self._one(index, key, free)

        if self._batch == 1:
            # Even over one row `vmap` calls batched LAPACK.
            return jax.tree.map(lambda x: x[None], trial(indices[0]))
        if any(_lapack_ranks(jax.make_jaxpr(trial)(indices[0]).jaxpr)):
            return jax.lax.map(trial, indices)
        return jax.vmap(trial)(indices)

    def cell_block(
        self, structure: Structure, key: jax.Array, free: dict[str, Any]
    ) -> Callable[..., Any]:
        """The program of :func:`map_cells` for cells of one structure of (key words, `free`).

        `key` and `free` are those of one of the cells.
        """

        def run(indices: jax.Array, cell: tuple[jax.Array, dict[str, Any]]) -> Any:
            words, free = cell
            key = jax.random.wrap_key_data(words, impl="threefry2x32")
            return self._run_batch(indices, key, free)

        if structure not in self._cell_blocks:
            options = self._one_trial(key, free).compiler_options
            self._cell_blocks[structure] = loop_over_rows(run, structure, options)
        return self._cell_blocks[structure]

    def must_run_alone(self, key: jax.Array, free: dict[str, Any]) -> bool:
        """Whether a trial factorises batches of matrices, on a CPU."""
        return self._one_trial(key, free).must_run_alone

    def _one_trial(self, key: jax.Array, free: dict[str, Any]) -> _TrialFacts:
        """What is known of one trial from its trace, for each set of shapes."""
        shapes = jax.tree.structure(free), tuple(map(np.shape, jax.tree.leaves(free)))
        if shapes not in self._facts:
            jaxpr = self._traced_with_unrolled_key(key, free)
            takes_unrolled = jaxpr is not None
            if jaxpr is None:
                jaxpr = jax.make_jaxpr(self._one)(np.uint32(0), key, free).jaxpr
            on_cpu = jax.default_backend() == "cpu"
            short = on_cpu and operations_of(jaxpr).arithmetic < _SHORT_TRIAL
            alone = on_cpu and any(rank > 2 for rank in _lapack_ranks(jaxpr))
            options = thorough_options() if on_cpu else {}
            options |= FAST_COMPILATION if short else {}
            self._facts[shapes] = _TrialFacts(alone, options, takes_unrolled)
        return self._facts[shapes]

    def _traced_with_unrolled_key(self, key: jax.Array, free: dict[str, Any]) -> Any:
        """One trial traced with such a key; None where it needs a key of JAX's own.

        Poisson laws and programs that join keys refuse another one; gamma laws would be slow.
        """
        try:
            jaxpr = jax.make_jaxpr(self._one)(np.uint32(0), unrolled(key), free).jaxpr
        except Exception:  # whatever it is: a fault of the trial shows again with JAX's own key
            return None
        return None if any(e.primitive.name == "random_gamma" for e in _equations(jaxpr)) else jaxpr


class _TrialFacts(NamedTuple):
    """Whether a trial factorises batches of matrices on a CPU, how its program is compiled, and
    whether its key is unrolled.

    All depend on one trial alone, so that the number of trials changes no bit.
    """

    must_run_alone: bool
    compiler_options: dict[str, Any]
    takes_unrolled_key: bool


class TrialSimulation:
    """What :func:`per_trial` makes: ``simulation(*, key, trials, first=0, **parameters)``."""

    def __init__(
        self,
        trial: Trial,
        *,
        traced: Sequence[str] = (),
        batch: int = 1,
        dtype: Dtype = "float64",
        setup: Callable[..., Mapping[str, Any]] | None = None,
        instance: Callable[..., Mapping[str, Any]] | None = None,
        statistics: Mapping[str, Callable[..., Any]] | None = None,
        draws: bool | None = None,
    ) -> None:
        if batch < 1:
            raise ValueError(f"batch = {batch}: must be an integer ≥ 1")
        self.trial = trial
        self.instance = instance
        self.setup = setup
        self._traced = tuple(traced)
        self._batch = batch
        self._x64 = dtype == "float64"
        self._draws = draws
        self._statistics: dict[str, Callable[..., Any]] = dict(statistics or {})
        self._forget_programs()
        self.__doc__ = trial.__doc__
        self.__name__ = getattr(trial, "__name__", "trial")
        self.__module__ = trial.__module__

    def _forget_programs(self) -> None:
        self._compiled = functools.lru_cache(maxsize=COMPILED_PROGRAMS)(self._compile)

    def __getstate__(self) -> dict[str, Any]:
        """What travels to a worker: all but the compiled programs, which each compiles itself."""
        return {name: value for name, value in vars(self).items() if name != "_compiled"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._forget_programs()

    def __call__(
        self, *, key: jax.Array, trials: int, first: int = 0, **parameters: Any
    ) -> dict[str, Estimate]:
        """Run `trials` trials, from the index `first` on; one estimate for each number."""
        values = self.trial_values(key=key, trials=trials, first=first, **parameters)
        return self._estimates(values, trials)

    def simulate_cells(
        self,
        points: Sequence[Mapping[str, Any]],
        *,
        key_words: np.ndarray,
        trials: int,
        first: int = 0,
    ) -> list[dict[str, Estimate] | None]:
        """What a call at each point gives, to the last bit, from few programs for all of them.

        Points that differ in traced numbers alone share a program. `key_words` holds the words of
        each point's threefry key (points × 2, uint32). None stands where a point is better called
        by itself: its numbers are many, or each other point needs a program of its own.
        """
        results: list[dict[str, Estimate] | None] = [None] * len(points)
        if self.is_deterministic or not cells_share_programs():
            return results
        with own_settings(x64=self._x64):
            groups: dict[Any, list[tuple[int, _Program, tuple[Any, Any]]]] = {}
            for place, (parameters, words) in enumerate(zip(points, key_words, strict=True)):
                key = _key_of(words) if _takes_key(self.setup) else None
                free, program = self._program(parameters, key)
                if not free:
                    continue
                cell = (words, free)
                structure = structure_of(cell)
                if structure is not None:
                    groups.setdefault((id(program), structure), []).append((place, program, cell))
            for (_, structure), members in groups.items():
                program, cells = members[0][1], [cell for _, _, cell in members]
                words, free = cells[0]
                block = program.cell_block(structure, _key_of(words), free)
                options: dict[str, Any] = {"batch": self._batch, "first": first}
                if program.must_run_alone(_key_of(words), free):
                    with _BATCHED_LAPACK:
                        values = map_cells(block, cells, trials, threads=1, **options)
                else:
                    values = map_cells(block, cells, trials, **options)
                for row, (place, _, _) in enumerate(members):
                    mine = {n: v[row] for n, v in values.items() if not n.startswith(_DRAWN)}
                    mine = {n: _as_float64(v) for n, v in mine.items()}
                    results[place] = self._estimates(mine, trials)
        return results

    def _estimates(self, values: Mapping[str, np.ndarray], trials: int) -> dict[str, Estimate]:
        if self.is_deterministic:
            return {name: exact_estimate(array[0], trials) for name, array in values.items()}
        estimates = {name: sample_estimate(array) for name, array in values.items()}
        for name, statistic in self._statistics.items():
            samples = [values[argument] for argument in _argument_names(statistic)]
            estimates[name] = _statistic_estimate(statistic, samples)
        return estimates

    def statistic(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Declare a function of the trials' numbers, such as a ratio of means, as a quantity.

        Its arguments are called like the numbers that a trial returns, and each is an array
        (trials, …); the quantity has the function's name. It returns one number, whose standard
        error a jackknife finds, or an :class:`~jaxprompt.stats.Estimate`. A decorator.
        """
        self._statistics[function.__name__] = function
        return function

    @property
    def statistic_arguments(self) -> dict[str, tuple[str, ...]]:
        """For each declared statistic the numbers of a trial that it is made of."""
        return {name: _argument_names(f) for name, f in self._statistics.items()}

    def trial_values(
        self, *, key: jax.Array, trials: int, first: int = 0, **parameters: Any
    ) -> dict[str, np.ndarray]:
        """What each trial returned: arrays (trials, …), float64 or truth values."""
        values = self._run(key, trials, first, parameters)
        return {n: _as_float64(v) for n, v in values.items() if not n.startswith(_DRAWN)}

    def _run(
        self, key: jax.Array, trials: int, first: int, parameters: Mapping[str, Any]
    ) -> dict[str, np.ndarray]:
        """What each trial returned, and under marked names what it was evaluated on."""
        with own_settings(x64=self._x64):
            free, program = self._program(parameters, key)
            run = program.block(key, free)
            options: dict[str, Any] = {"batch": self._batch, "first": first, "loops": True}
            if program.must_run_alone(key, free):
                with _BATCHED_LAPACK:
                    values = map_trials(run, trials, threads=1, **options)
            else:
                values = map_trials(run, trials, **options)
        return {name: np.asarray(array) for name, array in values.items()}

    @property
    def is_deterministic(self) -> bool:
        """Whether a trial draws nothing: it takes no key, and sees nothing that is drawn."""
        if self._draws is not None:
            return not self._draws
        functions = [f for f in (self.trial, self.setup) if f is not None]
        return self.instance is None and not any(map(_takes_key, functions))

    @property
    def dtype(self) -> Dtype:
        """The type that trials compute in."""
        return "float64" if self._x64 else "float32"

    def _program(
        self, parameters: Mapping[str, Any], key: jax.Array | None
    ) -> tuple[dict[str, Any], _Program]:
        """Arguments that are traced, and the program for those that are not."""
        free, fixed = self._split(parameters)
        if self.setup is not None:
            free |= self.setup(**_named(self.setup, parameters, key, _SETUP_STREAM))
        return free, self._compiled(tuple((n, v) for n, v in fixed if n not in free))

    def _split(
        self, parameters: Mapping[str, Any]
    ) -> tuple[dict[str, Any], tuple[tuple[str, Any], ...]]:
        """Parameters that are traced, and those that are part of the program."""
        # What neither function names is no part of the program: other values share it.
        used = {**_named(self.trial, parameters), **_named(self.instance, parameters)}
        free = {n: v for n, v in used.items() if n in self._traced or _is_array(v)}
        return free, tuple((n, _hashable(v)) for n, v in used.items() if n not in free)

    def _compile(self, fixed: tuple[tuple[str, Any], ...]) -> _Program:
        def one(index: jax.Array, key: jax.Array, free: dict[str, Any]) -> dict[str, jax.Array]:
            outputs, drawn = self._outputs(jax.random.fold_in(key, index), dict(fixed), free)
            return outputs | {_DRAWN + name: value for name, value in drawn.items()}

        # Jitted, since a jitted function is traced once for each set of shapes: to choose how it
        # runs and to build the loops around it, a trial is looked at five times. Inlined, the
        # program is that of the bare function.
        return _Program(jax.jit(one, inline=True), self._batch)

    def _outputs(
        self, key: jax.Array, fixed: Mapping[str, Any], free: Mapping[str, Any]
    ) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
        """What a trial returns, and what its instance drew."""
        arguments = {**fixed, **free}
        drawn: dict[str, jax.Array] = {}
        if self.instance is not None:
            key, drawing = jax.random.split(key)
            # The barrier makes both sides see the same bits: fused into the trial, the drawing
            # could be rounded in another way than where it is returned.
            drawn = jax.lax.optimization_barrier(
                jax.tree.map(jnp.asarray, dict(_call(self.instance, drawing, arguments)))
            )
        return _as_outputs(_call(self.trial, key, {**arguments, **drawn})), drawn

    def output_shapes(self, where: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Shape and dtype of each number that a trial returns; nothing is computed.

        Raises:
            ClaimError: a parameter that is traced is used as a shape or in a Python condition.
        """
        if self.setup is not None:
            return {}  # a set-up may train: its shapes are known when it has run
        trial, key, free = self._traceable(parameters)
        try:
            return dict(jax.eval_shape(trial, key, free))
        except TypeError as error:  # of which JAX's errors about traced values are some
            if "concrete" not in str(error).lower():
                raise
            names = ", ".join(f"`{name}`" for name in free)
            raise ClaimError(
                f"claim {where}: a trial uses a traced parameter ({names}) as a shape or in a "
                f"Python condition: take it out of `traced=` ({str(error).splitlines()[0]})"
            ) from error

    def operations(self, parameters: Mapping[str, Any]) -> Operations | None:
        """The arithmetic of one trial, found by tracing.

        A set-up that draws nothing is made; None where it draws, since it may train.
        """
        if _takes_key(self.setup):
            return None
        with own_settings(x64=self._x64):
            return count_operations(*self._traceable(parameters))

    def program_of(self, parameters: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
        """What names the compiled program of a point: the parameters that are not traced."""
        return self._split(parameters)[1]

    def _traceable(
        self, parameters: Mapping[str, Any]
    ) -> tuple[Callable[..., dict[str, jax.Array]], jax.Array, dict[str, Any]]:
        """What a trial returns as a function of its key and traced parameters, and those."""
        free = {n: v for n, v in parameters.items() if n in self._traced or _is_array(v)}
        if self.setup is not None:
            free |= self.setup(**_named(self.setup, parameters))
        fixed = {n: v for n, v in parameters.items() if n not in free}
        key = jax.random.key(0, impl="threefry2x32")
        return lambda key, free: self._outputs(key, fixed, free)[0], key, free

    def draw_instances(
        self, *, key: jax.Array, trials: int, **parameters: Any
    ) -> dict[str, np.ndarray]:
        """What each of the first `trials` trials was evaluated on: arrays (trials, …)."""
        if self.instance is None:
            raise JaxpromptError("this simulation has no instance to draw")
        values = self._run(key, trials, 0, parameters)
        return {name: values[_DRAWN + name] for name in _drawn_names(values)}

    def trial_of_instance(self, parameters: Mapping[str, Any]) -> Callable[..., dict[str, Any]]:
        """The trial as a function of what it is evaluated on, a dict, alone."""

        def evaluate(drawn: Mapping[str, Any]) -> dict[str, Any]:
            key = jax.random.key(0, impl="threefry2x32")
            return _as_outputs(_call(self.trial, key, {**parameters, **drawn}))

        return evaluate


@overload
def per_trial(
    trial: Trial,
    *,
    traced: Sequence[str] = (),
    batch: int = 1,
    dtype: Dtype = "float64",
    setup: Callable[..., Mapping[str, Any]] | None = None,
    instance: Callable[..., Mapping[str, Any]] | None = None,
    statistics: Mapping[str, Callable[..., Any]] | None = None,
) -> TrialSimulation: ...
@overload
def per_trial(
    trial: None = None,
    *,
    traced: Sequence[str] = (),
    batch: int = 1,
    dtype: Dtype = "float64",
    setup: Callable[..., Mapping[str, Any]] | None = None,
    instance: Callable[..., Mapping[str, Any]] | None = None,
    statistics: Mapping[str, Callable[..., Any]] | None = None,
) -> Callable[[Trial], TrialSimulation]: ...
def per_trial(trial: Trial | None = None, **options: Any) -> Any:
    """Make a claim's simulation from ``trial(*, key, **parameters)``, one independent experiment.

    `trial` is a pure JAX function that draws all its randomness from `key` and returns a dict from
    quantity name to a number (or an array along the quantity's declared axis). It is called with
    the parameters that it names; what a trial without `key` gives is exact. Trial `t` gets
    ``fold_in(key, t)``; the simulation returns the mean over trials of each number with its
    standard error, and keeps the trials themselves for distributions and statistics. May be used
    as a decorator, with or without options.

    Parameters are plain Python numbers inside `trial`, so they may be shapes, and each new point
    is compiled. Those named in `traced` are traced instead and share a compilation; another number
    of trials never compiles again.

    Trials are spread over the cores of a CPU; `batch` of them run at once on each, vectorised:
    choose some hundreds for short trials. Where a trial factorises or solves matrices its batch
    runs one trial after another, because batched factorisations on several cores can wait for each
    other for ever.

    `dtype` is that of the computation, ``"float64"`` or ``"float32"``. `setup`, a function of
    parameters (and of `key`, if it names it), is called once for each point and returns a dict of
    further arguments for `trial`: a trained model, say. `instance` draws, from `key` and
    parameters, a dict that both sides of an identity or a bound get as arguments. `statistics`
    maps names of quantities to functions of the trials' numbers
    (see :meth:`TrialSimulation.statistic`).

    Raises:
        ValueError: `batch` is below 1.
        JaxpromptError: (from the simulation) a trial returned something else than numbers.
    """
    if trial is None:
        return functools.partial(TrialSimulation, **options)
    return TrialSimulation(trial, **options)


def paired(first: Trial, second: Trial) -> Trial:
    """One trial that returns the difference first − second, both on the same random numbers.

    For statements such as "A is at least B" or "A and B have equal means": the noise that both
    share drops out of the difference. Each number of the two trials that has one name is compared.
    """

    def trial(*, key: jax.Array, **parameters: Any) -> dict[str, Any]:
        former = _call(first, key, parameters)
        other = _call(second, key, parameters)
        return {name: jnp.asarray(former[name]) - jnp.asarray(other[name]) for name in former}

    trial.__doc__ = f"{first.__name__} minus {second.__name__}, on common random numbers."
    trial.__module__ = first.__module__
    return trial


def trajectory(
    init: Callable[..., Any],
    step: Callable[..., Any],
    read: Callable[..., Mapping[str, Any]],
    *,
    time: str = "time",
    traced: Sequence[str] = (),
    batch: int = 1,
    dtype: Dtype = "float64",
) -> TrialSimulation:
    """A simulation along steps: one run from ``init``, read at every time that the design names.

    ``init(*, key, **parameters)`` gives a state, ``step(state, *, key, **parameters)`` the next
    one, and ``read(state, **parameters)`` a dict of numbers; each names the parameters it takes,
    and `read` may name the time. The parameter `time` is a number of steps, or a growing list of
    them that one run serves: put its name into the claim's `shared`. Another list of as many times
    compiles nothing again. Where neither ``init`` nor ``step`` takes a key the numbers are exact.
    """

    def trial(*, key: jax.Array, **parameters: Any) -> dict[str, Any]:
        wanted = jnp.asarray(parameters[time])
        times = jnp.atleast_1d(wanted).astype(jnp.int32)
        others = {n: v for n, v in parameters.items() if n != time}
        start_key, step_key = jax.random.split(key)  # one for the start, one for all steps
        state = jax.tree.map(_as_state, _call(init, start_key, others))

        def advance(carry: tuple[Any, jax.Array], until: jax.Array) -> Any:
            def one_step(count: jax.Array, state: Any) -> Any:
                step_own_key = jax.random.fold_in(step_key, count)
                moved = _call(functools.partial(step, state), step_own_key, others)
                return jax.tree.map(_with_dtype_of, state, moved)

            state = jax.lax.fori_loop(carry[1], until, one_step, carry[0])
            shown = _named(read, {**others, time: until}, skip=1)
            return (state, until), dict(read(state, **shown))

        _, readings = jax.lax.scan(advance, (state, jnp.int32(0)), times)
        return {n: v if wanted.ndim else v[0] for n, v in readings.items()}

    trial.__doc__ = read.__doc__
    trial.__module__ = read.__module__
    draws = _takes_key(init) or _takes_key(step)
    return TrialSimulation(trial, traced=(*traced, time), batch=batch, dtype=dtype, draws=draws)


def _drawn_names(values: Mapping[str, Any]) -> list[str]:
    return [name.removeprefix(_DRAWN) for name in values if name.startswith(_DRAWN)]


def _as_state(leaf: Any) -> jax.Array:
    """A leaf of a state as an array whose type no step changes: numbers are of the trial's type."""
    array = jnp.asarray(leaf)
    weak = isinstance(leaf, int | float) and not isinstance(leaf, bool)
    return array.astype(float) if weak else array


def _with_dtype_of(old: jax.Array, new: Any) -> jax.Array:
    """The new leaf of a state in the old one's type, as a loop requires."""
    array = jnp.asarray(new)
    return array if array.dtype == old.dtype else array.astype(old.dtype)


def _call(function: Callable[..., Any], key: jax.Array, parameters: Mapping[str, Any]) -> Any:
    """The function at the parameters that it names, and at its key if it names one."""
    named = _named(function, parameters)
    return function(key=key, **named) if _takes_key(function) else function(**named)


def _key_of(words: np.ndarray) -> jax.Array:
    return jax.random.wrap_key_data(jnp.asarray(words), impl="threefry2x32")


@functools.lru_cache(maxsize=COMPILED_PROGRAMS)
def _arguments_of(function: Callable[..., Any]) -> tuple[inspect.Parameter, ...]:
    """Arguments of a function; kept, since to inspect them takes longer than a small cell."""
    return tuple(inspect.signature(function).parameters.values())


def _takes_key(function: Callable[..., Any] | None) -> bool:
    if function is None:
        return False
    arguments = _arguments_of(function)
    return any(a.name == "key" or a.kind is inspect.Parameter.VAR_KEYWORD for a in arguments)


def _named(
    function: Callable[..., Any] | None,
    parameters: Mapping[str, Any],
    key: jax.Array | None = None,
    stream: Any = None,
    skip: int = 0,
) -> dict[str, Any]:
    """Those parameters that a function names as arguments (and its key, where one is given)."""
    if function is None:
        return {}
    arguments = _arguments_of(function)[skip:]
    if any(a.kind is inspect.Parameter.VAR_KEYWORD for a in arguments):
        named = dict(parameters)
    else:
        names = {a.name for a in arguments}
        named = {n: v for n, v in parameters.items() if n in names}
    if key is not None and any(a.name == "key" for a in arguments):
        named["key"] = jax.random.fold_in(key, stream)
    return named


def _argument_names(function: Callable[..., Any]) -> tuple[str, ...]:
    return tuple(inspect.signature(function).parameters)


def _statistic_estimate(statistic: Callable[..., Any], samples: Sequence[np.ndarray]) -> Estimate:
    whole = statistic(*samples)
    return whole if isinstance(whole, Estimate) else jackknife(statistic, *samples)


def _as_float64(values: np.ndarray) -> np.ndarray:
    """Numbers in float64; truth values stay what they are, since they declare a proportion."""
    return values if values.dtype == np.bool_ else values.astype(np.float64)


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray | jax.Array)


def _hashable(value: Any) -> Any:
    return tuple(map(_hashable, value)) if isinstance(value, list | tuple) else value


def _as_outputs(returned: Any) -> dict[str, jax.Array]:
    if not isinstance(returned, Mapping):
        raise JaxpromptError(
            f"a trial returned {type(returned).__name__}: must be a dict from quantity name to a "
            "scalar; return one"
        )
    outputs: dict[str, jax.Array] = {}
    for name, value in returned.items():
        array = jnp.asarray(value)
        if jnp.issubdtype(array.dtype, jnp.complexfloating):
            raise JaxpromptError(
                f"a trial's `{name}` is complex: return its real and imaginary part, or its "
                "absolute value, as numbers of their own"
            )
        outputs[name] = array if array.dtype == jnp.bool_ else array.astype(float)
    return outputs


def _lapack_ranks(program: Any) -> Iterator[int]:
    """Rank of the matrices of each factorisation or solve, anywhere in a traced program."""
    for equation in _equations(program):
        if equation.primitive.name in _LAPACK:
            yield max(len(operand.aval.shape) for operand in equation.invars)


def _equations(program: Any) -> Iterator[Any]:
    """Each equation of a traced program and of the programs that it calls."""
    for equation in program.eqns:
        yield equation
        for inner in jax.tree.leaves(
            list(equation.params.values()),
            is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr"),
        ):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield from _equations(inner)
