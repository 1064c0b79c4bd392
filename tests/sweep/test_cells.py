"""Cells that share a compiled program: their numbers are those of a cell alone, to the last bit."""

import itertools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprompt as jp
from jaxprompt.core.keys import as_key, fold_in_parameters
from jaxprompt.sweep import Sweep, run
from jaxprompt.sweep.tasks import compute, compute_batch, make_tasks


def closed_form(*, level, size):
    return {"value": level**2 + 1 / size}


@jp.per_trial(traced=("level",), batch=4)
def simulate(*, key, level, size):
    """A square whose mean is level² + 1/size; only `size` is a shape of the program."""
    return {"value": (level + jax.random.normal(key, (size,), jnp.float32).mean()) ** 2}


def toy(**changes):
    design = jp.Design.product({"level": 1.0}, {"size": [8, 16]}, trials=20)
    made = jp.Claim(
        id="contextual.toy_cells",
        title="t",
        statement="s",
        relation=jp.Relation.MEAN,
        source="s",
        parameters=(
            jp.Parameter("level", "real", "l"),
            jp.Parameter("size", "integer", "n", low=1),
        ),
        quantities=(jp.Quantity("value", "v", 0.5),),
        falsifiers=(
            jp.Falsifier.scaled("a", closed_form, 1.5),
            jp.Falsifier.scaled("b", closed_form, 0.5),
        ),
        closed_form=closed_form,
        simulation=simulate,
        designs={"quick": design, "full": design},
    )
    return replace(made, **changes)


def grid(levels=7):
    return {"level": np.linspace(0.1, 2, levels).tolist(), "size": [3, 5]}


@pytest.mark.parametrize("trials", [2, 20, 600])
def test_a_cell_has_the_bits_that_it_has_alone(tmp_path, trials):
    points = {**grid(), "size": [3]}
    data = run(Sweep(toy(), points, {}, trials, seed=3), tmp_path / "out").dataset
    for level, size in itertools.product(*points.values()):
        point = {"level": level, "size": size}
        alone = toy().simulate(key=fold_in_parameters(as_key(3), point), trials=trials, **point)
        cell = data.sel(**point)
        assert float(cell["value"]) == alone["value"].mean
        assert float(cell["value_stderr"]) == alone["value"].stderr


def test_numbers_do_not_depend_on_what_else_is_computed():
    job = Sweep(toy(), grid(40), {}, 20)
    tasks = tuple(make_tasks(job, np.ones(job.shape, bool)))
    together, _ = compute_batch(tasks)
    for task, outcome in zip(tasks[::9], together[::9], strict=True):
        assert compute(task) == outcome


def test_cells_of_equal_shapes_share_a_program():
    compiled = []

    @jp.per_trial(traced=("level",))
    def counted(*, key, level, size):
        compiled.append(size)
        return {"value": level + size + 1e-9 * jax.random.key_data(key)[0]}

    job = Sweep(toy(simulation=counted), grid(30), {}, 4)
    compiled.clear()  # the claim's own look at its shapes
    outcomes, _ = compute_batch(tuple(make_tasks(job, np.ones(job.shape, bool))))
    assert len(outcomes) == 60
    assert not any(isinstance(outcome, str) for outcome in outcomes)
    assert set(compiled) == {3, 5}
    assert len(compiled) < 20  # each program is traced a few times, whatever the number of cells


def test_another_number_of_trials_compiles_nothing_again():
    """Neither for one point nor for cells in one program, whatever the number."""
    compiled = []

    @jp.per_trial(traced=("level",), batch=4)
    def counted(*, key, level, size):
        compiled.append(size)
        return {"value": level + size + 1e-9 * jax.random.key_data(key)[0]}

    claim = toy(simulation=counted)
    job = {trials: Sweep(claim, grid(3), {}, trials) for trials in (4, 21, 700)}
    counts = []
    for trials, sweep in job.items():
        claim.simulate(key=0, trials=trials, level=1.0, size=3)
        outcomes, _ = compute_batch(tuple(make_tasks(sweep, np.ones(sweep.shape, bool))))
        assert not any(isinstance(outcome, str) for outcome in outcomes)
        counts.append(len(compiled))
    assert counts[1:] == counts[:1] * 2


@pytest.mark.slow
def test_sgd_step_differs_from_simulate_by_rounding_alone():
    """Two programs, which the compiler fuses in two ways; beside others a cell keeps its bits."""
    claim = jp.claim("contextual.sgd_step")
    points = [dict(run.parameters) for run in claim.designs["quick"].runs[:2]]
    values = [claim.validated(point, simulate=True) for point in points]
    words = np.stack([np.asarray(jax.random.key_data(jax.random.key(5)))] * 2)
    beside = claim.simulation.simulate_cells(values, key_words=words, trials=64)
    (alone,) = claim.simulation.simulate_cells(values[:1], key_words=words[:1], trials=64)
    for name, estimate in beside[0].items():
        assert estimate.mean == alone[name].mean
    for point, cell in zip(points, beside, strict=True):
        for name, estimate in claim.simulate(key=5, trials=64, **point).items():
            assert abs(cell[name].mean - estimate.mean) <= 1e-6 * estimate.stderr


def test_a_cell_that_cannot_be_simulated_says_so_alone():
    @jp.per_trial(traced=("level",))
    def root(*, key, level, size):
        return {"value": jnp.sqrt(level)}

    job = Sweep(toy(simulation=root), {"level": [-1.0, 1.0, 4.0], "size": [3]}, {}, 4)
    outcomes, _ = compute_batch(tuple(make_tasks(job, np.ones(job.shape, bool))))
    assert sum(isinstance(outcome, str) for outcome in outcomes) == 1
    assert "not a number" in next(outcome for outcome in outcomes if isinstance(outcome, str))


@pytest.mark.slow
def test_prompt_error_has_the_bits_of_simulate(tmp_path):
    fixed = {"tokens": 4, "relevant": 1, "signal": 1.0, "context": 1.0, "noise": 1.0, "dim": 6}
    shared = {"ridge": [0.05, 0.5], "ratio": [0.5, 2.0]}
    claim = jp.claim("contextual.prompt_error")
    data = run(Sweep(claim, {"gain": [0.3, 0.6], **shared}, fixed, 4), tmp_path / "out").dataset
    for gain in (0.3, 0.6):
        point = {**fixed, "gain": gain}
        alone = claim.simulate(
            key=fold_in_parameters(as_key(0), point), trials=4, **point, **shared
        )
        for name in ("error", "head_signal", "head_noise"):
            cells = data[name].sel(gain=gain).transpose("ridge", "ratio")
            np.testing.assert_array_equal(cells, alone[name].mean)
