from flax_augtl.benchmarks import list_entries


def test_all_images_of_a_list_are_in_its_splits(tmp_path):
    list_entries.write_list(tmp_path / "list.txt", 1000)
    row = list_entries.measure(tmp_path / "list.txt")
    assert row["train"] == 1000 * 0.8 * 0.8 and row["memory_gb"] > 0
