"""Models by name: which are known, where downloaded ones lie, and how an archive gets there whole.

The only room that talks to the network. It knows bytes, hashes and folders; what is in a file is store.py's matter.
Nothing here imports torch or VapourSynth or writes to stdout; notices go to stderr.

In the cache folder a model NAME has, in the order in which they come into being: `NAME.lock` (held by who downloads),
`NAME.zip.part` with `NAME.zip.part.json` (what has come so far, and of what), `NAME.zip` (whole, hash checked),
`NAME.safetensors.json` (the hashes, kept for good) and `NAME.safetensors`. Only the last two stay.
"""

from __future__ import annotations

import dataclasses
import fcntl
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

import platformdirs

from vsexvc.support.files import read_json, sha256_of, write_json
from vsexvc.support.progress import notice

CACHE_VARIABLE = "VSEXVC_CACHE"
_TIMEOUT = 30.0  # seconds without a byte
_CHUNK = 1 << 18
_LARGEST = 1 << 30  # bytes; the tensors of the authors' archive are 364 MB by their tables
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")


class DownloadError(OSError):
    """A download that did not end well, in one line."""


@dataclass(frozen=True)
class Known:
    """A model that has a name here.

    Attributes:
        what: what it is, in a line.
        licence: of the weights.
        figures: what was measured, by whom.
        url: of its archive; None: it is shipped.
        sha256: of the archive; None: no hash is published, the first download records the one it sees.
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
            "exvc-small",
            "3.4 million parameters, trained in this repository",
            "research use only",
            "34.10 dB on val_fast, 37.87 dB on val_clips (README)",
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
    """What is remembered of a download. url: where from; archive_sha256: what came; sha256: of the file made of it."""

    url: str
    archive_sha256: str
    sha256: str


def cache_folder() -> Path:
    """$VSEXVC_CACHE, else the user's cache folder of this platform. It need not exist."""
    chosen = os.environ.get(CACHE_VARIABLE)
    return Path(chosen).expanduser() if chosen else Path(platformdirs.user_cache_dir("vsexvc", appauthor=False))


def file_of(name: str) -> Path:
    """Where a downloaded model lies, whether it is there or not."""
    return cache_folder() / f"{name}.safetensors"


def read_record(path: Path) -> Record | None:
    """What was recorded for a weights file, None for one that was not downloaded.

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
    """Makes the cache folder and holds the lock of one model, so that two downloads do not write one file.

    Raises:
        DownloadError: the folder cannot be made or written.
    """
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / f"{name}.lock").open("a")
    except OSError as error:
        raise DownloadError(
            f"the cache folder {str(folder)!r} cannot be written: {error.strerror}; ${CACHE_VARIABLE} names another"
        ) from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            notice(f"{name} is being downloaded by another process, waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def fetch(known: Known, sha256: str | None = None, stated: str = "") -> tuple[Path, str]:
    """The archive of a model, whole, in the cache. What an earlier call has begun is gone on with.

    Args:
        known: with a url.
        sha256: what the archive must have; None: whatever comes.
        stated: where that hash is from, for the error.

    Returns:
        The file and its sha256.

    Raises:
        DownloadError: no answer, a status that is not 200; fewer bytes than announced, a full disk (what has come is
            kept in both cases).
        ValueError: another hash. The file is removed.
    """
    if known.url is None:
        raise ValueError(f"model {known.name!r} must have an address to be downloaded, it has none")
    archive = cache_folder() / f"{known.name}.zip"
    part = archive.with_name(archive.name + ".part")
    if not archive.exists():
        try:
            _Transfer(known.name, known.url, part).run()
        except DownloadError:
            raise
        except OSError as error:  # the network's own have become DownloadError: what is left is the disk
            raise DownloadError(
                f"download {known.name}: {str(error.filename or part)!r} cannot be written: {error.strerror or error}; "
                "what has come is kept, the same command goes on from there"
            ) from None
    whole = archive if archive.exists() else part
    seen = sha256_of(whole)
    if sha256 is not None and seen != sha256:
        whole.unlink()
        _state_of(part).unlink(missing_ok=True)
        raise ValueError(f"download {known.name}: sha256 must be {sha256}{stated}, got {seen}; the file is removed")
    whole.replace(archive)
    _state_of(part).unlink(missing_ok=True)
    return archive, seen


class _Transfer:
    """One file over HTTP into `part`: what is there already is kept where the server still has the same file."""

    def __init__(self, name: str, url: str, part: Path) -> None:
        self.name, self.url, self.part = name, url, part

    def run(self) -> None:
        have, validator, size = self._begun()
        if have and have == size:  # cut between the last byte and its hash
            return
        for start in (have, 0) if have else (0,):
            answer = self._ask(start, validator)
            if answer is None:
                continue
            with answer:
                if answer.status == 206 and start:
                    found = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
                    if not found or int(found[1]) != start or (size is not None and int(found[2]) != size):
                        continue  # of another file by now, or another piece
                    self._copy(answer, start, int(found[2]))
                elif answer.status == 200:
                    self._copy(answer, 0, self._begin(answer))
                else:
                    raise DownloadError(f"download {self.name}: {self.url} must answer 200, got {answer.status}")
                return
        raise DownloadError(f"download {self.name}: {self.url} answers with neither the file nor the rest of it")

    def _begun(self) -> tuple[int, str, int | None]:
        """Bytes that are there, what says whether the server's file is still the same, and its size."""
        try:
            state = read_json(_state_of(self.part)) or {}
        except ValueError:
            state = {}
        if state.get("url") != self.url or not self.part.exists():
            return 0, "", None
        return self.part.stat().st_size, str(state.get("validator", "")), state.get("size")

    def _begin(self, answer: HTTPResponse) -> int | None:
        """Forgets what was there, then notes what comes (never a part of two files); returns its size."""
        length = answer.headers.get("Content-Length", "")
        size = int(length) if length.isdecimal() else None
        if size is not None and size > _LARGEST:
            raise DownloadError(f"download {self.name}: {self.url} must have at most {_LARGEST} bytes, it has {size}")
        etag = answer.headers.get("ETag", "")
        validator = etag if etag.startswith('"') else answer.headers.get("Last-Modified", "")  # a weak tag is no use
        self.part.unlink(missing_ok=True)
        write_json(_state_of(self.part), {"url": self.url, "validator": validator, "size": size})
        return size

    def _ask(self, start: int, validator: str) -> HTTPResponse | None:
        """The server's answer; None where it has nothing from `start` on."""
        headers = {"User-Agent": "vsexvc", "Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
            if validator:
                headers["If-Range"] = validator
        try:
            answer: HTTPResponse = build_opener(_Redirects).open(Request(self.url, headers=headers), timeout=_TIMEOUT)
        except HTTPError as error:
            error.close()
            if error.code == 416 and start:
                return None
            raise DownloadError(
                f"download {self.name}: {self.url} must answer 200, got {error.code} {error.reason}"
            ) from None
        except (OSError, HTTPException) as error:
            reason = error.reason if isinstance(error, URLError) else error
            raise DownloadError(f"download {self.name}: {self.url} cannot be reached: {reason}") from None
        return answer

    def _copy(self, answer: HTTPResponse, start: int, size: int | None) -> None:
        done, progress = start, _Progress(self.name, start, size)
        with self.part.open("ab" if start else "wb") as file:
            for chunk in self._chunks(answer):
                done += file.write(chunk)
                if done > (_LARGEST if size is None else size):
                    break
                progress.at(done)
        progress.end()
        if (size is not None and done > size) or done > _LARGEST:
            self.part.unlink()
            raise DownloadError(
                f"download {self.name}: {self.url} sends more than the {size or _LARGEST} bytes allowed"
            )
        if size is not None and done < size:
            raise self._cut(f"the connection ended after {done} of {size} bytes")

    def _chunks(self, answer: HTTPResponse) -> Iterator[bytes]:
        try:
            while chunk := answer.read(_CHUNK):
                yield chunk
        except (OSError, HTTPException) as error:
            raise self._cut(f"the connection broke: {error}") from None

    def _cut(self, what: str) -> DownloadError:
        return DownloadError(f"download {self.name}: {what}; they are kept, the same command goes on from there")


class _Redirects(HTTPRedirectHandler):
    """From https only to https: the first download is the one that no hash guards."""

    def redirect_request(self, req: Request, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Request | None:
        if urlsplit(newurl).scheme not in ("https", urlsplit(req.full_url).scheme):
            raise URLError(f"it points to {newurl}, which is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class _Progress:
    """How far a download is: one line that counts on a terminal, a line for each tenth elsewhere."""

    def __init__(self, name: str, done: int, size: int | None) -> None:
        self._name, self._size, self._last = name, size, -1
        self._live = sys.stderr is not None and sys.stderr.isatty()
        notice(f"downloading {name}" + (f", from {done / 1e6:.0f} MB on" if done else ""))

    def at(self, done: int) -> None:
        step = done * 100 // self._size if self._size else done >> 20
        step = step if self._live else step // 10
        if step == self._last or sys.stderr is None:
            return
        self._last = step
        share = f"{done / 1e6:.0f} of {self._size / 1e6:.0f} MB" if self._size else f"{done / 1e6:.0f} MB"
        print(f"\r{self._name}: {share} " if self._live else f"{self._name}: {share}", end="", file=sys.stderr)
        print(end="" if self._live else "\n", file=sys.stderr, flush=True)

    def end(self) -> None:
        if self._live:
            print(file=sys.stderr, flush=True)


def _state_of(part: Path) -> Path:
    return part.with_name(part.name + ".json")
