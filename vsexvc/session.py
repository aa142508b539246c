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

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from vsexvc.network import MULTIPLE, ColorizationNet, Embedding


@dataclass(frozen=True)
class Reference:
    """A picture that gives colours: lab (1, 3, H', W') with centred L, padded, and its phi."""

    lab: Tensor
    phi: Tensor


@dataclass(frozen=True)
class Correspondence:
    """One frame aligned with a reference: L (1, 1, H, W) 0..100, warped_ab (1, 2, H, W), similarity (1, 1, H, W) -1..1.

    `padded` is what the colour net sees (L_centred, warped_ab, similarity: 4 channels); motion is found by `embedding`.
    """

    L: Tensor
    warped_ab: Tensor
    similarity: Tensor
    padded: Tensor
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


class Session:
    """A network and the order in which its parts are called. Holds no state of any clip; any thread may call."""

    def __init__(self, network: ColorizationNet) -> None:
        self.network = network.eval()
        self.device = next(network.parameters()).device

    @torch.inference_mode()
    def reference(self, lab: Tensor) -> Reference:
        """lab: (1, 3, H', W') float32, L 0..100; any size from 2 x 2."""
        lab = _padded(lab.to(self.device) - lab.new_tensor((50.0, 0.0, 0.0)).view(1, 3, 1, 1).to(self.device))
        return Reference(lab, self.network.embed(lab, is_reference=True).phi)

    @torch.inference_mode()
    def correspond(self, L: Tensor, reference: Reference) -> list[Correspondence]:
        """Eq. 6 for several frames at once. L: (B, 1, H, W) float32, 0..100."""
        h, w = L.shape[2:]
        L_centred = _padded(L.to(self.device) - 50.0)
        theta, phi = self.network.embed(F.pad(L_centred, (0, 0, 0, 0, 0, 2)))
        warped_ab, similarity = self.network.correlate(theta, phi=reference.phi, ab=reference.lab[:, 1:])
        padded = torch.cat((L_centred, warped_ab, similarity), dim=1)
        results = []
        for i in range(len(L)):
            one = padded[i : i + 1].clone()
            top, left = _margins(h, w)
            crop = one[:, :, top : top + h, left : left + w]
            results.append(
                Correspondence(
                    L=L[i : i + 1].to(self.device, copy=True),
                    warped_ab=crop[:, 1:3].clone(),
                    similarity=crop[:, 3:].clone(),
                    padded=one,
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
        padded = correspondence.padded
        L_centred, warped_ab, similarity = padded[:, :1], padded[:, 1:3], padded[:, 3:]
        theta, phi = correspondence.embedding
        if state.prev_lab is None or state.prev_phi is None:
            prev_lab = torch.zeros_like(L_centred).expand(-1, 3, -1, -1)
        elif state.prev_lab.shape[2:] != L_centred.shape[2:]:
            raise ValueError(
                f"step: the previous frame must be {tuple(L_centred.shape[2:])} inside the network, "
                f"got {tuple(state.prev_lab.shape[2:])}"
            )
        else:
            prev_lab = self.network.align(theta, state.prev_phi, state.prev_lab)
        ab = self.network.colorize(L_centred, warped_ab, similarity, prev_lab)
        h, w = correspondence.L.shape[2:]
        top, left = _margins(h, w)
        return State(torch.cat((L_centred, ab), dim=1), phi), ab[:, :, top : top + h, left : left + w].clone()


def _margins(h: int, w: int) -> tuple[int, int]:
    return (-h % MULTIPLE) // 2, (-w % MULTIPLE) // 2


def _padded(x: Tensor) -> Tensor:
    """Reflected on both sides up to the network's multiple; where a side is too short to reflect, repeated."""
    h, w = x.shape[2:]
    top, left = _margins(h, w)
    margins = (left, -w % MULTIPLE - left, top, -h % MULTIPLE - top)
    mode = "reflect" if max(margins[:2]) < w and max(margins[2:]) < h else "replicate"
    return F.pad(x, margins, mode=mode) if any(margins) else x
