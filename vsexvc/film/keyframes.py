"""Choose key frames of a film, which are worth colouring, and write them with a page that shows what each stands for.

    ref_000412.png    frame 412, as it is in the film: coloured, it is a reference (references.py)

Each scene is examined every STEP frames, first at a lit frame (source.shown_frames). A frame that is similar to a key
frame is assigned to it; else it becomes a key frame itself. The network measures the similarity: the mean similarity of
a frame's matches in the key frame, as in Colorize's ExvcSimilarity.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
import vapoursynth as vs
from torch import Tensor

from vsexvc.arguments import check_device
from vsexvc.film.page import embedded, filled, save
from vsexvc.film.plan import check_folder, counted, timecode
from vsexvc.film.references import numbered
from vsexvc.film.source import (
    Scene,
    Stages,
    find_scenes,
    open_video,
    picture,
    shown_frames,
    silent,
    small_luma,
)
from vsexvc.frames import Lightness
from vsexvc.session import Reference, Session
from vsexvc.support.errors import first_line
from vsexvc.support.files import settle
from vsexvc.support.kept import Kept
from vsexvc.weights.store import DEFAULT, load

LIKE = 0.5  # least mean similarity with which a key frame stands for a frame; scenes have 0.1 to 0.3 to others
STEP = 24  # frames from one examined frame of a scene to the next
PAGE = "keyframes.html"

_NEAREST = 4  # key frames that the network compares a frame with: those with the nearest `_gist`
_PARTS = (3, 4)  # rows and columns of the parts of a picture in `_gist`
_LEAST_CONTRAST = 2.0  # standard deviation of L below which a frame shows nothing
_KEPT = 64, 1 << 30  # references that are kept in memory, and their bytes
_SHAPE = "_SARNum", "_SARDen"
_BOX, _SMALL_BOX = (480, 360), (192, 144)


@dataclass(frozen=True)
class Stretch:
    """Describe frames [first, stop) of a scene, and the one of them that was examined.

    Attributes:
        scene: number of the scene, from 1.
        first, stop: of the stretch.
        frame: the examined one.
        seconds: when the stretch begins.
        similarity: of that frame to its key frame, -1..1.
    """

    scene: int
    first: int
    stop: int
    frame: int
    seconds: float
    similarity: float = 1.0


@dataclass(frozen=True)
class Keyframe:
    """Describe a key frame and the stretches that it stands for, its own first."""

    frame: int
    stretches: list[Stretch] = field(default_factory=list)

    @property
    def name(self) -> str:
        return f"ref_{self.frame:06}.png"


def write(
    film: Path,
    out: Path,
    cache: Path,
    model: str | None = None,
    size: int = 216,
    device: str | None = None,
    like: float = LIKE,
    stages: Stages = silent,
    interlaced: str | None = None,
    fps: Fraction | None = None,
    sc_threshold: float | None = None,
) -> list[Keyframe]:
    """Choose key frames of a film and write them and the page (PAGE).

    Args:
        film: the film's file.
        out: folder for the pictures; made if it is missing.
        cache: see source.open_video.
        model, size, device, sc_threshold: as for Colorize.
        like: least mean similarity, 0..1, with which a key frame stands for a frame. A higher one gives more key
            frames.
        stages: see source.Stages.
        interlaced, fps: see source.open_video.

    Returns:
        The key frames, in the order of the film.

    Raises:
        FileExistsError: the folder holds numbered references, which may have been coloured.
        OSError, ValueError: the film cannot be read, a file not written, an argument is out of range.
    """
    if not 0 <= like <= 1:
        raise ValueError(f"like must be 0..1, got {like}")
    if not 64 <= size <= 1080:
        raise ValueError(f"size must be 64..1080, got {size}")
    if out.is_dir() and (there := numbered(out)):
        raise FileExistsError(f"folder {str(out)!r} must hold no references yet, {there[0].name} exists already")
    check_folder("folder", out)
    clip = open_video(film, cache, interlaced, fps)
    try:
        session = Session(load(model, check_device(device, 0)))
        scenes = find_scenes(clip, sc_threshold, size, stages)
        keys = choose(clip, scenes, session, size, like, stages)
    except vs.Error as error:
        raise ValueError(first_line(error)) from None
    out.mkdir(parents=True, exist_ok=True)
    progress = stages("writing key frames")
    for done, key in enumerate(keys, 1):
        _write_picture(clip, key, out)
        progress(done, len(keys))
    facts = f"model {model or DEFAULT}, size {size}, alike from a similarity of {like:.2f}"
    save(out / PAGE, page(film.name, facts, clip, keys, len(scenes)))
    return keys


def choose(
    clip: vs.VideoNode, scenes: Sequence[Scene], session: Session, size: int, like: float, stages: Stages = silent
) -> list[Keyframe]:
    """Return the key frames in the order of the film. Frames without contrast get none.

    Args:
        clip: the film, in a format that Colorize accepts.
        scenes: the film's scenes.
        session: of the network that compares frames.
        size: as for Colorize.
        like: see `write`.
        stages: see source.Stages.
    """
    small = small_luma(clip, size)
    seen = _Seen(session, small)
    progress = stages("choosing key frames")
    keys: dict[int, Keyframe] = {}
    for number, scene in enumerate(scenes, 1):
        stretches = _stretches(number, scene, float(clip.fps or 0))
        stretches[0] = replace(stretches[0], frame=shown_frames(small, scene).first)
        for stretch in stretches:
            L = seen.read(stretch.frame)
            if float(L.std()) >= _LEAST_CONTRAST:
                found = seen.best(L, like)
                if found is None or found[1] < like:
                    seen.add(stretch.frame, L)
                    keys[stretch.frame] = Keyframe(stretch.frame, [stretch])
                else:
                    stood, similarity = found
                    keys[stood].stretches.append(replace(stretch, similarity=similarity))
            progress(stretch.stop, clip.num_frames)
    return list(keys.values())


def page(title: str, facts: str, clip: vs.VideoNode, keys: Sequence[Keyframe], scenes: int) -> str:
    """Return the page's HTML.

    Args:
        title: name of the film.
        facts: how the key frames were chosen.
        clip: the film.
        keys: the key frames.
        scenes: number of the film's scenes.
    """
    return filled(
        "keyframes.html",
        {
            "title": title,
            "facts": facts,
            "scenes": scenes,
            "keys": [
                {
                    "name": key.name,
                    "frame": key.frame,
                    "time": timecode(key.stretches[0].seconds),
                    "picture": embedded(picture(clip, key.frame, _BOX)),
                    "stretches": [
                        {
                            "scene": one.scene,
                            "frame": one.frame,
                            "frames": one.stop - one.first,
                            "time": timecode(one.seconds),
                            "similarity": one.similarity,
                            "picture": None
                            if one.frame == key.frame
                            else embedded(picture(clip, one.frame, _SMALL_BOX)),
                        }
                        for one in key.stretches
                    ],
                }
                for key in keys
            ],
        },
    )


def lines(keys: Sequence[Keyframe]) -> list[str]:
    """Return a line for each key frame: its name, its time and what it stands for."""
    told = []
    for key in keys:
        frames = sum(one.stop - one.first for one in key.stretches)
        scenes = len({one.scene for one in key.stretches})
        time = timecode(key.stretches[0].seconds)
        told.append(f"{key.name}  {time}  {counted(frames, 'frame')} of {counted(scenes, 'scene')}")
    return told


class _Seen:
    """Hold the key frames so far as references of the network. small: luma at the network's size."""

    def __init__(self, session: Session, small: vs.VideoNode) -> None:
        self._session, self._small, self._lightness = session, small, Lightness()
        self._gists: dict[int, Tensor] = {}
        self._references: Kept[Reference] = Kept(*_KEPT)

    def read(self, number: int) -> Tensor:
        """Return L of a frame, (1, 1, H, W), 0..100. Raise ValueError for one that cannot be read."""
        try:
            with self._small.get_frame(number) as frame:
                return self._lightness(frame)
        except vs.Error as error:
            raise ValueError(f"frame {number} of the film cannot be read: {first_line(error)}") from None

    def best(self, L: Tensor, like: float) -> tuple[int, float] | None:
        """Return the first key frame that is similar enough, else the most similar one, and the similarity.

        Args:
            L: of the frame.
            like: the similarity that is enough.
        """
        gist = _gist(self._reference_of(L))
        nearest = sorted(self._gists, key=lambda number: (-float(self._gists[number] @ gist), number))
        found: tuple[int, float] | None = None
        for number in nearest[:_NEAREST]:
            (one,) = self._session.correspond(L, self._reference(number))
            similarity = float(one.similarity[:, :, *one.area].mean())
            if found is None or similarity > found[1]:
                found = number, similarity
            if similarity >= like:
                break
        return found

    def add(self, number: int, L: Tensor) -> None:
        """Add a frame to the key frames. L: of the frame."""
        reference = self._reference_of(L)
        self._references[number] = reference
        self._gists[number] = _gist(reference)

    def _reference(self, number: int) -> Reference:
        if number not in self._references:
            self._references[number] = self._reference_of(self.read(number))
        return self._references[number]

    def _reference_of(self, L: Tensor) -> Reference:
        return self._session.reference(torch.cat((L, torch.zeros_like(L), torch.zeros_like(L)), dim=1))


def _gist(reference: Reference) -> Tensor:
    """Summarise each part of a picture roughly, as a unit vector."""
    features = reference.keys.phi.view(1, -1, *reference.phi.shape[2:]).float()
    return F.normalize(F.adaptive_avg_pool2d(features, _PARTS).flatten(), dim=0).cpu()


def _stretches(number: int, scene: Scene, rate: float) -> list[Stretch]:
    """Return the stretches of a scene, each with the frame to examine. rate: frames a second, 0 if unknown."""
    count = max(1, math.ceil((scene.stop - scene.first) / STEP - 0.5))
    bounds = [scene.first + STEP * n for n in range(count)] + [scene.stop]
    return [
        Stretch(number, first, stop, first, scene.seconds + ((first - scene.first) / rate if rate else 0.0))
        for first, stop in pairwise(bounds)
    ]


def _write_picture(clip: vs.VideoNode, key: Keyframe, out: Path) -> None:
    """Write the frame as it is stored, atomically; the file states the shape of its pixels."""
    with clip.get_frame(key.frame) as frame:
        shape = [value if isinstance(value := frame.props.get(name), int) and value > 0 else 1 for name in _SHAPE]
    image = picture(clip.std.SetFrameProps(_SARNum=1, _SARDen=1), key.frame, (clip.width, clip.height))
    target = out / key.name
    partial = target.with_name(target.name + ".new")
    try:
        image.save(partial, format="PNG", dpi=(72.0, 72.0 * shape[0] / shape[1]))
        settle(partial, target)
    finally:
        partial.unlink(missing_ok=True)
