"""Runs on files whose names are in another Unicode form, or are no text, from training to the report."""

import csv
import json
import os
import unicodedata

import jax
import numpy as np
import pytest
from PIL import Image

import flax_augtl
from flax_augtl import cli, predict
from flax_augtl.data import dataset_from_arrays
from flax_augtl.study.study import study
from flax_augtl.workdir.files import read_json, write_json
from tests import small

MAC, BYTES = "cafe\u0301", os.fsdecode(b"caf\xe9")


def images(root, names, count=8):
    """A folder of noise for each class; the images of one seed are the same under every name."""
    for label, name in enumerate(names):
        (root / name).mkdir(parents=True)
        for i in range(count):
            noise = np.random.default_rng([label, i]).integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(noise).save(root / name / f"{i}.png")
    return root


def config(root, **changes):
    config = small.digits_config(**{"weights": "embedded:glyphs", "freeze": "all", "steps": 2, **changes})
    config.schedule.update({"name": "constant"})
    config.data.update({"name": "folder", "root": str(root), "shots": None, "validation": 0.25, "scan_dir": ""})
    return config


def flags(**given):
    """The flags of main.py."""
    names = {"mode": "train", "images": None, "step": "best", "split": "test", "traceback": False, "coordinator": None,
             "num_processes": None, "process_id": None, "data_root": None, "max_pixels": None,
             "output": None, "views": "one", "explain": False, "neighbours": 0, "calibrate": False,
             "unknown_below": 0.05, **given}  # fmt: skip
    return type("Flags", (), names)


@pytest.fixture
def bytes_root(tmp_path):
    """Two classes, one of which has a name that is not UTF-8, as has an image of the other."""
    root = images(tmp_path / "images", ("ant", BYTES))
    (root / "ant" / "0.png").rename(root / "ant" / f"{BYTES}.png")
    return root


@pytest.mark.slow
def test_names_that_are_no_text_from_training_to_predictions(bytes_root, tmp_path, capsys):
    run = flax_augtl.train(config(bytes_root), tmp_path / "run")
    assert run.class_names == ("ant", r"caf\xe9")
    ids = read_json(tmp_path / "run" / "splits.json")
    assert r"ant/caf\xe9.png" in {name for split in ("train", "val", "test") for name in ids[split]}
    cli.run(flags(mode="evaluate", workdir=str(tmp_path / "run")))
    (bytes_root / BYTES / f"{BYTES}.png").write_bytes(b"damaged")
    with pytest.raises(SystemExit, match="2"):
        cli.run(flags(mode="predict", workdir=str(tmp_path / "run"), images=str(bytes_root)))
    with (tmp_path / "run" / "predictions.csv").open(newline="", encoding="utf-8") as file:
        reasons = {row["path"]: row["reason"] for row in csv.DictReader(file)}
    assert len(reasons) == 17 and reasons[rf"{bytes_root}/ant/caf\xe9.png"] == ""
    assert reasons[rf"{bytes_root}/caf\xe9/caf\xe9.png"].startswith("its content is not an image")
    told = capsys.readouterr()
    assert r"caf\xe9" in told.out and rf"{bytes_root}/caf\xe9/caf\xe9.png: its content is not an image" in told.err
    (told.out + told.err).encode()
    rows = predict.predict_files(run, f"{bytes_root}/{BYTES}/*.png")
    assert len(rows) == 9 and [row["path"] for row in rows if row["reason"]] == [f"{bytes_root}/{BYTES}/{BYTES}.png"]


@pytest.mark.slow
def test_a_root_that_is_no_text(tmp_path):
    root = images(tmp_path / BYTES, ("a", "b"))
    flax_augtl.train(config(root), tmp_path / "run", quiet=True)
    run = flax_augtl.load_run(tmp_path / "run")
    assert run.config.data.root == str(root)
    assert run.evaluate("test")["n"] == 3
    assert flax_augtl.train(config(root), tmp_path / "run", quiet=True).step == 2


@pytest.mark.slow
def test_a_study_of_such_names(bytes_root, tmp_path):
    settings = config(bytes_root)
    settings.study.update({"preset": "", "depths": ("all",), "heads": ("traditional",), "learning_rates": (0.1,),
                           "seeds": (0,), "views": 1})  # fmt: skip
    assert study(settings, tmp_path / "study") is not None
    assert r"caf\xe9" in (tmp_path / "study" / "report.html").read_text(encoding="utf-8")
    assert read_json(tmp_path / "study" / "best" / "class_names.json") == ["ant", r"caf\xe9"]


@pytest.mark.slow
def test_an_older_run_goes_on_whatever_form_the_disk_has_now(tmp_path):
    """It has its names as they were on the disk, of a Mac, in an order that NFC has not."""
    root = images(tmp_path / "images", ("cafz", MAC, "cafa"))
    runs = {}
    for steps in (1, 2):
        older = config(root, steps=steps)
        older.data.folder_rules = 1
        workdir = tmp_path / f"older{steps}"
        runs[steps] = flax_augtl.train(older, workdir, quiet=True)
        values = read_json(workdir / "config.json")
        del values["data"]["folder_rules"]
        write_json(workdir / "config.json", values)
        assert read_json(workdir / "class_names.json") == ["cafa", MAC, "cafz"]
    for form in ("NFD", "NFC"):
        (root / MAC).rename(root / unicodedata.normalize(form, MAC))
        loaded = flax_augtl.load_run(tmp_path / "older2")
        assert loaded.class_names == ("cafa", MAC, "cafz")
        for split in ("test", "val"):
            assert loaded.evaluate(split)["loss"] == pytest.approx(runs[2].result[split]["loss"])
    flax_augtl.train(config(root), tmp_path / "older1", extend=True, quiet=True)
    extended, whole = (flax_augtl.load_run(tmp_path / name, step=2).variables for name in ("older1", "older2"))
    jax.tree.map(np.testing.assert_array_equal, extended, whole)
    assert read_json(tmp_path / "older1" / "splits.json") == read_json(tmp_path / "older2" / "splits.json")


def test_todays_run_goes_on_whatever_form_the_disk_has(tmp_path):
    root = images(tmp_path / "images", ("cafz", MAC, "cafa"))
    run = flax_augtl.train(config(root), tmp_path / "run", quiet=True)
    assert run.class_names == ("cafa", "cafz", "caf\u00e9")
    (root / MAC).rename(root / "caf\u00e9")
    assert flax_augtl.load_run(tmp_path / "run").evaluate("test")["loss"] == pytest.approx(run.result["test"]["loss"])


def test_classes_of_python_code_in_the_other_form(tmp_path):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (24, 8, 8, 3), dtype=np.uint8)

    def dataset(name):
        labels = [("cafz", name, "cafa")[i % 3] for i in range(24)]
        return dataset_from_arrays(pixels, labels, test=(pixels[:6], labels[:6]), data={"validation": 0})

    settings = small.digits_config(weights="embedded:glyphs", freeze="all", steps=2)
    run = flax_augtl.train(settings, tmp_path / "run", dataset=dataset(MAC), quiet=True)
    names = [MAC if name == "caf\u00e9" else name for name in ("cafa", "cafz", "caf\u00e9")]
    (tmp_path / "run" / "class_names.json").write_text(json.dumps(names))
    loaded = flax_augtl.load_run(tmp_path / "run")
    assert loaded.evaluate(dataset=dataset("caf\u00e9"))["loss"] == pytest.approx(run.result["test"]["loss"])
