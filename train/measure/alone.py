"""Colour single pictures: resized to the size of the clips, without a previous frame.

Axes: H = 216, W = 384, 3 = (R, G, B) or (L, a, b).
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from train.data.files import read_image
from train.measure.baselines import HEIGHT, WIDTH, Clip
from train.measure.protocol import warped_colour
from vsexvc.session import Reference, Session


def stretched(path: Path) -> tuple[Clip, tuple[int, int]]:
    """Read a picture as a clip of one frame, stretched to 384x216 by area as clips are.

    Returns:
        The clip, and the rows and columns of the file.

    Raises:
        OSError: the file cannot be read.
    """
    picture = read_image(path)
    small = cv2.resize(picture, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
    return Clip(path, np.asarray(small, np.uint8)[None]), (picture.shape[0], picture.shape[1])


@torch.inference_mode()
def colour_alone(session: Session, L: Tensor, reference: Reference) -> dict[str, Tensor]:
    """Colour one frame by a reference, without a previous frame.

    Args:
        session: of the network that is measured.
        L: (1, 1, H, W) float32, 0..100.
        reference: prepared by the same session.

    Returns:
        "warped colour" and "model": ab (1, 2, H, W) float32 on the CPU, -128..127.
    """
    (correspondence,) = session.correspond(L, reference)
    _, ab = session.step(session.start(None), correspondence)
    return {"warped colour": warped_colour(session.network, correspondence).float(), "model": ab.cpu().float()}
