r"""What trained linear attention risks in context: Zhang, Frei and Bartlett (2024).

Prompts have a task $w \sim N(0, I)$, inputs with variances $\lambda_i$, and targets $w \cdot x_i +
\sigma \varepsilon_i$. A layer of linear attention predicts $x_q^\top A h$ from $h = \frac1n \sum_i
y_i x_i$. With $\Lambda = \mathrm{diag}(\lambda)$ the moments are $E w h^\top = \Lambda$ and, over
the samples that meet and those that do not, $E h h^\top = \Lambda \Gamma_n$ with
$\Gamma_n = (1 + \frac1n) \Lambda + \frac{\mathrm{tr} \Lambda + \sigma^2}{n} I$. So training at
length $N$ finds $A = \Gamma_N^{-1}$, whatever length $M$ it meets then:
$$R = \mathrm{tr}\, \Lambda (\Gamma_N^{-2} \Lambda \Gamma_M - 2 \Gamma_N^{-1} \Lambda + I).$$
Easier than the paper: two moments in place of its dynamics: the loss is convex in $A$, so where
descent ends is its least value. Each model is fitted to 30,000 prompts, and its excess, of order
16 parameters over 30,000, is far below the tolerance. A trial averages over its query.
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


def draw_prompts(key, count, length, noise):
    """Tasks w, vectors h and queries of prompts."""
    w, x, error = jax.random.normal(key, (3, count, length + 1, 4))
    x *= jnp.sqrt(VARIANCES)
    y = jnp.einsum("cld,cd->cl", x, w[:, 0]) + noise * error[:, :, 0]
    return w[:, 0], jnp.einsum("cl,cld->cd", y[:, 1:], x[:, 1:]) / length, x[:, 0]


def train(*, key, trained, noise):
    """The layer with the least mean squared error on many prompts."""
    w, h, query = map(np.asarray, draw_prompts(key, 30_000, trained, noise))
    z = (query[:, :, None] * h[:, None]).reshape(len(h), 16)
    return {"matrix": np.linalg.lstsq(z, (query * w).sum(1))[0].reshape(4, 4)}


def experiment(*, key, matrix, length, noise):
    """The squared error on one new prompt, on average over its query."""
    w, h, _ = draw_prompts(key, 1, length, noise)
    return {"risk": VARIANCES @ (matrix @ h[0] - w[0]) ** 2}


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
    simulation=jp.per_trial(experiment, setup=train, batch=1000),
    designs={"quick": jp.Design.product(TRAINED, {"length": [5, 10, 40]}, 30_000)},
    figure=jp.Curves(x="length", y="risk", log_x=True),
)
