"""Accuracy against the number of training images a class."""

import json

import pytest

from flax_augtl.benchmarks import examples_per_class as benchmark
from tests import small


def test_it_trains_without_validation_and_keeps_what_it_measured(tmp_path, monkeypatch, capsys):
    variants = {"one": small.digits_config(), "two": small.digits_config(learning_rate=0.02)}
    monkeypatch.setattr(benchmark, "_variants", lambda: variants)
    seen = []

    def accuracy(config):
        seen.append((config.learning_rate, config.data.shots, config.data.validation, config.seed))
        return 0.5 + config.seed / 100 + config.data.shots / 10

    monkeypatch.setattr(benchmark, "accuracy", accuracy)
    command = [f"--workdir={tmp_path}", f"--figure={tmp_path / 'a.svg'}", "--examples", "2", "1", "--seeds=2"]
    benchmark.main(command)
    said = capsys.readouterr().out
    rows = ["| images a class | `one` | `two` |", "|---|---|---|", "| 1 | 60.5 [60.0, 61.0] | 60.5 [60.0, 61.0] |",
            "| 2 | 70.5 [70.0, 71.0] | 70.5 [70.0, 71.0] |"]  # fmt: skip
    assert "\n".join(rows) in said
    assert seen == [(rate, shots, 0, seed) for seed in (0, 1) for rate in (0.01, 0.02) for shots in (1, 2)]
    drawn = (tmp_path / "a.svg").read_bytes()
    assert drawn.startswith(b"<?xml") and b"training images a class" in drawn and b"<dc:date>" not in drawn
    benchmark.main(command)  # Everything is there.
    assert len(seen) == 8 and (tmp_path / "a.svg").read_bytes() == drawn
    variants["two"].learning_rate = 0.03  # Only what has changed is trained again.
    benchmark.main(command)
    assert len(seen) == 12 and {rate for rate, *_ in seen[8:]} == {0.03}


@pytest.mark.slow
def test_an_accuracy_is_that_of_the_run_directory(tmp_path):
    import flax_augtl

    config = benchmark.configuration(small.digits_config(steps=3), 2, 1)
    run = flax_augtl.train(config, tmp_path / "run", quiet=True)
    assert benchmark.accuracy(config) == run.result["test"]["top1"] and run.result["val"] is None


def test_an_unknown_variant_is_named(capsys):
    with pytest.raises(SystemExit):
        benchmark.main(["--variants", "scratsh"])
    assert "there is no variant scratsh. Variants: kept_deeper, traditional, scratch." in capsys.readouterr().err


def test_the_committed_figure_is_of_the_shipped_variants():
    from tests.conftest import ROOT

    text = (ROOT / "docs" / "examples_per_class.svg").read_text("utf-8")
    assert all(f">{name}<" in text for name in benchmark._variants()) and json.dumps(text)
