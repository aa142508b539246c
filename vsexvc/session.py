"""Colour a clip recurrently (eq. 1). The caller keeps the state between frames. This module does not need VapourSynth.

    session = Session(weights.load())
    reference = session.reference(reference_lab)               once per reference
    for block in ...: aligned = session.correspond(L, reference)   batched: does not depend on the previous frame
    state = session.start(None)                                 or session.start(reference): propagation
    state, ab = session.step(state, aligned[i])                 frame by frame, in order
    state = session.remember(state, aligned[i], most)           now and then: the frame gives colours to later ones

A State holds copies and is never changed: a replay from a kept one has the same bytes.

The network sees pictures without their black borders: a reference without its own borders, and all frames of a scene
without those of the scene (`Session.area`), so that all its states have one size. The caller may enlarge frames so that
the area has the network's size (borders.Zoom).

Axes: B frames, H and W the picture inside the network, h = H/4 and w = W/4; A and Z the area within its borders.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from vsexvc.backends.transfer import upload
from vsexvc.borders import Area, picture_area, whole
from vsexvc.colour.lab import centred
from vsexvc.nets.config import CELL
from vsexvc.nets.correspondence import Embedding
from vsexvc.nets.meaning import MEANING_CELL
from vsexvc.nets.network import MULTIPLE, ColorizationNet, Keys, Match, whole_cells

# L below which the colours shown fade to neutral, except with the released head: black has no tint. Down to 2 the
# network's ab are as large as the true ones (train/RUNS.md, *Dark pixels*).
_DARK = 2.0
_SURE = 0.8  # similarity from which a cell of a remembered frame lends its colour
REMEMBERED = 0.05  # cosine by which a remembered frame must be ahead of a reference: its colours are no more than found


@dataclass(frozen=True)
class Reference:
    """Hold a picture that gives colours.

    Attributes:
        picture: (1, 3, H', W') with centred L, the whole reference.
        area: rows and columns within its black borders.
        lab: (1, 3, A, Z), the area, padded.
        phi: of lab.
        keys: positions that frames are matched with, without transparent ones.
        is_partial: whether parts are transparent.
    """

    picture: Tensor
    area: Area
    lab: Tensor
    phi: Tensor
    keys: Keys
    is_partial: bool = False


@dataclass(frozen=True)
class Correspondence:
    """Hold a frame aligned with a reference: L (1, 1, H, W) 0..100, warped_ab (1, 2, H, W), similarity (1, 1, H, W).

    `area`: rows and columns within black borders; warped_ab and similarity are 0 outside. L_centred and `match` are
    the colour net's input: (1, C, A, Z), padded; motion is found by `embedding`.
    """

    L: Tensor
    warped_ab: Tensor
    similarity: Tensor
    area: Area
    L_centred: Tensor
    match: Match
    embedding: Embedding


@dataclass(frozen=True)
class State:
    """Hold the previous frame: lab (1, 3, A, Z) with centred L, padded, and its phi; None if there is none.

    `memory`: keys of earlier frames of the scene, the latest last, see `Session.remember`.
    """

    prev_lab: Tensor | None
    prev_phi: Tensor | None
    memory: tuple[Keys, ...] = ()


def network_size(width: int, height: int, shorter: int = 216) -> tuple[int, int]:
    """Return (H, W) of a picture inside the network: its aspect, the shorter side `shorter` (216: the networks' own).

    At least one multiple of the network on each side, at most 8 times as long as wide.
    """
    scale = shorter / min(width, height)
    longest = 8 * shorter
    return min(longest, max(MULTIPLE, round(height * scale))), min(longest, max(MULTIPLE, round(width * scale)))


class Session:
    """Call the parts of a network in order. It holds no state of a clip.

    If the device's memory does not suffice, it computes frames one at a time and the correlation in smaller parts from
    then on. If that fails too, every method raises MemoryError.
    """

    def __init__(self, network: ColorizationNet, borders: bool = True) -> None:
        """Prepare. borders: whether black borders of frames and references are ignored; False: they are picture."""
        self.network = network.eval()
        self._borders = borders
        self.device = next(network.parameters()).device
        self._sparing = False

    def area(self, L: Tensor) -> Area:
        """Return rows and columns of the picture within the black borders that all frames share. L: (B, 1, H, W)."""
        return picture_area(L) if self._borders else whole(L)

    @torch.inference_mode()
    def reference(self, lab: Tensor, alpha: Tensor | None = None) -> Reference:
        """Prepare a picture that gives colours.

        Args:
            lab: (1, 3, H', W') float32, L 0..100; any size from 16 x 16.
            alpha: (1, 1, H', W'), 0..1: pixels that are less than half opaque give no colours. None: all are opaque.

        Raises:
            ValueError: nothing within its borders is opaque.
        """
        area = self.area(lab[:, :1])
        picture = centred(lab.to(self.device))
        inside = _padded(picture[:, :, *area])
        usable = None
        if alpha is not None:
            usable = _padded((alpha[:, :, *area] >= 0.5).to(self.device, torch.float32))[0, 0] == 1.0
            if not bool(whole_cells(usable, CELL).any()):
                raise ValueError("ref: must show something within its borders, it is transparent everywhere")

        def work() -> Reference:
            phi = self.network.embed(inside, is_reference=True).phi
            keys = self.network.keys(inside, phi, self.network.understand(inside[:, :1]), usable)
            return Reference(picture, area, inside, phi, keys, is_partial=alpha is not None)

        return self._within_memory(work)

    @torch.inference_mode()
    def correspond(
        self,
        L: Tensor,
        references: Reference | Sequence[Reference],
        area: Area | None = None,
        handicaps: Tensor | None = None,
        state: State | None = None,
    ) -> list[Correspondence]:
        """Compute eq. 6 for several frames at once.

        Args:
            L: (B, 1, H, W) float32, 0..100.
            references: one or several; each position takes the colours of one of them (nets/choice.py).
            area: the scene's picture within its borders; None: that of these frames.
            handicaps: (B, R), of each reference at each frame, see nets/choice.py; None: zeros.
            state: the frames that it remembers give colours too, after all references. None: there are none.
        """
        area = self.area(L) if area is None else area
        references = (references,) if isinstance(references, Reference) else references
        keys = [reference.keys for reference in references]
        handicaps = torch.zeros(len(L), len(keys)) if handicaps is None else handicaps
        if state is not None and state.memory:
            keys += state.memory
            handicaps = F.pad(handicaps, (0, len(state.memory)), value=REMEMBERED)
        return self._within_memory(lambda: self._correspond(L, keys, area, handicaps.to(self.device)))

    def _correspond(self, L: Tensor, keys: Sequence[Keys], area: Area, handicaps: Tensor) -> list[Correspondence]:
        if self._sparing and len(L) > 1:
            each = [slice(i, i + 1) for i in range(len(L))]
            return [one for i in each for one in self._correspond(L[i], keys, area, handicaps[i])]
        L_centred = _padded(upload(L[:, :, *area], self.device) - 50.0)
        network = self.network
        theta, phi = network.embed(F.pad(L_centred, (0, 0, 0, 0, 0, 2)))
        match = network.match(L_centred, theta, network.understand(L_centred), keys, handicaps, sparing=self._sparing)
        results = []
        for i in range(len(L)):
            one = Match(*(x[i : i + 1].clone() for x in match))
            results.append(
                Correspondence(
                    L=L[i : i + 1].to(self.device, copy=True),
                    warped_ab=_placed(one.warped_ab, area, L),
                    similarity=_placed(one.similarity, area, L),
                    area=area,
                    L_centred=L_centred[i : i + 1].clone(),
                    match=one,
                    embedding=Embedding(theta[i : i + 1].clone(), phi[i : i + 1].clone()),
                )
            )
        return results

    @torch.inference_mode()
    def start(self, reference: Reference | None = None, area: Area | None = None) -> State:
        """Return the state before frame 0: none, or the reference as the previous frame (section 1, propagation).

        Args:
            reference: for propagation.
            area: of the scene. The reference is cropped to it if its own area lies inside, else resized. None: the
                reference must have the frames' size, or `step` raises ValueError.

        A reference that is transparent in parts gives no previous frame.
        """
        if reference is None or reference.is_partial:
            return State(None, None)
        if area is None or _size(area) == _size(reference.area):
            return State(reference.lab, reference.phi)
        if _is_within(reference.area, area, reference.picture):
            lab = reference.picture[:, :, *area]
        else:
            own = reference.picture[:, :, *reference.area]
            lab = F.interpolate(own, _size(area), mode="bilinear", antialias=True)
        lab = _padded(lab)
        return State(lab, self._within_memory(lambda: self.network.embed(lab, is_reference=True).phi))

    @torch.inference_mode()
    def step(self, state: State, correspondence: Correspondence) -> tuple[State, Tensor]:
        """Compute eq. 7: (the state after this frame, its ab (1, 2, H, W) on the network's device).

        With head "blend" ab fades to 0 in black; the state keeps what the network has found.
        """
        return self._within_memory(lambda: self._step(state, correspondence))

    def _step(self, state: State, correspondence: Correspondence) -> tuple[State, Tensor]:
        L_centred = correspondence.L_centred
        theta, phi = correspondence.embedding
        has_previous = state.prev_lab is not None
        if state.prev_lab is None or state.prev_phi is None:
            prev_lab = torch.zeros_like(L_centred).expand(-1, 3, -1, -1)
        elif state.prev_lab.shape[2:] != L_centred.shape[2:]:
            raise ValueError(
                f"step: the previous frame must be {tuple(L_centred.shape[2:])} inside the network, "
                f"got {tuple(state.prev_lab.shape[2:])}"
            )
        else:
            prev_lab = self.network.align(theta, state.prev_phi, state.prev_lab, L_centred)
        flag = torch.full((1, 1, 1, 1), float(has_previous), device=self.device)
        ab = self.network.colorize(L_centred, correspondence.match, prev_lab, flag)
        shown = _placed(ab, correspondence.area, correspondence.L)
        if self.network.config.head == "blend":
            shown.mul_((correspondence.L / _DARK).clamp_(0.0, 1.0))
        return State(torch.cat((L_centred, ab), dim=1), phi, state.memory), shown

    @torch.inference_mode()
    def remember(self, state: State, correspondence: Correspondence, most: int) -> State:
        """Return the state with its frame among those that give colours to later ones.

        Only cells that found a sure match lend theirs. A frame without any is not remembered.

        Args:
            state: after `step`.
            correspondence: of the same frame.
            most: frames that are remembered; the oldest is dropped.
        """
        lab, phi = state.prev_lab, state.prev_phi
        assert lab is not None and phi is not None
        sure = correspondence.match.similarity[0, 0] >= _SURE
        if not bool(whole_cells(sure, MEANING_CELL).any()):
            return state

        def work() -> Keys:
            return self.network.keys(lab, phi, self.network.understand(lab[:, :1]), sure)

        return State(lab, phi, (*state.memory, self._within_memory(work))[-most:])

    def _within_memory[T](self, work: Callable[[], T]) -> T:
        """Return the work's result; if the device's memory is exhausted, try once more in sparing mode."""
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


def _padded(x: Tensor) -> Tensor:
    """Reflect on both sides up to the network's multiple; repeat if a side is too short."""
    h, w = x.shape[2:]
    top, left = _margins(h, w)
    margins = (left, -w % MULTIPLE - left, top, -h % MULTIPLE - top)
    mode = "reflect" if max(margins[:2]) < w and max(margins[2:]) < h else "replicate"
    return F.pad(x, margins, mode=mode) if any(margins) else x


def _placed(x: Tensor, area: Area, frame: Tensor) -> Tensor:
    """Place a padded area back in a whole frame, 0 outside. A copy. x: (1, C, A, Z); frame: (B, 1, H, W)."""
    h, w = _size(area)
    top, left = _margins(h, w)
    result = x.new_zeros((*x.shape[:2], *frame.shape[2:]))
    result[:, :, *area] = x[:, :, top : top + h, left : left + w]
    return result


def _size(area: Area) -> tuple[int, int]:
    rows, columns = area
    return rows.stop - rows.start, columns.stop - columns.start


def _is_within(own: Area, other: Area, picture: Tensor) -> bool:
    """Return whether one area is part of another, and both of a picture (1, C, H, W)."""
    sides = zip(own, other, picture.shape[2:], strict=True)
    return all(b.start <= a.start and a.stop <= b.stop <= size for a, b, size in sides)
