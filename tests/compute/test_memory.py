"""What there is of memory, what trials need of it, and what is done where it is short."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import pytest

import jaxprompt as jp
from jaxprompt.cli import main as cli
from jaxprompt.compute import devices, memory
from jaxprompt.core import memory as core_memory
from jaxprompt.errors import UsageError


def allow(monkeypatch, size):
    """Let the machine have `size` bytes."""
    monkeypatch.setattr(core_memory, "usable_memory", lambda: (size, "this machine has"))


# --- what there is ---


def test_the_limit_is_that_of_the_process_where_it_has_one():
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    before, _ = memory.available_memory()
    try:
        resource.setrlimit(resource.RLIMIT_AS, (2**45, hard))
        assert memory.available_memory()[0] == before, "it leaves more than there is"
        held = memory._virtual_bytes()
        resource.setrlimit(resource.RLIMIT_AS, (held + 2**28, hard))
        limit, whose = memory.available_memory()
        assert limit <= 2**28 + 2**24
        assert "ulimit" in whose
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def test_processes_share_what_the_machine_has():
    before, _ = memory.available_memory()
    memory.share_memory(4)
    try:
        assert memory.available_memory()[0] == before // 4
    finally:
        memory.share_memory(1)


def test_what_is_free_is_no_more_than_what_there_is():
    limit, whose = memory.usable_memory()
    assert 0 < limit <= memory.available_memory()[0]
    assert whose


# --- what trials need ---


def test_shapes_are_traced_and_nothing_is_computed():
    """A product of two matrices of known shape, in a block that would fail if it ran."""

    @jax.jit
    def block(indices):
        wide = jax.numpy.ones((indices.shape[0], 10**9))
        return wide @ wide.T

    traced = memory.trace_trials(lambda: devices.map_trials(block, 4, threads=1), lambda _: False)
    assert traced.at_least >= 4 * 2 * 4 * 10**9
    assert traced.blocks == 1
    assert traced.compiled == 0


def test_a_compiled_block_says_what_it_holds():
    """Two products one after another: the lower bound sees one of them, XLA all that is alive."""
    side = 300

    @jax.jit
    def block(indices):
        wide = jax.numpy.sin(indices[0, 0] + jax.numpy.arange(side**2)).reshape(side, side)
        return {"sum": (jax.numpy.sin(wide @ wide.T) @ wide).max()[None, None]}

    traced = memory.trace_trials(lambda: devices.map_trials(block, 2, threads=2), lambda _: True)
    matrix = 4 * side**2
    assert traced.blocks == 2
    assert traced.at_least == 3 * matrix
    # How many matrices are alive at once is the compiler's: two with jaxlib 0.10, one with 0.12.
    assert matrix <= traced.compiled <= 6 * matrix


def test_a_simulation_that_refuses_its_parameters_needs_nothing():
    def refuse():
        raise ValueError("no such size")

    assert memory.trace_trials(refuse, lambda _: False).at_least == 0


# --- where it is short ---


def wide_claim(make_toy):
    """A toy whose trial holds matrices as wide as its size."""

    @jp.per_trial(dtype="float32")
    def trial(*, key, level, size):
        wide = jax.random.normal(key, (size, size))
        return {"value": level + jax.numpy.sin(wide @ wide).mean()}

    return make_toy(simulation=trial)


def test_a_simulation_that_cannot_fit_is_refused_and_says_what_would(toy_claim):
    line = r"`size` = 200000000 needs .*iB, .*iB: `size` up to \d+ fits"
    with pytest.raises(UsageError, match=line) as caught:
        wide_claim(toy_claim).simulate(key=0, trials=4, level=1.0, size=200_000_000)
    assert "\n" not in str(caught.value)


def test_what_is_said_to_fit_is_accepted(toy_claim, monkeypatch):
    allow(monkeypatch, 2**26)
    claim = wide_claim(toy_claim)
    with pytest.raises(UsageError, match="fits") as caught:
        core_memory.refuse_runs_that_cannot_fit(claim, [({"level": 1.0, "size": 9000}, 4)])
    size = int(str(caught.value).rpartition("up to ")[2].split()[0])
    assert size > 100
    core_memory.refuse_runs_that_cannot_fit(claim, [({"level": 1.0, "size": size}, 4)])


@pytest.mark.parametrize("needed", [2**20, 2**40])
def test_a_check_is_refused_before_a_folder_is_made(
    toy_claim, toy_registry, monkeypatch, tmp_path, capsys, needed
):
    """By what the claim itself says it holds, at any run of its design."""
    allow(monkeypatch, 2**30)
    toy_registry(toy_claim(memory=lambda *, level, size, trials: needed * size // 16))
    code = cli.main(["check", "contextual.toy", "--out", str(tmp_path / "out"), "--no-cache"])
    if needed < 2**30:
        assert code in (0, 3)
        return
    assert code == 2
    said = capsys.readouterr().err
    assert said.startswith("jaxprompt: contextual.toy at `size` = 8 needs 512 GiB, this machine")
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_more_trials_than_memory_holds_are_refused(toy_claim, monkeypatch):
    allow(monkeypatch, 2**27)

    @jp.per_trial
    def trial(*, key, level, size):
        return {"value": level + jax.random.normal(key)}

    claim = toy_claim(simulation=trial)
    with pytest.raises(UsageError, match=r"needs 229 MiB, .* has 128 MiB: \d+ trials fit"):
        core_memory.refuse_runs_that_cannot_fit(claim, [({"level": 1.0, "size": 4}, 10**7)])
    core_memory.refuse_runs_that_cannot_fit(claim, [({"level": 1.0, "size": 4}, 10**6)])


def test_fewer_blocks_run_at_once_where_memory_is_short_and_keep_their_bits(toy_claim, monkeypatch):
    claim, run = wide_claim(toy_claim), {"level": 1.0, "size": 600}
    monkeypatch.setattr(core_memory, "_SMALL", 2**20)  # its memory is looked at all the same
    pools = []

    def pool(workers):
        pools.append(workers)
        return ThreadPoolExecutor(workers)

    monkeypatch.setattr(devices, "cores", lambda: 4)
    monkeypatch.setattr(devices, "ThreadPoolExecutor", pool)
    whole = claim.simulate(key=0, trials=4, **run)["value"]
    assert pools == [4]
    held = core_memory.simulation_memory(claim, 4, run, 2**26).block(run["size"])
    for room, expected in ((2.5, [2]), (1.5, [])):  # one at a time needs no pool
        pools.clear()
        allow(monkeypatch, int(room * held / 0.9))
        few = claim.simulate(key=0, trials=4, **run)["value"]
        assert pools == expected
        assert (few.mean, few.stderr) == (whole.mean, whole.stderr)


# --- a limit that the system keeps ---

LIMITED = """
import os, resource, sys
room, words = int(sys.argv[1]), sys.argv[2:]
resource.setrlimit(resource.RLIMIT_AS, (room, room))
from jaxprompt.cli.main import main
sys.exit(main(words))
"""


def run_within(room, *words):
    """The command line in a process that may hold `room` bytes of addresses."""
    return subprocess.run(
        [sys.executable, "-c", LIMITED, str(room), *words],
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=1500,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize("room", [5 * 2**29, 2**32])
@pytest.mark.parametrize("id", ["contextual.sample_complexity", "contextual.prompt_error"])
def test_no_default_design_is_killed_where_memory_is_limited(id, room, tmp_path):
    """The designs with the widest matrices and the most trials: done, or refused in one line."""
    done = run_within(room, "check", id, "--out", str(tmp_path / "out"))
    assert done.returncode in (0, 2, 3), done.stderr[-3000:]
    assert "Traceback" not in done.stderr, done.stderr[-3000:]
    if done.returncode == 2:
        assert "needs" in done.stderr
        assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("room", [2**29, 2**30])
def test_too_little_memory_to_start_is_one_line(room, tmp_path):
    done = run_within(room, "check", "universal.sphere_limit", "--out", str(tmp_path / "out"))
    assert done.returncode == 2, (done.returncode, done.stderr[-2000:])
    assert done.stderr.startswith("jaxprompt: ")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_of_trials_by_numpy_nothing_is_known_and_they_run():
    def block(indices):
        return {"index": np.asarray(indices, np.float64)}

    def observe(block, indices):
        held = memory.trace_block(block, indices, lambda lower_bound: True)
        assert held == memory.TrialMemory(0, len(indices))
        return len(indices)

    token = devices.block_observer.set(observe)
    try:
        found = devices.map_trials(block, 10, threads=2)
    finally:
        devices.block_observer.reset(token)
    np.testing.assert_array_equal(found["index"], np.arange(10))
