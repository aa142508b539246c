"""Test film/trust.py: the figures are means of the filter's, the worst scene is first, in all three commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from film import make_film, make_png
from test_compare import content_of

from vsexvc.__main__ import main
from vsexvc.film import source, takes, trust
from vsexvc.film.references import open_references
from vsexvc.film.trust import Suited, Sum, Tally, line, suited, summary, weakest
from vsexvc.plugin import colorize

LENGTHS = (8, 10, 6)
FIRSTS = (0, 8, 18)


def test_sums_by_hand() -> None:
    """The second reference of the first scene continues in the next one; an uncoloured frame does not count."""
    tally = Tally((0, 4), (0, 2))
    tally.add(0, {"ExvcSimilarity": 0.5, "ExvcReference": 0})
    both = {"ExvcSimilarity": 0.25, "ExvcReference": 1, "ExvcReferences": [0, 1], "ExvcShares": [0.25, 0.75]}
    tally.add(3, both)
    tally.add(4, {"ExvcSimilarity": 0.125, "ExvcReference": 1})
    tally.add(5, {})
    assert tally.sums() == (Sum(0, 2, 0.75, ((0, 1.25), (2, 0.75))), Sum(4, 1, 0.125, ((4, 1.0),)))
    scenes = suited(tally.sums(), (0, 4), (0, 2), ["a.png", "b.png"])
    assert scenes == [Suited(2, 4, 0.125, {"b.png": 1.0}), Suited(1, 0, 0.375, {"a.png": 0.625, "b.png": 0.375})]
    assert [scene.verdict for scene in scenes] == ["missing", "weak"]
    assert summary(scenes).startswith("of 2 scenes 1 lack a reference (similarity below 0.3) and 1 have a weak one")
    assert [line(scene).split() for scene in scenes] == [
        ["2", "4", "0.125", "missing", "b.png"],
        ["1", "0", "0.375", "weak", "a.png", "0.62,", "b.png", "0.38"],
    ]
    # By another plan the second scene has a third picture, with its own number.
    assert suited(tally.sums(), (0, 4), (0, 2, 4), "abc")[0].shares == {"c": 1.0}
    # Sums of two parts of one scene are added.
    again = suited([Sum(0, 1, 0.9, ((0, 1.0),)), Sum(0, 3, 1.5, ((0, 3.0),))], (0,), None, ["a.png"])
    assert again == [Suited(1, 0, pytest.approx(0.6), {"a.png": pytest.approx(1.0)})]
    assert (
        weakest(again) == [] and summary(again) == "each scene has a reference that suits it, similarity 0.600 to 0.600"
    )
    assert summary([]) == "no scene takes colours from a reference"


def test_no_more_than_a_short_table() -> None:
    scenes = [Suited(n, n, n / 100, {f"{k}.png": 0.2 for k in range(5)}) for n in range(40)]
    assert weakest(scenes) == scenes[:10] and "the worst 10 are" in summary(scenes)
    assert line(scenes[0]).endswith("0.png 0.20, 1.png 0.20, 2.png 0.20 and 2 more")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a film and references of two scenes; set a limit by which every scene has a weak reference."""
    make_film(tmp_path / "film.mkv", LENGTHS, sound=0)
    for seed in range(2):
        make_png(tmp_path / f"{seed}.png", seed)
    monkeypatch.setattr(trust, "WEAK", 2.0)
    monkeypatch.setattr(takes, "LEAST", 5)
    return tmp_path


def told(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> list[dict[str, Any]]:
    """Run a command; return its events about scenes."""
    capsys.readouterr()
    assert main([*arguments, "--json"]) == 0
    events = [json.loads(text) for text in capsys.readouterr().out.splitlines()]
    assert [event["scenes"] for event in events if event["event"] == "references"] == [3]
    return [event for event in events if event["event"] == "weak"]


def expected(folder: Path, model: str, ref_frames: list[int], names: list[str]) -> list[tuple[int, float, float]]:
    """Return first frame, mean similarity and share of reference 1 of each scene, worst first."""
    clip = source.with_scenes(source.open_video(folder / "film.mkv", folder), FIRSTS)
    references = open_references([folder / name for name in names], folder).clip
    coloured = colorize(clip, references, ref_frames=ref_frames, model=model, size=64, device="cpu")
    props = [dict(frame.props) for frame in coloured.frames(close=True)]
    found = []
    for first, length in zip(FIRSTS, LENGTHS, strict=True):
        own = props[first : first + length]
        share = sum(
            dict(zip(p.get("ExvcReferences", [0]), p.get("ExvcShares", [0]), strict=True)).get(1, 0) for p in own
        )
        found.append((first, sum(p["ExvcSimilarity"] for p in own) / length, share / length))
    return sorted(found, key=lambda scene: scene[1])


def test_at_the_end_of_a_render(folder: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`render` reports all scenes, also kept parts whose reference had another number before."""
    command = ["render", str(folder / "film.mkv"), "--plan", str(folder / "plan.toml"), "--model", model, "--keep"]
    command += ["--size", "64", "--device", "cpu", "--threads", "1", "--work", str(folder / "work")]
    head = 'source = "film.mkv"\nframes = 24\n[[scene]]\nfirst = 0\nreference = '
    rest = '[[scene]]\nfirst = 8\nreference = "1.png"\n[[scene]]\nfirst = 18\nreference = "0.png"\n'
    (folder / "plan.toml").write_text(f'{head}"0.png"\n{rest}')
    events = told(capsys, [*command, "-o", str(folder / "a.mkv")])
    wanted = expected(folder, model, [0, 8, 18], ["0.png", "1.png", "0.png"])
    assert [event["first"] for event in events] == [first for first, *_ in wanted]
    assert [event["similarity"] for event in events] == pytest.approx([one for _, one, _ in wanted], abs=1e-5)
    assert {event["first"]: event["references"] for event in events} == {
        0: {"0.png": 1.0},
        8: {"1.png": 1.0},
        18: {"0.png": 1.0},
    }
    (folder / "plan.toml").write_text(f'{head}{{0 = "0.png", 5 = "1.png"}}\n{rest}')
    events = told(capsys, [*command, "-o", str(folder / "b.mkv")])
    wanted = expected(folder, model, [0, 5, 18], ["0.png", "1.png", "0.png"])
    shares = {event["first"]: event["references"] for event in events}
    assert [event["similarity"] for event in events] == pytest.approx([one for _, one, _ in wanted], abs=1e-5)
    assert shares[0]["1.png"] == pytest.approx(next(share for first, _, share in wanted if first == 0), abs=1e-5)
    assert sum(shares[0].values()) == pytest.approx(1.0) and 0 < shares[0]["1.png"] < 1
    assert (shares[8], shares[18]) == ({"1.png": 1.0}, {"0.png": 1.0})


def test_before_a_render(folder: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`scenes` and `compare` report each scene's similarity at its typical frame with the better reference."""
    film, pictures, options = str(folder / "film.mkv"), [str(folder / f"{n}.png") for n in range(2)], ["--size", "64"]
    options += ["--model", model, "--device", "cpu"]
    events = told(capsys, ["scenes", film, "--ref", *pictures, *options])
    clip = source.open_video(Path(film), folder)
    small = source.small_luma(clip, 64)
    best = {}
    for number, path in enumerate(pictures):
        coloured = colorize(clip, open_references([Path(path)], folder).clip, model=model, size=64, device="cpu")
        for first, length in zip(FIRSTS, LENGTHS, strict=True):
            typical = source.shown_frames(small, source.Scene(first, first + length, 0.0)).typical
            one = coloured.get_frame(typical).props["ExvcSimilarity"], f"{number}.png"
            best[first] = max(best.get(first, one), one)
    wanted = sorted((similarity, first, name) for first, (similarity, name) in best.items())
    assert [event["similarity"] for event in events] == pytest.approx([one for one, *_ in wanted], abs=1e-5)
    assert [(event["first"], *event["references"]) for event in events] == [(first, name) for _, first, name in wanted]

    page = folder / "page.html"
    assert main(["compare", film, "--ref", *pictures, "-o", str(page), *options]) == 0
    out, err = capsys.readouterr()
    assert out == f"{page}\n" and err.count("  weak  ") == 3
    rows = content_of(page)["scenes"]
    assert [(row["frame"], *row["references"]) for row in rows] == [(first, name) for _, first, name in wanted]
    assert [row["similarity"] for row in rows] == pytest.approx([one for one, *_ in wanted], abs=1e-5)
