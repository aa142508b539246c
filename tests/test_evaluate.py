"""Test train/measure/evaluate.py: which measures run on which folders, and what is printed and written."""

import json
from pathlib import Path

import cv2
import pytest

from tests.test_faces import write_boxes, write_face
from tests.test_protocol import ActedNetwork, ActedSession, drawn, write_clips, write_video
from train.__main__ import parsed
from train.measure import back, ends, evaluate, faces, keypoints, legacy, letterbox, nothing, protocol
from vsexvc.weights import store


@pytest.fixture
def acted(monkeypatch: pytest.MonkeyPatch) -> ActedNetwork:
    """Replace session, weights and matcher; the matcher always returns the first cell."""
    network = ActedNetwork()
    for module in (protocol, faces, nothing, back, ends, letterbox, legacy):
        monkeypatch.setattr(module, "Session", ActedSession)
    monkeypatch.setattr(store, "load", lambda model, device: network)
    monkeypatch.setattr(keypoints.NetworkMatcher, "describe", lambda self, lab: None)
    monkeypatch.setattr(keypoints.NetworkMatcher, "match", lambda self, frame, reference, positions: 0 * positions)
    return network


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_clips(tmp_path / "clips", count=3, frames=4)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Make a folder of folders, as --data expects."""
    place = tmp_path / "data"
    for name in ("val_faces", "val_semantic"):
        (place / name).mkdir(parents=True)
        write_face(place / name, "a", (220, 180, 160))
        write_face(place / name, "b", (200, 150, 120))
    write_clips(place / "val_fast", count=2, frames=3)
    (place / "legacy" / "old_refs").mkdir(parents=True)
    write_video(place / "legacy" / "old.avi", drawn(3, size=(90, 160)))
    for name in "ab":
        write_face(place / "legacy" / "old_refs", name, (220, 180, 160))
    write_boxes(place / "val_faces", "a.png,10,20,30,40", "b.png,10,20,30,40")
    points = [f"{name}.png,face,{k},{10 + 20 * k},20" for name in "ab" for k in (0, 1)]
    (place / "val_semantic" / "keypoints.csv").write_text("\n".join(["file,class,point,x,y", *points]) + "\n")
    return place


def arguments(*given: object) -> evaluate.EvaluateOptions:
    return parsed(["evaluate", *(str(g) for g in given)])


def test_main_writes_tables_plots_and_sheets_and_reuses_the_baselines(acted, folder, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    monkeypatch.setattr(store, "load", lambda model, device: acted)
    evaluate.main(arguments(folder, "--what", "propagation", "--out", out, "--frames", 3))
    printed = capsys.readouterr().out
    rows = ["truth", "grey", "mean colour", "luminance matching", "optical flow"]
    rows += ["nearest neighbour, raw features", "warped colour", "model", "model, previous zeroed"]
    document = json.loads((out / "evaluation.json").read_text(), parse_constant=pytest.fail)
    found = document["folders"][0]
    assert list(found["rows"]) == rows
    assert found["clips"] == ["0.avi", "1.avi", "2.avi"]
    assert [len(v) for v in found["psnr_by_frame"].values()] == [2] * len(rows)
    assert 0 <= found["foreign"]["nearer"] <= 1
    assert document["settings"]["frames"] == 3
    for row in rows:
        assert f"| {row} " in printed
    assert (out / "evaluation.md").read_text().strip() == printed.strip()
    assert cv2.imread(str(out / "psnr_clips.png")).shape == (540, 960, 3)
    assert cv2.imread(str(out / "sheets" / "clips" / "0.png")).shape == (6 * 216, 2 * 384, 3)
    assert cv2.imread(str(out / "sheets" / "clips" / "0_foreign.png")).shape == (4 * 216, 2 * 384, 3)
    assert cv2.imread(str(out / "overview_clips.png")).shape == (3 * 144, 6 * 256, 3)

    monkeypatch.setattr(protocol, "BASELINES", {"grey": pytest.fail})
    evaluate.main(arguments(folder, "--what", "propagation", "--out", out, "--frames", 3))
    assert capsys.readouterr().out == printed


def test_main_without_a_network_writes_nothing_unasked(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    evaluate.main(arguments(folder, "--baselines-only", "--limit", 1, "--frames", 2))
    printed = capsys.readouterr().out
    assert "| optical flow " in printed
    assert "model" not in printed
    assert [p.name for p in tmp_path.iterdir()] == ["clips"]


def test_main_names_what_it_cannot_use(folder, tmp_path):
    with pytest.raises(OSError, match=r"missing\.safetensors"):
        evaluate.main(arguments(folder, "--model", tmp_path / "missing.safetensors"))
    with pytest.raises(ValueError, match=r"--device .*'abacus'"):
        evaluate.main(arguments(folder, "--device", "abacus"))
    for given in (("--frames", 1), ("--limit", 0), ("--every", 0), ("--what", "magic")):
        with pytest.raises(SystemExit):
            arguments(folder, *given)


def test_without_folders_all_of_data_is_measured(acted, data, tmp_path, capsys):
    evaluate.main(arguments("--data", data, "--frames", 3, "--out", tmp_path / "out"))
    printed = capsys.readouterr().out
    titles = [line.removeprefix("### ") for line in printed.splitlines() if line.startswith("### ")]
    assert titles == [
        "val_fast, 2 clips",
        "Faces: val_faces, 4 pairs",
        "Keypoints: val_semantic, 2 pictures, PCK in %",
        "Nothing to match: val_fast, 2 clips, frame 2",
        "There and back: val_fast, 2 clips, 1 round",
        "Two references: val_fast, 2 clips",
        "Letterbox: val_fast, 2 clips, 32 black lines on two sides, first 3 frames",
        "Legacy: legacy, 2 pairs of scene and reference",
    ]
    document = json.loads((tmp_path / "out" / "evaluation.json").read_text(), parse_constant=pytest.fail)
    for what in ("folders", "faces", "keypoints", "nothing", "back", "ends", "letterbox", "legacy"):
        assert len(document[what]) == 1, what
    assert (tmp_path / "out" / "sheets" / "legacy" / "old, scene from 0.png").exists()
    assert document["nothing"][0]["photographs"] == ["a.png", "b.png"]
    assert document["settings"]["folders"] == [
        str(data / n) for n in ("val_fast", "val_faces", "val_semantic", "legacy")
    ]


def test_what_chooses_and_every_thins(acted, data, capsys):
    evaluate.main(arguments("--data", data, "--what", "nothing", "faces", "--every", 2))
    printed = capsys.readouterr().out
    assert "Nothing to match: val_fast, 1 clips" in printed and "val_faces, 2 pairs" in printed
    assert "Keypoints" not in printed and "optical flow" not in printed


def test_what_lacks_its_folder_or_network_is_said(acted, data, folder, tmp_path):
    with pytest.raises(ValueError, match=r"--what faces needs a folder of faces, got .*clips"):
        evaluate.main(arguments(folder, "--what", "faces"))
    with pytest.raises(ValueError, match=r"--what legacy needs a folder of legacy"):
        evaluate.main(arguments(folder, "--what", "legacy"))
    with pytest.raises(ValueError, match="--what keypoints needs a network"):
        evaluate.main(arguments("--data", data, "--what", "keypoints", "--baselines-only"))
    with pytest.raises(ValueError, match=r"a folder must be named where --data .*nowhere holds none of val_fast"):
        evaluate.main(arguments("--data", tmp_path / "nowhere"))


def test_nothing_takes_no_photograph_where_there_is_none(acted, folder, capsys):
    evaluate.main(arguments(folder, "--what", "nothing"))
    printed = capsys.readouterr().out
    assert nothing.PLAIN in printed and nothing.PHOTOGRAPH not in printed
