"""What all tests share: one torch thread, so that results and times do not hang on the cores; tiny random weights."""

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
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that starts the tests in the background ignores it


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A network of random weights: what it makes of a frame depends on the frames before."""
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        store.save(ColorizationNet(NetworkConfig(width=0.0625, features_input="L")), path, {})
    return str(path)


@pytest.fixture(scope="session")
def compile_host() -> Callable[[Path, Path], None]:
    """Compiles a C program (source, target) that loads VapourSynth's libraries by itself."""
    try:
        compiler = find_compiler()
    except RuntimeError as error:
        pytest.skip(str(error))

    def compile(source: Path, program: Path) -> None:
        command = [*compiler, f"-I{find_headers()}", "-o", str(program), str(source), "-ldl", "-lpthread"]
        subprocess.run(command, check=True)

    return compile
