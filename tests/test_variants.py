"""The table of variants: test metrics, and the choice by validation."""

from types import SimpleNamespace

from flax_augtl.variants import table


def run(top1, val, metric="top1"):
    """Only what the table reads of a run."""
    figures = {"top1": top1, "mean_per_class": 0.5, "loss": 1.0, "n": 9}
    return SimpleNamespace(
        workdir="runs/x",
        result={
            "test": figures,
            "val": None if val is None else {"top1": val, "mean_per_class": 1 - val},
            "metric": metric,
            "seconds": 2.0,
        },
    )


def test_validation_stands_beside_test_and_chooses():
    lines = table({"one": run(0.9, 0.5), "two": run(0.8, 0.75)}).splitlines()
    assert lines[0].split() == ["test", "top-1", "per", "class", "loss", "examples", "seconds", "val", "directory"]
    assert lines[1].split() == ["one", "0.9000", "0.5000", "1.0000", "9", "2.0", "0.5000", "runs/x"]
    assert lines[-1] == "Best by validation: two."


def test_the_metric_of_the_data_chooses_and_ties_are_told():
    assert table({"one": run(0.9, 0.5, "mean_per_class"), "two": run(0.8, 0.75, "mean_per_class")}).endswith(
        "Best by validation: one."
    )
    assert table({"one": run(0.9, 0.5), "two": run(0.8, 0.5)}).endswith("Best by validation: one and two (a tie).")


def test_without_validation_none_is_the_best():
    assert table({"one": run(0.9, None), "two": run(0.8, 0.5)}).splitlines()[-1] == (
        "Without validation figures of all of them, none is called the best: the test split is not for choosing."
    )
