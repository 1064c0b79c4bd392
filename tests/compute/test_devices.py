"""Trials over several devices, and over several processes: the same bits as on one."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys

import pytest
from quick_cases import some_slow


def with_devices(count):
    """An environment in which the processor stands for so many devices."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={count}"
    return {**os.environ, "XLA_FLAGS": flags.strip()}


def run(code, *args, environment):
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", code, *map(str, args)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return json.loads(out.splitlines()[-1])


BLOCKS = """
import functools, json
import jax, jax.numpy as jnp, numpy as np
from jaxprompt.compute.devices import devices, map_trials

@functools.partial(jax.jit, static_argnames="width")
def block(width, key, scale, indices):
    def trial(index):
        draws = jax.random.normal(jax.random.fold_in(key, index), (width,), jnp.float32)
        return {"index": index, "value": scale * draws.sum() + jnp.zeros(())}
    return jax.lax.map(jax.vmap(trial), indices)

places = set()
def host(indices):
    assert isinstance(indices, np.ndarray)
    result = block(5, jax.random.key(1), 0.5, indices)
    places.update(result["value"].devices())
    return result

def everything():
    run = functools.partial(block, 5, jax.random.key(1), 0.5)
    return [map_trials(b, 37, batch=batch, first=first)
            for b, batch, first in ((run, 1, 0), (run, 4, 9), (host, 4, 9))]

with jax.enable_x64(True):
    many = everything()
    with jax.default_device(jax.devices()[-1]):
        assert devices() == [jax.devices()[-1]]
        one = everything()
found = [np.array_equal(a[n], b[n]) and a[n].dtype == b[n].dtype and len(a[n]) == 37
         for a, b in zip(many, one) for n in a]
print(json.dumps({"same": found, "devices": len(devices()), "used": len(places)}))
"""


@pytest.mark.parametrize("count", some_slow([3, 8], first=1))
def test_many_devices_give_the_bits_of_one(count):
    """Each device compiles the programs anew."""
    found = finish(run(BLOCKS, environment=with_devices(count)))
    assert found["devices"] == found["used"] == count
    assert len(found["same"]) == 6
    assert all(found["same"])


SIMULATIONS = """
import json, sys
import jax, numpy as np
import jaxprompt as jp
points = {
    "contextual.prompt_error": dict(
        tokens=6, relevant=2, signal=1.0, context=1.5, noise=1.0, gain=1.0, dim=16,
        ratio=[0.5, 1.0, 2.0], ridge=json.loads(sys.argv[1])),
    "contextual.conditional_error": dict(
        tokens=6, relevant=2, signal=1.0, context=1.5, noise=1.0, head_signal=0.4,
        head_context=0.1, head_norm=1.0, prompt_signal=0.1, prompt_context=1.0, prompt_norm=1.5,
        head_prompt=0.2),
}
def everything():
    return {f"{id} {name}": np.asarray(estimate.mean)
            for id, point in points.items()
            for name, estimate in jp.claim(id).simulate(key=0, trials=20, **point).items()}
many = everything()
with jax.default_device(jax.devices()[0]):
    one = everything()
print(json.dumps({name: np.array_equal(many[name], one[name]) for name in many}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("ridges", ["[0.0, 0.05]", "[0.2, 5.0]"], ids=["float64", "float32"])
def test_simulations_on_eight_devices_give_the_bits_of_one(ridges):
    found = finish(run(SIMULATIONS, ridges, environment=with_devices(8)))
    assert len(found) == 4
    assert all(found.values()), found


PROCESS = """
import json, sys
import jax
jax.distributed.initialize(f"localhost:{sys.argv[1]}", 2, int(sys.argv[2]))
import jaxprompt as jp
from jaxprompt import sweep as sweeps
from jaxprompt.errors import UsageError
point = dict(tokens=6, relevant=2, signal=1.0, context=1.5, noise=1.0, gain=1.0, dim=8,
             ratio=[0.5, 2.0], ridge=0.2)
found = jp.claim("contextual.prompt_error").simulate(key=0, trials=7, **point)
refused = ""
try:
    fixed = {**point, "ratio": 0.5}
    grid = {"dim": (fixed.pop("dim"),)}
    sweeps.run(sweeps.Sweep("contextual.prompt_error", grid, fixed), "out")
except UsageError as error:
    refused = str(error)
print(json.dumps({"devices": jax.device_count(), "refused": refused,
                  "error": [float(x) for x in found["error"].mean]}))
"""


@pytest.mark.slow
def test_two_processes_give_the_bits_of_one():
    import jaxprompt as jp

    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    # With the compiler's flags of this process: other ones round otherwise.
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    pair = [run(PROCESS, port, place, environment=environment) for place in range(2)]
    one, other = [finish(process) for process in pair]
    assert one == other
    assert one["devices"] == 2
    assert one["refused"].startswith("a sweep is run by one process")
    point = {"tokens": 6, "relevant": 2, "signal": 1.0, "context": 1.5, "noise": 1.0, "gain": 1.0,
             "dim": 8, "ratio": [0.5, 2.0], "ridge": 0.2}  # fmt: skip
    alone = jp.claim("contextual.prompt_error").simulate(key=0, trials=7, **point)
    assert one["error"] == alone["error"].mean.tolist()
