"""The cache folder stays below its limit, and loses what was not used for the longest time."""

import os

import pytest

from flax_augtl.runtime import cache_limit

NOW, HOUR = 1e9, 3600.0


@pytest.fixture
def folder(tmp_path):
    for name, hours in (("compiled/old", 90), ("weights/older", 100), ("scans/new", 30), ("scans/newest", 1)):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes(100))
        os.utime(path, (NOW - hours * HOUR,) * 2)
    return tmp_path


@pytest.mark.parametrize(
    ("most", "removed"),
    [(400, []), (399, ["older"]), (200, ["older", "old"]), (0, ["older", "old", "new"])],
)
def test_what_was_not_used_for_the_longest_time_goes_first_and_what_was_used_today_stays(folder, most, removed):
    assert [path.name for path in cache_limit.trim(folder, most, NOW)] == removed
    left = {path.name for path in folder.rglob("*") if path.is_file()}
    assert left == {"older", "old", "new", "newest"} - set(removed)


def test_a_folder_that_does_not_exist_has_nothing_to_remove(tmp_path):
    assert cache_limit.trim(tmp_path / "absent", 0, NOW) == []


@pytest.mark.parametrize(("text", "expected"), [("1.5", 1.5e9), ("all", 20e9), (None, 20e9)])
def test_the_limit_comes_from_the_environment(text, expected, monkeypatch):
    monkeypatch.delenv("FLAX_AUGTL_CACHE_GB", raising=False)
    if text is not None:
        monkeypatch.setenv("FLAX_AUGTL_CACHE_GB", text)
    assert cache_limit.limit() == expected
