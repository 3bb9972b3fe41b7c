"""What libvips does not read or write as it should in a PNG file: the chunks before the pixels."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import IO

SIGNATURE = b"\x89PNG\r\n\x1a\n"


def frames_of(file: IO[bytes]) -> int:
    """How many frames a PNG file says that it has, in an acTL chunk before the pixels; without one, 1."""
    file.seek(len(SIGNATURE))
    while len(head := file.read(8)) == 8 and head[4:] != b"IDAT":
        if head[4:] == b"acTL":
            return int.from_bytes(file.read(4), "big")
        file.seek(int.from_bytes(head[:4], "big") + 4, 1)
    return 1


class HeadEditor:
    """Changes the chunks that libvips writes before the pixels, while they pass by.

    libvips always writes a resolution, even if there is none; and it writes text as UTF-8 into zTXt chunks, which hold
    Latin-1.

    Args:
        keep_resolution: Whether the resolution that libvips writes is the picture's own.
    """

    def __init__(self, keep_resolution: bool) -> None:
        self._keep_resolution = keep_resolution
        self._head: bytes | None = b""

    def edited(self, content: bytes) -> bytes:
        """What takes the place of the next bytes of the file: none of them while the head is not complete."""
        if self._head is None:
            return content
        self._head += content
        written = SIGNATURE
        for kind, data, end in _chunks(self._head):
            if kind == b"IDAT":
                rest, self._head = self._head[end:], None
                return written + rest
            if kind == b"zTXt":
                written += _text_chunk(data)
            elif kind != b"pHYs" or self._keep_resolution:
                written += _chunk(kind, data)
        return b""


def _chunks(head: bytes) -> Iterator[tuple[bytes, bytes, int]]:
    """Type, data and place of each chunk that is there as a whole, and of the first IDAT, as soon as it begins."""
    place = len(SIGNATURE)
    while place + 8 <= len(head):
        length, kind = struct.unpack(">I4s", head[place : place + 8])
        if kind == b"IDAT":
            yield kind, b"", place
            return
        if place + 12 + length > len(head):
            return
        yield kind, head[place + 8 : place + 8 + length], place
        place += 12 + length


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _text_chunk(compressed: bytes) -> bytes:
    """The chunk for what a zTXt chunk holds, whose text is UTF-8: an iTXt chunk, unless the text is ASCII."""
    keyword, _, rest = compressed.partition(b"\0")
    if zlib.decompress(rest[1:]).isascii():
        return _chunk(b"zTXt", compressed)
    return _chunk(b"iTXt", keyword + b"\0\1\0\0\0" + rest[1:])
