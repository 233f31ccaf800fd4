"""Kept activations on disk: reused, checked, and computed again if they are damaged or have another key."""

import json

import numpy as np
import pytest

from flax_augtl.features.activations import choose
from flax_augtl.features.array_store import BLOCK, Store
from flax_augtl.workdir.files import CannotWrite

SHAPES = {"fc": ((3,), "float32"), "stem": ((2, 2), "bfloat16")}
ROWS = 2 * BLOCK + 5


def filled(folder, key="key", rows=ROWS):
    store = Store(SHAPES, rows, key, folder)
    for first, stop in store.missing():
        numbers = np.arange(first, stop, dtype=np.float32)
        store.put(first, {"fc": np.repeat(numbers[:, None], 3, 1), "stem": np.ones((stop - first, 2, 2)) * numbers[0]})
    store.flush()
    return store


def test_a_store_in_memory_returns_its_rows():
    store = filled(None)
    np.testing.assert_array_equal(store.arrays["fc"][:, 1], np.arange(ROWS))
    assert not list(store.missing()) and store.bytes == ROWS * (12 + 8)


def test_files_are_found_again(tmp_path):
    filled(tmp_path)
    store = Store(SHAPES, ROWS, "key", tmp_path)
    assert not list(store.missing())
    np.testing.assert_array_equal(store.arrays["fc"][:, 2], np.arange(ROWS))


def test_a_full_disk_is_an_error_and_what_was_written_is_reused(small_disk):
    """Writing through a memory map would end the process by SIGBUS."""
    folder, remount = small_disk
    remount("size=1m")
    rows = 3 * 2**20 // 20  # Three times as much as fits.
    with pytest.raises(
        CannotWrite, match=r"The cache in .* cannot be written: No space left on device. Free some disk,"
    ):
        filled(folder / "cache", rows=rows)
    assert not (folder / "cache" / "manifest.json").exists()
    remount("size=8m")
    filled(folder / "cache", rows=rows)
    store = Store(SHAPES, rows, "key", folder / "cache")
    assert not list(store.missing()) and store.arrays["fc"][-1, 0] == rows - 1


@pytest.mark.parametrize("name", ["fc", "stem"])
def test_a_flipped_bit_invalidates_only_its_block(tmp_path, name):
    filled(tmp_path)
    path = tmp_path / f"{name}.bin"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert list(Store(SHAPES, ROWS, "key", tmp_path).missing()) == [(BLOCK, 2 * BLOCK)]


def test_a_truncated_file_is_created_again(tmp_path):
    filled(tmp_path)
    (tmp_path / "fc.bin").write_bytes((tmp_path / "fc.bin").read_bytes()[:-1])
    assert len(list(Store(SHAPES, ROWS, "key", tmp_path).missing())) == 3


@pytest.mark.parametrize("content", ["", "{", "[]", '{"key": "other", "sums": {}}', '{"key": "key", "sums": []}'])
def test_a_checksum_file_of_another_store_is_ignored(tmp_path, content):
    filled(tmp_path)
    (tmp_path / "manifest.json").write_text(content)
    assert len(list(Store(SHAPES, ROWS, "key", tmp_path).missing())) == 3


def test_files_with_another_key_are_discarded(tmp_path):
    filled(tmp_path, key="weights of yesterday")
    assert len(list(Store(SHAPES, ROWS, "key", tmp_path).missing())) == 3


def test_rows_flushed_before_an_interruption_are_not_computed_again(tmp_path):
    store = Store(SHAPES, ROWS, "key", tmp_path)
    store.put(0, {"fc": np.ones((BLOCK, 3)), "stem": np.ones((BLOCK, 2, 2))})
    store.flush()
    assert list(Store(SHAPES, ROWS, "key", tmp_path).missing()) == [(BLOCK, 2 * BLOCK), (2 * BLOCK, ROWS)]
    assert json.loads((tmp_path / "manifest.json").read_text())["key"] == "key"


def test_a_folder_that_cannot_be_written_is_reported(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot be written.*config.study.cache"):
        Store(SHAPES, ROWS, "key", tmp_path / "file" / "below")


def test_the_smallest_arrays_are_kept_within_the_budget():
    shapes = {"pictures": ((10, 10, 3), "uint8"), "layer3": ((4, 4, 8), "float32"), "fc": ((10,), "float32")}
    assert choose(shapes, 100, 1e9) == ["fc", "pictures", "layer3"]
    assert choose(shapes, 100, 4000 + 30000) == ["fc", "pictures"]
    assert choose(shapes, 100, 3999) == []
