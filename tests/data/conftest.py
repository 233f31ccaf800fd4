"""Small pictures on disk, and what a loader needs besides them."""

import numpy as np
import pytest
from PIL import Image

from flax_augtl.pretrained.preprocessing import Preprocessing


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
    return lambda **changes: {**base, **changes}


@pytest.fixture
def picture():
    """(number, size=(width, height)) → a picture of noise that no other number has."""
    return lambda number, size=(40, 30): Image.fromarray(
        np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    )


@pytest.fixture
def make_folder(tmp_path, picture):
    """({"train/ants": 3, …}, root="pictures", suffix=".png") → a root with so many pictures in each folder."""

    def make(counts, root="pictures", suffix=".png"):
        number = 0
        for folder, count in counts.items():
            (tmp_path / root / folder).mkdir(parents=True, exist_ok=True)
            for i in range(count):
                number += 1
                picture(number).save(tmp_path / root / folder / f"{i:03d}{suffix}")
        return tmp_path / root

    return make


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """What is remembered of folders goes where no other test, and no user, looks."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
