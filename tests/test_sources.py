"""Test feature nets of other projects against torchvision's layers, and the judge of the losses."""

from __future__ import annotations

from pathlib import Path
from urllib.error import URLError

import pytest
import torch
import torchvision
from torchvision.models.vgg import cfgs, make_layers

from train.features import sources
from vsexvc.colour.lab import lab_to_rgb
from vsexvc.nets.config import NetworkConfig
from vsexvc.nets.features import FeatureNet, feature_input

LAB = torch.rand(1, 3, 32, 48, generator=torch.Generator().manual_seed(1)) * torch.tensor((100.0, 60, 60)).view(3, 1, 1)


@pytest.fixture(scope="module")
def layers() -> torch.nn.Sequential:
    torch.manual_seed(0)
    return make_layers(cfgs["E"]).eval()


@pytest.fixture(scope="module")
def vgg19(layers: torch.nn.Sequential, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write random weights in torchvision's layout without the classifier."""
    path = tmp_path_factory.mktemp("features") / "vgg19.pth"
    torch.save({f"features.{key}": value for key, value in layers.state_dict().items()}, path)
    return path


def test_torchvision_file_gives_torchvision_features(layers: torch.nn.Sequential, vgg19: Path) -> None:
    source = sources.read(str(vgg19))
    assert (source.input, source.width, source.batch_norm) == ("imagenet", 1.0, False)
    rgb = lab_to_rgb(LAB)
    x = torchvision.transforms.functional.normalize(rgb, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    centred = LAB - torch.tensor((50.0, 0, 0)).view(1, 3, 1, 1)
    with torch.no_grad():
        ours = sources.Judge(source)(centred)
        for level, last in zip(ours, (8, 13, 22, 31), strict=True):  # numbers of relu2_2 .. relu5_2 in VGG19
            assert torch.allclose(level, layers[: last + 1](x), atol=1e-5)


def test_a_grey_net_sees_frame_and_reference_alike(vgg19: Path) -> None:
    net = sources.read(str(vgg19)).build()
    centred = LAB - torch.tensor((50.0, 0, 0)).view(1, 3, 1, 1)
    frame = feature_input(centred, net.input, False)
    assert torch.equal(frame, feature_input(centred, net.input, True))
    rgb = frame * torch.tensor((0.229, 0.224, 0.225)).view(3, 1, 1) + torch.tensor((0.485, 0.456, 0.406)).view(3, 1, 1)
    assert (rgb.amax(1) - rgb.amin(1)).max() < 1e-3  # grey


def test_the_released_vgg_is_known_by_its_keys(tmp_path: Path) -> None:
    state = FeatureNet(NetworkConfig()).state_dict()
    unused = {f"conv5_{n}.{part}": torch.zeros(1) for n in (3, 4) for part in ("weight", "bias")}
    torch.save(state | unused, tmp_path / "vgg19_conv.pth")
    source = sources.read(str(tmp_path / "vgg19_conv.pth"))
    assert source.input == "upstream" and source.state.keys() == state.keys()


def test_what_is_no_feature_net_is_named(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="existing file, got '/nowhere'"):
        sources.read("/nowhere")
    (tmp_path / "text").write_text("no tensors")
    with pytest.raises(ValueError, match="must be a file of tensors"):
        sources.read(str(tmp_path / "text"))
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="it is none"):
        sources.read(str(tmp_path / "other.pt"))


def test_no_network_no_imagenet_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise URLError("no route")

    monkeypatch.setattr(torchvision.models.VGG19_Weights.IMAGENET1K_V1, "get_state_dict", refuse, raising=False)
    monkeypatch.setattr(torchvision.models._api.WeightsEnum, "get_state_dict", refuse)
    with pytest.raises(OSError, match=r"cannot be downloaded .*give its file"):
        sources.read("imagenet")


def test_the_judge_stays_frozen_and_lets_gradients_through() -> None:
    torch.manual_seed(0)
    net = FeatureNet(NetworkConfig(width=0.0625, features_input="imagenet"), batch_norm=True)
    judge = sources.Judge(sources.Source(net.state_dict(), 0.0625, "imagenet"))
    judge.train()
    assert not any(module.training for module in judge.net.modules())
    lab = (LAB * 0.5).requires_grad_()
    judge(lab).relu5_2.sum().backward()
    assert lab.grad is not None and lab.grad.isfinite().all() and lab.grad[:, 1:].abs().sum() > 0
    assert not any(p.requires_grad for p in judge.parameters())
    grey = FeatureNet(NetworkConfig(width=0.0625, features_input="L")).state_dict()
    with pytest.raises(ValueError, match="sees colour"):
        sources.Judge(sources.Source(grey, 0.0625, "L"))
