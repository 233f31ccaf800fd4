"""--mode=inspect, --mode=embed, and what --mode=predict adds on request, as a user calls them."""

import csv
import dataclasses
import json
import shutil

import numpy as np
import pytest
from PIL import Image

import flax_augtl
from flax_augtl import cli, inspect_data
from flax_augtl.errors import UserError
from flax_augtl.trust import calibration, neighbours
from flax_augtl.workdir import files
from tests import small


def flags(**given):
    """The flags of main.py."""
    names = {"config": None, "images": None, "step": "best", "split": "test", "traceback": True, "coordinator": None,
             "num_processes": None, "process_id": None, "data_root": None, "max_pixels": None, "output": None,
             "views": "one", "explain": False, "neighbours": 0, "layer": None, "pooled": True, "calibrate": False,
             "unknown_below": 0.05, **given}  # fmt: skip
    return type("Flags", (), names)


def config(root):
    config = small.digits_config(weights="embedded:glyphs", freeze="all", steps=2)
    config.data.update({"name": "folder", "root": str(root), "shots": None, "validation": 0.25, "scan_dir": ""})
    return config


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Noisy stripes of two directions; one image has the wrong label, one has a copy, and one is damaged."""
    root, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for name, axes in (("columns", (0, 1)), ("rows", (1, 0))):
        (root / name).mkdir()
        for number in range(12):
            wave = 100 * np.sin(np.arange(24) * rng.uniform(0.5, 0.6) + rng.uniform(0, 6))
            grey = 128 + np.broadcast_to(wave, (24, 24)).transpose(axes) + rng.uniform(-20, 20, (24, 24))
            Image.fromarray(grey.astype(np.uint8)).convert("RGB").save(root / name / f"{number}.png")
    (root / "rows" / "3.png").rename(root / "columns" / "wrong.png")
    shutil.copy(root / "rows" / "5.png", root / "rows" / "copy.png")
    (root / "rows" / "damaged.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    return root


@pytest.fixture(scope="module")
def run(root, tmp_path_factory):
    settings = config(root)
    settings.data.on_bad_image = "skip"
    return flax_augtl.train(settings, tmp_path_factory.mktemp("run"), quiet=True)


def table(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_inspect_takes_a_config_and_finds_what_was_planted(root, tmp_path, capsys):
    cli.run(flags(mode="inspect", config=config(root), workdir=str(tmp_path / "new")))
    first, *others = table(tmp_path / "new" / "inspection.csv")
    assert (first["path"], first["label"], first["suggestion"]) == ("columns/wrong.png", "columns", "rows")
    assert len(others) == 24 and {row["suggestion"] for row in others} == {""}
    pair, *more = table(tmp_path / "new" / "inspection_copies.csv")
    assert {pair["path"], pair["copy_path"]} == {"rows/5.png", "rows/copy.png"} and pair["equal"] == "yes"
    said = capsys.readouterr().out
    assert "Labels that are probably wrong: 1 of 25.\n" in said and "Images that cannot be read: 1.\n" in said
    assert "damaged.png" in (tmp_path / "new" / "inspection.html").read_text("utf-8")
    assert not (tmp_path / "new" / files.CONFIG).exists()


def test_inspect_takes_a_run_with_its_splits_and_trains_nothing(run, capsys):
    before = (run.workdir / files.RESULT).read_bytes()
    cli.run(flags(mode="inspect", workdir=str(run.workdir)))
    splits = json.loads((run.workdir / files.SPLITS).read_text())
    found = {row["path"]: row["split"] for row in table(run.workdir / "inspection.csv")}
    assert {name for name, split in found.items() if split == "test"} == {*splits["test"]}
    assert {name for name, split in found.items() if split == "val"} == {*splits["val"]}
    assert (run.workdir / files.RESULT).read_bytes() == before
    assert "inspection.html" in capsys.readouterr().out


def test_inspect_without_a_config_needs_a_run(tmp_path):
    with pytest.raises(UserError, match="is not a run directory: .* which data to inspect with --config"):
        inspect_data.inspect(None, tmp_path)


def test_predict_adds_neighbours_and_evidence_on_request(run, root, capsys):
    images = str(root / "rows")
    with pytest.raises(SystemExit, match="2"):  # One image is damaged.
        cli.run(flags(mode="predict", workdir=str(run.workdir), images=images, neighbours=3, explain=True))
    rows = table(run.workdir / files.PREDICTIONS)
    train = {*json.loads((run.workdir / files.SPLITS).read_text())["train"]}
    for row in rows:
        if row["reason"]:
            assert row["explanation"] == row["neighbour1"] == ""
            continue
        assert {row[f"neighbour{rank}"] for rank in (1, 2, 3)} <= train
        assert row["neighbour1_label"] == row["neighbour1"].split("/")[0]
        name = row["path"].split("rows/")[1]
        if f"rows/{name}" in train:
            assert float(row["neighbour1_similarity"]) > 0.999
        with Image.open(run.workdir / row["explanation"]) as image:
            assert image.size == (2 * 8 + 4, 8)
    assert "<img" in (run.workdir / "explanations" / "index.html").read_text()
    assert neighbours.read(run.workdir / neighbours.NAME, run.step) is not None
    assert "explanations/index.html" in capsys.readouterr().out


def test_views_are_averaged_in_predict_and_evaluate(run, root, capsys):
    paths = sorted(str(path) for path in (root / "columns").glob("*.png"))
    images = [np.asarray(Image.open(path)) for path in paths]
    mirrored = [image[:, ::-1] for image in images]
    raw = dataclasses.replace(run, temperature=None)
    wanted = calibration.calibrated((raw.predict(images) + raw.predict(mirrored)) / 2, run.temperature)
    np.testing.assert_allclose(run.predict(paths, views="flip", batch_size=5), wanted, atol=1e-5)
    assert run.predict(paths[:2], views="ten_crop").shape == (2, 2)
    one, averaged = (run.evaluation("test", views=views) for views in ("one", "flip"))
    assert one.metrics["n"] == averaged.metrics["n"] and one.ids == averaged.ids
    assert np.abs(one.probabilities - averaged.probabilities).max() < 0.5
    cli.run(flags(mode="evaluate", workdir=str(run.workdir), views="ten_crop"))
    assert "top-1" in capsys.readouterr().out


def test_embed_writes_a_row_for_each_image_that_can_be_read(run, root, capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.run(flags(mode="embed", workdir=str(run.workdir), images=str(root / "rows"), layer="layer3"))
    with np.load(run.workdir / "embeddings.npz") as found:
        assert found["embeddings"].shape == (12, 64) and len(found["paths"]) == 12
        paths = found["paths"].tolist()
        again = run.embed(paths, layer="layer3", batch_size=5)
        np.testing.assert_allclose(found["embeddings"], again, rtol=1e-4, atol=1e-5)
    assert run.embed([], layer="layer2").shape == (0, 32) and run.embed([]).shape == (0, 64)
    assert run.embed(paths[:1], layer="stem", pooled=False).shape == (1, 8, 8, 16)
    assert "Embeddings of 12 images, float32 [12, 64], are in" in capsys.readouterr().out


def test_flags_that_name_nothing_are_sentences(run, root):
    for given, message in (
        ({"mode": "embed", "layer": "layer7"}, "--layer=layer7 is not one of the layer groups"),
        ({"mode": "embed", "output": "x.csv"}, "must end in .npz or .parquet"),
    ):
        with pytest.raises(UserError, match=message):
            cli.run(flags(workdir=str(run.workdir), images=str(root / "columns"), **given))
