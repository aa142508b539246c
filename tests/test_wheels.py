"""Test the wheels of dist/ (scripts/wheels.sh) by their contents, because only one of their systems is available."""

from __future__ import annotations

import base64
import csv
import hashlib
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
ENTRY = "VapourSynthPluginInit2"
# Each system's library: its kind in lief, its machine, and the system's libraries that it may link to.
SYSTEMS = {
    "win_amd64": ("PE", "AMD64", r"(?i)kernel32\.dll|api-ms-win-crt-[a-z]+-l1-1-0\.dll"),
    "macosx_11_0_arm64": ("MachO", "ARM64", r"/usr/lib/libSystem\.B\.dylib"),
    "macosx_10_15_x86_64": ("MachO", "X86_64", r"/usr/lib/libSystem\.B\.dylib"),
    "manylinux_2_28_x86_64": ("ELF", "X86_64", r"libc\.so\.6|libdl\.so\.2|ld-linux-x86-64\.so\.2"),
    "manylinux_2_28_aarch64": ("ELF", "AARCH64", r"libc\.so\.6|libdl\.so\.2|ld-linux-aarch64\.so\.1"),
}


@pytest.fixture(params=SYSTEMS)
def tag(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def wheel(tag: str) -> Path:
    found = list((ROOT / "dist").glob(f"vsexvc-*-py3-none-{tag}.whl"))
    if not found:
        pytest.skip(f"dist/ holds no wheel for {tag}: scripts/wheels.sh makes them")
    [path] = found
    return path


@pytest.fixture
def content(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture
def library(content: dict[str, bytes]) -> Any:
    lief = pytest.importorskip("lief")
    [name] = [name for name in content if name.startswith("vapoursynth/plugins/exvc/exvc.")]
    binary = lief.parse(list(content[name]))
    return binary.at(0) if isinstance(binary, lief.MachO.FatBinary) else binary


def test_it_holds_package_weights_plugin_and_nothing_else(tag: str, content: dict[str, bytes]) -> None:
    suffix = {"win": "dll", "mac": "dylib"}.get(tag[:3], "so")
    folder = "vapoursynth/plugins/exvc"
    assert {name for name in content if name.startswith("vapoursynth/")} == {
        f"{folder}/exvc.{suffix}",
        f"{folder}/manifest.vs",
    }
    assert content[f"{folder}/manifest.vs"] == b"[VapourSynth Manifest V1]\nexvc\n"
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "vsexvc").rglob("*.py")}
    weights = {f"vsexvc/models/{path.name}" for path in (ROOT / "models").glob("*.safetensors")}
    assert weights
    assert modules | weights <= content.keys()
    tops = {name.split("/")[0] for name in content}
    assert {name for name in tops if not name.endswith(".dist-info")} == {"vsexvc", "vapoursynth"}


def test_its_tag_and_its_record(tag: str, content: dict[str, bytes]) -> None:
    [info] = {name.split("/")[0] for name in content if ".dist-info/" in name}
    stated = content[f"{info}/WHEEL"].decode().splitlines()
    assert f"Tag: py3-none-{tag}" in stated
    assert "Root-Is-Purelib: false" in stated
    record = {
        name: (digest, size) for name, digest, size in csv.reader(content[f"{info}/RECORD"].decode().splitlines())
    }
    assert record.keys() == content.keys()
    for name, data in content.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        assert record[name] == (("", "") if name == f"{info}/RECORD" else (f"sha256={digest}", str(len(data)))), name


def test_its_library_is_of_that_system_and_exports_the_entry(tag: str, library: Any) -> None:
    kind, machine, _ = SYSTEMS[tag]
    assert type(library).__module__.endswith(kind)
    header = library.header
    seen = {"PE": "machine", "MachO": "cpu_type", "ELF": "machine_type"}[kind]
    assert getattr(header, seen).name == machine
    exported = {str(function.name) for function in library.exported_functions}
    # zig adds these two symbols to every Mach-O library.
    assert exported - {"__mh_dylib_header", "___dso_handle"} == {f"_{ENTRY}" if kind == "MachO" else ENTRY}


def test_its_library_needs_nothing_but_the_system(tag: str, library: Any) -> None:
    pattern = SYSTEMS[tag][2]
    needed = [str(getattr(each, "name", each)) for each in library.libraries]
    needed = [name for name in needed if name != "@rpath/exvc.dylib"]  # its own name
    assert needed
    assert [name for name in needed if not re.fullmatch(pattern, name)] == []
    assert [str(f.name) for f in library.imported_functions if "Py" in str(f.name)] == []


def test_its_library_runs_on_the_oldest_system_of_its_tag(tag: str, library: Any, content: dict[str, bytes]) -> None:
    kind = SYSTEMS[tag][0]
    if kind == "ELF":
        versions = {
            name for need in library.symbols_version_requirement for name in map(_name, need.get_auxiliary_symbols())
        }
        assert versions
        assert [v for v in versions if tuple(map(int, v.removeprefix("GLIBC_").split("."))) > (2, 28)] == []
    elif kind == "MachO":
        stated = library.build_version.minos if library.has_build_version else library.version_min.version
        major, minor = (int(part) for part in tag.split("_")[1:3])
        assert tuple(stated[:2]) == (major, minor)
        assert library.has_code_signature or "arm64" not in tag  # Apple's processors run only signed code
    else:
        assert library.optional_header.magic.name == "PE32_PLUS"
        assert library.optional_header.major_subsystem_version <= 10
        assert b"python3.dll" in content["vapoursynth/plugins/exvc/exvc.dll"].replace(b"\0", b"")  # loaded by name


def _name(symbol: Any) -> str:
    return str(symbol.name)


def test_auditwheel_agrees(tag: str, wheel: Path) -> None:
    if not tag.startswith("manylinux"):
        pytest.skip("auditwheel reads Linux wheels")
    pytest.importorskip("auditwheel")
    command = [sys.executable, "-m", "auditwheel", "show", wheel]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    machine = tag.removeprefix("manylinux_2_28_")
    [(major, minor)] = re.findall(rf'following platform tag: "manylinux_(\d+)_(\d+)_{machine}"', " ".join(said.split()))
    assert (int(major), int(minor)) <= (2, 28)
