"""The cache: where it is, that it mends itself, and that results do not depend on it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
import zlib
from pathlib import Path

import pytest

from jaxprompt.compute import cache_folder


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """As in a process that has not imported JAX, with a cache folder of its own."""
    for name in ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("PYTHONWARNINGS", "")
    monkeypatch.delitem(sys.modules, "jax")
    monkeypatch.setenv(cache_folder.CACHE_FOLDER_VARIABLE, str(tmp_path / "cache"))
    with warnings.catch_warnings():
        yield tmp_path / "cache"


def test_the_folder(monkeypatch, tmp_path):
    monkeypatch.setenv(cache_folder.CACHE_FOLDER_VARIABLE, str(tmp_path))
    assert cache_folder.cache_folder() == tmp_path
    monkeypatch.setenv(cache_folder.CACHE_FOLDER_VARIABLE, "")
    assert cache_folder.cache_folder() is None
    monkeypatch.delenv(cache_folder.CACHE_FOLDER_VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder.cache_folder() == tmp_path / "jaxprompt"
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for relative in ("", "below"):  # the standard has relative paths ignored
        monkeypatch.setenv("XDG_CACHE_HOME", relative)
        assert cache_folder.cache_folder() == tmp_path / "home" / ".cache" / "jaxprompt"

    def homeless():
        raise RuntimeError("no home")

    monkeypatch.setattr(Path, "home", homeless)
    assert cache_folder.cache_folder() is None


def test_compiled_programs_are_kept_by_machine_and_version(fresh):
    folder = cache_folder.enable_compilation_cache()
    assert folder is not None
    assert folder.parent == fresh / "compiled"
    assert folder.stat().st_mode & 0o077 == 0, "compiled programs are run: only for their owner"
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == str(folder)


@pytest.mark.parametrize("why", ["off", "imported", "own", "no folder"])
def test_compiled_programs_are_not_kept(fresh, monkeypatch, why):
    if why == "off":
        monkeypatch.setenv(cache_folder.CACHE_FOLDER_VARIABLE, "")
    elif why == "imported":
        monkeypatch.setitem(sys.modules, "jax", None)
    elif why == "own":
        monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "elsewhere")
    else:
        fresh.write_text("a file where the folder should be")
    before = dict(os.environ)
    assert cache_folder.enable_compilation_cache() is None
    assert dict(os.environ) == before


def test_incomplete_entries_go_and_the_oldest_beyond_the_limit(fresh, monkeypatch):
    folder = cache_folder.enable_compilation_cache()
    whole = zlib.compress(os.urandom(1000))
    names = [f"{name}-cache" for name in "abcd"]
    for age, name in enumerate(names):
        (folder / name).write_bytes(whole[: 500 if name == "b-cache" else None])
        os.utime(folder / name, ns=(0, (folder / "looked").stat().st_mtime_ns + 10**9 * (9 - age)))
    monkeypatch.setattr(cache_folder, "_LIMIT", 2 * len(whole))
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    assert cache_folder.enable_compilation_cache() == folder
    assert sorted(p.name for p in folder.glob("*-cache")) == ["a-cache", "c-cache"]


def test_files_are_written_whole_or_not_at_all(tmp_path, monkeypatch):
    assert cache_folder.write_atomically(tmp_path / "x", b"1")
    assert (tmp_path / "x").read_bytes() == b"1"

    def full(self, data):
        open(self, "wb").close()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    assert not cache_folder.write_atomically(tmp_path / "x", b"2")
    assert [p.name for p in tmp_path.iterdir()] == ["x"]
    assert (tmp_path / "x").read_bytes() == b"1"


@pytest.mark.slow
def test_results_do_not_depend_on_the_cache(tmp_path):
    # A cache that the user gave JAX would be used in place of ours; and how long a program took to
    # compile would decide whether it is kept.
    given = ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS")
    bare = {n: x for n, x in os.environ.items() if n not in given}

    def rows(*options, **variables):
        command = [sys.executable, "-m", "jaxprompt", "check", "universal.circle_error", "--json"]
        found = subprocess.run(
            [*command, *options],
            env={**bare, **variables},
            capture_output=True,
            text=True,
            timeout=300,
            check=True,
        )
        assert "Error" not in found.stderr
        assert "feature" not in found.stderr
        return json.loads(found.stdout)["claims"][0]["rows"]

    here = {cache_folder.CACHE_FOLDER_VARIABLE: str(tmp_path / "cache")}
    without = rows("--no-cache", **here)
    assert not (tmp_path / "cache").exists()
    assert rows(**here) == without
    entries = list((tmp_path / "cache").rglob("*-cache"))
    assert entries
    assert rows(**here) == without
    assert sorted((tmp_path / "cache").rglob("*-cache")) == sorted(entries), "it was not used"
    for entry in entries:
        entry.write_bytes(entry.read_bytes()[:100])  # what a killed run could leave
    assert rows(**here) == without
    (tmp_path / "file").write_text("")
    assert rows(**{cache_folder.CACHE_FOLDER_VARIABLE: str(tmp_path / "file")}) == without
