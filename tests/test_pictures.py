"""Test pictures.py: one picture in every format, orientation and colour space; damaged, grey and transparent files."""

from __future__ import annotations

import io
import re
import struct
import zlib
from pathlib import Path

import film
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms, TiffImagePlugin

from vsexvc.film import pictures

TURNED = {  # the stored picture for each of EXIF's orientations
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
    8: lambda a: np.rot90(a, -1),
}
FORMATS = {
    "jpg": {"quality": 95, "subsampling": 0},
    "png": {},
    "webp": {"lossless": True},
    "tif": {},
    "tiff": {"compression": "jpeg", "quality": 95},
    "avif": {"quality": 95, "subsampling": "4:4:4"},
    "heic": {"quality": 95},
    "jxl": {"lossless": True},
}
PICTURE = film.picture(3, 72, 48)


def save(path: Path, image: Image.Image, **options: object) -> Path:
    """Save a picture; skip the test if Pillow lacks the format: AVIF, HEIF and JPEG XL are extras."""
    pictures._register()
    Image.init()
    if Image.registered_extensions().get(path.suffix) not in Image.SAVE:
        pytest.skip(f"Pillow writes no {path.suffix} here")
    image.save(path, **options)
    return path


def read(path: Path) -> NDArray[np.uint8]:
    still = pictures.read(path)
    assert still is not None
    return still.rgb


def distance(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    assert a.shape == b.shape
    return float(np.abs(a.astype(float) - b).mean())


@pytest.mark.parametrize("suffix", FORMATS)
def test_orientation(suffix: str, tmp_path: Path) -> None:
    """A picture is read upright for every stored orientation."""
    for number, stored in TURNED.items():
        exif = Image.Exif()
        exif[0x0112] = number
        image = Image.fromarray(np.ascontiguousarray(stored(PICTURE)))
        path = save(tmp_path / f"{number}.{suffix}", image, exif=exif.tobytes(), **FORMATS[suffix])
        assert distance(read(path), PICTURE) < 3


def profile(primaries: list[tuple[float, float]], gamma: float) -> bytes:
    """Return an ICC profile (version 2, matrix and gamma) of a space with the white of D65."""
    bradford = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
    d50, d65 = np.array([0.9642, 1, 0.8249]), np.array([0.3127 / 0.329, 1, 0.3583 / 0.329])
    columns = np.array([(x, y, 1 - x - y) for x, y in primaries]).T
    adapt = np.linalg.inv(bradford) @ np.diag((bradford @ d50) / (bradford @ d65)) @ bradford
    matrix = adapt @ (columns * np.linalg.solve(columns, d65))

    def xyz(values: NDArray[np.float64]) -> bytes:
        return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(v * 65536) for v in values))

    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    description = b"desc\0\0\0\0" + struct.pack(">I", 5) + b"test\0" + b"\0" * 79
    tags = {b"desc": description, b"cprt": b"text\0\0\0\0none\0\0\0\0", b"wtpt": xyz(d50)}
    tags |= {name + b"XYZ": xyz(matrix[:, i]) for i, name in enumerate((b"r", b"g", b"b"))}
    tags |= {name + b"TRC": curve for name in (b"r", b"g", b"b")}
    table, body = struct.pack(">I", len(tags)), b""
    for name, value in tags.items():
        table += name + struct.pack(">II", 132 + 12 * len(tags) + len(body), len(value))
        body += value + b"\0" * (-len(value) % 4)
    head = struct.pack(">I4xI", 132 + 12 * len(tags) - 4 + len(body) + 4, 0x02400000) + b"mntrRGB XYZ "
    head = head.ljust(36, b"\0") + b"acsp"
    head = head.ljust(68, b"\0") + struct.pack(">3i", *(round(v * 65536) for v in d50))
    return head.ljust(128, b"\0") + table + body


SPACES = {
    "Adobe RGB": ([(0.64, 0.33), (0.21, 0.71), (0.15, 0.06)], 2.19921875),
    "Display P3": ([(0.68, 0.32), (0.265, 0.69), (0.15, 0.06)], 2.2),
    "ProPhoto": ([(0.7347, 0.2653), (0.1596, 0.8404), (0.0366, 0.0001)], 1.8),
}


def expressed(rgb: NDArray[np.uint8], primaries: list[tuple[float, float]], gamma: float) -> NDArray[np.uint8]:
    """Convert sRGB to another space with the same white by the formulas."""

    def to_xyz(chromaticities: list[tuple[float, float]]) -> NDArray[np.float64]:
        columns = np.array([(x, y, 1 - x - y) for x, y in chromaticities]).T
        white = np.array([0.3127 / 0.329, 1, 0.3583 / 0.329])
        return columns * np.linalg.solve(columns, white)

    share = rgb / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    srgb = to_xyz([(0.64, 0.33), (0.3, 0.6), (0.15, 0.06)])
    other = linear @ (np.linalg.inv(to_xyz(primaries)) @ srgb).T
    return np.rint(255 * other.clip(0, 1) ** (1 / gamma)).astype(np.uint8)


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif", "avif"])
def test_profiles(space: str, suffix: str, tmp_path: Path) -> None:
    """A picture stored in another colour space is read as sRGB."""
    numbers = expressed(PICTURE, *SPACES[space])
    assert distance(numbers, PICTURE) > 3
    path = tmp_path / f"picture.{suffix}"
    save(path, Image.fromarray(numbers), icc_profile=profile(*SPACES[space]), **FORMATS[suffix])
    assert distance(read(path), PICTURE) < 2


def test_a_profile_in_jpeg_2000(tmp_path: Path) -> None:
    """The profile is read from the header's box colr, which Pillow ignores."""
    numbers, buffer = expressed(PICTURE, *SPACES["ProPhoto"]), io.BytesIO()
    Image.fromarray(numbers).save(buffer, "JPEG2000")
    content = buffer.getvalue()
    place, start = content.index(b"jp2h") - 4, content.index(b"colr") - 4
    size, length = (struct.unpack_from(">I", content, at)[0] for at in (place, start))
    colour = b"colr\x02\0\0" + profile(*SPACES["ProPhoto"])
    colour = struct.pack(">I", len(colour) + 4) + colour
    header = content[place + 4 : start] + colour + content[start + length : place + size]
    path = tmp_path / "a.jp2"
    path.write_bytes(content[:place] + struct.pack(">I", len(header) + 4) + header + content[place + size :])
    assert distance(numbers, PICTURE) > 3 and distance(read(path), PICTURE) < 2


@pytest.mark.parametrize(
    ("space", "is_other"),
    [
        (SPACES["Adobe RGB"], True),
        ((SPACES["Adobe RGB"][0], 1.0), True),
        (([(0.64, 0.33), (0.3, 0.6), (0.15, 0.06)], 2.2), False),
    ],
)
@pytest.mark.parametrize("srgb", [False, True])
def test_gamma_and_chromaticities_of_a_png(
    tmp_path: Path, space: tuple[list[tuple[float, float]], float], is_other: bool, srgb: bool
) -> None:
    """The chunks gAMA and cHRM of a PNG are applied, unless the file states sRGB or almost sRGB."""
    numbers, buffer = expressed(PICTURE, *space), io.BytesIO()
    Image.fromarray(numbers).save(buffer, "PNG")
    content, chunks = buffer.getvalue(), b""
    points = [0.3127, 0.329, *(value for point in space[0] for value in point)]
    for chunk in (
        b"sRGB\0" if srgb else b"tEXta\0b",
        b"gAMA" + struct.pack(">I", round(100000 / space[1])),
        b"cHRM" + struct.pack(">8I", *(round(100000 * value) for value in points)),
    ):
        chunks += struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    (tmp_path / "a.png").write_bytes(content[:33] + chunks + content[33:])
    expected = PICTURE if is_other and not srgb else numbers
    assert distance(read(tmp_path / "a.png"), expected) < 2


def test_adobe_rgb_of_a_camera(tmp_path: Path) -> None:
    """EXIF's interoperability index R03 means Adobe RGB, R98 sRGB, where a camera embeds no profile."""
    numbers = expressed(PICTURE, *SPACES["Adobe RGB"])
    for index, expected in ((b"R03", PICTURE), (b"R98", numbers)):
        first = struct.pack("<HHHIII", 1, 0x8769, 4, 1, 26, 0)
        inner = struct.pack("<HHHIII", 1, 0xA005, 4, 1, 44, 0)
        interop = struct.pack("<HHHI4sI", 1, 1, 2, 4, index + b"\0", 0)
        exif = b"Exif\0\0II*\0\x08\0\0\0" + first + inner + interop
        Image.fromarray(numbers).save(tmp_path / "a.jpg", exif=exif, quality=95, subsampling=0)
        assert distance(read(tmp_path / "a.jpg"), expected) < 2


def test_exif_that_cannot_be_read(tmp_path: Path) -> None:
    Image.fromarray(PICTURE).save(
        tmp_path / "a.jpg", exif=b"Exif\0\0garbage!garbage", quality=95, subsampling=0, dpi=(72, 72)
    )
    assert distance(read(tmp_path / "a.jpg"), PICTURE) < 2


def test_planes_that_pillow_misreads(tmp_path: Path) -> None:
    """A TIFF with separate planes of 16 bits, which Pillow reads as noise, is refused; one of 8 bits is read."""
    tifffile = pytest.importorskip("tifffile")
    planes = np.moveaxis(PICTURE, -1, 0)
    for bits, name in ((np.uint8, "a.tif"), (np.uint16, "b.tif")):
        scaled = planes.astype(bits) * (1 if bits == np.uint8 else 257)
        tifffile.imwrite(tmp_path / name, scaled, photometric="rgb", planarconfig="separate")
    assert np.array_equal(read(tmp_path / "a.tif"), PICTURE)
    with pytest.raises(
        ValueError, match=r"reference '.*b\.tif' cannot be read: .*separate planes .*: save it interleaved"
    ):
        read(tmp_path / "b.tif")


def test_a_profile_keeps_the_alpha(tmp_path: Path) -> None:
    alpha = np.zeros(PICTURE.shape[:2], np.uint8)
    alpha[:, 20:] = 200
    numbers = np.dstack([expressed(PICTURE, *SPACES["Adobe RGB"]), alpha])
    Image.fromarray(numbers).save(tmp_path / "a.png", icc_profile=profile(*SPACES["Adobe RGB"]))
    still = pictures.read(tmp_path / "a.png")
    assert still is not None and still.alpha is not None
    assert distance(still.rgb, PICTURE) < 2 and np.array_equal(still.alpha, alpha)


@pytest.mark.parametrize("broken", [b"none", profile(*SPACES["ProPhoto"])[:150]])
def test_a_profile_that_is_none(broken: bytes, tmp_path: Path) -> None:
    Image.fromarray(PICTURE).save(tmp_path / "a.png", icc_profile=broken)
    message = r"reference '.*a\.png' must have a colour profile for RGB, its own cannot be used \(.+\): save it in sRGB"
    with pytest.raises(ValueError, match=message):
        pictures.read(tmp_path / "a.png")


def test_colours_that_a_png_states_by_numbers(tmp_path: Path) -> None:
    """The chunk cICP of a PNG gives primaries and transfer; the filter itself refuses PQ."""
    buffer = io.BytesIO()
    Image.fromarray(PICTURE).save(buffer, "PNG")
    content = buffer.getvalue()
    for primaries, transfer in ((12, 13), (9, 16), (2, 2)):
        chunk = b"cICP" + bytes([primaries, transfer, 0, 1])
        data = content[:33] + struct.pack(">I", 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
        (tmp_path / "a.png").write_bytes(data + content[33:])
        still = pictures.read(tmp_path / "a.png")
        assert still is not None
        assert (still.primaries, still.transfer) == ((1, 13) if primaries == 2 else (primaries, transfer))


def test_other_models_of_colour(tmp_path: Path) -> None:
    image = Image.fromarray(PICTURE)
    image.convert("CMYK").save(tmp_path / "cmyk.jpg", quality=95)
    image.quantize(256).save(tmp_path / "palette.png")
    srgb, pcs = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    lab = ImageCms.profileToProfile(image, srgb, pcs, outputMode="LAB")
    assert lab is not None
    lab.save(tmp_path / "lab.tif")
    for name in ("cmyk.jpg", "palette.png", "lab.tif"):
        assert distance(read(tmp_path / name), PICTURE) < 4, name


@pytest.mark.parametrize("mode", ["RGBA", "P", "key"])
def test_alpha(mode: str, tmp_path: Path) -> None:
    image = Image.fromarray(np.dstack([PICTURE, np.full(PICTURE.shape[:2], 255, np.uint8)]))
    if mode == "RGBA":
        image.putalpha(Image.fromarray(np.tile(np.arange(72, dtype=np.uint8) * 3, (48, 1))))
        image.save(tmp_path / "a.png")
    elif mode == "P":
        image.convert("RGB").quantize(16).save(tmp_path / "a.png", transparency=3)
    else:
        flat = PICTURE.copy()
        flat[:, :30] = (255, 0, 255)
        Image.fromarray(flat).save(tmp_path / "a.png", transparency=(255, 0, 255))
    still = pictures.read(tmp_path / "a.png")
    assert still is not None and still.alpha is not None and still.alpha.shape == (48, 72)
    if mode == "RGBA":
        assert np.array_equal(still.alpha[0], np.arange(72) * 3) and np.array_equal(still.rgb, PICTURE)
    elif mode == "key":
        assert not still.alpha[:, :30].any() and still.alpha[:, 30:].min() == 255
    else:
        assert still.alpha.min() == 0 and still.alpha.max() == 255


def test_alpha_that_hides_nothing_or_all(tmp_path: Path) -> None:
    Image.fromarray(np.dstack([PICTURE, np.full((48, 72), 255, np.uint8)])).save(tmp_path / "a.png")
    still = pictures.read(tmp_path / "a.png")
    assert still is not None and still.alpha is None
    Image.fromarray(np.dstack([PICTURE, np.full((48, 72), 90, np.uint8)])).save(tmp_path / "b.png")
    with pytest.raises(ValueError, match=r"reference '.*b\.png' must show something, .* transparent everywhere"):
        pictures.read(tmp_path / "b.png")


GREY = np.repeat(PICTURE.mean(-1, keepdims=True).astype(np.uint8), 3, -1)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.tif", "L.png", "1.png", "LA.png", "16.png"])
def test_grey_is_refused_in_any_format(name: str, tmp_path: Path) -> None:
    image = Image.fromarray(GREY)
    if name[0] in "L1":
        image = image.convert("I;16" if name == "16.png" else name[:-4])
    image.save(tmp_path / name)
    with pytest.raises(ValueError, match=rf"reference '.*{re.escape(name)}' must have colours, .* grey \(\S+\)"):
        pictures.read(tmp_path / name)


def test_little_colour_is_colour(tmp_path: Path) -> None:
    """A small coloured part makes a picture coloured, unless that part is transparent."""
    some = GREY.copy()
    some[20:26, 30:36] = (150, 60, 60)
    Image.fromarray(some).save(tmp_path / "a.png")
    assert np.array_equal(read(tmp_path / "a.png"), some)
    alpha = np.full((48, 72), 255, np.uint8)
    alpha[20:26, 30:36] = 0
    Image.fromarray(np.dstack([some, alpha])).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="must have colours, this one is grey"):
        pictures.read(tmp_path / "a.png")


@pytest.mark.parametrize("suffix", [*FORMATS, "bmp", "gif", "tga", "ppm"])
def test_a_file_that_was_cut_off(suffix: str, tmp_path: Path) -> None:
    """A file cut off anywhere is refused, unless the picture itself is complete."""
    path = save(tmp_path / f"a.{suffix}", Image.fromarray(PICTURE), **FORMATS.get(suffix, {}))
    whole, content = read(path), path.read_bytes()
    refused = []
    for share in range(1, 20):
        path.write_bytes(content[: len(content) * share // 20])
        try:
            assert np.array_equal(read(path), whole), share
        except ValueError as error:
            refused.append(str(error))
    assert len(refused) >= 18
    assert all(re.fullmatch(rf"reference '.*a\.{suffix}' cannot be read: .+", line) for line in refused)


@pytest.mark.parametrize("name", ["film.mkv", "notes.txt", "a.exr"])
def test_what_is_no_picture_of_pillow(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"\x1aE\xdf\xa3 nothing that it knows" * 40)
    assert pictures.read(tmp_path / name) is None
    (tmp_path / "a.png").write_bytes(b"no picture, but named like one")
    with pytest.raises(ValueError, match=r"a\.png' cannot be read: it is damaged, or of a kind that Pillow does not"):
        pictures.read(tmp_path / "a.png")


def test_several_pictures_in_one_file(tmp_path: Path) -> None:
    """Files of several pages are refused; thumbnails and depth maps do not count as pages."""
    pages = [Image.fromarray(PICTURE), Image.fromarray(PICTURE[::-1].copy())]
    for name in ("a.gif", "a.tif", "a.webp"):
        pages[0].save(tmp_path / name, save_all=True, append_images=pages[1:])
        with pytest.raises(ValueError, match=rf"{name[2:]}' must be one picture, this file holds 2: save one of them"):
            pictures.read(tmp_path / name)
    pages[0].save(tmp_path / "a.mpo", save_all=True, append_images=pages[1:], quality=95)
    assert distance(read(tmp_path / "a.mpo"), PICTURE) < 3
    info = TiffImagePlugin.ImageFileDirectory_v2()
    info[254] = 1
    with TiffImagePlugin.AppendingTiffWriter(tmp_path / "b.tif", new=True) as file:
        pages[0].save(file, "TIFF")
        file.newFrame()
        pages[1].save(file, "TIFF", tiffinfo=info)
    assert np.array_equal(read(tmp_path / "b.tif"), PICTURE)
