"""Every claim of the family: confirmed, each falsifier refuted, bad input named in one line."""

import numpy as np
import pytest

import jaxprompt as jp
from jaxprompt.errors import ParameterError
from jaxprompt.universal import CLAIMS

IDS = [claim.id for claim in CLAIMS]


# These take longer; `make verify` checks them too.
LONG = {
    f"universal.{n}"
    for n in (
        "circle_error", "kernel_head", "optimal_values", "prefix_bound", "prefix_rate",
        "quantised_prefix", "random_centres", "sequence_map", "sphere_limit",
    )
}  # fmt: skip


@pytest.mark.parametrize(
    "id", [pytest.param(id, marks=pytest.mark.slow) if id in LONG else id for id in IDS]
)
def test_confirmed_and_every_falsifier_refuted(id):
    claim = jp.claim(id)
    verdict = claim.check()
    assert verdict.status == "confirmed", (verdict.error, verdict.worst)
    assert all(np.isfinite([row.predicted, row.simulated]).all() for row in verdict.rows)
    assert len(claim.falsifiers) >= 3
    for name, found in claim.falsify_cells(verdict).items():
        assert found.status == "refuted", (name, found.error)


@pytest.mark.slow
@pytest.mark.parametrize("id", IDS)
def test_full_profile(id):
    verdict = jp.claim(id).check("full")
    assert verdict.status == "confirmed", (verdict.error, verdict.worst)


NAMES = {
    "random_centres": ("sphere_dim", "centres", "concentration"),
}
REFERENCE = [
    ("random_centres", (1, 200, 10.0), "mse", 0.0041087754686552),
    ("random_centres", (2, 200, 10.0), "mse", 0.015506249114786),
]


@pytest.mark.parametrize(("stem", "params", "name", "value"), REFERENCE)
def test_reference_numbers(stem, params, name, value):
    found = jp.claim(f"universal.{stem}").predict(**dict(zip(NAMES[stem], params, strict=True)))
    assert found[name] == pytest.approx(value, rel=2e-14)


@pytest.mark.parametrize(
    ("stem", "params", "word"),
    [
        ("random_centres", {"sphere_dim": 1, "centres": 2.5, "concentration": 1.0}, "centres"),
        ("prefix_bound", {"sphere_dim": 1, "lipschitz": 1.0, "accuracy": 0.0}, "accuracy"),
        ("prefix_rate", {"sphere_dim": 1, "smoothness": "rough"}, "smoothness"),
        ("sequence_map", {"form": "cantor", "resolution": 12}, "resolution"),
        ("sequence_map", {"form": "cantor", "resolution": 9}, "resolution"),
        ("sequence_map", {"form": "cantor", "resolution": 5, "content": 4}, "resolution"),
        ("sequence_map", {"form": "joint", "resolution": 16, "content": 5}, "resolution"),
        ("sequence_map", {"form": "ridge", "resolution": 64}, "resolution"),
        ("sequence_map", {"form": "ridge", "resolution": 3, "content": 3}, "content"),
    ],
)
def test_bad_input_is_named(stem, params, word):
    with pytest.raises(ParameterError, match=f"`{word}`") as caught:
        jp.claim(f"universal.{stem}").predict(**params)
    assert "\n" not in str(caught.value)
