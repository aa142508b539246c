"""Report a command's progress: lines and a bar on stderr, or JSON on stdout."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any, NoReturn

from vsexvc.support.progress import Pace, Progress


class Report:
    """Report events: call it with a name ("start", "progress", "part", "note", "end", ...) and the event's facts."""

    def __init__(self, as_json: bool) -> None:
        """Choose the form: with `as_json` a JSON object per event and line to stdout, else text to stderr."""
        self._as_json, self._out = as_json, sys.stdout  # stdout is redirected later, because of Ray's messages
        self._progress = Progress()
        self._stage, self._pace, self._said, self._done = "", Pace(0), 0.0, -1

    def __call__(self, event: str, **facts: Any) -> None:
        if event == "progress":
            self.at(facts["stage"], facts["done"], facts["of"])
        elif self._as_json:
            self._tell(event=event, **facts)
            if event == "start":
                self._begin("rendering", facts["done"])
        elif event == "start":
            there = f", {facts['done']} frames of them are there" if facts["done"] else ""
            scenes = "" if facts["scenes"] is None else f"{facts['scenes']} scenes, "
            self._progress.notice(f"{facts['frames']} frames, {scenes}{facts['parts']} parts{there}")
            if facts["done"] < facts["frames"]:
                self._progress.at("rendering", facts["done"], facts["frames"])
        elif event in ("note", "references", "weak"):
            self._progress.notice(facts["text"])
        elif event == "end":
            self._progress.notice(f"wrote {facts['out']}, {facts['frames']} frames, {facts['bytes'] / 1e6:.1f} MB")

    def stage(self, what: str) -> Callable[[int, int], None]:
        """Return the callback that reports a stage's progress (vsexvc.film.source.Stages)."""
        return lambda done, of: self.at(what, done, of)

    def at(self, stage: str, done: int, of: int) -> None:
        """Report that `done` of `of` frames of a stage are done."""
        if not self._as_json:
            if of > 1:
                self._progress.at(stage, done, of)
            return
        if stage != self._stage:
            self._begin(stage, 0)
        now = time.monotonic()
        if done == self._done or (now - self._said < 1.0 and done < of):
            return
        self._said, self._done = now, done
        left = self._pace.left(done, of)
        eta = None if left is None else round(left, 1)
        self._tell(event="progress", stage=stage, done=done, of=of, fps=round(self._pace.rate(done), 3), eta=eta)

    def end(self, error: str) -> None:
        """Report the error that ends the command."""
        if self._as_json:
            self._tell(event="error", message=error)
        self._progress.close()
        self._progress.notice(error, head="python -m vsexvc")

    def interrupted(self, words: str) -> None:
        """Report the end after Ctrl-C, which a terminal shows without ending the line."""
        self._progress.close()
        if sys.stderr is not None:
            print(file=sys.stderr)
        self.end(words)

    def _begin(self, stage: str, done: int) -> None:
        self._stage, self._pace, self._said, self._done = stage, Pace(done), 0.0, -1

    def _tell(self, **facts: Any) -> None:
        try:
            print(json.dumps(facts), file=self._out, flush=True)
        except BrokenPipeError:
            end_unheard()


def end_unheard() -> NoReturn:
    """End the process if stdout has no reader any more (`| head`), without writing to it at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    raise SystemExit(1)
