import resource
import time

import pytest

from flax_augtl.data import load_dataset, train_batches
from flax_augtl.data.__main__ import main


def test_the_command_measures_every_way(make_folder, capsys):
    root = make_folder({"a": 40, "b": 40}, suffix=".jpg")
    assert main(["benchmark", str(root), "--image_size=16", "--batch_size=8", "--seconds=0.1", "--workers=1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("79 pictures of") and "batches of 8, 1 workers" in lines[0]
    rows = [line for line in lines if line.startswith("here, ")]
    assert len(rows) == 4
    for row in rows:
        assert float(row[38:50]) > 0


def test_a_root_that_is_not_there_is_a_sentence(capsys, tmp_path):
    assert main(["benchmark", str(tmp_path / "gone")]) == 1
    assert "does not exist" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["prepare"], ["unknown", "x"]])
def test_a_command_that_is_not_one_is_told_the_choices(arguments, capsys):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2 and "usage: python -m flax_augtl.data" in capsys.readouterr().err


def test_memory_does_not_grow_over_epochs_and_the_first_batch_is_there_at_once(make_folder, preprocessing, data):
    dataset = load_dataset({"root": make_folder({"a": 30, "b": 30}, suffix=".jpg"), "validation": 0}, seed=0)
    start = time.perf_counter()
    batches = train_batches(dataset.train, preprocessing(48), data(), batch_size=16, image_size=48, seed=0, steps=250)
    next(batches)
    assert time.perf_counter() - start < 2
    peaks = []
    for step, _ in enumerate(batches):
        if step in (60, 240):
            peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    assert peaks[1] - peaks[0] < 8 * 1024  # Kilobytes; one batch is 110, so 180 that were kept would be 20,000.
