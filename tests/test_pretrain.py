"""Test the pretraining of a feature net on clips and pictures made here."""

from __future__ import annotations

import math
import os
import signal
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from train.__main__ import main
from train.features import pretrain, sources


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write two classes of five pictures, one class of two, and a clip."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for name, count in (("red", 5), ("blue", 5), ("rare", 2)):
        (root / "images" / name).mkdir(parents=True)
        for n in range(count):
            picture = rng.integers(0, 255, (60, 80, 3), dtype=np.uint8)
            picture[..., 2 if name == "red" else 0] = 255
            cv2.imwrite(str(root / "images" / name / f"{n}.png"), picture)
    (root / "clips").mkdir()
    writer = cv2.VideoWriter(str(root / "clips" / "a.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 24, (128, 96))
    for _ in range(4):
        writer.write(rng.integers(0, 255, (96, 128, 3), dtype=np.uint8))
    writer.release()
    return root


def test_contrast_by_hand() -> None:
    """Each of two pairs has its own unit vector: of three others one has the cosine 1, two have 0."""
    one = torch.tensor([[2.0, 0.0], [0.0, 3.0]])
    expected = -math.log(math.exp(1 / 0.5) / (math.exp(1 / 0.5) + 2))
    assert pretrain.contrast(one, one * 5, 0.5).item() == pytest.approx(expected, rel=1e-5)


def test_labels_come_from_folders_and_tables(folder: Path, tmp_path: Path) -> None:
    images, labels, classes = pretrain._labelled([folder / "images"])
    assert [Path(name).name for name in classes] == ["blue", "red"]
    assert [labels[i] for i, path in enumerate(images) if path.parent.name == "rare"] == [-1, -1]
    (tmp_path / "flat").mkdir()
    lines = ["file,source_path,width"]
    for n in range(6):
        cv2.imwrite(str(tmp_path / "flat" / f"{n}.png"), np.zeros((8, 8, 3), np.uint8))
        lines.append(f"{n}.png,set/{'cat' if n < 5 else 'dog'}/{n}.jpg,8")
    (tmp_path / "flat" / "images.csv").write_text("\n".join(lines))
    _, labels, classes = pretrain._labelled([tmp_path / "flat"])
    assert classes == ["set/cat"] and labels == [0, 0, 0, 0, 0, -1]


def test_what_was_done_to_the_colours_is_told() -> None:
    ab = torch.tensor([[[30.0]], [[0.0]]])
    for seed in range(20):
        changed, change = pretrain._recolour(ab, np.random.default_rng(seed))
        gain, sine, cosine = change.tolist()
        length = 30.0 * math.exp(gain)
        assert changed.flatten().tolist() == pytest.approx([length * (cosine + 1), length * sine], rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("kind", ["L", "imagenet"])
def test_pretraining_goes_on_where_it_was(
    folder: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def arguments(out: str, steps: int) -> list[str]:
        return (
            f"features --clips {folder / 'clips'} --images {folder / 'images'} --out {tmp_path / out} --steps {steps} "
            f"--input {kind} --width 0.0625 --size 32 32 --batch 4 --workers 0"
        ).split()

    assert main(arguments("whole", 4)) == 0
    whole = sources.read(str(tmp_path / "whole" / "features.pt"))
    assert whole.input == kind and whole.batch_norm and whole.width == 0.0625
    views = pretrain.Views([], [folder / "images"], (32, 32), seed=5)
    assert torch.equal(views[7]["rgb"], views[7]["rgb"]) and not torch.equal(views[7]["rgb"], views[8]["rgb"])
    state = torch.load(tmp_path / "whole" / "features.pt", weights_only=True)
    assert state["step"] == 4
    taken, steps = pretrain._terms, []

    def terms(*given: Any) -> dict[str, torch.Tensor]:
        steps.append(1)
        if len(steps) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return taken(*given)

    monkeypatch.setattr(pretrain, "_terms", terms)
    assert main(arguments("parts", 4)) == 0
    assert torch.load(tmp_path / "parts" / "features.pt", weights_only=True)["step"] == 2
    assert main(arguments("parts", 4)) == 0 and len(steps) == 4
    again = sources.read(str(tmp_path / "parts" / "features.pt"))
    assert all(torch.equal(value, again.state[key]) for key, value in whole.state.items())


def test_pictures_that_cannot_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They are left out; without any other the command ends."""
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.jpg").write_bytes(b"no picture")
    line = f"features --clips {tmp_path / 'images'} --images {tmp_path / 'images'} --out {tmp_path / 'out'} --steps 1"
    assert main([*line.split(), "--workers", "0"]) == 1
    assert "none of 1 pictures can be read" in capsys.readouterr().err


def test_nothing_to_learn_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    line = f"features --clips {tmp_path / 'empty'} --out {tmp_path / 'out'} --steps 1"
    assert main(line.split()) == 1
    assert "found no clip and no picture" in capsys.readouterr().err
