"""Count the near-copies found at each distance: `python -m flax_augtl.benchmarks.near_copies FOLDER...`.

It makes copies of some images of each folder, and searches for them. A pair that is found among the original images is
a copy that the folder already has, or a false alarm; `--list` prints these pairs.
"""

import argparse
import io
import time
from collections.abc import Callable, Mapping

import numpy as np
from PIL import Image, ImageOps

from flax_augtl.data.errors import UnreadableImage
from flax_augtl.data.images.decode import read_image
from flax_augtl.data.sources.folder_tree import image_paths
from flax_augtl.data.sources.image_files import FileSource
from flax_augtl.data.splits import image_hash

DISTANCES = (16, 24, 32, 40, 48, 56)


def _encoded(image: Image.Image, quality: int) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return file.getvalue()


def _resized(image: Image.Image, share: float) -> Image.Image:
    size = (max(1, round(image.width * share)), max(1, round(image.height * share)))
    return image.resize(size, Image.Resampling.LANCZOS)


def _cropped(image: Image.Image, share: float) -> Image.Image:
    """Return an image without its outermost pixels: `share` of the width and of the height."""
    left, top = round(image.width * share / 2), round(image.height * share / 2)
    return image.crop((left, top, image.width - left, image.height - top))


CHANGES: Mapping[str, Callable[[Image.Image, np.random.Generator], bytes]] = {
    "JPEG quality 50–90": lambda image, rng: _encoded(image, int(rng.integers(50, 91))),
    "resized 0.5–0.9": lambda image, rng: _encoded(_resized(image, rng.uniform(0.5, 0.9)), 90),
    "both": lambda image, rng: _encoded(_resized(image, rng.uniform(0.5, 0.9)), int(rng.integers(50, 91))),
    "mirrored, and both": lambda image, rng: _encoded(
        ImageOps.mirror(_resized(image, rng.uniform(0.5, 0.9))), int(rng.integers(50, 91))
    ),
    "made square": lambda image, rng: _encoded(image.resize((227, 227)), 85),
    "cropped by 2 %": lambda image, rng: _encoded(_cropped(image, 0.02), 90),
    "cropped by 5 %": lambda image, rng: _encoded(_cropped(image, 0.05), 90),
}


def measure(
    folder: str, copied: int = 300, seed: int = 0, check_thumbs: bool = True
) -> tuple[list[list[str]], list[str]]:
    """Look for copies among the images of a folder.

    Args:
      folder: of images, at any depth.
      copied: number of images to copy.
      seed: of the choice of images and of their changes.
      check_thumbs: see `image_hash.search`.

    Returns:
      (rows of a table, one for each distance; a line for each pair that is found among the original images).
    """
    source = FileSource(folder, tuple(image_paths(folder)))
    hashes, thumbs, kept, seconds = [], [], [], 0.0
    for i in range(len(source)):
        try:
            image = source.read(i, at_least=(256, 256))  # As a scan does.
        except UnreadableImage:
            continue
        begun = time.thread_time()
        described = image_hash.describe(image_hash.shrunk(image))
        seconds += time.thread_time() - begun
        hashes.append(described[0])
        thumbs.append(described[1])
        kept.append(i)
    print(f"{folder}: {len(kept)} images, {1000 * seconds / len(kept):.2f} ms of a core for the hashes of each")
    hashes, thumbs, most = np.stack(hashes), np.stack(thumbs), max(DISTANCES)
    there = image_hash.search(hashes, thumbs, most, check_thumbs=check_thumbs)
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.permutation(len(kept))[:copied])
    distances = {name: _distances_to_copies(source, np.array(kept)[chosen], change, rng, (hashes[chosen], thumbs[chosen]),
                                            check_thumbs) for name, change in CHANGES.items()}  # fmt: skip
    rows = []
    for limit in DISTANCES:
        found = [f"{100 * np.mean(values <= limit):.0f} %" for values in distances.values()]
        near = there.distance <= limit
        concerned = len(np.unique(np.concatenate([there.first[near], there.second[near]])))
        rows.append([str(limit), *found, str(int(near.sum())), str(concerned)])
    order = np.argsort(there.distance, kind="stable")
    pairs = [f"{there.distance[k]} {source.paths[kept[there.first[k]]]} {source.paths[kept[there.second[k]]]}"
             + " mirrored" * bool(there.mirrored[k]) for k in order]  # fmt: skip
    return rows, pairs


def _distances_to_copies(source: FileSource, indices: np.ndarray, change: Callable, rng: np.random.Generator,
                         described: tuple[np.ndarray, np.ndarray], check_thumbs: bool) -> np.ndarray:  # fmt: skip
    """Return the distance of each image to its changed copy; infinity if they do not count as copies."""
    distances = np.full(len(indices), np.inf)
    for k, i in enumerate(indices.tolist()):
        copy = image_hash.describe(image_hash.shrunk(read_image(change(source[i], rng), at_least=(256, 256))))
        hashes, thumbs = (np.stack([one[k], other]) for one, other in zip(described, copy, strict=True))
        found = image_hash.search(hashes, thumbs, max(DISTANCES), check_thumbs=check_thumbs)
        if len(found.distance):
            distances[k] = found.distance[0]
    return distances


def main(arguments: list[str] | None = None) -> int:
    """Run the command line: print a table for each folder; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m flax_augtl.benchmarks.near_copies")
    parser.add_argument("folders", nargs="+", help="folders of images, at any depth")
    parser.add_argument("--copied", type=int, default=300, help="images of each folder of which copies are made")
    parser.add_argument("--hash_only", action="store_true", help="do not compare thumbnails")
    parser.add_argument("--list", action="store_true", help="name the pairs among the images themselves")
    options = parser.parse_args(arguments)
    for folder in options.folders:
        rows, pairs = measure(folder, options.copied, check_thumbs=not options.hash_only)
        header = ["distance", *CHANGES, "pairs there", "images"]
        for cells in (header, ["---"] * len(header), *rows):
            print(f"| {' | '.join(cells)} |")
        print(*(pairs if options.list else []), "", sep="\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
