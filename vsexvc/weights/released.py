"""Read the authors' released checkpoint from their archive or its unpacked folder.

Nothing is unpacked to disk, and loading executes no code.
"""

from __future__ import annotations

import io
import pickle
import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor

from vsexvc.nets.config import NetworkConfig
from vsexvc.nets.network import ColorizationNet
from vsexvc.support.errors import first_line
from vsexvc.weights.fill import filled

RELEASED = {"features": "vgg19_conv", "correspondence": "nonlocal_net", "color": "colornet"}
RELEASED_CONFIG = NetworkConfig(temperature=1e-10)  # in effect the arg max, as in their inference
_LARGEST = 300 << 20  # bytes of one released file, unpacked: twice the largest, the colour net's


ZIP, OLD_PICKLE = b"PK\x03\x04", b"\x80\x02\x8a\n"  # first bytes of torch's files, since 1.6 and before


_UNUSED_VGG = ("conv5_3.weight", "conv5_3.bias", "conv5_4.weight", "conv5_4.bias")


def load_released(source: Path) -> ColorizationNet:
    """Load the authors' checkpoint: nonlocal_net*.pth, colornet*.pth and vgg19_conv.pth in a folder or zip archive.

    The files are at most two levels below. The temperature is that of their inference, in effect the arg max.

    Raises ValueError for wrong keys, shapes or kinds of numbers and for an untrusted archive, OSError
    where a file of a folder is missing.
    """
    tensors: dict[str, Tensor] = {}
    for part, (label, content) in zip(RELEASED, _released_files(source), strict=True):
        state = state_dict(content, label, _LARGEST)
        tensors |= {f"{part}.{k}": v for k, v in state.items() if part != "features" or k not in _UNUSED_VGG}
    return filled(ColorizationNet(RELEASED_CONFIG), tensors, str(source))


def is_archive(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == ZIP


def in_folder(folder: Path, name: str) -> Path:
    paths = sorted(path for depth in ("", "*/", "*/*/") for path in folder.glob(f"{depth}{name}*.pth"))
    if not paths:
        raise FileNotFoundError(f"model folder {str(folder)!r} must hold {name}*.pth, which is missing")
    return paths[-1]


def _released_files(source: Path) -> Iterator[tuple[str, bytes]]:
    """Yield for each of RELEASED its name in errors, and its content."""
    if source.is_dir():
        for path in (in_folder(source, name) for name in RELEASED.values()):
            check_size(path.stat().st_size, str(path), _LARGEST)
            yield str(path), path.read_bytes()
        return
    with opened_archive(source) as archive:
        for name in RELEASED.values():
            members = sorted(m.filename for m in archive.infolist() if _is_released(m.filename, name))
            if not members:
                raise ValueError(f"model archive {str(source)!r} must hold {name}*.pth, which is missing")
            size = archive.getinfo(members[-1]).file_size
            with archive.open(members[-1]) as file:  # read() returns up to 2 GB of a member with a wrong length
                content = file.read(size)
            yield f"{source}/{members[-1]}", content


def _is_released(member: str, name: str) -> bool:
    path = PurePosixPath(member)
    return path.match(f"{name}*.pth") and len(path.parts) <= 3


@contextmanager
def opened_archive(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open a zip archive, to read its members in memory. Nothing is unpacked to disk.

    Raises:
        ValueError: a member's path points outside of the archive's folder; a member is too large; the archive is
            damaged, which is also found while members are read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                name = member.filename
                if name.startswith(("/", "\\")) or ".." in name.replace("\\", "/").split("/") or name[1:2] == ":":
                    raise ValueError(f"model archive {str(path)!r} holds {name!r}, which points outside of it")
                if stat.S_ISLNK(member.external_attr >> 16):
                    raise ValueError(f"model archive {str(path)!r} holds {name!r}, which is a link")
                if any(_is_released(name, wanted) for wanted in RELEASED.values()):
                    check_size(member.file_size, f"{path}/{name}", _LARGEST)
            yield archive
    except (zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, EOFError, RuntimeError) as error:
        # RuntimeError: encrypted, or compressed by a method that zipfile does not support
        raise ValueError(f"model archive {str(path)!r} is damaged: {first_line(error)}") from None


def check_size(size: int, label: str, largest: int) -> None:
    if size > largest:
        raise ValueError(f"model {label!r} must have at most {largest} bytes, it has {size}")


def state_dict(content: bytes, label: str, largest: int) -> dict[str, Tensor]:
    if content.startswith(ZIP):  # torch's files are archives too, and torch unpacks any size
        try:
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                check_size(sum(member.file_size for member in archive.infolist()), label, largest)
        except zipfile.BadZipFile as error:
            raise ValueError(f"model {label!r} is damaged: {first_line(error)}") from None
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:  # its text advises running the file's code
        raise ValueError(f"model {label!r} is damaged or not a plain state dict: it holds more than tensors") from None
    except Exception as error:  # torch raises many kinds of errors for damaged files
        raise ValueError(f"model {label!r} is damaged or not a plain state dict: {first_line(error)}") from None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"model {label!r} must be a state dict of tensors, got {type(state).__name__}")
    return {str(key).removeprefix("module."): value for key, value in state.items()}
