"""Test imports: in the ORDER below a group or module imports only what stands before it; train imports vsexvc."""

from __future__ import annotations

import ast
from graphlib import CycleError
from pathlib import Path

import pytest

from scripts.imports import graph, groups, in_order

ROOT = Path(__file__).resolve().parents[1]
ORDER = {
    "vsexvc": [
        "support.errors",
        "support.system",
        "support.files",
        "support.progress",
        "support.report",
        "support.environment",
        "support.openmp",
        "support.threads",
        "support.kept",
        "nets.config",
        "colour.lab",
        "colour.transparency",
        "colour.upsample",
        "colour.spaces",
        "nets.motion",
        "nets.places",
        "nets.features",
        "nets.correspondence",
        "nets.correlation",
        "nets.semantic",
        "nets.meaning",
        "nets.trust",
        "nets.choice",
        "nets.steady",
        "nets.color",
        "nets.network",
        "backends.options",
        "backends.transfer",
        "backends.shapes",
        "backends.torch",
        "backends.openvino",
        "backends.cuda",
        "backends.prepare",
        "weights.transfer",
        "weights.catalog",
        "weights.fill",
        "weights.released",
        "weights.store",
        "weights.listing",
        "weights.identify",
        "borders",
        "session",
        "frames",
        "changes",
        "scenes",
        "cuts",
        "schedule",
        "stretch",
        "reader",
        "framing",
        "handover",
        "typical",
        "output",
        "pump",
        "merge",
        "presets",
        "arguments",
        "graph",
        "plugin",
        "film.profiles",
        "film.pictures",
        "film.sequence",
        "film.source",
        "film.references",
        "film.propose",
        "film.plan",
        "film.vsview",
        "film.page",
        "film.trust",
        "film.compare",
        "film.keyframes",
        "film.encode",
        "film.times",
        "film.captions",
        "film.container",
        "film.sound",
        "film.join",
        "film.job",
        "film.folder",
        "film.takes",
        "film.redo",
        "film.parts",
        "film.pipe",
        "film.cluster",
        "film.rehearse",
        "film.render",
        "check",
        "command_line",
        "__main__",
    ],
    "train": [
        "data.flow",
        "data.augment",
        "data.files",
        "data.retrieval",
        "data.samples",
        "features.sources",
        "running",
        "features.meaning",
        "features.pretrain",
        "measure.metrics",
        "measure.baselines",
        "measure.tables",
        "measure.scores",
        "measure.sheets",
        "measure.protocol",
        "measure.arguments",
        "measure.stills",
        "measure.alone",
        "measure.faces",
        "measure.keypoints",
        "measure.nothing",
        "measure.back",
        "measure.ends",
        "measure.letterbox",
        "measure.legacy",
        "measure.evaluate",
        "fit.options",
        "fit.trust",
        "fit.losses",
        "fit.discriminator",
        "fit.unroll",
        "fit.networks",
        "fit.loop",
        "fit.ablate",
        "__main__",
    ],
}
FILMS = ORDER["vsexvc"].index("frames")  # from here on VapourSynth may be imported
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path
    for top in ORDER
    for path in sorted((ROOT / top).rglob("*.py"))
}


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative import"
            found |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


@pytest.mark.parametrize("name", MODULES)
def test_arrows(name: str) -> None:
    top, _, inner = name.partition(".")
    names = imports(MODULES[name])
    tops = {imported.split(".")[0] for imported in names}
    if inner.endswith("__init__"):
        if inner != "__init__":
            assert not names
        return
    order = ORDER[top]
    assert inner in order, "a new module: give it a place in ORDER"
    if top == "train":
        assert "vapoursynth" not in tops
    else:
        assert not tops & {"train", "cv2"}
        if order.index(inner) < FILMS:
            assert "vapoursynth" not in tops
    later = {f"{top}.{module}" for module in order[order.index(inner) :]}
    assert not names & later


@pytest.mark.parametrize("top", ORDER)
def test_neither_rooms_nor_modules_make_a_circle(top: str) -> None:
    modules_of = graph(top)
    assert len(list(in_order(modules_of))) == len(modules_of) == len(ORDER[top])
    assert {*in_order(groups(modules_of))} == {*groups(modules_of)}


def test_a_circle_is_seen(tmp_path: Path) -> None:
    """A cycle of folders is found even where no two modules make a cycle."""
    for name, text in {"a/one": "import p.b.one", "b/one": "", "b/two": "from p.a import one"}.items():
        (tmp_path / "p" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "p" / f"{name}.py").write_text(text)
    found = graph("p", tmp_path)
    assert [*in_order(found)] == ["p.b.one", "p.a.one", "p.b.two"]
    with pytest.raises(CycleError):
        list(in_order(groups(found)))
