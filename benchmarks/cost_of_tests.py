"""Processor seconds of the tests: in all, by file, and of the dearest ones; memory of each process.

    python benchmarks/test_cost.py [what pytest is to run]

Runs as `make test` does, from an empty compilation cache, and prints a table. Seconds are those of
the processor, of a test's set-up and of the programs that it starts too.
"""

from __future__ import annotations

import collections
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import records

FOLDER_VARIABLE = "JAXPROMPT_TEST_COST"
"""Names the folder in which each process of the run leaves its rows."""

SHOWN = 25
"""Files and tests that are printed."""


# --- within pytest's processes -------------------------------------------------------------------


def processor_seconds() -> float:
    """Of this process and of those that it started and has waited for."""
    return sum(os.times()[:4])


def add_row(**row: Any) -> None:
    worker = os.environ.get("PYTEST_XDIST_WORKER", "main")
    records.append(Path(os.environ[FOLDER_VARIABLE]) / f"{worker}.jsonl", row)


def pytest_collection_finish() -> None:
    add_row(collected=processor_seconds())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    start = processor_seconds()
    found = yield
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 2**10
    add_row(test=item.nodeid, seconds=processor_seconds() - start, peak=peak)
    return found


# --- the command ---------------------------------------------------------------------------------


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, FOLDER_VARIABLE: folder}
        environment.pop("JAX_COMPILATION_CACHE_DIR", None)
        here = str(Path(__file__).parent)
        paths = [here, environment.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        command = [sys.executable, "-m", "pytest", "-q", "-n", "2", "--dist", "loadscope"]
        code = subprocess.run(
            [*command, "-p", Path(__file__).stem, *sys.argv[1:]], env=environment, check=False
        ).returncode
        in_all = resource.getrusage(resource.RUSAGE_CHILDREN)
        rows = {path.stem: records.read(path) for path in Path(folder).glob("gw*.jsonl")}
    report(rows, in_all.ru_utime + in_all.ru_stime)
    return code


def report(rows: dict[str, list[dict[str, Any]]], seconds: float) -> None:
    """Print what the rows of each process hold, and the seconds of the whole command."""
    tests = [row for own in rows.values() for row in own if "test" in row]
    collecting = sum(row["collected"] for own in rows.values() for row in own if "test" not in row)
    print(f"{len(tests)} tests, {seconds:.0f} processor s, {collecting:.0f} of them to collect")
    for name, own in sorted(rows.items()):
        peak = max((row["peak"] for row in own if "test" in row), default=0)
        print(f"process {name}: at most {peak / 2**30:.2f} GiB")
    files: collections.Counter[str] = collections.Counter()
    for row in tests:
        files[row["test"].split("::")[0]] += row["seconds"]
    print("\nthe dearest files")
    for name, value in files.most_common(SHOWN):
        print(f"{value:8.1f} s  {name}")
    print("\nthe dearest tests")
    for row in sorted(tests, key=lambda row: -row["seconds"])[:SHOWN]:
        print(f"{row['seconds']:8.2f} s  {row['test']}")


if __name__ == "__main__":
    sys.exit(main())
