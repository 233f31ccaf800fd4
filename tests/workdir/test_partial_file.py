"""A file that grows: what a later start continues, and what it drops."""

import json
import os

import pytest
from etils import epath

from flax_augtl.errors import UserError
from flax_augtl.workdir import files, partial_file

KEY = {"--step": "3", "--views": "one"}


def begin(path, key=KEY):
    """Write two items, as a program that is interrupted then."""
    with partial_file.opened(path, key) as partial:
        partial.append("heading\n")
        partial.append("a\n", 1)
        partial.append("b\n", 1)


def test_a_complete_file_has_its_name_and_nothing_beside_it(tmp_path):
    path = epath.Path(tmp_path / "out.csv")
    path.write_text("before")
    with partial_file.opened(path, KEY) as partial:
        partial.append("naïve \udce9\n", 1)
        assert path.read_text() == "before"
        partial.complete()
    assert path.read_text() == "naïve \\udce9\n" and os.listdir(tmp_path) == ["out.csv"]


def test_the_next_start_goes_on_after_the_last_whole_piece(tmp_path):
    path = epath.Path(tmp_path / "out.csv")
    begin(path)
    with open(f"{path}.partial", "a") as file:
        file.write("half a li")  # The program was killed while it wrote.
    with partial_file.opened(path, KEY) as partial:
        assert partial.done == 2 and partial.note == "" and [*partial.text()] == ["heading\n", "a\n", "b\n"]
        partial.append("c\n", 1)
        partial.complete()
    assert path.read_text() == "heading\na\nb\nc\n"


def test_another_key_starts_anew_and_says_so(tmp_path):
    path = epath.Path(tmp_path / "out.csv")
    begin(path)
    with partial_file.opened(path, {**KEY, "--views": "flip"}) as partial:
        assert partial.done == 0 and [*partial.text()] == []
        assert (
            partial.note == f"{path}.partial is part of something else and is dropped: --views: one there, flip here."
        )


@pytest.mark.parametrize("record", ["", "[]", "{}", '{"of": {}, "items": "x", "bytes": 3}', None, "short"])
def test_a_damaged_record_starts_anew(record, tmp_path):
    path = epath.Path(tmp_path / "out.csv")
    begin(path)
    place = tmp_path / "out.csv.partial.json"
    if record is None:
        place.unlink()
    elif record == "short":  # After a power failure, the file may lack what the record counts.
        place.write_text(json.dumps({"of": KEY, "items": 9, "bytes": 900}))
    else:
        place.write_text(record)
    with partial_file.opened(path, KEY) as partial:
        assert partial.done == 0 and [*partial.text()] == [] and partial.note == ""


def test_two_programs_do_not_write_the_same_file(tmp_path):
    path = epath.Path(tmp_path / "out.csv")
    with (
        partial_file.opened(path, KEY),
        pytest.raises(UserError, match="another program is writing it. Wait for it"),
        partial_file.opened(path, KEY),
    ):
        pass


def test_a_link_is_not_followed(tmp_path):
    (tmp_path / "other").write_text("precious")
    (tmp_path / "out.csv.partial").symlink_to(tmp_path / "other")
    with pytest.raises(files.CannotWrite), partial_file.opened(epath.Path(tmp_path / "out.csv"), KEY):
        pass
    assert (tmp_path / "other").read_text() == "precious"
