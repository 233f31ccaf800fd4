"""One test split: no test image of any seed is in the training or validation data of any seed."""

from typing import Any

import numpy as np
import pytest

from flax_augtl.data import DataError, dataset_from_arrays, dataset_from_files, load_dataset
from flax_augtl.data.sources import tfds
from flax_augtl.data.sources.image_files import FileSource

SEEDS = range(6)
# What is trained on with one seed: all of the rest, some of each class, a share of it.
AMOUNTS = ({}, {"shots": 5}, {"rate": 0.5}, {"rate": 0.5, "shots": 4}, {"validation": 7}, {"folds": 4, "fold": 2})


@pytest.fixture
def folder(make_folder):
    return make_folder({"a": 20, "b": 15, "c": 12})


@pytest.fixture
def source(request, folder, tmp_path, monkeypatch):
    """(fields of config.data, seed) → dataset, of one kind of data."""
    files = sorted(folder.glob("*/*.png"))
    if request.param == "list":
        (tmp_path / "train.csv").write_text("".join(f"{path},{path.parent.name}\n" for path in files))
    images = np.random.default_rng(0).integers(0, 256, (47, 4, 4, 3), dtype=np.uint8)
    labels = np.repeat([0, 1, 2], (20, 15, 12))
    # What TFDS would have prepared: records that are found by their number.
    records: Any = FileSource("", tuple(map(str, files)))
    prepared = tfds.Prepared({"all": (records, np.arange(47), labels.astype(np.int32))}, ("a", "b", "c"), "top1", ())
    monkeypatch.setattr(tfds, "prepared", lambda *_: prepared)
    return {
        "folder": lambda data, seed: load_dataset({"name": "folder", "root": folder, **data}, seed=seed),
        "list": lambda data, seed: load_dataset(
            {"name": "list", "train_list": tmp_path / "train.csv", **data}, seed=seed
        ),
        "arrays": lambda data, seed: dataset_from_arrays(images, labels, data=data, seed=seed),
        "files": lambda data, seed: dataset_from_files(
            [(path, path.parent.name) for path in files], data=data, seed=seed
        ),
        "tfds": lambda data, seed: load_dataset({"name": "tf_flowers", **data}, seed=seed),
        "digits": lambda data, seed: load_dataset({"name": "digits", **data}, seed=seed),
        "glyphs": lambda data, seed: load_dataset({"name": "glyphs", "shots": 6, **data}, seed=seed),
    }[request.param]


def splits(source, data):
    """Return the test ids and the other ids over all seeds, and how many different test splits there are."""
    made = [source(data, seed) for seed in SEEDS]
    tests = {frozenset(dataset.test.ids) for dataset in made}
    known = {frozenset((*dataset.train.ids, *dataset.val.ids)) for dataset in made}
    validated = {frozenset(dataset.val.ids) for dataset in made}
    assert len(validated) == len(SEEDS)
    return frozenset().union(*tests), frozenset().union(*known), len(tests)


@pytest.mark.parametrize("data", AMOUNTS, ids=lambda data: "-".join(data) or "all")
@pytest.mark.parametrize("source", ["folder", "list", "arrays", "files", "tfds", "digits", "glyphs"], indirect=True)
def test_no_test_image_of_any_seed_is_known_to_any_seed(source, data, request):
    tested, known, different = splits(source, data)
    assert not tested & known
    # The folds of glyphs are made of what each seed draws.
    assert different == (len(SEEDS) if "glyphs" in request.node.name and "folds" in data else 1)


@pytest.mark.parametrize("source", ["folder", "digits"], indirect=True)
def test_another_split_seed_is_another_test_split(source):
    tests = {source({"split_seed": split_seed}, 0).test.ids for split_seed in range(4)}
    assert len(tests) == 4


@pytest.mark.parametrize("source", ["folder", "list", "arrays", "files", "tfds"], indirect=True)
def test_earlier_versions_carved_by_the_seed_of_the_run(source):
    for seed in range(3):
        before, same = source({"split_seed": None}, seed), source({"split_seed": seed}, seed)
        assert before.split_ids() == same.split_ids() and before.fingerprint == same.fingerprint
    assert source({}, 0).fingerprint == source({"split_seed": None}, 0).fingerprint


@pytest.mark.parametrize("source", ["folder"], indirect=True)
def test_the_log_says_that_the_test_split_is_one(source):
    assert source({}, 3).notes[-1] == (
        "9 of 47 images were set aside as the test split, the same for every config.seed (config.data.split_seed=0)."
    )
    assert source({"split_seed": None}, 3).notes[-1] == (
        "9 of 47 images were set aside as the test split, by config.seed, as earlier versions did."
    )


def test_digits_have_one_test_split_and_enough_left_for_twenty_shots():
    dataset = load_dataset({"name": "digits", "shots": 20, "validation": 0}, seed=5)
    assert len(dataset.test) == 1000 and len(dataset.train) == 200
    assert (np.bincount(dataset.test.labels) >= 95).all()
    with pytest.raises(DataError, match=r"config.data.shots=78 asks for more .*: 8 \(77\)"):
        load_dataset({"name": "digits", "shots": 78}, seed=0)


def test_digits_of_earlier_versions_are_tested_on_all_the_rest():
    dataset = load_dataset({"name": "digits", "split_seed": None}, seed=0)
    assert (len(dataset.train), len(dataset.val), len(dataset.test)) == (80, 20, 1697)
    assert len({*dataset.train.ids, *dataset.val.ids, *dataset.test.ids}) == 1797
