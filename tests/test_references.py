"""Test references.py: the contents of folders, numbers in names, and the pictures that the filter gets."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import film
import numpy as np
import pytest
import vapoursynth as vs
from PIL import Image

import vsexvc
from vsexvc.__main__ import main
from vsexvc.film.encode import find_ffmpeg
from vsexvc.film.references import at_scenes, listed, numbers_of, open_references

core = vs.core


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Make refs/ with two pictures and other files."""
    root = tmp_path / "refs"
    root.mkdir()
    Image.fromarray(film.picture(1, 60, 40)).save(root / "1.jpg", quality=95)
    film.make_png(root / "2.PNG", 0)
    (root / "notes.txt").write_text("none of them")
    (root / "._2.PNG").write_bytes(b"\0\5\26\7\0\2\0\0Mac OS X        ")
    (root / ".hidden.png").write_bytes((root / "2.PNG").read_bytes())
    return root


def clip_of(path: Path, frames: int = 3) -> Path:
    """Write a clip in colour."""
    source = ["-f", "lavfi", "-i", "testsrc2=size=96x64:rate=24", "-frames:v", str(frames)]
    codec = ["-c:v", "ffv1", "-pix_fmt", "yuv420p"]
    subprocess.run([find_ffmpeg(), "-loglevel", "error", "-y", *source, *codec, str(path)], check=True)
    return path


def array(frame: vs.VideoFrame) -> np.ndarray:
    return np.dstack([np.asarray(plane) for plane in frame])


def test_folders_pictures_and_clips(folder: Path, tmp_path: Path) -> None:
    clip = clip_of(tmp_path / "clip.mkv")
    assert listed([folder, clip]) == [folder / "1.jpg", folder / "2.PNG", clip]
    opened = open_references(listed([folder, clip]), tmp_path / "index")
    frames = list(opened.clip.frames(close=False))
    sizes = [(frame.width, frame.height, frame.format.name) for frame in frames]
    assert sizes == [(60, 40, "RGB24"), (96, 64, "RGB24"), *[(96, 64, "YUV420P8")] * 3]
    assert np.array_equal(array(frames[1]), film.picture(0))
    assert opened.names == ["1.jpg", "2.PNG", "clip.mkv, frame 0", "clip.mkv, frame 1", "clip.mkv, frame 2"]
    stills = open_references(listed([folder, clip]), tmp_path / "index", stills=True)
    assert stills.clip.num_frames == 3 and stills.names == ["1.jpg", "2.PNG", "clip.mkv"]


def test_a_thousand_references_hold_no_files(folder: Path, tmp_path: Path) -> None:
    clip = open_references([folder / "2.PNG"] * 200, tmp_path).clip
    assert clip.get_frame(199).width == film.WIDTH
    assert len(list(Path(f"/proc/{os.getpid()}/fd").iterdir())) < 150


def test_what_a_picture_states_goes_along(tmp_path: Path) -> None:
    """The filter gets a picture's alpha as `_Alpha`, in full range, and its colours as tags."""
    alpha = np.tile(np.linspace(0, 255, 96).astype(np.uint8), (64, 1))
    Image.fromarray(np.dstack([film.picture(0), alpha])).save(tmp_path / "a.png")
    frame = open_references([tmp_path / "a.png"], tmp_path).clip.get_frame(0)
    assert np.array_equal(array(frame), film.picture(0))
    assert np.array_equal(np.asarray(frame.props["_Alpha"][0]), alpha)
    assert (frame.props["_Primaries"], frame.props["_Transfer"]) == (vs.PRIMARIES_BT709, vs.TRANSFER_IEC_61966_2_1)


@pytest.mark.parametrize("suffix", ["hdr", "exr"])
def test_samples_of_light(tmp_path: Path, suffix: str) -> None:
    """Radiance and OpenEXR are read as linear light; only OpenEXR's decoder states it."""
    if suffix == "hdr":
        head = b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 4 +X 4\n"
        (tmp_path / "a.hdr").write_bytes(head + 16 * bytes([110, 27, 14, 128]))  # mantissas, and an exponent of 0
    else:
        made = ["-f", "lavfi", "-i", "color=red:s=64x64,format=gbrpf32le", "-frames:v", "1", str(tmp_path / "a.exr")]
        subprocess.run([find_ffmpeg(), "-loglevel", "error", *made], check=True)
    clip = open_references([tmp_path / f"a.{suffix}"], tmp_path / "index").clip
    with clip.get_frame(0) as frame:
        assert frame.props["_Transfer"] == vs.TRANSFER_LINEAR
        if suffix == "hdr":
            assert np.asarray(frame[0])[0, 0] == pytest.approx(110.5 / 256, abs=0.003)


def test_a_picture_that_changes(folder: Path, tmp_path: Path) -> None:
    """A picture is read on request: one changed since is taken in the same size and refused in another."""
    clip = open_references([folder / "2.PNG"], tmp_path).clip
    film.make_png(folder / "2.PNG", 5)
    assert np.array_equal(array(clip.get_frame(0)), film.picture(5))
    open_changed = open_references([folder / "2.PNG"], tmp_path).clip
    film.make_png(folder / "2.PNG", 5, 48, 48)
    with pytest.raises(vs.Error, match=r"reference '.*2\.PNG' changed while it was used"):
        open_changed.get_frame(0)


def test_what_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("none of them\n" * 99)
    Image.fromarray(film.picture(2)).convert("L").save(tmp_path / "grey.png")
    film.make_film(tmp_path / "grey.mkv", (3,), sound=0, codec=["-c:v", "ffv1", "-pix_fmt", "yuv420p"])
    for paths, message in (
        (["grey.png"], r"reference '.*grey\.png' must have colours, this one is grey \(L\)"),
        (["grey.mkv"], r"reference '.*grey\.mkv' must have colours, its first frame is grey"),
        (["empty"], r"reference '.*empty' must be a picture, a clip or a folder of pictures, this folder holds none"),
        ([], "references must be one or more pictures or clips, got none"),
        (["notes.txt"], r"reference '.*notes\.txt' must be a film or a picture, this is text"),
    ):
        with pytest.raises(ValueError, match=message):
            open_references(listed([tmp_path / path for path in paths]), tmp_path / "index", stills=True)
    with pytest.raises(FileNotFoundError, match=r"reference '.*none\.png' must be a file, there is none"):
        open_references([tmp_path / "none.png"], tmp_path / "index")


def paths(*names: str) -> list[Path]:
    return [Path(name) for name in names]


def test_numbers() -> None:
    """Numbered references are in the order of frames, for any spelling, format and number of digits."""
    files = paths("b/ref_1000000.png", "a/REF_000020.JPG", "ref_000003.tif")
    assert listed(files) == files[::-1]
    assert numbers_of(listed(files)) == (3, 20, 1000000)
    for other in (["a.png", "b.png"], ["reference_12.png"], ["ref_000001.mkv"], ["my_ref_000001.png"]):
        assert numbers_of(paths(*other)) is None


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["ref_000000.png", "b.png"],
            r"reference 'b\.png' must be named by its frame, as others are \(ref_",
        ),
        (["a.png", "ref_12.png"], r"reference 'ref_12\.png' must be named by its frame in six digits \(ref_"),
        (["ref_000012 (1).png"], r"reference 'ref_000012 \(1\)\.png' must be named by its frame in six digits"),
        (
            ["ref_000007.jpg", "ref_000007.png"],
            r"reference 'ref_000007\.png' must have a number of its own, ",
        ),
        (
            ["ref_000007.jpg", "ref_000040.png"],
            r"reference 'ref_000040\.png' must be named by .* 0\.\.39",
        ),
    ],
)
def test_numbers_that_cannot_be(names: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        numbers_of(paths(*names), 40)


@pytest.mark.parametrize(("size", "fits"), [((96, 64), True), (((48, 32)), True), ((64, 64), True), ((80, 64), False)])
def test_coloured_frames_have_the_shape_of_the_film(tmp_path: Path, size: tuple[int, int], fits: bool) -> None:
    """A numbered reference may have the shape of stored or of shown frames, here with pixels of 2:3."""
    clip = core.std.BlankClip(width=96, height=64, length=1).std.SetFrameProps(_SARNum=2, _SARDen=3)
    files = [film.make_png(tmp_path / "ref_000000.png", 0), film.make_png(tmp_path / "ref_000009.png", 1, *size)]
    if fits:
        assert open_references(files, tmp_path, film=clip).clip.num_frames == 2
    else:
        with pytest.raises(ValueError, match=r"ref_000009\.png' must have the shape of the film, 96x64, .* got 80x64"):
            open_references(files, tmp_path, film=clip)
    assert open_references(files, tmp_path).clip.num_frames == 2


def test_a_scene_takes_its_first_reference_from_its_beginning() -> None:
    assert at_scenes([3, 20, 25, 60, 61], [0, 18, 40, 50]) == (0, 18, 25, 50, 61)
    assert at_scenes([30], [0]) == (0,)


class TestScripts:
    def test_numbered_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("VSEXVC_CACHE", str(tmp_path / "cache"))
        (tmp_path / "refs").mkdir()
        for seed, number in enumerate((4, 11)):
            film.make_png(tmp_path / "refs" / f"ref_{number:06}.png", seed)
        film_clip = core.std.BlankClip(format=vs.GRAY8, width=96, height=64, length=20)
        ref, frames = vsexvc.references(tmp_path / "refs", film_clip)
        assert (ref.num_frames, frames) == (2, [4, 11])
        assert np.array_equal(array(ref.get_frame(1)), film.picture(1))
        with pytest.raises(ValueError, match=r"ref_000011\.png' must be named by a frame of the film, 0\.\.9"):
            vsexvc.references(str(tmp_path / "refs"), film_clip[:10])

    def test_other_names(self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("VSEXVC_CACHE", str(tmp_path / "cache"))
        ref, frames = vsexvc.references([folder / "2.PNG", str(folder / "1.jpg")])
        assert frames is None and [ref.get_frame(n).width for n in (0, 1)] == [96, 60]

    def test_without_pillow(self) -> None:
        code = "import sys; sys.modules['PIL'] = None; import vsexvc; vsexvc.references"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.stderr.endswith("ImportError: references: PIL is not installed: pip install vsexvc[video]\n")


class TestFilter:
    """Test the filter with references that are partly transparent."""

    @pytest.fixture
    def clip(self) -> vs.VideoNode:
        blank = core.std.BlankClip(format=vs.GRAY8, width=96, height=64, length=2)
        luma = film.picture(0) @ np.array([0.2126, 0.7152, 0.0722])

        def draw(n: int, f: vs.VideoFrame) -> vs.VideoFrame:
            frame = f.copy()
            np.copyto(np.asarray(frame[0]), luma.astype(np.uint8))
            return frame

        return blank.std.ModifyFrame(blank, draw)

    def half(self, path: Path, colour: tuple[int, int, int]) -> Path:
        """Write a picture whose right half is that colour and transparent."""
        picture = np.dstack([film.picture(0), np.full((64, 96), 255, np.uint8)])
        picture[:, 48:] = (*colour, 0)
        Image.fromarray(picture).save(path)
        return path

    @pytest.mark.parametrize("propagate", [False, True])
    @pytest.mark.parametrize("output", ["color", "warped"])
    def test_what_is_transparent_lends_nothing(
        self, clip: vs.VideoNode, model: str, tmp_path: Path, propagate: bool, output: str
    ) -> None:
        """The result does not depend on the transparent half, and takes colours from the opaque one."""
        results = []
        for name, colour in (("black", (0, 0, 0)), ("magenta", (200, 60, 200))):
            ref = open_references([self.half(tmp_path / f"{name}.png", colour)], tmp_path).clip
            options = {"propagate": propagate, "output": output, "size": 64, "device": "cpu", "model": model}
            results.append([bytes(plane) for plane in vsexvc.colorize(clip, ref, **options).get_frame(1)])
        assert results[0] == results[1]
        assert set(results[0][1]) != {128}

    def test_a_reference_without_colours_is_said(self, clip: vs.VideoNode, model: str) -> None:
        told: list[str] = []
        handle = core.add_log_handler(lambda level, text: told.append(text))
        try:
            grey = core.std.BlankClip(format=vs.RGB24, width=64, height=64, length=1, color=[90, 90, 90])
            vsexvc.colorize(clip, grey, size=64, device="cpu", model=model).get_frame(0)
        finally:
            core.remove_log_handler(handle)
        assert told[1:] == ["Colorize: frame 0 of ref has no colours: frames with it stay grey"]

    def test_not_with_the_preset(self, clip: vs.VideoNode, model: str, tmp_path: Path) -> None:
        ref = open_references([self.half(tmp_path / "a.png", (0, 0, 0))], tmp_path).clip
        coloured = vsexvc.colorize(clip, ref, preset="upstream", device="cpu", model=model)
        with pytest.raises(vs.Error, match="ref: must be opaque with preset 'upstream'"):
            coloured.get_frame(0)


def test_commands_say_what_they_skip(tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Commands name the files that they skip in a film's folder and in a folder of references."""
    for folder, names in (("scan", ("reel_007.png", "reel_008.png")), ("refs", ("a.png", "b.png"))):
        (tmp_path / folder).mkdir()
        for seed, name in enumerate(names):
            film.make_png(tmp_path / folder / name, seed)
        (tmp_path / folder / "notes.txt").write_text("nothing")
        (tmp_path / folder / f"._{names[0]}").write_bytes(b"\0")
    about_scan = "vsexvc: skipped in scan: ._reel_007.png, notes.txt"
    scan, refs, page = (str(tmp_path / name) for name in ("scan", "refs", "page.html"))
    network = ["--model", model, "--size", "64", "--device", "cpu"]
    for arguments in (
        ["scenes", scan],
        ["keyframes", scan, "-o", str(tmp_path / "keys"), *network],
        ["compare", scan, "--ref", refs, "-o", page, *network],
    ):
        assert main(arguments) == 0
        told = capsys.readouterr().err.splitlines()
        assert about_scan in told
        assert ("vsexvc: skipped in refs: ._a.png, notes.txt" in told) == (arguments[0] == "compare")
    assert main(["scenes", scan, "--json"]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {"event": "note", "text": about_scan.removeprefix("vsexvc: ")} in events


def test_render_says_what_it_skips(tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`render` names skipped files once if two scenes of a plan share the folder."""
    for folder, names in (("scan", ("reel_007.png", "reel_008.png")), ("refs", ("ref_000000.png", "ref_000001.png"))):
        (tmp_path / folder).mkdir()
        for seed, name in enumerate(names):
            film.make_png(tmp_path / folder / name, seed)
    (tmp_path / "refs" / "notes.txt").write_text("nothing")
    scenes = "".join(f'[[scene]]\nfirst = {first}\nreference = "refs"\n' for first in range(2))
    (tmp_path / "plan.toml").write_text(f'source = "scan"\nframes = 2\n{scenes}')
    network = ["--model", model, "--size", "64", "--device", "cpu", "--preset", "ultrafast"]
    command = ["render", str(tmp_path / "scan"), "-o", str(tmp_path / "out.mkv"), "--plan", str(tmp_path / "plan.toml")]
    assert main([*command, *network]) == 0
    assert capsys.readouterr().err.splitlines().count("vsexvc: skipped in refs: notes.txt") == 1
