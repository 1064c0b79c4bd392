"""The diagnosis of an installation."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import jax
import pytest

import jaxprompt as jp
from jaxprompt.cli import doctor, main
from jaxprompt.core.extras import EXTRAS, Extra

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def run(capsys):
    def call(*args):
        code = main.main([str(a) for a in args])
        return code, *capsys.readouterr()

    return call


def test_doctor(run):
    code, out, _ = run("doctor", "--json")
    found = {entry["what"]: entry for entry in json.loads(out)}
    assert code == 0, [entry for entry in found.values() if entry["state"] == "problem"]
    assert found["jaxprompt"]["found"].startswith(jp.__version__)
    assert "float64" in found["dtype"]["found"]
    assert "cpu" in found["devices"]["found"] or "gpu" in found["devices"]["found"]
    assert found["cache"]["state"] == "absent", "the tests run without a cache"
    assert "what to do" in run("doctor")[1]


def test_doctor_finds_what_is_wrong(run, monkeypatch):
    def nowhere(**options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(doctor.tempfile, "TemporaryFile", nowhere)
    odd = Extra("odd", ("no_such_module",), "something odd")
    monkeypatch.setattr(doctor, "EXTRAS", {"odd": odd})
    code, out, _ = run("doctor", "--json")
    assert code == 3
    found = {entry["what"]: entry for entry in json.loads(out)}
    assert found["working folder"]["state"] == "problem"
    assert "Permission denied" in found["working folder"]["found"]
    assert found["extra odd"]["state"] == "absent"
    assert found["extra odd"]["remedy"] == '`pip install -e ".[odd]"` in a clone adds something odd'


def test_doctor_tells_a_broken_installation(monkeypatch):
    assert doctor._package("no-such-package").state == "problem"

    def refused():
        raise RuntimeError("no such backend\nand more")

    with monkeypatch.context() as patch:
        patch.setattr(jax, "devices", refused)
        found = doctor._devices()
        assert (found.state, found.found) == ("problem", "no such backend and more")
        assert doctor._float64().state == "problem"
    monkeypatch.setattr(jax, "jit", lambda f: lambda x: 0.0)
    assert doctor._float64().found == "float64 is rounded"

    def broken(f):
        raise ImportError("libxla")

    monkeypatch.setattr(jax, "jit", broken)
    assert "libxla" in doctor._float64().found


def test_doctor_tells_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.setenv("JAXPROMPT_CACHE", str(tmp_path / "new" / "cache"))
    assert doctor._cache().state == "ok"
    assert "not made yet" in doctor._cache().found

    def full(dir):
        raise PermissionError(13, "not allowed")

    monkeypatch.setattr(doctor.tempfile, "TemporaryFile", full)
    assert doctor._cache().state == "absent", "without a cache everything runs, only slower"


def test_doctor_knows_every_extra():
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(EXTRAS) == set(declared["optional-dependencies"])
    core = {re.split(r"[><=]", need)[0] for need in declared["dependencies"]}
    assert core <= set(doctor._CORE)
