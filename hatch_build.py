"""Build hook: compiles vsexvc/native/exvc.c and puts it where VapourSynth looks for plugins.

The wheel (and an editable install) carries the plugin as `vapoursynth/plugins/exvc/exvc.so`, in the folder of the
installed vapoursynth package, so that `core.exvc` is there at once. A wheel also carries the weights of models/ as
package data; an editable install reads them where they lie. Nothing of the checkout is written to.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sysconfig
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

COMPILERS = ("cc", "gcc", "clang")
FLAGS = ("-std=c11", "-O2", "-fPIC", "-shared", "-fvisibility=hidden", "-Wall", "-Wextra")
LINK = ("-ldl", "-Wl,-z,nodelete")  # never unloaded: its signal handler outlives the core that loaded it
PLUGIN = "vapoursynth/plugins/exvc/exvc.so"


def find_compiler() -> list[str]:
    """The command of the C compiler: `$CC`, else the first of COMPILERS on PATH.

    Raises:
        RuntimeError: there is none.
    """
    command = shlex.split(os.environ.get("CC", ""))
    for candidate in [command] if command else [[name] for name in COMPILERS]:
        if shutil.which(candidate[0]):
            return candidate
    raise RuntimeError(
        f"vsexvc needs a C compiler to build its VapourSynth plugin: looked for {' '.join(command) or COMPILERS}. "
        "Install one (Debian: apt-get install gcc libc6-dev) or name one in $CC."
    )


def find_headers() -> Path:
    """The folder with VapourSynth4.h of the vapoursynth package that the build runs with.

    Raises:
        RuntimeError: the package is missing or carries no headers.
    """
    spec = find_spec("vapoursynth")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if (Path(folder) / "include" / "VapourSynth4.h").is_file():
            return Path(folder) / "include"
    raise RuntimeError("vsexvc needs the headers of the vapoursynth package to build: pip install 'vapoursynth>=77'")


def compile_plugin(source: Path, target: Path) -> None:
    """Compiles the C file `source` to the shared library `target`.

    Raises:
        RuntimeError: no compiler, no headers, or the compiler failed (its messages are in the text).
    """
    command = [*find_compiler(), *FLAGS, f"-I{find_headers()}", "-o", str(target), str(source), *LINK]
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if result.returncode:
        raise RuntimeError(f"compiling {source.name} failed:\n{shlex.join(command)}\n{result.stdout}")


class NativePluginHook(BuildHookInterface):  # type: ignore[misc, type-arg, unused-ignore]
    """Adds the compiled plugin, and to wheels the weights, to what hatchling packs."""

    _work: str | None = None

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        self._work = tempfile.mkdtemp(prefix="vsexvc-build-")
        library = Path(self._work) / "exvc.so"
        compile_plugin(Path(self.root) / "vsexvc" / "native" / "exvc.c", library)
        build_data["pure_python"] = False
        # The library links to no Python: any interpreter will do, the machine must be the right one.
        build_data["tag"] = "py3-none-" + sysconfig.get_platform().replace("-", "_").replace(".", "_")
        if version == "editable":
            build_data["force_include_editable"][str(library)] = PLUGIN
            return
        build_data["force_include"][str(library)] = PLUGIN
        models = Path(self.root) / "models"
        for path in sorted(p for pattern in ("*.safetensors", "*.json", "*.md") for p in models.glob(pattern)):
            build_data["force_include"][str(path)] = f"vsexvc/models/{path.name}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if self._work:
            shutil.rmtree(self._work, ignore_errors=True)
