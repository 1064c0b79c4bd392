"""Sweeps on a real dask cluster: the same bits, a killed worker, a poisoned cell."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("distributed", reason="the extra `cluster` is not installed")
pytestmark = pytest.mark.slow
EXAMPLE = Path(__file__).parents[2] / "examples" / "ridge_risk.py"

CLUSTER = """
import json, os, signal, sys, threading, time
from pathlib import Path
import numpy as np

def main():
    import jaxprompt as jp
    from distributed import Client, LocalCluster
    from jaxprompt.sweep import runner as sweeps
    from jaxprompt.sweep.store import SweepStore
    folder = Path(sys.argv[1])
    fixed = dict(tokens=6, relevant=2, signal=1.0, context=1.5, noise=1.0, gain=1.0)
    grid = dict(dim=[8, 10, 12, 14], ratio=[0.5, 2.0], ridge=[0.0, 0.1])
    job = sweeps.Sweep("contextual.prompt_error", grid, fixed, 6, 3)
    found = {}

    def same(one, other):
        return all(np.array_equal(one[n], other[n], equal_nan=one[n].dtype.kind == "f")
                   for n in one.data_vars)

    alone = sweeps.run(job, folder / "alone").dataset
    with LocalCluster(n_workers=2, threads_per_worker=2, dashboard_address=None) as cluster:
        with Client(cluster) as client:
            before = {w["pid"] for w in client.run(lambda: {"pid": os.getpid()}).values()}
            found["workers"] = len(before)

            def strike(done, total):
                if done >= 4 and "killed" not in found:
                    found["killed"], found["at"] = min(before), done
                    os.kill(min(before), signal.SIGKILL)

            result = sweeps.run(job, folder / "dask", executor=client, progress=strike)
            found["errors"] = dict(result.errors)
            found["same"] = same(result.dataset, alone)
            after = {w["pid"] for w in client.run(lambda: {"pid": os.getpid()}).values()}
            found["replaced"] = found["killed"] not in after and len(after) == 2

            def poison(dask_worker=None):
                from jaxprompt.sweep import tasks
                whole = tasks._compute
                tasks._compute_together = lambda group: [None] * len(group)  # cell by cell
                def compute(task):
                    if task.run["dim"] == 12:
                        raise ZeroDivisionError("a poisoned cell")
                    return whole(task)
                tasks._compute = compute

            client.run(poison)
            result = sweeps.run(job, folder / "poisoned", executor=client)
            found["poisoned"] = dict(result.errors)
            found["failed"] = int((result.dataset["status"] == "failed").sum())
            found["message"] = sweeps.report_failures(result)
        address = cluster.scheduler_address
        from jaxprompt.cli import main as cli
        # A user's claim: the workers have to read its file before they can compute.
        own = folder / "own.toml"
        own.write_text('claim = "example.ridge_risk"\\ntrials = 6\\n[fixed]\\nnoise = 0.5\\n'
                       'ridge = 0.1\\n[grid]\\ndim = [8, 16]\\nratio = [0.5, 2.0]\\n')
        ways = {"own_alone": [], "own_dask": ["--scheduler", address]}
        found["own_codes"] = [
            cli.main(["sweep", str(own), "--out", str(folder / name), "--claims", sys.argv[2],
                      *way])
            for name, way in ways.items()]
        found["own_same"] = same(*(jp.load(folder / name) for name in ways))
        path = folder / "job.toml"
        lines = ['claim = "contextual.prompt_error"', "trials = 6", "seed = 3"]
        for name, table in (("fixed", fixed), ("grid", grid)):
            lines += [f"[{name}]", *(f"{k} = {json.dumps(v)}" for k, v in table.items())]
        path.write_text("\\n".join(lines))
        found["code"] = cli.main(["sweep", str(path), "--out", str(folder / "cli"),
                                  "--scheduler", address])
    held = SweepStore.open(folder / "poisoned").done
    found["held"] = int(held.sum())
    healed = sweeps.run(job, folder / "poisoned", resume=True).dataset
    found["healed"] = same(healed, alone)
    print(json.dumps(found), flush=True)

if __name__ == "__main__":
    main()
"""


def test_a_cluster_of_two_with_a_killed_worker_and_a_poisoned_cell(tmp_path):
    script = tmp_path / "cluster.py"
    script.write_text(CLUSTER, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path), str(EXAMPLE)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        capture_output=True,
        text=True,
        timeout=1500,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["workers"] == 2
    assert 4 <= found["at"] < 16, f"the worker was killed at {found['at']} of 16 cells"
    assert found["replaced"]
    assert found["errors"] == {}, "a killed worker's cells are computed by the other"
    assert found["same"], "a cluster gives the bits of one process"
    assert len(found["poisoned"]) == found["failed"] == 4
    assert set(found["poisoned"].values()) == {"ZeroDivisionError: a poisoned cell"}
    assert "4 cells failed" in found["message"]
    assert "--resume" in found["message"]
    assert found["held"] == 12
    assert found["healed"]
    assert len(set(found["own_codes"])) == 1, "expected one exit code with and without the cluster"
    assert found["own_codes"][0] in (0, 3), "every cell of the user's claim was computed"
    assert found["own_same"], "a user's claim gives the same bits on the cluster"
    assert found["code"] == 3, "through the command line the poisoned cells fail too"
    assert "4 cells failed (first: cell 2,0,0: ZeroDivisionError" in done.stderr


LOST = """
import os, signal, subprocess, sys
from pathlib import Path

def main():
    from distributed import Client
    import jaxprompt as jp
    from jaxprompt.cli import main as cli
    from jaxprompt.sweep import runner as sweeps
    from jaxprompt.sweep.store import SweepStore
    folder = Path(sys.argv[1])
    # A process of its own, so that it can be killed as a machine's failure would end it.
    scheduler = subprocess.Popen(
        [sys.executable, "-m", "distributed.cli.dask_scheduler", "--port", "0", "--host",
         "127.0.0.1", "--scheduler-file", str(folder / "scheduler.json"), "--no-dashboard"],
        stderr=subprocess.DEVNULL)
    worker = subprocess.Popen(
        [sys.executable, "-m", "distributed.cli.dask_worker", "--scheduler-file",
         str(folder / "scheduler.json"), "--nworkers", "1", "--nthreads", "1", "--no-dashboard"],
        stderr=subprocess.DEVNULL)
    try:
        client = Client(scheduler_file=str(folder / "scheduler.json"), timeout=600)
        client.wait_for_workers(1, timeout=600)
        address = client.scheduler.address
        client.close()
        lines = ['claim = "contextual.prompt_error"', "trials = 6", "[fixed]", "tokens = 6",
                 "relevant = 2", "signal = 1.0", "context = 1.5", "noise = 1.0", "gain = 1.0",
                 "[grid]", "dim = [8, 10, 12, 14]", "ratio = [0.5, 2.0]"]
        (folder / "job.toml").write_text("\\n".join(lines))
        record = sweeps._record

        def strike(*args):
            count = record(*args)
            if scheduler.poll() is None:
                scheduler.kill()
            return count

        sweeps._record = strike
        words = ["sweep", str(folder / "job.toml"), "--out", str(folder / "out")]
        print("code", cli.main([*words, "--scheduler", address]))
        sweeps._record = record
        store = SweepStore.open(folder / "out")
        print("held", int(store.done.sum()), store.errors)
        print("resumed", cli.main([*words, "--resume", "--json"]) in (0, 3))
        print("whole", bool(SweepStore.open(folder / "out").done.all()))
    finally:
        worker.kill()
        scheduler.kill()

if __name__ == "__main__":
    main()
"""


def test_a_killed_scheduler_is_one_line_and_loses_nothing(tmp_path):
    (tmp_path / "lost.py").write_text(LOST, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(tmp_path / "lost.py"), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        capture_output=True,
        text=True,
        timeout=1500,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    lines = done.stdout.splitlines()
    assert "code 2" in lines, done.stdout
    assert "jaxprompt: the tasks were dropped, as when a scheduler ends" in done.stderr
    assert "Traceback" not in done.stderr, done.stderr[-3000:]
    held = next(line for line in lines if line.startswith("held"))
    assert int(held.split()[1]) >= 2, held
    assert held.endswith("{}"), "cells that were never tried count as failed"
    assert "resumed True" in lines
    assert "whole True" in lines
