import numpy as np
import pytest

from flax_augtl.data import ArraySource, Examples, eval_batches, load_dataset, train_batches
from flax_augtl.data.images.transforms import at_least_square, training_path
from flax_augtl.pretrained import Preprocessing

SIZE = 24


@pytest.fixture
def folder(make_folder):
    return load_dataset({"root": make_folder({"train/a": 6, "train/b": 5, "test/a": 3, "test/b": 4}), "validation": 0},
                        seed=0)  # fmt: skip


@pytest.fixture
def arrays():
    images = np.random.default_rng(0).integers(0, 256, (11, SIZE, SIZE, 3), dtype=np.uint8)
    return Examples(ArraySource(images), np.arange(11), np.arange(11, dtype=np.int32) % 2, tuple("abcdefghijk"))


@pytest.fixture
def batches(preprocessing, data):
    """(examples, batch_size, changes of the data, other arguments) → list of batches."""

    def run(examples, batch_size=4, steps=7, changes=None, **arguments):
        return list(
            train_batches(
                examples,
                preprocessing(SIZE),
                data(**(changes or {})),
                batch_size=batch_size,
                image_size=SIZE,
                seed=3,
                steps=steps,
                **arguments,
            )  # fmt: skip
        )

    return run


def joined(batches, name):
    return np.concatenate([batch[name] for batch in batches])


def assert_same(left, right):
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)
            assert a[name].dtype == b[name].dtype


def test_a_batch_is_what_the_step_expects(folder, batches):
    (batch,) = batches(folder.train, batch_size=16, steps=1)
    assert {name: (value.shape, value.dtype) for name, value in batch.items()} == {
        "image": ((16, SIZE, SIZE, 3), np.uint8),
        "label": ((16,), np.int32),
        "id": ((16,), np.uint32),
        "view": ((16,), np.int32),
    }


@pytest.mark.parametrize("kind", ["folder", "arrays"])
@pytest.mark.parametrize("crop", ["resized", "random", "none"])
def test_resuming_at_every_position_of_an_epoch_goes_on_exactly(kind, crop, request, batches):
    examples = request.getfixturevalue(kind)
    examples = examples.train if kind == "folder" else examples
    whole = batches(examples, changes={"crop": crop})
    for position in range(8):
        assert_same(batches(examples, position=position, changes={"crop": crop}), whole[position:])


@pytest.mark.parametrize("threads", [0, 1, 4])
def test_threads_do_not_change_the_stream(folder, batches, threads):
    assert_same(batches(folder.train, changes={"threads": threads}), batches(folder.train))


@pytest.mark.parametrize("workers", [1, 4])
def test_workers_do_not_change_the_stream(folder, batches, workers):
    """Worker processes, which begin in the middle of an epoch; batches of 40 give each of them work."""
    found = batches(folder.train, batch_size=40, changes={"workers": workers}, position=2, steps=6)
    assert_same(found, batches(folder.train, batch_size=40, steps=6)[2:])


def test_more_than_one_chunk_a_batch_is_the_same_stream(folder, batches):
    """Threads and workers make 16 examples at a time; 40 are two chunks and a half."""
    assert_same(batches(folder.train, batch_size=40, changes={"threads": 3}),
                batches(folder.train, batch_size=40, changes={"threads": 0}))  # fmt: skip
    small = batches(folder.train, batch_size=8, steps=35)
    for name in ("image", "id"):
        np.testing.assert_array_equal(joined(batches(folder.train, batch_size=40), name), joined(small, name))


@pytest.mark.parametrize("kind", ["folder", "arrays"])
@pytest.mark.parametrize("processes", [2, 4])
def test_processes_joined_are_one_process(kind, processes, request, batches):
    examples = request.getfixturevalue(kind)
    examples = examples.train if kind == "folder" else examples
    shards = [batches(examples, process_index=i, process_count=processes) for i in range(processes)]
    whole = batches(examples)
    for step, batch in enumerate(whole):
        for name, value in batch.items():
            for i in range(processes):
                np.testing.assert_array_equal(shards[i][step][name], value[i::processes])


def test_the_batch_size_does_not_change_the_stream(folder, batches):
    one, six, more_than_all = (batches(folder.train, batch_size=b, steps=36 // b) for b in (1, 6, 36))
    for name in ("image", "label", "id", "view"):
        np.testing.assert_array_equal(joined(one, name), joined(six, name))
        np.testing.assert_array_equal(joined(one, name), joined(more_than_all, name))


def test_an_epoch_trains_on_every_example_once(folder, batches):
    epoch = batches(folder.train, batch_size=11, steps=1)[0]
    assert sorted(epoch["id"]) == sorted(folder.train.draw_ids)
    label_of = dict(zip(folder.train.draw_ids, folder.train.labels, strict=True))
    assert [label_of[i] for i in epoch["id"]] == list(epoch["label"])


def test_a_view_is_one_image_and_views_differ(folder, batches):
    finite = batches(folder.train, batch_size=11, steps=4, changes={"views": 2})
    seen = {}
    for batch in finite:
        for i, view, image in zip(batch["id"], batch["view"], batch["image"], strict=True):
            assert view in (0, 1)
            seen.setdefault((i, view), set()).add(image.tobytes())
    assert len(seen) == 22
    assert all(len(images) == 1 for images in seen.values())
    assert len({images.pop() for images in seen.values()}) == 22


def test_the_run_seed_governs_the_order_and_the_view_seed_the_views(folder, preprocessing, data):
    def views(seed, view_seed):
        (batch,) = train_batches(folder.train, preprocessing(SIZE), data(view_seed=view_seed), batch_size=11,
                                 image_size=SIZE, seed=seed, steps=1)  # fmt: skip
        return list(batch["id"]), {i: image.tobytes() for i, image in zip(batch["id"], batch["image"], strict=True)}

    order, pixels = views(0, 0)
    other_order, same_pixels = views(1, 0)
    same_order, other_pixels = views(0, 1)
    assert order != other_order and pixels == same_pixels
    assert order == same_order and all(pixels[i] != other_pixels[i] for i in pixels)


def test_an_example_is_drawn_alike_whatever_else_is_in_the_data(folder, batches):
    whole = {
        i: image.tobytes() for b in batches(folder.train, 11, 1) for i, image in zip(b["id"], b["image"], strict=True)
    }
    part = batches(folder.train.take([1, 5, 7]), 3, 1)[0]
    for i, image in zip(part["id"], part["image"], strict=True):
        assert whole[i] == image.tobytes()


@pytest.mark.parametrize("process_count", [1, 2, 3])
@pytest.mark.parametrize("batch_size", [6, 12])
@pytest.mark.parametrize("kind", ["folder", "arrays"])
def test_evaluation_shows_every_example_once(kind, batch_size, process_count, request, preprocessing, data):
    examples = request.getfixturevalue(kind)
    examples = examples.test if kind == "folder" else examples
    transform = preprocessing(SIZE, 1.0 if kind == "arrays" else 0.875)
    shards = [
        list(eval_batches(examples, transform, data(), batch_size=batch_size, image_size=SIZE, process_index=i,
                          process_count=process_count))
        for i in range(process_count)
    ]  # fmt: skip
    assert len({len(shard) for shard in shards}) == 1
    seen = []
    for shard in shards:
        for batch in shard:
            assert batch["image"].shape == (batch_size // process_count, SIZE, SIZE, 3)
            assert batch["mask"].dtype == np.float32
            for row in np.flatnonzero(batch["mask"] == 0):
                assert not batch["image"][row].any() and batch["label"][row] == 0
            seen += [(batch["id"][row], batch["label"][row], batch["image"][row].tobytes())
                     for row in np.flatnonzero(batch["mask"])]  # fmt: skip
    expected = []
    for i in range(len(examples)):
        image = examples.source[examples.indices[i]]
        if kind == "folder":
            image = transform.resize_and_crop(image)
        expected.append((examples.draw_ids[i], examples.labels[i], np.asarray(image).tobytes()))
    assert sorted(seen) == sorted(expected)


def test_arrays_go_the_short_way_only_where_it_is_the_same(arrays, preprocessing, data):
    """A transform that enlarges and crops must be carried out, whatever the size of the images."""
    (batch,) = eval_batches(arrays, preprocessing(SIZE, 0.875), data(), batch_size=11, image_size=SIZE)
    assert (batch["image"] != arrays.source.images).any()


def test_a_batch_that_does_not_divide_is_refused(arrays, batches):
    with pytest.raises(ValueError, match="batch_size=5 is not divisible by the number of processes, 2"):
        batches(arrays, batch_size=5, process_count=2)


def test_a_run_that_is_over_yields_nothing(arrays, batches):
    assert batches(arrays, steps=3, position=3) == []
    assert batches(arrays, steps=3, position=5) == []


@pytest.mark.parametrize("crop", ["random", "none", "resized"])
@pytest.mark.parametrize("resize", ["squash", "none"])
def test_training_resizes_as_evaluation_does(tmp_path, noise_image, data, crop, resize):
    for label in "ab":
        (tmp_path / "images" / label).mkdir(parents=True)
        for number, size in enumerate([(60, 30), (30, 60), (20, 44), (24, 24)]):
            noise_image(number, size).save(tmp_path / "images" / label / f"{number}.png")
    train = load_dataset({"root": tmp_path / "images", "validation": 0, "test": 2}, seed=0).train
    transform = Preprocessing(image_size=24, crop_fraction=24 / 28, resize=resize)
    path = training_path(data(crop=crop), transform, 24)
    for index in train.indices.tolist():
        prepared = path.prepare(train.source, index)
        view = np.asarray(prepared) if path.finish is None else path.finish(prepared, 5, 1)
        assert view.shape == (24, 24, 3) and view.dtype == np.uint8
        image = train.source[index]
        if crop == "none":
            np.testing.assert_array_equal(view, transform.resize_and_crop(image))
        if crop == "random":
            whole = np.asarray(transform.resized(image) if resize == "squash" else at_least_square(image, 24))
            windows = np.lib.stride_tricks.sliding_window_view(whole, (24, 24, 3))
            assert (windows == view).all((-3, -2, -1)).any()
