"""Sweeps and their store: files, refusals, interruption, resumption, independence of cells."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import textwrap

import jax
import numpy as np
import pytest

import jaxprompt as jp
from jaxprompt.core.claim import Quantity
from jaxprompt.core.comparing import group_by_size
from jaxprompt.core.keys import as_key, fold_in_parameters
from jaxprompt.errors import JaxpromptError, ParameterError, UsageError
from jaxprompt.stats import Comparison, mean_estimate
from jaxprompt.sweep import Sweep
from jaxprompt.sweep import runner as sweeps
from jaxprompt.sweep.store import SweepStore

TOML = """
claim = "contextual.prompt_error"
trials = 4
seed = 3
[fixed]
tokens = 6
relevant = 2
signal = 1.0
context = 1.5
noise = 1.0
gain = 1.0
[grid]
dim = [8, 12]
ratio = [0.5, 2.0]
ridge = [0.05, 0.02]
"""


# Its simulation draws with NumPy, so that no cell is a program.
REAL = """
claim = "prefix.capacity"
trials = 4
seed = 3
[fixed]
key_dim = 4
[grid]
value_dim = [4]
prefix = [3, 2]
examples = [5, 4]
"""


def toy_sweep(**changes):
    fields = {
        "claim": "contextual.toy",
        "grid": {"level": (1.0, 2.0, 3.0), "size": (4, 8)},
        "trials": 20,
        "seed": 1,
    }
    return Sweep(**{**fields, **changes})


def write(tmp_path, text=TOML):
    path = tmp_path / "sweep.toml"
    path.write_text(textwrap.dedent(text), encoding="utf-8")
    return path


def numbers(dataset):
    return {name: np.asarray(dataset[name].values) for name in dataset.data_vars}


def assert_same(one, other):
    assert list(one.data_vars) == list(other.data_vars)
    for name, values in numbers(one).items():
        np.testing.assert_array_equal(values, other[name].values, err_msg=name)


# --- what a sweep leaves ---


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A real sweep, run once."""
    folder = tmp_path_factory.mktemp("sweep")
    out = folder / "out"
    result = sweeps.run(Sweep.from_toml(write(folder, REAL)), out)
    return result, out


def test_dimensions_are_the_grid_in_file_order(finished):
    data = jp.load(finished[1])
    assert list(data.sizes.items()) == [("value_dim", 1), ("prefix", 2), ("examples", 2)]
    assert data["prefix"].values.tolist() == [3, 2]
    assert data["examples"].values.tolist() == [5, 4]


def test_variables_and_attributes(finished):
    data = jp.load(finished[1])
    for quantity in ("rank", "codimension", "residual"):
        for suffix in ("_predicted", "", "_stderr"):
            values = data[quantity + suffix]
            assert values.dims == ("value_dim", "prefix", "examples")
            assert values.dtype == np.float64
            assert np.isfinite(values).all()
    assert set(np.unique(data["status"])) <= {"confirmed", "refuted", "inconclusive", "failed"}
    assert (data["trials"] == 4).all()
    for name in ("seed", "jax", "numpy", "jaxprompt", "device", "dtype", "revision"):
        assert name in data.attrs
    assert data.attrs["seed"] == 3
    assert data.attrs["config_claim"] == "prefix.capacity"
    assert json.loads(data.attrs["config_fixed"])["key_dim"] == 4


def test_the_store_returns_what_the_run_returned(finished):
    result, out = finished
    assert_same(result.dataset, jp.load(out))
    assert result.errors == {}
    assert_same(jp.load(out), jp.load(out / "sweep.sqlite"))


def test_cells_equal_direct_calls(finished):
    data = jp.load(finished[1])
    claim = jp.claim("prefix.capacity")
    for prefix, examples in itertools.product((3, 2), (5, 4)):
        point = {"key_dim": 4, "value_dim": 4, "prefix": prefix, "examples": examples}
        cell = data.sel(value_dim=4, prefix=prefix, examples=examples)
        assert float(cell["residual_predicted"]) == claim.predict(**point)["residual"]
        direct = claim.simulate(key=fold_in_parameters(as_key(3), point), trials=4, **point)
        assert direct["residual"].stderr > 0
        for name in ("rank", "codimension", "residual"):
            assert float(cell[name]) == direct[name].mean


def test_one_simulation_serves_all_values_of_shared_parameters(toy_claim, toy, tmp_path):
    """Its axes are in the order in which the claim names them, the grid's in that of the file."""
    from jaxprompt.core.parameters import Parameter

    calls = []

    def simulation(*, key, trials, level, lift, size):
        calls.append(size)
        random = np.random.default_rng(np.asarray(jax.random.key_data(key)))
        values = np.add.outer(random.normal(size=trials), np.multiply.outer(level, lift))
        return {"value": mean_estimate(values)}

    lift = Parameter("lift", "real", "a factor", low=0)
    claim = toy_claim(
        parameters=(*toy_claim().parameters, lift), shared=("level", "lift"), simulation=simulation,
        closed_form=lambda *, level, lift, size=None: {"value": level * lift},
        falsifiers=(
            jp.Falsifier("a", "twice", lambda level, lift, **_: {"value": 2 * level * lift}),
            jp.Falsifier("b", "more", lambda level, lift, **_: {"value": level * lift + 1}),
        ),
        designs={"quick": jp.Design({"level": 1.0, "lift": 1.0, "size": 4}, trials=4)},
    )  # fmt: skip
    grid = {"lift": (2.0, 5.0, 3.0), "size": (4, 8), "level": (1.0, 7.0)}
    data = sweeps.run(Sweep(claim, grid, {}, 4, 1), tmp_path / "out").dataset
    assert sorted(calls) == [4, 8], "one simulation for each size"
    for size in (4, 8):
        key = fold_in_parameters(as_key(1), {"size": size})
        direct = claim.simulate(
            key=key, trials=4, size=size, level=[1.0, 7.0], lift=[2.0, 5.0, 3.0]
        )
        cells = data.sel(size=size).transpose("level", "lift")
        np.testing.assert_array_equal(cells["value"], direct["value"].mean)
        np.testing.assert_array_equal(
            cells["value_predicted"], [[2.0, 5.0, 3.0], [14.0, 35.0, 21.0]]
        )


def test_a_measured_number_without_a_prediction_is_stored(toy, tmp_path):
    """The closed form says nothing of it, so it has no prediction and decides no status."""

    def simulation(*, key, trials, level, size):
        drawn = np.asarray(jax.random.normal(key, (trials, 2)))
        return {
            "value": mean_estimate(level + 0.2 * drawn[:, 0]),
            "beside": mean_estimate(7 + 0.2 * drawn[:, 1]),
        }

    quantities = (Quantity("value", "the mean", 0.2), Quantity("beside", "x", unmeasured=True))
    toy(quantities=quantities, simulation=simulation)
    data = sweeps.run(toy_sweep(trials=50), tmp_path / "out").dataset
    assert abs(data["beside"].values - 7).max() < 0.3
    assert np.isfinite(data["beside_stderr"].values).all()
    assert np.isnan(data["beside_predicted"].values).all()
    assert (data["status"].values == "confirmed").all()


def test_strings_and_lists_in_the_grid(toy_claim, toy, tmp_path):
    from jaxprompt.core.parameters import Parameter

    plain = toy_claim()
    extra = (
        Parameter("loss", "choice", "loss", choices=("a", "b"), default="a"),
        Parameter("shifts", "pairs", "shifts", default=((0.0, 0.0),)),
    )

    def simulation(*, loss, shifts, **params):
        return plain.simulation(**params)

    toy(parameters=(*plain.parameters, *extra), simulation=simulation)
    grid = {"loss": ("b", "a"), "shifts": (((0.0, 0.0),), ((0.5, 0.3), (0.0, 0.0)))}
    sweeps.run(toy_sweep(grid=grid, fixed={"level": 1.0, "size": 4}), tmp_path / "out")
    data = jp.load(tmp_path / "out")
    assert data["loss"].values.tolist() == ["b", "a"]
    assert data["shifts"].values[1] == "[[0.5, 0.3], [0.0, 0.0]]"
    assert np.isfinite(data["value"]).all()
    assert float(data["value"].sel(loss="b")[0]) != float(data["value"].sel(loss="a")[0])


def test_statuses_tell_true_from_false(toy, tmp_path):
    true = sweeps.run(toy_sweep(trials=200), tmp_path / "true").dataset
    assert (true["status"] == "confirmed").all()
    toy(offset=1.0)
    false = sweeps.run(toy_sweep(trials=200), tmp_path / "false").dataset
    assert (false["status"] == "refuted").all()
    toy(tolerance=1e-9)
    vague = sweeps.run(toy_sweep(trials=200), tmp_path / "vague").dataset
    assert (vague["status"] == "inconclusive").all()


def test_a_sweep_judges_as_the_check_does(tmp_path):
    """A bound that holds with room is no difference, whatever the tolerance of an equality."""
    job = Sweep(
        "universal.prefix_bound",
        {"accuracy": (0.5, 4.0)},
        trials=2,
        fixed={"sphere_dim": 1, "lipschitz": 1.0},
    )
    data = sweeps.run(job, tmp_path / "out").dataset
    room = data["separation"] - data["separation_predicted"]
    assert (abs(room) > 1e-3).any(), "expected a bound with room, or this shows nothing"
    assert data["status"].values.tolist() == ["confirmed", "confirmed"]


@pytest.mark.parametrize(
    ("smoothness", "said"), [("lipschitz", "confirmed"), ("smooth", "inconclusive")]
)
def test_a_sweep_of_a_rate_is_judged_by_what_is_stored(smoothness, said, tmp_path):
    """All that was measured is in the store, so both slopes are judged. Three sizes fix that of the
    Lipschitz case to its tolerance, and not that of the smooth case with its log factor."""
    fixed = {"sphere_dim": 1, "smoothness": smoothness}
    job = Sweep("universal.prefix_rate", {"centres": (16, 32, 64)}, trials=2, fixed=fixed)
    data = sweeps.run(job, tmp_path / "out").dataset
    assert (data["status"] == said).all(), data["status"].values
    assert np.isfinite(data["error"]).all()


def test_a_comparison_of_several_cells_judges_each_of_them(toy, tmp_path):
    """Sizes are joined at equal levels; fewer than three of them say nothing."""

    def joined(claim, cells, predict):
        rows = []
        for rest, members in group_by_size(cells, "size", least=3):
            mean = float(np.mean([cell.estimates["value"].mean for cell in members]))
            sizes = [float(cell.parameters["size"]) for cell in members]
            right = predict(**rest)["value"] + (1.0 if rest["level"] == 2.0 else 0.0)
            rows.append(Comparison("value", {**rest, "size": sizes}, right, mean, 0.5))
        return rows

    toy(compare=joined)
    grid = {"level": (1.0, 2.0, 3.0), "size": (4, 8, 16)}
    found = sweeps.run(toy_sweep(grid=grid), tmp_path / "three").dataset["status"].values
    assert found.tolist() == [["confirmed"] * 3, ["refuted"] * 3, ["confirmed"] * 3]
    grid["size"] = (4, 8)
    found = sweeps.run(toy_sweep(grid=grid), tmp_path / "two").dataset["status"].values
    assert (found == "inconclusive").all()


# --- resumption and independence ---


class Stop:
    """A progress callback that interrupts once `count` cells are done."""

    def __init__(self, count):
        self.count = count

    def __call__(self, done, total):
        if done >= self.count:
            raise KeyboardInterrupt


@pytest.mark.parametrize("count", [1, 3, 5])
def test_an_interrupted_sweep_resumes_to_the_same_bits(toy, tmp_path, count):
    whole = sweeps.run(toy_sweep(), tmp_path / "whole").dataset
    with pytest.raises(KeyboardInterrupt):
        sweeps.run(toy_sweep(), tmp_path / "part", progress=Stop(count))
    held = SweepStore.open(tmp_path / "part").done
    assert count <= held.sum() < held.size, "an interrupt keeps what is finished"
    assert np.isnan(jp.load(tmp_path / "part")["value"].values[~held]).all()
    resumed = sweeps.run(toy_sweep(), tmp_path / "part", resume=True)
    assert_same(resumed.dataset, whole)
    assert_same(jp.load(tmp_path / "part"), whole)


def test_an_interrupted_real_sweep_resumes_to_the_same_bits(finished, tmp_path):
    job = Sweep.from_toml(write(tmp_path, REAL))
    with pytest.raises(KeyboardInterrupt):
        sweeps.run(job, tmp_path / "out", progress=Stop(2))
    assert_same(sweeps.run(job, tmp_path / "out", resume=True).dataset, finished[0].dataset)


def test_resuming_a_finished_sweep_computes_nothing(toy, tmp_path, monkeypatch):
    first = sweeps.run(toy_sweep(), tmp_path / "out").dataset

    def broken(*tasks):
        raise AssertionError("a finished cell was computed again")

    # The claim stays as it is: one with another simulation is compared with what is stored.
    for name in ("compute", "compute_batch"):
        monkeypatch.setattr(sweeps, name, broken)
    assert_same(sweeps.run(toy_sweep(), tmp_path / "out", resume=True).dataset, first)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"trials": 19}, "`trials` differs"),
        ({"seed": 2}, "`seed` differs"),
        ({"grid": {"level": (1.0, 2.0), "size": (4, 8)}}, "`grid` differs"),
        ({"grid": {"size": (4, 8), "level": (1.0, 2.0, 3.0)}}, "`order` differs"),
    ],
)
def test_another_configuration_is_refused(toy, tmp_path, change, named):
    first = sweeps.run(toy_sweep(), tmp_path / "out").dataset
    with pytest.raises(UsageError, match=f"holds another sweep.*{named}"):
        sweeps.run(toy_sweep(**change), tmp_path / "out", resume=True)
    assert_same(jp.load(tmp_path / "out"), first)


def test_an_existing_sweep_is_not_overwritten(toy, tmp_path):
    sweeps.run(toy_sweep(), tmp_path / "out")
    with pytest.raises(UsageError, match="holds a sweep already: add --resume"):
        sweeps.run(toy_sweep(), tmp_path / "out")


def test_a_failing_cell_is_recorded_and_the_others_go_on(toy, toy_claim, tmp_path):
    plain = toy_claim()

    def poisoned(*, level, size, **params):
        if (level, size) == (2.0, 8):
            raise FloatingPointError("poisoned cell")
        return plain.simulation(level=level, size=size, **params)

    toy(simulation=poisoned)
    result = sweeps.run(toy_sweep(), tmp_path / "out")
    assert list(result.errors) == ["1,1"]
    assert "FloatingPointError: poisoned cell" in result.errors["1,1"]
    data = result.dataset
    assert str(data["status"].values[1, 1]) == "failed"
    assert np.isfinite(data["value"]).sum() == 5
    line = sweeps.report_failures(result)
    assert "1 cells failed" in line
    assert "--resume" in line
    toy()
    healed = sweeps.run(toy_sweep(), tmp_path / "out", resume=True)
    assert healed.errors == {}
    assert_same(healed.dataset, sweeps.run(toy_sweep(), tmp_path / "fresh").dataset)


def test_more_grid_values_leave_the_other_cells(toy, tmp_path):
    few = sweeps.run(toy_sweep(), tmp_path / "few").dataset
    grid = {"level": (0.5, 1.0, 2.0, 3.0), "size": (4, 6, 8)}
    many = sweeps.run(toy_sweep(grid=grid), tmp_path / "many").dataset
    cells = many.sel(level=few["level"], size=few["size"])
    np.testing.assert_array_equal(cells["value"], few["value"])


def test_seeds_matter(toy, tmp_path):
    one = sweeps.run(toy_sweep(), tmp_path / "one").dataset
    two = sweeps.run(toy_sweep(seed=2), tmp_path / "two").dataset
    assert (one["value"] != two["value"]).all()


@pytest.mark.slow
def test_worker_processes_give_the_same_bits(finished, tmp_path):
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        job = Sweep.from_toml(write(tmp_path, REAL))
        result = sweeps.run(job, tmp_path / "out", executor=pool)
    assert_same(result.dataset, finished[0].dataset)


def test_progress_counts_cells(toy, tmp_path):
    seen = []
    sweeps.run(toy_sweep(), tmp_path / "out", progress=lambda *p: seen.append(p))
    assert seen == [(i, 6) for i in range(7)]


# --- refusals, before anything runs ---


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("trials = 4", "trials = 1", "`trials` = 1: must be an integer ≥ 2"),
        ("trials = 4", "trials = 4.0", "`trials` = 4.0"),
        ("trials = 4", "trials = true", "`trials` = True"),
        ("trials = 4", 'trials = "4"', "`trials` = '4'"),
        ("seed = 3", "seed = -1", "`seed` = -1"),
        ("seed = 3", "seed = 1e3", "`seed` = 1000.0"),
        ("seed = 3", "seed = 99999999999999999999", "`seed` = 99999999999999999999"),
        ("seed = 3", "sead = 3", "unknown key `sead`.*did you mean seed"),
        ("prompt_error", "promt_error", "did you mean contextual.prompt_error"),
        ('claim = "contextual.prompt_error"', "", "`claim` is missing"),
        ('claim = "contextual.prompt_error"', "claim = 3", "`claim`"),
        ("[fixed]", "[fixde]", "unknown key `fixde`"),
        ("gain = 1.0", "gian = 1.0", "`gian` = 1.0.*did you mean gain"),
        ("gain = 1.0", "gain = nan", "`gain` = nan"),
        ("gain = 1.0", 'gain = "one"', "`gain` = 'one'"),
        ("gain = 1.0", "gain = [0.5, 1.0]", "`gain`"),
        ("gain = 1.0", "", "`gain` = .*missing"),
        ("relevant = 2", "relevant = 7", "`relevant` = 7"),
        ("noise = 1.0", "noise = -1.0", "`noise` = -1.0"),
        ("gain = 1.0", "gain = 1.0\nshift_weights = [0.5]", "`shift_weights`"),
        ("ridge = [0.05, 0.02]", "ridge = [0.05, -1.0]", "`ridge` = -1.0"),
        ("ridge = [0.05, 0.02]", "ridge = 0.05", "`ridge` = 0.05: must be a list"),
        ("ridge = [0.05, 0.02]", "ridge = []", "`ridge` = .*must be a list"),
        ("ridge = [0.05, 0.02]", "ridge = [0.05, 0.05]", "repeats"),
        ("ridge = [0.05, 0.02]", "ridge = [0.05]\ngain = [1.0]", "`gain` stands in"),
        ("dim = [8, 12]\n", "", "`dim` = .*missing"),
        ("dim = [8, 12]", "dim = [8, 12.5]", "`dim` = 12.5"),
        ("[grid]", "[grid", "is not TOML"),
    ],
)
def test_bad_files_are_refused_in_one_line(tmp_path, old, new, said):
    assert old in TOML
    path = write(tmp_path, TOML.replace(old, new, 1))
    with pytest.raises((JaxpromptError), match=said) as caught:
        Sweep.from_toml(path)
    assert "\n" not in str(caught.value).strip()
    assert isinstance(caught.value, UsageError | ParameterError | KeyError)
    assert list(tmp_path.iterdir()) == [path], "something was left behind"


def test_an_empty_grid_and_unreadable_files(tmp_path):
    with pytest.raises(UsageError, match=r"\[grid\] is empty"):
        Sweep.from_toml(write(tmp_path, TOML.split("[grid]")[0]))
    with pytest.raises(UsageError, match="cannot be read"):
        Sweep.from_toml(tmp_path / "nothing.toml")
    with pytest.raises(UsageError, match="cannot be read"):
        Sweep.from_toml(tmp_path)
    (tmp_path / "latin.toml").write_bytes(b"claim = '\xe9'")
    with pytest.raises(UsageError, match="not UTF-8"):
        Sweep.from_toml(tmp_path / "latin.toml")


def test_an_unwritable_folder(toy, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        sweeps.run(toy_sweep(), tmp_path / "file" / "out")


# --- memory ---


@pytest.mark.slow
def test_a_million_samples_in_bounded_memory():
    code = """
import resource
import jaxprompt as jp
jp.claim("contextual.prompt_error").simulate(
    key=0, trials=2, tokens=64, relevant=4, signal=1.0, context=1.0, noise=1.0, gain=0.5,
    ridge=0.05, dim=256, samples=10**6)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=500, check=True
    )
    peak = float(result.stdout)
    assert peak < 2, f"peak memory {peak:.2f} GiB"
