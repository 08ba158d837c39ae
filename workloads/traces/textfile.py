"""Lines of a text file, plain or gzip, with errors that name the file and the line; and atomic writing."""

from __future__ import annotations

import gzip
import io
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Literal, TypeVar

from harness.errors import InputError

T = TypeVar("T")


class TextFile:
    """A file read once, line by line. `line` is the number of the line last read, from 1."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.line = 0
        if self.path.is_dir():
            raise InputError(f"trace {self.path} is a folder; name a file")
        try:
            self._stream = _open(self.path, "r")
        except OSError as error:
            raise InputError(f"cannot read trace {self.path}: {error.strerror or error}") from error

    def lines(self) -> Iterator[str]:
        """Lines that are not blank, without their end; InputError where the file is damaged."""
        with self._stream:
            while True:
                try:
                    text = self._stream.readline()
                except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                    raise self.error(
                        f"the gzip file is damaged or cut short ({error})", self.line + 1
                    ) from error
                except UnicodeDecodeError as error:
                    raise self.error("this is not UTF-8 text", self.line + 1) from error
                if not text:
                    return
                self.line += 1
                if text.strip():
                    yield text.rstrip("\r\n")

    def error(self, message: str, line: int | None = None) -> InputError:
        """An InputError at a line, the last one read by default."""
        return InputError(f"{self.path}, line {line or self.line}: {message}")

    def parse(self, convert: Callable[[str], T], text: str, column: str, rule: str) -> T:
        """`convert(text)`; on ValueError an InputError with column, value and rule."""
        try:
            return convert(text)
        except (ValueError, TypeError, OverflowError) as error:
            raise self.error(f"{column} is {text!r}; it must be {rule}") from error


@contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[IO[str]]:
    """A text stream to `path` (gzip by suffix `.gz`); the file appears only when the block ends without
    error."""
    target = Path(path)
    part = target.with_name(f".{target.name}.part{'.gz' if target.suffix == '.gz' else ''}")
    try:
        stream = _open(part, "w")
    except OSError as error:
        raise InputError(f"cannot write trace {target}: {error.strerror or error}") from error
    try:
        with stream:
            yield stream
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def _open(path: Path, mode: Literal["r", "w"]) -> IO[str]:
    encoding = "utf-8-sig" if mode == "r" else "utf-8"  # spreadsheets put a byte order mark first
    if path.suffix != ".gz":
        return open(path, mode, encoding=encoding, newline="")
    # neither name nor time in the header, so that the same requests give the same bytes
    raw = io.FileIO(path, mode)
    packed = gzip.GzipFile("", mode + "b", fileobj=raw, mtime=0)
    packed.myfileobj = raw  # closes it with the gzip file
    return io.TextIOWrapper(packed, encoding=encoding, newline="")
