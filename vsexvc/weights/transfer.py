"""Download one file over HTTP, and continue where an earlier call ended."""

from __future__ import annotations

import re
from collections.abc import Iterator
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from vsexvc.support.files import read_json, write_json
from vsexvc.support.progress import Progress, notice

_TIMEOUT = 30.0  # seconds without a byte
_CHUNK = 1 << 18
_LARGEST = 1 << 30  # bytes; the tensors of the authors' archive are 364 MB by their tables
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")


class DownloadError(OSError):
    """Report a failed download, in one line."""


class Transfer:
    """Transfer one file over HTTP into `part`. Existing bytes are kept if the server still has the same file."""

    def __init__(self, name: str, url: str, part: Path) -> None:
        self.name, self.url, self.part = name, url, part

    def run(self) -> None:
        have, validator, size = self._begun()
        if have and have == size:  # cut between the last byte and its hash
            return
        for start in (have, 0) if have else (0,):
            answer = self._ask(start, validator)
            if answer is None:
                continue
            with answer:
                if answer.status == 206 and start:
                    found = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
                    if not found or int(found[1]) != start or (size is not None and int(found[2]) != size):
                        continue  # the answer is of another file, or of another part
                    self._copy(answer, start, int(found[2]))
                elif answer.status == 200:
                    self._copy(answer, 0, self._begin(answer))
                else:
                    raise DownloadError(f"download {self.name}: {self.url} must answer 200, got {answer.status}")
                return
        raise DownloadError(f"download {self.name}: {self.url} answers with neither the file nor the rest of it")

    def _begun(self) -> tuple[int, str, int | None]:
        """Return the number of bytes present, the identity of the server's file, and its size."""
        try:
            state = read_json(state_of(self.part)) or {}
        except ValueError:
            state = {}
        if state.get("url") != self.url or not self.part.exists():
            return 0, "", None
        return self.part.stat().st_size, str(state.get("validator", "")), state.get("size")

    def _begin(self, answer: HTTPResponse) -> int | None:
        """Forget earlier bytes, then record the expected file (two files never mix); return its size."""
        length = answer.headers.get("Content-Length", "")
        size = int(length) if length.isdecimal() else None
        if size is not None and size > _LARGEST:
            raise DownloadError(f"download {self.name}: {self.url} must have at most {_LARGEST} bytes, it has {size}")
        etag = answer.headers.get("ETag", "")
        validator = (
            etag if etag.startswith('"') else answer.headers.get("Last-Modified", "")
        )  # a weak tag does not identify bytes
        self.part.unlink(missing_ok=True)
        write_json(state_of(self.part), {"url": self.url, "validator": validator, "size": size})
        return size

    def _ask(self, start: int, validator: str) -> HTTPResponse | None:
        """Return the server's answer; None if it has nothing from `start` on."""
        headers = {"User-Agent": "vsexvc", "Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
            if validator:
                headers["If-Range"] = validator
        try:
            answer: HTTPResponse = build_opener(_Redirects).open(Request(self.url, headers=headers), timeout=_TIMEOUT)
        except HTTPError as error:
            error.close()
            if error.code == 416 and start:
                return None
            raise DownloadError(
                f"download {self.name}: {self.url} must answer 200, got {error.code} {error.reason}"
            ) from None
        except (OSError, HTTPException) as error:
            reason = error.reason if isinstance(error, URLError) else error
            raise DownloadError(f"download {self.name}: {self.url} cannot be reached: {reason}") from None
        return answer

    def _copy(self, answer: HTTPResponse, start: int, size: int | None) -> None:
        done = start
        notice(f"downloading {self.name}" + (f", from {done / 1e6:.0f} MB on" if done else ""))
        with Progress(" MB", 1e6, pause=5.0) as progress, self.part.open("ab" if start else "wb") as file:
            for chunk in self._chunks(answer):
                done += file.write(chunk)
                if done > (_LARGEST if size is None else size):
                    break
                progress.at(self.name, done, size)
        if (size is not None and done > size) or done > _LARGEST:
            self.part.unlink()
            raise DownloadError(
                f"download {self.name}: {self.url} sends more than the {size or _LARGEST} bytes allowed"
            )
        if size is not None and done < size:
            raise self._cut(f"the connection ended after {done} of {size} bytes")

    def _chunks(self, answer: HTTPResponse) -> Iterator[bytes]:
        try:
            while chunk := answer.read(_CHUNK):
                yield chunk
        except (OSError, HTTPException) as error:
            raise self._cut(f"the connection broke: {error}") from None

    def _cut(self, what: str) -> DownloadError:
        return DownloadError(f"download {self.name}: {what}; the received bytes are kept, the same command resumes")


class _Redirects(HTTPRedirectHandler):
    """Allow redirects from https to https only: no hash guards the first download."""

    def redirect_request(self, req: Request, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Request | None:
        if urlsplit(newurl).scheme not in ("https", urlsplit(req.full_url).scheme):
            raise URLError(f"it points to {newurl}, which is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def state_of(part: Path) -> Path:
    return part.with_name(part.name + ".json")
