"""Files of weights: round trip, the released layout on synthetic files, and every kind of damage named in one line."""

from __future__ import annotations

import gc
import os
import weakref
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from test_network import small
from torch import Tensor

from vsexvc import weights
from vsexvc.config import NetworkConfig


def released(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    return {k: torch.rand(()).expand(shape).half().clone() for k, shape in shapes.items()}


def pairs(table: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """weight and bias of each convolution."""
    return {f"{k}.weight": s for k, s in table.items()} | {f"{k}.bias": s[:1] for k, s in table.items()}


def conv3(outputs: int, inputs: int) -> tuple[int, ...]:
    return (outputs, inputs, 3, 3)


# The tables of the release, typed in from its description.
NONLOCAL = (
    pairs(
        {
            "layer2_1.1": conv3(128, 128), "layer2_1.5": conv3(64, 128), "layer3_1.1": conv3(128, 256),
            "layer3_1.5": conv3(64, 128), "layer4_1.1": conv3(256, 512), "layer4_1.5": conv3(64, 256),
            "layer5_1.1": conv3(256, 512), "layer5_1.6": conv3(64, 256),
            "theta": (256, 256, 1, 1), "phi": (256, 256, 1, 1),
            **{f"layer.{n}.conv{m}": conv3(256, 256) for n in range(3) for m in (1, 2)},
        }
    )
    | {f"layer{n}_1.{i}.weight": (1,) for n, last in ((2, 7), (3, 7), (4, 7), (5, 8)) for i in (3, last)}
    | {f"layer.{n}.prelu.weight": (1,) for n in range(3)}
)  # fmt: skip
COLORNET = pairs(
    {
        "conv1_1.0": conv3(32, 7), "conv1_1.2": conv3(64, 32), "conv1_2": conv3(64, 64), "conv2_1": conv3(128, 64),
        "conv2_2": conv3(128, 128), "conv3_1": conv3(256, 128), "conv3_2": conv3(256, 256), "conv3_3": conv3(256, 256),
        "conv4_1": conv3(512, 256), "conv4_2": conv3(512, 512), "conv4_3": conv3(512, 512),
        **{f"conv{b}_{n}": conv3(512, 512) for b in (5, 6, 7) for n in (1, 2, 3)},
        "conv8_1.1": conv3(256, 512), "conv3_3_short": conv3(256, 256), "conv8_2": conv3(256, 256),
        "conv8_3": conv3(256, 256),
        "conv9_1.1": conv3(128, 256), "conv2_2_short": conv3(128, 128), "conv9_2": conv3(128, 128),
        "conv10_1.1": conv3(128, 128), "conv1_2_short": conv3(128, 64), "conv10_2": conv3(128, 128),
        "conv10_ab": (2, 128, 1, 1),
    }
) | {f"{n}norm_ss.weight": (c, 1, 1, 1) for n, c in (("conv1_2", 64), ("conv2_2", 128), ("conv3_3", 256))}  # fmt: skip
_CHANNELS = {1: (3, 64, 2), 2: (64, 128, 2), 3: (128, 256, 4), 4: (256, 512, 4), 5: (512, 512, 4)}
VGG = pairs(
    {
        f"conv{b}_{n}": conv3(outputs, inputs if n == 1 else outputs)
        for b, (inputs, outputs, layers) in _CHANNELS.items()
        for n in range(1, layers + 1)
    }
)


def write_released(folder: Path, **changes: dict[str, Tensor]) -> Path:
    for name, table in (("nonlocal_net_iter_76000", NONLOCAL), ("colornet_iter_76000", COLORNET), ("vgg19_conv", VGG)):
        torch.save(changes.get(name, released(table)), folder / f"{name}.pth")
    return folder


def test_the_typed_in_tables_have_the_released_counts() -> None:
    assert (len(NONLOCAL), len(COLORNET), len(VGG)) == (43, 65, 32)


def test_the_released_layout_loads_strictly(tmp_path: Path) -> None:
    state = released(NONLOCAL)
    write_released(tmp_path, nonlocal_net_iter_76000={f"module.{k}": v for k, v in state.items()})
    network = weights.load(str(tmp_path))
    assert network.config == NetworkConfig(temperature=1e-10)
    assert torch.equal(network.correspondence.layer[1].conv2.weight, state["layer.1.conv2.weight"].float())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("theta.bias"), r"must hold correspondence.theta.bias \(256,\), which is missing"),
        (
            lambda s: s.update({"extra": torch.zeros(1)}),
            "holds correspondence.extra, which its configuration does not know",
        ),
        (lambda s: s.update({"phi.bias": torch.zeros(3)}), r"correspondence.phi.bias as \(256,\), got \(3,\)"),
    ],
    ids=["missing", "unknown", "shape"],
)
def test_a_wrong_released_file_names_the_tensor(tmp_path: Path, change, message: str) -> None:  # type: ignore[no-untyped-def]
    state = released(NONLOCAL)
    change(state)
    with pytest.raises(ValueError, match=message):
        weights.load(str(write_released(tmp_path, nonlocal_net_iter_76000=state)))


def test_a_released_file_cannot_run_code(tmp_path: Path) -> None:
    write_released(tmp_path)
    torch.save({"theta.weight": print}, tmp_path / "colornet_iter_76000.pth")
    with pytest.raises(ValueError, match="damaged or not a plain state dict"):
        weights.load(str(tmp_path))


def test_a_released_folder_without_a_file_says_which(tmp_path: Path) -> None:
    (write_released(tmp_path) / "vgg19_conv.pth").unlink()
    with pytest.raises(OSError, match=r"vgg19_conv\*\.pth, which is not there"):
        weights.load(str(tmp_path))


def test_save_and_load_give_the_same_network_in_half_precision(tmp_path: Path) -> None:
    network = small(features_input="L", head="blend", motion=2)
    path = tmp_path / "one.safetensors"
    weights.save(network, path, {"licence": "research"})
    again = weights.load(str(path))
    assert again.config == network.config
    for key, value in network.state_dict().items():
        assert torch.equal(again.state_dict()[key], value.half().float())
    assert weights.read_metadata(path)["licence"] == "research"
    assert list(tmp_path.iterdir()) == [path]


def test_damage_is_named(tmp_path: Path) -> None:
    path = tmp_path / "one.safetensors"
    weights.save(small(features_input="L"), path, {})
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"\x00" * 200):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="damaged"):
            weights.load(str(path))


@pytest.mark.parametrize(
    ("config", "message"),
    [("junk", "must state a valid configuration: Expecting value"), ('{"depth": 3}', "valid configuration: .*unknown")],
)
def test_a_wrong_configuration_names_the_file(tmp_path: Path, config: str, message: str) -> None:
    path = tmp_path / "one.safetensors"
    save_file({"x": torch.zeros(1)}, path, {"vsexvc": "1", "config": config})
    with pytest.raises(ValueError, match=f"model .*one.safetensors.* {message}"):
        weights.load(str(path))


def test_weights_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    network = small(features_input="L")
    with torch.no_grad():
        network.color.conv10_2.bias[0] = torch.nan
    weights.save(network, tmp_path / "nan.safetensors", {})
    with pytest.raises(ValueError, match=r"damaged: color.conv10_2.bias holds values that are not finite"):
        weights.load(str(tmp_path / "nan.safetensors"))


def test_foreign_safetensors_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="must have format 1, got none"):
        weights.load(str(path))


def test_unknown_names_and_missing_paths_differ() -> None:
    with pytest.raises(ValueError, match=r"model must be one of .*, got 'nonsense'"):
        weights.load("nonsense")
    with pytest.raises(ValueError, match="got ''"):
        weights.load("")
    with pytest.raises(OSError, match="must be an existing weights file"):
        weights.load("/nowhere/x.safetensors")


SHIPPED = sorted(weights.installed())


def test_the_default_is_shipped() -> None:
    assert weights.DEFAULT in SHIPPED
    assert weights.load().config.features_input == "L"


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_files_are_small_and_say_where_they_come_from(name: str) -> None:
    path = weights.installed()[name]
    assert path.stat().st_size <= 30 * 2**20
    metadata = weights.read_metadata(path)
    for key in ("licence", "data", "clip_sources", "image_sources", "commit", "options", "trained_size", "minutes"):
        assert metadata.get(key), key
    assert (weights.folders()[1] / "README.md").exists()


class TestShared:
    def test_one_network_for_one_file_and_device(self, tmp_path: Path) -> None:
        path = tmp_path / "a.safetensors"
        weights.save(small(features_input="L"), path, {})
        first = weights.shared(str(path))
        assert weights.shared(str(path)) is first
        os.utime(path, ns=(1, 1))  # another file of the same name
        assert weights.shared(str(path)) is not first

    def test_it_goes_with_its_last_user(self, tmp_path: Path) -> None:
        path = tmp_path / "a.safetensors"
        weights.save(small(features_input="L"), path, {})
        there = weakref.ref(weights.shared(str(path)))
        gc.collect()
        assert there() is None
