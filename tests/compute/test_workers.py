"""Worker processes that die: what they did is tried again, a bounded number of times."""

from __future__ import annotations

import collections
import json
import os
import subprocess
import sys
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import pytest

import jaxprompt as jp
from jaxprompt.compute.workers import MAX_ATTEMPTS, WorkerPool, run_tasks
from jaxprompt.errors import UsageError
from jaxprompt.sweep import Sweep
from jaxprompt.sweep import runner as sweeps


class Mortal(WorkerPool):
    """A pool without processes: a task that `kills` says so about breaks all that is in flight."""

    def __init__(self, kills, starts=lambda: True):
        self.workers, self.kills, self.starts = 2, kills, starts
        self.flight: dict[Future, tuple] = {}
        self.begun = collections.Counter()
        self.beside: dict[object, list] = collections.defaultdict(list)
        self.renewed, self.broken = 0, False

    def submit(self, fn, task):
        if self.broken:
            raise BrokenProcessPool
        future = Future()
        self.flight[future] = (fn, task)
        self.begun[task] += 1
        self.beside[task].append(len(self.flight) - 1)
        return future

    def renew(self):
        if not self.starts():
            raise UsageError("worker processes die as they start")
        self.renewed, self.broken = self.renewed + 1, False

    def step(self):
        """Finish the oldest task, or break."""
        future, (fn, task) = next(iter(self.flight.items()))
        if self.kills(task, self.begun[task]):
            self.broken, flight = True, list(self.flight)
            self.flight.clear()
            for each in flight:
                each.set_exception(BrokenProcessPool())
        else:
            del self.flight[future]
            future.set_result(fn(task))


@pytest.fixture
def stepped(monkeypatch):
    """Waiting for a future lets the pool do one step."""
    from jaxprompt.compute import workers

    def use(pool):
        def wait(waiting, return_when):
            if not any(f.done() for f in waiting):
                pool.step()
            return {f for f in waiting if f.done()}, set()

        monkeypatch.setattr(workers.concurrent.futures, "wait", wait)
        return pool

    return use


def run(pool, tasks=range(12)):
    return dict(run_tasks(pool, lambda task: task**2, tasks, 4))


def test_a_worker_killed_once_costs_nothing_but_time(stepped):
    pool = stepped(Mortal(lambda task, tries: task == 5 and tries == 1))
    assert run(pool) == {task: task**2 for task in range(12)}
    assert pool.renewed == 1
    assert max(pool.begun.values()) == 2


def test_a_task_that_kills_every_worker_is_given_up_and_the_rest_goes_on(stepped):
    pool = stepped(Mortal(lambda task, tries: task in (0, 3, 7)))
    found = run(pool)
    for task in range(12):
        if task in (0, 3, 7):
            assert isinstance(found[task], BrokenExecutor)
            assert pool.begun[task] == MAX_ATTEMPTS
            assert pool.beside[task][-2:] == [0, 0], "a neighbour may have been to blame"
        else:
            assert found[task] == task**2, f"task {task} paid for another's deaths"
            assert pool.begun[task] <= MAX_ATTEMPTS


def test_workers_that_cannot_start_end_the_sweep(stepped):
    pool = stepped(Mortal(lambda task, tries: True, starts=lambda: False))
    with pytest.raises(UsageError, match="die as they start"):
        run(pool)


def test_a_worker_that_dies_idle_is_replaced(stepped):
    pool = stepped(Mortal(lambda task, tries: False))
    pool.broken = True
    assert run(pool) == {task: task**2 for task in range(12)}
    assert pool.renewed == 1


def test_every_task_could_kill_and_the_run_still_ends(stepped):
    pool = stepped(Mortal(lambda task, tries: True))
    assert all(isinstance(found, BrokenExecutor) for found in run(pool).values())
    assert set(pool.begun.values()) == {MAX_ATTEMPTS}


def test_an_executor_of_someone_elses_is_not_replaced(toy, tmp_path):
    class Dead(ProcessPoolExecutor):
        def submit(self, *args, **kwargs):
            raise BrokenProcessPool

    job = Sweep("contextual.toy", {"level": (1.0, 2.0)}, {"size": 4}, 20, 1)
    with pytest.raises(UsageError, match="a worker process died: use `process_pool`") as caught:
        sweeps.run(job, tmp_path / "out", executor=Dead(1))
    assert "\n" not in str(caught.value)


def test_a_cell_that_kills_its_worker_is_recorded(toy, tmp_path, stepped):
    job = Sweep("contextual.toy", {"level": (1.0, 2.0, 3.0), "size": (4, 8)}, {}, 20, 1)
    alone = sweeps.run(job, tmp_path / "alone").dataset

    class Killed(Mortal):
        def submit(self, fn, task):
            cells = tuple(index for one in task for index in one.indices)
            return super().submit(lambda places: fn(task), cells)

    pool = stepped(Killed(lambda places, tries: (1, 1) in places))
    result = sweeps.run(job, tmp_path / "out", executor=pool)
    assert result.errors == {
        "1,1": "its worker process died 4 times: give it more memory, or lower --workers"
    }
    assert str(result.dataset["status"].values[1, 1]) == "failed"
    whole = sweeps.run(job, tmp_path / "out", resume=True)
    assert whole.errors == {}
    np.testing.assert_array_equal(whole.dataset["value"], alone["value"])


# --- real processes ---

CLAIMS = """
import os, signal
from pathlib import Path
import jax
import numpy as np
from jaxprompt import Claim, Design, Falsifier, Parameter, Quantity, Relation
from jaxprompt.stats import mean_estimate

HERE = Path(__file__).parent

def simulate(*, key, trials, level, size):
    if size == 5 or (size == 6 and not (HERE / "struck").exists()):
        (HERE / "struck").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    words = np.asarray(jax.random.key_data(key)).tolist()
    draws = np.random.default_rng(words).normal(level, size=(trials, size))
    return {"value": mean_estimate(draws.mean(axis=1))}

CLAIM = Claim(
    id="mine.mean", title="t", statement="s", relation=Relation.MEAN, source="s",
    parameters=(Parameter("level", "real", "mean"), Parameter("size", "integer", "n", low=1)),
    quantities=(Quantity("value", "mean", 1.0),),
    falsifiers=(Falsifier("a", "a", lambda **p: {"value": 9.0}),
                Falsifier("b", "b", lambda **p: {"value": -9.0})),
    closed_form=lambda *, level, size: {"value": level}, simulation=simulate,
    designs={"quick": Design(({"level": 1.0, "size": 4},), trials=20),
             "full": Design(({"level": 1.0, "size": 4},), trials=20)},
)
"""


def sweep_mine(tmp_path, name, sizes, *options):
    (tmp_path / "mine.py").write_text(CLAIMS, encoding="utf-8")
    table = f'claim = "mine.mean"\ntrials = 20\n[grid]\nlevel = [1.0, 2.0]\nsize = {sizes}\n'
    (tmp_path / "mine.toml").write_text(table, encoding="utf-8")
    words = ["sweep", str(tmp_path / "mine.toml"), "--claims", str(tmp_path / "mine.py")]
    words += ["--out", str(tmp_path / name), "--json", "--no-cache", *options]
    done = subprocess.run(
        [sys.executable, "-m", "jaxprompt", *words],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


@pytest.mark.slow
def test_a_sweep_outlives_its_workers(tmp_path):
    done = sweep_mine(tmp_path, "out", [4, 5, 6, 7, 8], "--workers", "2")
    assert done.returncode == 3, done.stderr
    found = json.loads(done.stdout)
    assert found["status"] == {"confirmed": 8, "failed": 2}, "only the cells that kill are lost"
    assert {place: text[:34] for place, text in found["errors"].items()} == {
        "0,1": "its worker process died 4 times: g",
        "1,1": "its worker process died 4 times: g",
    }
    assert "2 cells failed" in done.stderr
    assert (tmp_path / "struck").exists(), "the kill that is not repeated did not happen"
    alone = sweep_mine(tmp_path, "alone", [4, 6, 7, 8])
    assert alone.returncode == 0, alone.stderr
    one, other = jp.load(tmp_path / "out"), jp.load(tmp_path / "alone")
    np.testing.assert_array_equal(one["value"].sel(size=[4, 6, 7, 8]), other["value"])


@pytest.mark.slow
def test_workers_that_cannot_load_the_claims_are_one_line(tmp_path):
    loads_once = CLAIMS + (
        "\nif (HERE / 'once').exists(): raise OSError('gone')\n(HERE / 'once').touch()\n"
    )
    (tmp_path / "sub").mkdir()
    done = sweep_mine(tmp_path, "out", [4])  # leaves mine.py and mine.toml
    (tmp_path / "mine.py").write_text(loads_once, encoding="utf-8")
    words = ["sweep", str(tmp_path / "mine.toml"), "--claims", str(tmp_path / "mine.py")]
    done = subprocess.run(
        [sys.executable, "-m", "jaxprompt", *words, "--out", str(tmp_path / "two"),
         "--workers", "2", "--no-cache"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    lines = done.stderr.strip().splitlines()
    assert lines[-1].startswith("jaxprompt: worker processes die as they start")
    assert any("a worker cannot start" in line and "gone" in line for line in lines)
    assert "Traceback" not in done.stderr
    assert not Path(tmp_path / "two" / ".lock").exists()
