"""Compute one frame: the network's parts in the order in which session.py calls them; no memory between frames.

Feature net -> correspondence net -> correlation -> colour net, as the paper has them (Appendix A). With semantic
features, a second correlation matches by meaning, and a net weighs the results of both (trust.py). The caller keeps the
previous frame: see session.py. This module does not depend on VapourSynth, files or devices.

Axes: B batch, H and W the network's size (multiples of 8), h = H/4 and w = W/4 the size of the correspondence,
C embedding channels, N positions. L_centred is L-50 (-50..50); ab -128..127; lab stands for (L_centred, a, b).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vsexvc.nets.choice import CONTRADICTION, Choice, Found, choose, of_taken
from vsexvc.nets.color import ColorNet
from vsexvc.nets.config import CELL, NetworkConfig
from vsexvc.nets.correlation import Correlation
from vsexvc.nets.correspondence import CorrespondenceNet, Embedding, unit_vectors
from vsexvc.nets.features import FeatureNet, feature_input, grey_rgb
from vsexvc.nets.meaning import MEANING_CELL, Meaning, MeaningNet
from vsexvc.nets.motion import Motion
from vsexvc.nets.places import pixels_at, places, without
from vsexvc.nets.trust import Trust

_BESIDE = 32  # channels of a semantic vector beside the details: its first principal components; all give the same dB
_SURELY = 0.3  # share of the reference's own pixels in the result, where they are sure; the colour net has the rest
MULTIPLE = 8  # the colour net halves its input three times; relu5_2 is padded where 16 does not divide


class Keys(NamedTuple):
    """Hold the positions of one or more references that frames are matched with, in rows.

    Attributes:
        phi: (1, C, N), unit vectors, with weighted semantic vectors appended (`with_meaning`).
        lab: (1, 3, N): L_centred and ab of each.
        half_phi: (1, C, N'), phi at half its size.
        half_lab: (1, 3, N').
        vectors: (1, C', N') semantic unit vectors, at that size too; None where the network has none.
        places: (1, 3, N), see nets/places.py; None where colours are not taken from the reference's pixels.
        pixels: (1, 3, H', W'): L_centred and ab of the whole reference, see nets/places.py.
    """

    phi: Tensor
    lab: Tensor
    half_phi: Tensor
    half_lab: Tensor
    vectors: Tensor | None = None
    places: Tensor | None = None
    pixels: Tensor | None = None


class Match(NamedTuple):
    """Hold the match of a frame in its references.

    Attributes:
        warped_ab: (B, 2, H, W).
        similarity: (B, 1, H, W), -1..1.
        evidence: (B, C, H, W): of Trust, where the network has one; then how much was taken from the reference's own
            pixels, 0..1, where the network does so. C is 0 to EVIDENCE + 1.
        taken: (B, R, h, w), 1 where a position takes its colour from that one of R references, else 0.
        seen: (B, SEEN or 0, H/8, W/8): the frame's meaning for the colour net.
        contested: (B, 1, h, w), 1 where references contradict each other, else 0, see nets/choice.py.
    """

    warped_ab: Tensor
    similarity: Tensor
    evidence: Tensor
    taken: Tensor
    seen: Tensor
    contested: Tensor


class ColorizationNet(nn.Module):
    """Compute the network of one frame, in the order in which session.py calls its methods.

    For a reference: embed, understand, keys. For each frame: embed, understand, match, align, colorize.
    """

    def __init__(self, config: NetworkConfig, batch_norm: bool = False) -> None:
        super().__init__()
        self.config = config
        self.features = FeatureNet(config, batch_norm)
        self.correspondence = CorrespondenceNet(config)
        weight = config.semantic_weight if config.semantic else 0.0
        self.correlation = Correlation(config.temperature, 1.0 + weight)
        self.motion = Motion(config)
        self.color = ColorNet(config)
        if config.semantic:
            self.meaning = MeaningNet(config.semantic)
            self.trust = Trust()
            self.semantic_correlation = Correlation(config.semantic_temperature)

    def embed(self, lab: Tensor, is_reference: bool = False) -> Embedding:
        """Compute the embedding. lab: (B, 3, H, W); only the "upstream" input of a reference uses its ab."""
        x = feature_input(lab, self.config.features_input, is_reference)
        return Embedding(*self.correspondence(self.features(x)))

    def understand(self, L_centred: Tensor) -> Meaning | None:
        """Compute the meaning. L_centred: (B, 1, H, W). None if the config has no semantic features."""
        if not self.config.semantic:
            return None
        return Meaning(*self.meaning(grey_rgb(L_centred)))

    def keys(self, lab: Tensor, phi: Tensor, meaning: Meaning | None, usable: Tensor | None = None) -> Keys:
        """Return the keys that frames are matched with.

        Args:
            lab: (B, 3, H, W), L_centred and ab, of a reference (or of several samples, in training).
            phi: (B, C, h, w) of the reference.
            meaning: of the reference.
            usable: (H, W) bool, of a single reference. Cells with any False pixel give no colour, unless all cells have
                one.
        """
        from_pixels = self.config.warp_upsampling == "reference"

        def cells(x: Tensor, cell: int = CELL) -> Tensor:
            return _usable(x.flatten(2), usable, cell)

        return Keys(
            phi=cells(self.with_meaning(phi, meaning)),
            lab=cells(F.avg_pool2d(lab, CELL)),
            half_phi=cells(self._half(phi, meaning), 2 * CELL),
            half_lab=cells(F.avg_pool2d(lab, 2 * CELL), 2 * CELL),
            vectors=None if meaning is None else cells(meaning.vectors, MEANING_CELL),
            places=cells(places(phi.shape[2], phi.shape[3], phi.device)) if from_pixels else None,
            pixels=without(lab, usable) if from_pixels else None,
        )

    def match(
        self,
        L_centred: Tensor,
        theta: Tensor,
        meaning: Meaning | None,
        keys: Sequence[Keys],
        handicaps: Tensor | None = None,
        sparing: bool = False,
    ) -> Match:
        """Match by eq. 3-5, by details and by meaning; choose the reference of each position and weigh both matches.

        Args:
            L_centred: (B, 1, H, W) of the frame.
            theta: (B, C, h, w) of the frame.
            meaning: of the frame.
            keys: of each reference.
            handicaps: (B, R) of the references, see nets/choice.py; None: zeros.
            sparing: compute in smaller parts, which take less memory.
        """
        by_meaning = [] if meaning is None else [self._by_meaning(meaning, one, sparing) for one in keys]
        chosen = self._choose(theta, meaning, by_meaning, keys, handicaps, sparing)
        taken, contested = (F.interpolate(x, scale_factor=2) for x in chosen)
        detail, place = self._by_detail(self.with_meaning(theta, meaning), taken, keys, sparing)
        small = detail
        if meaning is not None:
            grey, of_kind = F.avg_pool2d(L_centred, CELL), of_taken(torch.stack(by_meaning, dim=1), chosen.taken)
            small = torch.cat(self.trust(grey, detail, _finer(of_kind), _finer(meaning.guess)), dim=1)
        mode = "nearest" if self.config.warp_upsampling == "nearest" else "bilinear"
        large = F.interpolate(small, scale_factor=CELL, mode=mode)
        warped_ab, similarity, evidence = large[:, :2], large[:, 2:3], large[:, 3:]
        if place is not None:
            by_detail = 1.0 - evidence[:, :2].sum(1, keepdim=True)  # of Trust; without it there are no channels
            cells = F.interpolate(detail[:, -3:-1], scale_factor=CELL, mode=mode)
            pixels, sure = self._pixels(place, taken, L_centred, keys)
            share = by_detail * sure
            warped_ab = warped_ab + share * (pixels - cells)
            evidence = torch.cat((evidence, share), dim=1)
        seen = meaning.seen() if meaning is not None and self.config.semantic_color else small[:, :0]
        return Match(warped_ab, similarity, evidence, taken, seen, contested)

    def _pixels(self, place: Tensor, taken: Tensor, L_centred: Tensor, keys: Sequence[Keys]) -> tuple[Tensor, Tensor]:
        """Return ab (B, 2, H, W) of the pixels of each position's reference, and how sure each is (B, 1, H, W)."""
        ab, sure = torch.zeros_like(L_centred).expand(-1, 2, -1, -1), torch.zeros_like(L_centred)
        for i, one in enumerate(keys):
            if len(keys) > 1 and not taken[:, i].any():
                continue
            assert one.pixels is not None
            its_ab, its_sure = pixels_at(place, L_centred, one.pixels)
            is_taken = F.interpolate(taken[:, i : i + 1], scale_factor=CELL)
            ab, sure = ab + is_taken * its_ab, sure + is_taken * its_sure
        return ab, sure

    def _choose(
        self,
        theta: Tensor,
        meaning: Meaning | None,
        by_meaning: Sequence[Tensor],
        keys: Sequence[Keys],
        handicaps: Tensor | None,
        sparing: bool,
    ) -> Choice:
        """Choose the reference of each position, at half the size of theta.

        by_meaning: of each reference; empty without semantic features.
        """
        b, _, h, w = theta.shape
        if len(keys) == 1:
            return Choice(theta.new_ones(b, 1, h // 2, w // 2), theta.new_zeros(b, 1, h // 2, w // 2))
        queries, found = self._half(theta, meaning).flatten(2), []
        for r, one in enumerate(keys):
            detail = self._detail(queries, one.half_phi, self._lent(one.half_lab), sparing).view(b, -1, h // 2, w // 2)
            found.append(Found(detail, by_meaning[r] if by_meaning else None))
        return choose(found, handicaps)

    def _by_meaning(self, meaning: Meaning, keys: Keys, sparing: bool) -> Tensor:
        """Match in one reference by meaning alone: L_centred, a, b and similarity, (B, 4, h/2, w/2)."""
        assert keys.vectors is not None
        found = self.semantic_correlation(meaning.vectors.flatten(2), keys.vectors, keys.half_lab, sparing)
        return torch.cat(found, dim=1).view(len(meaning.vectors), 4, *meaning.vectors.shape[2:])

    def _by_detail(
        self, queries: Tensor, taken: Tensor, keys: Sequence[Keys], sparing: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Match each position in the reference that it takes.

        Args:
            queries: (B, C, h, w), theta `with_meaning`.
            taken: (B, R, h, w).
            keys: of each reference.

        Returns:
            L_centred (only with semantic features), a, b and similarity, (B, 4 or 3, h, w); and the place of the match,
            (B, 3, h, w), None where colours are not taken from the reference's pixels.
        """
        b, _, h, w = queries.shape
        flat, values = queries.flatten(2), [self._values(one) for one in keys]
        if len(keys) == 1:
            found = self._detail(flat, keys[0].phi, values[0], sparing)
        else:
            found = flat.new_empty(b, values[0].shape[1] + 1, h * w)
            for i, r in product(range(b), range(len(keys))):
                its = taken[i, r].flatten() > 0.5
                if its.any():
                    its_phi, its_values = (x[i % len(x)][None] for x in (keys[r].phi, values[r]))
                    found[i][:, its] = self._detail(flat[i : i + 1, :, its], its_phi, its_values, sparing)[0]
        found = found.view(b, -1, h, w)
        return (found, None) if keys[0].places is None else (found[:, :-3], found[:, -3:])

    def _values(self, keys: Keys) -> Tensor:
        """Return what a match averages: what `_lent` returns, and places where there are any."""
        values = self._lent(keys.lab)
        if keys.places is None:
            return values
        return torch.cat((values, keys.places.expand(len(values), -1, -1)), dim=1)

    def _lent(self, lab: Tensor) -> Tensor:
        """Return what a reference's cells give of their lab: all for Trust; without semantic features ab alone."""
        return lab if self.config.semantic else lab[:, 1:]

    def _detail(self, queries: Tensor, phi: Tensor, values: Tensor, sparing: bool) -> Tensor:
        """Return lab or ab, the similarity, -1..1 whatever the weight of meaning, and the place: (B, K, N)."""
        found, similarity = self.correlation(queries, phi, values, sparing)
        if self.config.semantic:
            similarity = similarity / (1.0 + self.config.semantic_weight)
        colours = 3 if self.config.semantic else 2
        return torch.cat((found[:, :colours], similarity, found[:, colours:]), dim=1)

    def with_meaning(self, vectors: Tensor, meaning: Meaning | None) -> Tensor:
        """Append the semantic vectors' first channels to theta or phi, so that one product weighs both."""
        return vectors if meaning is None else self._beside(vectors, _finer(meaning.vectors[:, :_BESIDE]))

    def _half(self, vectors: Tensor, meaning: Meaning | None) -> Tensor:
        """Return theta or phi `with_meaning`, at half its size."""
        vectors = unit_vectors(F.avg_pool2d(vectors, 2))
        return vectors if meaning is None else self._beside(vectors, meaning.vectors[:, :_BESIDE])

    def _beside(self, vectors: Tensor, semantic: Tensor) -> Tensor:
        return torch.cat((vectors, unit_vectors(semantic) * self.config.semantic_weight**0.5), dim=1)

    def align(self, theta: Tensor, prev_phi: Tensor, prev_lab: Tensor, L_centred: Tensor) -> Tensor:
        """Warp the previous frame to this one; return it unchanged if the config has no motion.

        Args:
            theta: (B, C, h, w) of this frame.
            prev_phi: (B, C, h, w) of the previous frame.
            prev_lab: (B, 3, H, W); further channels are warped too.
            L_centred: (B, 1, H, W) of this frame.
        """
        moved: Tensor = self.motion(theta, prev_phi, prev_lab, L_centred) if self.config.motion else prev_lab
        return moved

    def colorize(self, L_centred: Tensor, match: Match, prev_lab: Tensor, has_previous: Tensor) -> Tensor:
        """Compute eq. 7: ab (B, 2, H, W) of the frame.

        Args:
            L_centred: (B, 1, H, W) of the frame.
            match: of the frame.
            prev_lab: (B, 3, H, W), aligned with the frame; zeros where there is no previous frame.
            has_previous: (B, 1, 1, 1), 1 where there is a previous frame, else 0.
        """
        if match.taken.shape[1] > 1:
            prev_lab = _without_contradictions(prev_lab, match)
        more = [match.evidence] if match.evidence.shape[1] else []
        more += [match.seen] if self.config.semantic_color else []
        ab: Tensor = self.color(L_centred, match.warped_ab, match.similarity, prev_lab, has_previous, *more)
        if self.config.warp_upsampling == "reference":
            ab = torch.lerp(ab, match.warped_ab, _SURELY * match.evidence[:, -1:])
        return ab


def _without_contradictions(prev_lab: Tensor, match: Match) -> Tensor:
    """Return the previous frame with the warped colours where its own are those of a reference that was not chosen.

    The colour net mixes both. A mixture of references that contradict each other would be grey.
    """
    contested = F.interpolate(match.contested, scale_factor=CELL) > 0.5
    apart = torch.linalg.vector_norm(prev_lab[:, 1:] - match.warped_ab, dim=1, keepdim=True)
    return torch.cat(
        (prev_lab[:, :1], torch.where(contested & (apart > CONTRADICTION / 2), match.warped_ab, prev_lab[:, 1:])), dim=1
    )


def whole_cells(usable: Tensor, cell: int) -> Tensor:
    """Return for each cell whether all its pixels are usable, (H/cell * W/cell,) bool. usable: (H, W) bool."""
    return F.avg_pool2d(usable[None, None].float(), cell).flatten() == 1.0


def _usable(x: Tensor, usable: Tensor | None, cell: int) -> Tensor:
    """Return, of values (1, C, N) of cells, those of cells that are usable as a whole; all if no cell is."""
    if usable is None:
        return x
    whole = whole_cells(usable, cell)
    return x[:, :, whole].contiguous() if whole.any() else x


def _finer(x: Tensor) -> Tensor:
    """Resize from the grid of the meaning to that of the details."""
    return F.interpolate(x, scale_factor=MEANING_CELL // CELL, mode="bilinear")
