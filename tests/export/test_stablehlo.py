"""`--mode=export --format=stablehlo`: a program for every platform, read where this package cannot be imported."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from flax_augtl.export import export

SCRIPT = """
import sys
sys.modules["flax_augtl"] = sys.modules["flax"] = None
import jax, numpy as np
from jax import export
exported = export.deserialize(bytearray(open(sys.argv[1], "rb").read()))
pixels = np.load(sys.argv[2])
found = {name: np.asarray(value) for name, value in exported.call(pixels).items()}
one = np.asarray(exported.call(pixels[:1])["probabilities"])
np.savez(sys.argv[3], one=one, platforms=exported.platforms, **found)
"""


@pytest.mark.slow
@pytest.mark.parametrize("weights", ["float32", "bfloat16"])
def test_it_is_loaded_and_run_without_the_package(fresh, images, tmp_path, weights):
    said = []
    program, sheet = export(fresh, "stablehlo", outputs="logits,probabilities", weights=weights, say=said.append)
    assert (program.name, sheet.name) == ("export.stablehlo", "export_stablehlo.json")
    pixels = np.stack([fresh.preprocessing.resize_and_crop(Image.fromarray(image)) for image in images])
    np.save(tmp_path / "pixels.npy", pixels)
    done = subprocess.run([sys.executable, "-c", SCRIPT, program, tmp_path / "pixels.npy", tmp_path / "found.npz"],
                          capture_output=True, text=True, cwd=tmp_path)  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = np.load(tmp_path / "found.npz")
    assert list(found["platforms"]) == ["cpu", "cuda", "tpu"]
    tolerance = 1e-4 if weights == "float32" else 0.02
    np.testing.assert_allclose(found["probabilities"], fresh.predict(images), rtol=0, atol=tolerance)
    np.testing.assert_allclose(found["one"], found["probabilities"][:1], rtol=0, atol=1e-5)
    assert found["logits"].shape == (4, 3)
    assert json.loads(sheet.read_text())["check"]["images"] == "5 validation images"
    card = (fresh.workdir / "README.md").read_text()
    assert "up to 6 months younger" in card and "up to 3 weeks older" in card
    assert said[0].startswith("bfloat16 weights: top-1 ") if weights == "bfloat16" else len(said) == 1
