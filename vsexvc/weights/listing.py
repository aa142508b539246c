"""Format the list of models (catalog.py) as text."""

from __future__ import annotations

from pathlib import Path

from vsexvc.weights import catalog, store


def listing(here: dict[str, Path]) -> str:
    """Return a block for each model: name, size or command of download, and description. here: store.installed()."""
    blocks = []
    for name in sorted(here.keys() | catalog.KNOWN.keys()):
        known, path = catalog.KNOWN.get(name), here.get(name)
        facts: dict[str, str] = {}
        if path is not None:
            state = f"{path.stat().st_size / 1e6:.1f} MB, {path}"
            try:
                facts = store.read_metadata(path)
            except (ValueError, OSError) as error:
                state += f" ({error})"
        elif known is not None and known.url is not None:
            state = f"size unknown until downloaded: python -m vsexvc download {name}"
        else:
            state = "missing from this installation"
        lines = [f"{name}{' (default)' if name == store.DEFAULT else ''}: {state}"]
        if known is not None:
            lines += [known.what, f"source: {known.url or 'shipped'}", f"licence: {known.licence}"]
            lines += [f"figures: {known.figures}"]
        else:
            lines += [f"{key}: {facts.get(key, 'not stated')}" for key in ("source", "licence")]
        blocks.append("\n    ".join(lines))
    return "\n".join([*blocks, f"cache folder: {catalog.cache_folder()} (${catalog.CACHE_VARIABLE} names another)"])
