"""Pretraining, tasks and arms of the experiment with images."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from jaxprompt.contextual.simulation import digit_scenes, image_experiment
from jaxprompt.core.extras import EXTRAS

needs_data = pytest.mark.skipif(bool(EXTRAS["data"].missing()), reason="needs the extra data")


def test_relevant_patches_are_those_of_relevant_tiles():
    """Two of four tiles: a tile is two patches wide and high, in the order of reading."""
    tiles = np.array([[True, False, False, True]])
    scenes = digit_scenes.Scenes(
        np.zeros((1, 16, 16), np.float32), np.zeros(1, int), tiles, np.zeros(1, int)
    )
    patches = image_experiment.relevant_patches(scenes).reshape(4, 4)
    expected = [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]
    np.testing.assert_array_equal(patches, expected)


def test_an_arm_has_one_rate_for_few_samples_and_one_for_many():
    arm = image_experiment.Arm("head", (1.0, 2.0))
    assert [arm.rate(n) for n in (1, image_experiment.FEW - 1, image_experiment.FEW)] == [1, 1, 2]


@pytest.mark.slow
@needs_data
def test_pretrained_models_read_clean_tiles():
    task = image_experiment.Task("tiled", "digits")
    (flat,) = image_experiment.pretrain("digits", 400, 1)
    scenes = task.scenes("test", 500, jax.random.key(3))
    evaluated = image_experiment.evaluate(task, None, flat, scenes)
    assert evaluated.accuracy > 0.9
    np.testing.assert_allclose(evaluated.layer_shares, 1, rtol=1e-9)  # every patch is relevant
