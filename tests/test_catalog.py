"""Test downloads over loopback: each gives the right file, or one line and no unfinished file under a final name."""

from __future__ import annotations

import errno
import hashlib
import os
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import Request

import pytest

from vsexvc.weights import catalog
from vsexvc.weights.catalog import Known
from vsexvc.weights.transfer import DownloadError, _Redirects

CONTENT = bytes(n * n % 251 for n in range(1_500_000))


class Server(ThreadingHTTPServer):
    """Serve one file at any path; the attributes say what goes wrong."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.content, self.etag = CONTENT, '"one"'
        self.ranges = True  # whether Range is supported
        self.status = 200
        self.cut_after: int | None = None  # bytes of an answer after which the connection is closed
        self.length: int | None = None  # announced instead of the true length; -1: no length
        self.moved = ""  # URL of a redirect
        self.asked: list[dict[str, str]] = []  # headers of each request

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/checkpoint.zip"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore a client that closes the connection."""


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server = self.server
        server.asked.append(dict(self.headers.items()))
        if server.moved and self.path != "/moved":
            self.send_response(302)
            self.send_header("Location", server.moved)
            return self.end_headers()
        if server.status != 200:
            return self.send_error(server.status)
        body, status = server.content, 200
        wanted = self.headers.get("Range", "")
        if wanted and server.ranges and self.headers.get("If-Range") in (None, server.etag):
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(body):
                return self.send_error(416)
            body, status = body[start:], 206
        self.send_response(status)
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{len(server.content) - 1}/{len(server.content)}")
        if server.length != -1:
            self.send_header("Content-Length", str(len(body) if server.length is None else server.length))
        if server.etag:
            self.send_header("ETag", server.etag)
        self.end_headers()
        self.wfile.write(body[: server.cut_after])
        return None

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "*")
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VSEXVC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def fetch(server: Server, sha256: str | None = None) -> tuple[Path, str]:
    with catalog.cache_for("x"):
        return catalog.fetch(Known("x", "", "", "", server.url), sha256)


def fails(server: Server, message: str, sha256: str | None = None) -> None:
    """Check that a download fails with one line and leaves no archive."""
    with pytest.raises((DownloadError, ValueError), match=message) as caught:
        fetch(server, sha256)
    assert "\n" not in str(caught.value)
    assert not (catalog.cache_folder() / "x.zip").exists()


def ends_well(server: Server) -> None:
    path, seen = fetch(server, hashlib.sha256(server.content).hexdigest())
    assert path == catalog.cache_folder() / "x.zip" and path.read_bytes() == server.content
    assert seen == hashlib.sha256(server.content).hexdigest()
    assert sorted(p.name for p in path.parent.iterdir()) == ["x.lock", "x.zip"]


def part(cache: Path) -> bytes:
    return (cache / "x.zip.part").read_bytes()


def test_first_download(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    ends_well(server)
    assert "Range" not in server.asked[0] and len(server.asked) == 1
    out, err = capsys.readouterr()
    assert not out and "downloading x" in err and "x: 2 of 2 MB" in err
    ends_well(server)
    assert len(server.asked) == 1  # the file was not downloaded again


def test_without_stderr_nothing_goes_to_stdout(
    server: Server, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stderr", None)
    ends_well(server)
    assert not capfd.readouterr().out


def test_resume_after_a_cut_connection(server: Server, cache: Path) -> None:
    server.cut_after = 600_000
    fails(
        server,
        "ended after 600000 of 1500000 bytes; the received bytes are kept, the same command resumes",
    )
    fails(server, "ended after 1200000 of 1500000 bytes")
    assert part(cache) == CONTENT[:1_200_000]
    server.cut_after = None
    ends_well(server)
    assert [(h.get("Range"), h.get("If-Range")) for h in server.asked] == [
        (None, None), ("bytes=600000-", '"one"'), ("bytes=1200000-", '"one"')
    ]  # fmt: skip


@pytest.mark.parametrize("etag", ['"one"', "", 'W/"weak"'], ids=["tag", "no tag", "weak tag"])
@pytest.mark.parametrize("ranges", [True, False], ids=["ranges", "no ranges"])
def test_resume_with_any_server(server: Server, etag: str, ranges: bool) -> None:
    server.etag, server.ranges, server.cut_after = etag, ranges, 600_000
    fails(server, "ended after 600000")
    server.cut_after = None
    ends_well(server)


@pytest.mark.parametrize(
    ("etag", "later", "size"),
    [('"one"', '"two"', 1_500_000), ("", "", 1_000_000), ("", "", 500_000), ("", "", 600_000)],
    ids=["another tag", "smaller", "smaller than the part", "as large as the part"],
)
def test_another_file_by_now_starts_over(server: Server, etag: str, later: str, size: int) -> None:
    server.etag, server.cut_after = etag, 600_000
    fails(server, "ended after 600000")
    server.content, server.etag, server.cut_after = CONTENT[::-1][:size], later, None
    ends_well(server)


def test_another_address_starts_over(server: Server, cache: Path) -> None:
    server.cut_after = 600_000
    fails(server, "ended after 600000")
    state = cache / "x.zip.part.json"
    state.write_text(state.read_text().replace("checkpoint", "mirror"))
    server.cut_after = None
    ends_well(server)
    assert "Range" not in server.asked[1]


@pytest.mark.parametrize("state", ["", "[]", "{}", None], ids=repr)
def test_a_part_that_nothing_is_known_of_starts_over(server: Server, cache: Path, state: str | None) -> None:
    cache.mkdir()
    (cache / "x.zip.part").write_bytes(b"else")
    if state is not None:
        (cache / "x.zip.part.json").write_text(state)
    ends_well(server)


def test_a_part_that_is_whole_is_not_asked_for(server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(catalog, "sha256_of", lambda path: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            fetch(server)
    assert part(cache) == CONTENT
    ends_well(server)
    assert len(server.asked) == 1


def test_a_length_that_is_not_announced(server: Server) -> None:
    server.length = -1
    ends_well(server)


def test_truncated(server: Server, cache: Path) -> None:
    server.length = 2_000_000
    fails(server, "ended after 1500000 of 2000000 bytes")
    assert part(cache) == CONTENT
    server.length = None
    ends_well(server)


def test_wrong_hash(server: Server, cache: Path) -> None:
    other, true = hashlib.sha256(b"").hexdigest(), hashlib.sha256(CONTENT).hexdigest()
    fails(server, f"download x: sha256 must be {other}, got {true}; the file is removed", other)
    assert [p.name for p in cache.iterdir()] == ["x.lock"]
    ends_well(server)
    with pytest.raises(ValueError, match="the file is removed"):  # an archive that was complete is removed too
        fetch(server, other)
    assert [p.name for p in cache.iterdir()] == ["x.lock"]


@pytest.mark.parametrize(("status", "reason"), [(404, "Not Found"), (503, "Service Unavailable")])
def test_http_errors(server: Server, cache: Path, status: int, reason: str) -> None:
    server.status = status
    fails(server, f"download x: {server.url} must answer 200, got {status} {reason}")
    assert [p.name for p in cache.iterdir()] == ["x.lock"]


def test_no_network(cache: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    known = Known("x", "", "", "", f"http://127.0.0.1:{port}/x.zip")
    with catalog.cache_for("x"), pytest.raises(DownloadError, match=r"x\.zip cannot be reached: .*refused"):
        catalog.fetch(known)
    assert [p.name for p in cache.iterdir()] == ["x.lock"]


def test_a_silent_server(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vsexvc.weights.transfer._TIMEOUT", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        known = Known("x", "", "", "", f"http://127.0.0.1:{silent.getsockname()[1]}/x.zip")
        with catalog.cache_for("x"), pytest.raises(DownloadError, match=r"cannot be reached: .*timed out"):
            catalog.fetch(known)


def test_a_full_disk_keeps_what_has_come(server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Path.open

    def full(path: Path, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        file = whole(path, mode, *arguments, **options)
        if not path.name.endswith(".part") or mode == "rb":
            return file

        class Full:
            def __enter__(self) -> Full:
                return self

            def __exit__(self, *_: object) -> None:
                file.close()

            def write(self, chunk: bytes) -> int:
                if file.tell() + len(chunk) > 700_000:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                return file.write(chunk)

        return Full()

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full)
        fails(server, r"zip\.part' cannot be written: No space left on device; the received bytes are kept")
    kept = part(cache)
    assert 0 < len(kept) <= 700_000 and CONTENT.startswith(kept)
    ends_well(server)
    assert server.asked[1]["Range"] == f"bytes={len(kept)}-"


def test_a_cache_that_cannot_be_made(server: Server, cache: Path) -> None:
    cache.write_text("in the way")
    message = r"the cache folder '.*cache' cannot be written: .*; \$VSEXVC_CACHE names another"
    with pytest.raises(DownloadError, match=message):
        fetch(server)
    assert cache.read_text() == "in the way" and not server.asked


def test_a_read_only_cache(server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, mode: str = "r", *_: Any, **__: Any) -> Any:  # root ignores permissions
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(DownloadError, match="cannot be written: Read-only file system"):
        fetch(server)
    assert list(cache.iterdir()) == [] and not server.asked


@pytest.mark.parametrize("length", [None, -1], ids=["announced", "not announced"])
def test_more_than_any_model_is_refused(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch, length: int | None
) -> None:
    monkeypatch.setattr("vsexvc.weights.transfer._LARGEST", 1_000_000)
    server.length = length
    fails(server, "at most 1000000 bytes" if length is None else "more than the 1000000 bytes allowed")
    assert not (cache / "x.zip.part").exists()


def test_redirects_stay_on_https(server: Server) -> None:
    server.moved = "/moved"
    ends_well(server)
    assert len(server.asked) == 2
    with pytest.raises(URLError, match="which is not https"):
        _Redirects().redirect_request(Request("https://a/x"), None, 302, "", {}, "http://a/x")


def test_two_downloads_at_once_are_one(server: Server) -> None:
    results: list[Path] = []
    threads = [threading.Thread(target=lambda: results.append(fetch(server)[0])) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4 and results[0].read_bytes() == CONTENT
    assert len(server.asked) == 1


def test_records_survive_and_damage_is_named(cache: Path) -> None:
    cache.mkdir()
    path = catalog.file_of("x")
    assert catalog.read_record(path) is None
    record = catalog.Record("u", "a", "b")
    catalog.write_record(path, record)
    assert catalog.read_record(path) == record
    assert [p.name for p in cache.iterdir()] == ["x.safetensors.json"]
    for content in ("", "[1]", '{"url": "u"}'):
        (cache / "x.safetensors.json").write_text(content)
        with pytest.raises(ValueError, match=r"record '.*x.safetensors.json' must .*remove it"):
            catalog.read_record(path)


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VSEXVC_CACHE", "~/models")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert catalog.cache_folder() == tmp_path / "models"
    for unset in (lambda: monkeypatch.setenv("VSEXVC_CACHE", ""), lambda: monkeypatch.delenv("VSEXVC_CACHE")):
        unset()
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
        assert catalog.cache_folder() == tmp_path / "xdg" / "vsexvc"


def test_a_model_without_an_address_is_not_asked_for() -> None:
    with pytest.raises(ValueError, match="must have an address"):
        catalog.fetch(catalog.KNOWN["exvc-small"])
