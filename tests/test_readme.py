"""Test README and docs: every script and command runs on tiny clips (CI runs demo.sh and test.sh); links are right."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import cv2
import imageio_ffmpeg
import numpy as np
import pytest
import torch
from test_semantic import published

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
TEXTS = {path.relative_to(ROOT): path.read_text() for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))}
BLOCKS = [
    (language, textwrap.dedent(code))
    for path, text in TEXTS.items()
    if path.name != "chains.md"  # test_chains.py tests it
    for language, code in re.findall(r"^ *```(python|sh)\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL)
]
SCRIPT = "from vapoursynth import core, YUV420P8\ncore.std.BlankClip(None, 64, 48, YUV420P8, 3).set_output()\n"
BY_CI = ("scripts/demo.sh", "scripts/test.sh", "pip install")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write film.mkv of ten frames, its references, clips and pictures to train on, and bin/ with `ffmpeg`."""
    root = tmp_path_factory.mktemp("readme")
    rng = np.random.default_rng(0)
    picture = cv2.resize(rng.integers(0, 255, (9, 16, 3), dtype=np.uint8), (192, 108), interpolation=cv2.INTER_CUBIC)
    for name in ("reference", "a", "b", "c"):
        cv2.imwrite(str(root / f"{name}.png"), picture)
    (root / "CLIPS").mkdir()
    (root / "IMAGES").mkdir()
    cv2.imwrite(str(root / "IMAGES" / "0.png"), picture)
    ffmpeg = imageio_ffmpeg.get_ffmpeg_exe()
    raw = ["-f", "rawvideo", "-pix_fmt", "bgr24", "-s", "96x54", "-r", "24", "-i", "-"]
    frames = b"".join(np.ascontiguousarray(picture[n : n + 54, 2 * n : 2 * n + 96]).tobytes() for n in range(10))
    for target, pixels in (("film.mkv", "gray"), ("CLIPS/a.mkv", "yuv444p")):
        command = [ffmpeg, "-loglevel", "error", *raw, "-c:v", "ffv1", "-pix_fmt", pixels, str(root / target)]
        subprocess.run(command, input=frames, check=True)
    shutil.copytree(root / "CLIPS", root / "VALIDATION_CLIPS")
    (root / "bin").mkdir()
    (root / "bin" / "ffmpeg").symlink_to(ffmpeg)
    return root


def run(command: str, folder: Path) -> None:
    path = os.pathsep.join((str(folder / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]))
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, f"{command}\n{result.stderr}"


def test_the_three_lines_and_the_pipe(folder: Path) -> None:
    (script,) = (code for language, code in BLOCKS if language == "python" and "set_output" in code)
    assert len(script.strip().splitlines()) == 3
    (folder / "film.vpy").write_text(script)
    (pipe,) = (code for language, code in BLOCKS if language == "sh" and "vsexvc pipe" in code)
    run(pipe.replace("python -m", f"{sys.executable} -m"), folder)
    assert (folder / "film-in-colour.mkv").stat().st_size > 500


def test_several_references(folder: Path) -> None:
    (script,) = (code for language, code in BLOCKS if language == "python" and "Splice" in code)
    (folder / "several.vpy").write_text(
        "import vapoursynth as vs\ncore = vs.core\n"
        "clip = core.std.BlankClip(format=vs.GRAY8, width=96, height=54, length=1000)\n"
        + script
        + "clip[:1].set_output()\n"
    )
    run("vspipe several.vpy .", folder)


def test_training_and_evaluation(folder: Path) -> None:
    (block,) = (code for language, code in BLOCKS if language == "sh" and "train evaluate" in code)
    for command in (line for line in block.splitlines() if line.startswith("python -m train")):
        small = "--steps 2 --width 0.0625 --size 32 48 --length 2 --batch 1 --workers 0"
        run(command.replace("--minutes 600", small).replace("python -m", f"{sys.executable} -m"), folder)
    assert (folder / "runs" / "mine" / "weights.safetensors").exists()


def test_training_with_meaning(folder: Path) -> None:
    (block,) = (code for language, code in BLOCKS if language == "sh" and "train meaning" in code)
    torch.save(published(), folder / "lite2.pth")  # Lite0 has the smaller shapes
    cv2.imwrite(str(folder / "IMAGES" / "1.png"), cv2.imread(str(folder / "a.png"))[::-1])
    small = "--steps 1 --semantic lite0 --size 32 48 --length 2 --batch 1 --workers 0 --no-bf16"
    for command in block.splitlines():
        command = re.sub(r"--minutes \d+", small, command)
        command += " --steps 2 --batch 2" if re.search("train (meaning|trust)", command) else ""
        command += " --pairs 4" if "train trust" in command else ""
        run(command.replace("python -m", f"{sys.executable} -m"), folder)
    assert (folder / "runs" / "exvc" / "weights.safetensors").exists()


def test_whole_films(folder: Path) -> None:
    blocks = [code for language, code in BLOCKS if language == "sh" and "vsexvc pipe" not in code]
    found = [line for code in blocks for line in code.splitlines()]
    commands = list(dict.fromkeys(line for line in found if line.startswith("python -m vsexvc")))
    assert [line.split()[3] for line in commands] == [
        *("scenes", "compare", "render", "keyframes", "render", "render", "render")
    ]
    for command in commands:
        small = "" if "scenes" in command or "film.vpy" in command else " --size 64"
        if "film.vpy" in command:
            (folder / "film.vpy").write_text(SCRIPT)
        run(command.replace("python -m", f"{sys.executable} -m") + small, folder)
        if "scenes" in command:
            plan = folder / "plan.toml"
            plan.write_text(plan.read_text().replace('reference = ""', 'reference = "a.png"', 1))
        if "keyframes" in command:
            for path in (folder / "refs").glob("ref_*.png"):
                shutil.copy(folder / "a.png", path)
        if "render" in command:
            (folder / "out.mkv").unlink()
    assert (folder / "sheet.png").stat().st_size and "</html>" in (folder / "page.html").read_text()


def test_the_readme_is_short() -> None:
    assert len(README.split()) <= 1500


@pytest.mark.parametrize("path", [*TEXTS, Path("CONTRIBUTING.md")], ids=str)
def test_links(path: Path) -> None:
    """Linked files and headings exist."""
    text = (ROOT / path).read_text()
    links = re.findall(r"\]\(([^)\s]+)\)", text)
    assert links or path.stem in ("colour", "platforms")
    for link in links:
        name, _, heading = link.partition("#")
        target = (ROOT / path).parent / name if name else ROOT / path
        assert target.exists(), link
        headings = re.findall(r"^#+ (.+)$", target.read_text(), re.MULTILINE) if heading else []
        slugs = [re.sub(r"[^\w -]", "", one.lower()).replace(" ", "-") for one in headings]
        assert not heading or heading in slugs, link


def test_no_command_is_left_out() -> None:
    tested = ("python -m train", "python -m vsexvc")
    for language, code in BLOCKS:
        for line in code.splitlines() if language == "sh" else []:
            assert line.startswith((*BY_CI, *tested)), f"nobody runs: {line}"


def test_arguments_are_those_of_the_filter() -> None:
    import vapoursynth as vs

    signature = [part.split(":")[0] for part in vs.core.exvc.Colorize.signature.strip("()").split(";") if ":" in part]
    assert re.findall(r"^\| `(\w+)` \|", README, re.MULTILINE) == signature
