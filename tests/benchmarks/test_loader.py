import resource
import subprocess
import sys

import pytest

from flax_augtl.benchmarks.proc_usage import memory, processor_seconds
from flax_augtl.data import load_dataset, train_batches
from flax_augtl.data.__main__ import main


@pytest.mark.slow
def test_the_command_measures_every_way(make_folder, capsys):
    root = make_folder({"a": 40, "b": 40}, suffix=".jpg")
    assert main(["benchmark", str(root), "--image_size=16", "--batch_size=8", "--seconds=0.1", "--workers=1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("79 images of") and "batches of 8; medians of 3 rounds" in lines[0]
    rows = {row.split(" | ")[0][2:]: row.strip("| ").split(" | ") for row in lines if row.startswith("| ")}
    for name in (
        "1 threads",
        "1 worker processes",
        "decoded images in memory, 1 threads",
        "two views of each image in memory (`config.data.views=2`), 1 threads",
        "decoded images in a scratch file, 1 threads",
    ):
        fields = rows[name]
        assert len(fields) == 8 and all(float(fields[i]) > 0 for i in (1, 3, 5))
    grown = [line for line in lines if line.startswith("Memory after each of 4 epochs")]
    assert len(grown) == 2 and all(line.count(",") == 4 for line in grown)


def test_time_and_memory_of_other_processes_count():
    program = "import time; x = bytearray(b'1') * 300_000_000; t = time.process_time() + 0.5\n"
    program += "while time.process_time() < t: pass\nprint(flush=True); time.sleep(60)"
    before = memory(), processor_seconds()
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline()
        grown, used = memory() - before[0], processor_seconds() - before[1]
        process.kill()
    # This process may give some memory back in the meantime, tens of MB after other tests.
    assert 200 < grown < 450 and used >= 0.5
    assert processor_seconds() - before[1] >= 0.5  # It also counts after the process has ended.


def test_a_missing_root_is_reported(capsys, tmp_path):
    assert main(["benchmark", str(tmp_path / "gone")]) == 1
    assert "does not exist" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["prepare"], ["unknown", "x"]])
def test_an_unknown_command_is_answered_with_the_choices(arguments, capsys):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2 and "usage: python -m flax_augtl.data" in capsys.readouterr().err


def test_memory_does_not_grow_over_epochs(make_folder, preprocessing, data):
    dataset = load_dataset({"root": make_folder({"a": 30, "b": 30}, suffix=".jpg"), "validation": 0}, seed=0)
    batches = train_batches(dataset.train, preprocessing(48), data(), batch_size=16, image_size=48, seed=0, steps=250)
    peaks = []
    for step, _ in enumerate(batches):
        if step in (60, 240):
            peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    assert peaks[1] - peaks[0] < 8 * 1024  # Kilobytes; a batch has 110, so 180 kept batches would have 20,000.
