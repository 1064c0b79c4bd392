"""A family's claims and parts, found when they are asked for."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys

import pytest

import jaxprompt as jp
from jaxprompt.core.families import family_claims

FAMILIES = ("contextual", "prefix", "universal")


@pytest.mark.parametrize("family", FAMILIES)
def test_every_module_with_a_claim_is_found(family):
    package = importlib.import_module(f"jaxprompt.{family}")
    ids = [claim.id for claim in package.CLAIMS]
    assert ids == sorted(ids)
    assert ids == [claim.id for claim in jp.claims(family)]
    for id in ids:
        home = importlib.import_module(f"jaxprompt.{family}.claims.{id.partition('.')[2]}")
        assert home.CLAIM in package.CLAIMS


def test_a_module_without_a_claim_is_passed_over(tmp_path, monkeypatch):
    folder = tmp_path / "a_family" / "claims"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").touch()
    (folder / "__init__.py").touch()
    (folder / "shared.py").write_text("HELP = 1\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert family_claims("a_family") == ()


@pytest.mark.parametrize("family", FAMILIES)
def test_every_public_name_can_be_had(family):
    package = importlib.import_module(f"jaxprompt.{family}")
    assert set(package.__all__) == set(dir(package))
    for name in package.__all__:
        assert getattr(package, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = package.nothing


PARTS = (
    "universal.numerics.bessel", "universal.networks.head", "prefix.head_identity",
    "contextual.law.error_given_prompt", "contextual.law.least_error",
)  # fmt: skip
IMPORT_PARTS = """
import importlib, json, sys
found = {}
for part in sys.argv[1:]:
    importlib.import_module(f"jaxprompt.{part}")
    found[part] = [name for name in sys.modules if ".claims." in name]
print(json.dumps(found))
"""


@pytest.mark.slow
def test_a_part_of_a_family_imports_no_claim():
    command = [sys.executable, "-c", IMPORT_PARTS, *PARTS]
    found = subprocess.run(command, capture_output=True, check=True, text=True)
    assert json.loads(found.stdout) == {part: [] for part in PARTS}
