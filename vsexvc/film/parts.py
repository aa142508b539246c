"""The parts of a film while it is rendered: where they lie, and who makes them.

In the working folder: `manifest.json` (what was asked for, and the scenes that were found), `NNNNNN.mkv` with
`NNNNNN.json` (a finished part and what is in it), `index/` (bestsource's), `lock` (held by the process that renders). A
file has its name only when it is whole; NNNNNN is the part's number.

A part is frames [first, stop) of one graph over the whole film. As a frame has the same bytes in whatever order frames
are asked for, so has a part, whichever process makes it. What may not enter: which parts there are, and what becomes of
them (render.py); a scheduler (Ray is one).
"""

from __future__ import annotations

import dataclasses
import fcntl
import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import socket
import sys
import tempfile
import traceback
from collections.abc import Callable, Generator, Iterable
from contextlib import ExitStack, chdir, redirect_stdout, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
import vapoursynth as vs

from vsexvc import __version__
from vsexvc.film import source
from vsexvc.film.encode import Encoding, Part, encode, ffmpeg_version, seen
from vsexvc.plugin import colorize
from vsexvc.support.errors import first_line
from vsexvc.support.files import read_json, settle, sha256_of, write_json

_OURS = re.compile(r"lock|index|manifest\.json(\.new)?|rehearsal\..*|\d{6}\..*")  # names in a working folder
_RETRIES = 3  # of a part whose worker was lost
_WRONG = "--ray must be the address of a cluster, got {!r}"
_HOST = re.compile(r"([^/:]+):(\d+)")
_STORE = 80 << 20  # bytes of shared memory for Ray, which has next to nothing to keep there


@dataclass(frozen=True)
class Colours:
    """Those arguments of Colorize that a whole film has one of."""

    size: int = 216
    saturation: float = 1.0
    propagate: bool = False
    device: str | None = None
    backend: str = "torch"
    precision: str | None = None
    format: int | None = None


@dataclass(frozen=True)
class Job:
    """All that a worker needs to know, wherever it is. Paths are the same on all machines.

    Attributes:
        source: a film, or a script.
        folder: the working folder.
        encoding, arguments: of encode.encode.
        references: of a film; stills: of each only the first frame.
        ref_frames: of Colorize.
        model: of a film; None: the source is a script.
        weights: fingerprint of the model.
        firsts: of the scenes.
        parts: first frame of each, and the one behind its last.
        threads: of torch in each worker: bytes hang on it.
        versions: of the programs, by their names.
    """

    source: Path
    folder: Path
    encoding: Encoding
    colours: Colours
    references: tuple[Path, ...] = ()
    stills: bool = False
    ref_frames: tuple[int, ...] | None = None
    model: Path | None = None
    weights: str = ""
    firsts: tuple[int, ...] = (0,)
    arguments: tuple[str, ...] = ()
    parts: tuple[tuple[int, int], ...] = ()
    threads: int = 1
    versions: tuple[tuple[str, str], ...] = ()


def versions() -> dict[str, str]:
    """Of the programs that make the bytes."""
    installed = {name: importlib.metadata.version(name) for name in ("torch", "vapoursynth")}
    return {"vsexvc": __version__, **installed, "ffmpeg": ffmpeg_version()}


def fingerprint(path: Path) -> str:
    """sha256 of a file, or those of all in a folder."""
    if not path.is_dir():
        return sha256_of(path)
    return " ".join(sha256_of(file) for file in sorted(path.rglob("*")) if file.is_file())


# --- the working folder -----------------------------------------------------------------------------------------


class Folder:
    """The working folder, held by one process at a time."""

    def __init__(self, path: Path) -> None:
        self.path, self.index = path, path / "index"

    def __enter__(self) -> Self:
        """Raises ValueError where another process holds it, or other files are in it."""
        while True:
            self.path.mkdir(parents=True, exist_ok=True)
            for name in (entry.name for entry in self.path.iterdir()):
                if not _OURS.fullmatch(name):
                    raise ValueError(f"--work must be an empty folder or an earlier run's, {self.path} holds {name!r}")
            self._lock = (self.path / "lock").open("a")
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._lock.close()
                raise ValueError(f"--work: another process renders in {self.path}, wait for it") from None
            if os.fstat(self._lock.fileno()).st_nlink:  # else the process before has just removed it
                break
            self._lock.close()
        for left in self.path.glob("*.part"):
            left.unlink()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.path.is_dir() and [entry.name for entry in self.path.iterdir()] == ["lock"]:  # nothing was begun
            self.remove()
        self._lock.close()

    def manifest(self) -> dict[str, Any]:
        """What was begun here; empty where nothing was. Raises ValueError where that cannot be told."""
        path = self.path / "manifest.json"
        stored = read_json(path)
        if stored is None:
            return {}
        if not (isinstance(stored.get("asked"), dict) and isinstance(stored.get("firsts"), list)):
            raise ValueError(f"record {str(path)!r} must be a manifest, it is damaged; remove it")
        return stored

    def begin(self, manifest: dict[str, Any]) -> None:
        write_json(self.path / "manifest.json", manifest)

    def file(self, number: int) -> Path:
        return self.path / f"{number:06}.mkv"

    def read(self, number: int) -> Part | None:
        """What is in a part, as its record says; None where no such record can be read."""
        with suppress(OSError, ValueError, TypeError, KeyError):
            stored = json.loads(self.file(number).with_suffix(".json").read_bytes())
            durations = tuple((int(a), int(b)) for a, b in stored["durations"])
            return Part(tuple(map(int, stored["order"])), str(stored["sha256"]), durations)
        return None

    def has(self, number: int, frames: int) -> bool:
        """Whether a part is there, whole and undamaged."""
        part, file = self.read(number), self.file(number)
        if part is None or len(part.order) != frames or not file.is_file():
            return False
        return sha256_of(file) == part.sha256

    def keep(self, number: int, partial: Path, part: Part) -> None:
        """Makes a written file the part of that number."""
        write_json(self.file(number).with_suffix(".json"), dataclasses.asdict(part))
        settle(partial, self.file(number))

    def clear(self) -> None:
        for entry in self.path.iterdir():
            if entry.is_dir():
                shutil.rmtree(entry)
            elif entry.name != "lock":
                entry.unlink()

    def remove(self) -> None:
        self.clear()
        (self.path / "lock").unlink()
        self.path.rmdir()


# --- a worker ---------------------------------------------------------------------------------------------------


def coloured(job: Job, device: str | None = None) -> vs.VideoNode:
    """The whole film in colour, or the script's output.

    Args:
        job: its parts, encoding and arguments do not matter.
        device: in place of the job's.

    Raises:
        ValueError, OSError: what cannot be opened, which argument is wrong.
    """
    if job.model is None:
        return _script_output(job.source)
    index = Folder(job.folder).index
    clip = source.with_scenes(source.open_video(job.source, index), job.firsts)
    references = source.open_references(job.references, index, job.stills)
    colours = job.colours
    if device is not None:  # which may not have the precision
        colours = dataclasses.replace(colours, device=device, precision=None)
    try:
        return colorize(
            clip, references, ref_frames=job.ref_frames, model=str(job.model), **dataclasses.asdict(colours)
        )
    except vs.Error as error:
        raise ValueError(first_line(error)) from None


def _script_output(path: Path) -> vs.VideoNode:
    """Output 0 of a script, run as vspipe does: in its folder. What it prints goes to stderr."""
    vs.clear_outputs()
    try:
        with chdir(path.parent), redirect_stdout(sys.stderr):
            exec(compile(path.read_bytes(), str(path), "exec"), {"__name__": "__vapoursynth__", "__file__": str(path)})
    except (Exception, SystemExit) as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        where = f", line {lines[-1]}" if lines else ""
        raise ValueError(f"script {str(path)!r}{where}: {type(error).__name__}: {first_line(error)}") from None
    output = vs.get_outputs().get(0)
    vs.clear_outputs()
    if not isinstance(output, vs.VideoOutputTuple):
        raise ValueError(f"script {str(path)!r} must have a clip as its output 0, it has none")
    return output.clip


def _reason(error: BaseException) -> str:
    """Its line that says most: where a script's own function failed, that is the last of the traceback."""
    lines = str(error).strip().splitlines()
    return lines[-1] if lines and lines[0].startswith("Traceback") else first_line(error)


class Worker:
    """Makes parts of a job in this process."""

    def __init__(self, job: Job) -> None:
        """Raises ValueError where this machine has not what the job was begun with."""
        torch.set_num_threads(job.threads)
        needed = {**dict(job.versions), "weights": job.weights}
        here = {**versions(), "weights": "" if job.model is None else fingerprint(job.model)}
        for name in needed:
            if here[name] != needed[name]:
                raise ValueError(
                    f"{socket.gethostname()}: {name} must be {needed[name]} as begun with, got {here[name]}"
                )
        self._job, self._folder, self._clip = job, Folder(job.folder), coloured(job)

    def make(self, number: int, progress: Callable[[int], None] = lambda done: None) -> None:
        """Writes a part.

        Args:
            number: of the part.
            progress: told how many of its frames are done.

        Raises:
            ValueError, OSError: saying which frames it is about. Nothing is left of it.
        """
        first, stop = self._job.parts[number]
        partial = self._folder.path / f"{number:06}.{socket.gethostname()}-{os.getpid()}.part"
        durations: list[tuple[int, int]] = []
        try:
            encode(self._frames(first, stop, durations, progress), self._job.arguments, self._job.encoding, partial)
            order = seen(partial)
            if len(order) != stop - first:
                raise ValueError(f"ffmpeg wrote {len(order)} of {stop - first} frames")
            self._folder.keep(number, partial, Part(order, sha256_of(partial), tuple(durations)))
        except (ValueError, vs.Error) as error:
            raise ValueError(f"frames {first} to {stop - 1}: {_reason(error)}") from None
        finally:
            partial.unlink(missing_ok=True)

    def _frames(
        self, first: int, stop: int, durations: list[tuple[int, int]], progress: Callable[[int], None]
    ) -> Generator[vs.VideoFrame]:
        """durations: filled with those of a script's frames. Those of a film are in its file."""
        for done, frame in enumerate(self._clip[first:stop].frames(close=True), 1):
            if self._job.model is None:
                durations.append((int(frame.props.get("_DurationNum", 0)), int(frame.props.get("_DurationDen", 0))))
            yield frame
            progress(done)


# --- many of them -----------------------------------------------------------------------------------------------


_worker = lru_cache(maxsize=1)(Worker)  # a process of Ray makes one part after the other


def _make(job: Job, number: int) -> str:
    """A task. Returns who did it."""
    _worker(job).make(number)
    return f"{socket.gethostname()}:{os.getpid()}"


def check_ray(address: str | None) -> None:
    """Raises ValueError where there is no Ray here, or nobody at the address: before the film is read."""
    if importlib.util.find_spec("ray") is None:
        raise ValueError("--workers and --ray need Ray, which is not installed: pip install vsexvc[ray]")
    if address is not None and (host := _HOST.fullmatch(address)):  # Ray itself tries for a quarter of an hour
        try:
            socket.create_connection((host[1], int(host[2])), timeout=10).close()
        except OSError as error:
            raise ValueError(f"{_WRONG.format(address)}: {first_line(error)}") from None


def _connect(address: str | None, options: dict[str, Any]) -> None:
    """To a cluster, or None: starts Ray on this machine. options: of ray.init."""
    import ray

    try:
        ray.init(address="local" if address is None else address, **options)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        why = " ".join(str(error).split())  # of other versions it says which in further lines
        if address is None:
            raise ValueError(f"--workers: Ray does not start: {why}") from None
        # Ray does not say then that it was sent away for want of a token.
        hint = " (does it ask for a token? RAY_AUTH_MODE=token and its ~/.ray/auth_token are needed on each machine)"
        raise ValueError(f"{_WRONG.format(address)}: {why}{hint * isinstance(error, ConnectionError)}") from None


def _check_machines(threads: int, gpus: int, workers: int | None) -> None:
    """Says what is waited for where no machine can take a task; raises ValueError where none can come."""
    import ray

    list_machines: Callable[[], list[dict[str, Any]]] = ray.nodes  # which has no types
    found = [machine["Resources"] for machine in list_machines() if machine["Alive"]]
    if any(has.get("CPU", 0) >= threads and has.get("GPU", 0) >= gpus for has in found):
        return
    if workers is not None:
        raise ValueError("--device cuda: Ray finds no GPU on this machine")
    needed = f"--threads {threads}{' and --device cuda' * gpus}"
    print(f"--ray: the cluster has no machine for a worker with {needed}; waiting for one")


def make_by_ray(
    job: Job, numbers: Iterable[int], workers: int | None, address: str | None, made: Callable[[int, str], None]
) -> None:
    """Makes parts as tasks of Ray, which begins them again elsewhere when their worker is lost.

    Args:
        job: of the parts.
        numbers: which ones.
        workers: processes on this machine.
        address: in place of them, that of a cluster.
        made: told the number of a part that is there, and who made it.

    Raises:
        ValueError: Ray does not start, the cluster cannot be joined (check_ray comes before); a part was given up.
        OSError, ValueError: as Worker.make.
    """
    os.environ |= {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_COLOR_PREFIX": "0",
        "RAY_NUM_REDIS_GET_RETRIES": "2",
    }  # the first would tell its makers of us
    if workers is not None:
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # no port is open to other machines, on Linux too
    import ray

    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    with ExitStack() as stack:
        stack.enter_context(redirect_stdout(sys.stderr))  # where it says that a worker was lost
        if workers is not None:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="vsexvc-", ignore_cleanup_errors=True))
            options |= {"num_cpus": workers * job.threads, "object_store_memory": _STORE, "include_dashboard": False}
            options["_temp_dir"] = folder
        _connect(address, options)
        stack.callback(ray.shutdown)
        gpus = int(job.model is not None and job.colours.device == "cuda")
        _check_machines(job.threads, gpus, workers)
        make = ray.remote(num_cpus=job.threads, num_gpus=gpus, max_retries=_RETRIES)(_make)
        shared = ray.put(job)
        waiting = {make.remote(shared, number): number for number in numbers}
        while waiting:
            (done, *_), _ = ray.wait(list(waiting), num_returns=1)
            number = waiting.pop(done)
            try:
                made(number, ray.get(done))
            except ray.exceptions.RayTaskError as error:
                cause, where = error.cause, "" if address is None else f"{error.ip}: "
                kind = type(cause) if isinstance(cause, OSError) else ValueError
                raise kind(where + first_line(cause)) from None
            except ray.exceptions.RayError as error:
                raise ValueError(f"part {number} was given up: {first_line(error)}") from None
