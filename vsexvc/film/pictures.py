"""Read still pictures with Pillow as they are meant to be shown: upright, in sRGB, with their transparency.

This module does not depend on VapourSynth; references.py makes clips of the pictures.
"""

from __future__ import annotations

import importlib
import io
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from vsexvc.film.profiles import profile_of
from vsexvc.support.errors import first_line

# Pillow's names of the formats that are accepted. TGA has no signature: only its suffix identifies it.
_FORMATS = (
    "AVIF",
    "BMP",
    "DDS",
    "GIF",
    "HEIF",
    "JPEG",
    "JPEG2000",
    "JXL",
    "MPO",
    "PCX",
    "PNG",
    "PPM",
    "PSD",
    "QOI",
    "SGI",
    "TIFF",
    "WEBP",
)
# Suffixes of a folder's files that are taken for pictures.
SUFFIXES = (
    *(".avif", ".bmp", ".dds", ".dpx", ".exr", ".gif", ".heic", ".heif", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg"),
    *(".jpg", ".jxl", ".pbm", ".pcx", ".pgm", ".png", ".pnm", ".ppm", ".psd", ".qoi", ".sgi", ".tga", ".tif", ".tiff"),
    ".webp",
)
_PLUGINS = {"pillow_heif": "register_heif_opener", "pillow_jxl": ""}  # modules, and the functions that register them
GREY_MODES = ("1", "L", "LA", "La", "F", "I", "I;16", "I;16B", "I;16L", "I;16N")
_LEAST_COLOUR = 6  # largest difference of R, G and B, 0..255, of a grey surface: lossy files are not exact
_SURFACES = 64  # surfaces along the shorter side of a picture, in the search for colours
_RELATIVE = ImageCms.Intent.RELATIVE_COLORIMETRIC
_UNSPECIFIED, _BT709, _SRGB = 2, 1, 13  # of ITU-T H.273
_NAMED = 3  # files that a notice names
_BITS, _PLANAR = 258, 284  # tags of TIFF
_ORIENTATION = 0x0112  # of EXIF
_HEAD = 1 << 16  # first bytes of a file, which hold its tags


@dataclass(frozen=True)
class Still:
    """Hold a picture.

    Attributes:
        rgb: (H, W, 3), in sRGB where primaries and transfer do not say otherwise.
        alpha: (H, W), 0 transparent .. 255 opaque; None: the picture is opaque.
        primaries, transfer: numbers of ITU-T H.273 that the file states in place of a profile.
    """

    rgb: NDArray[np.uint8]
    alpha: NDArray[np.uint8] | None
    primaries: int = _BT709
    transfer: int = _SRGB


def read(path: Path) -> Still | None:
    """Read a picture; return None for a file that Pillow recognises neither by content nor by name, such as a film.

    Args:
        path: of the file. Its EXIF orientation is applied, its colour profile is converted to sRGB.

    Raises:
        OSError: the file cannot be opened.
        ValueError: the file is damaged or truncated, holds several pictures, or has a colour profile that cannot be
            used, or 16-bit planes; the picture is grey, or transparent everywhere.
    """
    what = f"reference {str(path)!r}"
    try:
        image, count, profile = _loaded(path)
    except UnidentifiedImageError:
        if Image.registered_extensions().get(path.suffix.lower()) in _FORMATS:
            raise ValueError(
                f"{what} cannot be read: it is damaged, or of a kind that Pillow does not read (such as float TIFF)"
            ) from None
        return None
    except Exception as error:  # decoders raise errors of any type
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise ValueError(f"{what} cannot be read: {first_line(error)}") from None
    if count > 1:
        raise ValueError(f"{what} must be one picture, this file holds {count}: save one of them as a file")
    if image.mode in GREY_MODES:
        raise ValueError(f"{what} must have colours, this one is grey ({image.mode})")
    colour, alpha = _parts(image)
    rgb = np.asarray(_in_srgb(what, colour, profile))
    if alpha is not None and alpha.min() == 255:
        alpha = None
    if alpha is not None and alpha.max() < 128:
        raise ValueError(f"{what} must show something, this one is transparent everywhere")
    if is_grey(rgb, alpha):
        raise ValueError(f"{what} must have colours, this one is grey ({image.mode})")
    return Still(rgb, alpha) if profile else Still(rgb, alpha, *_stated(path))


def _loaded(path: Path) -> tuple[Image.Image, int, bytes | None]:
    """Return the picture, upright, how many the file holds, and its profile. Raise whatever Pillow raises."""
    with opened(path) as image:
        count = count_of(image)
        if tags_of(image).get(_PLANAR, 1) == 2 and is_deep(image):
            raise ValueError("Pillow reads no TIFF with separate planes of more than 8 bits: save it interleaved")
        profile = profile_of(image)
        image.load()
        return image if orientation_of(image) == 1 else ImageOps.exif_transpose(image), count, profile


def opened(path: Path) -> Image.Image:
    """Open a picture of one of the accepted formats, without decoding it. Raise whatever Pillow raises."""
    _register()
    Image.init()
    known = [name for name in _FORMATS if name in Image.OPEN]
    return Image.open(path, formats=[*known, "TGA"] if path.suffix.lower() == ".tga" else known)


def is_picture(file: Path) -> bool:
    """Return whether a folder's file is taken for a picture, by its name. Hidden files are not."""
    return file.suffix.lower() in SUFFIXES and not file.name.startswith(".") and file.is_file()


def passed_over(folder: Path) -> list[str]:
    """Return a notice about a folder's files that are not taken for pictures; none if there are none."""
    names = sorted(file.name for file in folder.iterdir() if not is_picture(file))
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return [f"skipped in {folder.name}: {', '.join(names[:_NAMED])}{more}"] if names else []


def _register() -> None:
    """Register HEIF and JPEG XL with Pillow, if their packages are installed."""
    for module, opener in _PLUGINS.items():
        with suppress(ImportError):
            plugin = importlib.import_module(module)
            if opener:
                getattr(plugin, opener)()


def orientation_of(image: Image.Image) -> int:
    """Return EXIF's number for the orientation, 1..8; 1 (upright) where a picture states none that can be read."""
    try:
        number = Image.Image.getexif(image).get(_ORIENTATION, 1)  # PngImageFile.getexif would decode the picture
    except Exception:  # damaged metadata raises errors of any type
        return 1
    return number if number in range(1, 9) else 1


def tags_of(image: Image.Image) -> Any:
    """Return the tags of a TIFF, a mapping by number; none of another format."""
    return getattr(image, "tag_v2", {})


def is_deep(image: Image.Image) -> bool:
    """Return whether a TIFF states samples of more than 8 bits; its mode in Pillow does not tell."""
    return bool(max(tags_of(image).get(_BITS, (8,))) > 8)


def count_of(image: Image.Image) -> int:
    """Count the pictures of a file, without thumbnails in a TIFF and depth maps in a phone's JPEG."""
    count = getattr(image, "n_frames", 1)
    if image.format != "TIFF":
        return 1 if image.format in ("MPO", "PSD") else count
    reduced = 0
    for number in range(1, count):
        image.seek(number)
        reduced += image.tag_v2.get(254, 0) & 1  # type: ignore[attr-defined] # NewSubfileType
    image.seek(0)
    return count - reduced


def _parts(image: Image.Image) -> tuple[Image.Image, NDArray[np.uint8] | None]:
    """Return a picture's colours, and its alpha if it has one."""
    if image.mode in ("P", "PA", "RGBa") or "transparency" in image.info:
        has_alpha = image.mode != "P" or "transparency" in image.info
        image = image.convert("RGBA" if has_alpha else "RGB")
    if image.mode != "RGBA":
        return image, None
    return image.convert("RGB"), np.asarray(image.getchannel("A"))


def _in_srgb(what: str, image: Image.Image, profile: bytes | None) -> Image.Image:
    """Convert a picture to sRGB. Raise ValueError if its profile does not fit its kind."""
    if profile is None and image.mode != "LAB":
        return image.convert("RGB")
    try:
        source = ImageCms.createProfile("LAB") if profile is None else ImageCms.ImageCmsProfile(io.BytesIO(profile))
        target = ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, source, target, renderingIntent=_RELATIVE, outputMode="RGB")
    except (ImageCms.PyCMSError, OSError) as error:
        raise ValueError(
            f"{what} must have a colour profile for {image.mode}, its own cannot be used ({first_line(error)}): "
            "save it in sRGB"
        ) from None
    assert converted is not None
    return converted


def _stated(path: Path) -> tuple[int, int]:
    """Return the primaries and transfer that an AVIF, HEIF or PNG states without a profile."""
    with path.open("rb") as file:
        head = file.read(_HEAD)
    for name, width in ((b"colrnclx", 2), (b"cICP", 1)):
        place = head.find(name)
        if place >= 0:
            start = place + len(name)
            primaries, transfer = (int.from_bytes(head[start + i * width :][:width], "big") for i in (0, 1))
            return (
                _BT709 if primaries == _UNSPECIFIED else primaries,
                _SRGB if transfer == _UNSPECIFIED else transfer,
            )
    return _BT709, _SRGB


def is_grey(rgb: NDArray[np.uint8], alpha: NDArray[np.uint8] | None = None) -> bool:
    """Return whether a picture has no colours. rgb, alpha: see Still."""
    shown = rgb if alpha is None else np.where(alpha[..., None] < 128, np.uint8(0), rgb)
    image = Image.fromarray(shown)
    small = np.asarray(image.reduce(max(1, min(image.size) // _SURFACES))).astype(int)
    return bool((small.max(-1) - small.min(-1)).max() <= _LEAST_COLOUR)
