"""Read feature nets from other sources, and freeze those that judge colours (Phi of eq. 8-10).

The paper uses one VGG19 trained on ImageNet. Here a net is "imagenet" (torchvision's file in torch.hub's folder, to
which torchvision downloads it), or a file: torchvision's, the authors' `vgg19_conv.pth`, or a checkpoint of
pretrain.py.

Axes: B batch, H and W a picture's size.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from vsexvc.colour.lab import lab_to_rgb, uncentred
from vsexvc.nets.config import NetworkConfig
from vsexvc.nets.features import FeatureNet, Features, scaled
from vsexvc.support.errors import first_line

Input = Literal["L", "imagenet", "upstream"]
_LAYERS = (2, 2, 4, 4, 4)  # layers of VGG19's blocks, as torchvision counts them


@dataclass(frozen=True)
class Source:
    """Hold a feature net's tensors and the form of its input.

    Attributes:
        state: tensors of FeatureNet.
        width: factor on the channel counts.
        input: see NetworkConfig.features_input.
    """

    state: dict[str, Tensor]
    width: float
    input: Input

    @property
    def batch_norm(self) -> bool:
        return any(key.startswith("norm") for key in self.state)

    def build(self) -> FeatureNet:
        net = FeatureNet(NetworkConfig(width=self.width, features_input=self.input), self.batch_norm)
        net.load_state_dict(self.state)
        return net


def read(source: str) -> Source:
    """Read the feature net that `source` names: "imagenet" or a file as in the module's docstring.

    Raises:
        OSError: the file does not exist, or ImageNet's cannot be downloaded.
        ValueError: the file holds something else.
    """
    if source == "imagenet":
        return _from_torchvision(_download())
    path = Path(source)
    if not path.is_file():
        raise FileNotFoundError(f"features must be imagenet, scratch or an existing file, got {source!r}")
    try:
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds of errors for foreign files
        raise ValueError(f"features {source!r} must be a file of tensors: {first_line(error)}") from None
    if isinstance(state, dict) and "features" in state and "input" in state:
        return Source(state["features"], state["width"], state["input"])
    if isinstance(state, dict) and "features.0.weight" in state:
        return _from_torchvision(state)
    if isinstance(state, dict) and "conv1_1.weight" in state:
        wanted = FeatureNet(NetworkConfig()).state_dict().keys()
        return Source({key: state[key] for key in wanted}, 1.0, "upstream")
    raise ValueError(
        f"features {source!r} must be torchvision's VGG19, vgg19_conv.pth or a checkpoint of `features`, it is none"
    )


def _download() -> dict[str, Tensor]:
    from torchvision.models import VGG19_Weights

    try:
        state: dict[str, Tensor] = VGG19_Weights.IMAGENET1K_V1.get_state_dict(progress=True, check_hash=True)
    except OSError as error:  # URLError is one
        raise OSError(f"features imagenet: torchvision's VGG19 cannot be downloaded ({error}); give its file") from None
    return state


def _from_torchvision(state: dict[str, Tensor]) -> Source:
    """Rename torchvision's layers, which are numbered through all blocks: convolution, ReLU, ..., pool."""
    tensors, index = {}, 0
    wanted = FeatureNet(NetworkConfig()).state_dict().keys()
    for block, count in enumerate(_LAYERS, 1):
        for layer in range(1, count + 1):
            for part in ("weight", "bias"):
                if (name := f"conv{block}_{layer}.{part}") in wanted:
                    tensors[name] = state[f"features.{index}.{part}"]
            index += 2
        index += 1
    return Source(tensors, 1.0, "imagenet")


class Judge(nn.Module):
    """Apply a frozen feature net to colour: the Phi of eq. 8-10. Gradients pass through to its input."""

    def __init__(self, source: Source) -> None:
        super().__init__()
        if source.input == "L":
            raise ValueError("loss features must come from a net that sees colour, got one with input L")
        self.net = source.build().eval().requires_grad_(False)

    def train(self, mode: bool = True) -> Judge:
        """Do nothing, so that batch norm keeps its statistics."""
        return self

    def forward(self, lab: Tensor) -> Features:
        """Compute the features. lab: (B, 3, H, W), L_centred and ab."""
        levels: Features = self.net(scaled(lab_to_rgb(uncentred(lab)), self.net.input))
        return levels
