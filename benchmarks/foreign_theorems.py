"""True theorems that are not ours, written as a user would write them, with false variants.

One entry is a claim: a formula, one trial, a tolerance that a user would mind, and at least two
statements that are false by a few per cent, a term or an exponent. Every kind of comparison of the
engine is there, with the corrections that limits have (1/n, n^(-1/2), n^(-2/3), n^(-1/4), 1/log n,
non-monotone) and with skewed and heavy-tailed numbers. Formulas share no code with trials.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats as sps

import jaxprompt as jp
from jaxprompt.stats import exact_estimate

__all__ = ["KINDS", "THEOREMS"]

THEOREMS: dict[str, jp.Claim] = {}
"""The bank, by name."""

KINDS: dict[str, str] = {}
"""What each is: the kind of statement that it stands for."""

R = jp.Relation
Form = Callable[..., Mapping[str, Any]]


def times(formula: Form, factor: float) -> Form:
    """Every number of a formula multiplied by `factor`."""

    def predict(**parameters: Any) -> dict[str, Any]:
        return {name: factor * np.asarray(v) for name, v in formula(**parameters).items()}

    predict.__signature__ = inspect.signature(formula)  # pyright: ignore[reportFunctionMemberAccess]
    return predict


def theorem(
    name: str,
    kind: str,
    source: str,
    relation: jp.Relation,
    formula: Form,
    wrong: Mapping[str, float | Form],
    *,
    tolerance: Any = math.nan,
    relative: bool = False,
    quantities: Iterable[jp.Quantity] = (),
    design: jp.Design,
    simulation: Any = None,
    statistics: Mapping[str, Callable[..., Any]] | None = None,
    options: Mapping[str, Any] | None = None,
    batch: int = 1,
    **trial_options: Any,
) -> Callable[[Any], Any]:
    """Put a trial into the bank, as the claim that says what it should give. A decorator."""

    def add(trial: Any) -> Any:
        measured = simulation or jp.per_trial(
            trial, batch=batch, statistics=statistics, **trial_options
        )
        given = tuple(quantities) or (
            jp.Quantity("value", name.replace("_", " "), tolerance, relative),
        )
        falsifiers = tuple(
            jp.Falsifier(
                stem, stem.replace("_", " "),
                times(formula, form) if isinstance(form, int | float) else form,
            )
            for stem, form in wrong.items()
        )  # fmt: skip
        THEOREMS[name] = jp.Claim(
            id=f"foreign.{name}", title=name.replace("_", " "),
            statement=inspect.getdoc(trial) or name, source=source, relation=relation,
            parameters=_parameters(design, formula), quantities=given, falsifiers=falsifiers,
            closed_form=formula, simulation=measured, designs={"quick": design},
            **(options or {}),
        )  # fmt: skip
        KINDS[name] = kind
        return trial

    return add


def _parameters(design: jp.Design, formula: Form) -> tuple[jp.Parameter, ...]:
    """What the design's runs set; what the formula does not name is for the simulation alone."""
    named = inspect.signature(formula).parameters
    found: dict[str, jp.Parameter] = {}
    for run in design.runs:
        for name, value in run.items():
            whole = all(isinstance(v, int) for v in np.ravel(np.array(value, object)))
            found[name] = jp.Parameter(
                name, "integer" if whole else "real", name, simulate_only=name not in named
            )
    return tuple(found.values())


def sizes(name: str, values: Iterable[int], trials: int, **fixed: Any) -> jp.Design:
    """A design over growing sizes."""
    return jp.Design.product(fixed, {name: list(values)}, trials)


def point(trials: int, **parameters: Any) -> jp.Design:
    """A design of one point."""
    return jp.Design(parameters, trials=trials)


def harmonic(n: int) -> float:
    """1 + 1/2 + … + 1/n."""
    return math.fsum(1 / k for k in range(1, n + 1))


# --- means ---


@theorem(
    "coupon_collector", "mean", "Feller, An Introduction to Probability Theory I, IX.3", R.MEAN,
    lambda *, coupons: {"value": coupons * harmonic(coupons)},
    {"leading": lambda *, coupons: {"value": coupons * math.log(coupons)},
     "one_less": lambda *, coupons: {"value": coupons * (harmonic(coupons) - 1 / coupons)}},
    tolerance=0.03, relative=True, design=point(8000, coupons=6), batch=500,
)  # fmt: skip
def coupon_collector(*, key, coupons):
    """All of n coupons are seen after n H_n draws on average."""
    drawn = jax.random.randint(key, (160,), 0, coupons)
    first = [jnp.argmax(drawn == c) for c in range(coupons)]
    return {"value": jnp.max(jnp.stack(first)) + 1.0}


@theorem(
    "birthdays", "proportion", "von Mises (1939)", R.MEAN,
    lambda *, people, days: {"value": 1 - math.prod(1 - i / days for i in range(people))},
    {"one_less": lambda *, people, days: {
        "value": 1 - math.prod(1 - i / days for i in range(people - 1))},
     "poisson_of_squares": lambda *, people, days: {
         "value": 1 - math.exp(-people**2 / (2 * days))}},
    tolerance=0.02, design=point(16_000, people=10, days=100), batch=500,
)  # fmt: skip
def birthdays(*, key, people, days):
    """Two of k people share one of d birthdays with probability 1 - prod(1 - i/d)."""
    drawn = jnp.sort(jax.random.randint(key, (people,), 0, days))
    return {"value": (jnp.diff(drawn) == 0).any()}


@theorem(
    "largest_exponential", "mean", "Rényi (1953)", R.MEAN,
    lambda *, count: {"value": harmonic(count)},
    {"logarithm": lambda *, count: {"value": math.log(count) + 0.5772},
     "one_less": lambda *, count: {"value": harmonic(count - 1)}},
    tolerance=0.04, relative=True, design=point(40_000, count=5), batch=500,
)  # fmt: skip
def largest_exponential(*, key, count):
    """The largest of n exponentials is H_n on average."""
    return {"value": jax.random.exponential(key, (count,)).max()}


@theorem(
    "inverse_wishart", "skewed mean", "Muirhead, Multivariate Statistical Theory, 3.2.12", R.MEAN,
    lambda *, dim, samples: {"value": dim / (samples - dim - 1)},
    {"limit": lambda *, dim, samples: {"value": dim / (samples - dim)},
     "two": lambda *, dim, samples: {"value": dim / (samples - dim - 2)}},
    tolerance=0.07, relative=True, design=point(3000, dim=4, samples=18),
)  # fmt: skip
def inverse_wishart(*, key, dim, samples):
    """The trace of an inverse Wishart matrix is d/(n - d - 1) on average."""
    x = jax.random.normal(key, (samples, dim))
    return {"value": jnp.trace(jnp.linalg.inv(x.T @ x))}


@theorem(
    "lognormal_mean", "skewed mean", "Aitchison and Brown (1957)", R.MEAN,
    lambda *, scale: {"value": math.exp(scale**2 / 2)},
    {"five_per_cent": 1.05, "no_half": lambda *, scale: {"value": math.exp(scale**2)}},
    tolerance=0.05, relative=True, design=point(25_000, scale=1.0), batch=1000,
)  # fmt: skip
def lognormal_mean(*, key, scale):
    """E exp(sZ) = exp(s²/2)."""
    return {"value": jnp.exp(scale * jax.random.normal(key))}


@theorem(
    "pareto_mean", "heavy mean", "Pareto (1896)", R.MEAN,
    lambda *, tail: {"value": tail / (tail - 1)},
    {"shifted": lambda *, tail: {"value": (tail + 1) / tail}, "eight_per_cent": 1.08},
    tolerance=0.06, relative=True, design=point(30_000, tail=2.5), batch=1000,
)  # fmt: skip
def pareto_mean(*, key, tail):
    """A Pareto number with tail exponent 2.5 (no third moment) has mean a/(a - 1)."""
    return {"value": jax.random.uniform(key, minval=1e-15) ** (-1 / tail)}


@theorem(
    "rare_event", "proportion", "normal tables", R.MEAN,
    lambda *, level: {"value": math.erfc(level / math.sqrt(2))},
    {"one_sided": 0.5, "mills_ratio": lambda *, level: {
        "value": 2 * math.exp(-(level**2) / 2) / 2.5066}},
    tolerance=0.5, relative=True, design=point(60_000, level=3.0), batch=1000,
)  # fmt: skip
def rare_event(*, key, level):
    """P(|Z| > 3) = 0.0027."""
    return {"value": jnp.abs(jax.random.normal(key)) > level}


@theorem(
    "almost_sure_event", "proportion", "binomial law", R.MEAN,
    lambda *, count: {"value": 1 - 0.5**count},
    {"one_more": lambda *, count: {"value": 1 - 0.5 ** (count + 1)},
     "one_less": lambda *, count: {"value": 1 - 0.5 ** (count - 1)}},
    tolerance=0.001, design=point(75_000, count=9), batch=1000,
)  # fmt: skip
def almost_sure_event(*, key, count):
    """Of n fair coins one shows heads with probability 1 - 2^-n."""
    return {"value": jax.random.bernoulli(key, 0.5, (count,)).any() * 1.0}


@theorem(
    "no_fixed_point", "proportion", "Montmort (1713)", R.MEAN,
    lambda *, count: {"value": math.fsum((-1) ** k / math.factorial(k) for k in range(count + 1))},
    {"independent": lambda *, count: {"value": (1 - 1 / count) ** count},
     "one_term_less": lambda *, count: {
         "value": math.fsum((-1) ** k / math.factorial(k) for k in range(count))}},
    tolerance=0.03, design=point(10_000, count=4), batch=500,
)  # fmt: skip
def no_fixed_point(*, key, count):
    """A random permutation has no fixed point with probability sum (-1)^k / k!."""
    return {"value": (jax.random.permutation(key, count) != jnp.arange(count)).all()}


@theorem(
    "records", "mean", "Rényi (1962)", R.MEAN,
    lambda *, count: {"value": harmonic(count)},
    {"logarithm": lambda *, count: {"value": math.log(count)},
     "one_more": lambda *, count: {"value": harmonic(count + 3)}},
    tolerance=0.03, relative=True, design=point(12_000, count=30), batch=500,
)  # fmt: skip
def records(*, key, count):
    """A sequence of n independent numbers has H_n records on average."""
    drawn = jax.random.uniform(key, (count,))
    return {"value": (drawn >= jax.lax.cummax(drawn)).sum()}


@theorem(
    "random_features", "mean", "Rahimi and Recht (2007)", R.MEAN,
    lambda *, distance: {"value": math.exp(-(distance**2) / 2)},
    {"no_half": lambda *, distance: {"value": math.exp(-(distance**2))},
     "six_per_cent": 1.06},
    tolerance=0.04, design=point(12_000, distance=0.8), batch=1000,
)  # fmt: skip
def random_features(*, key, distance):
    """E 2 cos(w x + b) cos(w y + b) is the Gaussian kernel of x - y."""
    frequency = jax.random.normal(key)
    phase = jax.random.uniform(jax.random.fold_in(key, 1), maxval=2 * math.pi)
    return {"value": 2 * jnp.cos(phase) * jnp.cos(frequency * distance + phase)}


@theorem(
    "buffon", "proportion", "Buffon (1777)", R.MEAN,
    lambda *, length: {"value": 2 * length / math.pi},
    {"half": lambda *, length: {"value": length / 2}, "eight_per_cent": 1.08},
    tolerance=0.03, design=point(10_000, length=0.8), batch=1000,
)  # fmt: skip
def buffon(*, key, length):
    """A needle of length l < 1 crosses one of the lines at distance 1 with probability 2l/π."""
    place, angle = jax.random.uniform(key, (2,))
    return {"value": place / 2 <= length / 2 * jnp.sin(angle * math.pi / 2)}


@theorem(
    "james_stein_risk", "skewed mean", "James and Stein (1961)", R.MEAN,
    lambda *, dim: {"value": 2.0 + 0 * dim},
    {"ten_per_cent": 1.1, "no_second_term": lambda *, dim: {"value": dim / (dim - 2)}},
    tolerance=0.1, design=point(30_000, dim=8), batch=500,
)  # fmt: skip
def james_stein_risk(*, key, dim):
    """At the origin the James-Stein estimator has risk 2 in every dimension above 2."""
    x = jax.random.normal(key, (dim,))
    return {"value": jnp.square((1 - (dim - 2) / (x @ x)) * x).sum()}


@theorem(
    "normal_length", "mean", "chi distribution", R.MEAN,
    lambda *, dim: {
        "value": math.sqrt(2) * math.exp(math.lgamma((dim + 1) / 2) - math.lgamma(dim / 2))},
    {"root": lambda *, dim: {"value": math.sqrt(dim)}, "five_per_cent": 0.95},
    tolerance=0.05, design=point(10_000, dim=3), batch=1000,
)  # fmt: skip
def normal_length(*, key, dim):
    """The length of a standard normal vector is √2 Γ((d+1)/2)/Γ(d/2) on average."""
    return {"value": jnp.linalg.norm(jax.random.normal(key, (dim,)))}


@theorem(
    "student_mean", "heavy mean", "Student (1908)", R.MEAN,
    lambda *, dof: {"value": math.sqrt(dof / math.pi)
                    * math.exp(math.lgamma((dof - 1) / 2) - math.lgamma(dof / 2))},
    {"normal": lambda *, dof: {"value": math.sqrt(2 / math.pi) + 0 * dof}, "five_per_cent": 1.06},
    tolerance=0.05, design=point(40_000, dof=3.0), batch=1000,
)  # fmt: skip
def student_mean(*, key, dof):
    """E|T| of Student's law with 3 degrees of freedom, which has no third moment."""
    return {"value": jnp.abs(jax.random.t(key, dof))}


# --- functions of moments ---


@theorem(
    "variance_of_largest", "function of moments", "Rényi (1953)", R.MEAN,
    lambda *, count: {"value": math.fsum(1 / k**2 for k in range(1, count + 1))},
    {"gumbel": lambda *, count: {"value": math.pi**2 / 6 + 0 * count}, "ten_per_cent": 0.9},
    tolerance=0.12, design=point(40_000, count=4), batch=1000,
    statistics={"value": lambda largest: largest.var(ddof=1)},
)  # fmt: skip
def variance_of_largest(*, key, count):
    """The largest of n exponentials has variance 1 + 1/4 + … + 1/n²."""
    return {"largest": jax.random.exponential(key, (count,)).max()}


@theorem(
    "variance_of_variance", "function of moments", "Cochran (1934)", R.MEAN,
    lambda *, count: {"value": 2 / (count - 1)},
    {"biased": lambda *, count: {"value": 2 / count},
     "no_two": lambda *, count: {"value": 1.7 / (count - 1)}},
    tolerance=0.12, relative=True, design=point(20_000, count=6), batch=1000,
    statistics={"value": lambda spread: spread.var(ddof=1)},
)  # fmt: skip
def variance_of_variance(*, key, count):
    """The variance of n normals' empirical variance is 2σ⁴/(n - 1)."""
    return {"spread": jnp.var(jax.random.normal(key, (count,)), ddof=1)}


@theorem(
    "free_energy", "function of moments", "cumulants of the normal law", R.MEAN,
    lambda *, beta: {"value": beta**2 / 2},
    {"no_half": lambda *, beta: {"value": beta**2}, "ten_per_cent": 1.1},
    tolerance=0.05, design=point(25_000, beta=1.0), batch=1000,
    statistics={"value": lambda weight: math.log(weight.mean())},
)  # fmt: skip
def free_energy(*, key, beta):
    """log E exp(βZ) = β²/2."""
    return {"weight": jnp.exp(beta * jax.random.normal(key))}


@theorem(
    "lognormal_correlation", "function of moments", "Kotz, Balakrishnan and Johnson (2000)", R.MEAN,
    lambda *, rho, scale: {
        "value": math.expm1(rho * scale**2) / math.expm1(scale**2)},
    {"normal": lambda *, rho, scale: {"value": rho + 0 * scale},
     "no_scale": lambda *, rho, scale: {"value": rho**2 * (1 + 0 * scale)}},
    tolerance=0.06, design=point(20_000, rho=0.5, scale=0.7), batch=1000,
    statistics={"value": lambda x, y: np.corrcoef(x, y)[0, 1]},
)  # fmt: skip
def lognormal_correlation(*, key, rho, scale):
    """Lognormals of correlated normals have correlation (e^{ρs²} - 1)/(e^{s²} - 1)."""
    a, b = jax.random.normal(key, (2,))
    return {"x": jnp.exp(scale * a), "y": jnp.exp(scale * (rho * a + math.sqrt(1 - rho**2) * b))}


@theorem(
    "waiting_time", "function of moments", "inspection paradox; Feller II, I.4", R.MEAN,
    lambda *, shape: {"value": (shape + 1) / 2},
    {"half_mean": lambda *, shape: {"value": shape / 2}, "six_per_cent": 1.06},
    tolerance=0.06, relative=True, design=point(12_000, shape=2.0), batch=500,
    statistics={"value": lambda gap, square: square.mean() / (2 * gap.mean())},
)  # fmt: skip
def waiting_time(*, key, shape):
    """The mean wait for a renewal is E X²/(2 E X): (a + 1)/2 for gamma gaps of shape a."""
    gap = jax.random.gamma(key, shape)
    return {"gap": gap, "square": gap**2}


@theorem(
    "exponential_median", "quantile", "exponential law", R.MEAN,
    lambda *, rate: {"value": math.log(2) / rate},
    {"mean": lambda *, rate: {"value": 1 / rate}, "seven_per_cent": 1.07},
    tolerance=0.06, relative=True, design=point(30_000, rate=1.0), batch=1000,
    statistics={"value": lambda drawn: np.median(drawn)},
)  # fmt: skip
def exponential_median(*, key, rate):
    """The median of an exponential law is log 2 over its rate."""
    return {"drawn": jax.random.exponential(key) / rate}


@theorem(
    "upper_quantile", "quantile", "normal tables", R.MEAN,
    lambda *, level: {"value": sps.norm.ppf(level)},
    {"logistic": lambda *, level: {"value": math.log(level / (1 - level)) / 1.6},
     "eight_per_cent": 0.92},
    tolerance=0.06, relative=True, design=point(30_000, level=0.95), batch=1000,
    statistics={"value": lambda drawn: np.quantile(drawn, 0.95)},
)  # fmt: skip
def upper_quantile(*, key):
    """The 0.95 quantile of the normal law is 1.645."""
    return {"drawn": jax.random.normal(key)}


@theorem(
    "kurtosis_of_sums", "function of moments", "additivity of cumulants", R.MEAN,
    lambda *, terms: {"value": -1.2 / terms},
    {"normal": lambda *, terms: {"value": 0.0 * terms},
     "one_more": lambda *, terms: {"value": -1.2 / (terms + 1)}},
    tolerance=0.12, design=point(40_000, terms=2), batch=1000,
    statistics={"value": lambda total: sps.kurtosis(total)},
)  # fmt: skip
def kurtosis_of_sums(*, key, terms):
    """The sum of n uniform numbers has excess kurtosis -1.2/n."""
    return {"total": jax.random.uniform(key, (terms,)).sum()}


# --- distributions ---


def law(cdf: Callable[[np.ndarray], Any]) -> dict[str, jp.Distribution]:
    """A prediction of the distribution of `value`."""
    return {"value": jp.Distribution(cdf=cdf)}


@theorem(
    "sphere_coordinate", "distribution", "Archimedes; Muirhead, 1.5.7", R.MEAN,
    lambda *, dim: law(lambda x: sps.beta((dim - 1) / 2, (dim - 1) / 2).cdf((1 + x) / 2)),
    {"normal": lambda *, dim: law(sps.norm(0, dim**-0.5).cdf),
     "half_more": lambda *, dim: law(lambda x: sps.beta(dim / 2, dim / 2).cdf((1 + x) / 2))},
    tolerance=0.05, design=point(20_000, dim=4), batch=1000,
)  # fmt: skip
def sphere_coordinate(*, key, dim):
    """A coordinate of a uniform point of the sphere is a scaled beta number."""
    x = jax.random.normal(key, (dim,))
    return {"value": x[0] / jnp.linalg.norm(x)}


@theorem(
    "quadratic_form", "distribution", "Cochran (1934)", R.MEAN,
    lambda *, dim: law(sps.chi2(dim - 1).cdf),
    {"one_more": lambda *, dim: law(sps.chi2(dim).cdf),
     "normal": lambda *, dim: law(sps.norm(dim - 1, math.sqrt(2 * (dim - 1))).cdf)},
    tolerance=0.06, design=point(5000, dim=6), batch=1000,
)  # fmt: skip
def quadratic_form(*, key, dim):
    """The sum of squares about the mean of n normals has n - 1 degrees of freedom."""
    x = jax.random.normal(key, (dim,))
    return {"value": jnp.square(x - x.mean()).sum()}


@theorem(
    "ratio_of_normals", "distribution, heavy", "Cauchy law", R.MEAN,
    lambda *, scale: law(sps.cauchy(scale=scale).cdf),
    {"wider": lambda *, scale: law(sps.cauchy(scale=1.25 * scale).cdf),
     "student": lambda *, scale: law(sps.t(2, scale=scale).cdf)},
    tolerance=0.04, design=point(10_000, scale=2.0), batch=1000,
)  # fmt: skip
def ratio_of_normals(*, key, scale):
    """The ratio of two centred normals has Cauchy's distribution."""
    a, b = jax.random.normal(key, (2,))
    return {"value": scale * a / b}


@theorem(
    "wigner_surmise", "distribution", "Wigner (1957)", R.MEAN,
    lambda *, unit: law(sps.rayleigh(scale=2 * unit).cdf),
    {"poisson": lambda *, unit: law(sps.expon(scale=2.5 * unit).cdf),
     "scale": lambda *, unit: law(sps.rayleigh(scale=1.85 * unit).cdf)},
    tolerance=0.05, design=point(6000, unit=1.0), batch=1000,
)  # fmt: skip
def wigner_surmise(*, key, unit):
    """The gap of a real symmetric Gaussian 2 × 2 matrix has Rayleigh's distribution."""
    a, b, c = jax.random.normal(key, (3,)) * unit * jnp.array([2**0.5, 2**0.5, 1.0])
    return {"value": jnp.sqrt((a - b) ** 2 + 4 * c**2)}


def beta_sampler(a: float, b: float) -> dict[str, jp.Distribution]:
    """A prediction by a second sampler."""
    return {"value": jp.Distribution(sampler=lambda rng, count: rng.beta(a, b, count))}


@theorem(
    "order_statistic", "distribution by a sampler", "David and Nagaraja, Order Statistics", R.MEAN,
    lambda *, rank, count: beta_sampler(rank, count - rank + 1),
    {"off_by_one": lambda *, rank, count: beta_sampler(rank, count - rank),
     "next": lambda *, rank, count: beta_sampler(rank + 1, count - rank)},
    tolerance=0.08, design=point(3000, rank=2, count=7), batch=500,
)  # fmt: skip
def order_statistic(*, key, rank, count):
    """The k-th of n ordered uniform numbers has the beta distribution (k, n - k + 1)."""
    return {"value": jnp.sort(jax.random.uniform(key, (count,)))[rank - 1]}


@theorem(
    "fixed_points", "discrete distribution", "Montmort (1713)", R.MEAN,
    lambda *, count: law(lambda x: sps.poisson(1).cdf(x)),
    {"binomial": lambda *, count: law(lambda x: sps.poisson(0.85).cdf(x)),
     "one_more": lambda *, count: law(lambda x: sps.poisson(1.2).cdf(x))},
    tolerance=0.06, design=point(4000, count=12), batch=500,
)  # fmt: skip
def fixed_points(*, key, count):
    """The number of fixed points of a permutation of 12 is Poisson's, up to 1e-9."""
    return {"value": (jax.random.permutation(key, count) == jnp.arange(count)).sum()}


# --- functions over an axis ---

TIMES = jnp.linspace(0.2, 3.0, 15)


@theorem(
    "characteristic_function", "function over an axis", "Lévy; Laplace's law", R.MEAN,
    lambda *, scale: {"value": 1 / (1 + (scale * np.asarray(TIMES)) ** 2)},
    {"normal": lambda *, scale: {"value": np.exp(-((scale * np.asarray(TIMES)) ** 2))},
     "scale": lambda *, scale: {"value": 1 / (1 + (1.08 * scale * np.asarray(TIMES)) ** 2)}},
    quantities=[jp.Quantity("value", "E cos tX", 0.04, axis="t")],
    design=point(15_000, scale=1.0), batch=500,
)  # fmt: skip
def characteristic_function(*, key, scale):
    """E cos tX = 1/(1 + t²) for Laplace's law."""
    return {"value": jnp.cos(TIMES * scale * jax.random.laplace(key))}


@theorem(
    "mean_order_statistics", "function over an axis", "David and Nagaraja", R.MEAN,
    lambda *, count: {"value": np.arange(1, count + 1) / (count + 1)},
    {"empirical": lambda *, count: {"value": np.arange(1, count + 1) / count},
     "midpoints": lambda *, count: {"value": (np.arange(1, count + 1) - 0.5) / count}},
    quantities=[jp.Quantity("value", "mean of the i-th", 0.03, axis="rank")],
    design=point(3000, count=9), batch=500,
)  # fmt: skip
def mean_order_statistics(*, key, count):
    """The i-th of n ordered uniform numbers is i/(n + 1) on average."""
    return {"value": jnp.sort(jax.random.uniform(key, (count,)))}


@theorem(
    "autoregression", "function over an axis", "Yule (1927)", R.MEAN,
    lambda *, decay: {"value": decay ** np.arange(8) / (1 - decay**2)},
    {"no_factor": lambda *, decay: {"value": decay ** np.arange(8)},
     "faster": lambda *, decay: {"value": decay ** (1.2 * np.arange(8)) / (1 - decay**2)}},
    quantities=[jp.Quantity("value", "E x_0 x_k", 0.12, axis="lag")],
    design=point(16_000, decay=0.6), batch=500,
)  # fmt: skip
def autoregression(*, key, decay):
    """A stationary autoregression has covariances ρ^k/(1 - ρ²)."""
    noise = jax.random.normal(key, (8,))
    state, path = noise[0] / jnp.sqrt(1 - decay**2), []
    for step in range(8):
        path.append(state)
        state = decay * state + noise[(step + 1) % 8]
    return {"value": path[0] * jnp.stack(path)}


# --- identities for every instance ---


def matrix_and_vectors(*, key, dim):
    """A matrix and two vectors."""
    drawn = jax.random.normal(key, (dim, dim + 2))
    return {"a": drawn[:, :dim], "u": drawn[:, dim], "v": drawn[:, dim + 1]}


@theorem(
    "determinant_lemma", "identity", "Sylvester; Horn and Johnson, 0.8.5", R.IDENTITY,
    lambda *, a, u, v: {"value": jnp.linalg.det(a) * (1 + v @ jnp.linalg.solve(a, u))},
    {"transposed": lambda *, a, u, v: {
        "value": jnp.linalg.det(a) * (1 + u @ jnp.linalg.solve(a, v))},
     "sign": lambda *, a, u, v: {"value": jnp.linalg.det(a) * (1 - v @ jnp.linalg.solve(a, u))}},
    tolerance=0.0, design=point(100, dim=5), instance=matrix_and_vectors,
)  # fmt: skip
def determinant_lemma(*, key, a, u, v):
    """det(A + u vᵀ) = det A (1 + vᵀ A⁻¹ u)."""
    return {"value": jnp.linalg.det(a + jnp.outer(u, v))}


@theorem(
    "parseval", "identity", "Parseval (1799)", R.IDENTITY,
    lambda *, x: {"value": jnp.square(jnp.abs(jnp.fft.fft(x))).mean()},
    {"not_divided": lambda *, x: {"value": jnp.square(jnp.abs(jnp.fft.fft(x))).sum()},
     "half_spectrum": lambda *, x: {"value": jnp.square(jnp.abs(jnp.fft.rfft(x))).mean()}},
    tolerance=0.0, design=point(100, count=32),
    instance=lambda *, key, count: {"x": jax.random.normal(key, (count,))},
)  # fmt: skip
def parseval(*, key, x):
    """Σ|x|² = Σ|x̂|²/n."""
    return {"value": jnp.square(x).sum()}


@theorem(
    "shifted_variance", "identity with cancellation", "König and Huygens", R.IDENTITY,
    lambda *, x: {"value": jnp.square(x).mean() - x.mean() ** 2},
    {"unbiased": lambda *, x: {
        "value": (jnp.square(x).sum() - x.size * x.mean() ** 2) / (x.size - 1)},
     "other_sign": lambda *, x: {"value": jnp.square(x).mean() + x.mean() ** 2}},
    tolerance=0.0, design=point(100, count=30),
    instance=lambda *, key, count: {"x": 1e3 + jax.random.normal(key, (count,))},
)  # fmt: skip
def shifted_variance(*, key, x):
    """Mean squared deviation = mean square - squared mean, for numbers far from 0."""
    return {"value": jnp.square(x - x.mean()).mean()}


@theorem(
    "softmax_derivative", "identity", "exponential families", R.IDENTITY,
    lambda *, scores, values: {
        "value": jax.nn.softmax(scores) * (values - jax.nn.softmax(scores) @ values)},
    {"no_mean": lambda *, scores, values: {"value": jax.nn.softmax(scores) * values},
     "no_weight": lambda *, scores, values: {"value": values - jax.nn.softmax(scores) @ values}},
    quantities=[jp.Quantity("value", "gradient", 0.0, axis="place")], design=point(100, count=12),
    instance=lambda *, key, count: dict(
        zip(("scores", "values"), jax.random.normal(key, (2, count)), strict=True)),
)  # fmt: skip
def softmax_derivative(*, key, scores, values):
    """The gradient of a softmax average is the weight times the deviation from the average."""
    return {"value": jax.grad(lambda s: jax.nn.softmax(s) @ values)(scores)}


@theorem(
    "woodbury", "identity", "Woodbury (1950)", R.IDENTITY,
    lambda *, u, y: {"value": y - u @ jnp.linalg.solve(jnp.eye(u.shape[1]) + u.T @ u, u.T @ y)},
    {"no_identity": lambda *, u, y: {"value": y - u @ jnp.linalg.solve(u.T @ u, u.T @ y)},
     "two": lambda *, u, y: {
         "value": y - u @ jnp.linalg.solve(2 * jnp.eye(u.shape[1]) + u.T @ u, u.T @ y)}},
    quantities=[jp.Quantity("value", "solution", 0.0, axis="place")],
    design=point(100, dim=8, rank=3),
    instance=lambda *, key, dim, rank: {
        "u": jax.random.normal(key, (dim, rank)),
        "y": jax.random.normal(jax.random.fold_in(key, 1), (dim,))},
)  # fmt: skip
def woodbury(*, key, u, y):
    """(I + UUᵀ)⁻¹ = I - U(I + UᵀU)⁻¹Uᵀ."""
    return {"value": jnp.linalg.solve(jnp.eye(u.shape[0]) + u @ u.T, y)}


# --- bounds ---


def two_vectors(*, key, dim):
    """Two normal vectors."""
    x, y = jax.random.normal(key, (2, dim))
    return {"x": x, "y": y}


@theorem(
    "cauchy_schwarz", "bound", "Cauchy (1821)", R.BOUND,
    lambda *, x, y: {"value": jnp.linalg.norm(x) * jnp.linalg.norm(y)},
    {"five_per_cent": lambda *, x, y: {"value": 0.95 * jnp.linalg.norm(x) * jnp.linalg.norm(y)},
     "largest": lambda *, x, y: {"value": jnp.abs(x).max() * jnp.linalg.norm(y)}},
    tolerance=0.0, design=point(500, dim=2), instance=two_vectors,
)  # fmt: skip
def cauchy_schwarz(*, key, x, y):
    """|⟨x, y⟩| ≤ |x| |y|."""
    return {"value": jnp.abs(x @ y)}


@theorem(
    "means", "bound from below", "Cauchy (1821)", R.BOUND,
    lambda *, x: {"value": jnp.exp(jnp.log(x).mean())},
    {"quadratic": lambda *, x: {"value": jnp.sqrt(jnp.square(x).mean())},
     "five_per_cent": lambda *, x: {"value": 1.05 * jnp.exp(jnp.log(x).mean())}},
    quantities=[jp.Quantity("value", "arithmetic mean", 0.0, side="lower")],
    design=point(1000, count=3),
    instance=lambda *, key, count: {"x": jax.random.uniform(key, (count,), minval=0.2)},
)  # fmt: skip
def means(*, key, x):
    """The arithmetic mean is at least the geometric mean."""
    return {"value": x.mean()}


@theorem(
    "hoffman_wielandt", "bound", "Hoffman and Wielandt (1953)", R.BOUND,
    lambda *, a, b: {"value": jnp.square(a - b).sum()},
    {"spectral": lambda *, a, b: {"value": jnp.linalg.norm(a - b, 2) ** 2},
     "half": lambda *, a, b: {"value": 0.5 * jnp.square(a - b).sum()}},
    tolerance=0.0, design=point(150, dim=3),
    instance=lambda *, key, dim: {
        name: m + m.T for name, m in zip("ab", jax.random.normal(key, (2, dim, dim)), strict=True)},
)  # fmt: skip
def hoffman_wielandt(*, key, a, b):
    """Σ (λ_i(A) - λ_i(B))² ≤ |A - B|² in Frobenius' norm."""
    return {"value": jnp.square(jnp.linalg.eigvalsh(a) - jnp.linalg.eigvalsh(b)).sum()}


@theorem(
    "welch", "bound from below", "Welch (1974)", R.BOUND,
    lambda *, frame: {"value": jnp.sqrt(
        (frame.shape[0] - frame.shape[1]) / (frame.shape[1] * (frame.shape[0] - 1)))},
    {"no_minus": lambda *, frame: {"value": jnp.sqrt(1.0 / frame.shape[1]) + 0 * frame.sum()},
     "ten_per_cent": lambda *, frame: {"value": 1.1 * jnp.sqrt(
         (frame.shape[0] - frame.shape[1]) / (frame.shape[1] * (frame.shape[0] - 1)))}},
    quantities=[jp.Quantity("value", "coherence", 0.0, side="lower")],
    design=point(1000, count=3, dim=2),
    instance=lambda *, key, count, dim: {"frame": jax.random.normal(key, (count, dim))},
)  # fmt: skip
def welch(*, key, frame):
    """n unit vectors in d dimensions have coherence at least √((n - d)/(d(n - 1)))."""
    unit = frame / jnp.linalg.norm(frame, axis=1, keepdims=True)
    gram = jnp.abs(unit @ unit.T) - 2 * jnp.eye(len(unit))
    return {"value": gram.max()}


@theorem(
    "largest_of_normals", "loose bound on a mean", "Boucheron, Lugosi and Massart, 2.5", R.BOUND,
    lambda *, count: {"value": math.sqrt(2 * math.log(count))},
    {"no_two": lambda *, count: {"value": math.sqrt(math.log(count))},
     "two_less": lambda *, count: {"value": math.sqrt(2 * math.log(count)) - 0.6}},
    tolerance=0.05, design=point(3000, count=100), batch=500,
)  # fmt: skip
def largest_of_normals(*, key, count):
    """The mean of the largest of n normals is at most √(2 log n)."""
    return {"value": jax.random.normal(key, (count,)).max()}


@theorem(
    "hoeffding", "loose bound on a proportion", "Hoeffding (1963)", R.BOUND,
    lambda *, count, level: {"value": math.exp(-2 * count * level**2)},
    {"four": lambda *, count, level: {"value": math.exp(-4 * count * level**2)},
     "quarter": 0.2},
    tolerance=0.02, design=point(10_000, count=20, level=0.2), batch=1000,
)  # fmt: skip
def hoeffding(*, key, count, level):
    """P(mean of n coins ≥ 1/2 + t) ≤ exp(-2nt²)."""
    heads = jax.random.bernoulli(key, 0.5, (count,)).sum()
    return {"value": heads >= count * (0.5 + level)}


def _stein_loss(key, dim, shrinkage):
    x = 1.0 + jax.random.normal(key, (dim,))
    return jnp.square((1 - shrinkage / (x @ x)) * x - 1.0).sum()


@theorem(
    "james_stein_wins", "paired bound", "James and Stein (1961)", R.BOUND,
    lambda *, dim: {"value": jp.AtMost(0.0 * dim)},
    {"by_more": lambda *, dim: {"value": jp.AtMost(-3.0 + 0 * dim)},
     "loses": lambda *, dim: {"value": jp.AtLeast(0.0 * dim)}},
    tolerance=0.3, design=point(3000, dim=6), batch=500,
    simulation=jp.per_trial(
        jp.paired(
            lambda *, key, dim: {"value": _stein_loss(key, dim, dim - 2)},
            lambda *, key, dim: {"value": _stein_loss(key, dim, 0)}), batch=500),
)  # fmt: skip
def james_stein_wins():
    """James and Stein's estimator is better than the observation itself, here at |θ|² = d."""


def _simplex(dim):
    centred = np.eye(dim + 1) - 1 / (dim + 1)
    unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    return float((unit @ unit.T)[0, 1])


@theorem(
    "simplex", "existence", "regular simplex", R.EXISTENCE,
    lambda *, dim: {"value": -1 / dim},
    {"one_more": lambda *, dim: {"value": -1 / (dim + 1)}, "orthogonal": 0.0},
    quantities=[jp.Quantity("value", "common inner product", 1e-9, side="two")],
    design=point(2, dim=4),
    simulation=lambda *, key, trials, dim: {"value": exact_estimate(_simplex(dim), trials)},
)  # fmt: skip
def simplex():
    """There are d + 1 unit vectors in d dimensions with all inner products -1/d."""


# --- rates ---


def rate(exponent: float, logs: float = 0.0) -> dict[str, jp.Rate]:
    """A prediction of a rate."""
    return {"value": jp.Rate(exponent, logs)}


@theorem(
    "random_walk", "rate", "de Moivre (1733)", R.RATE,
    lambda: rate(0.5), {"faster": lambda: rate(0.6), "slower": lambda: rate(0.4)},
    tolerance=0.08, design=sizes("steps", [64, 128, 256, 512], 4000), batch=100,
    options={"size": "steps"},
)  # fmt: skip
def random_walk(*, key, steps):
    """E|S_n| grows like n^(1/2)."""
    return {"value": jnp.abs(jax.random.rademacher(key, (steps,), dtype=float).sum())}


@theorem(
    "collecting_all", "rate with a logarithm", "Erdős and Rényi (1961)", R.RATE,
    lambda: rate(1.0, 1.0), {"square": lambda: rate(1.5, 1.0), "root": lambda: rate(0.5, 1.0)},
    tolerance=0.3, design=sizes("coupons", [8, 16, 32, 64, 128], 1000), batch=50,
    options={"size": "coupons"},
)  # fmt: skip
def collecting_all(*, key, coupons):
    """The time to collect n coupons grows like n log n."""
    drawn = jax.random.randint(key, (24 * coupons,), 0, coupons)
    first = jnp.full(coupons, 24 * coupons).at[drawn].min(jnp.arange(24 * coupons))
    return {"value": first.max() + 1.0}


def _trapezoidal_error(cells):
    x = np.linspace(0, 1, cells + 1)
    return abs(np.trapezoid(np.exp(x), x) - math.expm1(1))


@theorem(
    "trapezoidal_rule", "rate without noise", "Euler and Maclaurin", R.RATE,
    lambda: rate(-2.0), {"first": lambda: rate(-1.0), "near": lambda: rate(-2.2)},
    tolerance=0.05, design=sizes("cells", [8, 16, 32, 64], 2),
    simulation=lambda *, key, trials, cells: {
        "value": exact_estimate(_trapezoidal_error(cells), trials)},
    options={"size": "cells"},
)  # fmt: skip
def trapezoidal_rule():
    """The trapezoidal rule errs by a multiple of 1/n²."""


@theorem(
    "nearest_neighbour", "rate", "Biau and Devroye, Lectures on the Nearest Neighbor", R.RATE,
    lambda: rate(-0.5), {"one_dimension": lambda: rate(-1.0), "three": lambda: rate(-1 / 3)},
    tolerance=0.08, design=sizes("points", [50, 100, 200, 400], 3000), batch=100,
    options={"size": "points"},
)  # fmt: skip
def nearest_neighbour(*, key, points):
    """In the plane the nearest of n points lies at a distance of order n^(-1/2)."""
    drawn = jax.random.uniform(key, (points, 2)) - 0.5
    return {"value": jnp.sqrt(jnp.square(drawn).sum(axis=1).min())}


# --- limits ---


def constant(value: float) -> Form:
    """A limit that depends on nothing."""
    return lambda: {"value": value}


def near(value: float, *factors: float) -> dict[str, Form]:
    """A limit that is wrong by these factors."""
    return {f"times_{factor:g}": constant(value * factor) for factor in factors}


@theorem(
    "median_efficiency", "limit, 1/n stated", "Laplace (1818)", R.ASYMPTOTIC,
    constant(math.pi / 2), near(math.pi / 2, 0.85, 1.15),
    tolerance=0.15, design=sizes("count", [11, 21, 41, 81], 8000), batch=500,
    statistics={"value": lambda scaled: scaled.var(ddof=1)},
    options={"size": "count", "powers": (1,)},
)  # fmt: skip
def median_efficiency(*, key, count):
    """n Var(median of normals) → π/2."""
    return {"scaled": math.sqrt(count) * jnp.median(jax.random.normal(key, (count,)))}


@theorem(
    "skewed_half", "limit, n^(-1/2) stated", "Edgeworth; Feller II, XVI.4", R.ASYMPTOTIC,
    constant(0.5), near(0.5, 0.88, 1.12),
    tolerance=0.05, design=sizes("count", [4, 16, 64, 256], 10_000), batch=500,
    options={"size": "count", "powers": (1 / 2,)},
)  # fmt: skip
def skewed_half(*, key, count):
    """A centred sum of n exponentials is negative with a probability that tends to 1/2."""
    return {"value": jax.random.exponential(key, (count,)).sum() < count}


@theorem(
    "orthogonal_edge", "limit, n^(-2/3) stated", "Füredi and Komlós (1981); Forrester (1993)",
    R.ASYMPTOTIC,
    constant(2.0), near(2.0, 0.93, 1.07),
    tolerance=0.12, design=sizes("dim", [8, 16, 32, 64], 300),
    options={"size": "dim", "powers": (2 / 3, 4 / 3)},
)  # fmt: skip
def orthogonal_edge(*, key, dim):
    """The largest eigenvalue of a symmetric Gaussian matrix tends to 2, from below by n^(-2/3)."""
    a = jax.random.normal(key, (dim, dim))
    return {"value": jnp.linalg.eigvalsh((a + a.T) / math.sqrt(2 * dim))[-1]}


@theorem(
    "smoothed_density", "limit, n^(-1/4) stated", "Parzen (1962)", R.ASYMPTOTIC,
    constant(1 / math.sqrt(2 * math.pi)), near(1 / math.sqrt(2 * math.pi), 0.9, 1.1),
    tolerance=0.04, design=sizes("count", [30, 120, 480, 1920], 3000), batch=50,
    options={"size": "count", "powers": (1 / 4, 1 / 2)},
)  # fmt: skip
def smoothed_density(*, key, count):
    """A density estimate with bandwidth n^(-1/8) tends to the density, here in 0."""
    width = count ** (-1 / 8)
    x = jax.random.normal(key, (count,)) / width
    return {"value": jnp.exp(-(x**2) / 2).mean() / (width * math.sqrt(2 * math.pi))}


@theorem(
    "extreme_growth", "limit, 1/log n stated", "Gnedenko (1943)", R.ASYMPTOTIC,
    constant(1.0), near(1.0, 0.9, 1.1),
    tolerance=0.08, design=sizes("count", [8, 32, 128, 512, 2048], 3000), batch=50,
    options={"size": "count", "powers": ("log",)},
)  # fmt: skip
def extreme_growth(*, key, count):
    """The largest of n exponentials over log n tends to 1, by 1/log n."""
    return {"value": jax.random.exponential(key, (count,)).max() / math.log(count)}


@theorem(
    "delta_method", "limit, non-monotone", "Cramér (1946), 27.7", R.ASYMPTOTIC,
    constant(0.3), near(0.3, 0.95, 1.05),
    tolerance=0.012, design=sizes("count", [8, 16, 32, 64, 128], 4000), batch=500,
    options={"size": "count", "powers": (1, 2)},
)  # fmt: skip
def delta_method(*, key, count):
    """A smooth function of a mean tends to its value, here from below and then from above."""
    mean = jax.random.normal(key, (count,)).mean()
    return {"value": 0.3 + mean**2 * (1 - 4 * mean**2)}


@theorem(
    "wishart_edge", "limit, unstated", "Geman (1980); Johnstone (2001)", R.ASYMPTOTIC,
    lambda *, ratio: {"value": (1 + math.sqrt(ratio)) ** 2},
    {"no_cross_term": lambda *, ratio: {"value": 1 + ratio},
     "quarter": 1.25},
    tolerance=0.4, design=sizes("dim", [8, 16, 32, 64], 1000, ratio=0.5),
    options={"size": "dim"},
)  # fmt: skip
def wishart_edge(*, key, dim, ratio):
    """The largest eigenvalue of a sample covariance tends to (1 + √γ)²."""
    count = round(dim / ratio)
    x = jax.random.normal(key, (count, dim))
    return {"value": jnp.linalg.eigvalsh(x.T @ x / count)[-1]}


@theorem(
    "softmax_average", "limit, unstated, heavy", "attention at initialisation", R.ASYMPTOTIC,
    lambda *, spread: {"value": math.exp(spread**2)},
    {"half": lambda *, spread: {"value": math.exp(spread**2 / 2)},
     "half_more": 1.5},
    tolerance=0.5, design=sizes("tokens", [25, 50, 100, 200], 16_000, spread=0.9), batch=100,
    options={"size": "tokens"}, traced=("spread",),
)  # fmt: skip
def softmax_average(*, key, tokens, spread):
    """T times the variance of a softmax average of T normals tends to exp(s²)."""
    scores, values = jax.random.normal(key, (2, tokens))
    return {"value": tokens * (jax.nn.softmax(spread * scores) @ values) ** 2}


@theorem(
    "marchenko_pastur", "limit, 1/n stated", "Marchenko and Pastur (1967)", R.ASYMPTOTIC,
    lambda *, ratio, ridge: {"value": (
        math.sqrt((1 - ratio + ridge) ** 2 + 4 * ratio * ridge) - (1 - ratio + ridge))
        / (2 * ratio * ridge)},
    {"population": lambda *, ratio, ridge: {"value": 1 / (1 + ridge) + 0 * ratio},
     "four_per_cent": 1.04},
    tolerance=0.03, design=sizes("dim", [8, 16, 32, 64], 150, ratio=0.5, ridge=0.3),
    options={"size": "dim", "powers": (1,)}, traced=("ridge",),
)  # fmt: skip
def marchenko_pastur(*, key, dim, ratio, ridge):
    """The normalised trace of (S + λ)⁻¹ tends to Marchenko and Pastur's transform."""
    count = round(dim / ratio)
    x = jax.random.normal(key, (count, dim))
    return {"value": jnp.trace(jnp.linalg.inv(x.T @ x / count + ridge * jnp.eye(dim))) / dim}


@theorem(
    "fourth_moment", "limit, 1/n and 1/n² stated", "Wigner (1955)", R.ASYMPTOTIC,
    constant(2.0), {"normal": constant(3.0), **near(2.0, 0.85, 1.15)},
    tolerance=0.2, design=sizes("dim", [8, 12, 16, 24, 32], 3000), batch=50,
    options={"size": "dim", "powers": (1, 2)},
)  # fmt: skip
def fourth_moment(*, key, dim):
    """The normalised trace of W⁴ tends to the second Catalan number."""
    a = jax.random.normal(key, (dim, dim))
    square = (a + a.T) @ (a + a.T) / (2 * dim)
    return {"value": jnp.square(square).sum() / dim}


@theorem(
    "real_eigenvalues", "limit, n^(-1/2) stated", "Edelman, Kostlan and Shub (1994)", R.ASYMPTOTIC,
    constant(math.sqrt(2 / math.pi)), near(math.sqrt(2 / math.pi), 0.8, 1.2),
    tolerance=0.12, design=sizes("dim", [6, 12, 24, 48], 600),
    options={"size": "dim", "powers": (1 / 2,)},
)  # fmt: skip
def real_eigenvalues(*, key, dim):
    """A real Gaussian matrix has about √(2n/π) real eigenvalues."""
    values = jnp.linalg.eigvals(jax.random.normal(key, (dim, dim)))
    return {"value": (values.imag == 0).sum() / math.sqrt(dim)}


@theorem(
    "discrete_maximum", "limit, unstated n^(-1/2)", "Asmussen, Glynn and Pitman (1995)",
    R.ASYMPTOTIC,
    constant(math.sqrt(2 / math.pi)), near(math.sqrt(2 / math.pi), 0.75, 1.25),
    tolerance=0.08, design=sizes("steps", [8, 32, 128, 512], 4000), batch=100,
    options={"size": "steps"},
)  # fmt: skip
def discrete_maximum(*, key, steps):
    """The maximum of Brownian motion seen at n times tends to √(2/π) on average."""
    path = jnp.cumsum(jax.random.normal(key, (steps,))) / math.sqrt(steps)
    return {"value": jnp.maximum(path.max(), 0.0)}


def without_noise(function: Callable[[int], float], size: str) -> Any:
    """A simulation that computes a number at each size."""

    def simulate(*, key, trials, **parameters):
        return {"value": exact_estimate(function(parameters[size]), trials)}

    return simulate


@theorem(
    "basel", "limit without noise", "Euler (1735)", R.ASYMPTOTIC,
    constant(math.pi**2 / 6), near(math.pi**2 / 6, 0.99, 1.01),
    tolerance=0.005, design=sizes("terms", [20, 40, 80, 160], 2),
    simulation=without_noise(lambda n: math.fsum(1 / k**2 for k in range(1, n + 1)), "terms"),
    options={"size": "terms", "powers": (1,)},
)  # fmt: skip
def basel():
    """1 + 1/4 + 1/9 + … = π²/6."""


@theorem(
    "wallis", "limit without noise, unstated", "Wallis (1656)", R.ASYMPTOTIC,
    constant(math.pi / 2), near(math.pi / 2, 0.98, 1.02),
    tolerance=0.01, design=sizes("factors", [10, 20, 40, 80, 160], 2),
    simulation=without_noise(
        lambda n: math.prod(4 * k * k / (4 * k * k - 1) for k in range(1, n + 1)), "factors"),
    options={"size": "factors"},
)  # fmt: skip
def wallis():
    """Wallis' product tends to π/2."""


def _primes(bound):
    sieve = np.ones(bound + 1, bool)
    sieve[:2] = False
    for p in range(2, math.isqrt(bound) + 1):
        if sieve[p]:
            sieve[p * p :: p] = False
    return int(sieve.sum())


@theorem(
    "prime_numbers", "limit without noise, 1/log n", "Hadamard; de la Vallée Poussin (1896)",
    R.ASYMPTOTIC,
    constant(1.0), near(1.0, 0.8, 1.25),
    tolerance=0.1, design=sizes("bound", [10**3, 10**4, 10**5, 10**6], 2),
    simulation=without_noise(lambda n: _primes(n) * math.log(n) / n, "bound"),
    options={"size": "bound", "powers": ("log",)},
)  # fmt: skip
def prime_numbers():
    """The number of primes up to n, times log n / n, tends to 1."""


# --- paired ---


def _no_event(key, rate, count):
    gaps = jax.random.exponential(key, (count, 12)) / rate
    counts = (jnp.cumsum(gaps, axis=1) < 1).sum(axis=1)
    return counts[0] == 0.0, (1 - 1 / count) ** counts.sum()


@theorem(
    "rao_blackwell", "paired equality", "Rao (1945); Blackwell (1947)", R.MEAN,
    lambda *, rate, count: {"value": 0.0 * rate * count},
    {"first": lambda *, rate, count: {"value": 0.012},
     "second": lambda *, rate, count: {"value": -0.012}},
    tolerance=0.01, design=point(60_000, rate=1.0, count=12),
    simulation=jp.per_trial(
        jp.paired(lambda *, key, rate, count: {"value": _no_event(key, rate, count)[0]},
                  lambda *, key, rate, count: {"value": _no_event(key, rate, count)[1]}),
        batch=1000),
)  # fmt: skip
def rao_blackwell():
    """Both {X_1 = 0} and (1 - 1/n)^S are unbiased for e^-λ: Poisson counts, built from gaps."""


# --- trajectories ---


@theorem(
    "relaxation", "trajectory", "Ornstein and Uhlenbeck (1930), in discrete time", R.MEAN,
    lambda *, time, decay: {"value": (1 - decay ** (2 * np.asarray(time))) / (1 - decay**2)},
    {"stationary": lambda *, time, decay: {"value": 1 / (1 - decay**2) + 0.0 * np.asarray(time)},
     "half_rate": lambda *, time, decay: {
         "value": (1 - decay ** np.asarray(time)) / (1 - decay**2)}},
    tolerance=0.1, relative=True,
    design=jp.Design({"time": [1, 3, 10, 30], "decay": 0.8}, trials=8000),
    simulation=jp.trajectory(
        lambda: 0.0, lambda state, *, key, decay: decay * state + jax.random.normal(key),
        lambda state: {"value": state**2}, batch=500),
    options={"shared": ("time",)},
)  # fmt: skip
def relaxation():
    """A forced autoregression from 0 has variance (1 - a^2t)/(1 - a²)."""


@theorem(
    "polya_urn", "trajectory", "Eggenberger and Pólya (1923)", R.MEAN,
    lambda *, time: {
        "share": 0.5 + 0.0 * np.asarray(time),
        "square": (2 * np.asarray(time) + 3) / (6 * (np.asarray(time) + 2.0))},
    {"no_start": lambda *, time: {
        "share": 0.5 + 0.0 * np.asarray(time),
        "square": (2 * np.asarray(time) + 1) / (6 * (np.asarray(time) + 1.0)) + 0.02},
     "independent": lambda *, time: {
         "share": 0.5 + 0.0 * np.asarray(time),
         "square": 0.25 + 0.25 / (np.asarray(time) + 2.0)}},
    quantities=[
        jp.Quantity("share", "share of red", 0.02), jp.Quantity("square", "its square", 0.02)],
    design=jp.Design({"time": [2, 8, 32]}, trials=8000),
    simulation=jp.trajectory(
        lambda: jnp.array([1.0, 2.0]),
        lambda state, *, key: state + jnp.stack(
            [(jax.random.uniform(key) * state[1] < state[0]) * 1.0, 1.0]),
        lambda state: {"share": state[0] / state[1], "square": (state[0] / state[1]) ** 2},
        batch=500),
    options={"shared": ("time",)},
)  # fmt: skip
def polya_urn():
    """The share of red in Pólya's urn is a martingale, and uniform on its values."""


def _lms(time: Any, dim: int, rate: float, fourth: float = 2.0, noise: float = 1.0) -> np.ndarray:
    """Mean squared error of least mean squares after each of `time` steps."""
    found, error = [], float(dim)
    for step in range(int(np.max(time)) + 1):
        if step in np.ravel(time):
            found.append(error)
        error = (1 - 2 * rate + rate**2 * (dim + fourth)) * error + rate**2 * dim * noise
    return np.array(found) if np.ndim(time) else np.array(found[0])


def _lms_step(state, *, key, dim, rate):
    drawn = jax.random.normal(key, (dim + 1,))
    return state - rate * (drawn[:dim] @ state + drawn[dim]) * drawn[:dim]


@theorem(
    "least_mean_squares", "trajectory, skewed", "Widrow and Hoff (1960)", R.MEAN,
    lambda *, time, dim, rate: {"value": _lms(time, dim, rate)},
    {"no_fourth_moment": lambda *, time, dim, rate: {"value": _lms(time, dim, rate, -4.0)},
     "no_noise": lambda *, time, dim, rate: {"value": _lms(time, dim, rate, noise=0.0)}},
    tolerance=0.08, relative=True,
    design=jp.Design({"time": [1, 4, 16], "dim": 4, "rate": 0.1}, trials=3000),
    simulation=jp.trajectory(
        lambda *, dim: jnp.ones(dim), _lms_step,
        lambda state: {"value": jnp.square(state).sum()}, batch=500),
    options={"shared": ("time",)},
)  # fmt: skip
def least_mean_squares():
    """The error of least mean squares obeys e' = (1 - 2η + η²(d + 2)) e + η² d σ²."""


# --- set-up once a cell ---


def toeplitz_factor(*, dim, decay):
    """Cholesky factor of the matrix decay^|i - j|."""
    place = np.arange(dim)
    return {"factor": np.linalg.cholesky(decay ** np.abs(place[:, None] - place[None]))}


@theorem(
    "correlated_sum", "set-up once a cell", "Bartlett (1946)", R.MEAN,
    lambda *, dim, decay: {"value": (1 + decay) / (1 - decay)
                           - 2 * decay * (1 - decay**dim) / (dim * (1 - decay) ** 2)},
    {"limit": lambda *, dim, decay: {"value": (1 + decay) / (1 - decay) + 0 * dim},
     "independent": lambda *, dim, decay: {"value": 1.0 + 0 * dim * decay}},
    tolerance=0.1, relative=True, design=point(8000, dim=10, decay=0.5), batch=500,
    setup=toeplitz_factor,
)  # fmt: skip
def correlated_sum(*, key, factor, dim):
    """The variance of a sum of correlated numbers, over their count."""
    return {"value": (factor @ jax.random.normal(key, (dim,))).sum() ** 2 / dim}


@theorem(
    "fixed_projection", "set-up once a cell, random", "Wilks (1938)", R.MEAN,
    lambda *, dim, rank: {"value": float(rank)},
    {"one_more": lambda *, dim, rank: {"value": rank + 1.0}, "ten_per_cent": 0.9},
    tolerance=0.2, design=point(4000, dim=12, rank=3), batch=500,
    setup=lambda *, key, dim, rank: {
        "basis": jnp.linalg.qr(jax.random.normal(key, (dim, rank)))[0]},
)  # fmt: skip
def fixed_projection(*, key, basis, dim):
    """A normal vector projected on any fixed k-dimensional space has mean square length k."""
    return {"value": jnp.square(basis.T @ jax.random.normal(key, (dim,))).sum()}
