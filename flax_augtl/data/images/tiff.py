"""Read TIFFs of microscopes, scanners and satellites: deep, signed, inverted, and with several pages.

Pillow can decompress them, but supports only some combinations of bit depth, byte order, sign and colour, and reads
some of them wrongly. So this module changes the header of a deep grey image to 8 bits, lets Pillow read the bytes, and
makes numbers of the bytes itself.
"""

import io
import struct
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image

from flax_augtl.data.errors import Refused
from flax_augtl.data.images.grey import Samples

_SUBFILE, _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _ORIENTATION = 254, 256, 257, 258, 259, 262, 274
_CHANNELS, _PREDICTOR, _TILE_WIDTH, _FORMAT = 277, 317, 322, 339
_NOT_THE_IMAGE = 0b101  # Bits of NewSubfileType for a smaller copy and for a mask.
_JPEG = (6, 7, 34892)
_KINDS = {1: "u", 2: "i", 3: "f", 4: "u"}
_SHORT, _LONG = 3, 4
_MOST_PAGES = 10_000


class _Page(NamedTuple):
    """The directory of a page: its position, and {tag: (position of the value, type, value)} of its single numbers."""

    start: int
    fields: dict[int, tuple[int, int, int]]

    def value(self, tag: int, default: int = 1) -> int:
        return self.fields[tag][2] if tag in self.fields else default

    @property
    def is_the_image(self) -> bool:
        return not self.value(_SUBFILE, 0) & _NOT_THE_IMAGE


class Grey(NamedTuple):
    """A grey image that is not decoded yet.

    Attributes:
      size: (width, height).
      samples: the format of its numbers.
      orientation: the EXIF orientation.
      content: the file, with a header that says that the numbers are bytes.
      order: byte order, "<" or ">".
      predictor: the predictor of TIFF: 1 for none, 2 for differences, 3 for differences of the bytes of floats.
      across: how many numbers a row of a tile has, or a row of the image if it has no tiles.
    """

    size: tuple[int, int]
    samples: Samples
    orientation: int
    content: bytes
    order: str
    predictor: int
    across: int

    def numbers(self) -> np.ndarray:
        """Decode the image and return its numbers, [height, width]."""
        with Image.open(io.BytesIO(self.content), formats=("TIFF",)) as image:
            rows = np.ascontiguousarray(np.asarray(image))
        (width, height), kind, bits = self.size, self.samples.kind, self.samples.bits
        if bits not in (8, 16, 32, 64):
            return _unpacked(rows, bits)[:, :width]
        of_bytes = bits // 8
        if self.predictor == 3:
            rows = np.cumsum(rows.reshape(height, -1, self.across * of_bytes), axis=2, dtype=np.uint8)
            rows = rows.reshape(height, -1, of_bytes, self.across).swapaxes(2, 3)  # The highest bytes come first.
            return np.ascontiguousarray(rows).view(f">{kind}{of_bytes}").reshape(height, -1)[:, :width]
        if self.predictor == 2:
            rows = rows.view(f"{self.order}u{of_bytes}").reshape(height, -1, self.across)
            rows = np.cumsum(rows, axis=2, dtype=f"u{of_bytes}").reshape(height, -1)
            return rows.view(f"{kind}{of_bytes}")[:, :width]
        return rows.view(f"{self.order}{kind}{of_bytes}")[:, :width]


def is_tiff(content: bytes) -> bool:
    """Tell whether a file is a TIFF by its first bytes."""
    return content[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def from_first_page(content: bytes) -> bytes:
    """Return a TIFF whose first page is the first that is neither a smaller copy of another page nor a mask."""
    pages = _pages(content)
    first = next(pages)
    page = first if first.is_the_image else next((page for page in pages if page.is_the_image), first)
    if page is first:
        return content
    changed = bytearray(content)
    struct.pack_into(
        _order(content) + ("Q" if _is_big(content) else "I"), changed, 8 if _is_big(content) else 4, page.start
    )
    return bytes(changed)


def has_more_pages(content: bytes) -> bool:
    """Tell whether a TIFF has several pages that are neither smaller copies of another page nor masks."""
    full = (page for page in _pages(content) if page.is_the_image)
    try:
        return next(full, None) is not None and next(full, None) is not None
    except struct.error:
        return False  # The file is damaged behind the first page.


def open_grey(content: bytes) -> Grey | None:
    """Return the first page of a TIFF if it is grey and deep or signed; None if Pillow can read it.

    Raises:
      Refused: the layout is not supported.
      struct.error: the file is damaged.
    """
    page, order = next(_pages(content)), _order(content)
    bits, kind, predictor = page.value(_BITS), _KINDS.get(page.value(_FORMAT), "_"), page.value(_PREDICTOR)
    plain = bits <= 8 and kind == "u"
    if page.value(_CHANNELS) != 1 or page.value(_PHOTOMETRIC) not in (0, 1) or plain:
        return None
    known = {"u": (*range(9, 17), 32, 64), "i": (8, 16, 32, 64), "f": (16, 32, 64)}.get(kind, ())
    predictors = (1,) if bits not in (8, 16, 32, 64) else (1, 2, 3) if kind == "f" else (1, 2)
    if (
        bits not in known
        or predictor not in predictors
        or page.value(_COMPRESSION) in _JPEG
        or _is_big_endian_big(content)
    ):
        raise unsupported(content)
    size = page.value(_WIDTH), page.value(_HEIGHT)
    tile = page.value(_TILE_WIDTH, 0)
    # The file has whole tiles at the right edge.
    width = -(-size[0] // tile) * tile if tile else size[0]
    changed = bytearray(content)
    for tag, value in (
        (_WIDTH, -(-width * bits // 8)), (_TILE_WIDTH, -(-tile * bits // 8)), (_BITS, 8), (_PHOTOMETRIC, 1),
        (_FORMAT, 1), (_PREDICTOR, 1), (_ORIENTATION, 1),
    ):  # fmt: skip
        if tag in page.fields:
            position, number, _ = page.fields[tag]
            if number == _SHORT and value >= 2**16:
                raise unsupported(content)
            struct.pack_into(order + ("I" if number == _LONG else "H"), changed, position, value)
    samples = Samples(kind, bits, page.value(_PHOTOMETRIC) == 0)
    return Grey(size, samples, page.value(_ORIENTATION), bytes(changed), order, predictor, tile or size[0])


def unsupported(content: bytes) -> Refused:
    """Return the error for a TIFF that neither this module nor Pillow can read."""
    page = next(_pages(content))
    channels = page.value(_CHANNELS)
    # With several channels, the file has a list of bits and one of formats.
    bits = f" of {page.value(_BITS)} bits" if channels == 1 else ""
    numbers = {1: "", 2: "signed ", 3: "float "}.get(page.value(_FORMAT), "") if channels == 1 else ""
    return Refused(
        f"it is a {'big-endian BigTIFF' if _is_big_endian_big(content) else 'TIFF'} with {channels} {numbers}"
        f"channel{'s' * (channels != 1)}{bits}, compression {page.value(_COMPRESSION)}, in a layout that is not "
        "supported; save it as 8 or 16 bit grey or RGB"
    )


def _order(content: bytes) -> str:
    return "<" if content[:2] == b"II" else ">"


def _is_big(content: bytes) -> bool:
    return b"+" in content[2:4]


def _is_big_endian_big(content: bytes) -> bool:
    return content[:4] == b"MM\0+"  # Pillow does not recognize it.


def _pages(content: bytes) -> Iterator[_Page]:
    """Yield the directory of each page.

    Raises:
      struct.error: the file is truncated.
    """
    order, big = _order(content), _is_big(content)
    offset, how_many, entry, inline = ("Q", "Q", "HHQ", 12) if big else ("I", "H", "HHI", 8)
    pointer = struct.calcsize("=" + offset)
    (start,) = struct.unpack_from(order + offset, content, 8 if big else 4)
    seen: set[int] = set()
    while start and start not in seen and len(seen) < _MOST_PAGES:
        seen.add(start)
        (count,) = struct.unpack_from(order + how_many, content, start)
        place, fields = start + struct.calcsize("=" + how_many), {}
        for _ in range(count):
            tag, kind, numbers = struct.unpack_from(order + entry, content, place)
            if kind in (_SHORT, _LONG) and numbers == 1:
                (value,) = struct.unpack_from(order + ("I" if kind == _LONG else "H"), content, place + inline)
                fields[tag] = (place + inline, kind, value)
            place += inline + pointer
        yield _Page(start, fields)
        (start,) = struct.unpack_from(order + offset, content, place)
    if not seen:
        raise struct.error("no page")


def _unpacked(rows: np.ndarray, bits: int) -> np.ndarray:
    """Unpack rows of bytes into numbers of `bits` bits, highest bit first."""
    each = np.unpackbits(rows, axis=1)
    width = each.shape[1] // bits
    numbers = np.zeros((len(rows), width), np.uint16)
    for place in range(bits):
        numbers |= each[:, place : width * bits : bits].astype(np.uint16) << (bits - 1 - place)
    return numbers
