"""Members of zip files, each held against what its archive can hold before it takes memory."""

from pathlib import Path
from zipfile import ZipFile, ZipInfo

from metafunc.data.tasks import refusal

RATIO, FLOOR = 100, 1 << 20
"""Data may take so many times the room it has in its file, and so many bytes may be had in any case. Drawings, the
smallest of all image data when compressed, take 4 times; what is made to exhaust memory takes a thousand times."""


def is_plausible(size: int, stored: int) -> bool:
    """Whether data of `size` bytes may have been stored in so many."""
    return 0 <= size <= FLOOR + RATIO * stored


def open_zip(file: Path) -> ZipFile:
    """A zip file.

    Raises:
        ValueError: it is none, or not whole.
    """
    try:
        return ZipFile(file)
    # A broken directory raises whatever the reading of its numbers raises.
    except Exception as error:
        raise refusal(
            str(file),
            "a whole zip file",
            str(error) or type(error).__name__,
            "delete it and get it again",
        ) from error


def check_member(member: ZipInfo, where: str) -> None:
    """Raises unless a member can be read without a password."""
    if member.flag_bits & 1:
        raise refusal(where, "a zip file without a password", "one that is encrypted", "decrypt it first")


def read_member(archive: ZipFile, member: ZipInfo, where: str) -> bytes:
    """The contents of a member.

    Raises:
        ValueError: it is encrypted, broken, or says that it is larger than what is stored of it can be.
    """
    check_member(member, where)
    stored = min(member.compress_size, Path(str(archive.filename)).stat().st_size)
    if not is_plausible(member.file_size, stored):
        raise refusal(
            where,
            f"at most {FLOOR + RATIO * stored} bytes, for {stored} are stored",
            member.file_size,
            "get the file again, from a source that you trust",
        )
    try:
        with archive.open(member) as stream:
            # One byte more than there should be, for the checksum is looked at where the member ends.
            data = stream.read(member.file_size + 1)
    # A broken member raises whatever its way of compression raises.
    except Exception as error:
        got = str(error) or type(error).__name__
        raise refusal(where, "a whole member of a zip file", got, "get the file again") from error
    if len(data) != member.file_size:
        raise refusal(where, f"{member.file_size} bytes", f"{len(data)} or more", "get the file again")
    return data
