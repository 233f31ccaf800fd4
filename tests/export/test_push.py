"""`--push_to_hub`, against a server on loopback; in processes, since the library reads its settings when it is imported."""

import json
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest

from flax_augtl.export import ExportError
from flax_augtl.export.push import check_target
from tests.conftest import ROOT
from tests.export.hub_server import HubServer

PUSH = """
import pickle, sys
from flax_augtl.export import export
run, kwargs = pickle.load(open(sys.argv[1], "rb"))
try:
    print([path.name for path in export(run, push_to_hub="me/net", say=lambda text: print(text, file=sys.stderr),
    **kwargs)])
except ValueError as error:
    print("error:", error)
"""
LOAD = """
import json, sys
import numpy as np
from flax_augtl import load_source
from flax_augtl.export import load_export
run, source = load_export("me/net"), load_source(None, "me/net")
np.savez(sys.argv[1], kernel=run.variables["params"]["head"]["classifier"]["kernel"],
         below=source.variables["params"]["stem"]["conv1"]["kernel"])
print(json.dumps({"names": run.class_names, "head": run.config.head.preset, "terms": dict(source.terms),
                  "source": source.name, "size": source.preprocess.image_size}))
"""


@pytest.fixture
def hub():
    server = HubServer()
    yield server
    server.close()


def python(script, hub, tmp_path, *arguments, **more):
    """Run a script with its own cache and no proxies, and return what it printed."""
    kept = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy") and not k.startswith("HF_")}
    environment = {**kept, "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "cache"), "HF_HUB_DISABLE_XET": "1",
                   "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1", **more}  # fmt: skip
    done = subprocess.run([sys.executable, "-c", script, *map(str, arguments)], env=environment, cwd=ROOT,
                          capture_output=True, text=True, timeout=400)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


@pytest.mark.slow
def test_it_is_uploaded_and_loaded_again_as_a_run_and_as_a_source(fresh, hub, tmp_path):
    import dataclasses

    import jax

    fresh = dataclasses.replace(fresh, variables=jax.tree.map(np.asarray, dict(fresh.variables)))
    (tmp_path / "run").write_bytes(pickle.dumps((fresh, {})))
    said, log = python(PUSH, hub, tmp_path, tmp_path / "run", HF_TOKEN="hf_secret")
    assert said == "['export.safetensors', 'export.json']\n" and f"Uploaded to {hub.endpoint}/me/net" in log
    files = hub.repositories["me/net"]
    assert set(files) == {"README.md", "config.json", "export.json", "model.safetensors"} and hub.private["me/net"]
    assert files["model.safetensors"] == (fresh.workdir / "export.safetensors").read_bytes()
    assert b"--push_to_hub=me/net" in files["README.md"] and b"model.safetensors" in files["README.md"]
    assert json.loads(files["config.json"])["architecture"] == "resnet20"
    assert {token for _, _, token in hub.requests} == {"Bearer hf_secret"}
    assert b"hf_secret" not in b"".join(files.values())
    # As another user of the Hub would find it.
    said, _ = python(LOAD, hub, tmp_path, tmp_path / "found.npz")
    found, arrays = json.loads(said), np.load(tmp_path / "found.npz")
    assert found["names"] == ["ant|bee", "cat", "dog"] and found["head"] == "kept_deeper"
    assert found["source"] == "resnet20" and found["size"] == 8
    assert found["terms"]["attribution"] == "me/net" and found["terms"]["revision"] == "c" * 40
    np.testing.assert_array_equal(arrays["kernel"], fresh.variables["params"]["head"]["classifier"]["kernel"])
    np.testing.assert_array_equal(arrays["below"], fresh.variables["params"]["source"]["stem"]["conv1"]["kernel"])
    # A second upload finds the repository; one that is refused is a sentence.
    hub.refuse = True
    said, _ = python(PUSH, hub, tmp_path, tmp_path / "run", HF_TOKEN="hf_secret")
    assert said.startswith("error: --push_to_hub=me/net failed: ") and f"The files are in {fresh.workdir}." in said
    said, _ = python(PUSH, hub, tmp_path, tmp_path / "run")
    assert said == "error: --push_to_hub=me/net needs a login: run `hf auth login`, or set HF_TOKEN.\n"


@pytest.mark.parametrize("target", ["net", "me/net/x", "https://huggingface.co/me/net", "me/"])
def test_a_name_that_is_none(target):
    with pytest.raises(ExportError, match="must be USER/NAME, such as --push_to_hub=me/flowers-resnet18"):
        check_target(target)
