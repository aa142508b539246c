"""Test train/measure/stills.py on drawn pictures, judged by nets whose answers are known."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch import nn

from train.__main__ import parsed
from train.measure import metrics, stills
from vsexvc.nets.config import NetworkConfig
from vsexvc.nets.network import ColorizationNet
from vsexvc.weights import store

RED, GREEN, BLUE = (200, 40, 40), (40, 160, 40), (40, 60, 200)


class Classifier(nn.Module):
    """Score three classes by a picture's mean red, green and blue."""

    def forward(self, batch):
        assert batch.dtype == torch.uint8
        return batch.float().mean((2, 3))


class Colours(nn.Module):
    """Describe a picture by the means of R, G, B and the spread of R."""

    def forward(self, batch):
        x = batch.float() / 255
        return torch.cat((x.mean((2, 3)), x[:, :1].std((2, 3))), dim=1)


def network() -> ColorizationNet:
    torch.manual_seed(0)
    config = NetworkConfig(width=0.0625, features_input="L", head="blend", warp_upsampling="bilinear")
    return ColorizationNet(config).eval().requires_grad_(False)


def write(path: Path, colour: tuple[int, int, int], seed: int = 0, size: tuple[int, int] = (60, 80)) -> Path:
    """Write a picture of one colour with noise in the brightness."""
    noise = np.random.default_rng(seed).integers(-30, 30, (*size, 1))
    picture = (np.array(colour) + noise).clip(0, 255).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), picture[..., ::-1])
    return path


@pytest.fixture
def folder(tmp_path) -> Path:
    place = tmp_path / "pictures"
    for name, colour in (("red", RED), ("Green", GREEN), ("2", BLUE)):
        for k in range(2):
            write(place / name / f"{k}.png", colour, k, (60, 80 + 40 * k))
    write(place / "loose.png", RED)
    return place


def arguments(*given: object) -> stills.ImagesOptions:
    return parsed(["images", *(str(g) for g in given)])


# --- classes and judges ----------------------------------------------------------------------------------------------


def test_class_of_takes_index_category_and_synset():
    categories = ["tench", "great white shark", "crane", "Cardigan", "cardigan", "crane"]
    assert stills.class_of("4", categories) == 4
    assert stills.class_of("0001", categories) == 1
    assert stills.class_of("6", categories) is None
    assert stills.class_of("Tench", categories) == 0
    assert stills.class_of("Great_White_Shark", categories) == 1
    assert stills.class_of("cardigan", categories) == 4  # the exact spelling comes before others
    assert stills.class_of("Cardigan", categories) == 3
    assert stills.class_of("elephant", categories) is None
    assert stills.class_of("n01491361", categories) is None
    assert stills.class_of("n01491361", categories, ["n01440764", "n01491361"]) == 1
    with pytest.raises(ValueError, match=r"'crane' names \[2, 5\]: take the index"):
        stills.class_of("crane", categories)
    with pytest.raises(ValueError, match=r"'CARDIGAN' names \[3, 4\]"):
        stills.class_of("CARDIGAN", categories)


def test_judges_that_are_not_at_hand_are_named_with_the_file_that_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", pytest.fail)
    judges = stills.read_judges(None, None)
    assert judges.classifier is None and judges.features is None
    top, fid = judges.missing
    assert top.startswith("Top-1, Top-5: not measured") and "vgg19-dcbb9e9d.pth" in top and "--classifier FILE" in top
    assert fid.startswith("FID: not measured") and "inception_v3_google-0cc3c7bd.pth" in fid
    assert str(tmp_path / "checkpoints") in fid
    with pytest.raises(OSError, match=r"--inception must be torchvision's inception_v3.*, .*none\.pth is not there"):
        stills.read_judges(None, tmp_path / "none.pth")


def test_judges_from_files_and_from_the_folder_of_torch_hub(tmp_path, monkeypatch):
    """Judges are read from a given file or torch.hub's folder; small nets replace torchvision's."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(stills.torchvision.models, "vgg19", lambda: nn.Sequential(nn.Flatten(), nn.Linear(150528, 3)))
    net = nn.Sequential(nn.Flatten(), nn.Linear(150528, 3))
    (tmp_path / "checkpoints").mkdir()
    torch.save(net.state_dict(), tmp_path / "checkpoints" / "vgg19-dcbb9e9d.pth")
    for given in (None, tmp_path / "checkpoints" / "vgg19-dcbb9e9d.pth"):
        judges = stills.read_judges(given, None)
        assert judges.classifier is not None and len(judges.missing) == 1
        picture = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (1, 3, 224, 224), np.uint8))
        scaled = (cv2.resize(picture[0].permute(1, 2, 0).numpy(), (256, 256)) / 255.0)[16:240, 16:240]
        scaled = (scaled - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
        expected = net(torch.from_numpy(scaled).permute(2, 0, 1)[None].float())
        torch.testing.assert_close(judges.classifier(picture), expected, atol=0.05, rtol=0)
    bad = tmp_path / "bad.pth"
    torch.save({"weight": torch.zeros(1)}, bad)
    with pytest.raises(ValueError, match=r"bad\.pth must hold torchvision's weights of Sequential: ") as caught:
        stills.read_judges(bad, None)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_the_real_inception_gives_its_pooled_features(tmp_path):
    net = stills.torchvision.models.inception_v3(init_weights=False)
    torch.save(net.state_dict(), tmp_path / "inception.pth")
    judge = stills.read_judges(None, tmp_path / "inception.pth").features
    assert judge(torch.zeros(2, 3, 50, 70, dtype=torch.uint8)).shape == (2, 2048)


# --- references ------------------------------------------------------------------------------------------------------


class ActedRetrieval:
    """Replace Retrieval: find the five pictures with the nearest other numbers."""

    def __init__(self, network, pictures, clips, cache):
        assert clips == []
        self.numbers = [int(path.stem) for path in pictures]

    def five(self, kind, index):
        assert kind == "image"
        near = sorted((abs(n - self.numbers[index]), k) for k, n in enumerate(self.numbers))
        return [("image", k) for distance, k in near if distance > 0][:5]


def test_most_similar_is_a_reference_and_never_the_picture(monkeypatch):
    monkeypatch.setattr(stills, "Retrieval", ActedRetrieval)
    pictures = [Path(f"a/{n}.png") for n in (10, 11, 12, 13, 14, 15, 16)]
    # No reference is among the five pictures of 10, so its reference is searched among the references alone.
    references = [Path(f"b/{n}.png") for n in (10, 17, 40)]
    found = stills.most_similar(network(), pictures, references, Path("none"))
    assert [path.stem for path in found[:2]] == ["17", "10"]
    assert found[-1].stem == "17"
    assert all(path in references for path in found)
    same = stills.most_similar(network(), pictures, pictures, Path("none"))
    assert [path.stem for path in same] == ["11", "10", "11", "12", "13", "14", "15"]
    assert stills.most_similar(network(), pictures[:1], pictures[:1], Path("none")) == [None]


def test_by_name_looks_at_the_same_place():
    pictures = [Path("p/a/1.png"), Path("p/b/1.png"), Path("p/2.png")]
    references = [Path("r/b/1.jpg"), Path("r/2.webp")]
    found = stills.by_name(pictures, Path("p"), references, Path("r"))
    assert found == [None, references[0], references[1]]


# --- colouring and measuring -----------------------------------------------------------------------------------------


def test_colour_gives_truth_grey_and_the_reference_s_colours(tmp_path):
    picture = np.full((120, 160, 3), 128, np.uint8) + np.arange(160, dtype=np.uint8)[None, :, None] // 4
    reference = np.full((50, 300, 3), 128, np.uint8) + np.uint8([60, 0, 0])
    found = stills.colour(network(), picture, reference)
    assert list(found) == ["truth", "grey", "warped colour", "model"]
    assert {rgb.shape for rgb in found.values()} == {(216, 288, 3)}
    np.testing.assert_array_equal(found["truth"], cv2.resize(picture, (288, 216), interpolation=cv2.INTER_AREA))
    assert metrics.colourfulness(found["grey"]) < 1
    red, green, blue = found["warped colour"].reshape(-1, 3).mean(0)
    assert red > green + 30 and red > blue + 30  # the reference has only red


def test_measures_by_hand(folder, tmp_path, monkeypatch):
    """Ranks and FID are right for a colorizer that averages a picture and its reference."""

    def mixed(network, picture, reference):
        return {
            "truth": picture,
            "model": (picture // 2 + cv2.resize(reference, picture.shape[1::-1]) // 2).astype(np.uint8),
        }

    monkeypatch.setattr(stills, "colour", mixed)
    (folder / "broken.png").write_bytes(b"no picture")
    paths = sorted(folder.rglob("*.png"))
    reference = write(tmp_path / "reference.png", BLUE, 7)
    pairs = [(path, None if path.name == "loose.png" else reference) for path in paths]
    write(folder / "unknown" / "9.png", GREEN)
    pairs.append((folder / "unknown" / "9.png", reference))
    judges = stills.Judges(Classifier(), Colours())
    found = stills.measure(network(), folder, pairs, judges, categories=["red", "green", "blue"], out=tmp_path / "out")
    assert len(found.pictures) == 7
    assert found.unlabelled == 1
    assert any("loose.png has no reference" in line for line in found.skipped)
    assert any("broken.png" in line for line in found.skipped)
    rows = found.rows()
    assert rows["truth"]["Top-1"] == 1.0 and rows["truth"]["FID"] == pytest.approx(0, abs=1e-9)
    # Mixed with blue, red has 120 of red and of blue, so noise decides; green has 110 of green and 120 of blue.
    assert rows["model"]["Top-5"] == 1.0
    read = {path: cv2.imread(str(path))[..., ::-1] for path, _ in pairs if path.name not in ("loose.png", "broken.png")}
    blue = cv2.imread(str(reference))[..., ::-1]
    results = {path: mixed(None, picture, blue)["model"] for path, picture in read.items()}
    classes = {"red": 0, "Green": 1, "2": 2}
    hits = [
        results[path].reshape(-1, 3).mean(0).argmax() == classes[path.parent.name]
        for path in read
        if path.parent.name in classes
    ]
    assert rows["model"]["Top-1"] == pytest.approx(np.mean(hits))
    assert 0 < np.mean(hits) < 1

    def features(rgb):
        x = rgb / 255.0
        return [*x.mean((0, 1)), x[..., 0].std(ddof=1)]

    x, y = (np.array([features(np.ascontiguousarray(p)) for p in group.values()]) for group in (read, results))
    cx, cy = np.cov(x.T), np.cov(y.T)
    expected = np.square(x.mean(0) - y.mean(0)).sum() + np.trace(cx + cy - 2 * sqrtm(cx @ cy).real)
    assert rows["model"]["FID"] == pytest.approx(expected, rel=1e-3)
    expected = np.mean([metrics.colourfulness(p) for p in results.values()])
    assert rows["model"]["colourfulness"] == pytest.approx(expected)
    assert "1 of 7 pictures lie in no class's folder" in found.as_markdown()
    assert cv2.imread(str(tmp_path / "out" / "overview_pictures.png")).shape == (7 * 144, 3 * 256, 3)


def test_nothing_to_measure_is_an_error(folder):
    with pytest.raises(ValueError, match="must hold pictures that have references, none of 1 has one"):
        stills.measure(network(), folder, [(folder / "loose.png", None)], stills.Judges(None, None))


# --- the command -----------------------------------------------------------------------------------------------------


def test_main_by_name_without_judges(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    model = tmp_path / "tiny.safetensors"
    store.save(network(), model, {})
    references, out = tmp_path / "references", tmp_path / "out"
    write(references / "red" / "0.png", GREEN)
    write(references / "red" / "1.png", GREEN)
    given = ("--references", references, "--by", "name", "--model", model, "--out", out, "--device", "cpu")
    stills.main(arguments(folder, *given))
    printed = capsys.readouterr().out
    assert "### pictures, 2 pictures" in printed
    assert "| model " in printed and "vgg19-dcbb9e9d.pth" in printed and "inception_v3_google-0cc3c7bd.pth" in printed
    assert "2/0.png has no reference" in printed
    document = json.loads((out / "images.json").read_text(), parse_constant=pytest.fail)
    assert set(document["rows"]) == {"truth", "grey", "warped colour", "model"}
    assert document["rows"]["truth"].keys() == {"colourfulness"}
    assert ["red/0.png", str(references / "red" / "0.png")] in document["pictures and references"]
    assert (out / "images.md").read_text().strip() == printed.strip()


def test_main_by_similarity_takes_what_looks_alike(tmp_path, monkeypatch):
    """The real retrieval takes each picture's reference from the folder of references."""
    y, x = np.mgrid[:112, :192]
    kinds = {"stripes": (x // 6) % 2, "checks": (x // 16 + y // 16) % 2, "flat": 0 * x}
    for place, seed in (("pictures", 1), ("references", 2)):
        for name, pattern in kinds.items():
            noise = np.random.default_rng(seed).integers(0, 90, (112, 192))
            path = tmp_path / place / f"{name}.png"
            path.parent.mkdir(exist_ok=True)
            cv2.imwrite(str(path), (pattern * 150 + noise).astype(np.uint8))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    model, out = tmp_path / "tiny.safetensors", tmp_path / "out"
    store.save(network(), model, {})
    given = ("--references", tmp_path / "references", "--model", model, "--retrieve-by", model, "--device", "cpu")
    stills.main(arguments(tmp_path / "pictures", *given, "--out", out))
    chosen = json.loads((out / "images.json").read_text())["pictures and references"]
    assert chosen
    assert all(Path(reference).parent == tmp_path / "references" for _, reference in chosen)


def test_main_names_what_it_cannot_use(folder, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    model = tmp_path / "tiny.safetensors"
    store.save(network(), model, {})
    for given, line in (
        ((empty,), "empty must hold pictures, but has none"),
        ((folder, "--references", empty), "empty must hold pictures, but has none"),
        ((folder, "--by", "name"), "--by name needs --references"),
    ):
        with pytest.raises(ValueError, match=line):
            stills.main(arguments(*given, "--model", model, "--device", "cpu"))
