"""Compare a render with an earlier run: what has changed, which parts of a stretch are made again, and the report."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from vsexvc.film.folder import Folder
from vsexvc.film.job import Job
from vsexvc.film.takes import follows

OF_FILM = ("input", "interlaced", "fps")  # arguments that the index depends on
OF_SCENES = ("size", "sc", "sc_threshold")  # further arguments that found scenes depend on
# These change some parts only.
_OF_PARTS = {"references", "ref_frames", "left", "around_in_scenes", "scenes", "sc", "sc_threshold"}


def stretch_of(text: str) -> tuple[int, int]:
    """Return the frames [first, stop) that `A:B` names, as a slice does. Raise ValueError for another text."""
    first, _, stop = text.partition(":")
    if not (first.isdecimal() and stop.isdecimal() and int(first) < int(stop)):
        raise ValueError(f"--frames must be A:B, frames A to B - 1 of the film, with A below B, got {text!r}")
    return int(first), int(stop)


def check(frames: tuple[int, int], num_frames: int) -> None:
    """Raise ValueError for frames beyond the film."""
    if frames[1] > num_frames:
        raise ValueError(f"--frames must be within the film, 0:{num_frames}, got {frames[0]}:{frames[1]}")


def _check_begun(is_begun: bool, difference: str, folder: Path) -> None:
    """Raise ValueError if there is no earlier run to join with.

    Args:
        is_begun: whether the folder holds an earlier run.
        difference: names what differs from that run and affects the whole film; empty: nothing.
        folder: the working folder.
    """
    if not is_begun:
        raise ValueError(
            f"--frames must have an earlier render to join with, {str(folder)!r} holds none: render with --keep first, "
            "and name its folder with --work"
        )
    if difference:
        raise ValueError(
            f"--frames must leave the rest of the film as it is, but that had another {difference}: leave out --frames"
        )


def difference(began: dict[str, Any], asked: dict[str, Any]) -> str:
    """Name what differs, with values if they are short."""
    words = []
    for key in sorted(began.keys() | asked.keys()):
        old, new = began.get(key), asked.get(key)
        if old != new:
            is_short = not isinstance(old or new, list | dict) and max(len(str(old)), len(str(new))) < 30
            words.append(f"{key} ({old}, now {new})" if is_short else key)
    return ", ".join(words)


def compare(
    frames: tuple[int, int] | None,
    began: dict[str, Any],
    asked: dict[str, Any],
    folder: Folder,
    report: Callable[..., None],
) -> None:
    """Report how the arguments differ from those of the earlier run; clear the folder if the film does.

    Args:
        frames: the stretch to make again; None: there is none.
        began: the earlier run's arguments as JSON; empty: there was none.
        asked: this run's arguments as JSON.
        folder: the working folder.
        report: called for each event.

    Raises:
        ValueError: `frames` are given and there is no earlier run to join with.
    """
    is_other = bool(began) and of_all(began) != of_all(asked)
    if frames is not None:
        _check_begun(bool(began), difference(*map(of_all, (began, asked))) if is_other else "", folder.path)
    if is_other:
        report("note", text=f"starting over: the earlier run had another {difference(began, asked)}")
    elif began and began != asked:
        report("note", text=f"making parts again that depend on changed arguments: {difference(began, asked)}")
    if not began or differ(began, asked, OF_FILM):
        folder.clear()


def of_all(asked: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments that all parts depend on."""
    return {key: value for key, value in asked.items() if key not in _OF_PARTS}


def differ(began: dict[str, Any], asked: dict[str, Any], names: Collection[str]) -> bool:
    return any(began.get(name) != asked.get(name) for name in names)


def touched(job: Job, frames: tuple[int, int]) -> list[int]:
    """Return the parts that contain the frames [first, stop), and later parts that continue from their state."""
    numbers: list[int] = []
    for number, (first, stop) in enumerate(job.parts):
        goes_on = bool(numbers) and numbers[-1] == number - 1 and follows(job, number)
        if goes_on or (first < frames[1] and stop > frames[0]):
            numbers.append(number)
    return numbers


def told(job: Job, frames: tuple[int, int], made: Sequence[int]) -> str:
    """Report in one line what was made again.

    Args:
        job: the job with its parts.
        frames: [first, stop), as requested.
        made: numbers of the parts, ascending.
    """
    if not made:
        return "made again: nothing, the stopped run had made all of it"
    again = touched(job, frames)
    inside = [number for number in made if number in again and job.parts[number][0] < frames[1]]
    after = [number for number in made if number in again and number not in inside]
    others = [number for number in made if number not in again]
    said = [f"frames {_spans(job, inside)}"] if inside else []
    said += [f"{_spans(job, after)}, which continue from there"] if after else []
    said += [f"{_spans(job, others)}, which were missing or depend on another change"] if others else []
    return f"made again: {'; '.join(said)}: {len(made)} of {len(job.parts)} parts"


def _spans(job: Job, numbers: Sequence[int]) -> str:
    """Format the frames of parts, as "0 to 49, 110 to 159"."""
    spans: list[list[int]] = []
    for first, stop in (job.parts[number] for number in numbers):
        if spans and spans[-1][1] == first:
            spans[-1][1] = stop
        else:
            spans.append([first, stop])
    return ", ".join(f"{first} to {stop - 1}" for first, stop in spans)
