"""Command line: models that are here or can be fetched; `python -m vsexvc models | download | convert | check`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from vsexvc import models


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code. What was asked for goes to stdout, notices and errors to stderr."""
    args = _parser().parse_args(arguments)
    from vsexvc import weights  # torch takes seconds: not for help

    try:
        if args.command == "models":
            print(_listing(weights.installed()))
        elif args.command == "download":
            print(weights.download(args.name, args.sha256))
        elif args.command == "convert":
            print(weights.convert(args.path, args.out, args.half))
        else:
            loads, lines = weights.check(args.path)
            print("\n".join(lines))
            return 0 if loads else 1
    except (ValueError, OSError) as error:
        text = f"{error.strerror}: {error.filename}" if isinstance(error, OSError) and error.filename else error
        print(f"python -m vsexvc: {text}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\npython -m vsexvc: stopped", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m vsexvc", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("models", help="list the models that are here, and those that can be downloaded")
    download = commands.add_parser(
        "download",
        help="fetch a model into the user's cache",
        description="Fetches a model into the user's cache and makes one weights file of it. A download that was cut "
        f"off goes on where it ended. ${models.CACHE_VARIABLE} names another cache folder.",
    )
    download.add_argument("name", metavar="NAME", help=", ".join(n for n, known in models.KNOWN.items() if known.url))
    download.add_argument(
        "--sha256", metavar="HASH", help="what the archive must have (default: what the first download had)"
    )
    convert = commands.add_parser("convert", help="make one weights file of the authors' zip or folder")
    convert.add_argument("path", metavar="PATH", type=Path, help="their archive, or the folder it was unpacked to")
    convert.add_argument("-o", "--out", type=Path, help="the file, *.safetensors (default: beside PATH, by its name)")
    convert.add_argument("--half", action="store_true", help="half precision: half the size, other last digits")
    check = commands.add_parser("check", help="say what a file is, and whether it would load (exit code 0 or 1)")
    check.add_argument("path", metavar="PATH", help="file, folder or name of a model")
    return parser


def _listing(here: dict[str, Path]) -> str:
    """One block for each model: name, size or how to get it, and what is known of it. here: weights.installed()."""
    from vsexvc import weights

    blocks = []
    for name in sorted(here.keys() | models.KNOWN.keys()):
        known, path = models.KNOWN.get(name), here.get(name)
        facts: dict[str, str] = {}
        if path is not None:
            state = f"{path.stat().st_size / 1e6:.1f} MB, {path}"
            try:
                facts = weights.read_metadata(path)
            except (ValueError, OSError) as error:
                state += f" ({error})"
        elif known is not None and known.url is not None:
            state = f"size unknown until downloaded: python -m vsexvc download {name}"
        else:
            state = "missing from this installation"
        lines = [f"{name}{' (default)' if name == weights.DEFAULT else ''}: {state}"]
        if known is not None:
            lines += [known.what, f"source: {known.url or 'shipped'}", f"licence: {known.licence}"]
            lines += [f"figures: {known.figures}"]
        else:
            lines += [f"{key}: {facts.get(key, 'not stated')}" for key in ("source", "licence")]
        blocks.append("\n    ".join(lines))
    return "\n".join([*blocks, f"cache folder: {models.cache_folder()} (${models.CACHE_VARIABLE} names another)"])


if __name__ == "__main__":
    sys.exit(main())
