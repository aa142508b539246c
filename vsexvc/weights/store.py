"""Find, verify, load and save weights files.

A file is safetensors: every tensor of ColorizationNet under its own name, and in the metadata `vsexvc` (the format's
version), `config` (NetworkConfig as JSON) and the facts of the model card. The authors' released archive, or a folder
with its files, can be loaded as well (released.py), and `convert` makes a file of it. Loading executes no code, and
unpacks nothing to disk.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from weakref import WeakValueDictionary

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load as load_tensors
from safetensors.torch import save_file

from vsexvc.backends.options import ComputeOptions
from vsexvc.backends.prepare import prepared
from vsexvc.nets.config import NetworkConfig
from vsexvc.nets.network import ColorizationNet
from vsexvc.support.errors import first_line
from vsexvc.support.files import settle, sha256_of
from vsexvc.support.progress import notice
from vsexvc.support.system import replace
from vsexvc.support.threads import apart
from vsexvc.weights import catalog
from vsexvc.weights.fill import filled
from vsexvc.weights.released import (
    RELEASED,
    in_folder,
    is_archive,
    load_released,
)

DEFAULT = "exvc"
FORMAT = "1"
# Networks in use, which the filters of a process share; the last filter frees them.
_in_use: WeakValueDictionary[tuple[str, int, int, str, ComputeOptions | None], ColorizationNet] = WeakValueDictionary()


def folders() -> list[Path]:
    """Return the folders of shipped weights: inside the installed package, or the checkout's models/."""
    here = Path(__file__).resolve().parents[1]
    return [here / "models", here.parent / "models"]


def installed() -> dict[str, Path]:
    """Return the names that `load` accepts, with their files: downloaded and shipped ones."""
    places = [catalog.cache_folder(), *reversed(folders())]
    return {path.stem: path for folder in places for path in sorted(folder.glob("*.safetensors"))}


def find(model: str | None, auto_download: bool = False) -> Path:
    """Find the file of an installed model by its name, or a path to a file or folder.

    Args:
        model: the name or path; None: the default.
        auto_download: whether a known model that is missing is downloaded, with notices to stderr.

    Raises:
        ValueError: the name is unknown, or a download's hash differs.
        OSError: the file is missing or not downloaded, or a download failed.
    """
    known = installed()
    model = DEFAULT if model is None else model
    if not model:
        raise ValueError(f"model must be one of {', '.join(sorted(known))} or a path, got ''")
    if model in known:
        return known[model]
    path = Path(model).expanduser()
    if os.path.exists(path):  # noqa: PTH110 (Path's own raises for a name that is too long)
        return path
    if model in catalog.KNOWN and catalog.KNOWN[model].url is not None:
        if auto_download:
            return download(model)
        raise FileNotFoundError(
            f"model {model!r} must be downloaded first: python -m vsexvc download {model} (or auto_download=True)"
        )
    if path.suffix or len(path.parts) > 1:
        raise FileNotFoundError(f"model must be an existing weights file, got {str(model)!r}, which does not exist")
    names = sorted(known.keys() | catalog.KNOWN.keys())
    raise ValueError(f"model must be one of {', '.join(names)} or a path, got {model!r}")


def download(name: str, sha256: str | None = None) -> Path:
    """Download a known model into the user's cache: fetch, check, convert; the archive is removed.

    An undamaged file in the cache is kept. The first download records the archive's hash; every later one must have
    it.

    Args:
        name: of catalog.KNOWN.
        sha256: of the archive; overrides a recorded one.

    Raises:
        ValueError: the name is unknown; the hash differs from the given or recorded one; the archive holds something
            else (it is removed).
        OSError: see catalog.fetch; the cache cannot be written.
    """
    known = catalog.KNOWN.get(name)
    if known is None:
        raise ValueError(f"download: NAME must be one of {', '.join(sorted(catalog.KNOWN))}, got {name!r}")
    sha256 = None if sha256 is None else sha256.lower()
    if sha256 is not None and (len(sha256) != 64 or set(sha256) - set("0123456789abcdef")):
        raise ValueError(f"download: sha256 must be 64 digits 0-9a-f, got {sha256!r}")
    if known.url is None:
        return find(name)
    target = catalog.file_of(name)
    with catalog.cache_for(name):
        record = catalog.read_record(target)
        if target.exists() and record is not None and sha256_of(target) == record.sha256:
            if sha256 not in (None, record.archive_sha256):
                raise ValueError(
                    f"download {name}: sha256 must be that of the archive it was made of, {record.archive_sha256}, got "
                    f"{sha256}; remove {str(target)!r} to download it again"
                )
            return target
        if sha256 is not None:
            archive, seen = catalog.fetch(known, sha256)
        elif record is not None:
            archive, seen = catalog.fetch(
                known, record.archive_sha256, " as at the first download (--sha256 takes another)"
            )
        else:
            archive, seen = catalog.fetch(known, known.sha256)
        if record is None and sha256 is None and known.sha256 is None:
            notice(f"{name}: no hash is published; the archive's is from now on {seen}")
        fresh = target.with_name(target.name + ".new")
        try:
            _convert(archive, fresh, known.url, seen)
        except ValueError as error:
            archive.unlink()
            raise ValueError(f"{first_line(error)}; the archive is removed") from None
        try:  # the record first: a file without one would never be checked
            catalog.write_record(target, catalog.Record(known.url, seen, sha256_of(fresh)))
            replace(fresh, target)
        finally:
            fresh.unlink(missing_ok=True)
        archive.unlink()
    return target


def convert(source: Path, target: Path | None = None, half: bool = False) -> Path:
    """Convert the authors' archive or unpacked folder to one weights file.

    Args:
        source: the archive or folder, as for `load_released`.
        target: the file, *.safetensors; None: beside `source`, with its name.
        half: whether the file is in half precision: half the size, but different colours (32 to 59 dB of the released
            ones, with random weights).

    Raises:
        ValueError: the source is not the authors' release; the target's suffix differs.
        OSError: the source is missing, or the target cannot be written.
    """
    target = source.with_name(source.name.removesuffix(".zip") + ".safetensors") if target is None else target
    if target.suffix != ".safetensors":
        raise ValueError(f"convert: OUT must end in .safetensors, got {str(target)!r}")
    if not source.is_dir() and not is_archive(source):
        raise ValueError(f"convert: PATH must be the authors' zip or its unpacked folder, got {str(source)!r}")
    if source.is_dir():
        files = [in_folder(source, name) for name in RELEASED.values()]
        seen = ", ".join(f"{path.name} {sha256_of(path)}" for path in files)
    else:
        seen = sha256_of(source)
    _convert(source, target, source.name, seen, half)
    return target


def _convert(source: Path, target: Path, origin: str, sha256: str, half: bool = False) -> None:
    facts = {"licence": "MIT", "data": "the authors' own", "source": origin, "source_sha256": sha256}
    save(load_released(source), target, {**facts, "trained_size": "[216, 384]"}, half)


def save(network: ColorizationNet, path: Path, metadata: Mapping[str, str], half: bool = True) -> None:
    """Write a network in half or single precision, atomically. `config` and `vsexvc` are added to the metadata.

    Raises OSError where it cannot be written; nothing half-written stays.
    """
    dtype = torch.float16 if half else torch.float32
    tensors = {k: v.detach().to("cpu", dtype).contiguous() for k, v in network.state_dict().items()}
    partial = path.with_name(path.name + ".part")
    try:
        save_file(tensors, partial, {**metadata, "vsexvc": FORMAT, "config": network.config.to_json()})
        settle(partial, path)
    except SafetensorError as error:
        raise OSError(f"weights file {str(path)!r} cannot be written: {first_line(error)}") from None
    finally:
        partial.unlink(missing_ok=True)


def read_metadata(path: Path) -> dict[str, str]:
    """Read the metadata. Raise ValueError for a file of another kind, OSError for one that cannot be read."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(
            f"model {str(path)!r} must be a safetensors file; it is damaged or something else: {error}"
        ) from None
    if metadata.get("vsexvc") != FORMAT:
        raise ValueError(f"model {str(path)!r} must have format {FORMAT}, got {metadata.get('vsexvc', 'none')}")
    return metadata


def load(
    model: str | None = None, device: str | torch.device = "cpu", *, auto_download: bool = False
) -> ColorizationNet:
    """Load a network ready to use, in evaluation mode and float32.

    Args:
        model: a name of `installed()` or of catalog.KNOWN, a path, or None for the default.
        device: device of the network.
        auto_download: see `find`.

    Raises:
        ValueError: the name is unknown; the file is damaged; a tensor is missing, unknown, of another shape or not of
            floats.
        OSError: the file is missing, unreadable or not downloaded, or the download failed.
    """
    return load_file(find(model, auto_download)).to(device)


def shared(
    model: str | None = None,
    device: str | torch.device = "cpu",
    how: ComputeOptions | None = None,
    *,
    auto_download: bool = False,
) -> ColorizationNet:
    """Load as `load`, prepared as `how` says; a network in use with the same settings is shared."""
    path = find(model, auto_download)

    def ready() -> ColorizationNet:
        network = load_file(path).to(device)
        return network if how is None else prepared(network, how, catalog.cache_folder() / "engines")

    if path.is_dir():  # its files may change without the folder
        return apart(ready)
    status = path.stat()
    key = (str(path.resolve()), status.st_mtime_ns, status.st_size, str(torch.device(device)), how)
    network = _in_use.get(key)
    if network is None:
        network = _in_use[key] = apart(
            ready
        )  # else torch would keep a team of threads for the caller (support/threads.py)
    return network


def load_file(path: Path) -> ColorizationNet:
    if path.is_dir() or is_archive(path):
        return load_released(path)
    metadata = read_metadata(path)
    config = _config_of(path, metadata)
    content = path.read_bytes()  # safetensors 0.8 leaks a little with each file that it reads itself
    record = catalog.read_record(path)
    if record is not None and record.sha256 != (seen := hashlib.sha256(content).hexdigest()):
        raise ValueError(
            f"model {str(path)!r} is damaged: sha256 must be {record.sha256} as when it was downloaded, got {seen}; "
            f"python -m vsexvc download {path.stem} downloads it again"
        )
    try:
        tensors = load_tensors(content)
    except SafetensorError as error:
        raise ValueError(f"model {str(path)!r} is damaged: {error}") from None
    return filled(ColorizationNet(config), tensors, str(path))


def _config_of(path: Path, metadata: Mapping[str, str]) -> NetworkConfig:
    try:
        return NetworkConfig.from_json(metadata.get("config", ""))
    except ValueError as error:
        raise ValueError(f"model {str(path)!r} must state a valid configuration: {first_line(error)}") from None
