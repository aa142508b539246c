"""Run a command: whole films, models, checks; see `python -m vsexvc --help`. command_line.py defines its arguments.

render.py, plan.py and compare.py of film/, and weights/, do the work. They are imported when they are needed, because
torch takes seconds to import.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from typing import Any

from vsexvc.command_line import parser
from vsexvc.support.environment import environment, passive
from vsexvc.support.report import Report, end_unheard


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit code. Results go to stdout, notices and errors to stderr."""
    args = parser().parse_args(arguments)
    report = Report(as_json=getattr(args, "json", False))
    try:
        with environment(**passive()):  # for torch, and for the processes that commands start
            code: int = _COMMANDS[args.command](args, report)
        return code
    except ModuleNotFoundError as error:
        report.end(f"{args.command} needs {error.name}, which is not installed: pip install vsexvc[video]")
        return 1
    except BrokenPipeError:
        end_unheard()
    except (ValueError, OSError) as error:
        report.end(
            f"{error.strerror}: {error.filename}" if isinstance(error, OSError) and error.filename else str(error)
        )
        return 1
    except KeyboardInterrupt:
        kept = ": what is finished is kept, the same command resumes" if args.command == "render" else ""
        report.interrupted(f"stopped{kept}")
        return 130


def _models(args: argparse.Namespace, report: Report) -> int:
    from vsexvc.weights import store
    from vsexvc.weights.listing import listing

    print(listing(store.installed()))
    return 0


def _download(args: argparse.Namespace, report: Report) -> int:
    from vsexvc.weights import store

    print(store.download(args.name, args.sha256))
    return 0


def _convert(args: argparse.Namespace, report: Report) -> int:
    from vsexvc.weights import store

    print(store.convert(args.path, args.out, args.half))
    return 0


def _check(args: argparse.Namespace, report: Report) -> int:
    if args.path is None:
        from vsexvc import check

        steps = check.run()
        print(json.dumps(check.as_dict(steps), indent=1) if args.json else "\n".join(check.lines(steps)))
        return 0 if all(step.ok for step in steps) else 1
    from vsexvc.weights import identify

    loads, lines = identify.check(args.path)
    print("\n".join(lines))
    return 0 if loads else 1


def _render(args: argparse.Namespace, report: Report) -> int:
    from vsexvc.film import redo
    from vsexvc.film.job import Colours
    from vsexvc.film.render import Order, render

    order = Order(
        args.source,
        args.out,
        references=tuple(args.ref or ()),
        colours=Colours(
            **_given(args, "size", "saturation", "propagate", "around", "memory", "device", "backend", "precision")
        ),
        encoding=_encoding(args),
        frames=None if args.frames is None else redo.stretch_of(args.frames),
        **_given(args, "plan", "model", "interlaced", "fps", "sc", "sc_threshold", "sound"),
        **_given(args, "threads", "workers", "ray", "per_gpu", "work", "keep"),
    )
    render(order, report)
    return 0


def _pipe(args: argparse.Namespace, report: Report) -> int:
    from vsexvc.film.pipe import line

    print(line(args.source, args.out, _encoding(args)))
    return 0


def _encoding(args: argparse.Namespace) -> Any:
    """Return the film.encode.Encoding of the arguments that _add_encoder adds."""
    from vsexvc.film.encode import Encoding

    return Encoding(**_given(args, "codec", "crf", "preset", "pix_fmt"), extra=tuple(args.ffmpeg_args))


def _given(args: argparse.Namespace, *names: str) -> dict[str, Any]:
    """Return those of the named options that the command line has."""
    return {name: value for name in names if (value := getattr(args, name)) is not None}


def _tell_of_files(args: argparse.Namespace, report: Report) -> None:
    """Report how numbered pictures are read as a film, and which files of folders are skipped."""
    from vsexvc.film import references, sequence

    said = sequence.notices(args.source, args.fps) if sequence.is_sequence(args.source) else []
    for text in [*said, *references.skipped(getattr(args, "ref", None) or ())]:
        report("note", text=text)


def _scenes(args: argparse.Namespace, report: Report) -> int:
    from vsexvc.film import plan, source, trust

    _tell_of_files(args, report)
    cache, threshold = source.default_cache(), args.sc_threshold
    clip, scenes = plan.make(
        args.source, cache, args.out, args.sheet, threshold, report.stage, args.interlaced, args.fps
    )
    for number, scene in enumerate(scenes, 1):
        if args.json:
            report("scene", scene=number, first=scene.first, frames=scene.stop - scene.first, seconds=scene.seconds)
        else:
            print(f"{number:5} {scene.first:8} {scene.stop - scene.first:8}  {plan.timecode(scene.seconds)}")
    if args.ref:
        options = _given(args, "model", "size", "device")
        trust.tell(trust.of_files(clip, scenes, args.ref, cache, report.stage, **options), report)
    return 0


def _keyframes(args: argparse.Namespace, report: Report) -> int:
    from vsexvc.film import keyframes, source

    options = _given(args, "model", "size", "device", "like", "sc_threshold", "interlaced", "fps")
    _tell_of_files(args, report)
    keys = keyframes.write(args.source, args.out, source.default_cache(), stages=report.stage, **options)
    print("\n".join([*keyframes.lines(keys), str(args.out / keyframes.PAGE)]))
    return 0


def _compare(args: argparse.Namespace, report: Report) -> int:
    from vsexvc.film import compare, source, trust

    options = _given(args, "model", "size", "device")
    options |= {"sc_threshold": args.sc_threshold, "interlaced": args.interlaced, "fps": args.fps}
    _tell_of_files(args, report)
    cache = source.default_cache()
    found = compare.write(args.source, args.ref, args.out, cache, args.frames, report.stage, **options)
    if found:
        trust.tell(found, report)
    print(args.out)
    return 0


_COMMANDS: dict[str, Callable[[argparse.Namespace, Report], int]] = {
    "render": _render,
    "scenes": _scenes,
    "keyframes": _keyframes,
    "pipe": _pipe,
    "compare": _compare,
    "models": _models,
    "download": _download,
    "convert": _convert,
    "check": _check,
}


if __name__ == "__main__":
    sys.exit(main())
