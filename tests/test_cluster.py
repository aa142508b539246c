"""Test film/cluster.py with a stand-in for Ray: resources of tasks, the order of parts, progress."""

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
    """Replace Ray. The task that started last ends first; every second wait finds no task."""

    def __init__(self) -> None:
        names = ("RayError", "RayTaskError")
        super().__init__(exceptions=SimpleNamespace(**{name: type(name, (Exception,), {}) for name in names}))
        self.started: list[int] = []
        self.is_late = False
        self.machines: list[dict[str, float]] = [{"CPU": 8, "memory": 64 << 30}]
        self.began: dict[str, Any] = {}
        self.asked: dict[str, Any] = {}

    def init(self, **options: Any) -> None:
        self.began = options

    def shutdown(self) -> None: ...

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": has} for has in self.machines]

    def put(self, job: Job) -> Job:
        return job

    def remote(self, **options: Any) -> Any:
        self.asked = options

        def start(job: Job, number: int) -> int:
            self.started.append(number)
            return number

        return lambda function: SimpleNamespace(remote=start)

    def wait(self, tasks: list[int], num_returns: int, timeout: float) -> tuple[list[int], list[int]]:
        self.is_late = not self.is_late
        return ([], tasks) if self.is_late else (tasks[-1:], tasks[:-1])

    def get(self, task: int) -> str:
        return "here:1"


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Ray:
    ray = Ray()
    monkeypatch.setitem(sys.modules, "ray", ray)
    return ray


def job_of(folder: Path, threads: int = 4, device: str | None = None) -> Job:
    colours = Colours(device=device)
    return Job(Path("film"), folder, Encoding(), colours, model=Path("m"), threads=threads, parts=((0, 240),))


def asked(ray: Ray, job: Job, workers: int | None = None, per_gpu: int = 1) -> tuple[float, float, float]:
    """Return the CPUs, GPUs and GiB of memory that a task asks for."""
    cluster.make_by_ray(job, [0], workers, None, lambda number, worker: None, per_gpu=per_gpu)
    return ray.asked["num_cpus"], ray.asked["num_gpus"], ray.asked["memory"] / 2**30


class TestWhatAWorkerTakes:
    def test_network_encoder_and_memory(self, ray: Ray, tmp_path: Path) -> None:
        assert asked(ray, job_of(tmp_path)) == (4.5, 0.0, 3.0)

    def test_a_cluster_of_small_machines_is_used(self, ray: Ray, tmp_path: Path) -> None:
        """No machine has the encoder's CPU or the memory: the task asks for less, or it would wait for ever."""
        ray.machines = [{"CPU": 4, "memory": 1 << 30}, {"CPU": 4, "memory": 2 << 30}, {"CPU": 2, "memory": 64 << 30}]
        assert asked(ray, job_of(tmp_path)) == (4.0, 0.0, 2.0)

    def test_a_cluster_without_a_machine_is_waited_for(
        self, ray: Ray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        ray.machines = [{"CPU": 2, "memory": 64 << 30}]
        assert asked(ray, job_of(tmp_path)) == (4.0, 0.0, 0.0)
        assert "no machine for a worker with --threads 4; waiting" in capsys.readouterr().err

    @pytest.mark.parametrize(("per_gpu", "share"), [(1, 1.0), (2, 0.5), (3, 0.3333)])
    def test_several_share_a_gpu(self, ray: Ray, tmp_path: Path, per_gpu: int, share: float) -> None:
        ray.machines = [{"CPU": 64, "memory": 64 << 30}, {"CPU": 8, "GPU": 1, "memory": 4 << 30}]
        assert asked(ray, job_of(tmp_path, device="cuda"), per_gpu=per_gpu) == (4.5, share, 3.0)

    def test_no_gpu_on_this_machine(self, ray: Ray, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="--device cuda: Ray finds no GPU on this machine"):
            asked(ray, job_of(tmp_path, device="cuda"), workers=2)

    def test_all_workers_of_this_machine_start(self, ray: Ray, tmp_path: Path) -> None:
        cpus, _, memory = asked(ray, job_of(tmp_path), workers=6)
        assert ray.began["num_cpus"] >= 6 * cpus and ray.began["_memory"] >= 6 * memory * 2**30

    def test_vapoursynth_keeps_to_its_share(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        core, seen = SimpleNamespace(num_threads=64, max_cache_size=12_000), []
        monkeypatch.setattr(cluster, "vs", SimpleNamespace(core=core))
        monkeypatch.setattr(cluster, "PartMaker", lambda job: seen.append((core.num_threads, core.max_cache_size)))
        cluster._maker.cache_clear()
        cluster._maker(job_of(tmp_path, threads=3))
        cluster._maker.cache_clear()
        assert seen == [(4, 1024)]


def test_a_part_inside_a_scene_waits_for_the_one_before(ray: Ray, tmp_path: Path) -> None:
    parts = ((0, 240), (240, 480), (480, 700), (700, 800), (800, 1040), (1040, 1300))
    job = Job(Path("film"), tmp_path, Encoding(), Colours(), model=Path("m"), firsts=(0, 700, 800), parts=parts)
    cluster.progress_file(job, 4).write_text("17")
    made: list[int] = []
    told: list[int] = []
    # Part 1 already exists.
    cluster.make_by_ray(job, [0, 2, 3, 4, 5], 2, None, lambda number, worker: made.append(number), told.append)
    assert ray.started == [0, 2, 3, 4, 5]
    assert made == [4, 5, 3, 2, 0]
    assert told == [17, 0, 0, 0, 0]
