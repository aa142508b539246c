"""Test the Windows wheel with VapourSynth's Windows library under wine. `pytest -m slow` runs it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from hatch_build import find_headers, find_zig

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.slow


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Make a folder with VapourSynth's Windows wheel and ours."""
    if not shutil.which("wine") or not find_zig():
        pytest.skip("needs wine (Debian: apt-get install wine64 wine) and zig (pip install ziglang)")
    ours = list((ROOT / "dist").glob("vsexvc-*-win_amd64.whl"))
    if not ours:
        pytest.skip("dist/ holds no wheel for Windows: scripts/wheels.sh makes it")
    wanted = ["--no-deps", "--only-binary", ":all:", "--platform", "win_amd64", "-d", tmp_path, "vapoursynth>=77"]
    if subprocess.run([sys.executable, "-m", "pip", "download", "-q", *wanted], check=False).returncode:
        pytest.skip("VapourSynth's wheel for Windows cannot be downloaded")
    for wheel in (*tmp_path.glob("vapoursynth-*.whl"), *ours):
        zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    return tmp_path / "site"


def test_a_host_without_python_loads_the_plugin_and_gets_an_error(site: Path, tmp_path: Path) -> None:
    host = tmp_path / "host.exe"
    source = Path(__file__).with_name("windows_host.c")
    target = ["-target", "x86_64-windows-gnu", "-municode"]
    subprocess.run([*find_zig(), *target, f"-I{find_headers()}", "-o", host, source], check=True)
    library = "Z:" + str(site / "vapoursynth" / "libvapoursynth.dll").replace("/", "\\")
    environment = {**os.environ, "WINEPREFIX": str(tmp_path / "wine"), "WINEDEBUG": "-all"}
    command = ["wine", host, library]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=300)
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done
    assert {f"function {name}" for name in ("Colorize", "Bind", "PyFilter")} <= set(lines)
    assert lines[-1].startswith("Colorize: needs Python 3.12 or later running in the host process")
