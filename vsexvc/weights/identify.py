"""Identify a weights file, and check whether it would load."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError, safe_open

from vsexvc.support.errors import first_line
from vsexvc.weights.released import (
    OLD_PICKLE,
    ZIP,
    check_size,
    is_archive,
    opened_archive,
    state_dict,
)
from vsexvc.weights.store import (
    find,
    load_file,
    read_metadata,
)

_LARGEST_FOREIGN = 1 << 30  # bytes of a file that is only identified; torchvision's VGG19 has 575 MB
_PART_OF_RELEASE = "one file of the authors' release ({}): a model is their archive, or the folder with all of them"
_KINDS = {  # a key that no other file has
    "conv10_ab.weight": _PART_OF_RELEASE.format("colornet"),
    "theta.weight": _PART_OF_RELEASE.format("nonlocal_net"),
    "conv5_4.weight": _PART_OF_RELEASE.format("vgg19_conv or vgg19_gray"),
    "attention.gamma": _PART_OF_RELEASE.format("discriminator"),
    "features.0.weight": "torchvision's VGG19: a feature net to train with (train fit --loss-features), not a model",
}


def check(model: str) -> tuple[bool, list[str]]:
    """Return whether a model would load, and a description of the file in lines.

    Args:
        model: see `find`, whose errors it raises; or any other file.
    """
    path = find(model)
    try:
        kind = _kind(path)
    except (ValueError, OSError) as error:
        return False, [f"would not load: {first_line(error)}"]
    try:
        network = load_file(path)
    except (ValueError, OSError) as error:
        return False, [f"{path}: {kind}", f"would not load: {first_line(error)}"]
    metadata = {} if path.is_dir() or is_archive(path) else read_metadata(path)
    facts = [f"  {key}: {value}" for key, value in sorted(metadata.items()) if key not in ("vsexvc", "config")]
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return True, [f"{path}: {kind}", f"  config: {network.config.to_json()}", *facts, f"loads: {parameters} parameters"]


def _kind(path: Path) -> str:
    """Return the kind of a file or folder, by its first bytes and its keys."""
    if path.is_dir():
        return "a folder, for the authors' unpacked files"
    with path.open("rb") as file:
        start = file.read(9)
    if start[:4] == ZIP:
        with opened_archive(path) as archive:
            names = archive.namelist()
        if not any(name.endswith("/data.pkl") for name in names):
            return f"a zip archive of {len(names)} files"
    if start[:4] in (ZIP, OLD_PICKLE):
        check_size(path.stat().st_size, str(path), _LARGEST_FOREIGN)
        state = state_dict(path.read_bytes(), str(path), _LARGEST_FOREIGN)
        return next((kind for key, kind in _KINDS.items() if key in state), f"a torch file of {len(state)} tensors")
    if start[8:9] == b"{":
        try:
            with safe_open(path, framework="pt") as file:
                return "weights of vsexvc" if "vsexvc" in (file.metadata() or {}) else "safetensors of something else"
        except SafetensorError:
            pass
    return "something else" if start else "an empty file"
