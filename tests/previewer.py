"""Run a previewer on the display $DISPLAY and operate it from inside: open a script, seek, reload, close.

Run as a program: previewer.py vsview|vspreview SCRIPT RELOADS FOLDER [PLAN]

The program writes screenshots to FOLDER: open.png, reloaded.png and, for vsview, plan.png. It prints a line of JSON:

    rss: resident memory in KiB before the script is opened, after that, and after each reload.
    threads: number of threads at the same moments.
    pixels: RGB of each shown frame at the points of a grid.
    properties, scenes: the texts that vsview shows.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

FRAMES = (0, 7, 2)  # shown in this order; the last is also shown after each reload
PATIENCE = 120  # seconds for one step

Steps = Iterator[Callable[[], Any]]  # `work` waits until each returns a true value
seen: dict[str, Any] = {"rss": [], "threads": [], "pixels": [], "properties": {}, "scenes": []}


def measure() -> None:
    gc.collect()
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    seen["rss"].append(int(status["VmRSS"].split()[0]))
    seen["threads"].append(int(status["Threads"]))


def look(image: Any) -> None:
    """Record the pixels of a QImage."""
    at = [((2 * x + 1) * image.width() // 8, (2 * y + 1) * image.height() // 8) for y in range(4) for x in range(4)]
    seen["pixels"].append([image.pixelColor(x, y).getRgb()[:3] for x, y in at])


def work(window: Any, core: Any, steps: Steps) -> None:
    """Run `steps` whenever the program is idle. core: the module QtCore of the program's Qt."""
    timer = core.QTimer(window)
    waits: dict[str, Any] = {"for": lambda: True, "since": time.monotonic()}

    def tick() -> None:
        try:
            if waits["for"]():
                waits["for"], waits["since"] = next(steps), time.monotonic()
            elif time.monotonic() - waits["since"] > PATIENCE:
                raise TimeoutError("it hangs")
        except StopIteration:
            timer.stop()
            print(json.dumps(seen), flush=True)
            window.close()
        except BaseException:
            traceback.print_exc()
            os._exit(1)

    timer.timeout.connect(tick)
    timer.start(100)


def pause(seconds: float) -> Callable[[], bool]:
    """Return a condition that is true after some seconds, for what is drawn at the screen's rate."""
    until = time.monotonic() + seconds
    return lambda: time.monotonic() > until


def vsview(script: Path, reloads: int, folder: Path, plan: Path | None) -> None:
    from PySide6 import QtCore
    from PySide6.QtWidgets import QApplication, QFileDialog
    from vsview import cli
    from vsview.app import main

    def shoot(name: str) -> None:
        QApplication.primaryScreen().grabWindow(0).save(str(folder / name))

    def show(workspace: Any, frame: int) -> Steps:
        done: list[Any] = []
        workspace.playback.request_frame(frame, cb_render=done.append)
        yield lambda: done
        assert done[0].result() == 0
        yield lambda: workspace.playback.can_reload
        look(workspace.tab_manager.current_view.pixmap_item.pixmap().toImage())

    def steps(window: Any) -> Steps:
        yield lambda: window.isVisible()
        measure()
        workspace = window.load_new_script(script)[0].workspace
        yield lambda: workspace.playback.can_reload and workspace.plugins_loaded
        yield pause(0.5)
        workspace.dock_toggle_btn.click()
        workspace.plugin_splitter.setSizes([600, 400])
        yield pause(0.5)
        for frame in FRAMES:
            yield from show(workspace, frame)
        yield pause(0.5)
        shoot("open.png")
        measure()
        if plan:
            yield from scenes(workspace)
        for _ in range(reloads):
            done = workspace.reload_content()
            yield lambda done=done: done.done() and workspace.playback.can_reload
            assert done.result() == 0
            yield pause(0.2)
            yield from show(workspace, FRAMES[-1])
            measure()
        yield pause(0.5)
        shoot("reloaded.png")

    def scenes(workspace: Any) -> Steps:
        dock = next(one for one in workspace.plugins if type(one).__name__ == "SceningPlugin")
        QFileDialog.getOpenFileNames = lambda *_, filter, **__: (
            [str(plan)],
            next(one for one in filter.split(";;") if one.startswith("vsexvc plan")),
        )
        next(one for one in workspace.docks if one.widget() is dock).raise_()
        dock.import_scene_action.trigger()
        yield lambda: dock.scenes_model.rowCount()
        dock.scenes_view.selectRow(0)
        yield pause(0.5)
        seen["scenes"] = [(*one.as_frames(None), one.label) for one, _ in dock.ranges_model.ranges]
        shoot("plan.png")

    init = main.MainWindow.__init__

    def started(self: Any) -> None:
        init(self)
        work(self, QtCore, steps(self))

    main.MainWindow.__init__ = started
    cli.app.meta(["--no-settings", "--no-default-workspace"])


def vspreview(script: Path, reloads: int, folder: Path, plan: Path | None) -> None:
    from PyQt6 import QtCore
    from vspreview import init
    from vspreview.main import MainWindow

    def shoot(name: str) -> None:
        MainWindow.app.primaryScreen().grabWindow(0).save(str(folder / name))

    def show(window: Any, frame: int) -> None:
        window.switch_frame(frame)
        assert not window.script_exec_failed
        look(window.current_scene.pixmap().toImage())

    def steps(window: Any) -> Steps:
        yield lambda: window.isVisible()
        yield pause(0.5)
        for frame in FRAMES:
            show(window, frame)
            yield pause(0.1)
        shoot("open.png")
        measure()
        for _ in range(reloads):
            window.reload_script()
            yield pause(0.2)
            show(window, FRAMES[-1])
            yield pause(0.1)
            measure()
        shoot("reloaded.png")

    def started(self: Any, *arguments: Any) -> None:
        made(self, *arguments)
        MainWindow.app = self.app
        measure()
        work(self, QtCore, steps(self))

    made = MainWindow.__init__
    MainWindow.__init__ = started
    init.main([str(script)])


if __name__ == "__main__":
    name, script, reloads, folder, *rest = sys.argv[1:]
    sys.argv[1:] = []
    plan = Path(rest[0]) if rest else None
    {"vsview": vsview, "vspreview": vspreview}[name](Path(script), int(reloads), Path(folder), plan)
