"""Test train/measure/faces.py on pictures of a few colours against figures worked out by hand."""

import math
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.test_protocol import ActedNetwork, ActedSession
from train.measure import faces

BOX = (slice(2, 6), slice(3, 8))  # 4 rows, 5 columns of a picture of 10 x 10


def face(skin: tuple[float, float], rest: tuple[float, float], box: tuple[slice, slice] = BOX) -> faces.Face:
    """Return a picture of two colours; the box has the skin's."""
    found = faces.Face(None, box)
    found.__dict__["ab"] = plane(skin, rest, box)
    return found


def plane(skin: tuple[float, float], rest: tuple[float, float], box: tuple[slice, slice] = BOX) -> np.ndarray:
    ab = np.full((10, 10, 2), rest, np.float32)
    ab[box] = skin
    return ab


REFERENCE = face((12, 16), (0, -30))  # chroma 20
PALE = face((15, 20), (0, -25))


def test_the_right_colour_in_the_right_place():
    found = faces.compare(plane((12, 16), (0, -25)), PALE, REFERENCE)
    assert found == faces.Skin(distance=0.0, spread=0.0, hue=0.0, grey=False, rest_as_skin=0.0)


def test_own_colours_are_five_away():
    found = faces.compare(PALE.ab, PALE, REFERENCE)  # (15, 20) and (12, 16): one hue
    assert (found.distance, found.spread) == pytest.approx((5.0, 5.0))
    assert found.hue == pytest.approx(0.0, abs=1e-4)


def test_grey():
    found = faces.compare(plane((0, 0), (0, 0)), PALE, REFERENCE)
    assert found == faces.Skin(distance=20.0, spread=20.0, hue=None, grey=True, rest_as_skin=0.0)
    # a third of the reference's chroma is 6.67
    assert faces.compare(plane((3.6, 4.8), (0, 0)), PALE, REFERENCE).grey
    assert not faces.compare(plane((4.2, 5.6), (0, 0)), PALE, REFERENCE).grey


def test_green_is_a_wrong_hue():
    found = faces.compare(plane((-12, 16), (0, -25)), PALE, REFERENCE)
    assert found.distance == pytest.approx(24.0)
    assert found.hue == pytest.approx(180 - 2 * math.degrees(math.atan2(16, 12)))
    assert not found.grey


def test_hue_goes_the_short_way_round():
    reference = face((-20, 1), (30, 30))
    found = faces.compare(plane((-20, -1), (30, 30)), PALE, reference)
    assert found.hue == pytest.approx(2 * math.degrees(math.atan2(1, 20)), abs=1e-4)


def test_scattered_colours_pass_the_median_alone():
    result = plane((12, 16), (0, -25))
    result[2:4, 3:7] = (12, -14)  # 8 of the box's 20 pixels, 30 away
    found = faces.compare(result, PALE, REFERENCE)
    assert (found.distance, found.hue) == (0.0, 0.0)
    assert found.spread == pytest.approx(30.0)


def test_skin_all_over_is_seen_in_the_rest():
    assert faces.compare(plane((12, 16), (12, 16)), PALE, REFERENCE).rest_as_skin == 1.0
    half = plane((12, 16), (0, -25))
    half[6:] = (12, 16 - 9.9)  # 40 of 80 pixels outside the box, just near enough
    assert faces.compare(half, PALE, REFERENCE).rest_as_skin == 0.5
    # A true colour near the skin's may become skin: here the rest is 15 away from the skin.
    assert faces.compare(half, face((15, 20), (15, 5)), REFERENCE).rest_as_skin is None


def test_a_reference_full_of_skin_says_nothing_of_the_rest():
    reference = face((12, 16), (0, -30))
    reference.ab[0, :9], reference.ab[9, :6] = (12, 16), (12, 16)  # 15 of 80 pixels: below a fifth
    assert faces.compare(plane((12, 16), (12, 16)), PALE, reference).rest_as_skin == 1.0
    reference.ab[9, 6] = (12, 16)
    assert faces.compare(plane((12, 16), (12, 16)), PALE, reference).rest_as_skin is None


def test_pairs():
    found = faces.pairs(30)
    assert len(found) == len(set(found)) == 60
    assert found[0] == (0, 7) and found[29] == (29, 6) and found[30] == (0, 13) and found[-1] == (29, 12)
    assert faces.pairs(7) == [(i, (i + 13) % 7) for i in range(7)]  # i + 7 would be the picture itself
    assert faces.pairs(1) == []


def test_summary():
    found = [faces.Skin(4, 6, 10, False, 0.5), faces.Skin(12, 8, None, True, None), faces.Skin(8, 1, 30, False, 0.1)]
    assert faces.summarise(found) == pytest.approx(
        {"distance": 8, "within 10": 2 / 3, "grey": 1, "spread": 5, "hue": 20, "worst hue": 30, "rest as skin": 0.3}
    )
    grey = faces.summarise([faces.Skin(12, 8, None, True, None)])
    assert math.isnan(grey["hue"]) and math.isnan(grey["worst hue"]) and math.isnan(grey["rest as skin"])


def write_face(folder: Path, name: str, skin: tuple[int, int, int], size: tuple[int, int] = (108, 192)) -> None:
    """Write a blue picture with skin in columns 10 to 30 and rows 20 to 40."""
    rgb = np.full((*size, 3), (20, 30, 120), np.uint8)
    rgb[20:40, 10:30] = skin
    cv2.imwrite(str(folder / f"{name}.png"), rgb[..., ::-1])


def write_boxes(folder: Path, *lines: str) -> None:
    (folder / "boxes.csv").write_text("\n".join(["file,x0,y0,x1,y1", *lines]) + "\n")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_face(tmp_path, "b", (200, 150, 120))
    write_face(tmp_path, "a", (220, 180, 160))
    write_boxes(tmp_path, "b.png,10,20,30,40", "a.png,10,20,30,40")
    return tmp_path


def test_boxes_are_stretched_with_their_pictures(folder: Path):
    a, b = faces.read_faces(folder)
    assert (a.clip.path.name, b.clip.path.name) == ("a.png", "b.png")
    assert a.clip.rgb.shape == (1, 216, 384, 3)
    assert a.box == (slice(40, 80), slice(20, 60))
    assert (a.clip.rgb[0][a.box] == (220, 180, 160)).mean() > 0.9
    assert a.rest.sum() == 216 * 384 - 40 * 40


def test_boxes_that_cannot_be_used_are_named(folder: Path):
    write_boxes(folder, "a.png,10,20,193,40")
    with pytest.raises(ValueError, match=r"a\.png, 192x108, got 10, 20, 193, 40"):
        faces.read_faces(folder)
    write_boxes(folder, "a.png,10,20")
    with pytest.raises(ValueError, match=r"boxes\.csv must have columns file, x0"):
        faces.read_faces(folder)
    write_boxes(folder, "c.png,10,20,30,40")
    with pytest.raises(OSError, match=r"c\.png"):
        faces.read_faces(folder)


def test_measure(folder: Path, monkeypatch: pytest.MonkeyPatch):
    """The figures fit a session that gives every pixel half of the reference's mean colour."""
    monkeypatch.setattr(faces, "Session", ActedSession)
    table = faces.measure(ActedNetwork(), folder)
    rows = table.as_json()["rows"]
    assert list(rows) == ["own colours", "grey", "skin all over", "warped colour", "model"]
    a, b = faces.read_faces(folder)
    means = [face.ab.mean((0, 1)) for face in (b, a)]  # both shifts give the pairs (a, b) and (b, a)
    expected = np.mean([np.hypot(*(mean / 2 - other.skin)) for mean, other in zip(means, (b, a), strict=True)])
    assert rows["model"]["distance"] == pytest.approx(expected, abs=1e-3)
    assert rows["grey"]["grey"] == len(table.as_json()["pairs"]) == 4
    assert rows["skin all over"]["distance"] == 0 and rows["skin all over"]["rest as skin"] == 1
    assert rows["own colours"]["rest as skin"] == 0
    assert "### Faces: " in table.as_markdown() and "| skin all over " in table.as_markdown()
    assert list(faces.measure(None, folder).as_json()["rows"]) == ["own colours", "grey", "skin all over"]
    assert len(faces.measure(None, folder, every=2, limit=1).as_json()["pairs"]) == 1
    write_boxes(folder, "a.png,10,20,30,40")
    with pytest.raises(ValueError, match="two photographs or more, got 1"):
        faces.measure(None, folder)
