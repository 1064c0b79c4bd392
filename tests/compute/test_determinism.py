"""One seed gives one set of bits, on however many threads, processes and devices."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import golden
import pytest

import jaxprompt as jp
from jaxprompt.compute.devices import THREADS_VARIABLE

HERE = Path(__file__).parents[1]


def printed(*ids, **environment):
    """The table that a process of its own prints."""
    result = subprocess.run(
        [sys.executable, str(HERE / "golden.py"), *ids],
        env={**os.environ, "PYTHONPATH": str(HERE.parent), **environment},
        capture_output=True, text=True, timeout=1500, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    moved = {id: golden.differences(found[id], expected[id]) for id in found}
    wrong = {id: kinds for id, kinds in moved.items() if any(kinds.values())}
    assert not wrong, f"bits were expected, the relative differences are {wrong}"


def test_threads_do_not_change_bits(monkeypatch):
    claim, tables = jp.claim("contextual.first_step"), []
    for threads in ("1", "2"):
        monkeypatch.setenv(THREADS_VARIABLE, threads)
        tables.append({claim.id: golden.numbers(claim)})
    assert_same(*tables)


@pytest.mark.slow
def test_threads_change_the_bits_of_no_claim():
    assert_same(printed(JAXPROMPT_THREADS="2"), printed(JAXPROMPT_THREADS="1"))


DEVICES = """
import json, sys
import jax
import golden
import jaxprompt as jp
def table():
    return {id: golden.numbers(jp.claim(id)) for id in json.loads(golden.TABLE.read_text())}
many = table()
with jax.default_device(jax.devices()[0]):
    one = table()
print(json.dumps([many, one, jax.device_count()]))
"""


ROUNDED_ANEW = (
    "contextual.prompt_tuning",
    "contextual.sgd_flow",
    "contextual.sgd_spread",
    "contextual.sgd_step",
)
"""Claims of chains in which a root of a difference of equal numbers is taken: the program of many
devices, which the compiler makes anew, rounds the last bit of it otherwise in some trials."""


@pytest.mark.slow
def test_eight_devices_change_the_bits_of_no_claim():
    result = subprocess.run(
        [sys.executable, "-c", DEVICES],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent)]),
            "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        },
        capture_output=True, text=True, timeout=3000, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    many, one, devices = json.loads(result.stdout)
    assert devices == 8
    for id in ROUNDED_ANEW:
        found = golden.differences(many.pop(id), one.pop(id))
        assert found.pop("predicted") == 0.0, id
        assert max(found.values()) < 1e-6, f"{id}: rounding was expected, not {found}"
    assert_same(many, one)
