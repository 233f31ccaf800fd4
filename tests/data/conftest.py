"""Small images on disk, and what a loader needs besides them."""

import numpy as np
import pytest
from PIL import Image

from flax_augtl.config.convert import typed_data
from flax_augtl.data import load_dataset
from flax_augtl.data.images.preprocessing import Preprocessing


@pytest.fixture
def preprocessing():
    """(image_size, crop_fraction=0.875) → an evaluation transform."""
    return lambda image_size=24, crop_fraction=0.875: Preprocessing(image_size=image_size, crop_fraction=crop_fraction)


@pytest.fixture
def data():
    """(changes) → the fields of config.data that loading needs."""
    base = {
        "name": "folder", "crop": "resized", "crop_scale": (0.25, 1.0), "view_seed": 0, "views": 0, "threads": 2,
    }  # fmt: skip
    return lambda **changes: typed_data({**base, **changes})


@pytest.fixture
def noise_image():
    """(number, size=(width, height)) → an image of noise that no other number has."""
    return lambda number, size=(40, 30): Image.fromarray(
        np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    )


@pytest.fixture
def make_folder(tmp_path, noise_image):
    """({"train/ants": 3, …}, root="images", suffix=".png") → a root with so many images in each folder."""

    def make(counts, root="images", suffix=".png"):
        number = 0
        for folder, count in counts.items():
            (tmp_path / root / folder).mkdir(parents=True, exist_ok=True)
            for i in range(count):
                number += 1
                noise_image(number).save(tmp_path / root / folder / f"{i:03d}{suffix}")
        return tmp_path / root

    return make


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """What is remembered of folders goes where no other test, and no user, looks."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def load_lists(tmp_path, noise_image):
    """({name of a list: its text}, files=names of the images, fields of config.data) → dataset.

    The images are a/000.png … b/003.png where no others are named.
    """
    usual = [f"{folder}/{i:03d}.png" for folder in "ab" for i in range(4)]

    def run(lists, files=usual, **fields):
        for number, name in enumerate(files):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            noise_image(number).save(tmp_path / name)
        for name, text in lists.items():
            (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        named = {
            f"{part}_list": name
            for part, name in ((name.split(".")[0], name) for name in lists)
            if part in ("train", "val", "test", "class")
        }
        return load_dataset({"name": "list", "root": str(tmp_path), "validation": 0, **named, **fields}, seed=0)

    return run


@pytest.fixture
def labelled():
    """(dataset, split) → {id: class name}."""

    def run(dataset, split="train"):
        examples = getattr(dataset, split)
        return {name: dataset.class_names[label] for name, label in zip(examples.ids, examples.labels, strict=True)}

    return run
