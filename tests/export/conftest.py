"""A run on a folder of images of odd shapes."""

import dataclasses
import shutil

import numpy as np
import pytest
from etils import epath
from PIL import Image

from flax_augtl.config.convert import to_config_dict, typed
from flax_augtl.run import Run
from flax_augtl.training.experiment import prepare
from flax_augtl.training.result import describe_run
from flax_augtl.workdir.files import write_json
from tests import small


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """A folder with three classes of eight images, no two of one shape."""
    root = tmp_path_factory.mktemp("data") / "photos"
    rng = np.random.default_rng(0)
    for label, name in enumerate(("ant|bee", "cat", "dog")):
        (root / name).mkdir(parents=True)
        for number in range(8):
            pixels = rng.integers(80 * label, 80 * label + 90, (9 + number, 17 - number, 3), np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    return root


@pytest.fixture(scope="session")
def run(tmp_path_factory, photos):
    """A run with an augmented head and a validation split, and random weights: training would take longer than all tests."""
    config = small.digits_config(
        weights="embedded:glyphs", freeze="all", head={"preset": "kept_deeper", "new_layers": (16,)},
        data={"name": "folder", "root": str(photos), "validation": 0.25, "test": 0.25, "shots": None})  # fmt: skip
    experiment, workdir = prepare(typed(config)), epath.Path(tmp_path_factory.mktemp("run")) / "first"
    workdir.mkdir()
    describe_run(workdir, experiment)
    measured = {"top1": 2 / 3, "mean_per_class": 0.5, "loss": 0.7, "calibration_error": 0.125, "n": 6}
    classes = [{"label": name, "n": 2} for name in experiment.dataset.class_names]
    result = {"test": measured, "val": {**measured, "n": 5}, "best_step": 2, "classes": classes,
              "intervals": {"test": {"top1": [0.25, 0.75]}, "val": {}}}  # fmt: skip
    write_json(workdir / "result.json", result)
    variables = small.variables(experiment.network)
    return Run(
        workdir,
        to_config_dict(experiment.config),
        experiment.dataset.class_names,
        experiment.preprocessing,
        experiment.network,
        variables,
        2,
        result,
    )


@pytest.fixture(scope="session")
def images():
    """Images of other odd shapes."""
    rng = np.random.default_rng(1)
    return [rng.integers(0, 256, (*shape, 3), np.uint8) for shape in ((8, 8), (5, 31), (40, 7), (64, 63))]


@pytest.fixture
def fresh(run, tmp_path):
    """The run in a directory of its own."""
    shutil.copytree(run.workdir, tmp_path / "first")
    return dataclasses.replace(run, workdir=type(run.workdir)(tmp_path / "first"))
