"""What a sweep's store survives: kills, damage, full disks, other writers, and growth."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from quick_cases import some_slow

import jaxprompt as jp
from jaxprompt.errors import UsageError
from jaxprompt.sweep import Sweep, store
from jaxprompt.sweep import runner as sweeps
from jaxprompt.sweep.store import SweepStore


def job(**changes):
    fields = {
        "claim": "contextual.toy",
        "grid": {"level": (1.0, 2.0, 3.0), "size": (4, 8)},
        "trials": 20,
        "seed": 1,
    }
    return Sweep(**{**fields, **changes})


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    """Where a finished toy sweep is kept to be copied."""
    return tmp_path_factory.mktemp("shelf") / "out"


@pytest.fixture
def whole(toy, tmp_path, shelf):
    """A finished toy sweep in ``tmp_path / "out"``: its dataset."""
    if not shelf.exists():
        sweeps.run(job(), shelf)
    shutil.copytree(shelf, tmp_path / "out")
    return jp.load(shelf)


def assert_same(one, other, ignore=()):
    assert list(one.data_vars) == list(other.data_vars)
    for name in {*one.data_vars} - {*ignore}:
        np.testing.assert_array_equal(one[name].values, other[name].values, err_msg=str(name))


# --- kills ---

# A process that forks one sweep after another and kills them. It imports everything first, so
# that a child starts at once; the toy needs no compilation.
KILLER = """
import os, random, signal, sys, time
import numpy as np
sys.path.insert(0, sys.argv[1])
os.environ["JAXPROMPT_TEST_TYPES"] = "0"
from conftest import make_toy
import jaxprompt, xarray
from pathlib import Path
from jaxprompt.stats import mean_estimate
from jaxprompt.sweep import Sweep, runner, tasks
from jaxprompt.sweep.store import SweepStore

folder, kills = Path(sys.argv[2]), int(sys.argv[3])

def simulation(*, key, trials, level, size):
    time.sleep(0.01)
    draws = np.random.default_rng([int(100 * level), size]).normal(level, size=trials)
    return {"value": mean_estimate(draws)}

claim = make_toy(simulation=simulation)
tasks._task_key = lambda *a: 0  # no random numbers of JAX: nothing to start in every child
claim.__class__.simulate = lambda self, run, *, key, trials: simulation(
    key=key, trials=trials, **run)
runner.environment = lambda seed: {"seed": seed}
runner.jax.process_count = lambda: 1
runner.COMMIT_SHARE = 0  # each cell is written at once, however slow the disk is
runner.judge_cells = lambda sweep, store: np.ones(sweep.shape)
grid = {"level": tuple(float(x) for x in range(1, 13)), "size": (2, 4, 6, 8)}
job = Sweep(claim, grid, {}, 20, 1)
claim.__class__.predict = lambda self, run: {"value": run["level"]}

def start(out):
    child = os.fork()
    if child == 0:
        try:
            runner.run(job, out, resume=True)
            os._exit(0)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
    return child

began = time.monotonic()
child = start(folder / "whole")
assert os.waitpid(child, 0)[1] == 0
span = time.monotonic() - began
assert SweepStore.open(folder / "whole").done.all(), "the sweep that is not killed has failures"
chance, hit, place, stages = random.Random(5), 0, 0, []
while hit < kills:
    child = start(folder / f"part{place}")
    time.sleep(chance.uniform(0, span))
    os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        hit += 1
        stages.append(int(SweepStore.open(folder / f"part{place}").done.sum())
                      if SweepStore.exists(folder / f"part{place}") else 0)
    else:
        assert status == 0, status
        place += 1
assert os.waitpid(start(folder / f"part{place}"), 0)[1] == 0
print(hit, place + 1, *stages)
"""


@pytest.mark.slow
def test_a_killed_sweep_resumes_to_the_same_bits(tmp_path):
    kills = 24
    command = [
        sys.executable,
        "-c",
        KILLER,
        str(Path(__file__).parents[1]),
        str(tmp_path),
        str(kills),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    hit, sweeps_done, *stages = map(int, done.stdout.split())
    assert hit == kills
    amid = {stage for stage in stages if 0 < stage < 48}
    assert len(amid) >= 5, f"the kills struck at {stages} cells only"
    whole = jp.load(tmp_path / "whole")
    assert np.isfinite(whole["value"]).all()
    for place in range(sweeps_done):
        assert_same(jp.load(tmp_path / f"part{place}"), whole)
        left = [p.name for p in (tmp_path / f"part{place}").iterdir()]
        assert left == ["sweep.sqlite"]


TOML = """
claim = "contextual.prompt_error"
trials = 8
seed = 3
[fixed]
tokens = 6
relevant = 2
signal = 1.0
context = 1.5
noise = 1.0
gain = 1.0
[grid]
dim = [8, 12, 16, 20]
ratio = [0.5, 2.0]
ridge = [0.05, 0.0]
"""


def command(tmp_path, out, *options):
    path = tmp_path / "sweep.toml"
    path.write_text(TOML, encoding="utf-8")
    return [sys.executable, "-m", "jaxprompt", "sweep", str(path), "--out", str(out), *options]


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--workers", "2"]])
def test_the_command_line_killed_at_random_moments(tmp_path, options):
    """Killed when a random number of cells is stored, so that no speed of the machine matters."""
    environment = {**os.environ, "JAXPROMPT_CACHE": str(tmp_path / "cache")}

    def start(out):
        return subprocess.Popen(
            command(tmp_path, out, "--resume", *options),
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )

    def finish(process):
        _, errors = process.communicate(timeout=500)
        return process.returncode, errors.decode()

    def flags(out):
        return int(SweepStore.open(out).done.sum()) if SweepStore.exists(out) else 0

    code, errors = finish(start(tmp_path / "whole"))
    assert code in (0, 3), errors
    chance, stages = random.Random(7), []
    for folder in ("part0", "part1"):
        out = tmp_path / folder
        for target in sorted(chance.sample(range(15), 4)):
            process = start(out)
            deadline = time.monotonic() + 300
            while process.poll() is None and flags(out) < target:
                assert time.monotonic() < deadline, f"{flags(out)} of {target} cells after 300 s"
                time.sleep(0.001)
            time.sleep(chance.uniform(0, 0.02))
            process.send_signal(signal.SIGKILL)
            code, errors = finish(process)
            # It may have come to its end in between.
            assert code in (-signal.SIGKILL, 0, 3), errors
            if code == -signal.SIGKILL:
                stages.append(flags(out))
        assert finish(start(out))[0] in (0, 3)
        assert_same(jp.load(out), jp.load(tmp_path / "whole"))
    assert len({stage for stage in stages if 0 < stage < 16}) > 2, f"killed at {stages} cells only"


# --- damage ---


VARIABLES = store.variables(["value"])


def change(out, statement, *values):
    """Change the file behind the back of what wrote it."""
    with contextlib.closing(sqlite3.connect(out / store.FILE)) as connection:
        connection.execute(statement, values)
        connection.commit()


def record_of(out, cell):
    with contextlib.closing(sqlite3.connect(out / store.FILE)) as connection:
        query = "SELECT record FROM cells WHERE cell = ?"
        return connection.execute(query, (cell,)).fetchone()[0]


def cut(record, at):
    return record[:-1]


def empty(record, at):
    return b""


def flip(record, at):
    return record[:at] + bytes([record[at] ^ 0x10]) + record[at + 1 :]


@pytest.mark.parametrize("harm", [cut, empty, flip])
@pytest.mark.parametrize("name", ["cell", "trials", *VARIABLES])
def test_a_damaged_cell_is_refused_and_computed_anew(whole, tmp_path, harm, name):
    at = 8 * ["cell", "trials", *VARIABLES].index(name) + 5
    record = harm(record_of(tmp_path / "out", 2), at)
    change(tmp_path / "out", "UPDATE cells SET record = ? WHERE cell = 2", record)
    with pytest.raises(UsageError, match=r"1 cells of the sweep are damaged \(first: cell 1,0\)"):
        jp.load(tmp_path / "out")
    seen = []
    again = sweeps.run(
        job(), tmp_path / "out", resume=True, progress=lambda done, total: seen.append(done)
    )
    assert seen == [5, 6], "the damaged cell, and no other, is computed"
    assert again.notes == ("1 damaged cells are computed anew",)
    assert_same(again.dataset, whole)
    assert_same(jp.load(tmp_path / "out"), whole)


def test_a_damaged_checksum_is_a_damaged_cell(whole, tmp_path):
    change(tmp_path / "out", "UPDATE cells SET checksum = checksum + 1 WHERE cell = 2")
    with pytest.raises(UsageError, match=r"1 cells of the sweep are damaged \(first: cell 1,0\)"):
        jp.load(tmp_path / "out")
    assert_same(sweeps.run(job(), tmp_path / "out", resume=True).dataset, whole)


def test_a_cell_that_vanished_is_noticed_and_computed_anew(whole, tmp_path):
    change(tmp_path / "out", "DELETE FROM cells WHERE cell = 2")
    with pytest.raises(UsageError, match="1 cells of the sweep are damaged"):
        jp.load(tmp_path / "out")
    again = sweeps.run(job(), tmp_path / "out", resume=True)
    assert again.notes == ("1 damaged cells are computed anew",)
    assert_same(again.dataset, whole)
    assert_same(jp.load(tmp_path / "out"), whole)


def test_cells_that_changed_places_are_noticed(whole, tmp_path):
    change(tmp_path / "out", "UPDATE cells SET cell = 90 WHERE cell = 1")
    change(tmp_path / "out", "UPDATE cells SET cell = 1 WHERE cell = 2")
    change(tmp_path / "out", "UPDATE cells SET cell = 2 WHERE cell = 90")
    assert SweepStore.open(tmp_path / "out").damaged.sum() == 2
    assert_same(sweeps.run(job(), tmp_path / "out", resume=True).dataset, whole)


@pytest.mark.parametrize("seed", some_slow(range(40), first=12))
def test_damage_anywhere_in_the_file_changes_no_number(whole, tmp_path, seed):
    """A page cut off, zeroed or with flipped bits: refused, or read as it was; resumed, or refused
    in one line, and never another number."""
    chance, path = random.Random(seed), tmp_path / "out" / store.FILE
    data = bytearray(path.read_bytes())
    at = chance.randrange(len(data))
    match seed % 4:
        case 0:
            data[at] ^= 1 << chance.randrange(8)
        case 1:
            data[at : at + 512] = bytes(len(data[at : at + 512]))
        case 2:
            data = data[:at]
        case _:
            data[at : at + 64] = chance.randbytes(len(data[at : at + 64]))
    path.write_bytes(bytes(data))
    for act in (jp.load, lambda out: sweeps.run(job(), out, resume=True).dataset):
        refusal = ""
        try:
            assert_same(act(tmp_path / "out"), whole)
        except UsageError as error:
            refusal = str(error)
        assert "\n" not in refusal
        assert not refusal or "damaged" in refusal or "cannot be opened" in refusal, refusal


def test_damaged_pages_cost_their_cells_alone(toy, tmp_path):
    grid = {"level": tuple(float(i) for i in range(400))}
    large = job(grid=grid, fixed={"size": 4}, trials=2)
    whole = sweeps.run(large, tmp_path / "out").dataset
    path = tmp_path / "out" / store.FILE
    data = bytearray(path.read_bytes())
    pages = len(data) // 4096
    assert pages > 10
    at = 4096 * next(p for p in range(6, pages) if data[4096 * p] == 0x0D)  # a leaf of a table
    data[at : at + 100] = b"\xff" * 100
    path.write_bytes(bytes(data))
    with pytest.raises(UsageError, match=r"is damaged .*--resume"):
        jp.load(tmp_path / "out")
    seen = []
    again = sweeps.run(large, tmp_path / "out", resume=True, progress=lambda *p: seen.append(p[0]))
    assert 250 < seen[0] < 400, "the cells of one page, and no others, are computed anew"
    assert "damaged cells are computed anew" in again.notes[0]
    assert_same(again.dataset, whole)
    assert_same(jp.load(tmp_path / "out"), whole)


def test_a_damaged_description_is_refused_in_one_line(whole, tmp_path):
    change(tmp_path / "out", "UPDATE meta SET value = x'7b7d' WHERE name = 'description'")
    for act in (jp.load, lambda out: sweeps.run(job(), out, resume=True)):
        with pytest.raises(UsageError, match=r"is damaged .*into another folder") as caught:
            act(tmp_path / "out")
        assert "\n" not in str(caught.value)


# --- disks ---


@contextlib.contextmanager
def full_disk():
    """No file of this process may grow: every write fails, for real."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_one_line_and_loses_nothing(whole, tmp_path, monkeypatch):
    shutil.rmtree(tmp_path / "out")
    monkeypatch.setattr(sweeps, "COMMIT_SHARE", 0)  # each cell is written at once
    with contextlib.ExitStack() as stack:

        def fill(done, total):
            if done == 3:
                stack.enter_context(full_disk())

        with pytest.raises(UsageError, match=r"cannot be written .*run again with --resume"):
            sweeps.run(job(), tmp_path / "out", progress=fill)
    assert SweepStore.open(tmp_path / "out").done.sum() == 3
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["sweep.sqlite"]
    assert np.isfinite(jp.load(tmp_path / "out")["value"]).sum() == 3
    assert_same(sweeps.run(job(), tmp_path / "out", resume=True).dataset, whole)


def test_a_full_disk_from_the_start_leaves_nothing(toy, tmp_path):
    with full_disk(), pytest.raises(UsageError, match="cannot be written"):
        sweeps.run(job(), tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_read_only_folder_is_refused(whole, tmp_path, monkeypatch):

    def refuse(self, *args, **kwargs):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with monkeypatch.context() as patch:  # permissions do not stop a superuser
        patch.setattr(Path, "touch", refuse)
        for name, resume in (("new", False), ("out", True)):
            with pytest.raises(UsageError, match=r"cannot be written .Read-only file"):
                sweeps.run(job(), tmp_path / name, resume=resume)
    assert_same(jp.load(tmp_path / "out"), whole)


# --- other writers ---


def test_two_sweeps_in_one_folder(whole, tmp_path):
    with store.lock(tmp_path / "out"):
        with pytest.raises(
            UsageError, match=rf"at work there \(process {os.getpid()} on "
        ) as caught:
            sweeps.run(job(), tmp_path / "out", resume=True)
        assert "\n" not in str(caught.value)
        assert np.isfinite(jp.load(tmp_path / "out")["value"]).all(), "reading is no matter"
    sweeps.run(job(), tmp_path / "out", resume=True)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["sweep.sqlite"]


def test_a_dead_holder_leaves_no_lock(tmp_path):
    code = f"""
import os, signal
from pathlib import Path
from jaxprompt.sweep import store
with store.lock(Path({str(tmp_path)!r})):
    os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code], timeout=600, check=False)
    assert done.returncode == -signal.SIGKILL
    assert (tmp_path / ".lock").exists()
    with store.lock(tmp_path):
        pass
    assert not (tmp_path / ".lock").exists()


# --- growth ---


def test_more_grid_values_keep_what_was_computed(toy, toy_claim, tmp_path):
    calls = []

    def counted(*, level, size, **params):
        calls.append((level, size))
        return toy_claim().simulation(level=level, size=size, **params)

    toy(simulation=counted)
    few = sweeps.run(job(), tmp_path / "out").dataset
    grid = {"level": (0.5, 3.0, 2.0, 1.0), "size": (4, 6, 8)}
    fresh = sweeps.run(job(grid=grid), tmp_path / "fresh").dataset
    calls.clear()
    grown = sweeps.run(job(grid=grid), tmp_path / "out", resume=True).dataset
    assert_same(grown, fresh)
    kept = {(level, size) for level in (1.0, 2.0, 3.0) for size in (4, 8)}
    assert len(calls) == 6
    assert not set(calls) & kept, "a stored cell was computed again"
    assert_same(jp.load(tmp_path / "out").sel(level=few["level"], size=few["size"]), few)
    with pytest.raises(UsageError, match="`grid` differs"):
        sweeps.run(job(), tmp_path / "out", resume=True)


@pytest.mark.slow
def test_values_added_along_a_shared_parameter(tmp_path):
    fixed = {"tokens": 6, "relevant": 2, "signal": 1.0, "context": 1.5, "noise": 1.0, "gain": 1.0}
    fixed["ridge"] = 0.1
    few = Sweep("contextual.prompt_error", {"dim": (8,), "ratio": (0.5, 2.0)}, fixed, 4, 3)
    old = sweeps.run(few, tmp_path / "out").dataset
    more = Sweep(few.claim, {"dim": (8,), "ratio": (0.5, 1.0, 2.0)}, few.fixed, 4, 3)
    grown = sweeps.run(more, tmp_path / "out", resume=True).dataset
    fresh = sweeps.run(more, tmp_path / "fresh").dataset
    assert_same(grown.sel(ratio=[0.5, 2.0]), old, ignore=["status"])
    assert_same(grown.sel(ratio=[1.0]), fresh.sel(ratio=[1.0]), ignore=["status"])
    np.testing.assert_allclose(grown["error"], fresh["error"], rtol=1e-5)


def continuing(claim, calls):
    """The toy's simulation, but with a first trial."""
    from jaxprompt.stats import mean_estimate

    def simulation(*, key, trials, level, size, first=0):
        calls.append((first, trials))
        draws = [
            np.random.default_rng([int(level), size, first + t]).normal() for t in range(trials)
        ]
        return {"value": mean_estimate(level + 0.5 * np.array(draws))}

    return simulation


def test_more_trials_go_on_from_the_stored_ones(toy, toy_claim, tmp_path):
    calls = []
    toy(simulation=continuing(toy_claim(), calls))
    sweeps.run(job(trials=20), tmp_path / "out")
    calls.clear()
    grown = sweeps.run(job(trials=50), tmp_path / "out", resume=True).dataset
    assert calls == [(20, 30)] * 6, "only the new trials run"
    fresh = sweeps.run(job(trials=50), tmp_path / "fresh").dataset
    assert (grown["trials"] == 50).all()
    for name in ("value", "value_stderr"):
        np.testing.assert_allclose(grown[name], fresh[name], rtol=1e-12, err_msg=name)
    with pytest.raises(UsageError, match="`trials` differs"):
        sweeps.run(job(trials=20), tmp_path / "out", resume=True)


def test_an_interrupted_growth_resumes_to_the_same_bits(toy, toy_claim, tmp_path):
    toy(simulation=continuing(toy_claim(), []))
    grid = {"level": (1.0, 2.0, 3.0, 4.0), "size": (4, 8)}

    def stop(done, total):
        if done >= 3:
            raise KeyboardInterrupt

    for name in ("whole", "part"):
        sweeps.run(job(trials=20), tmp_path / name)
    whole = sweeps.run(job(trials=50, grid=grid), tmp_path / "whole", resume=True).dataset
    with pytest.raises(KeyboardInterrupt):
        sweeps.run(job(trials=50, grid=grid), tmp_path / "part", resume=True, progress=stop)
    # A chunk of the stored start that is damaged is noticed: that cell starts from nothing.
    assert_same(
        sweeps.run(job(trials=50, grid=grid), tmp_path / "part", resume=True).dataset, whole
    )
    again = sweeps.run(job(trials=90, grid=grid), tmp_path / "part", resume=True).dataset
    assert (again["trials"] == 90).all()


def test_more_trials_where_a_simulation_cannot_go_on(whole, tmp_path):
    grown = sweeps.run(job(trials=50), tmp_path / "out", resume=True).dataset
    assert_same(grown, sweeps.run(job(trials=50), tmp_path / "fresh").dataset)


@pytest.mark.slow
def test_real_simulations_go_on():
    claim = jp.claim("contextual.prompt_error")
    point = {"tokens": 6, "relevant": 2, "signal": 1.0, "context": 1.5, "noise": 1.0, "gain": 1.0,
             "dim": 8, "ratio": [0.5, 2.0], "ridge": 0.1}  # fmt: skip
    whole = claim.simulate(key=3, trials=12, **point)
    parts = [
        claim.simulate(key=3, trials=5, **point),
        claim.simulate(key=3, trials=7, first=5, **point),
    ]
    for name, estimate in whole.items():
        joined = jp.stats.combine([part[name] for part in parts])
        np.testing.assert_allclose(joined.mean, estimate.mean, rtol=1e-6, err_msg=name)
        np.testing.assert_allclose(joined.stderr, estimate.stderr, rtol=1e-5, err_msg=name)


def test_a_growth_cut_short_by_a_kill_is_undone(toy, tmp_path, monkeypatch):
    """The file keeps the old cells until the transaction that moves them is complete."""
    whole = sweeps.run(job(), tmp_path / "out").dataset
    grid = {"level": (0.5, 3.0, 2.0, 1.0), "size": (4, 6, 8)}

    def stopped(self, connection):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(SweepStore, "_write_description", stopped)
        with pytest.raises(KeyboardInterrupt):
            sweeps.run(job(grid=grid), tmp_path / "out", resume=True)
    assert_same(jp.load(tmp_path / "out"), whole)
    grown = sweeps.run(job(grid=grid), tmp_path / "out", resume=True).dataset
    assert_same(grown, sweeps.run(job(grid=grid), tmp_path / "fresh").dataset)


# --- provenance ---


def test_every_session_is_recorded(whole, tmp_path, monkeypatch):
    assert len(json.loads(whole.attrs["sessions"])) == 0
    here = sweeps.environment(1)
    monkeypatch.setattr(sweeps, "environment", lambda seed: {**here, "jax": "9.9", "command": "x"})
    again = sweeps.run(job(), tmp_path / "out", resume=True)
    (session,) = json.loads(again.dataset.attrs["sessions"])
    assert session["jax"] == "9.9"
    assert again.dataset.attrs["jax"] == here["jax"]
    assert again.notes == (
        "what is stored was computed with another jax; new cells may differ in rounding",
    )
