"""A checkpoint's manifest: every change of every file is noticed."""

import pytest

from flax_augtl import manifest


@pytest.fixture
def sealed(tmp_path):
    """A directory with a manifest."""
    folder = tmp_path / "4"
    for name, content in (("a", b"x" * 50), ("ä b", b""), ("d/e/f.bin", bytes(range(256)))):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    manifest.write(folder)
    return folder


def test_what_was_written_is_sound(sealed):
    assert manifest.damage(sealed) == "" and manifest.exists(sealed)
    manifest.write(sealed)
    assert manifest.damage(sealed) == ""
    lines = (sealed / manifest.NAME).read_text().splitlines()
    assert len(lines) == 3 and all(len(line.split("  ")[0]) == 64 for line in lines)


@pytest.mark.parametrize("name", ["a", "d/e/f.bin", manifest.NAME])
def test_every_flipped_bit_is_noticed(sealed, name):
    path = sealed / name
    content = path.read_bytes()
    for position in range(0, len(content), 3):
        path.write_bytes(content[:position] + bytes([content[position] ^ 1 << position % 8]) + content[position + 1:])
        assert manifest.damage(sealed), position
    for length in range(0, len(content), 7):
        path.write_bytes(content[:length])
        assert manifest.damage(sealed), length
    path.write_bytes(content + b"x")
    assert manifest.damage(sealed)
    path.write_bytes(content)
    assert not manifest.damage(sealed)


def test_files_that_are_missing_or_foreign_are_named(sealed):
    (sealed / "d/more").write_bytes(b"")
    assert manifest.damage(sealed) == "d/more is not in SHA256SUMS"
    (sealed / "d/more").unlink()
    (sealed / "ä b").unlink()
    assert manifest.damage(sealed) == "ä b is missing"
    (sealed / manifest.NAME).unlink()
    assert manifest.damage(sealed) == "it has no SHA256SUMS, which is written last"


def test_a_link_is_damage_and_no_name_of_the_manifest_is_opened(sealed, tmp_path):
    (tmp_path / "elsewhere").write_bytes(b"x" * 50)
    (sealed / "a").unlink()
    (sealed / "a").symlink_to(tmp_path / "elsewhere")
    assert manifest.damage(sealed) == "a is a link"
    (sealed / "a").unlink()
    lines = (sealed / manifest.NAME).read_text().replace("  a\n", "  ../elsewhere\n")
    (sealed / manifest.NAME).write_text(lines)
    assert manifest.damage(sealed) == "../elsewhere is missing"
