"""What all tests share: one torch thread, so that results and times do not hang on the cores; tiny random weights."""

import pytest
import torch

from vsexvc import weights
from vsexvc.config import NetworkConfig
from vsexvc.network import ColorizationNet

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A network of random weights: what it makes of a frame depends on the frames before."""
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        weights.save(ColorizationNet(NetworkConfig(width=0.0625, features_input="L")), path, {})
    return str(path)
