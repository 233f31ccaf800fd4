"""The benchmarks of prediction, on a few tiny images."""

import numpy as np
import pytest
from PIL import Image

from flax_augtl.benchmarks import folded_norms, predict


def test_a_folder_is_predicted_in_turns(tmp_path, capsys, monkeypatch):
    rng = np.random.default_rng(0)
    for number in range(5):
        Image.fromarray(rng.integers(0, 256, (20, 30, 3), np.uint8)).save(tmp_path / f"{number}.jpg")
    (tmp_path / "notes.txt").write_text("no image")
    assert [path.name for path in predict.photographs(tmp_path, 9)] == [f"{number}.jpg" for number in range(5)]
    called = []
    monkeypatch.setattr(predict, "make_run", lambda *given: called.append(given[1:]))
    monkeypatch.setattr(predict, "timed", lambda command: (3.0, 4.0) if "--mode=predict" in command else (6.0, 5.0))
    assert predict.main([f"--images={tmp_path}", "--count=4", "--torch_python=python", "--repeats=2"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert called == [("resnet18", 224)] and said[0] == "4 photographs, resnet18, 224 pixels"
    assert said[-4:-2] == [f"| {turn} | 3.0 | 4.0 | 6.0 | 5.0 | 0.50 | 0.80 |" for turn in (1, 2)]
    assert said[-1] == "Median of the ratios: 0.50 on the clock, 0.80 of the processors."


@pytest.mark.slow
def test_the_run_of_the_benchmark_has_what_runs_of_users_have(tmp_path):
    predict.make_run(tmp_path / "run", "resnet20", 8)
    assert {"calibration.json", "familiarity.npz"} <= {path.name for path in (tmp_path / "run").iterdir()}


def test_folding_changes_no_probability(capsys):
    folded_norms.main(["--weights=resnet20", "--image_size=8", "--seconds=0", "--batches=3"])
    row = capsys.readouterr().out.splitlines()[2].strip("| ").split(" | ")
    assert row[:3] == ["resnet20", "float32", "3"] and float(row[6]) < 1e-5 and float(row[7]) == 0
