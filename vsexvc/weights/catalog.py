"""List known models, shipped and downloaded; locate those in the cache, and get their archives into it.

transfer.py downloads; store.py reads the files. This module does not import torch or VapourSynth; notices go to stderr.

In the cache folder a model NAME has these files, in the order in which they appear: `NAME.lock` (held by the process
that downloads), `NAME.zip.part` with `NAME.zip.part.json` (the bytes so far, and their origin), `NAME.zip` (complete,
hash checked), `NAME.safetensors.json` (the hashes, which stay) and `NAME.safetensors`. The lock and the last two stay.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from vsexvc.support.files import read_json, sha256_of, write_json
from vsexvc.support.progress import notice
from vsexvc.support.system import lock, replace
from vsexvc.weights.transfer import (
    DownloadError,
    Transfer,
    state_of,
)

CACHE_VARIABLE = "VSEXVC_CACHE"


@dataclass(frozen=True)
class Known:
    """Describe a model that has a name here.

    Attributes:
        what: a description, in a line.
        licence: licence of the weights.
        figures: measured results, and their source.
        url: URL of its archive; None: it is shipped.
        sha256: of the archive; None: no hash is published, and the first download records one.
    """

    name: str
    what: str
    licence: str
    figures: str
    url: str | None = None
    sha256: str | None = None


KNOWN = {
    known.name: known
    for known in (
        Known(
            "exvc",
            "7.2 million parameters, half of them an ImageNet classifier's, the rest trained in this repository",
            "research use only",
            "35.04 dB on val_fast, 38.71 dB on val_clips; faces of another scene 2.4 away",
        ),
        Known(
            "exvc-small",
            "3.4 million parameters, trained in this repository",
            "research use only",
            "34.13 dB on val_fast, 37.94 dB on val_clips",
        ),
        Known(
            "devc",
            "55.0 million parameters, the release of the paper's authors",
            "MIT",
            "not measured here; retrained by others 33.24 dB on DAVIS, 33.11 dB on Videvo (ColorMNet's tables)",
            "https://github.com/zhangmozhe/Deep-Exemplar-based-Video-Colorization/releases/download/v1.0/"
            "colorization_checkpoint.zip",
        ),
    )
}


@dataclass(frozen=True)
class Record:
    """Record a download. url: its source; archive_sha256: of the archive; sha256: of the file made of it."""

    url: str
    archive_sha256: str
    sha256: str


def cache_folder() -> Path:
    """Return $VSEXVC_CACHE, else the user's cache folder of this platform. It need not exist."""
    chosen = os.environ.get(CACHE_VARIABLE)
    return Path(chosen).expanduser() if chosen else Path(platformdirs.user_cache_dir("vsexvc", appauthor=False))


def file_of(name: str) -> Path:
    """Return the path of a downloaded model, whether it exists or not."""
    return cache_folder() / f"{name}.safetensors"


def read_record(path: Path) -> Record | None:
    """Return the record of a weights file, None for one that was not downloaded.

    Raises ValueError for a record that cannot be understood, OSError for one that cannot be read.
    """
    record = path.with_name(path.name + ".json")
    stored = read_json(record)
    if stored is None:
        return None
    try:
        return Record(**stored)
    except TypeError:
        raise ValueError(
            f"record {str(record)!r} must hold {', '.join(f.name for f in dataclasses.fields(Record))}; remove it"
        ) from None


def write_record(path: Path, record: Record) -> None:
    write_json(path.with_name(path.name + ".json"), dataclasses.asdict(record))


@contextmanager
def cache_for(name: str) -> Iterator[None]:
    """Make the cache folder and hold the lock of one model, so that two downloads do not write one file.

    Raises:
        DownloadError: the folder cannot be made or written.
    """
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / f"{name}.lock").open("a")
    except OSError as error:
        raise DownloadError(
            f"the cache folder {str(folder)!r} cannot be written: {error.strerror}; ${CACHE_VARIABLE} names another"
        ) from None
    with file:
        if not lock(file, wait=False):
            notice(f"{name} is being downloaded by another process, waiting for it")
            lock(file)
        yield


def fetch(known: Known, sha256: str | None = None, stated: str = "") -> tuple[Path, str]:
    """Download the archive of a model to the cache. A partial download is resumed.

    Args:
        known: a model with a URL.
        sha256: of the archive; None: any.
        stated: source of that hash, for the error.

    Returns:
        The file and its sha256.

    Raises:
        DownloadError: there is no answer, or a status that is not 200; there are fewer bytes than announced, or the
            disk is full (the received bytes are kept in both cases).
        ValueError: the hash differs. The file is removed.
    """
    if known.url is None:
        raise ValueError(f"model {known.name!r} must have an address to be downloaded, but has none")
    archive = cache_folder() / f"{known.name}.zip"
    part = archive.with_name(archive.name + ".part")
    if not archive.exists():
        try:
            Transfer(known.name, known.url, part).run()
        except DownloadError:
            raise
        except OSError as error:  # errors of the network are DownloadError: this one is the disk's
            raise DownloadError(
                f"download {known.name}: {str(error.filename or part)!r} cannot be written: {error.strerror or error}; "
                "the received bytes are kept, the same command resumes"
            ) from None
    whole = archive if archive.exists() else part
    seen = sha256_of(whole)
    if sha256 is not None and seen != sha256:
        whole.unlink()
        state_of(part).unlink(missing_ok=True)
        raise ValueError(f"download {known.name}: sha256 must be {sha256}{stated}, got {seen}; the file is removed")
    replace(whole, archive)
    state_of(part).unlink(missing_ok=True)
    return archive, seen
