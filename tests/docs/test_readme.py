"""What the README shows works as it stands: its commands on a small folder, its Python, the notebook."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from flax_augtl import cli
from tests.conftest import ROOT
from tests.docs import pages
from tests.docs.test_commands import parse_main

# What makes a run small: a network and weights that come with the package, and a few steps.
SMALL = {
    "network": "resnet20", "weights": "embedded:glyphs", "image_size": 8, "batch_size": 8, "epochs": 3, "freeze": "all",
    "data.scan_dir": "",
}  # fmt: skip
SMALL_STUDY = {"study.preset": "", "study.heads": ("traditional",), "study.depths": ("all",), "study.views": 1,
               "study.learning_rates": (0.01,), "study.seeds": (0,)}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A working directory with photos of two classes, new photos, and the package's configs."""
    folder = tmp_path_factory.mktemp("readme")
    rng = np.random.default_rng(0)
    for place, count in (("photos/cat", 12), ("photos/dog", 12), ("new_photos", 2)):
        (folder / place).mkdir(parents=True)
        for index in range(count):
            shape = (12, 12, 3)
            Image.fromarray(rng.integers(0, 256, shape, np.uint8)).save(folder / place / f"{index}.jpg")
    return folder


def commands_of(heading):
    """Return the commands of the first block below a heading of the README."""
    body = re.search(rf"## {heading}\n.*?```bash\n(.*?)```", pages.text_of("README.md"), re.DOTALL)[1]
    return [line.split()[1:] for line in body.splitlines()]


@pytest.mark.slow
# ml_collections loads configuration files in a way that Python has deprecated.
@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
def test_the_commands_for_ones_own_images_run(folder, monkeypatch, capsys):
    commands = commands_of("Your own images")
    assert [re.search(r"--mode=(\w+)|$", " ".join(words))[1] for words in commands] == [
        None,
        "evaluate",
        "predict",
        "study",
    ]
    for words in commands:
        fields = SMALL if "--config=configs/folder.py" in words else {}
        fields = {**fields, **SMALL_STUDY} if "--mode=study" in words else fields
        values = parse_main([*words, *(f"--config.{name}={value}" for name, value in fields.items())], monkeypatch)
        monkeypatch.chdir(folder)
        cli.run(values)
    said = capsys.readouterr().out
    assert "test, step" in said and "Predictions of 2 images are in" in said
    for file in ("photos/result.json", "photos/predictions.csv", "study/report.html", "study/best/config.json"):
        assert (folder / "runs" / file).exists()


@pytest.mark.slow
def test_the_python_runs(folder, tmp_path, monkeypatch):
    import flax_augtl

    (tmp_path / "new_photos").mkdir()
    Image.new("RGB", (9, 9)).save(tmp_path / "new_photos" / "1.jpg")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").symlink_to(folder / "photos")
    train = flax_augtl.train

    def small(config, workdir):
        for field, value in SMALL.items():
            *parents, name = field.split(".")
            (config[parents[0]] if parents else config)[name] = value
        return train(config, workdir, quiet=True)

    monkeypatch.setattr(flax_augtl, "train", small)
    (body,) = pages.blocks("README.md", "python")
    names = {}
    exec(compile(body, "README.md", "exec"), names)  # noqa: S102
    assert names["probabilities"].shape == (1, 2) and names["run"].class_names == ("cat", "dog")


def test_the_notebook_holds_its_outputs():
    cells = json.loads(pages.PAGES["docs/quickstart.ipynb"].read_text("utf-8"))["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", ())]
    text = json.dumps(outputs)
    assert "image/png" in text and "top1" in text and "chosen by validation" in text
    assert not re.search(r"/(?:tmp|home|root|work|Users)/", text) and '"output_type": "error"' not in text
    assert len(text) < 300_000


@pytest.mark.slow
def test_the_notebook_runs(tmp_path):
    for library in ("nbclient", "ipykernel"):
        pytest.importorskip(library, reason="needs the extra `test`")
    done = subprocess.run([sys.executable, "-m", "tests.notebook", str(tmp_path)], cwd=ROOT, text=True, capture_output=True,
                          timeout=900)  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    for file in ("run/result.json", "study/report.html"):
        assert (tmp_path / "quickstart" / file).exists()
