"""Make parts in many processes or on many machines, with Ray; render.py decides whether it is used."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import math
import os
import re
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack, redirect_stdout, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import vapoursynth as vs

from vsexvc.film.folder import Folder
from vsexvc.film.job import Job
from vsexvc.film.parts import PartMaker
from vsexvc.film.takes import follows
from vsexvc.support.errors import first_line

_RETRIES = 3  # how often a part is tried again whose worker was lost
_WRONG = "--ray must be the address of a cluster, got {!r}"
_HOST = re.compile(r"([^/:]+):(\d+)")
_TELL = 2.0  # seconds between two reports of a part's progress
_STORE = 80 << 20  # bytes of shared memory for Ray, which keeps almost nothing there
# What a worker needs besides the CPUs of its network. At 1080p decoder and encoder take half a core. Memory holds
# VapourSynth's cache, 1 GiB for the network and 1 GiB for the encoder.
_ENCODER_CPUS = 0.5
_CACHE = 1024  # MiB
_MEMORY = (_CACHE << 20) + (2 << 30)  # bytes


@lru_cache(maxsize=1)
def _maker(job: Job) -> PartMaker:
    """Return the maker of a job's parts in this process, which makes them one after the other.

    By default VapourSynth uses all cores and most of the memory. Here it gets the worker's share; a script can change
    both.
    """
    vs.core.num_threads = job.threads + 1
    vs.core.max_cache_size = min(vs.core.max_cache_size, _CACHE)
    return PartMaker(job)


def _make_part(job: Job, number: int) -> str:
    """Make a part, as a task of Ray; return the worker's name. Progress goes to a file beside the part."""
    path, told = progress_file(job, number), 0.0

    def progress(done: int) -> None:
        nonlocal told
        if (now := time.monotonic()) - told > _TELL:
            told = now
            with suppress(OSError):  # no result depends on it
                path.write_text(str(done))

    try:
        _maker(job).make(number, progress)
    finally:
        path.unlink(missing_ok=True)
    return f"{socket.gethostname()}:{os.getpid()}"


def progress_file(job: Job, number: int) -> Path:
    """Return the file in which a worker, on any machine, notes how many frames of a part are done."""
    return Folder(job.folder).file(number).with_suffix(".progress.part")


def _done(job: Job, numbers: Iterable[int]) -> int:
    """Count the finished frames of unfinished parts."""
    done = 0
    for number in numbers:
        with suppress(OSError, ValueError):
            done += int(progress_file(job, number).read_text())
    return done


def check_ray(address: str | None) -> None:
    """Raise ValueError if Ray is not installed or no cluster answers, before the film is read."""
    if importlib.util.find_spec("ray") is None:
        raise ValueError("--workers and --ray require Ray, which is not installed: pip install vsexvc[ray]")
    if address is not None and (host := _HOST.fullmatch(address)):  # Ray would try for a quarter of an hour
        try:
            socket.create_connection((host[1], int(host[2])), timeout=10).close()
        except OSError as error:
            raise ValueError(f"{_WRONG.format(address)}: {first_line(error)}") from None


def _connect(address: str | None, options: dict[str, Any]) -> None:
    """Connect to a cluster; for None start Ray on this machine. options: arguments of ray.init."""
    import ray

    try:
        ray.init(address="local" if address is None else address, **options)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        why = " ".join(str(error).split())  # Ray names differing versions in further lines
        if address is None:
            raise ValueError(f"--workers: Ray does not start: {why}") from None
        # Ray does not say that the cluster refused it because a token is missing.
        hint = " (does it require a token? RAY_AUTH_MODE=token and its ~/.ray/auth_token are required on each machine)"
        raise ValueError(f"{_WRONG.format(address)}: {why}{hint * isinstance(error, ConnectionError)}") from None


def _request(job: Job, workers: int | None, per_gpu: int) -> dict[str, Any]:
    """Return the resources that each task requests of Ray: num_cpus, num_gpus and memory (bytes).

    Encoder and memory are requested only as far as the largest machine has them: a task that requests more would never
    start. If no machine has the CPUs or the GPU, print what the tasks wait for; raise ValueError if this machine is
    the only one.
    """
    import ray

    list_machines: Callable[[], list[dict[str, Any]]] = ray.nodes  # Ray does not type it
    uses_gpu = job.model is not None and job.colours.device == "cuda"
    gpus = math.floor(1e4 / per_gpu) / 1e4 if uses_gpu else 0.0  # Ray counts in 1/10000
    found = [machine["Resources"] for machine in list_machines() if machine["Alive"]]
    able = [has for has in found if has.get("CPU", 0) >= job.threads and has.get("GPU", 0) >= gpus]
    if not able and workers is not None:
        raise ValueError("--device cuda: Ray finds no GPU on this machine")
    if not able:
        needed = f"--threads {job.threads}{' and --device cuda' * uses_gpu}"
        print(f"--ray: the cluster has no machine for a worker with {needed}; waiting for one")
    cpus = max((has["CPU"] for has in able), default=job.threads)
    memory = max((has.get("memory", 0) for has in able), default=0)
    return {
        "num_cpus": max(job.threads, min(job.threads + _ENCODER_CPUS, cpus)),
        "num_gpus": gpus,
        "memory": min(_MEMORY, int(memory)),
    }


def _answer(task: Any, number: int, address: str | None) -> str:
    """Return the name of the worker that made a part. Raise OSError, ValueError as make_by_ray does."""
    import ray

    try:
        who: str = ray.get(task)
        return who
    except ray.exceptions.RayTaskError as error:
        cause, where = error.cause, "" if address is None else f"{error.ip}: "
        kind = type(cause) if isinstance(cause, OSError) else ValueError
        raise kind(where + first_line(cause)) from None
    except ray.exceptions.RayError as error:
        raise ValueError(f"part {number} was given up: {first_line(error)}") from None


def make_by_ray(
    job: Job,
    numbers: Iterable[int],
    workers: int | None,
    address: str | None,
    made: Callable[[int, str], None],
    progress: Callable[[int], None] = lambda done: None,
    per_gpu: int = 1,
) -> None:
    """Make parts as tasks of Ray, which restarts them elsewhere if their worker is lost.

    Args:
        job: the job of the parts.
        numbers: numbers of the parts.
        workers: processes on this machine; None: those of the cluster.
        address: of the cluster; None: this machine.
        made: called with the number of a finished part and the name of its worker.
        progress: called with the number of frames of unfinished parts that are done.
        per_gpu: workers that share one GPU.

    Raises:
        ValueError: Ray does not start, the cluster cannot be joined (check_ray comes before); a part was given up.
        OSError, ValueError: as PartMaker.make.
    """
    os.environ |= {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_COLOR_PREFIX": "0",
        "RAY_NUM_REDIS_GET_RETRIES": "2",
    }  # the first switches off Ray's statistics
    if workers is not None:
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # on Linux too no port is open to other machines
    import ray

    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    with ExitStack() as stack:
        stack.enter_context(redirect_stdout(sys.stderr))  # Ray prints there that a worker was lost
        if workers is not None:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="vsexvc-", ignore_cleanup_errors=True))
            options |= {"object_store_memory": _STORE, "include_dashboard": False, "_temp_dir": folder}
            # The user has chosen the number: all workers start, even if this machine has fewer CPUs.
            options |= {"num_cpus": workers * (job.threads + 1), "_memory": workers * _MEMORY}
        _connect(address, options)
        stack.callback(ray.shutdown)
        make = ray.remote(max_retries=_RETRIES, **_request(job, workers, per_gpu))(_make_part)
        shared = ray.put(job)
        left = list(numbers)
        waiting: dict[Any, int] = {}
        while left or waiting:
            # A part that begins inside a scene needs the final state of the part before it.
            held = {*left, *waiting.values()}
            for number in [number for number in left if not (follows(job, number) and number - 1 in held)]:
                left.remove(number)
                waiting[make.remote(shared, number)] = number
            found, _ = ray.wait(list(waiting), num_returns=1, timeout=_TELL)
            if not found:
                progress(_done(job, waiting.values()))
                continue
            (done,) = found
            number = waiting.pop(done)
            made(number, _answer(done, number, address))
