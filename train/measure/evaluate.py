"""Run the measures of `python -m train evaluate` on folders, and write their figures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import cv2
import torch
from tyro.conf import FlagCreatePairsOff, Positional

from train import commit
from train.measure import back, ends, faces, keypoints, legacy, letterbox, nothing, protocol, tables
from train.measure.arguments import check_at_least, default_device, load_network
from train.measure.baselines import FRAMES, clip_paths
from vsexvc.nets.network import ColorizationNet

_DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
What = Literal["propagation", "faces", "keypoints", "nothing", "back", "ends", "letterbox", "legacy"]
_KNOWN = ("val_fast", "val_clips", "val_faces", "val_semantic", "legacy")


class Figures(Protocol):
    """Describe what a measure returns: an Evaluation or a Table."""

    def as_markdown(self) -> str: ...
    def as_json(self) -> Mapping[str, object]: ...


# --- the measures ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Request:
    """Describe what is measured, and on which folders.

    Attributes:
        network: in evaluation mode; None: baselines only.
        clips, faces, things: folders of clips, of photographs with boxes.csv, of pictures with keypoints.csv.
        legacy: folders of black-and-white clips, each with a folder of references.
        frames: of each clip at most.
        rounds: how often clips are played forward and backward.
        every: use only every Nth clip of a folder, pair of faces, picture of a class.
        limit: use only the first N of these; None: all.
        out: folder for plots, contact sheets and the baselines' figures.
    """

    network: ColorizationNet | None
    clips: tuple[Path, ...]
    faces: tuple[Path, ...]
    things: tuple[Path, ...]
    legacy: tuple[Path, ...]
    frames: int
    rounds: int
    every: int
    limit: int | None
    out: Path | None

    def paths(self, folder: Path) -> list[Path]:
        """List the clips of a folder that are measured."""
        return clip_paths(folder, self.limit, self.every)


def _propagation(r: Request) -> Iterator[Figures]:
    for folder in r.clips:
        yield protocol.evaluate_folder(r.network, folder, frames=r.frames, every=r.every, limit=r.limit, out=r.out)


def _faces(r: Request) -> Iterator[Figures]:
    for folder in r.faces:
        yield faces.measure(r.network, folder, every=r.every, limit=r.limit)


def _keypoints(r: Request) -> Iterator[Figures]:
    assert r.network is not None
    for folder in r.things:
        yield keypoints.measure(keypoints.NetworkMatcher(r.network), folder, every=r.every, limit=r.limit)


def _nothing(r: Request) -> Iterator[Figures]:
    assert r.network is not None
    photographs = nothing.least_colourful(r.things[0]) if r.things else []
    for folder in r.clips:
        yield nothing.measure(r.network, r.paths(folder), folder.name, photographs)


def _back(r: Request) -> Iterator[Figures]:
    assert r.network is not None
    for folder in r.clips:
        yield back.measure(r.network, r.paths(folder), folder.name, frames=r.frames, rounds=r.rounds)


def _ends(r: Request) -> Iterator[Figures]:
    assert r.network is not None
    for folder in r.clips:
        yield ends.measure(r.network, r.paths(folder), folder.name, frames=r.frames)


def _letterbox(r: Request) -> Iterator[Figures]:
    assert r.network is not None
    for folder in r.clips:
        frames = min(r.frames, letterbox.FRAMES)
        yield letterbox.measure(r.network, r.paths(folder), folder.name, frames=frames)


def _legacy(r: Request) -> Iterator[Figures]:
    assert r.network is not None
    for folder in r.legacy:
        yield legacy.measure(r.network, folder, limit=r.limit, out=r.out)


@dataclass(frozen=True)
class Measure:
    """Describe a measure of --what: its function, the required field of Request, whether it requires a network."""

    run: Callable[[Request], Iterator[Figures]]
    on: str
    needs_network: bool

    def why_not(self, r: Request) -> str | None:
        """Return what is missing for the measure; None if it can run."""
        if not getattr(r, self.on):
            return f"a folder of {self.on}"
        return "a network" if self.needs_network and r.network is None else None


MEASURES: dict[What, Measure] = {
    "propagation": Measure(_propagation, "clips", needs_network=False),
    "faces": Measure(_faces, "faces", needs_network=False),
    "keypoints": Measure(_keypoints, "things", needs_network=True),
    "nothing": Measure(_nothing, "clips", needs_network=True),
    "back": Measure(_back, "clips", needs_network=True),
    "ends": Measure(_ends, "clips", needs_network=True),
    "letterbox": Measure(_letterbox, "clips", needs_network=True),
    "legacy": Measure(_legacy, "legacy", needs_network=True),
}


# --- the command -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class EvaluateOptions:
    """Measure weights against truth and baselines.

    Attributes:
        folders: folders of true colour clips, of faces with boxes.csv, of things with keypoints.csv, or of old clips,
            each with a folder NAME_refs of references. Default: the known ones in `data`.
        what: measures to run. Default: all that the folders allow.
        data: folder that contains the known folders.
        model: name or path of the weights. Default: the shipped ones.
        baselines_only: measure only baselines, without a network.
        device: cpu, or another device that torch finds.
        frames: use at most N frames of each clip.
        rounds: how often clips are played forward and backward.
        every: use only every Nth clip of a folder, pair of faces and picture of a class.
        limit: use only the first N of these.
        out: folder for tables, plots, contact sheets and the baselines' figures.
    """

    folders: Positional[tuple[Path, ...]] = ()
    what: tuple[What, ...] | None = None
    data: Path = _DATA
    model: str | None = None
    baselines_only: FlagCreatePairsOff[bool] = False
    device: str = field(default_factory=default_device)
    frames: int = FRAMES
    rounds: int = 1
    every: int = 1
    limit: int | None = None
    out: Path | None = None

    def __post_init__(self) -> None:
        check_at_least(2, frames=self.frames)
        check_at_least(1, rounds=self.rounds, every=self.every, limit=self.limit)


def main(options: EvaluateOptions) -> None:
    """Run the measures, print their tables and write into options.out.

    Raises:
        ValueError, OSError: one line on a file or option that cannot be read, used or written.
    """
    folders = options.folders or [options.data / name for name in _KNOWN if (options.data / name).is_dir()]
    if not folders:
        known = ", ".join(_KNOWN)
        raise ValueError(f"evaluate: a folder must be named where --data {options.data} holds none of {known}")
    request = _request(options, folders)
    lacking = {what: measure.why_not(request) for what, measure in MEASURES.items()}
    for what in options.what or ():
        if lacking[what] is not None:
            raise ValueError(f"evaluate: --what {what} needs {lacking[what]}, got {', '.join(map(str, folders))}")
    document, texts = _described(options, folders), []
    for what in options.what or [what for what, reason in lacking.items() if reason is None]:
        for found in MEASURES[what].run(request):
            texts.append(found.as_markdown())
            print(f"\n{texts[-1]}\n", flush=True)
            document.setdefault("folders" if what == "propagation" else what, []).append(found.as_json())
            if options.out is not None:  # after each table: a later measure may fail
                tables.write_json(options.out / "evaluation.json", document)
                (options.out / "evaluation.md").write_text("\n\n".join(texts) + "\n")


def _request(options: EvaluateOptions, folders: Sequence[Path]) -> Request:
    """Sort the folders by their content; a folder of no other kind contains clips."""
    of_faces = tuple(folder for folder in folders if (folder / faces.BOXES).exists())
    things = tuple(folder for folder in folders if (folder / keypoints.KEYPOINTS).exists())
    old = tuple(folder for folder in folders if legacy.holds_legacy(folder))
    return Request(
        network=None if options.baselines_only else load_network(options.model, options.device),
        clips=tuple(folder for folder in folders if folder not in {*of_faces, *things, *old}),
        faces=of_faces,
        things=things,
        legacy=old,
        frames=options.frames,
        rounds=options.rounds,
        every=options.every,
        limit=options.limit,
        out=options.out,
    )


def _described(options: EvaluateOptions, folders: Sequence[Path]) -> dict[str, Any]:
    settings: dict[str, Any] = {
        key: value if isinstance(value, int | tuple | None) else str(value) for key, value in vars(options).items()
    }
    settings["folders"] = [str(folder) for folder in folders]
    versions = {"commit": commit(), "torch": torch.__version__, "opencv": cv2.__version__}
    return {"settings": settings, "versions": versions}
