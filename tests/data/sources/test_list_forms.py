"""Lists as people have them: every form is the same data, or an error that says how to settle it."""

import unicodedata

import numpy as np
import pytest

from flax_augtl.config import added_fields
from flax_augtl.config.data_config import DataConfig
from flax_augtl.data import DataError
from flax_augtl.data.sources.list_files import list_lists

ROWS = [("a/000.png", "ape"), ("a/001.png", "ape"), ("b/000.png", "bee")]
TEST = "a/003.png ape\nb/003.png bee\n"


def text(separator, heading="", label_first=False):
    lines = [separator.join(row[::-1] if label_first else row) for row in ROWS]
    return "\n".join([heading, *lines] if heading else lines)


@pytest.mark.parametrize(
    "name, content",
    [
        ("train.txt", text(";")),
        ("train.txt", text(" ; ")),
        ("train.txt", text(",")),
        ("train.txt", text(", ")),
        ("train.txt", text("|")),
        ("train.csv", text(";", "path;label")),
        ("train.csv", text("\t")),
        ("train.csv", text(" ")),
        ("train.txt", text(",", "filename,class")),
        ("train.txt", text(" ", "path label")),
        ("train.txt", text(" ", "label path", label_first=True)),
        ("train.txt", text(" ", label_first=True)),
        ("train.csv", text(",", label_first=True)),
        ("train.txt", text("\t", label_first=True)),
        ("train.txt", text(" ").replace("/", "\\")),
        ("train.csv", text(",").replace("/", "\\")),
        ("train.txt", "# mine\n" + text(" ") + "\n#b/001.png ape\n# b/001.png ape\n"),
        ("train.txt", text(" ", "# path label")),
        ("train.csv", text(",", "#path,label")),
        ("train.txt", text(" ").replace("ape", "ape # blurred", 1)),
        ("train.csv", text(",", "image_id,label")),
        ("train.csv", text(",", "id,label")),
        ("train.csv", text(",", "file_name,label")),
        ("train.csv", text(",", "filepath,label")),
        ("train.csv", text(",", "image_name,label")),
        ("train.csv", text(",", "Image Path,Class Name")),
        ("train.csv", text(",", "filepaths,labels")),
        ("train.csv", text(",", "bild,label")),
        ("train.csv", ",path,label\n" + "\n".join(f"{i},{p},{l}" for i, (p, l) in enumerate(ROWS))),
        ("train.csv", "\n".join(f"{i},{p},{l}" for i, (p, l) in enumerate(ROWS))),
        ("train.csv", "path,notes,label\n" + "\n".join(f'{p},"two\nlines, x",{l}' for p, l in ROWS)),
        ("train.csv", "path,label,class_name\n" + "\n".join(f"{p},{int(l == 'bee')},{l}" for p, l in ROWS)),
        ("train.csv", "filename,path,label\n" + "\n".join(f"{p[2:]},{p},{l}" for p, l in ROWS)),
        ("train.jsonl", "\n".join(f'{{"file_name": "{p}", "label": "{l}", "boxes": [1]}}' for p, l in ROWS)),
        ("train.json", "[" + ",".join(f'{{"label": "{l}", "image": "{p}"}}' for p, l in ROWS) + "]"),
        ("train.txt", text("\t", "path\tlabel").encode("utf-16")),
    ],
)  # fmt: skip
def test_every_form_is_the_same_data(load_lists, labelled, name, content):
    dataset = load_lists({name: content, "test.txt": TEST})
    assert labelled(dataset) == dict(ROWS)
    assert labelled(dataset, "test") == {"a/003.png": "ape", "b/003.png": "bee"}


def test_label_of_several_words_before_the_path(load_lists, labelled):
    dataset = load_lists({"train.txt": "sea cow a/000.png\nbee b/000.png", "test.txt": "a/003.png sea cow"})
    assert labelled(dataset) == {"a/000.png": "sea cow", "b/000.png": "bee"}


def test_paths_with_separators_in_them(load_lists, labelled):
    files = ["x, y/0 1.png", "x, y/2.png", "#b/0.png", "#b/1.png"]
    dataset = load_lists(
        {"train.txt": "x, y/0 1.png;p, q\n#b/0.png;r", "test.txt": "x, y/2.png p, q\n#b/1.png r"}, files
    )
    assert labelled(dataset) == {"x, y/0 1.png": "p, q", "#b/0.png": "r"}
    assert labelled(dataset, "test") == {"x, y/2.png": "p, q", "#b/1.png": "r"}


def test_a_column_that_numbers_the_lines_is_no_label(load_lists, labelled):
    dataset = load_lists({"train.txt": "1 a/000.png\n2 b/000.png\n3 b/001.png", "test.txt": "a/001.png\nb/002.png"})
    assert labelled(dataset) == {"a/000.png": "a", "b/000.png": "b", "b/001.png": "b"}


def test_stanford_online_products(load_lists, labelled):
    """Ebay_train.txt: blanks, a heading of four words, and the path at the end."""
    heading = "image_id class_id super_class_id path\n"
    lists = {"train.txt": heading + "1 7 1 a/000.png\n2 9 1 b/000.png", "test.txt": heading + "3 9 1 b/001.png"}
    dataset = load_lists(lists)
    assert labelled(dataset) == {"a/000.png": "7", "b/000.png": "9"}


@pytest.mark.parametrize("content", ["id,breed\n0001,ape\n0002,bee", "0001,ape\n0002,bee", "ape,0001\nbee,0002"])
def test_image_ids_without_ending(load_lists, labelled, content):
    dataset = load_lists({"train.csv": content, "test.csv": "id,breed\n0003,ape"}, ["0001.jpg", "0002.JPG", "0003.png"])
    assert labelled(dataset) == {"0001.jpg": "ape", "0002.JPG": "bee"}


def test_image_ids_that_several_files_have(load_lists):
    with pytest.raises(
        DataError, match="0001 in the list may be 0001.jpg, 0001.png below .*Write the ending in the list"
    ):
        load_lists({"train.csv": "id,label\n0001,x\n0002,y"}, ["0001.jpg", "0001.png", "0002.jpg"])


def test_images_in_a_folder_below_the_root(load_lists, tmp_path):
    where = str(tmp_path / "train")
    with pytest.raises(DataError, match=f"0001 is not below .* It is below {where}: set config.data.root={where}."):
        load_lists({"train.csv": "id,label\n0001,x\n0002,y"}, ["train/0001.jpg", "train/0002.jpg"])


def test_without_a_root_paths_are_relative_to_the_list(load_lists, labelled, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path.parent)
    lists = {"train.txt": text(" "), "test.txt": TEST}
    dataset = load_lists(lists, root=None, train_list=str(tmp_path / "train.txt"), test_list=str(tmp_path / "test.txt"))
    assert labelled(dataset) == dict(ROWS)
    assert f"Paths are relative to the folder of the list, {tmp_path}." in dataset.notes


MARKED = [
    ("a/000.png", "x", "train"),
    ("b/000.png", "y", "train"),
    ("a/001.png", "x", "test"),
    ("b/001.png", "y", "test"),
]


@pytest.mark.parametrize(
    "heading, marks",
    [
        ("path,label,split", {}),
        ("path,label,data set", {"train": "Training"}),
        ("path,label,Verwendung", {}),
        ("path,label,is_train", {"train": "1", "test": "0"}),
        ("path,label,is_test", {"train": "False", "test": "True"}),
        ("", {}),
    ],
)
def test_the_split_column_is_used(load_lists, labelled, heading, marks):
    lines = [",".join((path, label, marks.get(split, split))) for path, label, split in MARKED]
    dataset = load_lists({"train.csv": "\n".join([heading, *lines] if heading else lines)})
    assert labelled(dataset) == {"a/000.png": "x", "b/000.png": "y"}
    assert labelled(dataset, "test") == {"a/001.png": "x", "b/001.png": "y"}
    assert any(note.endswith("train.csv says the split of each image: 2 train, 2 test.") for note in dataset.notes)


def test_the_split_column_in_a_text_with_blanks(load_lists, labelled):
    dataset = load_lists({"train.txt": "\n".join(map(" ".join, MARKED))})
    assert labelled(dataset, "test") == {"a/001.png": "x", "b/001.png": "y"}


def test_three_splits_in_one_list_and_two_lists_in_one_file(load_lists, labelled):
    lines = [",".join(row) for row in [*MARKED, ("b/002.png", "y", "valid")]]
    content = "\n".join(["path,label,split", *lines])
    dataset = load_lists({"train.csv": content})
    assert labelled(dataset, "val") == {"b/002.png": "y"}
    dataset = load_lists({"train.csv": content}, test_list="train.csv")
    assert (len(dataset.train), len(dataset.val), len(dataset.test)) == (2, 1, 2)


def test_fastai_is_valid(load_lists, labelled):
    rows = "fname,labels,is_valid\na/000.png,x,False\nb/000.png,y,False\na/001.png,x,True"
    dataset = load_lists({"train.csv": rows})
    assert labelled(dataset, "test") == {"a/001.png": "x"}
    assert any("the validation list is used as the test split" in note for note in dataset.notes)


def test_the_split_column_can_be_left_alone(load_lists):
    rows = "path,label,split\n" + "\n".join(",".join((path, label, "old")) for path, label, _ in MARKED)
    with pytest.raises(DataError, match='line 2: the split “old” is unknown.*to use none, set .*split_column=""'):
        load_lists({"train.csv": rows})
    assert len(load_lists({"train.csv": rows}, split_column="", test=0.5).test) == 2
    with pytest.raises(DataError, match="marks no image train: there is nothing to train on"):
        load_lists({"train.csv": rows.replace("old", "test")})


@pytest.mark.parametrize(
    "content, message",
    [
        ("path,label,split\na/000.png,x,train\nb/000.png,y,", "line 3: the split “” is unknown"),
        ("path,label,split\na/000.png,x,train\nb/000.png,y,test", "line 3: “b/000.png” is marked test, but the file"),
        ("image_id,label,partition\na/000.png,x,0\nb/000.png,y,2", "line 2: the split “0” is unknown"),
        ("path,label\na/000.png,x\nb/000.png,", "line 3: “b/000.png” has no label, where other lines have one"),
        ("a/000.png x\nb/000.png\n", "line 2: “b/000.png” has no label, where other lines have one"),
        ("path,label\na/000.png,x\nb/000.png,nan", "the label of “b/000.png” is “nan”, which stands for a missing"),
        ("path,label\na/000.png,x\nb/000.png,NULL", "is “NULL”, which stands for a missing value.*class_list"),
        ("Bild,Klasse\na/000.png,x\nb/000.png,y",
         "the columns Bild, Klasse; one must be called path and one label.*path_column=Bild and .*label_column=Klasse"),
        ("Bild,Klasse\na/000,x\nb/000,y", "the columns Bild, Klasse; one must be called path and one label"),
        ("bild klasse\na/000.png x\nb/000.png y", "the columns bild, klasse; one must be called path and one label"),
        ("path,size\na/000.png,3\nb/000.png,4", "one must be called path and one label.*or to \"\" if the folders are"),
        ("a/000.png,1,2,x\nb/000.png,3,4,y", "4 columns and no heading: which is the label.*to its number .2, 3, 4."),
        ("path,label,species\na/000.png,1,x\nb/000.png,1,y", "which column is the label. It may be label, species;"),
        ("a/000.png,a/001.png\nb/000.png,b/001.png", "which column is the path. It may be number 1, number 2;"),
        ("a/000.png,sea cow, big\nb/000.png,bee", "line 2 has 2 columns, where others have 3. .*in double quotes"),
        ("path,label\na/000.png,sea cow, big\nb/000.png,bee", "line 2 has 3 columns, where others have 2"),
        ("a/000.png x\n./a/000.png y\nb/000.png y",
         "a/000.png is, also as ./a/000.png, twice in the train list, under the labels x and y"),
        ("ftp://x/a.png x\nb/000.png y", "ftp://x/a.png cannot be read: ftp:// is unknown"),
        ("file://b/000.png x\nb/001.png y", "names the machine b. A file of this machine is file:///FOLDER/FILE"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("on_bad_image", ["error", "skip"])
def test_what_cannot_be_told_is_an_error(load_lists, content, message, on_bad_image):
    name = "train.csv" if "," in content else "train.txt"
    with pytest.raises(DataError, match=message):
        load_lists({name: content, "test.txt": "a/003.png x\nb/003.png y"}, on_bad_image=on_bad_image)


@pytest.mark.parametrize(
    "content, message",
    [
        (
            '{"image": "a/000.png", "label": null}\n{"image": "b/000.png", "label": 1}',
            "line 1: “a/000.png” has no label",
        ),
        ('{"file_name": "a/000.png", "label": [1, 2]}', r"line 1: the label \[1, 2\] is several values"),
        ('{"file_name": "a/000.png", "label": 1}\n{"file', "line 2: this is not valid JSON .Unterminated string"),
        ('{"file_name": "a/000.png", "label": 1}\n[1]', "line 2: this is not an object such as"),
    ],
)
def test_json_lines_that_are_wrong(load_lists, content, message):
    with pytest.raises(DataError, match=message):
        load_lists({"train.jsonl": content, "test.txt": TEST})


def test_json_that_is_wrong(load_lists):
    with pytest.raises(DataError, match="train.json, line 2: this is not valid JSON"):
        load_lists({"train.json": '[{"image": "a/000.png", "label": 1},\n{"image"', "test.txt": TEST})


def test_columns_by_name_and_by_number(load_lists, labelled):
    rows = "Bild,Klasse,Art\na/000.png,x,1\nb/000.png,y,1\nb/001.png,y,2"
    dataset = load_lists({"train.csv": rows}, path_column="Bild", label_column="Klasse", test=1)
    assert dataset.class_names == ("x", "y")
    dataset = load_lists({"train.csv": rows}, path_column="bild", label_column="3", test=1)
    assert dataset.class_names == ("1", "2")
    dataset = load_lists({"train.csv": "path,size\na/000.png,3\nb/000.png,4\nb/001.png,5"}, label_column="", test=1)
    assert dataset.class_names == ("a", "b")
    with pytest.raises(
        DataError, match="label_column=Tier is not a column of .*, which has the columns Bild, Klasse, Art"
    ):
        load_lists({"train.csv": rows}, label_column="Tier")


def test_further_columns_are_kept_by_path(load_lists, tmp_path):
    rows = "label,patient,path,split\nx,p1,a/000.png,train\ny,p2,b/000,test\n"
    load_lists({"train.csv": rows + "y,p3,b/001.png,train\nx,p1,a/001.png,test"})
    listing = list_lists(DataConfig(root=str(tmp_path), train_list="train.csv"))
    assert listing.columns["patient"] == {"a/000.png": "p1", "b/000.png": "p2", "b/001.png": "p3", "a/001.png": "p1"}
    assert set(listing.columns) == {"patient", "split"}
    assert list_lists(DataConfig(root=str(tmp_path), train_list="train.csv", label_column="patient")).columns["label"]


NFC, NFD = "caf\u00e9", "cafe\u0301"


@pytest.mark.parametrize("listed, there", [(NFC, NFD), (NFD, NFC), (NFC, NFC), (NFD, NFD)])
@pytest.mark.parametrize("ending", [".png", ""])
def test_a_list_finds_files_in_the_other_form_of_unicode(load_lists, labelled, listed, there, ending):
    assert unicodedata.normalize("NFD", NFC) == NFD != NFC
    files = [f"{there}/{there}0.png", f"{there}/1.png", "a/0.png", "a/1.png"]
    lists = {
        "train.txt": f"{listed}/{listed}0{ending} {NFC}\na/0.png x",
        "test.txt": f"{listed}/1.png {NFD}\na/1.png x",
    }
    dataset = load_lists(lists, files)
    assert labelled(dataset) == {f"{NFC}/{NFC}0.png": NFC, "a/0.png": "x"}
    assert labelled(dataset, "test") == {f"{NFC}/1.png": NFC, "a/1.png": "x"}
    assert all(np.asarray(dataset.train.source[int(i)]).any() for i in dataset.train.indices)


def test_both_forms_of_one_path_are_one_file(load_lists):
    with pytest.raises(DataError, match="twice in the train list, under the labels p and q"):
        load_lists({"train.txt": f"{NFC}/0.png p\n{NFD}/0.png q\na/0.png x"}, [f"{NFD}/0.png", "a/0.png"])


def test_file_addresses(load_lists, labelled, tmp_path):
    train = f"file://{tmp_path}/a/000.png x\nfile://localhost{tmp_path}/b/0%30%30.png y"
    dataset = load_lists(
        {"train.txt": train, "test.txt": "a/003.png x"},
        train_list=f"file://{tmp_path}/train.txt",
        root=f"file://{tmp_path}",
    )
    assert labelled(dataset) == {f"{tmp_path}/a/000.png": "x", f"{tmp_path}/b/000.png": "y"}


def test_runs_of_the_first_version_go_on_as_they_began(load_lists, labelled):
    lists = {"train.csv": "path,label,split\na/000.png,0,train\nb/000.png,1,test", "test.txt": "a/003.png 0",
             "class.txt": "0 ape\n1 bee"}  # fmt: skip
    dataset = load_lists(lists, list_rules=1)
    assert labelled(dataset) == {"a/000.png": "0 ape", "b/000.png": "1 bee"}
    assert (added_fields.ADDED["data.list_rules"].absent, added_fields.ADDED["data.list_rules"].default) == (1, 2)


def test_a_comment_behind_a_row_is_part_of_the_label_and_told(load_lists):
    dataset = load_lists(
        {"train.csv": "a/000.png,cat\na/001.png,dog # blurred\na/002.png,cat\na/003.png,dog # blurred\n"}
    )
    assert dataset.class_names == ("cat", "dog # blurred")
    (note,) = [note for note in dataset.notes if "# in their name" in note]
    assert note.startswith("These classes have a # in their name: dog # blurred.")
