"""The full-size output: a frame of the source with new U and V (RGB: R, G and B), from colours at the network's size.

A step callable of exvc.PyFilter; it knows VapourSynth frames and color.py, and nothing of references, order or
networks. Y and the frame properties are the source's own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import vapoursynth as vs
from torch import Tensor

from vsexvc.color import chroma, luma_weights, subsample, upsample_ab
from vsexvc.pump import Lightness, Worker
from vsexvc.weights import first_line

UNSPECIFIED = 2  # of _Matrix, _Transfer and _Primaries
RGB_LUMA = 1  # the luma of RGB clips is BT.709's
# Frame properties that the pump sets and the output carries.
REPORTED = ("ExvcReference", "ExvcSimilarity", "ExvcSceneStart")


class Merge:
    """The step callable that writes the output: a copy of the source's frame with new U and V (RGB: R, G and B).

    Y and the frame properties are the source's own. Stateless: any order, any thread.
    """

    def __init__(self, grey: bool, device: torch.device) -> None:
        """grey: the clip was GRAY; its frames come as YUV 4:4:4 with Y in every plane."""
        self._grey, self._device = grey, device
        self._lightness, self._worker = Lightness(device), Worker()

    def __call__(self, n: int, nums: Any, clips: Any, frames: Any) -> dict[str, Any]:
        if clips == 0:
            return {"need": [n] * 4, "need_clip": [1, 2, 3, 4]}
        source, full, small, coloured = frames
        try:
            matrix = RGB_LUMA if source.format.color_family == vs.RGB else matrix_of(source)
            planes = self._worker(self._planes, source, full, small, coloured, matrix)
            frame = source.copy()
            if source.format.color_family == vs.YUV:
                self._tag(frame, matrix)
            for plane, values in planes.items():
                np.asarray(frame[plane])[:] = values
            for name in REPORTED:
                frame.props[name] = coloured.props[name]
            return {"frame": frame}
        except Exception as error:
            return {"error": f"Colorize: frame {n}: clip: {first_line(error)}"}

    @torch.inference_mode()
    def _planes(
        self, source: vs.VideoFrame, full: vs.VideoFrame, small: vs.VideoFrame, coloured: vs.VideoFrame, matrix: int
    ) -> dict[int, np.ndarray[Any, Any]]:
        """The planes to be written, in the numbers of the format, as float32."""
        if prop(source, "_FieldBased", 0):
            raise ValueError(f"must be progressive, got _FieldBased={prop(source, '_FieldBased')}")
        luma, L = self._lightness(full)
        ab = torch.stack([torch.from_numpy(np.array(coloured[plane])) for plane in (1, 2)])[None].to(self._device)
        ab = upsample_ab(ab, self._lightness(small)[1], L)
        uv = chroma(luma, L, ab, matrix, prop(source, "_Transfer"), prop(source, "_Primaries"))
        if source.format.color_family == vs.RGB:
            kr, kb = luma_weights(matrix)
            red, blue = luma + 2.0 * (1.0 - kr) * uv[:, 1:], luma + 2.0 * (1.0 - kb) * uv[:, :1]
            green = (luma - kr * red - kb * blue) / (1.0 - kr - kb)
            planes = {0: red, 1: green, 2: blue}
        else:
            factors = 1 << source.format.subsampling_w, 1 << source.format.subsampling_h
            uv = subsample(uv, *factors, prop(source, "_ChromaLocation", 0))
            planes = {1: uv[:, :1], 2: uv[:, 1:]}
        full_range = _is_full_range(source)
        return {i: _scaled(plane[0, 0], source.format, full_range).cpu().numpy() for i, plane in planes.items()}

    def _tag(self, frame: vs.VideoFrame, matrix: int) -> None:
        """States what U and V were made for, where the clip does not say; all of it where the clip was GRAY."""
        frame.props["_Matrix"] = matrix
        if self._grey:
            frame.props["_Range"] = int(vs.RANGE_FULL if _is_full_range(frame) else vs.RANGE_LIMITED)
            frame.props["_ChromaLocation"] = prop(frame, "_ChromaLocation", 0)
            for name in ("_Transfer", "_Primaries"):
                if prop(frame, name) == UNSPECIFIED:
                    frame.props[name] = 1


def _scaled(values: Tensor, format: vs.VideoFormat, full_range: bool) -> Tensor:
    """A plane of chroma (-0.5..0.5) or of R, G, B (0..1) in the numbers of the format. values: (H, W) float32."""
    if format.sample_type == vs.FLOAT:
        return values
    highest, step = (1 << format.bits_per_sample) - 1, 1 << (format.bits_per_sample - 8)
    if format.color_family == vs.RGB:
        scale, zero = (highest, 0) if full_range else (219 * step, 16 * step)
    else:
        scale, zero = highest if full_range else 224 * step, 128 * step
    return torch.round(values * scale + zero).clamp_(0, highest)


def _is_full_range(frame: vs.VideoFrame) -> bool:
    """_Range, or _ColorRange from before R74 (it counts the other way); untagged as zimg has it: only RGB is full."""
    if "_Range" not in frame.props and "_ColorRange" in frame.props:
        return prop(frame, "_ColorRange") == 0
    return bool(prop(frame, "_Range", int(frame.format.color_family == vs.RGB)))


def matrix_of(frame: vs.VideoFrame) -> int:
    """_Matrix; where it is not stated BT.709 for high definition and ST 170M (BT.601) below, as players have it."""
    matrix = prop(frame, "_Matrix")
    if matrix in (0, UNSPECIFIED):
        return int(vs.MATRIX_BT709 if frame.width > 1024 or frame.height > 576 else vs.MATRIX_ST170_M)
    return matrix


def prop(frame: vs.VideoFrame, name: str, default: int = UNSPECIFIED) -> int:
    value: Any = frame.props.get(name, default)
    return int(value)
