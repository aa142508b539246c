"""Read the frames that come to the pump: L of the clip and Lab of the references, at the network's size.

Axes: B frames, H and W of a frame, h and w of the network's size.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vsexvc.borders import Area, Zoom, is_small, picture_area, zoomed
from vsexvc.colour.lab import rgb_to_lab
from vsexvc.colour.transparency import continued
from vsexvc.frames import ERROR, Lightness, alpha_of
from vsexvc.schedule import Frames
from vsexvc.session import network_size


class Reader:
    """Convert frames to tensors."""

    def __init__(self, size: int | None, halve: bool, borders: bool = True) -> None:
        """Take the arguments of vsexvc.pump.Pump."""
        self._size, self._halve, self._borders, self._lightness = size, halve, borders, Lightness()

    def enlarges(self, area: Area) -> bool:
        """Return whether frames are enlarged because their shorter side within borders is too small for the network."""
        return self._size is not None and is_small(area, self._size)

    def zoom(self, L: Tensor, before: tuple[int, int]) -> Zoom:
        """Return how frames that `enlarges` are enlarged; see borders.zoomed."""
        assert self._size is not None
        return zoomed(L, before, self._size)

    def luma(self, frames: Frames) -> Tensor:
        """Return L (B, 1, h, w), 0..100, of GRAY16."""
        return self._halved(torch.cat([self._lightness(frame) for frame in frames]))

    def picture(self, frames: Frames) -> tuple[Tensor, ...]:
        """Return Lab (1, 3, h, w) of one RGBS frame, and alpha (1, 1, h, w) if it has one that is not all opaque.

        Raise ValueError for a frame that is marked as unusable, has numbers that are not finite, or is transparent
        where it must not be.
        """
        (frame,) = frames
        if ERROR in frame.props:
            raise ValueError(f"ref: {frame.props[ERROR]}")
        rgb = torch.from_numpy(np.stack([np.asarray(frame[plane]) for plane in range(3)]))[None]
        if not torch.isfinite(rgb).all():
            raise ValueError("ref: must hold finite numbers, got NaN or infinity")
        size = None if self._size is None else network_size(frame.width, frame.height, self._size)
        alpha = alpha_of(frame)
        if alpha is not None:
            if self._halve:
                raise ValueError("ref: must be opaque with preset 'upstream', it has transparent parts")
            if size is None:  # the frame was resized: pixels near transparent parts are mixed with them
                alpha = -F.max_pool2d(-alpha, 5, stride=1, padding=2)
            rgb, alpha = continued(rgb.clamp(0.0, 1.0), alpha, size or (frame.height, frame.width))
            return rgb_to_lab(rgb), alpha
        if size is None:
            return (self._halved(rgb_to_lab(rgb.clamp(0.0, 1.0))),)
        lab = _resized(rgb, size)
        if self._borders and self.enlarges(picture_area(lab[:, :1])):
            zoom = self.zoom(
                _resized(rgb, (min(2 * size[0], rgb.shape[2]), min(2 * size[1], rgb.shape[3])))[:, :1], size
            )
            lab = _resized(rgb, zoom.size)[:, :, *zoom.area]
        return (self._halved(lab),)

    def _halved(self, lab: Tensor) -> Tensor:
        """Resize to half if frames have twice the network's size. lab: (B, 1 or 3, H, W)."""
        return F.interpolate(lab, scale_factor=0.5, mode="bilinear") if self._halve else lab


def _resized(rgb: Tensor, size: tuple[int, int]) -> Tensor:
    """Return Lab of a picture at another size. rgb: (1, 3, H, W), 0..1."""
    return rgb_to_lab(F.interpolate(rgb, size, mode="bicubic", antialias=True).clamp(0.0, 1.0))
