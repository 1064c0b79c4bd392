"""One training step of the tiny transformer beside its matrix products, and beside PyTorch.

    python benchmarks/training_step.py [--repeats 5]

The step is the whole of it: forward, backward, clipping, AdamW, at batch 64 in float32. The floor
is the sum of the least times of the matrix products that a step cannot do without (forward, and one
for each operand's gradient), each alone at its own size: the faster of NumPy's BLAS and XLA, in one
thread. The attention's products of many small matrices are timed as one batched product. PyTorch
runs the same model and optimiser (its own AdamW and layers, one thread) where it is installed.
"""

from __future__ import annotations

import argparse
import functools
import os
import platform
import time
from collections.abc import Callable
from typing import Any

# Before NumPy and JAX load: one thread and one core, so that processor time is that of a step.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxprompt.networks.attention_layer import embed_tokens
from jaxprompt.networks.transformer import Added, Config, Norm
from jaxprompt.prefix.training import adaptation, experiments, tasks

try:
    import torch
except ImportError:
    torch = None

BATCH = 64
STEPS, MORE = 20, 10
"""Steps of a timed run, and how many more runs: short and many, to find moments of quiet."""
SIZES = {
    "L1 H1 d48 n6": experiments.small_config(6),
    "L2 H4 d32 n4": experiments.small_config(4, 2, 4, 32),
    "L1 H1 d96 n10": experiments.small_config(10, 1, 1, 96),
}


def least(run: Callable[[], object], repeats: int, calls: int = 1) -> float:
    """Least processor time of `repeats` runs after a warm-up, for one of `calls` calls inside.

    Processor time, so that other work on the machine counts as little as possible; every
    contender computes in one thread.
    """
    run()
    times = []
    for _ in range(repeats):
        started = time.process_time()
        run()
        times.append(time.process_time() - started)
    return min(times) / calls


# --- this project ---


def ours(config: Config, repeats: int) -> float:
    """Seconds of a step, from the compiled loop that training runs."""
    keys = jax.random.split(jax.random.key(0), 1)
    starts = jax.vmap(lambda key: adaptation.initial_state(config, key=key))(keys)
    moving, frozen = nnx.split_state(starts, nnx.Param, ...)
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), moving)
    flat, decay, shape = (
        adaptation._flatten_runs(moving),
        adaptation._weight_decay(like),
        adaptation._Shape.of(like),
    )
    memory, ones = adaptation._initial_moments(flat), jnp.ones((1, 1))
    data = adaptation._draw_block(("asc",), BATCH, config.inputs, ones, 0, keys)
    data = [x[:, :STEPS] for x in data]
    rates = np.full(STEPS, 1e-3, np.float32)
    state = [flat, memory]

    def block() -> None:
        *state[:], loss = adaptation._train_block(
            config, Added(), shape, False, *state, frozen, decay, *data, rates
        )
        loss.block_until_ready()

    return least(block, MORE * repeats, STEPS)


# --- the floor ---


def products(config: Config) -> list[tuple[int, int, int, int]]:
    """Every product of a step: copies, rows, inner size, columns."""
    d, content, answer = config.width, config.positions, config.inputs
    found = []

    def dense(rows: int, inner: int, columns: int) -> None:
        """Forward, and the gradients of the rows and of the matrix."""
        found.extend([(1, rows, inner, columns), (1, rows, columns, inner),
                      (1, inner, rows, columns)])  # fmt: skip

    for layer in range(config.layers):
        rows = answer if layer == config.layers - 1 else content
        dense(BATCH * content, d, 2 * d)
        for inner, columns in ((d, d), (d, d), (d, 4 * d), (4 * d, d)):
            dense(BATCH * rows, inner, columns)
        copies, v = BATCH * config.heads, d // config.heads
        found += [(copies, rows, v, content), (copies, rows, content, v)] * 2
        found += [(copies, content, rows, v)] * 2
    dense(BATCH * answer, d, config.vocabulary)
    return found


def floor(config: Config, repeats: int) -> dict[str, float]:
    """Seconds of all products of a step: of rows and weights, and inside attention."""
    rng = np.random.default_rng(0)
    total, known = {"dense": 0.0, "attention": 0.0}, {}
    for size in products(config):
        if size not in known:
            copies, rows, inner, columns = size
            a = rng.standard_normal((copies, rows, inner), np.float32)
            b = rng.standard_normal((copies, inner, columns), np.float32)
            if copies == 1:
                a, b = a[0], b[0]
            known[size] = min(_numpy(a, b, repeats), _xla(a, b, repeats))
        total["dense" if size[0] == 1 else "attention"] += known[size]
    return total


_CALLS = 100


def _numpy(a: np.ndarray, b: np.ndarray, repeats: int) -> float:
    out = np.matmul(a, b)

    def run() -> None:
        for _ in range(_CALLS):
            np.matmul(a, b, out=out)

    return least(run, repeats, _CALLS)


def _xla(a: np.ndarray, b: np.ndarray, repeats: int) -> float:
    @jax.jit
    def many(a: Any, b: Any) -> Any:
        def one(_: Any, carry: Any) -> Any:
            # The carry enters, so that no product can be left out or done once.
            return jnp.matmul(a + 0 * carry.ravel()[0], b)

        return jax.lax.fori_loop(0, _CALLS, one, jnp.matmul(a, b))

    x, y = jnp.asarray(a), jnp.asarray(b)
    return least(lambda: many(x, y).block_until_ready(), repeats, _CALLS)


def rest(config: Config, repeats: int) -> dict[str, float]:
    """Seconds of a step's other parts, each compiled alone with its gradient."""
    d, content, answer = config.width, config.positions, config.inputs
    total: dict[str, float] = dict.fromkeys(("norms", "softmax", "gelu", "biases", "loss"), 0.0)

    def part(name: str, function: Callable[..., Any], *shape: int) -> None:
        total[name] += _with_gradient(function, shape, repeats)

    def biases(rows: int, *widths: int) -> None:
        total["biases"] += sum(_bias(rows, width, repeats) for width in widths)

    for layer in range(config.layers):
        rows = answer if layer == config.layers - 1 else content
        part("norms", Norm(d), BATCH, content, d)
        part("norms", Norm(d), BATCH, rows, d)
        part("softmax", jax.nn.softmax, BATCH * config.heads, rows, content)
        part("gelu", functools.partial(jax.nn.gelu, approximate=True), BATCH, rows, 4 * d)
        biases(BATCH * content, 2 * d)
        biases(BATCH * rows, d, d, 4 * d, d)
    part("norms", Norm(d), BATCH, answer, d)
    part("loss", jax.nn.log_softmax, BATCH, answer, config.vocabulary)
    like = nnx.eval_shape(lambda: adaptation.initial_state(config, key=jax.random.key(0)))
    count = sum(int(np.prod(x.shape)) for x in jax.tree.leaves(like))
    return {
        **total,
        "embedding": _embedding(config, repeats),
        "optimiser": _optimiser(count, repeats),
    }


def _bias(rows: int, width: int, repeats: int) -> float:
    """One pass that adds a row to all rows, and one that sums them, as its gradient does."""

    @jax.jit
    def many(x: Any, bias: Any) -> Any:
        def one(_: Any, carry: Any) -> Any:
            x, bias = carry
            x = x + bias
            return x, 1e-9 * x.sum(axis=0)

        return jax.lax.fori_loop(0, _CALLS, one, (x, bias))

    x, bias = jnp.ones((rows, width), jnp.float32), jnp.ones(width, jnp.float32)
    return least(lambda: jax.block_until_ready(many(x, bias)), repeats, _CALLS)


def _embedding(config: Config, repeats: int) -> float:
    """Rows of the table with positions, and their gradients."""
    rng = np.random.default_rng(0)
    tokens = jnp.asarray(rng.integers(0, 8, (BATCH, config.positions)))

    def rows(table: Any, places: Any) -> Any:
        return embed_tokens(tokens, table) + places

    @jax.jit
    def many(table: Any, places: Any) -> Any:
        def one(_: Any, carry: Any) -> Any:
            value, pull = jax.vjp(rows, *carry)
            return tuple(x + 1e-9 * slope for x, slope in zip(carry, pull(value), strict=True))

        return jax.lax.fori_loop(0, _CALLS, one, (table, places))

    table = jnp.ones((config.vocabulary, config.width), jnp.float32)
    places = jnp.ones((config.positions, config.width), jnp.float32)
    return least(lambda: jax.block_until_ready(many(table, places)), repeats, _CALLS)


def _with_gradient(function: Callable[..., Any], shape: tuple[int, ...], repeats: int) -> float:
    @jax.jit
    def many(x: Any, slope: Any) -> Any:
        def one(_: Any, carry: Any) -> Any:
            x, slope = carry
            value, pull = jax.vjp(function, x)
            # Both results are kept, and each goes into the next round.
            return 0.5 * value, pull(slope)[0]

        return jax.lax.fori_loop(0, _CALLS, one, (x, slope))

    rng = np.random.default_rng(0)
    x, slope = (jnp.asarray(rng.standard_normal(shape, np.float32)) for _ in range(2))
    return least(lambda: jax.block_until_ready(many(x, slope)), repeats, _CALLS)


def _optimiser(count: int, repeats: int) -> float:
    @jax.jit
    def many(flat: Any, memory: Any) -> Any:
        def one(_: Any, carry: Any) -> Any:
            flat, memory = carry
            updates, memory = adaptation.MOMENTS.update(0.1 * flat, memory)
            return flat - 1e-3 * (updates + 0.1 * flat), memory

        return jax.lax.fori_loop(0, _CALLS, one, (flat, memory))

    flat = jnp.asarray(np.random.default_rng(0).standard_normal(count, np.float32))
    memory = adaptation.MOMENTS.init(flat)
    return least(lambda: jax.block_until_ready(many(flat, memory)), repeats, _CALLS)


# --- PyTorch ---


def torch_step(config: Config, repeats: int) -> float:
    """Seconds of the same step in PyTorch, eagerly and in one thread."""
    assert torch is not None
    torch.set_num_threads(1)
    d, n, f = config.width, config.inputs, torch.nn.functional

    class Block(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.mlp_norm = torch.nn.LayerNorm(d), torch.nn.LayerNorm(d)
            self.qkv, self.out = torch.nn.Linear(d, 3 * d), torch.nn.Linear(d, d)
            self.wide, self.narrow = torch.nn.Linear(d, 4 * d), torch.nn.Linear(4 * d, d)

        def forward(self, x: Any) -> Any:
            parts = self.qkv(self.norm(x)).reshape(*x.shape[:-1], 3, config.heads, -1)
            q, k, v = parts.permute(2, 0, 3, 1, 4)
            mixed = f.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.out(mixed.transpose(1, 2).reshape(x.shape))
            return x + self.narrow(f.gelu(self.wide(self.mlp_norm(x)), approximate="tanh"))

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = torch.nn.Embedding(config.vocabulary, d)
            self.places = torch.nn.Parameter(0.02 * torch.randn(config.positions, d))
            self.blocks = torch.nn.Sequential(*(Block() for _ in range(config.layers)))
            self.norm = torch.nn.LayerNorm(d)
            self.readout = torch.nn.Linear(d, config.vocabulary, bias=False)

        def forward(self, tokens: Any) -> Any:
            stream = self.blocks(self.words(tokens) + self.places)
            return self.readout(self.norm(stream[:, -n:]))

    model = Model()
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True
    )
    digits = tasks.draw_inputs(BATCH, n, key=jax.random.key(0))
    answer = np.array(tasks.solve_all("asc", digits))
    tokens = torch.tensor(np.concatenate([np.asarray(digits), answer[:, :-1]], axis=1)).long()
    target = torch.tensor(answer).long().flatten()

    def steps() -> None:
        for _ in range(STEPS):
            optimiser.zero_grad()
            loss = f.cross_entropy(model(tokens).flatten(0, 1), target)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()

    return least(steps, MORE * repeats, STEPS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    print(f"{platform.machine()}, jax {jax.__version__}, processor time of one step, batch {BATCH}")
    for name, config in SIZES.items():
        own, multiplied = ours(config, repeats), floor(config, repeats)
        other = rest(config, repeats)
        products, parts = sum(multiplied.values()), sum(other.values())
        line = f"{name:14s} jaxprompt {1e3 * own:6.3f} ms"
        line += f"   products {1e3 * products:6.3f} ms, ratio {own / products:4.2f} (target 1.3)"
        line += f"   with the other parts {1e3 * (products + parts):6.3f} ms,"
        line += (
            f" {1 + parts / products:4.2f} of the products, ratio {own / (products + parts):4.2f}"
        )
        if torch is not None:
            rival = torch_step(config, repeats)
            line += (
                f"   PyTorch {torch.__version__} {1e3 * rival:6.2f} ms, {rival / own:4.2f} of ours"
            )
        print(line)
        each = (f"{part} {1e6 * spent:.0f}" for part, spent in (multiplied | other).items())
        print(f"{'':14s} µs: {', '.join(each)}", flush=True)
    if torch is None:
        print("PyTorch is not installed: pip install torch, and run this again to compare")


if __name__ == "__main__":
    main()
