"""Test `python -m vsexvc check` in this environment, and in copies of the packages with one part damaged."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import vapoursynth as vs

ROOT = Path(__file__).resolve().parents[1]
VAPOURSYNTH = Path(vs.__file__).parent


def check(*first: Path, **environment: str) -> dict[str, Any]:
    """Return the steps by name. The folders `first` come before all others on the module path."""
    path = os.pathsep.join(map(str, (*first, ROOT)))
    programs = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    done = subprocess.run(
        [sys.executable, "-m", "vsexvc", "check", "--json"],
        capture_output=True,
        text=True,
        check=False,
        cwd=first[0] if first else ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PATH": programs, **environment, "PYTHONPATH": path},
    )
    said = json.loads(done.stdout)
    assert done.returncode == (0 if said["ok"] else 1), done.stderr
    return {step["name"]: step for step in said["steps"]}


def failed(steps: dict[str, Any]) -> list[str]:
    return [name for name, step in steps.items() if step["ok"] is False]


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """Copy VapourSynth and its plugins to a folder."""
    shutil.copytree(VAPOURSYNTH, tmp_path / "vapoursynth", ignore=shutil.ignore_patterns("libbestsource*"))
    return tmp_path


def test_this_environment() -> None:
    steps = check()
    assert failed(steps) == [], steps
    assert list(steps) == [
        "python", "vapoursynth", "plugin", "torch", "vsexvc", "weights", "device", "speed", "vspipe",
    ]  # fmt: skip
    assert "a second" in steps["speed"]["said"]
    assert not any(step["help"] for step in steps.values())


def test_a_plugin_that_is_cut_off(copied: Path) -> None:
    """The check names a plugin whose loading ends the process."""
    [plugin] = (copied / "vapoursynth" / "plugins" / "exvc").glob("exvc.[ds]*")
    plugin.write_bytes(plugin.read_bytes()[:1000])
    steps = check(copied)
    assert failed(steps) == ["vapoursynth"]
    assert steps["vapoursynth"]["said"].endswith(f"damaged: {[str(plugin)]}")
    assert "for exvc: vsexvc" in steps["vapoursynth"]["help"]


def test_a_damaged_plugin(copied: Path) -> None:
    [plugin] = (copied / "vapoursynth" / "plugins" / "exvc").glob("exvc.[ds]*")
    plugin.write_bytes(b"nothing that a system could load" * 100)
    steps = check(copied)
    assert "plugin" in failed(steps)
    assert f"{plugin} does not load" in steps["plugin"]["said"]
    assert "--force-reinstall --no-deps vsexvc" in steps["plugin"]["help"]
    assert steps["speed"]["ok"] is None


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="LD_LIBRARY_PATH is Linux's")
def test_another_libvapoursynth(copied: Path) -> None:
    steps = check(LD_LIBRARY_PATH=str(copied / "vapoursynth"))
    assert failed(steps) == ["vapoursynth"]
    assert f"another libvapoursynth is in use: {copied}" in steps["vapoursynth"]["said"]
    assert "LD_LIBRARY_PATH" in steps["vapoursynth"]["help"]


def test_damaged_weights(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "vsexvc", tmp_path / "vsexvc", ignore=shutil.ignore_patterns("__pycache__"))
    models = tmp_path / "models"
    models.mkdir()
    content = (ROOT / "models" / "exvc.safetensors").read_bytes()
    (models / "exvc.safetensors").write_bytes(content[: len(content) // 2])
    steps = check(tmp_path)
    assert failed(steps) == ["weights"]
    assert "damaged" in steps["weights"]["said"]
    assert "--force-reinstall --no-deps vsexvc" in steps["weights"]["help"]


def test_no_torch(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')")
    steps = check(tmp_path)
    assert failed(steps) == ["torch"]
    assert "No module named 'torch'" in steps["torch"]["said"]
    assert steps["torch"]["help"].startswith('pip install "torch')
    assert steps["vsexvc"]["said"] == "skipped: requires torch"


def test_no_vspipe(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError('not needed here')")
    steps = check(tmp_path, PATH=str(tmp_path))
    assert failed(steps) == ["torch", "vspipe"]
    assert "vspipe is not on PATH" in steps["vspipe"]["said"]
    assert steps["vspipe"]["help"]
