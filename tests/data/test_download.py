"""Downloads from a server of our own that knows ranges, knows none, breaks off, or sends something else."""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from metafunc.data import download
from metafunc.data.download import Archive, download_omniglot, fetch

CONTENT = np.random.default_rng(0).integers(0, 256, 300_000, np.uint8).tobytes()


@dataclass
class Server:
    """Sends `content`, and keeps what it was asked.

    Attributes:
        ranges: whether it knows ranges.
        breaks: after so many bytes each of the next answers breaks off.
        answers: status codes of the next answers, in place of content.
    """

    url: str
    content: bytes = CONTENT
    ranges: bool = True
    breaks: list[int] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)
    asked: list[str | None] = field(default_factory=list)

    @property
    def archive(self) -> Archive:
        return Archive(self.url + "images.zip", hashlib.md5(CONTENT).hexdigest())

    def answer(self, to: BaseHTTPRequestHandler) -> None:
        wanted = to.headers["Range"]
        self.asked.append(wanted)
        first = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.ranges else 0
        code = self.answers.pop(0) if self.answers else 206 if wanted and self.ranges else 200
        if code == 206 and first >= len(self.content):
            code = 416
            to.send_response(code)
            to.send_header("Content-Range", f"bytes */{len(self.content)}")
        else:
            to.send_response(code)
        body = self.content[first:] if code in (200, 206) else b""
        to.send_header("Content-Length", str(len(body)))
        to.end_headers()
        to.wfile.write(body[: self.breaks.pop(0)] if self.breaks and body else body)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(download, "PAUSE", 0.001)
    monkeypatch.setattr(download, "TIMEOUT", 300.0)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.answer(self)

        def log_message(self, *_: object) -> None: ...

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state = Server(f"http://127.0.0.1:{http.server_port}/")
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield state
    http.shutdown()
    thread.join()
    http.server_close()


def left(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def test_a_file_arrives_whole(server: Server, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    file = fetch(server.archive, tmp_path, lambda done, total: seen.append((done, total)))
    assert file == tmp_path / "images.zip"
    assert file.read_bytes() == CONTENT
    assert left(tmp_path) == ["images.zip"]
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    assert server.asked == [None]


def test_it_is_on_the_disk_before_it_has_its_name(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, list[str]]] = []
    fsync = os.fsync

    def synced(handle: int) -> None:
        seen.append((os.fstat(handle).st_size, left(tmp_path)))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", synced)
    fetch(server.archive, tmp_path)
    assert seen[0] == (len(CONTENT), ["images.zip.part"])


def test_what_is_there_is_not_downloaded_again(server: Server, tmp_path: Path) -> None:
    (tmp_path / "images.zip").write_bytes(CONTENT)
    assert fetch(server.archive, tmp_path).read_bytes() == CONTENT
    assert server.asked == []


def test_a_wrong_file_of_that_name_is_replaced(server: Server, tmp_path: Path) -> None:
    (tmp_path / "images.zip").write_bytes(CONTENT[:-1])
    assert fetch(server.archive, tmp_path).read_bytes() == CONTENT


def test_a_part_is_gone_on_with(server: Server, tmp_path: Path) -> None:
    (tmp_path / "images.zip.part").write_bytes(CONTENT[:1234])
    assert fetch(server.archive, tmp_path).read_bytes() == CONTENT
    assert server.asked == ["bytes=1234-"]
    assert left(tmp_path) == ["images.zip"]


def test_a_server_without_ranges_starts_anew(server: Server, tmp_path: Path) -> None:
    server.ranges = False
    (tmp_path / "images.zip.part").write_bytes(CONTENT[:1234])
    assert fetch(server.archive, tmp_path).read_bytes() == CONTENT
    assert server.asked == ["bytes=1234-"]


def test_a_broken_connection_is_taken_up_where_it_broke(server: Server, tmp_path: Path) -> None:
    server.breaks = [100_000, 50_000]
    assert fetch(server.archive, tmp_path).read_bytes() == CONTENT
    assert server.asked == [None, "bytes=100000-", "bytes=150000-"]


def test_a_connection_that_keeps_breaking_is_given_up_and_its_part_kept(
    server: Server, tmp_path: Path
) -> None:
    server.breaks = [1000] * 5
    text = (
        f"{server.url}images.zip: no whole file in 5 attempts, the last one ended with: the connection broke after "
        "5000 of 300000 bytes. Call again to go on from where it stopped."
    )
    with pytest.raises(ConnectionError, match=f"^{re.escape(text)}$"):
        fetch(server.archive, tmp_path)
    assert left(tmp_path) == ["images.zip.part"]
    assert fetch(server.archive, tmp_path).read_bytes() == CONTENT
    assert server.asked[-1] == "bytes=5000-"


def test_a_server_that_is_busy_is_asked_again(server: Server, tmp_path: Path) -> None:
    server.answers = [503, 500]
    assert fetch(server.archive, tmp_path).read_bytes() == CONTENT
    assert len(server.asked) == 3


def test_a_file_that_is_not_there_is_not_asked_for_again(server: Server, tmp_path: Path) -> None:
    server.answers = [404]
    with pytest.raises(ConnectionError, match=r"images\.zip: the server answered 404 Not Found\.$"):
        fetch(server.archive, tmp_path)
    assert len(server.asked) == 1


def test_a_part_that_is_whole_is_taken(server: Server, tmp_path: Path) -> None:
    (tmp_path / "images.zip.part").write_bytes(CONTENT)
    assert fetch(server.archive, tmp_path).read_bytes() == CONTENT
    assert len(server.asked) == 1


def test_a_part_that_is_too_long_is_thrown_away(server: Server, tmp_path: Path) -> None:
    (tmp_path / "images.zip.part").write_bytes(CONTENT + b"more")
    assert fetch(server.archive, tmp_path).read_bytes() == CONTENT
    assert server.asked == [f"bytes={len(CONTENT) + 4}-", None]


@pytest.mark.parametrize("spoil", [lambda x: x[:-1] + b"?", lambda x: b"<html>not found</html>"])
def test_another_file_is_not_kept(spoil: Callable[[bytes], bytes], server: Server, tmp_path: Path) -> None:
    server.content = spoil(CONTENT)
    text = (
        f"{server.url}images.zip: expected a file with the checksum {server.archive.md5}, "
        f"got {hashlib.md5(server.content).hexdigest()}. Try again later, or get it by other means."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        fetch(server.archive, tmp_path)
    assert left(tmp_path) == []


def test_nobody_answers(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "ATTEMPTS", 2)
    nowhere = Archive("http://127.0.0.1:9/images.zip", "")
    with pytest.raises(
        ConnectionError, match=r"no whole file in 2 attempts, the last one ended with: .*refused"
    ):
        fetch(nowhere, tmp_path)


def test_an_interrupt_keeps_the_part(server: Server, tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(server.archive, tmp_path, interrupt)
    assert left(tmp_path) == ["images.zip.part"]
    part = (tmp_path / "images.zip.part").read_bytes()
    assert part
    assert part == CONTENT[: len(part)]


def test_omniglot_is_two_files(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    md5 = hashlib.md5(CONTENT).hexdigest()
    archives = [
        Archive(f"{server.url}{name}", md5) for name in ("images_background.zip", "images_evaluation.zip")
    ]
    monkeypatch.setattr(download, "OMNIGLOT", archives)
    assert download_omniglot(tmp_path / "new" / "omniglot") == tmp_path / "new" / "omniglot"
    assert left(tmp_path / "new" / "omniglot") == ["images_background.zip", "images_evaluation.zip"]


def test_the_official_files() -> None:
    assert [(archive.name, archive.md5) for archive in download.OMNIGLOT] == [
        ("images_background.zip", "68d2efa1b9178cc56df9314c21c6e718"),
        ("images_evaluation.zip", "6b91aef0f799c5bb55b94e3f2daec811"),
    ]
    assert all(
        archive.url.startswith("https://github.com/brendenlake/omniglot/") for archive in download.OMNIGLOT
    )
