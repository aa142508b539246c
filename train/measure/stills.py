"""Make Table 1: colour each picture by the most similar one, and judge it by nets trained on true colours.

A picture and its reference are stretched to the network's size, the shorter side 216; truth and results are compared at
that size. VGG19 classifies the results (Top-1, Top-5), and Inception's features give FID. Both are torchvision's; their
files are never downloaded. (Published FIDs use another Inception: compare only figures of this command.)

Axes: B pictures of one size, H and W rows and columns, D features, 3 = (R, G, B).
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import torch
import torchvision
from torch import Tensor, nn
from torchvision.transforms import v2
from tyro.conf import Positional

from train import commit
from train.data.files import IMAGE_SUFFIXES, find, read_image
from train.data.retrieval import Retrieval
from train.measure import arguments, metrics, protocol, tables
from train.measure.baselines import Clip
from train.measure.scores import to_rgb
from vsexvc.nets.network import ColorizationNet
from vsexvc.session import Session, network_size
from vsexvc.support.errors import first_line
from vsexvc.support.progress import followed

log = logging.getLogger("train")

_SHOWN = 60  # pictures on the contact sheets, spread over the folder
_VGG19, _INCEPTION = (
    torchvision.models.VGG19_Weights.IMAGENET1K_V1,
    torchvision.models.Inception_V3_Weights.IMAGENET1K_V1,
)


# --- the nets that judge ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Judges:
    """Hold the nets that judge colours; None: not available.

    Attributes:
        classifier: (B, 3, H, W) uint8 -> (B, classes), higher for likelier classes.
        features: (B, 3, H, W) uint8 -> (B, D).
        missing: one line on each that is None.
    """

    classifier: nn.Module | None
    features: nn.Module | None
    missing: tuple[str, ...] = ()


def read_judges(classifier: Path | None, inception: Path | None, device: str | torch.device = "cpu") -> Judges:
    """Read torchvision's VGG19 and Inception v3 from the given files, else from torch.hub's folder of checkpoints.

    Raise OSError for a given file that does not exist, ValueError for one that holds something else.
    """
    missing = []
    nets: list[nn.Module | None] = []
    for measure, option, given, source in (
        ("Top-1, Top-5", "classifier", classifier, _VGG19),
        ("FID", "inception", inception, _INCEPTION),
    ):
        name, folder = Path(source.url).name, Path(torch.hub.get_dir()) / "checkpoints"
        path = folder / name if given is None else given
        if path.is_file():
            net = _vgg19(path) if source is _VGG19 else _inception(path)
            nets.append(net.eval().requires_grad_(False).to(device))
        elif given is not None:
            raise FileNotFoundError(f"images: --{option} must be torchvision's {name}, {given} is not there")
        else:
            nets.append(None)
            missing.append(f"{measure}: not measured, {name} is missing: put it into {folder} or give --{option} FILE")
    return Judges(nets[0], nets[1], tuple(missing))


def _vgg19(path: Path) -> nn.Module:
    return nn.Sequential(_VGG19.transforms(), _loaded(torchvision.models.vgg19(), path))


def _inception(path: Path) -> nn.Module:
    net = _loaded(torchvision.models.inception_v3(init_weights=False, transform_input=True), path)
    net.fc = nn.Identity()
    scaled = v2.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])
    return nn.Sequential(v2.Resize((299, 299), antialias=True), v2.ToDtype(torch.float32, scale=True), scaled, net)


def _loaded(net: nn.Module, path: Path) -> nn.Module:
    try:
        net.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # torch raises many kinds of errors for other files
        kind, line = type(net).__name__, first_line(error)
        raise ValueError(f"images: {path} must hold torchvision's weights of {kind}: {line}") from None
    return net


def class_of(name: str, categories: Sequence[str], synsets: Sequence[str] = ()) -> int | None:
    """Return the class that a folder's name states: an index, a synset's id, or a category in any case; None: none.

    Args:
        name: of the folder; _ is read as a blank.
        categories: names of the classes by index.
        synsets: ids of the classes by index, where they are known.

    Raises:
        ValueError: more than one class has this name.
    """
    if name.isdecimal():
        return int(name) if int(name) < len(categories) else None
    if name in synsets:
        return synsets.index(name)
    text = name.replace("_", " ")
    found = [i for i, category in enumerate(categories) if category == text]
    found = found or [i for i, category in enumerate(categories) if category.casefold() == text.casefold()]
    if len(found) > 1:
        raise ValueError(f"images: a folder must name one class, {name!r} names {found}: take the index instead")
    return found[0] if found else None


# --- references ------------------------------------------------------------------------------------------------------


def by_name(pictures: Sequence[Path], folder: Path, references: Sequence[Path], root: Path) -> list[Path | None]:
    """Find for each picture below `folder` the reference at the same place below `root`."""
    places = {path.relative_to(root).with_suffix(""): path for path in references}
    return [places.get(path.relative_to(folder).with_suffix("")) for path in pictures]


def most_similar(
    network: ColorizationNet, pictures: Sequence[Path], references: Sequence[Path], cache: Path
) -> list[Path | None]:
    """Find for each picture the most similar reference, without itself and near duplicates (section 5.2)."""
    files = list(dict.fromkeys([*pictures, *references]))
    allowed = set(references)
    among_all = Retrieval(network, files, [], cache)
    chosen: list[Path | None] = []
    for i, picture in enumerate(pictures):
        five = [files[n] for _, n in among_all.five("image", i)]
        best = next((path for path in five if path in allowed), None)
        if best is None and not allowed.issuperset(five):  # none of the five is allowed
            others = [picture, *(path for path in references if path != picture)]
            best = next((others[n] for _, n in Retrieval(network, others, [], cache).five("image", 0)), None)
        chosen.append(best)
    return chosen


# --- colouring and measuring -----------------------------------------------------------------------------------------


@dataclass
class Measured:
    """Collect the figures of one folder, picture by picture.

    Attributes:
        pictures: names of the pictures and of their references.
        skipped: one line for each picture that was left out.
        unlabelled: number of pictures without a class, which do not count in Top-1 and Top-5.
        missing: one line for each figure that could not be computed.
        colourfulness, ranks, features: by method, one entry for each picture. Ranks of the true class count from 0
            and exist for labelled pictures only.
    """

    folder: str
    missing: list[str]
    pictures: list[tuple[str, str]] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    unlabelled: int = 0
    colourfulness: dict[str, list[float]] = field(default_factory=dict)
    ranks: dict[str, list[int]] = field(default_factory=dict)
    features: dict[str, list[np.ndarray]] = field(default_factory=dict)

    def rows(self) -> dict[str, dict[str, float]]:
        """Return by method Top-5 and Top-1 (shares), FID against the truth, and colourfulness, if measured."""
        found = {}
        for name, values in self.colourfulness.items():
            row = {}
            if ranks := self.ranks.get(name):
                row = {f"Top-{k}": float(np.mean(np.array(ranks) < k)) for k in (5, 1)}
            if len(self.features.get(name, ())) > 1:
                row["FID"] = metrics.frechet_distance(np.stack(self.features["truth"]), np.stack(self.features[name]))
            found[name] = row | {"colourfulness": float(np.mean(values))}
        return found

    def notes(self) -> list[str]:
        lines = [*self.missing, *self.skipped]
        if self.unlabelled:
            lines.append(f"Top-1, Top-5: {self.unlabelled} of {len(self.pictures)} pictures lie in no class's folder")
        return lines

    def as_markdown(self) -> str:
        formats = {"Top-5": ".1%", "Top-1": ".1%", "FID": ".2f", "colourfulness": ".1f"}
        rows = [
            [name, *(format(row[column], digits) if column in row else "-" for column, digits in formats.items())]
            for name, row in self.rows().items()
        ]
        text = f"### {self.folder}, {len(self.pictures)} pictures\n\n{tables.table(('method', *formats), rows)}"
        return text + "".join(f"\n\n{line}" for line in self.notes())

    def as_json(self) -> dict[str, Any]:
        pictures = [list(pair) for pair in self.pictures]
        labelled = len(self.pictures) - self.unlabelled
        kept = {"folder": self.folder, "rows": self.rows(), "labelled": labelled, "notes": self.notes()}
        return kept | {"pictures and references": pictures}


@torch.inference_mode()
def colour(network: ColorizationNet, picture: tables.Picture, reference: tables.Picture) -> dict[str, tables.Picture]:
    """Return the truth, grey, the warped colour and the network's output, (H, W, 3) uint8 of the network's size.

    picture, reference: (rows, columns, 3) uint8, of any size.
    """
    session = Session(network)
    target, source = (Clip(Path(), _stretched(each)[None]) for each in (picture, reference))
    prepared = session.reference(source.lab)
    (correspondence,) = session.correspond(target.lab[:, :1], prepared)
    _, ab = session.step(session.start(None), correspondence)
    results = {"grey": torch.zeros_like(target.lab[:, 1:])}
    results |= {"warped colour": protocol.warped_colour(network, correspondence).float(), "model": ab.cpu().float()}
    return {"truth": target.rgb[0]} | {name: to_rgb(target, ab)[0] for name, ab in results.items()}


def _stretched(picture: tables.Picture) -> tables.Picture:
    height, width = network_size(picture.shape[1], picture.shape[0])
    return np.asarray(cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def measure(
    network: ColorizationNet,
    folder: Path,
    pairs: Sequence[tuple[Path, Path | None]],
    judges: Judges,
    *,
    categories: Sequence[str] = _VGG19.meta["categories"],
    synsets: Sequence[str] = (),
    out: Path | None = None,
) -> Measured:
    """Colour pictures by their references and judge them.

    Args:
        network: in evaluation mode.
        folder: of the pictures; a picture's parent folder names its class (see `class_of`).
        pairs: pictures below `folder` and their references; None: there is none, and the picture is left out.
        judges: on the same device as the network.
        categories: names of the classifier's classes.
        synsets: ids of the classes, if known.
        out: folder for contact sheets; None: none is written.

    Raises:
        ValueError: no picture has a reference and can be read; two classes have a folder's name.
    """
    result = Measured(folder.name, list(judges.missing))
    shown = {round(k) for k in np.linspace(0, len(pairs) - 1, min(_SHOWN, len(pairs)))}
    overview: dict[str, list[tables.Picture]] = {}
    labels = {place: class_of(place.name, categories, synsets) for place in {p.parent for p, _ in pairs} - {folder}}
    for i, (path, chosen) in enumerate(followed(pairs, folder.name, " pictures", head="train")):
        name = str(path.relative_to(folder))
        if chosen is None:
            result.skipped.append(f"left out: {name} has no reference")
            continue
        try:
            picture, reference = read_image(path), read_image(chosen)
        except OSError as error:
            result.skipped.append(f"left out: {error}")
            continue
        coloured = colour(network, picture, reference)
        result.pictures.append((name, str(chosen)))
        for method, rgb in coloured.items():
            result.colourfulness.setdefault(method, []).append(metrics.colourfulness(rgb))
        _judge(judges, coloured, labels.get(path.parent), result)
        if i in shown:
            overview[name] = [tables.thumbnail(each) for each in (reference, *coloured.values())]
            columns = ["reference", *coloured]
    if not result.pictures:
        raise ValueError(f"images: {folder} must hold pictures that have references, none of {len(pairs)} has one")
    if judges.features is not None and len(result.pictures) < 2:
        result.missing.append("FID: not measured, it needs two pictures or more")
    if out is not None and overview:
        tables.write_overview(out / f"overview_{folder.name}.png", overview, columns)
    return result


@torch.inference_mode()
def _judge(judges: Judges, coloured: dict[str, tables.Picture], label: int | None, result: Measured) -> None:
    batch = torch.from_numpy(np.stack(list(coloured.values()))).permute(0, 3, 1, 2).contiguous()
    if judges.classifier is not None and label is not None:
        scores = _shown(judges.classifier, batch)
        better = (scores > scores[:, label : label + 1]).sum(1)
        for method, rank in zip(coloured, better.tolist(), strict=True):
            result.ranks.setdefault(method, []).append(rank)
    result.unlabelled += judges.classifier is not None and label is None
    if judges.features is not None:
        for method, found in zip(coloured, _shown(judges.features, batch).numpy(), strict=True):
            result.features.setdefault(method, []).append(found)


def _shown(judge: nn.Module, batch: Tensor) -> Tensor:
    parameter = next(judge.parameters(), batch)
    found: Tensor = judge(batch.to(parameter.device))
    return found.cpu()


# --- command line ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ImagesOptions:
    """Colour each picture after a similar one (Table 1).

    Attributes:
        folder: folder of true colour pictures; subfolders may name classes.
        references: folder of the references. Default: `folder`.
        by: whether the reference is the most similar picture or the one of the same name.
        retrieve_by: weights that find similar pictures. Default: the shipped ones.
        model: name or path of the weights. Default: the shipped ones.
        classifier: torchvision's VGG19, for Top-1 and Top-5.
        inception: torchvision's Inception v3, for FID.
        synsets: file with the ids of the classes (n01440764 ...) by index, each the first word of a line.
        device: cpu, or another device that torch finds.
        limit: use only N pictures, spread over the folder.
        out: folder for the table, contact sheets and descriptors.
    """

    folder: Positional[Path]
    references: Path | None = None
    by: Literal["similarity", "name"] = "similarity"
    retrieve_by: str | None = None
    model: str | None = None
    classifier: Path | None = None
    inception: Path | None = None
    synsets: Path | None = None
    device: str = field(default_factory=arguments.default_device)
    limit: int | None = None
    out: Path | None = None

    def __post_init__(self) -> None:
        arguments.check_at_least(1, limit=self.limit)


def main(options: ImagesOptions) -> None:
    """Measure options.folder, print the table and write into options.out.

    Raises:
        ValueError, OSError: one line on a file or option that cannot be read, used or written.
    """
    network = arguments.load_network(options.model, options.device)
    judges = read_judges(options.classifier, options.inception, options.device)
    synsets = [] if options.synsets is None else [line.split()[0] for line in options.synsets.read_text().splitlines()]
    pictures = find([options.folder], IMAGE_SUFFIXES)
    root = options.references or options.folder
    references = find([root], IMAGE_SUFFIXES)
    if not pictures or not references:
        raise ValueError(f"images: {options.folder if not pictures else root} must hold pictures, but has none")
    if options.limit is not None:
        pictures = [pictures[round(k)] for k in np.linspace(0, len(pictures) - 1, min(options.limit, len(pictures)))]
    if options.by == "name":
        if options.references is None:
            raise ValueError("images: --by name needs --references, or each picture would be its own")
        chosen = by_name(pictures, options.folder, references, root)
    else:
        judge = arguments.load_network(options.retrieve_by, options.device)
        with tempfile.TemporaryDirectory() as temporary:
            chosen = most_similar(judge, pictures, references, options.out or Path(temporary))
    pairs = list(zip(pictures, chosen, strict=True))
    found = measure(network, options.folder, pairs, judges, synsets=synsets, out=options.out)
    print(f"\n{found.as_markdown()}\n", flush=True)
    if options.out is not None:
        settings = {key: value if isinstance(value, int | None) else str(value) for key, value in vars(options).items()}
        versions = {"commit": commit(), "torch": torch.__version__, "torchvision": torchvision.__version__}
        tables.write_json(options.out / "images.json", {"settings": settings, "versions": versions, **found.as_json()})
        (options.out / "images.md").write_text(found.as_markdown() + "\n")
