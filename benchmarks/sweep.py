"""What a cell of a sweep costs beyond computing it, beside other ways to keep results.

    python benchmarks/sweep.py [--cells 10000] [--largest 1000000] [--base PYTHONPATH]

The same exact cells of a trivial claim are computed and kept by jaxprompt, by a loop with
``np.savez``, with pandas and Parquet, and by joblib's memory, those that are installed; then by
jaxprompt in growing numbers. Processor seconds are those of a process of its own, so what else the
machine does matters little. With ``--base`` two real sweeps are run by the version installed there
too. Prints a table; asserts nothing.
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
    "a loop with np.savez, one file": """
begun = processor_seconds()
values = [closed_form(level=level, size=size)["value"] for level in levels for size in sizes]
np.savez(out / "all.npz", value=values)
report(begun)
""",
    "a loop with np.savez, a file a cell": """
begun = processor_seconds()
for i, level in enumerate(levels):
    for j, size in enumerate(sizes):
        np.savez(out / f"{i}_{j}.npz", value=closed_form(level=level, size=size)["value"])
report(begun)
""",
    "pandas and Parquet": """
import pandas
begun = processor_seconds()
rows = [{"level": a, "size": b, **closed_form(level=a, size=b)} for a in levels for b in sizes]
pandas.DataFrame(rows).to_parquet(out / "all.parquet")
report(begun)
""",
    "joblib with a memory": """
import joblib
kept = joblib.Memory(out, verbose=0).cache(closed_form)
begun = processor_seconds()
for level in levels:
    for size in sizes:
        kept(level=level, size=size)
report(begun)
""",
}
NEEDS = {"pandas and Parquet": ("pandas", "pyarrow"), "joblib with a memory": ("joblib",)}

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


def measured(code: str, cells: int, path: str | None = None, **more: str) -> dict:
    """What a program reports of itself, run in a new folder."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        out.mkdir()
        environment = {**os.environ, **more}
        if path is not None:
            environment["PYTHONPATH"] = path
        command = [sys.executable, "-c", code, str(out), str(cells)]
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
        missing = [p for p in NEEDS.get(name, ()) if not importlib.util.find_spec(p)]
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
    print("real sweeps: processor seconds first, again, files, bytes")
    for name, job in REAL.items():
        for version, path in (("this", None), ("base", options.base)):
            if version == "base" and not path:
                continue
            print(f"  {name:26s} {version:5s} {swept(job, path)}", flush=True)
    return 0


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
