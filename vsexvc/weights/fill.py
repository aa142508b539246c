"""Put the tensors of a file into a network, checked."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from vsexvc.nets.network import ColorizationNet

_FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def filled(network: ColorizationNet, tensors: Mapping[str, Tensor], source: str) -> ColorizationNet:
    wanted = network.state_dict()
    for key in sorted(wanted.keys() | tensors.keys()):
        if key not in tensors:
            raise ValueError(f"model {source!r} must hold {key} {tuple(wanted[key].shape)}, which is missing")
        if key not in wanted:
            raise ValueError(f"model {source!r} holds {key}, which its configuration does not know")
        tensor = tensors[key]
        if tensor.shape != wanted[key].shape:
            raise ValueError(
                f"model {source!r} must hold {key} as {tuple(wanted[key].shape)}, got {tuple(tensor.shape)}"
            )
        if tensor.dtype not in _FLOATING or tensor.layout != torch.strided or tensor.device.type != "cpu":
            kinds = ", ".join(str(kind).removeprefix("torch.") for kind in _FLOATING)
            seen = " ".join((str(tensor.dtype), str(tensor.layout), tensor.device.type)).replace("torch.", "")
            raise ValueError(f"model {source!r} must hold {key} as one of {kinds}, got {seen}")
        if not torch.isfinite(tensor.float()).all():
            raise ValueError(f"model {source!r} is damaged: {key} holds values that are not finite")
    network.load_state_dict(dict(tensors), strict=True)
    return network.eval().requires_grad_(False)
