"""A few cases of the soak; ``python tests/sweep/soak.py --count 200`` runs more of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SOAK = Path(__file__).with_name("soak.py")


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_sweeps_under_kills_full_disks_damage_and_edits(seed):
    """In a process of its own, which forks: no JAX device may have been started there."""
    command = [sys.executable, str(SOAK), "--count", "6", "--seed", str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1500, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "    6 sweeps" in done.stdout
