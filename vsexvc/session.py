"""The recurrent colorizer: what eq. 1 needs to know from frame to frame, as values passed in and out. No VapourSynth.

    session = Session(weights.load())
    reference = session.reference(reference_lab)               once per reference
    for block in ...: aligned = session.correspond(L, reference)   batched: does not depend on the previous frame
    state = session.start(None)                                 or session.start(reference): propagation
    state, ab = session.step(state, aligned[i])                 frame by frame, in order

A State is never changed, and holds copies: whoever keeps one can replay from it and gets the same bytes.

Axes: B frames, H and W the picture inside the network, h = H/4 and w = W/4.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from vsexvc.backends.transfer import upload
from vsexvc.colour.lab import centred
from vsexvc.nets.correspondence import Embedding
from vsexvc.nets.network import MULTIPLE, ColorizationNet, Keys, Match

_BLACK = 3.0  # L up to which a row or column of the network's size counts as border: 8-bit Y of about 24


@dataclass(frozen=True)
class Reference:
    """A picture that gives colours: lab (1, 3, H', W') with centred L, padded, and its phi.

    keys: the part of it that frames are matched with: not its black borders.
    """

    lab: Tensor
    phi: Tensor
    keys: Keys


@dataclass(frozen=True)
class Correspondence:
    """One frame aligned with a reference: L (1, 1, H, W) 0..100, warped_ab (1, 2, H, W), similarity (1, 1, H, W) -1..1.

    L_centred and `match` are what the colour net sees, padded; motion is found by `embedding`.
    `inside` is 1 within the black borders and 0 on them (1, 1, H, W), padded, where warped_ab and similarity are 0 too.
    """

    L: Tensor
    warped_ab: Tensor
    similarity: Tensor
    L_centred: Tensor
    match: Match
    inside: Tensor
    embedding: Embedding


@dataclass(frozen=True)
class State:
    """The previous frame: lab (1, 3, H, W) with centred L, padded, and its phi; None where nothing came before."""

    prev_lab: Tensor | None
    prev_phi: Tensor | None


def network_size(width: int, height: int, shorter: int = 216) -> tuple[int, int]:
    """(H, W) of a picture inside the network: its aspect, the shorter side `shorter` (216: the networks' own).

    At least one multiple of the network on each side, at most 8 times as long as wide.
    """
    scale = shorter / min(width, height)
    longest = 8 * shorter
    return min(longest, max(MULTIPLE, round(height * scale))), min(longest, max(MULTIPLE, round(width * scale)))


def picture_area(L: Tensor) -> tuple[slice, slice]:
    """Rows and columns of a picture within its black borders. L: (1, 1, H, W), 0..100.

    All of it where less than a quarter would remain: that is a dark picture.
    """
    height, width = L.shape[2:]
    bright = L[0, 0] > _BLACK
    rows, columns = (bright.any(axis).nonzero().flatten() for axis in (1, 0))
    if not len(rows):
        return _whole(L)
    (top, bottom), (left, right) = ((int(lines[0]), int(lines[-1]) + 1) for lines in (rows, columns))
    if 4 * (bottom - top) * (right - left) < height * width:
        return _whole(L)
    return slice(top, bottom), slice(left, right)


def _whole(L: Tensor) -> tuple[slice, slice]:
    return slice(0, L.shape[2]), slice(0, L.shape[3])


class Session:
    """A network and the order in which its parts are called. Holds no state of any clip.

    Where the device's memory does not suffice, frames go one at a time and the correlation in smaller parts from then
    on; where that fails too, every method raises MemoryError.
    """

    def __init__(self, network: ColorizationNet, borders: bool = True) -> None:
        """`borders`: black borders take no part, in frames and references; False: they are picture, as released."""
        self.network = network.eval()
        self._picture_area = picture_area if borders else _whole
        self.device = next(network.parameters()).device
        self._sparing = False

    @torch.inference_mode()
    def reference(self, lab: Tensor) -> Reference:
        """lab: (1, 3, H', W') float32, L 0..100; any size from 16 x 16."""
        height, width = lab.shape[2:]
        area = self._picture_area(lab[:, :1])
        lab = _padded(centred(lab.to(self.device)))
        usable = torch.zeros((1, 1, height, width), device=self.device)
        usable[:, :, *area] = 1.0
        usable = _padded(usable, may_reflect=False)[0, 0] == 1.0

        def work() -> Reference:
            phi = self.network.embed(lab, is_reference=True).phi
            return Reference(lab, phi, self.network.keys(lab, phi, self.network.understand(lab[:, :1]), usable))

        return self._within_memory(work)

    @torch.inference_mode()
    def correspond(self, L: Tensor, reference: Reference) -> list[Correspondence]:
        """Eq. 6 for several frames at once. L: (B, 1, H, W) float32, 0..100."""
        return self._within_memory(lambda: self._correspond(L, reference))

    def _correspond(self, L: Tensor, reference: Reference) -> list[Correspondence]:
        if self._sparing and len(L) > 1:
            return [one for i in range(len(L)) for one in self._correspond(L[i : i + 1], reference)]
        h, w = L.shape[2:]
        L_centred = _padded(upload(L, self.device) - 50.0)
        network = self.network
        theta, phi = network.embed(F.pad(L_centred, (0, 0, 0, 0, 0, 2)))
        match = network.match(L_centred, theta, network.understand(L_centred), reference.keys, sparing=self._sparing)
        top, left = _margins(h, w)
        results = []
        for i in range(len(L)):
            rows, columns = self._picture_area(L[i : i + 1])
            inside = torch.zeros((1, 1, h, w), device=self.device)
            inside[:, :, rows, columns] = 1.0
            inside = _padded(inside, may_reflect=False)
            one = Match(*(x[i : i + 1] * inside for x in match))
            warped_ab, similarity = (x[:, :, top : top + h, left : left + w].clone() for x in one[:2])
            results.append(
                Correspondence(
                    L=L[i : i + 1].to(self.device, copy=True),
                    warped_ab=warped_ab,
                    similarity=similarity,
                    L_centred=L_centred[i : i + 1].clone(),
                    match=one,
                    inside=inside,
                    embedding=Embedding(theta[i : i + 1].clone(), phi[i : i + 1].clone()),
                )
            )
        return results

    @torch.inference_mode()
    def start(self, reference: Reference | None = None) -> State:
        """Before the first frame: nothing, or the reference as if it were the frame before (section 1, propagation).

        For propagation the reference must have the frames' size; `step` raises ValueError where it has not.
        """
        return State(None, None) if reference is None else State(reference.lab, reference.phi)

    @torch.inference_mode()
    def step(self, state: State, correspondence: Correspondence) -> tuple[State, Tensor]:
        """Eq. 7: (the state after this frame, its ab (1, 2, H, W) on the network's device)."""
        return self._within_memory(lambda: self._step(state, correspondence))

    def _step(self, state: State, correspondence: Correspondence) -> tuple[State, Tensor]:
        L_centred = correspondence.L_centred
        theta, phi = correspondence.embedding
        if state.prev_lab is None or state.prev_phi is None:
            prev_lab = torch.zeros_like(L_centred).expand(-1, 3, -1, -1)
        elif state.prev_lab.shape[2:] != L_centred.shape[2:]:
            raise ValueError(
                f"step: the previous frame must be {tuple(L_centred.shape[2:])} inside the network, "
                f"got {tuple(state.prev_lab.shape[2:])}"
            )
        else:
            prev_lab = self.network.align(theta, state.prev_phi, state.prev_lab, L_centred)
        ab = self.network.colorize(L_centred, correspondence.match, prev_lab)
        h, w = correspondence.L.shape[2:]
        top, left = _margins(h, w)
        # What is dark for a while (a fade) looks like a border: the state remembers its colours.
        shown = (ab * correspondence.inside)[:, :, top : top + h, left : left + w].contiguous()
        return State(torch.cat((L_centred, ab), dim=1), phi), shown

    def _within_memory[T](self, work: Callable[[], T]) -> T:
        """The work's result; where the device's memory is full, tried once more in sparing mode."""
        try:
            return work()
        except torch.OutOfMemoryError:
            self._sparing = True
        torch.cuda.empty_cache()
        try:
            return work()
        except torch.OutOfMemoryError:
            raise MemoryError(
                f"the memory of {self.device} is full, one frame at a time too: lower size, or use device='cpu'"
            ) from None


def _margins(h: int, w: int) -> tuple[int, int]:
    return (-h % MULTIPLE) // 2, (-w % MULTIPLE) // 2


def _padded(x: Tensor, may_reflect: bool = True) -> Tensor:
    """Reflected on both sides up to the network's multiple; where a side is too short, or it may not be, repeated."""
    h, w = x.shape[2:]
    top, left = _margins(h, w)
    margins = (left, -w % MULTIPLE - left, top, -h % MULTIPLE - top)
    mode = "reflect" if may_reflect and max(margins[:2]) < w and max(margins[2:]) < h else "replicate"
    return F.pad(x, margins, mode=mode) if any(margins) else x
