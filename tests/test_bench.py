"""Test scripts/bench.py: its counts, rows and files; and the quick forms of scripts/plain.py.

Times are not checked. Expected counts are facts of the nets or worked out by hand; the expected memory is what a test
process allocates.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from scripts import bench, bench_busy, bench_filter, bench_measure, bench_network, bench_precision, plain
from tests.test_protocol import write_clips
from vsexvc.colour.lab import rgb_to_lab
from vsexvc.nets.config import NetworkConfig
from vsexvc.nets.network import ColorizationNet
from vsexvc.session import Session

ROOT = Path(__file__).resolve().parents[1]
CPU = torch.device("cpu")
# dB of ab (peak 255). Results below it differ by more than rounding of fp32. Each instruction set has its own order of
# sums; this changes a feature by about 1e-6 of its size, and 30 layers add up to 1e-5. The softmax divides cosines by
# 0.01, so that shares change by 1e-3. Colours that span 255 then differ by up to 0.255: 60 dB. The same network in bf16
# (rounding of 4e-3 instead of 6e-8) reaches 26 dB.
ROUNDING = 60.0


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "scripts.bench", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)


@pytest.fixture
def only_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limit the backends to torch: others take long to compile."""
    monkeypatch.setattr("scripts.bench_measure.BACKENDS", ("torch",))


@pytest.mark.numbers
class TestPlain:
    def test_norm_and_prelu_are_what_their_formulas_say(self) -> None:
        x = torch.randn(1, 3, 5, 7, dtype=torch.float64)
        mean = x.mean((2, 3), keepdim=True)
        variance = ((x - mean) ** 2).mean((2, 3), keepdim=True)
        assert torch.allclose(plain.instance_norm(x), (x - mean) / (variance + 1e-5).sqrt())
        weight = torch.tensor([0.3], dtype=torch.float64)
        assert torch.equal(plain.prelu(x, {"p.weight": weight}, "p"), torch.where(x > 0, x, 0.3 * x))

    def test_the_whole_matrix_is_the_loop_over_positions(self) -> None:
        fx, fy = (torch.randn(1, 6, 4, 5, dtype=torch.float64) for _ in range(2))
        w = {f"{n}.weight": torch.randn(6, 6, 1, 1, dtype=torch.float64) for n in ("theta", "phi")}
        ab = torch.randn(1, 2, 16, 20, dtype=torch.float64)
        at_once = plain.match_at_once(plain.directions(fx, w, "theta"), plain.directions(fy, w, "phi"), ab, 0.05)
        for a, b in zip(plain.match(fx, fy, ab, w, 0.05), at_once, strict=True):
            assert torch.allclose(a, b)

    def test_the_loop_gives_the_sessions_colours(self) -> None:
        torch.manual_seed(0)
        network = ColorizationNet(NetworkConfig(width=0.0625)).eval().requires_grad_(False)
        rgb = torch.rand(1, 3, 32, 48).clamp(0.2, 0.8)
        reference, L = rgb_to_lab(rgb), torch.rand(1, 1, 32, 48) * 60 + 20
        session = Session(network)
        held = session.reference(reference)
        _, expected = session.step(session.start(held), session.correspond(L, held)[0])
        loop = bench_measure.plain_loop(network, rgb, reference)
        _, ab = loop.step(torch.cat((reference[:, :1] - 50, reference[:, 1:]), dim=1), L)
        assert float(expected.std()) > 0.1
        assert bench_precision.psnr(ab, expected) > ROUNDING


class TestGmac:
    """The totals were counted by other means, without phi of the frame, which the motion search needs."""

    PHI = 5184 * 256 * 256 / 1e9

    @pytest.mark.parametrize(
        ("way", "total"),
        [(bench_measure.PLAIN, 202.0), ("", 174.2 + PHI), ("folded", 160.6 + PHI)],
        ids=["plain", "", "folded"],
    )
    def test_full_width(self, way: str, total: float) -> None:
        found = bench_network.gmac(NetworkConfig(), 384, 216, way)
        assert found["total"] == pytest.approx(total, abs=0.1)
        assert found["total"] == pytest.approx(sum(found[stage] for stage in bench_measure.STAGES.values()))
        sums = 2 if way == bench_measure.PLAIN else 3  # a, b, and the shares
        assert found["correlation"] == pytest.approx(5184**2 * (256 + sums) / 1e9)
        if way != "folded":
            assert found["colour"] == pytest.approx(110.3, abs=0.05)
        assert found["motion"] == 0.0

    def test_folding_saves_5_of_9_products(self) -> None:
        """By hand for three convolutions: 512 -> 256 at 54x96, 256 -> 128 at 108x192, 128 -> 128 at 216x384."""
        three = 9 * 54 * 96 * (512 * 256 + 4 * 256 * 128 + 16 * 128 * 128) / 1e9
        whole, folded = (bench_network.gmac(NetworkConfig(), 384, 216, way)["colour"] for way in ("", "folded"))
        assert whole - folded == pytest.approx(three * 5 / 9)

    def test_motion_is_counted(self) -> None:
        assert bench_network.gmac(NetworkConfig(width=0.0625, motion=2), 96, 64)["motion"] > 0.0


class TestCandidates:
    @pytest.mark.parametrize(
        ("has", "running"),
        [
            ({}, {"torch fp32"}),
            ({"avx512_bf16": True}, {"torch fp32", "torch bf16 (AVX512)"}),
            ({"avx512_bf16": True, "amx_bf16": True}, {"torch fp32", "torch bf16 (AMX)"}),
        ],
        ids=["neither", "AVX512", "AMX"],
    )
    def test_bf16_by_hardware(
        self, has: dict[str, bool], running: set[str], only_torch: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has)
        found = [*bench_measure.candidates(CPU)]
        assert {one.name for one in found if not one.why} == running
        assert len(found) == 4 and all(one.why for one in found if one.name not in running)

    def test_a_backend_that_is_not_here_says_why(self) -> None:
        (trt,) = (one for one in bench_measure.candidates(CPU) if one.backend == "tensorrt")
        assert "GPU" in trt.why


def test_stages_leave_out_the_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock ticks at each reading, so each call takes 1 s: 4 calls in a round of 4 frames are 1000 ms a frame."""
    ticks = itertools.count()
    monkeypatch.setattr(bench_measure, "time", SimpleNamespace(perf_counter=lambda: float(next(ticks))))
    work: Any = SimpleNamespace(embed=lambda x: x, colorize=lambda x: x)
    clock = bench_measure.Clock(work, CPU)
    for _ in range(bench_measure.WARM_UP + 3):
        assert work.embed(5) == 5
        for _ in range(4):
            work.colorize(1)
    found = clock.stages(3, 4)
    assert found == dict.fromkeys(bench_measure.STAGES.values(), 0.0) | {
        "features, correspondence net": 250.0,
        "colour": 1000.0,
    }


def test_network_rows(model: str, only_torch: None) -> None:
    given = ["--inside", "64x48", "--rounds", "2", "--model", model, "--only", "tiny torch"]
    rows = bench_network.network_rows(bench.parsed(given))
    assert [row["net"] for row in rows if "note" not in row] == ["tiny"] * len(bench_measure.precisions(CPU))
    for row in rows:
        if "note" not in row:
            assert row["width"] == 0.0625
            assert 0.0 < row["lowest"] <= row["ms"] <= row["highest"]
            assert sum(row[stage] for stage in (*bench_measure.STAGES.values(), "rest")) == pytest.approx(row["ms"])


def test_memory_is_that_of_a_process_of_its_own(model: str) -> None:
    """The memory of this process does not count: with torch imported it is above 300 MiB."""
    # It stays for a while, because it is looked at every 20 ms.
    code = "import time; x = b'x' * (200 << 20); print(len(x)); time.sleep(0.3)"
    said, peak = bench_filter.watched([sys.executable, "-c", code])
    assert int(said) == 200 << 20
    assert peak is None or 200 < peak < 260
    given = ["--inside", "64x48", "--model", model]
    assert bench_network.peaks("tiny torch fp32", bench.parsed(given))["peak MiB"] > 260
    assert "note" in bench_network.peaks("no such row", bench.parsed(given))
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        bench_filter.watched([sys.executable, "-c", "1 / 0"])


def test_correlation_rows(only_torch: None) -> None:
    rows = bench_network.correlation_rows(bench.parsed(["--inside", "64x48", "--rounds", "1"]))
    assert [row["backend"] for row in rows][:2] == ["plain loop", "torch fp32"]
    assert all(row[f"x at {logits}"] > 0.0 for row in rows for logits in ("-200", "0 to -200", "-88 to -102"))


@pytest.mark.numbers
class TestPrecision:
    def test_of_true_clips(self, model: str, tmp_path: Path, only_torch: None, monkeypatch: pytest.MonkeyPatch) -> None:
        """Prepared fp32 differs from fp32 only by rounding, on any processor."""
        monkeypatch.setattr(bench_precision, "FED_BACK", 4)
        clips = write_clips(tmp_path / "clips", 1, 3)
        rows = bench_precision.precision_rows(bench.parsed(["--model", model, "--clips", str(clips)]))
        fp32 = next(row for row in rows if row["backend"] == "torch fp32")
        assert fp32["frames"] == 4 and fp32["one step, dB of ab"] > ROUNDING
        assert abs(fp32["fed back, dB to the truth lost"]) < 0.01

    def test_of_made_pictures(self, model: str, only_torch: None) -> None:
        rows = bench_precision.precision_rows(bench.parsed(["--model", model, "--inside", "64x48"]))
        assert all(row["lowest"] > 20.0 and row["fed back, dB to the truth lost"] is None for row in rows)

    def test_psnr(self) -> None:
        assert bench_precision.psnr(torch.zeros(2, 5), torch.full((2, 5), 2.55)) == pytest.approx(40.0, abs=1e-4)


class TestBusy:
    def test_the_fair_share(self) -> None:
        """On 2 cores beside 3 others, 2 threads get 4/5 of a core and 1 thread gets half; 8 cores suffice for all."""
        assert bench_busy.fair(2, 3, 2) == pytest.approx(2 / 0.8)
        assert bench_busy.fair(1, 3, 2) == pytest.approx(2)
        assert bench_busy.fair(2, 3, 8) == 1

    def test_rows(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Only the second row asks for threads that spin; other processes run only during every second call.

        16 threads and 17 others on 16 cores take 33 / 16 times as long, as is fair.
        """
        seen: list[tuple[str | None, int]] = []
        running: list[int] = []

        @contextmanager
        def computing(count: int) -> Iterator[None]:
            running.append(count)
            yield
            running.clear()

        def run(*arguments: Any) -> dict[str, Any]:
            seen.append((os.environ.get("OMP_WAIT_POLICY"), len(running)))
            return {"seconds": 4.125 if running else 2.0, "fps": 1.0}

        monkeypatch.setattr(torch, "get_num_threads", lambda: 16)
        monkeypatch.setattr(bench_busy, "computing", computing)
        monkeypatch.setattr(bench_filter, "filter_run", run)
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)))
        for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"):
            monkeypatch.delenv(name, raising=False)
        rows = bench_busy.busy_rows(64, 48, 8, {})
        assert seen == [(None, 0), (None, 1), ("ACTIVE", 0), ("ACTIVE", 1)]
        assert [row["threads wait"] for row in rows] == ["as the filter loads torch", "ACTIVE"]
        assert all(row["times as long"] == 33 / 16 and row["times the fair share"] == pytest.approx(1) for row in rows)

    def test_processes_end(self) -> None:
        """The processes run inside the context and have ended after it."""
        with bench_busy.computing(2) as processes:
            assert [process.poll() for process in processes] == [None, None]
        assert None not in [process.returncode for process in processes]


class TestFilter:
    def test_one_run_of_vspipe(self, model: str) -> None:
        row = bench_filter.filter_run(64, 48, 8, 2, {"model": model, "size": 64})
        assert row.get("note") is None
        assert row["fps"] == pytest.approx(8 / row["seconds"])
        assert row["peak MiB"] is None or row["peak MiB"] > 100  # vspipe's memory, not its starter's

    def test_what_vspipe_refuses_is_the_note(self, model: str) -> None:
        row = bench_filter.filter_run(64, 48, 8, 1, {"model": model, "size": 3})
        assert "size must be 64..1080, got 3" in row["note"]

    def test_grid(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(bench_filter, "filter_run", lambda *arguments: arguments)
        sizes = [(4, 2), (8, 4), (16, 8)]
        runs: Any = bench_filter.filter_rows(sizes, 10, {"a": 1}, [{"backend": "b"}], grid=True)
        assert runs[:9] == [(*size, 10, references, {"a": 1}) for size in sizes for references in (1, 2, 4)]
        assert runs[9:] == [(8, 4, 10, 1, {"a": 1, "backend": "b"})] + [(4, 2, n, 1, {"a": 1}) for n in (20, 40, 80)]

    def test_plot_of_lines(self) -> None:
        """The plot fits 2 + frames / 2 seconds at one size and 2 + 5 x megapixels at 10 frames; memory is constant."""
        made = [("1000x1000", n, 2 + n / 2) for n in (10, 20, 40)] + [("2000x1000", 10, 12.0), ("4000x1000", 10, 22.0)]
        rows = [
            {"size": s, "frames": n, "references": 1, "arguments": "", "seconds": t, "peak MiB": 900.0}
            for s, n, t in made
        ]
        drawn = ET.fromstring(bench_filter.plot([*rows, {"size": "8x8", "references": 1, "note": "failed"}], "A & B"))
        texts = [text.text for text in drawn.iter("{http://www.w3.org/2000/svg}text")]
        assert "A & B" in texts
        assert "seconds = 2 + 0.5 per frame" in texts and "seconds = 2 + 5 per megapixel" in texts
        assert sum(text.startswith("peak MiB = 900") for text in texts if text) == 2
        assert sum(one.get("id", "").startswith("point") for one in drawn.iter()) == 12


class TestCommand:
    def test_table_and_json(self, tmp_path: Path) -> None:
        path = tmp_path / "bench.json"
        done = run("--what", "around", "--sizes", "64x48", "--rounds", "2", "--json", str(path))
        assert done.returncode == 0, done.stderr
        result = json.loads(path.read_text())
        assert {"commit", "device", "threads", "versions", "inside", "rounds", "around"} == set(result)
        assert {"upsample_ab", "chroma", "write"} < {row["step"] for row in result["around"]}
        for row in result["around"]:
            assert 0.0 < row["lowest"] <= row["ms"] <= row["highest"]
            assert f"| {row['step']} |" in done.stdout

    def test_columns_that_no_row_fills_are_left_out_and_notes_come_last(self) -> None:
        text = bench.table([{"a": "x", "note": "no"}, {"a": "y", "b": 1234.5, "c": None, "d": 0.01234}])
        assert text.splitlines() == [
            "| a | b | d | note |",
            "| --- | --- | --- | --- |",
            "| x |  |  | no |",
            "| y | 1234 | 0.0123 |  |",
        ]

    @pytest.mark.parametrize(
        ("given", "said"),
        [
            (["--sizes", "large"], "--sizes: must be WIDTHxHEIGHT, got large"),
            (["--rounds", "0"], "--rounds and --frames must be 1 or more, got 0 and 48"),
            (["--plot", "x.svg", "--what", "gmac"], "--plot needs filter among --what"),
        ],
    )
    def test_wrong_arguments(self, given: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit, match="2"):
            bench.parsed(given)
        assert said in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("given", "said"),
        [
            (["--only", "nothing", "--what", "network"], "bench: --only: no row holds 'nothing'"),
            (["--model", "nobody", "--what", "gmac"], "bench: model must be"),
        ],
    )
    def test_one_line_for_what_is_not_there(self, given: list[str], said: str) -> None:
        done = run(*given)
        assert done.returncode == 1
        assert done.stderr.startswith(said) and done.stderr.count("\n") == 1
