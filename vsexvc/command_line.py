"""Define the command line of `python -m vsexvc`: each command's arguments and help."""

from __future__ import annotations

import argparse
import shlex
from fractions import Fraction
from pathlib import Path
from typing import Any

from vsexvc.weights import catalog


def parser() -> argparse.ArgumentParser:
    """Return the parser of all commands; it stores the name of the given one in `command`."""
    parser = argparse.ArgumentParser(prog="python -m vsexvc", description="Colour films and manage models.")
    commands = parser.add_subparsers(dest="command", required=True)
    _add_render(commands)
    _add_pipe(commands)
    _add_scenes(commands)
    _add_keyframes(commands)
    _add_compare(commands)
    _add_models(commands)
    return parser


def _add_render(commands: Any) -> None:
    render = commands.add_parser(
        "render",
        help="colour a whole film",
        description="Colour a film scene by scene and write it with its sound, subtitles, chapters, times and tags. "
        "If the command is stopped, the same command resumes, with the same result, byte for byte. With other "
        "arguments, the parts that depend on them are made again.",
        epilog="The scenes of a script are unknown, so it is split every 240 frames. If a part begins inside a scene, "
        "a worker that has not just made the previous part computes the scene again up to there. The files that a "
        "script reads are unknown too: remove the working folder if they change.",
    )
    render.add_argument(
        "source",
        metavar="IN",
        type=Path,
        help="a film, a folder of numbered pictures or a pattern for them (%%06d), or a script (*.vpy)",
    )
    render.add_argument(
        "-o", "--out", metavar="OUT", type=Path, required=True, help="new file; *.mkv can hold all kinds of streams"
    )
    colour = render.add_argument_group("colours of a film (a script makes its own)")
    colour.add_argument(
        "--ref", metavar="PICTURE_OR_CLIP", type=Path, nargs="+", help="references; each scene takes the most similar"
    )
    colour.add_argument(
        "--plan", metavar="FILE", type=Path, help="a reference for each scene (python -m vsexvc scenes)"
    )
    _add_network(colour)
    colour.add_argument("--saturation", metavar="X", type=float, help="factor on the colours, 0..4 (1)")
    colour.add_argument("--propagate", action="store_true", help="the references are coloured frames of this film")
    colour.add_argument("--around", metavar="N", type=int, help="references of its scene that a frame uses, 1..64 (4)")
    colour.add_argument(
        "--memory", metavar="N", type=int, help="earlier frames of its scene that a frame uses, 0..8 (0)"
    )
    colour.add_argument("--no-sc", dest="sc", action="store_false", help="treat the film as one scene")
    _add_reading(colour)
    colour.add_argument("--backend", choices=("torch", "openvino"), help="library that computes the network (torch)")
    colour.add_argument("--precision", choices=("fp32", "bf16", "fp16"), help="default: the device's best")
    encoder = _add_encoder(render)
    encoder.add_argument("--sound", metavar="FILE", type=Path, help="take sound, subtitles and chapters from this file")
    _add_running(render)


def _add_running(to: Any) -> None:
    """Add the options of processes and of the working folder."""
    run = to.add_argument_group("running")
    where = run.add_mutually_exclusive_group()
    where.add_argument("--workers", metavar="N", type=_positive, help="processes on this machine, through Ray (1)")
    where.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="address of a Ray cluster whose machines see the same files under the same paths",
    )
    run.add_argument(
        "--per-gpu", metavar="N", type=_positive, help="workers that share one GPU, with --workers and --ray (1)"
    )
    run.add_argument(
        "--threads",
        metavar="N",
        type=_positive,
        help="torch's threads in each worker; the result's last bits depend on them (4, or the cores if fewer)",
    )
    run.add_argument(
        "--work",
        metavar="FOLDER",
        type=Path,
        help="working folder, which holds the parts until they are joined (OUT.parts)",
    )
    run.add_argument("--keep", action="store_true", help="keep the working folder at the end")
    run.add_argument(
        "--frames",
        metavar="A:B",
        help="make the parts with frames A to B - 1 again and join them with those of an earlier run in --work",
    )
    run.add_argument(
        "--json", action="store_true", help="write a JSON object for each event to stdout, one on each line"
    )


def _add_encoder(to: Any) -> Any:
    """Add the options of the encoder; return their group."""
    encoder = to.add_argument_group("encoder")
    encoder.add_argument("--codec", metavar="NAME", help="encoder of ffmpeg: libx264 (default), libx265, ffv1, ...")
    encoder.add_argument("--crf", metavar="X", type=float, help="quality, lower is better (16 for x264 and x265)")
    encoder.add_argument("--preset", metavar="NAME", help="speed of the encoder (medium for x264 and x265)")
    encoder.add_argument(
        "--pix-fmt",
        metavar="NAME",
        help="format of the result, as yuv420p10le (the film's subsampling; 8 bit stays 8, more becomes 10)",
    )
    encoder.add_argument(
        "--ffmpeg-args",
        metavar="WORDS",
        type=_words,
        default=[],
        help='further arguments of ffmpeg for the output: --ffmpeg-args="-tune film"',
    )
    return encoder


def _add_pipe(commands: Any) -> None:
    pipe = commands.add_parser(
        "pipe",
        help="print the command line of vspipe and ffmpeg for a script",
        description="Print a command line that encodes output 0 of a script with ffmpeg. Its options state matrix, "
        "primaries, transfer, range and the shape of pixels, which the pipe cannot carry.",
    )
    pipe.add_argument("source", metavar="SCRIPT.vpy", type=Path, help="a script for VapourSynth")
    pipe.add_argument("-o", "--out", metavar="OUT", type=Path, default=Path("out.mkv"), help="the film (out.mkv)")
    _add_encoder(pipe)


def _add_scenes(commands: Any) -> None:
    scenes = commands.add_parser(
        "scenes",
        help="list the scenes of a film and write a plan for them",
        description="List the number, first frame, number of frames and time of each scene.",
    )
    scenes.add_argument(
        "-o",
        "--out",
        metavar="PLAN.toml",
        type=Path,
        help="write a plan, in which you name references, for render --plan",
    )
    scenes.add_argument(
        "--sheet",
        metavar="SHEET.png",
        type=Path,
        help="draw a typical frame of each scene; SHEET-1.png, ... for many scenes",
    )
    scenes.add_argument(
        "--ref",
        metavar="PICTURE_OR_CLIP",
        type=Path,
        nargs="+",
        help="report the scenes that these references suit least, worst first",
    )
    _add_film(scenes)
    scenes.add_argument("--json", action="store_true", help="write a JSON object for each scene, one on each line")


def _add_keyframes(commands: Any) -> None:
    keyframes = commands.add_parser(
        "keyframes",
        help="choose the frames of a film that are worth colouring",
        description="Write frames that are worth colouring as ref_NNNNNN.png, and keyframes.html, a page that shows "
        "which scenes each stands for. When they are coloured, pass the folder to render --ref.",
    )
    keyframes.add_argument(
        "-o", "--out", metavar="DIR", type=Path, required=True, help="folder for the pictures and the page"
    )
    keyframes.add_argument(
        "--like", metavar="X", type=float, help="least similarity with which a frame stands for another, 0..1 (0.5)"
    )
    _add_film(keyframes)


def _add_compare(commands: Any) -> None:
    compare = commands.add_parser(
        "compare",
        help="compare references on frames of a film",
        description="Write one HTML page that shows frames of the film with each reference, maps of their similarity, "
        "and a slider between any two results.",
    )
    compare.add_argument(
        "--ref", metavar="PICTURE_OR_CLIP", type=Path, nargs="+", required=True, help="references to compare"
    )
    compare.add_argument("-o", "--out", metavar="PAGE.html", type=Path, default=Path("compare.html"), help="the page")
    compare.add_argument(
        "--frames",
        metavar="N",
        type=int,
        nargs="+",
        help="frames to show (default: the first lit frame of scenes from the whole film)",
    )
    _add_film(compare)


def _add_film(to: Any) -> None:
    """Add the film that a command examines, and the options of reading it and of the network."""
    to.add_argument("source", metavar="IN", type=Path, help="a film, or numbered pictures")
    _add_network(to)
    _add_reading(to)


def _add_network(to: Any) -> None:
    """Add the options of the network."""
    to.add_argument("--model", metavar="NAME_OR_PATH", help="model, see python -m vsexvc models")
    to.add_argument(
        "--size", metavar="N", type=int, help="shorter side of the picture inside the network, 64..1080 (216)"
    )
    to.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda if this machine has one")


def _add_reading(to: Any) -> None:
    """Add the options of reading a film and finding its scenes."""
    to.add_argument(
        "--sc-threshold", metavar="X", type=float, help="least difference of the pictures around a cut, 0..1 (0.3)"
    )
    to.add_argument(
        "--interlaced",
        choices=("ignore", "bwdif"),
        help="frames flagged as interlaced: take them as progressive, or deinterlace them with the plugin bwdif",
    )
    to.add_argument(
        "--fps",
        metavar="X",
        type=_rate,
        help="frames a second of numbered pictures: 24 (default), 23.976, 30000/1001, ...",
    )


def _add_models(commands: Any) -> None:
    commands.add_parser("models", help="list installed models, and those that can be downloaded")
    download = commands.add_parser(
        "download",
        help="download a model into the user's cache",
        description="Download a model into the user's cache and make one weights file of it. The same command resumes "
        f"an interrupted download. ${catalog.CACHE_VARIABLE} names another cache folder.",
    )
    download.add_argument("name", metavar="NAME", help=", ".join(n for n, known in catalog.KNOWN.items() if known.url))
    download.add_argument(
        "--sha256", metavar="HASH", help="required hash of the archive (default: that of the first download)"
    )
    convert = commands.add_parser("convert", help="make one weights file of the authors' archive or folder")
    convert.add_argument("path", metavar="PATH", type=Path, help="the authors' archive, or its unpacked folder")
    convert.add_argument("-o", "--out", type=Path, help="the file, *.safetensors (default: beside PATH, with its name)")
    convert.add_argument(
        "--half", action="store_true", help="half precision: half the size, slightly different colours"
    )
    check = commands.add_parser(
        "check",
        help="check this installation, or whether a model would load (exit code 0 or 1)",
        description="Without PATH, load VapourSynth, plugin, package and weights step by step, colour ten frames, and "
        "name a remedy for each failure. With PATH, identify a file and report whether it would load as a model.",
    )
    check.add_argument("path", metavar="PATH", nargs="?", help="file, folder or name of a model")
    check.add_argument("--json", action="store_true", help="without PATH: write one JSON object, for bug reports")


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, got {text}")
    return number


def _rate(text: str) -> Fraction:
    try:
        rate = Fraction(text)
        nominal = Fraction(round(rate * Fraction(1001, 1000)) * 1000, 1001)
    except (ValueError, ZeroDivisionError):
        raise argparse.ArgumentTypeError(f"must be frames a second, as 24 or 30000/1001, got {text!r}") from None
    if not 0 < rate <= 1000:
        raise argparse.ArgumentTypeError(f"must be above 0 and at most 1000, got {text}")
    return nominal if rate.denominator != 1 and abs(rate - nominal) < Fraction(1, 1000) else rate


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"must be quoted as for a shell, got {text!r}: {error}") from None
