"""`python -m flax_augtl.pretrained`, as a user runs it, and the benchmark."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from flax_augtl.models import create_model
from flax_augtl.pretrained import Preprocessing, load_source, random_variables, write_safetensors
from flax_augtl.pretrained.__main__ import main
from flax_augtl.pretrained.parity.block_outputs import block_activations, differences


@pytest.fixture
def checkpoint(tmp_path):
    source = load_source("resnet20", num_classes=7)
    path = tmp_path / "own.safetensors"
    p = Preprocessing(image_size=24, crop_fraction=1.0)
    write_safetensors(path, "resnet20", source.variables, p, tuple("ABCDEFG"), terms={"licence": "CC0"})
    return path


def table(text):
    """Return the printed rows as a dict."""
    return {line[:14].strip(): line[14:].strip() for line in text.splitlines() if line[:14].strip()}


def test_the_checkpoint_is_described(checkpoint, capsys):
    assert main([str(checkpoint)]) == 0
    rows = table(capsys.readouterr().out)
    assert rows["layout"] == "torchvision names in safetensors"
    assert rows["network"] == "resnet20" and rows["parameters"] == "272,279"
    assert rows["classes"] == "7: A, B, C, …" and rows["licence"] == "CC0"
    assert rows["preprocessing"] == "resize 24, crop 24, bilinear, RGB"
    assert len(rows["sha256"]) == 64


def test_images_get_their_five_likeliest_classes(checkpoint, tmp_path, capsys):
    folder = tmp_path / "images" / "inner"
    folder.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    Image.fromarray(pixels).save(folder / "a.png")
    (folder / "broken.jpg").write_bytes(b"not an image")
    assert main([str(checkpoint), "--images", str(tmp_path / "images")]) == 1
    printed = capsys.readouterr()
    line = next(line for line in printed.out.splitlines() if line.startswith(str(folder / "a.png")))
    source = load_source(None, checkpoint)
    logits = np.asarray(source.model.apply(source.variables, source.preprocess([pixels])))[0]
    names = [entry.split()[0] for entry in line.partition(": ")[2].split(", ")]
    assert names == [source.class_names[i] for i in np.argsort(-logits)[:5]]
    assert f"1 image could not be read:\n  {folder / 'broken.jpg'}: " in printed.err


def test_images_are_read_as_for_prediction(checkpoint, tmp_path, capsys):
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40), np.uint8)
    Image.fromarray(pixels).convert("RGB").save(tmp_path / "8.png")
    Image.fromarray(pixels.astype(np.uint16) * 257).save(tmp_path / "16.png")
    assert main([str(checkpoint), "--images", str(tmp_path)]) == 0
    sixteen, eight = (line.partition(": ")[2] for line in capsys.readouterr().out.splitlines()[-2:])
    assert sixteen == eight


def test_errors_are_sentences_and_set_the_exit_code(checkpoint, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    for arguments, message in (
        ([str(checkpoint), "--model=resnet32"], "This file fits resnet20."),
        ([str(checkpoint), f"--images={tmp_path / 'empty'}"], "there is no such image, and no folder or pattern"),
        ([str(checkpoint), f"--images={tmp_path / 'absent'}"], "there is no such image"),
        ([str(checkpoint), "--model=resnet19"], "There is no network 'resnet19'."),
        ([str(checkpoint), "--verify"], "resnet20 has no original in torchvision"),
    ):
        assert main(arguments) == 1
        assert message in capsys.readouterr().err
    # Once as a user runs it.
    command = [sys.executable, "-m", "flax_augtl.pretrained", "absent.safetensors"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 1 and run.stderr == "error: There is no checkpoint at absent.safetensors.\n"


def test_without_the_original_library_verification_says_what_to_install(tmp_path, capsys, draw, monkeypatch):
    save_file(draw(create_model("resnet18")), tmp_path / "w.safetensors")
    monkeypatch.setitem(sys.modules, "torchvision", None)
    assert main([str(tmp_path / "w.safetensors"), "--verify"]) == 1
    assert "pip install 'flax_augtl[parity]'" in capsys.readouterr().err


def test_blocks_are_named_and_compared():
    model = create_model("vgg11", widths=(2, 2, 2, 2, 2), hidden=4, num_classes=3)
    names = model.block_names
    assert names[:3] == ("conv1/conv0", "conv2/conv0", "conv3/conv0") and names[-3:] == ("fc6", "fc7", "logits")
    ours = block_activations(model, random_variables(model), np.ones((1, 32, 32, 3), np.float32))
    assert set(ours) == set(names) and ours["conv1/conv0"].shape == (1, 32, 32, 2)
    theirs = {name: value.copy() for name, value in ours.items()}
    top = np.abs(theirs["fc7"]).max()
    theirs["fc7"][0, 0] += 0.5 * top
    found = differences(ours, theirs)
    assert found["fc7"] == pytest.approx(0.5 * top / np.abs(theirs["fc7"]).max()) and found["logits"] == 0
    with pytest.raises(ValueError, match="the blocks differ"):
        differences(ours, {"fc7": theirs["fc7"]})


def test_loading_takes_little_more_memory_than_the_file(tmp_path, draw):
    save_file(draw(create_model("resnet18")), tmp_path / "w.safetensors")
    command = [sys.executable, "-m", "flax_augtl.benchmarks.weights", str(tmp_path / "w.safetensors")]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    name, megabytes, seconds, processor, part = run.stdout.splitlines()[1].split()
    assert name == "w.safetensors" and megabytes == "47" and float(seconds) > 0
    assert 0.9 < float(part) < 1.3
