"""Test the training run: kills, checkpoints, processes and recipes, on tiny clips and pictures made here."""

from __future__ import annotations

import dataclasses
import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import tyro

from train import __main__ as train_main
from train import running
from train.__main__ import main, parsed
from train.data.samples import DataOptions
from train.features.meaning import MeaningOptions
from train.features.pretrain import PretrainOptions
from train.fit import loop, networks
from train.fit.discriminator import add_spectral_norm
from train.fit.options import FitOptions
from train.measure.evaluate import EvaluateOptions
from train.measure.stills import ImagesOptions
from vsexvc.nets.config import NetworkConfig
from vsexvc.nets.features import FeatureNet
from vsexvc.nets.meaning import MeaningNet
from vsexvc.nets.network import ColorizationNet
from vsexvc.nets.trust import EVIDENCE
from vsexvc.weights import store


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a clip of moving colours, a file that is not a clip, and three pictures."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    picture = cv2.resize(rng.integers(0, 255, (9, 16, 3), dtype=np.uint8), (480, 270), interpolation=cv2.INTER_CUBIC)
    (root / "clips").mkdir()
    writer = cv2.VideoWriter(str(root / "clips" / "a.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 24, (384, 216))
    for n in range(12):
        writer.write(np.ascontiguousarray(picture[n : n + 216, 3 * n : 3 * n + 384]))
    writer.release()
    (root / "clips" / "b.mp4").write_bytes(b"no video")
    (root / "images").mkdir()
    for n in range(3):
        cv2.imwrite(str(root / "images" / f"{n}.png"), np.roll(picture, 40 * n, axis=1))
    return root


def test_folding_batch_norm_and_spectral_norm_changes_nothing() -> None:
    torch.manual_seed(0)
    net = ColorizationNet(NetworkConfig(width=0.0625, features_input="L"), batch_norm=True)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-1, 1)
            module.running_var.uniform_(0.5, 2)
            torch.nn.init.uniform_(module.weight, 0.5, 2)
    add_spectral_norm(net.correspondence)
    net.eval()
    lab = torch.rand(1, 3, 64, 64) * 50
    folded = networks.plain(net)
    assert folded.state_dict().keys() == ColorizationNet(net.config).state_dict().keys()
    for ours, theirs in zip(folded.embed(lab), net.embed(lab), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-4)


def test_the_paper_is_what_is_done_unless_told_otherwise() -> None:
    """The defaults are those of section 4 of the paper."""
    asked = parsed(["fit", "--clips", "a", "b", "--out", "c", "--steps", "9"])
    options, network, sample = asked.run, asked.network, asked.samples
    assert options.clips == (Path("a"), Path("b")) and options.out == Path("c")
    assert (options.perceptual, options.contextual, options.smoothness) == (0.001, 0.2, 5.0)
    assert (options.adversarial, options.temporal, options.l1) == (0.2, 0.02, 2.0)
    assert (options.learning_rate, options.betas, options.amsgrad, options.batch) == (2e-4, (0.5, 0.999), True, 40)
    assert not options.cosine and options.features == "imagenet" and options.spectral_norm
    assert (network.width, network.head, network.motion, sample.size) == (1.0, "tanh", 0, (216, 384))


@pytest.mark.parametrize(
    "kind", [PretrainOptions, MeaningOptions, FitOptions, NetworkConfig, DataOptions, EvaluateOptions, ImagesOptions]
)
def test_every_switch_has_its_line_of_help(kind: type) -> None:
    actions = tyro.extras.get_parser(kind)._actions
    assert len(actions) >= len(dataclasses.fields(kind))
    for action in actions:
        text = str(action.help).split("(default")[0].split("(required")[0]
        assert len(text) > 5, (kind.__name__, action.dest, text)


def test_options_given_and_of_the_recipe() -> None:
    given = "fit --recipe small --clips a --out b --no-bf16 --size 64 96 --strides 1 5 --image-share 0.5 --head tanh"
    asked = parsed(given.split())
    assert not asked.run.bf16 and asked.run.aligned == 0.5
    assert asked.network.head == "tanh" and asked.network.motion == 6
    assert (asked.samples.size, asked.samples.strides, asked.samples.image_share) == ((64, 96), (1, 5), 0.5)
    ablation = parsed(["ablate", "--recipe=exvc", "--clips", "a", "--out", "b", "--evaluate", "c", "d"])
    assert ablation.network.semantic == "lite2" and ablation.evaluate == (Path("c"), Path("d"))


def test_what_is_no_option_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for wrong in ("--recipe mine", "--sizes 64 96", "--size 64", "--head round", "--batch two", "--temperature 2"):
        with pytest.raises(SystemExit) as end:
            parsed(f"fit --clips a --out b {wrong}".split())
        assert end.value.code == 2 and capsys.readouterr().err, wrong


def arguments(folder: Path, out: Path, steps: int, more: str = "") -> list[str]:
    return (
        f"fit --recipe small --clips {folder / 'clips'} --images {folder / 'images'} --out {out} --steps {steps} "
        "--width 0.0625 --size 32 48 --length 2 --batch 2 --workers 0 --motion 2 --no-bf16 --correspond-share 0.3 "
        f"{more}"
    ).split()


@pytest.fixture(scope="module")
def adversarial(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return options for all terms of eq. 15, with random features for the losses."""
    torch.manual_seed(0)
    state = FeatureNet(NetworkConfig(width=0.0625, features_input="imagenet"), batch_norm=True).state_dict()
    path = tmp_path_factory.mktemp("judge") / "features.pt"
    torch.save({"features": state, "width": 0.0625, "input": "imagenet"}, path)
    return (
        f"--loss-features {path} --perceptual 0.001 --contextual 0.2 --adversarial 0.2 --adversarial-after 1 "
        "--spectral-norm --feature-noise 0.5 --size 64 64"
    )


def tensors(out: Path) -> dict[str, torch.Tensor]:
    return store.load(str(out / "weights.safetensors")).state_dict()


def test_a_run_killed_at_any_step_ends_in_the_same_numbers(folder: Path, tmp_path: Path, adversarial: str) -> None:
    """A run with the discriminator, killed three times by SIGKILL, gives the same weights as an uninterrupted run."""

    def start(out: str) -> subprocess.Popen[bytes]:
        # Each run has its own process: threads that began before flush_denormal round differently.
        line = arguments(folder, tmp_path / out, 8, adversarial + " --checkpoint-minutes 0")
        root = Path(__file__).parent.parent
        return subprocess.Popen([sys.executable, "-m", "train", *line], stderr=subprocess.DEVNULL, cwd=root)

    assert start("whole").wait() == 0
    kills, checkpoint = 0, tmp_path / "parts" / "checkpoint.pt"
    for wanted in (1, 4, 6):
        process = start("parts")
        while process.poll() is None:
            if checkpoint.exists() and torch.load(checkpoint, weights_only=True)["step"] >= wanted:
                process.kill()
                kills += 1
                break
            time.sleep(0.02)
        process.wait()
    assert kills == 3 and not (tmp_path / "parts" / "weights.safetensors").exists()
    assert start("parts").wait() == 0
    whole, parts = tensors(tmp_path / "whole"), tensors(tmp_path / "parts")
    for key, value in whole.items():
        assert torch.equal(value, parts[key]), key
    ours, theirs = (torch.load(tmp_path / n / "checkpoint.pt", weights_only=True) for n in ("whole", "parts"))
    for key, value in ours["discriminator"].items():
        assert torch.equal(value, theirs["discriminator"][key]), key


def test_a_run_that_is_asked_to_stop_goes_on(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(arguments(folder, tmp_path / "whole", 6)) == 0
    taken = loop._Run._train_step

    def interrupted(run: loop._Run, batch: dict[str, torch.Tensor]) -> dict[str, float]:
        if run.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return taken(run, batch)

    monkeypatch.setattr(loop._Run, "_train_step", interrupted)
    assert main(arguments(folder, tmp_path / "parts", 6)) == 0
    monkeypatch.undo()
    assert torch.load(tmp_path / "parts" / "checkpoint.pt", weights_only=True)["step"] == 3
    assert main(arguments(folder, tmp_path / "parts", 6)) == 0
    whole, parts = tensors(tmp_path / "whole"), tensors(tmp_path / "parts")
    for key, value in whole.items():
        assert torch.equal(value, parts[key]), key
    assert store.read_metadata(tmp_path / "whole" / "weights.safetensors")["step"] == "6"


def test_the_discriminator_enters_after_its_epochs(
    folder: Path, tmp_path: Path, adversarial: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one clip, three pictures and two samples a step, the second epoch begins at step 2."""
    seen: list[set[str]] = []
    taken = loop._Run._train_step

    def watch(run: loop._Run, batch: dict[str, torch.Tensor]) -> dict[str, float]:
        numbers = taken(run, batch)
        seen.append(set(numbers))
        return numbers

    monkeypatch.setattr(loop._Run, "_train_step", watch)
    more = adversarial + " --correspond-share 0"
    assert main(arguments(folder, tmp_path / "run", 4, more)) == 0
    assert [("adversarial" in names, "discriminator" in names) for names in seen] == [(False,) * 2] * 2 + [
        (True,) * 2
    ] * 2
    assert {"perceptual", "contextual", "smoothness", "temporal", "l1"} <= seen[0]


def test_weights_can_be_trained_on(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Training starts from a checkpoint or from exported plain weights; another network is refused in one line."""
    assert main(arguments(folder, tmp_path / "first", 2)) == 0
    for name in ("checkpoint.pt", "weights.safetensors"):
        init = f"--init {tmp_path / 'first' / name} --learning-rate 0"
        assert main(arguments(folder, tmp_path / name, 1, init)) == 0
        for key, value in tensors(tmp_path / "first").items():
            if name != "checkpoint.pt" or not key.startswith("features"):  # batch norm's statistics still change
                assert torch.equal(value, tensors(tmp_path / name)[key]), key
    capsys.readouterr()
    assert (
        main(arguments(folder, tmp_path / "other", 1, f"--init {tmp_path / 'first' / 'checkpoint.pt'} --motion 3")) == 1
    )
    assert "holds a network of another configuration" in capsys.readouterr().err


TWO = """
import os, signal, sys
import torch
import torch.distributed as distributed
from train.__main__ import main
from train.fit import loop

run, step = loop._Run.run, loop._Run._train_step

def compared(self):
    path = run(self)
    own = torch.cat([x.detach().flatten() for x in self.net.parameters()])
    all_of_them = [torch.empty_like(own) for _ in range(2)]
    distributed.all_gather(all_of_them, own)
    assert torch.equal(*all_of_them)
    return path

def interrupted(self, batch):
    if self.rank == 0 and self.step == int(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGTERM)
    return step(self, batch)

loop._Run.run, loop._Run._train_step = compared, interrupted
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.parametrize(("stop", "steps"), [(9, 3), (1, 2)])
def test_two_processes_share_a_step(folder: Path, tmp_path: Path, adversarial: str, stop: int, steps: int) -> None:
    """Two processes of torchrun on the CPU train one network on different samples, and end together."""
    (tmp_path / "two.py").write_text(TWO)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += [str(tmp_path / "two.py"), str(stop)]
    command += arguments(folder, tmp_path / "two", 3, adversarial + " --batch 1 --adversarial-after 0 --threads 1")
    root = Path(__file__).parent.parent
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    state = torch.load(tmp_path / "two" / "checkpoint.pt", weights_only=True)
    assert state["step"] == steps
    assert all(value.isfinite().all() for value in tensors(tmp_path / "two").values())
    first = [list(itertools.islice(running._From(4 + rank, 2), 2)) for rank in range(2)]
    assert first == [[4, 6], [5, 7]]


def test_an_impossible_run_ends_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(more: str) -> str:
        assert main(f"fit --recipe small --clips /nowhere --out {tmp_path} {more}".split()) == 1
        error = capsys.readouterr().err.strip().splitlines()
        return error[-1]

    assert refused("--steps 1").endswith("python -m train: no such folder: /nowhere")
    assert "exactly one of minutes and steps" in refused("--steps 1 --minutes 2")
    assert "the budget must be above 0" in refused("--steps 0")
    assert "need features that see colour" in refused("--steps 1 --contextual 0.2")
    assert "a length of 2 or more" in refused("--steps 1 --adversarial 0.2 --length 1")
    assert "got 3 and (100, 100)" in refused("--steps 1 --length 3 --size 100 100")
    assert refused("--steps 1 --validate /none").endswith("no such folder: /none")


def test_features_that_are_missing_or_not_asked_for(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"features": {}}, tmp_path / "features.pt")
    for more, words in (
        ("--semantic lite0", "semantic 'lite0' needs trained features, init None has none: give --meaning"),
        ("--meaning x.pt", "meaning needs a network with semantic features, this one has none"),
        ("--retrieve-by self", "retrieve_by self needs a network with semantic features"),
        (f"--init {tmp_path / 'features.pt'}", "init must be weights or the checkpoint of a run of fit"),
    ):
        assert main(arguments(folder, tmp_path / "run", 1, more)) == 1
        assert words in capsys.readouterr().err.splitlines()[-1]


def test_a_clip_that_cannot_be_validated_does_not_end_the_run(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "a.mp4").write_bytes(b"no video")
    more = f"--validate {tmp_path / 'clips'} --validate-minutes 0"
    assert main(arguments(folder, tmp_path / "run", 1, more)) == 0
    assert "not validated" in caplog.text


@pytest.mark.parametrize("options", ["--freeze-features", "--freeze-correspondence"])
def test_frozen_features_keep_their_statistics(folder: Path, tmp_path: Path, options: str) -> None:
    assert main(arguments(folder, tmp_path / "first", 2)) == 0
    more = f"--init {tmp_path / 'first' / 'checkpoint.pt'} {options} --correspond-share 0"
    assert main(arguments(folder, tmp_path / "next", 2, more)) == 0
    first, after = (torch.load(tmp_path / n / "checkpoint.pt", weights_only=True)["net"] for n in ("first", "next"))
    assert all(torch.equal(value, after[name]) for name, value in first.items() if name.startswith("features."))
    assert not torch.equal(first["color.conv4_1.weight"], after["color.conv4_1.weight"])


def test_a_network_grows_semantic_features(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A network gets semantic features and trains; its details and its meaning stay unchanged when frozen."""
    assert train_main.main(arguments(folder, tmp_path / "plain", steps=1)) == 0
    before = store.load(str(tmp_path / "plain" / "weights.safetensors")).state_dict()
    torch.save(MeaningNet("lite0").state_dict(), tmp_path / "meaning.pt")
    more = f"--init {tmp_path / 'plain' / 'weights.safetensors'} --meaning {tmp_path / 'meaning.pt'} --semantic lite0 "
    more += "--semantic-color --warp-upsampling reference --freeze-meaning --freeze-correspondence "
    more += "--guess 0.5 --aligned 0 --temporal 0 "
    more += "--foreign 0.5 --covered 0.5 --returns 0.5 --no-flow --retrieve-by self"
    given = arguments(folder, tmp_path / "grown", steps=2, more=more)
    assert train_main.main(given) == 0
    network = store.load(str(tmp_path / "grown" / "weights.safetensors"))
    after = network.state_dict()
    assert network.config.semantic == "lite0"
    for name, tensor in before.items():
        if name.startswith(("features.", "correspondence.")):
            assert torch.equal(tensor, after[name]), name
    semantic = torch.load(tmp_path / "meaning.pt", weights_only=True)
    for name, tensor in semantic.items():
        assert torch.equal(tensor.half(), after[f"meaning.{name}"].half()), name
    assert after["color.see.weight"].any()
    assert not torch.equal(before["color.conv4_1.weight"], after["color.conv4_1.weight"])
    assert after["color.conv1_1.0.weight"].shape[1] == before["color.conv1_1.0.weight"].shape[1] + EVIDENCE + 1
    smaller = more.replace(str(tmp_path / "plain"), str(tmp_path / "grown")).replace("--semantic-color ", "")
    assert train_main.main(arguments(folder, tmp_path / "shrunk", steps=1, more=smaller)) == 1
    assert "holds a network of another configuration" in capsys.readouterr().err
