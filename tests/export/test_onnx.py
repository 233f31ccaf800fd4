"""`--mode=export --format=onnx` of a run, and the program beside it."""

import csv
import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from flax_augtl.export import ExportError, export, onnx_layers
from flax_augtl.predict import predict_files

pytest.importorskip("onnx", reason="needs the extra `onnx`")
ort = pytest.importorskip("onnxruntime", reason="needs the extra `onnx`")


def files_of(run):
    """Return {name: bytes} of the files in a run directory."""
    return {path.name: path.read_bytes() for path in pathlib.Path(run.workdir).iterdir() if path.is_file()}


def standalone(run, *arguments, python=sys.executable):
    """Run the program beside the export where neither JAX nor this package can be imported."""
    script = str(run.workdir / "predict_onnx.py")
    blocked = f"import sys, runpy; sys.modules.update(dict.fromkeys(('jax', 'flax', 'flax_augtl'))); \
sys.argv = {[script, *map(str, arguments)]!r}; runpy.run_path({script!r}, run_name='__main__')"
    return subprocess.run([python, "-c", blocked], capture_output=True, text=True, timeout=300,
                          cwd=run.workdir, env=os.environ)  # fmt: skip


def odd_images(folder):
    """Write images of many kinds, and a file that is none."""
    (folder / "below").mkdir(parents=True)
    rng = np.random.default_rng(2)
    pixels = rng.integers(0, 256, (23, 14, 4), np.uint8)
    Image.fromarray(pixels[..., :3]).save(folder / "rgb.jpg")
    Image.fromarray(pixels).save(folder / "below" / "clear.png")
    Image.fromarray(pixels[..., 0]).save(folder / "grey.png")
    Image.fromarray(pixels[..., :3]).convert("P").save(folder / "=palette.gif")
    Image.fromarray(rng.integers(0, 2**16, (9, 30), np.uint16)).save(folder / "deep.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels[..., :3]).save(folder / "turned.jpg", exif=exif)
    Image.fromarray(pixels[:2, :1, :3]).resize((1, 300)).save(folder / "strip.png")
    (folder / "broken.png").write_bytes(b"no image")


def test_it_computes_what_the_run_computes_and_says_how_to_use_it(fresh, images):
    said = []
    found = export(fresh, "onnx", outputs="probabilities,logits,features", say=said.append)
    assert [path.name for path in found] == ["export.onnx", "export_onnx.json", "predict_onnx.py"]
    assert said == [f"The model card is {fresh.workdir / 'README.md'}"]
    sheet = json.loads(found[1].read_text())
    assert sheet["class_names"] == ["ant|bee", "cat", "dog"] and sheet["calibration"] == "not calibrated"
    assert sheet["input"]["dtype"] == "uint8" and sheet["input"]["shape"] == ["N", 8, 8, 3]
    assert sheet["input"]["steps"] == [
        "turn the image upright, as its EXIF orientation says, and make it RGB, with transparency laid on white",
        "resize the short side to 8 pixels, the other in proportion, rounded down (Pillow's bilinear)",
        "cut out the central 8 × 8 pixels; what lies outside of the image is black"]  # fmt: skip
    assert list(sheet["outputs"]) == ["probabilities", "logits", "features"]
    assert sheet["check"]["images"] == "5 validation images" and sheet["check"]["changed_predictions"] == 0
    assert sheet["check"]["largest_difference"]["probabilities"] < 1e-4
    session = ort.InferenceSession(str(found[0]), providers=["CPUExecutionProvider"])
    assert json.loads(session.get_modelmeta().custom_metadata_map["class_names"]) == sheet["class_names"]
    batch = np.stack([fresh.preprocessing.resize_and_crop(Image.fromarray(image)) for image in images])
    probabilities, logits, features = session.run(None, {"images": batch})
    np.testing.assert_allclose(probabilities, fresh.predict(images), rtol=0, atol=1e-4)
    assert logits.shape == (4, 3) and features.shape == (4, 64)


@pytest.mark.parametrize("settings", [{}, {"input": "float", "weights": "float16", "outputs": "logits,probabilities"}])
def test_the_program_beside_it_predicts_a_folder_without_jax(fresh, tmp_path, settings):
    odd_images(tmp_path / "photos")
    said = []
    export(fresh, "onnx", **settings, say=said.append)
    done = standalone(fresh, tmp_path / "photos")
    assert done.returncode == 2, done.stderr
    assert "broken.png could not be read" in done.stderr and "7 images, in full in predictions.csv" in done.stdout
    with open(fresh.workdir / "predictions.csv", encoding="utf-8") as file:
        rows = {row["path"].lstrip("'"): row for row in csv.DictReader(file)}
    expected = [row for row in predict_files(fresh, str(tmp_path / "photos")) if not row["reason"]]
    reasons = {pathlib.Path(path).name: row["reason"] for path, row in rows.items() if row["reason"]}
    assert list(reasons) == ["broken.png"] and "cannot identify image file" in reasons["broken.png"]
    (broken,) = (row for row in rows.values() if row["reason"])
    assert [*broken][-1] == "reason" and set([*broken.values()][1:-1]) == {""}
    assert len(expected) == 7 and len(rows) == 8
    for row in expected:
        ours = dict(zip(row["labels"], row["probabilities"], strict=True))
        theirs = {rows[row["path"]][f"label{n}"]: float(rows[row["path"]][f"probability{n}"]) for n in ("", "2", "3")}
        assert theirs == pytest.approx(ours, abs=1e-3 if settings else 1e-4), row["path"]
    if settings:
        assert said[0].startswith("float16 weights: top-1 ") and "of 5 validation images are predicted" in said[0]
    done = standalone(fresh, tmp_path / "nothing")
    assert done.returncode == 1 and f"error: there are no images in {tmp_path / 'nothing'}." in done.stderr


def test_without_probabilities_the_program_says_so(fresh, photos):
    export(fresh, "onnx", outputs="logits")
    done = standalone(fresh, photos)
    assert done.returncode == 1 and "this network gives no probabilities" in done.stderr


def test_nothing_is_written_if_the_check_fails(fresh, monkeypatch):
    before = files_of(fresh)
    monkeypatch.setattr(onnx_layers, "relu", lambda graph, x: x)
    message = "The onnx export does not compute what the run computes, and nothing was written: "
    with pytest.raises(
        ExportError, match=f"{message}(.* images have another likeliest class|its probabilities differ by)"
    ):
        export(fresh, "onnx")
    assert files_of(fresh) == before


def test_a_shape_that_is_wrong_fails_the_check(fresh, monkeypatch):
    from flax_augtl.export import files

    onnx_program = files._onnx
    monkeypatch.setattr(
        files,
        "_onnx",
        lambda *arguments: (
            # fmt: skip
            lambda images: {"probabilities": np.zeros((len(images), 2), np.float32)},
            onnx_program(*arguments)[1],
        ),
    )
    before = files_of(fresh)
    with pytest.raises(ExportError, match=r"its probabilities have the shape \(5, 2\), not \(5, 3\)"):
        export(fresh, "onnx")
    assert files_of(fresh) == before


def test_onnx_that_is_not_installed_is_a_sentence(fresh, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ExportError, match=r"pip install \"flax_augtl\[onnx\]\"\.$"):
        export(fresh, "onnx")


def test_data_that_have_moved(fresh, photos, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(photos, moved)
    fresh.config.data.root = str(tmp_path / "gone")
    try:
        said = []
        sheet = export(fresh, "onnx", say=said.append)[1]
        assert said[0].startswith(
            "warning: The export was checked on made-up images, because the images of the run cannot"
        )
        assert said[0].endswith("Say where they are with --data_root=FOLDER.")
        assert json.loads(sheet.read_text())["check"]["images"] == "32 made-up images"
        said.clear()
        sheet = export(fresh, "onnx", data_root=str(moved), say=said.append)[1]
        assert json.loads(sheet.read_text())["check"]["images"] == "5 validation images" and len(said) == 1
        with pytest.raises(ValueError, match="elsewhere"):
            export(fresh, "onnx", data_root=str(tmp_path / "elsewhere"))
    finally:
        fresh.config.data.root = str(photos)


@pytest.mark.skipif(
    "not os.environ.get('FLAX_AUGTL_FRESH_VENV')", reason="FLAX_AUGTL_FRESH_VENV=1 makes an environment"
)
def test_in_a_fresh_environment_with_onnxruntime_alone(fresh, tmp_path):
    odd_images(tmp_path / "photos")
    export(fresh, "onnx")
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", "onnxruntime", "pillow"], check=True)
    absent = "import importlib.util as u; print([n for n in ('jax', 'flax', 'onnx', 'flax_augtl') if u.find_spec(n)])"
    assert subprocess.run([python, "-c", absent], cwd=tmp_path, capture_output=True, text=True).stdout == "[]\n"
    done = subprocess.run([python, fresh.workdir / "predict_onnx.py", tmp_path / "photos"], cwd=tmp_path,
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 2 and "7 images, in full in predictions.csv" in done.stdout, done.stderr
