"""Damaged image files and odd folders, by the thousand: each is an image or a listing, or a named error, at once."""

import io
import json
import os
import time

import numpy as np
import pytest
from PIL import Image

from flax_augtl.data.errors import DataError, UnreadableImage
from flax_augtl.data.images.decode import read_image
from flax_augtl.data.sources.folder import list_folder

PER_FORMAT = 600  # Of four formats: 2400 files.


def seeds(form):
    """A few sound files of a format, with the features that decoders have branches for."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "described"
    variants = {
        "JPEG": [{}, {"progressive": True}, {"exif": exif.tobytes()}, {"subsampling": 0, "optimize": True}],
        "PNG": [{}, {"optimize": True}, {"exif": exif.tobytes()}],
        "GIF": [{}, {"save_all": True, "append_images": [noise.rotate(90), noise.rotate(180)]}, {"transparency": 0}],
        "WEBP": [{}, {"lossless": True}, {"save_all": True, "append_images": [noise.rotate(180)]}],
    }[form]
    for options in variants:
        file = io.BytesIO()
        noise.save(file, form, **options)
        yield file.getvalue()
    if form == "PNG":
        for image in (noise.convert("L"), noise.quantize(16), noise.convert("RGBA"), noise.convert("1")):
            file = io.BytesIO()
            image.save(file, form)
            yield file.getvalue()


def mutated(content, rng):
    """One damaged copy: bytes changed, cut, doubled or set to what breaks parsers, at the front more often."""
    data = bytearray(content)
    for _ in range(int(rng.integers(1, 4))):
        span = len(data) if rng.random() < 0.5 else min(len(data), 64)
        at = int(rng.integers(0, max(span, 1)))
        length = int(rng.integers(1, 16))
        match int(rng.integers(0, 6)):
            case 0:
                data[at : at + length] = rng.bytes(length)
            case 1:
                data = data[: max(at, 1)]
            case 2:
                del data[at : at + length]
            case 3:
                data[at:at] = data[at : at + length] * 3
            case 4:
                data[at : at + 4] = [b"\xff\xff\xff\xff", b"\x00\x00\x00\x00", b"\x7f\xff\xff\xff"][rng.integers(0, 3)]
            case 5:
                if at < len(data):
                    data[at] ^= 1 << int(rng.integers(0, 8))
    return bytes(data)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "WEBP"])
def test_a_damaged_file_is_an_image_or_a_named_error(form):
    originals = list(seeds(form))
    images = errors = 0
    for number in range(PER_FORMAT):
        rng = np.random.default_rng([number, len(form)])
        content = mutated(originals[number % len(originals)], rng)
        start = time.perf_counter()
        try:
            image = read_image(content, name=f"{form} {number}", max_pixels=4_000_000,
                                 at_least=(8, 8) if number % 2 else None)  # fmt: skip
        except UnreadableImage as error:
            errors += 1
            assert error.path == f"{form} {number}" and error.reason and "\n" not in error.reason
        else:
            images += 1
            assert image.mode == "RGB" and np.asarray(image).shape == (*image.size[::-1], 3)
        assert time.perf_counter() - start < 2, number
    assert images + errors == PER_FORMAT
    assert images >= 3 and errors > 100  # PNG has check sums, so few of its files pass.


NAMES = (
    *("a", "b", "A", "a ", "train", "test", "val", "seg_train", "seg_test", "pred", "images", "@eaDir", ".x", "at [1]"),
    *(
        "caf\u00e9",
        "cafe\u0301",
        os.fsdecode(b"caf\xe9"),
        "line\nbreak",
        "x" * 200,
        "1.png",
        "2.png",
        "README",
        "c.txt",
    ),
)


def grow(folder, rng, depth, everything):
    """A few files, folders, links and pipes with names of all kinds."""
    for name in rng.choice(NAMES, int(rng.integers(1, 6)), replace=False).tolist():
        path = folder / name
        everything.append(path)
        match int(rng.integers(0, 8 if depth < 3 else 3)):
            case 0:
                path.write_bytes(b"\x89PNG\r\n\x1a\n")
            case 1:
                path.symlink_to(everything[int(rng.integers(len(everything)))])
            case 2:
                os.mkfifo(path)
            case _:
                path.mkdir()
                grow(path, rng, depth + 1, everything)


def test_any_tree_is_a_listing_or_a_sentence(tmp_path):
    listings = 0
    for number in range(150):
        root = tmp_path / str(number)
        root.mkdir()
        grow(root, np.random.default_rng(number), 0, [root])
        try:
            listing = list_folder(root)
        except DataError as error:
            assert str(error).encode() and str(error).rstrip().endswith(".")
            continue
        listings += 1
        json.dumps([listing.class_names, listing.notes], ensure_ascii=False).encode()
        ids = [listing.ids.get(path, path) for paths, _ in listing.splits.values() for path in paths]
        assert len(set(ids)) == len(ids) and "".join(ids).encode() is not None
        assert all(os.path.lexists(root / path) for paths, _ in listing.splits.values() for path in paths)
        assert list_folder(root).class_names == listing.class_names
    assert listings > 15
