"""Compute one frame: the network's parts in the order in which session.py calls them; no memory between frames.

Feature net -> correspondence net -> correlation -> colour net, as the paper has them (Appendix A). With semantic
features, a second correlation matches by meaning, and a net weighs the results of both (trust.py). The caller keeps the
previous frame: see session.py. This module does not depend on VapourSynth, files or devices.

Axes: B batch, H and W the network's size (multiples of 8), h = H/4 and w = W/4 the size of the correspondence,
C embedding channels, N positions. L_centred is L-50 (-50..50); ab -128..127; lab stands for (L_centred, a, b).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vsexvc.nets.choice import CONTRADICTION, Choice, Found, choose
from vsexvc.nets.color import ColorNet
from vsexvc.nets.config import CELL, NetworkConfig
from vsexvc.nets.correlation import Correlation
from vsexvc.nets.correspondence import CorrespondenceNet, Embedding, unit_vectors
from vsexvc.nets.features import FeatureNet, feature_input, grey_rgb
from vsexvc.nets.meaning import MEANING_CELL, Meaning, MeaningNet
from vsexvc.nets.motion import Motion
from vsexvc.nets.places import Pixels, pixels_at, pixels_of, places
from vsexvc.nets.steady import steadied
from vsexvc.nets.trust import Trust

_BESIDE = 32  # channels of a semantic vector beside the details: its first principal components; all give the same dB
_SURELY = 0.5  # share of the reference's own pixels in the result, where they are sure; the colour net has the rest
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
        pixels, texture: of the whole reference, see `Pixels` of nets/places.py; None likewise.
    """

    phi: Tensor
    lab: Tensor
    half_phi: Tensor
    half_lab: Tensor
    vectors: Tensor | None = None
    places: Tensor | None = None
    pixels: Tensor | None = None
    texture: Tensor | None = None


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

        pixels, its_texture = pixels_of(lab, usable) if from_pixels else (None, None)
        return Keys(
            phi=cells(self.with_meaning(phi, meaning)),
            lab=cells(F.avg_pool2d(lab, CELL)),
            half_phi=cells(self._half(phi, meaning), 2 * CELL),
            half_lab=cells(F.avg_pool2d(lab, 2 * CELL), 2 * CELL),
            vectors=None if meaning is None else cells(meaning.vectors, MEANING_CELL),
            places=cells(places(phi.shape[2], phi.shape[3], phi.device)) if from_pixels else None,
            pixels=pixels,
            texture=its_texture,
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
        chosen = self._choose(theta, meaning, keys, handicaps, sparing)
        taken, contested = (F.interpolate(x, scale_factor=2) for x in chosen)
        detail, place = self._by_detail(self.with_meaning(theta, meaning), taken, keys, sparing)
        found = None if place is None else pixels_at(place, L_centred, [_pixels(one) for one in keys], taken)
        small = detail
        if meaning is not None:
            grey, of_kind = F.avg_pool2d(L_centred, CELL), self._by_meaning(meaning, chosen.taken, keys, sparing)
            same = grey.new_zeros(len(grey), 1, 1, 1) if found is None else _mean_of_each(found[1])
            small = torch.cat(self.trust(grey, detail, _finer(of_kind), _finer(meaning.guess), same), dim=1)
        mode = "nearest" if self.config.warp_upsampling == "nearest" else "bilinear"
        large = F.interpolate(small, scale_factor=CELL, mode=mode)
        warped_ab, similarity, evidence = large[:, :2], large[:, 2:3], large[:, 3:]
        if found is not None:
            pixels, sure = found
            by_detail = 1.0 - _not_by_detail(evidence)
            cells = F.interpolate(detail[:, -3:-1], scale_factor=CELL, mode=mode)
            share = by_detail * sure
            warped_ab = warped_ab + share * (pixels - cells)
            evidence = torch.cat((evidence, share), dim=1)
        seen = meaning.seen() if meaning is not None and self.config.semantic_color else small[:, :0]
        return Match(warped_ab, similarity, evidence, taken, seen, contested)

    def _choose(
        self,
        theta: Tensor,
        meaning: Meaning | None,
        keys: Sequence[Keys],
        handicaps: Tensor | None,
        sparing: bool,
    ) -> Choice:
        """Choose the reference of each position, at half the size of theta, by the best match in each."""
        b, _, h, w = theta.shape
        if len(keys) == 1:
            return Choice(theta.new_ones(b, 1, h // 2, w // 2), theta.new_zeros(b, 1, h // 2, w // 2))
        queries, found = self._half(theta, meaning).flatten(2), []
        for one in keys:
            index, similarity = self.correlation.best(queries, one.half_phi, sparing)
            ab = one.half_lab[:, 1:].expand(b, -1, -1).gather(2, index[:, None].expand(-1, 2, -1))
            similarity, by_meaning = self._per_unit(similarity).view(b, 1, h // 2, w // 2), None
            if meaning is not None:
                assert one.vectors is not None
                _, best = self.semantic_correlation.best(meaning.vectors.flatten(2), one.vectors, sparing)
                by_meaning = best.view_as(similarity)
            found.append(Found(ab.view(b, 2, h // 2, w // 2), similarity, by_meaning))
        return choose(found, handicaps)

    def _by_meaning(self, meaning: Meaning, taken: Tensor, keys: Sequence[Keys], sparing: bool) -> Tensor:
        """Match each position in the reference that it takes by meaning alone.

        Args:
            meaning: of the frame.
            taken: (B, R, h/2, w/2).
            keys: of each reference.
            sparing: see `match`.

        Returns:
            L_centred, a, b and similarity, (B, 4, h/2, w/2).
        """

        def match(queries: Tensor, vectors: Tensor, lab: Tensor) -> Tensor:
            return torch.cat(self.semantic_correlation(queries, vectors, lab, sparing), dim=1)

        each = [(one.vectors, one.half_lab) for one in keys if one.vectors is not None]
        return _in_its_own(match, meaning.vectors, taken, each)

    def _by_detail(
        self, queries: Tensor, taken: Tensor, keys: Sequence[Keys], sparing: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Match each position in the reference that it takes by details and meaning together.

        Args:
            queries: (B, C, h, w), theta `with_meaning`.
            taken: (B, R, h, w).
            keys: of each reference.
            sparing: see `match`.

        Returns:
            L_centred (only with semantic features), a, b and similarity, -1..1 whatever the weight of meaning,
            (B, 4 or 3, h, w); and the place of the match, (B, 3, h, w), None where colours are not taken from the
            reference's pixels.
        """

        def match(queries: Tensor, phi: Tensor, values: Tensor) -> Tensor:
            found, similarity = self.correlation(queries, phi, values, sparing)
            return torch.cat((self._per_unit(similarity), found), dim=1)

        found = _in_its_own(match, queries, taken, [(one.phi, self._values(one)) for one in keys])
        colours = 3 if self.config.semantic else 2
        similarity, lent, place = found[:, :1], found[:, 1 : colours + 1], found[:, colours + 1 :]
        return torch.cat((lent, similarity), dim=1), None if keys[0].places is None else place

    def _values(self, keys: Keys) -> Tensor:
        """Return what a match averages: lab for Trust, without semantic features ab alone; and places."""
        values = keys.lab if self.config.semantic else keys.lab[:, 1:]
        if keys.places is None:
            return values
        return torch.cat((values, keys.places.expand(len(values), -1, -1)), dim=1)

    def _per_unit(self, similarity: Tensor) -> Tensor:
        """Bring products of vectors `with_meaning` to -1..1, whatever the weight of meaning."""
        return similarity / (1.0 + self.config.semantic_weight) if self.config.semantic else similarity

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
            of_trust, sure = match.evidence[:, :-1], match.evidence[:, -1:]
            ab = torch.lerp(ab, match.warped_ab, _SURELY * sure)
            unseen, shown = _not_by_detail(of_trust), _mean_of_each(sure)
            ab = steadied(ab, match.warped_ab, L_centred, prev_lab, has_previous, unseen, shown)
        return ab


def _in_its_own(
    match: Callable[[Tensor, Tensor, Tensor], Tensor],
    queries: Tensor,
    taken: Tensor,
    references: Sequence[tuple[Tensor, Tensor]],
) -> Tensor:
    """Match each position in the reference that it takes.

    Args:
        match: returns (B, K, N) of queries (B, C, N), keys (B or 1, C, N') and values (B or 1, K', N').
        queries: (B, C, h, w).
        taken: (B, R, h, w).
        references: keys and values of each.

    Returns:
        (B, K, h, w).
    """
    flat, (h, w) = queries.flatten(2), queries.shape[2:]
    if len(references) == 1:
        return match(flat, *references[0]).view(len(flat), -1, h, w)
    frames = []
    for i in range(len(flat)):
        own = taken[i].argmax(0).flatten()
        of_each = [(own == r).nonzero()[:, 0] for r in range(len(references))]
        parts = [
            match(flat[i : i + 1, :, its], *(x[i % len(x)][None] for x in reference))
            for its, reference in zip(of_each, references, strict=True)
            if len(its)
        ]
        frames.append(torch.cat(parts, dim=2)[:, :, torch.cat(of_each).argsort()])
    return torch.cat(frames).view(len(flat), -1, h, w)


def _without_contradictions(prev_lab: Tensor, match: Match) -> Tensor:
    """Return the previous frame with the warped colours where its own are those of a reference that was not chosen.

    The colour net mixes both. A mixture of references that contradict each other would be grey.
    """
    if not match.contested.any():
        return prev_lab
    contested = F.interpolate(match.contested, scale_factor=CELL) > 0.5
    apart = (prev_lab[:, 1:] - match.warped_ab).square().sum(1, keepdim=True)
    ab = torch.where(contested & (apart > (CONTRADICTION / 2) ** 2), match.warped_ab, prev_lab[:, 1:])
    return torch.cat((prev_lab[:, :1], ab), dim=1)


def whole_cells(usable: Tensor, cell: int) -> Tensor:
    """Return for each cell whether all its pixels are usable, (H/cell * W/cell,) bool. usable: (H, W) bool."""
    return F.avg_pool2d(usable[None, None].float(), cell).flatten() == 1.0


def _usable(x: Tensor, usable: Tensor | None, cell: int) -> Tensor:
    """Return, of values (1, C, N) of cells, those of cells that are usable as a whole; all if no cell is."""
    if usable is None:
        return x
    whole = whole_cells(usable, cell)
    return x[:, :, whole].contiguous() if whole.any() else x


def _pixels(keys: Keys) -> Pixels:
    assert keys.pixels is not None and keys.texture is not None
    return Pixels(keys.pixels, keys.texture)


def _not_by_detail(of_trust: Tensor) -> Tensor:
    """Return the shares of meaning and guess, (B, 1, H, W), of Trust's evidence (B, C, H, W): 0 where C is 0."""
    return of_trust[:, :2].sum(1, keepdim=True)


def _mean_of_each(x: Tensor) -> Tensor:
    """Average each frame alone, (B, 1, 1, 1): means of a batch differ in their last bits."""
    return torch.stack([one.mean() for one in x]).view(-1, 1, 1, 1)


def _finer(x: Tensor) -> Tensor:
    """Resize from the grid of the meaning to that of the details."""
    return F.interpolate(x, scale_factor=MEANING_CELL // CELL, mode="bilinear")
