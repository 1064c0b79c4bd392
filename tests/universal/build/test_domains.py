"""Balls, cubes and tori in spheres: constants by search, prefixes on them by their own error."""

import inspect
import itertools

import numpy as np
import pytest
from quick_cases import some_slow
from scipy import optimize

from jaxprompt.errors import ParameterError
from jaxprompt.universal import build_prefix, domains
from jaxprompt.universal.networks import head


def points_of(domain, count, random):
    if domain.name == "torus":
        return random.uniform(0, 2 * np.pi, size=(count, domain.dim))
    if domain.name == "cube":
        return random.uniform(-1, 3, size=(count, domain.dim))
    inner = random.normal(size=(count, domain.dim))
    inner /= np.linalg.norm(inner, axis=1, keepdims=True)
    return 2 * inner * random.random((count, 1)) ** (1 / domain.dim)


def distance(domain, first, second):
    gap = np.abs(first - second)
    if domain.name == "torus":
        gap = np.minimum(gap, 2 * np.pi - gap)
    return np.linalg.norm(gap, axis=-1)


def geodesic(first, second):
    return 2 * np.arcsin(np.minimum(np.linalg.norm(first - second, axis=-1) / 2, 1))


DOMAINS = {
    f"{name} {dim}": make(dim)
    for dim in (1, 2, 3, 5)
    for name, make in (
        ("ball", lambda m: domains.ball(m, 2.0)),
        ("cube", lambda m: domains.cube(m, -1.0, 3.0)),
        ("torus", domains.torus),
    )
}


@pytest.mark.parametrize("name", DOMAINS)
def test_embedding_and_stretch(name):
    domain, random = DOMAINS[name], np.random.default_rng(0)
    first, second = (points_of(domain, 20_000, random) for _ in range(2))
    vectors = domain.embed(first)
    assert vectors.shape == (20_000, domain.sphere_dim + 1)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-12)
    np.testing.assert_allclose(domain.retract(vectors), first, atol=1e-7)
    ratio = distance(domain, first, second) / geodesic(vectors, domain.embed(second))
    assert ratio.max() <= domain.stretch * (1 + 1e-9)
    if domain.everywhere:  # the retraction keeps the constant on the whole sphere
        wild = random.normal(size=(2, 20_000, domain.sphere_dim + 1))
        wild /= np.linalg.norm(wild, axis=-1, keepdims=True)
        moved = distance(domain, *(domain.retract(w) for w in wild))
        assert (moved <= domain.stretch * geodesic(*wild) * (1 + 1e-9)).all()


@pytest.mark.parametrize("name", DOMAINS)
def test_no_smaller_stretch_will_do(name):
    domain = DOMAINS[name]
    if domain.name == "torus":  # one angle half way round
        first, second = np.zeros(domain.dim), np.eye(domain.dim)[0] * np.pi
    else:  # two near points about the middle
        middle = np.zeros(domain.dim) if domain.name == "ball" else np.ones(domain.dim)
        first, second = middle, middle + 1e-4 * np.eye(domain.dim)[0]
    ratio = distance(domain, first, second) / geodesic(domain.embed(first), domain.embed(second))
    assert ratio == pytest.approx(domain.stretch, rel=1e-6)


@pytest.mark.parametrize("dim", some_slow([2, 3, 5], first=1))
def test_stretch_of_the_torus_by_search(dim):
    """Maximised from many starts, no pair of points is stretched more."""
    domain, random = domains.torus(dim), np.random.default_rng(1)

    def negative(gap):
        far = domain.embed(gap)
        return -distance(domain, np.zeros(dim), gap % (2 * np.pi)) / max(
            float(geodesic(domain.embed(np.zeros(dim)), far)), 1e-9
        )

    best = min(
        optimize.minimize(negative, random.uniform(0.1, np.pi, dim), method="Nelder-Mead").fun
        for _ in range(30)
    )
    assert -best <= domain.stretch * (1 + 1e-9)
    assert -best == pytest.approx(domain.stretch, rel=1e-3)


def bump(x):
    return np.exp(-np.square(np.asarray(x) - 0.3).sum(-1))


@pytest.mark.parametrize("make", [lambda: domains.ball(2), lambda: domains.cube(2)])
def test_a_prefix_for_a_function_on_the_domain(make):
    domain = make()
    slope = np.sqrt(2 / np.e)  # the steepest that exp(−r²) is
    prefix = build_prefix(
        domain.on_sphere(bump), sphere_dim=domain.sphere_dim, accuracy=0.25,
        lipschitz=slope * domain.stretch, method="net", test_points=1000,
    )  # fmt: skip
    axis = np.linspace(0, 1, 40) if domain.name == "cube" else np.linspace(-0.7, 0.7, 40)
    points = np.array(list(itertools.product(axis, repeat=2)))
    error = np.abs(prefix(domain.embed(points)) - bump(points)).max()
    note = prefix.certificate
    assert note.reached
    assert error <= note.measured * 1.1
    assert error <= note.guaranteed <= 0.25


def test_a_prefix_on_the_torus():
    """A sharp kernel on the grid errs by little more than L c times the covering radius."""
    domain, per_angle = domains.torus(2), 24
    centres = domains.torus_grid(2, per_angle)
    assert centres.shape == (24**2, 4)
    random = np.random.default_rng(2)
    points = random.uniform(0, 2 * np.pi, size=(4000, 2))
    vectors = domain.embed(points)
    cell = domain.embed(np.full(2, np.pi / per_angle))  # the middle of a cell
    assert geodesic(vectors[:, None], centres).min(axis=1).max() <= np.pi / per_angle
    assert geodesic(cell, centres).min() == pytest.approx(np.pi / per_angle)

    def f(angles):
        a, b = angles[..., 0], angles[..., 1]
        return np.stack([np.sin(a) * np.cos(b), np.cos(a)], axis=-1)

    output = head.estimate(vectors, centres, f(domain.retract(centres)), 2000.0)
    error = np.linalg.norm(output - f(points), axis=1).max()
    assert error <= 1.05 * np.sqrt(2) * domain.stretch * np.pi / per_angle


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: domains.ball(0), "dim"),
        (lambda: domains.ball(2, -1.0), "radius"),
        (lambda: domains.cube(2, 1.0, 0.0), "high"),
        (lambda: inspect.unwrap(domains.torus)(1.5), "dim"),
        (lambda: domains.torus_grid(3, 1000), "per_angle"),
        (lambda: domains.ball(2).embed(np.ones(2)), "points"),
        (lambda: domains.cube(2).embed(np.array([0.5, 1.5])), "points"),
        (lambda: domains.torus(2).embed(np.ones(3)), "points"),
    ],
)
def test_bad_input(call, word):
    with pytest.raises(ParameterError, match=f"`{word}`") as caught:
        call()
    assert "\n" not in str(caught.value)
