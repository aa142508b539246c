"""Find the colour profile of a picture: the embedded one, or one made of the numbers that the file states.

PNG states a gamma and chromaticities (gAMA, cHRM); cameras state Adobe RGB by the interoperability index of EXIF.
Pillow does not read the profile of a JPEG 2000 file.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

Chromaticities = tuple[float, ...]  # x and y of white, red, green and blue

_SRGB = (0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
_ADOBE = (0.3127, 0.3290, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06), 563 / 256
_SRGB_GAMMA = 2.2
_NEAR_GAMMA, _NEAR = 0.1, 0.01  # differences up to which numbers mean sRGB
_OF_ADOBE = "R03"  # EXIF's interoperability index of Adobe RGB
_JP2_HEADER, _JP2_COLOUR, _JP2_ICC = b"jp2h", b"colr", (2, 3)  # boxes, and the methods that are profiles
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
_D50 = np.array([0.9642, 1.0, 0.8249])


def profile_of(image: Image.Image) -> bytes | None:
    """Return the ICC profile of an open picture; None: it is in sRGB, or states its colours in another way."""
    embedded: bytes | None = image.info.get("icc_profile")
    if embedded:
        return embedded
    if image.format == "JPEG2000":
        return _of_jpeg2000(image)
    if image.format == "PNG" and "srgb" not in image.info:
        return _of_numbers(image.info.get("gamma"), image.info.get("chromaticity"))
    if image.format in ("JPEG", "MPO"):
        return matrix_profile(*_ADOBE) if _is_adobe(image) else None
    return None


def _is_adobe(image: Image.Image) -> bool:
    try:
        interop = image.getexif().get_ifd(ExifTags.IFD.Interop)
    except Exception:  # damaged metadata raises errors of any type
        return False
    return interop.get(ExifTags.Interop.InteropIndex) == _OF_ADOBE


def _of_numbers(exponent: float | None, stated: Chromaticities | None) -> bytes | None:
    """Return a profile for what a PNG states; None where that is sRGB. exponent: of the encoding, as 0.45455."""
    gamma = _SRGB_GAMMA if not exponent or exponent <= 0 else 1 / exponent
    points = _SRGB if stated is None or len(stated) != len(_SRGB) or min(stated[1::2]) <= 0 else tuple(stated)
    is_near = max(abs(a - b) for a, b in zip(points, _SRGB, strict=True)) <= _NEAR
    return None if is_near and abs(gamma - _SRGB_GAMMA) <= _NEAR_GAMMA else matrix_profile(points, gamma)


def _of_jpeg2000(image: Image.Image) -> bytes | None:
    """Return the profile in the header of a JP2 file."""
    file = getattr(image, "fp")  # noqa: B009  (of ImageFile)
    file.seek(0)
    content = file.read()
    for kind, header in _boxes(content):
        for inner, body in _boxes(header) if kind == _JP2_HEADER else ():
            if inner == _JP2_COLOUR and body[:1] and body[0] in _JP2_ICC:
                return body[3:]
    return None


def _boxes(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the kind and the content of each box; none of a bare codestream."""
    place = 0
    while place + 8 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, place)
        head = 8
        if length == 1 and place + 16 <= len(content):
            length, head = struct.unpack_from(">Q", content, place + 8)[0], 16
        stop = len(content) if length == 0 else place + length
        if stop < place + head:
            return
        yield kind, content[place + head : stop]
        place = stop


def matrix_profile(points: Chromaticities, gamma: float) -> bytes:
    """Make an ICC profile (version 2) of RGB with these primaries and this gamma. points: see Chromaticities."""
    white, *primaries = (
        np.array([x / y, 1.0, (1.0 - x - y) / y]) for x, y in zip(points[::2], points[1::2], strict=True)
    )
    columns = np.stack(primaries, axis=1)
    adapted = np.linalg.inv(_BRADFORD) @ np.diag((_BRADFORD @ _D50) / (_BRADFORD @ white)) @ _BRADFORD
    matrix = adapted @ (columns * np.linalg.solve(columns, white))
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256))
    name = b"RGB\0"
    tags = {
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", len(name)) + name + bytes(78),
        b"cprt": b"text\0\0\0\0none\0",
        b"wtpt": _xyz(_D50),
        **{letter + b"XYZ": _xyz(matrix[:, n]) for n, letter in enumerate((b"r", b"g", b"b"))},
        **{letter + b"TRC": curve for letter in (b"r", b"g", b"b")},
    }
    table, body = struct.pack(">I", len(tags)), b""
    for tag, value in tags.items():
        table += tag + struct.pack(">II", 132 + 12 * len(tags) + len(body), len(value))
        body += value + bytes(-len(value) % 4)
    head = struct.pack(">I4xI", 128 + len(table) + len(body), 0x02400000) + b"mntrRGB XYZ "
    head = head.ljust(36, b"\0") + b"acsp" + bytes(28) + _xyz(_D50)[8:]
    return head.ljust(128, b"\0") + table + body


def _xyz(values: NDArray[np.float64]) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(float(value) * 65536) for value in values))
