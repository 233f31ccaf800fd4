import jax
import numpy as np
import pytest

from flax_augtl.data import DataError, load_dataset, train_batches
from flax_augtl.data.loading.device_dataset import cut, make_pool, pool_batches

SIZE = 24


@pytest.fixture
def folder(tmp_path, noise_image):
    """Images of many sizes, smooth enough to be scaled in a sensible way."""
    for label in ("a", "b"):
        (tmp_path / "images" / label).mkdir(parents=True)
        for i in range(8):
            small = noise_image(10 * ord(label) + i, (6, 5))
            small.resize((40 + 5 * i, 70 - 4 * i), 3).save(tmp_path / "images" / label / f"{i}.png")
    return load_dataset({"root": tmp_path / "images", "validation": 0, "test": 2}, seed=0).train


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("crop, tolerance", [("none", 0), ("random", 0), ("resized", 2)])
def test_the_device_makes_the_pixels_of_the_host(folder, preprocessing, data, crop, tolerance, interpolation):
    settings, transform = data(crop=crop, views=3), preprocessing(SIZE).replace(interpolation=interpolation)
    pool = make_pool(folder, transform, settings, image_size=SIZE)
    assert pool is not None
    how = {"image_size": SIZE, "crop": pool.crop, "method": pool.method}
    compiled = jax.jit(lambda images, sizes, index, box: cut(images, sizes, index, box, **how))
    order = {"batch_size": 6, "seed": 5, "steps": 7, "position": 2}
    host = train_batches(folder, transform, settings, image_size=SIZE, **order)
    device = pool_batches(pool, folder, settings, **order)
    count = 0
    for expected, batch in zip(host, device, strict=True):
        for name in ("label", "id", "view"):
            np.testing.assert_array_equal(batch[name], expected[name])
        images = np.asarray(compiled(pool.images, pool.sizes, batch["index"], batch["box"]))
        difference = np.abs(images.astype(int) - expected["image"].astype(int))
        assert difference.max() <= tolerance
        count += 1
    assert count == 5


def test_processes_take_their_strides(folder, preprocessing, data):
    pool = make_pool(folder, preprocessing(SIZE), data(crop="none"), image_size=SIZE)
    assert pool is not None
    one, *shards = [
        list(pool_batches(pool, folder, data(crop="none"), batch_size=6, seed=0, steps=4, process_index=i,
                          process_count=n))
        for i, n in ((0, 1), (0, 2), (1, 2))
    ]  # fmt: skip
    for step, batch in enumerate(one):
        for i, shard in enumerate(shards):
            np.testing.assert_array_equal(shard[step]["index"], batch["index"][i::2])


def test_a_pool_that_does_not_fit_is_not_made(folder, preprocessing, data):
    assert make_pool(folder, preprocessing(SIZE), data(cache_gb=1e-6), image_size=SIZE) is None


def test_what_the_device_cannot_do_is_refused(folder, preprocessing, data):
    with pytest.raises(DataError, match="policy runs on the host"):
        make_pool(folder, preprocessing(SIZE), data(policy="rand"), image_size=SIZE)
    with pytest.raises(DataError, match="nearest cannot be done on the device"):
        make_pool(folder, preprocessing(SIZE).replace(interpolation="nearest"), data(), image_size=SIZE)
