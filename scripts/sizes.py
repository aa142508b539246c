"""Print the files of more than 400 lines and the functions of more than 60, of vsexvc/, train/ and scripts/."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("vsexvc", "train", "scripts")
LINES, FUNCTION = 400, 60


def long_ones(root: Path = ROOT, *, docstrings: bool = True) -> Iterator[tuple[str, int]]:
    """Yield each file and function that is too long, and its lines.

    Args:
        root: folder of the repository.
        docstrings: whether a function's docstring counts.
    """
    paths = [path for folder in FOLDERS for path in (root / folder).rglob("*") if path.suffix in (".py", ".c", ".h")]
    for path in sorted(paths):
        name, text = path.relative_to(root).as_posix(), path.read_text()
        if (lines := len(text.splitlines())) > LINES:
            yield name, lines
        if path.suffix != ".py":
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and node.end_lineno is not None:
                lines = node.end_lineno - node.lineno + 1
                first = node.body[0]
                if not docstrings and ast.get_docstring(node) is not None and first.end_lineno is not None:
                    lines -= first.end_lineno - first.lineno + 1
                if lines > FUNCTION:
                    yield f"{name}:{node.name}", lines


def main() -> int:
    """Print the table."""
    for name, lines in long_ones():
        print(f"{lines:5} {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
