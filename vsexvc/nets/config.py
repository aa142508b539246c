"""Describe a network as data: frozen, hashable, kept in a weights file's metadata. Imports nothing of the package."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Literal

CELL = 4  # pixels of the network's size that one position of the correspondence stands for


@dataclass(frozen=True)
class NetworkConfig:
    """Describe the architecture of one network; the defaults are the released layout (Appendix A, Tables 2 and 3).

    Attributes:
        width: factor on every channel count of the three nets (1.0: VGG19 and the paper's tables).
        features_input: the feature net's input. "L": L scaled to -1..1, one channel, for frame and reference alike.
            "upstream": the released files' scaling (frame L/100 in three channels, reference in colour, BGR minus
            means, x 255). "imagenet": torchvision's scaling of the grey picture, frame and reference alike.
        temperature: tau of eq. 4.
        head: "tanh": ab = 128 tanh(...), as released. "blend": each pixel blends the warped colour and the previous
            frame's colour, and the net adds a residual.
        motion: radius, in cells of 1/4 size, of the search that aligns the previous frame to this one by correspondence
            features, before the colour net gets it; 0: no alignment, as in the paper.
        refine: whether the frames' L corrects that alignment to fractions of a pixel.
        warp_upsampling: how warped colour and similarity are enlarged from 1/4 size. "reference": bilinear, with the
            colours of the reference's own pixels where a match is sure of its place (nets/places.py).
        semantic: the EfficientNet-Lite that computes the semantic features; "": none, as in the paper.
        semantic_weight: weight of the semantic features' cosine in the correspondence; that of the details has 1.
        semantic_temperature: tau of the correlation by semantic features alone.
        semantic_color: whether the colour net gets the semantic vectors and the colours guessed from them.
    """

    width: float = 1.0
    features_input: Literal["L", "upstream", "imagenet"] = "upstream"
    temperature: float = 0.01
    head: Literal["tanh", "blend"] = "tanh"
    motion: int = 0
    refine: bool = False
    warp_upsampling: Literal["nearest", "bilinear", "reference"] = "nearest"
    semantic: Literal["", "lite0", "lite1", "lite2"] = ""
    semantic_weight: float = 0.25
    semantic_temperature: float = 0.03
    semantic_color: bool = False

    def __post_init__(self) -> None:
        if not 0.0 < self.width <= 2.0:
            raise ValueError(f"NetworkConfig: width must be above 0 and at most 2, got {self.width}")
        if self.features_input not in ("L", "upstream", "imagenet"):
            raise ValueError(
                f"NetworkConfig: features_input must be L, upstream or imagenet, got {self.features_input!r}"
            )
        if self.head not in ("tanh", "blend"):
            raise ValueError(f"NetworkConfig: head must be tanh or blend, got {self.head!r}")
        if self.warp_upsampling not in ("nearest", "bilinear", "reference"):
            raise ValueError(
                f"NetworkConfig: warp_upsampling must be nearest, bilinear or reference, got {self.warp_upsampling!r}"
            )
        if self.semantic not in ("", "lite0", "lite1", "lite2"):
            raise ValueError(f"NetworkConfig: semantic must be lite0, lite1, lite2 or empty, got {self.semantic!r}")
        if self.semantic and self.head != "blend":
            raise ValueError(f"NetworkConfig: head must be blend where semantic is given, got {self.head!r}")
        if not 0.0 <= self.semantic_weight <= 10.0:
            raise ValueError(f"NetworkConfig: semantic_weight must be 0..10, got {self.semantic_weight}")
        if not 1e-3 <= self.semantic_temperature <= 1.0:
            raise ValueError(f"NetworkConfig: semantic_temperature must be 0.001..1, got {self.semantic_temperature}")
        for name in ("refine", "semantic_color"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"NetworkConfig: {name} must be true or false, got {getattr(self, name)!r}")
        if self.semantic_color and not self.semantic:
            raise ValueError("NetworkConfig: semantic_color must be false where semantic is empty, got true")
        if not 1e-10 <= self.temperature <= 1.0:
            raise ValueError(f"NetworkConfig: temperature must be 1e-10..1, got {self.temperature}")
        if not isinstance(self.motion, int) or not 0 <= self.motion <= 64:
            raise ValueError(f"NetworkConfig: motion must be an integer, 0..64, got {self.motion}")

    def channels(self, count: int) -> int:
        """Return the channels of a layer that has `count` in the paper's tables."""
        return max(4, round(count * self.width))

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> NetworkConfig:
        """Parse a configuration. Raise ValueError for text that is none or has unknown keys."""
        try:
            fields = json.loads(text)
            return cls(**fields)
        except TypeError as error:
            raise ValueError(f"NetworkConfig: unknown or wrong field: {error}") from None
