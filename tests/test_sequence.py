"""Test film/sequence.py: numbered pictures as a film, against Pillow and numpy."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import film
import numpy as np
import pytest
import vapoursynth as vs
from numpy.typing import NDArray
from PIL import Image

from vsexvc.__main__ import main
from vsexvc.film import sequence, source

WIDTH, HEIGHT = 46, 33


def picture(seed: int, depth: int = 8) -> NDArray[np.generic]:
    kind = np.uint8 if depth == 8 else np.uint16
    return np.random.default_rng(seed).integers(0, 1 << depth, (HEIGHT, WIDTH), dtype=kind)


def planes(clip: vs.VideoNode, n: int) -> list[NDArray[np.generic]]:
    with clip.get_frame(n) as frame:
        return [np.asarray(plane).copy() for plane in frame]


def test_deep_grey_pictures_of_any_first_number(tmp_path: Path) -> None:
    for n in range(8, 12):
        Image.fromarray(picture(n, 16)).save(tmp_path / f"reel_{n}.{'png' if n % 2 else 'tif'}")
    (tmp_path / "._reel_8.png").write_bytes(b"of macOS")
    (tmp_path / "notes.txt").write_text("none of them")
    clip = sequence.open_sequence(tmp_path, Fraction(18))
    assert (clip.num_frames, clip.format.id, clip.fps) == (4, vs.GRAY16, 18)
    for n in range(4):
        assert np.array_equal(planes(clip, n)[0], picture(n + 8, 16))
    assert clip.get_frame(0).props["_Range"] == vs.RANGE_FULL
    (said, skipped) = sequence.notices(tmp_path, None)
    assert said.endswith("4 pictures, reel_8.tif to reel_11.png, at 24 frames a second (--fps names another rate)")
    assert skipped == f"skipped in {tmp_path.name}: ._reel_8.png, notes.txt"


@pytest.mark.parametrize(
    "suffix", ["png", "bmp", "tif", "tga", "webp", "ppm", "sgi", "pcx", "qoi", "jp2", "gif", "dds"]
)
def test_every_kind_of_picture(tmp_path: Path, suffix: str) -> None:
    for n in range(2):
        image = Image.fromarray(np.dstack([picture(3 * n + k) for k in range(3)]))
        image.save(tmp_path / f"{n}.{suffix}", **({"lossless": True} if suffix == "webp" else {}))
    clip = source.open_video(tmp_path, tmp_path / "none")
    assert clip.format.id == vs.RGB24 and clip.get_frame(1).props["_Matrix"] == vs.MATRIX_RGB
    for n in range(2):
        with Image.open(tmp_path / f"{n}.{suffix}") as image:
            expected = np.asarray(image.convert("RGB"))
        assert np.array_equal(np.dstack(planes(clip, n)), expected)


@pytest.mark.parametrize(("suffix", "pixels"), [("dpx", "gbrp10le"), ("exr", "gbrpf32le"), ("png", "rgb48be")])
def test_pictures_of_scanners(tmp_path: Path, suffix: str, pixels: str) -> None:
    """Pictures of more than 8 bits are read; linear light of EXR becomes sRGB."""
    ramp = np.tile(np.linspace(0, 65535, 64).astype(np.uint16), (16, 1))
    frame = av.VideoFrame.from_ndarray(np.dstack([ramp] * 3), format="rgb48le").reformat(format=pixels)
    for n in range(2):
        context = av.CodecContext.create(suffix, "w")
        context.width, context.height, context.pix_fmt, context.time_base = 64, 16, pixels, Fraction(1, 25)
        packets = [*context.encode(frame), *context.encode(None)]
        (tmp_path / f"a{n}.{suffix}").write_bytes(b"".join(map(bytes, packets)))
    clip = sequence.open_sequence(tmp_path)
    assert clip.format.id == vs.RGB48
    seen, expected = planes(clip, 1)[1][3] / 65535, np.linspace(0, 1, 64)
    if suffix == "exr":
        expected = np.where(expected <= 0.0031308, 12.92 * expected, 1.055 * expected ** (1 / 2.4) - 0.055)
    assert np.abs(seen - expected).max() < 0.004


@pytest.mark.parametrize(("suffix", "options"), [("bmp", {}), ("tif", {"compression": "jpeg", "quality": 100})])
def test_what_ffmpeg_misreads(tmp_path: Path, suffix: str, options: dict[str, object]) -> None:
    """Grey BMP and TIFF with JPEG inside are read right; ffmpeg reads them as coloured and as black."""
    Image.fromarray(picture(1)).save(tmp_path / f"0.{suffix}", **options)
    clip = sequence.open_sequence(tmp_path)
    with Image.open(tmp_path / f"0.{suffix}") as image:
        expected = np.asarray(image)
    assert clip.format.id == vs.GRAY8 and np.array_equal(planes(clip, 0)[0], expected)
    assert np.abs(expected.astype(int) - picture(1)).max() <= 4 * bool(options)


def test_deep_planes_of_tiff(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    expected = [picture(seed, 16) for seed in range(3)]
    tifffile.imwrite(tmp_path / "0.tif", np.stack(expected), photometric="rgb", planarconfig="separate")
    clip = sequence.open_sequence(tmp_path)
    assert clip.format.id == vs.RGB48 and np.array_equal(planes(clip, 0), expected)


@pytest.mark.parametrize(("suffix", "pixels"), [("ppm", "rgb48be"), ("jp2", "rgb48le"), ("jp2", "yuv444p12le")])
def test_kinds_whose_depth_pillow_does_not_tell(tmp_path: Path, suffix: str, pixels: str) -> None:
    deep = av.VideoFrame.from_ndarray(np.dstack([picture(k, 16) for k in range(3)]), format="rgb48le")
    frame = deep.reformat(format=pixels, dst_color_range="JPEG" if pixels.startswith("yuv") else None)
    for n in range(2):
        context = av.CodecContext.create({"jp2": "jpeg2000"}.get(suffix, suffix), "w")
        context.width, context.height, context.pix_fmt, context.time_base = WIDTH, HEIGHT, pixels, Fraction(1, 25)
        packets = [*context.encode(frame), *context.encode(None)]
        (tmp_path / f"{n}.{suffix}").write_bytes(b"".join(map(bytes, packets)))
    clip = sequence.open_sequence(tmp_path)
    assert clip.format.id == vs.RGB48 and len(np.unique(planes(clip, 1)[0])) > 256
    if pixels.startswith("rgb"):
        apart = np.array(planes(clip, 1), int) - [picture(k, 16) for k in range(3)]
        assert np.abs(apart).max() <= 8 * (suffix == "jp2")  # ffmpeg's encoder is not exact


@pytest.mark.parametrize("compression", ["zstd", "lzma"])
def test_compression_that_only_pillow_reads(tmp_path: Path, compression: str) -> None:
    """Deep grey keeps its depth; what Pillow would cut to 8 bits is refused."""
    try:
        Image.fromarray(picture(1, 16)).save(tmp_path / "0.tif", compression=compression)
    except (OSError, ValueError, RuntimeError):
        pytest.skip(f"this Pillow does not write {compression}")
    assert np.array_equal(planes(sequence.open_sequence(tmp_path), 0)[0], picture(1, 16))


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_samples_of_32_bits(tmp_path: Path, kind: type) -> None:
    Image.fromarray(np.linspace(0, 1, WIDTH * HEIGHT).reshape(HEIGHT, WIDTH).astype(kind)).save(tmp_path / "0.tif")
    clip = sequence.open_sequence(tmp_path)
    with pytest.raises(
        vs.Error, match=r"'0\.tif' cannot be read: its samples are too deep for Pillow: save it with 16 bits"
    ):
        clip.get_frame(0)


def test_exif_that_cannot_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for n in range(2):
        Image.fromarray(picture(n)).save(tmp_path / f"{n}.jpg", exif=b"Exif\0\0garbage!garbage", dpi=(72, 72))
    assert planes(sequence.open_sequence(tmp_path), 1)[0].shape == (HEIGHT, WIDTH)
    Image.fromarray(picture(2)).save(tmp_path / "2.tif")
    whole = bytearray((tmp_path / "2.tif").read_bytes())
    whole[-4:], tags = b"\xff\xff\xff\x7f", int.from_bytes(whole[4:8], "little")
    after = tags + 2 + 12 * int.from_bytes(whole[tags : tags + 2], "little")  # where the next page is said to be
    whole[after : after + 4] = (len(whole) - 6).to_bytes(4, "little")
    (tmp_path / "2.tif").write_bytes(whole)
    with pytest.raises(ValueError, match=r"'2\.tif' cannot be read"):
        sequence.open_sequence(tmp_path)


@pytest.mark.parametrize("suffix", ["tif", "gif"])
def test_several_pictures_in_one_file(tmp_path: Path, suffix: str) -> None:
    pages = [Image.fromarray(picture(seed)) for seed in range(2)]
    pages[0].save(tmp_path / f"0.{suffix}", save_all=True, append_images=pages[1:])
    with pytest.raises(ValueError, match=rf"'0\.{suffix}' must hold one picture, it holds 2"):
        sequence.open_sequence(tmp_path)


def test_grey_and_coloured_pictures_together(tmp_path: Path) -> None:
    """Grey and coloured pictures may be mixed, as ImageMagick stores black in one bit; grey becomes R = G = B."""
    Image.new("1", (WIDTH, HEIGHT)).save(tmp_path / "0.png")
    Image.fromarray(picture(1)).save(tmp_path / "1.png")
    Image.fromarray(np.dstack([picture(2)] * 3)).save(tmp_path / "2.png")
    clip = sequence.open_sequence(tmp_path)
    for n, expected in enumerate((np.zeros((HEIGHT, WIDTH)), picture(1), picture(2))):
        assert all(np.array_equal(plane, expected) for plane in planes(clip, n))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_upright(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(picture(5)).save(tmp_path / "1.png", exif=exif)
    from PIL import ImageOps

    with Image.open(tmp_path / "1.png") as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    assert np.array_equal(planes(sequence.open_sequence(tmp_path), 0)[0], expected)


def test_patterns(tmp_path: Path) -> None:
    for name in ("a_0009", "a_0010", "a_10000", "b_0001", "a_0011_copy"):
        Image.fromarray(picture(1)).save(tmp_path / f"{name}.png")
    with pytest.raises(ValueError, match=r"no gaps, 'a_0010\.png' is followed by 'a_10000\.png'"):
        sequence.listing(tmp_path / "a_%04d.png")
    (tmp_path / "a_10000.png").unlink()
    assert [file.name for file in sequence.listing(tmp_path / "a_%04d.png")] == ["a_0009.png", "a_0010.png"]
    assert [file.name for file in sequence.listing(tmp_path / "b_%04d.png")] == ["b_0001.png"]
    with pytest.raises(ValueError, match="there are none"):
        sequence.listing(tmp_path / "a_%d.png")  # a pattern without leading zeros
    with pytest.raises(ValueError, match=r"one run of numbered pictures, got .* name a pattern for one of the runs"):
        sequence.listing(tmp_path)
    (tmp_path / "a%d.png").touch()
    assert not sequence.is_sequence(tmp_path / "a%d.png")


def test_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"film '{tmp_path}' must be pictures numbered in their names, there are none"):
        sequence.listing(tmp_path)
    for n in (3, 4, 6):
        Image.fromarray(picture(n)).save(tmp_path / f"{n:03}.png")
    with pytest.raises(ValueError, match=r"must have no gaps, '004\.png' is followed by '006\.png'"):
        sequence.open_sequence(tmp_path)
    Image.fromarray(picture(5)[:-1]).save(tmp_path / "005.png")
    with pytest.raises(ValueError, match=r"one size, '003\.png' has 46x33, '005\.png' 46x32"):
        sequence.open_sequence(tmp_path)
    Image.fromarray(picture(5)).save(tmp_path / "005.png")
    whole = (tmp_path / "006.png").read_bytes()
    (tmp_path / "006.png").write_bytes(whole[: len(whole) // 2])
    clip = sequence.open_sequence(tmp_path)
    clip.get_frame(2)
    with pytest.raises(vs.Error, match=r"'006\.png' cannot be read"):
        clip.get_frame(3)
    with pytest.raises(ValueError, match=r"^frame 3 of the film cannot be read: .*'006\.png' cannot be read"):
        source.find_scenes(clip)
    (tmp_path / "006.png").write_text("no picture")
    with pytest.raises(ValueError, match=r"'006\.png' cannot be read"):
        sequence.open_sequence(tmp_path)
    Image.fromarray(picture(6)).save(tmp_path / "poster.png")
    with pytest.raises(ValueError, match=r"must be numbered pictures, 'poster\.png' has no number"):
        sequence.open_sequence(tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        sequence.listing(tmp_path / "none" / "%d.png")


def test_rendered(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`render` gives the same film for a folder and a pattern at a rate; `scenes` takes folders too."""
    scan = tmp_path / "scan"
    scan.mkdir()
    for n in range(60):
        wide = film.picture(n // 30, 96 + n % 30, 64)[:, n % 30 :]
        Image.fromarray(wide).convert("L").save(scan / f"f{n + 100:06}.png")
    colours = ["--ref", str(film.make_png(tmp_path / "0.png", 0)), "--model", model, "--size", "64", "--threads", "1"]
    quick = ["--preset", "ultrafast", "--fps", "23.976"]
    for name, out in ((scan, "a.mkv"), (scan / "f%06d.png", "b.mkv")):
        assert main(["render", str(name), "-o", str(tmp_path / out), *colours, *quick]) == 0
    assert (tmp_path / "a.mkv").read_bytes() == (tmp_path / "b.mkv").read_bytes()
    assert len(film.decoded(tmp_path / "a.mkv")) == 60
    with av.open(str(tmp_path / "a.mkv")) as made:
        assert made.streams.video[0].average_rate == Fraction(24000, 1001)
    assert "scan: 60 pictures, f000100.png to f000159.png, at 23.976 frames a second" in capsys.readouterr().err
    assert main(["scenes", str(scan), "-o", str(tmp_path / "plan.toml"), "--fps", "30"]) == 0
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()] == ["0", "30"]
    assert main(["render", str(tmp_path / "a.mkv"), "-o", str(tmp_path / "c.mkv"), *colours, "--fps", "24"]) == 1
    assert "--fps is for numbered pictures" in capsys.readouterr().err
