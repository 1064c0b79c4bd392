r"""Layers of linear attention are steps of gradient descent: von Oswald et al. (2023).

A token holds an input and a target, $e_i = (x_i, y_i)$; the query has the target 0. Take keys and
queries that read the inputs and values that read the targets, and a step size $\eta$:
$$e_j \leftarrow e_j - \frac{\eta}{n} \sum_{i \le n} (0, y_i)\, \langle x_i, x_j \rangle.$$
No input changes. If the targets hold the residuals $y_i - \langle w_t, x_i \rangle$, the layer
subtracts $\langle x_j, \frac{\eta}{n} \sum_i (y_i - \langle w_t, x_i\rangle) x_i\rangle$, which is
$\langle w_{t+1} - w_t, x_j \rangle$ for a step on $\frac{1}{2n} \sum_i (y_i - \langle w, x_i
\rangle)^2$. So the targets hold the residuals of the next step, by induction from $w_0 = 0$, and
minus the query's target is the prediction. Easier than the paper: starting from zero needs no
weights of the start inside the values, and $L$ layers are as short as one.
"""

import jax
import jax.numpy as jnp

import jaxprompt as jp


def instance(*, key, samples, dim):
    """Inputs and targets, and in the last row the query."""
    x, y = jax.random.normal(key, (2, samples + 1, dim))
    return {"x": x, "y": y[:, 0]}


def descent(*, x, y, layers, rate=0.3, shared=0):
    """What gradient descent predicts at the query; `shared` rows of the query join the data."""
    seen, target = x[: len(y) - 1 + shared], y[: len(y) - 1 + shared]
    w = jnp.zeros(x.shape[1])
    for _ in range(layers):
        w += rate * seen.T @ (target - seen @ w) / len(target)
    return {"prediction": x[-1] @ w}


def attention(*, x, y, layers):
    """Minus the query's target after the layers of linear attention."""
    tokens = jnp.hstack([x, y.at[-1].set(0.0)[:, None]])
    reads = jnp.diag(jnp.append(jnp.ones(x.shape[1]), 0.0))
    for _ in range(layers):
        context = tokens[:-1]
        weights = tokens @ reads @ context.T
        tokens -= 0.3 / len(context) * weights @ context @ (jnp.eye(len(reads)) - reads)
    return {"prediction": -tokens[-1, -1]}


CLAIM = jp.Claim(
    id="gallery.gd_is_attention",
    title="Linear attention descends a gradient",
    statement=r"$L$ layers predict as $L$ steps on $\frac{1}{2n} \sum_i (y_i - w \cdot x_i)^2$.",
    derivation=__doc__,
    relation=jp.Relation.IDENTITY,
    source="von Oswald et al., Transformers learn in-context by gradient descent (ICML 2023)",
    parameters=(
        jp.Parameter("layers", "integer", "layers and steps", "L", low=1, high=50),
        jp.Parameter("samples", "integer", "samples", "n", low=1, high=1000, simulate_only=True),
        jp.Parameter("dim", "integer", "dimension", "d", low=1, high=200, simulate_only=True),
    ),
    quantities=(jp.Quantity("prediction", "prediction at the query", tolerance=0.0),),
    falsifiers=(
        jp.Falsifier("faster", "a step size 1 % larger", rate=0.303),
        jp.Falsifier("query_joins", "the query is one of the samples", shared=1),
    ),
    closed_form=descent,
    simulation=jp.per_trial(attention, instance=instance),
    designs={"quick": jp.Design({"samples": 12, "dim": 4, "layers": 3}, trials=200)},
    figure=jp.Evidence(),
)
