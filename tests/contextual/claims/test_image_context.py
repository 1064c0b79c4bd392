"""Digits in context: the data, the vision transformer, its adaptations, and the claim."""

from __future__ import annotations

import jax
import numpy as np
import pytest

import jaxprompt as jp
from jaxprompt.contextual.claims import image_context
from jaxprompt.contextual.claims.image_context import CLAIM
from jaxprompt.contextual.extensions import patch_law
from jaxprompt.contextual.simulation import digit_scenes, vision_transformer
from jaxprompt.contextual.simulation.vision_transformer import Config, Run
from jaxprompt.core.extras import EXTRAS
from jaxprompt.errors import ParameterError

needs_data = pytest.mark.skipif(bool(EXTRAS["data"].missing()), reason="needs the extra data")

SMALL = Config(2, 3, width=8, layers=2, heads=2, prompts=2, classes=4)


# --- the data ---


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


# --- the transformer, against NumPy ---


def parameters(flat):
    """The arrays of a small model, by name."""
    model = vision_transformer._model(SMALL, jax.numpy.asarray(flat))
    blocks = [
        {name: np.asarray(getattr(b, name)[...], np.float64) for name in BLOCK}
        for b in model.blocks
    ]
    return {n: np.asarray(getattr(model, n)[...], np.float64) for n in TOP}, blocks


TOP = ("embedding", "position", "reader", "scale", "shift", "head", "bias", "prompt")
BLOCK = (
    *("scales", "shifts", "query", "pairs", "out", "wide", "wide_bias", "narrow", "narrow_bias"),
)


def norm(x, scale, shift):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * scale + (
        shift
    )


def plain(flat, image, prompts, deep):
    """Logits, attention of the class token and normed patches of one image, with loops."""
    top, blocks = parameters(flat)
    patches = image @ top["embedding"] + top["position"]
    stream = np.vstack([top["reader"][:1], top["prompt"][0][:prompts], patches])
    patterns, streams = [], []
    for layer, b in enumerate(blocks):
        if layer:
            stream[0] += top["reader"][layer]
            if deep:
                stream[1 : 1 + prompts] = top["prompt"][layer][:prompts]
        x = norm(stream, b["scales"][0], b["shifts"][0])
        streams.append(x[1 + prompts :])
        joined, own = [], []
        for head in range(2):
            part = slice(4 * head, 4 * head + 4)
            query = x @ b["query"][:, part]
            key, value = x @ b["pairs"][:, :8][:, part], x @ b["pairs"][:, 8:][:, part]
            scores = query @ key.T / 2
            weights = np.exp(scores - scores.max(1, keepdims=True))
            weights /= weights.sum(1, keepdims=True)
            joined.append(weights @ value)
            own.append(weights[0])
        patterns.append(own)
        stream = stream + np.hstack(joined) @ b["out"]
        hidden = norm(stream, b["scales"][1], b["shifts"][1]) @ b["wide"] + b["wide_bias"]
        cubic = hidden + 0.044715 * hidden**3
        hidden = hidden / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * cubic))
        stream = stream + hidden @ b["narrow"] + b["narrow_bias"]
    logits = norm(stream[0], top["scale"], top["shift"]) @ top["head"] + top["bias"]
    return logits, np.array(patterns), np.array(streams)


@pytest.fixture(scope="module")
def model():
    """Random parameters, no array of which is 0 or constant, and a few images."""
    rng = np.random.default_rng(0)
    flat = np.asarray(vision_transformer.initial(SMALL, key=jax.random.key(0)))
    flat = flat + 0.3 * rng.standard_normal(flat.size).astype(np.float32)
    return flat, rng.standard_normal((5, 4, 3)).astype(np.float32)


@pytest.mark.parametrize(("prompts", "deep"), [(0, False), (1, False), (2, True)])
def test_forward_against_numpy(model, prompts, deep):
    flat, pictures = model
    seen = vision_transformer.forward(
        SMALL, flat, vision_transformer.prompt_mask(SMALL, prompts, deep), pictures
    )
    for place, image in enumerate(pictures):
        logits, patterns, streams = plain(flat, image.astype(np.float64), prompts, deep)
        np.testing.assert_allclose(seen.logits[place], logits, atol=3e-5)
        np.testing.assert_allclose(seen.normed[:, place], streams, atol=3e-5)
        found = np.asarray(seen.patterns)[:, place]
        kept = [0, *range(1, 1 + prompts), *range(3, 7)]
        np.testing.assert_allclose(found[..., kept], patterns, atol=1e-5)
        assert not found[..., 1 + prompts : 3].any(), "an absent prompt gets attention"


def test_prompts_beside_the_patches_leave_the_first_layer(model):
    """Relative attention of the class token: the same in layer 1, another in layer 2."""
    flat, pictures = model
    shares = []
    for prompts in (0, 2):
        seen = vision_transformer.forward(
            SMALL, flat, vision_transformer.prompt_mask(SMALL, prompts), pictures
        )
        patterns = np.asarray(seen.patterns, np.float64)[..., 3:]
        shares.append(patterns / patterns.sum(axis=-1, keepdims=True))
    np.testing.assert_allclose(shares[1][0], shares[0][0], atol=2e-6)
    assert np.abs(shares[1][1] - shares[0][1]).max() > 1e-3


def test_patches_in_the_order_of_reading():
    image = np.arange(24.0).reshape(1, 4, 6)
    expected = [[0, 1, 6, 7], [2, 3, 8, 9], [4, 5, 10, 11], [12, 13, 18, 19]]
    assert vision_transformer.patches(image, 2)[0, :4].tolist() == expected


def test_only_the_chosen_parameters_move(model):
    flat, _ = model
    rng = np.random.default_rng(1)
    pictures = rng.standard_normal((8, 4, 3)).astype(np.float32)
    labels, none = np.arange(8) % 4, vision_transformer.prompt_mask(SMALL)
    counts = {"head": 36, "reader": 8, "deep_reader": 16, "prompts": 8, "deep_prompts": 32}
    counts["everything"] = flat.size - 32
    plans = [(what, 0 if what != "prompts" else 1) for what in counts]
    plans = [(what, 2 if what == "deep_prompts" else m) for what, m in plans]
    runs = [
        Run(
            flat, vision_transformer.trainable_mask(SMALL, what, m),
            vision_transformer.prompt_mask(SMALL, m, what == "deep_prompts"),
            pictures, labels, 6, 2, 1e-2,
        )
        for what, m in plans
    ]  # fmt: skip
    # The last two images are not among the six samples.
    changed = pictures.copy()
    changed[6:] = 7
    runs.append(runs[0]._replace(images=changed))
    found = vision_transformer.train(SMALL, runs)
    for (what, m), row in zip(plans, found, strict=False):
        moved = row != flat
        assert moved.sum() == counts[what], what
        assert (moved <= (vision_transformer.trainable_mask(SMALL, what, m) > 0)).all(), what
    np.testing.assert_array_equal(found[-1], found[0])
    before, after = (vision_transformer.forward(SMALL, x, none, pictures) for x in (flat, found[0]))
    np.testing.assert_array_equal(after.patterns, before.patterns)
    assert (np.asarray(after.logits) != np.asarray(before.logits)).any()


def test_unknown_adaptations_are_refused():
    with pytest.raises(ParameterError, match=r"`what` = .*tail"):
        vision_transformer.trainable_mask(SMALL, "tail")
    with pytest.raises(ParameterError, match="`prompts` = 3"):
        vision_transformer.trainable_mask(SMALL, "prompts", 3)
    with pytest.raises(ParameterError, match="multiple of the 3 heads"):
        Config(2, 3, width=8, heads=3)


# --- the closed form on embeddings ---


def a_law(relevant_noise):
    rng = np.random.default_rng(2)
    context, signal = np.zeros(24), np.zeros(24)
    context[0], signal[1] = 1.5, 1.0
    root = np.diag(np.linspace(0.6, 1.3, 24)) + 0.05 * rng.standard_normal((24, 24))
    eye = np.eye(24)
    return patch_law.PatchLaw(
        10, 2, signal, context, -0.2 * context, -0.1 * signal, root @ root.T,
        relevant_noise**2 * eye, 0.25 * eye,
    )  # fmt: skip


def test_fit_finds_the_moments_it_was_given():
    law, labels = a_law(0.5), np.where(np.arange(20_000) % 2, 1, -1)
    tokens, relevant = patch_law.gaussian_tokens(law, labels, isotropic=False, seed=3)
    found = patch_law.fit(tokens, relevant, labels)
    for name in ("signal", "context", "behind", "behind_signal"):
        np.testing.assert_allclose(getattr(found, name), getattr(law, name), atol=0.025)
    for name in ("irrelevant", "shared", "own"):
        np.testing.assert_allclose(getattr(found, name), getattr(law, name), atol=0.06)
    wanted, setting = law.setting(), found.setting()
    for name in ("signal", "context", "noise"):
        assert setting[name] == pytest.approx(wanted[name], rel=0.01), name
    np.testing.assert_allclose(setting["shifts"], [(0.2, 0.1)], atol=0.015)
    assert found.relevant_noise == pytest.approx(np.sqrt(0.25 + 0.125), rel=0.02)
    white = patch_law.fit(patch_law.whitened(found, tokens), relevant, labels)
    np.testing.assert_allclose(white.irrelevant, np.eye(24), atol=1e-8)
    assert white.anisotropy == pytest.approx(1)


def test_isotropic_tokens_meet_the_closed_form():
    """The theory's own law at d = 24: what is left is of order 1/d."""
    law = a_law(0.0)._replace(own=np.zeros((24, 24)), irrelevant=np.eye(24))
    prompt = 0.6 * law.direction
    features = []
    for count, seed in ((4000, 1), (8000, 2)):
        labels = np.where(np.arange(count) % 2, 1, -1)
        tokens, _ = patch_law.gaussian_tokens(law, labels, isotropic=True, seed=seed)
        features.append((patch_law.pooled(tokens, prompt), labels))
    sizes = (16, 48, 200)
    (train, labels), (test, answers) = features
    errors = patch_law.measured_errors(train, labels, test, answers, sizes, 0.05, 60, seed=4)
    predicted = patch_law.predicted_errors(law, 0.6, 0.05, sizes)
    # Without noise on relevant tokens both limits are one.
    np.testing.assert_allclose(
        predicted["with_relevant_noise"], predicted["closed_form"], rtol=1e-9
    )
    bias, spread = 1 / 24, 4 * errors.std(axis=0) / np.sqrt(60)
    gap = np.abs(errors.mean(axis=0) - predicted["closed_form"])
    assert (gap < bias * predicted["closed_form"] + spread).all(), f"{gap} above {spread}"


@needs_data
def test_heads_on_embeddings_are_scikit_learns():
    from sklearn.linear_model import Ridge

    rng = np.random.default_rng(5)
    train, test = rng.standard_normal((40, 6)), rng.standard_normal((300, 6))
    labels, answers = (np.where(x[:, 0] + 0.5 * x[:, 1] > 0, 1, -1) for x in (train, test))
    found = patch_law.measured_errors(train, labels, test, answers, (40,), 0.1, 1, seed=0)
    peer = Ridge(alpha=40 * 0.1, fit_intercept=False).fit(train, labels)
    assert found[0, 0] == (np.sign(peer.predict(test)) != answers).mean()


# --- the claim ---


def test_limits_say_what_the_statement_says():
    base = {"kind": "partial"}
    network = [CLAIM.predict(**base, samples=n)["lead"] for n in (10, 40, 300)]
    assert network == [0, -0.02, -0.02]
    small = [CLAIM.predict(**base, samples=n, level="embeddings")["lead"] for n in (24, 192)]
    assert small == [0.01, 0]
    assert CLAIM.predict(**base, samples=40)["attention_gain"] == 0
    assert CLAIM.predict(**base, samples=300)["attention_gain"] == 0.02


def test_without_its_packages_the_claim_says_what_to_install(monkeypatch):
    monkeypatch.setitem(vars(CLAIM), "extra", EXTRAS["data"].__class__("data", ("nothing_",), "x"))
    with pytest.raises(jp.errors.JaxpromptError, match=r"contextual.image_context needs nothing_"):
        CLAIM.simulate(key=0, trials=2, kind="partial", samples=10)


@pytest.mark.slow
@needs_data
def test_pretrained_models_read_clean_tiles():
    task = image_context.Task("tiled", "digits")
    (flat,) = image_context.pretrain("digits", 400, 1)
    found = task.scenes("test", 500, jax.random.key(3))
    evaluated = image_context.evaluate(task, None, flat, found)
    assert evaluated.accuracy > 0.9
    np.testing.assert_allclose(evaluated.shares, 1, rtol=1e-9)  # every patch is relevant


@pytest.mark.slow
@needs_data
def test_controls_of_a_whole_run():
    found = CLAIM.simulate(key=3, trials=2, kind="embedded", samples=20, steps=20)
    assert found["head_attention"].mean == 0
    assert found["first_layer_attention"].mean < 1e-5
    assert {"before", "prompt", "fine_tuning", "head", "tokens"} <= set(found)
