r"""What trained linear attention risks in context: Zhang, Frei and Bartlett (2024).

Prompts have a task $w \sim N(0, I)$, inputs with variances $\lambda_i$, and targets $w \cdot x_i +
\sigma \varepsilon_i$. A layer of linear attention predicts $x_q^\top A h$ from $h = \frac1n \sum_i
y_i x_i$. With $\Lambda = \mathrm{diag}(\lambda)$ the moments are $E w h^\top = \Lambda$ and, over
the samples that meet and those that do not, $E h h^\top = \Lambda \Gamma_n$ with
$\Gamma_n = (1 + \frac1n) \Lambda + \frac{\mathrm{tr} \Lambda + \sigma^2}{n} I$. So training at
length $N$ finds $A = \Gamma_N^{-1}$, whatever length $M$ it meets then:
$$R = \mathrm{tr}\, \Lambda (\Gamma_N^{-2} \Lambda \Gamma_M - 2 \Gamma_N^{-1} \Lambda + I).$$
Easier than the paper: two moments in place of its dynamics: the loss is convex in $A$, so where
descent ends is its least value. Training and test average over task, noise and query, which are
Gaussian given the inputs; what is sampled is $S = \frac1n \sum_i x_i x_i^\top$. Away from the
training length the risk is linear in the error of $A$: 300,000 prompts make that a quarter of the
check's standard error.
"""

import jax
import jax.numpy as jnp
import numpy as np

import jaxprompt as jp

VARIANCES = np.array([1.0, 0.5, 0.2, 0.1])
TRAINED = {"trained": 10, "noise": 0.7}


def risk(*, trained, length, noise, variances=VARIANCES, noisy=1.0):
    """Falsifiers take other variances, or leave the noise out."""
    total = variances.sum() + noisy * noise**2
    ours, theirs = (variances * (1 + 1 / n) + total / n for n in (length, trained))
    return {"risk": (variances**2 * (ours / theirs - 2) / theirs + variances).sum()}


def draw_moments(key, count, length, noise):
    """The mean of h wᵀ and of h hᵀ over prompts with these inputs."""
    x = jax.random.normal(key, (count, length, 4)) * jnp.sqrt(VARIANCES)
    s = jnp.einsum("cli,clj->cij", x, x) / length
    rows, first = s.reshape(-1, 4), s.mean(0)
    return first, rows.T @ rows / count + noise**2 / length * first


def train(*, key, trained, noise):
    """The layer with the least mean squared error on many prompts."""
    first, second = draw_moments(key, 300_000, trained, noise)
    return {"matrix": np.linalg.solve(second, first).T}


def experiment(*, key, matrix, length, noise):
    """The squared error on one new prompt, averaged over all but its inputs."""
    first, second = draw_moments(key, 1, length, noise)
    loss = matrix @ second @ matrix.T - 2 * matrix @ first + jnp.eye(4)
    return {"risk": VARIANCES @ jnp.diag(loss)}


CLAIM = jp.Claim(
    id="gallery.in_context_risk",
    title="Risk of trained linear attention in context",
    statement=r"""$R = \mathrm{tr}\, \Lambda (\Gamma_N^{-2} \Lambda \Gamma_M - 2 \Gamma_N^{-1}
    \Lambda + I)$, $\Gamma_n = (1 + \frac1n) \Lambda + \frac1n (\mathrm{tr} \Lambda + \sigma^2)$""",
    derivation=__doc__,
    relation=jp.Relation.MEAN,
    source="Zhang, Frei and Bartlett, Journal of Machine Learning Research 25 (2024)",
    parameters=(
        jp.Parameter("trained", "integer", "length in training", "N", low=1, high=100),
        jp.Parameter("length", "integer", "length of the prompt", "M", low=1, high=1000),
        jp.Parameter("noise", "real", "noise of the targets", r"\sigma", low=0, high=10),
    ),
    quantities=(jp.Quantity("risk", "squared error", tolerance=0.06, relative=True),),
    falsifiers=(
        jp.Falsifier("isotropic", "equal variances", variances=np.full(4, 0.45)),
        jp.Falsifier("noiseless", "no noise in the vectors h", noisy=0.0),
        jp.Falsifier("longer", "trained at twice the length", trained=20),
    ),
    closed_form=risk,
    simulation=jp.per_trial(experiment, setup=train, batch=500, dtype="float32"),
    designs={"quick": jp.Design.product(TRAINED, {"length": [5, 10, 40]}, 5000)},
    figure=jp.Curves(x="length", y="risk", log_x=True),
)
