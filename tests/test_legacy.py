"""Test train/measure/legacy.py: scenes, their references and the sheets, on clips that the tests draw."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.test_protocol import ActedNetwork, ActedSession, write_video
from train.measure import legacy


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Write sample_bw, 60 frames with a cut at 34 from dark to bright, its two references, and a clip without any."""
    place = tmp_path / "old"
    (place / "sample_bw_refs").mkdir(parents=True)
    rgb = np.full((60, 120, 160, 3), 200, np.uint8)
    rgb[:34] = 60
    write_video(place / "sample_bw.avi", rgb)
    write_video(place / "alone.avi", rgb)
    for name, colour in (("ref_000000", (200, 90, 40)), ("ref_000099", (90, 90, 200))):
        cv2.imwrite(str(place / "sample_bw_refs" / f"{name}.png"), np.full((90, 90, 3), colour[::-1], np.uint8))
    return place


def test_scenes(folder: Path):
    assert legacy.holds_legacy(folder) and not legacy.holds_legacy(folder / "sample_bw_refs")
    first, second = legacy.read_scenes(folder)
    assert (first.own, second.own) == ("ref_000000", "ref_000034")
    assert [path.stem for path in first.references] == ["ref_000000", "ref_000099"]
    assert first.clip.rgb.shape == second.clip.rgb.shape == (21, 216, 288, 3)  # a shape of 4:3 at the network's size
    assert first.clip.rgb.max() < 70 and second.clip.rgb.min() > 190


def test_measure(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(legacy, "Session", ActedSession)
    table = legacy.measure(ActedNetwork(), folder, out=tmp_path / "out")
    pairs = table.as_json()["pairs"]
    assert [(p["reference"], p["kind"]) for p in pairs] == [
        ("ref_000000", "own"),
        ("ref_000099", "another scene's"),
        ("ref_000000", "another scene's"),
        ("ref_000099", "another scene's"),
    ]
    assert {p["similarity"] for p in pairs} == {1.0}
    # R - G = 110, (R + G) / 2 - B = 105, no spread
    assert pairs[0]["references_colourfulness"] == pytest.approx(0.3 * np.hypot(110, 105))
    sheet = cv2.imread(str(tmp_path / "out" / "sheets" / "old" / "sample_bw, scene from 34.png"))
    assert sheet.shape == (2 * 216, 4 * 288, 3)
    blue, green, red = sheet[108, -10].astype(int)  # coloured after the orange reference
    assert red > green > blue + 20
    blue, green, red = sheet[216 + 108, -10].astype(int)
    assert blue > max(red, green) + 20
    assert len(legacy.measure(ActedNetwork(), folder, limit=1).as_json()["pairs"]) == 2


def test_a_clip_that_cannot_be_read_is_named(folder: Path):
    (folder / "sample_bw.avi").write_bytes(b"nothing")
    with pytest.raises(OSError, match=r"sample_bw\.avi"):
        list(legacy.read_scenes(folder))
