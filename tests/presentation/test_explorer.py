"""The page with sliders: every number on it is the closed form's own."""

import itertools
import json
import re

import numpy as np
import pytest
from quick_cases import mostly_slow

import jaxprompt as jp
from jaxprompt.cli.main import main
from jaxprompt.errors import UsageError
from jaxprompt.presentation.explorer import explore, explorer_page

IDS = ("universal.sphere_limit", "contextual.context_gain", "prefix.token_selection")


@pytest.fixture(scope="module", params=mostly_slow(IDS, "prefix.token_selection".__eq__))
def explored(request):
    claim = jp.claim(request.param)
    return claim, explore(claim)


def test_every_curve_is_the_closed_form_at_the_sliders_values(explored):
    claim, found = explored
    grids = [s["values"] for s in found.sliders]
    shape = [*map(len, grids), len(found.series["values"]), len(found.x["values"])]
    table = np.array([np.nan if v is None else v for v in found.predicted]).reshape(shape)
    names = [s["name"] for s in found.sliders]
    kinds = {p.name: p.kind for p in claim.parameters}

    def number(name, value):
        return int(value) if kinds[name] == "integer" else value

    rng = np.random.default_rng(3)
    for _ in range(10):
        place = tuple(int(rng.integers(n)) for n in shape)
        at = dict(found.fixed)
        at |= {n: number(n, g[i]) for n, g, i in zip(names, grids, place, strict=False)}
        if found.series["name"]:
            at[found.series["name"]] = found.series["values"][place[-2]]
        at[found.x["name"]] = number(found.x["name"], found.x["values"][place[-1]])
        if np.isnan(table[place]):
            continue
        np.testing.assert_allclose(table[place], claim.predict(**at)[found.y["name"]], rtol=1e-4)


def test_the_page_is_small_whole_and_asks_no_host(explored):
    claim, found = explored
    page = explorer_page(claim, found, None)
    assert len(page) < 2_000_000
    assert not re.search(r"(src|href)=[\"']?https?:", page)
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)[1]
    assert json.loads(data)["x"]["name"] == found.x["name"]
    for control in itertools.chain(["cursor"], (f"s{i}" for i in range(len(found.sliders)))):
        assert f'id="{control}"' in page


def test_measured_points_lie_on_values_of_the_sliders():
    claim = jp.claim("universal.sphere_limit")
    point = {"x": 7.0, "y": 0.9, "stderr": 0.0, "trials": 1.0,
             "parameters": '{"sphere_dim": 2, "degree": 3, "concentration": 7.0}'}  # fmt: skip
    found = explore(claim, x="concentration", sliders=["degree"], points=[point])
    (slider,) = found.sliders
    assert 3.0 in slider["values"]
    assert found.points[0]["half"] == 0


@pytest.mark.parametrize(
    ("more", "text"),
    [({"x": "concentrtion"}, "did you mean"), ({"y": "errors"}, "must be one of"),
     ({"sliders": ["nothing"]}, "must be one of")],
)  # fmt: skip
def test_a_name_that_the_claim_lacks_is_refused(more, text):
    with pytest.raises(UsageError, match=text):
        explore(jp.claim("universal.sphere_limit"), **more)


# --- the command ---


@pytest.mark.slow
def test_the_command_writes_a_page_with_the_points_of_a_run(tmp_path, capsys):
    run = tmp_path / "run"
    assert main(["check", "universal.prefix_lower_bound", "--out", str(run)]) == 0
    capsys.readouterr()
    page = tmp_path / "pages" / "bound.html"
    words = ["explore", "universal.prefix_lower_bound", "--out", str(page)]
    assert main([*words, "--from", str(run)]) == 0
    assert capsys.readouterr().out == f"{page}\n"
    assert "universal.prefix_lower_bound" in page.read_text("utf-8")
    assert main([*words, "--from", str(tmp_path / "nothing")]) == 2
    assert "no such folder" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert main([*words[:-1], str(tmp_path / "file" / "page.html")]) == 2
    assert "cannot be written" in capsys.readouterr().err
