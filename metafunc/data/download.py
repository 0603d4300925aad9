"""Downloads Omniglot from where its authors publish it."""

import hashlib
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import final

from metafunc.data.files import settle
from metafunc.data.progress import Progress, shown
from metafunc.data.tasks import refusal

ATTEMPTS = 5
TIMEOUT = 30.0
"""Seconds without a byte after which a connection counts as broken."""
PAUSE = 1.0
"""Seconds before the second attempt; each later pause is twice as long."""
BLOCK = 1 << 16


@final
@dataclass(frozen=True, slots=True)
class Archive:
    """A file on a server, and the checksum that tells it from another."""

    url: str
    md5: str

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]


_OFFICIAL = "https://github.com/brendenlake/omniglot/raw/master/python"
OMNIGLOT = (
    Archive(f"{_OFFICIAL}/images_background.zip", "68d2efa1b9178cc56df9314c21c6e718"),
    Archive(f"{_OFFICIAL}/images_evaluation.zip", "6b91aef0f799c5bb55b94e3f2daec811"),
)


def download_omniglot(folder: str | Path, *, progress: Progress | None = None) -> Path:
    """Downloads the two zip files of Omniglot; `read` takes the folder as it is, nothing need be unpacked.

    What is there already is not downloaded again, and what was interrupted goes on where it stopped.

    Args:
        folder: where to put them; made if need be.
        progress: called with the number of bytes done and in all, for each file. Default: as for `read`.

    Returns:
        The folder.

    Raises:
        ConnectionError: the server could not be reached, or broke off, in five attempts. Calling again goes on.
        ValueError: a file has arrived whole but is not the right one; it is not kept.
    """
    place = Path(folder).expanduser()
    place.mkdir(parents=True, exist_ok=True)
    for archive in OMNIGLOT:
        fetch(archive, place, progress)
    return place


def fetch(archive: Archive, folder: Path, progress: Progress | None = None) -> Path:
    """Downloads one file; raises as `download_omniglot` does."""
    target = folder / archive.name
    if target.is_file() and _md5(target) == archive.md5:
        return target
    part = folder / f"{archive.name}.part"
    with shown(progress, f"downloading {archive.name}") as show:
        _persist(archive.url, part, show)
    got = _md5(part)
    if got != archive.md5:
        part.unlink()
        raise refusal(
            archive.url,
            f"a file with the checksum {archive.md5}",
            got,
            "try again later, or get it by other means",
        )
    settle(part, target)
    return target


def _persist(url: str, part: Path, show: Progress) -> None:
    """Goes on with a download until it is whole."""
    trouble: Exception | None = None
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(PAUSE * 2 ** (attempt - 1))
        try:
            _go_on(url, part, show)
            return
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 416:
                # Nothing is left to send, because the part is whole, or is longer than the file and of no use.
                if _is_whole(error, part):
                    return
                part.unlink()
            elif error.code < 500:
                raise ConnectionError(f"{url}: the server answered {error.code} {error.reason}.") from error
            trouble = error
        except (OSError, HTTPException) as error:
            trouble = error
    raise ConnectionError(
        f"{url}: no whole file in {ATTEMPTS} attempts, the last one ended with: {trouble}. "
        "Call again to go on from where it stopped."
    ) from trouble


def _go_on(url: str, part: Path, show: Progress) -> None:
    """Asks for what is missing, and appends it.

    Raises:
        OSError: the connection broke.
    """
    done = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={done}-"} if done else {})
    with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
        # A server that knows no ranges answers 200 and sends the whole file.
        appends = response.status == 206
        done = done if appends else 0
        length = response.headers["Content-Length"]
        total = done + int(length) if length else 0
        with part.open("ab" if appends else "wb") as file:
            while block := response.read(BLOCK):
                done += file.write(block)
                show(done, max(total, done))
    if done < total:
        raise ConnectionError(f"the connection broke after {done} of {total} bytes")


def _is_whole(error: urllib.error.HTTPError, part: Path) -> bool:
    """Whether the server says that the file is as long as the part: `Content-Range: bytes */<length>`."""
    return error.headers.get("Content-Range", "").rpartition("/")[2] == str(part.stat().st_size)


def _md5(file: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with file.open("rb") as stream:
        while block := stream.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()
