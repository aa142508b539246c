"""Test support/openmp.py and environment.py: OpenMP's runtime reports how its threads wait."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAPS = Path("/proc/self/maps")
# With OMP_DISPLAY_ENV the runtime prints its settings to stderr while it is loaded.
REPORT = """
import os
before = dict(os.environ)
{first}
import vsexvc.plugin
assert dict(os.environ) == before
print(vsexvc.plugin.openmp.MAY_SPIN)
"""


def reported(first: str = "", **extra: str) -> tuple[str, bool]:
    """Load the filter in a process; return the settings that the runtime reports, and whether the filter would warn."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_", "KMP_"))}
    environment = {**own, "PYTHONPATH": str(ROOT), "OMP_DISPLAY_ENV": "VERBOSE", **extra}
    command = [sys.executable, "-c", REPORT.format(first=first)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return done.stderr, done.stdout.strip() == "True"


def has_gnu_openmp() -> bool:
    import torch  # noqa: F401

    return MAPS.exists() and "libgomp" in MAPS.read_text()


@pytest.mark.skipif(not has_gnu_openmp(), reason="torch has no GNU OpenMP here")
class TestPolicy:
    def test_threads_sleep_and_the_environment_is_as_before(self) -> None:
        said, warns = reported()
        assert "OMP_WAIT_POLICY = 'PASSIVE'" in said and not warns

    def test_what_the_user_says_wins(self) -> None:
        said, warns = reported(OMP_WAIT_POLICY="ACTIVE")
        assert "OMP_WAIT_POLICY = 'ACTIVE'" in said and not warns
        said, warns = reported(GOMP_SPINCOUNT="77")
        assert "GOMP_SPINCOUNT = '77'" in said and not warns

    def test_a_torch_that_is_loaded_stays_and_is_told_of(self) -> None:
        said, warns = reported("import torch")
        assert "GOMP_SPINCOUNT = '0'" not in said and warns
