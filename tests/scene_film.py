"""Make a film with 60 scene changes of all kinds and 40 other events from given shots; score the changes found."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

Frames = NDArray[np.float32]  # (T, H, W), luma 0..255
BLACK, WHITE = 16.0, 235.0
SHOT_SIZE = 128, 72
GRAIN = 1.5
MARGIN = 14  # frames of a shot before and after the event in it

# Kind and numbers of frames: of a dissolve, or of a fade out, the black between, and a fade in.
CHANGES: list[tuple[str, tuple[int, ...]]] = [
    *[("cut", ())] * 18,
    *[("cut, white frame", ())] * 2,
    *[("cut, black frame", ())] * 2,
    *[("dissolve", (k,)) for k in (2, 2, 3, 4, 4, 6, 8, 8, 12, 12, 16, 16, 24, 32, 40, 48)],
    *[("fade", spans) for spans in ((4, 1, 4), (6, 2, 6), (6, 6, 6), (8, 4, 12), (12, 8, 8), (12, 24, 12))],
    *[("fade", spans) for spans in ((16, 3, 16), (24, 12, 24), (24, 1, 8), (8, 16, 24))],
    *[("direct fade", spans) for spans in ((4, 0, 4), (6, 0, 6), (8, 0, 8), (12, 0, 6), (12, 0, 12), (16, 0, 16))],
    *[("fade, white", spans) for spans in ((8, 2, 8), (12, 4, 12))],
    *[("fade in", (0, 3, 8)), ("fade in", (0, 8, 16)), ("fade out", (8, 3, 0)), ("fade out", (16, 8, 0))],
]
LURES = [
    *[("flash", k) for k in (1, 1, 2, 2, 2, 3, 3, 3)],
    *[("flicker", k) for k in (16, 24, 24, 32, 32, 40)],
    *[("pan", k) for k in (10, 12, 14, 16, 18, 20)],
    *[("fast motion", 0)] * 6,
    *[("lightning", 8)] * 4,
    *[("shake", k) for k in (16, 24, 24, 32, 32)],
    *[("black frame", 1)] * 5,
]


@dataclass(frozen=True)
class Event:
    """Hold a change or a lure in frames first..last; each frame of a change may count as the start of the new scene."""

    kind: str
    first: int
    last: int

    @property
    def is_cut(self) -> bool:
        return self.kind == "cut"


@dataclass(frozen=True)
class Score:
    """Hold how well found frames fit the changes. false: found frames without a change; missed: changes not found."""

    recall: float
    precision: float
    exact: int
    cuts: int
    missed: tuple[Event, ...]
    false: tuple[int, ...]


def make(
    calm: Sequence[Frames], fast: Sequence[Frames], seed: int
) -> tuple[NDArray[np.uint8], list[Event], list[Event]]:
    """Return frames (T, H, W), changes and lures. calm, fast: shots for 55 and 6 scenes, each of another place."""
    rng = np.random.default_rng(seed)
    changes = [CHANGES[i] for i in rng.permutation(len(CHANGES))]
    lures = dict(zip(rng.permutation(len(CHANGES) + 1).tolist(), LURES, strict=False))
    calm_left, fast_left = list(calm), list(fast)
    film: list[Frames] = []
    length = 0
    found, lured = [], []
    before: tuple[str, tuple[int, ...]] = ("start", ())
    for number in range(len(CHANGES) + 1):
        kind, span = lures.get(number, ("", 0))
        after = changes[number] if number < len(CHANGES) else ("end", ())
        at = _arrives(before) + MARGIN
        count = at + (span or 20) + MARGIN + _leaves(after)
        shot = fast_left.pop() if kind == "fast motion" else calm_left.pop()
        scene = _lured(kind, _played(shot, count, 2 if kind == "fast motion" else 1), at, span, rng)
        film, length, event = _joined(film, length, scene, before)
        if event is not None:
            found.append(event)
        if kind:
            begin = length - count
            lured.append(Event(kind, begin + (0 if kind == "fast motion" else at), begin + at + (span or 20)))
        before = after
    frames = np.concatenate(film)
    frames = frames + rng.normal(0, GRAIN, frames.shape).astype(np.float32)
    return np.clip(np.rint(frames), 0, 255).astype(np.uint8), found, lured


def judge(found: Iterable[int], changes: Sequence[Event]) -> Score:
    """Score found frames. Each fits one cut within 2 frames, or one gradual change within its length."""
    left, false, exact, count = list(changes), [], 0, 0
    for n in found:
        count += 1
        fits = [e for e in left if e.first - 2 * e.is_cut <= n <= e.last + 2 * e.is_cut]
        if not fits:
            false.append(n)
            continue
        best = min(fits, key=lambda e: abs(2 * n - e.first - e.last))
        exact += best.is_cut and n == best.first
        left.remove(best)
    hits = len(changes) - len(left)
    cuts = sum(change.is_cut for change in changes)
    return Score(hits / len(changes), hits / max(1, count), exact, cuts, tuple(left), tuple(false))


def shrunk(frames: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return the film in 8 bits of full range, averaged to a size (width, height) that divides its own."""
    width, height = size
    rows, columns = frames.shape[1] // height, frames.shape[2] // width
    mean = frames.reshape(len(frames), height, rows, width, columns).mean((2, 4), dtype=np.float32)
    return np.clip(np.rint((mean - BLACK) * 255 / (WHITE - BLACK)), 0, 255).astype(np.uint8)


def real_shots(clips: Path) -> tuple[list[Frames], list[Frames]] | None:
    """Return calm and fast shots for `make` in SHOT_SIZE, luma of limited range; None where the clips are missing.

    No threshold was chosen on these clips.
    """
    paths = [[clips / f"{name}.mp4" for name in names.split()] for names in (CALM, FAST)]
    if not all(path.is_file() for group in paths for path in group):
        return None
    return [_read(path) for path in paths[0]], [_read(path) for path in paths[1]]


def _read(path: Path) -> Frames:
    width, height = SHOT_SIZE
    frames = []
    with av.open(str(path)) as file:
        for frame in file.decode(video=0):
            luma = Image.fromarray(frame.to_ndarray(format="yuv420p")[: frame.height])
            scale = min(luma.width / width, luma.height / height)
            x, y = (luma.width - width * scale) / 2, (luma.height - height * scale) / 2
            box = (x, y, x + width * scale, y + height * scale)
            frames.append(np.asarray(luma.resize(SHOT_SIZE, Image.Resampling.BOX, box)))
    return np.stack(frames).astype(np.float32)


def _arrives(change: tuple[str, tuple[int, ...]]) -> int:
    return change[1][-1] if change[1] else 0


def _leaves(change: tuple[str, tuple[int, ...]]) -> int:
    return change[1][0] if change[1] else 0


def _played(shot: Frames, count: int, speed: int) -> Frames:
    """Return `count` frames of the shot, played forward and backward."""
    there = shot[::speed]
    both = np.concatenate([there, there[-2:0:-1]])
    return both[np.arange(count) % len(both)].astype(np.float32)


def _joined(
    film: list[Frames], length: int, scene: Frames, change: tuple[str, tuple[int, ...]]
) -> tuple[list[Frames], int, Event | None]:
    """Append a scene to the film; return the film, its length, and the change."""
    kind, spans = change
    if kind == "start":
        return [scene], len(scene), None
    last = film[-1].copy()
    scene = scene.copy()
    if kind.startswith("cut"):
        event = Event("cut", length, length)
        if "," in kind:
            last[-1] = WHITE if "white" in kind else BLACK
            event = Event(kind, length - 1, length)
        film[-1] = last
        return [*film, scene], length + len(scene), event
    if kind == "dissolve":
        (k,) = spans
        weight = (np.arange(1, k + 1, dtype=np.float32) / (k + 1))[:, None, None]
        scene[:k] = last[-k:] * (1 - weight) + scene[:k] * weight
        film[-1] = last[:-k]
        length -= k
        return [*film, scene], length + len(scene), Event(kind, length, length + k)
    out, black, into = spans
    level = WHITE if "white" in kind else BLACK
    if out:
        gain = (np.arange(out, 0, -1, dtype=np.float32) / (out + 1))[:, None, None]
        last[-out:] = level + (last[-out:] - level) * gain
        film[-1] = last
    gain = (np.arange(1, into + 1, dtype=np.float32) / (into + 1))[:, None, None]
    scene[:into] = level + (scene[:into] - level) * gain
    gap = np.full((black, *scene.shape[1:]), level, np.float32)
    start = length
    event = Event(kind, start - out, start + black + into)
    return [*film, gap, scene], length + black + len(scene), event


def _lured(kind: str, scene: Frames, at: int, span: int, rng: np.random.Generator) -> Frames:
    scene = scene.copy()
    part = slice(at, at + span)
    if kind == "flash":
        share = rng.choice((0.6, 1.0))
        scene[part] = scene[part] * (1 - share) + WHITE * share
    elif kind == "flicker":
        gain = rng.uniform(0.8, 1.2, (span, 1, 1)).astype(np.float32)
        scene[part] = np.clip(BLACK + (scene[part] - BLACK) * gain, BLACK, WHITE)
    elif kind == "lightning":
        gain = np.array([3, 1.6, 1, 2.6, 1.9, 1.4, 1.2, 1.1], np.float32)[:span, None, None]
        scene[part] = np.clip(BLACK + (scene[part] - BLACK) * gain, BLACK, WHITE)
    elif kind == "black frame":
        scene[part] = BLACK
    elif kind == "pan":
        height, width = scene.shape[1:]
        x = np.interp(np.arange(len(scene)), [at, at + span], [0, width / 2])
        scene = _windows(scene, x, np.full(len(scene), height / 4), 0.5)
    elif kind == "shake":
        height, width = scene.shape[1:]
        x, y = np.full(len(scene), 0.05 * width), np.full(len(scene), 0.05 * height)
        x[part] += rng.uniform(-0.05, 0.05, span) * width
        y[part] += rng.uniform(-0.05, 0.05, span) * height
        scene = _windows(scene, x, y, 0.9)
    return scene


def _windows(scene: Frames, x: NDArray[np.float64], y: NDArray[np.float64], size: float) -> Frames:
    height, width = scene.shape[1:]
    out = np.empty_like(scene)
    for n, frame in enumerate(scene):
        box = (float(x[n]), float(y[n]), float(x[n]) + size * width, float(y[n]) + size * height)
        out[n] = np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC, box))
    return out


CALM = """
train_clips/Ask-Anything_playing-guitar_033_00
train_clips/Video-Captioning_WTf5EgVY5uU-124-128_044_00
train_clips/co-tracker_paragliding_110_00
val_clips/Ask-Anything_yoga_031_00
train_clips/ARCF-tracker_seq-person12_237_02
train_clips/co-tracker_cat_108_00
val_clips/sample-videos_one-by-one-person-detection_142_00
train_clips/Tune-A-Video_man-surfing_194_00
val_fast/omnimatte-github-io_rollerblade-pad_314_00
train_clips/vidtome-diffusion-github_source_637_00
train_clips/opencv4nodejs_traffic_453_00
train_clips/diffusion-motion-transfe_original_605_00
val_clips/Rerender_A_Video_pexels-antoni-shkraba-8048492-540x960-25_200_00
val_clips/Grounded-SAM-2_02-cups_013_00
train_clips/GeometryCrafter_video5_056_01
val_fast/ARCF-tracker_seq-wakeboard7_240_00
train_clips/p5-js-website_small_448_00
train_clips/FRESCO_dog_198_00
val_clips/CarND-LaneLines-P1_solidWhiteRight_196_00
train_clips/diffusion-motion-transfe_original_616_00
train_clips/depthcrafter-github-io_4154539-uhd-3840-2160-24fps-rgb_334_00
train_clips/opencv4nodejs_horses_452_00
train_clips/EfficientTAM_car_203_00
val_clips/Grounded-SAM-2_01-dog_012_00
train_clips/editly-assets_changi_153_00
val_clips/shared-assets_tears-of-steel-battle-clip-medium_442_00
train_clips/diffusion-motion-transfe_original_618_00
train_clips/rave-video-github-io_original_368_00
train_clips/omnimatte-github-io_skate-park-pad_316_00
train_clips/omnimatte-github-io_d-overpass-pad_329_00
train_clips/PaddleVideo_example_036_00
train_clips/ProPainter_running-car_180_01
train_clips/STTN_dogs-jump-orig_174_00
train_clips/Video-Captioning_3qqEKTPxLNs-1-15_042_00
train_clips/omnimatte-github-io_b-highway-pad_326_00
val_clips/ARCF-tracker_seq-truck4_238_00
train_clips/python-docs-samples_googlework-short_010_09
train_clips/co-tracker_apple_105_00
train_clips/rave-video-github-io_source-new_350_00
train_clips/p5-js-website_fingers_447_00
train_clips/editly-assets_kohlipe2_156_01
train_clips/ProPainter_test-sample1_182_00
train_clips/TokenFlow_wolf_160_00
train_clips/InternVideo_test_035_00
train_clips/omnimatte-github-io_s-cubicle-pad_331_00
train_clips/Rvision_Balloon_195_00
train_clips/GeometryCrafter_video4_055_00
train_clips/opencv4nodejs_hand-gesture_454_00
train_clips/Ask-Anything_making-cake_032_00
train_clips/omnimatte-github-io_P-twoPositionPTZCam2-pad_324_00
val_clips/VSR-DUF_G-foliage_269_00
train_clips/mmaction2_test_165_00
train_clips/editly-assets_kohlipe1_155_00
train_clips/Track-Anything_test-sample2_114_01
val_clips/CF2_MotorRolling-img_483_00
"""
FAST = """
val_fast/E2FGVI_schoolgirls_026_00
val_fast/py-MDNet_DragonBaby-img_224_00
val_fast/ARCF-tracker_seq-wakeboard10_239_00
val_fast/omnimatte-github-io_stroller-pad_318_00
val_fast/omnimatte-github-io_lucia-pad_309_00
val_fast/omnimatte-github-io_tractor-sand-pad_321_00
"""
