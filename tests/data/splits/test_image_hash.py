import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from flax_augtl.data.splits import image_hash
from flax_augtl.data.splits.image_hash import describe, search, shrunk


def scene(number, size=(160, 120)):
    """A smooth image with edges, as photographs have."""
    rng = np.random.default_rng(number)
    small = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8))
    image = np.asarray(small.resize(size, Image.Resampling.BICUBIC)).copy()
    top, left = rng.integers(0, 80, 2)
    image[top : top + 30, left : left + 40] = rng.integers(0, 256, 3)
    return Image.fromarray(image)


def encoded(image, quality):
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def found_among(images, **settings):
    hashes, thumbs = zip(*(describe(shrunk(image)) for image in images), strict=True)
    return search(np.stack(hashes), np.stack(thumbs), **settings)


@pytest.mark.parametrize(
    ("change", "mirrored"),
    [
        (lambda image: encoded(image, 50), False),
        (lambda image: image.resize((80, 60), Image.Resampling.LANCZOS), False),
        (lambda image: image.resize((227, 227)), False),
        (lambda image: image.crop((2, 1, 159, 119)), False),
        (lambda image: image.convert("L").convert("RGB"), False),
        (ImageOps.mirror, True),
        (lambda image: encoded(ImageOps.mirror(image).resize((120, 90)), 70), True),
    ],
    ids=["encoded", "smaller", "squashed", "cropped", "grey", "mirrored", "mirrored and encoded"],
)
def test_changed_copies_are_found_and_nothing_else(change, mirrored):
    images = [scene(number) for number in range(20)]
    found = found_among([*images, change(images[3])])
    assert (found.first.tolist(), found.second.tolist()) == ([3], [20])
    assert found.mirrored.tolist() == [mirrored] and found.distance[0] <= image_hash.MAX_DISTANCE


def test_images_of_one_colour_are_not_copies_of_each_other():
    rng = np.random.default_rng(0)
    flat = [Image.new("RGB", (40, 40), tuple(rng.integers(0, 256, 3).tolist())) for _ in range(10)]
    noisy = [Image.fromarray(rng.integers(128, 132, (80, 80, 3), dtype=np.uint8)) for _ in range(10)]
    assert not len(found_among([*flat, *noisy]).first)


def test_the_thumbnail_tells_images_apart_whose_hashes_are_close():
    """A hash of frequencies says little of a change in one place."""
    image = scene(0)
    changed = np.asarray(image).copy()
    changed[20:50, 20:50] = 255 - changed[20:50, 20:50] // 2
    assert not len(found_among([image, Image.fromarray(changed)], max_distance=256).first)
    assert len(found_among([image, encoded(image, 80)], max_distance=256).first) == 1


def test_the_search_in_blocks_is_that_of_every_pair(monkeypatch):
    monkeypatch.setattr(image_hash, "_ROWS", 3)
    monkeypatch.setattr(image_hash, "_COLUMNS", 7)
    rng = np.random.default_rng(0)
    thumbs = np.repeat(rng.integers(90, 160, (4, 256), dtype=np.uint8), 10, axis=0)
    thumbs += rng.integers(0, 9, thumbs.shape, dtype=np.uint8)
    hashes = np.repeat(rng.integers(0, 256, (4, 2, 32), dtype=np.uint8), 10, axis=0)
    hashes[rng.random(hashes.shape) < 0.15] ^= 0b101
    found = search(hashes, thumbs)
    distances = np.bitwise_count(hashes[:, None, 0] ^ hashes[None, :, 0]).sum(-1, dtype=int)
    expected = [(i, j) for i in range(40) for j in range(i + 1, 40) if distances[i, j] <= image_hash.MAX_DISTANCE]
    assert list(zip(found.first.tolist(), found.second.tolist(), strict=True)) == expected and len(expected) > 20
    assert found.distance.tolist() == [distances[pair] for pair in expected]


def test_very_many_pairs_lower_the_limit(monkeypatch):
    monkeypatch.setattr(image_hash, "_ROWS", 2)
    images = [scene(0)] * 4 + [encoded(scene(0), quality) for quality in (60, 20, 8)]
    everything = found_among(images)
    assert len(everything.first) == 21 and everything.limit == image_hash.MAX_DISTANCE
    monkeypatch.setattr(image_hash, "MAX_PAIRS", 8)
    fewer = found_among(images)
    assert fewer.limit < image_hash.MAX_DISTANCE and 6 <= len(fewer.first) <= 8
    assert sorted(fewer.distance.tolist()) == sorted(everything.distance.tolist())[: len(fewer.first)]
