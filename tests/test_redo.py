"""Test which parts of a render are made again after a change; the film equals a new one."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from film import decoded, make_film, make_png

from vsexvc.__main__ import main
from vsexvc.film import takes
from vsexvc.film.encode import Encoding
from vsexvc.film.job import Colours, Job, part_keys
from vsexvc.film.plan import Left
from vsexvc.session import Session

LENGTHS = (50, 60, 50)
FIRSTS = (0, 50, 110)


def job() -> Job:
    paths = tuple(Path(name) for name in ("a.png", "b.png", "c.png"))
    return Job(
        Path("film.mkv"),
        Path("work"),
        Encoding(),
        Colours(),
        references=paths,
        ref_frames=FIRSTS,
        firsts=(0, 50, 80, 110),
        parts=((0, 50), (50, 110), (110, 160)),
    )


def changed(other: Job, prints: tuple[str, ...] = ("A", "B", "C"), common: int = 1) -> list[int]:
    """Return the parts whose keys differ from those of `job`."""
    before = part_keys(job(), {"crf": 1}, ("A", "B", "C"))
    after = part_keys(other, {"crf": common}, prints)
    return [number for number, key in enumerate(after) if key not in before]


def test_what_a_part_depends_on() -> None:
    plain = job()
    assert changed(plain) == []
    assert changed(plain, common=2) == [0, 1, 2]
    assert changed(plain, prints=("A", "X", "C")) == [1]
    assert changed(dataclasses.replace(plain, firsts=(0, 50, 90, 110))) == [1]
    assert changed(dataclasses.replace(plain, left=(Left(120, 130, False),))) == [2]
    assert changed(dataclasses.replace(plain, ref_frames=(0, 80, 110))) == [1]
    assert changed(dataclasses.replace(plain, ref_frames=None), prints=("A", "X", "C")) == [0, 1, 2]
    # The reference of the scene before continues; its number does not count.
    goes_on = dataclasses.replace(plain, references=plain.references[:2], ref_frames=(0, 110))
    assert changed(goes_on, prints=("A", "C")) == [1]
    # A part inside a scene depends on the whole scene, before and after the part.
    inside = dataclasses.replace(plain, firsts=(0, 110))
    for prints in (("X", "B", "C"), ("A", "X", "C")):
        other = part_keys(inside, {}, prints)
        same = [a == b for a, b in zip(part_keys(inside, {}, ("A", "B", "C")), other, strict=True)]
        assert same == [False, False, True]


def test_one_scene_again(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A new picture changes only its scene's part; a part that stays the same is kept when its number changes."""
    make_film(tmp_path / "film.mkv", LENGTHS, sound=0)
    for seed in range(3):
        make_png(tmp_path / f"{seed}.png", seed)
    plan, work = tmp_path / "plan.toml", tmp_path / "work"
    arguments = ["render", str(tmp_path / "film.mkv"), "--plan", str(plan), "--model", model, "--size", "64"]
    arguments += ["--device", "cpu", "--threads", "1", "--preset", "ultrafast", "--json"]

    def made(out: str, scenes: dict[int, int], *options: str) -> tuple[list[int], list[str]]:
        """Render; return the parts that were made, and the notices."""
        tables = [f'[[scene]]\nfirst = {first}\nreference = "{seed}.png"\n' for first, seed in scenes.items()]
        plan.write_text(f'source = "film.mkv"\nframes = {sum(LENGTHS)}\n' + "".join(tables))
        capsys.readouterr()
        assert main([*arguments, "-o", str(tmp_path / out), *options]) == 0
        told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        notes = [event["text"] for event in told if event["event"] == "note"]
        return [event["part"] for event in told if event["event"] == "part"], notes

    kept = ("--work", str(work), "--keep")
    assert made("a.mkv", {0: 0, 50: 1, 110: 2}, *kept)[0] == [0, 1, 2]
    index = sorted((path, path.stat().st_mtime_ns) for path in (work / "index").iterdir())
    parts, notes = made("b.mkv", {0: 0, 50: 2, 110: 2}, *kept)
    assert parts == [1] and notes == ["making parts again that depend on changed arguments: ref_frames, references"]
    assert made("c.mkv", {0: 0, 110: 2}, *kept)[0] == [0]
    assert sorted(path.name for path in work.glob("0*.mkv")) == ["000000.mkv", "000001.mkv"]
    assert sorted((path, path.stat().st_mtime_ns) for path in (work / "index").iterdir() if path.suffix != ".txt") == [
        entry for entry in index if entry[0].suffix != ".txt"
    ]
    made("fresh.mkv", {0: 0, 110: 2})
    assert (tmp_path / "c.mkv").read_bytes() == (tmp_path / "fresh.mkv").read_bytes()
    (tmp_path / "2.png").write_bytes((tmp_path / "0.png").read_bytes())
    assert made("d.mkv", {0: 0, 110: 2}, *kept)[0] == [1]


def test_how_far_references_reach() -> None:
    """A reference affects 128 frames around its own, as documented, and without propagate all later frames too."""
    parts = tuple((first, first + 100) for first in range(0, 1000, 100))
    long = dataclasses.replace(job(), ref_frames=(0, 400, 650), firsts=(0,), parts=parts)
    with_colours = dataclasses.replace(long, colours=Colours(propagate=True))

    def parts_changed(before: Job, after: Job, prints: tuple[str, ...]) -> list[int]:
        keys = (part_keys(before, {}, ("A", "B", "C")), part_keys(after, {}, prints))
        return [number for number, (old, new) in enumerate(zip(*keys, strict=True)) if old != new]

    assert parts_changed(long, long, ("A", "B", "X")) == [5, 6, 7, 8, 9]
    assert parts_changed(long, long, ("A", "X", "C")) == [2, 3, 4, 5, 6, 7, 8, 9]
    # The recurrence restarts at 400 and 650, because 650 is more than 128 frames after 400.
    assert parts_changed(with_colours, with_colours, ("A", "B", "X")) == [5, 6, 7, 8, 9]
    assert parts_changed(with_colours, with_colours, ("A", "X", "C")) == [2, 3, 4, 5, 6]
    assert parts_changed(with_colours, with_colours, ("X", "B", "C")) == [0, 1, 2, 3]
    # The end of a scene affects the parts near it.
    for first, wanted in ((601, [4, 5, 6, 7, 8, 9]), (628, [5, 6, 7, 8, 9])):
        cut = dataclasses.replace(long, ref_frames=(0,), firsts=(0, first))
        assert parts_changed(dataclasses.replace(long, ref_frames=(0,)), cut, ("A", "B", "C")) == wanted
    # The distance of a picture that continues counts only if another picture takes part too.
    moved = [dataclasses.replace(long, ref_frames=(frame, 450), firsts=(0, 400)) for frame in (0, 100)]
    assert parts_changed(*moved, ("A", "B", "C")) == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    moved = [dataclasses.replace(one, ref_frames=(one.ref_frames[0], 600), firsts=(0, 400, 600)) for one in moved]
    assert parts_changed(*moved, ("A", "B", "C")) == [0, 1, 2, 3]


class Studio:
    """Render a film by several plans in one working folder, and anew for comparison."""

    def __init__(self, folder: Path, model: str, capsys: pytest.CaptureFixture[str], lengths: tuple[int, ...]) -> None:
        self.folder, self.work, self._capsys, self._frames = folder, folder / "work", capsys, sum(lengths)
        make_film(folder / "film.mkv", lengths)
        for seed in range(3):
            make_png(folder / f"{seed}.png", seed)
        self._arguments = ["render", str(folder / "film.mkv"), "--plan", str(folder / "plan.toml"), "--model", model]
        self._arguments += ["--size", "64", "--device", "cpu", "--threads", "1", "--preset", "ultrafast"]

    def plan(self, scenes: dict[int, str]) -> None:
        """Write the plan. scenes: the `reference` of each scene by its first frame."""
        tables = [f"[[scene]]\nfirst = {first}\nreference = {text}\n" for first, text in scenes.items()]
        text = f'source = "film.mkv"\nframes = {self._frames}\n' + "".join(tables)
        (self.folder / "plan.toml").write_text(text)

    def render(self, out: str, *options: str) -> list[str]:
        """Render with the working folder; return the notices."""
        self._capsys.readouterr()
        arguments = [*self._arguments, "-o", str(self.folder / out), "--work", str(self.work), *options]
        assert main([*arguments, "--json"]) == 0
        told = [json.loads(line) for line in self._capsys.readouterr().out.splitlines()]
        return [event["text"] for event in told if event["event"] == "note"]

    def refused(self, *options: str) -> str:
        """Try a render that fails; return its one-line error."""
        self._capsys.readouterr()
        arguments = [*self._arguments, "-o", str(self.folder / "none.mkv"), "--work", str(self.work), *options]
        assert main(arguments) == 1
        out, err = self._capsys.readouterr()
        (line,) = [line for line in err.splitlines() if not line.startswith("vsexvc: ")]
        assert out == "" and not (self.folder / "none.mkv").exists()
        return line

    def states(self) -> dict[str, tuple[int, int]]:
        """Return inode and time of each part's file."""
        return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in self.work.glob("0*.mkv")}

    def anew(self, before: dict[str, tuple[int, int]]) -> list[int]:
        """Return the parts whose files have changed."""
        return sorted(int(name[:6]) for name, state in self.states().items() if before.get(name) != state)

    def is_whole(self, out: str) -> bool:
        """Return whether the film equals a new render in bytes and frames."""
        fresh = self.folder / "fresh.mkv"
        fresh.unlink(missing_ok=True)
        assert main([*self._arguments, "-o", str(fresh)]) == 0
        same = decoded(self.folder / out) == decoded(fresh)
        return same and (self.folder / out).read_bytes() == fresh.read_bytes()


@pytest.fixture
def studio(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Studio:
    """Make a film of three scenes, each of one part."""
    monkeypatch.setattr(takes, "LEAST", 5)
    return Studio(tmp_path, model, capsys, (8, 10, 6))


def test_frames_of_one_part(studio: Studio) -> None:
    studio.plan({0: '"0.png"', 8: '"1.png"', 18: '"2.png"'})
    assert "--frames must have an earlier render to join with, " in studio.refused("--frames", "9:12")
    assert not studio.work.exists()
    studio.render("a.mkv", "--keep")
    before = studio.states()
    assert studio.render("b.mkv", "--frames", "9:12") == ["made again: frames 8 to 17: 1 of 3 parts"]
    assert studio.anew(before) == [1] and studio.is_whole("b.mkv")
    # The first scene gets another picture.
    before = studio.states()
    studio.plan({0: '"1.png"', 8: '"1.png"', 18: '"2.png"'})
    assert studio.render("c.mkv", "--frames", "7:8")[-1] == "made again: frames 0 to 7: 1 of 3 parts"
    assert studio.anew(before) == [0] and studio.is_whole("c.mkv")
    # The last scene, which --frames does not name, gets another picture too.
    before = studio.states()
    studio.plan({0: '"2.png"', 8: '"1.png"', 18: '"1.png"'})
    assert studio.render("d.mkv", "--frames", "0:1")[-1] == (
        "made again: frames 0 to 7; 18 to 23, which were missing or depend on another change: 2 of 3 parts"
    )
    assert studio.anew(before) == [0, 2] and studio.is_whole("d.mkv")
    before = studio.states()
    assert studio.render("e.mkv", "--frames", "7:19") == ["made again: frames 0 to 23: 3 of 3 parts"]
    assert studio.anew(before) == [0, 1, 2]


def test_frames_that_are_none(studio: Studio) -> None:
    studio.plan({0: '"0.png"', 8: '"1.png"', 18: '"2.png"'})
    studio.render("a.mkv", "--keep")
    before = studio.states()
    for text in ("12:9", "9:9", "9", "a:b", "-1:5", "1.5:9", ":9", "5:"):
        line = studio.refused(f"--frames={text}")
        assert line.endswith(f"must be A:B, frames A to B - 1 of the film, with A below B, got {text!r}")
    assert studio.refused("--frames", "23:25").endswith("--frames must be within the film, 0:24, got 23:25")
    line = studio.refused("--frames", "20:24", "--crf", "20")
    assert line.endswith("but that had another crf (16.0, now 20.0): leave out --frames")
    assert studio.anew(before) == []


def test_frames_of_a_run_that_was_stopped(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same command continues a stopped run without making its finished parts again."""
    studio.plan({0: '"0.png"', 8: '"1.png"', 18: '"2.png"'})
    studio.render("a.mkv", "--keep")
    step, steps = Session.step, 0

    def stopped(self: Session, *given: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps > 12:
            raise ValueError("stopped")
        return step(self, *given)

    with monkeypatch.context() as patched:
        patched.setattr(Session, "step", stopped)
        assert "stopped" in studio.refused("--frames", "8:24")
    before = studio.states()
    assert sorted(before) == ["000000.mkv", "000001.mkv"]
    assert studio.render("b.mkv", "--frames", "8:24") == ["made again: frames 18 to 23: 1 of 3 parts"]
    assert studio.anew(before) == [2] and studio.is_whole("b.mkv")
    studio.render("c.mkv", "--frames", "8:24")  # after a finished run all is made again
    assert studio.anew(before) == [1, 2]


def test_frames_of_a_long_take(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parts that continue from the given frames are made again; earlier parts are not computed."""
    studio = Studio(tmp_path, model, capsys, (180,))
    studio.plan({0: '{0 = "0.png", 170 = "1.png"}'})
    monkeypatch.setattr(takes, "LONGEST", 60)
    monkeypatch.setattr(takes, "STEP", 40)
    studio.render("a.mkv", "--keep")  # parts at 0, 40, 80, 120
    step, steps = Session.step, 0

    def counted(self: Session, *given: Any) -> Any:
        nonlocal steps
        steps += 1
        return step(self, *given)

    before = studio.states()
    with monkeypatch.context() as patched:
        patched.setattr(Session, "step", counted)
        (told,) = studio.render("b.mkv", "--frames", "85:90")
    assert told == "made again: frames 80 to 119; 120 to 179, which continue from there: 2 of 4 parts"
    assert studio.anew(before) == [2, 3] and 100 <= steps <= 108
    assert (tmp_path / "b.mkv").read_bytes() == (tmp_path / "a.mkv").read_bytes()
    # A new second picture takes part from frame 42, 128 frames before its own, so the first part is kept.
    before, steps = studio.states(), 0
    studio.plan({0: '{0 = "0.png", 170 = "2.png"}'})
    with monkeypatch.context() as patched:
        patched.setattr(Session, "step", counted)
        told = studio.render("c.mkv", "--frames", "150:160")[-1]
    assert told == (
        "made again: frames 120 to 179; 40 to 119, which were missing or depend on another change: 3 of 4 parts"
    )
    assert studio.anew(before) == [1, 2, 3] and 140 <= steps <= 148
    assert studio.is_whole("c.mkv")
