"""The gallery: theorems of others, each against something that shares no code with its file."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import mpmath
import numpy as np
import pytest
from gallery import GALLERY, code_lines
from quick_cases import some_slow
from scipy import integrate, optimize, stats

import jaxprompt as jp
from jaxprompt.core import registry
from jaxprompt.errors import UsageError

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted(path.stem for path in GALLERY.glob("*.py"))
each_file = pytest.mark.parametrize("name", FILES)


@pytest.fixture(autouse=True)
def forget(monkeypatch):
    """What a test brings is gone after it."""
    monkeypatch.setattr(registry, "_user_claims", {})


@functools.cache
def claims_of(name):
    """The claims of a file, by the last word of their ids."""
    return jp.load_claims(GALLERY / f"{name}.py")


def formula(name, which=0):
    """The closed form of a file's claim."""
    return claims_of(name)[which].closed_form


# --- what every file has ---


@each_file
def test_a_file_is_short_cited_drawn_and_listed(name):
    text = (GALLERY / f"{name}.py").read_text(encoding="utf-8")
    assert code_lines(text) < 45
    assert "Easier than the paper" in " ".join(text.split())
    page = (ROOT / "docs" / "gallery.md").read_text(encoding="utf-8")
    assert f"examples/gallery/{name}.py" in page
    for claim in claims_of(name):
        assert re.search(r"\d{4}", claim.source), claim.source
        assert claim.figure is not None
        assert len(claim.falsifiers) >= 2
        assert claim.compare is None
        assert claim.id.startswith("gallery.")
        assert f"gallery/{claim.id}.png" in page
        assert (ROOT / "docs" / "gallery" / f"{claim.id}.png").is_file()


@pytest.mark.slow
@each_file
def test_a_theorem_is_confirmed_and_its_variants_refuted(name):
    for claim in claims_of(name):
        verdict = claim.check()
        assert verdict.status == "confirmed", verdict.advice
        for variant, found in claim.falsify_cells(verdict).items():
            assert found.status == "refuted", variant


# --- each formula against something else ---


def test_descent_is_the_power_of_a_matrix():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(7, 3)), rng.normal(size=7)
    second, first = x[:-1].T @ x[:-1] / 6, x[:-1].T @ y[:-1] / 6
    kept = np.linalg.matrix_power(np.eye(3) - 0.3 * second, 4)
    expected = x[-1] @ (np.eye(3) - kept) @ np.linalg.solve(second, first)
    right = formula("gd_is_attention")(x=x, y=y, layers=4)["prediction"]
    assert float(right) == pytest.approx(expected, rel=1e-5)


def test_in_context_risk_is_that_of_least_squares_on_prompts():
    rng = np.random.default_rng(1)
    variances, noise = np.array([1.0, 0.5, 0.2, 0.1]), 0.7

    def prompts(length, count=60_000):
        w = rng.normal(size=(count, 4))
        x = rng.normal(size=(count, length, 4)) * np.sqrt(variances)
        y = (x @ w[:, :, None])[..., 0] + noise * rng.normal(size=(count, length))
        return w, (x * y[:, :, None]).mean(1)

    w, h = prompts(4)
    matrix = np.linalg.lstsq(h, w)[0]  # for each entry of the task: queries drop out
    w, h = prompts(7)
    measured = ((h @ matrix - w) ** 2 @ variances).mean()
    predicted = formula("in_context_risk")(trained=4, length=7, noise=noise)["risk"]
    assert measured == pytest.approx(predicted, rel=0.02)


def test_softmax_rows_are_as_far_apart_as_a_tangent_says():
    rng = np.random.default_rng(3)
    for tokens in (2, 3, 8):
        scores, change = rng.normal(size=(2, 2000, tokens))
        change = 3 * (change - change.min(1)[:, None])
        p, q = (np.exp(s) / np.exp(s).sum(1)[:, None] for s in (scores, scores + change))
        distance = np.abs(p - q).sum(1) / 2
        assert np.all(distance <= np.tanh(change.max(1) / 4) * (1 + 1e-12))
    odds = 1 / (1 + np.exp(-0.7))
    assert odds - (1 - odds) == pytest.approx(np.tanh(2 * 0.7 / 4))


@pytest.mark.parametrize("layers", [1, 2])
def test_the_power_of_rank_collapse_in_many_digits(layers):
    mpmath.mp.dps = 60

    def diameter(scale):
        x = mpmath.matrix([[scale * mpmath.sin(3 * i + j) for j in (1, 2)] for i in range(4)])
        for _ in range(layers):
            scores = x * mpmath.matrix([[1.0, 0.5], [-2.0, 1.0]]) * x.T
            rows = [[mpmath.exp(scores[i, j]) for j in range(4)] for i in range(4)]
            x = mpmath.matrix([[v / sum(row) for v in row] for row in rows]) * x
        return max(mpmath.norm(x[i, :] - x[j, :]) for i in range(4) for j in range(i))

    slope = mpmath.log(diameter(mpmath.mpf("1e-4")) / diameter(mpmath.mpf("1e-5"))) / mpmath.log(10)
    mpmath.mp.dps = 15
    rate = formula("rank_collapse_rate")(layers=layers)["diameter"]
    assert -rate.exponent == pytest.approx(float(slope), rel=1e-3)


def test_dispersion_by_quadrature():
    def moment(k):
        return integrate.quad(lambda g: np.exp(k * 0.8 * g) * stats.norm.pdf(g), -12, 12)[0]

    predicted = formula("softmax_dispersion")(sharpness=0.8)["variance"]
    assert predicted == pytest.approx(moment(2) / moment(1) ** 2, rel=1e-8)


@pytest.mark.parametrize("tail", some_slow([0.5, 0.3], first=1))
def test_frozen_attention_by_the_integral_at_a_large_number_of_tokens(tail):
    tokens = 10_000

    def transform(u):
        return tail * u**tail * mpmath.gammainc(-tail, u)

    def slope(u):  # φ'' = α u^(α-2) Γ(2 - α, u)
        return tail * u ** (tail - 2) * mpmath.gammainc(2 - tail, u)

    def integrand(x):  # u = e^x
        u = mpmath.exp(x)
        return u * u * slope(u) * transform(u) ** (tokens - 1)

    share = tokens * mpmath.quad(integrand, list(range(-70, 3, 6)))
    assert float(share) == pytest.approx(formula("frozen_attention")(tail=tail)["share"], rel=1e-3)


def test_the_jacobian_by_differences():
    rng = np.random.default_rng(4)
    x, a, v = rng.normal(size=(4, 3)), rng.normal(size=(3, 3)), rng.normal(size=(3, 3))

    def attention(x):
        weights = np.exp(x @ a @ x.T)
        return weights / weights.sum(1)[:, None] @ x @ v.T

    steps = np.eye(12).reshape(12, 4, 3) * 1e-5
    columns = [(attention(x + s) - attention(x - s)).ravel() / 2e-5 for s in steps]
    right = np.asarray(formula("attention_jacobian")(x=x, a=a, v=v)["jacobian"])
    assert right == pytest.approx(np.stack(columns, 1).ravel(), rel=1e-3, abs=1e-4)


def test_two_tokens_reach_the_lipschitz_constant():
    x, one = np.array([[1.5], [-1.5]]), np.ones((1, 1))

    def attention(q):
        weights = np.exp(q * x[:, 0])
        return weights @ x[:, 0] / weights.sum()

    slope = (attention(1e-6) - attention(-1e-6)) / 2e-6
    bound = formula("attention_lipschitz")(x=x, q=np.zeros(1), a=one, v=one)["slope"]
    assert float(bound) == pytest.approx(slope, rel=1e-6)


@pytest.mark.parametrize("ratio", some_slow([2.0, 0.5], first=1))
def test_ridge_on_a_mixture_by_one_large_covariance(ratio):
    rng = np.random.default_rng(5)
    x = rng.normal(size=(round(600 / ratio), 600))
    inverse = 1 / (np.linalg.eigvalsh(x.T @ x / len(x)) + 0.3)
    first, second = inverse.mean(), (inverse**2).mean()
    expected = stats.norm.cdf(-(1.5**2) * first / np.sqrt((1.5**2 + ratio) * second))
    right = formula("mixture_ridge")(ratio=ratio, ridge=0.3, separation=1.5)["error"]
    assert float(right) == pytest.approx(expected, abs=2e-3)


@pytest.mark.slow
def test_tracy_widom_has_the_published_moments():
    law = formula("tracy_widom")()["largest"].cdf
    s = np.linspace(-8, 6, 14_001)
    upper, lower = 1 - law(s[s >= 0]), law(s[s <= 0])
    mean = np.trapezoid(upper, s[s >= 0]) - np.trapezoid(lower, s[s <= 0])
    square = 2 * np.trapezoid(s[s >= 0] * upper, s[s >= 0])
    square -= 2 * np.trapezoid(s[s <= 0] * lower, s[s <= 0])
    assert mean == pytest.approx(-1.2065335746, abs=1e-3)
    assert square - mean**2 == pytest.approx(1.6077810346, abs=3e-3)


@pytest.mark.parametrize("spike", [1.2, 2.0])
def test_a_spike_solves_its_equation(spike):
    def form(at):
        density = lambda t: np.sqrt(4 - t * t) / (2 * np.pi) / (at - t)  # noqa: E731
        return integrate.quad(density, -2, 2)[0]

    root = optimize.brentq(lambda at: spike * form(at) - 1, 2.001, 10)
    assert float(formula("spiked_wigner")(spike=spike)["largest"]) == pytest.approx(root, rel=1e-5)


def test_capacity_by_the_density_of_an_overlap():
    def density(t):
        return (1 - t * t) ** (4.5)

    below = integrate.quad(density, -1, 0.6)[0] / integrate.quad(density, -1, 1)[0]
    right = formula("hopfield_capacity")(patterns=60, dim=12, overlap=0.6)["retrieved"]
    assert right == pytest.approx(below**59, rel=1e-7)


def test_orthogonal_tokens_follow_one_equation():
    x = np.eye(4)
    for _ in range(20_000):
        weights = np.exp(2 * x @ x.T)
        pull = weights / weights.sum(1)[:, None] @ x
        x = x + 1e-4 * (pull - (pull * x).sum(1)[:, None] * x)
    right = formula("token_clustering")(steps=100, tokens=4, sharpness=2.0)["overlap"]
    assert right == pytest.approx(x[0] @ x[1], abs=1e-3)


# --- folders of claims ---

SMALL = """
import jax
import jaxprompt as jp

CLAIM = jp.Claim(
    id="mine.{name}", title="t", statement="s", relation=jp.Relation.MEAN, source="s",
    parameters=(), quantities=(jp.Quantity("x", "x", tolerance=1.0),),
    falsifiers=(jp.Falsifier("a", "a", lambda: {{"x": 9.0}}), jp.Falsifier("b", "b", shift=9.0)),
    closed_form=lambda shift=0.0: {{"x": shift}},
    simulation=jp.per_trial(lambda *, key: {{"x": jax.random.normal(key)}}),
    designs={{"quick": jp.Design({{}}, trials=200)}},
)
"""


def test_a_folder_gives_the_claims_of_its_files(tmp_path):
    for name in ("second", "first", "_private", "test_it"):
        (tmp_path / f"{name}.py").write_text(SMALL.format(name=name.strip("_")))
    (tmp_path / "helper.py").write_text("import jaxprompt\nvalue = 3\n")
    (tmp_path / "other.py").write_text("raise ValueError('of no concern')\n")
    assert [c.id for c in registry.select([str(tmp_path)])] == ["mine.first", "mine.second"]


def test_a_folder_without_claims_is_refused(tmp_path):
    with pytest.raises(UsageError, match="brings no claims: name a folder"):
        registry.select([str(tmp_path)])
    with pytest.raises(UsageError, match="cannot be read"):
        registry.select([str(tmp_path / "absent") + "/x"])


def test_the_template_of_a_paper_checks():
    folder = ROOT / "examples" / "template"
    (claim,) = registry.select([str(folder / "claims")])
    verdict = claim.check()
    assert verdict.status == "confirmed"
    assert {v.status for v in claim.falsify_cells(verdict).values()} == {"refuted"}
    workflow = (folder / ".github" / "workflows" / "claims.yml").read_text(encoding="utf-8")
    assert "jaxprompt check claims --falsify --out report" in workflow


def test_kurtosis_by_another_quadrature():
    def moment(k):
        integrand = lambda g: np.tanh(0.7 * g) ** k * stats.norm.pdf(g)  # noqa: E731
        return integrate.quad(integrand, -12, 12)[0]

    for heads in (1, 3):
        expected = 3 + 3 * (moment(4) / moment(2) ** 2 - 1) / heads
        right = formula("finite_heads")(heads=heads, sharpness=0.7)["kurtosis"]
        assert right == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("ridge", some_slow([0.01, 0.1], first=1))
@pytest.mark.parametrize("features", some_slow([1.0, 3.0, 8.0], first=2))
def test_random_features_by_one_large_fit(features, ridge):
    rng = np.random.default_rng(6)
    dim, n = 150, 450
    w = rng.normal(size=(round(features * dim), dim))
    risks = []
    for _ in range(4):
        x = rng.normal(size=(n + 1000, dim))
        target = x @ np.full(dim, dim**-0.5)
        z = np.sign(x @ w.T)
        noisy = target[:n] + 0.3 * rng.normal(size=n)
        dual = np.linalg.solve(z[:n] @ z[:n].T + n * ridge * np.eye(n), noisy)
        risks.append(((z[n:] @ (z[:n].T @ dual) - target[n:]) ** 2).mean())
    predicted = formula("random_features")(features=features, samples=3.0, ridge=ridge)["risk"]
    assert np.mean(risks) == pytest.approx(predicted, rel=0.12)


def test_the_risk_of_random_features_peaks_where_they_are_as_many_as_samples():
    def risks(ridge, features):
        predict = formula("random_features")
        return [predict(features=f, samples=3.0, ridge=ridge)["risk"] for f in features]

    near = np.linspace(2, 4, 41)
    assert near[np.argmax(risks(1e-5, near))] == pytest.approx(3.0, abs=0.06)
    assert np.argmax(risks(0.01, [1.0, 3.0, 8.0])) == 1
    assert (np.diff(risks(0.1, np.linspace(0.25, 8, 32))) < 0).all()


# --- attention that learns ---


def test_the_tangent_kernel_by_differences_at_a_large_width():
    rng = np.random.default_rng(7)
    width, heads, sharpness = 100, 1000, 1.3
    x = np.array([[1.0, 0.0], [0.6, 0.8]])
    queries, keys = rng.normal(size=(2, heads, width, 2))
    values = rng.normal(size=(heads, 2))

    def outputs(scores, values):  # of every head, for both inputs
        weights = np.exp(scores) / (np.exp(scores) + np.exp(-scores))
        return (2 * weights - 1) * (values @ x.T) / heads**0.5

    def product_of_slopes(by_scores, by_values):
        above, below = (outputs(scores + s * by_scores, values + s * by_values) for s in (1, -1))
        slopes = (above - below) / 2e-5
        return (slopes[:, 0] * slopes[:, 1]).sum()

    of_queries, of_keys = queries @ x.T, keys @ x.T
    scores = sharpness * (of_queries * of_keys).sum(1) / width**0.5
    step = 1e-5 * np.eye(2)
    # A weight of one head changes its output alone: all heads are differentiated at once. One of a
    # query meets what the keys make of the inputs there, and the other way round.
    total = sum(
        product_of_slopes(sharpness * others[:, place] * (x @ along) / width**0.5, 0.0)
        for others in (of_queries, of_keys)
        for place in range(width)
        for along in step
    )
    total += sum(product_of_slopes(0.0, along) for along in step)
    predicted = formula("attention_kernel")(cosine=0.6, sharpness=sharpness)["kernel"]
    assert total == pytest.approx(predicted, rel=0.15)


@pytest.mark.slow
def test_the_tangent_kernel_by_adaptive_quadrature():
    beta, cosine = 0.9, 0.8

    def mean(function):
        density = stats.multivariate_normal(cov=beta**2 * np.array([[1, 0.64], [0.64, 1]])).pdf
        integrand = lambda a, b: function(a) * function(b) * density((a, b))  # noqa: E731
        return integrate.dblquad(integrand, -7, 7, -7, 7, epsabs=1e-7)[0]

    slopes = mean(lambda g: np.cosh(g) ** -2)
    expected = cosine * mean(np.tanh) + 2 * beta**2 * cosine**3 * slopes
    predicted = formula("attention_kernel")(cosine=cosine, sharpness=beta)["kernel"]
    assert predicted == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("lean", [-0.5, 0.3, 1.5])
def test_the_token_of_largest_margin_by_a_quadratic_program(lean):
    differences = np.array([[1.0, 0.0], [lean, 1.0]])
    found = optimize.minimize(
        lambda p: p @ p,
        np.array([5.0, 5.0]),
        constraints=optimize.LinearConstraint(differences, lb=1.0),
        options={"ftol": 1e-12},
        method="SLSQP",
    )
    second = formula("token_selection")(lean=lean)["second"]
    assert found.x == pytest.approx([1.0, float(second)], abs=1e-5)


def test_selection_differs_from_its_direction_by_a_constant_over_the_logarithm():
    lean, step = -0.5, 4.0
    differences = np.array([[1.0, 0.0], [lean, 1.0]])
    p, steps = np.zeros(2), 2**14
    for _ in range(steps):
        others = np.exp(-differences @ p)
        first = 1 / (1 + others.sum())
        slope = first * others * first  # of the first weight along each difference
        p = p + step / (1 + np.exp(first)) * slope @ differences
    shares = np.linalg.solve(differences.T, [1.0, 1 - lean])
    constant = np.linalg.solve(differences, np.log(step / (1 + np.e) / shares))
    assert p - np.array([1.0, 1 - lean]) * np.log(steps) == pytest.approx(constant, abs=5e-3)


@pytest.mark.parametrize("prompts", some_slow([0.5, 1.0, 2.0], first=1))
def test_the_risk_after_quadratically_many_prompts_by_one_large_fit(prompts):
    rng = np.random.default_rng(8)
    dim, length = 32, 64
    n = round(prompts * dim**2)

    def sequences(count):
        w = rng.normal(size=(count, dim, 1)) / dim**0.5
        x = rng.normal(size=(count, length, dim))
        y = (x @ w)[:, :, 0] + 0.3 * rng.normal(size=(count, length))
        query = rng.normal(size=(count, dim))
        products = query[:, :, None] * (y[:, :, None] * x).mean(1)[:, None]
        return dim**0.5 * products.reshape(count, -1), (query * w[:, :, 0]).sum(1)

    z, target = sequences(n)
    dual = np.linalg.solve(z @ z.T + n * 0.1 * np.eye(n), target + 0.3 * rng.normal(size=n))
    new, truth = sequences(2000)
    measured = ((new @ (z.T @ dual) - truth) ** 2).mean()
    predicted = formula("in_context_diversity")(prompts=prompts, samples=2.0)["risk"]
    assert measured == pytest.approx(float(predicted), rel=0.15)
