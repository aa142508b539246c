"""Test film/takes.py: a long take rendered in parts has the same bytes as in one go, also after a stop."""

from __future__ import annotations

import dataclasses
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from film import decoded, make_film, make_png

from vsexvc.__main__ import main
from vsexvc.film import takes
from vsexvc.film.encode import Encoding
from vsexvc.film.job import Colours, Job
from vsexvc.schedule import BLOCK
from vsexvc.session import Session

LENGTHS = (6, 124, 20)


def job(firsts: tuple[int, ...], ref_frames: tuple[int, ...] | None, propagate: bool = False) -> Job:
    return Job(
        Path("film"), Path("work"), Encoding(), Colours(propagate=propagate), ref_frames=ref_frames, firsts=firsts
    )


@pytest.mark.parametrize("ref_frames", [None, (0,), (0, 37, 90, 500)])
def test_where_parts_end(ref_frames: tuple[int, ...] | None) -> None:
    made = takes.split([(0, 1900), (1900, 2000)], job((0, 10, 1900), ref_frames))
    assert made[0][0] == 0 and made[-2:] == [(made[-3][1], 1900), (1900, 2000)]
    assert all(a[1] == b[0] and b[1] - b[0] <= takes.LONGEST for a, b in pairwise(made))
    for _, stop in made[:-2]:
        begin = max([10, *(frame for frame in ref_frames or () if frame <= stop)])
        assert (stop - begin) % BLOCK == 0 and takes.STEP - BLOCK < made[1][1] - made[1][0] < takes.STEP + BLOCK
    assert takes.split([(0, takes.LONGEST)], job((0,), None)) == [(0, takes.LONGEST)]


def test_parts_that_need_no_other() -> None:
    """With propagation the recurrence restarts at each reference, so a part that begins there depends on no other."""
    given = job((0,), (0, 101, 230, 700), propagate=True)
    parts = takes.split([(0, 1000)], given)
    assert parts == [(0, 230), (230, 470), (470, 700), (700, 1000)]
    given = dataclasses.replace(given, parts=tuple(parts))
    assert [takes.follows(given, number) for number in range(4)] == [False, False, True, False]


@pytest.mark.parametrize("memory", [0, 2])
def test_in_parts_and_in_one_go(model: str, memory: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vsexvc.session._SURE", -1.0)  # a random network finds nothing similar
    make_film(tmp_path / "film.mkv", LENGTHS, sound=0)
    plan = 'source = "film.mkv"\nframes = 150\n[[scene]]\nfirst = 0\nreference = {0 = "0.png", 49 = "1.png"}\n'
    plan += '[[scene]]\nfirst = 130\nreference = "2.png"\n'
    (tmp_path / "plan.toml").write_text(plan)
    for seed in range(3):
        make_png(tmp_path / f"{seed}.png", seed)
    arguments = ["render", str(tmp_path / "film.mkv"), "--plan", str(tmp_path / "plan.toml"), "--model", model]
    arguments += ["--size", "64", "--device", "cpu", "--threads", "1", "--codec", "ffv1", "--memory", str(memory)]
    work = tmp_path / "work"
    steps = 0
    step = Session.step

    def counted(self: Session, *given: Any) -> Any:
        nonlocal steps
        steps += 1
        return step(self, *given)

    monkeypatch.setattr(Session, "step", counted)
    assert main([*arguments, "-o", str(tmp_path / "whole.mkv")]) == 0  # one scene, one part
    monkeypatch.setattr(takes, "LONGEST", 60)
    monkeypatch.setattr(takes, "STEP", 30)
    steps = 0
    assert main([*arguments, "-o", str(tmp_path / "parts.mkv"), "--work", str(work), "--keep"]) == 0
    assert steps <= 150 + BLOCK
    assert len(list(work.glob("0*.mkv"))) > 3
    assert decoded(tmp_path / "parts.mkv") == decoded(tmp_path / "whole.mkv")
    # The run stops before the third part, and continues from the state that the second has saved.
    for number in (2, 3):
        (work / f"{number:06}.mkv").unlink()
    steps = 0
    assert main([*arguments, "-o", str(tmp_path / "again.mkv"), "--work", str(work), "--keep"]) == 0
    assert 0 < steps <= 130 - 2 * 30 + 3 * BLOCK
    assert (tmp_path / "again.mkv").read_bytes() == (tmp_path / "parts.mkv").read_bytes()
    # A damaged state is not used.
    (work / "000002.mkv").unlink()
    (work / "000001.state").write_bytes((work / "000001.state").read_bytes()[:-40])
    steps = 0
    assert main([*arguments, "-o", str(tmp_path / "damaged.mkv"), "--work", str(work)]) == 0
    assert steps >= 2 * 30 - BLOCK
    assert (tmp_path / "damaged.mkv").read_bytes() == (tmp_path / "parts.mkv").read_bytes()
