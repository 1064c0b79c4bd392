r"""Learning to learn in context needs quadratically many tasks: Lu et al. (2024).

A prompt has a task $w \sim N(0, I/d)$ and $\ell = \alpha d$ samples $y_i = w \cdot x_i + \sigma
\varepsilon_i$, $h = \frac1\ell \sum_i y_i x_i$. Linear attention predicts $x_q^\top A h$; ridge
regression finds its $d^2$ weights from $n = \tau d^2$ prompts, each with a task of its own. With
$E h h^\top = \frac bd I$, $b = 1 + (1 + \sigma^2)/\alpha$, the best $A$ is $I/b$: it explains $1/b$
of the target, and $1 - 1/b$ is left. The regressors $\sqrt d\, x_q \otimes h$ act as isotropic
ones of variance $b$, what is not explained as noise. So with Marchenko and Pastur's $m$ at the
ratio $1/\tau$ and at $-l$, $l = \lambda/b$, and $m_2 = -dm/dl$,
$$R \to 1 - \tfrac1b + \tfrac1b l^2 m_2 + \big(1 - \tfrac1b + \sigma^2\big) (m - l m_2)/\tau,$$
which rises until $n$ is nearly $d^2$ and falls after it. Corrections are of order $1/d$. Easier
than the paper: no task comes twice, so that one known limit suffices.
"""

import jax
import jax.numpy as jnp

import jaxprompt as jp

GRID = {"dim": [6, 8, 10, 14], "prompts": [0.5, 1.0, 2.0]}


def risk(*, prompts, samples, ridge=0.1, noise=0.3, spread=1.0, residual=1.0):
    """The limit; `prompts` is n/d², `samples` l/d."""
    b = 1 + spread * (1 + noise**2) / samples
    scaled, ratio = ridge / b, 1 / prompts
    half = scaled + 1 - ratio
    root = jnp.sqrt(half**2 + 4 * ratio * scaled)
    first = (root - half) / (2 * ratio * scaled)
    second = first / scaled - ((half + 2 * ratio) / root - 1) / (2 * ratio * scaled)
    left = residual * (1 - 1 / b) + noise**2
    return {"risk": 1 - (1 - scaled**2 * second) / b + left * ratio * (first - scaled * second)}


def experiment(*, key, dim, prompts, samples, ridge=0.1, noise=0.3):
    """The exact risk of one fit on new prompts; of 2 d² prompts some are seen."""
    length, most, keys = round(samples * dim), 2 * dim**2, jax.random.split(key)
    w = jax.random.normal(keys[0], (most, 1, dim)) / dim**0.5
    x, error = jnp.split(jax.random.normal(keys[1], (most, length + 1, dim + 1)), [dim], 2)
    y = (x * w).sum(2) + noise * error[:, :, 0]
    h = (y[:, 1:, None] * x[:, 1:]).mean(1, keepdims=True)
    seen = jnp.arange(most)[:, None] < prompts * dim**2
    z = seen * (dim**0.5 * x[:, 0, :, None] * h).reshape(most, dim**2)
    fit = jnp.linalg.solve(z.T @ z + seen.sum() * ridge * jnp.eye(dim**2), z.T @ y[:, 0])
    b = 1 + 1 / length + (1 + noise**2) * dim / length
    return {"risk": 1 + b * fit @ fit - 2 * jnp.trace(fit.reshape(dim, dim)) / dim**0.5}


CLAIM = jp.Claim(
    id="gallery.in_context_diversity",
    title="Risk in context after quadratically many tasks",
    statement=r"The risk of linear attention after $n = \tau d^2$ prompts has a limit.",
    derivation=__doc__,
    relation=jp.Relation.ASYMPTOTIC,
    source="Lu et al., Asymptotic theory of in-context learning by linear attention (2024)",
    parameters=(
        jp.Parameter("dim", "integer", "dimension", "d", low=2, high=40, simulate_only=True),
        jp.Parameter("prompts", "real", "prompts / dimension²", "n/d^2", low=0.2, high=2),
        jp.Parameter("samples", "real", "samples / dimension", r"\ell/d", low=0.2, high=10),
    ),
    quantities=(jp.Quantity("risk", "squared error", tolerance=0.1, relative=True),),
    falsifiers=(
        jp.Falsifier("exact_vector", "samples are not noisy: b = 1", spread=0.0),
        jp.Falsifier("residual", "the noise of the targets alone", residual=0.0),
    ),
    closed_form=risk,
    simulation=jp.per_trial(experiment, traced=("prompts",), dtype="float32"),
    size="dim",
    powers=(1,),
    designs={"quick": jp.Design.product({"samples": 2.0}, GRID, 200)},
    figure=jp.Curves(x="prompts", y="risk", log_x=True),
)
