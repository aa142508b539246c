"""Define the command line of `python -m vsexvc`: each command's arguments and help."""

from __future__ import annotations

import argparse
import shlex
from fractions import Fraction
from pathlib import Path
from typing import Any

from vsexvc.weights import catalog


def parser() -> argparse.ArgumentParser:
    """Return the parser of all commands; `command` is the name of the one that was given."""
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
        "If it is stopped, the same command resumes; the result is the same, byte for byte. With other "
        "arguments it makes those parts again that depend on them.",
        epilog="The scenes of a script are not known: it is split every 240 frames. If a part begins inside a scene, "
        "a worker that has not just made the part before computes the scene again up to there. The files that a script "
        "reads are not known either: remove the working folder if they change.",
    )
    render.add_argument(
        "source",
        metavar="IN",
        type=Path,
        help="a film, a folder of numbered pictures or a pattern for them (%%06d), or a script (*.vpy)",
    )
    render.add_argument("-o", "--out", metavar="OUT", type=Path, required=True, help="new file; *.mkv holds everything")
    colour = render.add_argument_group("colours of a film (a script makes its own)")
    colour.add_argument(
        "--ref", metavar="PICTURE_OR_CLIP", type=Path, nargs="+", help="references; each scene takes its best"
    )
    colour.add_argument(
        "--plan", metavar="FILE", type=Path, help="a reference for each scene (python -m vsexvc scenes)"
    )
    _add_network(colour)
    colour.add_argument("--saturation", metavar="X", type=float, help="0..4 (1)")
    colour.add_argument("--propagate", action="store_true", help="the references are coloured frames of this film")
    colour.add_argument("--around", metavar="N", type=int, help="references of a scene that a frame uses, 1..64 (4)")
    colour.add_argument("--memory", metavar="N", type=int, help="earlier frames of a scene that it uses, 0..8 (0)")
    colour.add_argument("--no-sc", dest="sc", action="store_false", help="the film is one scene")
    _add_film(colour)
    colour.add_argument("--backend", choices=("torch", "openvino"), help="library that computes the network (torch)")
    colour.add_argument("--precision", choices=("fp32", "bf16", "fp16"), help="default: the device's best")
    encoder = _add_encoder(render)
    encoder.add_argument("--sound", metavar="FILE", type=Path, help="take sound, subtitles and chapters from this file")
    run = render.add_argument_group("how it is run")
    where = run.add_mutually_exclusive_group()
    where.add_argument("--workers", metavar="N", type=_positive, help="processes on this machine, through Ray (1)")
    where.add_argument(
        "--ray", metavar="ADDRESS", help="address of a Ray cluster; its machines see the same files by the same names"
    )
    run.add_argument(
        "--per-gpu", metavar="N", type=_positive, help="workers that share one GPU, with --workers and --ray (1)"
    )
    run.add_argument(
        "--threads",
        metavar="N",
        type=_positive,
        help="torch's threads in each worker; last bits depend on them (4, or the cores if fewer)",
    )
    run.add_argument("--work", metavar="FOLDER", type=Path, help="folder of parts until they are joined (OUT.parts)")
    run.add_argument("--keep", action="store_true", help="keep the folder of the parts at the end")
    run.add_argument(
        "--frames",
        metavar="A:B",
        help="make the parts with frames A to B - 1 again and join them with an earlier run's in --work",
    )
    run.add_argument("--json", action="store_true", help="a JSON object for each event, one a line, on stdout")


def _add_encoder(to: Any) -> Any:
    encoder = to.add_argument_group("encoder")
    encoder.add_argument("--codec", metavar="NAME", help="an encoder of ffmpeg: libx264 (default), libx265, ffv1, ...")
    encoder.add_argument("--crf", metavar="X", type=float, help="quality (16 for x264 and x265)")
    encoder.add_argument("--preset", metavar="NAME", help="(medium for x264 and x265)")
    encoder.add_argument(
        "--pix-fmt", metavar="NAME", help="yuv420p10le, ... (the film's subsampling; 8 bit stays 8, more becomes 10)"
    )
    encoder.add_argument(
        "--ffmpeg-args",
        metavar="WORDS",
        type=_words,
        default=[],
        help='further arguments, before the output\'s name: --ffmpeg-args="-tune film"',
    )
    return encoder


def _add_pipe(commands: Any) -> None:
    pipe = commands.add_parser(
        "pipe",
        help="print the command line of vspipe and ffmpeg that is right for a script",
        description="Print a line that encodes output 0 of a script with ffmpeg and tells it what the frames say: "
        "matrix, primaries, transfer, range and the shape of pixels, which the pipe cannot carry.",
    )
    pipe.add_argument("source", metavar="SCRIPT.vpy", type=Path)
    pipe.add_argument("-o", "--out", metavar="OUT", type=Path, default=Path("out.mkv"), help="the film (out.mkv)")
    _add_encoder(pipe)


def _add_scenes(commands: Any) -> None:
    scenes = commands.add_parser(
        "scenes",
        help="list the scenes of a film, and plan references for them",
        description="List number, first frame, frames and time of each scene.",
    )
    scenes.add_argument("source", metavar="IN", type=Path, help="a film, or numbered pictures")
    scenes.add_argument("-o", "--out", metavar="PLAN.toml", type=Path, help="new file: a template for render --plan")
    scenes.add_argument(
        "--sheet",
        metavar="SHEET.png",
        type=Path,
        help="a typical frame of each scene; SHEET-1.png, ... if they are many",
    )
    scenes.add_argument(
        "--ref", metavar="PICTURE_OR_CLIP", type=Path, nargs="+", help="say which scenes these suit least, worst first"
    )
    _add_network(scenes)
    _add_film(scenes)
    scenes.add_argument("--json", action="store_true", help="a JSON object for each scene, one a line")


def _add_keyframes(commands: Any) -> None:
    keyframes = commands.add_parser(
        "keyframes",
        help="choose the frames of a film that are worth colouring",
        description="Write them as ref_NNNNNN.png, and keyframes.html, a page that shows what each stands for. "
        "Coloured, the folder is what render --ref takes.",
    )
    keyframes.add_argument("source", metavar="IN", type=Path, help="a film")
    keyframes.add_argument("-o", "--out", metavar="DIR", type=Path, required=True, help="folder for them")
    keyframes.add_argument(
        "--like", metavar="X", type=float, help="similarity from which one frame stands for another, 0..1 (0.5)"
    )
    _add_network(keyframes)
    _add_film(keyframes)


def _add_compare(commands: Any) -> None:
    compare = commands.add_parser(
        "compare",
        help="compare a film under several references",
        description="Write one HTML page: frames of the film under each reference, maps of similarity, and a "
        "slider between any two.",
    )
    compare.add_argument("source", metavar="IN", type=Path, help="a film, or numbered pictures")
    compare.add_argument("--ref", metavar="PICTURE_OR_CLIP", type=Path, nargs="+", required=True, help="to choose from")
    compare.add_argument("-o", "--out", metavar="PAGE.html", type=Path, default=Path("compare.html"))
    compare.add_argument(
        "--frames",
        metavar="N",
        type=int,
        nargs="+",
        help="frames to show (default: of scenes over all the film the first lit one)",
    )
    _add_network(compare)
    _add_film(compare)


def _add_network(to: Any) -> None:
    """Add the options of the network."""
    to.add_argument("--model", metavar="NAME_OR_PATH", help="see python -m vsexvc models")
    to.add_argument("--size", metavar="N", type=int, help="shorter side inside the network, 64..1080 (216)")
    to.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda if this machine has it")


def _add_film(to: Any) -> None:
    """Add the options of reading a film and finding its scenes."""
    to.add_argument("--sc-threshold", metavar="X", type=float, help="how unlike both sides of a cut must be, 0..1")
    to.add_argument(
        "--interlaced",
        choices=("ignore", "bwdif"),
        help="frames flagged as interlaced are progressive all the same; or are deinterlaced by the plugin bwdif",
    )
    to.add_argument(
        "--fps",
        metavar="X",
        type=_rate,
        help="frames a second, of a film that is numbered pictures: 24 (default), 23.976, 30000/1001, ...",
    )


def _add_models(commands: Any) -> None:
    commands.add_parser("models", help="list installed models, and those that can be downloaded")
    download = commands.add_parser(
        "download",
        help="download a model into the user's cache",
        description="Download a model into the user's cache and make one weights file of it. An interrupted "
        f"download is resumed. ${catalog.CACHE_VARIABLE} names another cache folder.",
    )
    download.add_argument("name", metavar="NAME", help=", ".join(n for n, known in catalog.KNOWN.items() if known.url))
    download.add_argument(
        "--sha256", metavar="HASH", help="hash that the archive must have (default: that of the first download)"
    )
    convert = commands.add_parser("convert", help="make one weights file of the authors' zip or folder")
    convert.add_argument("path", metavar="PATH", type=Path, help="their archive, or the folder it was unpacked to")
    convert.add_argument("-o", "--out", type=Path, help="the file, *.safetensors (default: beside PATH, by its name)")
    convert.add_argument("--half", action="store_true", help="half precision: half the size, other last digits")
    check = commands.add_parser(
        "check",
        help="check whether this environment works, or whether a model would load (exit code 0 or 1)",
        description="Without PATH: loads VapourSynth, plugin, package and weights step by step, colours ten frames, "
        "and says for each failure what helps. With PATH: says what a file is, and whether it would load as a model.",
    )
    check.add_argument("path", metavar="PATH", nargs="?", help="file, folder or name of a model")
    check.add_argument("--json", action="store_true", help="without PATH: one JSON object, for reports of bugs")


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
        raise argparse.ArgumentTypeError(f"must be words in a shell's quoting, got {text!r}: {error}") from None
