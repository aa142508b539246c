"""Notices to stderr."""

from __future__ import annotations

import sys


def notice(text: str) -> None:
    """A line to stderr, if there is one: print would turn to stdout, where the clip goes."""
    if sys.stderr is not None:
        print(f"vsexvc: {text}", file=sys.stderr, flush=True)
