"""scripts/bench.py runs and writes what it says; no time is checked."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).resolve().parents[1] / "scripts/bench.py"


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(BENCH), *arguments], capture_output=True, text=True, check=False)


def test_table_and_json(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    done = bench("--size", "64x48", "--rounds", "2", "--json", str(path))
    assert done.returncode == 0, done.stderr
    result = json.loads(path.read_text())
    assert {"commit", "device", "threads", "versions", "size", "rounds", "steps"} == set(result)
    assert (result["size"], result["rounds"], result["threads"]) == ([64, 48], 2, 1)
    assert {"upsample_ab", "chroma", "write"} < set(result["steps"])
    for name, step in result["steps"].items():
        assert 0.0 < step["min_ms"] <= step["median_ms"] <= step["max_ms"]
        assert f"| {name} |" in done.stdout


def test_wrong_size() -> None:
    done = bench("--size", "large")
    assert done.returncode == 2
    assert "--size must be WIDTHxHEIGHT, got large" in done.stderr
