"""Weights files: find, verify, load, save. The only room that knows paths and file formats of networks.

A file is safetensors: every tensor of ColorizationNet under its own name, and in the metadata `vsexvc` (the format's
version), `config` (NetworkConfig as JSON) and what the model card repeats. A folder with the authors' released files
(see `load_released`) loads as well. Loading executes no code.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from weakref import WeakValueDictionary

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load as load_tensors
from safetensors.torch import save_file
from torch import Tensor

from vsexvc.config import NetworkConfig
from vsexvc.network import ColorizationNet

DEFAULT = "exvc-small"
FORMAT = "1"
_RELEASED = {"correspondence": "nonlocal_net", "color": "colornet"}
# Networks in use, so that the filters of a process share them: gone with the last of them.
_in_use: WeakValueDictionary[tuple[str, int, int, str], ColorizationNet] = WeakValueDictionary()
_UNUSED_VGG = ("conv5_3.weight", "conv5_3.bias", "conv5_4.weight", "conv5_4.bias")


def folders() -> list[Path]:
    """Where shipped weights lie: inside the installed package, or in the checkout's models/."""
    here = Path(__file__).resolve().parent
    return [here / "models", here.parent / "models"]


def installed() -> dict[str, Path]:
    """Names that `load` accepts, with their files."""
    return {path.stem: path for folder in reversed(folders()) for path in sorted(folder.glob("*.safetensors"))}


def find(model: str | None) -> Path:
    """A name of an installed model, or a path to a file or folder. Raises ValueError (unknown) or OSError (missing)."""
    known = installed()
    model = DEFAULT if model is None else model
    if not model:
        raise ValueError(f"model must be one of {', '.join(sorted(known))} or a path, got ''")
    if model in known:
        return known[model]
    path = Path(model).expanduser()
    if os.path.exists(path):  # noqa: PTH110 (Path's own raises for a name that is too long)
        return path
    if path.suffix or len(path.parts) > 1:
        raise FileNotFoundError(f"model must be an existing weights file, got {str(model)!r}, which is not there")
    raise ValueError(f"model must be one of {', '.join(sorted(known)) or '(none installed)'} or a path, got {model!r}")


def save(network: ColorizationNet, path: Path, metadata: Mapping[str, str]) -> None:
    """Writes a network in half precision, atomically. `config` and `vsexvc` are added to the metadata."""
    tensors = {k: v.detach().to("cpu", torch.float16).contiguous() for k, v in network.state_dict().items()}
    partial = path.with_name(path.name + ".part")
    save_file(tensors, partial, {**metadata, "vsexvc": FORMAT, "config": network.config.to_json()})
    partial.replace(path)


def read_metadata(path: Path) -> dict[str, str]:
    """Raises ValueError for a file that is not one of ours, OSError for one that cannot be read."""
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


def load(model: str | None = None, device: str | torch.device = "cpu") -> ColorizationNet:
    """A network ready to use, in evaluation mode and float32.

    Args:
        model: a name of `installed()`, a path, or None for the default.
        device: where to put it.

    Raises:
        ValueError: unknown name; damaged file; a tensor that is missing, unknown or of another shape.
        OSError: no such file, or unreadable.
    """
    path = find(model)
    if path.is_dir():
        return load_released(path).to(device)
    metadata = read_metadata(path)
    try:
        config = NetworkConfig.from_json(metadata.get("config", ""))
    except ValueError as error:
        raise ValueError(f"model {str(path)!r} must state a valid configuration: {first_line(error)}") from None
    try:
        # From bytes: safetensors 0.8 leaks a little with each file that it reads itself.
        tensors = {key: value.float() for key, value in load_tensors(path.read_bytes()).items()}
    except SafetensorError as error:
        raise ValueError(f"model {str(path)!r} is damaged: {error}") from None
    return _filled(ColorizationNet(config), tensors, str(path)).to(device)


def shared(model: str | None = None, device: str | torch.device = "cpu") -> ColorizationNet:
    """As `load`; the network that is in use already where that was loaded from the same file to the same device."""
    path = find(model)
    if path.is_dir():  # whose files change without it
        return load(model, device)
    stat = path.stat()
    key = (str(path.resolve()), stat.st_mtime_ns, stat.st_size, str(torch.device(device)))
    network = _in_use.get(key)
    if network is None:
        network = _in_use[key] = load(model, device)
    return network


def load_released(folder: Path) -> ColorizationNet:
    """The authors' checkpoint, unpacked: nonlocal_net*.pth, colornet*.pth and vgg19_conv.pth in `folder` or below it.

    Two levels below at most. With the temperature that they use for inference, in effect the arg max.

    Raises ValueError for wrong keys or shapes, OSError where a file is missing.
    """
    tensors = {f"features.{k}": v for k, v in _read_pth(folder, "vgg19_conv").items() if k not in _UNUSED_VGG}
    for part, name in _RELEASED.items():
        tensors |= {f"{part}.{key}": value for key, value in _read_pth(folder, name).items()}
    return _filled(ColorizationNet(NetworkConfig(temperature=1e-10)), tensors, str(folder))


def _read_pth(folder: Path, name: str) -> dict[str, Tensor]:
    paths = sorted(path for depth in ("", "*/", "*/*/") for path in folder.glob(f"{depth}{name}*.pth"))
    if not paths:
        raise FileNotFoundError(f"model folder {str(folder)!r} must hold {name}*.pth, which is not there")
    try:
        state = torch.load(paths[-1], map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged file; all mean the same to the user
        raise ValueError(
            f"model {str(paths[-1])!r} is damaged or not a plain state dict: {first_line(error)}"
        ) from None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"model {str(paths[-1])!r} must be a state dict of tensors, got {type(state).__name__}")
    return {key.removeprefix("module."): value.float() for key, value in state.items()}


def _filled(network: ColorizationNet, tensors: Mapping[str, Tensor], source: str) -> ColorizationNet:
    wanted = network.state_dict()
    for key in sorted(wanted.keys() | tensors.keys()):
        if key not in tensors:
            raise ValueError(f"model {source!r} must hold {key} {tuple(wanted[key].shape)}, which is missing")
        if key not in wanted:
            raise ValueError(f"model {source!r} holds {key}, which its configuration does not know")
        if tensors[key].shape != wanted[key].shape:
            raise ValueError(
                f"model {source!r} must hold {key} as {tuple(wanted[key].shape)}, got {tuple(tensors[key].shape)}"
            )
        if not torch.isfinite(tensors[key]).all():
            raise ValueError(f"model {source!r} is damaged: {key} holds values that are not finite")
    network.load_state_dict(dict(tensors), strict=True)
    return network.eval().requires_grad_(False)


def first_line(error: BaseException) -> str:
    """What an exception says, in one line; its type where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
