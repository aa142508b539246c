"""Test film/plan.py: templates that can be read after they are filled in, errors of others, sheets."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path

import film
import numpy as np
import pytest
import vapoursynth as vs
from PIL import Image

from vsexvc.film import plan
from vsexvc.film.source import Scene, open_video, picture

core = vs.core
LENGTHS = (20, 9, 31)


def test_a_template_is_filled_in(tmp_path: Path) -> None:
    """A template is right for a name that TOML and f-strings must escape, in another folder and beside the film."""
    odd = tmp_path / 'a "film" \\ {x}.mkv'
    film.make_film(odd, LENGTHS, sound=0)
    for name in ("a.png", "b.png"):
        film.make_png(tmp_path / name, 0)
    (tmp_path / "elsewhere").mkdir()
    plan.make(odd, tmp_path / "index", tmp_path / "elsewhere" / "plan.toml")
    assert tomllib.loads((tmp_path / "elsewhere" / "plan.toml").read_text())["source"] == str(odd)

    out, sheet = tmp_path / "plan.toml", tmp_path / "sheet.png"
    stages = []
    _, scenes = plan.make(
        odd, tmp_path / "index", out, sheet, stages=lambda what: lambda n, of: stages.append((what, of))
    )
    assert [(scene.first, scene.stop) for scene in scenes] == [(0, 20), (20, 29), (29, 60)]
    assert stages == [("finding scenes", 60)] * 60 + [("drawing the sheet", 3)] * 3
    content = tomllib.loads(out.read_text())
    assert content == {
        "source": odd.name,
        "frames": 60,
        "scene": [{"first": first, "reference": ""} for first in (0, 20, 29)],
    }
    with pytest.raises(ValueError, match=r"plan '.*plan\.toml': scene 1, .*frame 0: reference must be a picture"):
        plan.read(out)
    filled = out.read_text().replace('reference = ""', 'reference = "a.png"', 1)
    out.write_text("\ufeff" + filled[: filled.rindex('""')] + '"b.png"\n')
    read = plan.read(out)
    assert (read.source, read.frames, read.firsts) == (odd, 60, (0, 20, 29))
    assert (read.references, read.ref_frames) == ((tmp_path / "a.png", tmp_path / "b.png"), (0, 29))
    assert Image.open(sheet).width > 3 * 280


def test_threshold(tmp_path: Path) -> None:
    film.make_film(tmp_path / "film.mkv", LENGTHS, sound=0)
    _, scenes = plan.make(tmp_path / "film.mkv", tmp_path / "index", sc_threshold=1.0)
    assert len(scenes) == 1


def test_no_work_is_overwritten(tmp_path: Path) -> None:
    """An existing plan and a wrong suffix are refused before the film is opened."""
    (tmp_path / "plan.toml").write_text("mine")
    with pytest.raises(FileExistsError, match=r"plan '.*plan\.toml' must be a new file, it exists already"):
        plan.make(tmp_path / "film.mkv", tmp_path, tmp_path / "plan.toml")
    assert (tmp_path / "plan.toml").read_text() == "mine"
    with pytest.raises(ValueError, match=r"sheet must be a \.png, got '.*sheet\.jpg'"):
        plan.make(tmp_path / "film.mkv", tmp_path, sheet=tmp_path / "sheet.jpg")


@pytest.mark.parametrize("what", ["plan", "sheet"])
def test_no_folder_to_write_to(tmp_path: Path, what: str) -> None:
    """A missing folder is reported before the film is opened, because finding scenes takes minutes."""
    path = tmp_path / "none" / "file.png"
    out, sheet = (path, None) if what == "plan" else (None, path)
    with pytest.raises(FileNotFoundError, match=rf"{what} '.*file\.png' must be in an existing folder, .*none'"):
        plan.make(tmp_path / "film.mkv", tmp_path, out, sheet)


def test_a_folder_that_cannot_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root can write to any folder
    with pytest.raises(PermissionError, match=r"plan '.*p\.toml' must be in a folder that can be written"):
        plan.make(tmp_path / "film.mkv", tmp_path, tmp_path / "p.toml")


HEAD = 'source = "f.mkv"\nframes = 50\n'
FIRST = '[[scene]]\nfirst = 0\nreference = "a.png"\n'


def test_changes_of_picture(tmp_path: Path) -> None:
    """A scene without a reference, or with an empty one, keeps the picture before it; a picture may return later."""
    for name in ("a.png", "b.png"):
        (tmp_path / name).touch()
    path = tmp_path / "plan.toml"
    names = ["a.png", "a.png", None, "b.png", "", str(tmp_path / "a.png")]
    scenes = [
        f"[[scene]]\nfirst = {7 * i}\n" + ("" if name is None else f'reference = "{name}"\n')
        for i, name in enumerate(names)
    ]
    path.write_text(HEAD + "".join(scenes))
    read = plan.read(path)
    assert read.firsts == (0, 7, 14, 21, 28, 35)
    assert [reference.name for reference in read.references] == ["a.png", "b.png", "a.png"]
    assert read.ref_frames == (0, 21, 35)


def test_scenes_that_are_left_and_scenes_of_several_pictures(tmp_path: Path) -> None:
    """After a scene that is left uncoloured, the next one continues with the picture before it."""
    for name in ("a.png", "b.png", "c.png"):
        (tmp_path / name).touch()
    path = tmp_path / "plan.toml"
    scenes = [
        "reference = false",
        'reference = {15 = "b.png", 12 = "a.png"}',
        "grey = true",
        "",
        "reference = false\ngrey = true",
        'reference = "c.png"\ngrey = false',
    ]
    path.write_text(HEAD + "".join(f"[[scene]]\nfirst = {8 * n}\n{text}\n" for n, text in enumerate(scenes)))
    read = plan.read(path)
    assert [(reference.name, frame) for reference, frame in zip(read.references, read.ref_frames, strict=True)] == [
        ("a.png", 8),
        ("b.png", 15),
        ("c.png", 40),
    ]
    assert read.left == ((0, 8, False), (16, 24, True), (32, 40, True))
    path.write_text(HEAD + "[[scene]]\nfirst = 0\nreference = false\n")
    assert plan.read(path).left == ((0, 50, False),) and plan.read(path).references == ()


def test_pictures_named_by_their_frames(tmp_path: Path) -> None:
    """Each scene takes its own pictures of a list or a folder; its first picture holds from its beginning."""
    names = ["ref_000003.png", "ref_000012.png", "ref_000021.jpg", "ref_000044.png"]
    (tmp_path / "refs").mkdir()
    for name in (*names, "notes.txt"):
        (tmp_path / "refs" / name).touch()
    path = tmp_path / "plan.toml"
    listing = ", ".join(f'"refs/{name}"' for name in names[1::-1])
    path.write_text(
        f"{HEAD}[[scene]]\nfirst = 0\nreference = [{listing}]\naround = 2\n"
        "[[scene]]\nfirst = 20\nreference = 'refs'\n[[scene]]\nfirst = 40\nreference = 'refs/'\naround = 1\n"
    )
    read = plan.read(path)
    assert [reference.name for reference in read.references] == names
    assert read.ref_frames == (0, 12, 20, 40)
    assert read.around == ((0, 20, 2), (40, 50, 1))
    assert read.folders == (tmp_path / "refs",)
    path.write_text(f"{HEAD}[[scene]]\nfirst = 0\nreference = 'refs'\n[[scene]]\nfirst = 45\nreference = 'refs'\n")
    with pytest.raises(ValueError, match=r"scene 2, .*: reference must be pictures with frames of the scene, 45\.\.49"):
        plan.read(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEAD + "[[scene]\n", r".*line 3.*"),
        (HEAD, "scene must be one .* or more, got 'none'"),
        (HEAD + "scene = []\n", "scene must be one .* or more, got none"),
        (HEAD + "scene = [1]\n", r"scene 1 must be a table, \[\[scene\]\], got 1"),
        (FIRST, "source must be a text in quotes, got 'none'"),
        ('source = "f"\nframes = "50"\n' + FIRST, "frames must be a whole number, got '50'"),
        ('source = "f"\nframes = true\n' + FIRST, "frames must be a whole number, got True"),
        ("fps = 24\n" + HEAD + FIRST, "fps must be one of source, frames, scene"),
        (HEAD + FIRST + "refrence = 1\n", "scene 1: refrence must be one of first, reference, grey, around"),
        (HEAD + FIRST + "[[scene]]\n", "scene 2: first must be a whole number, got 'none'"),
        (HEAD + FIRST + "[[scene]]\nfirst = 3\nreference = 4\n", "scene 2: reference must be a text .*, got 4"),
        (HEAD + FIRST + "[[scene]]\nfirst = 3\ngrey = 1\n", "scene 2: grey must be true or false, got 1"),
        (HEAD + FIRST + "grey = true\n", "scene 1, .*: reference must be left out where grey = true, got 'a.png'"),
        (HEAD + FIRST.replace('"a.png"', "true"), "scene 1, .*: reference must be a picture, or false .*, got true"),
        (
            HEAD + FIRST.replace('"a.png"', '{50 = "a.png"}'),
            r"scene 1, .*frames of the scene, 0\.\.49, got 50 = 'a.png'",
        ),
        (HEAD + FIRST.replace('"a.png"', '{a = "a.png"}'), r"scene 1, .*frames of the scene, 0\.\.49, got a = 'a.png'"),
        (
            HEAD + FIRST.replace('"a.png"', "false") + "[[scene]]\nfirst = 3\n",
            "scene 2, .*: reference must be a pict.*",
        ),
        (HEAD + FIRST.replace("0", "2"), "scene 1, .*frame 2: first must be 0 for the first scene, got 2"),
        (HEAD + FIRST + FIRST, "scene 2, .*frame 0: first must be above that of the scene before, 0, got 0"),
        (HEAD + FIRST + "[[scene]]\nfirst = 50\n", "scene 2, .*: first must be below the number of frames, 50, got 50"),
        (HEAD + FIRST.replace("a.png", "c.png"), "scene 1, .*: reference must be a file, there is no '.*c.png'"),
        (
            HEAD + FIRST.replace("a.png", "."),
            r"scene 1, .*: reference must be pictures named by their frames \(ref_000412\.png\), .*, got 'a\.png'",
        ),
        (
            HEAD + FIRST.replace('"a.png"', '["a.png"]'),
            "scene 1, .*: reference must be pictures named by their frames .*, got 'a.png'",
        ),
        (HEAD + FIRST.replace('"a.png"', "[3]"), "scene 1, .*: reference must be a list of pictures, got 3 in it"),
        (HEAD + FIRST.replace('"a.png"', "[]"), "scene 1, .*: references must be one or more pictures .*, got none"),
        (
            HEAD + FIRST.replace('"a.png"', '["ref_000000.png", "ref_000050.png"]'),
            r"scene 1, .*: reference must be pictures with frames of the scene, 0\.\.49, got 'ref_000050\.png'",
        ),
        (
            HEAD + FIRST.replace('"a.png"', '["ref_000000.png", "a.png"]'),
            "scene 1, .*: reference '.*a.png' must be named by its frame, as others are .*",
        ),
        (
            HEAD + FIRST.replace('"a.png"', '["ref_000001.png", "ref_000001.jpg"]'),
            "scene 1, .*: reference '.*ref_000001.jpg' must have a number of its own, ref_000001.png has the same",
        ),
        (HEAD + FIRST + "around = 0\n", r"scene 1: around must be 1\.\.64, got 0"),
        (HEAD + FIRST + "around = 65\n", r"scene 1: around must be 1\.\.64, got 65"),
        (HEAD + FIRST + "around = true\n", "scene 1: around must be a whole number, got True"),
        (
            HEAD + FIRST.replace('"a.png"', "false") + "around = 2\n",
            "scene 1, .*: around must be left out where the scene gets no colours, got 2",
        ),
    ],
)
def test_what_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.png").touch()
    path = tmp_path / "plan.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match="plan") as error:
        plan.read(path)
    assert re.fullmatch(rf"plan '{re.escape(str(path))}': {message}", str(error.value))


def test_a_draft_lacks_pictures(tmp_path: Path) -> None:
    path = tmp_path / "plan.toml"
    path.write_text(HEAD + "[[scene]]\nfirst = 0\n[[scene]]\nfirst = 20\nreference = 'none.png'\n")
    with pytest.raises(ValueError, match="reference must be a picture in the first scene"):
        plan.read(path)
    read = plan.read(path, is_draft=True)
    assert (read.firsts, read.references, read.ref_frames) == ((0, 20), (tmp_path / "none.png",), (20,))


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"plan '.*none\.toml' must be a file, there is none"):
        plan.read(tmp_path / "none.toml")
    (tmp_path / "latin.toml").write_bytes('source = "é"'.encode("latin-1"))
    with pytest.raises(ValueError, match=r"plan '.*latin\.toml' must be saved as UTF-8, it is in another encoding"):
        plan.read(tmp_path / "latin.toml")


def test_sheets(tmp_path: Path) -> None:
    """100 scenes make two sheets, with each scene in its place."""
    levels = np.linspace(20, 235, 100).round().astype(int)
    clip = core.std.Splice(
        [core.std.BlankClip(format=vs.RGB24, width=560, height=280, length=1, color=[int(c)] * 3) for c in levels]
    )
    scenes = [Scene(n, n + 1, n / 24) for n in range(100)]
    written = plan.write_sheet(tmp_path / "s.png", clip, scenes)
    assert written == [tmp_path / "s-1.png", tmp_path / "s-2.png"]
    assert sorted(tmp_path.iterdir()) == written
    seen = []
    for path in written:
        sheet = np.asarray(Image.open(path).convert("L")).astype(int)
        step = 280 + 10, 140 + 22 + 10
        for y in range(10 + 70, sheet.shape[0], step[1]):
            seen += [sheet[y, x] for x in range(10 + 140, sheet.shape[1], step[0])]
        assert (sheet > 245).any()  # the labels
    assert seen[:100] == levels.tolist() and set(seen[100:]) <= {0x20}
    assert plan.write_sheet(tmp_path / "s.png", clip, scenes[:72]) == [tmp_path / "s.png"]


def test_a_scene_that_fades_in_is_not_black_on_the_sheet(tmp_path: Path) -> None:
    film.make_film(tmp_path / "film.mkv", (24, 9), sound=0, filters="fade=in:0:14")
    plan.make(tmp_path / "film.mkv", tmp_path / "index", sheet=tmp_path / "sheet.png")
    clip = open_video(tmp_path / "film.mkv", tmp_path / "index")
    shown = np.asarray(Image.open(tmp_path / "sheet.png").convert("L")).astype(int)
    thumb = shown[10:74, 10 + 92 : 10 + 188]  # 96x64 in the middle of 280 columns
    black, lit = (np.asarray(picture(clip, n, (280, 210)).convert("L")).astype(int) for n in (0, 20))
    assert black.max() < 20 and abs(thumb.mean() - lit.mean()) < 20 < lit.mean()


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0, "0:00:00.0"), (59.96, "0:01:00.0"), (3725.25, "1:02:05.2"), (36000, "10:00:00.0")]
)
def test_timecode(seconds: float, text: str) -> None:
    assert plan.timecode(seconds) == text
