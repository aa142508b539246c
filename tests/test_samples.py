"""Test train/data/samples.py and augment.py on made clips and pictures whose motion and colours are known."""

from __future__ import annotations

import pickle
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from skimage.color import rgb2lab

from train.data import augment, flow, samples
from train.data.files import IMAGE_SUFFIXES, VIDEO_SUFFIXES, Picture, UnreadableError, cached, find, read_image, tone

SHIFT = (3, 2)  # pixels per frame that the content of `panning` moves to the left and up


def colourful(rows: int, columns: int, seed: int = 0) -> Picture:
    noise = np.random.default_rng(seed).integers(0, 256, (rows, columns, 3), dtype=np.uint8)
    smooth = cv2.GaussianBlur(noise.astype(np.float32), (0, 0), 3.0)
    return ((smooth - smooth.min()) / (smooth.max() - smooth.min()) * 255).astype(np.uint8)


@pytest.fixture
def panning(tmp_path: Path) -> Path:
    """Write 14 frames, (216, 384), in the format of `cached_clips`."""
    world = colourful(216 + 14 * SHIFT[1], 384 + 14 * SHIFT[0])
    views = [world[SHIFT[1] * n :, SHIFT[0] * n :][:216, :384] for n in range(14)]
    np.save(tmp_path / "pan.npy", np.stack(views))
    return tmp_path / "pan.npy"


def plain(**changes: object) -> samples.DataOptions:
    """Return options for small samples whose reference is the frame before."""
    fields = {
        "size": (64, 112),
        "length": 2,
        "foreign": 0.0,
        "first": 1.0,
        "distorted": 0.0,
        "noisy": 0.0,
        "damage": 0.0,
    }
    return samples.DataOptions(**(fields | changes))  # type: ignore[arg-type]


def write_video(path: Path, frames: list[Picture]) -> None:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 24, frames[0].shape[1::-1])
    for frame in frames:
        writer.write(np.ascontiguousarray(frame[..., ::-1]))
    writer.release()


def test_kept_flow_carries_each_frame_to_the_next_however_it_is_cut_mirrored_and_played(panning: Path) -> None:
    sequences = samples.Sequences([panning], [], plain(), seed=1, count=40)
    seen = set()
    for index in range(40):
        sample = sequences[index]
        for t in (2, 3):
            now, before = (sample["lab"][n, 1:].permute(1, 2, 0).numpy() for n in (t, t - 1))
            motion = sample["flow_backward"][t - 2].permute(1, 2, 0).numpy()
            valid = sample["valid"][t - 2, 0].numpy() > 0
            assert valid.mean() > 0.7
            carried = np.abs(flow.warp(before, motion) - now)[valid].mean()
            assert carried < 0.2 * np.abs(before - now)[valid].mean()
            x, y = motion[valid].mean(0)
            assert abs(x / y) == pytest.approx(SHIFT[0] / SHIFT[1], rel=0.1)
        seen.add((x > 0, y > 0))
    assert len(seen) == 4  # forward or backward, mirrored or not


def test_flow_is_made_once_and_anew_where_the_file_is_damaged(
    panning: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sample() -> dict[str, torch.Tensor]:
        return samples.Sequences([panning], [], plain(strides=(2,)), seed=1, count=40)[0]

    wanted = sample()
    (kept,) = panning.parent.glob("*.flow-2-*.npy")
    assert [p.name for p in panning.parent.iterdir() if p.name.startswith(".")] == []
    whole = kept.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"something else"):
        kept.write_bytes(damaged)
        caplog.clear()
        again = sample()
        assert all(torch.equal(wanted[key], again[key]) for key in wanted)
        assert f"made again: {kept}" in caplog.text
        assert kept.read_bytes() == whole
    monkeypatch.setattr(flow, "both_ways", None)
    sample()


def test_flow_of_a_long_clip_is_the_same_at_the_seam_of_two_files(
    panning: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = [samples.Sequences([panning], [], plain(strides=(3,)), seed=2, count=9)[n] for n in range(9)]
    for file in panning.parent.glob("*.flow-*"):
        file.unlink()
    monkeypatch.setattr(samples, "_BLOCK", 4)
    sequences = samples.Sequences([panning], [], plain(strides=(3,)), seed=2, count=9)
    for n in range(9):
        assert torch.equal(sequences[n]["flow_backward"], wanted[n]["flow_backward"])
    assert len(list(panning.parent.glob("*.flow-3-*.npy"))) > 1


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    def fails() -> np.ndarray:
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        cached(tmp_path / "a.npy", fails)
    assert list(tmp_path.iterdir()) == []


def test_a_window_moves_and_scales_flow_as_it_does_pictures() -> None:
    y, x = np.mgrid[0:20, 0:32].astype(np.float32)
    everywhere = np.stack((x, y), -1)  # a flow of each pixel's own place, which shows where it was sampled
    half = everywhere.reshape(10, 2, 16, 2, 2).mean((1, 3)).astype(np.float16)
    window = augment.Window(top=4, left=6, rows=10, columns=20, size=(5, 10), mirrored=False)
    # A pixel of the result is 2x2 pixels of the window; vectors shrink by two.
    expected = everywhere[4:14, 6:26].reshape(5, 2, 10, 2, 2).mean((1, 3)) / 2
    np.testing.assert_allclose(window.flow(half, (20, 32)), expected, atol=0.05)
    same_size = augment.Window(4, 6, 10, 20, (10, 20), mirrored=False)  # between the samples of `half`
    np.testing.assert_allclose(same_size.flow(half, (20, 32)), everywhere[4:14, 6:26], atol=0.05)
    mirrored = augment.Window(4, 6, 10, 20, (5, 10), mirrored=True)
    np.testing.assert_allclose(mirrored.flow(half, (20, 32)), expected[:, ::-1] * (-1, 1), atol=0.05)
    picture = np.repeat(everywhere.astype(np.uint8)[..., :1], 3, -1) * 4
    np.testing.assert_array_equal(mirrored.picture(picture)[0, :, 0], expected[0, ::-1, 0] * 8)


def test_windows_lie_in_the_picture_and_change_its_shape_little() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        window = augment.Window.random((216, 384), (128, 224), False, rng)
        assert 0 <= window.top <= 216 - window.rows and 0 <= window.left <= 384 - window.columns
        assert window.rows >= 128 and window.columns >= 224
        assert window.columns / window.rows == pytest.approx(224 / 128, rel=0.02)


def test_tone_is_mean_lightness_and_chroma() -> None:
    picture = np.repeat(np.repeat(colourful(9, 16), 12, 0), 12, 1)
    lab = rgb2lab(picture)
    L, chroma = tone(picture[None])
    assert pytest.approx(lab[..., 0].mean(), abs=0.5) == L
    assert chroma == pytest.approx(np.hypot(lab[..., 1], lab[..., 2]).mean(), abs=0.5)


def test_dark_faded_and_unreadable_clips_are_named_left_out_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = [np.roll(colourful(216, 384), n, 1) for n in range(3)]
    grey = [np.repeat(frame[..., :1], 3, -1) for frame in good]
    contents = {"good": good, "dark": [frame // 12 for frame in good], "faded": grey, "pale": grey}
    for name, frames in contents.items():
        write_video(tmp_path / f"{name}.avi", frames)
    (tmp_path / "broken.avi").write_bytes(b"no video")
    paths = find([tmp_path], VIDEO_SUFFIXES)
    for _ in range(2):  # the second time the cache has all clips
        caplog.clear()
        kept = samples.cached_clips(paths, tmp_path / "cache")
        assert [path.name.split("-")[0] for path in kept] == ["good"]
        assert "4 of 5 clips left out: 1 unreadable, 1 dark, 2 faded" in caplog.text
        assert all(caplog.text.count(f"{name}.avi") == 1 for name in ("broken", "dark", "faded", "pale"))
        assert f"{tmp_path / 'pale.avi'} is too faded: mean L" in caplog.text
    assert len(samples.cached_clips(paths, tmp_path / "cache", samples.DataOptions(faintest=0, darkest=0))) == 4


def test_bad_pictures_are_named_once_left_out_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    good = colourful(100, 160)
    cv2.imwrite(str(tmp_path / "good.png"), good)
    cv2.imwrite(str(tmp_path / "faded.png"), np.repeat(good[..., :1], 3, -1))
    cv2.imwrite(str(tmp_path / "dark.png"), good // 12)
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    images = find([tmp_path], IMAGE_SUFFIXES)
    sequences = samples.Sequences([], images, plain(size=(32, 48)), seed=0, count=30)
    for index in range(30):
        assert sequences[index]["lab"][:, 1:].abs().mean() > 4
    for name in ("faded.png is too faded", "dark.png is too dark", "broken.jpg cannot be decoded"):
        assert caplog.text.count(name) == 1
    assert "(3 of 4 pictures so far)" in caplog.text
    hopeless = samples.Sequences([], images[:1], plain(size=(32, 48)), seed=0, count=1)
    with pytest.raises(OSError, match="all of 1 pictures are unreadable, dark or faded"):
        hopeless[0]


def test_one_good_picture_of_many_is_enough(tmp_path: Path) -> None:
    """A sample may not fail by chance: a resumed run would meet it again."""
    cv2.imwrite(str(tmp_path / "good.png"), colourful(100, 160))
    for n in range(200):
        (tmp_path / f"{n}.png").write_bytes(b"no picture")
    sequences = samples.Sequences([], find([tmp_path], IMAGE_SUFFIXES), plain(size=(32, 48)), seed=0, count=9)
    assert all(sequences[n]["lab"].shape == (4, 3, 32, 48) for n in range(9))


def test_files_that_the_system_or_the_decoder_refuses(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A link to nothing, a name of 240 bytes, and a picture too large for the decoder are no end of a run."""
    write_video(tmp_path / "good.avi", [colourful(216, 384)] * 3)
    (tmp_path / "good.avi").rename(tmp_path / f"{'映' * 78}.avi")
    (tmp_path / "gone.avi").symlink_to(tmp_path / "nowhere.avi")
    kept = samples.cached_clips(find([tmp_path], VIDEO_SUFFIXES), tmp_path / "cache")
    assert len(kept) == 1 and np.load(kept[0]).shape == (3, 216, 384, 3)
    Image.new("L", (32, 32)).save(tmp_path / "huge.png")
    content = bytearray((tmp_path / "huge.png").read_bytes())
    content[16:24] = struct.pack(">II", 60000, 60000)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    (tmp_path / "huge.png").write_bytes(content)
    with pytest.raises(UnreadableError, match=r"huge\.png cannot be decoded"):
        read_image(tmp_path / "huge.png")


def test_a_foreign_reference_is_another_picture(panning: Path, tmp_path: Path) -> None:
    """One clip alone has no other; of two clips the other one is taken."""
    alone = samples.Sequences([panning], [], plain(foreign=1.0), seed=0, count=8)
    assert all(alone[n]["true"] == 1 for n in range(8))
    red = np.broadcast_to(np.array((200, 40, 40), np.uint8), (14, 216, 384, 3))
    np.save(tmp_path / "red.npy", red)
    both = samples.Sequences([panning, tmp_path / "red.npy"], [], plain(foreign=1.0), seed=0, count=30)
    for sample in map(both.__getitem__, range(30)):
        is_red = [float(frame[1:].std((1, 2)).max()) < 0.01 for frame in sample["lab"]]
        assert sample["true"] == 0 and is_red[0] != is_red[1]


def test_a_noisy_reference_is_a_frame_of_the_sequence_with_the_noise_that_was_asked_for(panning: Path) -> None:
    sequences = samples.Sequences([panning], [], plain(first=0.0, noisy=1.0, noise=(0.0, 4.0)), seed=0, count=20)
    which = set()
    for index in range(20):
        ab = sequences[index]["lab"][:, 1:]
        spread = [float((ab[0] - frame).std()) for frame in ab[1:]]
        assert min(spread) == pytest.approx(4.0, rel=0.05)
        which.add(int(np.argmin(spread)))
        assert sequences[index]["true"] == 1
    assert which == {1, 2}  # never the frame before


def test_the_first_reference_is_the_frame_before(panning: Path) -> None:
    lab = samples.Sequences([panning], [], plain(), seed=0, count=1)[0]["lab"]
    assert torch.equal(lab[0, 1:], lab[1, 1:])


class Similar:
    """Replace a Retrieval: the most similar picture is always the second, then the first, which is broken."""

    def __init__(self, counts: tuple[int, int]) -> None:
        self.counts = counts

    def five(self, kind: str, index: int) -> list[tuple[str, int]]:
        assert (kind, index) == ("clip", 0)
        return [("image", 1), ("image", 0)]


def test_a_foreign_reference_comes_by_retrieval_as_often_as_wanted(panning: Path, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no picture")
    cv2.imwrite(str(tmp_path / "b.png"), np.full((80, 120, 3), (40, 160, 90), np.uint8))
    for n in range(4):
        cv2.imwrite(str(tmp_path / f"c{n}.png"), colourful(80, 120, n))
    images = find([tmp_path], IMAGE_SUFFIXES)

    def share(retrieved: float) -> float:
        options = plain(size=(32, 56), foreign=1.0, image_share=0.0, retrieved=retrieved)
        similar = Similar((1, len(images)))
        sequences = samples.Sequences([panning], images, options, 0, count=60, retrieval=similar)  # type: ignore[arg-type]
        drawn = [sequences[n] for n in range(60)]
        assert all(sample["true"] == 0 for sample in drawn)
        return float(np.mean([float(sample["lab"][0, 1:].std((1, 2)).max()) < 0.01 for sample in drawn]))

    assert share(1.0) == 1.0
    assert 0.3 < share(0.5) < 0.9
    assert share(0.0) < 0.35  # chance alone
    with pytest.raises(ValueError, match=r"it has \(1, 2\) of them, got \(1, 6\)"):
        samples.Sequences([panning], images, plain(), 0, 1, retrieval=Similar((1, 2)))  # type: ignore[arg-type]


def test_damage_spares_the_reference_and_stays_in_range() -> None:
    L = torch.from_numpy(rgb2lab(colourful(64, 96))[..., 0].astype(np.float32)).expand(5, 1, 64, 96).clone()
    before = L.clone()
    changes = []
    for seed in range(30):
        worn = augment.damage(L, np.random.default_rng(seed))
        assert torch.equal(worn[0], before[0]) and torch.equal(L, before)
        assert worn.shape == L.shape and worn.dtype == torch.float32
        assert worn.min() >= 0 and worn.max() <= 100
        assert torch.equal(worn, augment.damage(L, np.random.default_rng(seed)))
        changes.append(float((worn[1:] - L[1:]).abs().mean()))
    assert min(changes) < 3 < np.median(changes) < 25


def test_scratches_are_lines_that_stay() -> None:
    film = np.full((12, 216, 384), 50, np.float32)
    augment._scratch(film, 1.0, np.random.default_rng(6))
    marks = np.abs(film - 50) > 3
    hit = marks.any(1)  # (frames, columns)
    assert 0 < hit.mean() < 0.1  # the lines are narrow,
    assert marks.any(2)[hit.any(1)].mean() > 0.9  # go from top to bottom,
    assert hit.any(1).sum() > 1  # and last for several frames


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"first": 0.6, "distorted": 0.5}, "first, distorted and noisy must add up to 1 at most"),
        ({"damage": 1.5}, r"damage must be 0\.\.1, got 1\.5"),
        ({"strides": (1, 0)}, "strides must be one or more numbers from 1"),
    ],
)
def test_impossible_options_end_in_one_line(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=f"DataOptions: {message}"):
        samples.DataOptions(**wrong)  # type: ignore[arg-type]


def mixed(panning: Path, first: int = 0) -> samples.Sequences:
    """Make samples of all kinds from a clip and pictures."""
    pictures = [panning.with_name(f"{n}.png") for n in range(3)]
    for n, path in enumerate(pictures):
        cv2.imwrite(str(path), colourful(120, 200, seed=n))
    everything = samples.DataOptions(size=(32, 48), length=2, image_share=0.4, foreign=0.2, noisy=0.2, damage=0.5)
    return samples.Sequences([panning], pictures, everything, seed=3, count=100, first=first)


def test_another_process_maps_the_clips_again(panning: Path) -> None:
    """Workers that are not forked get no copy of the frames."""
    sequences = samples.Sequences([panning], [], plain(), seed=0, count=3)
    sent = pickle.dumps(sequences)
    assert len(sent) < 10_000 < panning.stat().st_size
    there = pickle.loads(sent)
    assert all(torch.equal(sequences[1][name], there[1][name]) for name in ("lab", "true"))


def test_a_sample_depends_on_its_index_only(panning: Path) -> None:
    one, later = mixed(panning), mixed(panning, first=5)
    for index in range(7, 13):
        for key, value in one[index].items():
            assert torch.equal(value, later[index - 5][key])


def test_samples_have_the_promised_shapes_and_ranges(panning: Path) -> None:
    for index in range(12):
        sample = mixed(panning)[index]
        assert sample["lab"].shape == (4, 3, 32, 48)
        assert sample["flow_backward"].shape == (2, 2, 32, 48) and sample["valid"].shape == (2, 1, 32, 48)
        assert sample["lab"][:, 0].min() >= 0 and sample["lab"][:, 0].max() <= 100
        assert set(sample["valid"].unique().tolist()) <= {0.0, 1.0}


def test_a_missing_folder_is_named() -> None:
    with pytest.raises(OSError, match="no such folder: /nowhere"):
        find([Path("/nowhere")], IMAGE_SUFFIXES)


def test_colours_of_a_sequence_change_alike_and_keep_luma() -> None:
    rng = np.random.default_rng(1)
    frames = [np.full((4, 4, 3), (120, 90, 60), np.uint8)] * 3
    changed = False
    for _ in range(20):
        out = augment.color_of_sequence(frames, rng)
        assert all(np.array_equal(out[0], frame) for frame in out)
        luma = out[0][0, 0] @ np.array([0.299, 0.587, 0.114])
        assert abs(luma - np.array([120, 90, 60]) @ np.array([0.299, 0.587, 0.114])) < 1.5
        changed |= not np.array_equal(out[0], frames[0])
    assert changed


def test_a_sequence_that_returns_ends_where_it_began(panning: Path) -> None:
    """The sequence goes forward and back; the frame before and the reference equal its first frame."""
    options = plain(returns=1.0, length=4, strides=(2,))
    lab = samples.Sequences([panning], [], options, seed=3, count=4)[0]["lab"][:, 1:]  # L has different grain
    assert torch.equal(lab[0], lab[1]) and torch.equal(lab[1], lab[5]) and torch.equal(lab[2], lab[4])
    assert not torch.equal(lab[1], lab[2]) and not torch.equal(lab[2], lab[3])
    odd = samples.Sequences([panning], [], plain(returns=1.0, length=3, strides=(2,)), seed=3, count=4)[0]
    assert torch.equal(odd["lab"][1, 1:], odd["lab"][4, 1:]) and torch.equal(odd["lab"][2, 1:], odd["lab"][3, 1:])
    assert not odd["flow_backward"][1].any() and odd["valid"][1].all()  # the last frame is repeated


def test_without_flow_no_motion_is_known(panning: Path) -> None:
    sample = samples.Sequences([panning], [], plain(flow=False), seed=3, count=4)[0]
    assert not sample["valid"].any() and not sample["flow_backward"].any()


def test_a_covered_reference_is_two_pictures(panning: Path, tmp_path: Path) -> None:
    """A third to two thirds of the reference, at one side, come from the other picture."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        out = augment.covered(np.zeros((60, 90, 3), np.uint8), np.full((60, 90, 3), 9, np.uint8), rng)
        assert 0.3 < (out == 9).mean() < 0.7
        assert (out == out[:1]).all() or (out == out[:, :1]).all()
