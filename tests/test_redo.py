"""What of a render is made anew when something changes, and that the film is the same as one made from nothing."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from film import make_film, make_png

from vsexvc.__main__ import main
from vsexvc.film.encode import Encoding
from vsexvc.film.job import Colours, Job, part_keys
from vsexvc.film.plan import Left

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
    """The parts whose keys are other ones than those of `job`."""
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
    # The reference of the scene before goes on; which number it has does not matter.
    goes_on = dataclasses.replace(plain, references=plain.references[:2], ref_frames=(0, 110))
    assert changed(goes_on, prints=("A", "C")) == [1]
    # A part inside a scene depends on all of the scene, before it and after.
    inside = dataclasses.replace(plain, firsts=(0, 110))
    for prints in (("X", "B", "C"), ("A", "X", "C")):
        other = part_keys(inside, {}, prints)
        same = [a == b for a, b in zip(part_keys(inside, {}, ("A", "B", "C")), other, strict=True)]
        assert same == [False, False, True]


def test_one_scene_again(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Another picture for one scene; then the first two scenes as one, so that a part has another number."""
    make_film(tmp_path / "film.mkv", LENGTHS, sound=0)
    for seed in range(3):
        make_png(tmp_path / f"{seed}.png", seed)
    plan, work = tmp_path / "plan.toml", tmp_path / "work"
    arguments = ["render", str(tmp_path / "film.mkv"), "--plan", str(plan), "--model", model, "--size", "64"]
    arguments += ["--device", "cpu", "--threads", "1", "--preset", "ultrafast", "--json"]

    def made(out: str, scenes: dict[int, int], *options: str) -> tuple[list[int], list[str]]:
        """The parts, and the notices."""
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
    assert parts == [1] and notes == ["making anew what depends on this: ref_frames, references changed"]
    assert made("c.mkv", {0: 0, 110: 2}, *kept)[0] == [0]
    assert sorted(path.name for path in work.glob("0*.mkv")) == ["000000.mkv", "000001.mkv"]
    assert sorted((path, path.stat().st_mtime_ns) for path in (work / "index").iterdir() if path.suffix != ".txt") == [
        entry for entry in index if entry[0].suffix != ".txt"
    ]
    made("fresh.mkv", {0: 0, 110: 2})
    assert (tmp_path / "c.mkv").read_bytes() == (tmp_path / "fresh.mkv").read_bytes()
    (tmp_path / "2.png").write_bytes((tmp_path / "0.png").read_bytes())
    assert made("d.mkv", {0: 0, 110: 2}, *kept)[0] == [1]
