"""Test support/progress.py and report.py: output on a terminal, in a log, and as JSON."""

from __future__ import annotations

import io
import json
import sys

import pytest

from vsexvc.support import progress
from vsexvc.support.progress import Progress
from vsexvc.support.report import Report


class Clock:
    """Hold a time that the test sets."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("time.monotonic", clock.monotonic)
    return clock


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_lines_where_there_is_no_terminal(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(" MB", 1e6, pause=5.0) as shown:
        for done in range(0, 41):  # 4 in a second
            shown.at("x", done * 1e6, 40e6)
            clock.now += 0.25
    out, err = capsys.readouterr()
    assert not out and err.splitlines() == [
        "vsexvc: x: 20 of 40 MB, 4.00 a second, 0:00:05 left",
        "vsexvc: x: 40 of 40 MB, 4.00 a second",
    ]


def test_a_size_that_is_not_known(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(" MB", 1e6, pause=5.0) as shown:
        for done in (0.0, 3e6):
            shown.at("x", done, None)
            clock.now += 6
    assert capsys.readouterr().err.splitlines() == ["vsexvc: x: 3 MB"]


def test_a_bar_on_a_terminal(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("rich")
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    with Progress() as shown:
        for done in range(5):
            shown.at("rendering", done, 4)
            shown.notice("said [between]")
            clock.now += 1
    text = sys.stderr.getvalue()
    assert "\x1b[" in text and "vsexvc: said [between]" in text
    assert "4 of 4, 1.00 a second" in text and text.count("\x1b[?25l") == text.count("\x1b[?25h")  # the cursor is back


def test_lines_on_a_terminal_without_rich(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "rich.console", None)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with Progress() as shown:
        shown.at("rendering", 0, 4)
        clock.now += 2
        shown.at("rendering", 4, 4)
    assert capsys.readouterr().err == "vsexvc: rendering: 4 of 4, 2.00 a second\n"


def test_no_stderr(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    progress.notice("x")
    with Progress(pause=0.0) as shown:
        shown.at("x", 1, 1)
    assert capfd.readouterr() == ("", "")


def test_json(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    report = Report(as_json=True)
    report("start", out="o", frames=8, scenes=1, parts=1, done=2)
    for done in (2, 4, 5, 8):
        clock.now += 0.8
        report("progress", stage="rendering", done=done, of=8)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["event"] for line in lines] == ["start", "progress", "progress", "progress"]
    assert [(line["done"], line["eta"]) for line in lines[1:]] == [(2, None), (5, 2.4), (8, 0.0)]
