"""What a cell of a sweep costs beyond computing it, beside other ways to keep results.

    python benchmarks/sweep.py [--cells 10000] [--largest 1000000] [--base PYTHONPATH]

The same exact cells of a trivial claim are computed and kept by jaxprompt, by loops with
``np.savez``, with pandas and Parquet, by joblib's memory and by dask, those that are installed,
each as whoever knows it well would write it, so that a kill loses a row of the grid at most where
that can be had, and once with a cell as the unit; then by jaxprompt in growing numbers. One writer
gets what a hundred workers would send, and cells of ``prompt_error`` are simulated in one program.
Processor seconds are those of a process of its own, so what else the machine does matters little.
With ``--base`` the version installed there does the real work too. Prints tables; asserts nothing.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

COMMON = """
import json, os, resource, sys, time
import numpy as np
from pathlib import Path
out, cells = Path(sys.argv[1]), int(sys.argv[2])
side = round(cells ** 0.5)
levels, sizes = np.linspace(1, 2, side).tolist(), list(range(1, side + 1))

def closed_form(*, level, size):
    return {"value": level * size}

def report(begun, name="", **more):
    used = resource.getrusage(resource.RUSAGE_SELF)
    files = [p for p in out.rglob("*") if p.is_file()]
    print(json.dumps({"seconds": used.ru_utime + used.ru_stime - begun, "files": len(files),
                      "bytes": sum(p.stat().st_size for p in files),
                      "peak": used.ru_maxrss / 2**20, **more}))

def processor_seconds():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
"""

CLAIM = """
import jaxprompt as jp
from jaxprompt import Claim, Design, Falsifier, Parameter, Quantity, Relation
from jaxprompt.stats import exact_estimate

def simulation(*, key, trials, level, size):
    return {"value": exact_estimate(level * size, trials)}

design = Design.product({"level": 1.0}, {"size": [8, 16]}, trials=2)
claim = Claim(
    id="benchmark.trivial", title="t", statement="s", relation=Relation.IDENTITY, source="s",
    parameters=(Parameter("level", "real", "l"), Parameter("size", "integer", "n", low=1)),
    quantities=(Quantity("value", "v", 1e-9),),
    falsifiers=(Falsifier.scaled("a", closed_form, 1.1), Falsifier.scaled("b", closed_form, 0.9)),
    closed_form=closed_form, simulation=simulation, designs={"quick": design, "full": design})
"""

WAYS = {
    "computing alone": CLAIM
    + """
from jaxprompt.core.keys import as_key
key, begun = as_key(0), processor_seconds()
for level in levels:
    for size in sizes:
        claim.predict(level=level, size=size)
        claim.simulate(key=key, trials=2, level=level, size=size)
report(begun)
""",
    "jaxprompt sweep": CLAIM
    + """
from jaxprompt.sweep import Sweep, run
import xarray
begun = processor_seconds()
run(Sweep(claim, {"level": levels, "size": sizes}, {}, 2), out)
run_seconds = processor_seconds()
more = {}
for name, act in (("load", lambda: jp.load(out)), ("resume", lambda: run(
        Sweep(claim, {"level": levels, "size": sizes}, {}, 2), out, resume=True))):
    start = processor_seconds()
    act()
    more[name] = processor_seconds() - start
report(begun + sum(more.values()), **more)
""",
    "plain loop, np.savez at the end": """
begun = processor_seconds()
values = [closed_form(level=level, size=size)["value"] for level in levels for size in sizes]
np.savez(out / "all.npz", value=values, level=levels, size=sizes)
report(begun)
""",
    "np.savez, a file a row of the grid": """
begun = processor_seconds()
for i, level in enumerate(levels):
    path = out / f"{i}.npz"
    if not path.exists():
        values = [closed_form(level=level, size=size)["value"] for size in sizes]
        with open(path.with_suffix(".part"), "wb") as file:
            np.savez(file, value=values)
        os.replace(path.with_suffix(".part"), path)
report(begun)
""",
    "np.savez, a file a cell": """
begun = processor_seconds()
for i, level in enumerate(levels):
    for j, size in enumerate(sizes):
        np.savez(out / f"{i}_{j}.npz", value=closed_form(level=level, size=size)["value"])
report(begun)
""",
    "pandas, a Parquet file a row": """
import pandas
begun = processor_seconds()
for i, level in enumerate(levels):
    values = [closed_form(level=level, size=size)["value"] for size in sizes]
    table = pandas.DataFrame({"level": level, "size": sizes, "value": values})
    table.to_parquet(out / f"{i}.parquet", index=False)
report(begun)
""",
    "joblib's memory of a row": """
import joblib
def row(level):
    return [closed_form(level=level, size=size)["value"] for size in sizes]
kept = joblib.Memory(out, verbose=0).cache(row)
begun = processor_seconds()
for level in levels:
    kept(level)
report(begun)
""",
    "joblib's memory of a cell": """
import joblib
kept = joblib.Memory(out, verbose=0).cache(closed_form)
begun = processor_seconds()
for level in levels:
    for size in sizes:
        kept(level=level, size=size)
report(begun)
""",
    "dask, a task a row, np.savez": """
import dask
@dask.delayed
def row(i, level):
    np.savez(out / f"{i}.npz", value=[closed_form(level=level, size=n)["value"] for n in sizes])
begun = processor_seconds()
dask.compute(*(row(i, level) for i, level in enumerate(levels)), scheduler="threads")
report(begun)
""",
    "dask, a task a cell, np.savez at the end": """
import dask
cell = dask.delayed(closed_form)
begun = processor_seconds()
tasks = [cell(level=level, size=size) for level in levels for size in sizes]
values = [found["value"] for found in dask.compute(*tasks, scheduler="threads")]
np.savez(out / "all.npz", value=values)
report(begun)
""",
}
NEEDS = {"pandas": ("pandas", "pyarrow"), "joblib": ("joblib",), "dask": ("dask",)}
"""Packages that a way needs, by the first word of its name."""

WRITER = (
    CLAIM
    + """
from concurrent.futures import Executor, Future
from jaxprompt.stats import Estimate
from jaxprompt.sweep import Sweep, run
from jaxprompt.sweep.tasks import CellResult

class Cluster(Executor):
    # What a hundred workers would send: the results, without the time to compute them.
    workers = 100
    def submit(self, function, batch):
        answered = Future()
        answered.set_result(([
            [CellResult(i, {"value": 1.0}, {"value": Estimate(1.0, 0.1, 2, kind="sampled")})
             for i in task.indices] for task in batch], 1e-3 * len(batch)))
        return answered

begun, started = processor_seconds(), time.monotonic()
run(Sweep(claim, {"level": levels, "size": sizes}, {}, 2), out, executor=Cluster())
seconds = time.monotonic() - started
report(begun, wall=seconds)
"""
)
"""One writer that gets the results of a cluster: keys, tasks, batches, store and statuses."""

TOGETHER = """
import itertools, json, os, resource, sys, time
import jax, numpy as np
import jaxprompt as jp
dim, trials, count = map(int, sys.argv[3:6])

def processor_seconds():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime

claim = jp.claim("contextual.prompt_error")
fixed = dict(tokens=10, relevant=2, signal=1.0, context=1.5, dim=dim)
points = [dict(fixed, gain=g, noise=s, ridge=r, ratio=k) for g, s, r, k in itertools.product(
    np.linspace(0.2, 1, 5).tolist(), np.linspace(0.5, 2, 5).tolist(),
    np.geomspace(0.01, 1, 8).tolist(), [0.2, 0.4, 0.8, 1.5, 2.0])]
points = points[::max(1, len(points) // count)][:count]
for point in points[:5]:  # one of each number of samples: programs are compiled
    claim.simulate(key=0, trials=trials, **point)
found = {"cells": len(points)}
begun = processor_seconds()
for i, point in enumerate(points):
    claim.simulate(key=i, trials=trials, **point)
found["one by one"] = processor_seconds() - begun
if hasattr(claim.simulation, "simulate_cells"):
    values = [claim.validated(claim.point(point), simulate=True) for point in points]
    keys = [jax.random.key_data(jax.random.key(i)) for i in range(len(points))]
    words = np.stack([np.asarray(key) for key in keys]).astype(np.uint32)
    for _ in range(2):  # the second time programs are compiled
        begun = processor_seconds()
        claim.simulation.simulate_cells(values, key_words=words, trials=trials)
        found["in one program"] = processor_seconds() - begun
    streams = list(dict.fromkeys((p["gain"], p["noise"]) for p in points))
    for pairs in (streams[:1], streams):  # the first time the program is compiled
        begun = processor_seconds()
        for gain, noise in pairs:
            claim.simulate(key=0, trials=trials, **fixed, gain=gain, noise=noise,
                           ridge=sorted({p["ridge"] for p in points}),
                           ratio=sorted({p["ratio"] for p in points}))
    if len(points) == 1000:  # then they are a whole grid
        found["a stream along ridge and ratio"] = processor_seconds() - begun
begun = processor_seconds()
for point in points[:100]:
    claim.predict(**point)
found["predictions"] = (processor_seconds() - begun) / 100 * len(points)
print(json.dumps(found))
"""
"""Cells of `prompt_error` simulated one after another, in one program, and as a sweep does."""

REAL = {
    "prompt_error, 600 cells": {
        "claim": "contextual.prompt_error",
        "trials": 16,
        "fixed": {"tokens": 10, "relevant": 2, "signal": 1.0, "context": 1.5, "dim": 48},
        "grid": {
            "gain": [0.2, 0.4, 0.6, 0.8, 1.0],
            "noise": [0.5, 1.0, 1.5, 2.0],
            "ridge": [0.01, 0.05, 0.1, 0.5, 1.0],
            "ratio": [0.2, 0.4, 0.6, 0.8, 1.5, 2.0],
        },
    },
    "sphere_limit, 400 cells": {
        "claim": "universal.sphere_limit",
        "trials": 2,
        "fixed": {"sphere_dim": 2},
        "grid": {"degree": list(range(1, 21)), "concentration": [float(i) for i in range(1, 21)]},
    },
}


def measured(code: str, cells: int, path: str | None = None, words: Iterable[int] = ()) -> dict:
    """What a program reports of itself, run in a new folder."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        out.mkdir()
        environment = dict(os.environ)
        if path is not None:
            environment["PYTHONPATH"] = path
        command = [sys.executable, "-c", code, str(out), str(cells), *map(str, words)]
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            return {"error": done.stderr.strip().splitlines()[-1]}
        return json.loads(done.stdout.splitlines()[-1])


def swept(job: dict, path: str | None) -> dict:
    """A real sweep through the command line: processor seconds, files and bytes."""
    with tempfile.TemporaryDirectory() as folder:
        lines = [f"claim = {json.dumps(job['claim'])}", f"trials = {job['trials']}"]
        for table in ("fixed", "grid"):
            lines += [f"[{table}]", *(f"{n} = {json.dumps(v)}" for n, v in job[table].items())]
        Path(folder, "job.toml").write_text("\n".join(lines), encoding="utf-8")
        environment = {**os.environ, "JAXPROMPT_CACHE": str(Path(folder) / "cache")}
        if path is not None:
            environment["PYTHONPATH"] = path
        words = [sys.executable, "-m", "jaxprompt", "sweep", "job.toml", "--out", "out"]
        seconds = []
        for _ in range(2):  # the second finds compiled programs
            shutil.rmtree(Path(folder) / "out", ignore_errors=True)
            before = os.times()
            done = subprocess.run(
                words, cwd=folder, env=environment, capture_output=True, text=True, check=False
            )
            after = os.times()
            if not Path(folder, "out").is_dir():
                return {"error": done.stderr.strip().splitlines()[-1]}
            seconds.append(
                after.children_user + after.children_system
                - before.children_user - before.children_system
            )  # fmt: skip
        files = [p for p in Path(folder, "out").rglob("*") if p.is_file()]
        size = sum(p.stat().st_size for p in files)
        return {"first": seconds[0], "again": seconds[1], "files": len(files), "bytes": size}


def main() -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(description="The cost of a cell of a sweep.")
    parser.add_argument("--cells", type=int, default=10_000)
    parser.add_argument("--largest", type=int, default=10_000, help="growth up to so many cells")
    parser.add_argument("--base", metavar="PYTHONPATH", help="another version, for real sweeps")
    options = parser.parse_args()
    cells = round(options.cells**0.5) ** 2
    print(f"{cells} exact cells: processor milliseconds a cell, files, bytes a cell")
    for name, code in WAYS.items():
        needed = NEEDS.get(name.split()[0].removesuffix("'s").rstrip(","), ())
        missing = [p for p in needed if not importlib.util.find_spec(p)]
        if missing:
            print(f"  {name:36s} not installed: {', '.join(missing)}")
            continue
        found = measured(COMMON + code, cells)
        print(f"  {name:36s} {_row(found, cells)}", flush=True)
    print("growth: cells, milliseconds a cell, peak GiB, seconds to load and to resume")
    count = 100
    while count <= options.largest:
        side = round(count**0.5) ** 2
        found = measured(COMMON + WAYS["jaxprompt sweep"], side)
        print(f"  {side:8d} {_row(found, side)}", flush=True)
        count *= 10
    written = measured(COMMON + WRITER, cells)
    print(
        f"one writer for 100 workers: {_row(written, cells)}, {_rate(written, cells)}", flush=True
    )
    print("prompt_error, simulations alone: dim, trials, processor seconds")
    for dim, trials, count in ((48, 16, 1000), (8, 4, 1000)):
        for version, path in (("this", None), ("base", options.base)):
            if version == "this" or path:
                found = measured(TOGETHER, cells, path, words=(dim, trials, count))
                print(f"  {dim:3d} {trials:3d} {version} {_rounded(found)}", flush=True)
    print("real sweeps: processor seconds first, again, files, bytes")
    for name, job in REAL.items():
        for version, path in (("this", None), ("base", options.base)):
            if version == "base" and not path:
                continue
            print(f"  {name:26s} {version:5s} {swept(job, path)}", flush=True)
    return 0


def _rate(found: dict, cells: int) -> str:
    return "" if "error" in found else f", {60 * cells / found['wall']:.0f} results a minute"


def _rounded(found: dict) -> dict:
    return {n: round(v, 2) if isinstance(v, float) else v for n, v in found.items()}


def _row(found: dict, cells: int) -> str:
    if "error" in found:
        return found["error"]
    text = f"{1000 * found['seconds'] / cells:8.3f} ms {found['files']:7d} files "
    text += f"{found['bytes'] / cells:7.0f} bytes, peak {found['peak']:.2f} GiB"
    if "load" in found:
        text += f", load {found['load']:.2f} s, resume {found['resume']:.2f} s"
    return text


if __name__ == "__main__":
    sys.exit(main())
