"""Make VapourSynth frames of the network's results, and set the properties that Colorize adds (REPORTED)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import vapoursynth as vs
from torch import Tensor

from vsexvc.borders import Area

# Properties of coloured frames, in the order of `Output.frame`; the last two only if several references are used.
REPORTED = ("ExvcReference", "ExvcSimilarity", "ExvcSceneStart", "ExvcReferences", "ExvcShares")


@dataclass(frozen=True)
class Output:
    """Hold one coloured frame at the network's size.

    Attributes:
        planes: (3, h, w) float32 on the CPU, (similarity, a, b); valid after `arrived` has returned.
        arrived: waits for the planes' copy from the device.
        area: rows and columns within black borders.
        shares: by a reference's index, the share of positions that have its colour; remembered frames have the rest.
        segment: first frame of the segment.
    """

    planes: Tensor
    arrived: Callable[[], None]
    area: Area
    shares: dict[int, float]
    segment: int

    def frame(self) -> vs.VideoFrame:
        """Make the frame. This runs in VapourSynth's threads, so torch must not compute here: see TorchThread."""
        self.arrived()
        planes = self.planes.numpy()
        if not np.isfinite(planes).all():
            raise ValueError("the network's colours are not finite numbers: use other weights")
        _, height, width = planes.shape
        frame = vs.core.create_video_frame(vs.YUV444PS, width, height)
        for plane in range(3):
            np.copyto(np.asarray(frame[plane]), planes[plane])
        similarity = float(planes[0, *self.area].mean(dtype=np.float64))
        most = max(self.shares, key=self.shares.__getitem__)
        values = most, similarity, self.segment, list(self.shares), list(self.shares.values())
        for name, value in zip(REPORTED, values, strict=True):
            if len(self.shares) > 1 or not isinstance(value, list):
                frame.props[name] = value
        return frame
