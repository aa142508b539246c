"""Test train/data/retrieval.py on pictures of four kinds of pattern, described by a network of random weights."""

from __future__ import annotations

import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from train.data.retrieval import Retrieval
from vsexvc.nets.config import NetworkConfig
from vsexvc.nets.network import ColorizationNet

KINDS, EACH = 4, 8


def pattern(kind: int, seed: int) -> np.ndarray:
    """Draw stripes in one of two directions, a light middle or a light edge, with noise that makes each unique."""
    rng = np.random.default_rng((kind, seed))
    y, x = np.mgrid[0:90, 0:160]
    phase = rng.uniform(0, 6)
    from_middle = np.hypot(x - 80 + rng.normal(0, 8), y - 45 + rng.normal(0, 5))
    L = (np.sin(x / 2 + phase), np.sin(y / 2 + phase), 1 - from_middle / 45, from_middle / 45 - 1)[kind]
    picture = 128 + 80 * np.clip(L, -1, 1)[..., None] * rng.uniform(0.7, 1.3, 3) + rng.normal(0, 12, (90, 160, 1))
    return np.clip(picture, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Path], list[Path]]:
    """Write six pictures and two clips of each kind, a copy of the first picture, and a broken picture."""
    folder = tmp_path_factory.mktemp("files")
    pictures, clips = [], []
    for kind in range(KINDS):
        for n in range(EACH):
            if n < EACH - 2:
                pictures.append(folder / f"{kind}{n}.png")
                cv2.imwrite(str(pictures[-1]), pattern(kind, n))
            else:
                clips.append(folder / f"{kind}{n}.npy")
                np.save(clips[-1], np.stack([pattern(kind, 100 * n + i) for i in range(4)]))
    pictures += [folder / "copy.png", folder / "broken.png"]
    pictures[-2].write_bytes(pictures[0].read_bytes())
    pictures[-1].write_bytes(b"no picture")
    return pictures, clips


def network(seed: int = 0) -> ColorizationNet:
    torch.manual_seed(seed)
    return ColorizationNet(NetworkConfig(width=0.125, features_input="L"), batch_norm=True)


def everything(retrieval: Retrieval, files: tuple[list[Path], list[Path]]) -> list[list[tuple[str, int]]]:
    pictures, clips = files
    return [retrieval.five("image", n) for n in range(len(pictures))] + [
        retrieval.five("clip", n) for n in range(len(clips))
    ]


def test_it_finds_the_same_kind_of_picture_and_neither_itself_nor_its_copy(
    files: tuple[list[Path], list[Path]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pictures, clips = files
    net = network()
    retrieval = Retrieval(net, pictures, clips, tmp_path)
    assert net.training  # its mode is unchanged
    right, kinds = [], set()
    for source, path in [
        *((("image", n), path) for n, path in enumerate(pictures[:-2])),
        *((("clip", n), path) for n, path in enumerate(clips)),
    ]:
        found = retrieval.five(*source)  # type: ignore[arg-type]
        assert source not in found and len(found) == len(set(found)) <= 5
        assert ("image", len(pictures) - 1) not in found  # broken
        right += [(pictures if kind == "image" else clips)[n].name[0] == path.name[0] for kind, n in found]
        kinds |= {kind for kind, _ in found}
    assert np.mean(right) > 0.75  # chance gives 0.23
    assert kinds == {"image", "clip"}
    assert ("image", len(pictures) - 2) not in retrieval.five("image", 0)
    assert retrieval.five("image", len(pictures) - 1) == []
    assert caplog.text.count("broken.png cannot be decoded") == 1


def test_descriptors_are_kept_for_the_same_weights_and_files_only(
    files: tuple[list[Path], list[Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures, clips = files
    first = everything(Retrieval(network(), pictures, clips, tmp_path), files)
    seen: list[int] = []
    describe = Retrieval.__init__.__globals__["_describe"]

    def counted(net: ColorizationNet, views: list[np.ndarray]) -> np.ndarray:
        seen.append(len(views))
        return describe(net, views)

    monkeypatch.setattr("train.data.retrieval._describe", counted)
    assert everything(Retrieval(network(), pictures, clips, tmp_path), files) == first
    assert sum(seen) == 0
    Retrieval(network(seed=1), pictures, clips, tmp_path)
    assert sum(seen) == len(pictures) - 1 + 3 * len(clips)
    (tmp_path / "retrieval.npz").write_bytes(b"PK something else")
    assert everything(Retrieval(network(), pictures, clips, tmp_path), files) == first


def test_a_new_picture_is_added(
    files: tuple[list[Path], list[Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures, clips = files
    Retrieval(network(), pictures[:-2], clips, tmp_path)
    described: list[Path] = []
    views = Retrieval.__init__.__globals__["_views"]

    def noted(path: Path) -> object:
        described.append(path)
        return views(path)

    monkeypatch.setattr("train.data.retrieval._views", noted)
    Retrieval(network(), pictures, clips, tmp_path)
    assert described == pictures[-2:]


def test_workers_get_a_table_and_no_network(files: tuple[list[Path], list[Path]], tmp_path: Path) -> None:
    retrieval = Retrieval(network(), *files, tmp_path)
    packed = pickle.dumps(retrieval)
    assert b"torch" not in packed and len(packed) < 2000
    assert everything(pickle.loads(packed), files) == everything(retrieval, files)


def test_nothing_to_look_in_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Retrieval: pictures and clips are both empty"):
        Retrieval(network(), [], [], tmp_path)
