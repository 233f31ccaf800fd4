"""Repair PNGs that Pillow refuses although the image is sound: large texts or profiles, or wrong checksums."""

import struct
import zlib

SIGNATURE = b"\x89PNG\r\n\x1a\n"
# The image depends on these chunks only; viewers ignore damage in the others, too.
_CRITICAL = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
_USED = (b"tRNS", b"eXIf")


def only_the_image(content: bytes) -> bytes:
    """Return a PNG with only the chunks that its first frame needs, unchanged."""
    kept, place = [SIGNATURE], len(SIGNATURE)
    while place + 12 <= len(content):
        length, name = struct.unpack_from(">I4s", content, place)
        chunk = content[place : place + 12 + length]
        sound = zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:], "big")
        if name in _CRITICAL or (name in _USED and sound):
            kept.append(chunk)
        place += 12 + length
    return b"".join(kept)
