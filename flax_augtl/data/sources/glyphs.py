"""Draw characters, but no digits, with matplotlib's fonts: the task of the embedded pretrained weights.

Each image depends on (seed, split, its number) only. A character of a random font is shifted, scaled, slanted, rotated,
made coarse (because the target task, the handwritten digits, has 8 × 8 pixels) and noisy.
"""

import functools
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from flax_augtl.data import keyed_random
from flax_augtl.data.types import ArraySource

SIZE = 32
# Each character is in at least six of the fonts. Of characters that look alike when scaled and coarse, such as C c С с
# or O o θ °, only one is here.
CLASS_NAMES = tuple(
    "ABCDEGHIJKLMNOPQRSTUVWXYZabdefgkmnrtuyΔΞΣΦΨΩαβδζηλμνπςσυχωДЖЗЙЛЦЧШЩЪЫЮЯикщьЂЉЊЋђћҐҘӘ&@#%$£€§¶©®±÷×¿?"
    "‡¤∂∇∈∞∏√∩≈≠≡≤≥⊂⊃⊕⊗⊥⌂←→■□▲▼◆○☺♀♂♣♥♪♫ßæø¬¢ªº*)<>/\\^ԲԳԵԶԷԸԹԺԻԽԾԿՀՁՂՃՄՆՇՊՌՎՔՖթիլխկձմնշպվֆადეზთიკლრფქწჯɐɒ"
    "ɔɘɞɣɤɮɹɾʁʎʒʕƢƱƸ"
)
FONTS = (
    "DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSans-BoldOblique",
    "DejaVuSansMono", "DejaVuSansMono-Bold", "DejaVuSansMono-Oblique", "DejaVuSansMono-BoldOblique",
    "DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic", "DejaVuSerif-BoldItalic",
    "STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "STIXGeneralBolIta",
)  # fmt: skip
_MASTER = 96  # Side of the clean drawing from which the images are made, in pixels.
_DRAWS = 12


@functools.cache
def glyphs(split: str, per_class: int, seed: int) -> tuple[ArraySource, np.ndarray]:
    """Draw images of characters, white on black; image i shows character i mod (number of classes).

    Args:
      split: part of the random key, so that the splits of a seed are independent.
      per_class: number of images of each character.
      seed: seed of all random numbers.

    Returns:
      (source of uint8 [n, 32, 32, 3], labels int32 [n]), n = per_class · classes.
    """
    n = per_class * len(CLASS_NAMES)
    uniform = keyed_random.uniforms(n * _DRAWS, seed, "glyphs", split).reshape(n, _DRAWS)
    labels = np.arange(n, dtype=np.int32) % len(CLASS_NAMES)
    matrices = _placements(uniform[:, 1:7])
    images = np.stack([_view(*each) for each in zip(labels.tolist(), matrices.tolist(), uniform.tolist(), strict=True)])
    images = np.rint(images * (0.65 + 0.35 * uniform[:, 9, None, None]))
    noisy = _with_noise(images, uniform[:, -1], seed, split)
    return ArraySource(np.repeat(noisy[..., None], 3, axis=-1)), labels


def _placements(uniform: np.ndarray) -> np.ndarray:
    """Return affine matrices that map the pixels of images to clean drawings, float64 [n, 6] for Pillow's AFFINE.

    Args:
      uniform: float64 [n, 6] in [0, 1): size, stretch, angle, slant, and shift in x and y.
    """
    size = SIZE * (0.72 + 0.28 * uniform[:, 0])  # The larger of height and width, in pixels.
    stretch = np.exp(0.25 * (uniform[:, 1] - 0.5))
    angle = np.deg2rad(30 * (uniform[:, 2] - 0.5))
    slant = 0.5 * (uniform[:, 3] - 0.5)
    move = ((SIZE - size) / 2 + 1.5)[:, None] * (2 * uniform[:, 4:6] - 1)
    zero, one = np.zeros_like(size), np.ones_like(size)

    def matrix(a, b, c, d):
        return np.stack([a, b, c, d], -1).reshape(-1, 2, 2)

    forward = matrix(np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)) @ matrix(one, slant, zero, one)
    forward = forward @ matrix(stretch, zero, zero, 1 / stretch) * (size / (_MASTER / 2))[:, None, None]
    inverse = np.linalg.inv(forward)
    offset = _MASTER / 2 - np.einsum("nij,nj->ni", inverse, SIZE / 2 + move)
    return np.concatenate([inverse, offset[..., None]], -1).reshape(-1, 6)


def _view(label: int, matrix: list[float], uniform: list[float]) -> np.ndarray:
    """Draw a character, uint8 [32, 32]."""
    masters = _masters(label)
    master = masters[int(uniform[0] * len(masters))]
    image = master.transform((SIZE, SIZE), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
    if uniform[7] < 0.6:
        coarse = 7 + int(10 * uniform[8])
        image = image.resize((coarse, coarse), Image.Resampling.BOX).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    elif uniform[7] < 0.8:
        image = image.filter(ImageFilter.GaussianBlur(1.2 * uniform[8]))
    return np.asarray(image)


def _with_noise(images: np.ndarray, strength: np.ndarray, seed: int, split: str) -> np.ndarray:
    """Add nearly Gaussian noise of up to 12 % of white, the sum of four random bytes: uint8 [n, 32, 32]."""
    noisy = np.empty(images.shape, np.uint8)
    for first in range(0, len(images), 4096):  # The random numbers of a block take 16 MB.
        block = images[first : first + 4096]
        bits = keyed_random.raw(block.size // 2, seed, "glyph noise", split, first).view(np.uint8)
        noise = bits.reshape(*block.shape, 4).sum(-1, dtype=np.float32) - 510
        amount = (0.12 * 255 / 148) * strength[first : first + 4096, None, None]  # 148 is the deviation of the sum.
        noisy[first : first + 4096] = np.clip(np.rint(block + amount.astype(np.float32) * noise), 0, 255)
    return noisy


@functools.cache
def _masters(label: int) -> tuple[Image.Image, ...]:
    """Return clean drawings of a character in each font that has it, centred, half as large as the image."""
    return tuple(_master(CLASS_NAMES[label], font) for font, covered in _fonts() if ord(CLASS_NAMES[label]) in covered)


def _master(character: str, font: ImageFont.FreeTypeFont) -> Image.Image:
    left, top, right, bottom = map(int, font.getbbox(character))
    image = Image.new("L", (right - left + 4, bottom - top + 4))
    ImageDraw.Draw(image).text((2 - left, 2 - top), character, fill=255, font=font)
    image = image.crop(image.getbbox())
    scale = _MASTER / 2 / max(image.size)
    image = image.resize([max(1, round(side * scale)) for side in image.size], Image.Resampling.LANCZOS)
    master = Image.new("L", (_MASTER, _MASTER))
    master.paste(image, ((_MASTER - image.width) // 2, (_MASTER - image.height) // 2))
    return master


@functools.cache
def _fonts() -> tuple[tuple[ImageFont.FreeTypeFont, frozenset[int]], ...]:
    """Return the fonts and their code points, without LastResort, which draws a box for everything."""
    import matplotlib  # Slow to import, and only this dataset needs it.
    from matplotlib.ft2font import FT2Font

    folder = Path(matplotlib.get_data_path(), "fonts", "ttf")
    files = [str(folder / f"{name}.ttf") for name in FONTS]
    return tuple((ImageFont.truetype(file, 96), frozenset(FT2Font(file).get_charmap())) for file in files)
