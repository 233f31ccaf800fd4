"""Draw evidence maps over images."""

import io

import numpy as np
from PIL import Image


def overlay(image: np.ndarray, evidence: np.ndarray, strength: float = 0.65) -> np.ndarray:
    """Return an image with the places that speak for a class in red to yellow, uint8 [S, S, 3].

    Args:
      image: uint8 [S, S, 3].
      evidence: float [h, w]; the largest value gets the strongest colour, negative values none.
      strength: how much the strongest colour hides the image, in [0, 1].
    """
    positive = np.maximum(np.nan_to_num(np.asarray(evidence, np.float32)), 0.0)
    if not positive.any():
        return image
    side = image.shape[1], image.shape[0]
    heat = np.asarray(Image.fromarray(positive / positive.max()).resize(side, Image.Resampling.BILINEAR))
    heat = np.clip(heat, 0.0, 1.0)[..., None]
    colour = np.concatenate([np.full_like(heat, 255.0), 255.0 * heat**2, np.zeros_like(heat)], axis=2)
    # A grey image below, so that its own colours are not taken for evidence.
    grey = np.asarray(Image.fromarray(image).convert("L").convert("RGB"), np.float32)
    blended = grey * (1 - strength * heat) + colour * strength * heat
    return np.round(blended).astype(np.uint8)


def beside(image: np.ndarray, drawn: np.ndarray) -> Image.Image:
    """Return an image and its overlay side by side."""
    return Image.fromarray(np.concatenate([image, np.full_like(image[:, :4], 255), drawn], axis=1))


def png(image: Image.Image) -> bytes:
    """Return an image as a PNG file."""
    content = io.BytesIO()
    image.save(content, "PNG")
    return content.getvalue()
