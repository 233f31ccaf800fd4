"""Exports of a run with a temperature and a familiarity: both go into the program and the model card."""

import csv
import dataclasses
import json

import jax
import numpy as np
import pytest
from PIL import Image

from flax_augtl import evaluation_report
from flax_augtl.export import ExportError, export, load_export
from flax_augtl.trust import calibration, familiarity
from flax_augtl.trust.penultimate import penultimate_features
from flax_augtl.workdir import files


@pytest.fixture
def calibrated(fresh):
    """The run with a temperature and a familiarity."""
    run, _ = evaluation_report.calibrate(fresh)
    run = dataclasses.replace(run, temperature=2.5)
    found = calibration.Calibration(2.5, run.step, 5, "Fitted to the log-loss of 5 validation images.")
    files.write_json(run.workdir / files.CALIBRATION, found.to_json())
    return run


def expected(run, batch):
    """The probabilities and the familiarity of images as the run computes them."""
    features, logits = penultimate_features(run, [batch])
    return np.asarray(jax.nn.softmax(logits / 2.5)), familiarity.read(run.workdir, run.step)(features, logits)


def test_onnx_has_the_temperature_and_the_familiarity(calibrated, images, photos):
    pytest.importorskip("onnx", reason="needs the extra `onnx`")
    from tests.export.test_onnx import standalone

    ort = pytest.importorskip("onnxruntime", reason="needs the extra `onnx`")
    said = []
    found = export(calibrated, "onnx", outputs="probabilities,logits,familiarity", say=said.append)
    batch = np.stack([calibrated.preprocessing.resize_and_crop(Image.fromarray(image)) for image in images])
    session = ort.InferenceSession(str(found[0]), providers=["CPUExecutionProvider"])
    probabilities, logits, familiar = session.run(None, {"images": batch})
    wanted, rank = expected(calibrated, batch)
    np.testing.assert_allclose(probabilities, wanted, atol=1e-4)
    np.testing.assert_allclose(probabilities, calibrated.predict(images), atol=1e-4)
    np.testing.assert_allclose(jax.nn.softmax(logits / 2.5), probabilities, atol=1e-4)
    np.testing.assert_allclose(familiar, rank, atol=1e-6)
    assert json.loads(found[1].read_text())["calibration"] == 2.5
    card = (calibrated.workdir / "README.md").read_text()
    assert "Logits are divided by the temperature 2.5 before the softmax." in card
    assert "Fitted to the log-loss of 5 validation images." in card
    done = standalone(calibrated, photos, "--unknown_below", "1")
    assert done.returncode == 0 and "UNKNOWN? (familiarity 0." in done.stdout, done.stderr
    with open(calibrated.workdir / "predictions.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[-3:] == ["familiarity", "unknown", "reason"]
    assert all((row["unknown"] == "yes") == (float(row["familiarity"]) < 1) for row in rows)


def test_stablehlo_and_safetensors_have_the_temperature(calibrated, images):
    (program, _) = export(calibrated, "stablehlo", outputs="probabilities,familiarity")
    batch = np.stack([calibrated.preprocessing.resize_and_crop(Image.fromarray(image)) for image in images])
    found = jax.export.deserialize(bytearray(program.read_bytes())).call(batch)
    wanted, rank = expected(calibrated, batch)
    np.testing.assert_allclose(found["probabilities"], wanted, atol=1e-4)
    np.testing.assert_allclose(found["familiarity"], rank, atol=1e-6)
    export(calibrated)
    again = load_export(calibrated.workdir)
    assert again.temperature == 2.5
    np.testing.assert_allclose(again.predict(images), wanted, atol=1e-4)


def test_a_run_without_familiarity_cannot_export_it(fresh):
    with pytest.raises(ExportError, match="--outputs=familiarity: the weights of step 2 in .* have no familiarity."):
        export(fresh, "stablehlo", outputs="probabilities,familiarity")
