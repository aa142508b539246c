"""Test train/measure/protocol.py, baselines.py and tables.py on drawn clips with a stand-in for the session."""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from skimage.color import lab2rgb, rgb2lab
from skimage.metrics import peak_signal_noise_ratio

from train.measure import baselines, metrics, protocol, scores, tables
from train.measure.baselines import Clip
from vsexvc.borders import whole
from vsexvc.nets.config import NetworkConfig
from vsexvc.nets.features import FeatureNet, Features
from vsexvc.nets.network import ColorizationNet

VALIDATION = Path(__file__).resolve().parents[2] / "shared" / "data" / "val_fast"


def drawn(frames: int, seed: int = 0, size: tuple[int, int] = (48, 64), speed: int = 1) -> np.ndarray:
    """Return a coloured texture that moves to the left, (N, H, W, 3) uint8."""
    height, width = size
    noise = np.random.default_rng(seed).random((height, width + frames * speed, 3), np.float32)
    world = cv2.GaussianBlur(noise, (0, 0), 4)
    world = ((world - world.min()) / np.ptp(world) * 255).astype(np.uint8)
    return np.stack([world[:, k * speed : k * speed + width] for k in range(frames)])


def clip_of(rgb: np.ndarray) -> Clip:
    return Clip(Path("drawn.mp4"), rgb)


def write_video(path: Path, rgb: np.ndarray) -> Path:
    height, width = rgb.shape[1:3]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25, (width, height))
    assert writer.isOpened()
    for frame in rgb:
        writer.write(frame[..., ::-1].copy())
    writer.release()
    return path


def write_clips(place: Path, count: int, frames: int) -> Path:
    place.mkdir()
    for seed in range(count):
        write_video(place / f"{seed}.avi", drawn(frames, seed, (120, 160)))
    return place


# --- a session of known colours: the warped colour is the reference's mean, the output its mean with the previous


@dataclass
class ActedCorrespondence:
    L: torch.Tensor
    warped_ab: torch.Tensor
    similarity: torch.Tensor


class ActedSession:
    def __init__(self, network):
        self.network, self.seen = network, network.seen

    def reference(self, lab):
        assert lab.shape[:2] == (1, 3)
        return lab

    def area(self, L):
        return whole(L)

    def correspond(self, L, reference, area=None, handicaps=None):
        assert L.shape[1] == 1
        reference = torch.stack(reference).mean(0) if isinstance(reference, list) else reference
        self.seen.append(len(L))
        mean = reference[:, 1:].mean((2, 3), keepdim=True)
        return [
            ActedCorrespondence(one, mean.expand(1, 2, *L.shape[2:]).clone(), torch.ones_like(one))
            for one in L.split(1)
        ]

    def start(self, reference, area=None):
        return None if reference is None else reference[:, 1:]

    def step(self, state, correspondence):
        previous = torch.zeros_like(correspondence.warped_ab) if state is None else state
        ab = (correspondence.warped_ab + previous) / 2
        return ab, ab


class ActedNetwork(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.config = NetworkConfig(width=0.0625, features_input="L")
        self.features = FeatureNet(self.config)
        self.seen: list[int] = []


@pytest.fixture
def acted(monkeypatch) -> ActedNetwork:
    monkeypatch.setattr(protocol, "Session", ActedSession)
    return ActedNetwork()


@pytest.fixture
def folder(tmp_path) -> Path:
    return write_clips(tmp_path / "clips", count=3, frames=4)


# --- protocol --------------------------------------------------------------------------------------------------------


def test_read_clip_stretches_and_stops_at_40(tmp_path):
    rgb = np.zeros((45, 120, 160, 3), np.uint8)
    rgb[..., 0] = 200  # red, so that swapped channels are noticed
    clip = baselines.read_clip(write_video(tmp_path / "red.avi", rgb))
    assert clip.rgb.shape == (40, 216, 384, 3)
    assert clip.rgb.dtype == np.uint8
    np.testing.assert_allclose(clip.rgb.reshape(-1, 3).mean(0), (200, 0, 0), atol=6)
    assert clip.lab.shape == (40, 3, 216, 384)


def test_clips_that_cannot_be_used_are_named(tmp_path):
    single = write_video(tmp_path / "one.avi", drawn(1, size=(120, 160)))
    with pytest.raises(OSError, match=r"one\.avi must have at least 2 frames"):
        baselines.read_clip(single)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ValueError, match="empty must hold clips"):
        baselines.clip_paths(empty)
    with pytest.raises(OSError, match="nowhere"):
        baselines.clip_paths(tmp_path / "nowhere")


def test_baselines_against_scikit_image():
    clip = clip_of(drawn(4))
    lab = rgb2lab(clip.rgb)
    mean = lab[0, ..., 1:].mean((0, 1))
    for method, ab in ((baselines.grey, (0, 0)), (baselines.mean_colour, mean)):
        expected = []
        for k in (1, 2, 3):
            picture = lab[k].copy()
            picture[..., 1:] = ab
            expected.append(peak_signal_noise_ratio(clip.rgb[k], np.rint(lab2rgb(picture) * 255).astype(np.uint8)))
        assert scores.score(clip, method(clip)).psnr == pytest.approx(expected, abs=0.02)


def test_baselines_of_a_still_clip():
    clip = clip_of(np.repeat(drawn(1), 6, axis=0))
    true, flow = (scores.score(clip, method(clip)) for method in (baselines.truth, baselines.optical_flow))
    assert min(true.psnr) > 60
    assert min(flow.psnr) > 45
    assert max(true.delta_e) < 0.2 and len(true.delta_e_90) == 5
    assert len(true.psnr) == len(true.ssim) == len(true.colourfulness) == 5
    assert len(true.flicker) == 4
    assert true.flicker == pytest.approx([0, 0, 0, 0], abs=1e-3)
    assert true.cdc == 0


def test_optical_flow_beats_the_mean_colour_on_a_moving_clip():
    clip = clip_of(drawn(5, size=(96, 128), speed=3))
    flow, mean = (
        np.mean(scores.score(clip, method(clip)).psnr) for method in (baselines.optical_flow, baselines.mean_colour)
    )
    assert flow > mean + 5


def test_luminance_matching_takes_the_nearest_sample():
    """The result is that of a search over all samples, except near ties: the table has cells of half a unit."""
    clip = clip_of(drawn(2, size=(48, 64)))
    L = clip.lab[:, 0].double().numpy()

    def features(picture: np.ndarray) -> np.ndarray:
        padded = np.pad(picture, 2, mode="reflect")
        windows = np.lib.stride_tricks.sliding_window_view(padded, (5, 5))
        return np.stack([picture, windows.std((2, 3))], -1)

    samples = features(L[0])[4::8, 4::8].reshape(-1, 2)
    distances = np.linalg.norm(features(L[1])[:, :, None] - samples, axis=-1)
    colours = clip.lab[0, 1:, 4::8, 4::8].reshape(2, -1).numpy().T
    found = baselines.luminance_matching(clip)[0].permute(1, 2, 0).numpy()
    assert (np.abs(found - colours[distances.argmin(-1)]).max(-1) < 1e-3).mean() > 0.9
    chosen = np.abs(found[:, :, None] - colours).max(-1).argmin(-1)
    excess = np.take_along_axis(distances, chosen[..., None], -1)[..., 0] - distances.min(-1)
    assert excess.max() < 2 * math.hypot(0.25, 0.25) + 1e-3


def test_means_go_over_frames_then_over_clips():
    long = scores.Score([30.0, 20.0, 10.0], [1, 2, 3], [4, 5, 6], [1, 1, 1], [5, 5, 5], [1.0, 3.0], 0.2)
    short = scores.Score([40.0], [6], [8], [0.5], [7], [], 0.4)
    summary = scores.summarise([long, short])
    assert summary["psnr"] == 30.0  # (20 + 40) / 2, not (30 + 20 + 10 + 40) / 4
    assert summary["last"] == 25.0
    assert summary["delta_e"] == 4.0 and summary["delta_e_90"] == 6.5
    assert summary["ssim"] == 0.75
    assert summary["colourfulness"] == 6.0
    assert summary["flicker"] == 2.0  # a clip without pairs does not count
    assert summary["cdc"] == pytest.approx(0.3)
    assert scores.psnr_by_frame([long, short]) == [35.0, 20.0, 10.0]


# --- the network -----------------------------------------------------------------------------------------------------


def test_propagate_starts_from_the_true_first_frame_and_feeds_back(acted):
    clip = clip_of(drawn(20))
    results = protocol.propagate(acted, clip, zeroed=True)
    assert acted.seen == [8, 8, 3]  # 19 frames: the first one is the reference
    first = clip.lab[0, 1:]
    mean = first.mean((1, 2), keepdim=True)
    for k in range(19):  # each step moves halfway to the mean
        torch.testing.assert_close(results["model"][k], mean + (first - mean) * 0.5 ** (k + 1), atol=1e-3, rtol=0)
        torch.testing.assert_close(results["model, previous zeroed"][k], (mean / 2).expand_as(first), atol=1e-3, rtol=0)
        torch.testing.assert_close(results["warped colour"][k], mean.expand_as(first), atol=1e-3, rtol=0)


class GivenFeatures(torch.nn.Module):
    """Return levels in which only relu3_2 varies: each of sixteen greys gives its own pattern to a cell."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x):
        assert x.shape[1] == 1 and x.abs().max() <= 1
        cells = torch.nn.functional.avg_pool2d(x * 50, 4)
        kind = ((cells + 50) / 6).round().long().clamp(0, 15)
        patterns = torch.nn.functional.one_hot(kind[:, 0], 16).permute(0, 3, 1, 2).float()
        b, _, h, w = x.shape
        nothing = [torch.zeros(b, 3, h // side, w // side) for side in (2, 8, 16)]
        return Features(nothing[0], 2.0 * patterns, *nothing[1:])


def test_nearest_colour_takes_the_colour_of_the_cell_that_looks_alike():
    """Shuffled boards of sixteen greys, each with its colour, are coloured right; 16 does not divide their 40 rows."""
    rng = np.random.default_rng(5)
    greys = torch.arange(16) * 6.0 + 2
    colours = torch.from_numpy(rng.uniform(-60, 60, (16, 2))).float()
    boards = [torch.from_numpy(rng.permutation(np.arange(160) % 16).reshape(10, 16)) for _ in range(11)]
    lab = torch.stack([torch.cat((greys[board][None], colours[board].permute(2, 0, 1))) for board in boards])
    lab = lab.repeat_interleave(4, 2).repeat_interleave(4, 3)
    clip = clip_of(np.zeros((11, 40, 64, 3), np.uint8))
    clip.__dict__["lab"] = lab
    network = ActedNetwork()
    network.features = GivenFeatures()
    found = protocol.nearest_colour(network, clip)
    assert found.shape == (10, 2, 40, 64)
    expected = torch.nn.functional.interpolate(lab[1:, 1:, ::4, ::4], scale_factor=4, mode="bilinear")
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)


def test_raw_features_are_four_unit_levels_at_a_quarter():
    """The features are OpenCV's resized random levels, frame by frame."""
    rng = np.random.default_rng(6)
    h, w = 18, 26  # quarters of 72 x 104, which 16 does not divide
    levels = [rng.normal(0.3, 1, (2, 3 + k, *size)) for k, size in enumerate(((36, 52), (18, 26), (9, 13), (4, 6)))]
    levels = [level.astype(np.float32) for level in levels]

    class Given(GivenFeatures):
        def forward(self, x):
            return Features(*map(torch.from_numpy, levels))

    network = ActedNetwork()
    network.features = Given()
    found = protocol._raw_features(network, torch.zeros(2, 3, 4 * h, 4 * w), is_reference=False).numpy()
    for k in range(2):
        unit = [level[k] / np.linalg.norm(level[k], axis=0) for level in levels]
        half, quarter, eighth, sixteenth = (level.transpose(1, 2, 0) for level in unit)
        half = cv2.resize(half, (w, h), interpolation=cv2.INTER_AREA)
        eighth = np.dstack([cv2.resize(eighth[..., c], (w, h)) for c in range(5)])
        sixteenth = np.dstack([cv2.resize(sixteenth[..., c], (24, 16)) for c in range(6)])
        sixteenth = np.pad(sixteenth, ((0, 2), (0, 2), (0, 0)), mode="edge")
        x = np.dstack((half, quarter, eighth, sixteenth)).reshape(h * w, -1)
        x -= x.mean(0)
        np.testing.assert_allclose(found[k], x / np.linalg.norm(x, axis=1, keepdims=True), atol=1e-4)


def test_the_warped_colour_is_measured_bilinearly_whatever_the_network_does():
    network = ActedNetwork()
    small = torch.rand(1, 2, 4, 6)
    expected = torch.nn.functional.interpolate(small, scale_factor=4, mode="bilinear")
    nearest = small.repeat_interleave(4, 2).repeat_interleave(4, 3)
    torch.testing.assert_close(protocol.warped_colour(network, ActedCorrespondence(None, nearest, None)), expected)
    network.config = NetworkConfig(warp_upsampling="bilinear")
    torch.testing.assert_close(protocol.warped_colour(network, ActedCorrespondence(None, expected, None)), expected)


def test_whether_a_foreign_reference_is_followed(acted, monkeypatch):
    clip, other = clip_of(drawn(4, seed=1)), clip_of(drawn(4, seed=2))
    other.rgb[:] = (230, 90, 40)
    found, output, warped = protocol.colour_foreign(acted, clip, other)
    foreign = other.lab[0, 1:].mean((1, 2))
    torch.testing.assert_close(warped.mean((0, 2, 3)), foreign, atol=1e-3, rtol=1e-3)
    shares = np.array([0.5, 0.75, 0.875, 0.9375])  # there is no previous colour at first
    torch.testing.assert_close(
        output.mean((2, 3)), torch.tensor(shares).float()[:, None] * foreign, atol=1e-3, rtol=1e-3
    )
    assert found.to_warped == pytest.approx(float((1 - shares.mean()) * foreign.norm()), rel=1e-3)
    true = clip.lab[:, 1:].mean((0, 2, 3))
    assert found.to_truth == pytest.approx(float((foreign * shares.mean() - true).norm()), rel=1e-3)
    assert found.to_warped < found.to_truth
    assert found.left_grey == 0.0
    assert protocol.summarise_foreign([found])["nearer"] == 1.0

    def forget(self, state, correspondence):
        return None, torch.zeros_like(correspondence.warped_ab)

    monkeypatch.setattr(ActedSession, "step", forget)
    ignored = protocol.colour_foreign(acted, clip, other)[0]
    assert ignored.left_grey == 1.0
    assert ignored.colourfulness < 1
    assert protocol.summarise_foreign([found, ignored])["nearer"] == 0.5


def test_run_is_the_quick_validation(acted, folder):
    acted.train()
    found = protocol.run(acted, folder, limit=2, frames=3)
    assert set(found) == {"warped", "model", "last", "delta_e", "delta_e_90"}
    assert acted.training
    assert acted.seen == [2, 2]  # two clips, two frames after the first
    clips = [baselines.read_clip(path, 3) for path in baselines.clip_paths(folder, 2)]
    of_clips = [scores.score(clip, protocol.propagate(acted, clip)["model"]) for clip in clips]
    assert found["model"] == pytest.approx(scores.summarise(of_clips)["psnr"])
    for name in ("last", "delta_e", "delta_e_90"):
        assert found[name] == pytest.approx(scores.summarise(of_clips)[name])


def test_run_with_the_real_session(folder):
    torch.manual_seed(0)
    network = ColorizationNet(NetworkConfig(width=0.0625, features_input="L", head="blend", warp_upsampling="bilinear"))
    found = protocol.run(network, folder, limit=1, frames=3)
    assert all(5 < found[name] < 60 for name in ("warped", "model", "last"))
    assert 0 < found["delta_e"] < found["delta_e_90"]


# --- written files --------------------------------------------------------------------------------------------------


def test_brief_leaves_out_two_rows_and_takes_the_baselines_from_elsewhere(acted, folder, tmp_path):
    out, cache = tmp_path / "out", tmp_path / "kept"
    found = protocol.evaluate_folder(acted, folder, frames=3, limit=1, out=out, cache=cache, brief=True)
    rows = ["truth", "grey", "mean colour", "luminance matching", "optical flow", "warped colour", "model"]
    assert list(found.scores) == rows
    assert len(list(cache.glob("*.npz"))) == 1
    assert not (out / "baselines").exists()
    assert cv2.imread(str(out / "overview_clips.png")).shape == (144, 4 * 256, 3)  # one clip: no foreign reference


def test_overview_has_pages_of_twelve_rows(tmp_path):
    rows = {f"clip {k}": [np.full((144, 256, 3), 10 * k, np.uint8)] * 2 for k in range(13)}
    tables.write_overview(tmp_path / "overview.png", rows, ["one", "two"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["overview_1.png", "overview_2.png"]
    first, second = (cv2.imread(str(tmp_path / f"overview_{n}.png")) for n in (1, 2))
    assert first.shape == (12 * 144, 512, 3)
    assert second.shape == (144, 512, 3)
    assert (first[143::144, 511, 0] == np.arange(12) * 10).all()
    assert (second[100:] == 120).all()


def test_thumbnails_keep_the_aspect_and_lose_nothing():
    for shape, inner in (((72, 512), np.s_[54:90, :]), ((300, 100), np.s_[:, 104:152]), ((144, 256), np.s_[:, :])):
        cell = tables.thumbnail(np.full((*shape, 3), 200, np.uint8))
        assert cell.shape == (144, 256, 3)
        assert (cell[inner] == 200).all()
        assert (cell == 200).sum() == cell[inner].size
    small = tables.thumbnail(np.zeros((9, 16, 3), np.uint8))
    assert (small == 0).all()  # enlarged to the cell


def test_json_has_null_for_nan(tmp_path):
    tables.write_json(tmp_path / "new" / "a.json", {"a": [1.5, float("nan")], "b": {"c": float("nan")}})
    assert json.loads((tmp_path / "new" / "a.json").read_text(), parse_constant=pytest.fail) == {
        "a": [1.5, None],
        "b": {"c": None},
    }


def test_table_lines_up():
    lines = tables.table(("method", "dB"), [("grey", "22.30"), ("a longer name", "5.10")]).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[1] == "|---------------|------:|"
    assert lines[2] == "| grey          | 22.30 |"


# --- the real clips --------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(
    not VALIDATION.is_dir(), reason="needs ../shared/data/val_fast, which is not part of the repository"
)
def test_baselines_reproduce_the_figures_seen_beforehand():
    expected = {
        baselines.grey: (22.3, None),
        baselines.mean_colour: (25.1, None),
        baselines.luminance_matching: (25.1, None),
        baselines.optical_flow: (32.0, 27.9),
    }
    found: dict[object, list[list[float]]] = {method: [] for method in expected}
    for path in baselines.clip_paths(VALIDATION):
        clip = baselines.read_clip(path)
        for method, values in found.items():
            pictures = zip(scores.to_rgb(clip, method(clip)), clip.rgb[1:], strict=True)
            values.append([metrics.psnr(result, true) for result, true in pictures])
    for method, (mean, last) in expected.items():
        assert np.mean([np.mean(values) for values in found[method]]) == pytest.approx(mean, abs=0.15)
        if last is not None:
            assert np.mean([values[-1] for values in found[method]]) == pytest.approx(last, abs=0.15)
