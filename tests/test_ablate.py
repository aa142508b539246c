"""Test train/fit/ablate.py with a fit that trains nothing and writes the files that loop.fit would write."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from tests.test_protocol import drawn, write_clips, write_video
from train.data import samples
from train.fit import ablate
from train.fit.options import FitOptions
from train.measure import protocol, scores
from vsexvc.nets.config import NetworkConfig
from vsexvc.nets.network import ColorizationNet
from vsexvc.weights import store

CONFIG = NetworkConfig(width=0.0625, features_input="L", head="blend", warp_upsampling="bilinear")


@pytest.fixture
def folder(tmp_path) -> Path:
    return write_clips(tmp_path / "clips", count=2, frames=3)


@pytest.fixture
def options(tmp_path) -> FitOptions:
    weighted = {"perceptual": 0.1, "contextual": 0.2, "smoothness": 0.3, "adversarial": 0.4}
    return FitOptions(out=tmp_path / "out", clips=(tmp_path,), steps=10, **weighted)


class Fit:
    """Replace loop.fit. `stops_in`: name of the run that Ctrl-C stops halfway."""

    def __init__(self):
        self.asked: list[FitOptions] = []
        self.stops_in = ""

    def __call__(self, options, config, sample):
        self.asked.append(options)
        assert (options.out / "cache").is_dir()
        torch.manual_seed(len(self.asked))
        half = options.out.name == self.stops_in
        facts = {"step": str(5 if half else options.steps or 123), "minutes": "1.5" if half else "3.0"}
        path = options.out / "weights.safetensors"
        store.save(ColorizationNet(config), path, facts)
        return path


@pytest.fixture
def fit(monkeypatch) -> Fit:
    acted = Fit()
    monkeypatch.setattr(ablate.loop, "fit", acted)
    return acted


@pytest.fixture
def quick(monkeypatch) -> list[Path]:
    """Replace evaluate_folder by a quick function; return the list of the folders that it is called for."""
    asked = []

    def acted(network, folder, **given):
        asked.append(folder)
        level = 30.0 + float(next(network.parameters()).detach().flatten()[0])
        figures = {
            name: [scores.Score([level], [5.0], [9.0], [0.9], [20.0], [0.5], 0.1)] for name in ("truth", "model")
        }
        return protocol.Evaluation(folder.name, ["0.avi"], figures)

    monkeypatch.setattr(protocol, "evaluate_folder", acted)
    return asked


def again(options, folder, **changes):
    changed = dataclasses.replace(options, **changes)
    ablate.run(changed, CONFIG, samples.DataOptions(), [folder], options.out, frames=3)


def test_each_run_lacks_one_term_and_nothing_else(options, folder, fit, quick, capsys):
    again(options, folder, init="start.pt")
    names = ["full", "without_smoothness", "without_perceptual", "without_contextual", "without_adversarial"]
    assert [o.out for o in fit.asked] == [options.out / name for name in names]
    for o, term in zip(fit.asked, (None, "smoothness", "perceptual", "contextual", "adversarial"), strict=True):
        expected = dataclasses.replace(options, out=o.out, init="start.pt", **({} if term is None else {term: 0.0}))
        assert o == expected
    assert len({(o.out / "cache").resolve() for o in fit.asked}) == 1

    document = json.loads((options.out / "ablation.json").read_text(), parse_constant=pytest.fail)
    runs = ["full", "w/o smoothness", "w/o perceptual", "w/o contextual", "w/o adversarial"]
    assert [row["run"] for row in document["rows"]] == runs
    printed = capsys.readouterr().out
    for name in ("truth", *runs):
        assert f"| clips, {name} " in printed
    assert (options.out / "ablation.md").read_text() == printed


def test_figures_are_those_of_evaluate(options, folder, fit):
    again(options, folder, perceptual=0.0, contextual=0.0, adversarial=0.0)
    assert (options.out / "without_smoothness" / "evaluation" / "overview_clips.png").is_file()
    assert len(list((options.out / "baselines").glob("*.npz"))) == 2
    row = json.loads((options.out / "ablation.json").read_text())["rows"][0]
    network = store.load(str(options.out / "full" / "weights.safetensors"))
    found = protocol.evaluate_folder(network, folder, frames=3).as_json()
    model, foreign = found["rows"]["model"], found["foreign"]
    assert row["dB"] == pytest.approx(model["psnr"])
    assert row["last"] == pytest.approx(model["last"])
    assert (row["CIEDE2000"], row["90 %"]) == pytest.approx((model["delta_e"], model["delta_e_90"]))
    assert row["colourfulness"] == pytest.approx(model["colourfulness"])
    assert row["flicker"] == pytest.approx(model["flicker"])
    assert row["foreign colourfulness"] == pytest.approx(foreign["colourfulness / reference"])
    assert row["true flicker"] == pytest.approx(found["rows"]["truth"]["flicker"])


def test_goes_on_where_it_was(options, folder, fit, quick, capsys):
    fit.stops_in = "without_perceptual"
    again(options, folder)
    printed = capsys.readouterr().out
    assert "ablate: stopped in w/o perceptual; the same command goes on" in printed
    assert "w/o smoothness" in printed and "w/o contextual" not in printed
    assert len(fit.asked) == 3
    fit.stops_in = ""
    again(options, folder, workers=7, device="cpu", threads=1)  # on another machine the runs are the same
    assert [o.out.name for o in fit.asked[3:]] == ["without_perceptual", "without_contextual", "without_adversarial"]
    printed = capsys.readouterr().out
    assert len(quick) == 5
    again(options, folder)
    assert len(fit.asked) == 6 and len(quick) == 5
    assert capsys.readouterr().out == printed


def test_measures_anew_where_clips_changed_and_trains_nothing(options, folder, fit, quick):
    again(options, folder)
    write_video(folder / "2.avi", drawn(3, 7, (120, 160)))
    again(options, folder)
    assert len(quick) == 10 and len(fit.asked) == 5


def test_minutes_are_a_budget_too(options, folder, fit, quick):
    again(options, folder, steps=None, minutes=3.0)
    assert len(fit.asked) == 5
    again(options, folder, steps=None, minutes=3.0)
    assert len(fit.asked) == 5
    path = options.out / "full" / "weights.safetensors"
    store.save(ColorizationNet(CONFIG), path, {"step": "99", "minutes": "2.9"})
    again(options, folder, steps=None, minutes=3.0)
    assert [o.out.name for o in fit.asked[5:]] == ["full"]


def test_other_options_need_another_folder(options, folder, fit, quick):
    again(options, folder)
    with pytest.raises(ValueError, match=r"ablate: .*full holds a run with other l1, seed: give another --out"):
        again(options, folder, seed=2, l1=1.0)


def test_terms_without_weight_are_not_left_out_again(options, folder, fit, quick):
    again(options, folder, contextual=0.0, adversarial=0.0)
    assert [o.out.name for o in fit.asked] == ["full", "without_smoothness", "without_perceptual"]
    nothing = dict.fromkeys(ablate.TERMS, 0.0)
    with pytest.raises(ValueError, match=r"at least one of smoothness, perceptual, .* must have a weight above 0"):
        again(options, folder, **nothing)


def test_folders_are_looked_at_before_the_training(options, tmp_path, fit):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty must hold clips"):
        again(options, tmp_path / "empty")
    assert fit.asked == []


def test_several_processes_are_refused(options, folder, fit, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="must run in one process"):
        again(options, folder)
    assert fit.asked == []
