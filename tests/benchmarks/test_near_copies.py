from flax_augtl.benchmarks import near_copies


def test_the_table_of_a_folder(tmp_path, capsys):
    rng = near_copies.np.random.default_rng(0)
    for i in range(3):
        small = near_copies.Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype="uint8"))
        small.resize((80, 60)).save(tmp_path / f"{i}.png")
    near_copies.Image.open(tmp_path / "2.png").resize((60, 60)).save(tmp_path / "squashed.png")
    (tmp_path / "broken.png").write_bytes(b"")
    assert near_copies.main([str(tmp_path), "--copied", "2", "--list"]) == 0
    first, header, _, *rows = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{tmp_path}: 4 images, ") and header.startswith("| distance | JPEG quality 50–90 | ")
    (row,) = [row for row in rows if row.startswith("| 40 |")]
    cells = row.strip("| ").split(" | ")
    assert cells[1:4] == ["100 %"] * 3 and cells[-2:] == ["1", "2"]
    assert any(row.endswith(" 2.png squashed.png") for row in rows)
