import numpy as np
import pytest

from flax_augtl.data import DataError, load_dataset


@pytest.fixture
def load(make_folder):
    """({name of a list: its text}, fields of config.data) → dataset; the images are a/000 … c/003, .png."""
    root = make_folder({"a": 4, "b": 4, "c c": 4})

    def run(lists, **fields):
        for name, text in lists.items():
            (root / name).write_text(text, encoding="utf-8")
        data = {
            "name": "list",
            "root": root,
            "validation": 0,
            **{f"{n.split('.')[0]}_list": n for n in lists},
            **fields,
        }
        return load_dataset(data, seed=0)

    return run


def labels(examples, dataset):
    return {path: dataset.class_names[label] for path, label in zip(examples.ids, examples.labels, strict=True)}


TRAIN = {"a/000.png": "ape", "a/001.png": "ape", "b/000.png": "bee", "c c/000.png": "see saw"}


@pytest.mark.parametrize(
    "name, text",
    [
        ("train.txt", "\n".join(f"{path} {label}" for path, label in TRAIN.items())),
        ("train.csv", "path,label\n" + "\n".join(f"{path},{label}" for path, label in TRAIN.items())),
        ("train.csv", "label,id,filename\n" + "\n".join(f"{label},7,{path}" for path, label in TRAIN.items())),
        ("train.csv", "\ufeff" + "\r\n".join(f'"{path}","{label}"' for path, label in TRAIN.items())),
        ("train.csv", "sep=;\npath;label\n" + "\n".join(f"{path};{label}" for path, label in TRAIN.items())),
        ("train.tsv", "\n".join(f"{path}\t{label}" for path, label in TRAIN.items()) + "\n\n"),
        ("train.lst", "\n".join(f"{path}\t{label}" for path, label in TRAIN.items())),
    ],
)
def test_every_way_of_writing_a_list_is_the_same_data(load, name, text):
    dataset = load({name: text, "test.txt": "a/003.png ape\nb/003.png bee"})
    assert labels(dataset.train, dataset) == TRAIN
    assert dataset.class_names == ("ape", "bee", "see saw")
    assert labels(dataset.test, dataset) == {"a/003.png": "ape", "b/003.png": "bee"}


def test_without_labels_the_folder_is_the_class(load):
    dataset = load({"train.txt": "a/000.png\nc c/001.png\nb/000.png", "test.txt": "c c/000.png"})
    assert labels(dataset.train, dataset) == {"a/000.png": "a", "b/000.png": "b", "c c/001.png": "c c"}


def test_mit_67(load):
    """TrainImages.txt and TestImages.txt, below Images/: the class is the folder, and there is no label."""
    dataset = load({"train.txt": "a/000.png\nb/000.png\nc c/000.png", "test.txt": "a/001.png\nc c/001.png"})
    assert dataset.class_names == ("a", "b", "c c")
    assert labels(dataset.test, dataset) == {"a/001.png": "a", "c c/001.png": "c c"}


def test_stanford_40(tmp_path, noise_image):
    """ImageSplits/train.txt beside JPEGImages/, where all images lie: the class is a part of the name."""
    names = [
        f"{action}_{i:03d}.jpg" for action in ("applauding", "riding_a_bike", "using_a_computer") for i in (1, 2, 10)
    ]
    (tmp_path / "JPEGImages").mkdir()
    (tmp_path / "ImageSplits").mkdir()
    for number, name in enumerate(names):
        noise_image(number).save(tmp_path / "JPEGImages" / name)
    for split, some in (("train", names[::3] + names[1::3]), ("test", names[2::3])):
        (tmp_path / "ImageSplits" / f"{split}.txt").write_text("\n".join(some))
    dataset = load_dataset({"name": "list", "root": tmp_path / "JPEGImages", "train_list": "../ImageSplits/train.txt",
                            "test_list": "../ImageSplits/test.txt", "validation": 0}, seed=0)  # fmt: skip
    assert dataset.class_names == ("applauding", "riding_a_bike", "using_a_computer")
    assert len(dataset.train) == 6
    assert labels(dataset.test, dataset) == {name: name[:-8] for name in names[2::3]}


def test_aircraft(load):
    """images_variant_train.txt: no endings, and labels of several words."""
    dataset = load({"train.txt": "a/000 F-16A/B\na/001 Cessna 172\na/002 707-320\n", "test.txt": "b/000 Cessna 172"})
    assert dataset.class_names == ("707-320", "Cessna 172", "F-16A/B")
    assert labels(dataset.train, dataset) == {
        "a/000.png": "F-16A/B", "a/001.png": "Cessna 172", "a/002.png": "707-320",
    }  # fmt: skip


CUB = {
    "images.txt": "1 001.Albatross/x_1.png\n2 001.Albatross/x_2.png\n10 002.Wren/y 1.png\n3 002.Wren/y_2.png\n",
    "image_class_labels.txt": "1 1\n2 1\n3 2\n10 2\n",
    "train_test_split.txt": "1 1\n2 0\n3 0\n10 1\n",
    "classes.txt": "1 001.Albatross\n2 002.Wren\n",
}


@pytest.fixture
def cub(tmp_path, noise_image):
    """(changes of the files) → the dataset of four images in CUB-200-2011's layout."""

    def run(class_list=None, **changes):
        for number, line in enumerate(CUB["images.txt"].splitlines()):
            file = tmp_path / "images" / line.split(" ", 1)[1]
            file.parent.mkdir(parents=True, exist_ok=True)
            noise_image(number).save(file)
        for name, text in CUB.items():
            (tmp_path / name).write_text(changes.get(name.split(".")[0], text))
        fields = {
            "name": "list",
            "root": tmp_path,
            "train_list": "images.txt",
            "class_list": class_list,
            "validation": 0,
        }
        return load_dataset(fields, seed=0)

    return run


def test_cub_with_its_own_class_list(cub):
    """The split of the file beside it must not get lost."""
    assert labels((dataset := cub(class_list="classes.txt")).test, dataset) == labels((same := cub()).test, same)


def test_cub(cub):
    """Three files that are joined by the numbers of the images."""
    dataset = cub()
    assert dataset.class_names == ("001.Albatross", "002.Wren")
    assert labels(dataset.train, dataset) == {
        "images/001.Albatross/x_1.png": "001.Albatross", "images/002.Wren/y 1.png": "002.Wren",
    }  # fmt: skip
    assert labels(dataset.test, dataset) == {
        "images/001.Albatross/x_2.png": "001.Albatross", "images/002.Wren/y_2.png": "002.Wren",
    }  # fmt: skip


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"image_class_labels": "1 1\n2 1\n3 2\n"}, "image_class_labels.txt has no line for the number 10"),
        ({"image_class_labels": CUB["image_class_labels.txt"] + "1 2"}, "line 5: the number 1 occurs twice"),
        ({"image_class_labels": "1 1\n2 1\n3 3\n10 2\n"}, "classes.txt has no line for the number 3"),
        ({"train_test_split": "1 1\n2 0\n3 2\n10 1\n"}, "image 3 is marked 2; it must be 1 or 0"),
        ({"classes": "1 001.Albatross\nWren\n"}, "classes.txt, line 2: “Wren” is not a number"),
    ],
)
def test_numbers_that_do_not_fit_together_are_told(cub, changes, message):
    with pytest.raises(DataError, match=message):
        cub(**changes)


def test_numbers_are_classes_in_numerical_order(load):
    dataset = load({"train.txt": "a/000.png 10\nb/000.png 9\na/001.png 10", "test.txt": "a/002.png 9"})
    assert dataset.class_names == ("9", "10")
    assert dataset.test.labels.tolist() == [0]


def test_numbers_name_the_lines_of_a_class_list(load):
    lists = {"train.txt": "a/000.png 0\nb/000.png 2", "test.txt": "a/002.png 2"}
    dataset = load({**lists, "class.txt": "ape\nbee\nsea cow\n"})
    assert dataset.class_names == ("ape", "bee", "sea cow")
    assert labels(dataset.train, dataset) == {"a/000.png": "ape", "b/000.png": "sea cow"}
    with pytest.raises(DataError, match="not in the class list .*2. Its numbers are 0, 1. Correct one of the two"):
        load({**lists, "class.txt": "ape\nbee\n"})


def test_names_must_be_in_the_class_list(load):
    with pytest.raises(DataError, match="not in the class list .*: bat. Its classes are ape, bee"):
        load({"train.txt": "a/000.png ape\nb/000.png bat", "class.txt": "ape\nbee"})


def test_one_list_is_split_and_two_are_train_and_test(load):
    both = "".join(f"{c}/{i:03d}.png\n" for c in "ab" for i in range(4))
    dataset = load({"train.txt": both}, test=0.25)
    assert (len(dataset.train), len(dataset.test)) == (6, 2)
    dataset = load({"train.txt": "a/000.png\nb/000.png", "val.txt": "a/001.png\nb/001.png"}, test_list=None)
    assert dataset.val is None and len(dataset.test) == 2
    assert any("the validation list is used as the test split" in note for note in dataset.notes)


def test_three_lists_are_three_splits(load):
    dataset = load({"train.txt": "a/000.png\nb/000.png", "val.txt": "a/001.png", "test.txt": "a/002.png\nb/002.png"})
    assert (dataset.val.ids, dataset.test.ids) == (("a/001.png",), ("a/002.png", "b/002.png"))


@pytest.mark.parametrize(
    "lists, message",
    [
        ({}, "needs config.data.train_list"),
        ({"train.txt": ""}, "train.txt has no images"),
        ({"train.txt": "a/000.png\na/001.png"}, "only one class, a"),
        ({"train.txt": "a/000.png\na/000.png\nb/000.png"}, "a/000.png is twice in the train list"),
        ({"train.txt": "a/000.png\nb/000.png", "test.txt": "a/000.png"}, "a/000.png is in the train and test lists"),
        ({"train.txt": "000.png\n001.png"}, "line 1: .*000.png.* has no label"),
        ({"train.txt": "a/000.png -1\nb/000.png 0"}, "label -1 is out of range"),
        ({"train.csv": "path,size\na/000.png,3"}, "one must be called path and one label"),
        ({"train.csv": "path,label\n,cat"}, "line 2: there is no path"),
        ({"train.txt": "a/000.png\nb/000.png", "test.txt": "c c/000.png"}, "in the test split only.*c c"),
        (
            {"train.txt": "a/000.png\nb/999.png", "test.txt": "a/001.png"},
            "b/999.png cannot be read: there is no such file",
        ),
        ({"train.txt": "a/000.png x\nb/000.png y", "class.txt": "x\ny\nx"}, "a class name twice"),
    ],
)  # fmt: skip
def test_a_list_that_is_wrong_is_told_where(load, lists, message):
    with pytest.raises(DataError, match=message):
        load(lists)


def test_files_that_are_not_there(load, tmp_path):
    with pytest.raises(DataError, match="is a folder, where a list file is needed"):
        load_dataset({"name": "list", "train_list": str(tmp_path)}, seed=0)
    with pytest.raises(DataError, match="list file gone.txt does not exist"):
        load({}, train_list="gone.txt")
    with pytest.raises(DataError, match="is not a folder"):
        load({}, train_list="x", root=tmp_path / "nowhere")
    (tmp_path / "latin.txt").write_bytes("a/000.png b\xe4r".encode("latin-1"))
    with pytest.raises(DataError, match="is not UTF-8 text. Save it as UTF-8."):
        load({}, train_list=str(tmp_path / "latin.txt"))


def test_labels_are_int32(load):
    assert load({"train.txt": "a/000.png 1\nb/000.png 2", "test.txt": "a/001.png 1"}).train.labels.dtype == np.int32
