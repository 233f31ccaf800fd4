"""Crop images that are far longer than wide, because resizing them by their short side could fill the memory."""

from PIL import Image

LONGEST = 100  # Largest ratio of long to short side that is resized whole.


def without_ends(image: Image.Image) -> Image.Image:
    """Return an image, or its central part if it is more than `LONGEST` times as long as wide."""
    width, height = image.size
    longest = LONGEST * min(width, height)
    # Crop both ends equally, so that the centre stays the same.
    across, down = (max(0, side - longest) // 2 for side in (width, height))
    return image.crop((across, down, width - across, height - down)) if across or down else image
