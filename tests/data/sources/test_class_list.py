"""The file of class names in every form that people write it in."""

import pytest

from flax_augtl.data import DataError

FROM_0 = {"train.txt": "a/000.png 0\nb/000.png 1", "test.txt": "a/003.png 0\nb/003.png 1"}
FROM_1 = {"train.txt": "a/000.png 1\nb/000.png 2", "test.txt": "a/003.png 1\nb/003.png 2"}
NAMES = {"train.txt": "a/000.png ants\nb/000.png bees", "test.txt": "a/003.png ants\nb/003.png bees"}


@pytest.mark.parametrize("lists", [FROM_0, NAMES])
@pytest.mark.parametrize(
    "content",
    [
        "ants\nbees\n",
        "class\nants\nbees\n",
        "Class Names\nants\nbees\n",
        "id,name\n0,ants\n1,bees\n",
        "0,ants\n1,bees\n",
        "1,bees\n0,ants\n",
        "0 ants\n1 bees\n",
        "0\tants\n1\tbees\n",
        "0: ants\n1: bees\n",
        "ants,0\nbees,1\n",
        "ants 0\nbees 1\n",
        "nr;naam\n0;ants\n1;bees\n",
        "id,name,order\n0,ants,x\n1,bees,y\n",
        "# the classes\n\nants\nbees\n",
        ",class\n0,ants\n1,bees\n",
        ",0\n0,ants\n1,bees\n",
        ",class,count\n0,ants,44\n1,bees,5\n",
        "name,colour\nants,red\nbees,black\n",
        "colour,class,count\nred,ants,44\nblack,bees,5\n",
        "{0: 'ants',\n 1: 'bees'}\n",
        '{"0": ["n01", "ants"], "1": ["n02", "bees"]}',
        "1. bees\n0. ants\n",
        "0) ants\n1) bees\n",
        "0 - ants\n1 - bees\n",
        "0|ants\n1|bees\n",
        '"ants"\n"bees"\n',
        "ants,\nbees,\n",
        pytest.param("class\nants\nbees\n".encode("utf-16"), id="UTF-16"),
    ],
)
def test_every_form_is_the_same_classes(load_lists, labelled, lists, content):
    dataset = load_lists({**lists, "class.txt": content})
    assert dataset.class_names == ("ants", "bees")
    assert labelled(dataset) == {"a/000.png": "ants", "b/000.png": "bees"}


@pytest.mark.parametrize("content", ["1 ants\n2 bees", "1,ants\n2,bees", "class_id,class_name\n2,bees\n1,ants"])
def test_numbers_of_the_class_list_are_those_of_the_labels(load_lists, labelled, content):
    assert labelled(load_lists({**FROM_1, "class.txt": content})) == {"a/000.png": "ants", "b/000.png": "bees"}
    with pytest.raises(DataError, match="not in the class list .*: 0. Its numbers are 1, 2. Correct one of the two"):
        load_lists({**FROM_0, "class.txt": content})


@pytest.mark.parametrize("content", ['["ants", "bees"]', '{"0": "ants", "1": "bees"}', '{"bees": 1, "ants": 0}'])
def test_json(load_lists, content):
    assert load_lists({**FROM_0, "class.json": content}).class_names == ("ants", "bees")


def test_keys_that_are_no_numbers(load_lists, labelled):
    """LOC_synset_mapping.txt of ImageNet."""
    lists = {"train.txt": "a/000.png n01\nb/000.png n02", "test.txt": "b/001.png n02"}
    dataset = load_lists({**lists, "class.txt": "n02 bee\nn01 tench, Tinca tinca\n"})
    assert labelled(dataset) == {"a/000.png": "tench, Tinca tinca", "b/000.png": "bee"}
    assert dataset.class_names == ("bee", "tench, Tinca tinca")


def test_keys_beside_other_columns(load_lists, labelled):
    lists = {"train.txt": "a/000.png n01\nb/000.png n02", "test.txt": "b/001.png n02"}
    for name, content in (
        ("class.csv", "wnid,name,count\nn02,bee,4\nn01,tench,5\n"),
        ("class.json", '{"1": ["n01", "tench"], "0": ["n02", "bee"]}'),
    ):
        dataset = load_lists({**lists, name: content})
        assert labelled(dataset) == {"a/000.png": "tench", "b/000.png": "bee"}
        assert dataset.class_names == ("bee", "tench")


@pytest.mark.parametrize("names", ["4 wheels\n2 wheels", "sea cow\nland cow", "0.5,x\n1.5,x", "ants, red\nbees"])
def test_names_that_hold_numbers_or_separators_stay_names(load_lists, names):
    assert load_lists({**FROM_0, "class.txt": names}).class_names == tuple(names.split("\n"))


def test_names_that_the_labels_say_are_names(load_lists):
    lists = {"train.csv": "a/000.png,1 euro\nb/000.png,2 euro", "test.txt": "a/003.png 1 euro"}
    assert load_lists({**lists, "class.txt": "1 euro\n2 euro"}).class_names == ("1 euro", "2 euro")
    lists = {"train.csv": "a/000.png,class\nb/000.png,bees", "test.txt": "a/003.png class"}
    assert load_lists({**lists, "class.txt": "class\nbees"}).class_names == ("class", "bees")
    lists = {"train.csv": "a/000.png,x\nb/000.png,none", "test.txt": "a/003.png x"}
    assert load_lists({**lists, "class.txt": "none\nx"}).class_names == ("none", "x")


def test_a_class_without_an_image_is_told(load_lists):
    dataset = load_lists({**FROM_0, "class.txt": "ants\nbees\nwasps"})
    assert dataset.class_names == ("ants", "bees", "wasps")
    (note,) = [note for note in dataset.notes if "class.txt" in note]
    assert note.endswith(
        "class.txt have no image in the lists: wasps. If ants, the first, is a heading and no class, remove it."
    )
    dataset = load_lists({**FROM_0, "class.txt": "ants\nbees\nflies\nwasps"})
    assert [note for note in dataset.notes if "class.txt" in note][0].endswith("in the lists: flies, wasps.")


def test_labels_that_a_data_frame_made_floats(load_lists, labelled):
    lists = {"train.csv": "path,label\na/000.png,0.0\nb/000.png,1.0", "test.csv": "path,label\na/003.png,0.0"}
    assert labelled(load_lists({**lists, "class.txt": "ants\nbees"})) == {"a/000.png": "ants", "b/000.png": "bees"}


@pytest.mark.parametrize(
    "content, message",
    [
        ("1,ants\n1,bees", "a class number twice: 1"),
        ("0,ants\n1,ants", "a class name twice: ants"),
        ("0,ants\n1,", "no name for the class 1"),
        ("", "has no class in it"),
        ("\ufeff", "has no class in it"),
    ],
)
def test_what_is_wrong_is_told(load_lists, content, message):
    with pytest.raises(DataError, match=message):
        load_lists({**FROM_0, "class.txt": content})
