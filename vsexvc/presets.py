"""Define the presets: how pictures are prepared for the network, and how its colours are applied."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Preset:
    """Describe how pictures reach the network, and how its colours reach the picture.

    Attributes:
        size: width and height to which clip, references and mask are cropped and resized; the result has this size too,
            and Lab is halved for the network. None: each picture keeps its own size and shape.
        gain: factor on a and b, in addition to `saturation`.
        precision: of the network if the caller names none; None: the device's default.
        borders: whether black borders are ignored; False: they are picture.
        guided: whether colours are enlarged along the edges of luma; False: bilinearly.
        alone: whether a frame has one reference and no remembered frames, whatever the arguments say.
    """

    size: tuple[int, int] | None = None
    gain: float = 1.0
    precision: str | None = None
    borders: bool = True
    guided: bool = True
    alone: bool = False


PRESETS = {
    "": Preset(),
    # The authors' own script: its pictures have twice the size of the network's.
    "upstream": Preset(size=(768, 432), gain=1.25, precision="fp32", borders=False, guided=False, alone=True),
}
