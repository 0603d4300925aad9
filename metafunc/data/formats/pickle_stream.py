"""The file under a pickle: every length in it is held against what is left before anything is read."""

import codecs
import struct
from typing import Any, BinaryIO, final

BLOCK = 1 << 12
"""So many bytes are read without a look at how many are left."""
DIGITS = 700
"""So many characters at most has a number in text: the time to read one grows with the square of its length."""


class BrokenPickleError(Exception):
    """A pickle does not hold what it says it holds."""


@final
class PickleStream:
    """Reads the arguments of a pickle's operations.

    Args:
        file: at its beginning.
        size: its length in bytes.

    Raises:
        BrokenPickleError: by every method, where the file does not have what it should; `ValueError` where numbers and
            text are spoilt.
    """

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._size = size

    def take(self, count: int) -> bytes:
        # Nothing is lost by reading a little beyond the end, and asking where one is takes as long as reading.
        if not 0 <= count <= BLOCK and not 0 <= count <= self._size - self._file.tell():
            raise _too_short(count)
        data = self._file.read(count)
        if len(data) < count:
            raise _too_short(count)
        return data

    def number(self, layout: str) -> Any:
        """One number, as `struct` lays it out."""
        return struct.unpack(layout, self.take(struct.calcsize(layout)))[0]

    def counted(self, layout: str) -> bytes:
        """Bytes whose number stands before them."""
        return self.take(self.number(layout))

    def line(self) -> bytes:
        line = self._file.readline()
        if not line.endswith(b"\n"):
            raise BrokenPickleError("an end in the middle of a line")
        return line[:-1]

    def digits(self) -> bytes:
        """A number in text."""
        line = self.line()
        if len(line) > DIGITS:
            raise BrokenPickleError(f"a number of more than {DIGITS} digits")
        return line

    def integer(self) -> int | bool:
        """A whole number in text; a truth value is one with two digits."""
        line = self.digits()
        return line == b"01" if line in (b"00", b"01") else int(line)

    def quoted(self) -> str:
        """A string as Python 2 wrote it in text; latin1 keeps every byte."""
        line = self.line().strip()
        if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in (b"'", b'"'):
            raise BrokenPickleError("a string without quotes")
        return codecs.escape_decode(line[1:-1])[0].decode("latin1")

    def escaped(self) -> str:
        """A string as Python 3 writes it in text. It has to be one that can be written again."""
        string = self.line().decode("raw-unicode-escape")
        string.encode()
        return string

    def frame(self) -> None:
        """Passes over the head of a frame, which is of use to those who read ahead."""
        length = self.number("<Q")
        if length > self._size:
            raise _too_short(length)


def _too_short(count: int) -> BrokenPickleError:
    return BrokenPickleError(f"an end where {count} more bytes should be")
