"""Print the import graph of vsexvc/ and train/ by group, lowest first: each module with what it imports."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def modules(top: str, root: Path = ROOT) -> dict[str, Path]:
    """Return the modules of a package by dotted name, packages' own files left out."""
    paths = sorted((root / top).rglob("*.py"))
    return {".".join(p.relative_to(root).with_suffix("").parts): p for p in paths if p.stem != "__init__"}


def imported(path: Path) -> set[str]:
    """Return all names that a file imports, inside functions too: modules, and what is taken from them."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def graph(top: str, root: Path = ROOT) -> dict[str, set[str]]:
    """Return for each module of a package those of the package that it imports."""
    known = modules(top, root)
    return {name: (imported(path) & known.keys()) - {name} for name, path in known.items()}


def groups(of: dict[str, set[str]]) -> dict[str, set[str]]:
    """Return for each group (a folder, or a module at the top) the groups that it imports."""
    result: dict[str, set[str]] = {}
    for name, others in of.items():
        here = _group(name)
        result.setdefault(here, set()).update({_group(other) for other in others} - {here})
    return result


def _group(name: str) -> str:
    top, *rest = name.split(".")
    return ".".join((top, *rest[:1]))


def in_order(of: dict[str, set[str]]) -> Iterator[str]:
    """Yield what is imported before what imports it. Raises graphlib.CycleError for a circle."""
    yield from TopologicalSorter({name: sorted(others) for name, others in sorted(of.items())}).static_order()


def main() -> int:
    """Print groups and modules."""
    for top in ("vsexvc", "train"):
        modules_of = graph(top)
        groups_of = groups(modules_of)
        for group in in_order(groups_of):
            print(f"{group}  <-  {', '.join(sorted(groups_of[group])) or '-'}")
            for name in in_order(modules_of):
                if _group(name) == group and name != group:
                    print(f"    {name}  <-  {', '.join(sorted(modules_of[name])) or '-'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
