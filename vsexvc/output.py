"""Make VapourSynth's frames of what the network has computed, with their properties."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import vapoursynth as vs
from torch import Tensor

from vsexvc.borders import Area
from vsexvc.frames import REPORTED


@dataclass(frozen=True)
class Output:
    """Hold one coloured frame at the network's size: planes (3, h, w) float32 on the CPU, as (similarity, a, b).

    They are valid once `arrived` has returned. `area`: rows and columns within black borders. `shares`: of positions
    that each reference gave their colour to, by its index; a remembered frame gave it to the others.
    """

    planes: Tensor
    arrived: Callable[[], None]
    area: Area
    shares: dict[int, float]
    segment: int

    def frame(self) -> vs.VideoFrame:
        """Make the frame. It runs in VapourSynth's own threads, so nothing of torch computes here: see TorchThread."""
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
