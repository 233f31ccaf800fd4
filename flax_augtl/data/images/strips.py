"""Images that are far longer than they are wide: scaled whole, by their short side, they could take all memory."""

from PIL import Image

LONGEST = 100  # Long side / short side that is scaled whole; every crop of more sees a sliver of it.


def without_ends(image: Image.Image) -> Image.Image:
    """Return an image, or the central part of a strip, `LONGEST` times as long as it is wide."""
    width, height = image.size
    longest = LONGEST * min(width, height)
    # As much on either side, so that the centre stays where it is.
    across, down = (max(0, side - longest) // 2 for side in (width, height))
    return image.crop((across, down, width - across, height - down)) if across or down else image
