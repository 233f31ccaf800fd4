"""What --images of predict may be: names with special characters are names where they exist."""

import os

import pytest

from flax_augtl.data.sources import patterns
from flax_augtl.data.sources.patterns import matching_files


@pytest.fixture
def photos(tmp_path):
    """Files in folders whose names look like patterns."""
    for path in ("at [1]/a.jpg", "at [1]/b.jpg", "at [1]/c.png", "at [1]/deep/d.jpg", "at 1/e.jpg", "w*/f.jpg",
                 "wx/g.jpg", "q?/h[0].jpg", "qq/i.jpg", ".hidden/j.jpg", "at [1]/@eaDir/k.jpg", "at [1]/.l.jpg",
                 "1.jpg"):  # fmt: skip
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(b"x")
    return tmp_path


@pytest.mark.parametrize(
    "pattern, expected",
    [
        ("at [1]/*.jpg", ["at [1]/a.jpg", "at [1]/b.jpg"]),
        ("at [1]/a.jpg", ["at [1]/a.jpg"]),
        ("at [1]/[ab].jpg", ["at [1]/a.jpg", "at [1]/b.jpg"]),
        ("at [1]/*", ["at [1]/a.jpg", "at [1]/b.jpg", "at [1]/c.png"]),
        ("at [1]/**/*.jpg", ["at [1]/a.jpg", "at [1]/b.jpg", "at [1]/deep/d.jpg"]),
        ("at [1]/**", ["at [1]/a.jpg", "at [1]/b.jpg", "at [1]/c.png", "at [1]/deep/d.jpg"]),
        ("at [1]/@eaDir/*.jpg", ["at [1]/@eaDir/k.jpg"]),
        ("at [1]/.*.jpg", ["at [1]/.l.jpg"]),
        ("at [0-9]/*.jpg", ["at 1/e.jpg"]),
        ("at*/?.jpg", ["at 1/e.jpg", "at [1]/a.jpg", "at [1]/b.jpg"]),
        ("w*/*.jpg", ["w*/f.jpg"]),
        ("q?/*.jpg", ["q?/h[0].jpg"]),
        ("q?/h[0].jpg", ["q?/h[0].jpg"]),
        ("[wq]*/*.jpg", ["q?/h[0].jpg", "qq/i.jpg", "w*/f.jpg", "wx/g.jpg"]),
        (
            "*/../[0-9].jpg",
            ["at 1/../1.jpg", "at [1]/../1.jpg", "q?/../1.jpg", "qq/../1.jpg", "w*/../1.jpg", "wx/../1.jpg"],
        ),
        ("nothing/*.jpg", []),
        ("at [1]/a.jpg/*", []),
    ],
)
def test_what_exists_is_no_pattern(pattern, expected, photos, monkeypatch):
    assert matching_files(f"{photos}/{pattern}") == [f"{photos}/{path}" for path in expected]
    monkeypatch.chdir(photos)
    assert matching_files(pattern) == expected


def test_a_folder_with_special_characters_is_a_folder(photos):
    assert patterns.find_images(str(photos / "at [1]")) == [
        f"{photos}/at [1]/{name}" for name in ("a.jpg", "b.jpg", "c.png", "deep/d.jpg")]  # fmt: skip


@pytest.mark.parametrize("images", ["nothing", "*.bmp", "pipe.jpg", "empty", "x\0y", "a" * 5000])
def test_nothing_to_predict_is_a_sentence(images, photos):
    (photos / "empty").mkdir()
    os.mkfifo(photos / "pipe.jpg")
    with pytest.raises(ValueError, match="there is no such image, and no folder or pattern with images"):
        patterns.find_images(f"{photos}/{images}")
