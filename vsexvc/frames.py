"""Read VapourSynth frames: their colour properties (tags), and their luma as a tensor.

Tags are read, checked, and given a default where a frame does not state them. Numbers are VapourSynth's (ITU-T H.273);
colour/spaces.py applies them to pixels.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
import vapoursynth as vs
from torch import Tensor

from vsexvc.colour.spaces import L_from_luma, check_space, is_srgb_transfer
from vsexvc.support.errors import first_line

UNSPECIFIED = 2  # value of _Matrix, _Transfer and _Primaries
RGB_LUMA = 1  # the luma of RGB pictures is BT.709's
_SRGB, _BT709 = int(vs.TRANSFER_IEC_61966_2_1), int(vs.PRIMARIES_BT709)
ERROR = "ExvcError"  # on a frame of `tagged`: the reason that it cannot be used
HANDLED = "8 to 16 bit integer, half or float, subsampled by at most 4"
_UNFIELDED = (
    "if only the flag is wrong, use std.SetFieldBased(0) or --interlaced ignore; else deinterlace it, for example with "
    "bwdif or --interlaced bwdif"
)
_NOT_FOR_RESIZE = ("_Field", "_FieldBased")


def is_handled(format: vs.VideoFormat) -> bool:
    """Return whether zimg and this package can read these samples: HANDLED."""
    fits: bool = format.sample_type == vs.FLOAT or format.bits_per_sample <= 16
    coarsest: int = max(format.subsampling_w, format.subsampling_h)
    return fits and coarsest <= 2


class Tags(NamedTuple):
    """Hold all tags, each stated. matrix: that of the picture's luma (of RGB: of the luma that is computed)."""

    matrix: int
    transfer: int
    primaries: int
    full_range: bool
    chroma_location: int


def read_tags(frame: vs.VideoFrame) -> Tags:
    """Read the tags of a frame; defaults are those of players and zimg.

    A matrix that is not stated is BT.709 for high definition and ST 170M (BT.601) below; a range that is not stated is
    limited, for RGB full. (VapourSynth itself turns `_ColorRange` into `_Range`.)

    Raises:
        ValueError: a property is no number, or its value is not supported.
    """
    rgb = frame.format.color_family == vs.RGB
    matrix = _number(frame, "_Matrix", UNSPECIFIED)
    if rgb:
        matrix = RGB_LUMA
    elif matrix in (0, UNSPECIFIED):
        matrix = int(vs.MATRIX_BT709 if frame.width > 1024 or frame.height > 576 else vs.MATRIX_ST170_M)
    transfer, primaries = (_number(frame, name, UNSPECIFIED) for name in ("_Transfer", "_Primaries"))
    check_space(matrix, transfer, primaries)
    full_range = _number(frame, "_Range", int(rgb), highest=1) == 1
    return Tags(matrix, transfer, primaries, full_range, _number(frame, "_ChromaLocation", 0, highest=5))


def _number(frame: vs.VideoFrame, name: str, default: int, highest: int | None = None) -> int:
    value: Any = frame.props.get(name, default)
    if not isinstance(value, int):
        raise ValueError(f"{name} must be one integer, got {value!r}")
    if highest is not None and not 0 <= value <= highest:
        raise ValueError(f"{name} must be 0..{highest}, got {value}")
    return int(value)


def tagged(clip: vs.VideoNode, progressive: bool) -> vs.VideoNode:
    """State all tags of a clip, so that zimg converts it without guesses or errors.

    A frame with unsupported tags gets supported ones and the property ERROR. The BT.709 family of transfers is stated
    as sRGB, as in colour/spaces.py.

    Args:
        clip: of constant or variable format and size.
        progressive: whether frames must be progressive; else `_FieldBased` is ignored.
    """

    def tag(n: int, f: vs.VideoFrame) -> vs.VideoFrame:
        try:
            if not is_handled(f.format):
                raise ValueError(f"must be of {HANDLED}, got {f.format.name}")
            if f.format.color_family == vs.GRAY and not progressive:
                raise ValueError(f"must be YUV or RGB: a grey picture has no colours to give, got {f.format.name}")
            if progressive and _number(f, "_FieldBased", 0):
                seen = f.props["_FieldBased"]
                raise ValueError(f"must be progressive, got _FieldBased={seen}: {_UNFIELDED}")
            tags, error = read_tags(f), None
        except ValueError as reason:
            tags, error = Tags(RGB_LUMA, UNSPECIFIED, UNSPECIFIED, False, 0), first_line(reason)
        # A frame that zimg cannot read is replaced by one with the error.
        frame = f.copy() if is_handled(f.format) else vs.core.create_video_frame(vs.RGB24, f.width, f.height)
        for name in (*_NOT_FOR_RESIZE, ERROR):
            if name in frame.props:
                del frame.props[name]
        if error is not None:
            frame.props[ERROR] = error
        frame.props["_Matrix"] = 0 if frame.format.color_family == vs.RGB else tags.matrix
        frame.props["_Transfer"] = _SRGB if is_srgb_transfer(tags.transfer) else tags.transfer
        frame.props["_Primaries"] = _BT709 if tags.primaries == UNSPECIFIED else tags.primaries
        frame.props["_Range"] = int(tags.full_range)
        frame.props["_ChromaLocation"] = tags.chroma_location
        return frame

    return clip.std.ModifyFrame(clip, tag)


class Lightness:
    """Convert GRAY16 frames of full range to L, by a table of 65,536 entries for each transfer."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self._device = device
        self._tables: dict[int, Tensor] = {}

    def __call__(self, frame: vs.VideoFrame) -> Tensor:
        """Return L as a copy, 0..100, (1, 1, H, W) float32. Raise ValueError for the transfer."""
        transfer = int(frame.props.get("_Transfer", 2))
        if transfer not in self._tables:
            luma = torch.arange(65536, dtype=torch.float32) / 65535.0
            self._tables[transfer] = L_from_luma(luma, transfer).to(self._device)
        index = torch.from_numpy(np.asarray(frame[0]).astype(np.int32)).to(self._device)
        return self._tables[transfer].index_select(0, index.flatten()).view(1, 1, *index.shape)


def luma(stated: vs.VideoNode, width: int | None = None, height: int | None = None) -> vs.VideoNode:
    """Return a tagged clip's luma as GRAY16 of full range."""
    if stated.format.color_family == vs.RGB:
        return stated.resize.Bicubic(width, height, format=vs.GRAY16, matrix=RGB_LUMA, range=vs.RANGE_FULL)
    grey = vs.core.std.ShufflePlanes(stated, 0, vs.GRAY)
    return grey.resize.Bicubic(width, height, format=vs.GRAY16, range=vs.RANGE_FULL)


def listed(value: Any) -> list[Any]:
    """Return a list: VapourSynth passes arrays of one element as the element."""
    return list(value) if isinstance(value, list | tuple) else [value]


def alpha_of(frame: vs.VideoFrame) -> Tensor | None:
    """Return the alpha of a frame at its size, (1, 1, H, W) 0..1; None without alpha, or if all is opaque."""
    plane: Any = frame.props.get("_Alpha")
    if not isinstance(plane, vs.VideoFrame):
        return None
    highest = 1.0 if plane.format.sample_type == vs.FLOAT else float((1 << plane.format.bits_per_sample) - 1)
    values = torch.from_numpy(np.asarray(plane[0]).astype(np.float32))[None, None] / highest
    values = values.nan_to_num(0.0).clamp(0.0, 1.0)
    if bool((values == 1.0).all()):
        return None
    size = frame.height, frame.width
    return values if values.shape[2:] == size else F.interpolate(values, size, mode="bilinear", antialias=True)
