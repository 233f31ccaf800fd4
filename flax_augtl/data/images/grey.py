"""Scale grey images of any bit depth to 8 bits, black at 0 and white at 255.

The header of a file gives the type of its values. Images with 32 or more bits, or with floats, usually use only a part
of that range: 0 to 1, 0 to 255 or 0 to 65535. The smallest of these ranges that contains the image is used.
"""

from typing import NamedTuple

import numpy as np
from PIL import Image

from flax_augtl.data.errors import Refused

# If floats go further below zero than this share of the range, black is not at 0.
_BELOW_ZERO = 0.05


class Samples(NamedTuple):
    """The number format of a grey image.

    Attributes:
      kind: "u" for unsigned integers, "i" for signed integers, "f" for floats.
      bits: number of bits of each number.
      white_is_zero: whether 0 is white, as in some TIFFs.
    """

    kind: str
    bits: int
    white_is_zero: bool = False


def samples_of(image: Image.Image) -> Samples | None:
    """Return the number format of an image that Pillow decoded; None if Pillow converts it to RGB correctly."""
    if image.mode == "F":
        return Samples("f", 32)
    return Samples("u", 16) if image.mode == "I" or image.mode.startswith("I;16") else None


def eight_bits(values: np.ndarray, samples: Samples) -> np.ndarray:
    """Scale the numbers of a grey image to uint8.

    Black is 0. For signed integers with negative values, black is the smallest number of the type.

    Raises:
      Refused: it is unclear which floats are black and white.
    """
    least, most = _ends(values, samples)
    scaled = values.astype(np.float32 if samples.kind != "f" and samples.bits <= 16 else np.float64)
    if samples.kind == "f":
        scaled = np.nan_to_num(scaled, nan=0.0, posinf=most, neginf=0.0)
    scaled = (scaled - least) * (255 / (most - least))
    scaled = np.clip(np.rint(scaled), 0, 255).astype(np.uint8)
    return 255 - scaled if samples.white_is_zero else scaled


def _ends(values: np.ndarray, samples: Samples) -> tuple[float, float]:
    """Return the numbers at the two ends of the range, dark and bright."""
    bits, signed = samples.bits, samples.kind == "i"
    if samples.kind == "f":
        return 0.0, _brightest_float(values)
    low, high = int(values.min(initial=0)), int(values.max(initial=0))
    widths = [bits] if bits <= 16 else [each for each in (8, 16, 32, 64) if each <= bits]

    def ends(width: int) -> tuple[int, int]:
        least, most = (-(2 ** (width - 1)), 2 ** (width - 1) - 1) if signed and low < 0 else (0, 2**width - 1)
        return least, 2 ** (width - 1) - 1 if signed and low >= 0 and width == bits else most

    fitting = (found for found in map(ends, widths) if found[0] <= low and high <= found[1])
    return next(fitting, ends(widths[-1]))


def _brightest_float(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)] if values.size else values
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    most = next((most for most in (1.0, 255.0, 65535.0) if high <= most), 0.0)
    if most and low >= -_BELOW_ZERO * most:
        return most
    raise Refused(
        f"its float values reach from {low:g} to {high:g}, and which of them is black or white is not known; save it "
        "with values from 0 to 1, or as 8 or 16 bit integers"
    )
