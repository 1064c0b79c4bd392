"""Values validated once, a store that knows its claim, names, memory, locks, batches."""

from __future__ import annotations

import contextlib
import errno
import json

import jax
import numpy as np
import pytest

import jaxprompt as jp
from jaxprompt.core.claim import Relation
from jaxprompt.core.fingerprint import fingerprint_claim
from jaxprompt.core.keys import as_key, fold_in_parameters
from jaxprompt.core.parameters import Parameter
from jaxprompt.core.quantities import Quantity
from jaxprompt.errors import ClaimError, UsageError
from jaxprompt.stats import exact_estimate
from jaxprompt.sweep import Sweep, judge, memory
from jaxprompt.sweep import runner as sweeps
from jaxprompt.sweep.store import SweepStore
from jaxprompt.sweep.tasks import Batches, Task, make_tasks

GRID = {"level": (1.0, 2.0), "size": (4, 8)}


def assert_same(one, other):
    for name in one.data_vars:
        np.testing.assert_array_equal(one[name].values, other[name].values, err_msg=str(name))


# --- values ---


@pytest.mark.parametrize(
    "grid",
    [
        {"level": [1, 2], "size": [4.0, 8.0]},
        {"level": np.linspace(1, 2, 2), "size": range(4, 9, 4)},
        {"level": list(np.arange(1, 3)), "size": np.array([4, 8])},
        {"level": (np.float64(1.0), np.int64(2)), "size": [np.int64(4), 8]},
    ],
    ids=["other types", "ranges", "arrays", "NumPy scalars"],
)
def test_equal_values_are_one_sweep_however_they_are_written(toy, tmp_path, grid):
    plain = Sweep("contextual.toy", GRID, {}, 20, 1)
    other = Sweep("contextual.toy", grid, {}, np.int64(20), np.int64(1))
    assert other.config == plain.config
    assert other.grid == plain.grid
    first = sweeps.run(plain, tmp_path / "out").dataset
    again = sweeps.run(other, tmp_path / "out", resume=True).dataset
    assert_same(first, again)
    assert again["size"].values.tolist() == [4, 8]
    assert again["size"].dtype.kind == "i"
    assert again["level"].dtype == np.float64


def test_a_value_written_twice_is_refused_as_a_repeat(toy):
    for grid in ({"size": [4, 4.0]}, {"size": [8], "level": [0.0, -0.0]}):
        with pytest.raises(UsageError, match="a value repeats"):
            Sweep("contextual.toy", grid, {} if "level" in grid else {"level": 1.0})


def test_zero_has_no_sign(toy):
    one, other = (Sweep("contextual.toy", {"size": [4]}, {"level": v}) for v in (0.0, -0.0))
    assert one.config == other.config


def test_the_random_numbers_of_a_cell_follow_from_its_validated_values(toy, tmp_path):
    claim = toy()
    data = sweeps.run(
        Sweep("contextual.toy", {"level": [1, 2], "size": [4]}), tmp_path / "o"
    ).dataset
    key = fold_in_parameters(as_key(0), {"level": 2.0, "size": 4})
    direct = claim.simulate(key=key, trials=64, level=2.0, size=4)
    assert data["value"].values[1, 0] == direct["value"].mean


# --- names ---


@pytest.mark.parametrize(
    ("quantities", "grid", "named"),
    [
        (("level",), GRID, "`level`.*a dimension of the grid too"),
        (("status",), GRID, "`status`.*the status of each cell too"),
        (("trials",), GRID, "`trials`.*the trials of each cell too"),
        (("mean", "mean_stderr"), GRID, "`mean_stderr`.*a variable of the quantity `mean` too"),
    ],
)
def test_names_that_clash_are_refused_before_anything_is_made(toy_claim, quantities, grid, named):
    found = tuple(Quantity(name, "a number", 0.1) for name in quantities)
    plain = toy_claim()

    def closed_form(*, level, size):
        return dict.fromkeys(quantities, level)

    claim = plain
    with contextlib.suppress(ClaimError):  # refused when the claim is built, which is earlier still
        claim = toy_claim(quantities=found, closed_form=closed_form)
    if claim is not plain:
        with pytest.raises(UsageError, match=named):
            Sweep(claim, grid)


def test_a_quantity_may_have_any_other_name(toy_claim, tmp_path):
    def closed_form(*, level, **unused):
        return {"mean_square": level}

    plain = toy_claim()

    def simulation(**parameters):
        return {"mean_square": plain.simulation(**parameters)["value"]}

    claim = toy_claim(
        quantities=(Quantity("mean_square", "the mean", 0.2),),
        closed_form=closed_form,
        simulation=simulation,
    )
    data = sweeps.run(Sweep(claim, GRID, {}, 20, 1), tmp_path / "out").dataset
    assert np.isfinite(data["mean_square"]).all()


# --- a claim that no registry knows ---


def test_a_claim_object_is_swept(toy_claim, tmp_path):
    claim = toy_claim(id="notebook.mean")
    result = sweeps.run(Sweep(claim, GRID, {}, 20, 1), tmp_path / "out")
    assert np.isfinite(result.dataset["value"]).all()
    assert result.dataset.attrs["config_claim"] == "notebook.mean"


def test_a_claim_that_workers_cannot_get_is_refused_before_a_folder_is_made(toy_claim, tmp_path):
    claim = toy_claim(id="notebook.mean")  # its functions are local, so they do not pickle
    with (
        sweeps.process_pool(1) as pool,
        pytest.raises(UsageError, match="cannot be sent to worker processes"),
    ):
        sweeps.run(Sweep(claim, GRID), tmp_path / "out", executor=pool)
    assert not (tmp_path / "out").exists()


# --- edits between a run and its resumption ---


def doubled(*, level, **unused):
    return {"value": 2 * level}


def test_an_edited_formula_replaces_every_prediction(toy, tmp_path):
    """Formula and numbers of one theory alone: nothing of the old one is left."""

    def stop(done, total):
        if done == 2:
            raise KeyboardInterrupt

    job = Sweep("contextual.toy", GRID, {}, 20, 1)
    with pytest.raises(KeyboardInterrupt):
        sweeps.run(job, tmp_path / "out", progress=stop)
    measured = jp.load(tmp_path / "out")["value"].values
    toy(closed_form=doubled)
    again = sweeps.run(Sweep("contextual.toy", GRID, {}, 20, 1), tmp_path / "out", resume=True)
    assert any("the closed form of contextual.toy has changed: 2 stored" in n for n in again.notes)
    data = again.dataset
    np.testing.assert_array_equal(data["value_predicted"].values, [[2.0, 2.0], [4.0, 4.0]])
    held = np.isfinite(measured)
    np.testing.assert_array_equal(data["value"].values[held], measured[held])
    assert_same(jp.load(tmp_path / "out"), data)


def test_an_edited_formula_of_a_finished_sweep_is_followed_and_judged(toy, tmp_path):
    job = Sweep("contextual.toy", GRID, {}, 200, 1)
    assert (sweeps.run(job, tmp_path / "out").dataset["status"] == "confirmed").all()
    toy(closed_form=doubled)
    again = sweeps.run(Sweep("contextual.toy", GRID, {}, 200, 1), tmp_path / "out", resume=True)
    assert (again.dataset["status"] == "refuted").all()


def test_an_edited_simulation_that_gives_other_numbers_is_refused(toy, toy_claim, tmp_path):
    job = Sweep("contextual.toy", GRID, {}, 20, 1)
    first = sweeps.run(job, tmp_path / "out").dataset
    toy(offset=1.0)
    more = {**GRID, "level": (1.0, 2.0, 3.0)}
    with pytest.raises(UsageError, match=r"another simulation.*give other numbers at cell"):
        sweeps.run(Sweep("contextual.toy", more, {}, 20, 1), tmp_path / "out", resume=True)
    assert_same(jp.load(tmp_path / "out"), first)


def test_an_edited_simulation_is_noticed_whatever_the_order_of_the_grid(toy, tmp_path):
    grid = {"size": (4,), "level": (1.0, 2.0, 3.0)}  # not in the order of the alphabet
    whole = sweeps.run(Sweep("contextual.toy", grid, {}, 20, 1), tmp_path / "out").dataset
    toy(offset=1.0)
    with pytest.raises(UsageError, match="another simulation"):
        sweeps.run(Sweep("contextual.toy", grid, {}, 20, 1), tmp_path / "out", resume=True)
    assert_same(jp.load(tmp_path / "out"), whole)


def test_an_edited_simulation_of_a_finished_sweep_is_refused_too(toy, tmp_path):
    """Nothing is computed then, but what grows from it later would mix two simulations."""
    job = Sweep("contextual.toy", GRID, {}, 20, 1)
    sweeps.run(job, tmp_path / "out")
    toy(offset=1.0)
    more = {**GRID, "level": (1.0, 2.0, 3.0)}
    for grid in (GRID, more):
        with pytest.raises(UsageError, match="another simulation"):
            sweeps.run(Sweep("contextual.toy", grid, {}, 20, 1), tmp_path / "out", resume=True)


def test_an_edited_simulation_that_gives_the_same_numbers_goes_on(toy, toy_claim, tmp_path):
    sweeps.run(Sweep("contextual.toy", GRID, {}, 20, 1), tmp_path / "out")
    plain = toy_claim()

    def tidied(**parameters):
        return dict(plain.simulation(**parameters))

    toy(simulation=tidied)
    more = {**GRID, "level": (1.0, 2.0, 3.0)}
    job = Sweep("contextual.toy", more, {}, 20, 1)
    grown = sweeps.run(job, tmp_path / "out", resume=True)
    assert any("it gives the stored numbers again" in note for note in grown.notes)
    assert_same(grown.dataset, sweeps.run(job, tmp_path / "fresh").dataset)


@pytest.mark.slow
def test_another_process_changes_no_fingerprint():
    """No address or order of a set is in it."""
    text = (
        "import jaxprompt as jp\n"
        "from jaxprompt.core.fingerprint import fingerprint_claim\n"
        "names = ('contextual.prompt_error', 'contextual.training', 'universal.sphere_limit')\n"
        "print([fingerprint_claim(jp.claim(n)) for n in names])\n"
    )
    import os
    import subprocess
    import sys

    found = {
        subprocess.run(
            [sys.executable, "-c", text],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
            timeout=300,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(found) == 1


def test_comments_change_no_fingerprint(tmp_path):
    """Bytes of the code, not of the file."""
    files = {}
    for name, line in (
        ("plain", ""),
        ("noted", "    # why it is so\n"),
        ("edited", "    level *= 2\n"),
    ):
        source = f"def closed_form(*, level, **unused):\n{line}    return {{'value': level}}\n"
        space: dict = {}
        exec(compile(source, str(tmp_path / "mine.py"), "exec"), space)
        files[name] = space["closed_form"]
    from conftest import make_toy

    prints = {n: fingerprint_claim(make_toy(closed_form=f))["prediction"] for n, f in files.items()}
    assert prints["plain"] == prints["noted"] != prints["edited"]


# --- memory ---


def test_results_that_no_memory_holds_are_refused_before_a_folder_is_made(
    toy, tmp_path, monkeypatch
):
    monkeypatch.setattr(memory, "available_memory", lambda: (2**12, "this machine has"))
    with pytest.raises(
        UsageError, match=r"needs .* for its results, this machine has 4 KiB: at most"
    ):
        sweeps.run(Sweep("contextual.toy", GRID), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_cell_that_no_memory_holds_is_refused_and_says_what_fits(tmp_path):
    fixed = {"tokens": 10, "relevant": 2, "signal": 1.0, "context": 1.5, "noise": 1.0, "gain": 1.0}
    fixed |= {"ridge": 0.05, "ratio": 0.5}
    job = Sweep("contextual.prompt_error", {"dim": [200_000_000]}, fixed, 4)
    with pytest.raises(UsageError, match=r"`dim` = 200000000 needs .*iB, .*`dim` up to \d+ fits"):
        sweeps.run(job, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_claim_may_say_what_it_holds(toy_claim, tmp_path):
    claim = toy_claim(memory=lambda *, level, size: 2**40 * size)
    with pytest.raises(UsageError, match=r"`size` = 8192 needs 8 PiB, .*GiB"):
        sweeps.run(Sweep(claim, {"level": [1.0], "size": [8192]}), tmp_path / "out")
    assert not (tmp_path / "out").exists()


# --- locks ---


def test_a_file_system_without_locks_is_a_note(toy, tmp_path, monkeypatch):
    import fcntl

    def unavailable(*args):
        raise OSError(errno.ENOSYS, "Function not implemented")

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", unavailable)
        result = sweeps.run(Sweep("contextual.toy", GRID, {}, 20, 1), tmp_path / "out")
    assert any("keeps no locks" in note for note in result.notes)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["sweep.sqlite"]
    assert_same(result.dataset, jp.load(tmp_path / "out"))


# --- tasks and batches ---


def test_batches_grow_to_a_second_of_work(toy):
    job = Sweep("contextual.toy", {"level": [float(i) for i in range(5000)]}, {"size": 4})
    batches = Batches(make_tasks(job, np.ones(job.shape, bool)))
    sizes = []
    for batch in batches:
        sizes.append(len(batch))
        batches.learn(batch, 0.001 * len(batch))
    assert sizes[0] == 1
    assert max(sizes) == 1000
    assert sum(sizes) == 5000
    slow = Batches(make_tasks(job, np.ones(job.shape, bool)))
    for place, batch in enumerate(slow):
        assert len(batch) == 1
        slow.learn(batch, 3.0)
        if place == 5:
            break


def test_a_batch_that_fails_is_tried_one_by_one(toy, tmp_path):
    from concurrent.futures import Executor, Future

    class Fragile(Executor):
        """Fails with every batch that holds a certain cell."""

        workers = 1

        def submit(self, function, batch):
            future = Future()
            if any((7, 0) in task.indices for task in batch):
                future.set_exception(MemoryError("too much"))
            else:
                found, _ = function(batch)
                future.set_result((found, 1e-6))
            return future

    grid = {"level": tuple(float(i) for i in range(12)), "size": (4,)}
    result = sweeps.run(Sweep("contextual.toy", grid, {}, 4), tmp_path / "o", executor=Fragile())
    assert result.errors == {"7,0": "MemoryError: too much"}


def test_tasks_cover_each_open_cell_once(toy_claim):
    plain = toy_claim()
    extra = Parameter("loss", "choice", "loss", choices=("a", "b", "c"), default="a")
    claim = toy_claim(parameters=(*plain.parameters, extra), simulation=lambda *, loss, **p: {})
    grid = {"loss": ("b", "a", "c"), "size": (4, 16, 8), "level": (1.0, 2.0)}
    job = Sweep(claim, grid)
    wanted = np.random.default_rng(0).random(job.shape) < 0.5
    tasks = list(make_tasks(job, wanted))
    stored = [index for task in tasks for index in task.stored]
    assert sorted(stored) == sorted(map(tuple, np.argwhere(wanted).tolist()))
    for task in tasks:
        assert job.parameters(task.indices[0]) == dict(task.run)
    sizes = [task.run["size"] for task in tasks]
    assert sizes == sorted(sizes, reverse=True), "the largest first"


def test_a_task_has_the_checksum_of_its_parameters(toy_claim):
    """Texts made once a value give the text of the whole run, of which the keys are made."""
    plain = toy_claim()
    extra = (
        Parameter("loss", "choice", "loss", choices=("a", "é"), default="a"),
        Parameter("shifts", "pairs", "shifts", default=((0.0, 0.0),)),
    )
    claim = toy_claim(
        parameters=(*plain.parameters, *extra), simulation=lambda *, loss, shifts, **p: {}
    )
    grid = {"shifts": [((0.0, 0.5),), ((1.0, 2.0), (0.0, 0.0))], "loss": ["é", "a"]}
    job = Sweep(claim, {**grid, "level": [0.1, 1e-7, 3.0]}, {"size": 4})
    for task in make_tasks(job, np.ones(job.shape, bool)):
        key = fold_in_parameters(as_key(0), dict(task.run))
        assert (jax.random.key_data(key) == jax.random.key_data(_key(task.checksum))).all()


def _key(checksum):
    return jax.random.fold_in(as_key(0), np.uint32(checksum))


def test_a_task_computes_alone_what_it_computes_in_a_batch(toy, tmp_path):
    from jaxprompt.sweep.tasks import compute, compute_batch

    job = Sweep("contextual.toy", GRID, {}, 8, 5)
    tasks = tuple(make_tasks(job, np.ones(job.shape, bool)))
    together, _ = compute_batch(tasks)
    for task, outcome in zip(tasks, together, strict=True):
        assert isinstance(task, Task)
        (alone,), (beside,) = compute(task), outcome
        assert alone == beside


def test_judging_again_asks_for_no_prediction(toy, tmp_path, monkeypatch):
    """Statuses come from stored numbers; a finished sweep is not judged again at all."""
    job = Sweep("contextual.toy", GRID, {}, 20, 1)
    sweeps.run(job, tmp_path / "out")
    calls = []
    monkeypatch.setattr(sweeps, "judge_cells", lambda *args: calls.append(args))
    sweeps.run(job, tmp_path / "out", resume=True)
    assert not calls
    assert json.loads(SweepStore.open(tmp_path / "out").config)["claim"] == "contextual.toy"


def test_growing_a_sweep_of_exact_cells_judges_what_is_new(toy, tmp_path, monkeypatch):
    """Counted: rows that are compared, and predictions that are made."""

    def exact(*, key, trials, level, size):
        return {"value": exact_estimate(level, trials)}

    claim = toy(relation=Relation.IDENTITY, simulation=exact)
    small = {"level": (1.0, 2.0, 3.0), "size": (4, 8)}
    sweeps.run(Sweep("contextual.toy", small, {}, 4, 1), tmp_path / "out")
    counted = count_rows_and_predictions(claim, monkeypatch)
    grown = {"level": (0.5, 1.0, 2.0, 3.0), "size": (4, 8)}
    data = sweeps.run(Sweep("contextual.toy", grown, {}, 4, 1), tmp_path / "out", resume=True)
    assert counted == {"rows": 2, "predictions": 2}
    assert (data.dataset["status"] == "confirmed").all()


def test_growing_a_sweep_of_samples_predicts_what_is_new(toy, tmp_path, monkeypatch):
    """All tests share one false-alarm rate, so each is judged again, from stored numbers."""
    claim = toy()
    sweeps.run(Sweep("contextual.toy", GRID, {}, 20, 1), tmp_path / "out")
    counted = count_rows_and_predictions(claim, monkeypatch)
    grown = {**GRID, "level": (0.5, 1.0, 2.0)}
    sweeps.run(Sweep("contextual.toy", grown, {}, 20, 1), tmp_path / "out", resume=True)
    assert counted == {"rows": 6, "predictions": 2}


def count_rows_and_predictions(claim, monkeypatch):
    """How many comparisons are judged from now on, and how many predictions are asked for."""
    counted = {"rows": 0, "predictions": 0}
    decide, predict = judge.decide_columns, type(claim).predict

    def counted_decide(table, level):
        counted["rows"] += len(table.predicted)
        return decide(table, level)

    def counted_predict(self, *point, **named):
        counted["predictions"] += 1
        return predict(self, *point, **named)

    monkeypatch.setattr(judge, "decide_columns", counted_decide)
    monkeypatch.setattr(type(claim), "predict", counted_predict)
    return counted
