"""Make VapourSynth frames of the network's results, and set the properties that Colorize adds (REPORTED)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
import vapoursynth as vs
from numpy.typing import NDArray
from torch import Tensor

from vsexvc.backends.transfer import download
from vsexvc.borders import Area, Zoom

# Properties of coloured frames, in the order of `Output.frame`; the last two only if several references are used.
REPORTED = ("ExvcReference", "ExvcSimilarity", "ExvcSceneStart", "ExvcReferences", "ExvcShares")

# For the merge: FINE, a property of a frame that was enlarged within its borders, is a frame (L, a, b) of the zoom's
# size. Its property AREA has the `ends` of the zoom; around the picture the colours are continued.
FINE, AREA = "ExvcFine", "ExvcArea"


@dataclass(frozen=True)
class Output:
    """Hold one coloured frame at the network's size.

    Attributes:
        planes: (3, h, w) float32 on the CPU, (similarity, a, b); valid after `arrived` has returned.
        arrived: waits for the planes' copy from the device.
        area: rows and columns within black borders.
        shares: by a reference's index, the share of positions that have its colour; remembered frames have the rest.
        segment: first frame of the segment.
        fine: (3, H', W') likewise, (L, a, b), where the frame is enlarged within its borders; else None.
        zoom: of that.
    """

    planes: Tensor
    arrived: Callable[[], None]
    area: Area
    shares: dict[int, float]
    segment: int
    fine: Tensor | None = None
    zoom: Zoom | None = None

    def frame(self) -> vs.VideoFrame:
        """Make the frame. This runs in VapourSynth's threads, so torch must not compute here: see TorchThread."""
        self.arrived()
        planes = self.planes.numpy()
        if not np.isfinite(planes).all():
            raise ValueError("the network's colours are not finite numbers: use other weights")
        frame = _written(planes)
        if self.fine is not None and self.zoom is not None:
            fine = _written(self.fine.numpy())
            fine.props[AREA] = list(self.zoom.ends)
            frame.props[FINE] = fine
        similarity = float(planes[0, *self.area].mean(dtype=np.float64))
        most = max(self.shares, key=self.shares.__getitem__)
        values = most, similarity, self.segment, list(self.shares), list(self.shares.values())
        for name, value in zip(REPORTED, values, strict=True):
            if len(self.shares) > 1 or not isinstance(value, list):
                frame.props[name] = value
        return frame


def fetched(planes: Tensor, L: Tensor, zoom: Zoom | None) -> tuple[Tensor, Callable[[], None], Tensor | None]:
    """Copy results to the CPU: return planes, arrived and fine of `Output`.

    Args:
        planes: (1, 3, H', W'), similarity, a and b; at the zoom's size if there is one.
        L: (1, 1, H', W') of the frame.
        zoom: of the frame.
    """
    if zoom is None:
        return (*download(planes[0]), None)
    small, arrived = download(F.interpolate(planes, zoom.before, mode="bilinear", antialias=True)[0])
    rows, columns = zoom.area
    around = columns.start, zoom.size[1] - columns.stop, rows.start, zoom.size[0] - rows.stop
    ab = F.pad(planes[:, 1:, rows, columns], around, mode="replicate")
    fine, fine_arrived = download(torch.cat((L.to(ab.device), ab), dim=1)[0])

    def both_arrived() -> None:
        arrived()
        fine_arrived()

    return small, both_arrived, fine


def _written(planes: NDArray[np.float32]) -> vs.VideoFrame:
    _, height, width = planes.shape
    frame = vs.core.create_video_frame(vs.YUV444PS, width, height)
    for plane in range(3):
        np.copyto(np.asarray(frame[plane]), planes[plane])
    return frame
