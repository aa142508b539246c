"""Who may import whom: the ORDER below, each only what stands before it; train imports only vsexvc."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ORDER = [
    "config",
    "color",
    "chroma",
    "motion",
    "network",
    "backend",
    "models",
    "weights",
    "session",
    "tags",
    "scenes",
    "pump",
    "merge",
    "plugin",
    "source",
    "plan",
    "compare",
    "encode",
    "join",
    "parts",
    "render",
]
MODULES = sorted([*(ROOT / "vsexvc").glob("*.py"), *(ROOT / "train").glob("*.py")])


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative import"
            found |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_arrows(path: Path) -> None:
    names = imports(path)
    tops = {name.split(".")[0] for name in names}
    if path.parent.name == "train":
        assert "vapoursynth" not in tops
        return
    assert "train" not in tops and "cv2" not in tops
    if path.stem not in ORDER[ORDER.index("tags") :] and path.stem != "__init__":
        assert "vapoursynth" not in tops
    if path.stem in ORDER:
        later = {f"vsexvc.{module}" for module in ORDER[ORDER.index(path.stem) :]}
        assert not names & later
