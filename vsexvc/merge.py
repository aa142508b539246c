"""Write the full-size output: a frame of the source with new U and V (RGB: R, G and B).

It is a step callable of exvc.PyFilter. It takes the colours at the network's size and does not depend on references,
order or networks. Y and the frame properties are the source's own.

If chroma is subsampled but still finer than the network's picture, luma is resized to the samples of chroma first, and
all work is done there: in 4:2:0 that is a quarter of the work, with the same accuracy. If chroma is not finer (small
pictures), U and V are made at full size first, because colours would otherwise be sampled without smoothing.
"""

from __future__ import annotations

from contextlib import nullcontext
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import vapoursynth as vs
from torch import Tensor

from vsexvc.backends.transfer import upload
from vsexvc.colour.spaces import ColorSpace
from vsexvc.colour.upsample import Grid, subsample, upsample_ab
from vsexvc.frames import UNSPECIFIED, Lightness, Tags, listed, read_tags
from vsexvc.output import AREA, FINE, REPORTED
from vsexvc.support.errors import first_line
from vsexvc.support.threads import TorchThread

_SOURCE, _SMALL, _COLOURED, _MASK = 1, 2, 3, 4  # the clips of the PyFilter
_FINER = 1.25  # least ratio of chroma's samples to the network's, on both axes, to work at their size
_SPACES = 4  # colour spaces whose tables are kept


class Merge:
    """Make output frames. It has no state: frames come in any order, in any thread.

    The clips of the PyFilter are: 1 the source in the output's format and size, 2 its GRAY16 luma and 3 its colours at
    the network's size (see Pump; within borders larger, `FINE`), 4 the mask.
    """

    def __init__(
        self,
        grey: bool,
        device: torch.device,
        saturation: float = 1.0,
        masked: bool = False,
        guided: bool = True,
    ) -> None:
        """Prepare.

        Args:
            grey: whether the clip was GRAY, which has no tags of colour to keep.
            device: device of the tensors.
            saturation: factor of ab, 0 or above.
            masked: whether there is a mask, GRAY16 of full range and the source's size: 65535 keeps the source's own
                colours (neutral for GRAY), 0 takes the new ones, values between blend the samples.
            guided: whether colours are enlarged along the edges of luma; False: bilinearly, to the source's full size
                (clip 2, its GRAY16 luma, then has that size).
        """
        self._grey, self._device, self._saturation, self._masked = grey, device, saturation, masked
        self._guided = guided
        # One thread: a second one would only take a core from the network.
        self._lightness, self._worker = Lightness(device), TorchThread(1)
        # On a GPU it has a stream of its own: all its input comes from the host.
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._space = lru_cache(_SPACES)(ColorSpace)

    def __call__(self, n: int, nums: Any, clips: Any, frames: Any) -> dict[str, Any]:
        if clips == 0:
            need = [_SOURCE, _SMALL, _COLOURED, *[_MASK] * self._masked]
            return {"need": [n] * len(need), "need_clip": need}
        source, small, coloured, *mask = frames
        try:
            tags = read_tags(source)
            planes = self._worker(self._within_memory, source, small, coloured, mask, tags)
            frame = source.copy()
            if source.format.color_family == vs.YUV:
                self._tag(frame, tags)
            for plane, values in planes.items():
                np.copyto(np.asarray(frame[plane]), values)
            for name in REPORTED:
                frame.props.pop(name, None)  # set by an earlier filter
                if name in coloured.props:
                    frame.props[name] = coloured.props[name]
            return {"frame": frame}
        except Exception as error:
            return {"error": f"Colorize: frame {n}: clip: {first_line(error)}"}

    def _within_memory(self, *arguments: Any) -> dict[int, np.ndarray[Any, Any]]:
        """Compute `_planes`; on the CPU from the first time that the device's memory is exhausted."""
        try:
            with nullcontext() if self._stream is None else torch.cuda.stream(self._stream):
                return self._planes(*arguments)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            self._device, self._stream = torch.device("cpu"), None
            self._lightness = Lightness(self._device)
        return self._planes(*arguments)

    @torch.inference_mode()
    def _planes(
        self,
        source: vs.VideoFrame,
        small: vs.VideoFrame,
        coloured: vs.VideoFrame,
        mask: list[vs.VideoFrame],
        tags: Tags,
    ) -> dict[int, np.ndarray[Any, Any]]:
        """Compute the planes to write, in the numbers of the format."""
        space = self._space(tags.matrix, tags.transfer, tags.primaries, self._device)
        format, full_range = source.format, tags.full_range
        is_rgb = format.color_family == vs.RGB
        grid = Grid(1 << format.subsampling_w, 1 << format.subsampling_h, tags.chroma_location)
        luma = space.luma(torch.stack([self._read(source, i) for i in range(3)])) if is_rgb else self._read(source, 0)
        scale, zero = _scale(format, full_range, chroma=False)
        luma = luma.sub_(zero).div_(scale).clamp_(0.0, 1.0)
        fine = coloured.props.get(FINE)  # of a frame that is enlarged within its borders
        colours = coloured if fine is None else fine
        ratios = source.width / grid.factor_w / colours.width, source.height / grid.factor_h / colours.height
        finer = min(ratios) >= _FINER
        first, last = (grid, Grid()) if finer else (Grid(), grid)
        luma = subsample(luma[None, None], first)
        L = space.lightness(luma)
        ab = torch.stack([self._read(colours, i) for i in (1, 2)])[None].mul_(self._saturation)
        if self._guided:
            L_small = self._lightness(small) if fine is None else self._read(fine, 0)[None, None]
            ab = upsample_ab(ab, L_small, L, first)
        else:
            ab = F.interpolate(ab, L.shape[2:], mode="bilinear")
        if fine is not None:
            ab.mul_(_inside(fine, L))
        planes = [0, 1, 2] if is_rgb else [1, 2]
        scale, zero = _scale(format, full_range, chroma=not is_rgb)
        values = subsample((space.rgb if is_rgb else space.chroma)(luma, L, ab), last)[0].mul_(scale).add_(zero)
        if mask:
            own = torch.full_like(values, zero) if self._grey else torch.stack([self._read(source, i) for i in planes])
            share = subsample(self._read(mask[0], 0)[None, None], grid).div_(65535.0)
            values = torch.lerp(values, own, share[0])
        if format.sample_type == vs.INTEGER:
            values = values.round_().clamp_(0, (1 << format.bits_per_sample) - 1)
            values = values.to(torch.uint8 if format.bytes_per_sample == 1 else torch.uint16)
        return dict(zip(planes, values.cpu().numpy(), strict=True))

    def _read(self, frame: vs.VideoFrame, plane: int) -> Tensor:
        """Return a copy of a plane in its own numbers, (H, W) float32; NaN becomes 0, infinity 1."""
        values = upload(torch.from_numpy(np.array(frame[plane])), self._device).to(torch.float32)
        return values.nan_to_num_(0.0, 1.0, -1.0) if frame.format.sample_type == vs.FLOAT else values

    def _tag(self, frame: vs.VideoFrame, tags: Tags) -> None:
        """State the tags that U and V were made for, if the clip does not; all of them if the clip was GRAY."""
        frame.props["_Matrix"] = tags.matrix
        if self._grey:
            frame.props["_Range"] = int(tags.full_range)
            frame.props["_ChromaLocation"] = tags.chroma_location
            for name, value in (("_Transfer", tags.transfer), ("_Primaries", tags.primaries)):
                frame.props[name] = 1 if value == UNSPECIFIED else value


def _inside(fine: vs.VideoFrame, L: Tensor) -> Tensor:
    """Return how much of each sample of L (1, 1, H, W) lies within the borders of a frame, (H, W), 0..1."""
    top, bottom, left, right = listed(fine.props[AREA])
    rows, columns = (
        (torch.arange(count + 1, dtype=torch.float64).div_(count).clamp_(first, last).diff() * count).to(L)
        for first, last, count in ((top, bottom, L.shape[2]), (left, right, L.shape[3]))
    )
    return rows[:, None] * columns


def _scale(format: vs.VideoFormat, full_range: bool, chroma: bool) -> tuple[float, float]:
    """Return factor and offset of chroma (-0.5..0.5), or of luma, R, G and B (0..1), in that format."""
    if format.sample_type == vs.FLOAT:
        return 1.0, 0.0
    highest, step = (1 << format.bits_per_sample) - 1, 1 << (format.bits_per_sample - 8)
    if chroma:
        return highest if full_range else 224 * step, 128 * step
    return (highest, 0) if full_range else (219 * step, 16 * step)
