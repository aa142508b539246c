"""`python -m train evaluate`: which measures run on which folders, and where their figures go."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import torch

from train import commit
from train.measure import back, ends, faces, keypoints, legacy, letterbox, nothing, protocol, tables
from train.measure.baselines import FRAMES, clip_paths
from train.measure.protocol import at_least
from vsexvc.nets.network import ColorizationNet

_DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
_KNOWN = ("val_fast", "val_clips", "val_faces", "val_semantic", "legacy")


class Figures(Protocol):
    """What a measure gives back: an Evaluation or a Table."""

    def as_markdown(self) -> str: ...
    def as_json(self) -> Mapping[str, object]: ...


# --- the measures ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Request:
    """What to measure, and on what.

    Attributes:
        network: in evaluation mode; None: only what learns nothing.
        clips, faces, things: folders of clips, of photographs with boxes.csv, of pictures with keypoints.csv.
        legacy: folders of black-and-white clips, each with a folder of references.
        frames: of each clip at most.
        rounds: how often clips are played there and back.
        every: only every such clip of a folder, pair of faces, picture of a class.
        limit: of these only the first.
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
        """The clips of a folder that take part."""
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
    """One of --what: how it is run, the field of Request that it runs on, whether it asks for a network."""

    run: Callable[[Request], Iterator[Figures]]
    on: str
    needs_network: bool

    def why_not(self, r: Request) -> str | None:
        """What it lacks; None if it can run."""
        if not getattr(r, self.on):
            return f"a folder of {self.on}"
        return "a network" if self.needs_network and r.network is None else None


MEASURES = {
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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of `python -m train evaluate`."""
    add = parser.add_argument
    add("folders", nargs="*", type=Path, metavar="FOLDER",
        help=f"of true colour clips, of faces with {faces.BOXES}, of things with {keypoints.KEYPOINTS}, "
        f"of old clips with their NAME{legacy.REFERENCES} "
        f"(default: {', '.join(_KNOWN)} of --data)")  # fmt: skip
    add("--what", nargs="+", choices=MEASURES, help="measures to run (default: all that the folders allow)")
    add("--data", type=Path, default=_DATA, help="where folders are taken from if none is named (default: %(default)s)")
    add("--model", help="name or path of the weights (default: those that are shipped)")
    add("--baselines-only", action="store_true", help="no network, only what learns nothing")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="default: %(default)s")
    add("--frames", type=at_least(2), default=FRAMES, help="of each clip (default: %(default)s)")
    add("--rounds", type=at_least(1), metavar="N", default=1,
        help="how often clips are played there and back (default: %(default)s)")  # fmt: skip
    add("--every", type=at_least(1), metavar="N", default=1,
        help="only every Nth clip of a folder, pair of faces, picture of a class (default: %(default)s)")  # fmt: skip
    add("--limit", type=at_least(1), metavar="N", help="of these only the first N")
    add("--out", type=Path, help="folder for tables, plots, contact sheets and the baselines' figures")


def main(args: argparse.Namespace) -> None:
    """Runs the measures, prints their tables and writes into args.out.

    Raises:
        ValueError, OSError: one line on what cannot be read, used or written.
    """
    folders = args.folders or [args.data / name for name in _KNOWN if (args.data / name).is_dir()]
    if not folders:
        raise ValueError(f"evaluate: a folder must be named where --data {args.data} holds none of {', '.join(_KNOWN)}")
    request = _request(args, folders)
    lacking = {what: measure.why_not(request) for what, measure in MEASURES.items()}
    for what in args.what or ():
        if lacking[what] is not None:
            raise ValueError(f"evaluate: --what {what} needs {lacking[what]}, got {', '.join(map(str, folders))}")
    document, texts = _described(args, folders), []
    for what in args.what or [what for what, reason in lacking.items() if reason is None]:
        for found in MEASURES[what].run(request):
            texts.append(found.as_markdown())
            print(f"\n{texts[-1]}\n", flush=True)
            document.setdefault("folders" if what == "propagation" else what, []).append(found.as_json())
    if args.out is not None:
        tables.write_json(args.out / "evaluation.json", document)
        (args.out / "evaluation.md").write_text("\n\n".join(texts) + "\n")


def _request(args: argparse.Namespace, folders: Sequence[Path]) -> Request:
    """Tells the folders apart by what lies in them; what lies in no other kind of folder is a clip."""
    of_faces = tuple(folder for folder in folders if (folder / faces.BOXES).exists())
    things = tuple(folder for folder in folders if (folder / keypoints.KEYPOINTS).exists())
    old = tuple(folder for folder in folders if legacy.holds_legacy(folder))
    return Request(
        network=None if args.baselines_only else protocol.load_network(args.model, args.device),
        clips=tuple(folder for folder in folders if folder not in {*of_faces, *things, *old}),
        faces=of_faces,
        things=things,
        legacy=old,
        frames=args.frames,
        rounds=args.rounds,
        every=args.every,
        limit=args.limit,
        out=args.out,
    )


def _described(args: argparse.Namespace, folders: Sequence[Path]) -> dict[str, Any]:
    settings = {key: value if isinstance(value, int | list | None) else str(value) for key, value in vars(args).items()}
    settings["folders"] = [str(folder) for folder in folders]
    versions = {"commit": commit(), "torch": torch.__version__, "opencv": cv2.__version__}
    return {"settings": settings, "versions": versions}
