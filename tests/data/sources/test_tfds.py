"""TFDS, really: two of its builders prepare small archives that stand in its download cache."""

import importlib.util
import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from flax_augtl.data import DataError, check_there, load_dataset, train_batches
from flax_augtl.data.sources.tfds_prepare import prepare
from flax_augtl.data.sources.tfds_presets import PRESETS

needs_tensorflow = pytest.mark.skipif(
    importlib.util.find_spec("tensorflow") is None, reason="preparing needs the extra tfds (TensorFlow)"
)
FLOWERS = ("dandelion", "daisy", "tulips", "sunflowers", "roses")
FLOWERS_URL = "http://download.tensorflow.org/example_images/flower_photos.tgz"
DTD_URL = "https://www.robots.ox.ac.uk/~vgg/data/dtd/download/dtd-r1.0.1.tar.gz"


def jpeg(number):
    pixels = np.random.default_rng(number).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).resize((64, 48), Image.Resampling.BICUBIC).save(file, "JPEG", quality=95)
    return file.getvalue()


def archive(files, mode):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return out.getvalue()


def flowers_archive():
    files = {f"flower_photos/{name}/{i}.jpg": jpeg(100 * c + i) for c, name in enumerate(FLOWERS) for i in range(8)}
    return archive({**files, "flower_photos/LICENSE.txt": b"CC"}, "w:gz")


def dtd_archive():
    files, number = {}, 1000
    for split in ("train1", "val1", "test1"):
        lines = []
        for name in ("banded", "zigzagged", "woven"):
            for _ in range(3):
                number += 1
                files[f"dtd/images/{name}/{name}_{number}.jpg"] = jpeg(number)
                lines.append(f"{name}/{name}_{number}.jpg")
        files[f"dtd/labels/{split}.txt"] = "\n".join(lines).encode()
    return archive(files, "w")


def damaged_dtd_archive():
    """Two training images and a test image that are none; the first test image has the first one's pixels."""
    files, number = {}, 2000
    for split in ("train1", "val1", "test1"):
        lines = []
        for name in ("banded", "woven"):
            for _ in range(4):
                number += 1
                path = f"{name}/{name}_{number}.jpg"
                files[f"dtd/images/{path}"] = jpeg(number)
                lines.append(path)
        files[f"dtd/labels/{split}.txt"] = "\n".join(lines).encode()
    paths = [path for path in files if path.endswith(".jpg")]
    files[paths[1]] = files[paths[1]][:-300]
    files[paths[6]] = b"a text"
    files[paths[-1]] = b""
    files[paths[16]] = files[paths[0]][:2] + b"\xff\xfe\x00\x06copy" + files[paths[0]][2:]  # A comment, after SOI.
    return archive(files, "w")


def put_into_download_cache(data_dir, name, url, content):
    from tensorflow_datasets.core.download import checksums, resource

    expected = checksums.get_all_url_infos().get(url)
    if expected is None:
        import tensorflow_datasets as tfds

        known = tfds.builder_cls(name).url_infos
        assert known is not None
        expected = known[url]
    file = Path(data_dir, "downloads", name, resource.get_dl_fname(url, expected.checksum))
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    original = url.rsplit("/", 1)[1]
    known = {"checksum": expected.checksum, "size": expected.size, "filename": original}
    info = {"dataset_names": [name], "original_fname": original, "urls": [url], "url_info": known}
    Path(f"{file}.INFO").write_text(json.dumps(info))


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "flax_augtl.data", *arguments], capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3]), "CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds") / "sets [1]"  # TFDS and etils would take that for a pattern.
    folder.mkdir()
    return str(folder)


@pytest.fixture(scope="module")
def flowers(data_dir):
    put_into_download_cache(data_dir, "tf_flowers", FLOWERS_URL, flowers_archive())
    done = command("prepare", "tf_flowers", f"--data_dir={data_dir}")
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def dtd(data_dir):
    put_into_download_cache(data_dir, "dtd", DTD_URL, dtd_archive())
    done = command("prepare", "dtd", f"--data_dir={data_dir}")
    assert done.returncode == 0, done.stderr
    return done.stdout


@needs_tensorflow
def test_a_data_set_without_splits_is_split(flowers, data_dir, preprocessing, data):
    assert "train 40" in flowers
    dataset = load_dataset({"name": "tf_flowers", "root": data_dir, "test": 0.25, "validation": 0.2}, seed=0)
    assert dataset.class_names == FLOWERS
    assert (len(dataset.train), len(dataset.val), len(dataset.test)) == (24, 6, 10)
    assert (np.bincount(dataset.test.labels) == 2).all()
    assert any("no official test split" in note for note in dataset.notes)
    written = {jpeg(100 * c + i): c for c in range(5) for i in range(8)}
    for split in (dataset.train, dataset.val, dataset.test):
        for index, label in zip(split.indices, split.labels, strict=True):
            assert written[split.source.encoded(index)] == label
            reference = Image.open(io.BytesIO(split.source.encoded(index)))
            np.testing.assert_array_equal(np.asarray(split.source[index]), np.asarray(reference))
    whole = list(train_batches(dataset.train, preprocessing(24), data(), batch_size=8, image_size=24, seed=0, steps=4))
    for threads, workers in ((0, 0), (0, 2)):
        again = train_batches(dataset.train, preprocessing(24), data(threads=threads, workers=workers), batch_size=8,
                              image_size=24, seed=0, steps=4)  # fmt: skip
        for left, right in zip(again, whole, strict=True):
            for name in left:
                np.testing.assert_array_equal(left[name], right[name])


@needs_tensorflow
def test_official_splits_are_used(dtd, data_dir):
    assert "train 9" in dtd and "validation 9" in dtd and "test 9" in dtd
    dataset = load_dataset({"name": "dtd", "root": data_dir}, seed=0)
    assert (len(dataset.train), len(dataset.val), len(dataset.test)) == (9, 9, 9)
    assert len(dataset.class_names) == 47 and dataset.metric == "top1"
    assert {dataset.class_names[label] for label in dataset.test.labels} == {"banded", "zigzagged", "woven"}
    assert any("first of the ten official divisions" in note for note in dataset.notes)


@pytest.fixture(scope="module")
def damaged(tmp_path_factory):
    root = str(tmp_path_factory.mktemp("damaged"))
    put_into_download_cache(root, "dtd", DTD_URL, damaged_dtd_archive())
    done = command("prepare", "dtd", f"--data_dir={root}")
    assert done.returncode == 0, done.stderr
    return root


@needs_tensorflow
def test_bad_records_are_found_before_the_splits_are_made(damaged, monkeypatch):
    with pytest.raises(DataError, match=r"of dtd \(train\) cannot be read: .*on_bad_image=skip.*There is 1 more: ."):
        load_dataset({"name": "dtd", "root": damaged}, seed=0)
    skip = {"name": "dtd", "root": damaged, "on_bad_image": "skip"}
    dataset = load_dataset(skip, seed=0)
    assert (len(dataset.train), len(dataset.val), len(dataset.test)) == (6, 8, 7)
    assert sorted(reason.split(" (")[0] for reason in dataset.skipped.values()) == [
        "it is damaged", "it is empty", "its content is not an image of a known format",
    ]  # fmt: skip
    (note,) = [note for note in dataset.notes if "cannot be read" in note]
    assert "3 of 24 images" in note and all(path in note for path in dataset.skipped)
    for split in (dataset.train, dataset.val, dataset.test):
        for index in split.indices:
            split.source.read(int(index))
    # The second time nothing is decoded.
    monkeypatch.setattr("flax_augtl.data.splits.integrity.read_image", None)
    assert load_dataset(skip, seed=0).skipped == dataset.skipped


@needs_tensorflow
def test_records_that_are_copies_are_found(damaged):
    fields = {"name": "dtd", "root": damaged, "on_bad_image": "skip"}
    (note,) = [note for note in load_dataset(fields, seed=0).notes if "are in the training data too" in note]
    assert note.startswith("1 of 7 test images") and "(pixels)" in note
    assert len(load_dataset({**fields, "on_leak": "drop"}, seed=0).train) == 5


@needs_tensorflow
def test_preparing_twice_says_so(flowers, data_dir):
    done = command("prepare", "tf_flowers", f"--data_dir={data_dir}")
    assert done.returncode == 0 and "already prepared" in done.stdout


@needs_tensorflow
def test_tfrecord_is_recognised_and_converted(tmp_path):
    root = str(tmp_path)
    put_into_download_cache(root, "tf_flowers", FLOWERS_URL, flowers_archive())
    program = f"import tensorflow_datasets as t; t.builder('tf_flowers', data_dir={root!r}).download_and_prepare()"
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
    with pytest.raises(DataError, match="tfrecord.*Convert it") as refused:
        load_dataset({"name": "tf_flowers", "root": root}, seed=0)
    told = str(refused.value).split(": ")[-1].split()
    assert told[:4] == ["python", "-m", "flax_augtl.data", "prepare"]
    done = command(*told[3:])
    assert done.returncode == 0 and "converted" in done.stdout, done.stderr
    assert len(load_dataset({"name": "tf_flowers", "root": root, "validation": 0}, seed=0).train) == 32


def test_missing_data_name_the_command_that_gets_them(tmp_path):
    with pytest.raises(DataError, match=r"not prepared.*python -m flax_augtl.data prepare dtd --data_dir="):
        load_dataset({"name": "dtd", "root": str(tmp_path)}, seed=0)


def test_an_unknown_name_is_told_the_nearest():
    with pytest.raises(DataError, match="oxford_flowers102"):
        load_dataset({"name": "oxford_flower102"}, seed=0)
    with pytest.raises(DataError, match="Did you mean .*folder"):
        load_dataset({"name": "foldr"}, seed=0)


def test_an_unknown_config_or_version_is_a_sentence(tmp_path):
    with pytest.raises(DataError, match="TFDS does not have"):
        load_dataset({"name": "sun397/nothing-like-it", "root": str(tmp_path)}, seed=0)


@pytest.mark.parametrize("name", ["ag_news_subset", "lfw", "voc"])
def test_a_data_set_without_labels_is_refused_before_anything_is_downloaded(name, tmp_path):
    with pytest.raises(DataError, match=f"{name} does not hold images with one class each; it has "):
        check_there({"name": name, "root": str(tmp_path)})
    with pytest.raises(DataError, match="does not hold images with one class each"):
        prepare(name, str(tmp_path))


def construct_fails(monkeypatch, error):
    """Let the code of every dataset fail as `error`."""
    import tensorflow_datasets as tfds

    def builder(name, **_):
        raise type(error)(f"Failed to construct dataset {name}") from error

    monkeypatch.setattr(tfds, "builder", builder)


@pytest.mark.parametrize(
    "name, error, message",
    [
        ("coco", ModuleNotFoundError("No module named 'tensorflow'"),
         "coco does not hold images with one class each, but images with several objects .*oxford_flowers"),
        ("kuka", RuntimeError("AttributeError"), "kuka does not hold images .*, but records of robots"),
        ("cifar10", ModuleNotFoundError("No module named 'tensorflow'"),
         r"cifar10 needs the Python module tensorflow, which is not installed: pip install 'flax_augtl\[tfds\]'"),
        ("cifar10", ModuleNotFoundError("No module named 'pandas.core'"), "the Python module pandas, .*install pandas"),
        ("cifar10", RuntimeError("x has no attribute y"), r"TFDS .* cannot make cifar10 .*data.name=folder, list"),
        ("huggingface:cifar10", OSError("no network"), 'cannot open "huggingface:cifar10".*config.data.name=folder'),
    ],
)  # fmt: skip
def test_code_that_does_not_run_is_a_sentence(name, error, message, tmp_path, monkeypatch):
    construct_fails(monkeypatch, error)
    with pytest.raises(DataError, match=message):
        load_dataset({"name": name, "root": str(tmp_path)}, seed=0)


def test_a_file_that_tfds_lacks_is_named(tmp_path):
    """TFDS 4.9 comes without the class names of this dataset."""
    try:
        check_there({"name": "i_naturalist2021", "root": str(tmp_path)})
    except DataError as error:
        assert "lacks i_naturalist2021_labels_ordered_by_json_id.txt" in str(error) or "is not prepared" in str(error)
    else:
        pytest.fail("it is not prepared")


@needs_tensorflow
def test_what_is_prepared_is_read_though_its_code_does_not_run(flowers, data_dir, monkeypatch):
    expected = load_dataset({"name": "tf_flowers", "root": data_dir}, seed=0)
    construct_fails(monkeypatch, ModuleNotFoundError("No module named 'tensorflow'"))
    assert load_dataset({"name": "tf_flowers", "root": data_dir}, seed=0).fingerprint == expected.fingerprint


def test_a_path_in_place_of_a_name(tmp_path):
    with pytest.raises(DataError, match=f"is a path. Set config.data.name=folder and config.data.root={tmp_path}"):
        load_dataset({"name": str(tmp_path)}, seed=0)
    (tmp_path / "train.csv").write_text("")
    with pytest.raises(DataError, match="is a path. Set config.data.name=list and config.data.train_list=.*train.csv"):
        load_dataset({"name": str(tmp_path / "train.csv")}, seed=0)


@pytest.mark.parametrize(
    "name, message",
    [
        ("", 'config.data.name="" is not known'),
        ("no such", 'config.data.name="no such" is not known'),
        ("Cifar-10", "Did you mean cifar10"),
        ("kaggle:cats", "is not known"),
        ("cifar10/big", "BuilderConfig big not found.* cifar10 has no configs"),
        ("sun397/standard-part1-120", "Did you mean standard-part1-120k"),
        ("cifar10:9.9.9", "cifar10 cannot be loaded at version 9.9.9, only: "),
    ],
)
def test_names_that_tfds_does_not_have(name, message, tmp_path, capsys):
    with pytest.raises(DataError, match=message) as refused:
        check_there({"name": name, "root": str(tmp_path)})
    assert "Failed to construct" not in str(refused.value) and capsys.readouterr().out == ""


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_is_a_builder_of_labelled_images(name, tmp_path):
    from flax_augtl.data.sources.tfds import builder_of
    from flax_augtl.data.sources.tfds_records import image_and_label

    builder: Any = builder_of(name, str(tmp_path))
    assert image_and_label(builder) == ("image", "label")
    names = builder.info.features["label"].names
    assert set(PRESETS[name].leaves_out) <= set(names)
    if PRESETS[name].config:
        assert builder.builder_config.name == PRESETS[name].config


def test_preparing_without_tensorflow_says_what_to_install(tmp_path):
    if importlib.util.find_spec("tensorflow"):
        pytest.skip("TensorFlow is installed")
    done = command("prepare", "dtd", f"--data_dir={tmp_path}")
    assert done.returncode == 1 and "pip install 'flax_augtl[tfds]'" in done.stderr and "Traceback" not in done.stderr
