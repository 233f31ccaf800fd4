"""PNGs with something beside the image that Pillow refuses: large text, a large colour profile, a wrong checksum."""

import struct
import zlib

SIGNATURE = b"\x89PNG\r\n\x1a\n"
# What an image looks like depends on these; of the others, which viewers pass over too, none is needed.
_CRITICAL = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
_USED = (b"tRNS", b"eXIf")


def only_the_image(content: bytes) -> bytes:
    """Return a PNG without the chunks that its first frame does not need; those that it needs are not looked into."""
    kept, place = [SIGNATURE], len(SIGNATURE)
    while place + 12 <= len(content):
        length, name = struct.unpack_from(">I4s", content, place)
        chunk = content[place : place + 12 + length]
        sound = zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:], "big")
        if name in _CRITICAL or (name in _USED and sound):
            kept.append(chunk)
        place += 12 + length
    return b"".join(kept)
