"""Build the network that a run starts from, the nets that judge it, and the plain network that it exports."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from train.features import sources
from train.fit.discriminator import add_spectral_norm, without_spectral_norm
from train.fit.options import FitOptions
from vsexvc.nets.config import NetworkConfig
from vsexvc.nets.network import ColorizationNet
from vsexvc.weights import store

# What may differ from the weights that a run starts from: numbers, and parts that those weights lack.
_NUMBERS, _PARTS = ("temperature", "semantic_weight", "semantic_temperature"), ("semantic", "semantic_color")


def network(options: FitOptions, config: NetworkConfig) -> tuple[ColorizationNet, list[str]]:
    """Build the network as a run starts with it.

    Returns:
        The network, its frozen parts frozen, and the commits that made the checkpoint in `options.init`.

    Raises:
        ValueError: features or `init` belong to another configuration.
        OSError: a file cannot be read.
    """
    state, commits = _stored(options, config)
    _check_meaning(options, config, state)
    source = None
    if options.init is None and options.features != "scratch":
        source = sources.read(options.features)
        if (source.input, source.width) != (config.features_input, config.width):
            raise ValueError(
                f"fit: features {options.features} have input {source.input} and width {source.width}, the network "
                f"needs {config.features_input} and {config.width}"
            )
    if source is not None:
        batch_norm = source.batch_norm
    else:
        batch_norm = state is None or any(key.startswith("features.norm") for key in state)
    net = ColorizationNet(config, batch_norm)
    if state is not None:
        net.load_state_dict(_grown(state, net.state_dict()))
    if options.meaning is not None:
        net.meaning.load_state_dict(torch.load(options.meaning, map_location="cpu", weights_only=True))
    if source is not None:
        net.features.load_state_dict(source.state)
    is_vgg = options.features == config.features_input == "imagenet"  # torchvision's, also in a file of `init`
    if is_vgg or (source is not None and not source.batch_norm):
        net.features.requires_grad_(False)
    _freeze(net, options)
    if options.spectral_norm:
        add_spectral_norm(net.correspondence)
        for name, part in net.color.named_children():
            if name != "conv10_ab":  # the last layer's outputs have units of their own
                add_spectral_norm(part)
    return net, commits


def _stored(options: FitOptions, config: NetworkConfig) -> tuple[dict[str, Tensor] | None, list[str]]:
    """Read the tensors of `options.init`, and the commits of a checkpoint."""
    if options.init is None:
        return None, []
    if options.init.endswith(".pt"):
        stored: dict[str, Any] = torch.load(options.init, map_location="cpu", weights_only=True)
        if not stored.keys() >= {"net", "config", "commits"}:
            raise ValueError(f"fit: init must be weights or the checkpoint of a run of fit, {options.init} is neither")
        check_config(config, stored["config"], options.init)
        return stored["net"], stored["commits"]
    net = store.load(options.init)
    check_config(config, net.config.to_json(), options.init)
    return net.state_dict(), []


def _check_meaning(options: FitOptions, config: NetworkConfig, state: dict[str, Tensor] | None) -> None:
    """Raise ValueError where semantic features are missing, or given to a network that has none."""
    if config.semantic:
        if options.meaning is None and not any(key.startswith("meaning.") for key in state or ()):
            raise ValueError(
                f"fit: semantic {config.semantic!r} needs trained features, init {options.init} has none: give "
                "--meaning (`python -m train meaning` makes the file)"
            )
    elif options.meaning is not None or options.retrieve_by == "self":
        what = "meaning" if options.meaning is not None else "retrieve_by self"
        raise ValueError(f"fit: {what} needs a network with semantic features, this one has none (--semantic)")


def _freeze(net: ColorizationNet, options: FitOptions) -> None:
    """Keep the optimizers from the parts that do not learn."""
    if net.config.semantic:
        (net.meaning if options.freeze_meaning else net.meaning.trunk).requires_grad_(False)
    if options.freeze_correspondence:
        net.features.requires_grad_(False)
        net.correspondence.requires_grad_(False)
        if net.config.semantic:
            net.meaning.project.requires_grad_(False)
    if net.config.semantic:
        net.trust.learns = not options.freeze_trust
        net.trust.requires_grad_(net.trust.learns)
    if options.freeze_features:
        net.features.requires_grad_(False)


def check_config(config: NetworkConfig, stored: str, path: str) -> None:
    """Raise ValueError unless weights fit the network that is trained.

    The temperature may differ: the released weights are used with another one than in training. Semantic features and
    the colours of the reference's own pixels may be new.

    Args:
        config: of the network that is trained.
        stored: of the weights, as JSON.
        path: of the weights, for the error.
    """
    other = NetworkConfig.from_json(stored)
    may_differ = [*_NUMBERS, *(name for name in _PARTS if not getattr(other, name))]
    if other.warp_upsampling == "bilinear":
        may_differ.append("warp_upsampling")
    own = {name: getattr(config, name) for name in may_differ}
    if dataclasses.replace(other, **own) != config:
        raise ValueError(f"fit: {path} holds a network of another configuration: {stored}")


def _grown(state: dict[str, Tensor], wanted: dict[str, Tensor]) -> dict[str, Tensor]:
    """Extend the tensors of a network to one with more parts: new ones are taken from `wanted`.

    The colour net's first layer gets further inputs, whose weights are zero.
    """
    may_be_new = ("meaning.", "trust.", "color.see.")
    grown = {name: state.get(name, start) for name, start in wanted.items() if name.startswith(may_be_new)}
    for name, tensor in state.items():
        spare = wanted[name].shape[1] - tensor.shape[1] if name == "color.conv1_1.0.weight" else 0
        grown[name] = torch.nn.functional.pad(tensor, (0, 0, 0, 0, 0, spare)) if spare > 0 else tensor
    return grown


def judge(options: FitOptions) -> sources.Judge:
    """Read the net of the perceptual and contextual terms.

    Raises:
        ValueError: no feature net that sees colour is named.
        OSError: its file cannot be read.
    """
    name = options.loss_features or (options.features if options.features != "scratch" else None)
    if name is None:
        raise ValueError(
            "fit: the perceptual and contextual terms need features that see colour: give loss_features "
            "(`python -m train features --input imagenet` makes them), or set both weights to 0"
        )
    return sources.Judge(sources.read(name))


def plain(net: ColorizationNet) -> ColorizationNet:
    """Copy a network to plain convolutions on the CPU, in evaluation mode: spectral norm applied, batch norm folded in.

    Batch norm's statistics and affine maps go into the convolutions before it.
    """
    state = {key: value.detach().cpu().float() for key, value in without_spectral_norm(net).state_dict().items()}
    for key in [k for k in state if k.startswith("features.norm") and k.endswith(".weight")]:
        norm = key.removesuffix(".weight")
        conv = norm.replace("norm", "conv")
        gain = state[norm + ".weight"] / torch.sqrt(state[norm + ".running_var"] + 1e-5)
        state[conv + ".weight"] = state[conv + ".weight"] * gain.view(-1, 1, 1, 1)
        state[conv + ".bias"] = (state[conv + ".bias"] - state[norm + ".running_mean"]) * gain + state[norm + ".bias"]
    network = ColorizationNet(net.config)
    network.load_state_dict({key: value for key, value in state.items() if not key.startswith("features.norm")})
    return network.eval().requires_grad_(False)
