"""The table of variants: test metrics, the choice by validation, and the paired test on the same images."""

from types import SimpleNamespace

from flax_augtl.variants import on_the_same_images, table


def run(top1, val, metric="top1", workdir="runs/x"):
    """Only what the table reads of a run."""
    figures = {"top1": top1, "mean_per_class": 0.5, "loss": 1.0, "n": 9}
    return SimpleNamespace(
        workdir=workdir,
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
        "Not all of them have validation results, so no best one is named. Do not choose by the test split."
    )


def predicted(folder, right, of, first=0):
    """The directory of a run with `of` test images, the first of which it is right about."""
    folder.mkdir(parents=True)
    rows = [f"{first + i}.png,cat,{'cat' if i < right else 'dog'},0.9" for i in range(of)]
    (folder / "predictions_test.csv").write_text("\n".join(["path,label,prediction,probability", *rows, ""]))
    return folder


def test_intervals_and_the_paired_test_are_over_the_same_images(tmp_path):
    runs = {
        "one": run(0.9, 0.5, workdir=predicted(tmp_path / "1", 10, 12)),
        "two": run(0.8, 0.75, workdir=predicted(tmp_path / "2", 2, 12)),
    }
    lines = on_the_same_images(runs).splitlines()
    assert lines[0] == "test images  top-1   95 % interval     minus two  p"
    assert lines[1].startswith("one          0.8333  [0.") and lines[1].endswith("]  +0.6667    0.008")
    assert lines[2].startswith("two          0.1667  [0.") and lines[2].endswith("]")
    assert lines[3:] == [
        "Intervals: 95 % bootstrap over the test images of a run.",
        "p: exact McNemar test against two on the same 12 test images.",
        "This test is about other images of the same kind, with these trained networks; not about training again.",
    ]


def test_images_of_all_folds_count_together(tmp_path):
    def folds(name, *right):
        one = run(0.5, 0.5, workdir=tmp_path)
        one.runs = [
            SimpleNamespace(workdir=predicted(tmp_path / f"{name}{k}", count, 6, 6 * k))
            for k, count in enumerate(right)
        ]
        return one

    lines = on_the_same_images({"one": folds("one", 6, 3), "two": folds("two", 3, 3)}).splitlines()
    assert lines[1].split()[:2] == ["one", "0.7500"] and lines[2].split()[-2:] == ["-0.2500", "0.250"]
    assert "on the same 12 test images" in lines[4]


def test_what_is_missing_is_said(tmp_path):
    runs = {
        "one": run(0.9, 0.5, workdir=tmp_path / "none"),
        "two": run(0.8, 0.75, workdir=predicted(tmp_path / "2", 1, 2)),
        "three": run(0.8, 0.5, workdir=predicted(tmp_path / "3", 1, 3)),
    }
    assert on_the_same_images(runs).splitlines()[3:] == [
        "Intervals: 95 % bootstrap over the test images of a run.",
        "predictions_test.csv is missing or cannot be used, so there is no interval and no test: one. --mode=evaluate "
        "writes it.",
        "No paired test with two, because the test images or their labels differ: three.",
    ]
