"""The compiler's flags: set for a command's own process, never for a caller's.

That the package itself sets none is in tests/test_import.py, whose process imports all of it.
"""

import os
import subprocess
import sys

import pytest

from jaxprompt.compute import compiler_flags
from jaxprompt.compute.compiler_flags import compile_quickly, thorough_options

KNOWN = bool(compiler_flags.quick_flags())


@pytest.fixture
def as_if_jax_were_not_imported(monkeypatch):
    monkeypatch.delitem(sys.modules, "jax")
    monkeypatch.delenv("XLA_FLAGS", raising=False)


def version(monkeypatch, number):
    monkeypatch.setattr(compiler_flags.importlib.metadata, "version", lambda package: number)


def run(program, flags=""):
    """What a program prints in a process of its own."""
    environment = {**os.environ, "XLA_FLAGS": flags}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


START = "from jaxprompt.compute.compiler_flags import compile_quickly, thorough_options\n"


@pytest.mark.skipif(not KNOWN, reason="no flags are known for this version of jaxlib")
def test_the_installed_compiler_accepts_its_flags():
    program = START + (
        "assert compile_quickly()\n"
        "import jax\n"
        "f = jax.jit(lambda x: jax.numpy.exp(x).sum(), compiler_options=thorough_options())\n"
        "print(float(f(jax.numpy.zeros(3))))"
    )
    assert run(program) == "3.0"


def test_nothing_is_set_once_jax_is_imported():
    program = START + "import jax, os\nprint(compile_quickly(), [os.environ['XLA_FLAGS']])"
    assert run(program) == "False ['']"


@pytest.mark.usefixtures("as_if_jax_were_not_imported")
def test_a_version_that_is_not_known_gets_none(monkeypatch):
    for number in ("0.13.0", "0.9.2", "1.0"):
        version(monkeypatch, number)
        assert not compile_quickly()
        assert "XLA_FLAGS" not in os.environ
        assert thorough_options() == {}


@pytest.mark.usefixtures("as_if_jax_were_not_imported")
def test_flags_of_the_user_win(monkeypatch):
    version(monkeypatch, "0.10.2")
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_use_fusion_emitters=true --mine=1")
    assert compile_quickly()
    flags = os.environ["XLA_FLAGS"].split()
    assert flags[:2] == ["--xla_cpu_use_fusion_emitters=true", "--mine=1"]
    assert sum("fusion_emitters" in flag for flag in flags) == 1
    assert thorough_options() == {}


@pytest.mark.usefixtures("as_if_jax_were_not_imported")
def test_long_programs_are_compiled_thoroughly_in_a_quick_process(monkeypatch):
    version(monkeypatch, "0.10.2")
    assert thorough_options() == {}
    assert compile_quickly()
    assert thorough_options() == {"xla_cpu_use_fusion_emitters": True}
    compile_quickly()
    assert len(os.environ["XLA_FLAGS"].split()) == 3, "a second call adds nothing"
