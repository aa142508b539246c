"""Test files of weights: round trip, the released layout on synthetic files, one-line errors for every damage."""

from __future__ import annotations

import gc
import hashlib
import io
import json
import os
import re
import stat
import weakref
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from test_network import small
from torch import Tensor

from vsexvc.nets.config import NetworkConfig
from vsexvc.weights import catalog, store
from vsexvc.weights.identify import check


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep the user's own cache out of the tests."""
    monkeypatch.setenv("VSEXVC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def released(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Return tensors of these shapes with one number each, which a file stores once."""
    return {k: torch.rand(()).half().expand(shape) for k, shape in shapes.items()}


def pairs(table: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of weight and bias of each convolution."""
    return {f"{k}.weight": s for k, s in table.items()} | {f"{k}.bias": s[:1] for k, s in table.items()}


def conv3(outputs: int, inputs: int) -> tuple[int, ...]:
    return (outputs, inputs, 3, 3)


# The tables of the release, typed in from its description.
NONLOCAL = (
    pairs(
        {
            "layer2_1.1": conv3(128, 128), "layer2_1.5": conv3(64, 128), "layer3_1.1": conv3(128, 256),
            "layer3_1.5": conv3(64, 128), "layer4_1.1": conv3(256, 512), "layer4_1.5": conv3(64, 256),
            "layer5_1.1": conv3(256, 512), "layer5_1.6": conv3(64, 256),
            "theta": (256, 256, 1, 1), "phi": (256, 256, 1, 1),
            **{f"layer.{n}.conv{m}": conv3(256, 256) for n in range(3) for m in (1, 2)},
        }
    )
    | {f"layer{n}_1.{i}.weight": (1,) for n, last in ((2, 7), (3, 7), (4, 7), (5, 8)) for i in (3, last)}
    | {f"layer.{n}.prelu.weight": (1,) for n in range(3)}
)  # fmt: skip
COLORNET = pairs(
    {
        "conv1_1.0": conv3(32, 7), "conv1_1.2": conv3(64, 32), "conv1_2": conv3(64, 64), "conv2_1": conv3(128, 64),
        "conv2_2": conv3(128, 128), "conv3_1": conv3(256, 128), "conv3_2": conv3(256, 256), "conv3_3": conv3(256, 256),
        "conv4_1": conv3(512, 256), "conv4_2": conv3(512, 512), "conv4_3": conv3(512, 512),
        **{f"conv{b}_{n}": conv3(512, 512) for b in (5, 6, 7) for n in (1, 2, 3)},
        "conv8_1.1": conv3(256, 512), "conv3_3_short": conv3(256, 256), "conv8_2": conv3(256, 256),
        "conv8_3": conv3(256, 256),
        "conv9_1.1": conv3(128, 256), "conv2_2_short": conv3(128, 128), "conv9_2": conv3(128, 128),
        "conv10_1.1": conv3(128, 128), "conv1_2_short": conv3(128, 64), "conv10_2": conv3(128, 128),
        "conv10_ab": (2, 128, 1, 1),
    }
) | {f"{n}norm_ss.weight": (c, 1, 1, 1) for n, c in (("conv1_2", 64), ("conv2_2", 128), ("conv3_3", 256))}  # fmt: skip
_CHANNELS = {1: (3, 64, 2), 2: (64, 128, 2), 3: (128, 256, 4), 4: (256, 512, 4), 5: (512, 512, 4)}
VGG = pairs(
    {
        f"conv{b}_{n}": conv3(outputs, inputs if n == 1 else outputs)
        for b, (inputs, outputs, layers) in _CHANNELS.items()
        for n in range(1, layers + 1)
    }
)


FILES = {"nonlocal_net_iter_76000": NONLOCAL, "colornet_iter_76000": COLORNET, "vgg19_conv": VGG}


def write_released(folder: Path, **changes: dict[str, Tensor]) -> Path:
    for name, table in FILES.items():
        torch.save(changes.get(name, released(table)), folder / f"{name}.pth")
    return folder


def pth(content: object, old: bool = False) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=not old)
    return file.getvalue()


def pack(path: Path, **changes: bytes) -> Path:
    """Write an archive like the authors', with their names and old torch files. changes: members by stem."""
    members = {
        "checkpoints/video_moredata_l1/nonlocal_net_iter_76000.pth": NONLOCAL,
        "checkpoints/video_moredata_l1/colornet_iter_76000.pth": COLORNET,
        "data/vgg19_conv.pth": VGG,
    }
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, table in members.items():
            archive.writestr(name, changes.get(Path(name).stem) or pth(OrderedDict(released(table)), old=True))
        # The next two members are not used. Noise makes the archive so large that a download takes several reads.
        noise = torch.randint(0, 256, (1_000_000,), dtype=torch.uint8).numpy().tobytes()
        archive.writestr("checkpoints/video_moredata_l1/discriminator_iter_76000.pth", noise)
        archive.writestr("data/vgg19_gray.pth", noise[::-1])
    return path


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the authors' archive with exactly the released keys and shapes."""
    return pack(tmp_path_factory.mktemp("released") / "colorization_checkpoint.zip")


class Malice:
    """Make a folder if an unpickler runs code that it reads."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


def test_the_typed_in_tables_have_the_released_counts() -> None:
    assert (len(NONLOCAL), len(COLORNET), len(VGG)) == (43, 65, 32)


def test_the_released_layout_loads_strictly(tmp_path: Path) -> None:
    state = released(NONLOCAL)
    write_released(tmp_path, nonlocal_net_iter_76000={f"module.{k}": v for k, v in state.items()})
    network = store.load(str(tmp_path))
    assert network.config == NetworkConfig(temperature=1e-10)
    assert torch.equal(network.correspondence.layer[1].conv2.weight, state["layer.1.conv2.weight"].float())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("theta.bias"), r"must hold correspondence.theta.bias \(256,\), which is missing"),
        (
            lambda s: s.update({"extra": torch.zeros(1)}),
            "holds correspondence.extra, which its configuration does not know",
        ),
        (lambda s: s.update({"phi.bias": torch.zeros(3)}), r"correspondence.phi.bias as \(256,\), got \(3,\)"),
    ],
    ids=["missing", "unknown", "shape"],
)
def test_a_wrong_released_file_names_the_tensor(tmp_path: Path, change, message: str) -> None:  # type: ignore[no-untyped-def]
    state = released(NONLOCAL)
    change(state)
    with pytest.raises(ValueError, match=message):
        store.load(str(write_released(tmp_path, nonlocal_net_iter_76000=state)))


@pytest.mark.parametrize("old", [False, True], ids=["zip pickle", "old pickle"])
def test_a_released_file_cannot_run_code(tmp_path: Path, old: bool) -> None:
    evil, made = pth({"theta.weight": Malice(tmp_path / "made")}, old), tmp_path / "made"
    folder = tmp_path / "folder"
    folder.mkdir()
    (write_released(folder) / "vgg19_conv.pth").write_bytes(evil)
    packed = pack(tmp_path / "evil.zip", vgg19_conv=evil)
    (tmp_path / "evil.pth").write_bytes(evil)
    for path in (folder, packed):
        with pytest.raises(ValueError, match="damaged or not a plain state dict"):
            store.load(str(path))
        assert not check(str(path))[0]
    assert not check(str(tmp_path / "evil.pth"))[0]
    with pytest.raises(ValueError, match="damaged or not a plain state dict"):
        store.convert(packed)
    assert not made.exists() and not packed.with_suffix(".safetensors").exists()
    torch.load(io.BytesIO(evil), weights_only=False)  # the code would run, so the test can fail
    assert made.exists()


def test_the_archive_and_its_conversion_are_the_folder(archive: Path, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with zipfile.ZipFile(archive) as file:
        file.extractall(tmp_path / "folder")
    expected = store.load(str(tmp_path / "folder")).state_dict()
    made = store.convert(archive, tmp_path / "one.safetensors")
    assert made.stat().st_size == pytest.approx(4 * sum(v.numel() for v in expected.values()), rel=1e-3)
    for path in (archive, made):
        network = store.load(str(path))
        assert network.config == NetworkConfig(temperature=1e-10)
        assert all(torch.equal(value, expected[key]) for key, value in network.state_dict().items())
    metadata = store.read_metadata(made)
    assert metadata["licence"] == "MIT" and metadata["source"] == "colorization_checkpoint.zip"
    assert metadata["source_sha256"] == hashlib.sha256(archive.read_bytes()).hexdigest()
    made.unlink()


class TestUntrustedArchives:
    """Small archives with wrong members are refused before a tensor is read."""

    def refused(self, path: Path, message: str) -> None:
        with pytest.raises(ValueError, match=message) as caught:
            store.load(str(path))
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x", "..\\x", "C:\\x"])
    def test_members_that_point_outside(self, tmp_path: Path, name: str) -> None:
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
            file.writestr(name, b"")
        self.refused(tmp_path / "a.zip", "which points outside of it")

    def test_links(self, tmp_path: Path) -> None:
        link = zipfile.ZipInfo("vgg19_conv.pth")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
            file.writestr(link, "/etc/passwd")
        self.refused(tmp_path / "a.zip", "'vgg19_conv.pth', which is a link")

    def test_members_that_are_too_large(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("vsexvc.weights.released._LARGEST", 10_000_000)
        with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as file:
            file.writestr("vgg19_conv.pth", bytes(10_000_001))
        self.refused(tmp_path / "a.zip", r"vgg19_conv.pth' must have at most 10000000 bytes, it has 10000001")

    def test_members_that_are_larger_than_they_say(self, tmp_path: Path) -> None:
        with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as file:
            file.writestr("vgg19_conv.pth", bytes(10_000_000))
        content = (tmp_path / "a.zip").read_bytes()
        size = (10_000_000).to_bytes(4, "little")
        assert content.count(size) == 2
        (tmp_path / "a.zip").write_bytes(content.replace(size, (100).to_bytes(4, "little")))
        self.refused(tmp_path / "a.zip", "is damaged: Bad CRC-32")

    def test_torch_files_that_unpack_to_more(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("vsexvc.weights.released._LARGEST", 10_000_000)
        inner = io.BytesIO()
        with zipfile.ZipFile(inner, "w", zipfile.ZIP_DEFLATED) as file:
            file.writestr("archive/data/0", bytes(10_000_001))
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
            file.writestr("vgg19_conv.pth", inner.getvalue())
        self.refused(tmp_path / "a.zip", "must have at most 10000000 bytes, it has 10000001")

    def test_damage(self, archive: Path, tmp_path: Path) -> None:
        whole = bytearray(archive.read_bytes())
        (tmp_path / "half.zip").write_bytes(whole[: len(whole) // 2])
        self.refused(tmp_path / "half.zip", "is damaged: File is not a zip file")
        with zipfile.ZipFile(archive) as file:
            member = file.getinfo("data/vgg19_conv.pth")
        start = member.header_offset + 30 + len(member.filename) + member.compress_size // 2
        whole[start : start + 8] = bytes(8)
        (tmp_path / "flipped.zip").write_bytes(whole)
        self.refused(tmp_path / "flipped.zip", "is damaged: ")

    def test_archives_of_something_else(self, tmp_path: Path) -> None:
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
            file.writestr("readme.txt", b"hello")
        self.refused(tmp_path / "a.zip", r"must hold vgg19_conv\*.pth, which is missing")


def test_convert_names_what_it_takes(archive: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"OUT must end in \.safetensors, got 'x\.pth'"):
        store.convert(archive, Path("x.pth"))
    (tmp_path / "x.txt").write_text("hello")
    with pytest.raises(ValueError, match="PATH must be the authors' zip or its unpacked folder"):
        store.convert(tmp_path / "x.txt")


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "taken.safetensors"
    folder.mkdir()
    with pytest.raises(OSError, match="directory"):
        store.save(small(features_input="L"), folder, {})
    with pytest.raises(OSError, match=r"weights file '/nowhere/a\.safetensors' cannot be written"):
        store.save(small(features_input="L"), Path("/nowhere/a.safetensors"), {})
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize("kind", [torch.int32, torch.float8_e4m3fn])
def test_numbers_of_another_kind_are_named(tmp_path: Path, kind: torch.dtype) -> None:
    network = small(features_input="L")
    tensors = dict(network.state_dict())
    tensors["color.conv10_2.bias"] = tensors["color.conv10_2.bias"].to(kind)
    path = tmp_path / "kind.safetensors"
    save_file(tensors, path, {"vsexvc": "1", "config": network.config.to_json()})
    seen = str(kind).removeprefix("torch.")
    with pytest.raises(ValueError, match=f"must hold color.conv10_2.bias as one of float16, .*, got {seen} strided"):
        store.load(str(path))


def test_a_model_that_is_not_downloaded_says_how() -> None:
    with pytest.raises(OSError, match=r"python -m vsexvc download devc \(or auto_download=True\)"):
        store.find("devc")


def test_shipped_weights_come_before_those_of_the_cache(cache: Path) -> None:
    cache.mkdir()
    for name in (store.DEFAULT, "mine"):
        store.save(small(features_input="L"), cache / f"{name}.safetensors", {})
    assert store.find("mine") == cache / "mine.safetensors"
    assert store.find(None).parent in store.folders()


def test_a_downloaded_file_is_checked_whenever_it_is_loaded(cache: Path) -> None:
    cache.mkdir()
    path = cache / "mine.safetensors"
    store.save(small(features_input="L"), path, {})
    catalog.write_record(path, catalog.Record("", "", hashlib.sha256(path.read_bytes()).hexdigest()))
    store.load("mine")
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x01")
    with pytest.raises(ValueError, match=r"damaged: sha256 must be \w{64} as when it was downloaded, got \w{64}"):
        store.load("mine")


class TestCheck:
    def test_ours(self, model: str) -> None:
        loads, lines = check(model)
        assert loads and lines[0] == f"{model}: weights of vsexvc" and json.loads(lines[1].split(":", 1)[1])["width"]

    def test_the_authors(self, archive: Path) -> None:
        loads, lines = check(str(archive))
        assert loads and "a zip archive of 5 files" in lines[0] and '"temperature": 1e-10' in lines[1]
        # 6,917,131 + 32,802,370 + 20,024,384, less conv5_3 and conv5_4 of 512 (9 x 512 + 1) each
        assert lines[-1] == f"loads: {59_743_885 - 2 * 512 * (9 * 512 + 1)} parameters"

    @pytest.mark.parametrize("old", [False, True], ids=["zip pickle", "old pickle"])
    @pytest.mark.parametrize(
        ("state", "kind"),
        [
            (released(COLORNET), r"\(colornet\)"),
            (released(NONLOCAL), r"\(nonlocal_net\)"),
            (released(VGG), "vgg19_conv or vgg19_gray"),
            ({"features.0.weight": torch.zeros(64, 3, 3, 3)}, "torchvision's VGG19"),
            ({"x": torch.zeros(1)}, "a torch file of 1 tensors"),
        ],
    )
    def test_single_torch_files(self, tmp_path: Path, state: dict[str, Tensor], kind: str, old: bool) -> None:
        (tmp_path / "a.pth").write_bytes(pth(state, old))
        loads, lines = check(str(tmp_path / "a.pth"))
        assert not loads and lines[1].startswith("would not load: model")
        assert re.search(kind, lines[0])

    def test_anything_else(self, tmp_path: Path) -> None:
        (tmp_path / "a").write_text("<html>not found</html>")
        assert check(str(tmp_path / "a"))[1][0].endswith("a: something else")
        (tmp_path / "a").write_bytes(b"")
        assert check(str(tmp_path / "a"))[1][0].endswith("a: an empty file")
        save_file({"x": torch.zeros(1)}, tmp_path / "a")
        assert check(str(tmp_path / "a"))[1][0].endswith("a: safetensors of something else")
        assert not check(str(tmp_path))[0]
        with pytest.raises(OSError, match="does not exist"):
            check(str(tmp_path / "b.pth"))


def test_a_released_folder_without_a_file_says_which(tmp_path: Path) -> None:
    (write_released(tmp_path) / "vgg19_conv.pth").unlink()
    with pytest.raises(OSError, match=r"vgg19_conv\*\.pth, which is missing"):
        store.load(str(tmp_path))


def test_save_and_load_give_the_same_network_in_half_precision(tmp_path: Path) -> None:
    network = small(features_input="L", head="blend", motion=2)
    path = tmp_path / "one.safetensors"
    store.save(network, path, {"licence": "research"})
    again = store.load(str(path))
    assert again.config == network.config
    for key, value in network.state_dict().items():
        assert torch.equal(again.state_dict()[key], value.half().float())
    assert store.read_metadata(path)["licence"] == "research"
    assert list(tmp_path.iterdir()) == [path]


def test_damage_is_named(tmp_path: Path) -> None:
    path = tmp_path / "one.safetensors"
    store.save(small(features_input="L"), path, {})
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"\x00" * 200):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="damaged"):
            store.load(str(path))


@pytest.mark.parametrize(
    ("config", "message"),
    [("junk", "must state a valid configuration: Expecting value"), ('{"depth": 3}', "valid configuration: .*unknown")],
)
def test_a_wrong_configuration_names_the_file(tmp_path: Path, config: str, message: str) -> None:
    path = tmp_path / "one.safetensors"
    save_file({"x": torch.zeros(1)}, path, {"vsexvc": "1", "config": config})
    with pytest.raises(ValueError, match=f"model .*one.safetensors.* {message}"):
        store.load(str(path))


def test_weights_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    network = small(features_input="L")
    with torch.no_grad():
        network.color.conv10_2.bias[0] = torch.nan
    store.save(network, tmp_path / "nan.safetensors", {})
    with pytest.raises(ValueError, match=r"damaged: color.conv10_2.bias holds values that are not finite"):
        store.load(str(tmp_path / "nan.safetensors"))


def test_foreign_safetensors_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="must have format 1, got none"):
        store.load(str(path))


def test_unknown_names_and_missing_paths_differ() -> None:
    with pytest.raises(ValueError, match=r"model must be one of .*, got 'nonsense'"):
        store.load("nonsense")
    with pytest.raises(ValueError, match="got ''"):
        store.load("")
    with pytest.raises(OSError, match="must be an existing weights file"):
        store.load("/nowhere/x.safetensors")


SHIPPED = sorted(path.stem for folder in store.folders() for path in folder.glob("*.safetensors"))


def test_the_default_is_shipped() -> None:
    assert store.DEFAULT in SHIPPED
    assert store.load().config.features_input == "L"


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_files_are_small_and_say_where_they_come_from(name: str) -> None:
    path = store.installed()[name]
    assert path.stat().st_size <= 30 * 2**20
    metadata = store.read_metadata(path)
    for key in ("licence", "data", "clip_sources", "image_sources", "commit", "options", "trained_size", "minutes"):
        assert metadata.get(key), key
    assert (store.folders()[1] / "README.md").exists()


class TestShared:
    def test_one_network_for_one_file_and_device(self, tmp_path: Path) -> None:
        path = tmp_path / "a.safetensors"
        store.save(small(features_input="L"), path, {})
        first = store.shared(str(path))
        assert store.shared(str(path)) is first
        os.utime(path, ns=(1, 1))  # another file of the same name
        assert store.shared(str(path)) is not first

    def test_it_goes_with_its_last_user(self, tmp_path: Path) -> None:
        path = tmp_path / "a.safetensors"
        store.save(small(features_input="L"), path, {})
        there = weakref.ref(store.shared(str(path)))
        gc.collect()
        assert there() is None
