"""metadata.csv and metadata.jsonl beside images, as Hugging Face's imagefolder has them."""

import json

import pytest

from flax_augtl.data import DataError, load_dataset


@pytest.fixture
def load(tmp_path, noise_image):
    """({path: "" for an image, else its text}, fields) → the dataset of the folder."""

    def run(files, **fields):
        for number, (name, text) in enumerate(files.items()):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text) if text else noise_image(number).save(tmp_path / name)
        return load_dataset({"name": "folder", "root": str(tmp_path), "validation": 0, **fields}, seed=0)

    return run


def images(*names):
    return dict.fromkeys(names, "")


FLAT = images("0.png", "1.png", "2.png", "3.png")
CSV = "file_name,label,text\n0.png,cat,x\n1.png,dog,y\n2.png,cat,z\n3.png,dog,x\n"
JSONL = "\n".join(json.dumps({"file_name": f"{i}.png", "label": i % 2, "objects": {"bbox": [1]}}) for i in range(4))


def test_a_flat_folder(load, labelled):
    dataset = load({**FLAT, "metadata.csv": CSV}, test=0.5)
    assert {**labelled(dataset), **labelled(dataset, "test")} == {
        "0.png": "cat", "1.png": "dog", "2.png": "cat", "3.png": "dog",
    }  # fmt: skip
    assert any(note.endswith("metadata.csv.") for note in dataset.notes)


def test_images_that_the_metadata_do_not_list_are_told(load):
    dataset = load({**FLAT, **images("4.png", "extra/5.png"), "metadata.csv": CSV}, test=0.5)
    (note,) = [note for note in dataset.notes if "left out" in note]
    assert note.startswith("2 images below ") and note.endswith("has no label for them: 4.png, extra/5.png.")
    assert len(dataset.train) + len(dataset.test) == 4


def test_json_lines(load):
    dataset = load({**FLAT, "metadata.jsonl": JSONL}, test=0.5)
    assert dataset.class_names == ("0", "1") and len(dataset.train) == len(dataset.test) == 2


def test_a_file_in_each_split(load, labelled):
    files = {
        f"{split}/{name}": text for split in ("train", "test") for name, text in {**FLAT, "metadata.csv": CSV}.items()
    }
    dataset = load({**files, "train/metadata.csv": CSV.replace("0.png", "./0.png")})
    assert labelled(dataset) == {
        "train/0.png": "cat", "train/1.png": "dog", "train/2.png": "cat", "train/3.png": "dog",
    }  # fmt: skip
    assert labelled(dataset, "test").keys() == {f"test/{i}.png" for i in range(4)}


def test_one_file_for_the_splits_of_its_paths(load, labelled):
    rows = "file_name,label\ntrain/0.png,a\ntrain/1.png,b\nvalidation/2.png,a\nvalidation/3.png,b\n"
    dataset = load(
        {**images("train/0.png", "train/1.png", "validation/2.png", "validation/3.png"), "metadata.csv": rows}
    )
    assert labelled(dataset) == {"train/0.png": "a", "train/1.png": "b"}
    assert labelled(dataset, "test") == {"validation/2.png": "a", "validation/3.png": "b"}


FOLDERS = images("cat/0.png", "cat/2.png", "dog/1.png", "dog/3.png")


@pytest.mark.parametrize(
    "metadata",
    [
        "file_name,label\ncat/0.png,0\ncat/2.png,0\ndog/1.png,1\ndog/3.png,1\n",
        "file_name,text\ncat/0.png,a cat\n",
        "width,height\n1,2\n",
    ],
)
def test_class_folders_stay_the_classes_where_the_file_says_nothing_else(load, metadata):
    assert load({**FOLDERS, "metadata.csv": metadata}, test=0.5).class_names == ("cat", "dog")


def test_labels_across_the_folders_are_the_classes(load):
    rows = "file_name,label\ncat/0.png,x\ncat/2.png,y\ndog/1.png,y\ndog/3.png,x\n"
    assert load({**FOLDERS, "metadata.csv": rows}, test=0.5).class_names == ("x", "y")
    # A run of the first version, which did not read the file, goes on with the folders.
    assert load({}, test=0.5, folder_rules=1).class_names == ("cat", "dog")


def test_labels_that_nearly_are_the_folders_are_an_error(load):
    rows = "file_name,label\ncat/0.png,cat\ncat/2.png,dog\ndog/1.png,dog\ndog/3.png,dog\n"
    with pytest.raises(
        DataError, match="contradict the class folders: for instance cat has images labelled cat and dog"
    ):
        load({**FOLDERS, "metadata.csv": rows})
    dataset = load({**FOLDERS, "metadata.csv": rows}, label_column="label", test=1)
    assert sorted([*dataset.train.labels, *dataset.test.labels]) == [0, 1, 1, 1]


@pytest.mark.parametrize(
    "files, message",
    [
        ({"metadata.csv": CSV, "metadata.jsonl": JSONL}, "has metadata.csv and metadata.jsonl. Keep one"),
        ({"metadata.csv": CSV.replace("dog,y", ",y")}, "metadata.csv, line 3: “1.png” has no label"),
        ({"metadata.csv": CSV + "9.png,dog,x"}, "9.png cannot be read: there is no such file"),
        ({"metadata.csv": CSV.replace("text", "category")}, "which column is the label. It may be label, category;"),
    ],
)
def test_what_is_wrong_is_told(load, files, message):
    with pytest.raises(DataError, match=message):
        load({**FLAT, **files}, test=0.5)


def test_metadata_as_the_list(load, tmp_path):
    load({**FLAT, "metadata.csv": CSV}, test=0.5)
    fields = {"name": "list", "train_list": str(tmp_path / "metadata.csv"), "test": 0.5, "validation": 0}
    assert load_dataset(fields, seed=0).class_names == ("cat", "dog")
