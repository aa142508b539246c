"""Render whole films: colour and encode scenes as parts, in one process or many, and join them.

    1. Open the film (source.py), and find its scenes or take them from a plan (plan.py). Whole scenes make parts, short
       ones together. The parts depend on the scenes alone, so that every run has the same parts.
    2. Make the parts that are missing (parts.py), each by ffmpeg into a file of its own (encode.py).
    3. Join them with the source's other streams (join.py).

A run that was stopped at any moment continues from the working folder. A run with other arguments makes those parts
again that depend on them. command_line.py defines the options, plugin.py colours frames, join.py writes containers.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import vapoursynth as vs

from vsexvc.backends.options import precisions
from vsexvc.film import plan, redo, source, trust
from vsexvc.film.cluster import check_ray, make_by_ray
from vsexvc.film.encode import Encoding, input_arguments, suited_format
from vsexvc.film.folder import Folder
from vsexvc.film.job import Colours, Job, fingerprint, part_keys, versions
from vsexvc.film.join import Other, join
from vsexvc.film.parts import PartMaker, coloured, script_outputs
from vsexvc.film.references import at_scenes, listed, numbers_of, skipped
from vsexvc.film.rehearse import rehearse
from vsexvc.film.sequence import is_sequence, listing, notices
from vsexvc.film.takes import parts_of, split
from vsexvc.film.times import check_whole, film_times, later, script_times
from vsexvc.support.errors import first_line
from vsexvc.support.files import settle
from vsexvc.weights import store

SCRIPT_PART = 240  # frames of a script's part, since a script's scenes are unknown
MOST_THREADS = 4  # torch's threads in each worker by default: more gain little at this size

Report = Callable[..., None]  # report(event, **facts); "start", "progress", "part", "note" and "end"


@dataclass(frozen=True)
class Order:
    """Hold the arguments of a render. source: a film, or a script (*.vpy), which colours by itself.

    Attributes:
        references: pictures and clips; each scene takes the best one. Either these or a plan are given.
        colours: arguments of Colorize. Device None: cuda if there is one. The format follows from the encoding's.
        interlaced, fps: see source.open_video.
        sc, sc_threshold: how scenes are found without a plan.
        sound: a file whose streams, chapters and titles replace the film's.
        threads: torch's threads in each worker; the result depends on them. None: as many as in an earlier run.
        workers: number of Ray's processes on this machine; None: this process alone.
        ray: address of a cluster, in place of workers.
        per_gpu: workers that share one GPU.
        work: the working folder; None: beside out.
        keep: whether the working folder stays at the end.
        frames: [first, stop): parts with these frames are made again and joined with an earlier render, whose folder
            stays.
    """

    source: Path
    out: Path
    references: tuple[Path, ...] = ()
    plan: Path | None = None
    model: str | None = None
    colours: Colours = field(default_factory=Colours)
    interlaced: str | None = None
    fps: Fraction | None = None
    sc: bool = True
    sc_threshold: float | None = None
    encoding: Encoding = field(default_factory=Encoding)
    sound: Path | None = None
    threads: int | None = None
    workers: int | None = None
    ray: str | None = None
    per_gpu: int = 1
    work: Path | None = None
    keep: bool = False
    frames: tuple[int, int] | None = None

    @property
    def is_script(self) -> bool:
        return self.source.suffix.lower() == ".vpy"

    @property
    def partial(self) -> Path:
        """Return the path of the unfinished film: beside `out`, so that a rename completes it."""
        return self.out.with_name(f"{self.out.stem}.joining{self.out.suffix}")


def render(order: Order, report: Report) -> None:
    """Make `order.out`, or continue an earlier run that was stopped.

    Args:
        order: the arguments.
        report: called for each event.

    Raises:
        ValueError, OSError: the reason, in one line. Finished parts stay, also after KeyboardInterrupt.
    """
    _check(order)
    # In a relative path, ffmpeg takes the text before a colon for a protocol.
    sound = None if order.sound is None else order.sound.absolute()
    order = dataclasses.replace(order, source=order.source.absolute(), out=order.out.absolute(), sound=sound)
    with Folder(order.work or order.out.with_name(order.out.name + ".parts")) as folder:
        job, names, rate, other = _prepared(order, folder, report)
        frames = [stop - first for first, stop in job.parts]
        total = sum(frames)
        made = _make_parts(order, job, folder, report)
        if order.frames is not None:
            report("note", text=redo.told(job, order.frames, made))
        parts = [(folder.file(number), part) for number in range(len(frames)) if (part := folder.read(number))]
        if order.is_script:
            times = script_times(rate, [duration for _, part in parts for duration in part.durations], total)
            times = times if other is None else later(times, other.late)
        else:
            times = film_times(order.source, folder.index, order.fps)
        if not len(times.stamps) == sum(len(part.order) for _, part in parts) == total:
            raise ValueError(f"{str(order.source)!r} changed while it was rendered, or {folder.path} did")

        def joined(done: int) -> None:
            report("progress", stage="joining", done=done, of=total)

        joined(0)
        try:
            join(parts, times, other, order.partial, joined)
            for text in [] if other is None else dict.fromkeys(other.jumps):
                report("note", text=text)
            settle(order.partial, order.out)
        finally:
            order.partial.unlink(missing_ok=True)
        if job.model is not None:
            sums = [one for _, part in parts for one in part.sums]
            trust.tell(trust.suited(sums, job.firsts, job.ref_frames, names), report)
        if order.frames is not None:
            folder.begin({**folder.manifest(), "redone": None})
        elif not order.keep:
            folder.remove()
    report("end", out=str(order.out), frames=total, bytes=order.out.stat().st_size)


def _make_parts(order: Order, job: Job, folder: Folder, report: Report) -> list[int]:
    """Make the parts that are missing; return their numbers."""
    frames = [stop - first for first, stop in job.parts]
    todo = [number for number in range(len(frames)) if not folder.has(number, frames[number], job.keys[number])]
    total = sum(frames)
    done = total - sum(frames[number] for number in todo)
    scenes = None if order.is_script else len(job.firsts)
    report("start", out=str(order.out), frames=total, scenes=scenes, parts=len(frames), done=done)

    def made(number: int, worker: str) -> None:
        nonlocal done
        done += frames[number]
        report("part", part=number, first=job.parts[number][0], frames=frames[number], worker=worker)
        report("progress", stage="rendering", done=done, of=total)

    if not todo:
        return todo
    if order.workers is not None or order.ray is not None:
        make_by_ray(
            job,
            todo,
            order.workers,
            order.ray,
            made,
            lambda more: report("progress", stage="rendering", done=done + more, of=total),
            order.per_gpu,
        )
        return todo
    worker = PartMaker(job)
    for number in todo:
        worker.make(number, lambda more: report("progress", stage="rendering", done=done + more, of=total))
        made(number, "here")
    return todo


# --- the job -----------------------------------------------------------------------------------------------------


def _check(order: Order) -> None:
    """Check what can be checked without opening a file. Raise ValueError or OSError."""
    if not order.source.is_file() and not is_sequence(order.source):
        raise FileNotFoundError(f"IN must be a film or a script, there is no file {str(order.source)!r}")
    if order.source.suffix.lower() == ".py":
        raise ValueError(
            f"IN must be a film or a script *.vpy, got {str(order.source)!r}: a script for VapourSynth is named *.vpy"
        )
    if not order.out.suffix:
        raise ValueError(f"--out must end in the name of a container, as .mkv and .mp4, got {str(order.out)!r}")
    if not order.out.absolute().parent.is_dir():
        raise FileNotFoundError(f"--out must be in an existing folder, got {str(order.out)!r}")
    if order.out.exists():
        raise FileExistsError(f"--out must be a new file, {str(order.out)!r} exists already")
    given = (bool(order.references), order.plan is not None)
    of_films = (*given, order.model, order.interlaced, order.fps, order.colours != Colours(), not order.sc)
    if order.is_script and (any(of_films) or order.sc_threshold is not None):
        raise ValueError("--ref, --plan and other options of colour are for films; a script colours by itself")
    if not order.is_script and sum(given) != 1:
        raise ValueError(f"IN must have --ref or --plan, got {'both' if all(given) else 'neither'}")
    if order.workers is not None or order.ray is not None:
        check_ray(order.ray)
    if order.sound is not None and not order.sound.is_file():
        raise FileNotFoundError(f"--sound must be a file, there is no {str(order.sound)!r}")
    for reference in order.references:
        if not reference.exists():
            raise FileNotFoundError(f"--ref must be pictures, clips and folders, there is no {str(reference)!r}")


def _prepared(order: Order, folder: Folder, report: Report) -> tuple[Job, list[str], Fraction | None, Other | None]:
    """Return the job, continued or begun in the folder; references' names; the clip's rate; the other streams' file.

    This finds all errors of the arguments before scenes and colours are computed, which takes hours.
    """
    scheme = None if order.plan is None else plan.read(order.plan)
    manifest = folder.manifest()
    began: dict[str, Any] = manifest.get("asked", {})
    job, asked = _job(order, scheme, folder, began.get("threads"))
    redo.compare(order.frames, began, asked, folder, report)
    if not folder.index.exists() and order.source.is_file() and not order.is_script:
        report("note", text=f"reading {order.source.name} once, for its index")
    if order.is_script:
        clip, names = coloured(job)
        first = clip[:1]
    else:
        film = source.open_video(order.source, folder.index, order.interlaced, order.fps)
        for text in _about(order, scheme, folder, film):
            report("note", text=text)
        first = film[:1]
        if scheme is None:
            numbers_of(job.references, film.num_frames)
        format = int(suited_format(film, order.encoding.pix_fmt))
        job = dataclasses.replace(job, colours=dataclasses.replace(job.colours, format=format))
        clip, names = coloured(job, "cpu" if order.workers or order.ray else None)
    if scheme is not None and order.plan is not None:
        plan.check_film(scheme, order.plan, clip.num_frames)
    if order.frames is not None:
        redo.check(order.frames, clip.num_frames)
    try:
        with first.get_frame(0) as frame:
            job = dataclasses.replace(job, arguments=input_arguments(clip, frame, job.encoding.keeps_range))
            for text in _about_script(order.source, frame) if order.is_script else ():
                report("note", text=text)
    except vs.Error as error:
        raise ValueError(f"frame 0 cannot be read: {first_line(error)}") from None
    sound = order.sound or (None if order.is_script or is_sequence(order.source) else order.source)
    other = None if sound is None else Other(sound)
    for text in rehearse(job, clip, other, order.partial):
        report("note", text=text)

    firsts: list[int] | None = None
    if (
        not order.is_script
        and began
        and scheme is None
        and not redo.differ(began, asked, (*redo.OF_FILM, *redo.OF_SCENES))
    ):
        firsts = manifest["firsts"]
    elif not order.is_script:
        firsts = _scenes(order, scheme, film, report)
    job = _divided(job, clip.num_frames, firsts, scheme, asked)
    folder.arrange(job.keys)
    redone = None if order.frames is None else list(order.frames)
    if order.frames is not None and (began != asked or manifest.get("redone") != redone):  # else it was stopped
        for number in redo.touched(job, order.frames):
            folder.drop(number)
    folder.begin({"asked": asked, "firsts": job.firsts, "redone": redone})
    return job, names, Fraction(clip.fps) if clip.fps else None, other


def _divided(
    job: Job, num_frames: int, firsts: Sequence[int] | None, scheme: plan.Plan | None, asked: dict[str, Any]
) -> Job:
    """Return the job with its parts. firsts: of the scenes; None for a script, whose scenes are unknown."""
    if firsts is None:
        firsts = range(0, num_frames, SCRIPT_PART)
        parts = list(pairwise([*firsts, num_frames]))
    else:
        if scheme is None and job.ref_frames is not None:
            job = dataclasses.replace(job, ref_frames=at_scenes(job.ref_frames, firsts))
        job = dataclasses.replace(job, firsts=tuple(firsts))
        parts = split(parts_of(firsts, num_frames), job)
    job = dataclasses.replace(job, firsts=tuple(firsts), parts=tuple(parts))
    prints = [one for _, one in asked.get("references", ())]
    return dataclasses.replace(job, keys=part_keys(job, redo.of_all(asked), prints))


def _about_script(script: Path, frame: vs.VideoFrame) -> list[str]:
    """Return notices about what a script outputs and the film does not have. frame: its first one."""
    notes = []
    if script_outputs(script, script.read_bytes()).alpha is not None:
        notes.append(f"left out: the alpha of output 0 of {script.name}")
    if frame.props.get("_FieldBased", 0):
        notes.append(f"{script.name} outputs frames flagged as interlaced: the film is written as progressive")
    return notes


def _about(order: Order, scheme: plan.Plan | None, folder: Folder, film: vs.VideoNode) -> list[str]:
    """Return notices about an open film and its references. Raise ValueError for a film that is not complete."""
    said = skipped(order.references if scheme is None else scheme.folders)
    if order.encoding.pix_fmt is None and (bits := film.format.bits_per_sample) > (
        kept := suited_format(film, None).bits_per_sample
    ):
        said.append(f"changed: {bits} bits a sample become {kept}; --pix-fmt names a format of more")
    if is_sequence(order.source):
        return [*notices(order.source, order.fps), *said]
    gap = check_whole(order.source, film_times(order.source, folder.index))
    said += [] if gap is None else [f"{order.source.name}: {gap}"]
    return [*said, *source.losses(order.source, film)]


def _job(order: Order, scheme: plan.Plan | None, folder: Folder, threads: int | None) -> tuple[Job, dict[str, Any]]:
    """Return the job without parts, and this order's arguments as JSON. threads: of the earlier run."""
    job = Job(
        order.source,
        folder.path.absolute(),
        order.encoding.resolved().fitted(order.out.suffix.lower()),
        order.colours,
        interlaced=order.interlaced,
        fps=order.fps,
        stills=scheme is not None,
        threads=order.threads or threads or min(MOST_THREADS, os.cpu_count() or 1),
        versions=tuple(versions().items()),
    )
    asked = {"threads": job.threads, "versions": dict(job.versions), **dataclasses.asdict(job.encoding)}
    if order.is_script:
        asked["input"] = [str(job.source), fingerprint(job.source)]
        return job, json.loads(json.dumps(asked))
    files = listing(job.source) if is_sequence(job.source) else (job.source,)
    states = [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]
    asked["input"] = [str(job.source), *(states[0][1:] if job.source.is_file() else states)]
    given = {"interlaced": job.interlaced, "fps": None if job.fps is None else str(job.fps)}
    asked |= {name: value for name, value in given.items() if value is not None}
    model = store.find(order.model).absolute()
    references = listed(order.references) if scheme is None else scheme.references
    device = order.colours.device or ("cuda" if torch.cuda.is_available() else "cpu")
    # One for all workers, on all machines.
    is_elsewhere = device == "cuda" and not torch.cuda.is_available()
    precision = order.colours.precision or ("bf16" if is_elsewhere else precisions(device)[0])
    job = dataclasses.replace(
        job,
        references=tuple(path.absolute() for path in references),
        ref_frames=numbers_of(references) if scheme is None else scheme.ref_frames,
        left=() if scheme is None else scheme.left,
        around=() if scheme is None else scheme.around,
        model=model,
        weights=fingerprint(model),
        colours=dataclasses.replace(order.colours, device=device, precision=precision),
    )
    asked |= {"model": job.weights, **dataclasses.asdict(job.colours)}
    asked["references"] = [[str(path), fingerprint(path)] for path in job.references]
    if scheme is None:
        asked |= {"sc": order.sc, "sc_threshold": order.sc_threshold}
    else:
        asked |= {"scenes": scheme.firsts, "ref_frames": scheme.ref_frames, "left": scheme.left}
        asked["around_in_scenes"] = scheme.around
    return job, json.loads(json.dumps(asked))


def _scenes(order: Order, scheme: plan.Plan | None, film: vs.VideoNode, report: Report) -> list[int]:
    if scheme is not None:
        return list(scheme.firsts)
    if not order.sc:
        return [0]

    def stages(what: str) -> source.Progress:
        return lambda done, of: report("progress", stage=what, done=done, of=of)

    scenes = source.find_scenes(film, order.sc_threshold, order.colours.size, stages)
    return [scene.first for scene in scenes]
