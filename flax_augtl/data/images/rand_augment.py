"""RandAugment and TrivialAugment on the host: random changes of colour and shape.

The operations and their ranges equal those of torchvision, so published settings mean the same here. RandAugment (Cubuk
et al. 2020) applies 2 operations of strength 9 of 30; TrivialAugment (Müller and Hutter 2021, "wide") applies 1
operation of any strength.
"""

import functools
import math
from collections.abc import Callable, Mapping

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

DRAWS = 6  # Random numbers that a policy needs at most: operation, strength and sign, twice.
_BINS = 31

Policy = Callable[[Image.Image, np.ndarray], Image.Image]


def nothing(image: Image.Image, uniform: np.ndarray) -> Image.Image:
    """Return the image unchanged."""
    return image


def rand_augment(image: Image.Image, uniform: np.ndarray) -> Image.Image:
    """Apply two random operations of strength 9 of 30."""
    ranges = _rand_ranges(image.size)
    for which, _, sign in uniform.reshape(2, 3):
        image = _drawn(image, ranges, which, 9, sign)
    return image


def trivial_augment(image: Image.Image, uniform: np.ndarray) -> Image.Image:
    """Apply one random operation of a random strength."""
    return _drawn(image, _trivial_ranges(), uniform[0], int(uniform[1] * _BINS), uniform[2])


# By the name in config.data.policy: (RGB image, uniforms [6]) → RGB image of the same size.
POLICIES: Mapping[str, Policy] = {"none": nothing, "rand": rand_augment, "trivial": trivial_augment}


def apply(image: Image.Image, operation: str, strength: float) -> Image.Image:
    """Apply one operation; pixels from outside the image are black."""
    match operation:
        case "Identity":
            return image
        case "ShearX":
            return _affine(image, (1, strength, 0, 0, 1, 0))
        case "ShearY":
            return _affine(image, (1, 0, 0, strength, 1, 0))
        case "TranslateX":
            return _affine(image, (1, 0, -int(strength), 0, 1, 0))
        case "TranslateY":
            return _affine(image, (1, 0, 0, 0, 1, -int(strength)))
        case "Rotate":
            return image.rotate(strength, Image.Resampling.NEAREST)
        case "Posterize":
            return ImageOps.posterize(image, int(strength))
        case "Solarize":
            # Pillow inverts each value that is not below the threshold, so rounding up changes nothing.
            return ImageOps.solarize(image, math.ceil(strength))
        case "AutoContrast":
            return ImageOps.autocontrast(image)
        case "Equalize":
            return ImageOps.equalize(image)
    return getattr(ImageEnhance, operation)(image).enhance(1 + strength)


def _drawn(image, ranges, which: float, level: int, sign: float) -> Image.Image:
    operation = list(ranges)[int(which * len(ranges))]
    strengths, signed = ranges[operation]
    strength = 0.0 if strengths is None else float(strengths[level])
    return apply(image, operation, -strength if signed and sign < 0.5 else strength)


def _affine(image: Image.Image, matrix: tuple[float, ...]) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.NEAREST)


def _ranges(shear: float, across: float, down: float, turn: float, colour: float, bits: int) -> dict:
    """Return {operation: (strength by level or None, whether the sign is random)}."""
    line = functools.partial(np.linspace, 0.0, num=_BINS)
    return {
        "Identity": (None, False),
        "ShearX": (line(shear), True),
        "ShearY": (line(shear), True),
        "TranslateX": (line(across), True),
        "TranslateY": (line(down), True),
        "Rotate": (line(turn), True),
        "Brightness": (line(colour), True),
        "Color": (line(colour), True),
        "Contrast": (line(colour), True),
        "Sharpness": (line(colour), True),
        "Posterize": (8 - np.round(np.arange(_BINS) / ((_BINS - 1) / bits)), False),
        "Solarize": (np.linspace(255.0, 0.0, _BINS), False),
        "AutoContrast": (None, False),
        "Equalize": (None, False),
    }


@functools.lru_cache(maxsize=8)
def _rand_ranges(size: tuple[int, int]) -> dict:
    width, height = size
    return _ranges(0.3, 150 / 331 * width, 150 / 331 * height, 30.0, 0.9, 4)


@functools.cache
def _trivial_ranges() -> dict:
    return _ranges(0.99, 32.0, 32.0, 135.0, 0.99, 6)
