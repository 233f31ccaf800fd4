"""The files of a run: whole or not at all, and honest errors."""

import os

import pytest

from flax_augtl.workdir import files


def test_a_file_is_written_whole_and_nothing_else_is_left(tmp_path):
    path = tmp_path / "a.json"
    files.write_json(path, {"ä": [1, 2]})
    files.write_json(path, {"ä": 3})
    assert files.read_json(path) == {"ä": 3} and os.listdir(tmp_path) == ["a.json"]


def test_a_name_that_is_no_utf_8_comes_back_as_it_was(tmp_path):
    name = os.fsdecode(b"caf\xe9 \xe2\x82\xac")
    files.write_json(tmp_path / "a.json", {"root": name})
    assert (tmp_path / "a.json").read_bytes() == b'{\n  "root": "caf\\udce9 \xe2\x82\xac"\n}\n'
    assert files.read_json(tmp_path / "a.json") == {"root": name}
    with pytest.raises(files.CannotWrite, match=r"caf\\xe9 € has a name that is not UTF-8. Choose another."):
        files.prepare(tmp_path / name)


def test_a_value_that_is_not_json_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.json"
    files.write_json(path, 1)
    with pytest.raises(TypeError):
        files.write_json(path, object())
    assert files.read_json(path) == 1


def test_a_missing_or_damaged_file_is_named(tmp_path):
    with pytest.raises(ValueError, match="is not a run directory: it has no config.json"):
        files.read_json(tmp_path / "config.json")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="config.json is not valid JSON"):
        files.read_json(tmp_path / "config.json")


def test_a_directory_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"--workdir=.*file/run cannot be written: Not a directory"):
        files.prepare(tmp_path / "file" / "run")


def test_metrics_of_later_steps_and_half_a_line_are_dropped(tmp_path):
    rows = [{"step": step, "split": "train", "loss": 0.1} for step in range(4)]
    files.append_metrics(tmp_path, rows)
    with (tmp_path / files.METRICS).open("a") as file:
        file.write('{"step": 4, "spl')
    files.drop_metrics_after(tmp_path, 2)
    assert files.read_metrics(tmp_path) == rows[:3]


def test_every_difference_is_named():
    old = {"a": 1, "b": {"c": [1, 2], "d": None}, "gone": 0}
    new = {"a": 1, "b": {"c": [1, 3], "d": None}, "come": 0}
    assert files.differences(old, new) == [
        "config.b.c: [1, 2] there, [1, 3] here",
        "config.come: absent there, 0 here",
        "config.gone: 0 there, absent here",
    ]
    assert files.differences(old, old) == []
