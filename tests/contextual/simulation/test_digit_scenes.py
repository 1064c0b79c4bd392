"""Scenes of digits: parts that share nothing, and digits where the scene says."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from jaxprompt.contextual.simulation import digit_scenes
from jaxprompt.core.extras import EXTRAS
from jaxprompt.errors import ParameterError

needs_data = pytest.mark.skipif(bool(EXTRAS["data"].missing()), reason="needs the extra data")


@needs_data
@pytest.mark.parametrize("source", ["digits", pytest.param("mnist", marks=pytest.mark.slow)])
def test_parts_share_no_digit_and_hold_all(source):
    parts = [digit_scenes.digits(source, part) for part in digit_scenes.PARTS]
    total = {"digits": 1797, "mnist": 5000}[source]
    assert sum(len(part.labels) for part in parts) == total
    shares = np.array([len(part.labels) for part in parts]) / total
    np.testing.assert_allclose(shares, [0.4, 0.3, 0.3], atol=0.01)
    for part in parts:
        assert set(part.labels.tolist()) == set(range(10))
    rows = [{image.tobytes() for image in part.images} for part in parts]
    # MNIST's sample has no image twice, nor do scikit-learn's digits.
    assert len(rows[0] | rows[1] | rows[2]) == sum(map(len, rows)) == total
    assert abs(parts[0].images.mean()) < 1e-4
    assert abs(parts[0].images.std() - 1) < 1e-4


@needs_data
def test_photographs_for_training_are_not_those_for_testing():
    assert not set(digit_scenes.PHOTOGRAPHS["training"]) & set(digit_scenes.PHOTOGRAPHS["test"])
    for part, names in digit_scenes.PHOTOGRAPHS.items():
        found = digit_scenes.photographs(part, 8)
        assert len(found) == len(names)
        for name, picture in zip(names, found, strict=True):
            assert min(picture.shape) >= 72, name
            assert abs(picture.mean()) < 1e-3, name
            assert picture.std() == pytest.approx(1, abs=1e-3), name


@needs_data
@pytest.mark.parametrize("kind", digit_scenes.KINDS)
def test_scenes_show_the_digit_where_they_say(kind):
    found = digit_scenes.scenes(kind, "digits", "test", 40, key=jax.random.key(1), relevant=2)
    pool = digit_scenes.digits("digits", "test")
    assert found.relevant.sum(axis=1).tolist() == [4 if kind == "tiled" else 2] * 40
    assert found.labels.tolist() == list(range(10)) * 4
    np.testing.assert_array_equal(found.labels, pool.labels[found.digit])
    for image, relevant, digit in zip(found.images, found.relevant, found.digit, strict=True):
        for tile in range(4):
            top, left = 8 * (tile // 2), 8 * (tile % 2)
            same = (image[top : top + 8, left : left + 8] == pool.images[digit]).all()
            assert same == relevant[tile]
    if kind == "embedded":
        # A photograph's neighbouring pixels are alike, those of noise are not.
        behind = found.images[found.relevant[:, 0] == 0][:, :8, :8]
        steps = np.abs(np.diff(behind, axis=2)).mean()
        assert steps < 0.7 * behind.std()


@needs_data
def test_scenes_depend_on_their_key_alone():
    one, two, other = (
        digit_scenes.scenes("embedded", "digits", "adaptation", 30, key=jax.random.key(seed))
        for seed in (4, 4, 5)
    )
    np.testing.assert_array_equal(one.images, two.images)
    assert (one.images != other.images).any()
    two_classes = digit_scenes.scenes(
        "partial", "digits", "test", 9, key=jax.random.key(4), classes=(3, 8)
    )
    assert two_classes.labels.tolist() == [3, 8, 3, 8, 3, 8, 3, 8, 3]


def test_impossible_scenes_are_refused_by_name():
    key = jax.random.key(0)
    for wrong in ({"kind": "striped"}, {"source": "letters"}, {"part": "all"}, {"relevant": 5}):
        given = {"kind": "partial", "source": "digits", "part": "test", **wrong}
        name, value = next(iter(wrong.items()))
        with pytest.raises(ParameterError, match=f"`{name}` = .*{value}"):
            digit_scenes.scenes(count=3, key=key, **given)
