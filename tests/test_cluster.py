"""film/cluster.py with a Ray that only says which task is done: the order of parts, and what is told meanwhile."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vsexvc.film import cluster
from vsexvc.film.encode import Encoding
from vsexvc.film.job import Colours, Job


class Ray(SimpleNamespace):
    """Tasks end last come, first served; before each end there is a wait in vain."""

    def __init__(self) -> None:
        names = ("RayError", "RayTaskError")
        super().__init__(exceptions=SimpleNamespace(**{name: type(name, (Exception,), {}) for name in names}))
        self.started: list[int] = []
        self.is_late = False

    def init(self, **options: Any) -> None: ...
    def shutdown(self) -> None: ...

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": {"CPU": 8}}]

    def put(self, job: Job) -> Job:
        return job

    def remote(self, **options: Any) -> Any:
        def start(job: Job, number: int) -> int:
            self.started.append(number)
            return number

        return lambda function: SimpleNamespace(remote=start)

    def wait(self, tasks: list[int], num_returns: int, timeout: float) -> tuple[list[int], list[int]]:
        self.is_late = not self.is_late
        return ([], tasks) if self.is_late else (tasks[-1:], tasks[:-1])

    def get(self, task: int) -> str:
        return "here:1"


def test_a_part_inside_a_scene_waits_for_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = Ray()
    monkeypatch.setitem(sys.modules, "ray", ray)
    parts = ((0, 240), (240, 480), (480, 700), (700, 800), (800, 1040), (1040, 1300))
    job = Job(Path("film"), tmp_path, Encoding(), Colours(), model=Path("m"), firsts=(0, 700, 800), parts=parts)
    cluster.progress_file(job, 4).write_text("17")
    made: list[int] = []
    told: list[int] = []
    # Part 1 is there already.
    cluster.make_by_ray(job, [0, 2, 3, 4, 5], 2, None, lambda number, worker: made.append(number), told.append)
    assert ray.started == [0, 2, 3, 4, 5]
    assert made == [4, 5, 3, 2, 0]
    assert told == [17, 0, 0, 0, 0]
