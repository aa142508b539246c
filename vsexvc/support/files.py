"""Write files atomically, read JSON records, and hash files."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from vsexvc.support.system import replace


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: Path) -> dict[str, Any] | None:
    """Read a JSON object; return None if there is no such file, raise ValueError if it holds anything else."""
    try:
        stored = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError:
        stored = None
    if not isinstance(stored, dict):
        raise ValueError(f"record {str(path)!r} must be JSON, but is damaged; remove it")
    return stored


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file atomically."""
    partial = path.with_name(path.name + ".new")
    try:
        partial.write_text(json.dumps(content, indent=1) + "\n")
        settle(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def settle(partial: Path, path: Path) -> None:
    """Rename a written file once its bytes are on the disk, so that a crash leaves the old file or the new one."""
    with partial.open("r+b") as file:  # Windows cannot flush a file that is open for reading
        os.fsync(file.fileno())
    replace(partial, path)
