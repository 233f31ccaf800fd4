"""The data of a run that is there: moved, elsewhere, or other images altogether."""

import numpy as np
import pytest
from PIL import Image

import flax_augtl
from flax_augtl.data import DataError
from tests import small


def photos(folder, classes=("ant", "bee", "fly"), count=6, seed=0):
    """A folder of random images, a sub-folder a class."""
    rng = np.random.default_rng(seed)
    for name in classes:
        (folder / name).mkdir(parents=True)
        for index in range(count):
            Image.fromarray(rng.integers(0, 256, (9, 9, 3), np.uint8)).save(folder / name / f"{index}.png")
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run that was trained on a relative folder which has moved since, and where it is now."""
    top = tmp_path_factory.mktemp("moved")
    photos(top / "photos")
    config = small.digits_config(
        weights="embedded:glyphs",
        freeze="all",
        steps=1,
        evaluate_every_steps=1,
        data={"name": "folder", "root": "photos", "crop": "none", "scan_dir": ""},
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(top)
        run = flax_augtl.train(config, top / "run", quiet=True)
    (top / "photos").rename(top / "now")
    return run, top


def test_data_that_moved_are_said_to_have_been_somewhere_and_taken_from_where_they_are(trained):
    run, top = trained
    with pytest.raises(DataError) as caught:
        run.evaluate("test")
    assert str(caught.value).startswith("The data root photos does not exist.")
    assert str(caught.value).endswith(
        f"looks for its data there. It was trained on {top / 'photos'}. "
        "If they have moved, say where they are with --data_root=FOLDER."
    )
    assert run.evaluate("test", data_root=top / "now")["top1"] == run.result["test"]["top1"]


def test_a_run_goes_on_with_data_that_moved(trained, tmp_path):
    from types import SimpleNamespace

    from flax_augtl import modes

    run, top = trained
    config = run.config.copy_and_resolve_references()
    flags = SimpleNamespace(
        config=config,
        workdir=str(run.workdir),
        data_root=str(top / "now"),
        extend=False,
        profile=False,
        mode="train",
        dry_run=False,
    )
    before = (top / "run" / "splits.json").read_bytes()
    (top / "run" / "result.json").unlink()
    modes._train(flags)
    assert flax_augtl.load_run(run.workdir).result["test"] == run.result["test"]
    assert (top / "run" / "splits.json").read_bytes() == before


def test_all_images_of_another_folder_with_some_of_the_classes(trained, tmp_path, capsys):
    run, _ = trained
    photos(tmp_path / "other" / "train", ("fly", "bee"), 3, seed=1)
    photos(tmp_path / "other" / "test", ("fly",), 2, seed=2)
    found = run.evaluate("all", data_root=tmp_path / "other")
    assert found["n"] == 8 and found["confusion"].sum(1).tolist() == [0, 3, 5]
    said = capsys.readouterr().err
    assert f"8 images of 2 classes in {tmp_path / 'other'}." in said
    assert "1 of the 3 classes of the network have no image there: ant." in said


def test_one_class_is_enough_to_evaluate_on(trained, tmp_path):
    run, _ = trained
    assert run.evaluate("all", data_root=photos(tmp_path / "other", ("ant",), 4))["n"] == 4


@pytest.mark.parametrize(
    ("classes", "split", "message"),
    [
        (("ant", "wasp"), "all", "has classes that the network was not trained on: wasp. It knows ant, bee, fly."),
        (
            ("ant", "bee"),
            "test",
            "The data have other classes than .*: 2 here, 3 there. To evaluate on other images, add --split=all.",
        ),
        (("ant", "bee", "fly"), "test", "The data have changed since .* To evaluate on other images, add --split=all."),
    ],
)
def test_other_data_are_named(classes, split, message, trained, tmp_path):
    run, _ = trained
    with pytest.raises(ValueError, match=message):
        run.evaluate(split, data_root=photos(tmp_path / "other", classes, 7))


def test_all_needs_a_folder(trained):
    with pytest.raises(
        ValueError, match="--split=all evaluates all images of another folder: name it with --data_root"
    ):
        trained[0].evaluate("all")
