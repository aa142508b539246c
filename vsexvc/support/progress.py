"""Show progress and notices on stderr: a bar on a terminal (rich), lines at intervals elsewhere.

This module never writes to stdout, to which a script's clip goes.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any


def notice(text: str, head: str = "vsexvc") -> None:
    """Write a line to stderr, if there is one (print would fall back to stdout)."""
    if sys.stderr is not None:
        print(f"{head}: {text}", file=sys.stderr, flush=True)


class Pace:
    """Measure the rate of a stage. done: the amount done before it began."""

    def __init__(self, done: float) -> None:
        self._since, self._from = time.monotonic(), done

    def rate(self, done: float) -> float:
        """Return the amount done per second."""
        seconds = time.monotonic() - self._since
        return (done - self._from) / seconds if seconds > 0 else 0.0

    def left(self, done: float, of: float) -> float | None:
        """Return the seconds that remain at this rate; None before any progress."""
        rate = self.rate(done)
        return (of - done) / rate if rate > 0 else None


class Progress:
    """Show the progress of one stage after another.

    On a terminal this is a bar, where rich is installed. Elsewhere it is a line every `pause` seconds and one at the
    end of a stage. Close it, or use it as a context manager, else the terminal keeps an open line.
    """

    def __init__(self, unit: str = "", scale: float = 1.0, pause: float = 30.0, head: str = "vsexvc") -> None:
        """Prepare; nothing is shown yet.

        Args:
            unit: unit of the shown numbers, such as " MB".
            scale: divisor that gives this unit.
            pause: seconds between two lines without a terminal.
            head: the first word of these lines.
        """
        self._unit, self._scale, self._pause, self._head = unit, scale, pause, head
        self._stage, self._pace, self._said, self._done = "", Pace(0), 0.0, -1.0
        self._bar: Any = None
        self._task: Any = None

    def at(self, stage: str, done: float, of: float | None, note: str = "") -> None:
        """Show that `done` of `of` are done. A stage that was not shown before begins here.

        Args:
            stage: its name.
            done: the finished amount.
            of: the whole amount; None: it is unknown.
            note: further words after the numbers.
        """
        now = time.monotonic()
        if stage != self._stage:
            self.close()
            self._stage, self._pace, self._said, self._done = stage, Pace(done), now, -1.0
            self._bar = _new_bar()
            if self._bar is not None:
                self._task = self._bar.add_task(stage, total=None, text="")
                self._bar.start()
        is_last = of is not None and done >= of
        pause = self._pause if self._bar is None else 0.1
        if done == self._done or (now - self._said < pause and not is_last):
            return
        self._said, self._done = now, done
        text = f"{self._text(done, of)} {note}".rstrip()
        if self._bar is None:
            notice(f"{stage}: {text}", self._head)
            return
        self._bar.update(self._task, completed=done, total=of, text=text)
        self._bar.refresh()
        if is_last:
            self.close()

    def notice(self, text: str, head: str = "vsexvc") -> None:
        """Write a line to stderr, above the bar."""
        if self._bar is None:
            notice(text, head)
        else:
            self._bar.console.print(f"{head}: {text}", markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """End the bar."""
        if self._bar is not None:
            self._bar.stop()
        self._bar, self._stage = None, ""

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _text(self, done: float, of: float | None) -> str:
        text = f"{done / self._scale:.0f}"
        if of is None:
            return text + self._unit
        left = self._pace.left(done, of)
        soon = "" if left is None or done >= of else f", {_clock(left)} left"
        return f"{text} of {of / self._scale:.0f}{self._unit}, {self._pace.rate(done) / self._scale:.2f} a second{soon}"


def followed[Item](items: Sequence[Item], stage: str, unit: str = "", head: str = "vsexvc") -> Iterator[Item]:
    """Yield the items and show how many are done.

    Args:
        items: the items of the work, in order.
        stage: name of the work.
        unit: unit of the items, such as " clips".
        head: first word of a line without a terminal.
    """
    with Progress(unit, head=head) as progress:
        for done, item in enumerate(items):
            progress.at(stage, done, len(items))
            yield item
        progress.at(stage, len(items), len(items))


def _new_bar() -> Any:
    """Return rich's progress bar; None if stderr is no terminal or rich is not installed."""
    if sys.stderr is None or not sys.stderr.isatty():
        return None
    try:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn
    except ImportError:
        return None
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[text]}"))
    # The reporting thread draws the bar: rich starts no thread.
    return Progress(*columns, console=Console(stderr=True), auto_refresh=False)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
