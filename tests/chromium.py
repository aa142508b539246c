"""Drive a headless Chromium over two pipes by its own protocol, to view and use pages as people do."""

from __future__ import annotations

import base64
import fcntl
import io
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_KEYS = {"Tab": 9, "End": 35, "Home": 36, "ArrowLeft": 37, "ArrowRight": 39, "ArrowDown": 40, " ": 32}


class Browser:
    """Drive one page. `events`: messages of the browser since the page was opened."""

    def __init__(self, to: int, since: int) -> None:
        self._to, self._from = to, os.fdopen(since, "rb", buffering=0)
        self._rest, self._number, self._session = b"", 0, ""
        self.events: list[dict[str, Any]] = []
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._number:
            self.events.append(answer)
        assert "error" not in answer, answer
        result: dict[str, Any] = answer["result"]
        return result

    def open(self, path: Path, width: int, height: int, dark: bool = False) -> None:
        """Load a file and clear the events."""
        self.events.clear()
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])
        self.ask("Page.navigate", url=path.absolute().as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self.events.append(self._next())

    def run(self, script: str) -> Any:
        """Return the value of a JavaScript expression."""
        answer = self.ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def press(self, key: str) -> None:
        for kind in ("keyDown", "keyUp"):
            text = {"text": key} if len(key) == 1 and kind == "keyDown" else {}
            self.ask("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=_KEYS[key], **text)

    def mouse(self, kind: str, x: float, y: float) -> None:
        """Send a mouse event. kind: "mousePressed", "mouseMoved" (with the button down) or "mouseReleased"."""
        down = kind != "mouseReleased"
        self.ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=int(down), clickCount=1)

    def touch(self, *points: tuple[float, float]) -> None:
        """Move a finger from the first point over all others."""
        for number, (x, y) in enumerate(points):
            self.ask(
                "Input.dispatchTouchEvent", type="touchMove" if number else "touchStart", touchPoints=[{"x": x, "y": y}]
            )
        self.ask("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])

    def seen(self, area: dict[str, float] | None = None) -> NDArray[np.uint8]:
        """Return what is shown, or a part of it, (H, W, 3). area: x, y, width, height."""
        options = {} if area is None else {"clip": {**area, "scale": 1}}
        shot = base64.b64decode(self.ask("Page.captureScreenshot", **options)["data"])
        return np.asarray(Image.open(io.BytesIO(shot)).convert("RGB"))

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            piece = self._from.read(1 << 20)
            assert piece, "chromium ended"
            self._rest += piece
        message, self._rest = self._rest.split(b"\0", 1)
        return dict(json.loads(message))


@contextmanager
def chromium(profile: Path) -> Iterator[Browser]:
    """Start a browser; skip the test where none is installed. profile: a new folder."""
    program = next((path for name in NAMES if (path := shutil.which(name))), None)
    if program is None:
        pytest.skip("needs Chromium on PATH: apt-get install chromium")
    (its_input, to), (since, its_output) = _pipe(), _pipe()

    def connect() -> None:
        os.dup2(its_input, 3)  # Chromium reads from 3 and writes to 4
        os.dup2(its_output, 4)

    command = [program, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-dev-shm-usage"]
    command += ["--hide-scrollbars", "--disable-background-networking", "--remote-debugging-pipe"]
    process = subprocess.Popen(
        [*command, f"--user-data-dir={profile}"], pass_fds=(3, 4), preexec_fn=connect, stderr=subprocess.DEVNULL
    )
    os.close(its_input)
    os.close(its_output)
    try:
        yield Browser(to, since)
    finally:
        process.terminate()
        process.wait()
        os.close(to)


def _pipe() -> tuple[int, int]:
    """Return both ends of a pipe, at file descriptors that Chromium does not use."""
    ends = os.pipe()
    reading, writing = (fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends)
    for end in ends:
        os.close(end)
    return reading, writing
