from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from flax_augtl.config.data_config import DataConfig
from flax_augtl.data import DataError, eval_batches, load_dataset, train_batches, with_cache
from flax_augtl.data.loading.pixel_store import in_file, in_memory

SIZE = 24


@pytest.fixture
def folder(make_folder):
    root = make_folder({"train/a": 6, "train/b": 5, "val/a": 2, "val/b": 2, "test/a": 3, "test/b": 4}, suffix=".jpg")
    return load_dataset({"root": root}, seed=0)


@pytest.fixture
def stream(preprocessing, data):
    """(dataset, fields) → every array that training and evaluation see, over 3 epochs."""

    def run(dataset, **fields):
        settings = data(**fields)
        kept = with_cache(dataset, preprocessing(SIZE), settings, image_size=SIZE)
        batches = list(train_batches(kept.train, preprocessing(SIZE), settings, batch_size=4, image_size=SIZE, seed=3,
                                     steps=9))  # fmt: skip
        for _ in range(2):
            for split in (kept.val, kept.test):
                batches += eval_batches(split, preprocessing(SIZE), settings, batch_size=4, image_size=SIZE)
        return kept, batches

    return run


@pytest.mark.parametrize("cache", ["auto", "memory", "file"])
@pytest.mark.parametrize("views", [0, 2])
@pytest.mark.parametrize("crop", ["resized", "random", "none"])
def test_a_cache_changes_no_byte(folder, stream, cache, views, crop):
    _, expected = stream(folder, crop=crop, views=views)
    kept, found = stream(folder, crop=crop, views=views, cache=cache)
    assert len(kept.train.source.store) == 11 * (2 if views and crop != "none" else 1)
    for left, right in zip(found, expected, strict=True):
        for name in left:
            np.testing.assert_array_equal(left[name], right[name])


def test_with_a_full_cache_no_file_is_read_again(folder, stream):
    kept, first = stream(folder, cache="memory")
    for split in (folder.train, folder.val, folder.test):
        for index in split.indices:
            open(split.source.path(int(index)), "wb").close()
    import flax_augtl.data.loading.loader as loader

    settings = DataConfig(threads=2)
    from flax_augtl.data.images.preprocessing import Preprocessing

    again = loader.train_batches(
        kept.train, Preprocessing(SIZE), settings, batch_size=4, image_size=SIZE, seed=3, steps=9
    )
    for left, right in zip(again, first, strict=False):
        np.testing.assert_array_equal(left["image"], right["image"])


def test_too_little_room_keeps_some_and_changes_nothing(folder, stream):
    _, expected = stream(folder)
    kept, found = stream(folder, cache="memory", cache_gb=15_000e-9)  # Four images of 40 × 30.
    assert 0 < len(kept.train.source.store) < 11
    assert any("% of the images" in note for note in kept.notes)
    for left, right in zip(found, expected, strict=True):
        np.testing.assert_array_equal(left["image"], right["image"])


def test_auto_goes_to_a_file_when_the_budget_is_small(folder, stream, tmp_path):
    kept, _ = stream(folder, cache="auto", cache_gb=1e-6, cache_dir=str(tmp_path))
    assert any("scratch file" in note for note in kept.notes)
    assert isinstance(kept.train.source.store._room, np.memmap)
    assert not list(tmp_path.glob("pixels-*")), "the scratch file has no name, so nothing is left behind"


def test_what_was_chosen_is_told(folder, stream):
    kept, _ = stream(folder, cache="auto", cache_gb=1)
    (note,) = [note for note in kept.notes if note.startswith("Cache of pixels")]
    assert "train: each image in memory" in note and "val:" in note and "test:" in note
    assert kept.fingerprint == folder.fingerprint and kept.split_ids() == folder.split_ids()


def test_another_transform_is_not_served_from_the_cache(folder, stream, preprocessing, data):
    kept, _ = stream(folder, cache="memory", crop="none")
    plain = list(eval_batches(folder.test, preprocessing(20), data(), batch_size=8, image_size=20))
    found = list(eval_batches(kept.test, preprocessing(20), data(), batch_size=8, image_size=20))
    np.testing.assert_array_equal(found[0]["image"], plain[0]["image"])


def test_settings_that_do_not_go(folder, preprocessing, data):
    with pytest.raises(DataError, match="threads only"):
        with_cache(folder, preprocessing(SIZE), data(cache="memory", workers=2), image_size=SIZE)
    assert with_cache(folder, preprocessing(SIZE), data(cache="auto", workers=2), image_size=SIZE) is folder
    with pytest.raises(DataError, match="config.data.cache_dir=/no/such: No such file or directory. Give a folder"):
        with_cache(folder, preprocessing(SIZE), data(cache="file", cache_dir="/no/such"), image_size=SIZE)


@pytest.mark.parametrize("make", [in_memory, lambda size: in_file(size, "/tmp")])
def test_a_store(make):
    store = make(100)
    one, two = np.arange(48, dtype=np.uint8).reshape(4, 4, 3), np.full((2, 2, 3), 7, np.uint8)
    store.put(5, one)
    store.put(9, two)
    store.put(5, two.repeat(2, 0))  # The first stays.
    np.testing.assert_array_equal(store.get(5), one)
    np.testing.assert_array_equal(store.get(9), two)
    assert store.get(1) is None and store.used == 60 and len(store) == 2
    store.put(1, one)  # There is no room for it.
    assert store.get(1) is None and store.used == 60
    with pytest.raises(ValueError):
        store.get(5)[0, 0, 0] = 1


def test_a_scratch_file_on_a_full_disk_keeps_what_fits_and_says_so_once(small_disk, capfd):
    """Written through a memory map it would have been the end of the process, by SIGBUS."""
    folder, remount = small_disk
    remount("size=1m")
    store = in_file(3 * 2**20, folder)
    pixels = np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8)  # 48 KB.
    for number in range(60):
        store.put(number, pixels + np.uint8(number))
    assert 15 < len(store) < 22
    for number in range(60):
        kept = store.get(number)
        assert (kept is not None) == (number < len(store)) and (
            kept is None or (kept == pixels + np.uint8(number)).all()
        )
    said = capfd.readouterr().err
    assert said.count("The scratch file of config.data.cache is full at 0.00 GB: No space left on device.") == 1


def test_an_image_that_many_threads_make_at_once_takes_room_once():
    pixels = np.zeros((100, 100, 3), np.uint8)
    store = in_memory(20 * pixels.size)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: store.put(number // 8, pixels), range(160)))
    assert len(store) == 20 and store.used == 20 * pixels.size
