"""A checkpoint's checksums: every change of every file is noticed."""

import pytest

from flax_augtl.workdir import checksums


@pytest.fixture
def sealed(tmp_path):
    """A directory with checksums."""
    folder = tmp_path / "4"
    for name, content in (("a", b"x" * 50), ("ä b", b""), ("d/e/f.bin", bytes(range(256)))):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    checksums.write(folder)
    return folder


def test_what_was_written_is_sound(sealed):
    assert checksums.damage(sealed) == "" and checksums.exists(sealed)
    checksums.write(sealed)
    assert checksums.damage(sealed) == ""
    lines = (sealed / checksums.NAME).read_text().splitlines()
    assert len(lines) == 3 and all(len(line.split("  ")[0]) == 64 for line in lines)


@pytest.mark.parametrize("name", ["a", "d/e/f.bin", checksums.NAME])
def test_every_flipped_bit_is_noticed(sealed, name):
    path = sealed / name
    content = path.read_bytes()
    for position in range(0, len(content), 3):
        path.write_bytes(content[:position] + bytes([content[position] ^ 1 << position % 8]) + content[position + 1 :])
        assert checksums.damage(sealed), position
    for length in range(0, len(content), 7):
        path.write_bytes(content[:length])
        assert checksums.damage(sealed), length
    path.write_bytes(content + b"x")
    assert checksums.damage(sealed)
    path.write_bytes(content)
    assert not checksums.damage(sealed)


def test_files_that_are_missing_or_foreign_are_named(sealed):
    (sealed / "d/more").write_bytes(b"")
    assert checksums.damage(sealed) == "d/more is not in SHA256SUMS"
    (sealed / "d/more").unlink()
    (sealed / "ä b").unlink()
    assert checksums.damage(sealed) == "ä b is missing"
    (sealed / checksums.NAME).unlink()
    assert checksums.damage(sealed) == "it has no SHA256SUMS, which is written last"


def test_a_link_is_damage_and_no_name_of_the_manifest_is_opened(sealed, tmp_path):
    (tmp_path / "elsewhere").write_bytes(b"x" * 50)
    (sealed / "a").unlink()
    (sealed / "a").symlink_to(tmp_path / "elsewhere")
    assert checksums.damage(sealed) == "a is a link"
    (sealed / "a").unlink()
    lines = (sealed / checksums.NAME).read_text().replace("  a\n", "  ../elsewhere\n")
    (sealed / checksums.NAME).write_text(lines)
    assert checksums.damage(sealed) == "../elsewhere is missing"
