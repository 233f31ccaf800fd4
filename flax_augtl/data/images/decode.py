"""Decode any image file to an upright RGB image.

All errors of decoding become `UnreadableImage`, because Pillow raises a dozen types of exception for broken files.
"""

import io
import os
import re
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
from etils import epath
from PIL import Image, ImageFile, ImageOps

from flax_augtl.data.errors import Refused, UnreadableImage
from flax_augtl.data.images import grey, png, tiff
from flax_augtl.runtime.paths import is_remote

# Pixel formats only: others of Pillow run Ghostscript (EPS), or open files that the image names.
Image.init()  # Makes Pillow load all its formats.
FORMATS = tuple(f for f in ("JPEG", "MPO", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "AVIF") if f in Image.OPEN)
SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .mpo .png .apng .gif .bmp .dib .webp .tif .tiff .ppm .pgm .pbm .pnm .avif".split()
)
MAX_PIXELS = 178_956_970  # Pillow's own default limit; half a gigabyte once decoded to RGB.

# {EXIF orientation: the operation that makes the image upright}.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip

# All that Pillow's decoders were seen to raise on damaged files.
_DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    IndexError,
    KeyError,
    AttributeError,
    EOFError,
    OverflowError,
    NotImplementedError,
    RuntimeError,
    Warning,  # If the caller has turned warnings into errors.
    MemoryError,
    ArithmeticError,
    struct.error,
    zlib.error,
)

# Pillow warns of damaged metadata beside sound pixels, and of large images. The filter is set once and for all, because
# changing it for each image is not thread-safe.
warnings.filterwarnings("ignore", module=r"PIL\.")
ImageFile.LOAD_TRUNCATED_IMAGES = False  # A truncated image is an error, not an image that is partly grey.
# Decode most images in one block, because a thread must acquire the GIL again between blocks.
ImageFile.MAXBLOCK = max(ImageFile.MAXBLOCK, 2**18)


def read_image(
    file: str | Path | bytes,
    *,
    name: str | None = None,
    max_pixels: int = MAX_PIXELS,
    at_least: tuple[int, int] | None = None,
) -> Image.Image:
    """Decode the first frame of an image file.

    All modes become RGB: grey, palette, CMYK and deeper images too. Transparent parts become white. The EXIF
    orientation is applied.

    Args:
      file: a path, or the bytes of a file.
      name: what errors call the image; by default the path.
      max_pixels: images with more pixels are refused before they are decoded.
      at_least: (width, height) that is large enough, for the upright image. A JPEG is then decoded at 1/2, 1/4 or 1/8
        of its size if that is still large enough. Other formats are decoded at their full size.

    Returns:
      A loaded Pillow image of mode RGB.

    Raises:
      UnreadableImage: the file cannot be decoded.
    """
    name = name or (str(file) if isinstance(file, (str, Path)) else "given as bytes")
    try:
        content = file if isinstance(file, bytes) else _content(file)
        allow_pixels(max_pixels)
        try:
            return _decoded(content, max_pixels, at_least)
        except _DAMAGE:
            if content.startswith(png.SIGNATURE):
                return _decoded(png.only_the_image(content), max_pixels, at_least)
            raise
    except Refused as error:
        raise UnreadableImage(name, str(error)) from None
    except Image.DecompressionBombError as error:
        count = int(re.findall(r"\d+", str(error))[0])  # Pillow tells the number of pixels, but not the sides.
        raise UnreadableImage(name, _too_large(f"{count:,} pixels", count, max_pixels)) from None
    except _DAMAGE as error:
        raise UnreadableImage(name, _reason(file, error)) from None


read_picture = read_image  # Its name in earlier versions.


def _decoded(content: bytes, max_pixels: int, at_least: tuple[int, int] | None) -> Image.Image:
    if tiff.is_tiff(content):
        content = tiff.from_first_page(content)
        if deep := tiff.open_grey(content):
            return _deep(deep, max_pixels)
    try:
        image = Image.open(io.BytesIO(content), formats=FORMATS)
    except Image.UnidentifiedImageError:
        if tiff.is_tiff(content):
            raise tiff.unsupported(content) from None
        raise
    with image:
        _check_size(*image.size, max_pixels)
        if at_least is not None and image.format == "JPEG":
            turned = _orientation(image) in (5, 6, 7, 8)
            image.draft(None, (at_least[1], at_least[0]) if turned else at_least)
        image.load()
        return upright_rgb(image)


def _deep(found: tiff.Grey, max_pixels: int) -> Image.Image:
    _check_size(*found.size, max_pixels)
    allow_pixels(8 * found.size[0] * found.size[1])  # Pillow counts bytes here.
    image = Image.fromarray(grey.eight_bits(found.numbers(), found.samples))
    turn = _TURNS.get(found.orientation)
    return (image if turn is None else image.transpose(turn)).convert("RGB")


def allow_pixels(count: int) -> None:
    """Raise Pillow's pixel limit of this process if it is too low; `max_pixels` protects from decompression bombs."""
    if count > MAX_PIXELS and Image.MAX_IMAGE_PIXELS is not None and Image.MAX_IMAGE_PIXELS < count:
        Image.MAX_IMAGE_PIXELS = count


def _content(file: str | Path) -> bytes:
    """Read a file with four system calls; fewer is better, because a thread may lose the GIL at each."""
    if is_remote(file):
        return epath.Path(file).read_bytes()
    descriptor = os.open(file, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    try:
        size, content = os.fstat(descriptor).st_size, b""
        while len(content) < size and (more := os.read(descriptor, size - len(content))):
            content += more
        return content
    finally:
        os.close(descriptor)


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise Refused(_too_large(f"{width} × {height} pixels", width * height, max_pixels))


def _too_large(size: str, count: int, max_pixels: int) -> str:
    return (
        f"it has {size}, more than the limit of {max_pixels:,}; raise it with --config.data.max_pixels={count}, or, "
        f"to predict, with --max_pixels={count}"
    )


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Return (width, height) of the upright image without decoding it."""
    width, height = image.size
    return (height, width) if _orientation(image) in (5, 6, 7, 8) else (width, height)


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(0x0112, 1)
    except _DAMAGE:
        return 1  # Damaged EXIF data do not make the image unreadable.


def upright_rgb(image: Image.Image) -> Image.Image:
    """Return an image as RGB, with its EXIF orientation applied and transparency laid on white."""
    samples, clear = grey.samples_of(image), image.info.get("transparency")
    if _orientation(image) in range(2, 9):
        image = ImageOps.exif_transpose(image)
    if image.mode == "RGB":
        return image
    if samples is not None:
        values = np.asarray(image)
        scaled = grey.eight_bits(values, samples)
        if isinstance(clear, int):
            scaled[values == clear] = 255
        return Image.fromarray(scaled).convert("RGB")
    if clear is not None or image.mode in ("RGBA", "LA", "PA", "La", "RGBa"):
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")


def _reason(file: str | Path | bytes, error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        dangling = isinstance(file, (str, Path)) and Path(file).is_symlink()
        return "it is a link to a file that does not exist" if dangling else "there is no such file"
    if isinstance(error, IsADirectoryError):
        return "it is a folder"
    if isinstance(error, PermissionError):
        return "you have no permission to read it"
    size = len(file) if isinstance(file, bytes) else epath.Path(file).stat().length
    if size == 0:
        return "it is empty (zero bytes)"
    if isinstance(error, Image.UnidentifiedImageError):
        return "its content is not an image in a known format"
    if isinstance(error, MemoryError):
        return "it does not fit in memory"
    return f"it is damaged ({str(error).rstrip('.') or type(error).__name__})"
