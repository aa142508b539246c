"""Set up all tests: one torch thread, so that results and times do not depend on the cores; tiny random weights."""

import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from hatch_build import find_compiler, find_headers
from vsexvc.nets.config import NetworkConfig
from vsexvc.nets.network import ColorizationNet
from vsexvc.weights import store

torch.set_num_threads(1)
signal.signal(signal.SIGINT, signal.default_int_handler)  # processes in a shell's background ignore SIGINT


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Save a recurrent network of random weights; return its path."""
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        store.save(ColorizationNet(NetworkConfig(width=0.0625, features_input="L")), path, {})
    return str(path)


@pytest.fixture(scope="session")
def compile_host() -> Callable[[Path, Path], None]:
    """Return a function that compiles a C program (source, target) that loads VapourSynth's libraries by itself."""
    try:
        compiler = find_compiler()
    except RuntimeError as error:
        pytest.skip(str(error))

    def compile(source: Path, program: Path) -> None:
        command = [*compiler, f"-I{find_headers()}", "-o", str(program), str(source), "-ldl", "-lpthread"]
        subprocess.run(command, check=True)

    return compile
