"""Keep the working folder of a render.

It holds `manifest.json` (the arguments, the scenes that were found, and the frames that are being redone),
`NNNNNN.mkv` with `NNNNNN.json` (a finished part and its record), `NNNNNN.state` (the recurrent state at a part's end,
if the next part continues from it), `index/` (the index of bestsource) and `lock` (held by the process that renders). A
file gets its name only when it is complete; NNNNNN is the part's number.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from vsexvc.film.encode import Part
from vsexvc.film.trust import Sum
from vsexvc.support.files import read_json, settle, sha256_of, write_json
from vsexvc.support.system import lock, remove_locked

_OURS = re.compile(r"lock|index|manifest\.json(\.new)?|rehearsal\..*|\d{6}\..*")  # names in a working folder
_SUFFIXES = (".json", ".mkv", ".state")  # of a part


class Folder:
    """Lock a working folder, so that one process at a time uses it."""

    def __init__(self, path: Path) -> None:
        self.path, self.index = path, path / "index"

    def __enter__(self) -> Self:
        """Lock the folder. Raise ValueError if another process holds it or it contains other files."""
        while True:
            self.path.mkdir(parents=True, exist_ok=True)
            for name in (entry.name for entry in self.path.iterdir()):
                if not _OURS.fullmatch(name):
                    raise ValueError(f"--work must be an empty folder or an earlier run's, {self.path} holds {name!r}")
            self._lock = (self.path / "lock").open("a")
            if not lock(self._lock, wait=False):
                self._lock.close()
                raise ValueError(f"--work: another process renders in {self.path}, wait for it")
            if os.fstat(self._lock.fileno()).st_nlink:  # else another process has just removed the file
                break
            self._lock.close()
        for left in (*self.path.glob("*.part"), *self.path.glob("*.moved")):
            left.unlink()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.path.is_dir() and [entry.name for entry in self.path.iterdir()] == ["lock"]:  # no render was begun
            self.remove()
        self._lock.close()

    def manifest(self) -> dict[str, Any]:
        """Return the manifest of the run in this folder, empty if there is none. Raise ValueError if it is damaged."""
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

    def state(self, number: int) -> Path:
        """Return the path of the recurrent state at a part's end."""
        return self.file(number).with_suffix(".state")

    def read(self, number: int) -> Part | None:
        """Return a part's record; None if it cannot be read."""
        with suppress(OSError, ValueError, TypeError, KeyError):
            stored = json.loads(self.file(number).with_suffix(".json").read_bytes())
            durations = tuple((int(a), int(b)) for a, b in stored["durations"])
            order = tuple(map(int, stored["order"]))
            sums = [
                Sum(
                    int(first),
                    int(frames),
                    float(similarity),
                    tuple((int(place), float(share)) for place, share in shares),
                )
                for first, frames, similarity, shares in stored["sums"]
            ]
            return Part(order, str(stored["sha256"]), durations, str(stored["key"]), tuple(sums))
        return None

    def has(self, number: int, frames: int, key: str) -> bool:
        """Return whether a part with that key exists, whole and undamaged."""
        part, file = self.read(number), self.file(number)
        if part is None or part.key != key or len(part.order) != frames or not file.is_file():
            return False
        return sha256_of(file) == part.sha256

    def keep(self, number: int, partial: Path, part: Part) -> None:
        """Store a written file as the part of that number."""
        write_json(self.file(number).with_suffix(".json"), dataclasses.asdict(part))
        settle(partial, self.file(number))

    def drop(self, number: int) -> None:
        """Remove a part, its record first."""
        for suffix in _SUFFIXES:
            self.file(number).with_suffix(suffix).unlink(missing_ok=True)

    def arrange(self, keys: Sequence[str]) -> None:
        """Give the parts with these keys their numbers in this order; remove parts with other keys."""
        numbers = {key: number for number, key in enumerate(keys)}
        moved = []
        for record in self.path.glob("[0-9]*.json"):
            part = self.read(int(record.stem))
            number = None if part is None else numbers.get(part.key)
            for suffix in _SUFFIXES if number != int(record.stem) else ():
                old = record.with_suffix(suffix)
                if number is None:
                    old.unlink(missing_ok=True)
                elif old.exists():
                    moved.append((old.replace(self.path / f"{number:06}{suffix}.moved"), number, suffix))
        for file, number, suffix in moved:
            file.replace(self.path / f"{number:06}{suffix}")

    def clear(self) -> None:
        for entry in self.path.iterdir():
            if entry.is_dir():
                shutil.rmtree(entry)
            elif entry.name != "lock":
                entry.unlink()

    def remove(self) -> None:
        self.clear()
        remove_locked(self._lock, self.path / "lock")
        self.path.rmdir()
