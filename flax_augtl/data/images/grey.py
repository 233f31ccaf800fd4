"""Grey samples of any depth → 8 bits, black at 0 and white at 255.

The header of a file says which values black and white have. Where it says 32 bits or more, or floats, images use a part
of that range by habit: 0 to 1, to 255 or to 65535; the smallest of these that holds the image is taken.
"""

from typing import NamedTuple

import numpy as np
from PIL import Image

from flax_augtl.data.errors import Refused

# A float image with values further below zero is no image with black at 0.
_BELOW_ZERO = 0.05


class Samples(NamedTuple):
    """What the numbers of a grey image mean.

    Attributes:
        kind: "u" for unsigned integers, "i" for signed ones, "f" for floats.
        bits: of each number.
        white_is_zero: 0 is white, as in some TIFFs.
    """

    kind: str
    bits: int
    white_is_zero: bool = False


def samples_of(image: Image.Image) -> Samples | None:
    """Return what the numbers of an image mean that Pillow has decoded; None if its own conversion to RGB is right."""
    if image.mode == "F":
        return Samples("f", 32)
    return Samples("u", 16) if image.mode == "I" or image.mode.startswith("I;16") else None


def eight_bits(values: np.ndarray, samples: Samples) -> np.ndarray:
    """Return numbers scaled to uint8.

    Signed integers have black at 0 if none of them is negative, and else at the least number of their kind.

    Raises:
        Refused: floats of which it is not clear what is black or white.
    """
    least, most = _ends(values, samples)
    scaled = values.astype(np.float32 if samples.kind != "f" and samples.bits <= 16 else np.float64)
    if samples.kind == "f":
        scaled = np.nan_to_num(scaled, nan=0.0, posinf=most, neginf=0.0)
    scaled = (scaled - least) * (255 / (most - least))
    scaled = np.clip(np.rint(scaled), 0, 255).astype(np.uint8)
    return 255 - scaled if samples.white_is_zero else scaled


def _ends(values: np.ndarray, samples: Samples) -> tuple[float, float]:
    """Return the numbers that stand for the ends of the range, dark and bright."""
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
        f"its float values reach from {low:g} to {high:g}, and which of them is black or white is not known; save it with "
        "values from 0 to 1, or as 8 or 16 bit integers"
    )
