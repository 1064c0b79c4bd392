"""Sequences of angles: the certificate in the angles' own distance, against adversaries."""

import math

import numpy as np
import pytest
from quick_cases import some_slow

from jaxprompt.errors import ParameterError
from jaxprompt.universal import build_sequence_prefix
from jaxprompt.universal.build.sequence_target import Domain


def short_way(difference):
    """Differences of angles, the short way round: in [−π, π]."""
    return (difference + math.pi) % (2 * math.pi) - math.pi


ANCHOR = np.array([0.3, 5.9])


def distance_to_anchor(x):
    """The distance itself: no function of constant 1 changes faster, up to the far side."""
    return np.linalg.norm(short_way(x - ANCHOR[: x.shape[-1]]), axis=-1)


def neighbours(x):
    """cos(θ_p − θ_{p+1}): each of two tokens moves it by at most its own way."""
    return np.cos(x[..., 0] - np.roll(x[..., 0], -1, axis=-1))


def zigzag(x):
    """Four teeth of slope 1 a turn, of the first token's angles; and the mean sine, at the rest."""
    teeth = np.abs(short_way(4 * x[..., :1, :])).sum(axis=-1) / 4
    sines = np.sin(x).mean(axis=(-2, -1), keepdims=True)[..., 0]
    return np.concatenate([teeth, np.repeat(sines, x.shape[-2] - 1, axis=-1)], axis=-1)


# The shortest first.
CASES = {
    "distance, one angle": (distance_to_anchor, 2, 1, 1.0, "none", 0.3),
    "distance, two angles": (distance_to_anchor, 1, 2, 1.0, "none", 0.5),
    "differences": (neighbours, 3, 1, 2.0, [[[p], [(p + 1) % 3]] for p in range(3)], 0.5),
    "teeth of two angles": (zigzag, 1, 2, math.sqrt(2), "none", 0.6),
}


def worst_error(prefix, f, length, dim, seed):
    """By a search that moves single angles, from random ones, grids of all sizes and half turns."""
    random = np.random.default_rng(seed)

    def error(x):
        return np.abs(prefix(x) - f(x)).max(axis=-1)

    x = random.uniform(0, 2 * math.pi, size=(600, length, dim))
    side = random.integers(1, 40, size=(200, 1, 1))
    half_steps = random.integers(0, 80, size=(200, length, dim))
    x[:200] = math.pi * half_steps / side + random.choice([-1e-9, 0, 1e-9], size=(200, 1, 1))
    x[200:300] = math.pi + np.resize(ANCHOR, dim) + random.normal(size=(100, length, dim)) * 1e-2
    height = error(x)
    top = np.argsort(-height)[:12]
    x, height, step = x[top], height[top], 0.3
    for _ in range(12):
        for q in range(length):
            for i in range(dim):
                for sign in (-1, 1):
                    moved = x.copy()
                    moved[:, q, i] += sign * step
                    there = error(moved)
                    better = there > height
                    x[better], height[better] = moved[better], there[better]
        step *= 0.6
    return float(height.max())


@pytest.mark.parametrize("name", CASES)
def test_guarantee_in_the_distance_of_angles(name):
    f, length, dim, constant, symmetry, accuracy = CASES[name]
    prefix = build_sequence_prefix(
        f, length=length, dim=dim, domain="torus", accuracy=accuracy, lipschitz=constant,
        symmetry=symmetry, budget=5000, test_sequences=300,
    )  # fmt: skip
    note = prefix.certificate
    found = worst_error(prefix, f, length, dim, seed=3)
    assert note.reached
    assert note.method == "kernel"
    assert max(found, note.measured) <= note.guaranteed <= accuracy
    # Cells end half a step from their centres, where a function of this slope is off by that.
    if name.startswith("distance"):
        assert note.measured > 0.6 * note.guaranteed


@pytest.mark.parametrize("name", some_slow(list(CASES), first=1))
def test_without_a_constant_the_accuracy_is_measured(name):
    f, length, dim, _, _, accuracy = CASES[name]
    prefix = build_sequence_prefix(
        f, length=length, dim=dim, domain="torus", accuracy=accuracy, budget=5000,
        test_sequences=300,
    )  # fmt: skip
    note = prefix.certificate
    assert note.guaranteed == math.inf
    assert note.reached
    assert worst_error(prefix, f, length, dim, seed=4) <= 1.05 * accuracy


@pytest.mark.parametrize(
    ("domain", "dim", "f"),
    some_slow(
        [("torus", 1, neighbours), ("cube", 2, lambda x: x[..., 0] * x.sum(axis=-2)[..., 1:])],
        first=1,
    ),
)
def test_classes_that_sums_mistake_are_split(domain, dim, f):
    """Between cells a sum of vectors may be that of another pair: then tokens are read apart."""
    prefix = build_sequence_prefix(
        f, length=3, dim=dim, domain=domain, accuracy=0.7, budget=20_000, method="kernel",
        test_sequences=300,
    )  # fmt: skip
    assert prefix.certificate.reached
    assert prefix.structure.groups == ((0, 1, 2),)
    x = np.random.default_rng(5).uniform(size=(500, 3, dim)) * (7 if domain == "torus" else 1)
    assert np.abs(prefix(x).reshape(500, 3) - f(x)).max() <= 0.7


@pytest.fixture(scope="module")
def prefix():
    return build_sequence_prefix(
        distance_to_anchor, length=2, dim=1, domain="torus", accuracy=0.5, test_sequences=100
    )


def test_whole_turns_change_nothing(prefix):
    x = np.random.default_rng(0).uniform(-9, 9, size=(20, 2, 1))
    np.testing.assert_allclose(prefix(x), prefix(x + 2 * math.pi), rtol=0, atol=1e-9)
    assert prefix(x[0]).shape == (2,)


def test_smooth_maps_of_angles_as_sums_over_directions():
    prefix = build_sequence_prefix(
        lambda x: np.cos(x[..., 0] + np.roll(x[..., 0], -1, axis=-1)),
        length=2, dim=1, domain="torus", accuracy=0.05, method="ridge", test_sequences=200,
    )  # fmt: skip
    assert prefix.certificate.reached


@pytest.mark.parametrize(("axes", "side"), [(1, 2), (1, 7), (2, 2), (2, 5), (3, 3), (3, 4)])
def test_near_cells_lie_within_their_reach(axes, side):
    """Brute force: no centre that counts as near is farther than stated, and no point has none."""
    domain = Domain("torus", 1, 2 * axes)
    cells = domain.cells(side**axes)
    angles = np.random.default_rng(axes + side).uniform(0, 2 * math.pi, size=(4000, axes))
    angles[:500] = math.pi * np.round(angles[:500] * side / math.pi) / side  # ends of cells
    tokens = domain.embedded(angles)
    centres = domain.points(cells.centres)
    chord = np.linalg.norm(tokens[:, None] - cells.centres, axis=-1)
    arc = np.linalg.norm(short_way(angles[:, None] - centres), axis=-1)
    assert chord.min(axis=1).max() <= cells.radius * (1 + 1e-12)
    near = chord <= 1.01 * cells.radius
    assert arc[near].max() <= cells.reach * (1 + 1e-12)
    # The few that may share a point: what the lookup's concentration is chosen for.
    margin = (1.01**2 - 1) * cells.radius**2
    close = chord**2 <= chord.min(axis=1, keepdims=True) ** 2 + margin
    assert close.sum(axis=1).max() <= cells.together
    assert domain.side_for_reach(cells.reach * (1 + 1e-9)) == side


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_the_reach_is_sharp(axes):
    """Chords and arcs by search: the largest arc with a given chord is the one stated."""
    domain = Domain("torus", 1, 2 * axes)
    random = np.random.default_rng(axes)
    for side in (2, 3, 6):
        cells = domain.cells(side**axes)
        budget = axes * (1.01 * cells.radius / 2) ** 2
        share = random.dirichlet(np.full(axes, 0.2), size=200_000) * budget
        allowed = share[(share <= 1).all(axis=1)]
        arc = np.linalg.norm(2 * np.arcsin(np.sqrt(allowed)), axis=1)
        assert arc.max() <= cells.reach * (1 + 1e-12)
        assert arc.max() >= 0.97 * cells.reach


def test_points_apart_are_apart():
    domain = Domain("torus", 1, 4)
    for distance in (0.5, 1.0, 2.0, math.pi, 4.0):
        side = round(math.sqrt(domain.points_apart(distance)))
        assert side == 1 or 2 * math.pi / side > distance
        assert 2 * math.pi / (side + 1) <= distance * (1 + 1e-9)


@pytest.mark.parametrize(
    ("changes", "word"),
    [({"method": "paper"}, "method"), ({"dim": 0}, "dim"), ({"dim": 65, "length": 2}, "dim"),
     ({"domain": "tours"}, "domain"), ({"lipschitz": 0.9}, "lipschitz")],
)  # fmt: skip
def test_what_is_not_allowed_is_refused_in_one_line(changes, word):
    given = {"length": 2, "dim": 1, "domain": "torus", "accuracy": 0.3, **changes}
    with pytest.raises(ParameterError, match=f"`{word}`") as caught:
        build_sequence_prefix(distance_to_anchor, **given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("x", [np.full((2, 1), np.nan), np.zeros((3, 1)), np.zeros(2)])
def test_sequences_that_are_no_angles_are_refused(x, prefix):
    with pytest.raises(ParameterError, match="`sequences`"):
        prefix(x)
