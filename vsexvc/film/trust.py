"""Report how well the references suit a film's scenes, and which scenes lack one, worst first.

The report uses Colorize's frame properties: ExvcSimilarity, the mean similarity of a frame's matches in the references,
and the share of each reference.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import vapoursynth as vs

from vsexvc.film.plan import counted
from vsexvc.film.references import at_scenes, listed, numbers_of, open_references
from vsexvc.film.source import Scene, Stages, shown_frames, silent, small_luma, with_scenes
from vsexvc.plugin import colorize
from vsexvc.pump import REFERENCES
from vsexvc.support.errors import first_line

MISSING, WEAK = 0.3, 0.45  # mean similarity below which a scene's reference is missing, or weak
_SHOWN = 10  # scenes that a report names
_NAMED = 3  # references that it names for each scene


class Sum(NamedTuple):
    """Sum up frames of a scene: its first frame, their number, their similarities, and the share of each reference.

    References are identified by the frame from which they are used, or else by their index.
    """

    first: int
    frames: int
    similarity: float
    shares: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Suited:
    """Hold how well references suit a scene.

    Attributes:
        scene: its number, from 1.
        first: its first frame.
        similarity: the mean, -1..1.
        shares: share of each reference, by name, the largest first; the sum is 1.
    """

    scene: int
    first: int
    similarity: float
    shares: Mapping[str, float]

    @property
    def verdict(self) -> str:
        """Return "missing", "weak" or ""."""
        return "missing" if self.similarity < MISSING else "weak" if self.similarity < WEAK else ""


class Tally:
    """Sum up frames by scene. firsts: first frames of the scenes; ref_frames: as for Colorize."""

    def __init__(self, firsts: Sequence[int], ref_frames: Sequence[int] | None) -> None:
        self._firsts, self._ref_frames = firsts, ref_frames
        self._sums: dict[int, tuple[int, float, dict[int, float]]] = {}

    def add(self, number: int, props: Mapping[str, Any]) -> None:
        """Add a frame. props: its properties; a frame that was not coloured is not counted."""
        similarity = props.get("ExvcSimilarity")
        if not isinstance(similarity, float):
            return
        first = self._firsts[bisect_right(self._firsts, number) - 1]
        frames, total, shares = self._sums.get(first, (0, 0.0, {}))
        several, parts = props.get("ExvcReferences"), props.get("ExvcShares")
        pairs = [(props["ExvcReference"], 1.0)]
        if isinstance(several, Sequence) and isinstance(parts, Sequence):
            pairs = list(zip(several, parts, strict=True))
        for index, share in pairs:
            # A changed plan may renumber references, but not the frame from which one is used in the scene.
            place = index if self._ref_frames is None else max(self._ref_frames[index], first)
            shares[place] = shares.get(place, 0.0) + share
        self._sums[first] = frames + 1, total + similarity, shares

    def sums(self) -> tuple[Sum, ...]:
        return tuple(
            Sum(first, frames, total, tuple(sorted(shares.items())))
            for first, (frames, total, shares) in sorted(self._sums.items())
        )


def suited(
    sums: Iterable[Sum], firsts: Sequence[int], ref_frames: Sequence[int] | None, names: Sequence[str]
) -> list[Suited]:
    """Return the scenes, worst first.

    Args:
        sums: sums of the examined frames, in any order; a scene may have several.
        firsts: first frames of the film's scenes.
        ref_frames: as for Colorize.
        names: names of the references.
    """
    found: dict[int, list[Sum]] = {}
    for one in sums:
        found.setdefault(one.first, []).append(one)
    scenes = []
    for first, several in found.items():
        frames = sum(one.frames for one in several)
        shares: dict[str, float] = {}
        for place, share in (pair for one in several for pair in one.shares):
            index = place if ref_frames is None else max(0, bisect_right(ref_frames, place) - 1)
            shares[names[index]] = shares.get(names[index], 0.0) + share / frames
        ordered = dict(sorted(shares.items(), key=lambda pair: (-pair[1], pair[0])))
        number = bisect_right(firsts, first)
        scenes.append(Suited(number, first, sum(one.similarity for one in several) / frames, ordered))
    return sorted(scenes, key=lambda scene: (scene.similarity, scene.scene))


def measure(
    clip: vs.VideoNode,
    scenes: Sequence[Scene],
    references: vs.VideoNode,
    ref_frames: Sequence[int] | None,
    stages: Stages = silent,
    typical: Mapping[int, int] | None = None,
    **options: Any,
) -> tuple[Sum, ...]:
    """Match the typical frame of each scene with the references, as Colorize does.

    Args:
        clip: the film.
        scenes: the film's scenes.
        references: the reference clip; without `ref_frames` it may have any number of frames.
        ref_frames, options: arguments of Colorize.
        stages: see source.Stages.
        typical: typical frames that are known already, by the scene's first frame.

    Raises:
        ValueError: an argument is out of range, or a frame cannot be read.
    """
    firsts = [scene.first for scene in scenes]
    marked, small = with_scenes(clip, firsts), small_luma(clip, options.get("size", 216))
    starts = range(0, references.num_frames, REFERENCES if ref_frames is None else references.num_frames)
    tally, progress, known = Tally(firsts, ref_frames), stages("comparing scenes"), typical or {}
    try:
        clips = [
            colorize(
                marked,
                references[start : start + REFERENCES] if ref_frames is None else references,
                ref_frames=ref_frames,
                output="warped",
                **options,
            )
            for start in starts
        ]
        for done, scene in enumerate(scenes, 1):
            number = known[scene.first] if scene.first in known else shown_frames(small, scene).typical
            best: dict[str, Any] = {}
            for start, warped in zip(starts, clips, strict=True):
                with warped.get_frame(number) as frame:
                    props = dict(frame.props)
                if ref_frames is None:
                    props["ExvcReference"] += start
                best = max(best, props, key=lambda some: some.get("ExvcSimilarity", -2.0))
            tally.add(number, best)
            progress(done, len(scenes))
    except vs.Error as error:
        raise ValueError(first_line(error)) from None
    return tally.sums()


def of_files(
    clip: vs.VideoNode,
    scenes: Sequence[Scene],
    paths: Sequence[Path],
    cache: Path,
    stages: Stages = silent,
    **options: Any,
) -> list[Suited]:
    """Return how well references suit the scenes of a film, worst first.

    Args:
        clip: the film.
        scenes: the film's scenes.
        paths: paths of the references, as for `render --ref`.
        cache: see source.open_video.
        stages, options: see `measure`.

    Raises:
        OSError, ValueError: a file cannot be read, or an argument is out of range.
    """
    files, firsts = listed(paths), [scene.first for scene in scenes]
    numbers = numbers_of(files, clip.num_frames)
    ref_frames = None if numbers is None else at_scenes(numbers, firsts)
    references = open_references(files, cache)
    sums = measure(clip, scenes, references.clip, ref_frames, stages, **options)
    return suited(sums, firsts, ref_frames, references.names)


def weakest(scenes: Sequence[Suited]) -> list[Suited]:
    """Return the scenes to name, at most _SHOWN: those without a reference or with a weak one, worst first."""
    return [scene for scene in scenes if scene.verdict][:_SHOWN]


def line(scene: Suited) -> str:
    """Return the line about one scene."""
    names = [f"{name} {share:.2f}" for name, share in scene.shares.items()]
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    shares = next(iter(scene.shares)) if len(names) == 1 else ", ".join(names[:_NAMED]) + more
    return f"{scene.scene:6} {scene.first:8}  {scene.similarity:6.3f}  {scene.verdict:7}  {shares}"


def summary(scenes: Sequence[Suited]) -> str:
    """Return the line above the named scenes."""
    if not scenes:
        return "no scene takes colours from a reference"
    named = [scene for scene in scenes if scene.verdict]
    span = f"similarity {scenes[0].similarity:.3f} to {scenes[-1].similarity:.3f}"
    if not named:
        return f"each scene has a reference that suits it, {span}"
    missing = sum(scene.verdict == "missing" for scene in named)
    shown = f", the worst {_SHOWN} are" if len(named) > _SHOWN else ""
    return (
        f"of {counted(len(scenes), 'scene')} {missing} lack a reference (similarity below {MISSING}) and "
        f"{len(named) - missing} have a weak one (below {WEAK}){shown}: number, first frame, similarity, references"
    )


def tell(scenes: Sequence[Suited], report: Any) -> None:
    """Report the summary and the weakest scenes. report: of vsexvc.support.report."""
    report("references", scenes=len(scenes), text=summary(scenes))
    for scene in weakest(scenes):
        report(
            "weak",
            scene=scene.scene,
            first=scene.first,
            similarity=scene.similarity,
            verdict=scene.verdict,
            references=dict(scene.shares),
            text=line(scene),
        )
