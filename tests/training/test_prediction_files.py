"""Files of predictions: what is in them, when they are written, and what they may replace."""

import csv
import errno
import json
import types

import numpy as np
import pytest
from PIL import Image

import flax_augtl
from flax_augtl import cli, modes, predict_mode
from flax_augtl.training import prediction_files
from flax_augtl.training.evaluation import Evaluation
from flax_augtl.trust.calibration import calibrated
from tests import small

CLASSES = ("=bee", "ant", "fly")


def noise(folder, names, seed=0):
    """Random images in a folder."""
    rng = np.random.default_rng(seed)
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (9, 9, 3), np.uint8)).save(folder / name)
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run with a validation split, of which step 1 or 2 is the best."""
    top = tmp_path_factory.mktemp("predictions")
    noise(top / "data", [f"{name}/{index}.png" for name in CLASSES for index in range(8)])
    data = {
        "name": "folder",
        "root": str(top / "data"),
        "crop": "none",
        "validation": 0.25,
        "shots": None,
        "scan_dir": "",
    }
    return flax_augtl.train(
        small.digits_config(weights="embedded:glyphs", freeze="all", steps=2, evaluate_every_steps=1, data=data),
        top / "run",
        quiet=True,
    )


def run(trained, mode, **given):
    """Call main.py's command for a run; return its exit code."""
    flags = {
        "mode": mode,
        "workdir": str(trained.workdir),
        "step": "best",
        "split": "test",
        "images": None,
        "output": None,
        "data_root": None,
        "max_pixels": None,
        "views": "one",
        "explain": False,
        "neighbours": 0,
        "calibrate": False,
        "unknown_below": 0.05,
        "coordinator": None,
        "num_processes": None,
        "process_id": None,
        "traceback": False,
        **given,
    }
    try:
        cli.run(types.SimpleNamespace(**flags))
    except SystemExit as error:
        return error.code
    return 0


def table(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("split", ["test", "val"])
def test_training_writes_what_it_predicts_for_the_images_of_a_split(split, trained):
    rows = table(trained.workdir / f"predictions_{split}.csv")
    found = trained.evaluation(split)
    assert list(rows[0]) == [
        "path",
        "label",
        "prediction",
        "probability",
        "probability_=bee",
        "probability_ant",
        "probability_fly",
    ]
    ids = json.loads((trained.workdir / "splits.json").read_text())[split]
    assert [row["path"].removeprefix("'") for row in rows] == ids == list(found.ids)
    assert [row["label"] for row in rows] == [
        "'" * (CLASSES[label] == "=bee") + CLASSES[label] for label in found.labels
    ]
    probabilities = calibrated(found.probabilities, trained.temperature)
    for row, given in zip(rows, probabilities, strict=True):
        chances = [float(row[f"probability_{name}"]) for name in CLASSES]
        np.testing.assert_allclose(chances, given, atol=1e-6)
        best = CLASSES[int(np.argmax(given))]
        assert row["prediction"].removeprefix("'") == best and float(row["probability"]) == max(chances)
    right = np.mean([row["label"] == row["prediction"] for row in rows])
    assert right == pytest.approx(trained.result[split]["top1"])


def test_evaluation_writes_the_same_file_again_and_one_for_each_other_split_and_step(trained, tmp_path, capsys):
    workdir = trained.workdir
    before = (workdir / "predictions_test.csv").read_text()
    (workdir / "predictions_test.csv").unlink()
    assert run(trained, "evaluate") == 0
    assert (workdir / "predictions_test.csv").read_text() == before
    said = capsys.readouterr()
    count = len(table(workdir / "predictions_test.csv"))
    assert f"Predictions of {count} images are in {workdir / 'predictions_test.csv'}" in said.out and said.err == ""
    assert run(trained, "evaluate", split="train") == 0
    assert len(table(workdir / "predictions_train.csv")) == len(
        json.loads((workdir / "splits.json").read_text())["train"]
    )
    (other,) = {1, 2} - {trained.step}
    assert run(trained, "evaluate", step=str(other)) == run(trained, "evaluate", step=str(trained.step)) == 0
    assert (workdir / f"predictions_test_step{other}.csv").exists()
    assert not (workdir / f"predictions_test_step{trained.step}.csv").exists()
    assert (workdir / "predictions_test.csv").read_text() == before


@pytest.mark.slow
def test_predictions_of_another_folder_are_replaced_with_a_line(trained, tmp_path, capsys):
    one, other = (
        noise(tmp_path / name, ["ant/0.png", "fly/1.png"], seed) for seed, name in enumerate(("one", "other"))
    )
    path = trained.workdir / "predictions_all.csv"
    assert run(trained, "evaluate", split="all", data_root=str(one)) == 0
    assert [row["path"] for row in table(path)] == [f"{one}/ant/0.png", f"{one}/fly/1.png"]
    assert run(trained, "evaluate", split="all", data_root=str(one)) == 0
    assert "other image" not in capsys.readouterr().err
    assert run(trained, "evaluate", split="all", data_root=str(other)) == 0
    sentence = (
        "{} had predictions of 2 other images, such as {}. They have been replaced; --output=FILE writes to another "
        "file."
    )
    assert sentence.format(path, one / "ant/0.png") in capsys.readouterr().err.splitlines()
    assert {row["path"] for row in table(path)} == {f"{other}/ant/0.png", f"{other}/fly/1.png"}

    path = trained.workdir / "predictions.csv"
    assert run(trained, "predict", images=str(one)) == run(trained, "predict", images=str(one)) == 0
    assert "other image" not in capsys.readouterr().err
    # More of the same images replace nothing.
    assert run(trained, "predict", images=f"{tmp_path}/o*/*/*.png") == 0
    assert "other image" not in capsys.readouterr().err
    assert run(trained, "predict", images=str(other), output=str(tmp_path / "new.csv")) == 0
    assert len(table(path)) == 4 and len(table(tmp_path / "new.csv")) == 2
    assert run(trained, "predict", images=str(other)) == 0
    assert sentence.format(path, one / "ant/0.png") in capsys.readouterr().err.splitlines()


def test_an_unreadable_image_has_a_row_and_the_exit_code_tells_some_from_all(trained, tmp_path, capsys):
    noise(tmp_path, ["a.png", "c.png"])
    (tmp_path / "b.png").write_bytes(b"no image")
    output = tmp_path / "out.csv"
    assert run(trained, "predict", images=str(tmp_path), output=str(output)) == 2
    rows = table(output)
    assert [row["path"] for row in rows] == [str(tmp_path / name) for name in ("a.png", "b.png", "c.png")]
    assert list(rows[1])[-1] == "reason" and rows[1]["reason"].startswith("its content is not an image")
    assert set(list(rows[1].values())[1:-1]) == {""} and [row["reason"] for row in (rows[0], rows[2])] == ["", ""]
    assert all(row["label"] and row["probability3"] for row in (rows[0], rows[2]))
    said = capsys.readouterr()
    assert f"warning: 1 image could not be read:\n  {tmp_path / 'b.png'}: its content is not an image" in said.err
    assert f"Predictions of 2 images are in {output}" in said.out

    before = output.read_bytes()
    assert run(trained, "predict", images=str(tmp_path / "b.png"), output=str(output)) == 1
    assert output.read_bytes() == before, "predictions were replaced by nothing but reasons"
    assert "error: 1 image could not be read:" in capsys.readouterr().err
    output.unlink()
    assert run(trained, "predict", images=str(tmp_path / "b.png"), output=str(output)) == 1
    assert output.read_text().splitlines()[0] == "path,label,probability,reason" and len(table(output)) == 1


def stopping(after):
    """Return a replacement for `predict_mode.predicted` that is interrupted after some batches."""
    real = predict_mode.predicted

    def some(*arguments, **given):
        for number, rows in enumerate(real(*arguments, **given)):
            if number == after:
                raise KeyboardInterrupt
            yield rows

    return some


@pytest.fixture
def photos(tmp_path):
    """Eleven images, of which the second is damaged; they are predicted in batches of four."""
    folder = noise(tmp_path / "photos", [f"{number:02d}.png" for number in range(11)])
    (folder / "01.png").write_bytes(b"no image")
    return folder


@pytest.mark.slow
def test_an_interrupted_prediction_goes_on_and_ends_with_the_same_file(trained, photos, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(predict_mode, "BATCH", 4)
    given = {"images": str(photos), "neighbours": 2, "explain": True}
    whole, broken = tmp_path / "whole.csv", tmp_path / "broken.csv"
    assert run(trained, "predict", output=str(whole), **given) == 2
    page = (trained.workdir / "explanations" / "index.html").read_bytes()
    expected = capsys.readouterr().out.replace(str(whole), str(broken))
    with monkeypatch.context() as patch:
        patch.setattr(predict_mode, "predicted", stopping(2))
        assert run(trained, "predict", output=str(broken), **given) == 130
    assert "The same command goes on with the images that are left." in capsys.readouterr().err
    assert not broken.exists() and len(table(f"{broken}.partial")) == 8
    (trained.workdir / "explanations" / "index.html").unlink()
    asked = []
    with monkeypatch.context() as patch:
        real = predict_mode.file_stream
        patch.setattr(
            predict_mode,
            "file_stream",
            lambda paths, *rest, **more: asked.append(len(paths)) or real(paths, *rest, **more),
        )
        assert run(trained, "predict", output=str(broken), **given) == 2
    assert asked[-1] == 3, "images were predicted again"
    said = capsys.readouterr()
    assert f"Going on after 8 of 11 images in {broken}.partial." in said.err
    assert broken.read_bytes() == whole.read_bytes() and said.out == expected
    assert (trained.workdir / "explanations" / "index.html").read_bytes() == page
    assert f"warning: 1 image could not be read:\n  {photos / '01.png'}: " in said.err
    assert sorted(path.name for path in tmp_path.glob("broken*")) == ["broken.csv"]


@pytest.mark.parametrize("change", [{"views": "flip"}, {"unknown_below": 0.5}, {"neighbours": 1}, "image", "more"])
def test_a_prediction_with_another_flag_or_image_starts_anew(change, trained, photos, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(predict_mode, "BATCH", 4)
    given = {"images": str(photos), "output": str(tmp_path / "out.csv")}
    with monkeypatch.context() as patch:
        patch.setattr(predict_mode, "predicted", stopping(1))
        assert run(trained, "predict", **given) == 130
    if change == "image":
        noise(photos, ["00.png"], seed=9)
    elif change == "more":
        noise(photos, ["99.png"])
    capsys.readouterr()
    assert run(trained, "predict", **given, **(change if isinstance(change, dict) else {})) == 2
    said = capsys.readouterr().err
    assert "out.csv.partial is part of something else and is dropped: " in said and "Going on" not in said
    told = next(iter(change)) if isinstance(change, dict) else "the list of images, or one of the files, has changed"
    assert told in said
    assert len(table(tmp_path / "out.csv")) == 11 + (change == "more")


def test_rows_are_not_kept_in_memory(trained, photos, monkeypatch, tmp_path):
    monkeypatch.setattr(predict_mode, "BATCH", 2)
    monkeypatch.setattr(predict_mode, "_FIRST", 3)
    tables = []
    real = predict_mode._Table
    monkeypatch.setattr(predict_mode, "_Table", lambda *given: tables.append(real(*given)) or tables[0])
    assert run(trained, "predict", images=str(photos), output=str(tmp_path / "out.csv")) == 2
    assert len(tables[0].first) == 3 and tables[0].readable == 10 and len(tables[0].unreadable) == 1


def test_arrays_paths_images_and_iterators_are_predicted_alike(trained, photos):
    paths = [str(path) for path in sorted(photos.glob("*.png")) if path.name != "01.png"]
    found = trained.predict(paths)
    np.testing.assert_allclose(trained.predict(Image.open(path) for path in paths), found, atol=1e-6)
    np.testing.assert_allclose(trained.predict(map(np.asarray, map(Image.open, paths)), batch_size=3), found, atol=1e-5)


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("", "--output= must be the name of a file that ends in .csv: predictions are written as CSV."),
        ("out.xlsx", "--output=out.xlsx must be the name of a file that ends in .csv"),
        ("folder.csv", "--output=folder.csv is a folder. Give the name of a file in it."),
        ("none/out.csv", "--output=none/out.csv: the folder {tmp}/none does not exist. Create it."),
        ("labels.csv", "--output=labels.csv exists and does not hold predictions. Choose another name, or remove it."),
        ("zeros.csv", "--output=zeros.csv exists and does not hold predictions."),
    ],
)
@pytest.mark.parametrize("mode", ["predict", "evaluate"])
def test_what_output_cannot_be_is_said_before_anything_is_computed(
    output, message, mode, trained, tmp_path, monkeypatch, capsys
):
    noise(tmp_path, ["a.png"])
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "labels.csv").write_text("path,label\na.png,ant\n")
    (tmp_path / "zeros.csv").write_bytes(b"\xff\0" * 9)
    before = {path: path.is_file() and path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(modes, "load_run", None)
    monkeypatch.setattr(predict_mode, "load_run", None)
    assert run(trained, mode, images="a.png", output=output) == 1
    assert message.format(tmp=tmp_path) in capsys.readouterr().err
    assert before == {path: path.is_file() and path.read_bytes() for path in tmp_path.iterdir()}


@pytest.mark.slow
def test_a_run_that_cannot_be_written_is_still_evaluated(trained, tmp_path, monkeypatch, capsys):
    def refuse(path, content):
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(type(trained.workdir), "write_bytes", refuse)
        assert run(trained, "evaluate") == 0
        said = capsys.readouterr()
        assert "test, step" in said.out and "are in" not in said.out
        assert said.err == (
            f"warning: {trained.workdir / 'predictions_test.csv'} cannot be written: Read-only file system. "
            "The predictions can be written elsewhere with --output=FILE.\n"
        )
        assert run(trained, "evaluate", output=str(tmp_path / "out.csv")) == 1
    assert run(trained, "evaluate", output=str(tmp_path / "out.csv")) == 0
    assert (tmp_path / "out.csv").read_text() == (trained.workdir / "predictions_test.csv").read_text()


def evaluated(classes, images=2):
    """An evaluation of random probabilities."""
    probabilities = np.random.default_rng(0).dirichlet(np.ones(classes), images).astype(np.float32)
    return Evaluation({}, np.arange(images), probabilities, tuple(f"{index}.png" for index in range(images)))


def test_many_classes_have_the_five_likeliest():
    names = tuple(f"class {index}" for index in range(21))
    found = evaluated(21)
    header, *rows = csv.reader(prediction_files.as_csv(found, names).splitlines())
    assert header == ["path", "label", "prediction", "probability"] + [
        f"{name}{rank}" for rank in range(2, 6) for name in ("prediction", "probability")
    ]
    for index, row in enumerate(rows):
        best = np.argsort(-found.probabilities[index])[:5]
        assert row[:2] == [f"{index}.png", names[index]] and row[2::2] == [names[place] for place in best]
        np.testing.assert_allclose([float(cell) for cell in row[3::2]], found.probabilities[index][best], atol=1e-6)
    assert len(prediction_files.as_csv(evaluated(20), names[:20]).splitlines()[0].split(",")) == 24


def test_probabilities_that_were_not_kept_are_told(tmp_path):
    path = tmp_path / "predictions_test.csv"
    assert prediction_files.write_split(path, Evaluation({}, np.arange(3), None, ("a", "b", "c")), CLASSES) == [
        f"{path} is not written: the probabilities of 3 images and 3 classes are too many to keep."
    ]
    assert not path.exists()


def test_what_spreadsheets_act_on_is_escaped():
    found = Evaluation({}, np.zeros(1, int), np.ones((1, 1), np.float32), ("=1+1.png",))
    assert list(csv.reader(prediction_files.as_csv(found, ["@SUM(A1)"]).splitlines())) == [
        ["path", "label", "prediction", "probability", "probability_@SUM(A1)"],
        ["'=1+1.png", "'@SUM(A1)", "'@SUM(A1)", "1.000000", "1.000000"],
    ]
    assert prediction_files.as_csv(found, ["a"], "folder").splitlines()[1].startswith("folder/=1+1.png,a,a,")
