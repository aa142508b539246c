"""Test the build and the import of the package: parts of hatch_build.py, the wheel's contents, a light import."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def hook() -> ModuleType:
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_compiler_is_taken_from_cc(hook: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", f"'{sys.executable}' -X dev")
    assert hook.find_compiler() == [sys.executable, "-X", "dev"]


def test_no_compiler_is_a_clear_error(hook: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(hook, "find_spec", lambda name: None)  # ziglang is not found
    with pytest.raises(RuntimeError, match="needs a C compiler"):
        hook.find_compiler()


def test_zig_is_taken_where_there_is_no_other(
    hook: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(hook, "find_spec", lambda name: name == "ziglang")
    assert hook.find_compiler() == [sys.executable, "-m", "ziglang", "cc"]


@pytest.mark.parametrize(("tag", "suffix"), [("win_amd64", "dll"), ("macosx_11_0_arm64", "dylib")])
def test_a_target_is_compiled_by_zig(
    hook: ModuleType, tag: str, suffix: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("VSEXVC_TARGET", tag)
    monkeypatch.setattr(hook, "find_zig", lambda: ["zig", "cc"])
    assert hook.chosen_tag() == tag
    assert hook.suffix_of(tag) == f".{suffix}"
    command = hook.command_for(tag, tmp_path / "exvc", [tmp_path / "a.c"])
    assert command[:4] == ["zig", "cc", "-target", hook.TARGETS[tag]]
    assert not {"-ldl", "-fPIC"} & set(command)


def test_msvc_has_flags_of_its_own(hook: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    compiler = tmp_path / "cl.exe"
    compiler.touch(mode=0o755)
    monkeypatch.delenv("VSEXVC_TARGET", raising=False)
    monkeypatch.setenv("CC", str(compiler))
    command = hook.command_for("win_amd64", tmp_path / "exvc.dll", [tmp_path / "a.c"])
    assert command == [
        str(compiler),
        *hook.MSVC_FLAGS,
        f"/I{hook.find_headers()}",
        str(tmp_path / "a.c"),
        f"/Fe:{tmp_path / 'exvc.dll'}",
    ]


def test_an_unknown_target_is_refused(hook: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VSEXVC_TARGET", "solaris")
    with pytest.raises(RuntimeError, match=r"VSEXVC_TARGET must be one of win_amd64, .*, got 'solaris'"):
        hook.chosen_tag()


def test_a_failed_compilation_shows_the_compilers_words(hook: ModuleType, tmp_path: Path) -> None:
    source = tmp_path / "broken.c"
    source.write_text("#error what the compiler says\n")
    with pytest.raises(RuntimeError, match="what the compiler says"):
        hook.compile_plugin([source], tmp_path / "broken.so", hook.this_machine())


def test_wheel(hook: ModuleType, tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    [wheel] = tmp_path.glob("*.whl")
    assert wheel.name.startswith("vsexvc-")
    assert "-py3-none-" in wheel.name
    assert not wheel.name.endswith("-any.whl")
    plugin = {f"{hook.FOLDER}/{name}" for name in (f"exvc{hook.suffix_of(hook.this_machine())}", "manifest.vs")}
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"vsexvc/__init__.py", "vsexvc/plugin.py", "vsexvc/py.typed", *plugin} <= names
    weights = {f"vsexvc/models/{path.name}" for path in (ROOT / "models").glob("*.safetensors")}
    assert weights <= names
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"vsexvc", "vapoursynth"}


def test_import_is_light_and_silent() -> None:
    code = """
import os, sys, warnings
before, filters = dict(os.environ), list(warnings.filters)
import vsexvc
assert vsexvc.__version__
assert not {"torch", "vapoursynth", "numpy"} & set(sys.modules)
assert os.environ == before and warnings.filters == filters
import vsexvc.plugin
assert vsexvc.colorize is vsexvc.plugin.colorize
assert os.environ == before
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
