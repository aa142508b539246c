"""Compile vsexvc/native/*.c in a build hook, and put the library into VapourSynth's folder of plugins.

The wheel (and an editable install) carries it in `vapoursynth/plugins/exvc/`, in the folder of the installed
vapoursynth package, so that `core.exvc` exists after the installation. A wheel also contains the weights of models/
as package data; an editable install reads them from there. The checkout is not written to.

The library is for this machine, made by its C compiler, unless $VSEXVC_TARGET names one of TARGETS: then zig
(`pip install ziglang`) makes it, wherever the build runs.
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

TARGETS = {  # platform tags of wheels -> zig's names
    "win_amd64": "x86_64-windows-gnu",
    "macosx_11_0_arm64": "aarch64-macos.11.0",
    "macosx_10_15_x86_64": "x86_64-macos.10.15",
    "manylinux_2_28_x86_64": "x86_64-linux-gnu.2.28",
    "manylinux_2_28_aarch64": "aarch64-linux-gnu.2.28",
}
COMPILERS = ("cc", "gcc", "clang", "cl")
FLAGS = ("-std=c11", "-O2", "-shared", "-fvisibility=hidden", "-Wall", "-Wextra")
MSVC_FLAGS = ("/nologo", "/std:c11", "/experimental:c11atomics", "/O2", "/W3", "/LD")
FOLDER = "vapoursynth/plugins/exvc"
MANIFEST = "[VapourSynth Manifest V1]\nexvc\n"  # the names of a folder's libraries, without suffix


def suffix_of(tag: str) -> str:
    """Return the library's suffix for a platform tag: VapourSynth loads no other."""
    return ".dll" if tag.startswith("win") else ".dylib" if tag.startswith("macosx") else ".so"


def this_machine() -> str:
    """Return the platform tag of a library that this machine's own compiler makes."""
    if sys.platform == "darwin":  # a universal Python names no machine
        return "macosx_11_0_arm64" if platform.machine() == "arm64" else "macosx_10_15_x86_64"
    return sysconfig.get_platform().replace("-", "_").replace(".", "_")


def find_zig() -> list[str]:
    """Return the command of zig's C compiler, empty if there is none."""
    if find_spec("ziglang"):
        return [sys.executable, "-m", "ziglang", "cc"]
    return ["zig", "cc"] if shutil.which("zig") else []


def find_compiler() -> list[str]:
    """Return the command of the C compiler: `$CC`, else the first of COMPILERS on PATH, else zig.

    Raises:
        RuntimeError: there is none.
    """
    # Backslashes are those of paths on Windows.
    command = [word.strip('"') for word in shlex.split(os.environ.get("CC", ""), posix=os.name != "nt")]
    for candidate in [command] if command else [[name] for name in COMPILERS]:
        if shutil.which(candidate[0]):
            return candidate
    if not command and (zig := find_zig()):
        return zig
    raise RuntimeError(
        f"vsexvc needs a C compiler to build its VapourSynth plugin: looked for {' '.join(command) or COMPILERS}. "
        "Install one (pip install ziglang; Debian: apt-get install gcc libc6-dev) or name one in $CC."
    )


def find_headers() -> Path:
    """Return the folder with VapourSynth4.h of the vapoursynth package that the build runs with.

    Raises:
        RuntimeError: the package is missing or carries no headers.
    """
    spec = find_spec("vapoursynth")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if (Path(folder) / "include" / "VapourSynth4.h").is_file():
            return Path(folder) / "include"
    raise RuntimeError("vsexvc needs the headers of the vapoursynth package to build: pip install 'vapoursynth>=77'")


def command_for(tag: str, target: Path, sources: list[Path]) -> list[str]:
    """Return the command that compiles `sources` to the library `target` for a platform tag.

    Raises:
        RuntimeError: no compiler, no headers.
    """
    files, include = [str(path) for path in sources], str(find_headers())
    if os.environ.get("VSEXVC_TARGET"):
        if not (zig := find_zig()):
            raise RuntimeError("vsexvc needs zig to build for $VSEXVC_TARGET: pip install ziglang")
        compiler, flags = zig, ["-target", TARGETS[tag], "-s"]
    else:
        compiler, flags = find_compiler(), []
        if Path(compiler[0]).stem.lower() == "cl":
            return [*compiler, *MSVC_FLAGS, f"/I{include}", *files, f"/Fe:{target}"]
    if tag.startswith("macosx"):
        flags += ["-Wl,-install_name,@rpath/exvc.dylib"]
        if "-target" not in flags:
            version, machine = tag.removeprefix("macosx_").split("_", 2)[:2], tag.split("_", 3)[-1]
            flags += ["-arch", machine, f"-mmacosx-version-min={'.'.join(version)}"]
    elif tag.startswith("win"):
        flags += ["-static-libgcc"] if "gcc" in Path(compiler[0]).name else []
    else:
        flags += ["-fPIC"]
    link = [] if tag.startswith(("win", "macosx")) else ["-ldl"]
    return [*compiler, *flags, *FLAGS, f"-I{include}", "-o", str(target), *files, *link]


def compile_plugin(sources: list[Path], target: Path, tag: str) -> None:
    """Compile C files to the shared library `target` for a platform tag.

    Raises:
        RuntimeError: no compiler, no headers, or the compiler failed (its messages are in the text).
    """
    command = command_for(tag, target, sources)
    result = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, cwd=target.parent
    )
    if result.returncode:
        raise RuntimeError(f"compiling {target.name} failed:\n{shlex.join(command)}\n{result.stdout}")


def chosen_tag() -> str:
    """Return the platform tag of this build.

    Raises:
        RuntimeError: $VSEXVC_TARGET is none of TARGETS.
    """
    tag = os.environ.get("VSEXVC_TARGET")
    if tag and tag not in TARGETS:
        raise RuntimeError(f"$VSEXVC_TARGET must be one of {', '.join(TARGETS)}, got {tag!r}")
    return tag or this_machine()


class NativePluginHook(BuildHookInterface):  # type: ignore[misc, type-arg, unused-ignore]
    """Add the compiled plugin, and to wheels the weights, to the files that hatchling packs."""

    _work: str | None = None

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        tag = chosen_tag()
        self._work = tempfile.mkdtemp(prefix="vsexvc-build-")
        library = Path(self._work) / f"exvc{suffix_of(tag)}"
        manifest = Path(self._work) / "manifest.vs"
        manifest.write_text(MANIFEST, newline="\n")
        compile_plugin(sorted((Path(self.root) / "vsexvc" / "native").glob("*.c")), library, tag)
        build_data["pure_python"] = False
        # The library links to no Python: any interpreter will do, the machine must be the right one.
        build_data["tag"] = f"py3-none-{tag}"
        included = build_data["force_include_editable" if version == "editable" else "force_include"]
        for path in (library, manifest):
            included[str(path)] = f"{FOLDER}/{path.name}"
        if version == "editable":
            return
        models = Path(self.root) / "models"
        for path in sorted(p for pattern in ("*.safetensors", "*.json", "*.md") for p in models.glob(pattern)):
            included[str(path)] = f"vsexvc/models/{path.name}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if self._work:
            shutil.rmtree(self._work, ignore_errors=True)
