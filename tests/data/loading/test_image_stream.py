"""Streams of prepared images: their order, how far they run ahead, and images that cannot be read."""

import itertools
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from flax_augtl.config.data_config import DataConfig
from flax_augtl.data.errors import DataError
from flax_augtl.data.images.preprocessing import Preprocessing
from flax_augtl.data.loading.image_stream import ImageStream, Prepared, input_stream, source_stream, view_path
from flax_augtl.data.sources.image_files import FileSource
from flax_augtl.errors import UserError

PREPROCESSING = Preprocessing(image_size=8)


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """21 images, of which the fourth and the last are damaged."""
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for number in range(21):
        if number in (3, 20):
            (folder / f"{number:02d}.png").write_bytes(b"no image")
        else:
            Image.fromarray(rng.integers(0, 256, (12, 15, 3), np.uint8)).save(folder / f"{number:02d}.png")
    return sorted(str(path) for path in folder.iterdir())


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("batch_size", [5, 12])
def test_files_come_in_order_with_the_reasons_of_those_that_cannot_be_read(paths, workers, batch_size):
    path = view_path(PREPROCESSING, "one")._replace(skips=True)
    data = DataConfig(threads=3, workers=workers)
    with source_stream(FileSource("", tuple(paths)), range(21), path, data, batch_size=batch_size) as stream:
        batches = list(stream)
    assert [len(batch.pixels) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)
    found = np.concatenate([batch.pixels for batch in batches])
    reasons = {
        number * batch_size + row: reason
        for number, batch in enumerate(batches)
        for row, reason in batch.unreadable.items()
    }
    assert sorted(reasons) == [3, 20] and all("not an image" in reason for reason in reasons.values())
    for place, name in enumerate(paths):
        if place in reasons:
            assert not found[place].any()
        else:
            np.testing.assert_array_equal(found[place], PREPROCESSING.resize_and_crop(Image.open(name)))


def test_ten_crops_of_worker_processes_are_those_of_threads(paths):
    path = view_path(PREPROCESSING, "ten_crop")._replace(skips=True)
    found = []
    for workers in (0, 1):
        data = DataConfig(workers=workers)
        with source_stream(FileSource("", tuple(paths)), range(6), path, data, batch_size=4) as stream:
            found.append(np.concatenate([batch.pixels for batch in stream]))
    assert found[0].shape == (6, 5, 8, 8, 3) and not found[0][3].any() and found[0][2].any()
    np.testing.assert_array_equal(*found)


def test_without_skipping_an_unreadable_image_is_an_error(paths):
    path = view_path(PREPROCESSING, "one")
    with (
        source_stream(FileSource("", tuple(paths)), range(21), path, DataConfig(), batch_size=5) as stream,
        pytest.raises(DataError, match="03.png"),
    ):
        list(stream)


def test_an_endless_iterator_is_read_a_bounded_number_of_images_ahead():
    taken = itertools.count()
    with ImageStream(
        taken, lambda some: Prepared(np.array(some, np.uint8), {}), batch_size=6, threads=2, ahead=12
    ) as stream:
        first, second = itertools.islice(stream, 2)
    assert (first.pixels.tolist(), second.pixels.tolist()) == ([*range(6)], [*range(6, 12)])
    assert next(taken) == 6 + 6 + 12


def test_what_users_pass_becomes_the_same_pixels(paths):
    given = [paths[0], Image.open(paths[1]), np.asarray(Image.open(paths[2]))]
    with input_stream(iter(given), PREPROCESSING, views="one", batch_size=2, threads=2) as stream:
        found = np.concatenate([batch.pixels for batch in stream])
    np.testing.assert_array_equal(found, [PREPROCESSING.resize_and_crop(Image.open(path)) for path in paths[:3]])
    with pytest.raises(UserError, match="takes several images"):
        input_stream(paths[0], PREPROCESSING, views="one", batch_size=2, threads=2)


def test_it_starts_without_jax_and_grain():
    code = (
        "import sys, flax_augtl.data.loading.image_stream\n"
        "print([name for name in ('jax', 'grain', 'flax') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
