"""Run the demo of scripts/demo.sh: bestsource -> core.exvc.Colorize -> vspipe -> ffmpeg, on a clip and a reference.

Without arguments it first makes a grey clip from photographs that scikit-image ships: each is one scene under a moving
camera. The reference of the first scene is a photograph of another person, which matplotlib ships. Each other scene has
another view of its photograph as reference (mirrored, turned, nearer; for the stereo pair the other eye).

The output folder gets demo.vpy (the script that was run), out.mp4, and sheet.png (source, reference and result of
several frames side by side). This file uses the filter only through that script, as an encoder would.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import vapoursynth as vs
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

WIDTH, HEIGHT, FPS = 512, 288, 24
SCENE_LENGTH = 24
SHEET_COLUMN = 400
SHEET_ROWS = 8

Picture = NDArray[np.uint8]  # (H, W, 3) RGB


class DemoError(Exception):
    """Report what went wrong, in one line for the user."""


# --- the clip made of photographs -------------------------------------------------------------------------------


@dataclass(frozen=True)
class View:
    """Describe a camera's view: a 16:9 window in a picture.

    `zoom` is the window's share of the largest one that fits (0..1], `x` and `y` its centre as shares of the picture,
    `turn` degrees counterclockwise, `mirrored` left to right.
    """

    zoom: float
    x: float = 0.5
    y: float = 0.5
    turn: float = 0.0
    mirrored: bool = False

    def toward(self, other: View, t: float) -> View:
        """Return the view at t (0..1) of a move from here to `other`."""

        def between(a: float, b: float) -> float:
            return a + (b - a) * t

        return View(
            between(self.zoom, other.zoom),
            between(self.x, other.x),
            between(self.y, other.y),
            between(self.turn, other.turn),
            self.mirrored,
        )


@dataclass(frozen=True)
class Scene:
    """Describe a camera move over one picture, and the view of (possibly another) picture that is its reference."""

    picture: str
    start: View
    end: View
    reference_picture: str
    reference: View


SCENES = (
    Scene("astronaut", View(0.85, 0.45, 0.3), View(0.6, 0.45, 0.25), "hopper", View(1.0, 0.5, 0.29)),
    Scene("coffee", View(0.6, 0.4, 0.5), View(0.75, 0.55, 0.5, turn=4), "coffee", View(0.85, 0.5, 0.5, turn=-8)),
    Scene("stereo_left", View(0.6, 0.4, 0.5), View(0.7, 0.6, 0.5), "stereo_right", View(0.9, 0.5, 0.5)),
    Scene("chelsea", View(0.9, 0.5, 0.5), View(0.7, 0.58, 0.45), "chelsea", View(0.85, 0.52, 0.5, mirrored=True)),
    Scene("rocket", View(0.6, 0.5, 0.6), View(0.8, 0.5, 0.45), "rocket", View(0.95, 0.5, 0.5, mirrored=True)),
)


def load_pictures() -> dict[str, Image.Image]:
    """Load the photographs by name; all are in the wheels of scikit-image and matplotlib, nothing is downloaded."""
    from matplotlib.cbook import get_sample_data
    from skimage import data

    left, right, _ = data.stereo_motorcycle()
    pictures = {name: getattr(data, name)() for name in ("astronaut", "coffee", "chelsea", "rocket")}
    pictures |= {"stereo_left": left, "stereo_right": right}
    hopper = Image.open(get_sample_data("grace_hopper.jpg", asfileobj=False)).convert("RGB")
    return {"hopper": hopper, **{name: Image.fromarray(picture) for name, picture in pictures.items()}}


def look(picture: Image.Image, view: View) -> Picture:
    """Return a camera's picture, (HEIGHT, WIDTH, 3), the edge rows repeated where the window leaves the photograph."""
    width = view.zoom * min(picture.width, picture.height * WIDTH / HEIGHT)
    step = width / WIDTH
    angle = np.deg2rad(view.turn)
    cos, sin = step * np.cos(angle), step * np.sin(angle)
    flip = -1.0 if view.mirrored else 1.0
    margin = max(picture.size) // 2
    wide = Image.fromarray(np.pad(np.asarray(picture), ((margin, margin), (margin, margin), (0, 0)), mode="edge"))
    x, y = view.x * picture.width + margin, view.y * picture.height + margin
    # PIL maps an output pixel to a place in the input: the window's centre to (x, y).
    matrix = (
        flip * cos, sin, x - flip * cos * WIDTH / 2 - sin * HEIGHT / 2,
        -flip * sin, cos, y + flip * sin * WIDTH / 2 - cos * HEIGHT / 2,
    )  # fmt: skip
    return np.asarray(wide.transform((WIDTH, HEIGHT), Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC))


def luma(picture: Picture) -> bytes:
    """Return a grey frame: limited-range BT.709 luma, and neutral chroma at half size (YUV420P8)."""
    weights = np.array([0.2126, 0.7152, 0.0722])
    y = np.rint(16 + 219 / 255 * (picture @ weights)).astype(np.uint8)
    return y.tobytes() + bytes([128]) * (WIDTH * HEIGHT // 2)


def make_clip(folder: Path) -> tuple[Path, list[Path], list[int]]:
    """Write the demo's grey clip and references to `folder`: the clip, the references, and where each begins."""
    print(f"making a grey clip of {len(SCENES)} scenes from photographs", file=sys.stderr)
    pictures = load_pictures()
    clip = folder / "source.mkv"
    colour = ["-color_range", "tv", "-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709"]
    raw = ["-f", "rawvideo", "-pix_fmt", "yuv420p", "-s", f"{WIDTH}x{HEIGHT}", "-r", str(FPS)]
    ffmpeg = run_ffmpeg([*raw, *colour, "-i", "-", "-c:v", "ffv1", *colour, str(clip)])
    assert ffmpeg.stdin
    references, starts = [], []
    for number, scene in enumerate(SCENES):
        references.append(folder / f"reference{number}.png")
        starts.append(number * SCENE_LENGTH)
        Image.fromarray(look(pictures[scene.reference_picture], scene.reference)).save(references[-1])
        for frame in range(SCENE_LENGTH):
            t = frame / (SCENE_LENGTH - 1)
            view = scene.start.toward(scene.end, t * t * (3 - 2 * t))
            ffmpeg.stdin.write(luma(look(pictures[scene.picture], view)))
    ffmpeg.stdin.close()
    if ffmpeg.wait():
        raise DemoError("ffmpeg could not write the demo's clip")
    return clip, references, starts


# --- the chain --------------------------------------------------------------------------------------------------


def run_ffmpeg(arguments: list[str], stdin: int = subprocess.PIPE) -> subprocess.Popen[bytes]:
    """Start the ffmpeg of the imageio-ffmpeg wheel; it prints only errors."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-loglevel", "error", "-y", *arguments]
    return subprocess.Popen(command, stdin=stdin, stdout=subprocess.DEVNULL)


def open_source(path: Path, cache: Path) -> vs.VideoNode:
    """Open a clip or picture through bestsource, its index under `cache`."""
    try:
        return vs.core.bs.VideoSource(str(path), showprogress=False, cachepath=str(cache))
    except vs.Error as error:
        raise DemoError(f"cannot read {path}: {error}") from None


def stated(clip: vs.VideoNode, name: str) -> int:
    """Return a colour property of the clip's first frame; 2 (unspecified) if it has none."""
    with clip.get_frame(0) as frame:
        return int(frame.props.get(name, 2))  # type: ignore[call-overload]


def matrix_of(clip: vs.VideoNode) -> int:
    """Return a YUV or GRAY clip's matrix as stated, else by its size as the filter does: BT.709 (1) or BT.601 (6)."""
    matrix = stated(clip, "_Matrix")
    if matrix in (0, 2):
        return 1 if clip.width > 1024 or clip.height > 576 else 6
    return matrix


def write_script(path: Path, clip: Path, references: list[Path], starts: list[int], cache: Path) -> None:
    """Write the .vpy that an encoder would write by hand for this clip."""
    source = open_source(clip, cache)
    lines = [
        "import vapoursynth as vs",
        "",
        "core = vs.core",
        "",
        "",
        "def read(path):",
        f"    return core.bs.VideoSource(path, showprogress=False, cachepath={str(cache)!r})",
        "",
        "",
        f"clip = read({str(clip)!r})",
    ]
    if source.format.color_family == vs.RGB:
        lines.append('clip = core.resize.Bicubic(clip, format=vs.YUV444P8, matrix_s="709")')
    elif stated(source, "_Matrix") != matrix_of(source):
        lines.append(f"clip = core.std.SetFrameProps(clip, _Matrix={matrix_of(source)})  # the file does not say")
    if len(references) == 1:
        lines.append(f"ref = read({str(references[0])!r})[0]  # its first frame, where it is a clip")
        options = ""
    else:
        lines += ["ref = core.std.Splice([", *(f"    read({str(r)!r})," for r in references), "])"]
        options = f", ref_frames={starts}"
    lines.append(f"clip = core.exvc.Colorize(clip, ref{options})")
    even = source.width % 2 == 0 and source.height % 2 == 0
    lines.append(f"core.resize.Bicubic(clip, format=vs.{'YUV420P8' if even else 'YUV444P8'}).set_output()")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def colour_tags(clip: vs.VideoNode) -> list[str]:
    """Return ffmpeg's options for reading the script's frames: y4m carries no colour description."""
    if clip.format.color_family == vs.RGB:  # the script made it BT.709
        return ["-color_range", "tv", "-colorspace", "1"]
    full = stated(clip, "_Range") == vs.RANGE_FULL
    tags = ["-color_range", "pc" if full else "tv", "-colorspace", str(matrix_of(clip))]
    for option, name in (("-color_primaries", "_Primaries"), ("-color_trc", "_Transfer")):
        tags += [option, str(stated(clip, name))]
    return tags


def encode(script: Path, source: Path, target: Path, tags: list[str]) -> None:
    """Run `vspipe -c y4m SCRIPT - | ffmpeg TARGET`, with the sound of `source` if it has any.

    Raises:
        DemoError: either of the two failed; no half-written target is left.
    """
    part = target.with_name(f"{target.stem}.part{target.suffix}")
    try:
        vspipe = subprocess.Popen(["vspipe", "-p", "-c", "y4m", str(script), "-"], stdout=subprocess.PIPE)
    except FileNotFoundError:
        raise DemoError("found no vspipe on PATH: start this by scripts/demo.sh") from None
    assert vspipe.stdout
    sound = ["-i", str(source), "-map", "0:v", "-map", "1:a?", "-c:a", "aac"]
    video = ["-c:v", "libx264", "-crf", "16", "-preset", "medium", "-movflags", "+faststart"]
    ffmpeg = run_ffmpeg([*tags, "-i", "-", *sound, *video, str(part)], stdin=vspipe.stdout.fileno())
    vspipe.stdout.close()  # ffmpeg holds the only reading end: vspipe ends if ffmpeg does
    failed = [name for name, process in (("ffmpeg", ffmpeg), ("vspipe", vspipe)) if process.wait()]
    if failed:
        part.unlink(missing_ok=True)
        raise DemoError(f"{' and '.join(reversed(failed))} failed, the messages are above")
    part.replace(target)


# --- the contact sheet ------------------------------------------------------------------------------------------


def reader(path: Path, cache: Path) -> Callable[[int], Image.Image]:
    """Return a function from frame number to RGB picture."""
    clip = open_source(path, cache)
    if clip.format.id != vs.RGB24:
        matrix = None if clip.format.color_family == vs.RGB else matrix_of(clip)
        clip = clip.resize.Bicubic(format=vs.RGB24, matrix_in=matrix)

    def read(n: int) -> Image.Image:
        with clip.get_frame(n) as frame:
            return Image.fromarray(np.dstack([np.asarray(plane) for plane in frame]))

    return read


def sheet_frames(num_frames: int, starts: list[int]) -> Iterator[tuple[int, int]]:
    """Return (frame number, index of its reference) for the rows of the sheet: spread evenly over the clip."""
    rows = min(num_frames, max(SHEET_ROWS, 2 * len(starts)))
    for row in range(rows):
        n = (2 * row + 1) * num_frames // (2 * rows)
        yield n, max((i for i, start in enumerate(starts) if start <= n), default=0)


def write_sheet(path: Path, source: Path, references: list[Path], starts: list[int], result: Path, cache: Path) -> None:
    """Write source, reference and result side by side, a row for each of several frames."""
    before, after = reader(source, cache), reader(result, cache)
    pictures = [reader(reference, cache)(0) for reference in references]
    size = open_source(result, cache)
    line = 24
    height = round(SHEET_COLUMN * size.height / size.width)
    rows = list(sheet_frames(size.num_frames, starts))
    sheet = Image.new("RGB", (3 * SHEET_COLUMN, len(rows) * (height + line)), "black")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(15)
    for row, (n, reference) in enumerate(rows):
        top = row * (height + line)
        which = f"reference {reference + 1} of {len(references)}" if len(references) > 1 else "reference"
        for column, (label, picture) in enumerate(
            [(f"source, frame {n}", before(n)), (which, pictures[reference]), (f"result, frame {n}", after(n))]
        ):
            draw.text((column * SHEET_COLUMN + 6, top + 3), label, fill="white", font=font)
            picture.thumbnail((SHEET_COLUMN, height), Image.Resampling.LANCZOS)
            sheet.paste(picture, (column * SHEET_COLUMN + (SHEET_COLUMN - picture.width) // 2, top + line))
    sheet.save(path)


# --- the command line -------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(prog="demo.sh", description="Colours a clip after a reference with vsexvc.")
    parser.add_argument("clip", type=Path, nargs="?", help="the clip to colour; without it, one made of photographs")
    parser.add_argument(
        "ref", type=Path, nargs="?", help="the reference: a picture, or a clip whose first frame is taken"
    )
    parser.add_argument("out", type=Path, nargs="?", default=Path("demo-out"), help="output folder (demo-out)")
    arguments = parser.parse_args()
    if arguments.clip and not arguments.ref:
        parser.error("a CLIP needs a REF")
    for path in filter(None, (arguments.clip, arguments.ref)):
        if not path.is_file():
            parser.error(f"there is no file {path}")

    out = arguments.out.resolve()
    cache = out / "index"
    cache.mkdir(parents=True, exist_ok=True)
    if arguments.clip:
        clip, references, starts = arguments.clip.resolve(), [arguments.ref.resolve()], [0]
    else:
        clip, references, starts = make_clip(out)
    write_script(out / "demo.vpy", clip, references, starts, cache)
    print(f"colouring: vspipe -c y4m {out / 'demo.vpy'} - | ffmpeg -i - {out / 'out.mp4'}", file=sys.stderr)
    encode(out / "demo.vpy", clip, out / "out.mp4", colour_tags(open_source(clip, cache)))
    write_sheet(out / "sheet.png", clip, references, starts, out / "out.mp4", cache)
    print(f"wrote {out / 'out.mp4'} and {out / 'sheet.png'}", file=sys.stderr)


if __name__ == "__main__":
    try:
        main()
    except (DemoError, OSError) as error:
        sys.exit(f"demo.sh: {error}")
