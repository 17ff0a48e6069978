"""Event log files by name: plain, `.gz` or `.zst`; only this part of the event log opens any."""

from __future__ import annotations

import gzip
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, BinaryIO, Final, cast

from proctree_ds.errors import ConfigurationError, SourceError

__all__ = ["open_for_reading", "open_for_writing"]

_COMPRESSED_CHUNK: Final = 1024
"""Bytes handed to zstd at a time: small, because a hostile file grows 30,000-fold."""


def open_for_reading(path: str) -> BinaryIO:
    """The plain bytes of the file at `path`. Raises `SourceError` where it cannot be opened.

    Reading from it raises `EOFError` where a compressed file has lost its end, and other errors
    of its own where the content is not what the name says.
    """
    with _explained(path, "read"):
        if path.endswith(".gz"):
            return cast(BinaryIO, gzip.open(path, "rb"))
        if path.endswith(".zst"):
            zstandard = _zstandard(path)
            return cast(BinaryIO, io.BufferedReader(_ZstdReader(open(path, "rb"), zstandard)))
        return open(path, "rb")


def open_for_writing(path: str) -> BinaryIO:
    """A new file at `path`, compressed as its name says. Raises `SourceError` where that fails."""
    with _explained(path, "write"):
        if path.endswith(".gz"):
            return cast(BinaryIO, gzip.open(path, "wb"))
        if path.endswith(".zst"):
            compressor = _zstandard(path).ZstdCompressor()
            return cast(BinaryIO, compressor.stream_writer(open(path, "wb")))
        return open(path, "wb")


@contextmanager
def _explained(path: str, verb: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SourceError(f"cannot {verb} {path}: {error.strerror or error}") from error


def _zstandard(path: str) -> ModuleType:
    try:
        import zstandard
    except ImportError:
        raise ConfigurationError(
            f"{os.path.basename(path)} needs the zstandard package: "
            "pip install 'proctree-ds[zstd]', or decompress it and give the plain file"
        ) from None
    return zstandard


class _ZstdReader(io.RawIOBase):
    """Decompresses frame after frame, and says so when the last one is not whole.

    `zstandard.stream_reader` ends in silence there, which would pass a cut log for a whole one.
    """

    def __init__(self, file: BinaryIO, zstandard: ModuleType) -> None:
        self._file = file
        self._decompressor = zstandard.ZstdDecompressor()
        self._error: type[Exception] = zstandard.ZstdError
        self._frame: Any = None
        self._plain = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._plain:
            compressed = self._file.read(_COMPRESSED_CHUNK)
            if not compressed:
                if self._frame is not None:
                    raise EOFError("the compressed file ends within a frame")
                return 0
            try:
                self._plain = memoryview(self._decompress(compressed))
            except self._error as error:
                raise OSError(str(error)) from error
        length = min(len(buffer), len(self._plain))
        buffer[:length] = self._plain[:length]
        self._plain = self._plain[length:]
        return length

    def _decompress(self, compressed: bytes) -> bytes:
        plain = []
        while compressed:
            if self._frame is None:
                self._frame = self._decompressor.decompressobj()
            plain.append(self._frame.decompress(compressed))
            compressed = self._frame.unused_data if self._frame.eof else b""
            if self._frame.eof:
                self._frame = None
        return b"".join(plain)

    def close(self) -> None:
        self._file.close()
        super().close()
