"""Data, folding and the loop on tiny clips and pictures that are made here."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from train import augment, data, loop
from train.__main__ import main
from vsexvc import weights
from vsexvc.config import NetworkConfig
from vsexvc.network import ColorizationNet

SAMPLE = data.DataOptions(size=(32, 48), length=2, images=0.3, foreign=0.2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One clip of moving colours, one file that is no clip, three pictures."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    picture = cv2.resize(rng.integers(0, 255, (9, 16, 3), dtype=np.uint8), (480, 270), interpolation=cv2.INTER_CUBIC)
    (root / "clips").mkdir()
    writer = cv2.VideoWriter(str(root / "clips" / "a.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 24, (384, 216))
    for n in range(12):
        writer.write(np.ascontiguousarray(picture[n : n + 216, 3 * n : 3 * n + 384]))
    writer.release()
    (root / "clips" / "b.mp4").write_bytes(b"no video")
    (root / "images").mkdir()
    for n in range(3):
        cv2.imwrite(str(root / "images" / f"{n}.png"), np.roll(picture, 40 * n, axis=1))
    return root


def sequences(folder: Path, cache: Path, first: int = 0) -> data.Sequences:
    clips = data.cached_clips(data.find([folder / "clips"], data.VIDEO_SUFFIXES), cache)
    images = data.find([folder / "images"], data.IMAGE_SUFFIXES)
    return data.Sequences(clips, images, SAMPLE, seed=3, count=100, first=first)


def test_a_sample_depends_on_its_index_only(folder: Path, tmp_path: Path) -> None:
    one, later = sequences(folder, tmp_path), sequences(folder, tmp_path, first=5)
    for key, value in one[7].items():
        assert torch.equal(value, later[2][key])


def test_samples_have_the_promised_shapes_and_ranges(folder: Path, tmp_path: Path) -> None:
    for index in range(12):
        sample = sequences(folder, tmp_path)[index]
        assert sample["lab"].shape == (4, 3, 32, 48)
        assert sample["flow_backward"].shape == (2, 2, 32, 48) and sample["valid"].shape == (2, 1, 32, 48)
        assert sample["lab"][:, 0].min() >= 0 and sample["lab"][:, 0].max() <= 100
        assert set(sample["valid"].unique().tolist()) <= {0.0, 1.0}


def test_a_broken_clip_is_named_and_skipped(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert len(sequences(folder, tmp_path).clips) == 1
    assert "b.mp4 has no frame" in caplog.text and "1 of 2 clips were skipped" in caplog.text


def test_a_missing_folder_is_named() -> None:
    with pytest.raises(OSError, match="no such folder: /nowhere"):
        data.find([Path("/nowhere")], data.IMAGE_SUFFIXES)


def test_colours_of_a_sequence_change_alike_and_keep_luma() -> None:
    rng = np.random.default_rng(1)
    frames = [np.full((4, 4, 3), (120, 90, 60), np.uint8)] * 3
    changed = False
    for _ in range(20):
        out = augment.color_of_sequence(frames, rng)
        assert all(np.array_equal(out[0], frame) for frame in out)
        luma = out[0][0, 0] @ np.array([0.299, 0.587, 0.114])
        assert abs(luma - np.array([120, 90, 60]) @ np.array([0.299, 0.587, 0.114])) < 1.5
        changed |= not np.array_equal(out[0], frames[0])
    assert changed


def test_folding_batch_norm_changes_nothing() -> None:
    torch.manual_seed(0)
    net = ColorizationNet(NetworkConfig(width=0.0625, features_input="L"), batch_norm=True)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-1, 1)
            module.running_var.uniform_(0.5, 2)
            torch.nn.init.uniform_(module.weight, 0.5, 2)
    net.eval()
    lab = torch.rand(1, 3, 64, 64) * 50
    folded = loop.fold_batch_norm(net)
    assert not any("norm1" in key or "norm2_" in key for key in folded.features.state_dict())
    for ours, theirs in zip(folded.embed(lab), net.embed(lab), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-4)


def arguments(folder: Path, out: Path, steps: int) -> list[str]:
    return (
        f"fit --clips {folder / 'clips'} --images {folder / 'images'} --out {out} --steps {steps} "
        "--width 0.0625 --size 32 48 --length 2 --batch 2 --workers 0 --motion 2 --fp32 --correspond-share 0.5"
    ).split()


def test_fit_learns_stops_and_goes_on_to_the_same_weights(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(arguments(folder, tmp_path / "whole", 6)) == 0
    taken = loop._Run._train_step

    def interrupted(run: loop._Run, batch: dict[str, torch.Tensor]) -> dict[str, float]:
        run.stop = run.step == 2
        return taken(run, batch)

    monkeypatch.setattr(loop._Run, "_train_step", interrupted)
    assert main(arguments(folder, tmp_path / "parts", 6)) == 0
    monkeypatch.undo()
    assert torch.load(tmp_path / "parts" / "checkpoint.pt", weights_only=True)["step"] == 3
    assert main(arguments(folder, tmp_path / "parts", 6)) == 0
    whole, parts = (
        weights.load(str(tmp_path / name / "weights.safetensors")).state_dict() for name in ("whole", "parts")
    )
    for key, value in whole.items():
        assert torch.equal(value, parts[key]), key
    assert weights.read_metadata(tmp_path / "whole" / "weights.safetensors")["step"] == "6"


def test_an_impossible_run_ends_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--clips", "/nowhere", "--out", str(tmp_path), "--steps", "1"]) == 1
    assert capsys.readouterr().err.strip().endswith("python -m train: no such folder: /nowhere")
