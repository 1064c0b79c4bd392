"""`universal.kernel_head`: the narrower head, by a softmax written out here."""

import numpy as np
import pytest

import jaxprompt as jp
from jaxprompt.errors import ParameterError


@pytest.mark.parametrize(("n", "content"), [(2, 1), (3, 4), (6, 20)])
def test_width_2n_does_as_well(n, content):
    """Tokens (x, 0) and (λb, v) with W_Q = W_K = [I 0], W_V = [0 I]: the same average."""
    random = np.random.default_rng(n)
    points = random.normal(size=(content + 9, n))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    tokens, centres, lam = points[:content], points[content:], 3.0
    values = random.normal(size=(9, n))
    zero, eye = np.zeros((n, n)), np.eye(n)
    read, out = np.hstack([eye, zero]), np.hstack([zero, eye])
    rows = np.vstack([
        np.hstack([lam * centres, values]), np.hstack([tokens, np.zeros_like(tokens)])
    ])  # fmt: skip
    query = rows[9]
    weight = np.exp((read @ query) @ (read @ rows.T))
    output = (weight / weight.sum()) @ (rows @ out.T)
    wide = jp.claim("universal.kernel_head").predict(
        query=tokens[0], centres=centres, values=values, concentration=lam, content=content
    )
    prefix = np.exp(lam * centres @ tokens[0]).sum()
    gate = prefix / (prefix + np.exp(tokens @ tokens[0]).sum())
    np.testing.assert_allclose(output, gate * np.asarray(wide["core"]), rtol=1e-12)


def test_the_width_is_not_called_the_least():
    claim = jp.claim("universal.kernel_head")
    assert "least possible" not in claim.derivation
    assert "Width $2n$" in claim.statement


def test_prediction_broadcasts():
    random = np.random.default_rng(0)
    query, centres, values = (
        random.normal(size=(4, 2, 3)),
        random.normal(size=(6, 3)),
        random.normal(size=(6, 5)),
    )
    predicted = jp.claim("universal.kernel_head").predict(
        query=query,
        centres=centres,
        values=values,
        concentration=np.array([1.0, 2.0]),
        content=[1, 9],
    )
    assert predicted["core"].shape == (4, 2, 5)
    assert predicted["gate"].shape == (4, 2)
    weight = np.exp(2.0 * centres @ query[3, 1])
    np.testing.assert_allclose(
        predicted["classical"][3, 1], weight @ values / (weight.sum() + 9), rtol=1e-12
    )
    no_content = jp.claim("universal.kernel_head").predict(
        query=query[0, 0], centres=centres, values=values, concentration=1.0, content=0
    )
    assert no_content["gate"] == 1.0


@pytest.mark.parametrize(
    ("params", "word"),
    [
        ({"query": [1.0, 0]}, "query"),
        ({"query": [1.0, 0, 0], "values": [1.0, 2.0]}, "values"),
    ],
)
def test_bad_input_is_named(params, word):
    one_token = {"centres": [[1.0, 0, 0]], "values": [[1.0]], "concentration": 1.0}
    with pytest.raises(ParameterError, match=f"`{word}`") as caught:
        jp.claim("universal.kernel_head").predict(**{**one_token, **params})
    assert "\n" not in str(caught.value)
