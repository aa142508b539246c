"""Test `python -m vsexvc` from an archive on loopback to a loaded network: once at the released size, else small."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from test_catalog import CONTENT, Server, cache, server
from test_store import archive, pack, pth

from vsexvc.__main__ import main
from vsexvc.nets.config import NetworkConfig
from vsexvc.nets.network import ColorizationNet
from vsexvc.weights import catalog, store

__all__ = ["archive", "cache", "server"]  # fixtures
ROOT = Path(__file__).resolve().parents[1]
SMALL = NetworkConfig(width=0.0625, temperature=1e-10)


@pytest.fixture
def devc(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Server:
    """Serve the archive of `devc` with a small network in the released layout."""
    monkeypatch.setitem(catalog.KNOWN, "devc", dataclasses.replace(catalog.KNOWN["devc"], url=server.url))
    monkeypatch.setattr("vsexvc.weights.released.RELEASED_CONFIG", SMALL)
    server.content = small_archive(tmp_path / "small.zip", 0)
    return server


def small_archive(path: Path, seed: int) -> bytes:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        state = ColorizationNet(SMALL).state_dict()
    parts = {"features": "vgg19_conv", "correspondence": "nonlocal_net_iter_76000", "color": "colornet_iter_76000"}
    files: dict[str, OrderedDict[str, torch.Tensor]] = {name: OrderedDict() for name in parts.values()}
    for key, value in state.items():
        part, _, name = key.partition(".")
        files[parts[part]][name] = value
    return pack(path, **{name: pth(content, old=True) for name, content in files.items()}).read_bytes()


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(list(arguments))
    out, err = capsys.readouterr()
    return code, out, err


def fails(capsys: pytest.CaptureFixture[str], message: str, *arguments: str) -> None:
    """Check that a command fails with one line, not counting notices of a download."""
    code, out, err = run(capsys, *arguments)
    lines = [line for line in err.splitlines() if not line.startswith(("vsexvc: ", "devc: "))]
    assert (code, out) == (1, "") and len(lines) == 1
    assert re.fullmatch(f"python -m vsexvc: .*{message}.*", lines[0])


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


DONE = ["devc.lock", "devc.safetensors", "devc.safetensors.json"]


def test_the_released_archive_from_its_address_to_a_network(
    server: Server, archive: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(catalog.KNOWN, "devc", dataclasses.replace(catalog.KNOWN["devc"], url=server.url))
    server.content, server.cut_after = archive.read_bytes(), 600_000
    fails(capsys, "ended after 600000 of .* bytes; the received bytes are kept", "download", "devc")
    assert names(cache) == ["devc.lock", "devc.zip.part", "devc.zip.part.json"]
    server.cut_after = None
    code, out, err = run(capsys, "download", "devc")
    assert (code, out) == (0, f"{cache / 'devc.safetensors'}\n")
    seen = hashlib.sha256(server.content).hexdigest()
    assert f"no hash is published; the archive's is from now on {seen}" in err
    assert names(cache) == DONE
    assert server.asked[1]["Range"] == "bytes=600000-"
    expected, network = store.load(str(archive)), store.load("devc")
    assert network.config == expected.config == NetworkConfig(temperature=1e-10)
    assert all(torch.equal(value, expected.state_dict()[key]) for key, value in network.state_dict().items())
    metadata = store.read_metadata(cache / "devc.safetensors")
    assert (metadata["licence"], metadata["source"], metadata["source_sha256"]) == ("MIT", server.url, seen)
    (cache / "devc.safetensors").unlink()  # pytest would keep its 220 MB


def test_what_is_there_is_not_downloaded_again(devc: Server, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "download", "devc")[0] == 0
    assert run(capsys, "download", "devc")[0] == 0
    assert run(capsys, "download", "devc", "--sha256", hashlib.sha256(devc.content).hexdigest())[0] == 0
    assert len(devc.asked) == 1
    fails(capsys, "remove '.*' to download it again", "download", "devc", "--sha256", "0" * 64)
    path = cache / "devc.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(ValueError, match="python -m vsexvc download devc downloads it again"):
        store.load("devc")
    assert run(capsys, "download", "devc")[0] == 0
    assert store.load("devc").config == SMALL
    assert names(cache) == DONE and len(devc.asked) == 2


def test_the_first_hash_holds_ever_after(
    devc: Server, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(capsys, "download", "devc")[0] == 0
    (cache / "devc.safetensors").unlink()
    devc.content = small_archive(tmp_path / "other.zip", 1)
    message = (
        r"sha256 must be \w{64} as at the first download \(--sha256 takes another\), got \w{64}; the file is removed"
    )
    fails(capsys, message, "download", "devc")
    assert names(cache) == ["devc.lock", "devc.safetensors.json"]
    assert run(capsys, "download", "devc", "--sha256", hashlib.sha256(devc.content).hexdigest())[0] == 0
    (cache / "devc.safetensors").unlink()
    assert run(capsys, "download", "devc")[0] == 0  # this hash is now the recorded one


@pytest.mark.parametrize("given", ["0" * 64, "abc"], ids=["another", "no hash"])
def test_a_given_hash(devc: Server, cache: Path, capsys: pytest.CaptureFixture[str], given: str) -> None:
    fails(
        capsys, f"sha256 must be .*{given if len(given) == 64 else '64 digits'}", "download", "devc", "--sha256", given
    )
    assert not cache.exists() or names(cache) == ["devc.lock"]


@pytest.mark.parametrize("content", [CONTENT, b"<html>log in</html>", b""], ids=["noise", "page", "nothing"])
def test_an_answer_that_is_no_archive_is_not_kept(
    devc: Server, cache: Path, capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    whole, devc.content = devc.content, content
    fails(capsys, "devc.zip' is damaged: File is not a zip file; the archive is removed", "download", "devc")
    assert names(cache) == ["devc.lock"]
    devc.content = whole
    assert run(capsys, "download", "devc")[0] == 0  # its hash was not recorded


def test_a_disk_that_fills_up_while_converting_keeps_the_archive(
    devc: Server, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(tensors: object, path: Path, metadata: object) -> None:
        path.write_bytes(b"half")
        raise store.SafetensorError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(store, "save_file", full)
        fails(capsys, "cannot be written: No space left on device", "download", "devc")
    assert names(cache) == ["devc.lock", "devc.zip"]
    assert run(capsys, "download", "devc")[0] == 0
    assert names(cache) == DONE and len(devc.asked) == 1


def test_auto_download(devc: Server, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(OSError, match="python -m vsexvc download devc"):
        store.shared("devc")
    first = store.shared("devc", auto_download=True)
    assert store.shared("devc") is first and store.shared("devc", auto_download=True) is first
    assert store.load("devc", auto_download=True).config == first.config == SMALL
    assert names(cache) == DONE and len(devc.asked) == 1
    assert not capsys.readouterr().out


def test_models(devc: Server, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "models")
    assert (code, err) == (0, "")
    assert re.search(r"^exvc \(default\): \d+\.\d MB, .*\n.*\n    source: shipped\n    licence: research", out, re.M)
    assert re.search(
        r"^devc: size unknown until downloaded: python -m vsexvc download devc\n(.*\n)+    licence: MIT", out, re.M
    )
    assert f"cache folder: {cache} " in out
    store.download("devc")
    store.save(ColorizationNet(SMALL), cache / "mine.safetensors", {"licence": "mine alone"})
    (cache / "broken.safetensors").write_bytes(b"")
    capsys.readouterr()
    code, out, _ = run(capsys, "models")
    assert code == 0
    assert re.search(rf"^devc: \d\.\d MB, {cache}/devc.safetensors\n", out, re.M)
    assert re.search(r"^mine: .*\n    source: not stated\n    licence: mine alone", out, re.M)
    assert re.search(r"^broken: 0\.0 MB, .*broken.safetensors \(model .* is damaged", out, re.M)


@pytest.mark.parametrize("name", ["exvc", "exvc-small"])
def test_figures_are_those_of_the_card(name: str) -> None:
    card = (ROOT / "models" / "README.md").read_text()
    row, *_ = re.findall(rf"^\| `{name}` \| (\W*\d.* \|)$", card, re.M)
    fast, _, _, calm, *_ = (cell.strip(" *") for cell in row.split("|"))
    assert catalog.KNOWN[name].figures.startswith(f"{fast} dB on val_fast, {calm} dB on val_clips")


def test_convert_and_check(devc: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "convert", str(tmp_path / "small.zip"))
    made = tmp_path / "small.safetensors"
    assert (code, out) == (0, f"{made}\n")
    assert (
        run(capsys, "convert", str(tmp_path / "small.zip"), "--half", "-o", str(tmp_path / "half.safetensors"))[0] == 0
    )
    assert made.stat().st_size > 1.8 * (tmp_path / "half.safetensors").stat().st_size
    code, out, _ = run(capsys, "check", str(made))
    assert code == 0 and "weights of vsexvc" in out and "licence: MIT" in out and "loads: " in out
    (tmp_path / "text").write_text("text")
    code, out, _ = run(capsys, "check", str(tmp_path / "text"))
    assert code == 1 and "something else" in out and "would not load: " in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["download", "nope"], "NAME must be one of devc, exvc, exvc-small, got 'nope'"),
        (["convert", "/nowhere"], "No such file or directory: /nowhere"),
        (["check", "devc"], "python -m vsexvc download devc"),
        (["check", "/nowhere/x.pth"], "got '/nowhere/x.pth', which does not exist"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_errors_are_one_line(
    cache: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    fails(capsys, message, *arguments)


def test_the_shipped_model_needs_no_download(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "download", "exvc-small") == (0, f"{store.find('exvc-small')}\n", "")


def test_ctrl_c(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(store, "download", stop)
    assert run(capsys, "download", "devc") == (130, "", "\npython -m vsexvc: stopped\n")


def test_the_module_runs_and_has_help() -> None:
    command = [sys.executable, "-m", "vsexvc", "--help"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    commands = ("render", "scenes", "compare", "models", "download", "convert", "check")
    assert all(name in result.stdout for name in commands)


@pytest.mark.parametrize("command", ["render", "scenes", "compare"])
def test_commands_for_films_have_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert end.value.code == 0 and "IN" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["scenes", "/nowhere.mkv"], "'/nowhere.mkv'"),
        (["compare", "/nowhere.mkv", "--ref", "/nowhere.png"], "'/nowhere.mkv'"),
        (["render", "/nowhere.mkv", "-o", "/out.mkv", "--ref", "/nowhere.png"], "IN must be a film or a script"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_films_that_are_not_there(
    cache: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    fails(capsys, message, *arguments)


def test_an_extra_that_is_not_installed(
    cache: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith(("vsexvc.film.render", "vsexvc.film.join"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "av", None)
    message = r"render needs av, which is not installed: pip install vsexvc\[video\]"
    fails(capsys, message, "render", "/nowhere.mkv", "-o", "/out.mkv", "--ref", "a.png")


def test_an_error_as_json(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "scenes", "/nowhere.mkv", "--json")
    (told,) = map(json.loads, out.splitlines())
    assert code == 1 and told["event"] == "error" and err == f"python -m vsexvc: {told['message']}\n"
