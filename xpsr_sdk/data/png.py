"""What libvips does not read or write as it should in a PNG file: the chunks before the pixels."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator
from typing import IO

SIGNATURE = b"\x89PNG\r\n\x1a\n"


COMMENT = "png-comment-"
"""With what libvips' names for texts begin; a number and the keyword follow."""
TEXT = (b"tEXt", b"zTXt", b"iTXt")
"""The types of the chunks that hold text."""
LONGEST_TEXT = 2**20
"""How many bytes of a text are read again."""


def frames_of(file: IO[bytes]) -> int:
    """How many frames a PNG file says that it has, in an acTL chunk before the pixels; without one, 1."""
    for kind, length in _chunks_before_pixels(file):
        if kind == b"acTL" and length >= 4:
            return int.from_bytes(file.read(4), "big")
    return 1


def latin_texts(file: IO[bytes]) -> dict[str, str]:
    """The texts before the pixels that are not ASCII and in Latin-1, by libvips' names for them.

    libvips takes them for UTF-8. Those that are UTF-8, against the rules, are left out: it reads them well.
    """
    found: dict[str, str] = {}
    heads = ((kind, min(length, LONGEST_TEXT)) for kind, length in _chunks_before_pixels(file) if kind in TEXT)
    for place, (kind, length) in enumerate(heads):
        keyword, _, text = file.read(length).partition(b"\0")
        if kind == b"zTXt":
            try:
                text = zlib.decompressobj().decompress(text[1:], LONGEST_TEXT)
            except zlib.error:  # libvips leaves it out, too
                continue
        if kind != b"iTXt" and not _is_utf_8(text):
            found[f"{COMMENT}{place}-{keyword.decode('latin-1')}"] = text.decode("latin-1")
    return found


def _chunks_before_pixels(file: IO[bytes]) -> Iterator[tuple[bytes, int]]:
    """Type and length of each chunk before the pixels, while the file stands at the chunk's data."""
    place = len(SIGNATURE)
    file.seek(place)
    while len(head := file.read(8)) == 8 and head[4:] != b"IDAT":
        length = int.from_bytes(head[:4], "big")
        yield head[4:], length
        place += length + 12
        file.seek(place)


def _is_utf_8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


class HeadEditor:
    """Changes the chunks that libvips writes before the pixels, while they pass by.

    libvips always writes a resolution, even if there is none; it writes text as UTF-8 into zTXt chunks, which hold
    Latin-1; and of keywords such as ``Creation Time`` it writes the first word alone.

    Args:
        keep_resolution: Whether the resolution that libvips writes is the picture's own.
        fields: Names of the metadata that libvips writes, in their order.
    """

    def __init__(self, keep_resolution: bool, fields: Iterable[str] = ()) -> None:
        self._keep_resolution = keep_resolution
        names = [name.split("-", 3)[-1] for name in fields if name.startswith(COMMENT)]
        self._keywords = [name.encode("latin-1", "replace") for name in names]
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
                keyword, _, rest = data.partition(b"\0")
                written += _text_chunk(self._whole(keyword) + b"\0" + rest)
            elif kind != b"pHYs" or self._keep_resolution:
                written += _chunk(kind, data)
        return b""

    def _whole(self, keyword: bytes) -> bytes:
        """The keyword that libvips has cut off after its first word."""
        for whole in self._keywords:
            if whole.split(b" ")[0] == keyword:
                self._keywords.remove(whole)
                return whole
        return keyword


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
